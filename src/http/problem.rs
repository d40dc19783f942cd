//! Refusals: one type, which answers in the form of RFC 6749 section 5.2 at the endpoints for clients, and as `problem+json` (RFC 9457)
//! everywhere else.

use std::borrow::Cow;
use std::fmt;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};

use crate::clock::Seconds;
use crate::oauth::client::ClientId;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::store::outage;
use crate::telemetry::Request;

use super::codes::{Code, status_of};

/// When to try again what is not possible at the moment.
const RETRY_AFTER: Seconds = Seconds(5);

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    form: ProblemForm,
    status: StatusCode,
    /// What was wrong with this request, and what would be right. It holds no value that was sent; a name only if it has the form of one.
    pub detail: Cow<'static, str>,
    /// When to come again.
    pub retry_after: Option<Seconds>,
    /// The methods that would do.
    allow: Option<&'static str>,
    /// Whether the coding of the body is what is refused.
    is_about_coding: bool,
}

/// How a refusal is written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ProblemForm {
    /// RFC 9457, with the code.
    Details(Code),
    /// RFC 6749 section 5.2.
    Oauth {
        error: ErrorCode,
        /// Whether the client tried the Basic scheme, so that the answer carries a challenge.
        challenge: bool,
        client: Option<ClientId>,
    },
}

impl From<OauthError> for Problem {
    fn from(error: OauthError) -> Self {
        Self {
            form: ProblemForm::Oauth {
                error: error.code,
                challenge: error.challenge,
                client: None,
            },
            status: status_of(error.code),
            detail: error.description.into(),
            retry_after: (error.code == ErrorCode::TemporarilyUnavailable).then_some(RETRY_AFTER),
            allow: None,
            is_about_coding: false,
        }
    }
}

impl Problem {
    /// A refusal of this request.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            form: ProblemForm::Details(code),
            status: code.status(),
            detail: detail.into(),
            retry_after: (code == Code::TemporarilyUnavailable).then_some(RETRY_AFTER),
            allow: None,
            is_about_coding: false,
        }
    }

    /// The body is compressed (RFC 9110 section 15.5.16).
    #[must_use]
    pub fn compressed(fault: &str) -> Self {
        let detail =
            format!("{fault}; send the body as it is, without Content-Encoding: compressed bodies are not accepted");
        Self {
            is_about_coding: true,
            ..Self::new(Code::UnsupportedMediaType, detail)
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

    /// Any other method than POST at an endpoint for clients.
    #[must_use]
    pub fn only_post() -> Self {
        Self {
            detail: "this endpoint takes POST only".into(),
            ..Self::method_not_allowed("POST").in_oauth()
        }
    }

    /// Nothing is here; `instead` says where the paths are listed.
    #[must_use]
    pub fn not_found(instead: &str) -> Self {
        Self::new(Code::NotFound, format!("nothing is here; {instead}"))
    }

    /// Something of ours failed, which the log tells.
    pub fn unavailable(error: &(dyn std::error::Error + 'static), what: &'static str) -> Self {
        outage::report(what, error);
        Self::new(
            Code::TemporarilyUnavailable,
            "the server cannot do this at the moment; try again in a few seconds",
        )
    }

    /// Come again so much later.
    #[must_use]
    pub fn after(self, retry_after: Seconds) -> Self {
        Self {
            retry_after: Some(Seconds(retry_after.0.max(1))),
            ..self
        }
    }

    /// The same refusal as the endpoints for clients write it.
    #[must_use]
    pub fn in_oauth(self) -> Self {
        let form = match self.form {
            ProblemForm::Details(code) => ProblemForm::Oauth {
                error: code.in_oauth(),
                challenge: false,
                client: None,
            },
            form @ ProblemForm::Oauth { .. } => form,
        };
        Self { form, ..self }
    }

    /// The same refusal as the endpoint at this path writes it.
    #[must_use]
    pub fn at(self, path: &str) -> Self {
        if path.contains("/oauth2/") {
            self.in_oauth()
        } else {
            self
        }
    }

    /// Of this client, at an endpoint for clients.
    #[must_use]
    pub fn of(mut self, of: &ClientId) -> Self {
        if let ProblemForm::Oauth { client, .. } = &mut self.form {
            *client = Some(of.clone());
        }
        self
    }

    /// The code of a refusal as `problem+json`.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match &self.form {
            ProblemForm::Details(code) => Some(*code),
            ProblemForm::Oauth { .. } => None,
        }
    }

    /// Its name in answers, logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match &self.form {
            ProblemForm::Details(code) => code.name(),
            ProblemForm::Oauth { error, .. } => error.name(),
        }
    }

    fn title(&self) -> &'static str {
        self.code().map_or("", Code::title)
    }

    /// The registered client that a client claims to be, as far as that is known.
    #[must_use]
    pub const fn client(&self) -> Option<&ClientId> {
        match &self.form {
            ProblemForm::Details(_) => None,
            ProblemForm::Oauth { client, .. } => client.as_ref(),
        }
    }

    /// The type of [`Problem::body`].
    #[must_use]
    pub const fn content_type(&self) -> &'static str {
        match &self.form {
            ProblemForm::Details(_) => "application/problem+json",
            ProblemForm::Oauth { .. } => "application/json",
        }
    }

    /// The members of the form; in `problem+json` with the id of the request, by which its log lines are found.
    #[must_use]
    pub fn body(&self) -> Value {
        let code = match &self.form {
            ProblemForm::Details(code) => code,
            ProblemForm::Oauth { error, .. } => {
                return json!({ "error": error, "error_description": self.detail });
            }
        };
        let mut body = json!({
            "type": "about:blank",
            "title": code.title(),
            "status": self.status.as_u16(),
            "code": code.name(),
            "detail": self.detail,
        });
        if let Some(id) = Request::current_id() {
            body["request_id"] = id.into();
        }
        body
    }

    /// The answer where nothing else keeps caches from storing it.
    #[must_use]
    pub fn answer(&self) -> HttpResponse {
        let mut answer = self.error_response();
        let no_store = HeaderValue::from_static("no-store");
        answer.headers_mut().insert(header::CACHE_CONTROL, no_store);
        answer
    }

    /// The answer to a person whose browser was led here: a page, without anything that would have to be loaded. Nothing in it was sent, but
    /// perhaps the id of the request, which is plain.
    #[must_use]
    pub fn page(&self) -> HttpResponse<BoxBody> {
        let (title, detail) = (self.title(), &self.detail);
        let id = Request::current_id().map_or_else(String::new, |id| format!(", request {id}"));
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<h1>{title}</h1>\n<p>{detail}.</p>\n<p><small>{}{id}</small></p>\n</html>\n",
            self.name()
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

/// The answer to `OPTIONS` of a program that asks for the methods of an endpoint (RFC 9110 section 9.3.7).
#[must_use]
pub fn options(allow: &str) -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ALLOW, with_options(allow)))
        .finish()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut answer = HttpResponse::build(self.status);
        answer.insert_header((header::CONTENT_TYPE, self.content_type()));
        match &self.form {
            ProblemForm::Oauth { challenge, .. } => {
                answer
                    .insert_header((header::CACHE_CONTROL, "no-store"))
                    .insert_header((header::PRAGMA, "no-cache"));
                if *challenge {
                    answer.insert_header((header::WWW_AUTHENTICATE, r#"Basic realm="keyround", charset="UTF-8""#));
                }
            }
            ProblemForm::Details(code) => {
                if let Some(error) = code.challenge() {
                    let description = if error.is_empty() {
                        String::new()
                    } else {
                        format!(r#", error_description="{}""#, code.title())
                    };
                    let challenge = format!(r#"Bearer realm="keyround"{error}{description}"#);
                    answer.insert_header((header::WWW_AUTHENTICATE, challenge));
                }
            }
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
    use super::*;

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
