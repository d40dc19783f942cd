//! Arguments as people give them: `-` for standard input and output, secrets in place of files, times and tokens in other forms, and
//! files that are something else.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::helpers::TestDatabase;
use crate::process::{Serving, keyround, run};
use crate::terminal::at_terminal;

const MASTER_KEY: &str = "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=";
const VARIABLES: [(&str, &str); 4] = [
    ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
    ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
    ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
    ("KEYROUND_KEYS__MASTER_KEY", MASTER_KEY),
];
const CREATE: &str = "clients create --id billing --grant client_credentials --audience https://api.example.com";

fn words(command: &str) -> Vec<&str> {
    command.split(' ').collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn done(folder: &Path, command: &str) -> String {
    let output = run(folder, &VARIABLES, &words(command));
    assert!(output.status.success(), "{command}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The sentence of a refusal with this code.
fn refused(folder: &Path, code: i32, arguments: &[&str]) -> String {
    let output = run(folder, &VARIABLES, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    sentence
}

/// The command with this standard input.
fn with_input(folder: &Path, command: &str, input: &[u8]) -> Output {
    let mut child = keyround(folder, &VARIABLES, &words(command));
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    // One that refuses does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn done_with_input(folder: &Path, command: &str, input: &[u8]) -> Vec<u8> {
    let output = with_input(folder, command, input);
    assert!(output.status.success(), "{command}: {}", said(&output));
    output.stdout
}

/// A folder with a database whose keys a server has made.
fn site() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    Serving::start(folder.path(), &VARIABLES, &["serve"]).stop();
    folder
}

fn openssl(folder: &Path, script: &str) -> Vec<u8> {
    let output = Command::new("sh")
        .args(["-c", &format!("umask 077; {script}")])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {}", said(&output));
    output.stdout
}

/// A new private key in PEM.
fn private_key(folder: &Path) -> String {
    let pem = openssl(folder, "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    String::from_utf8(pem).unwrap()
}

#[test]
fn no_argument_that_may_be_a_secret_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let pem = private_key(folder);
    std::fs::write(folder.join("key.pem"), &pem).unwrap();
    let base64 = |script: &str| String::from_utf8(openssl(folder, script)).unwrap();
    let der = base64("openssl pkey -in key.pem -outform DER | base64 -w 0");
    let wrapped = base64("base64 -w 0 key.pem");
    let inline = pem.replace('\n', "\\n");
    let jwk = r#"{"kty":"EC","crv":"P-256","d":"dGhlLXByaXZhdGUtaGFsZi1vZi1hLWtleQ"}"#;
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJlLW9mLWEtdG9rZW4tdGhhdC1saXZlcw";
    let password = "hunter2-is-no-file";
    let commands = [
        "keys import",
        "keys export",
        "keys revoke",
        "master-key generate",
        "restore",
        "backup",
        "users set-password ada --password-file",
        "users set-password ada",
        "clients create --secret-file",
        "clients set-keys billing --jwks-file",
        "providers set-secret corp --client-secret-file",
        "db copy --to-file",
        "token verify --key-set a",
        "token deny --until 1 a",
        "--config",
        "--set",
        "",
    ];
    for secret in [&*pem, &der, &wrapped, &inline, jwk] {
        for command in commands {
            let mut arguments: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).collect();
            arguments.push(secret);
            let sentence = refused(folder, 2, &arguments);
            assert!(sentence.contains("an argument holds a key"), "{command}: {sentence}");
        }
    }
    let by_flag = format!("--reason={der}");
    assert!(refused(folder, 2, &["keys", "rotate", &by_flag]).contains("holds a key"));

    // These have no form of their own.
    for (command, secret) in [
        ("users set-password ada", password),
        (
            "users create --email a@example.com --name Ada --password-file",
            password,
        ),
        (
            "users create --email a@example.com --name Ada --password-hash-file",
            password,
        ),
        ("users set-password ada --password-file", password),
        ("clients rotate-secret billing --secret-file", password),
        ("clients rotate-secret billing", password),
        ("providers set-secret corp --client-secret-file", password),
        ("db copy --to-file", password),
        ("keys import", MASTER_KEY),
        ("keys import --passphrase-file", password),
        ("master-key generate", MASTER_KEY),
        ("master-key status", MASTER_KEY),
        ("token deny --until 2200000000", token),
        ("token verify --key-set a", token),
        ("keys rotate --algorithm", token),
        ("clients show", MASTER_KEY.trim_end_matches('=')),
        ("clients show", token),
        ("clients update --scope a", token),
        (
            "clients create --id a --grant client_credentials --audience a --jwks-uri",
            "https://ada:hunter2@a.example/k",
        ),
        ("clients set-keys a --jwks-uri", "https://hunter2@a.example/jwks.json"),
        ("providers show", token),
        ("tenants show", token),
        ("users show", token),
        ("db copy --to", "postgres://ada:hunter/2@db.example/keyround"),
        ("db copy --to", "postgres://ada:hunter#2@db.example/keyround"),
        ("--set", MASTER_KEY),
        ("", token),
        ("", MASTER_KEY),
    ] {
        for json in [false, true] {
            let mut arguments: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).collect();
            arguments.push(secret);
            if json {
                arguments.push("--json");
            }
            let output = run(folder, &VARIABLES, &arguments);
            let said = said(&output);
            assert_ne!(output.status.code(), Some(0), "{command}");
            assert!(!said.contains(secret) && !said.contains("hunter"), "{command}: {said}");
        }
    }
    let names: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names.iter().all(|name| !name.to_string_lossy().contains("sohM")),
        "{names:?}"
    );

    // A secret in place of a setting, which only its environment knows.
    for (variable, secret) in [
        ("KEYROUND_KEYS__MASTER_KEY_FILE", MASTER_KEY),
        ("KEYROUND_DATABASE__URL_FILE", MASTER_KEY),
        ("KEYROUND_SERVER__ISSUER", MASTER_KEY),
        ("KEYROUND_LOG__FILTER", token),
        ("KEYROUND_ACCOUNTS__ENABLED", token),
        ("KEYROUND_KEYS__ALGORITHMS", &*pem),
        ("KEYROUND_KEYS__ALGORITHMS", &inline),
        ("KEYROUND_KEYS__ALGORITHMS", token),
        ("KEYROUND_ACCOUNTS__ALLOWED_ORIGINS", &der),
        ("KEYROUND_SERVER__TRUSTED_PROXIES", MASTER_KEY),
        ("KEYROUND_FORWARD_AUTH__POLICIES", token),
        ("KEYROUND_TOKENS__DEFAULT_ALGORITHM", &pem),
        ("KEYROUND_SERVER__TLS_KEY_FILE", &*der),
    ] {
        let is_list = ["ALGORITHMS", "ORIGINS", "PROXIES", "POLICIES"]
            .iter()
            .any(|name| variable.ends_with(name));
        let mut values = vec![secret.to_owned()];
        if is_list {
            values.extend([
                format!("[\"{secret}\"]"),
                format!("['RS256', '{secret}']"),
                format!("RS256,{secret}"),
                format!("api role={secret}"),
                format!("api;{secret};"),
            ]);
        }
        if variable.ends_with("FILTER") {
            values.extend([
                format!("keyround={secret}"),
                format!("info,{secret}"),
                format!("info,a[{secret}]=x"),
            ]);
        }
        for value in values {
            let mut variables = VARIABLES.to_vec();
            variables
                .retain(|(name, _)| *name != variable && !(variable.contains("MASTER") && name.contains("MASTER")));
            variables.push((variable, &value));
            if variable.contains("TLS") {
                variables.push(("KEYROUND_SERVER__TLS_CERTIFICATE_FILE", "key.pem"));
            }
            let output = run(folder, &variables, &["config", "check"]);
            let said = said(&output);
            // A part of it is too much too.
            let longest = secret.split(['\n', '\\', ' ']).max_by_key(|part| part.len()).unwrap();
            assert!(
                !output.status.success() && !said.contains(secret) && !said.contains(longest),
                "{variable}={value}: {said}"
            );
            assert!(said.contains(variable) || said.contains("_file"), "{variable}: {said}");
        }
    }
    // As the name of a setting.
    let flag = format!("--set={MASTER_KEY}");
    assert!(!refused(folder, 2, &[&flag, "config", "check"]).contains(MASTER_KEY.trim_end_matches('=')));
}

/// A file of the system stays as it is.
#[test]
fn no_command_proposes_to_change_the_mode_of_a_file_of_others() {
    let folder = site();
    let folder = folder.path();
    for arguments in [
        &[
            "users",
            "create",
            "--email",
            "ada@example.com",
            "--name",
            "Ada",
            "--password-file",
            "/etc/passwd",
        ][..],
        &["clients", "rotate-secret", "billing", "--secret-file", "/etc/passwd"],
        &["config", "check", "--set", "database.url_file=/etc/passwd"],
    ] {
        let output = run(folder, &VARIABLES, arguments);
        let said = said(&output);
        assert!(
            !output.status.success() && !said.contains("chmod"),
            "{arguments:?}: {said}"
        );
        assert!(said.contains("into a file of its own"), "{arguments:?}: {said}");
    }
}

/// The rule of the page: `-` is standard input wherever one text is read, and standard output wherever one is written.
#[test]
fn a_hyphen_is_standard_input_and_output() {
    let folder = site();
    let folder = folder.path();
    let secret = "a-secret-that-others-made-0123456789";
    done_with_input(folder, &format!("{CREATE} --secret-file -"), secret.as_bytes());
    let token = done(folder, "token issue --client billing");
    let key_set = done(folder, "keys export");
    std::fs::write(folder.join("keys.json"), &key_set).unwrap();
    std::fs::write(folder.join("token"), &token).unwrap();
    done_with_input(folder, "token verify --key-set keys.json -", token.as_bytes());
    done_with_input(folder, "token verify --key-set - token", key_set.as_bytes());
    done_with_input(folder, "token inspect -", token.as_bytes());
    done_with_input(folder, "keys import -", private_key(folder).as_bytes());
    openssl(
        folder,
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -pass pass:opens-it -out encrypted.pem",
    );
    done_with_input(folder, "keys import encrypted.pem --passphrase-file -", b"opens-it\n");
    done_with_input(
        folder,
        "clients set-keys billing --yes --jwks-file -",
        key_set.as_bytes(),
    );
    done_with_input(
        folder,
        "users create --email ada@example.com --name Ada --password-file -",
        b"a long sentence that nobody guesses\n",
    );
    let hash = b"$2b$12$EXRkfkdmXn2gzds2SSitu.MW9.gAVqa9eLS1//RYtYCmB1eLHg.9q\n";
    done_with_input(
        folder,
        "users create --email bob@example.com --name Bob --password-hash-file -",
        hash,
    );

    // Through pipes, into an empty database and into another one.
    let backup = done_with_input(folder, "backup -", b"");
    assert!(backup.starts_with(b"{\"format\":\"keyround-backup-2\""));
    let other = tempfile::tempdir().unwrap();
    let restored = done_with_input(other.path(), "restore -", &backup);
    assert!(String::from_utf8(restored).unwrap().contains("made the folder data"));
    assert!(done(other.path(), "clients list").contains("billing"));
    done_with_input(folder, "db copy --to-file -", b"sqlite:copies/copy.db\n");
    assert!(folder.join("copies/copy.db").exists());
    assert!(done(folder, "master-key generate -").trim().len() == 44);
    assert!(done(folder, "keys timeline -").contains("<svg"));
    assert!(!folder.join("-").exists() && !other.path().join("-").exists());

    // Where several files are written, or a text is read more than once, the cure is named.
    for (command, says) in [
        ("man -", "name a folder"),
        ("--config - config check", "--config takes a file"),
        ("backup - --json", "--json and -"),
        ("token verify --key-set - -", "one file of a command alone"),
        ("keys import - --passphrase-file -", "one file of a command alone"),
    ] {
        let output = with_input(folder, command, key_set.as_bytes());
        let sentence = said(&output);
        assert_eq!(output.status.code(), Some(2), "{command}: {sentence}");
        assert!(sentence.contains(says), "{command}: {sentence}");
    }
    // A backup that nobody reads is a failure.
    let output = keyround(folder, &VARIABLES, &["backup", "-"])
        .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(done(folder, "backup ./-").contains("wrote"));
    assert!(folder.join("-").exists());

    let page = include_str!("../../../docs/reference/input.md");
    let notes = page
        .split("**Standard input and output.**")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    for taken in [
        "keys import",
        "restore",
        "token verify",
        "token inspect",
        "--passphrase-file",
        "--password-file",
        "--password-hash-file",
        "--secret-file",
        "--client-secret-file",
        "--jwks-file",
        "--to-file",
        "--key-set",
        "backup",
        "master-key generate",
        "keys timeline",
        "man",
        "--config",
    ] {
        assert!(notes.contains(&format!("`{taken}`")), "the page does not say {taken}");
    }
}

#[test]
fn a_file_that_is_no_backup_is_named_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (content, says) in [
        (&b""[..], "it is empty"),
        (b"SQLite format 3\0and so on", "set database.url to sqlite:PATH"),
        (b"PGDMP\x01\x0e", "pg_restore reads it"),
        (b"--\n-- PostgreSQL database dump\n--\n", "psql reads it"),
        (b"\x1f\x8b\x08\x00", "gzip -dc FILE | keyround restore -"),
        (b"\x28\xb5\x2f\xfd\x00", "decompress it first"),
        (b"age-encryption.org/v1\n", "decrypt it first"),
        (b"\x00\xff\xfe\x80", "its first line must say 'keyround-backup-2'"),
        (b"hello\n", "its first line must say 'keyround-backup-2'"),
        (b"{\"keys\":[]}\n", "its first line must say 'keyround-backup-2'"),
        (
            b"{\"format\":\"keyround-backup-3\",\"schema\":1,\"taken_at\":1}\n{}\n",
            "its first line must say 'keyround-backup-2'",
        ),
        (
            b"{\"format\":\"keyround-backup-2\",\"schema\":1,\"taken_at\":1,\"master_key\":\"a\"}\n",
            "cut short",
        ),
    ] {
        std::fs::write(folder.join("file"), content).unwrap();
        let sentence = refused(folder, 1, &["restore", "file"]);
        assert!(
            sentence.contains("cannot restore file: ") && sentence.contains(says),
            "{sentence}"
        );
        let output = with_input(folder, "restore -", content);
        assert!(
            said(&output).contains("cannot restore standard input: "),
            "{}",
            said(&output)
        );
    }
    for (name, says) in [("nowhere", "No such file"), (".", "directory")] {
        assert!(refused(folder, 1, &["restore", name]).contains(says), "{name}");
    }
    assert!(!folder.join("data").exists(), "a database was made");
}

#[test]
fn a_command_that_lacks_its_subcommand_lists_or_names_its_help() {
    let folder = site();
    let folder = folder.path();
    // The table for people shows ages, which grow from one command to the next.
    for options in ["", " --limit 1", " --limit 2"] {
        let [short, long] = ["audit", "audit list"].map(|command| done(folder, &format!("--json {command}{options}")));
        assert_eq!(short, long, "{options}");
    }
    assert!(done(folder, "audit").starts_with("SEQ"));
    let records: Value = serde_json::from_str(&done(folder, "--json audit --limit 2")).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 2);
    for (arguments, says) in [
        (&[][..], "'keyround --help' names them"),
        (&["keys"], "'keyround keys --help' names them"),
        (&["db"], "'keyround db --help' names them"),
        (&["--json", "master-key"], "'keyround master-key --help' names them"),
    ] {
        assert!(refused(folder, 2, arguments).contains(says), "{arguments:?}");
    }
}

#[test]
fn a_token_is_read_as_people_have_it() {
    let folder = site();
    let folder = folder.path();
    done(folder, CREATE);
    std::fs::write(folder.join("keys.json"), done(folder, "keys export")).unwrap();
    let token = done(folder, "token issue --client billing");
    let token = token.trim();
    for form in [
        token.to_owned(),
        format!("Bearer {token}"),
        format!("bearer  {token}\n"),
        format!("Authorization: Bearer {token}"),
        format!("authorization:bearer {token}"),
        format!("{{\"access_token\":\"{token}\",\"token_type\":\"Bearer\"}}"),
    ] {
        let output = run(folder, &VARIABLES, &["token", "inspect", &form]);
        assert!(output.status.success(), "{form}: {}", said(&output));
        for command in ["token inspect -", "token verify --key-set keys.json -"] {
            done_with_input(folder, command, form.as_bytes());
            done_with_input(folder, command, format!("\u{feff}{form}\r\n").as_bytes());
            let utf16: Vec<u8> = form.encode_utf16().flat_map(u16::to_le_bytes).collect();
            for content in [[b"\xff\xfe", &*utf16].concat(), utf16] {
                let output = with_input(folder, command, &content);
                assert_eq!(output.status.code(), Some(2), "{command}: {}", said(&output));
                assert!(
                    said(&output).contains("standard input")
                        && said(&output).contains("it is UTF-16 text; save it as UTF-8"),
                    "{command}: {}",
                    said(&output)
                );
            }
            let output = with_input(folder, command, b"a\n\xe9");
            assert_eq!(output.status.code(), Some(2), "{command}: {}", said(&output));
            assert!(
                said(&output).contains("line 2 is not UTF-8"),
                "{command}: {}",
                said(&output)
            );
        }
    }
    assert!(refused(folder, 2, &["token", "inspect", "{\"a\":1}"]).contains("no access_token"));
}

#[test]
fn a_time_is_seconds_or_rfc_3339() {
    let folder = site();
    let folder = folder.path();
    let public = |name: &str| {
        let script = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 | openssl pkey -pubout";
        std::fs::write(folder.join(name), openssl(folder, script)).unwrap();
    };
    for (name, until) in [("one", "4102444800"), ("two", "2100-01-01T00:00:00Z")] {
        public(name);
        let key = done(
            folder,
            &format!("--json keys import {name} --verify-only --kid {name} --until {until}"),
        );
        let key: Value = serde_json::from_str(&key).unwrap();
        assert_eq!(key["until"], "2100-01-01T00:00:00Z");
        done(
            folder,
            &format!("token deny --until {until} jti-{name}")
                .replace("2100", "2030")
                .replace("4102444800", "1893456000"),
        );
    }
    for (until, meant) in [
        ("2100-01-01", "2100-01-01T00:00:00Z"),
        ("4102444800000", "4102444800"),
        ("2100-01-01T00:00:00\u{2212}02:00", "2100-01-01T00:00:00-02:00"),
    ] {
        for command in [
            &["keys", "import", "one", "--verify-only", "--kid", "x", "--until"][..],
            &["token", "deny", "a", "--until"],
        ] {
            let sentence = refused(folder, 2, &[command, &[until]].concat());
            assert!(sentence.contains(&format!("did you mean {meant}?")), "{sentence}");
        }
    }
}

/// The refusal's own command makes a file that is taken.
#[test]
fn a_key_in_der_and_base64_comes_with_the_command_that_makes_it_pem() {
    let folder = site();
    let folder = folder.path();
    std::fs::write(folder.join("key.pem"), private_key(folder)).unwrap();
    for (form, options) in [
        ("openssl pkey -in key.pem -outform DER", ""),
        ("openssl ec -in key.pem -outform DER", ""),
        (
            "openssl pkey -in key.pem -pubout -outform DER",
            " --verify-only --kid x --until 4102444800",
        ),
    ] {
        for encode in ["base64 -w 64", "base64 -w 0"] {
            openssl(folder, &format!("{form} 2> messages | {encode} > wrapped"));
            let command = format!("keys import wrapped{options}");
            let sentence = refused(folder, 1, &words(&command));
            assert!(sentence.contains("DER in base64"), "{form}: {sentence}");
            let cure = sentence.split('\'').nth(1).unwrap().replace("FILE", "wrapped");
            openssl(folder, &format!("{cure} > unwrapped"));
            let output = run(folder, &VARIABLES, &words(&command.replace("wrapped", "unwrapped")));
            // The first of each kind is taken, and the others are the same key.
            assert!(
                output.status.success()
                    || said(&output).contains("names one key")
                    || said(&output).contains("same key"),
                "{form}: {}",
                said(&output)
            );
        }
    }
    for text in ["c2VjcmV0", "no key at all", "AAAA"] {
        std::fs::write(folder.join("wrapped"), text).unwrap();
        assert!(
            refused(folder, 1, &["keys", "import", "wrapped"]).contains("holds no key"),
            "{text}"
        );
    }
}

/// What is one too many may be a password: it is not repeated, but where it belongs is said.
#[test]
fn an_argument_too_many_is_answered_with_the_option_or_the_usage() {
    let folder = tempfile::tempdir().unwrap();
    for (command, told) in [
        (
            "clients create SURPLUS",
            "write --id or --name or --algorithm before its value; usage: keyround clients create",
        ),
        (
            "users create SURPLUS",
            "write --email or --name or --role before its value; usage: keyround users create",
        ),
        (
            "users create --email a@example.com --name Ada SURPLUS",
            "usage: keyround users create [OPTIONS]",
        ),
        (
            "keys rotate SURPLUS",
            "(a rotation is of an algorithm and not of one key; a key that must not be trusted any more is taken out by 'keyround keys \
             revoke KID'); usage: keyround keys rotate",
        ),
        ("keys list SURPLUS", "found; usage: keyround keys list [OPTIONS]"),
        (
            "serve SURPLUS",
            "found; a settings file is named by --config FILE; usage: keyround serve [OPTIONS]",
        ),
        ("config check SURPLUS", "a settings file is named by --config FILE"),
        (
            "backup a.jsonl SURPLUS",
            "found; usage: keyround backup [OPTIONS] <FILE>",
        ),
        ("users show a@example.com SURPLUS", "usage: keyround users show"),
        ("--json keys rotate SURPLUS", "write --algorithm before its value"),
    ] {
        for surplus in ["billing", "a@example.com", "hunter2 and more", "ES256"] {
            let arguments: Vec<&str> = command
                .split(' ')
                .map(|word| if word == "SURPLUS" { surplus } else { word })
                .collect();
            let sentence = refused(folder.path(), 2, &arguments);
            assert!(sentence.contains(told), "{command}: {sentence}");
            assert!(
                sentence.contains("(not repeated, because it may be a secret)"),
                "{command}: {sentence}"
            );
            assert!(
                !sentence.contains(surplus) && sentence.trim_end().lines().count() == 1,
                "{command}: {sentence}"
            );
        }
    }
    // A flag that is unknown is no value.
    assert!(!refused(folder.path(), 2, &["keys", "rotate", "--unheard-of"]).contains("usage"));
}

#[test]
fn folders_that_a_command_makes_are_named() {
    let folder = site();
    let folder = folder.path();
    for (command, made) in [
        ("man pages/en", "into the folder pages/en"),
        (
            "master-key generate secrets/deep/master.key",
            "made the folder secrets/deep",
        ),
        ("db copy --to sqlite:copies/here/copy.db", "made the folder copies/here"),
    ] {
        let printed = done(folder, command);
        assert!(printed.contains(made), "{command}: {printed}");
    }
    assert!(!done(folder, "master-key generate secrets/deep/other.key").contains("made the folder"));
    let copied = done(folder, "--json db copy --to sqlite:copies/second.db");
    let copied: Value = serde_json::from_str(&copied).unwrap();
    assert!(
        copied["next"].as_str().unwrap().contains("start no server on sqlite:"),
        "{copied}"
    );
    let elsewhere = [("KEYROUND_DATABASE__URL", "sqlite:new/one.db")];
    let variables = [&VARIABLES[..], &elsewhere].concat();
    let output = run(folder, &variables, &["db", "migrate"]);
    assert!(
        output.status.success() && said(&output).contains("made the folder new"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_blank_at_the_end_of_a_password_is_told_without_the_password() {
    let folder = site();
    let folder = folder.path();
    let create = "users create --email a@example.com --name Ada --password-file -";
    let output = with_input(folder, create, b"seven wet umbrellas \n");
    assert!(output.status.success(), "{}", said(&output));
    let warned = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(warned.matches("begins or ends with a blank").count(), 1, "{warned}");
    assert!(!said(&output).contains("umbrellas"), "{}", said(&output));
    let set = "users set-password a@example.com --password-file -";
    for (password, warns) in [
        ("\u{a0}eight wet umbrellas", true),
        ("nine wet umbrellas\t\r\n", true),
        ("ten wet umbrellas\r\n", false),
    ] {
        let output = with_input(folder, set, password.as_bytes());
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(said(&output).contains("with a blank"), warns, "{password:?}");
    }
}

#[test]
fn several_values_in_one_argument_are_refused_with_what_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let new = "clients create --id a --grant client_credentials";
    for (command, meant) in [
        (
            format!("{new} --audience https://a.example,https://b.example"),
            "https://a.example https://b.example",
        ),
        (format!("{new} --audience https://a.example --serves b;c"), "b c"),
        ("clients update a --audience a,b".to_owned(), "a b"),
        ("clients update a --serves a,b".to_owned(), "a b"),
        (
            "users create --email a@example.com --name A --role admin,reader".to_owned(),
            "admin reader",
        ),
        (
            "users set-roles a@example.com --role admin,reader".to_owned(),
            "admin reader",
        ),
        ("token issue --client a --audience a,b --reason x".to_owned(), "a b"),
        (
            "token issue --client a --scope read,write --reason x".to_owned(),
            "'read write'",
        ),
    ] {
        let sentence = refused(folder, 2, &words(&command));
        assert!(
            sentence.contains(&format!("did you mean {meant}?")),
            "{command}: {sentence}"
        );
    }
}

#[test]
fn names_in_a_settings_file_are_repeated_unless_they_may_be_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let secret = MASTER_KEY.trim_end_matches('=').replace(['/', '+'], "x");
    for (content, repeats) in [
        (format!("{secret} = 1"), false),
        (format!("[{secret}]"), false),
        (format!("[keys]\n{secret} = 1"), false),
        (format!("[keys]\n\"{secret}\" = 1\n\"{secret}\" = 1"), false),
        (format!("[keys]\nmaster_key_file = \"a\" {secret}"), false),
        ("[keys]\nrotatoin_period = 1".to_owned(), true),
    ] {
        std::fs::write(folder.join("keyround.toml"), &content).unwrap();
        let sentence = refused(folder, 2, &["config", "check", "--config", "keyround.toml"]);
        assert!(!sentence.contains(&secret), "{content}: {sentence}");
        assert_eq!(sentence.contains("rotatoin_period"), repeats, "{content}: {sentence}");
    }
}

#[test]
fn what_is_proposed_for_a_flag_is_accepted_by_it() {
    let folder = tempfile::tempdir().unwrap();
    for (given, meant) in [
        ("keys.master_kye=1", "keys.master_key_file"),
        ("keys.master_keys=1", "keys.master_key_file"),
        ("keys.rotatoin_period=1d", "keys.rotation_period"),
    ] {
        let sentence = refused(folder.path(), 2, &["--set", given, "config", "check"]);
        assert!(sentence.contains(&format!("did you mean {meant}?")), "{sentence}");
    }
}

#[test]
fn an_up_to_date_schema_is_looked_at_before_it_is_called_so() {
    let folder = site();
    let folder = folder.path();
    assert!(done(folder, "db migrate").contains("up to date"));
    openssl(
        folder,
        "python3 -c \"import sqlite3; sqlite3.connect('data/keyround.db').execute('DROP INDEX limits_tat')\"",
    );
    let sentence = refused(folder, 1, &["db", "migrate"]);
    assert!(sentence.contains("lacks: index limits_tat"), "{sentence}");
}

#[test]
fn a_number_that_is_none_is_told_in_words() {
    let folder = tempfile::tempdir().unwrap();
    for (number, says) in [
        ("abc", "it is not a whole number, such as 50"),
        ("1.5", "it is not a whole number, such as 50"),
        ("", "it is empty; write a whole number, such as 50"),
        ("0", "0 is not from 1 to 1000"),
        ("1001", "1001 is not from 1 to 1000"),
    ] {
        let sentence = refused(folder.path(), 2, &["audit", "list", &format!("--limit={number}")]);
        assert!(
            sentence.contains("--limit") && sentence.contains(says),
            "{number}: {sentence}"
        );
    }
}

#[test]
fn set_takes_the_url_of_a_database_that_holds_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let check = |url: &str| {
        run(
            folder.path(),
            &VARIABLES,
            &["--set", &format!("database.url={url}"), "config", "check"],
        )
    };
    for url in ["sqlite:there.db", "postgres://keyround@127.0.0.1/keyround"] {
        let output = check(url);
        assert!(output.status.success(), "{url}: {}", said(&output));
    }
    for (url, says) in [
        (
            "sqlite:",
            "database.url names no file; write one such as sqlite:data/keyround.db",
        ),
        ("sqlite:data/", "database.url names a folder"),
        ("postgres://keyround:swordfish@127.0.0.1/keyround", "may give a secret"),
        (
            "postgres://keyround@127.0.0.1/keyround?password=swordfish",
            "may give a secret",
        ),
        (
            "sqlite:postgres://keyround:swordfish@127.0.0.1/keyround",
            "is another URL after sqlite:",
        ),
        ("swordfish", "has no scheme"),
        ("mysql://keyround:swordfish@127.0.0.1/keyround", "is the URL of MySQL"),
        ("postgres://keyround:swordfish@127.0.0.1", "names no database"),
        (
            "postgres://keyround:swordfish@127.0.0.1:54x2/keyround",
            "names a port that is not a number",
        ),
        (
            "postgres://keyround:swordfish@127.0.0.1/keyround?sslmod=require",
            "did you mean 'sslmode'?",
        ),
        (
            "postgres://keyround:sword#fish@127.0.0.1/keyround",
            "holds an unencoded '#'",
        ),
    ] {
        let output = check(url);
        let sentence = said(&output);
        assert_eq!(output.status.code(), Some(2), "{url}: {sentence}");
        assert!(
            sentence.contains(says) && !sentence.contains("swordfish"),
            "{url}: {sentence}"
        );
    }
}

#[test]
fn an_audience_names_no_user() {
    let folder = tempfile::tempdir().unwrap();
    done(folder.path(), CREATE);
    for flag in ["--audience", "--serves"] {
        for url in [
            "https://ada:swordfish@api.example.com",
            "https://swordfish@api.example.com",
        ] {
            let update = ["clients", "update", "billing", flag, url];
            let sentence = refused(folder.path(), 2, &update);
            assert!(
                sentence.contains("an audience has no user and no password"),
                "{sentence}"
            );
            assert!(!sentence.contains("swordfish"), "{sentence}");
        }
    }
}

#[test]
fn what_is_said_of_an_account_without_a_password_and_of_a_client_that_goes_is_true() {
    let folder = tempfile::tempdir().unwrap();
    let made = done(folder.path(), "users create --email ada@example.com --name Ada");
    assert!(
        made.contains("It has no password") && made.contains("keyround users set-password"),
        "{made}"
    );
    let made = with_input(
        folder.path(),
        "users create --email bob@example.com --name Bob --password-file -",
        b"seven green umbrellas",
    );
    assert!(
        made.status.success() && !said(&made).contains("no password"),
        "{}",
        said(&made)
    );
    let database = TestDatabase::sqlite();
    let variables = [&VARIABLES[..], &[("KEYROUND_DATABASE__URL", database.url.as_str())]].concat();
    let created = run(database.folder.path(), &variables, &words(CREATE));
    assert!(created.status.success(), "{}", said(&created));
    let (code, asked) = at_terminal(
        &database,
        &[["'clients disable' can be taken back", "no"]],
        &["clients", "delete", "billing"],
    );
    assert_eq!(code, 1, "{asked}");
    for words in [
        "Introspection calls the tokens that it was given inactive at once",
        "accepts them until they expire",
    ] {
        assert!(asked.contains(words), "{asked}");
    }
}

#[test]
fn a_name_that_turns_the_line_is_printed_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let jwk = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/keys/p256.public.jwk"
    ))
    .unwrap();
    let mut jwk: Value = serde_json::from_str(&jwk).unwrap();
    jwk["kid"] = "safe\u{202e}evil\u{1b}[2J".into();
    let unusable = serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "left\u{202e}out" });
    let set = serde_json::json!({ "keys": [jwk, unusable] });
    std::fs::write(folder.path().join("set.json"), set.to_string()).unwrap();
    let create = "clients create --id signing --grant client_credentials --audience https://api.example.com --jwks-file set.json";
    std::fs::write(folder.path().join("key.jwk"), jwk.to_string()).unwrap();
    let import = "keys import --verify-only --until 2100-01-01T00:00:00Z key.jwk";
    for command in [
        create,
        "clients show signing",
        "clients list",
        "audit list",
        import,
        "keys list",
        "audit list",
    ] {
        let printed = done(folder.path(), command);
        let moves = |character: char| matches!(character, '\u{202e}' | '\u{1b}');
        assert!(!printed.contains(moves), "{command}: {printed:?}");
    }
}

/// The reason of the newest record about a subject.
fn noted(folder: &Path, subject: &str) -> (String, String) {
    let records: Value = serde_json::from_str(&done(folder, "audit --json")).unwrap();
    let found = records
        .as_array()
        .unwrap()
        .iter()
        .find(|record| record["subject"] == subject);
    let of = |name: &str| found.unwrap()[name].as_str().unwrap().to_owned();
    (of("event"), of("reason"))
}

#[test]
fn whoever_takes_something_away_can_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    done(folder, CREATE);
    for (command, event, reason) in [
        ("clients disable billing --reason leaked", "client.disabled", "leaked"),
        ("clients enable billing --reason rotated", "client.enabled", "rotated"),
        ("clients disable billing", "client.disabled", "asked for"),
        (
            "clients delete billing --reason replaced --yes",
            "client.deleted",
            "replaced",
        ),
    ] {
        done(folder, command);
        assert_eq!(
            noted(folder, "billing"),
            (event.to_owned(), reason.to_owned()),
            "{command}"
        );
    }
    crate::helpers::private_file(folder.join("secret"), "a-secret-of-the-provider");
    done(
        folder,
        "providers create acme --issuer https://id.acme.example --client-id keyround --client-secret-file secret",
    );
    for (command, event, reason) in [
        ("providers disable acme --reason broken", "provider.disabled", "broken"),
        ("providers enable acme --reason mended", "provider.enabled", "mended"),
        ("providers delete acme --reason gone --yes", "provider.deleted", "gone"),
    ] {
        done(folder, command);
        assert_eq!(
            noted(folder, "acme"),
            (event.to_owned(), reason.to_owned()),
            "{command}"
        );
    }
    // What takes none does not propose something else.
    let said = refused(folder, 2, &["clients", "list", "--reason", "x"]);
    assert!(!said.contains("did you mean"), "{said}");
}

#[test]
fn what_is_not_there_is_told_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    done(folder, CREATE);
    for (command, says) in [
        ("tenants disable acme", "there is no tenant 'acme'"),
        ("keys revoke no-such-key --reason x", "no key is called 'no-such-key'"),
        ("clients delete acme", "no client is called 'acme'"),
        ("providers delete acme", "no provider is called 'acme'"),
        ("users delete acme@example.com", "there is no account"),
        ("keys remove-algorithm RS256 --reason x", "keys.algorithms"),
        ("clock confirm --reason x", "the clock is not in doubt"),
    ] {
        let said = refused(folder, 1, &words(command));
        assert!(said.contains(says), "{command}: {said}");
        assert!(!said.contains("nobody can confirm"), "{command}: {said}");
    }
    // What is there is asked about.
    let said = refused(folder, 2, &["tenants", "disable", "default"]);
    assert!(said.contains("nobody can confirm"), "{said}");
}

/// A device, a pipe or a link would be gone, with a file in its place.
#[test]
fn a_master_key_takes_the_place_of_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = |name: &str| folder.join(name);
    assert!(
        std::process::Command::new("mkfifo")
            .arg(path("pipe"))
            .status()
            .unwrap()
            .success()
    );
    std::fs::write(path("empty"), "").unwrap();
    std::os::unix::fs::symlink(path("empty"), path("link")).unwrap();
    std::os::unix::fs::symlink("/dev/null", path("device")).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    for name in ["pipe", "link", "device", "folder"] {
        let kind = path(name).symlink_metadata().unwrap().file_type();
        let said = refused(folder, 1, &["master-key", "generate", name]);
        assert!(
            said.contains("is a folder, a link, a pipe or a device; name a file"),
            "{said}"
        );
        assert_eq!(path(name).symlink_metadata().unwrap().file_type(), kind);
    }
    assert!(run(folder, &[], &["master-key", "generate", "empty"]).status.success());
}

#[test]
fn a_master_key_that_is_nearly_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let other = "Q9Uvs3ZwMJGpGtMweOXN0qP7ysiQsohMxTzEWaEGlBI=";
    let raw: Vec<u8> = (0..32_u8).map(|octet| octet.wrapping_mul(57) ^ 0x9e).collect();
    for (content, says) in [
        (
            raw.clone(),
            "is 32 octets that are no text, as if they were a key that is not encoded",
        ),
        (
            [&raw[..], b"\n"].concat(),
            "(umask 077; head -c 32 FILE | base64 > NEW-FILE)",
        ),
        (
            format!("{MASTER_KEY}\n\n{MASTER_KEY}\n").into(),
            "lines 1 and 3 are one and the same master key",
        ),
        (
            format!("{MASTER_KEY}\n{}\n", MASTER_KEY.replace('/', "_")).into(),
            "lines 1 and 2 are one and the same master key",
        ),
        (format!("{MASTER_KEY}\nsecond\n").into(), "line 2: the master key is"),
        (
            "0f1e2d3c".repeat(8).into(),
            "is in hexadecimal; write the same 32 bytes in base64 in the place of this line",
        ),
        ("swordfish-swordfish-swordfish-12".into(), "it must be"),
    ] {
        crate::helpers::private_file(folder.join("master.key"), &content);
        for arguments in [&["config", "check"][..], &["serve"]] {
            let variables = [
                ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
                ("KEYROUND_KEYS__MASTER_KEY_FILE", "master.key"),
            ];
            let output = run(folder, &[&variables[..], &VARIABLES[1..3]].concat(), arguments);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
            assert!(
                said.contains(says) && !said.contains("swordfish"),
                "{arguments:?}: {said}"
            );
        }
    }
    crate::helpers::private_file(folder.join("master.key"), format!("{MASTER_KEY}\n{other}\n"));
    let output = run(
        folder,
        &[
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_KEYS__MASTER_KEY_FILE", "master.key"),
        ],
        &["config", "check"],
    );
    assert!(output.status.success(), "{}", said(&output));
}

/// Settings, and the arguments of a command.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);

/// A pipe without a writer, wherever a file is named: each is told within seconds.
#[test]
fn a_pipe_that_nobody_writes_holds_up_no_command() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let made = Command::new("mkfifo")
        .arg("-m")
        .arg("600")
        .arg(folder.join("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    crate::helpers::private_file(folder.join("tls.key"), "x");
    let settings: [Case; 7] = [
        (&[("KEYROUND_KEYS__MASTER_KEY_FILE", "pipe")], &["config", "check"]),
        (&[("KEYROUND_KEYS__MASTER_KEY_FILE", "pipe")], &["serve"]),
        (&[("KEYROUND_DATABASE__URL_FILE", "pipe")], &["config", "check"]),
        (&[("KEYROUND_OUTBOUND__CA_FILE", "pipe")], &["config", "check"]),
        (
            &[
                ("KEYROUND_SERVER__ISSUER", "https://id.example.com"),
                ("KEYROUND_SERVER__TLS_CERTIFICATE_FILE", "pipe"),
                ("KEYROUND_SERVER__TLS_KEY_FILE", "tls.key"),
            ],
            &["config", "check"],
        ),
        (&[], &["--config", "pipe", "config", "check"]),
        (
            &[(
                "KEYROUND_DATABASE__URL",
                "postgres://u:p@127.0.0.1:1/k?sslmode=verify-full&sslrootcert=pipe",
            )],
            &["config", "check"],
        ),
    ];
    let arguments: [&'static [&'static str]; 5] = [
        &["keys", "import", "pipe"],
        &[
            "users",
            "create",
            "--email",
            "a@example.com",
            "--name",
            "A",
            "--password-file",
            "pipe",
        ],
        &[
            "clients",
            "create",
            "--id",
            "a",
            "--grant",
            "client_credentials",
            "--audience",
            "b",
            "--secret-file",
            "pipe",
        ],
        &[
            "clients",
            "create",
            "--id",
            "a",
            "--grant",
            "client_credentials",
            "--audience",
            "b",
            "--jwks-file",
            "pipe",
        ],
        &["token", "verify", "--key-set", "pipe", "pipe"],
    ];
    let cases = settings
        .into_iter()
        .chain(arguments.map(|arguments| (&[][..], arguments)));
    std::thread::scope(|scope| {
        let runs: Vec<_> = cases
            .map(|(settings, arguments)| {
                scope.spawn(move || {
                    let given = |name: &str| settings.iter().any(|(given, _)| *given == name);
                    let has_key = given("KEYROUND_KEYS__MASTER_KEY_FILE");
                    let own = VARIABLES
                        .iter()
                        .filter(|(name, _)| !(given(name) || has_key && name.ends_with("MASTER_KEY")));
                    let variables: Vec<_> = own.copied().chain(settings.iter().copied()).collect();
                    let output = run(folder, &variables, arguments);
                    let said = said(&output);
                    assert!(!output.status.success(), "{settings:?} {arguments:?}: {said}");
                    assert!(said.contains("pipe"), "{settings:?} {arguments:?}: {said}");
                    assert!(
                        said.contains("no program has opened for writing within 5 seconds")
                            || said.contains("each connection reads it again"),
                        "{settings:?} {arguments:?}: {said}"
                    );
                })
            })
            .collect();
        for run in runs {
            run.join().unwrap();
        }
    });
}

/// Flags of other programs are answered by what does their work here.
#[test]
fn flags_that_others_have_lead_to_the_setting_or_flag() {
    let folder = tempfile::tempdir().unwrap();
    for (command, says) in [
        ("serve --port 8080", "--set server.listen=127.0.0.1:8080"),
        (
            "serve --listen 0.0.0.0:8080",
            "this is a setting: --set server.listen=VALUE",
        ),
        ("serve --host 0.0.0.0", "--set server.listen=127.0.0.1:8080"),
        ("serve --issuer=https://id.example.com", "--set server.issuer=VALUE"),
        ("serve --rotation-period 30d", "--set keys.rotation_period=VALUE"),
        ("serve --server.listen 1", "--set server.listen=VALUE"),
        ("serve --master-key x", "--set keys.master_key_file=FILE"),
        ("serve -v", "--set log.filter=info,keyround=debug"),
        ("serve --verbose", "--set log.filter=info,keyround=debug"),
        ("serve --log-level debug", "--set log.filter=info,keyround=debug"),
        ("serve -q", "--set log.filter=warn"),
        ("serve -c keyround.toml", "by --config FILE"),
        ("serve --config-file keyround.toml", "by --config FILE"),
        ("keys list --db sqlite:a", "--set database.url=sqlite:PATH"),
        ("serve --daemon", "let systemd or a container run it"),
        ("keys list -o json", "--json prints JSON"),
        ("keys list --format json", "--json prints JSON"),
        ("users delete a@example.com -y", "commands that ask take --yes"),
        ("serve --confg keyround.toml", "did you mean '--config'?"),
        (
            "keys rotate Zm9vYmFy",
            "write --algorithm before its value (a rotation is of an algorithm and not of one key",
        ),
        ("keys rotate Zm9vYmFy", "'keyround keys revoke KID'"),
        ("clients create --ttl 5m", "did you mean '--token-ttl'?"),
        ("token issue billing", "write --client before its value"),
        ("start", "did you mean 'serve'?"),
        ("run --dev", "did you mean 'serve'?"),
        ("clients add billing", "did you mean 'create'?"),
        ("clients ls", "did you mean 'list'?"),
        ("users rm a@example.com", "did you mean 'delete'?"),
        ("keys get", "did you mean 'show'?"),
        ("status", "did you mean 'healthcheck'?"),
        ("migrate", "did you mean 'db migrate'?"),
        ("version", "did you mean 'keyround --version'?"),
        ("keygen", "'keyround master-key generate' for a master key"),
        ("keygen", "'keyround keys rotate' for a signing key?"),
        ("db backup a.jsonl", "did you mean 'keyround backup'?"),
        ("keys restore a.jsonl", "did you mean 'keyround restore'?"),
        ("users add --email a@example.com", "did you mean 'create'?"),
        ("backup ~/a.jsonl", "which the shell did not replace"),
        ("man ~/pages", "which the shell did not replace"),
        (
            "token verify --key-set ~/jwks.json a",
            "which the shell did not replace",
        ),
        ("keys import ~/a.pem", "which the shell did not replace"),
        (
            "clients create --secret-file ~/a --grant client_credentials --audience a",
            "which the shell did not replace",
        ),
        ("--dev", "a command is missing"),
    ] {
        let sentence = refused(folder.path(), 2, &words(command));
        assert!(sentence.contains(says), "{command}: {sentence}");
    }
    let sentence = refused(folder.path(), 2, &["config", "check", "--config=~/keyround.toml"]);
    assert!(
        sentence.contains("replaces only at the beginning of a word"),
        "{sentence}"
    );
    // A token in place of its file, also one that is too long for a name.
    let key_set = folder.path().join("jwks.json");
    for length in [20, 400] {
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{}.{}", "a".repeat(length), "b".repeat(length));
        let set = format!(
            r#"{{"keys":[{}]}}"#,
            include_str!("../../fixtures/keys/p256.public.jwk")
        );
        std::fs::write(&key_set, set).unwrap();
        let sentence = refused(
            folder.path(),
            2,
            &["token", "verify", "--key-set", key_set.to_str().unwrap(), &token],
        );
        assert!(
            sentence.contains("this is a token") && sentence.contains("standard input with -"),
            "{sentence}"
        );
        assert!(!sentence.contains(&token), "{sentence}");
    }
    // What is proposed is accepted.
    for flag in [
        "server.listen=127.0.0.1:8080",
        "log.filter=info,keyround=debug",
        "log.filter=warn",
        "log.format=json",
    ] {
        let output = run(folder.path(), &VARIABLES, &["config", "check", "--set", flag]);
        assert!(output.status.success(), "{flag}: {}", said(&output));
    }
}

#[test]
fn a_blank_reason_is_none() {
    let folder = site();
    done(folder.path(), CREATE);
    for command in [
        &["keys", "rotate"][..],
        &["clients", "disable", "billing"],
        &["tenants", "enable", "default"],
        &["users", "resume", "ada@example.com"],
        &["clock", "confirm", "--yes"],
        &["keys", "revoke", "a", "--yes"],
    ] {
        for blank in [
            "--reason=",
            "--reason= ",
            "--reason=\t\n",
            "--reason=\u{200b}\u{2800}\u{3164}",
        ] {
            let sentence = refused(folder.path(), 2, &[command, &[blank]].concat());
            assert!(
                sentence.contains("--reason") && sentence.contains("it is blank; write some words"),
                "{command:?}: {sentence}"
            );
        }
    }
    let long = "\u{e9}".repeat(1_001);
    for (reason, says) in [
        (long.as_str(), "longer than 1000 characters"),
        ("--yes", "looks like a flag"),
        ("-y", "looks like a flag"),
    ] {
        let sentence = refused(folder.path(), 2, &["keys", "rotate", "--reason", reason]);
        assert!(sentence.contains(says), "{reason}: {sentence}");
    }
    for reason in ["- moved away", &long[2..]] {
        let arguments = ["clients", "disable", "billing", "--reason", reason];
        let output = run(folder.path(), &VARIABLES, &arguments);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(noted(folder.path(), "billing").1, reason);
        done(folder.path(), "clients enable billing");
    }
}

/// Anybody can register an address that begins as a flag does.
#[test]
fn an_account_whose_address_begins_with_a_hyphen_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for address in [
        "-help@example.com",
        "-V@example.com",
        "-bad@example.com",
        "--json@example.com",
    ] {
        done(folder, &format!("users create --email {address} --name -h"));
        let state = || {
            let shown: Value = serde_json::from_str(&done(folder, &format!("users show {address} --json"))).unwrap();
            (shown["suspended_at"].is_string(), shown["roles"].clone())
        };
        done(folder, &format!("users set-roles {address} --role admin"));
        assert_eq!(state(), (false, serde_json::json!(["admin"])), "{address}");
        done(folder, &format!("users suspend {address} --yes --reason gone"));
        assert!(state().0, "{address}");
        done(folder, &format!("users end-sessions --yes {address}"));
        done(folder, &format!("users delete {address} --yes"));
        refused(folder, 1, &["users", "show", address]);
    }
    // A mistyped flag is still one, and help is help.
    let sentence = refused(folder, 2, &["users", "suspend", "--reson=x"]);
    assert!(sentence.contains("there is no such flag"), "{sentence}");
    for help in ["-h", "--help", "-V"] {
        let shown = done(folder, &format!("users suspend {help}"));
        assert!(!shown.is_empty(), "{help}");
    }
    let sentence = refused(
        folder,
        2,
        &[
            "users",
            "create",
            "--email",
            "a@example.com",
            "--name",
            "--email-verified",
        ],
    );
    assert!(sentence.contains("looks like a flag"), "{sentence}");
    // A value that clap cuts a letter out of gets no hint about that letter, and never help in place of the work.
    let sentence = refused(folder, 2, &["tenants", "create", "-bad"]);
    assert!(!sentence.contains("server.listen"), "{sentence}");
    for arguments in [
        &["providers", "disable", "-help"][..],
        &["backup", "-hourly.backup"],
        &["backup", "-Vx"],
    ] {
        let sentence = refused(folder, 2, arguments);
        assert!(sentence.contains("is written behind '--'"), "{arguments:?}: {sentence}");
    }
}

#[test]
fn a_path_that_a_command_writes_has_nothing_unseen_at_its_ends() {
    let folder = site();
    let folder = folder.path();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names();
    for (arguments, says) in [
        (&["backup", "b1 "][..], "it ends with a blank"),
        (&["backup", "b1\r"], "it ends with a carriage return"),
        (&["backup", " b1"], "it begins with a blank"),
        (&["backup", "b\u{1b}1"], "it holds the character U+001B"),
        (&["master-key", "generate", "mk "], "it ends with a blank"),
        (&["keys", "timeline", "keys.svg\n"], "it ends with a line end"),
        (&["man", "pages "], "it ends with a blank"),
        (&["db", "copy", "--to", "sqlite:x "], "ends with a blank"),
        (&["db", "copy", "--to", "sqlite:x\r"], "ends with a carriage return"),
        (
            &["config", "check", "--set", "database.url=sqlite:x "],
            "ends with a blank",
        ),
        (
            &["config", "check", "--set", "keys.ledger_file=x "],
            "keys.ledger_file 'x ' ends with a blank",
        ),
    ] {
        let sentence = refused(folder, 2, arguments);
        assert!(sentence.contains(says), "{arguments:?}: {sentence}");
        assert_eq!(names(), before, "{arguments:?}");
    }
}

#[test]
fn a_pipe_that_nobody_reads_holds_up_no_command() {
    let folder = site();
    let folder = folder.path();
    std::fs::create_dir(folder.join("pages")).unwrap();
    for pipe in ["pipe", "pages/keyround.1"] {
        assert!(
            Command::new("mkfifo")
                .arg(folder.join(pipe))
                .status()
                .unwrap()
                .success()
        );
    }
    for (arguments, says) in [
        (
            &["keys", "timeline", "pipe"][..],
            "no program has opened for reading within 5 seconds",
        ),
        (&["man", "pages"], "no program has opened for reading within 5 seconds"),
        (&["backup", "pipe"], "it exists; name another file"),
        (&["master-key", "generate", "pipe"], "pipe"),
    ] {
        let output = run(folder, &VARIABLES, arguments);
        assert!(
            !output.status.success() && said(&output).contains(says),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    // One that is read gets the whole picture.
    let reader = Command::new("cat")
        .arg(folder.join("pipe"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    done(folder, "keys timeline pipe");
    let picture = reader.wait_with_output().unwrap().stdout;
    assert!(picture.starts_with(b"<svg") && picture.ends_with(b"</svg>\n"));
}
