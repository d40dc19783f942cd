//! `GET /` below the issuer: what this is, for a person who opens the issuer in a browser.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::oauth::endpoints::{
    AUTHORIZATION_PATH, AUTHORIZATION_SERVER, CALLBACK_PATH, CONSENT_PATH, CONSENTS_PAGE_PATH, CONSENTS_PATH,
    CSRF_PATH, END_SESSION_PATH, FEDERATED_PATH, INTROSPECTION_PATH, KEY_SET_PATH, LOGIN_PATH, LOGOUT_ALL_PATH,
    LOGOUT_PATH, ME_PATH, OPENID_CONFIGURATION, PASSWORD_PATH, REFRESH_PATH, REGISTER_PATH, REVOCATION_PATH,
    SESSION_PATH, SESSIONS_PATH, TOKEN_PATH, USERINFO_PATH, VERIFY_PATH,
};

use super::state::Server;

/// How long caches may keep the page, in seconds.
const MAX_AGE: u32 = 300;

/// What programs ask, with the method.
const FOR_CLIENTS: [(&str, &str); 3] = [
    ("POST", TOKEN_PATH),
    ("POST", INTROSPECTION_PATH),
    ("POST", REVOCATION_PATH),
];

/// What there is only with accounts.
const FOR_PEOPLE: [(&str, &str); 18] = [
    ("GET", AUTHORIZATION_PATH),
    ("GET", USERINFO_PATH),
    ("GET", END_SESSION_PATH),
    ("POST", REGISTER_PATH),
    ("POST", LOGIN_PATH),
    ("POST", REFRESH_PATH),
    ("POST", LOGOUT_PATH),
    ("POST", LOGOUT_ALL_PATH),
    ("POST", PASSWORD_PATH),
    ("GET", ME_PATH),
    ("GET", SESSIONS_PATH),
    ("DELETE", SESSION_PATH),
    ("GET", CONSENTS_PATH),
    ("DELETE", CONSENT_PATH),
    ("GET", CONSENTS_PAGE_PATH),
    ("GET", CSRF_PATH),
    ("GET", FEDERATED_PATH),
    ("GET", CALLBACK_PATH),
];

/// The form that a caller prefers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PageForm {
    Html,
    Json,
    Text,
}

/// Says what this is and where the documents are: as HTML to browsers, as JSON to whoever asks for it, else as text. Nothing in it is
/// secret, and no version is named.
pub async fn answer(server: web::Data<Server>, request: HttpRequest) -> HttpResponse {
    let accept = request.headers().get_all(header::ACCEPT);
    let form = preferred(accept.filter_map(|value| value.to_str().ok()));
    let (content_type, body) = page(form, &server.issuer, server.has_accounts);
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, format!("public, max-age={MAX_AGE}")))
        .insert_header((header::VARY, "Accept"))
        .content_type(content_type)
        .body(body)
}

/// The first of our forms with the highest weight (RFC 9110 section 12.5.1). Text is for who names none.
fn preferred<'a>(accept: impl Iterator<Item = &'a str>) -> PageForm {
    let mut best: Option<(f32, PageForm)> = None;
    for range in accept.flat_map(|value| value.split(',')).take(32) {
        let mut parts = range.split(';').map(str::trim);
        let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "text/html" | "application/xhtml+xml" => PageForm::Html,
            "application/json" | "application/*" => PageForm::Json,
            "text/plain" | "text/*" | "*/*" => PageForm::Text,
            _ => continue,
        };
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        if weight > 0.0 && best.is_none_or(|(highest, _)| weight > highest) {
            best = Some((weight, form));
        }
    }
    best.map_or(PageForm::Text, |(_, form)| form)
}

/// Every endpoint but the documents, with its method.
fn endpoints(issuer: &str, has_accounts: bool) -> Vec<String> {
    let for_people: &[(&str, &str)] = if has_accounts { &FOR_PEOPLE } else { &[] };
    let named = FOR_CLIENTS.iter().chain(for_people);
    let mut endpoints: Vec<String> = named.map(|(method, path)| format!("{method} {issuer}{path}")).collect();
    if has_accounts {
        endpoints.push(format!("GET {issuer}{VERIFY_PATH}/{{policy}}"));
    }
    endpoints
}

/// The issuer holds no character that HTML or JSON would read as its own: its type sees to that.
fn page(form: PageForm, issuer: &str, has_accounts: bool) -> (&'static str, String) {
    const WHAT: &str = "an identity server (OAuth 2.0, JWT access tokens) whose signing keys rotate themselves";
    const DOCUMENTATION: &str = "README.md and the folder docs/ of the distribution";
    let links = [
        (
            "metadata",
            AUTHORIZATION_SERVER,
            "set up a client or a gateway (RFC 8414)",
        ),
        (
            "discovery",
            OPENID_CONFIGURATION,
            "the same for OpenID Connect libraries",
        ),
        ("key set", KEY_SET_PATH, "verify tokens"),
    ];
    let endpoints = endpoints(issuer, has_accounts);
    match form {
        PageForm::Html => {
            let listed = format!("<li><code>{}</code></li>\n", endpoints.join("</code></li>\n<li><code>"));
            let items = links
                .map(|(name, path, purpose)| format!("<li><a href=\"{issuer}{path}\">{name}</a>: {purpose}</li>\n"));
            let items = items.concat();
            let body = format!(
                "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
                 content=\"width=device-width\">\n<title>Keyround</title>\n<h1>Keyround</h1>\n<p>This is {WHAT}. It has no pages for \
                 people; programs use it.</p>\n<p>Issuer: <code>{issuer}</code></p>\n<ul>\n{items}</ul>\n<p>Endpoints:</p>\n<ul>\n{listed}</ul>\n\
                 <p>docs/reference/endpoints.md describes them. Documentation: {DOCUMENTATION}.</p>\n</html>\n"
            );
            ("text/html; charset=utf-8", body)
        }
        PageForm::Json => {
            let body = json!({
                "name": "Keyround",
                "description": format!("This is {WHAT}."),
                "issuer": issuer,
                "metadata": format!("{issuer}{AUTHORIZATION_SERVER}"),
                "discovery": format!("{issuer}{OPENID_CONFIGURATION}"),
                "jwks_uri": format!("{issuer}{KEY_SET_PATH}"),
                "token_endpoint": format!("{issuer}{TOKEN_PATH}"),
                "endpoints": endpoints,
                "documentation": DOCUMENTATION,
            });
            ("application/json", format!("{body}\n"))
        }
        PageForm::Text => {
            let rows = links.map(|(name, path, purpose)| {
                let label = format!("{name}:");
                format!("{label:<12}{issuer}{path} ({purpose})\n")
            });
            let rows = rows.concat();
            let listed = endpoints.join("\n");
            let body = format!(
                "Keyround: {WHAT}.\n\n{:<12}{issuer}\n{rows}\nEndpoints (docs/reference/endpoints.md describes them):\n{listed}\n\n\
                 Documentation: {DOCUMENTATION}.\n",
                "issuer:"
            );
            ("text/plain; charset=utf-8", body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_html_and_programs_what_they_name() {
        for (accept, form) in [
            (vec![], PageForm::Text),
            (vec!["*/*"], PageForm::Text),
            (
                vec!["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"],
                PageForm::Html,
            ),
            (vec!["application/json"], PageForm::Json),
            (vec!["application/json, text/plain, */*"], PageForm::Json),
            (vec!["text/html;q=0.1, application/json"], PageForm::Json),
            (vec!["text/html;q=0, */*;q=0.5"], PageForm::Text),
            (vec!["image/png", "TEXT/HTML; charset=utf-8; q=0.5"], PageForm::Html),
            (vec!["text/html;q=x"], PageForm::Text),
            (vec!["image/png"], PageForm::Text),
            (vec![",,;;,"], PageForm::Text),
        ] {
            assert_eq!(preferred(accept.iter().copied()), form, "{accept:?}");
        }
    }
}
