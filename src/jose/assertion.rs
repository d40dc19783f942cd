//! The assertion by which a client proves itself (RFC 7523 section 3): read strictly, verified with the client's own keys.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::jwk::PublicJwk;
use super::jws::is_type;
use super::key::{VerifyError, verify};
use super::{numeric_date, strict_json};

/// The longest assertion that is read, in octets.
const LONGEST: usize = 8_192;

/// The claims of an assertion. A time is the whole second that contains it ([`numeric_date`]).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AssertionClaims {
    /// Who made it.
    pub iss: String,
    /// Whom it is about.
    pub sub: String,
    /// Whom it is for.
    aud: AssertionAudience,
    /// From when on it is refused.
    #[serde(deserialize_with = "numeric_date::deserialize")]
    pub exp: i64,
    /// When it was made.
    #[serde(default, deserialize_with = "numeric_date::deserialize_optional")]
    pub iat: Option<i64>,
    /// Before when it is refused.
    #[serde(default, deserialize_with = "numeric_date::deserialize_optional")]
    pub nbf: Option<i64>,
    /// Its unique name.
    pub jti: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum AssertionAudience {
    One(String),
    Several(Vec<String>),
}

impl AssertionClaims {
    fn parse(text: &[u8]) -> Result<Self, AssertionError> {
        serde_json::from_slice(text).map_err(|_| claims_fault(text))
    }

    /// The one recipient; none when there are several, each of whom could use the assertion at the others.
    #[must_use]
    pub fn recipient(&self) -> Option<&str> {
        match &self.aud {
            AssertionAudience::One(one) => Some(one),
            AssertionAudience::Several(all) => match all.as_slice() {
                [one] => Some(one),
                _ => None,
            },
        }
    }
}

/// The claims that are read: name, what it must be, whether it must be there.
const CLAIMS: [(&str, &str, bool); 7] = [
    ("iss", "a string", true),
    ("sub", "a string", true),
    ("aud", "a string, or a list of strings", true),
    ("exp", TIME, true),
    ("jti", "a string", true),
    ("iat", TIME, false),
    ("nbf", TIME, false),
];
const TIME: &str = "a number of seconds since 1970 (RFC 7519 section 2)";

/// What is wrong with claims that cannot be read: the first claim at fault, and nothing that it holds.
fn claims_fault(text: &[u8]) -> AssertionError {
    let whole = AssertionError::Malformed("its claims must be a JSON object in which every name occurs once");
    let mut reader = serde_json::Deserializer::from_slice(text);
    let Ok(claims) = reader.deserialize_map(SignedAssertionClaims) else {
        return whole;
    };
    for (name, form, is_needed) in CLAIMS {
        let mut values = claims.iter().filter(|(known, _)| known == name).map(|(_, value)| value);
        let (value, second) = (values.next(), values.next());
        let is_right = |value: &Value| match form {
            TIME => numeric_date::whole_seconds(value).is_some(),
            "a string" => value.is_string(),
            _ => {
                let all = value.as_array();
                value.is_string() || all.is_some_and(|all| all.iter().all(Value::is_string))
            }
        };
        match (value, second) {
            (_, Some(_)) => return AssertionError::Twice(name),
            (None, None) if is_needed => return AssertionError::Missing(name),
            (Some(value), None) if !is_right(value) => return AssertionError::ClaimType(name, form),
            _ => {}
        }
    }
    whole
}

/// Every member, also one of a name that occurred before.
struct SignedAssertionClaims;

impl<'de> Visitor<'de> for SignedAssertionClaims {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut claims = Vec::new();
        while let Some(claim) = map.next_entry()? {
            claims.push(claim);
        }
        Ok(claims)
    }
}

/// What an assertion's header says. Other members are ignored (RFC 7515 section 4): certificates' thumbprints are common, and a
/// key that the header brings along is never used.
struct AssertionHeader {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
}

impl AssertionHeader {
    fn parse(text: &[u8]) -> Result<Self, AssertionError> {
        let malformed = AssertionError::Malformed;
        let mut members = strict_json::object(text)
            .map_err(|_| malformed("its header must be a JSON object in which every name occurs once"))?;
        // Both change what the signature means (RFC 7515 section 4.1.11, RFC 7797), and neither is implemented.
        if ["crit", "b64"].iter().any(|name| members.contains_key(*name)) {
            return Err(malformed("its header must not have crit or b64"));
        }
        let mut text = |name| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(malformed("alg, typ and kid in its header must be strings")),
        };
        Ok(Self {
            alg: text("alg")?.ok_or(malformed("its header must have alg"))?,
            typ: text("typ")?,
            kid: text("kid")?,
        })
    }
}

/// Why an assertion is not accepted. No variant holds a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// Not a JWS in the compact serialization with these claims.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// A claim is absent.
    #[error("it has no {0}; its claims must be iss, sub, aud, exp and jti")]
    Missing(&'static str),
    /// A claim has another type.
    #[error("its {0} must be {1}")]
    ClaimType(&'static str, &'static str),
    /// A claim occurs twice, and two readers would take different ones.
    #[error("it has {0} twice")]
    Twice(&'static str),
    /// Another kind of token.
    #[error("its typ must be JWT or client-authentication+jwt, or be left out")]
    Type,
    /// No key of the client, or more than one, fits the header.
    #[error("its kid and alg must fit exactly one of the client's keys")]
    Key,
    /// The signature does not verify.
    #[error(transparent)]
    Signature(#[from] VerifyError),
}

/// An assertion as it was presented: nothing in it is proved yet.
pub struct Assertion<'a> {
    header: AssertionHeader,
    claims: AssertionClaims,
    message: &'a str,
    signature: Vec<u8>,
}

impl<'a> Assertion<'a> {
    /// Reads an assertion.
    ///
    /// # Errors
    /// [`AssertionError::Malformed`] or [`AssertionError::Type`].
    pub fn parse(text: &'a str) -> Result<Self, AssertionError> {
        let malformed = AssertionError::Malformed;
        if text.len() > LONGEST {
            return Err(malformed("it is longer than 8192 octets"));
        }
        let parts = malformed("it must have three parts separated by dots");
        let (message, signature) = text.rsplit_once('.').ok_or(parts)?;
        let (header, claims) = message.split_once('.').ok_or(parts)?;
        let header = AssertionHeader::parse(&decode(header)?)?;
        let is_other_type = |typ: &str| !is_type(typ, &["jwt", "client-authentication+jwt"]);
        if header.typ.as_deref().is_some_and(is_other_type) {
            return Err(AssertionError::Type);
        }
        let claims = AssertionClaims::parse(&decode(claims)?)?;
        Ok(Self {
            header,
            claims,
            message,
            signature: decode(signature)?,
        })
    }

    /// Who it says that it is about.
    #[must_use]
    pub fn claimed_subject(&self) -> &str {
        &self.claims.sub
    }

    /// Whether the header may mean this key.
    #[must_use]
    pub fn fits(&self, key: &PublicJwk) -> bool {
        let is_named = self.header.kid.as_deref().is_none_or(|kid| kid == key.kid.as_str());
        is_named && self.header.alg == key.alg.name()
    }

    /// Verifies the signature with the one key that the header names; gives the claims.
    ///
    /// # Errors
    /// [`AssertionError::Key`] or [`AssertionError::Signature`].
    pub fn verify(&self, keys: &[PublicJwk]) -> Result<&AssertionClaims, AssertionError> {
        let mut fitting = keys.iter().filter(|key| self.fits(key));
        let key = fitting.next().ok_or(AssertionError::Key)?;
        if fitting.next().is_some() {
            return Err(AssertionError::Key);
        }
        verify(key, self.message.as_bytes(), &self.signature)?;
        Ok(&self.claims)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, AssertionError> {
    BASE64URL
        .decode(part)
        .map_err(|_| AssertionError::Malformed("its parts must be base64url without padding"))
}
