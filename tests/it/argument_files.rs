//! Files that arguments and settings name: what is said of one that cannot be read or made, and which of its octets count.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::process::{BINARY, run};

const VARIABLES: [(&str, &str); 3] = [
    ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
    ("KEYROUND_DATABASE__URL", "sqlite:keyround.db"),
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
const ADA: [&str; 6] = ["users", "create", "--email", "ada@example.com", "--name", "Ada"];

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn write(folder: &Path, name: &str, content: &str) {
    fs::write(folder.join(name), content).unwrap();
    fs::set_permissions(folder.join(name), Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_its_argument() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "token", "x");
    fs::create_dir(folder.path().join("folder")).unwrap();
    let secret = "n7PzLkQ2vT9xWcR4yB8mGd5sJf1hKa3E";
    for (arguments, argument, name) in [
        (
            &["token", "verify", "--key-set", "no/keys.json", "token"][..],
            "--key-set",
            "no/keys.json",
        ),
        (
            &["token", "verify", "--key-set", "folder", "token"],
            "--key-set",
            "folder",
        ),
        (&["keys", "import", "none.pem"], "the argument FILE", "none.pem"),
        (&["keys", "import", "folder"], "the argument FILE", "folder"),
        (
            &[&CREATE[..], &["--jwks-file", "none.json"]].concat(),
            "--jwks-file",
            "none.json",
        ),
        (
            &[&CREATE[..], &["--jwks-file", "token/x"]].concat(),
            "--jwks-file",
            "token/x",
        ),
        (
            &[&ADA[..], &["--password-file", "folder"]].concat(),
            "--password-file",
            "folder",
        ),
        // What may be a secret in place of its file is not repeated.
        (
            &[&ADA[..], &["--password-file", "hunter2"]].concat(),
            "--password-file",
            "",
        ),
        (
            &[&ADA[..], &["--password-hash-file", "$2y$05$x"]].concat(),
            "--password-hash-file",
            "",
        ),
        (
            &["keys", "import", "token", "--passphrase-file", "hunter2"],
            "--passphrase-file",
            "",
        ),
        (
            &[&CREATE[..], &["--secret-file", "hunter2"]].concat(),
            "--secret-file",
            "",
        ),
        (&[&CREATE[..], &["--jwks-file", secret]].concat(), "--jwks-file", ""),
        (&["keys", "import", secret], "the argument FILE", ""),
    ] {
        let output = run(folder.path(), &VARIABLES, arguments);
        let error = said(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        let shown = if name.is_empty() { "the file" } else { name };
        assert!(
            error.contains(&format!("cannot read {shown}, which {argument} names: ")),
            "{arguments:?}: {error}"
        );
        for hidden in ["hunter2", "$2y$05", secret] {
            assert!(!error.contains(hidden), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn of_a_secret_one_line_end_is_cut_and_other_white_space_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "a secret of sixteen octets or more".replace(' ', "-");
    for (number, (before, after, is_taken)) in [
        ("", "", true),
        ("", "\n", true),
        ("", "\r\n", true),
        ("\u{feff}", "\n", true),
        ("", "\n\n", false),
        ("", "\r", false),
        ("", " ", false),
        ("", " \n", false),
        ("", "\t\n", false),
        ("", "\r\r\n", false),
        (" ", "\n", false),
        ("\n", "\n", false),
        ("", "\u{a0}\n", false),
    ]
    .into_iter()
    .enumerate()
    {
        write(folder.path(), "secret", &format!("{before}{secret}{after}"));
        let id = format!("c{number}");
        let client = [&CREATE[..], &["--id", &id, "--secret-file", "secret"]].concat();
        write(folder.path(), "url", &format!("{before}sqlite:keyround.db{after}"));
        write(folder.path(), "key", &format!("{before}{}{after}", VARIABLES[2].1));
        let by_file = |setting, file| {
            [
                VARIABLES[0],
                if setting == "url" { VARIABLES[2] } else { VARIABLES[1] },
                file,
            ]
        };
        let url = by_file("url", ("KEYROUND_DATABASE__URL_FILE", "url"));
        let key = by_file("key", ("KEYROUND_KEYS__MASTER_KEY_FILE", "key"));
        for (variables, arguments, named) in [
            (&VARIABLES[..], &client[..], "secret, which --secret-file names"),
            (&url, &["config", "check"], "url, which database.url_file names"),
            (&key, &["config", "check"], "key, which keys.master_key_file names"),
        ] {
            let output = run(folder.path(), variables, arguments);
            let error = said(&output);
            let told = error.contains(named) && error.contains("begins or ends with white space");
            assert_eq!(output.status.success(), is_taken, "{before:?} {after:?}: {error}");
            assert_ne!(told, is_taken, "{before:?} {after:?}: {error}");
        }
    }
    // The form of a PEM says where it begins and ends.
    let pem = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n\n";
    write(folder.path(), "tls.key", pem);
    write(folder.path(), "tls.pem", "");
    let tls = [
        VARIABLES[0],
        ("KEYROUND_SERVER__TLS_CERTIFICATE_FILE", "tls.pem"),
        ("KEYROUND_SERVER__TLS_KEY_FILE", "tls.key"),
    ];
    assert!(!said(&run(folder.path(), &tls, &["config", "check"])).contains("white space"));
}

/// A password may end with blanks: they are kept.
#[test]
fn of_a_password_one_line_end_is_cut() {
    for (text, line) in [
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a", "a"),
        ("a \n", "a "),
        ("a\r\r\n", "a\r"),
        ("a\r", "a\r"),
    ] {
        assert_eq!(keyround::text::without_line_end(text), line, "{text:?}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_named_with_reason_and_cure() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "plain", "x");
    let database = |url| [VARIABLES[0], ("KEYROUND_DATABASE__URL", url), VARIABLES[2]];
    for (variables, arguments, parts) in [
        (
            database("sqlite:plain/keyround.db"),
            &CREATE[..],
            &["plain/keyround.db", "plain is not a folder; name another one"][..],
        ),
        (
            database("sqlite:plain/keyround.db"),
            &["keys", "list"],
            &["plain/keyround.db", "plain is not a folder"],
        ),
        (
            database("sqlite:plain/keyround.db"),
            &["db", "check"],
            &["plain/keyround.db", "plain is not a folder"],
        ),
        (
            VARIABLES,
            &["master-key", "generate", "plain/master.key"],
            &["cannot write the master key plain/master.key", "plain is not a folder"],
        ),
    ] {
        let output = run(folder.path(), &variables, arguments);
        let error = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        for part in parts {
            assert!(error.contains(part), "{arguments:?}: {part}: {error}");
        }
        assert!(!error.contains("there is no database"), "{error}");
    }
}

/// As a user who may not write there, and as one on a file system that is read-only.
#[test]
fn a_folder_of_another_user_is_no_missing_database() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [("closed", 0o700), ("shown", 0o755)] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::set_permissions(folder.path().join(name), Permissions::from_mode(mode)).unwrap();
    }
    write(folder.path(), "closed/keyround.db", "");
    let as_nobody = |url: &str, arguments: &[&str]| {
        let as_root = rustix::process::geteuid().is_root();
        let mut command = Command::new(if as_root { "setpriv" } else { BINARY });
        if as_root {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", BINARY]);
        } else {
            fs::set_permissions(folder.path().join("closed"), Permissions::from_mode(0o000)).unwrap();
            fs::set_permissions(folder.path().join("shown"), Permissions::from_mode(0o555)).unwrap();
        }
        command.args(arguments).current_dir(folder.path()).env_clear().envs([
            VARIABLES[0],
            ("KEYROUND_DATABASE__URL", url),
            VARIABLES[2],
            ("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"),
        ]);
        said(&command.output().unwrap())
    };
    for (url, arguments, parts) in [
        (
            "sqlite:closed/keyround.db",
            &["keys", "list"][..],
            &[
                "closed/keyround.db cannot be used: Permission denied",
                "let this user (id ",
            ][..],
        ),
        (
            "sqlite:closed/keyround.db",
            &["db", "check"],
            &["Permission denied", "in the folder closed"],
        ),
        (
            "sqlite:shown/keyround.db",
            &CREATE,
            &[
                "the database shown/keyround.db cannot be made: Permission denied",
                "in the folder shown",
            ],
        ),
        (
            "sqlite:shown/a/b/keyround.db",
            &CREATE,
            &[
                "shown/a/b/keyround.db cannot be made: Permission denied",
                "in the folder shown",
            ],
        ),
        (
            "sqlite:x.db",
            &["master-key", "generate", "shown/k"],
            &[
                "cannot write the master key shown/k: Permission denied",
                "in the folder shown",
            ],
        ),
    ] {
        let error = as_nobody(url, arguments);
        for part in parts {
            assert!(error.contains(part), "{arguments:?}: {part}: {error}");
        }
        for wrong in ["there is no database", "kept from other users"] {
            assert!(!error.contains(wrong), "{arguments:?}: {error}");
        }
    }
    fs::set_permissions(folder.path().join("closed"), Permissions::from_mode(0o700)).unwrap();
}

/// `config check` opens the ledger for writing, as a start does, and leaves no trace.
#[test]
fn a_check_of_the_settings_probes_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("state")).unwrap();
    let check = |path: &str, script: &str| {
        let script = format!("{script}\n$KEYROUND config check; echo $?");
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .current_dir(folder.path())
            .env_clear()
            .envs(VARIABLES)
            .envs([
                ("KEYROUND", BINARY),
                ("KEYROUND_KEYS__LEDGER_FILE", path),
                ("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"),
            ])
            .output()
            .unwrap();
        (String::from_utf8(output.stdout.clone()).unwrap(), said(&output))
    };
    let (code, error) = check("state/revoked-kids", "");
    assert!(code.ends_with("0\n"), "{error}");
    assert_eq!(fs::read_dir(folder.path().join("state")).unwrap().count(), 0);
    let (code, error) = check("new/revoked-kids", "");
    assert!(code.ends_with("0\n") && !folder.path().join("new").exists(), "{error}");
    // The advice fits what is there.
    fs::write(folder.path().join("data"), "").unwrap();
    let (code, error) = check("data/revoked-kids", "");
    assert!(
        code.ends_with("2\n") && error.contains("data is a file and no folder") && !error.contains("chown"),
        "{error}"
    );
    // A name that no file of this folder can have, and a link that leads nowhere: the folder alone does not tell.
    std::os::unix::fs::symlink("/nowhere/at/all", folder.path().join("state/link")).unwrap();
    let long = format!("state/{}", "l".repeat(300));
    for (path, script) in [
        ("state/link", ""),
        (long.as_str(), ""),
        ("state/revoked-kids", "mount -t tmpfs -o ro tmpfs state || exit 99"),
    ] {
        let (code, error) = check(path, script);
        assert!(
            code.ends_with("2\n") && error.contains("ledger of revoked keys"),
            "{path}: {code}{error}"
        );
    }
}

/// What other systems make by default and is beyond the memory of a login: the refusal says so, and what to do.
#[test]
fn a_hash_beyond_the_memory_of_a_login_is_refused_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let salt = "C03veDDZe3tGvqED07Xjdg";
    let output = "+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4";
    for hash in [
        format!("argon2$argon2id$v=19$m=102400,t=2,p=8${salt}${output}"),
        format!("$scrypt$ln=17,r=8,p=1${salt}${output}"),
    ] {
        write(folder.path(), "hash", &hash);
        let arguments = [&ADA[..], &["--password-hash-file", "hash"]].concat();
        let refused = run(folder.path(), &VARIABLES, &arguments);
        let error = said(&refused);
        for part in [
            "65536 KiB",
            "102400 KiB",
            "N=2^16",
            "memory_cost = 65536",
            "PASSWORD_HASHERS",
            "set a password",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains(salt), "{error}");
    }
    let limits = include_str!("../../docs/reference/limits.md");
    for part in ["102400 KiB", "N = 2^17", "memory_cost = 65536"] {
        assert!(limits.contains(part), "{part}");
    }
}

/// A device that never ends is read no further than any file of its kind is long.
#[test]
fn a_file_without_an_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "token", "x");
    let key = include_str!("../fixtures/keys/p256.public.jwk");
    write(folder, "keys.json", &format!(r#"{{"keys":[{key}]}}"#));
    let zero = "/dev/zero";
    for (arguments, reason) in [
        (
            &["token", "verify", "--key-set", zero, "token"][..],
            "longer than 4 MiB",
        ),
        (
            &["token", "verify", "--key-set", "keys.json", zero],
            "longer than 4 MiB",
        ),
        (&[&CREATE[..], &["--jwks-file", zero]].concat(), "longer than 4 MiB"),
        (&["restore", zero], "it is no backup of Keyround"),
        (&["restore", "/dev/urandom"], "it is no backup of Keyround"),
        (&["keys", "import", zero], zero),
        (&[&ADA[..], &["--password-file", zero]].concat(), "--password-file"),
        (&["--config", zero, "config", "check"], "longer than 4 MiB"),
    ] {
        // A reader without a bound ends at this one.
        let output = Command::new("sh")
            .args(["-c", "ulimit -v 4000000; exec \"$0\" \"$@\"", BINARY])
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .envs(VARIABLES)
            .output()
            .unwrap();
        let error = said(&output);
        let code = output.status.code();
        assert!(matches!(code, Some(1 | 2)), "{arguments:?}: {code:?} {error}");
        assert!(error.contains(reason), "{arguments:?}: {error}");
    }
}
