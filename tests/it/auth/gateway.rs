//! A real nginx in front of a service, by the shipped configuration: a logout is felt at the next request.

use std::net::TcpListener;
use std::path::Path;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use keyround::clock::sleep;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use crate::deployment::{Nginx, self_signed, start_nginx_with, text};
use crate::helpers::TestDatabase;
use crate::process::free_port;

use super::visitor::Site;

/// What the shipped gateways ask for.
const SETTINGS: [(&str, &str); 2] = [
    ("accounts.audience", "https://api.example.com"),
    ("forward_auth.policies", "api audience=https://api.example.com"),
];

/// A service that answers with the headers that reached it.
pub fn start_service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = |request: HttpRequest| async move {
        let headers: serde_json::Map<String, Value> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
            .collect();
        HttpResponse::Ok().json(headers)
    };
    let server = HttpServer::new(move || App::new().default_service(web::to(echo)))
        .workers(1)
        .disable_signals()
        .listen(listener)
        .unwrap();
    tokio::spawn(server.run());
    port
}

/// nginx as it is shipped, in front of that service and this server, on this port.
pub fn start(folder: &Path, port: u16, keyround: &str, service: u16, more: &str) -> Nginx {
    let (key, certificate) = self_signed(folder);
    let site = text("nginx/forward-auth.conf");
    for shipped in [
        "server 127.0.0.1:3000;",
        "listen 443 ssl;",
        "proxy_pass http://keyround/auth/verify/api;",
        "/etc/nginx/keyround/fullchain.pem",
    ] {
        assert!(site.contains(shipped), "{shipped}");
    }
    let site = site
        .replace("server 127.0.0.1:3000;", &format!("server 127.0.0.1:{service};"))
        .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port} ssl;\n{more}"))
        .replace("/etc/nginx/keyround/fullchain.pem", &certificate)
        .replace("/etc/nginx/keyround/privkey.pem", &key);
    let upstream = format!(
        "upstream keyround {{ server {}; keepalive 32; }}\n",
        keyround.trim_start_matches("http://")
    );
    start_nginx_with(folder, &format!("{upstream}{site}"))
}

/// A client that takes any certificate, once nginx listens.
async fn client(url: &str) -> Client {
    let client = Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    for _ in 0..600 {
        if client.get(url).send().await.is_ok() {
            return client;
        }
        sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("nginx does not listen");
}

crate::on_both_databases!(a_logout_is_felt_behind_nginx_at_the_next_request, |database| {
    let site = Site::start(database, &SETTINGS).await;
    let service = start_service();
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _nginx = start(folder.path(), port, &site.app.url, service, "");
    let url = format!("https://127.0.0.1:{port}/orders?audience=x&access_token=");
    let client = client(&url).await;
    let mut ada = site.person("ada").await;
    let mut elsewhere = site.visitor();
    elsewhere.log_in("ada").await;
    site.raw.execute("UPDATE users SET roles = 'reader'").await;
    elsewhere.refresh().await;
    let ask = async |token: Option<&str>, method: Method| -> Response {
        let request = client
            .request(method, &url)
            .body("a body that is nobody else's business")
            .header("X-Auth-Subject", "root")
            .header("X-Auth-Roles", "admin")
            .header("X-Auth-Scope", "everything");
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap()
    };
    let nobody = ask(None, Method::GET).await;
    assert_eq!(nobody.status(), 401);
    assert_eq!(nobody.headers()["www-authenticate"], r#"Bearer realm="keyround""#);
    assert_eq!(ask(Some("garbage"), Method::GET).await.status(), 401);
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let answer = ask(Some(&ada.access_token), method).await;
        assert_eq!(answer.status(), 200);
        let seen: Value = answer.json().await.unwrap();
        let claims = crate::token::claims(&ada.access_token);
        assert_eq!(seen["x-auth-subject"], claims["sub"]);
        assert_eq!(seen["x-auth-session"], ada.sid.as_str());
        assert_eq!(seen["x-auth-tenant"], "default");
        assert_eq!(seen["x-auth-client"], "first-party");
        // What a visitor claims to be reaches nobody, and neither does the token.
        for absent in ["x-auth-roles", "x-auth-scope", "authorization"] {
            assert!(seen.get(absent).is_none(), "{seen}");
        }
    }
    let seen: Value = ask(Some(&elsewhere.access_token), Method::GET)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(seen["x-auth-roles"], "reader");

    assert_eq!(ada.post("/auth/logout", None).await.status(), 204);
    let after = ask(Some(&ada.access_token), Method::GET).await;
    assert_eq!(after.status(), 401);
    let challenge = after.headers()["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains(r#"error_description="The session has ended""#),
        "{challenge}"
    );
    assert_eq!(ask(Some(&elsewhere.access_token), Method::GET).await.status(), 200);
    site.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_passes_when_keyround_is_away() {
    let site = Site::start(TestDatabase::sqlite(), &SETTINGS).await;
    let service = start_service();
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _nginx = start(folder.path(), port, &site.app.url, service, "");
    let url = format!("https://127.0.0.1:{port}/");
    let client = client(&url).await;
    let ada = site.person("ada").await;
    let token = ada.access_token.clone();
    assert_eq!(client.get(&url).bearer_auth(&token).send().await.unwrap().status(), 200);
    site.stop().await;
    assert_eq!(client.get(&url).bearer_auth(&token).send().await.unwrap().status(), 500);
}
