//! The world of these tests: clients that people log in with, and browsers that are led through a login.

use keyround::clock::UnixTime;
use keyround::jose::jwk::sha256_base64url;
use keyround::oauth::client::{Client, ClientKind, Consent, Grant, Party};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use crate::auth::visitor::{PASSWORD, Site, Visitor, email};
use crate::helpers::{answered, entry};

/// Where logins lead back to.
pub const CALLBACK: &str = "https://app.example.com/callback";
/// Where logouts lead back to.
pub const AFTER_LOGOUT: &str = "https://app.example.com/bye?from=keyround";
/// The secret of every request here.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// A client that people log in with: public, and the operator's own.
pub fn own(id: &str) -> Client {
    Client {
        kind: ClientKind::Public,
        party: Party::First {
            since: UnixTime(7),
            consent: Consent::None,
        },
        redirect_uris: vec![CALLBACK.parse().unwrap()],
        post_logout_redirect_uris: vec![AFTER_LOGOUT.parse().unwrap()],
        grants: vec![Grant::AuthorizationCode],
        scope: "openid profile email offline_access".parse().unwrap(),
        audiences: vec!["http://127.0.0.1:8080/oauth2/userinfo".parse().unwrap()],
        // PostgreSQL's clock is real, and a grant from before its client is refused.
        created_at: UnixTime(7),
        ..crate::token::client(id)
    }
}

/// The same of another party.
pub fn third(id: &str) -> Client {
    Client {
        party: Party::Third,
        ..own(id)
    }
}

/// Registers it.
pub async fn register(site: &Site, client: &Client) {
    let created = site
        .app
        .running
        .server
        .db
        .create_client(client, "", &entry("client.created", client.id.as_str()))
        .await;
    assert!(created.unwrap());
}

/// A request for a login, with these members besides; of two the later counts.
pub fn query(client: &str, more: &[(&str, &str)]) -> String {
    let challenge = sha256_base64url(VERIFIER.as_bytes());
    let mut members = vec![
        ("client_id", client),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid email"),
        ("state", "its state"),
        ("nonce", "its nonce"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    members.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    members.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(members)
        .finish()
}

/// A browser is led here.
pub async fn visit(visitor: &mut Visitor<'_>, query: &str) -> Response {
    let answer = answered(visitor.with_cookies(Method::GET, &format!("/oauth2/authorize?{query}"))).await;
    visitor.keep(answer.headers());
    answer
}

/// The value of a hidden field of a page.
pub fn hidden(page: &str, name: &str) -> String {
    let start = format!("<input type=\"hidden\" name=\"{name}\" value=\"");
    let rest = page
        .split(&start)
        .nth(1)
        .unwrap_or_else(|| panic!("no {name} in {page}"));
    unescaped(rest.split('"').next().unwrap())
}

fn unescaped(text: &str) -> String {
    [
        ("&#38;", "&"),
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#34;", "\""),
        ("&#39;", "'"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escaped, character)| {
        text.replace(escaped, character)
    })
}

/// Sends the form of a page, with these fields besides.
pub async fn send(visitor: &mut Visitor<'_>, path: &str, page: &str, fields: &[(&str, &str)]) -> Response {
    let (resume, token) = (hidden(page, "continue"), hidden(page, "form_token"));
    let mut form = vec![("continue", resume.as_str()), ("form_token", token.as_str())];
    form.extend(fields);
    // As a browser sends it from a page whose policy is same-origin.
    let request = visitor
        .with_cookies(Method::POST, path)
        .header("Origin", "http://127.0.0.1:8080")
        .header("Sec-Fetch-Site", "same-origin")
        .form(&form);
    let answer = answered(request).await;
    visitor.keep(answer.headers());
    answer
}

/// Logs in on this page.
pub async fn log_in(visitor: &mut Visitor<'_>, page: &str, name: &str) -> Response {
    let fields = [("email", email(name)), ("password", PASSWORD.to_owned())];
    let fields = fields.each_ref().map(|(field, value)| (*field, value.as_str()));
    send(visitor, "/oauth2/authorize/login", page, &fields).await
}

/// Where a page leads on.
pub fn leads_to(page: &str) -> String {
    let rest = page
        .split("content=\"0; url=")
        .nth(1)
        .unwrap_or_else(|| panic!("leads nowhere: {page}"));
    unescaped(rest.split('"').next().unwrap())
}

/// The members of the answer that a redirect brings to the client.
pub fn answer_at(location: &str) -> Value {
    let rest = location.strip_prefix(CALLBACK).unwrap_or_else(|| panic!("{location}"));
    let pairs = url::form_urlencoded::parse(rest.trim_start_matches('?').as_bytes());
    pairs
        .map(|(name, value)| (name.into_owned(), Value::from(value.into_owned())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The members of the answer that goes back to the client at once.
pub fn answer_of(response: &Response) -> Value {
    assert_eq!(response.status(), StatusCode::SEE_OTHER, "a redirect to the client");
    answer_at(response.headers()["location"].to_str().unwrap())
}

/// A person who has logged in on a page of this request, and the code that the client got.
pub async fn log_in_at(visitor: &mut Visitor<'_>, name: &str, asked: &str) -> String {
    let page = visit(visitor, asked).await.text().await.unwrap();
    let done = log_in(visitor, &page, name).await;
    assert_eq!(done.status(), 200);
    let next = leads_to(&done.text().await.unwrap());
    let answer = answer_of(&visit(visitor, next.split_once('?').unwrap().1).await);
    answer["code"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// Redeems a code as a public client; these fields replace the usual ones, and an empty one is left out.
pub async fn redeem(site: &Site, client: &str, code: &str, more: &[(&str, &str)]) -> (u16, Value) {
    let mut form = vec![
        ("grant_type", "authorization_code"),
        ("client_id", client),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    form.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    form.extend(more.iter().filter(|(_, value)| !value.is_empty()));
    ask(site, &form).await
}

/// What the token endpoint says to this form.
pub async fn ask(site: &Site, form: &[(&str, &str)]) -> (u16, Value) {
    let request = site.app.http.post(format!("{}/oauth2/token", site.app.url)).form(form);
    let answer = answered(request).await;
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// What the userinfo endpoint says to this token.
pub async fn userinfo(site: &Site, token: &str) -> (u16, Value) {
    let request = site
        .app
        .http
        .get(format!("{}/oauth2/userinfo", site.app.url))
        .bearer_auth(token);
    let answer = answered(request).await;
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// What a public client gets for the refresh token among these.
pub async fn refresh(site: &Site, client: &str, tokens: &Value) -> (u16, Value) {
    let token = tokens["refresh_token"]
        .as_str()
        .unwrap_or_else(|| panic!("no refresh token: {tokens}"));
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", client),
        ("refresh_token", token),
    ];
    ask(site, &form).await
}
