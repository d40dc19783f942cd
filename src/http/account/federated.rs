//! `GET /auth/federated/{provider}` and `/callback`: a login with another OpenID provider.
//!
//! Both change something though they are GETs, for a browser is led through them. What guards them is `state`: it counts once,
//! and only in the browser that has the cookie it was made with.

use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{HeaderValue, InvalidHeaderValue};
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError, web};
use url::form_urlencoded;

use crate::accounts::federation::ProviderName;
use crate::accounts::federation::claims::EmailDoubt;
use crate::accounts::federation::login::LOGIN_LIFETIME;
use crate::accounts::session::{EndedBy, LoginMethod};
use crate::clock::{Reading, Seconds};
use crate::http::codes::Code;
use crate::http::extract::browser::Browser;
use crate::http::extract::context::Sender;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::logins::federated::{NotLoggedIn, Returned};
use crate::sessions::CannotBegin;
use crate::store::allowance::to_the_end;
use crate::store::outage;

use super::delivery::{end_replaced, replaced, session_cookies};

/// How soon a provider that is away may be tried again.
const RETRY_AFTER: Seconds = Seconds(5);

/// Sends the browser to the provider.
pub async fn begin(
    server: web::Data<Server>,
    browser: Browser,
    sender: Sender,
    asked: FederatedRequest,
) -> HttpResponse {
    let began = try_to_begin(&server, &browser, &sender, &asked).await;
    shown(&sender, &asked, began)
}

async fn try_to_begin(
    server: &Server,
    browser: &Browser,
    sender: &Sender,
    asked: &FederatedRequest,
) -> Result<HttpResponse, FederatedRefusal> {
    let return_to = return_to(asked.query())?;
    server.charge_federated_login(sender.address).map_err(|retry_after| {
        let detail = format!("too many logins with other providers begin at this address; try again in {retry_after}");
        Problem::new(Code::RateLimited, detail).after(retry_after)
    })?;
    let kept = browser.federated_cookie()?;
    // When the provider sends the browser back, a strict cookie does not come along: the session to be ended is noted now.
    let replaces = browser.session()?;
    let begun = server
        .federated_logins
        .begin(&asked.provider, return_to.as_deref(), kept, replaces, now(server))
        .await;
    let begun = begun.map_err(|error| refused(&error))?;
    let binding = server
        .cookies
        .federated
        .set(&begun.secrets.browser, Some(LOGIN_LIFETIME))
        .map_err(|error| unwritten(&error))?;
    Ok(see_other(begun.url.as_str(), [binding]))
}

/// Takes what the provider answered, and begins a session.
pub async fn finish(
    server: web::Data<Server>,
    browser: Browser,
    sender: Sender,
    asked: FederatedRequest,
) -> HttpResponse {
    let finished = try_to_finish(&server, &browser, &sender, &asked).await;
    shown(&sender, &asked, finished)
}

/// What a browser asks for on its way to a provider and back.
pub struct FederatedRequest {
    provider: String,
    request: HttpRequest,
}

impl FromRequest for FederatedRequest {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let provider = web::Path::<String>::from_request(request, payload).into_inner();
        ready(provider.map(|provider| Self {
            provider: provider.into_inner(),
            request: request.clone(),
        }))
    }
}

impl FederatedRequest {
    fn query(&self) -> &str {
        self.request.query_string()
    }

    /// A person who is led here by a browser reads a page; a program reads JSON.
    fn reads_pages(&self) -> bool {
        let accept = self.request.headers().get(header::ACCEPT);
        accept.is_some_and(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")))
    }
}

/// A login that is refused.
struct FederatedRefusal {
    /// What people are told.
    problem: Problem,
    /// What the operator needs to know beside that; it holds nothing that was sent.
    reason: Option<String>,
    /// Who can do something about it.
    whose: Whose,
}

/// Who can do something about a refusal.
enum Whose {
    /// The person, or the program that asked.
    Person,
    /// The operator, here or at the provider.
    Operator,
    /// What failed is reported where it is noticed.
    Reported,
}

impl From<Problem> for FederatedRefusal {
    fn from(problem: Problem) -> Self {
        let whose = match problem.code() {
            Some(Code::TemporarilyUnavailable) => Whose::Reported,
            _ => Whose::Person,
        };
        Self {
            problem,
            reason: None,
            whose,
        }
    }
}

fn shown(sender: &Sender, asked: &FederatedRequest, answer: Result<HttpResponse, FederatedRefusal>) -> HttpResponse {
    answer.unwrap_or_else(|refusal| {
        log(sender, asked, &refusal);
        let problem = refusal.problem;
        if asked.reads_pages() {
            problem.page()
        } else {
            problem.error_response()
        }
    })
}

/// One line for each login that is refused, as for one with a password.
fn log(sender: &Sender, asked: &FederatedRequest, refusal: &FederatedRefusal) {
    // The path may hold any text; a name that no provider can have is not repeated.
    let provider = asked.provider.parse::<ProviderName>();
    let provider = provider.as_ref().map_or("", ProviderName::as_str);
    let outcome = refusal.problem.name();
    let reason = refusal.reason.as_deref().unwrap_or(&refusal.problem.detail);
    let address = sender.address;
    match refusal.whose {
        Whose::Person => {
            tracing::info!(provider, client.ip = %address, outcome, reason, "a login with a provider was refused");
        }
        Whose::Operator => {
            tracing::warn!(provider, client.ip = %address, outcome, reason, "a login with a provider failed");
        }
        Whose::Reported => {}
    }
}

async fn try_to_finish(
    server: &Server,
    browser: &Browser,
    sender: &Sender,
    asked: &FederatedRequest,
) -> Result<HttpResponse, FederatedRefusal> {
    let returned = Returned {
        provider: &asked.provider,
        query: asked.query(),
        browser: browser.federated_cookie()?,
    };
    let replaced_here = replaced(browser)?;
    let confirmed = server.federated_logins.finish(&returned, now(server)).await;
    let confirmed = confirmed.map_err(|error| refused(&error))?;
    let sessions = &server.sessions;
    let begun = sessions
        .begin(&confirmed.user, LoginMethod::Provider, &sender.device())
        .await;
    let tokens = begun.map_err(|error| not_begun(&error))?;
    if let Some(replaced) = confirmed.replaces {
        let (sessions, actor) = (Arc::clone(&server.sessions), format!("user {}", confirmed.user.user.id));
        to_the_end(async move {
            if let Err(error) = sessions.end(replaced, None, EndedBy::Logout, &actor).await {
                outage::report("a session that a login has replaced could not be ended", &error);
            }
        })
        .await;
    }
    end_replaced(server, replaced_here).await;
    Ok(see_other(
        confirmed.return_to.as_str(),
        session_cookies(server, &tokens)?,
    ))
}

/// The time as far as it is believed, for expiry; the monotonic one, for what is kept in memory.
fn now(server: &Server) -> Reading {
    let reading = server.clock.read();
    Reading {
        wall: server.keyring.snapshot().now(reading, server.keyring.policy()),
        ..reading
    }
}

fn return_to(query: &str) -> Result<Option<String>, Problem> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "return_to");
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Problem::new(Code::InvalidRequest, "return_to is given more than once")),
        (first, None) => Ok(first.map(|(_, value)| value.into_owned())),
    }
}

/// 303: whatever the browser did before, it comes with GET (RFC 9700 section 4.12).
fn see_other<const N: usize>(to: &str, cookies: [HeaderValue; N]) -> HttpResponse {
    let mut answer = HttpResponse::build(StatusCode::SEE_OTHER);
    answer.insert_header((header::LOCATION, to));
    for cookie in cookies {
        answer.append_header((header::SET_COOKIE, cookie));
    }
    answer.finish()
}

fn unwritten(error: &InvalidHeaderValue) -> Problem {
    Problem::unavailable(error, "a cookie could not be written")
}

/// What people are told; what the operator needs to know is in the log.
fn refused(error: &NotLoggedIn) -> FederatedRefusal {
    let (code, detail, whose) = match error {
        NotLoggedIn::UnknownProvider => (
            Code::ProviderUnknown,
            "no provider of this name is enabled; 'keyround providers list' names them",
            Whose::Person,
        ),
        NotLoggedIn::ReturnTo(_) => (
            Code::InvalidRequest,
            "return_to must be a path such as /home, or a URL whose origin stands in accounts.allowed_origins",
            Whose::Person,
        ),
        NotLoggedIn::Callback(_) => (
            Code::InvalidRequest,
            "this is no answer of a provider; begin the login again",
            Whose::Person,
        ),
        NotLoggedIn::State => (
            Code::StateInvalid,
            "the login was begun in another browser, took longer than 10 minutes, or was used already; begin it again",
            Whose::Person,
        ),
        NotLoggedIn::Denied => (
            Code::FederationDenied,
            "the provider says that the login was refused there",
            Whose::Person,
        ),
        NotLoggedIn::EmailNotVerified(EmailDoubt::Address) => (
            Code::EmailNotVerified,
            "no account can have the e-mail address that the provider sends, such as one with quotation marks or an IP address; set another \
             one there, and begin again",
            Whose::Person,
        ),
        NotLoggedIn::EmailNotVerified(EmailDoubt::Spelling) => (
            Code::EmailNotVerified,
            "the provider writes your e-mail address in another way than accounts do, so it may be another mailbox; set its usual form there, \
             and begin again",
            Whose::Person,
        ),
        NotLoggedIn::EmailNotVerified(EmailDoubt::Unverified) => (
            Code::EmailNotVerified,
            "the provider knows no e-mail address that it has verified; verify one there, and begin again",
            Whose::Person,
        ),
        NotLoggedIn::EmailNotVerified(
            EmailDoubt::Missing | EmailDoubt::Unsaid | EmailDoubt::Text | EmailDoubt::DomainOwner,
        ) => (
            Code::EmailNotVerified,
            "the provider does not say that it has verified your e-mail address, which a first login needs; tell the operator, whose log says \
             what is missing",
            Whose::Operator,
        ),
        NotLoggedIn::AccountExists => (
            Code::AccountExists,
            "there is an account with this e-mail address that is not linked to the provider; log in to it as before",
            Whose::Person,
        ),
        NotLoggedIn::RegistrationClosed => (
            Code::RegistrationClosed,
            "nobody can register here; ask the operator for an account",
            Whose::Person,
        ),
        NotLoggedIn::Suspended => (Code::AccountSuspended, "the account is suspended", Whose::Person),
        NotLoggedIn::Refused | NotLoggedIn::Issuer | NotLoggedIn::IdToken(_) | NotLoggedIn::Claims(_) => {
            (Code::FederationFailed, FAILED, Whose::Operator)
        }
        NotLoggedIn::Provider(error) if error.is_refusal() => (Code::FederationFailed, FAILED, Whose::Operator),
        NotLoggedIn::Provider(_) | NotLoggedIn::Unavailable => (
            Code::ProviderUnavailable,
            "the provider does not answer as it must; try again in a few seconds",
            Whose::Operator,
        ),
        NotLoggedIn::Secret(_) | NotLoggedIn::NoSecret => (
            Code::TemporarilyUnavailable,
            "the server cannot do this at the moment; try again in a few seconds",
            Whose::Operator,
        ),
        NotLoggedIn::Randomness(_) | NotLoggedIn::Store(_) => {
            return Problem::unavailable(error, "a login with a provider could not be done").into();
        }
    };
    let problem = Problem::new(code, detail);
    FederatedRefusal {
        problem: match code {
            Code::ProviderUnavailable => problem.after(RETRY_AFTER),
            _ => problem,
        },
        reason: Some(error.to_string()),
        whose,
    }
}

const FAILED: &str =
    "the provider's answer is not one to this login; begin it again, and tell the operator if that does not help";

fn not_begun(error: &CannotBegin) -> Problem {
    match error {
        CannotBegin::AccountChanged => Problem::new(Code::AccountSuspended, "the account or its tenant is suspended"),
        _ => Problem::unavailable(error, "a session could not be begun"),
    }
}
