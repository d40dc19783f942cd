//! Keys move in and out: the real binary on a database where a server runs, in every direction that must be refused too.

use std::path::Path;

use keyround::clock::{Clock, Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use keyround::jose::import::{Imported, Passphrase, read};
use keyround::jose::jwk::{PublicJwk, thumbprint};
use keyround::keys::state::State;
use keyround::rotation::{RotationError, Rotator};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcKey, EcPoint};
use openssl::pkey::PKey;
use serde_json::Value;

use crate::client_assertions::Pair;
use crate::helpers::{START, TestApp, TestDatabase, private_file, private_fixture};
use crate::process::run;
use crate::rows::Raw;

const FOREIGN_KID: &str = "old-issuer:2024/a=1";

fn key(name: &str) -> Imported {
    read(&std::fs::read(private_fixture(name)).unwrap(), Passphrase::None).unwrap()
}

fn own_kid(name: &str) -> String {
    thumbprint(&key(name).parameters).to_string()
}

/// A person at a shell beside the server.
struct Shell<'a>(&'a TestDatabase);

impl Shell<'_> {
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let variables = [
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            (
                "KEYROUND_KEYS__MASTER_KEY",
                "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
            ),
            ("KEYROUND_DATABASE__URL", self.0.url.as_str()),
        ];
        let output = run(self.0.folder.path(), &variables, arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn prints(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {err}");
        out
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.prints(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Holds that it is refused by one sentence with this reason.
    fn refused(&self, arguments: &[&str], reason: &str) {
        let (code, out, err) = self.run(arguments);
        assert!(code != 0 && out.is_empty(), "{arguments:?}: {out}");
        assert!(
            err.contains(reason) && err.trim_end().lines().count() == 1,
            "{arguments:?}: {err}"
        );
    }

    fn listed(&self, kid: &str) -> Value {
        let keys = self.json(&["keys", "list"]);
        let found = keys.as_array().unwrap().iter().find(|key| key["kid"] == kid);
        found.unwrap_or_else(|| panic!("{kid} is not in {keys}")).clone()
    }

    fn events(&self, kid: &str) -> Vec<String> {
        let records = self.json(&["audit", "list"]);
        let of = |record: &&Value| record["subject"] == kid;
        let name = |record: &Value| record["event"].as_str().unwrap().to_owned();
        records.as_array().unwrap().iter().filter(of).map(name).collect()
    }
}

/// A new private key in a file.
fn fresh_key(folder: &Path, name: &str) -> String {
    let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let file = folder.join(name);
    private_file(&file, key.private_key_to_pem_pkcs8().unwrap());
    file.to_str().unwrap().to_owned()
}

crate::on_both_databases!(a_second_rotation_names_the_key_that_waits_already, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let shell = Shell(&database);
    let first = shell.json(&["keys", "rotate", "--algorithm", "ES256"]);
    assert_eq!(first["keys"][0]["pending_before"], serde_json::json!([]));
    let kid = first["keys"][0]["kid"].as_str().unwrap().to_owned();
    let goes_on =
        format!("  an earlier rotation goes on: ES256 key {kid} (generation 2) is pending too and signs first, from ");
    let foreseen = shell.prints(&["keys", "rotate", "--algorithm", "ES256", "--dry-run"]);
    assert!(foreseen.contains(&goes_on), "{foreseen}");
    let second = shell.prints(&["keys", "rotate", "--algorithm", "ES256"]);
    assert!(
        second.contains("(generation 3) is published") && second.contains(&goes_on),
        "{second}"
    );
    let file = fresh_key(database.folder.path(), "key.pem");
    let third = shell.json(&["keys", "import", &file]);
    let pending = third["pending_before"].as_array().unwrap();
    assert_eq!(pending.len(), 2, "{third}");
    assert_eq!(
        (&pending[0]["kid"], &pending[0]["generation"]),
        (&kid.clone().into(), &2.into())
    );
    // ES256 takes no more, so RS256 is not rotated either.
    let keys = shell.json(&["keys", "list"]);
    for command in [&["keys", "rotate"][..], &["keys", "rotate", "--dry-run"]] {
        shell.refused(command, "3 ES256 keys are published and wait to sign");
        assert_eq!(shell.json(&["keys", "list"]), keys);
    }
    let other = shell.prints(&["keys", "rotate", "--algorithm", "RS256"]);
    assert!(!other.contains("an earlier rotation"), "{other}");
    app.running.stop().await;
});

crate::on_both_databases!(a_passphrase_for_a_key_that_has_none_is_refused, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let (shell, folder) = (Shell(&database), database.folder.path());
    let (plain, passphrase) = (fresh_key(folder, "plain.pem"), folder.join("passphrase"));
    private_file(&passphrase, "correct horse");
    let passphrase = passphrase.to_str().unwrap();
    let import = ["keys", "import", &plain, "--passphrase-file", passphrase];
    shell.refused(&import, "is not encrypted, so that --passphrase-file");
    let key = PKey::private_key_from_pem(&std::fs::read(&plain).unwrap()).unwrap();
    let cipher = openssl::symm::Cipher::aes_256_cbc();
    let encrypted = folder.join("encrypted.pem");
    private_file(
        &encrypted,
        key.private_key_to_pem_pkcs8_passphrase(cipher, b"correct horse")
            .unwrap(),
    );
    let old = folder.join("old.pem");
    let in_old_form = key
        .ec_key()
        .unwrap()
        .private_key_to_pem_passphrase(cipher, b"correct horse")
        .unwrap();
    private_file(&old, in_old_form);
    shell.prints(&[
        "keys",
        "import",
        encrypted.to_str().unwrap(),
        "--passphrase-file",
        passphrase,
    ]);
    // The same key again: it was opened.
    shell.refused(
        &["keys", "import", old.to_str().unwrap(), "--passphrase-file", passphrase],
        "kid",
    );
    app.running.stop().await;
});

crate::on_both_databases!(imports_at_once_let_no_more_keys_wait_than_may, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let files: Vec<String> = (0..6)
        .map(|index| fresh_key(database.folder.path(), &format!("key-{index}.pem")))
        .collect();
    let outcomes: Vec<(i32, String, String)> = std::thread::scope(|scope| {
        let import = |file: &String| Shell(&database).run(&["keys", "import", file]);
        let runs: Vec<_> = files.iter().map(|file| scope.spawn(move || import(file))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for (code, _, err) in &outcomes {
        assert!(
            *code == 0 || err.contains("3 ES256 keys are published and wait to sign, as many as may"),
            "{err}"
        );
    }
    assert_eq!(outcomes.iter().filter(|(code, ..)| *code == 0).count(), 3);
    let listed = Shell(&database).json(&["keys", "list"]);
    let waits = |key: &&Value| key["alg"] == "ES256" && key["state"] == "pending";
    assert_eq!(listed.as_array().unwrap().iter().filter(waits).count(), 3, "{listed}");
    app.running.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kid_that_a_shell_has_changed_is_refused() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let shell = Shell(&database);
    let file = private_fixture("p256.spki.pem");
    let until = ["--verify-only", "--until", "2100-01-01T00:00:00Z", "--kid"];
    for (kid, reason) in [
        ("", "--kid '\"\"' is empty"),
        ("my key\n", "'my key\\n' has a control character"),
        ("\tkey", "a control character"),
        ("my\u{200b}key", "a character that cannot be seen"),
        ("key\u{feff}", "a character that cannot be seen"),
        ("my\u{2060}key", "a character that cannot be seen"),
        (" key", "' key' begins or ends with a blank"),
        ("key\u{a0}", "begins or ends with a blank"),
    ] {
        shell.refused(&[&["keys", "import", &file], &until[..], &[kid]].concat(), reason);
    }
    shell.prints(&[&["keys", "import", &file], &until[..], &["my key"]].concat());
    app.running.stop().await;
}

async fn served(app: &TestApp) -> Vec<String> {
    app.running.server.rotation.tick().await.unwrap();
    let set = app.key_set().await;
    let kid = |key: &Value| key["kid"].as_str().unwrap().to_owned();
    set["keys"].as_array().unwrap().iter().map(kid).collect()
}

crate::on_both_databases!(
    an_imported_key_becomes_the_next_generation_under_its_thumbprint,
    |database| {
        let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
        let shell = Shell(&database);
        let passphrase = database.folder.path().join("passphrase");
        private_file(&passphrase, "opens-the-fixtures\n");
        // What others may read is refused: the file of the passphrase, and that of a private key.
        let exposed: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        let (file, kid) = (private_fixture("rsa.pkcs1.encrypted.pem"), own_kid("rsa.pkcs8.pem"));
        let import = [
            "keys",
            "import",
            &file,
            "--passphrase-file",
            passphrase.to_str().unwrap(),
        ];

        for path in [passphrase.to_str().unwrap(), &file] {
            std::fs::set_permissions(path, exposed.clone()).unwrap();
            shell.refused(&import, "group or others may open it; run: chmod 600");
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        shell.refused(&["keys", "import", &file], "give its passphrase");
        let done = shell.json(&import);
        assert_eq!(
            (&done["kid"], &done["generation"], &done["alg"]),
            (&kid.as_str().into(), &2.into(), &"RS256".into())
        );
        assert_eq!(shell.listed(&kid)["state"], "pending");
        let lead = app.config.keys.policy.windows().prepublish;
        let time = |name: &str| done[name].as_str().unwrap().parse::<UnixTime>().unwrap();
        assert_eq!(time("activates_at") - time("published_at"), lead);
        assert!(served(&app).await.contains(&kid));
        let row = app.running.server.db.signing_keys().await.unwrap();
        assert!(
            row.rows
                .iter()
                .any(|row| row.key.kid.as_str() == kid && row.sealed.is_some())
        );

        shell.refused(&import, "is the name of a signing key");
        let public = private_fixture("rsa.spki.pem");
        let until = ["--verify-only", "--until", "2100-01-01T00:00:00Z"];
        let verify = [&["keys", "import", &public, "--kid", &kid], &until[..]].concat();
        shell.refused(&verify, "is the name of a signing key");

        shell.prints(&["keys", "revoke", &kid, "--reason", "test", "--yes"]);
        assert!(!served(&app).await.contains(&kid));
        shell.refused(&import, "was revoked");
        shell.refused(&verify, "was revoked");

        // A row that is long gone leaves its name in the audit log.
        let raw = Raw::open(&database).await;
        assert_eq!(
            raw.execute(&format!("DELETE FROM signing_keys WHERE kid = '{kid}'"))
                .await,
            1
        );
        shell.refused(&import, "was used before");
        shell.refused(&verify, "was used before");
    }
);

crate::on_both_databases!(a_key_to_verify_with_keeps_its_name_and_never_signs, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let shell = Shell(&database);
    let before = served(&app).await;
    let file = private_fixture("rsa.public.jwk");
    let until = ["--verify-only", "--until", "2100-01-01T00:00:00Z"];
    let import = [&["keys", "import", &file], &until[..]].concat();

    shell.refused(&["keys", "import", &file], "add --verify-only");
    shell.refused(&["keys", "import", &file, "--verify-only"], "--until");
    shell.refused(&[&import[..], &["--kid", "another"]].concat(), "leave --kid out");
    let pem = private_fixture("rsa.spki.pem");
    shell.refused(&[&["keys", "import", &pem], &until[..]].concat(), "give it with --kid");
    shell.refused(
        &[
            "keys",
            "import",
            &file,
            "--verify-only",
            "--until",
            "2020-01-01T00:00:00Z",
        ],
        "not in the future",
    );
    assert_eq!(served(&app).await, before);

    let done = shell.json(&import);
    assert_eq!((&done["kid"], &done["generation"]), (&FOREIGN_KID.into(), &Value::Null));
    assert!(served(&app).await.contains(&FOREIGN_KID.to_owned()));
    let listed = shell.listed(FOREIGN_KID);
    assert_eq!(
        (&listed["state"], &listed["generation"]),
        (&"retired".into(), &Value::Null)
    );
    assert_eq!(
        listed["expires_at"], "2100-01-01T00:01:00Z",
        "its end, and the clocks' difference"
    );
    assert!(shell.prints(&["keys", "list"]).contains(FOREIGN_KID));
    assert!(
        shell
            .prints(&["keys", "show", FOREIGN_KID])
            .contains("imported to verify with")
    );
    assert!(shell.prints(&["keys", "timeline"]).contains(FOREIGN_KID));
    let plan = shell.json(&["keys", "plan"]);
    let planned = plan["events"].as_array().unwrap().iter();
    let of_it: Vec<&Value> = planned.filter(|event| event["kid"] == FOREIGN_KID).collect();
    assert_eq!(of_it.len(), 1, "{plan}");
    assert_eq!(
        (&of_it[0]["event"], &of_it[0]["at"], &of_it[0]["generation"]),
        (&"expire".into(), &"2100-01-01T00:01:00Z".into(), &Value::Null)
    );
    assert!(shell.prints(&["keys", "plan"]).contains(FOREIGN_KID));
    let dry_run = shell.prints(&["keys", "rotate", "--dry-run"]);
    assert!(!dry_run.contains(FOREIGN_KID), "no rotation moves it");
    let shown = shell.json(&["keys", "show", FOREIGN_KID]);
    assert_eq!(shown["until"], "2100-01-01T00:00:00Z");

    // Out again, as it came in.
    let exported: Value = serde_json::from_str(&shell.prints(&["keys", "export", FOREIGN_KID])).unwrap();
    assert_eq!(exported, shown["jwk"]);
    let pem_text = std::fs::read_to_string(&pem).unwrap();
    assert_eq!(shell.prints(&["keys", "export", FOREIGN_KID, "--pem"]), pem_text);
    let set: Value = serde_json::from_str(&shell.prints(&["keys", "export"])).unwrap();
    assert_eq!(set, app.key_set().await);
    every_exported_pem_is_named(&shell, &app.key_set().await);
    shell.refused(&["keys", "export", "nobody"], "no key is called");

    // Two keys for one kid.
    shell.refused(&import, "is the name of a key to verify with");
    let other = private_fixture("p256.spki.pem");
    let other = [&["keys", "import", &other, "--kid", FOREIGN_KID], &until[..]].concat();
    shell.refused(&other, "is the name of a key to verify with");
    let (private, kid) = (private_fixture("p256.jwk"), own_kid("p256.jwk"));
    let named_alike = [&["keys", "import", &pem, "--kid", &kid], &until[..]].concat();
    shell.prints(&named_alike);
    shell.refused(&["keys", "import", &private], "is the name of a key to verify with");

    assert_eq!(
        shell.json(&["keys", "revoke", FOREIGN_KID, "--reason", "leaked", "--yes"])["revocations"][0]["revoked"],
        serde_json::json!([FOREIGN_KID, kid]),
        "the same key under both names"
    );
    let after = served(&app).await;
    assert!(
        !after.contains(&FOREIGN_KID.to_owned()) && before.iter().all(|kid| after.contains(kid)),
        "{after:?}"
    );
    assert_eq!(shell.listed(FOREIGN_KID)["state"], "revoked");
    let again = shell.json(&["keys", "revoke", FOREIGN_KID, "--reason", "leaked", "--yes"]);
    assert_eq!(again["revocations"][0]["already_revoked"], true);
    shell.refused(&import, "was revoked");
    assert_eq!(
        shell.events(FOREIGN_KID),
        ["key.revoked", "key.published", "key.created"]
    );
});

/// Each PEM of the whole set has its kid before it, and is read by OpenSSL and by the import.
fn every_exported_pem_is_named(shell: &Shell, set: &Value) {
    let text = shell.prints(&["keys", "export", "--pem"]);
    let mut seen = Vec::new();
    for block in text.split_inclusive("-----END PUBLIC KEY-----\n") {
        let (alg, kid) = block
            .lines()
            .next()
            .unwrap()
            .strip_prefix("# ")
            .unwrap()
            .split_once(" key ")
            .unwrap();
        let ours = read(block.as_bytes(), Passphrase::None).unwrap();
        let theirs = openssl::pkey::PKey::public_key_from_pem(block.as_bytes()).unwrap();
        let theirs = String::from_utf8(theirs.public_key_to_pem().unwrap()).unwrap();
        assert_eq!(keyround::jose::import::public_pem(&ours.parameters).unwrap(), theirs);
        let published = set["keys"]
            .as_array()
            .unwrap()
            .iter()
            .find(|key| key["kid"] == kid)
            .unwrap();
        let published = read(published.to_string().as_bytes(), Passphrase::None).unwrap();
        assert_eq!((published.parameters, alg), (ours.parameters, ours.alg.name()), "{kid}");
        seen.push(kid);
    }
    assert_eq!(seen.len(), 3, "{text}");
}

crate::on_both_databases!(a_kid_of_others_is_any_text_wherever_it_goes, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let shell = Shell(&database);
    let file = database.folder.path().join("foreign.jwk");
    let longest = "k".repeat(512);
    let kids = [
        "my key",
        "cl\u{e9} \u{1f511} \"quoted\" \\ back",
        "https://vault.example/keys/a/1?b=c&d=%20#e",
        "line\nfeed\u{1b}[31m\u{202e}",
        "",
        longest.as_str(),
    ];
    for (index, kid) in kids.into_iter().enumerate() {
        let pair = Pair::new(Algorithm::Es256, kid);
        std::fs::write(&file, pair.jwk.to_json()).unwrap();
        let until = ["--verify-only", "--until", "2100-01-01T00:00:00Z"];
        let import = [&["keys", "import", file.to_str().unwrap()], &until[..]].concat();
        assert_eq!(shell.json(&import)["kid"], kid);
        let set = app_set(&app).await;
        let published = set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid);
        assert_eq!(
            published.unwrap().to_string(),
            serde_json::from_str::<Value>(&pair.jwk.to_json()).unwrap().to_string()
        );
        // A service that holds the set finds the key by the kid of the token.
        let header = serde_json::json!({ "alg": "ES256", "typ": "at+jwt", "kid": kid }).to_string();
        let now = Clock::system().read().wall.0;
        let claims = serde_json::json!({ "iat": now, "exp": now + 900 }).to_string();
        let token = pair.sign(&header, &claims);
        let folder = database.folder.path();
        std::fs::write(folder.join("jwks.json"), set.to_string()).unwrap();
        std::fs::write(folder.join("token"), &token).unwrap();
        assert!(
            shell
                .prints(&["token", "verify", "--key-set", "jwks.json", "token"])
                .contains("is valid"),
            "{kid:?}"
        );
        let shown = shell.json(&["keys", "show", kid]);
        assert_eq!(shown["kid"], kid);
        for command in [
            &["keys", "list"][..],
            &["keys", "plan"],
            &["keys", "show", kid],
            &["audit", "list"],
            &["keys", "timeline"],
        ] {
            let text = shell.prints(command);
            let bad = |character: char| character.is_control() && character != '\n' || character == '\u{202e}';
            assert!(
                !text.contains(bad) && !text.contains("line\nfeed"),
                "{command:?}: {text}"
            );
        }
        shell.refused(&import, "names one key for ever");
        let revoked = shell.json(&["keys", "revoke", kid, "--reason", "leaked", "--yes"]);
        assert_eq!(revoked["revocations"][0]["revoked"][0], kid);
        assert_eq!(shell.events(kid)[0], "key.revoked", "{index}");
        shell.prints(&["db", "check"]);
    }
    for (kid, reason) in [("a\u{0}b", "U+0000"), (&format!("{longest}k"), "512 bytes")] {
        let mut jwk: Value =
            serde_json::from_slice(&std::fs::read(private_fixture("p256.public.jwk")).unwrap()).unwrap();
        jwk["kid"] = kid.into();
        std::fs::write(&file, jwk.to_string()).unwrap();
        let import = [
            "keys",
            "import",
            file.to_str().unwrap(),
            "--verify-only",
            "--until",
            "2100-01-01T00:00:00Z",
        ];
        shell.refused(&import, reason);
    }
    app.running.stop().await;
});

async fn app_set(app: &TestApp) -> Value {
    app.running.server.rotation.tick().await.unwrap();
    app.key_set().await
}

/// Both halves as the page "moving in" brings them: the public one under its old kid, the private one to sign with.
fn move_in(shell: &Shell) -> String {
    let (public, private, kid) = (
        private_fixture("p256.spki.pem"),
        private_fixture("p256.jwk"),
        own_kid("p256.jwk"),
    );
    let until = ["--verify-only", "--until", "2100-01-01T00:00:00Z"];
    shell.prints(&[&["keys", "import", &public, "--kid", FOREIGN_KID], &until[..]].concat());
    shell.prints(&["keys", "import", &private]);
    kid
}

/// Makes the imported key the one that signs.
async fn activate(raw: &Raw, kid: &str) {
    let earlier = "UPDATE signing_keys SET published_at = published_at - 100000, activates_at = activates_at - 100000";
    assert_eq!(raw.execute(&format!("{earlier} WHERE kid = '{kid}'")).await, 1);
}

fn sorted(revoked: &Value) -> Vec<String> {
    let kids = revoked["revocations"][0]["revoked"].as_array().unwrap().iter();
    let mut kids: Vec<String> = kids.map(|kid| kid.as_str().unwrap().to_owned()).collect();
    kids.sort();
    kids
}

crate::on_both_databases!(a_revocation_takes_the_key_under_each_of_its_kids, |database| {
    let ledger = database.folder.path().join("ledger");
    let settings = [("keys.ledger_file", ledger.to_str().unwrap())];
    let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let (shell, raw) = (Shell(&database), Raw::open(&database).await);
    let kid = move_in(&shell);
    activate(&raw, &kid).await;
    let before = served(&app).await;
    assert!(before.contains(&kid) && before.contains(&FOREIGN_KID.to_owned()));
    let secret = app.create_client("service", Some(Algorithm::Es256)).await;
    let token = app.token("service", &secret).await;

    // By the kid of the key to verify with: the same emergency as by the thumbprint.
    let done = shell.json(&["keys", "revoke", FOREIGN_KID, "--reason", "leaked", "--yes"]);
    let mut both = vec![FOREIGN_KID.to_owned(), kid.clone()];
    both.sort();
    assert_eq!(sorted(&done), both);
    let signs_now = done["revocations"][0]["signs_now"].as_str().unwrap().to_owned();
    let after = served(&app).await;
    assert!(!after.contains(&kid) && !after.contains(&FOREIGN_KID.to_owned()) && after.contains(&signs_now));
    assert_ne!(app.token("service", &secret).await, token);
    let expected = keyround::keyring::text_of([&kid.parse().unwrap()]);
    assert_eq!(std::fs::read_to_string(&ledger).unwrap(), expected);
    for name in [&kid, FOREIGN_KID, &kid] {
        let again = shell.json(&["keys", "revoke", name, "--reason", "leaked", "--yes"]);
        assert_eq!(again["revocations"][0]["already_revoked"], true, "{name}");
        assert!(shell.events(name).contains(&"key.revoked".to_owned()));
    }

    // In again under another name: by the database, and by the ledger of a machine whose database has lost the rows.
    let public = private_fixture("p256.spki.pem");
    let until = ["--verify-only", "--until", "2100-01-01T00:00:00Z"];
    let third_name = [&["keys", "import", &public, "--kid", "third-name"], &until[..]].concat();
    shell.refused(&third_name, &format!("this is the revoked key {kid}"));
    shell.refused(&["keys", "import", &private_fixture("p256.jwk")], "was revoked");
    // Its negative has a private half that whoever has this one can compute.
    let (negative, negative_public) = negative_of(&database, "p256.pkcs8.pem");
    let fourth_name = [
        &["keys", "import", &negative_public, "--kid", "fourth-name"],
        &until[..],
    ]
    .concat();
    shell.refused(&fourth_name, "this is the revoked key");
    shell.refused(&["keys", "import", &negative], "this is the revoked key");
    for table in ["signing_keys", "verifying_keys"] {
        raw.execute(&format!("DELETE FROM {table} WHERE kid IN ('{kid}', '{FOREIGN_KID}')"))
            .await;
    }
    raw.execute(&format!(
        "DELETE FROM audit WHERE subject IN ('{kid}', '{FOREIGN_KID}')"
    ))
    .await;
    let set = format!("keys.ledger_file={}", ledger.display());
    let with_ledger = [&["--set", &set], &third_name[..]].concat();
    shell.refused(&with_ledger, &format!("this is the revoked key {kid}"));
    let private = private_fixture("p256.jwk");
    shell.refused(&["--set", &set, "keys", "import", &private], "this is the revoked key");
    shell.refused(&["--set", &set, "keys", "import", &negative], "this is the revoked key");
    let by_name = [&["--set", &set], &fourth_name[..]].concat();
    shell.refused(&by_name, "this is the revoked key");
    app.running.stop().await;
});

/// The files of the key whose private half is `n - d`, private and public.
fn negative_of(database: &TestDatabase, name: &str) -> (String, String) {
    let key = PKey::private_key_from_pem(&std::fs::read(private_fixture(name)).unwrap()).unwrap();
    let key = key.ec_key().unwrap();
    let (group, mut context) = (key.group(), BigNumContext::new().unwrap());
    let mut order = BigNum::new().unwrap();
    group.order(&mut order, &mut context).unwrap();
    let mut private = BigNum::new().unwrap();
    private.checked_sub(&order, key.private_key()).unwrap();
    let mut public = EcPoint::new(group).unwrap();
    public.mul_generator2(group, &private, &mut context).unwrap();
    let negative = EcKey::from_private_components(group, &private, &public).unwrap();
    let negative = PKey::from_ec_key(negative).unwrap();
    let path = |name: &str| database.folder.path().join(name).display().to_string();
    let (private, public) = (path("negative.pem"), path("negative.public.pem"));
    private_file(&private, negative.private_key_to_pem_pkcs8().unwrap());
    std::fs::write(&public, negative.public_key_to_pem().unwrap()).unwrap();
    (private, public)
}

crate::on_both_databases!(the_negative_of_a_key_is_the_same_material, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let (shell, raw) = (Shell(&database), Raw::open(&database).await);
    let kid = own_kid("p256.pkcs8.pem");
    shell.json(&["keys", "import", &private_fixture("p256.pkcs8.pem")]);
    let (negative, public) = negative_of(&database, "p256.pkcs8.pem");
    shell.refused(&["keys", "import", &negative], &kid);
    // As a public key it moves in under its own name, and a revocation takes both.
    let until = ["--verify-only", "--until", "2100-01-01T00:00:00Z"];
    shell.json(&[&["keys", "import", &public, "--kid", "negative"], &until[..]].concat());
    let done = shell.json(&["keys", "revoke", &kid, "--reason", "leaked", "--yes"]);
    let mut both = vec!["negative".to_owned(), kid.clone()];
    both.sort();
    assert_eq!(sorted(&done), both);
    // A row that is long gone.
    for table in ["signing_keys", "verifying_keys"] {
        raw.execute(&format!("DELETE FROM {table} WHERE kid IN ('{kid}', 'negative')"))
            .await;
    }
    // Beside an SQLite file lies a ledger.
    let reason = if database.url.starts_with("sqlite:") {
        "this is the revoked key"
    } else {
        "was used before"
    };
    shell.refused(&["keys", "import", &negative], reason);
    app.running.stop().await;
});

crate::on_both_databases!(
    an_alias_that_an_older_version_left_trusted_is_revoked_at_the_next_look,
    |database| {
        let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
        let (shell, raw) = (Shell(&database), Raw::open(&database).await);
        let kid = move_in(&shell);
        activate(&raw, &kid).await;
        served(&app).await;
        // As `keys revoke` of an older version left it: the other row signs on.
        raw.execute(&format!(
            "UPDATE verifying_keys SET revoked_at = 1 WHERE kid = '{FOREIGN_KID}'"
        ))
        .await;
        let after = served(&app).await;
        assert!(
            !after.contains(&kid) && !after.contains(&FOREIGN_KID.to_owned()),
            "{after:?}"
        );
        assert_eq!(shell.listed(&kid)["state"], "revoked");
        assert!(shell.events(&kid).contains(&"key.revocation_restored".to_owned()));
        let secret = app.create_client("service", Some(Algorithm::Es256)).await;
        app.token("service", &secret).await;
        app.running.stop().await;
    }
);

crate::on_both_databases!(a_pending_key_goes_with_its_aliases_in_an_emergency, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let shell = Shell(&database);
    let kid = move_in(&shell);
    let keys = shell.json(&["keys", "list"]);
    let signs = keys
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["alg"] == "ES256" && key["state"] == "active");
    let signs = signs.unwrap()["kid"].as_str().unwrap().to_owned();
    let done = shell.json(&["keys", "revoke", &signs, "--reason", "leaked", "--yes"]);
    let mut all = vec![FOREIGN_KID.to_owned(), kid.clone(), signs];
    all.sort();
    assert_eq!(sorted(&done), all);
    let after = served(&app).await;
    assert!(all.iter().all(|kid| !after.contains(kid)), "{after:?}");
    app.running.stop().await;
});

#[tokio::test]
async fn a_key_to_verify_with_leaves_at_its_stated_end_and_the_clocks_difference() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let until = START + Seconds(600);
    let imported = key("p256.public.jwk");
    let kid = imported.kid.clone().unwrap();
    rotator(&app)
        .import_verifying(jwk(imported), until, "test", "test")
        .await
        .unwrap();
    assert!(served(&app).await.contains(&kid.to_string()));
    let skew = app.config.keys.policy.windows().clock_skew;
    app.pass(Seconds(600) + skew - Seconds(1), Seconds(30)).await;
    assert!(
        served(&app).await.contains(&kid.to_string()),
        "a verifier whose clock is behind still needs it"
    );
    app.pass(Seconds(1), Seconds(1)).await;
    assert!(!served(&app).await.contains(&kid.to_string()));
    let keys = app.running.server.db.signing_keys().await.unwrap().keys();
    let key = keys.find_verifying(&kid).unwrap();
    assert_eq!(
        key.state(&app.config.keys.policy, app.clock.read().wall),
        State::Expired
    );
    let records = app.running.server.db.audit(None, 100).await.unwrap();
    let expired: Vec<i64> = records
        .iter()
        .filter(|record| record.event == "key.expired")
        .map(|record| record.happened_at)
        .collect();
    assert_eq!(expired, [(until + skew).0]);
}

crate::on_both_databases!(an_ended_key_is_purged_and_its_name_stays_taken, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let raw = Raw::open(&database).await;
    let until = Clock::system().read().wall + Seconds(3_600);
    let rotator = Rotator {
        clock: Clock::system(),
        ..rotator(&app)
    };
    let import = async |name: &str, kid: &str| {
        let jwk = PublicJwk {
            kid: kid.parse().unwrap(),
            ..jwk(key(name))
        };
        rotator.import_verifying(jwk, until, "test", "test").await
    };
    let rows = async || {
        let keys = app.running.server.db.signing_keys().await.unwrap().keys();
        let kids = keys.verifying().iter().map(|key| key.jwk.kid.to_string());
        kids.collect::<Vec<_>>()
    };
    import("rsa.public.jwk", "ends").await.unwrap();
    import("p256.public.jwk", "revoked").await.unwrap();
    let revoked = "revoked".parse().unwrap();
    rotator.revoke(&revoked, "test", "test").await.unwrap();
    let signing = app.running.server.db.signing_keys().await.unwrap().rows.len();
    let skew = app.config.keys.policy.windows().clock_skew;

    let earlier = async |seconds: i64| {
        raw.execute(&format!(
            "UPDATE verifying_keys SET expires_at = expires_at - {seconds}"
        ))
        .await;
        served(&app).await
    };

    let set = earlier(3_600 + skew.0 + skew.0 / 2).await;
    assert!(!set.contains(&"ends".to_owned()));
    assert_eq!(
        rows().await,
        ["ends", "revoked"],
        "a node whose clock is behind still serves it"
    );
    earlier(skew.0).await;
    assert_eq!(rows().await, ["revoked"], "a revoked row stays");
    assert_eq!(app.running.server.db.signing_keys().await.unwrap().rows.len(), signing);
    assert!(app.running.server.keyring.snapshot().vanished.is_empty());

    let later = until + Seconds(86_400);
    for (name, kid, why) in [
        ("rsa.public.jwk", "ends", "was used before"),
        ("p256.public.jwk", "ends", "was used before"),
        ("p256.public.jwk", "revoked", "was revoked"),
    ] {
        let jwk = PublicJwk {
            kid: kid.parse().unwrap(),
            ..jwk(key(name))
        };
        let refused = rotator.import_verifying(jwk, later, "test", "test").await;
        assert!(refused.unwrap_err().to_string().contains(why), "{kid}");
    }
    let records = app.running.server.db.audit(None, 100).await.unwrap();
    let expired = records.iter().filter(|record| record.event == "key.expired").count();
    assert_eq!(expired, 1);
});

#[tokio::test]
async fn imported_keys_never_take_the_room_that_rotation_needs() {
    let database = TestDatabase::sqlite();
    // Two keys of each algorithm at the most, and one more.
    let app = TestApp::start(&database, &[("keys.max_published", "5")]).await;
    let until = START + Seconds(10 * 365 * 86_400);
    let import = async |name: &str, kid: &str| {
        let jwk = PublicJwk {
            kid: kid.parse().unwrap(),
            ..jwk(key(name))
        };
        rotator(&app).import_verifying(jwk, until, "test", "test").await
    };
    import("rsa.public.jwk", "first").await.unwrap();
    let refused = import("p256.public.jwk", "second").await;
    assert!(matches!(refused, Err(RotationError::SetFull(_))), "{refused:?}");
    // Through three rotations nothing is held up.
    for _ in 0..90 * 6 {
        app.pass(Seconds(4 * 3_600), Seconds(4 * 3_600)).await;
        assert!(served(&app).await.len() <= 5);
        let snapshot = app.running.server.keyring.snapshot();
        let policy = &app.config.keys.policy;
        assert_eq!(snapshot.overdue(policy, app.clock.read().wall), []);
    }
    assert!(served(&app).await.contains(&"first".to_owned()));
}

fn jwk(imported: Imported) -> PublicJwk {
    PublicJwk {
        kid: imported.kid.unwrap_or_else(|| thumbprint(&imported.parameters)),
        alg: imported.alg,
        parameters: imported.parameters,
    }
}

/// What the command line would use, on the server's clock.
fn rotator(app: &TestApp) -> Rotator {
    Rotator {
        db: app.running.server.db.clone(),
        master_key: std::sync::Arc::new(crate::helpers::master_key().into()),
        policy: std::sync::Arc::new(app.config.keys.policy.clone()),
        clock: app.clock.clone(),
        ledger: None,
    }
}

#[test]
fn fixtures_are_made_by_the_script_beside_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let script = std::fs::read_to_string(root.join("make.sh")).unwrap();
    for file in std::fs::read_dir(root.join("keys")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let by_loop = name.replace("rsa.", "${name}.").replace("p256.", "${name}.");
        assert!(
            script.contains(&name) || script.contains(&by_loop),
            "make.sh does not make {name}"
        );
    }
}
