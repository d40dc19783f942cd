//! How close the endpoints come to their limits: `cargo bench`.
//!
//! One keep-alive connection asks one thing after another, so that every figure is a time per answer. The limit of a token
//! is an empty handler's answer plus the bare signature, measured in the same round; only the ratio carries over to
//! another machine, and the median of the rounds is what counts.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
#![expect(clippy::unwrap_used, reason = "a benchmark may end loudly")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use actix_web::{App, HttpResponse, HttpServer, web};
use base64::Engine;
use keyround::app::{Foundation, Running};
use keyround::clock::{Clock, Seconds, UnixTime};
use keyround::config::{Config, Sources};
use keyround::http::token::CLIENT_SECRET_PURPOSE;
use keyround::jose::alg::Algorithm;
use keyround::jose::jws::VerifyingKey;
use keyround::jose::key::{PrivateKey, RsaBits};
use keyround::jose::seal::{MasterKey, random_secret};
use keyround::oauth::client::{Client, Grant};
use keyround::store::audit::Entry;

const ROUNDS: usize = 9;

/// A keep-alive connection that asks the same thing again and again.
struct Connection {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
}

impl Connection {
    fn new(address: SocketAddr, request: String) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(stream),
            request: request.into_bytes(),
        }
    }

    fn ask(&mut self) {
        black_box(self.answer());
    }

    fn answer(&mut self) -> Vec<u8> {
        self.stream.get_mut().write_all(&self.request).unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        body
    }
}

/// Microseconds that one call takes, over this many.
fn microseconds(calls: usize, mut call: impl FnMut()) -> f64 {
    call();
    let started = Instant::now();
    for _ in 0..calls {
        call();
    }
    started.elapsed().as_secs_f64() * 1e6 / calls as f64
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn token_request(id: &str, secret: &str) -> String {
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}"));
    form_request("/oauth2/token", &credentials, "grant_type=client_credentials")
}

/// The request that asks about the token which this request got.
fn introspection_request(tokens: &mut Connection) -> String {
    let request = String::from_utf8(tokens.request.clone()).unwrap();
    let (_, rest) = request.split_once("Basic ").unwrap();
    let (credentials, _) = rest.split_once("\r\n").unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&tokens.answer()).unwrap();
    let body = format!("token={}", answer["access_token"].as_str().unwrap());
    form_request("/oauth2/introspect", credentials, &body)
}

fn form_request(path: &str, credentials: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {credentials}\r\nContent-Type: \
         application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn client(foundation: &Foundation, alg: Algorithm) -> String {
    let secret = random_secret().unwrap();
    let client = Client {
        id: alg.name().parse().unwrap(),
        grants: vec![Grant::ClientCredentials],
        scope: "read".parse().unwrap(),
        audiences: vec!["https://api.example.com".parse().unwrap()],
        serves: Vec::new(),
        alg: Some(alg),
        token_ttl: Some(Seconds(600)),
        created_at: UnixTime(0),
        disabled_at: None,
    };
    let entry = Entry {
        event: "client.created",
        subject: alg.name().to_owned(),
        happened_at: UnixTime(0),
        noted_at: UnixTime(0),
        actor: "benchmark".to_owned(),
        reason: "benchmark".to_owned(),
        once: false,
    };
    let digest = foundation.hash_key.digest(CLIENT_SECRET_PURPOSE, &secret);
    assert!(
        foundation
            .rotator
            .db
            .create_client(&client, &digest, &entry)
            .await
            .unwrap()
    );
    token_request(alg.name(), &secret)
}

fn empty_server() -> SocketAddr {
    let server = HttpServer::new(|| App::new().default_service(web::to(|_: web::Bytes| HttpResponse::Ok())))
        .bind("127.0.0.1:0")
        .unwrap();
    let address = server.addrs()[0];
    tokio::spawn(server.disable_signals().run());
    address
}

/// The limit of an introspection is an empty handler's answer to the same request plus one bare verification.
fn introspection(alg: Algorithm, request: &str, public: SocketAddr, empty: SocketAddr) {
    let key = PrivateKey::generate(alg, RsaBits::Bits2048).unwrap();
    let verifying = VerifyingKey::new(&key.public_jwk().unwrap()).unwrap();
    let signature = key.sign(&[7; 300]).unwrap();
    let mut empty_handler = Connection::new(empty, request.to_owned());
    let mut introspections = Connection::new(public, request.to_owned());
    let answer: serde_json::Value = serde_json::from_slice(&introspections.answer()).unwrap();
    assert_eq!(answer["active"], true);
    let (mut ratios, mut figures) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        let bare = microseconds(500, || verifying.verify(black_box(&[7; 300]), &signature).unwrap());
        let handler = microseconds(500, || empty_handler.ask());
        let introspection = microseconds(500, || introspections.ask());
        ratios.push((handler + bare) / introspection);
        for (figure, value) in figures.iter_mut().zip([bare, handler, introspection]) {
            figure.push(value);
        }
    }
    let [bare, handler, introspection] = figures.map(median);
    println!("{alg}: verification {bare:.0}, empty handler {handler:.0}, introspection {introspection:.0}");
    println!(
        "{alg} introspection to its limit (empty handler + verification): {:.2}",
        median(ratios)
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("keyround.db").display());
    let flags: BTreeMap<String, String> = [
        ("server.issuer", "http://127.0.0.1:8080"),
        ("server.listen", "127.0.0.1:0"),
        ("server.admin_listen", "127.0.0.1:0"),
        ("keys.master_key", &MasterKey::generate().unwrap().to_base64()),
        ("database.url", &database),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let config = Config::load(&Sources {
        flags,
        ..Sources::default()
    })
    .unwrap();
    let (running, requests, empty) = runtime.block_on(async {
        let foundation = Foundation::open(&config, Clock::system()).await.unwrap();
        let mut requests = Vec::new();
        for alg in Algorithm::ALL {
            requests.push((alg, client(&foundation, alg).await));
        }
        (
            Running::start(&config, foundation).await.unwrap(),
            requests,
            empty_server(),
        )
    });

    let mut empty_handler = Connection::new(empty, requests[0].1.clone());
    let mut key_set = Connection::new(
        running.public,
        "GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
    );
    let (mut key_set_ratios, mut introspections) = (Vec::new(), Vec::new());
    println!("microseconds per answer, one after another; median of {ROUNDS} rounds of ratios below");
    for (alg, request) in requests {
        let key = PrivateKey::generate(alg, RsaBits::Bits2048).unwrap();
        let mut tokens = Connection::new(running.public, request);
        introspections.push((alg, introspection_request(&mut tokens)));
        let (mut ratios, mut figures) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
        for _ in 0..ROUNDS {
            let bare = microseconds(500, || {
                black_box(key.sign(black_box(&[7; 300])).unwrap());
            });
            let handler = microseconds(500, || empty_handler.ask());
            let token = microseconds(500, || tokens.ask());
            ratios.push((handler + bare) / token);
            key_set_ratios.push(handler / microseconds(500, || key_set.ask()));
            for (figure, value) in figures.iter_mut().zip([bare, handler, token]) {
                figure.push(value);
            }
        }
        let [bare, handler, token] = figures.map(median);
        println!("{alg}: signature {bare:.0}, empty handler {handler:.0}, token {token:.0}");
        println!(
            "{alg} token to its limit (empty handler + signature): {:.2}",
            median(ratios)
        );
    }
    for (alg, request) in introspections {
        introspection(alg, &request, running.public, empty);
    }
    println!("key set to its limit (empty handler): {:.2}", median(key_set_ratios));
    runtime.block_on(running.stop());
}
