//! Clients that publish their keys (`jwks_uri`), at a real server with TLS whose answers the test changes.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use keyround::clock::{Clock, Seconds, sleep};
use keyround::config::OutboundSettings as Settings;
use keyround::jose::alg::Algorithm;
use keyround::outbound::key_sets::{COOLDOWN, FRESH, LONGEST, NoKeys, RemoteKeySets};
use keyround::outbound::{FetchError, Outbound};
use serde_json::{Value, json};

use crate::auth::visitor::Site;
use crate::client_assertions::{Pair, keyround, present, refused};
use crate::helpers::{TestApp, TestDatabase};
use crate::process::free_port;
use crate::tls::Authority;
use crate::token::{client, register};

/// What is answered.
enum Reply {
    Text(String),
    /// Under this `Content-Encoding`; 406 when it was not asked for.
    Encoded(&'static str, Vec<u8>),
    Redirect,
    Status(u16),
    Never,
}

struct State {
    reply: Mutex<Reply>,
    asked: AtomicUsize,
}

/// A client's own server.
struct Publisher {
    port: u16,
    ca_file: std::path::PathBuf,
    state: web::Data<State>,
    _folder: tempfile::TempDir,
    handle: actix_web::dev::ServerHandle,
}

async fn answer(state: web::Data<State>, request: HttpRequest) -> HttpResponse {
    state.asked.fetch_add(1, Ordering::SeqCst);
    let never = {
        match &*state.reply.lock().unwrap() {
            Reply::Text(text) => return HttpResponse::Ok().body(text.clone()),
            Reply::Encoded(encoding, body) => {
                let accepted = request.headers().get("accept-encoding").unwrap().to_str().unwrap();
                if ["gzip", "deflate"].contains(encoding) && !accepted.split(", ").any(|name| name == *encoding) {
                    return HttpResponse::NotAcceptable().finish();
                }
                let mut answer = HttpResponse::Ok();
                answer.insert_header(("Content-Encoding", *encoding));
                return answer.body(body.clone());
            }
            Reply::Redirect => return HttpResponse::Found().insert_header(("Location", "/other")).finish(),
            Reply::Status(status) => {
                return HttpResponse::build((*status).try_into().unwrap()).body(set(&[]));
            }
            Reply::Never => Duration::from_mins(1),
        }
    };
    sleep(never).await;
    HttpResponse::Ok().finish()
}

fn set(pairs: &[&Pair]) -> String {
    let keys: Vec<String> = pairs.iter().map(|pair| pair.jwk.to_json()).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

impl Publisher {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let state = web::Data::new(State {
            reply: Mutex::new(Reply::Text(set(&[]))),
            asked: AtomicUsize::new(0),
        });
        let data = state.clone();
        let server = HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(answer)))
            .workers(1)
            .disable_signals()
            .bind_openssl("127.0.0.1:0", authority.acceptor())
            .unwrap();
        let port = server.addrs()[0].port();
        let running = server.run();
        let handle = running.handle();
        tokio::spawn(running);
        Self {
            port,
            ca_file: authority.0.join("ca.pem"),
            state,
            _folder: folder,
            handle,
        }
    }

    fn reply(&self, reply: Reply) {
        *self.state.reply.lock().unwrap() = reply;
    }

    fn publish(&self, pairs: &[&Pair]) {
        self.reply(Reply::Text(set(pairs)));
    }

    fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    fn uri(&self) -> String {
        format!("https://localhost:{}/jwks.json", self.port)
    }

    fn settings(&self) -> Settings {
        Settings {
            allowed_networks: ["127.0.0.0/8", "::1"].map(|network| network.parse().unwrap()).to_vec(),
            ca_file: Some(self.ca_file.clone()),
        }
    }

    fn sets(&self) -> RemoteKeySets {
        RemoteKeySets::new(Outbound::new(&self.settings()).unwrap())
    }
}

// The rules of the token endpoint for a client that publishes its keys: on two nodes, and none of its own changes is noticed.
crate::on_both_databases!(
    a_client_publishes_its_keys_and_changes_them_without_a_lapse,
    |database| {
        let publisher = Publisher::new();
        let ca_file = publisher.ca_file.to_str().unwrap();
        let settings = [
            ("outbound.ca_file", ca_file),
            ("outbound.allowed_networks", "127.0.0.0/8,::1"),
        ];
        let app = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
        let other = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
        let (first, second) = (
            Pair::new(Algorithm::Es256, "first"),
            Pair::new(Algorithm::Rs256, "second"),
        );
        let uri = publisher.uri();
        let create = [
            "clients",
            "create",
            "--id",
            "billing",
            "--grant",
            "client_credentials",
            "--audience",
        ];
        let source = ["https://api.example.com", "--jwks-uri", &uri, "--json"];
        let (code, created, err) = keyround(&database, &[create.as_slice(), source.as_slice()].concat());
        assert_eq!(code, 0, "{err}");
        let created: Value = serde_json::from_str(&created).unwrap();
        assert_eq!((&created["jwks_uri"], &created["keys"]), (&json!(uri), &json!([])));

        publisher.publish(&[&first]);
        for node in [&app, &other] {
            for _ in 0..3 {
                let assertion = first.assertion(node, |_, _| {});
                let (status, body) = present(node, &assertion).await;
                assert_eq!(status, 200, "{body}");
            }
            refused(
                node,
                &first.assertion(node, |header, _| header["kid"] = "none".into()),
                "its kid and alg",
            )
            .await;
        }
        publisher.publish(&[&first, &second]);
        sleep(COOLDOWN).await;
        for pair in [&second, &first, &second] {
            for node in [&app, &other] {
                let (status, body) = present(node, &pair.assertion(node, |_, _| {})).await;
                assert_eq!(status, 200, "{body}");
            }
        }

        let (code, _, err) = keyround(&database, &["clients", "rotate-secret", "billing"]);
        assert!(code == 1 && err.contains("has no secret"), "{err}");
        let (_, shown, _) = keyround(&database, &["clients", "show", "billing"]);
        assert!(shown.contains(&format!("those at {uri}")), "{shown}");
        // With keys of its own the published ones count no more, and the other way round.
        let file = database.folder.path().join("jwks.json");
        std::fs::write(&file, set(&[&first])).unwrap();
        let set_keys = |source: &[&str]| {
            let (code, _, err) = keyround(&database, &[&["clients", "set-keys", "billing"], source].concat());
            assert_eq!(code, 0, "{err}");
        };
        set_keys(&["--jwks-file", file.to_str().unwrap()]);
        refused(&app, &second.assertion(&app, |_, _| {}), "its kid and alg").await;
        set_keys(&["--jwks-uri", &uri]);
        assert_eq!(present(&app, &second.assertion(&app, |_, _| {})).await.0, 200);
        // Why a set cannot be had would tell strangers where a client is.
        let nowhere = format!("https://localhost:{}/jwks.json", free_port());
        set_keys(&["--jwks-uri", &nowhere]);
        let (status, body) = present(&app, &second.assertion(&app, |_, _| {})).await;
        let description = body["error_description"].as_str().unwrap();
        assert!(
            status == 401 && description.contains("are not available"),
            "{status} {body}"
        );
        assert!(!body.to_string().contains("localhost"), "{body}");
        app.running.stop().await;
        other.running.stop().await;
        publisher.handle.stop(false).await;
    }
);

/// Whoever knows a client's id can make the server ask its host for keys; a host that hangs holds up nobody who does not need them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_that_hangs_holds_up_nobody_else() {
    let publisher = Publisher::new();
    let ca_file = publisher.ca_file.to_str().unwrap().to_owned();
    let settings = [
        ("outbound.ca_file", ca_file.as_str()),
        ("outbound.allowed_networks", "127.0.0.0/8,::1"),
    ];
    let site = Site::start(TestDatabase::sqlite(), &settings).await;
    let app = &site.app;
    let (own, unknown) = (
        Pair::new(Algorithm::Es256, "own"),
        Pair::new(Algorithm::Es256, "unknown"),
    );
    publisher.publish(&[&own]);
    let uri = publisher.uri();
    let create = ["clients", "create", "--id", "billing", "--grant", "client_credentials"];
    let more = ["--audience", "https://api.example.com", "--jwks-uri", &uri];
    let (code, _, err) = keyround(&site.database, &[&create[..], &more].concat());
    assert_eq!(code, 0, "{err}");
    let secret = register(app, &client("other")).await;
    let mut ada = site.person("ada").await;
    assert_eq!(present(app, &own.assertion(app, |_, _| {})).await.0, 200);

    publisher.reply(Reply::Never);
    // While its keys are fresh, and once they are to be renewed.
    for passes in [Seconds(2), Seconds(360)] {
        app.pass(passes, Seconds(5)).await;
        let forged: Vec<String> = (0..40).map(|_| unknown.assertion(app, |_, _| {})).collect();
        let asked = publisher.asked();
        let is_over = AtomicBool::new(false);
        let clock = Clock::system();
        let strangers = async {
            let answers = join_all(forged.iter().map(|assertion| present(app, assertion))).await;
            is_over.store(true, Ordering::SeqCst);
            answers
        };
        let others = async {
            while publisher.asked() == asked {
                sleep(Duration::from_millis(5)).await;
            }
            let began = clock.read().monotonic;
            let answered = |what: &str| {
                let took = clock.read().monotonic.saturating_sub(began);
                println!("{what} is answered {took:?} after the fetch began");
                assert!(!is_over.load(Ordering::SeqCst), "{what} waited for the host");
            };
            assert_eq!(present(app, &own.assertion(app, |_, _| {})).await.0, 200);
            answered("its own assertion");
            app.token("other", &secret).await;
            answered("another client");
            ada.refresh().await;
            answered("a person");
            app.key_set().await;
            answered("the key set");
        };
        let (strangers, ()) = tokio::join!(strangers, others);
        assert!(strangers.iter().all(|(status, _)| *status == 401));
        assert_eq!(publisher.asked(), asked + 1, "one fetch for all of them");
    }
    site.stop().await;
    publisher.handle.stop(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_is_kept_as_long_as_it_says_and_asked_for_seldom() {
    let publisher = Publisher::new();
    let sets = publisher.sets();
    let uri = publisher.uri().parse().unwrap();
    let (old, new) = (Pair::new(Algorithm::Es256, "old"), Pair::new(Algorithm::Es256, "new"));
    let kids = async |at: Duration, kid: &str| {
        let fits = |keys: &[keyround::jose::jwk::PublicJwk]| keys.iter().any(|key| key.kid.as_str() == kid);
        let keys = sets.keys(&uri, at, fits).await?;
        Ok(keys.iter().map(|key| key.kid.to_string()).collect::<Vec<_>>())
    };
    publisher.publish(&[&old]);
    assert_eq!(kids(Duration::ZERO, "old").await, Ok(vec!["old".to_owned()]));
    assert_eq!(
        kids(FRESH.saturating_sub(COOLDOWN), "old").await,
        Ok(vec!["old".to_owned()])
    );
    assert_eq!(publisher.asked(), 1);

    // A flood of names that nobody has, from many at once. The pause before it counts from the end of an attempt, which takes real time.
    let flood = (0..200).map(|number: u32| {
        let kids = &kids;
        async move {
            kids(
                30 * COOLDOWN + Duration::from_millis(number.into()),
                &number.to_string(),
            )
            .await
        }
    });
    for answer in join_all(flood).await {
        assert_eq!(answer, Ok(vec!["old".to_owned()]));
    }
    assert_eq!(publisher.asked(), 2, "each unknown name is fetched for");

    // A new key is there when it is needed; an old one goes when the set is renewed.
    let start = 100 * COOLDOWN;
    publisher.publish(&[&new]);
    assert_eq!(kids(start, "old").await, Ok(vec!["old".to_owned()]));
    assert_eq!(kids(start, "new").await, Ok(vec!["new".to_owned()]));
    assert_eq!(
        kids((start + FRESH).saturating_sub(COOLDOWN), "new").await,
        Ok(vec!["new".to_owned()])
    );
    assert_eq!(publisher.asked(), 3);

    // While it fails, what is known is used, but not for ever.
    for broken in [
        Reply::Status(500),
        Reply::Text("{}".to_owned()),
        Reply::Text("<html>".to_owned()),
    ] {
        publisher.reply(broken);
        assert_eq!(kids(start + FRESH + COOLDOWN, "new").await, Ok(vec!["new".to_owned()]));
    }
    assert_eq!(
        kids((start + LONGEST).saturating_sub(COOLDOWN), "new").await,
        Ok(vec!["new".to_owned()])
    );
    assert_eq!(kids(start + LONGEST, "new").await, Err(NoKeys::NoKeySet));
    publisher.publish(&[&new]);
    assert_eq!(
        kids(start + LONGEST + 30 * COOLDOWN, "new").await,
        Ok(vec!["new".to_owned()])
    );
    publisher.handle.stop(false).await;
}

/// All answers, asked for at once.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(Box::pin).collect();
    let mut answers = Vec::new();
    std::future::poll_fn(|context| {
        waiting.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(answer) => {
                answers.push(answer);
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_short_and_quick_document_behind_a_good_certificate_is_read() {
    let publisher = Publisher::new();
    let outbound = Outbound::new(&publisher.settings()).unwrap();
    let url = publisher.uri().parse().unwrap();
    let full = "x".repeat(64 * 1024);
    publisher.reply(Reply::Text(full.clone()));
    assert_eq!(outbound.document(&url).await.map(|text| text.len()), Ok(64 * 1024));
    for (reply, refusal) in [
        (Reply::Text(full + "x"), FetchError::TooLong),
        (Reply::Redirect, FetchError::Status),
        (Reply::Status(404), FetchError::Status),
        (Reply::Status(204), FetchError::Status),
        (Reply::Never, FetchError::TooSlow),
    ] {
        publisher.reply(reply);
        let asked = publisher.asked();
        assert_eq!(outbound.document(&url).await, Err(refusal));
        assert_eq!(publisher.asked(), asked + 1, "a redirect was followed");
    }
    publisher.publish(&[]);
    let plain = format!("http://localhost:{}/", publisher.port).parse().unwrap();
    assert_eq!(outbound.document(&plain).await, Err(FetchError::Unreachable));
    let asked = publisher.asked();
    let without_authority = Settings {
        ca_file: None,
        ..publisher.settings()
    };
    let outbound = Outbound::new(&without_authority).unwrap();
    assert_eq!(outbound.document(&url).await, Err(FetchError::UntrustedCertificate));
    assert_eq!(publisher.asked(), asked);
    publisher.handle.stop(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_key_set_is_read_within_the_same_bound() {
    let publisher = Publisher::new();
    let pair = Pair::new(Algorithm::Es256, "my key");
    let gzip = |body: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let zlib = |body: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let keys = set(&[&pair]);
    let uri = publisher.uri().parse().unwrap();
    for (encoding, body) in [
        ("gzip", gzip(keys.as_bytes())),
        ("x-gzip", gzip(keys.as_bytes())),
        ("deflate", zlib(keys.as_bytes())),
        ("identity", keys.clone().into_bytes()),
    ] {
        publisher.reply(Reply::Encoded(encoding, body));
        let found = publisher.sets().keys(&uri, Duration::ZERO, |_| true).await;
        assert_eq!(
            found.map(|keys| keys[0].kid.as_str().to_owned()),
            Ok("my key".to_owned()),
            "{encoding}"
        );
    }
    // A byte order mark would hide the first certificate.
    let authority = std::fs::read(&publisher.ca_file).unwrap();
    std::fs::write(&publisher.ca_file, [b"\xef\xbb\xbf", &*authority].concat()).unwrap();
    let outbound = Outbound::new(&publisher.settings()).unwrap();
    let url = publisher.uri().parse().unwrap();
    publisher.reply(Reply::Text("x".to_owned()));
    assert_eq!(outbound.document(&url).await, Ok(b"x".to_vec()));
    for (encoding, body, refusal) in [
        // 64 MiB in 64 KiB.
        ("gzip", gzip(&vec![b' '; 64 << 20]), FetchError::TooLong),
        ("gzip", gzip(&vec![b' '; (64 << 10) + 1]), FetchError::TooLong),
        ("gzip", gzip(&vec![b' '; 256 << 20]), FetchError::TooLong),
        ("gzip", keys.clone().into_bytes(), FetchError::Encoding),
        ("br", keys.clone().into_bytes(), FetchError::Encoding),
        ("gzip, gzip", gzip(&gzip(keys.as_bytes())), FetchError::Encoding),
    ] {
        publisher.reply(Reply::Encoded(encoding, body));
        assert_eq!(outbound.document(&url).await, Err(refusal), "{encoding}");
    }
    publisher.handle.stop(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_made_to_an_address_that_is_not_everybodys() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let nothing_allowed = Settings {
        allowed_networks: Vec::new(),
        ca_file: None,
    };
    let outbound = Outbound::new(&nothing_allowed).unwrap();
    for host in [
        "localhost",
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "10.0.0.1",
    ] {
        let url = format!("https://{host}:{port}/").parse().unwrap();
        assert_eq!(
            outbound.document(&url).await,
            Err(FetchError::AddressNotAllowed),
            "{host}"
        );
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // The listener would have seen it.
    let allowed = Settings {
        allowed_networks: vec!["127.0.0.1".parse().unwrap()],
        ca_file: None,
    };
    let url = format!("https://127.0.0.1:{port}/").parse().unwrap();
    let outbound = Outbound::new(&allowed).unwrap();
    let fetch = tokio::spawn(async move { outbound.document(&url).await });
    while listener.accept().is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(fetch.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_right_is_refused_at_registration() {
    let database = TestDatabase::sqlite();
    for (uri, words) in [
        ("http://billing.example.com/jwks.json", "is an https URL"),
        ("https://user@billing.example.com/", "is an https URL"),
        ("billing", "is an https URL"),
    ] {
        let create = ["clients", "create", "--grant", "client_credentials", "--audience"];
        let source = ["https://api.example.com", "--jwks-uri", uri];
        let (code, _, err) = keyround(&database, &[create.as_slice(), source.as_slice()].concat());
        assert!(code == 2 && err.contains(words), "{code} {err}");
    }
    let both = ["--jwks-uri", "https://billing.example.com/", "--jwks-file", "x"];
    for sources in [&both[..], &[]] {
        let (code, _, err) = keyround(&database, &[&["clients", "set-keys", "billing"], sources].concat());
        assert!(code == 2 && err.contains("--jwks-"), "{code} {err}");
    }
    let wrong = Settings {
        allowed_networks: Vec::new(),
        ca_file: Some("Cargo.toml".into()),
    };
    let refusal = Outbound::new(&wrong).err().unwrap().to_string();
    assert_eq!(refusal, "outbound.ca_file Cargo.toml holds no certificate in PEM");
}
