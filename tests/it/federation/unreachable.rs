//! A provider or a client's key set that cannot be fetched: each cause has its own words, with the setting that is the cure.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use openssl::ssl::SslAcceptor;
use serde_json::Value;

use super::secret_file;
use crate::client_assertions::keyround;
use crate::helpers::TestDatabase;
use crate::rows::Raw;
use crate::tls::Authority;

/// Serves each connection by this function, in a thread that ends with the test's process.
fn serve(address: &str, mut each: impl FnMut(std::net::TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            each(stream);
        }
    });
    port
}

/// A TLS server that answers every request with this text.
fn serve_tls(address: &str, acceptor: SslAcceptor, answer: &'static str) -> u16 {
    serve(address, move |stream| {
        if let Ok(mut stream) = acceptor.accept(stream) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    })
}

fn acceptor(authority: &Authority, days: i32) -> SslAcceptor {
    let mut acceptor = authority.acceptor();
    let (certificate, key) = authority.pair(7, days);
    acceptor
        .set_certificate(&openssl::x509::X509::from_pem(certificate.as_bytes()).unwrap())
        .unwrap();
    acceptor
        .set_private_key(&openssl::pkey::PKey::private_key_from_pem(key.as_bytes()).unwrap())
        .unwrap();
    acceptor.build()
}

#[test]
fn each_cause_has_its_own_words_and_its_cure() {
    let database = TestDatabase::sqlite();
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (authority, stranger) = (Authority::new(own.path()), Authority::new(other.path()));
    let nothing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // The kernel takes the connection; nobody speaks.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let good = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let untrusted = "outbound.ca_file";
    let cases = [
        (
            format!("https://127.0.0.1:{nothing}"),
            "refused the connection: nothing listens",
        ),
        (
            format!("https://localhost:{nothing}"),
            "refused the connection: nothing listens",
        ),
        (
            format!("https://127.0.0.1:{silent_port}"),
            "no connection to its host was made within 2 seconds",
        ),
        ("https://10.1.2.3".to_owned(), "name it in outbound.allowed_networks"),
        (
            format!(
                "https://localhost:{}",
                serve_tls("127.0.0.1:0", acceptor(&stranger, 30), good)
            ),
            untrusted,
        ),
        (
            format!(
                "https://127.0.0.2:{}",
                serve_tls("127.0.0.2:0", acceptor(&authority, 30), good)
            ),
            "its certificate is for another host name",
        ),
        (
            format!(
                "https://localhost:{}",
                serve_tls("127.0.0.1:0", acceptor(&authority, -1), good)
            ),
            "its certificate has expired",
        ),
        (
            format!(
                "https://localhost:{}",
                serve("127.0.0.1:0", |mut stream| {
                    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                    let _ = stream.read(&mut [0; 4096]);
                })
            ),
            "does not speak TLS on this port",
        ),
        (
            format!("https://localhost:{}", serve("127.0.0.1:0", drop)),
            "does not speak TLS on this port",
        ),
        (
            format!(
                "https://localhost:{}",
                serve_tls("127.0.0.1:0", acceptor(&authority, 30), "SSH-2.0-x\r\n")
            ),
            "its answer broke off, or is not HTTP",
        ),
        (
            format!(
                "https://localhost:{}",
                serve_tls("127.0.0.1:0", acceptor(&authority, 30), good)
            ),
            "a status that is not 200",
        ),
    ];
    let secret = secret_file(&database);
    let ca = format!("outbound.ca_file={}", authority.0.join("ca.pem").display());
    let run = |arguments: &[&str]| {
        let outbound = ["--set", &ca, "--set", "outbound.allowed_networks=127.0.0.0/8,::1"];
        keyround(&database, &[&outbound[..], arguments].concat())
    };
    for (index, (url, words)) in cases.iter().enumerate() {
        let name = format!("p{index}");
        let create = ["providers", "create", &name, "--issuer", url, "--client-id", "a"];
        let (code, out, err) = run(&[&create[..], &["--client-secret-file", secret.to_str().unwrap()]].concat());
        assert!(code == 0 && out.contains(words), "{url}: {out}{err}");
        let (code, out, err) = run(&["providers", "check", &name]);
        assert!(
            code == 1 && out.contains(words) && err.contains("nobody can log in with"),
            "{url}: {out}{err}"
        );
        // No other cause is named.
        let named = cases
            .iter()
            .filter(|(_, other)| out.contains(other))
            .map(|(_, other)| other);
        assert!(named.clone().all(|other| other == words), "{url}: {out}");
        // The same for the key set of a client, which is registered all the same: its host may not run yet.
        let id = format!("c{index}");
        let create = [
            "clients",
            "create",
            "--id",
            &id,
            "--grant",
            "client_credentials",
            "--audience",
            "api",
        ];
        let (code, out, err) = run(&[&create[..], &["--jwks-uri", url]].concat());
        assert!(
            code == 0 && out.contains("Note: ") && out.contains(words),
            "{url}: {out}{err}"
        );
    }
    // A name that no resolver has to be asked for is not registered any more; it is known from before.
    let unresolved = "cannot be resolved by DNS";
    let issuer = format!("https://{}.example", "a".repeat(64));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let raw = Raw::open(&database).await;
        raw.execute(&format!(
            "UPDATE identity_providers SET issuer = '{issuer}' WHERE provider = 'p0'"
        ))
        .await;
        raw.close().await;
    });
    let (code, out, err) = run(&["providers", "check", "p0"]);
    assert!(
        code == 1 && out.contains(unresolved) && err.contains("nobody can log in with"),
        "{out}{err}"
    );
    assert!(cases.iter().all(|(_, words)| !out.contains(words)), "{out}");
    let jwks = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{jwks}",
        jwks.len()
    );
    let port = serve_tls("127.0.0.1:0", acceptor(&authority, 30), answer.leak());
    let url = format!("https://localhost:{port}/jwks");
    for command in ["set-keys", "update"] {
        let (code, out, err) = run(&["clients", command, "c0", "--jwks-uri", &url, "--json", "--yes"]);
        let shown: Value = serde_json::from_str(&out).unwrap_or_default();
        assert!(
            code == 0 && shown["warning"].is_null() && shown["client_id"] == "c0",
            "{out}{err}"
        );
    }
    let (_, out, _) = run(&["clients", "set-keys", "c0", "--jwks-uri", "https://10.1.2.3", "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert!(
        shown["warning"].as_str().unwrap().contains("outbound.allowed_networks"),
        "{out}"
    );
}

/// An issuer that is not the one in the metadata is told with both, and not registered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_differs_is_told_with_both_values() {
    let upstream = super::crooked::Upstream::start();
    let database = TestDatabase::sqlite();
    let secret = secret_file(&database);
    let ca = format!("outbound.ca_file={}", upstream.ca_file.display());
    let outbound = ["--set", &ca, "--set", "outbound.allowed_networks=127.0.0.0/8,::1"];
    let run =
        |arguments: &[&str]| tokio::task::block_in_place(|| keyround(&database, &[&outbound[..], arguments].concat()));
    let create = |issuer: &str| {
        let create = ["providers", "create", "acme", "--issuer", issuer, "--client-id", "a"];
        run(&[&create[..], &["--client-secret-file", secret.to_str().unwrap()]].concat())
    };
    let issuer = upstream.issuer.as_str();
    let with_slash = format!("{issuer}/");
    let (code, out, err) = create(&with_slash);
    let both = format!("names the issuer '{issuer}', but {with_slash} was configured");
    assert!(code == 1 && out.is_empty() && err.contains(&both), "{err}");
    assert!(err.contains("give what it names as --issuer"), "{err}");
    // Its keys are elsewhere, in a network that is not everybody's.
    let mut metadata = upstream.metadata();
    metadata["jwks_uri"] = "https://10.1.2.3/jwks".into();
    upstream.reply("/.well-known/openid-configuration", metadata);
    let (code, out, err) = create(issuer);
    assert!(
        code == 0 && out.contains("no person can log in with it yet"),
        "{out}{err}"
    );
    assert!(out.contains("name it in outbound.allowed_networks"), "{out}");
    let (code, out, _) = run(&["providers", "check", "acme"]);
    assert!(
        code == 1 && out.contains("name it in outbound.allowed_networks"),
        "{out}"
    );
    assert_eq!(run(&["providers", "delete", "acme", "--yes"]).0, 0);
    upstream.reply("/.well-known/openid-configuration", upstream.metadata());
    let (code, out, _) = create(issuer);
    assert!(code == 0 && !out.contains("Note"), "{out}");
    // It changes its name later.
    let mut metadata = upstream.metadata();
    metadata["issuer"] = "https://renamed.example".into();
    upstream.reply("/.well-known/openid-configuration", metadata);
    let (code, out, _) = run(&["providers", "check"]);
    let both = format!("names the issuer 'https://renamed.example', but {issuer} was configured");
    assert!(code == 1 && out.contains(&both), "{out}");
    // Its scope can be changed meanwhile, and the note tells.
    let (code, out, _) = run(&["providers", "update", "acme", "--scope", "openid"]);
    assert!(code == 0 && out.contains(&both), "{out}");
}
