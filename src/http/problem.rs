//! Refusals below `/auth`: `problem+json` (RFC 9457) with a `code` that programs may rely on. One table names them all.

use std::borrow::Cow;
use std::fmt;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};

use crate::clock::Seconds;
use crate::store::outage;
use crate::telemetry::Request;

/// What would be right in place of a compressed body.
pub const NOT_COMPRESSED: &str = "send the body as it is, without Content-Encoding: compressed bodies are not accepted";

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the table says what each one means")]
pub enum Code {
    InvalidRequest,
    InvalidEmail,
    InvalidName,
    PasswordRefused,
    TokenMissing,
    TokenExpired,
    TokenInvalid,
    SessionEnded,
    InsufficientScope,
    LoginFailed,
    RefreshMissing,
    RefreshInvalid,
    RefreshExpired,
    RefreshReused,
    AccountSuspended,
    CsrfFailed,
    CrossSite,
    CurrentPasswordWrong,
    RegistrationClosed,
    FederationDenied,
    EmailNotVerified,
    StateInvalid,
    ProviderUnknown,
    PolicyUnknown,
    NotFound,
    MethodNotAllowed,
    BodyTimeout,
    HeadTimeout,
    EmailTaken,
    AccountExists,
    BodyTooLarge,
    AddressTooLong,
    UnsupportedMediaType,
    RateLimited,
    HeadersTooLarge,
    FederationFailed,
    ProviderUnavailable,
    TemporarilyUnavailable,
}

/// A row of the table.
struct Row {
    name: &'static str,
    status: StatusCode,
    title: &'static str,
    remedy: &'static str,
}

const fn row(name: &'static str, status: StatusCode, title: &'static str, remedy: &'static str) -> Row {
    Row {
        name,
        status,
        title,
        remedy,
    }
}

impl Code {
    /// Every code, by status.
    pub const ALL: [Self; 38] = [
        Self::InvalidRequest,
        Self::InvalidEmail,
        Self::InvalidName,
        Self::PasswordRefused,
        Self::StateInvalid,
        Self::TokenMissing,
        Self::TokenExpired,
        Self::TokenInvalid,
        Self::SessionEnded,
        Self::LoginFailed,
        Self::RefreshMissing,
        Self::RefreshInvalid,
        Self::RefreshExpired,
        Self::RefreshReused,
        Self::InsufficientScope,
        Self::AccountSuspended,
        Self::CsrfFailed,
        Self::CrossSite,
        Self::CurrentPasswordWrong,
        Self::RegistrationClosed,
        Self::FederationDenied,
        Self::EmailNotVerified,
        Self::ProviderUnknown,
        Self::PolicyUnknown,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::HeadTimeout,
        Self::EmailTaken,
        Self::AccountExists,
        Self::BodyTooLarge,
        Self::AddressTooLong,
        Self::UnsupportedMediaType,
        Self::RateLimited,
        Self::HeadersTooLarge,
        Self::FederationFailed,
        Self::ProviderUnavailable,
        Self::TemporarilyUnavailable,
    ];

    /// The one table: name, status, what it means, and what to do about it.
    #[rustfmt::skip]
    const fn row(self) -> Row {
        use StatusCode as S;
        match self {
            Self::InvalidRequest => row("invalid_request", S::BAD_REQUEST, "The request is malformed", "fix the request; `detail` says how"),
            Self::InvalidEmail => row("invalid_email", S::BAD_REQUEST, "This is no e-mail address", "let the user correct it"),
            Self::InvalidName => row("invalid_name", S::BAD_REQUEST, "This is no name", "let the user correct it"),
            Self::PasswordRefused => row("password_refused", S::BAD_REQUEST, "The new password does not do", "show `detail`, and let the user choose another"),
            Self::StateInvalid => row("state_invalid", S::BAD_REQUEST, "The login with another provider was begun in another browser, took too long, or was used already", "send the user to `/auth/federated/{provider}` again"),
            Self::TokenMissing => row("token_missing", S::UNAUTHORIZED, "There is no access token", "send `Authorization: Bearer TOKEN`"),
            Self::TokenExpired => row("token_expired", S::UNAUTHORIZED, "The access token has expired", "refresh, then try again"),
            Self::TokenInvalid => row("token_invalid", S::UNAUTHORIZED, "The access token is not valid here", "refresh once; when that does not help, log in again"),
            Self::SessionEnded => row("session_ended", S::UNAUTHORIZED, "The session has ended", "log in again"),
            Self::LoginFailed => row("login_failed", S::UNAUTHORIZED, "The e-mail address or the password is wrong", "let the user try again; a suspended account looks the same"),
            Self::RefreshMissing => row("refresh_missing", S::UNAUTHORIZED, "There is no refresh token", "log in"),
            Self::RefreshInvalid => row("refresh_invalid", S::UNAUTHORIZED, "The refresh token is not one of ours", "log in again"),
            Self::RefreshExpired => row("refresh_expired", S::UNAUTHORIZED, "The session is over: too old, or too long unused", "log in again"),
            Self::RefreshReused => row("refresh_reused", S::UNAUTHORIZED, "A refresh token of this session was used twice, so the session was ended", "log in again, and look for a program that keeps old tokens, or a thief"),
            Self::InsufficientScope => row("insufficient_scope", S::FORBIDDEN, "The access token does not allow this", "ask for another token, or do without"),
            Self::AccountSuspended => row("account_suspended", S::FORBIDDEN, "The account or its tenant was suspended, and its sessions were ended", "tell the user whom to ask; a login fails with `login_failed` as long as it lasts"),
            Self::CsrfFailed => row("csrf_failed", S::FORBIDDEN, "The CSRF token is missing or does not fit", "ask `GET /auth/csrf` again, then try once more"),
            Self::CrossSite => row("cross_site", S::FORBIDDEN, "Pages of this origin may not do this", "list the page's origin in `accounts.allowed_origins`, and serve it from the same site"),
            Self::CurrentPasswordWrong => row("current_password_wrong", S::FORBIDDEN, "The current password is wrong", "let the user try again; the access token is valid"),
            Self::RegistrationClosed => row("registration_closed", S::FORBIDDEN, "Nobody can register here", "ask the operator for an account"),
            Self::FederationDenied => row("federation_denied", S::FORBIDDEN, "The other provider did not let the user in, or the user cancelled there", "let the user begin again"),
            Self::EmailNotVerified => row("email_not_verified", S::FORBIDDEN, "The other provider names no e-mail address that it has verified and that an account can have", "show `detail` to the user, who can verify or change the address there and begin again; when it stays so, the server's log tells the operator why"),
            Self::ProviderUnknown => row("provider_unknown", S::NOT_FOUND, "No provider of this name is enabled", "use a name that `keyround providers list` shows"),
            Self::PolicyUnknown => row("policy_unknown", S::NOT_FOUND, "A gateway asked for no policy of `forward_auth.policies`", "ask `/auth/verify/POLICY` with a name that is set there"),
            Self::NotFound => row("not_found", S::NOT_FOUND, "Nothing is here", "check the path; `GET /` below the issuer lists the paths, and `GET /auth/sessions` the sessions"),
            Self::MethodNotAllowed => row("method_not_allowed", S::METHOD_NOT_ALLOWED, "The endpoint does not know this method", "use one that `Allow` names"),
            Self::BodyTimeout => row("body_timeout", S::REQUEST_TIMEOUT, "The body took too long", "try again"),
            Self::HeadTimeout => row("head_timeout", S::REQUEST_TIMEOUT, "The head of the request took too long", "try again"),
            Self::EmailTaken => row("email_taken", S::CONFLICT, "There is an account with this e-mail address", "log in; only with `accounts.reveal_taken_email`"),
            Self::AccountExists => row("account_exists", S::CONFLICT, "The account with this e-mail address is not linked to the other provider", "let the user log in as before"),
            Self::BodyTooLarge => row("body_too_large", S::PAYLOAD_TOO_LARGE, "The body is longer than 4 KB", "send less"),
            Self::AddressTooLong => row("address_too_long", S::URI_TOO_LONG, "The path and the query are longer than 8 KiB", "send less"),
            Self::UnsupportedMediaType => row("unsupported_media_type", S::UNSUPPORTED_MEDIA_TYPE, "The body is not JSON, or it is compressed", "send `Content-Type: application/json` and no `Content-Encoding`"),
            Self::RateLimited => row("rate_limited", S::TOO_MANY_REQUESTS, "Too many attempts", "wait for `Retry-After` seconds"),
            Self::HeadersTooLarge => row("headers_too_large", S::REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are longer than `server.max_header_bytes`, or there are too many", "send less: most often the cookies of other applications are too many"),
            Self::FederationFailed => row("federation_failed", S::BAD_GATEWAY, "What the other provider answered is no proof of who the user is", "let the user begin again; when it stays so, the server's log tells the operator why"),
            Self::ProviderUnavailable => row("provider_unavailable", S::SERVICE_UNAVAILABLE, "The other provider does not answer, or not as a provider does", "wait for `Retry-After` seconds and begin again"),
            Self::TemporarilyUnavailable => row("temporarily_unavailable", S::SERVICE_UNAVAILABLE, "The server cannot do this at the moment", "wait for `Retry-After` seconds and try again"),
        }
    }

    /// Its name in answers, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The status of its answers.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.row().status
    }

    /// Whether it is about an access token, or that there is none.
    #[must_use]
    pub const fn is_about_a_bearer(self) -> bool {
        self.challenge().is_some()
    }

    /// What `WWW-Authenticate` calls it (RFC 6750 section 3.1): without a token, nothing; None where no bearer token is in
    /// question.
    const fn challenge(self) -> Option<&'static str> {
        match self {
            Self::TokenMissing => Some(""),
            Self::TokenExpired | Self::TokenInvalid | Self::SessionEnded => Some(r#", error="invalid_token""#),
            Self::InsufficientScope => Some(r#", error="insufficient_scope""#),
            _ => None,
        }
    }
}

/// The table of codes in Markdown, as it is in docs/reference/accounts.md.
#[must_use]
pub fn markdown_table() -> String {
    let rows = Code::ALL.map(|code| {
        let Row {
            name,
            status,
            title,
            remedy,
        } = code.row();
        format!("| `{name}` | {} | {title}. | {remedy} |\n", status.as_u16())
    });
    format!(
        "| code | status | what it means | what to do |\n|---|---|---|---|\n{}",
        rows.concat()
    )
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which.
    pub code: Code,
    /// What was wrong with this request, and what would be right. It holds no value that was sent; a name only if it has the form of one.
    pub detail: Cow<'static, str>,
    /// When to come again.
    pub retry_after: Option<Seconds>,
    /// The methods that would do.
    allow: Option<&'static str>,
    /// Whether the coding of the body is what is refused.
    is_about_coding: bool,
}

impl Problem {
    /// A refusal of this request.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            retry_after: (code == Code::TemporarilyUnavailable).then_some(Seconds(5)),
            allow: None,
            is_about_coding: false,
        }
    }

    /// The body is compressed (RFC 9110 section 15.5.16).
    #[must_use]
    pub fn compressed(fault: &str) -> Self {
        Self {
            is_about_coding: true,
            ..Self::new(Code::UnsupportedMediaType, format!("{fault}; {NOT_COMPRESSED}"))
        }
    }

    /// Come again so much later.
    #[must_use]
    pub fn after(self, retry_after: Seconds) -> Self {
        Self {
            retry_after: Some(Seconds(retry_after.0.max(1))),
            ..self
        }
    }

    /// Something is here, for other methods.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(Code::MethodNotAllowed, format!("use {allow}"))
        }
    }

    /// Something of ours failed, which the log tells.
    pub fn unavailable(error: &(dyn std::error::Error + 'static), what: &'static str) -> Self {
        outage::report(what, error);
        Self::new(
            Code::TemporarilyUnavailable,
            "the server cannot do this at the moment; try again in a few seconds",
        )
    }
}

impl Problem {
    /// The members of RFC 9457, and the code.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body = json!({
            "type": "about:blank",
            "title": self.code.row().title,
            "status": self.code.status().as_u16(),
            "code": self.code.name(),
            "detail": self.detail,
        });
        name_request(&mut body);
        body
    }

    /// The answer to a person whose browser was led here: a page, without anything that would have to be loaded. Nothing in it was sent, but
    /// perhaps the id of the request, which is plain.
    #[must_use]
    pub fn page(&self) -> HttpResponse<BoxBody> {
        let (title, detail) = (self.code.row().title, &self.detail);
        let id = Request::current_id().map_or_else(String::new, |id| format!(", request {id}"));
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<h1>{title}</h1>\n<p>{detail}.</p>\n<p><small>{}{id}</small></p>\n</html>\n",
            self.code.name()
        );
        let mut answer = self.error_response().set_body(BoxBody::new(page));
        let content_type = HeaderValue::from_static("text/html; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
        answer
    }
}

/// What `Allow` says of an endpoint with these methods.
#[must_use]
pub fn with_options(allow: &str) -> String {
    format!("{allow}, OPTIONS")
}

/// Adds the id of the request, by which its log lines are found.
fn name_request(problem: &mut Value) {
    if let Some(id) = Request::current_id() {
        problem["request_id"] = id.into();
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut answer = HttpResponse::build(self.code.status());
        answer.insert_header((header::CONTENT_TYPE, "application/problem+json"));
        if let Some(error) = self.code.challenge() {
            let description = if error.is_empty() {
                String::new()
            } else {
                format!(r#", error_description="{}""#, self.code.row().title)
            };
            let challenge = format!(r#"Bearer realm="keyround"{error}{description}"#);
            answer.insert_header((header::WWW_AUTHENTICATE, challenge));
        }
        if let Some(Seconds(seconds)) = self.retry_after {
            answer.insert_header((header::RETRY_AFTER, seconds));
        }
        if let Some(allow) = self.allow {
            answer.insert_header((header::ALLOW, with_options(allow)));
        }
        if self.is_about_coding {
            answer.insert_header((header::ACCEPT_ENCODING, "identity"));
        }
        answer.body(self.body().to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_a_place_in_the_list() {
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        // The last one in the order of the declaration: a new one must be listed too.
        assert_eq!(Code::TemporarilyUnavailable as usize + 1, Code::ALL.len());
    }

    #[test]
    fn a_challenge_tells_no_token_a_bad_one_and_a_weak_one_apart() {
        let challenge = |code| {
            let answer = Problem::new(code, "detail").error_response();
            let header = answer.headers().get(header::WWW_AUTHENTICATE);
            (
                answer.status().as_u16(),
                header.map(|value| value.to_str().unwrap().to_owned()),
            )
        };
        let said = |rest: &str| Some(format!(r#"Bearer realm="keyround"{rest}"#));
        assert_eq!(challenge(Code::TokenMissing), (401, said("")));
        for (code, description) in [
            (Code::TokenExpired, "The access token has expired"),
            (Code::TokenInvalid, "The access token is not valid here"),
            (Code::SessionEnded, "The session has ended"),
        ] {
            let rest = format!(r#", error="invalid_token", error_description="{description}""#);
            assert_eq!(challenge(code), (401, said(&rest)));
        }
        let rest = r#", error="insufficient_scope", error_description="The access token does not allow this""#;
        assert_eq!(challenge(Code::InsufficientScope), (403, said(rest)));
        assert_eq!(challenge(Code::RateLimited), (429, None));
    }
}
