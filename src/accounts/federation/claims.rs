//! The claims of an ID token whose signature is good (OpenID Connect Core section 3.1.3.7).

use serde_json::{Map, Value};

use crate::clock::{Seconds, UnixTime};
use crate::jose::numeric_date::whole_seconds;

use super::{ProviderClientId, ProviderIssuer};

/// How far the provider's clock may differ from ours.
pub const LEEWAY: Seconds = Seconds(60);

/// What an ID token must say to be the answer to our question.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Who was asked.
    pub issuer: &'a ProviderIssuer,
    /// Who asked.
    pub client_id: &'a ProviderClientId,
    /// What binds it to the question.
    pub nonce: &'a str,
    /// When the answer is held against the question.
    pub now: UnixTime,
}

/// Who somebody is at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name there, which is never given to another person (OpenID Connect Core section 5.7).
    pub subject: String,
    /// The e-mail as the provider spells it.
    pub email: Option<String>,
    /// Whether the provider has seen that the e-mail is this person's. Only the JSON value `true` says so.
    pub email_verified: bool,
    /// The name to show.
    pub name: Option<String>,
}

/// Which claim is not as it must be. No variant holds a part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Another issuer's.
    #[error("its iss must be the provider's issuer, byte for byte")]
    Issuer,
    /// For somebody else, or for others too, of whom each could present it here.
    #[error("its aud must be our client id, and nobody else")]
    Audience,
    /// Given to somebody else.
    #[error("its azp must be our client id when it has one")]
    AuthorizedParty,
    /// No subject.
    #[error("its sub must be 1 to 255 printable ASCII characters")]
    Subject,
    /// A time that is missing, or no number.
    #[error("its exp and iat must be numbers of seconds, and so must nbf when it has one")]
    Time,
    /// Too old.
    #[error("it has expired")]
    Expired,
    /// From the future.
    #[error("its iat or nbf lies in the future")]
    Future,
    /// The answer to another question.
    #[error("its nonce must be that of this login")]
    Nonce,
    /// More about somebody else.
    #[error("the sub at the userinfo endpoint must be that of the ID token")]
    OtherSubject,
    /// No text.
    #[error("its email and its name must be texts when it has them")]
    Text,
}

/// Holds the claims against what was asked for.
///
/// # Errors
/// [`ClaimsError`] names the first claim that is not as it must be.
pub fn identity(claims: &Map<String, Value>, expected: Expected<'_>) -> Result<Identity, ClaimsError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let require = |holds: bool, error: ClaimsError| if holds { Ok(()) } else { Err(error) };
    let client_id = expected.client_id.as_str();
    require(text("iss") == Some(expected.issuer.as_str()), ClaimsError::Issuer)?;
    require(is_alone(claims.get("aud"), client_id), ClaimsError::Audience)?;
    let azp = claims.get("azp");
    require(azp.is_none_or(|azp| azp == client_id), ClaimsError::AuthorizedParty)?;
    check_times(claims, expected.now)?;
    require(text("nonce") == Some(expected.nonce), ClaimsError::Nonce)?;
    let subject = text("sub").filter(|sub| (1..=255).contains(&sub.len()));
    let subject = subject.filter(|sub| sub.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    person(subject.ok_or(ClaimsError::Subject)?, claims)
}

impl Identity {
    /// This person as the userinfo endpoint tells (OpenID Connect Core section 5.3.2): many providers put no more than the
    /// subject into an ID token.
    ///
    /// # Errors
    /// [`ClaimsError::OtherSubject`] or [`ClaimsError::Text`].
    pub fn completed(&self, userinfo: &Map<String, Value>) -> Result<Self, ClaimsError> {
        if userinfo.get("sub").and_then(Value::as_str) != Some(&self.subject) {
            return Err(ClaimsError::OtherSubject);
        }
        let told = person(&self.subject, userinfo)?;
        Ok(Self {
            name: told.name.clone().or_else(|| self.name.clone()),
            ..told
        })
    }
}

fn person(subject: &str, claims: &Map<String, Value>) -> Result<Identity, ClaimsError> {
    Ok(Identity {
        subject: subject.to_owned(),
        email: optional_text(claims, "email")?,
        email_verified: claims.get("email_verified") == Some(&Value::Bool(true)),
        name: optional_text(claims, "name")?,
    })
}

fn is_alone(aud: Option<&Value>, client_id: &str) -> bool {
    match aud {
        Some(Value::String(one)) => one == client_id,
        Some(Value::Array(all)) => matches!(all.as_slice(), [Value::String(one)] if one == client_id),
        _ => false,
    }
}

fn check_times(claims: &Map<String, Value>, now: UnixTime) -> Result<(), ClaimsError> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => whole_seconds(value)
            .map(|time| Some(UnixTime(time)))
            .ok_or(ClaimsError::Time),
    };
    let (exp, iat, nbf) = (time("exp")?, time("iat")?, time("nbf")?);
    let (exp, iat) = exp.zip(iat).ok_or(ClaimsError::Time)?;
    if now >= exp + LEEWAY {
        return Err(ClaimsError::Expired);
    }
    if iat.max(nbf.unwrap_or(iat)) > now + LEEWAY {
        return Err(ClaimsError::Future);
    }
    Ok(())
}

/// An empty text is none.
fn optional_text(claims: &Map<String, Value>, name: &str) -> Result<Option<String>, ClaimsError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(ClaimsError::Text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn judged(change: impl FnOnce(&mut Value)) -> Result<Identity, ClaimsError> {
        let mut claims = json!({
            "iss": "https://id.example", "sub": "248289761001", "aud": "keyround", "nonce": "n-0S6", "iat": NOW,
            "exp": NOW + 300, "email": "jane@example.com", "email_verified": true, "name": "Jane Doe",
        });
        change(&mut claims);
        let Value::Object(claims) = claims else { unreachable!() };
        identity(
            &claims,
            Expected {
                issuer: &"https://id.example".parse().unwrap(),
                client_id: &"keyround".parse().unwrap(),
                nonce: "n-0S6",
                now: UnixTime(NOW),
            },
        )
    }

    fn with(name: &str, value: Value) -> Result<Identity, ClaimsError> {
        judged(|claims| claims[name] = value)
    }

    fn without(name: &str) -> Result<Identity, ClaimsError> {
        judged(|claims| drop(claims.as_object_mut().unwrap().remove(name)))
    }

    #[test]
    fn a_good_token_says_who_somebody_is() {
        let identity = judged(|_| {}).unwrap();
        assert_eq!(identity.subject, "248289761001");
        assert_eq!(
            (identity.email.as_deref(), identity.email_verified),
            (Some("jane@example.com"), true)
        );
        assert_eq!(identity.name.as_deref(), Some("Jane Doe"));
        assert!(with("aud", json!(["keyround"])).is_ok());
        assert!(with("azp", json!("keyround")).is_ok());
        assert_eq!(without("email").unwrap().email, None);
        assert_eq!(with("name", json!("")).unwrap().name, None);
    }

    #[test]
    fn only_true_says_that_an_email_is_verified() {
        for other in [json!(false), json!("true"), json!(1), json!(null), json!([true])] {
            assert!(
                !with("email_verified", other.clone()).unwrap().email_verified,
                "{other}"
            );
        }
        assert!(!without("email_verified").unwrap().email_verified);
    }

    #[test]
    fn userinfo_completes_the_same_person_alone() {
        let bare = judged(|claims| {
            for name in ["email", "email_verified"] {
                claims.as_object_mut().unwrap().remove(name);
            }
        })
        .unwrap();
        let userinfo = |change: &dyn Fn(&mut Value)| {
            let mut claims = json!({ "sub": "248289761001", "email": "jane@example.com", "email_verified": true });
            change(&mut claims);
            bare.completed(claims.as_object().unwrap())
        };
        let whole = userinfo(&|_| {}).unwrap();
        assert_eq!(whole, judged(|_| {}).unwrap());
        let unverified = userinfo(&|claims| claims["email_verified"] = "true".into()).unwrap();
        assert!(!unverified.email_verified);
        for other in [json!("248289761002"), json!(248_289_761_001_i64), Value::Null] {
            let told = userinfo(&|claims| claims["sub"] = other.clone());
            assert_eq!(told, Err(ClaimsError::OtherSubject), "{other}");
        }
        assert_eq!(userinfo(&|claims| claims["email"] = 7.into()), Err(ClaimsError::Text));
    }

    #[test]
    fn each_claim_that_is_not_as_it_must_be_is_named() {
        for (name, value, error) in [
            ("iss", json!("https://id.example/"), ClaimsError::Issuer),
            ("iss", json!("https://ID.example"), ClaimsError::Issuer),
            ("iss", json!(["https://id.example"]), ClaimsError::Issuer),
            ("aud", json!("other"), ClaimsError::Audience),
            ("aud", json!("keyroun"), ClaimsError::Audience),
            ("aud", json!([]), ClaimsError::Audience),
            ("aud", json!(["keyround", "other"]), ClaimsError::Audience),
            ("aud", json!(["other"]), ClaimsError::Audience),
            ("aud", json!({ "keyround": 1 }), ClaimsError::Audience),
            ("azp", json!("other"), ClaimsError::AuthorizedParty),
            ("azp", json!(null), ClaimsError::AuthorizedParty),
            ("nonce", json!("n-0S7"), ClaimsError::Nonce),
            ("nonce", json!(["n-0S6"]), ClaimsError::Nonce),
            ("sub", json!(""), ClaimsError::Subject),
            ("sub", json!(7), ClaimsError::Subject),
            ("sub", json!("a\nb"), ClaimsError::Subject),
            ("sub", json!("a".repeat(256)), ClaimsError::Subject),
            ("email", json!(["a@b.c"]), ClaimsError::Text),
            ("name", json!({}), ClaimsError::Text),
        ] {
            assert_eq!(with(name, value.clone()), Err(error), "{name} {value}");
        }
        for (name, error) in [
            ("iss", ClaimsError::Issuer),
            ("aud", ClaimsError::Audience),
            ("nonce", ClaimsError::Nonce),
            ("sub", ClaimsError::Subject),
            ("exp", ClaimsError::Time),
            ("iat", ClaimsError::Time),
        ] {
            assert_eq!(without(name), Err(error), "{name}");
        }
    }

    #[test]
    fn times_are_numbers_and_hold_to_the_second() {
        for name in ["exp", "iat", "nbf"] {
            for value in [
                json!("1800000000"),
                json!(1e300),
                json!(u64::MAX),
                json!(null),
                json!([NOW]),
            ] {
                assert_eq!(with(name, value.clone()), Err(ClaimsError::Time), "{name} {value}");
            }
        }
        for time in [json!(1_800_000_000.5), json!(1.8e9)] {
            assert!(
                judged(|claims| ["exp", "iat", "nbf"]
                    .iter()
                    .for_each(|name| claims[*name] = time.clone()))
                .is_ok()
            );
        }
        for (name, distance, expected) in [
            ("exp", -59, Ok(())),
            ("exp", -60, Err(ClaimsError::Expired)),
            ("iat", 60, Ok(())),
            ("iat", 61, Err(ClaimsError::Future)),
            ("nbf", 60, Ok(())),
            ("nbf", 61, Err(ClaimsError::Future)),
        ] {
            let judged = with(name, json!(NOW + distance)).map(drop);
            assert_eq!(judged, expected, "{name} {distance}");
        }
        assert_eq!(with("exp", json!(i64::MIN)), Err(ClaimsError::Expired));
        assert!(with("exp", json!(i64::MAX)).is_ok());
    }
}
