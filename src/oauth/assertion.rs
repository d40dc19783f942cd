//! `private_key_jwt` (RFC 7521 section 4.2; RFC 7523 section 3): a client proves itself by a signature instead of a secret.

use crate::clock::{Seconds, UnixTime, finer_unit};
use crate::jose::assertion::{Assertion, AssertionClaims, AssertionError};

use super::client::ClientId;
use super::error::{ErrorCode, OauthError};
use super::token::Parameters;

/// The one kind of assertion (RFC 7523 section 2.2).
const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// No assertion may live longer.
pub const LONGEST_LIFETIME: Seconds = Seconds(300);
/// How far a client's clock may differ from ours.
pub const LEEWAY: Seconds = Seconds(30);
/// The longest `jti`, in octets: each is kept until its assertion expires.
const LONGEST_JTI: usize = 256;

/// An assertion that a request presents; nothing is proved yet.
pub struct Presented<'a> {
    /// Who it says that it is about.
    pub client_id: ClientId,
    /// The assertion.
    pub assertion: Assertion<'a>,
}

/// What makes an assertion unique, and until when it would be accepted again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its name.
    pub jti: String,
    /// From when on it is refused for its age.
    pub until: UnixTime,
}

/// The refusal of a client whose assertion does not prove it.
#[must_use]
pub fn refused(reason: &str) -> OauthError {
    OauthError::new(
        ErrorCode::InvalidClient,
        &format!("the client assertion is not accepted: {reason}"),
    )
}

impl From<AssertionError> for OauthError {
    fn from(error: AssertionError) -> Self {
        refused(&error.to_string())
    }
}

impl<'a> Presented<'a> {
    /// The assertion of a request, if it has one.
    ///
    /// # Errors
    /// `invalid_request` for two methods at once or another kind of assertion, `invalid_client` for one that cannot be read.
    pub fn find(has_header: bool, parameters: &'a Parameters) -> Result<Option<Self>, OauthError> {
        let assertion_type = parameters.one("client_assertion_type")?;
        let Some(text) = parameters.one("client_assertion")? else {
            return match assertion_type {
                None => Ok(None),
                Some(_) => Err(OauthError::invalid_request("client_assertion is missing")),
            };
        };
        if has_header || parameters.one("client_secret")?.is_some() {
            return Err(OauthError::invalid_request(
                "the client authenticated twice; use client_assertion alone",
            ));
        }
        if assertion_type != Some(TYPE) {
            return Err(OauthError::invalid_request(&format!(
                "client_assertion_type must be {TYPE}"
            )));
        }
        let assertion = Assertion::parse(text)?;
        let subject = assertion.claimed_subject();
        if parameters.one("client_id")?.is_some_and(|id| id != subject) {
            return Err(OauthError::invalid_request(
                "client_id differs from the assertion's sub",
            ));
        }
        let client_id = subject.parse().map_err(|_| refused("its sub is no client id"))?;
        Ok(Some(Self { client_id, assertion }))
    }
}

/// Holds the claims of an assertion whose signature is good against the rules. `recipients` are the names by which it may
/// be meant for us, byte for byte.
///
/// # Errors
/// `invalid_client` with what is wrong.
pub fn accept(
    claims: &AssertionClaims,
    client_id: &ClientId,
    recipients: &[&str],
    now: UnixTime,
) -> Result<Accepted, OauthError> {
    let require = |holds: bool, reason: &str| if holds { Ok(()) } else { Err(refused(reason)) };
    let is_own = claims.iss == client_id.as_str() && claims.sub == client_id.as_str();
    require(is_own, "its iss and sub must both be the client id")?;
    require(
        claims.recipient().is_some_and(|aud| recipients.contains(&aud)),
        "its aud must be the issuer or the token endpoint, and nobody else",
    )?;
    for (name, time) in [("exp", Some(claims.exp)), ("iat", claims.iat), ("nbf", claims.nbf)] {
        if let Some((unit, _)) = time.and_then(finer_unit) {
            return Err(refused(&format!(
                "its {name} is in {unit}; a time in a JWT is in seconds since 1970 (RFC 7519 section 2)"
            )));
        }
    }
    let (exp, latest_start) = (UnixTime(claims.exp), now + LEEWAY);
    require(now < exp + LEEWAY, "it has expired")?;
    require(exp <= latest_start + LONGEST_LIFETIME, "it lives longer than 5 minutes")?;
    if let Some(iat) = claims.iat.map(UnixTime) {
        require(iat <= latest_start, "its iat lies in the future")?;
        require(
            iat < exp && exp <= iat + LONGEST_LIFETIME,
            "it lives longer than 5 minutes, or ends before it begins",
        )?;
    }
    require(
        claims.nbf.is_none_or(|nbf| UnixTime(nbf) <= latest_start),
        "its nbf lies in the future",
    )?;
    require(
        (1..=LONGEST_JTI).contains(&claims.jti.len()) && !claims.jti.contains('\0'),
        "its jti must have 1 to 256 octets",
    )?;
    Ok(Accepted {
        jti: claims.jti.clone(),
        until: exp + LEEWAY,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn judged(change: impl FnOnce(&mut Value)) -> Result<Accepted, OauthError> {
        let mut claims = json!({
            "iss": "billing", "sub": "billing", "aud": "https://id.example", "iat": NOW, "exp": NOW + 60, "jti": "a",
        });
        change(&mut claims);
        let claims = serde_json::from_value(claims).unwrap();
        accept(
            &claims,
            &"billing".parse().unwrap(),
            &["https://id.example"],
            UnixTime(NOW),
        )
    }

    #[test]
    fn every_limit_holds_to_the_second() {
        let times = |iat: i64, exp: i64| {
            move |claims: &mut Value| {
                claims["iat"] = (NOW + iat).into();
                claims["exp"] = (NOW + exp).into();
            }
        };
        for (iat, exp, good) in [
            (0, 300, true),
            (0, 301, false),
            (30, 330, true),
            (31, 330, false),
            (30, 331, false),
            (-300, -29, true),
            (-300, -30, false),
            (60, 60, false),
            (0, 0, false),
        ] {
            assert_eq!(judged(times(iat, exp)).is_ok(), good, "{iat} {exp}");
        }
        for (exp, good) in [(330, true), (331, false), (-29, true), (-30, false)] {
            let without_iat = judged(|claims| {
                claims["exp"] = (NOW + exp).into();
                claims.as_object_mut().unwrap().remove("iat");
            });
            assert_eq!(without_iat.is_ok(), good, "{exp}");
        }
        for (nbf, good) in [(30, true), (31, false)] {
            assert_eq!(
                judged(|claims| claims["nbf"] = (NOW + nbf).into()).is_ok(),
                good,
                "{nbf}"
            );
        }
    }

    #[test]
    fn what_was_used_is_kept_as_long_as_it_would_be_accepted() {
        let accepted = judged(|_| {}).unwrap();
        assert_eq!((accepted.jti.as_str(), accepted.until), ("a", UnixTime(NOW + 60 + 30)));
    }
}
