//! What the command line prints, and what it does when nobody can read that.

use std::fs::{File, OpenOptions};
use std::process::Stdio;

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
    let with_json: Vec<&str> = CREATE.iter().copied().chain(["--json"]).collect();
    for arguments in [
        &CREATE[..],
        &with_json,
        &["clients", "list"],
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

#[test]
fn a_misspelt_command_or_flag_is_answered_with_what_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, meant) in [
        (&["key"][..], "did you mean 'keys'?"),
        (&["clients", "crate"], "'create'?"),
        (&["keys", "lst"], "did you mean 'list'?"),
        (&["clients", "create", "--audence", "x"], "did you mean '--audience'?"),
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
