//! The cookies: each is cleared with the very attributes that it was set with.

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderValue, InvalidHeaderValue};

use crate::clock::Seconds;
use crate::config::Accounts;
use crate::crypto::keyed_hash::HashKey;
use crate::crypto::purpose::Purpose;
use crate::values::SessionId;

use super::codes::Code;
use super::problem::Problem;

/// A cookie's name and attributes.
pub struct Cookie {
    name: String,
    attributes: String,
}

impl Cookie {
    /// Its name, with the prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The header that sets it; without a length it goes when the browser is closed.
    ///
    /// # Errors
    /// When the value holds what no header may.
    pub fn set(&self, value: &str, length: Option<Seconds>) -> Result<HeaderValue, InvalidHeaderValue> {
        let length = length.map_or_else(String::new, |length| format!("; Max-Age={}", length.0));
        HeaderValue::try_from(format!("{}={value}; {}{length}", self.name, self.attributes))
    }

    /// The header that takes it away.
    ///
    /// # Errors
    /// Never: the name and the attributes are ours.
    pub fn clear(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        self.set("", Some(Seconds::ZERO))
    }

    /// Its values in a request: several, if a sibling domain planted one. A value that is not UTF-8 is returned as an empty one.
    pub fn values<'r>(&self, request: &'r HttpRequest) -> impl Iterator<Item = &'r str> {
        // By octets: another application's cookie in the same header may hold any of them (RFC 6265 section 5.4).
        request
            .headers()
            .get_all(header::COOKIE)
            .flat_map(|line| line.as_bytes().split(|&octet| octet == b';'))
            .filter_map(|pair| pair.trim_ascii().strip_prefix(self.name.as_bytes())?.strip_prefix(b"="))
            .map(|value| std::str::from_utf8(value).unwrap_or_default())
    }

    /// Its value in a request.
    ///
    /// # Errors
    /// `invalid_request` when it comes twice: one of them was planted, and which one is unknown.
    pub fn read<'r>(&self, request: &'r HttpRequest) -> Result<Option<&'r str>, Problem> {
        let mut values = self.values(request);
        let first = values.next();
        if values.next().is_some() {
            return Err(twice());
        }
        Ok(first.filter(|value| !value.is_empty()))
    }
}

/// A cookie of this server comes twice.
pub(super) fn twice() -> Problem {
    Problem::new(
        Code::InvalidRequest,
        "a cookie of this server comes twice, and one of them may be planted; clear the cookies of this site",
    )
}

/// What binds the refresh cookie of this session to the browser.
#[must_use]
pub fn binding(key: &HashKey, sid: SessionId) -> String {
    key.digest(Purpose::SessionCookie, &sid.to_string())
}

/// The value of the cookie that names a login session: its id, with a tag that only this server can make.
#[must_use]
pub fn of_login(key: &HashKey, id: SessionId) -> String {
    let id = id.to_string();
    format!("{id}.{}", key.digest(Purpose::LoginCookie, &id))
}

/// The login session that such a value names, if we wrote it.
#[must_use]
pub fn named_by(key: &HashKey, value: &str) -> Option<SessionId> {
    let (id, tag) = value.split_once('.')?;
    key.matches(Purpose::LoginCookie, id, tag)
        .then(|| id.parse().ok())
        .flatten()
}

/// The cookies of this server.
pub struct Cookies {
    /// The refresh token: it comes along below `/auth` alone.
    pub refresh: Cookie,
    /// What binds the refresh token to this browser.
    pub binding: Cookie,
    /// The CSRF token.
    pub csrf: Cookie,
    /// What binds a login with another provider to the browser; it comes along when that provider sends the browser back.
    pub federated: Cookie,
    /// The login session; it comes along when a client sends the browser here.
    pub login: Cookie,
    /// What the tokens of the pages' forms are made of.
    pub form: Cookie,
}

impl Cookies {
    /// The cookies as they are set up; `issuer_path` is empty or begins with a slash.
    #[must_use]
    pub fn new(accounts: &Accounts, issuer_path: &str) -> Self {
        // Over plain HTTP a browser takes no cookie with `Secure`.
        let secure = if accounts.plain_http_cookies { "" } else { "; Secure" };
        let names = accounts.cookie_names();
        Self {
            refresh: Cookie {
                name: names.refresh,
                attributes: format!("Path={issuer_path}/auth; HttpOnly{secure}; SameSite=Strict"),
            },
            binding: Cookie {
                name: names.binding,
                attributes: format!("Path=/; HttpOnly{secure}; SameSite=Strict"),
            },
            csrf: Cookie {
                name: names.csrf,
                attributes: format!("Path=/; HttpOnly{secure}; SameSite=Strict"),
            },
            federated: Cookie {
                name: names.federated,
                attributes: format!("Path=/; HttpOnly{secure}; SameSite=Lax"),
            },
            login: Cookie {
                name: names.login,
                attributes: format!("Path=/; HttpOnly{secure}; SameSite=Lax"),
            },
            form: Cookie {
                name: names.form,
                attributes: format!("Path=/; HttpOnly{secure}; SameSite=Lax"),
            },
        }
    }
}
