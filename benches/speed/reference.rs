//! What the server is held against: handlers that contain no code of ours, on the same framework.
//!
//! The token handler does all that a token endpoint cannot do without, but the signature: it parses the same form, finds
//! the client in a map, compares the SHA-256 of its secret, writes the claims and the reply. The key set handler answers
//! with the bytes that it was given, the empty handler with none.

#![expect(
    clippy::disallowed_methods,
    reason = "a token says when it was issued, and this clock is no part of ours"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use openssl::memcmp;
use openssl::sha::sha256;
use serde::{Deserialize, Serialize};

/// What a client may have.
#[derive(Clone)]
struct Client {
    secret: [u8; 32],
    scope: String,
    audience: String,
    encoded_header: String,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Form {
    grant_type: String,
    scope: Option<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    client_id: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
    scope: &'a str,
}

#[derive(Serialize)]
struct Reply<'a> {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    scope: &'a str,
}

struct Reference {
    clients: HashMap<String, Client>,
    document: Document,
}

/// An answer as it was taken from a server: its headers but those that the framework writes, and its body.
#[derive(Clone, Deserialize, Serialize)]
pub struct Document {
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What the handlers are told about their clients.
#[derive(Deserialize, Serialize)]
pub struct Setup {
    /// The name, the secret and the algorithm of each.
    pub clients: Vec<(String, String, String)>,
    /// The answer with the key set.
    pub document: Document,
}

async fn token(reference: web::Data<Reference>, request: HttpRequest, form: web::Form<Form>) -> HttpResponse {
    let Some((id, client)) = authenticate(&reference.clients, &request) else {
        return HttpResponse::Unauthorized().finish();
    };
    let may = form.scope.as_ref().is_none_or(|scope| *scope == client.scope);
    if form.grant_type != "client_credentials" || !may {
        return HttpResponse::BadRequest().finish();
    }
    let iat = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = Claims {
        iss: "http://127.0.0.1:8080",
        sub: id,
        aud: &client.audience,
        client_id: id,
        iat,
        exp: iat + 600,
        jti: URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()),
        scope: &client.scope,
    };
    let mut access_token = client.encoded_header.clone();
    access_token.push('.');
    URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(&claims).unwrap(), &mut access_token);
    access_token.push('.');
    URL_SAFE_NO_PAD.encode_string(&client.signature, &mut access_token);
    HttpResponse::Ok()
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("Pragma", "no-cache"))
        .json(Reply {
            access_token,
            token_type: "Bearer",
            expires_in: 600,
            scope: &client.scope,
        })
}

fn authenticate<'a>(clients: &'a HashMap<String, Client>, request: &HttpRequest) -> Option<(&'a str, &'a Client)> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let decoded = STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let (id, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    let (id, client) = clients.get_key_value(id)?;
    memcmp::eq(&sha256(secret.as_bytes()), &client.secret).then_some((id, client))
}

/// Serves what this file says until it is killed; prints where.
pub fn serve(setup: &Path) {
    let setup: Setup = serde_json::from_slice(&std::fs::read(setup).unwrap()).unwrap();
    let clients = setup.clients.into_iter().map(|(id, secret, algorithm)| {
        let signature = if algorithm == "RS256" { 256 } else { 64 };
        let header = format!(r#"{{"alg":"{algorithm}","typ":"at+jwt","kid":"{}"}}"#, "k".repeat(43));
        let client = Client {
            secret: sha256(secret.as_bytes()),
            scope: "read".to_owned(),
            audience: "https://api.example.com".to_owned(),
            encoded_header: URL_SAFE_NO_PAD.encode(header),
            signature: vec![7; signature],
        };
        (id, client)
    });
    let reference = web::Data::new(Reference {
        clients: clients.collect(),
        document: setup.document,
    });
    let answer = {
        let document = reference.document.clone();
        let body = web::Bytes::from(document.body);
        let headers: Vec<(HeaderName, HeaderValue)> = document
            .headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        move || {
            let (headers, body) = (headers.clone(), body.clone());
            async move {
                let mut answer = HttpResponse::Ok();
                for header in headers {
                    answer.insert_header(header);
                }
                answer.body(body)
            }
        }
    };
    let server = HttpServer::new(move || {
        App::new()
            .app_data(reference.clone())
            .route("/token", web::post().to(token))
            .route("/key-set", web::get().to(answer.clone()))
            .default_service(web::to(|_: web::Bytes| async { HttpResponse::Ok().finish() }))
    })
    .bind("127.0.0.1:0")
    .unwrap();
    let address: SocketAddr = server.addrs()[0];
    println!("{address}");
    actix_web::rt::System::new().block_on(server.run()).unwrap();
}
