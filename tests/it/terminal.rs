//! What is asked at a terminal: a real one, which Python's `pty` gives to the real binary.

use std::process::Command;

use keyround::clock::Clock;

use crate::helpers::{TestApp, TestDatabase, private_fixture};
use crate::process::BINARY;

/// Types a line as soon as its question stands there, and nobody can read along if it is a secret; prints what the terminal
/// shows, and ends as the program does.
const TERMINAL: &str = "
import os, pty, sys, termios, time
dialogue, program = sys.argv[1:sys.argv.index('--')], sys.argv[sys.argv.index('--') + 1:]
dialogue = [line.encode() for line in dialogue]
child, terminal = pty.fork()
if child == 0:
    os.execv(program[0], program)
shown, answered = b'', 0
while True:
    try:
        more = os.read(terminal, 4096)
    except OSError:
        break
    if not more:
        break
    shown += more
    if dialogue and dialogue[0] in shown[answered:]:
        answered = len(shown)
        is_secret = b'pass' in dialogue[0]
        while is_secret and termios.tcgetattr(terminal)[3] & termios.ECHO:
            time.sleep(0.001)
        os.write(terminal, dialogue[1] + b'\\n')
        dialogue = dialogue[2:]
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
";

/// Each question with what is typed then. Answers with the exit code, and all that the person saw.
pub fn at_terminal(database: &TestDatabase, dialogue: &[[&str; 2]], arguments: &[&str]) -> (i32, String) {
    let output = Command::new("python3")
        .args(["-c", TERMINAL])
        .args(dialogue.as_flattened())
        .args(["--", BINARY])
        .args(arguments)
        .current_dir(database.folder.path())
        .env("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080")
        .env("KEYROUND_DATABASE__URL", &database.url)
        .env(
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        )
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

async fn served(app: &TestApp) -> Vec<String> {
    app.running.server.rotation.tick().await.unwrap();
    let set = app.key_set().await;
    let keys = set["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

crate::on_both_databases!(a_person_is_asked_before_a_key_is_revoked, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let before = served(&app).await;
    let revoke = ["keys", "revoke", &before[0], "--reason", "leaked"];
    let question = "Type 'yes' to go on: ";
    for answer in ["no", "y", "YES", " "] {
        let (code, shown) = at_terminal(&database, &[[question, answer]], &revoke);
        assert_eq!(code, 1, "{shown}");
        assert!(
            shown.contains(&format!("Key {} signs RS256 tokens. It will be revoked", before[0]))
                && shown.contains("nothing was changed, because the answer was not 'yes'"),
            "{shown}"
        );
        assert_eq!(served(&app).await, before);
    }
    let (code, shown) = at_terminal(&database, &[[question, "yes"]], &revoke);
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains(&format!("RS256 key {} is revoked", before[0])),
        "{shown}"
    );
    assert!(!served(&app).await.contains(&before[0]));
    // What was done is not asked about again.
    let (code, shown) = at_terminal(&database, &[[question, "yes"]], &revoke);
    assert_eq!(code, 0, "{shown}");
    assert!(
        !shown.contains(question) && shown.contains("was revoked already"),
        "{shown}"
    );
    app.running.stop().await;
});

crate::on_both_databases!(a_person_is_asked_for_the_passphrase_of_a_key, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let before = served(&app).await;
    let file = private_fixture("rsa.pkcs1.encrypted.pem");
    let (question, import) = ("Enter PEM pass phrase:", ["keys", "import", &file]);
    let (code, shown) = at_terminal(&database, &[[question, "a-guess"]], &import);
    assert_eq!(code, 1, "{shown}");
    assert_eq!(served(&app).await, before);
    let (code, shown) = at_terminal(&database, &[[question, "opens-the-fixtures"]], &import);
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains("is published and activates") && !shown.contains("opens-the-fixtures"),
        "{shown}"
    );
    assert_eq!(served(&app).await.len(), before.len() + 1);
    app.running.stop().await;
});
