//! What the command line prints, and what it does when nobody can read that.

use std::fs::{File, OpenOptions};
use std::process::Stdio;
use std::time::Duration;

use keyround::clock::sleep;

use crate::helpers::private_file;
use crate::process::{keyround, run};

const VARIABLES: [(&str, &str); 2] = [
    ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
    (
        "KEYROUND_KEYS__MASTER_KEY",
        "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
    ),
];

const CREATE: [&str; 6] = [
    "clients",
    "create",
    "--grant",
    "client_credentials",
    "--audience",
    "https://api.example.com",
];

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    assert!(run(folder.path(), &VARIABLES, &CREATE).status.success());
    for arguments in [
        &["clients", "list"][..],
        &["clients", "list", "--json"],
        &["db", "migrate"],
        &["db", "prune"],
        &["users", "list"],
        &["tenants", "list", "--json"],
        &["resources", "list"],
        &["providers", "list"],
        &["keys", "list"],
        &["clock", "check"],
        &["--version"],
        &["--help"],
        &["keys", "import", "--help"],
        &["config", "show"],
        &["config", "check"],
        &["master-key", "generate"],
        &["completions", "bash"],
        &["audit", "list"],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = keyround(folder.path(), &VARIABLES, arguments)
            .stdout(full)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(
            error.contains("the output could not be written: No space left"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
        if arguments.contains(&"--json") {
            let failure: serde_json::Value = serde_json::from_str(&error).unwrap();
            assert_eq!(failure["exit_code"], 1);
        } else {
            assert!(error.starts_with("keyround: "), "{error}");
        }

        // A reader that has seen enough is none.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = keyround(folder.path(), &VARIABLES, arguments)
            .stdout(Stdio::from(writer))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A secret is printed once, so a command that could not print it changes nothing.
#[test]
fn no_secret_is_made_that_would_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let made = [&CREATE[..], &["--id", "billing"]].concat();
    assert!(run(folder, &VARIABLES, &made).status.success());
    let state = || {
        let shown = run(folder, &VARIABLES, &["clients", "list", "--json"]).stdout;
        let audit = run(folder, &VARIABLES, &["audit", "list", "--json"]).stdout;
        (shown, audit)
    };
    let before = state();
    let json = |command: &[&'static str]| [command, &["--json"]].concat();
    let rotate = ["clients", "rotate-secret", "billing"];
    for command in [CREATE.to_vec(), json(&CREATE), rotate.to_vec(), json(&rotate)] {
        let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
        let unread = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            Stdio::from(writer)
        };
        for (out, why) in [
            (full(), "standard output cannot be written: No space left"),
            (unread(), "no program reads standard output any more"),
        ] {
            let output = keyround(folder, &VARIABLES, &command).stdout(out).output().unwrap();
            refused_before(&output, why);
        }
        // A descriptor that is closed, as `>&-` leaves it.
        let program = env!("CARGO_BIN_EXE_keyround");
        let output = std::process::Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" >&-", program])
            .args(&command)
            .envs(VARIABLES)
            .current_dir(folder)
            .output()
            .unwrap();
        refused_before(&output, "standard output is closed");
    }
    assert_eq!(state(), before);

    // What has room is written, and a secret that was not wanted may be sent away.
    let rotate = [&rotate[..], &["--end-previous"]].concat();
    for out in ["file", "/dev/null"] {
        let out = File::create(folder.join(out)).unwrap();
        let output = keyround(folder, &VARIABLES, &rotate).stdout(out).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let written = std::fs::read_to_string(folder.join("file")).unwrap();
    assert!(
        written.contains("client secret") && !written.contains('\0'),
        "{written}"
    );
    // A secret of its own is not shown.
    private_file(folder.join("secret"), "a-secret-that-others-made-0123456789");
    let own = [&rotate[..], &["--secret-file", "secret"]].concat();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = keyround(folder, &VARIABLES, &own).stdout(writer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn refused_before(output: &std::process::Output, why: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("nothing was changed, because the secret is shown once") && error.contains(why),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_misspelt_command_or_flag_is_answered_with_what_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, meant) in [
        (&["key"][..], "did you mean 'keys'?"),
        (&["clients", "crate"], "'create'?"),
        (&["keys", "lst"], "did you mean 'list'?"),
        (&["clients", "create", "--audence", "x"], "did you mean '--audience'?"),
        (&["d"], "did you mean 'db'?"),
        (&["clients", "rotate_secret"], "did you mean 'rotate-secret'?"),
        (&["keys", "import", "--verifyonly"], "did you mean '--verify-only'?"),
    ] {
        let output = run(folder.path(), &VARIABLES, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.trim_end().ends_with(meant), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn text_files_are_read_as_windows_writes_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let user = |name: &str| {
        let email = format!("{name}@example.com");
        let arguments = [
            "users",
            "create",
            "--email",
            &email,
            "--name",
            name,
            "--password-file",
            "password",
        ];
        let output = run(folder.path(), &VARIABLES, &arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    private_file(&file, b"\xef\xbb\xbfa long walk by the sea 7\r\n");
    assert_eq!(user("ada"), (Some(0), String::new()));
    let utf16: Vec<u8> = "\u{feff}a long walk by the sea 7\r\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (content, reason) in [
        (utf16.as_slice(), "it is UTF-16 text; save it as UTF-8"),
        (&utf16[2..], "it is UTF-16 text; save it as UTF-8"),
        (b"a long w\xe4lk by the sea 7", "line 1 is not UTF-8 text"),
        (b"\xef\xbb\xbf\r\n", "has nothing on its first line"),
    ] {
        File::create(&file).unwrap();
        private_file(&file, content);
        let (code, error) = user("bob");
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_mistake_beside_json_is_told_as_json() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, told) in [
        (&["clients", "lst", "--json"][..], "'list'"),
        (&["clients", "list", "--json=true"], "'true' for '--json'"),
        (&["--json=false", "clients", "list"], "'false' for '--json'"),
        (&["clients", "list", "--json="], "--json"),
        (&["clients", "show", "--json=yes", "--jsn"], "--json"),
        (&["clients", "show", "none", "--json"], "there is no database"),
    ] {
        let output = run(folder.path(), &VARIABLES, arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        let failure: serde_json::Value =
            serde_json::from_str(&error).unwrap_or_else(|_| panic!("{arguments:?}: {error}"));
        assert_eq!(output.status.code().map(i64::from), failure["exit_code"].as_i64());
        assert!(
            failure["error"].as_str().unwrap().contains(told),
            "{arguments:?}: {error}"
        );
    }
    let output = run(folder.path(), &VARIABLES, &["clients", "lst", "--jsonish"]);
    assert!(output.stderr.starts_with(b"keyround: "));
}

/// The demo client of a development start is made by the first start whose output somebody can read.
#[tokio::test]
async fn a_development_start_without_a_reader_makes_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let port = crate::ports::free_port();
    let address = format!("server.listen=127.0.0.1:{port}");
    let arguments = [
        "serve",
        "--dev",
        "--set",
        &address,
        "--set",
        "server.admin_listen=127.0.0.1:0",
    ];
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut server = keyround(folder.path(), &[], &arguments).stdout(full).spawn().unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(server.try_wait().unwrap().is_none(), "it ended");
        sleep(Duration::from_millis(20)).await;
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let listed = run(folder.path(), &[], &["clients", "list", "--json", "--dev"]);
    assert_eq!(String::from_utf8(listed.stdout).unwrap().trim(), "[]");
}
