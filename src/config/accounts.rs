//! Section `accounts`: people, their passwords, sessions and cookies.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::accounts::limits::{AttemptRates, Rate};
use crate::accounts::password_hash::{BCRYPT_COSTS, HashParameters};
use crate::accounts::settings::{ClientSettings, LoginSettings, Registration, SessionSettings};
use crate::clock::Seconds;
use crate::jose::jwt::TokenType;
use crate::text;
use crate::values::LONGEST_ACCESS_TOKEN;
use crate::values::{Issuer, Origin, Refusal, parse_duration, refuse};

use super::layers::Layers;
use super::{ConfigError, ServerSettings};

/// No session lasts longer.
const LONGEST_SESSION: Seconds = Seconds(90 * 86_400);
/// The longest grace of a refresh token.
const LONGEST_GRACE: Seconds = Seconds(60);

/// Section `accounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    /// Whether people have accounts here.
    pub enabled: bool,
    /// The client that they log in with.
    pub client: ClientSettings,
    /// Their sessions.
    pub sessions: SessionSettings,
    /// Their logins.
    pub logins: LoginSettings,
    /// How many logins may wait for a core.
    pub hashing_queue: usize,
    /// How often one session may be refreshed at one node.
    pub refreshes_of_session: Rate,
    /// How often sessions may be refreshed from one address at one node.
    pub refreshes_from_address: Rate,
    /// Pages of other origins that may call with cookies.
    pub allowed_origins: Vec<Origin>,
    /// The cookie with the refresh token, without its prefix.
    pub refresh_cookie: CookieName,
    /// The cookie against forged requests, without its prefix.
    pub csrf_cookie: CookieName,
    /// Cookies without prefixes and without `Secure`; only on loopback.
    pub plain_http_cookies: bool,
}

/// The name of a cookie, without a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(String);

impl CookieName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CookieName {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        // A prefix would promise what only the server may promise.
        if text.is_empty() || text.len() > 64 || !text.bytes().all(is_plain) || text.starts_with("__") {
            return refuse(
                "is not a cookie's name of 1 to 64 letters, digits, - and _ without a prefix; write one such as \
                           keyround-refresh",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// The whole names of the cookies of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieNames {
    /// That of the refresh token.
    pub refresh: String,
    /// That of what binds the refresh token to the browser.
    pub binding: String,
    /// That of the CSRF token.
    pub csrf: String,
    /// That of a login with another provider.
    pub federated: String,
    /// The login session.
    pub login: String,
    /// What the tokens of the pages' forms are made of.
    pub form: String,
}

/// Whether cookies may do without protection: nobody but this machine sees them.
pub(super) fn may_use_plain_http_cookies(issuer: &Issuer, listen: SocketAddr) -> bool {
    !issuer.is_https() && issuer.is_loopback() && listen.ip().to_canonical().is_loopback()
}

impl Accounts {
    pub(super) fn read(layers: &Layers, server: &ServerSettings, max_token_ttl: Seconds) -> Result<Self, ConfigError> {
        let duration = |name| layers.required(name, parse_duration);
        // A default gives way to what somebody wrote.
        let up_to = |name, limit: Seconds| {
            let length = duration(name)?;
            Ok::<_, ConfigError>(if layers.is_given(name) {
                length
            } else {
                length.min(limit)
            })
        };
        let absolute = duration("accounts.session_absolute")?;
        let client = ClientSettings {
            id: layers.required("accounts.client_id", client_id)?,
            audience: layers
                .text("accounts.audience", resource)?
                .unwrap_or_else(|| server.issuer.as_str().to_owned()),
            token_type: layers.required("accounts.token_type", token_type)?,
            access_token_ttl: up_to("accounts.access_token_ttl", max_token_ttl)?,
        };
        let sessions = SessionSettings {
            idle: up_to("accounts.session_idle", absolute)?,
            absolute,
            refresh_grace: duration("accounts.refresh_grace")?,
            max_sessions: layers.count("accounts.max_sessions")?,
        };
        let logins = LoginSettings {
            registration: match (
                layers.flag("accounts.registration"),
                layers.flag("accounts.reveal_taken_email"),
            ) {
                (false, _) => Registration::Closed,
                (true, false) => Registration::Open,
                (true, true) => Registration::OpenAndRevealing,
            },
            password_min_length: layers.count("accounts.password_min_length")?,
            password_hash: hash_parameters(layers)?,
            attempts: AttemptRates {
                address: layers.required("accounts.limit_address", |text| rate(text, 1))?,
                account: layers.required("accounts.limit_account", |text| rate(text, 1))?,
                address_and_account: layers.required("accounts.limit_address_and_account", |text| rate(text, 1))?,
            },
        };
        let accounts = Self {
            enabled: layers.flag("accounts.enabled"),
            client,
            sessions,
            logins,
            hashing_queue: layers.count("accounts.hashing_queue")?,
            refreshes_of_session: layers.required("accounts.refresh_limit_session", |text| rate(text, 1_000))?,
            refreshes_from_address: layers.required("accounts.refresh_limit_address", |text| rate(text, 1_000))?,
            allowed_origins: layers.list("accounts.allowed_origins", str::parse)?,
            refresh_cookie: layers.required("accounts.refresh_cookie", str::parse)?,
            csrf_cookie: layers.required("accounts.csrf_cookie", str::parse)?,
            plain_http_cookies: layers.flag("accounts.plain_http_cookies"),
        };
        accounts.check(server, max_token_ttl)?;
        Ok(accounts)
    }

    fn check(&self, server: &ServerSettings, max_token_ttl: Seconds) -> Result<(), ConfigError> {
        let second = Seconds(1);
        let longest_token = LONGEST_ACCESS_TOKEN.min(max_token_ttl);
        within_given(
            "accounts.access_token_ttl",
            self.client.access_token_ttl,
            (second, longest_token),
            (longest_token < LONGEST_ACCESS_TOKEN).then_some("tokens.max_token_ttl"),
        )?;
        within(
            "accounts.session_absolute",
            self.sessions.absolute,
            second,
            LONGEST_SESSION,
        )?;
        within_given(
            "accounts.session_idle",
            self.sessions.idle,
            (second, self.sessions.absolute),
            Some("accounts.session_absolute"),
        )?;
        within(
            "accounts.refresh_grace",
            self.sessions.refresh_grace,
            Seconds::ZERO,
            LONGEST_GRACE,
        )?;
        within("accounts.password_min_length", self.logins.password_min_length, 8, 64)?;
        within("accounts.hashing_queue", self.hashing_queue, 1, 100_000)?;
        if self.client.token_type == TokenType::Jwt && self.client.audience == self.client.id {
            return Err(ConfigError::AudienceIsClientId);
        }
        within("accounts.max_sessions", self.sessions.max_sessions as usize, 1, 1_000)?;
        if self.plain_http_cookies && !may_use_plain_http_cookies(&server.issuer, server.listen) {
            return Err(ConfigError::PlainHttpCookies);
        }
        self.check_cookie_names()?;
        Ok(())
    }

    /// The names as browsers see them. Over plain HTTP a browser takes no prefix.
    #[must_use]
    pub fn cookie_names(&self) -> CookieNames {
        let (host, secure) = if self.plain_http_cookies {
            ("", "")
        } else {
            ("__Host-", "__Secure-")
        };
        CookieNames {
            refresh: format!("{secure}{}", self.refresh_cookie.as_str()),
            binding: format!("{host}{}-binding", self.refresh_cookie.as_str()),
            csrf: format!("{host}{}", self.csrf_cookie.as_str()),
            federated: format!("{host}keyround-federated"),
            login: format!("{host}keyround-login"),
            form: format!("{host}keyround-form"),
        }
    }

    /// Of two cookies with one name a browser may keep only the later one, so that nobody could refresh a session.
    fn check_cookie_names(&self) -> Result<(), ConfigError> {
        let names = self.cookie_names();
        let (of_refresh, of_csrf) = ("accounts.refresh_cookie", "accounts.csrf_cookie");
        let federated = (&names.federated, "the cookie of logins with a provider");
        let refresh = (&names.refresh, "the cookie of accounts.refresh_cookie");
        let binding = (
            &names.binding,
            "the cookie that binds accounts.refresh_cookie to the browser",
        );
        let login = (&names.login, "the cookie of a login session");
        let form = (&names.form, "the cookie of the pages' forms");
        for (setting, name, (other, cookie)) in [
            (of_refresh, &names.refresh, login),
            (of_refresh, &names.refresh, form),
            (of_refresh, &names.binding, login),
            (of_refresh, &names.binding, form),
            (of_csrf, &names.csrf, login),
            (of_csrf, &names.csrf, form),
            (of_refresh, &names.refresh, federated),
            (of_refresh, &names.binding, federated),
            (of_csrf, &names.csrf, federated),
            (of_csrf, &names.csrf, refresh),
            (of_csrf, &names.csrf, binding),
        ] {
            if name == other {
                return Err(ConfigError::SameCookie {
                    setting,
                    name: name.clone(),
                    cookie,
                });
            }
        }
        Ok(())
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.enabled && self.plain_http_cookies {
            warnings.push(
                "accounts.plain_http_cookies is true: cookies have no prefix and no Secure attribute; this is for development on \
                 this machine alone"
                    .to_owned(),
            );
        }
        if let HashParameters::Bcrypt { cost } = self.logins.password_hash
            && self.enabled
            && cost < 10
        {
            warnings.push(format!(
                "accounts.bcrypt_cost is {cost}: stolen hashes are guessed quickly; write 12 or more"
            ));
        }
        warnings
    }
}

fn within<T: Copy + PartialOrd + fmt::Display>(
    setting: &'static str,
    given: T,
    least: T,
    most: T,
) -> Result<(), ConfigError> {
    within_given(setting, given, (least, most), None)
}

/// The same, where another setting is what makes the most.
fn within_given<T: Copy + PartialOrd + fmt::Display>(
    setting: &'static str,
    given: T,
    (least, most): (T, T),
    most_is: Option<&'static str>,
) -> Result<(), ConfigError> {
    if given < least || given > most {
        let cause = most_is.map_or(String::new(), |other| format!(", which is {other}"));
        return Err(ConfigError::AccountsOutOfRange {
            setting,
            given: given.to_string(),
            needed: format!("from {least} to {most}{cause}"),
        });
    }
    Ok(())
}

fn client_id(text: &str) -> Result<String, Refusal> {
    if !text::is_client_id(text) {
        return refuse(
            "is not a client's name of 1 to 255 visible ASCII characters without a space, a quotation mark and a backslash; write one \
             such as first-party",
        );
    }
    Ok(text.to_owned())
}

fn resource(text: &str) -> Result<String, Refusal> {
    if text::names_user(text) {
        return refuse(
            "has a user or a password, which each token would repeat; leave them out, with the sign behind them",
        );
    }
    if !text::is_audience(text) {
        return refuse(
            "is not an audience of 1 to 2048 visible ASCII characters, which is a URI without a fragment if it has a colon; write one such \
             as https://api.example.com",
        );
    }
    Ok(text.to_owned())
}

/// Reads `20/1h`: 20 at once, and 20 more in each hour, at most `most` in a second.
fn rate(text: &str, most: i64) -> Result<Rate, Refusal> {
    let form = || {
        let meant = meant_rate(text).filter(|meant| meant != text && rate(meant, most).is_ok());
        Refusal(meant.map_or_else(
            || "is not a number and a length of time; write such as 20/1h".to_owned(),
            |meant| format!("is not a number and a length of time; write {meant}"),
        ))
    };
    let (burst, period) = text.split_once('/').ok_or_else(form)?;
    let burst: u32 = burst.parse().map_err(|_| form())?;
    let period = parse_duration(period).map_err(|_| form())?;
    if burst == 0 || period.0.saturating_mul(most) < i64::from(burst) {
        return refuse(format!("is none, or more than {most} in a second; write such as 20/1h"));
    }
    Ok(Rate { burst, period })
}

/// What `150/hour`, `150 per h` or `150/60` mean; a number without a unit means seconds.
fn meant_rate(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase().replace("per", "/");
    let (burst, period) = text.split_once('/')?;
    let burst: u32 = burst.trim().parse().ok()?;
    let period = period.trim();
    let unit = period.trim_start_matches(|character: char| character.is_ascii_digit() || character == ' ');
    let number = period[..period.len() - unit.len()].trim();
    let unit = match unit {
        "" if !number.is_empty() => "s",
        "s" | "sec" | "second" | "seconds" => "s",
        "m" | "min" | "minute" | "minutes" => "m",
        "h" | "hr" | "hour" | "hours" => "h",
        "d" | "day" | "days" => "d",
        _ => return None,
    };
    Some(format!(
        "{burst}/{}{unit}",
        if number.is_empty() { "1" } else { number }
    ))
}

fn token_type(text: &str) -> Result<TokenType, Refusal> {
    text.parse().map_err(|_| {
        let hint = text::did_you_mean(text, TokenType::ALL.map(TokenType::name));
        Refusal(format!("is not a type of access tokens; write at+jwt or JWT{hint}"))
    })
}

/// A cost that no hash can have is refused also where another function is chosen.
fn hash_parameters(layers: &Layers) -> Result<HashParameters, ConfigError> {
    let cost: u32 = layers.count("accounts.bcrypt_cost")?;
    let (cheapest, dearest) = BCRYPT_COSTS.into_inner();
    within("accounts.bcrypt_cost", cost, cheapest, dearest)?;
    layers.required("accounts.password_hash", |text| match text {
        "bcrypt" => Ok(HashParameters::Bcrypt { cost }),
        "argon2id" => Ok(HashParameters::ARGON2ID),
        _ => refuse(format!(
            "is not a function for passwords; write bcrypt or argon2id{}",
            text::did_you_mean(text, ["bcrypt", "argon2id"])
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_in_a_length_of_time() {
        let period = Seconds(3_600);
        assert_eq!(rate("20/1h", 1), Ok(Rate { burst: 20, period }));
        assert_eq!(rate("3600/1h", 1), Ok(Rate { burst: 3_600, period }));
        for (text, meant) in [
            ("150/hour", "150/1h"),
            ("150/h", "150/1h"),
            ("150 / 2 Hours", "150/2h"),
            ("5 per minute", "5/1m"),
            ("20/60", "20/60s"),
            ("9/day", "9/1d"),
        ] {
            let refusal = rate(text, 1).unwrap_err().to_string();
            assert!(refusal.ends_with(&format!("write {meant}")), "{text}: {refusal}");
            assert!(rate(meant, 1).is_ok(), "{meant}");
        }
        assert!(
            rate("150/fortnight", 1)
                .unwrap_err()
                .to_string()
                .ends_with("such as 20/1h")
        );
        for (bad, most) in [
            ("", 1),
            ("20", 1),
            ("/1h", 1),
            ("20/", 1),
            ("20/60", 1),
            ("-1/1h", 1),
            ("0/1h", 1),
            ("3601/1h", 1),
            ("5/0s", 1),
            ("1001/1s", 1_000),
        ] {
            assert!(rate(bad, most).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cookie_has_a_plain_name() {
        assert!("keyround-refresh".parse::<CookieName>().is_ok());
        for bad in ["", "__Host-a", "a b", "a=b", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<CookieName>().is_err(), "{bad}");
        }
    }
}
