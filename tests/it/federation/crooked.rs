//! An upstream of our own for the days that no honest provider has: whatever it is asked, it answers what the test wants.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use keyround::clock::{UnixTime, sleep};
use keyround::jose::alg::Algorithm;
use serde_json::{Value, json};
use url::Url;

use super::{Browser, Site, parameter};
use crate::client_assertions::Pair;
use crate::helpers::TestDatabase;
use crate::tls::Authority;

/// What is answered.
#[derive(Clone)]
pub enum Reply {
    /// 200 with this text.
    Text(String),
    /// This status with a JSON object.
    Status(u16),
    /// Another address.
    Redirect,
    /// Nothing for a minute.
    Never,
}

impl From<Value> for Reply {
    fn from(json: Value) -> Self {
        Self::Text(json.to_string())
    }
}

type Replies = web::Data<Mutex<BTreeMap<String, Reply>>>;

/// The upstream.
pub struct Upstream {
    pub issuer: String,
    pub ca_file: PathBuf,
    /// What it signs with.
    pub pair: Pair,
    /// What it publishes nowhere.
    pub other: Pair,
    replies: Replies,
    handle: actix_web::dev::ServerHandle,
    _folder: tempfile::TempDir,
}

async fn answer(replies: Replies, request: HttpRequest) -> HttpResponse {
    let reply = replies.lock().unwrap().get(request.path()).cloned();
    match reply {
        Some(Reply::Text(text)) => HttpResponse::Ok().body(text),
        Some(Reply::Status(status)) => HttpResponse::build(status.try_into().unwrap()).json(json!({ "id_token": "x" })),
        Some(Reply::Redirect) => HttpResponse::Found().insert_header(("Location", "/other")).finish(),
        Some(Reply::Never) => {
            sleep(Duration::from_mins(1)).await;
            HttpResponse::Ok().finish()
        }
        None => HttpResponse::NotFound().finish(),
    }
}

impl Upstream {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let replies: Replies = web::Data::new(Mutex::default());
        let data = replies.clone();
        let server = HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(answer)))
            .workers(1)
            .shutdown_timeout(0)
            .disable_signals()
            .bind_openssl("127.0.0.1:0", authority.acceptor())
            .unwrap();
        let issuer = format!("https://localhost:{}", server.addrs()[0].port());
        let running = server.run();
        let handle = running.handle();
        tokio::spawn(running);
        let upstream = Self {
            issuer,
            ca_file: authority.0.join("ca.pem"),
            pair: Pair::new(Algorithm::Es256, "kid"),
            other: Pair::new(Algorithm::Es256, "kid"),
            replies,
            handle,
            _folder: folder,
        };
        upstream.behave();
        upstream
    }

    pub fn reply(&self, path: &str, reply: impl Into<Reply>) {
        self.replies.lock().unwrap().insert(path.to_owned(), reply.into());
    }

    /// What an honest provider says of itself.
    pub fn metadata(&self) -> Value {
        let issuer = &self.issuer;
        json!({
            "issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"),
            "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
            "userinfo_endpoint": format!("{issuer}/userinfo"), "authorization_response_iss_parameter_supported": true,
        })
    }

    /// Honest metadata and keys.
    pub fn behave(&self) {
        self.reply("/.well-known/openid-configuration", self.metadata());
        self.reply(
            "/jwks",
            Reply::Text(format!(r#"{{"keys":[{}]}}"#, self.pair.jwk.to_json())),
        );
    }

    /// A site of its own, which has not met the upstream yet.
    pub async fn site(&self) -> Site {
        Site::new(TestDatabase::sqlite(), &self.ca_file, &self.issuer, &[]).await
    }

    pub fn browser(&self) -> Browser {
        Browser::new(&self.ca_file, None)
    }

    /// The claims of an honest answer to this question.
    pub fn claims(&self, site: &Site, question: &Url) -> Value {
        self.claims_at(site.now().wall, question)
    }

    /// The same, at this time.
    pub fn claims_at(&self, UnixTime(now): UnixTime, question: &Url) -> Value {
        json!({
            "iss": self.issuer, "sub": "ada", "aud": "keyround", "iat": now, "exp": now + 300,
            "nonce": parameter(question, "nonce"), "email": "ada@example.com", "email_verified": true,
        })
    }

    /// The answer to a code.
    pub fn hand_out(&self, id_token: &str) {
        self.reply(
            "/token",
            json!({ "access_token": "a", "token_type": "Bearer", "id_token": id_token }),
        );
    }

    /// Where an honest provider sends the browser back to.
    pub fn callback(&self, question: &Url) -> Url {
        let mut url: Url = parameter(question, "redirect_uri").parse().unwrap();
        url.query_pairs_mut().extend_pairs([
            ("code", "code"),
            ("state", &parameter(question, "state")),
            ("iss", &self.issuer),
        ]);
        url
    }

    pub async fn stop(self) {
        self.handle.stop(false).await;
    }
}
