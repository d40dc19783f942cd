//! What is written to the log and the database: who did what, never a secret, never a forged line.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyround::app::{Foundation, connect};
use keyround::clock::Clock;
use keyround::config::{Config, Sources};
use keyround::crypto::keyed_hash::HashKey;
use keyround::crypto::purpose::Purpose;
use keyround::crypto::random::random_secret;
use keyround::events::Entry;
use keyround::keyring::binding;
use serde_json::Value;

use crate::helpers::{entry, master_key};
use crate::process::Serving;
use crate::token::client;

// For tests alone.
const MASTER_KEY: &str = "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=";

/// What a liar would have the log say.
const FORGED: &str = "a token was granted to mallory";

struct Scene {
    folder: tempfile::TempDir,
    secret: String,
    hash_key: HashKey,
}

impl Scene {
    /// A database with the client `billing`.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("keyround.db").display());
        let flags = [
            ("server.issuer", "http://127.0.0.1:8080"),
            ("database.url", url.as_str()),
            ("keys.master_key", MASTER_KEY),
        ];
        let config = Config::load(&Sources {
            flags: flags.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Sources::default()
        })
        .unwrap();
        let foundation = Foundation::open(&config, Clock::system()).await.unwrap();
        let secret = random_secret().unwrap().to_string();
        let digest = foundation.hash_key.digest(Purpose::ClientSecret, &secret);
        let db = &foundation.rotator.db;
        // The server goes by the machine's clock, and takes a later record for a time that was reached.
        let now = Clock::system().read().wall;
        let created = Entry {
            happened_at: now,
            noted_at: now,
            ..entry("client.created", "billing")
        };
        assert!(db.create_client(&client("billing"), &digest, &created).await.unwrap());
        db.close().await;
        Self {
            folder,
            secret,
            hash_key: foundation.hash_key,
        }
    }

    fn serve(&self, format: &str, filter: &str) -> Serving {
        let url = format!("sqlite:{}", self.folder.path().join("keyround.db").display());
        let variables = [
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
            ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
            ("KEYROUND_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
            ("KEYROUND_DATABASE__URL", url.as_str()),
            ("KEYROUND_KEYS__MASTER_KEY", MASTER_KEY),
            ("KEYROUND_LOG__FORMAT", format),
            ("KEYROUND_LOG__FILTER", filter),
        ];
        Serving::start(self.folder.path(), &variables, &["serve"])
    }

    /// The private halves in the forms in which they could leak: pieces of PKCS#8 DER, raw, in base64 and in hexadecimal.
    async fn private_halves(&self) -> Vec<Vec<u8>> {
        let url = format!("sqlite:{}", self.folder.path().join("keyround.db").display());
        let db = connect(&url.parse().unwrap()).await.unwrap();
        let master_key = master_key();
        let mut pieces = Vec::new();
        for row in db.signing_keys().await.unwrap().rows {
            let sealed = row.sealed.unwrap();
            let der = master_key.open(&binding(&row.key.kid, row.key.alg), &sealed).unwrap();
            // The front of a P-256 key is the same in all of them; its private number stands in the middle. In an RSA key the
            // front holds the public modulus, and the back the primes.
            let range = if der.len() < 300 {
                36..68
            } else {
                der.len() - 96..der.len()
            };
            let private = der[range].to_vec();
            let hexadecimal: Vec<String> = private.iter().map(|octet| format!("{octet:02x}")).collect();
            // Base64 shows the same text whenever the octets before it are a multiple of three.
            for skipped in 0..3 {
                let piece = STANDARD.encode(&private[skipped..skipped + 24]);
                pieces.push(piece.clone().into_bytes());
                pieces.push(piece.replace('+', "-").replace('/', "_").into_bytes());
            }
            pieces.extend([private[..24].to_vec(), hexadecimal.concat().into_bytes()]);
        }
        db.close().await;
        assert_eq!(pieces.len(), 16);
        pieces
    }

    /// Everything that SQLite has written.
    fn files(&self) -> Vec<u8> {
        std::fs::read_dir(self.folder.path())
            .unwrap()
            .flat_map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect()
    }
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    assert!(needle.len() >= 8);
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Requests good and bad with everything that must not be seen again; answers with all of it.
async fn drive(scene: &Scene, url: &str) -> Vec<Vec<u8>> {
    let http = reqwest::Client::new();
    let endpoint = format!("{url}/oauth2/token");
    let grant = ("grant_type", "client_credentials");
    let wrong = "canary-of-a-wrong-secret-5f1d";
    let mut canaries: Vec<String> = vec![scene.secret.clone(), wrong.to_owned(), MASTER_KEY.to_owned()];
    canaries.push(STANDARD.encode(scene.hash_key.as_bytes()));
    for (id, secret) in [
        ("billing", scene.secret.as_str()),
        ("billing", wrong),
        ("nobody", wrong),
        // People put secrets into the wrong field.
        (scene.secret.as_str(), "billing"),
        (wrong, wrong),
    ] {
        canaries.push(STANDARD.encode(format!("{id}:{secret}")));
        let request = http.post(&endpoint).basic_auth(id, Some(secret)).form(&[grant]);
        let body: Value = request.send().await.unwrap().json().await.unwrap();
        let posted = http
            .post(&endpoint)
            .form(&[grant, ("client_id", id), ("client_secret", secret)]);
        posted.send().await.unwrap();
        if let Some(token) = body["access_token"].as_str() {
            canaries.push(token.to_owned());
            canaries.extend(token.split('.').skip(1).map(str::to_owned));
            let as_bearer = http.get(format!("{url}/.well-known/jwks.json")).bearer_auth(token);
            as_bearer.send().await.unwrap();
            let in_form = http
                .post(&endpoint)
                .form(&[("token", token), ("scope", token), ("resource", token)]);
            in_form.send().await.unwrap();
        }
    }
    let in_query = format!("{endpoint}?client_secret={wrong}&access_token={wrong}");
    http.post(&in_query)
        .basic_auth("billing", Some(wrong))
        .form(&[grant])
        .send()
        .await
        .unwrap();
    http.get(format!("{url}/{wrong}"))
        .header("cookie", wrong)
        .send()
        .await
        .unwrap();
    assert!(canaries.len() >= 10);
    canaries.into_iter().map(String::into_bytes).collect()
}

/// Values that would be a line of their own, another object, or another colour.
async fn lie(scene: &Scene, url: &str) {
    let http = reqwest::Client::new();
    let endpoint = format!("{url}/oauth2/token");
    let lies = [
        format!("x\r\n2026-11-22T00:00:00Z INFO keyround::http::token: {FORGED}"),
        format!("x\n{{\"level\":\"INFO\",\"fields\":{{\"message\":\"{FORGED}\"}}}}"),
        format!("x\"}},\"message\":\"{FORGED}\",\"y\":{{\"z\":\""),
        format!("\u{1b}[2K\u{1b}[1A\u{1b}[31m{FORGED}\u{7}"),
        format!("x\u{85}\u{2028}{FORGED}\u{202e}"),
    ];
    for lie in &lies {
        for form in [
            vec![("client_id", lie.as_str()), ("client_secret", lie)],
            vec![
                ("client_id", "billing"),
                ("client_secret", scene.secret.as_str()),
                ("scope", lie),
            ],
            vec![
                ("client_id", "billing"),
                ("client_secret", scene.secret.as_str()),
                ("resource", lie),
            ],
            vec![("kid", lie.as_str()), ("jti", lie), ("sub", lie)],
        ] {
            let mut form = form;
            form.push(("grant_type", "client_credentials"));
            assert!(
                http.post(&endpoint)
                    .form(&form)
                    .send()
                    .await
                    .unwrap()
                    .status()
                    .is_client_error()
            );
        }
        let grant = http.post(&endpoint).form(&[("grant_type", lie.as_str())]);
        assert!(
            grant
                .basic_auth(lie, Some(lie))
                .send()
                .await
                .unwrap()
                .status()
                .is_client_error()
        );
        // What HTTP lets into a header: no line ends, but the rest.
        let octets: Vec<u8> = lie.bytes().filter(|octet| *octet >= 0x20 && *octet != 0x7f).collect();
        let request = http.post(&endpoint).header("user-agent", octets.as_slice());
        let request = request
            .header("x-forwarded-for", octets.as_slice())
            .header("referer", octets.as_slice());
        assert!(
            request
                .form(&[("a", "b")])
                .send()
                .await
                .unwrap()
                .status()
                .is_client_error()
        );
        let path: String = url::form_urlencoded::byte_serialize(lie.as_bytes()).collect();
        assert_eq!(http.get(format!("{url}/{path}")).send().await.unwrap().status(), 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_ever_written() {
    let scene = Scene::new().await;
    let mut canaries = Vec::new();
    let mut written = Vec::new();
    for (format, filter) in [("text", "info"), ("json", "info"), ("json", "debug"), ("text", "trace")] {
        let serving = scene.serve(format, filter);
        // Of the libraries' own traces none is promised, but ours must keep quiet at every level.
        canaries.extend(drive(&scene, &serving.url).await);
        let (status, log, printed) = serving.stop();
        assert!(status.success());
        let log = if filter == "trace" {
            log.into_iter().filter(|line| line.contains(" keyround::")).collect()
        } else {
            log
        };
        assert!(
            log.iter().any(|line| line.contains("a token was granted")),
            "{format} {filter}"
        );
        written.extend([log.join("\n").into_bytes(), printed.into_bytes()]);
    }
    written.push(scene.files());
    canaries.extend(scene.private_halves().await);
    for (index, canary) in canaries.iter().enumerate() {
        let found = written.iter().position(|text| holds(text, canary));
        assert_eq!(found, None, "canary {index}: {}", String::from_utf8_lossy(canary));
    }
    assert!(!holds(&written.concat(), b"PRIVATE KEY"));
    // The search itself can see: what may be there is found.
    assert!(holds(&written.concat(), b"client.id=billing"));
    assert!(holds(&scene.files(), b"client.created"));
}

/// Grants and refusals in JSON: time in UTC, who, from where, what came of it, and why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_and_refusals_say_who_whence_and_why() {
    let scene = Scene::new().await;
    let serving = scene.serve("json", "info");
    let http = reqwest::Client::new();
    let endpoint = format!("{}/oauth2/token", serving.url);
    let grant = ("grant_type", "client_credentials");
    let mut tokens = Vec::new();
    for (id, secret, form, forwarded) in [
        ("billing", scene.secret.as_str(), vec![grant], "198.51.100.1"),
        ("billing", "wrong", vec![grant], "203.0.113.9, 198.51.100.2"),
        ("nobody", "wrong", vec![grant], "not an address"),
        ("billing", scene.secret.as_str(), vec![grant, ("scope", "admin")], ""),
    ] {
        let request = http.post(&endpoint).basic_auth(id, Some(secret)).form(&form);
        let answer = request.header("x-forwarded-for", forwarded).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        tokens.extend(answer["access_token"].as_str().map(str::to_owned));
    }
    let [token] = tokens.as_slice() else {
        panic!("{tokens:?}")
    };
    let (_, log, _) = serving.stop();
    let events: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let about_tokens: Vec<&Value> = events
        .iter()
        .filter(|event| event["target"].as_str().unwrap().starts_with("keyround::http::"))
        .collect();
    let seen: Vec<(&str, Option<&str>, &str, Option<&str>)> = about_tokens
        .iter()
        .map(|event| {
            let fields = &event["fields"];
            let text = |name: &str| fields[name].as_str();
            (
                text("message").unwrap(),
                text("client.id"),
                text("client.ip").unwrap(),
                text("reason"),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("a token was granted", Some("billing"), "198.51.100.1", None),
            (
                "a token was refused",
                Some("billing"),
                "198.51.100.2",
                Some("invalid_client")
            ),
            // A name that is nobody's may be anything, a secret too: it is not written.
            (
                "a token was refused",
                None,
                "unreadable:-BIaqxPVTEanRQh1",
                Some("invalid_client")
            ),
            (
                "a token was refused",
                Some("billing"),
                "127.0.0.1",
                Some("invalid_scope")
            ),
        ]
    );
    for event in about_tokens {
        let timestamp = event["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z') && timestamp.len() >= 20, "{timestamp}");
        if event["fields"]["message"] == "a token was granted" {
            let names: BTreeSet<&str> = event["fields"]
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            let expected = [
                "message",
                "client.id",
                "client.ip",
                "key.alg",
                "key.kid",
                "token.jti",
                "token.expires_in",
            ];
            assert_eq!(names, expected.into());
            assert_eq!(event["fields"]["key.kid"], crate::token::header(token)["kid"]);
            assert_eq!(event["fields"]["token.jti"], crate::token::claims(token)["jti"]);
        }
    }
    assert!(
        events
            .iter()
            .any(|event| event["fields"]["message"] == "a key is published")
    );
}

/// As many lines as there were events, and none of them a liar's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_forges_a_line() {
    let scene = Scene::new().await;
    for (format, filter) in [
        ("json", "info"),
        ("json", "debug"),
        ("text", "info"),
        ("text", "info,keyround=trace"),
    ] {
        let serving = scene.serve(format, filter);
        lie(&scene, &serving.url).await;
        let (status, log, _) = serving.stop();
        assert!(status.success());
        assert!(log.iter().filter(|line| line.contains("a token was refused")).count() >= 25);
        for line in &log {
            assert!(
                !line
                    .chars()
                    .any(|character| character.is_control() && character != '\t'),
                "{line:?}"
            );
            assert!(!line.contains(FORGED), "{line}");
            if format == "json" {
                let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
                assert!(event["fields"].is_object(), "{line}");
                assert!(event["level"].is_string() && event["timestamp"].is_string());
            } else {
                // A line of text begins with its time.
                assert!(line.starts_with("20") && line.as_bytes()[10] == b'T', "{line}");
            }
        }
    }
}

/// A stranger's word about addresses counts for nothing; see also `http::client_address`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_trusted_proxy_names_the_client() {
    let scene = Scene::new().await;
    let url = format!("sqlite:{}", scene.folder.path().join("keyround.db").display());
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__TRUSTED_PROXIES", "10.0.0.0/8"),
        ("KEYROUND_DATABASE__URL", url.as_str()),
        ("KEYROUND_KEYS__MASTER_KEY", MASTER_KEY),
    ];
    let mut serving = Serving::start(Path::new(scene.folder.path()), &variables, &["serve"]);
    let http = reqwest::Client::new();
    for header in ["x-forwarded-for", "forwarded", "x-real-ip", "true-client-ip"] {
        let request = http.post(format!("{}/oauth2/token", serving.url)).form(&[("a", "b")]);
        request.header(header, "198.51.100.1").send().await.unwrap();
        let line = serving.wait_for("a token was refused");
        assert!(
            line.contains("client.ip=127.0.0.1 ") && !line.contains("198.51.100.1"),
            "{line}"
        );
    }
    serving.stop();
}

/// A proxy that names its clients wrongly makes all of them share a limit, or makes strangers: the operator learns it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_does_wrong_is_told_once() {
    for (trusted, header, told) in [
        (
            "127.0.0.0/8",
            Some("[2001:db8::1"),
            "by a text that is not an IP address",
        ),
        ("127.0.0.0/8", None, "without X-Forwarded-For"),
        (
            "10.0.0.0/8",
            Some("198.51.100.1"),
            "a peer that server.trusted_proxies does not list",
        ),
    ] {
        let scene = Scene::new().await;
        let url = format!("sqlite:{}", scene.folder.path().join("keyround.db").display());
        let variables = [
            ("KEYROUND_SERVER__ISSUER", "https://id.example.com"),
            ("KEYROUND_SERVER__BEHIND_TLS_PROXY", "true"),
            ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
            ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
            ("KEYROUND_SERVER__TRUSTED_PROXIES", trusted),
            ("KEYROUND_DATABASE__URL", url.as_str()),
            ("KEYROUND_KEYS__MASTER_KEY", MASTER_KEY),
        ];
        let mut serving = Serving::start(Path::new(scene.folder.path()), &variables, &["serve"]);
        let http = reqwest::Client::new();
        for _ in 0..3 {
            let mut request = http.post(format!("{}/oauth2/token", serving.url)).form(&[("a", "b")]);
            if let Some(header) = header {
                request = request.header("x-forwarded-for", header);
            }
            request.send().await.unwrap();
            serving.wait_for("a token was refused");
        }
        let (_, log, _) = serving.stop();
        let lines: Vec<_> = log.iter().filter(|line| line.contains(told)).collect();
        assert!(lines.len() == 1 && lines[0].contains("WARN"), "{told}: {log:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_not_in_order_is_told_once_at_the_start() {
    let scene = Scene::new().await;
    let in_folder = |name: &str| scene.folder.path().join(name).display().to_string();
    let url = format!("sqlite:{}", in_folder("keyround.db"));
    let exposed = in_folder("exposed");
    std::fs::write(&exposed, "").unwrap();
    std::fs::set_permissions(&exposed, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    for (ledger, why) in [
        ("/proc/keyround/revoked-kids", "cannot be written"),
        (&*exposed, "may be written by others (mode 0666)"),
    ] {
        let variables = [
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
            ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
            ("KEYROUND_DATABASE__URL", url.as_str()),
            ("KEYROUND_KEYS__MASTER_KEY", MASTER_KEY),
            ("KEYROUND_KEYS__LEDGER_FILE", ledger),
        ];
        let (_, log, _) = Serving::start(Path::new(scene.folder.path()), &variables, &["serve"]).stop();
        let told = "the ledger of revoked keys is not in order";
        let lines: Vec<_> = log.iter().filter(|line| line.contains(told)).collect();
        assert!(
            lines.len() == 1 && lines[0].contains("ERROR") && lines[0].contains(why),
            "{log:#?}"
        );
    }
}
