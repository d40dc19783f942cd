//! Access tokens (RFC 9068): their claims, their signature, and a strict check of the signature alone.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::crypto::sha256;

use super::alg::Algorithm;
use super::jwk::{Kid, PublicJwk};
use super::key::{KeyError, PrivateKey, VerifyError, verify};

/// What the header's `typ` says of an access token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum TokenType {
    /// The media type of access tokens (RFC 9068 section 2.1).
    #[default]
    #[serde(rename = "at+jwt")]
    AtJwt,
    /// For verifiers that accept nothing else, such as Spring Security's default. ID tokens have this type too, so that the audience
    /// of such an access token must never be a `client_id`.
    #[serde(rename = "JWT")]
    Jwt,
}

/// The text names no type of access tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token type is at+jwt or JWT")]
pub struct UnknownTokenType;

impl TokenType {
    /// Both.
    pub const ALL: [Self; 2] = [Self::AtJwt, Self::Jwt];

    /// The value of `typ`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AtJwt => "at+jwt",
            Self::Jwt => "JWT",
        }
    }
}

impl FromStr for TokenType {
    type Err = UnknownTokenType;

    /// In its one spelling.
    fn from_str(text: &str) -> Result<Self, UnknownTokenType> {
        Self::ALL
            .into_iter()
            .find(|token_type| token_type.name() == text)
            .ok_or(UnknownTokenType)
    }
}

impl fmt::Display for TokenType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The longest token that is read, in octets.
const LONGEST_TOKEN: usize = 16_384;

/// Who a token is for: one recipient or more (RFC 7519 section 4.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudienceClaim(Vec<String>);

/// An audience without a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an audience needs at least one recipient")]
pub struct EmptyAudience;

impl AudienceClaim {
    /// The audience of one recipient.
    #[must_use]
    pub fn one(recipient: impl Into<String>) -> Self {
        Self(vec![recipient.into()])
    }

    /// The recipients, never none.
    #[must_use]
    pub fn recipients(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<Vec<String>> for AudienceClaim {
    type Error = EmptyAudience;

    fn try_from(recipients: Vec<String>) -> Result<Self, EmptyAudience> {
        if recipients.is_empty() {
            return Err(EmptyAudience);
        }
        Ok(Self(recipients))
    }
}

impl Serialize for AudienceClaim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => serializer.serialize_str(one),
            several => several.serialize(serializer),
        }
    }
}

/// The claims of an access token (RFC 9068 section 2.2). Times are whole seconds since 1970: `josekit` would write `iat`
/// as a float, which strict clients refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessTokenClaims {
    /// The issuer.
    pub iss: String,
    /// The user, or the client where it acts for itself.
    pub sub: String,
    /// Who may accept the token.
    pub aud: AudienceClaim,
    /// The client it was given to (RFC 8693 section 4.3).
    pub client_id: String,
    /// When it was issued.
    pub iat: i64,
    /// From when on it is refused.
    pub exp: i64,
    /// Its unique name, of [`random_jti`].
    pub jti: String,
    /// What was granted, separated by spaces (RFC 8693 section 4.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// What the token of a user's session says besides.
    #[serde(flatten)]
    pub session: Option<SessionClaims>,
}

/// The claims of an ID token (OpenID Connect Core 1.0 section 2), which tells a client who logged in, when and how. Times are whole
/// seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdTokenClaims {
    /// The issuer.
    pub iss: String,
    /// The user.
    pub sub: String,
    /// The client that it is for, and no one else.
    pub aud: String,
    /// From when on it is refused.
    pub exp: i64,
    /// When it was issued.
    pub iat: i64,
    /// When the user was authenticated.
    pub auth_time: i64,
    /// What the client sent with its request; none in a token that a refresh brings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// How surely the user was authenticated, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// How (RFC 8176), where that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
    /// The client that it was given to.
    pub azp: String,
    /// The login session.
    pub sid: String,
    /// The left half of the SHA-256 of the access token that comes with it (section 3.1.3.6), in base64url.
    pub at_hash: String,
    /// What it says of the person besides.
    #[serde(flatten)]
    pub person: Map<String, Value>,
}

impl IdTokenClaims {
    /// `at_hash` of an access token.
    #[must_use]
    pub fn hash_of(access_token: &str) -> String {
        BASE64URL.encode(&sha256(access_token.as_bytes())[..16])
    }
}

/// The claims of a token that belongs to a user's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionClaims {
    /// From when on it is valid: earlier than `iat`, so that a verifier whose clock is behind and who allows no leeway accepts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// The login session (OpenID Connect Front-Channel Logout 1.0 section 3).
    pub sid: String,
    /// The grant that the token was issued by, as Grant Management for OAuth 2.0 names it; a token of an earlier version has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<String>,
    /// The tenant of the user.
    pub tid: String,
    /// What the user is, coarsely (RFC 9068 section 2.2.3.1).
    pub roles: Vec<String>,
}

impl SessionClaims {
    /// The grant; that of a token without one has the name of its login session.
    #[must_use]
    pub fn grant(&self) -> &str {
        self.grant_id.as_deref().unwrap_or(&self.sid)
    }
}

/// A private key with the header of all its tokens, ready for the next request.
pub struct Signer {
    kid: Kid,
    /// By [`TokenType::ALL`].
    encoded_headers: [String; TokenType::ALL.len()],
    key: PrivateKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, {}, redacted)", self.kid, self.key.algorithm())
    }
}

impl Signer {
    /// A signer whose tokens name `kid`, the name the key is published under.
    #[must_use]
    pub fn new(kid: Kid, key: PrivateKey) -> Self {
        // Neither an algorithm nor a kid has a character that JSON escapes.
        let header = |typ: TokenType| format!(r#"{{"alg":"{}","typ":"{typ}","kid":"{kid}"}}"#, key.algorithm());
        let encoded_headers = TokenType::ALL.map(|typ| BASE64URL.encode(header(typ)));
        Self {
            kid,
            encoded_headers,
            key,
        }
    }

    /// The name of the key.
    #[must_use]
    pub const fn kid(&self) -> &Kid {
        &self.kid
    }

    /// The algorithm of the key.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.key.algorithm()
    }

    /// Writes and signs a token in the compact serialization (RFC 7515 section 7.1).
    ///
    /// # Errors
    /// [`KeyError`] when OpenSSL cannot sign.
    pub fn sign_access_token(&self, typ: TokenType, claims: &AccessTokenClaims) -> Result<String, KeyError> {
        self.sign(typ, claims)
    }

    /// The same of an ID token, whose type is `JWT`.
    ///
    /// # Errors
    /// [`KeyError`] when OpenSSL cannot sign.
    pub fn sign_id_token(&self, claims: &IdTokenClaims) -> Result<String, KeyError> {
        self.sign(TokenType::Jwt, claims)
    }

    fn sign(&self, typ: TokenType, claims: &impl Serialize) -> Result<String, KeyError> {
        let encoded_header = &self.encoded_headers[typ as usize];
        let claims = serde_json::to_vec(claims)?;
        let mut token = String::with_capacity(encoded_header.len() + claims.len() * 4 / 3 + 700);
        token.push_str(encoded_header);
        token.push('.');
        BASE64URL.encode_string(claims, &mut token);
        let signature = self.key.sign(token.as_bytes())?;
        token.push('.');
        BASE64URL.encode_string(signature, &mut token);
        Ok(token)
    }
}

/// A unique name for a token: 128 random bits (RFC 7519 section 4.1.7).
///
/// From each thread's own generator (`ChaCha12`), which the operating system seeds, and again after every 64 KiB: a `jti` needs to be
/// unique, and OpenSSL's generator takes as long as all claims together.
#[must_use]
pub fn random_jti() -> String {
    BASE64URL.encode(rand::random::<[u8; 16]>())
}

/// Why a token's signature is not accepted. No variant holds a part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWS in the compact serialization, or with a header that is not exactly ours.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// The header's `kid` names no key.
    #[error("the token's kid names no key of the set")]
    UnknownKey,
    /// The header's `kid` names several keys.
    #[error("the token's kid names more than one key of the set; it must name exactly one")]
    AmbiguousKey,
    /// The header's `alg` is not the one the key is for.
    #[error("the token's alg is not the one its key is for (RFC 8725 section 3.1)")]
    WrongAlgorithm,
    /// Another kind of token.
    #[error("the token's typ must be at+jwt (RFC 9068 section 4), or JWT for a client that is registered for it")]
    WrongType,
    /// The signature does not verify.
    #[error(transparent)]
    Signature(#[from] VerifyError),
}

/// The header, whole. Whatever else a header may hold (`jwk`, `jku`, `x5u`, `crit`) is refused with the rest of the
/// unknown (RFC 8725 section 3.10).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenHeader {
    alg: String,
    typ: String,
    kid: String,
}

/// Verifies the signature of an access token with the second implementation, and gives its claims. It checks no claim:
/// whether the token has expired and whom it is for is the caller's to ask.
///
/// # Errors
/// [`TokenError`] says what is wrong.
pub fn verify_access_token_signature(token: &str, keys: &[PublicJwk]) -> Result<serde_json::Value, TokenError> {
    if token.len() > LONGEST_TOKEN {
        return Err(TokenError::Malformed("it is longer than 16384 octets"));
    }
    let three_parts = TokenError::Malformed("it must have three parts separated by dots");
    let (message, signature) = token.rsplit_once('.').ok_or(three_parts)?;
    let (header, claims) = message.split_once('.').ok_or(three_parts)?;
    if claims.contains('.') {
        return Err(three_parts);
    }
    let header = decode(header)?;
    // Without this a list of the three values would pass.
    let header: TokenHeader = Some(header)
        .filter(|header| header.first() == Some(&b'{'))
        .and_then(|header| serde_json::from_slice(&header).ok())
        .ok_or(TokenError::Malformed(
            "its header must be a JSON object of alg, typ and kid alone",
        ))?;
    let key = resolve(&header, keys)?;
    verify(key, message.as_bytes(), &decode(signature)?)?;
    serde_json::from_slice(&decode(claims)?)
        .ok()
        .filter(serde_json::Value::is_object)
        .ok_or(TokenError::Malformed("its claims must be a JSON object"))
}

fn resolve<'a>(header: &TokenHeader, keys: &'a [PublicJwk]) -> Result<&'a PublicJwk, TokenError> {
    let mut named = keys.iter().filter(|key| key.kid.as_str() == header.kid);
    let key = named.next().ok_or(TokenError::UnknownKey)?;
    if named.next().is_some() {
        return Err(TokenError::AmbiguousKey);
    }
    if header.alg != key.alg.name() {
        return Err(TokenError::WrongAlgorithm);
    }
    if header.typ.parse::<TokenType>().is_err() {
        return Err(TokenError::WrongType);
    }
    Ok(key)
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL
        .decode(part)
        .map_err(|_| TokenError::Malformed("its parts must be base64url without padding"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::LazyLock;

    use josekit::jwk::Jwk;
    use josekit::jws;

    use super::*;
    use crate::jose::key::RsaBits;

    static RSA: LazyLock<(Signer, PublicJwk)> = LazyLock::new(|| signer(Algorithm::Rs256));
    static P256: LazyLock<(Signer, PublicJwk)> = LazyLock::new(|| signer(Algorithm::Es256));

    fn signer(algorithm: Algorithm) -> (Signer, PublicJwk) {
        let key = PrivateKey::generate(algorithm, RsaBits::Bits2048).unwrap();
        let jwk = key.public_jwk().unwrap();
        (Signer::new(jwk.kid.clone(), key), jwk)
    }

    fn claims() -> AccessTokenClaims {
        AccessTokenClaims {
            iss: "https://id.example".to_owned(),
            sub: "user \"1\"".to_owned(),
            aud: AudienceClaim::one("https://api.example"),
            client_id: "client".to_owned(),
            iat: 1_700_000_000,
            exp: 1_700_000_300,
            jti: "name".to_owned(),
            scope: None,
            session: None,
        }
    }

    /// A token with a header of the test's choice, rightly signed.
    fn with_header(signer: &Signer, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(payload));
        let signature = signer.key.sign(message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64URL.encode(signature))
    }

    #[test]
    fn claims_are_written_in_order_with_integers() {
        let json = serde_json::to_string(&claims()).unwrap();
        let expected = concat!(
            r#"{"iss":"https://id.example","sub":"user \"1\"","aud":"https://api.example","client_id":"client","#,
            r#""iat":1700000000,"exp":1700000300,"jti":"name"}"#
        );
        assert_eq!(json, expected);
        let two = AudienceClaim::try_from(vec!["a".to_owned(), "b".to_owned()]).unwrap();
        let scope = Some("read write".to_owned());
        let json = serde_json::to_string(&AccessTokenClaims {
            aud: two,
            scope,
            ..claims()
        })
        .unwrap();
        assert!(
            json.contains(r#""aud":["a","b"]"#) && json.ends_with(r#""scope":"read write"}"#),
            "{json}"
        );
        assert_eq!(AudienceClaim::try_from(Vec::new()), Err(EmptyAudience));
    }

    #[test]
    fn the_header_is_alg_typ_kid() {
        let (signer, jwk) = &*P256;
        let token = signer.sign_access_token(TokenType::AtJwt, &claims()).unwrap();
        let header = BASE64URL.decode(token.split('.').next().unwrap()).unwrap();
        let expected = format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{}"}}"#, jwk.kid);
        assert_eq!(String::from_utf8(header).unwrap(), expected);
        let token = signer.sign_access_token(TokenType::Jwt, &claims()).unwrap();
        let header = BASE64URL.decode(token.split('.').next().unwrap()).unwrap();
        assert_eq!(String::from_utf8(header).unwrap(), expected.replace("at+jwt", "JWT"));
        assert!(verify_access_token_signature(&token, std::slice::from_ref(jwk)).is_ok());
        for unknown in ["", "jwt", "Jwt", "AT+JWT", "application/at+jwt", "JWT "] {
            assert_eq!(unknown.parse::<TokenType>(), Err(UnknownTokenType), "{unknown}");
        }
    }

    #[test]
    fn our_tokens_verify_under_the_second_implementation_and_under_josekit() {
        let keys = [RSA.1.clone(), P256.1.clone()];
        for (signer, jwk) in [&*RSA, &*P256] {
            let token = signer.sign_access_token(TokenType::AtJwt, &claims()).unwrap();
            let expected = serde_json::to_value(claims()).unwrap();
            assert_eq!(verify_access_token_signature(&token, &keys), Ok(expected.clone()));
            let published = Jwk::from_bytes(jwk.to_json()).unwrap();
            let verifier: Box<dyn jws::JwsVerifier> = match signer.algorithm() {
                Algorithm::Rs256 => Box::new(jws::RS256.verifier_from_jwk(&published).unwrap()),
                Algorithm::Es256 => Box::new(jws::ES256.verifier_from_jwk(&published).unwrap()),
            };
            let (payload, header) = jws::deserialize_compact(&token, &*verifier).unwrap();
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&payload).unwrap(), expected);
            assert_eq!(header.token_type(), Some("at+jwt"));
            assert_eq!(header.key_id(), Some(signer.kid().as_str()));
        }
    }

    #[test]
    fn each_fault_of_a_token_is_refused() {
        let (signer, jwk) = &*P256;
        let kid = &jwk.kid;
        let keys = [RSA.1.clone(), jwk.clone()];
        let good = signer.sign_access_token(TokenType::AtJwt, &claims()).unwrap();
        let with = |header: &str| with_header(signer, header, "{}");
        let three_parts = TokenError::Malformed("it must have three parts separated by dots");
        let encoding = TokenError::Malformed("its parts must be base64url without padding");
        let not_ours = TokenError::Malformed("its header must be a JSON object of alg, typ and kid alone");
        let cases = [
            (good[..good.rfind('.').unwrap()].to_owned(), three_parts),
            (format!("{good}."), three_parts),
            (String::new(), three_parts),
            (format!("{good}=="), encoding),
            (format!("{good} "), encoding),
            (format!(" {good}"), encoding),
            (
                with(&format!(
                    r#"{{"alg":"ES256","typ":"at+jwt","kid":"{kid}","crit":["b64"]}}"#
                )),
                not_ours,
            ),
            (
                with(&format!(
                    r#"{{"alg":"ES256","typ":"at+jwt","kid":"{kid}","kid":"{kid}"}}"#
                )),
                not_ours,
            ),
            (
                with(&format!(
                    r#"{{"alg":"ES256","typ":"at+jwt","kid":"{kid}","jku":"https://x"}}"#
                )),
                not_ours,
            ),
            (with(r#"{"alg":"ES256","typ":"at+jwt"}"#), not_ours),
            (
                with(r#"{"alg":"ES256","typ":"at+jwt","kid":"x"}"#),
                TokenError::UnknownKey,
            ),
            (
                with(&format!(r#"{{"alg":"none","typ":"at+jwt","kid":"{kid}"}}"#)),
                TokenError::WrongAlgorithm,
            ),
            (
                with(&format!(r#"{{"alg":"RS256","typ":"at+jwt","kid":"{kid}"}}"#)),
                TokenError::WrongAlgorithm,
            ),
            (
                with(&format!(r#"{{"alg":"ES256","typ":"jwt","kid":"{kid}"}}"#)),
                TokenError::WrongType,
            ),
            (
                format!("{}.", &good[..good.rfind('.').unwrap()]),
                TokenError::Signature(VerifyError::Signature),
            ),
            (
                with_header(
                    signer,
                    &format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{kid}"}}"#),
                    "[]",
                ),
                TokenError::Malformed("its claims must be a JSON object"),
            ),
            (
                "a".repeat(LONGEST_TOKEN + 1),
                TokenError::Malformed("it is longer than 16384 octets"),
            ),
        ];
        for (token, reason) in cases {
            assert_eq!(verify_access_token_signature(&token, &keys), Err(reason), "{token}");
        }
        let twice = [jwk.clone(), jwk.clone()];
        assert_eq!(
            verify_access_token_signature(&good, &twice),
            Err(TokenError::AmbiguousKey)
        );
        let mut impostor = RSA.1.clone();
        impostor.kid = kid.clone();
        assert_eq!(
            verify_access_token_signature(&good, &[impostor]),
            Err(TokenError::WrongAlgorithm)
        );
    }

    #[test]
    fn no_changed_character_of_a_token_passes() {
        let (signer, jwk) = &*P256;
        let good = signer.sign_access_token(TokenType::AtJwt, &claims()).unwrap();
        for (position, character) in good.char_indices().step_by(11) {
            let mut changed = good.clone();
            changed.replace_range(position..=position, if character == 'A' { "B" } else { "A" });
            assert!(verify_access_token_signature(&changed, std::slice::from_ref(jwk)).is_err());
        }
    }

    #[test]
    fn names_of_tokens_have_128_bits_and_differ() {
        let names: HashSet<String> = (0..1000).map(|_| random_jti()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| BASE64URL.decode(name).unwrap().len() == 16));
    }

    #[test]
    fn debug_shows_no_key() {
        let (signer, jwk) = &*RSA;
        assert_eq!(format!("{signer:?}"), format!("Signer({}, RS256, redacted)", jwk.kid));
    }
}
