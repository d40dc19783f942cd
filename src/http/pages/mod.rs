//! The pages that people see on their way to a client: they work without JavaScript, load nothing from elsewhere, and escape whatever they show.

mod texts;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};
use askama::Template;

use crate::http::problem::Problem;
use crate::oauth::resource::RegisteredScope;
use crate::oauth::scope::Scope;
use crate::telemetry::Request;
use crate::values::LANGUAGES;

pub use texts::Texts;

/// What a page may load and do. A form may lead to this server alone; where a login leads afterwards is the page that goes on.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Its form leads to the client, and a script sends it.
const POLICY_OF_FORM_POST: &str =
    "default-src 'none'; style-src 'self'; script-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The style sheet.
pub const STYLE: &str = include_str!("style.css");
/// The script that sends an answer by `form_post`.
pub const SCRIPT: &str = include_str!("send.js");

/// Where a person logs in.
#[derive(Template)]
#[template(path = "login.html", config = "src/http/pages/askama.toml")]
pub struct LoginPage<'a> {
    /// The texts.
    pub texts: &'a Texts,
    /// The path of the issuer.
    pub base: &'a str,
    /// The name of the client.
    pub client: &'a str,
    /// Why the last attempt failed.
    pub error: Option<&'a str>,
    /// The query of the request that goes on afterwards.
    pub resume: &'a str,
    /// What proves that the form is ours.
    pub form_token: &'a str,
    /// What is in the field of the address already.
    pub email: &'a str,
    /// Whether people make accounts by themselves.
    pub may_register: bool,
}

/// Where a person makes an account.
#[derive(Template)]
#[template(path = "register.html", config = "src/http/pages/askama.toml")]
pub struct RegisterPage<'a> {
    /// The texts.
    pub texts: &'a Texts,
    /// The path of the issuer.
    pub base: &'a str,
    /// The name of the client.
    pub client: &'a str,
    /// What went wrong.
    pub error: Option<&'a str>,
    /// The query of the request that goes on afterwards.
    pub resume: &'a str,
    /// What proves that the form is ours.
    pub form_token: &'a str,
    /// The address that was written already.
    pub email: &'a str,
    /// The name that was written already.
    pub name: &'a str,
}

/// Where a person allows a client something.
#[derive(Template)]
#[template(path = "consent.html", config = "src/http/pages/askama.toml")]
pub struct ConsentPage<'a> {
    /// The texts.
    pub texts: &'a Texts,
    /// The path of the issuer.
    pub base: &'a str,
    /// The name of the client.
    pub client: &'a str,
    /// What it asks for, in words.
    pub scopes: Vec<&'a str>,
    /// Where it may do that.
    pub resource: &'a str,
    /// Where the answer goes.
    pub leads_to: &'a str,
    /// Who is logged in.
    pub email: &'a str,
    /// The query of the request that goes on afterwards.
    pub resume: &'a str,
    /// What proves that the form is ours.
    pub form_token: &'a str,
}

/// What a person allowed a client.
pub struct ShownConsent<'a> {
    /// The client.
    pub client_id: &'a str,
    /// Its name.
    pub client: &'a str,
    /// What it was allowed, in words.
    pub scopes: Vec<&'a str>,
}

/// What a person has allowed, to be taken back.
#[derive(Template)]
#[template(path = "consents.html", config = "src/http/pages/askama.toml")]
pub struct ConsentsPage<'a> {
    /// The texts.
    pub texts: &'a Texts,
    /// The path of the issuer.
    pub base: &'a str,
    /// Who is logged in.
    pub email: &'a str,
    /// What was allowed.
    pub consents: &'a [ShownConsent<'a>],
    /// What proves that a form is ours.
    pub form_token: &'a str,
}

/// What these scopes mean, in words: ours, and those that an operator registered for the resource server. One that is unknown is shown as
/// it is written.
#[must_use]
pub fn in_words<'a>(texts: &'a Texts, scope: &'a Scope, registered: &'a [RegisteredScope]) -> Vec<&'a str> {
    let of_resource = |word: &str| {
        let registered = registered.iter().find(|registered| registered.word.as_str() == word)?;
        registered.texts.best(&texts.language, LANGUAGES[0])
    };
    let in_words = |word| texts.of_scope(word).or_else(|| of_resource(word)).unwrap_or(word);
    scope.words().map(in_words).collect()
}

/// What leads on by itself, and ends the way of a form: a browser holds a redirect after a form against `form-action`.
#[derive(Template)]
#[template(path = "proceed.html", config = "src/http/pages/askama.toml")]
pub struct ProceedPage<'a> {
    /// The texts.
    pub texts: &'a Texts,
    /// The path of the issuer.
    pub base: &'a str,
    /// Where it leads.
    pub url: &'a str,
}

/// What posts an answer to a client (OAuth 2.0 Form Post Response Mode).
#[derive(Template)]
#[template(path = "form_post.html", config = "src/http/pages/askama.toml")]
pub struct FormPostPage<'a> {
    /// The texts.
    pub texts: &'a Texts,
    /// The path of the issuer.
    pub base: &'a str,
    /// The redirect URI.
    pub url: &'a str,
    /// The members of the answer.
    pub members: &'a [(&'static str, String)],
}

/// Whether the person wants to log out, where no ID token proves it.
#[derive(Template)]
#[template(path = "logout.html", config = "src/http/pages/askama.toml")]
pub struct LogoutPage<'a> {
    /// The texts.
    pub texts: &'a Texts,
    /// The path of the issuer.
    pub base: &'a str,
    /// The query of the request that goes on afterwards.
    pub resume: &'a str,
    /// What proves that the form is ours.
    pub form_token: &'a str,
}

/// The end of a login that leads nowhere else.
#[derive(Template)]
#[template(path = "logged_out.html", config = "src/http/pages/askama.toml")]
pub struct LoggedOutPage<'a> {
    /// The texts.
    pub texts: &'a Texts,
    /// The path of the issuer.
    pub base: &'a str,
}

/// Why nothing goes on.
#[derive(Template)]
#[template(path = "error.html", config = "src/http/pages/askama.toml")]
struct ErrorPage<'a> {
    texts: &'a Texts,
    base: &'a str,
    detail: &'a str,
    name: &'a str,
    request_id: Option<String>,
}

/// A page that no cache keeps.
#[must_use]
pub fn shown(page: &impl Template) -> HttpResponse {
    written(HttpResponse::Ok(), page, POLICY)
}

/// The same of the page that posts an answer.
#[must_use]
pub fn posted(page: &FormPostPage<'_>) -> HttpResponse {
    written(HttpResponse::Ok(), page, POLICY_OF_FORM_POST)
}

/// A refusal that only the person sees.
#[must_use]
pub fn refused(texts: &Texts, base: &str, status: StatusCode, name: &str, detail: &str) -> HttpResponse {
    let page = ErrorPage {
        texts,
        base,
        detail,
        name,
        request_id: Request::current_id(),
    };
    written(HttpResponse::build(status), &page, POLICY)
}

/// A refusal as a person reads it.
#[must_use]
pub fn of_problem(texts: &Texts, base: &str, problem: &Problem) -> HttpResponse {
    refused(
        texts,
        base,
        actix_web::ResponseError::status_code(problem),
        problem.name(),
        &problem.detail,
    )
}

fn written(mut answer: HttpResponseBuilder, page: &impl Template, policy: &'static str) -> HttpResponse {
    // Only a writer that fails makes a page fail, and a text does not.
    let body = page.render().unwrap_or_default();
    answer
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)))
        // With no-referrer a browser hides the origin of a form from the server that it comes back to.
        .insert_header((header::REFERRER_POLICY, "same-origin"))
        .content_type("text/html; charset=utf-8")
        .body(body)
}
