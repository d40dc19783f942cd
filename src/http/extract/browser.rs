//! What a browser sends by itself: cookies, and whose page asks.
//!
//! One extractor for both, because a CSRF token is bound to the session in the refresh cookie: who checks the one reads the other.

use std::cell::OnceCell;

use actix_web::http::header::{self, HeaderName};
use url::Url;

use crate::accounts::csrf::{self, Bound, Forged};
use crate::crypto::purpose::Purpose;
use crate::http::codes::Code;
use crate::http::cookies::{named_by, twice};
use crate::http::problem::Problem;
use crate::values::{Origin, SessionId};

use super::context::{RequestContext, extracted_from_context};

/// The header with the CSRF token.
const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");
/// Whose page asks, as the browser says (Fetch Metadata); no page can write it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The cookies of a request, and what the browser says of the page that sent it. Nothing is read before it is asked for, and the refresh
/// cookie is opened once.
pub struct Browser {
    context: RequestContext,
    refresh: OnceCell<Result<Option<RefreshCookie>, Problem>>,
}

/// The value of the refresh cookie.
struct RefreshCookie {
    text: String,
    /// The session that it names; None if it is no token of this server.
    sid: Option<SessionId>,
}

/// What the token of a form is made of: the secret of the browser, and the login session of the person whom the form was shown to.
#[must_use]
pub fn form_secret_of(secret: &str, of: Option<SessionId>) -> String {
    of.map_or_else(|| format!("any {secret}"), |of| format!("{of} {secret}"))
}

impl From<RequestContext> for Browser {
    fn from(context: RequestContext) -> Self {
        Self {
            context,
            refresh: OnceCell::new(),
        }
    }
}

extracted_from_context!(Browser);

impl Browser {
    /// The refresh token in the cookies.
    ///
    /// A sibling domain can plant a cookie of this name, `__Secure-` or not, and so put a browser into a session of its own (RFC 6265bis
    /// section 8.6). It cannot plant one with `__Host-`. So only a token of the session that the binding cookie names counts. The refresh
    /// token itself has no such prefix, because it is for `/auth` alone, and other services of this host must not see it.
    ///
    /// # Errors
    /// `invalid_request` when a cookie comes twice, and which one is planted is unknown.
    pub fn refresh_token(&self) -> Result<Option<&str>, Problem> {
        Ok(self.refresh_cookie()?.map(|cookie| cookie.text.as_str()))
    }

    /// The session of the refresh token in the cookies.
    ///
    /// # Errors
    /// As [`Browser::refresh_token`].
    pub fn session(&self) -> Result<Option<SessionId>, Problem> {
        Ok(self.refresh_cookie()?.and_then(|cookie| cookie.sid))
    }

    fn refresh_cookie(&self) -> Result<Option<&RefreshCookie>, Problem> {
        match self.refresh.get_or_init(|| self.read_refresh_cookie()) {
            Ok(cookie) => Ok(cookie.as_ref()),
            Err(problem) => Err(problem.clone()),
        }
    }

    fn read_refresh_cookie(&self) -> Result<Option<RefreshCookie>, Problem> {
        let server = &self.context.server;
        let values = server.cookies.refresh.values(&self.context.request);
        let opened: Vec<(&str, Option<SessionId>)> = values
            .filter(|text| !text.is_empty())
            .map(|text| (text, server.sessions.named_in(text)))
            .collect();
        let bound = server.cookies.binding.read(&self.context.request)?;
        let is_bound = |sid: SessionId| match bound {
            Some(bound) => server.hash_key.matches(Purpose::SessionCookie, &sid.to_string(), bound),
            // From before an upgrade from a version that set no such cookie.
            None => sid.created_at() < server.unbound_until,
        };
        let mut fitting = opened.iter().filter(|(_, sid)| sid.is_some_and(is_bound));
        match (fitting.next(), fitting.next(), opened.as_slice()) {
            (Some(_), Some(_), _) => Err(twice()),
            // The second is no token of ours: it gets nothing, and the answer says so.
            (Some((text, sid)), None, _) | (None, _, [(text, sid @ None)]) => Ok(Some(RefreshCookie {
                text: (*text).to_owned(),
                sid: *sid,
            })),
            (None, ..) => Ok(None),
        }
    }

    /// The CSRF token in the cookies.
    ///
    /// # Errors
    /// `invalid_request` when the cookie comes twice.
    pub fn csrf_cookie(&self) -> Result<Option<&str>, Problem> {
        self.context.server.cookies.csrf.read(&self.context.request)
    }

    /// What binds a login with another provider to the browser.
    ///
    /// # Errors
    /// `invalid_request` when the cookie comes twice.
    pub fn federated_cookie(&self) -> Result<Option<&str>, Problem> {
        self.context.server.cookies.federated.read(&self.context.request)
    }

    /// The login session that this browser has, if the cookie is ours; whether it lives the database knows.
    ///
    /// # Errors
    /// `invalid_request` when the cookie comes twice.
    pub fn login_session(&self) -> Result<Option<SessionId>, Problem> {
        let server = &self.context.server;
        let value = server.cookies.login.read(&self.context.request)?;
        Ok(value.and_then(|value| named_by(&server.hash_key, value)))
    }

    /// What the tokens of this browser's forms are made of; none before its first page.
    ///
    /// # Errors
    /// `invalid_request` when the cookie comes twice.
    pub fn form_secret(&self) -> Result<Option<&str>, Problem> {
        self.context.server.cookies.form.read(&self.context.request)
    }

    /// Refuses a form that no page of ours sent: its token is made of this browser's cookie, which another site can neither read nor, with
    /// its prefix, plant. A form that was shown to a person who is logged in counts for that login session alone.
    ///
    /// # Errors
    /// `cross_site` or `csrf_failed`.
    pub fn refuse_forged_form(&self, token: &str, of: Option<SessionId>) -> Result<(), Problem> {
        self.refuse_other_sites()?;
        let secret = self.form_secret()?.ok_or_else(|| {
            let detail =
                "the browser sent no cookie along with the form; allow cookies for this site, and begin again at the application";
            Problem::new(Code::CsrfFailed, detail)
        })?;
        let made_of = form_secret_of(secret, of);
        if self.context.server.hash_key.matches(Purpose::PageForm, &made_of, token) {
            return Ok(());
        }
        let detail =
            "the form is of another browser, of an earlier visit or of another person; begin again at the application";
        Err(Problem::new(Code::CsrfFailed, detail))
    }

    /// What the CSRF token of this request must be bound to.
    ///
    /// # Errors
    /// As [`Browser::refresh_token`].
    pub fn bound(&self) -> Result<Bound, Problem> {
        Ok(self.session()?.map_or(Bound::BeforeLogin, Bound::To))
    }

    /// Refuses a request that uses or sets a cookie, unless its origin is the issuer's or is listed, and its CSRF token fits. Programs that
    /// are no browsers send neither `Origin` nor `Sec-Fetch-Site`; for them only the CSRF token is checked.
    ///
    /// # Errors
    /// `cross_site` or `csrf_failed`.
    pub fn refuse_forged(&self) -> Result<(), Problem> {
        self.check_csrf()?
            .map_err(|forged| Problem::new(Code::CsrfFailed, forged.to_string()))
    }

    /// The same of a request that begins a session and could have asked for its tokens in the body.
    ///
    /// # Errors
    /// As [`Browser::refuse_forged`].
    pub fn refuse_forged_login(&self) -> Result<(), Problem> {
        self.check_csrf()?.map_err(|forged| {
            let instead = match forged {
                Forged::NoHeader | Forged::NoCookie => {
                    r#"; a program that is no web page sends "token_delivery": "body" in the body instead"#
                }
                Forged::Differ | Forged::NotBound => "",
            };
            Problem::new(Code::CsrfFailed, format!("{forged}{instead}"))
        })
    }

    fn check_csrf(&self) -> Result<Result<(), Forged>, Problem> {
        self.refuse_other_sites()?;
        let header = self.only(&CSRF_HEADER)?;
        let cookie = self.csrf_cookie()?;
        Ok(csrf::check(
            &self.context.server.hash_key,
            self.bound()?,
            header,
            cookie,
        ))
    }

    fn refuse_other_sites(&self) -> Result<(), Problem> {
        let refused = || {
            Problem::new(
                Code::CrossSite,
                "pages of this origin may not do this; list it in accounts.allowed_origins, and serve it from the same site",
            )
        };
        // Cookies would not come along from another site anyway, and a login from there is none that the user began.
        if self.only(&SEC_FETCH_SITE)?.is_some_and(|site| site == "cross-site") {
            return Err(refused());
        }
        let origin = match self.only(&header::ORIGIN)? {
            Some(origin) => Some(origin.to_owned()),
            None => self.only(&header::REFERER)?.map(|referer| {
                Url::parse(referer).map_or_else(|_| "null".to_owned(), |url| Origin::of(&url).as_str().to_owned())
            }),
        };
        match origin {
            Some(origin) if !self.context.server.accepts_origin(&origin) => Err(refused()),
            _ => Ok(()),
        }
    }

    /// The value of a header that comes once or not at all.
    fn only(&self, name: &HeaderName) -> Result<Option<&str>, Problem> {
        let mut values = self.context.request.headers().get_all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::new(
                Code::InvalidRequest,
                format!("there is more than one header {name}"),
            ));
        }
        Ok(first.map(|value| value.to_str().unwrap_or("null")))
    }
}
