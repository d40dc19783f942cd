//! An ID token of another provider (OpenID Connect Core section 2): read strictly, but in every spelling that the standards give its header
//! and its claims, and verified with the provider's own keys.

use serde_json::{Map, Value};

use super::jwk::PublicJwk;
use super::jwk_set::{IssuerKey, KeyIssuer};
use super::jws::{Compact, Malformed, NotVerified, SignatureKey, is_type};

/// The place of the directory (`tid`) in an issuer of a directory service.
pub const DIRECTORY: &str = "{tenantid}";

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
    /// A key of another issuer.
    #[error("the key that signed it is for another issuer (its member issuer in the provider's key set)")]
    KeyIssuer,
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
        let is_other_type = typ.is_some_and(|typ| !is_type(&typ, &["jwt"]));
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
    /// [`IdTokenError::Key`], [`IdTokenError::KeyIssuer`] or [`IdTokenError::NotVerified`].
    pub fn verified(&self, keys: &[IssuerKey]) -> Result<Map<String, Value>, IdTokenError> {
        let mut fitting = keys.iter().filter(|key| self.fits(&key.jwk));
        let (Some(key), None) = (fitting.next(), fitting.next()) else {
            return Err(IdTokenError::Key);
        };
        let verifying = SignatureKey::new(&key.jwk).map_err(|_| IdTokenError::Key)?;
        let claims = self.token.verified(&verifying)?;
        // A key of one directory must not speak for another one.
        if !key.issuer.admits(&claims) {
            return Err(IdTokenError::KeyIssuer);
        }
        Ok(claims)
    }
}

impl KeyIssuer {
    /// Whether the key may sign these claims.
    fn admits(&self, claims: &Map<String, Value>) -> bool {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        match self {
            Self::Any => true,
            Self::Only(issuer) if issuer.contains(DIRECTORY) => {
                text("tid").is_some_and(|tid| text("iss") == Some(&issuer.replace(DIRECTORY, tid)))
            }
            Self::Only(issuer) => text("iss") == Some(issuer),
            Self::Unreadable => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
    use serde_json::json;

    use super::*;
    use crate::jose::alg::Algorithm;
    use crate::jose::jwk_set::JwkSet;
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
            self.token_with(header, &json!({ "sub": "1" }))
        }

        fn token_with(&self, header: &Value, claims: &Value) -> String {
            let message = format!(
                "{}.{}",
                BASE64URL.encode(header.to_string()),
                BASE64URL.encode(claims.to_string())
            );
            let signature = self.key.sign(message.as_bytes()).unwrap();
            format!("{message}.{}", BASE64URL.encode(signature))
        }
    }

    fn judged(token: &str, keys: &[PublicJwk]) -> Result<Map<String, Value>, IdTokenError> {
        let of_any = |jwk: &PublicJwk| IssuerKey {
            jwk: jwk.clone(),
            issuer: KeyIssuer::Any,
        };
        IdToken::parse(token)?.verified(&keys.iter().map(of_any).collect::<Vec<_>>())
    }

    #[test]
    fn a_key_of_one_issuer_verifies_no_token_of_another() {
        const ONE: &str = "https://login.example/one/v2.0";
        let provider = Issuer::new(Algorithm::Es256, "a");
        let mut jwk: Value = serde_json::from_str(&provider.jwk.to_json()).unwrap();
        let header = json!({ "alg": "ES256", "kid": "a" });
        let mut judged = |issuer: Value, claims: Value| {
            jwk["issuer"] = issuer;
            let set = json!({ "keys": [jwk.clone()] }).to_string();
            let (keys, left_out) = JwkSet::read_of_issuers(set.as_bytes()).unwrap();
            assert!(left_out.is_empty());
            let token = provider.token_with(&header, &claims);
            IdToken::parse(&token).unwrap().verified(&keys).map(drop)
        };
        let template = "https://login.example/{tenantid}/v2.0";
        for (issuer, claims, is_admitted) in [
            (json!(null), json!({ "iss": ONE, "tid": "one" }), true),
            (json!(ONE), json!({ "iss": ONE, "tid": "one" }), true),
            (json!(ONE), json!({ "iss": ONE }), true),
            (
                json!(ONE),
                json!({ "iss": "https://login.example/two/v2.0", "tid": "two" }),
                false,
            ),
            // The token of another directory that calls itself this one.
            (
                json!(ONE),
                json!({ "iss": "https://login.example/two/v2.0", "tid": "one" }),
                false,
            ),
            (json!(ONE), json!({ "tid": "one" }), false),
            (json!(template), json!({ "iss": ONE, "tid": "one" }), true),
            (json!(template), json!({ "iss": ONE, "tid": "two" }), false),
            (json!(template), json!({ "iss": ONE }), false),
            (json!(template), json!({ "iss": template, "tid": "one" }), false),
            (
                json!("https://login.example/{tenantid}/v2.0/"),
                json!({ "iss": ONE, "tid": "one" }),
                false,
            ),
            (json!(""), json!({ "iss": ONE, "tid": "one" }), false),
            (json!(7), json!({ "iss": ONE, "tid": "one" }), false),
            (json!([ONE]), json!({ "iss": ONE, "tid": "one" }), false),
        ] {
            let expected = if is_admitted {
                Ok(())
            } else {
                Err(IdTokenError::KeyIssuer)
            };
            assert_eq!(judged(issuer.clone(), claims.clone()), expected, "{issuer} {claims}");
        }
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
