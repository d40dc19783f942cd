//! An ID token of another provider (OpenID Connect Core section 2): read as strictly as our own tokens, verified with the
//! provider's own keys.

use serde_json::{Map, Value};

use super::jwk::PublicJwk;
use super::jws::{Compact, Malformed, NotVerified, VerifyingKey};

/// Why an ID token is not accepted. No variant holds a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    /// Not a JWS in its one spelling.
    #[error("it is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// A header that demands what is not understood, or of another kind of token.
    #[error("its header must have a text as alg, no other typ than JWT, a text as kid if any, and no crit and b64")]
    Header,
    /// `none`, an HMAC, or anything else that we do not verify.
    #[error("its alg must be RS256 or ES256")]
    Algorithm,
    /// No key of the provider, or more than one, fits the header.
    #[error("its kid and alg must fit exactly one key of the provider's key set")]
    Key,
    /// The signature or the spelling of the claims.
    #[error(transparent)]
    NotVerified(#[from] NotVerified),
}

/// An ID token as it came: nothing in it is proved yet.
pub struct IdToken<'a> {
    alg: String,
    kid: Option<String>,
    token: Compact<'a>,
}

impl<'a> IdToken<'a> {
    /// Reads an ID token. What its header says beside `alg`, `typ` and `kid` is left alone, as RFC 7515 section 4 asks for:
    /// providers add thumbprints and more. A key comes from the provider's key set and from nowhere else.
    ///
    /// # Errors
    /// [`IdTokenError::Malformed`], [`IdTokenError::Header`] or [`IdTokenError::Algorithm`].
    pub fn parse(text: &'a str) -> Result<Self, IdTokenError> {
        let token = Compact::parse(text)?;
        let text = |name| match token.header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(IdTokenError::Header),
        };
        let (alg, typ, kid) = (text("alg")?.ok_or(IdTokenError::Header)?, text("typ")?, text("kid")?);
        let is_other_type = typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT"));
        if is_other_type || ["crit", "b64"].iter().any(|name| token.header.contains_key(*name)) {
            return Err(IdTokenError::Header);
        }
        if alg.parse::<super::alg::Algorithm>().is_err() {
            return Err(IdTokenError::Algorithm);
        }
        Ok(Self { alg, kid, token })
    }

    /// Whether the header may mean this key.
    #[must_use]
    pub fn fits(&self, key: &PublicJwk) -> bool {
        let is_named = self.kid.as_deref().is_none_or(|kid| kid == key.kid.as_str());
        is_named && self.alg == key.alg.name()
    }

    /// The claims, once the signature is found to be by the one key that the header means.
    ///
    /// # Errors
    /// [`IdTokenError::Key`] or [`IdTokenError::NotVerified`].
    pub fn verified(&self, keys: &[PublicJwk]) -> Result<Map<String, Value>, IdTokenError> {
        let mut fitting = keys.iter().filter(|key| self.fits(key));
        let (Some(key), None) = (fitting.next(), fitting.next()) else {
            return Err(IdTokenError::Key);
        };
        let key = VerifyingKey::new(key).map_err(|_| IdTokenError::Key)?;
        Ok(self.token.verified(&key)?)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
    use serde_json::json;

    use super::*;
    use crate::jose::alg::Algorithm;
    use crate::jose::key::{PrivateKey, RsaBits, VerifyError};

    struct Issuer {
        key: PrivateKey,
        jwk: PublicJwk,
    }

    impl Issuer {
        fn new(alg: Algorithm, kid: &str) -> Self {
            let key = PrivateKey::generate(alg, RsaBits::Bits2048).unwrap();
            let jwk = PublicJwk {
                kid: kid.parse().unwrap(),
                ..key.public_jwk().unwrap()
            };
            Self { key, jwk }
        }

        fn token(&self, header: &Value) -> String {
            let message = format!(
                "{}.{}",
                BASE64URL.encode(header.to_string()),
                BASE64URL.encode(r#"{"sub":"1"}"#)
            );
            let signature = self.key.sign(message.as_bytes()).unwrap();
            format!("{message}.{}", BASE64URL.encode(signature))
        }
    }

    fn judged(token: &str, keys: &[PublicJwk]) -> Result<Map<String, Value>, IdTokenError> {
        IdToken::parse(token)?.verified(keys)
    }

    #[test]
    fn headers_as_providers_write_them_are_read() {
        for alg in Algorithm::ALL {
            let issuer = Issuer::new(alg, "a");
            let alg = alg.name();
            for header in [
                json!({ "alg": alg }),
                json!({ "alg": alg, "kid": "a" }),
                json!({ "typ": "JWT", "alg": alg, "kid": "a", "x5t": "abc" }),
                json!({ "typ": "jwt", "alg": alg, "jwk": { "kty": "RSA" }, "jku": "https://attacker.example" }),
            ] {
                let claims = judged(&issuer.token(&header), std::slice::from_ref(&issuer.jwk)).unwrap();
                assert_eq!(claims["sub"], "1", "{header}");
            }
        }
    }

    #[test]
    fn each_fault_is_refused() {
        let issuer = Issuer::new(Algorithm::Es256, "a");
        let other = Issuer::new(Algorithm::Es256, "b");
        let keys = [issuer.jwk.clone(), other.jwk.clone()];
        for (header, fault) in [
            (json!({ "alg": "none", "kid": "a" }), IdTokenError::Algorithm),
            (json!({ "alg": "None", "kid": "a" }), IdTokenError::Algorithm),
            (json!({ "alg": "HS256", "kid": "a" }), IdTokenError::Algorithm),
            (json!({ "alg": "PS256", "kid": "a" }), IdTokenError::Algorithm),
            (json!({ "alg": 1, "kid": "a" }), IdTokenError::Header),
            (json!({ "kid": "a" }), IdTokenError::Header),
            (json!({ "alg": "ES256", "kid": null }), IdTokenError::Header),
            (
                json!({ "alg": "ES256", "kid": "a", "typ": "at+jwt" }),
                IdTokenError::Header,
            ),
            (
                json!({ "alg": "ES256", "kid": "a", "typ": "logout+jwt" }),
                IdTokenError::Header,
            ),
            (
                json!({ "alg": "ES256", "kid": "a", "crit": ["exp"] }),
                IdTokenError::Header,
            ),
            (
                json!({ "alg": "ES256", "kid": "a", "b64": false }),
                IdTokenError::Header,
            ),
            (json!({ "alg": "ES256", "kid": "c" }), IdTokenError::Key),
            (json!({ "alg": "RS256", "kid": "a" }), IdTokenError::Key),
            // Without a kid both keys fit.
            (json!({ "alg": "ES256" }), IdTokenError::Key),
            (
                json!({ "alg": "ES256", "kid": "b" }),
                IdTokenError::NotVerified(NotVerified::Signature(VerifyError::Signature)),
            ),
        ] {
            assert_eq!(judged(&issuer.token(&header), &keys), Err(fault), "{header}");
        }
        let good = issuer.token(&json!({ "alg": "ES256", "kid": "a" }));
        assert!(judged(&good, &keys).is_ok());
        let unsigned = &good[..=good.rfind('.').unwrap()];
        assert_eq!(judged(unsigned, &keys), Err(IdTokenError::Malformed(Malformed::Parts)));
        let twice = format!("{}.e30.AA", BASE64URL.encode(r#"{"alg":"ES256","alg":"ES256"}"#));
        assert_eq!(judged(&twice, &keys), Err(IdTokenError::Malformed(Malformed::Header)));
    }
}
