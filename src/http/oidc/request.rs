//! A request of the authorization endpoint, as the endpoint itself and the forms of its pages read it.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::session::LoginSession;
use crate::accounts::settings::Registration;
use crate::crypto::purpose::Purpose;
use crate::crypto::random::random_secret;
use crate::http::codes::Code;
use crate::http::extract::browser::{Browser, form_secret_of};
use crate::http::guard::LONGEST_ADDRESS;
use crate::http::pages::{self, FormPostPage, ProceedPage, Texts};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::authorization::{Destination, NoDestination, ResponseMode};
use crate::oauth::client::ClientId;
use crate::oauth::endpoints::AUTHORIZATION_PATH;
use crate::oauth::error::OauthError;
use crate::oauth::token::Parameters;
use crate::store::StoreError;
use crate::store::clients::StoredClient;
use crate::values::SessionId;

/// Who asks, and in which language.
pub struct Visit {
    /// The server.
    pub server: web::Data<Server>,
    /// What the browser sends by itself.
    pub browser: Browser,
    /// The texts of the pages.
    pub texts: &'static Texts,
}

/// A request whose answer has a place to go to.
pub struct PendingAuthorization {
    /// The client.
    pub client: Arc<StoredClient>,
    /// Where the answer goes.
    pub destination: Destination,
    /// The request itself.
    pub parameters: Parameters,
}

/// What an answer follows on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The request itself.
    Request,
    /// A form of ours, behind which a page leads on.
    Form,
}

/// A page with a cookie, if the browser has none yet.
#[must_use]
pub fn with_cookie(mut page: HttpResponse, cookie: Option<HeaderValue>) -> HttpResponse {
    if let Some(cookie) = cookie {
        page.headers_mut().append(header::SET_COOKIE, cookie);
    }
    page
}

impl Visit {
    /// Reads the language of a request.
    #[must_use]
    pub fn new(
        server: web::Data<Server>,
        browser: Browser,
        request: &HttpRequest,
        parameters: Option<&Parameters>,
    ) -> Self {
        let accept = request.headers().get(header::ACCEPT_LANGUAGE);
        let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let asked = parameters.and_then(|parameters| parameters.one("ui_locales").ok().flatten());
        let texts = Texts::best(asked.unwrap_or_default().split(' '), accept);
        Self { server, browser, texts }
    }

    /// The path of the issuer.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.server.issuer_path
    }

    /// Whether people make accounts by themselves.
    #[must_use]
    pub fn may_register(&self) -> bool {
        self.server.logins.settings.registration != Registration::Closed
    }

    /// Where the request of these parameters goes on.
    #[must_use]
    pub fn authorization_url(&self, query: &str) -> String {
        format!("{}{AUTHORIZATION_PATH}?{query}", self.base())
    }

    /// Sends a browser that posted a form back to the same endpoint by `GET`: a form of another site brings no cookie along.
    #[must_use]
    pub fn come_back(&self, path: &str, parameters: &Parameters) -> HttpResponse {
        let url = format!("{}{path}?{}", self.base(), parameters.query_without(&[]));
        if url.len() > LONGEST_ADDRESS {
            let detail = "the request is longer than 8 KiB when it is written as an address";
            return self.problem(&Problem::new(Code::AddressTooLong, detail));
        }
        HttpResponse::SeeOther()
            .insert_header((header::LOCATION, url))
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .finish()
    }

    /// The client and the destination of a request.
    ///
    /// # Errors
    /// The page for a request that has none.
    #[expect(clippy::result_large_err, reason = "a page is made once")]
    pub async fn asked(&self, parameters: Parameters) -> Result<PendingAuthorization, HttpResponse> {
        let id = Destination::client_id(&parameters).map_err(|refusal| self.refuse(refusal, None))?;
        let registry = &self.server.registry;
        let found = |found: Result<Option<Arc<StoredClient>>, StoreError>| {
            found
                .map_err(|error| self.problem(&Problem::unavailable(&error, "a client could not be looked up")))?
                .ok_or_else(|| self.refuse(NoDestination::UnknownClient, None))
        };
        let mut client = found(registry.find(&id).await)?;
        let mut destination = Destination::find(&parameters, &client.client);
        if destination.is_err() {
            // It may have been registered a moment ago.
            client = found(registry.find_anew(&id).await)?;
            destination = Destination::find(&parameters, &client.client);
        }
        let destination = destination.map_err(|refusal| self.refuse(refusal, Some(&client.client.id)))?;
        Ok(PendingAuthorization {
            client,
            destination,
            parameters,
        })
    }

    /// The login session of the browser, if it lives.
    ///
    /// # Errors
    /// When a cookie comes twice, or the database does not answer.
    pub async fn login_session(&self) -> Result<Option<LoginSession>, Problem> {
        let Some(id) = self.browser.login_session()? else {
            return Ok(None);
        };
        let sessions = &self.server.sessions;
        let found = self
            .server
            .db
            .login_session(id, sessions.now(), sessions.settings.idle)
            .await;
        found.map_err(|error| Problem::unavailable(&error, "a login session could not be looked up"))
    }

    fn refuse(&self, refusal: NoDestination, client: Option<&ClientId>) -> HttpResponse {
        let name = "invalid_request";
        self.server.metrics.refused(name);
        let client = client.map(tracing::field::display);
        tracing::info!(client.id = client, reason = %refusal, "a request for a login was refused");
        pages::refused(
            self.texts,
            self.base(),
            StatusCode::BAD_REQUEST,
            name,
            &refusal.to_string(),
        )
    }

    /// A page with what went wrong.
    #[must_use]
    pub fn problem(&self, problem: &Problem) -> HttpResponse {
        self.server.metrics.refused(problem.name());
        tracing::info!(reason = problem.name(), detail = %problem.detail, "a login was refused");
        pages::of_problem(self.texts, self.base(), problem)
    }

    /// A refusal on its way to the client.
    #[must_use]
    pub fn refuse_to(&self, asked: &PendingAuthorization, refusal: &OauthError) -> HttpResponse {
        self.server.metrics.refused(refusal.code.name());
        tracing::info!(
            client.id = %asked.client.client.id, reason = refusal.code.name(), detail = %refusal.description,
            "an authorization was refused"
        );
        let members = [
            ("error", refusal.code.name()),
            ("error_description", refusal.description.as_str()),
        ];
        self.answer(asked, &members)
    }

    /// An answer on its way to the client (RFC 6749 section 4.1.2).
    #[must_use]
    pub fn answer(&self, asked: &PendingAuthorization, members: &[(&'static str, &str)]) -> HttpResponse {
        let destination = &asked.destination;
        let members = destination.members(members, &self.server.issuer);
        match destination.mode {
            ResponseMode::Query => HttpResponse::SeeOther()
                .insert_header((header::LOCATION, destination.with_query(&members)))
                .insert_header((header::CACHE_CONTROL, "no-store"))
                .finish(),
            ResponseMode::FormPost => pages::posted(&FormPostPage {
                texts: self.texts,
                base: self.base(),
                url: &destination.redirect_uri,
                members: &members,
            }),
        }
    }

    /// The same after a form of ours: a page leads on.
    #[must_use]
    pub fn answer_after_form(&self, asked: &PendingAuthorization, members: &[(&'static str, &str)]) -> HttpResponse {
        if asked.destination.mode == ResponseMode::FormPost {
            return self.answer(asked, members);
        }
        let members = asked.destination.members(members, &self.server.issuer);
        self.proceed(&asked.destination.with_query(&members))
    }

    /// A page that leads on.
    #[must_use]
    pub fn proceed(&self, url: &str) -> HttpResponse {
        pages::shown(&ProceedPage {
            texts: self.texts,
            base: self.base(),
            url,
        })
    }

    /// The token of a form for this login session, if the person has one, and the cookie that it is made of, if the browser has none yet. A
    /// page in another tab stays good, for the cookie stays.
    ///
    /// # Errors
    /// When there is no randomness, or a cookie comes twice.
    pub fn form_token(&self, of: Option<SessionId>) -> Result<(String, Option<HeaderValue>), Problem> {
        let unwritten = |error: &dyn std::error::Error| -> Problem {
            tracing::error!(%error, "a page could not be made");
            Problem::new(
                Code::TemporarilyUnavailable,
                "the page cannot be made at this moment; try again in a few seconds",
            )
        };
        let key = &self.server.hash_key;
        if let Some(secret) = self.browser.form_secret()? {
            return Ok((key.digest(Purpose::PageForm, &form_secret_of(secret, of)), None));
        }
        let secret = random_secret().map_err(|error| unwritten(&error))?;
        let cookie = self
            .server
            .cookies
            .form
            .set(&secret, None)
            .map_err(|error| unwritten(&error))?;
        Ok((
            key.digest(Purpose::PageForm, &form_secret_of(&secret, of)),
            Some(cookie),
        ))
    }
}
