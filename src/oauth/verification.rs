//! Whether a token is one of ours and valid now: the strict check of an access token (RFC 9068 section 4; RFC 8725).
//!
//! Pure: a function of the token, the keys and the time. Whether it was denied since, and whether its client still
//! exists, is known elsewhere.

use serde_json::Value;

use crate::clock::{Seconds, UnixTime};
use crate::jose::jwk::Kid;
use crate::jose::jws::{Malformed, NotVerified, SignatureKey, Unverified};
use crate::jose::jwt::{SessionClaims, TokenType};
use crate::keys::SigningKey;
use crate::keys::lifecycle::Keys;
use crate::keys::policy::Policy;
use crate::keys::state::State;

use super::client::Client;

/// The last second of the year 9999; no token is dated later.
const LATEST_DATE: i64 = 253_402_300_799;

/// What is checked, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VerificationStep {
    /// It is a token in the one form that we write.
    Form,
    /// Its `kid` names a key that has signed and is trusted.
    Key,
    /// Its `alg` is the key's.
    Algorithm,
    /// It is an access token.
    Type,
    /// The key made its signature.
    Signature,
    /// The claims are there, each of its type.
    Claims,
    /// It is by this issuer.
    Issuer,
    /// It is valid now, and does not live longer than its key allows.
    Dates,
}

impl VerificationStep {
    /// Every step, in order.
    pub const ALL: [Self; 8] = [
        Self::Form,
        Self::Key,
        Self::Algorithm,
        Self::Type,
        Self::Signature,
        Self::Claims,
        Self::Issuer,
        Self::Dates,
    ];

    /// Its name in one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Key => "key",
            Self::Algorithm => "algorithm",
            Self::Type => "type",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Dates => "dates",
        }
    }
}

/// Why a token is refused. No variant holds a part of the token but its times.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerificationError {
    /// It is not a token in the one form that we write.
    #[error("the token is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// No key of ours has this name.
    #[error("its kid names no key of this server")]
    UnknownKey,
    /// The key was revoked.
    #[error("its key was revoked at {0}")]
    RevokedKey(UnixTime),
    /// The key has never signed.
    #[error("its key has signed nothing: it was to sign from {0} on, so only a thief can have used it")]
    PendingKey(UnixTime),
    /// The key left the set.
    #[error("its key left the key set, so every token that it signed has expired")]
    ExpiredKey,
    /// The header's `alg` is not the one the key is for.
    #[error("its alg is not the one that its key is for (RFC 8725 section 3.1)")]
    Algorithm,
    /// Another kind of token.
    #[error(
        "its typ must be the one that its client is registered for: at+jwt (RFC 9068 section 4) unless JWT was chosen"
    )]
    Type,
    /// The signature is not the key's, or what was signed is no JSON object.
    #[error("{0}")]
    NotVerified(#[from] NotVerified),
    /// A claim is missing or of the wrong type.
    #[error("its claim '{claim}' must be {form} (RFC 9068 section 2.2)")]
    Claim {
        /// The claim.
        claim: &'static str,
        /// The right form.
        form: &'static str,
    },
    /// Another issuer.
    #[error("its iss is not this issuer, byte for byte")]
    Issuer,
    /// It has expired.
    #[error("it expired at {0}")]
    Expired(UnixTime),
    /// It is not valid yet.
    #[error("its {claim} is {at}, further in the future than keys.clock_skew explains")]
    NotYet {
        /// The claim.
        claim: &'static str,
        /// What it says.
        at: UnixTime,
    },
    /// It lives longer than any token of its key.
    #[error("it lives {lifetime}, but its key signs tokens of more than 0s and at most {longest}")]
    Lifetime {
        /// How long.
        lifetime: Seconds,
        /// How long it may.
        longest: Seconds,
    },
}

impl VerificationError {
    /// The step that it fell at.
    #[must_use]
    pub const fn step(&self) -> VerificationStep {
        match self {
            Self::Malformed(_) => VerificationStep::Form,
            Self::UnknownKey | Self::RevokedKey(_) | Self::PendingKey(_) | Self::ExpiredKey => VerificationStep::Key,
            Self::Algorithm => VerificationStep::Algorithm,
            Self::Type => VerificationStep::Type,
            Self::NotVerified(NotVerified::Signature(_)) => VerificationStep::Signature,
            Self::NotVerified(_) | Self::Claim { .. } => VerificationStep::Claims,
            Self::Issuer => VerificationStep::Issuer,
            Self::Expired(_) | Self::NotYet { .. } | Self::Lifetime { .. } => VerificationStep::Dates,
        }
    }
}

/// What a token is held against.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The issuer, byte for byte.
    pub issuer: &'a str,
    /// The time.
    pub now: UnixTime,
    /// How far ahead another node's clock may be.
    pub clock_skew: Seconds,
}

/// A key of ours that has signed and is trusted.
#[derive(Clone, Copy, Debug)]
pub struct TrustedKey<'k> {
    /// The public half.
    pub key: &'k SignatureKey,
    /// The longest lifetime of any token that it signs.
    pub max_token_ttl: Seconds,
}

/// A valid access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// The key that signed it.
    pub kid: Kid,
    /// What its header says that it is; whether its client is registered for this is another question.
    pub token_type: TokenType,
    /// The issuer.
    pub iss: String,
    /// Whom it speaks for.
    pub sub: String,
    /// Who may accept it, never none.
    pub aud: Vec<String>,
    /// The client it was given to.
    pub client_id: String,
    /// When it was issued.
    pub iat: UnixTime,
    /// From when on it is refused.
    pub exp: UnixTime,
    /// Its unique name.
    pub jti: String,
    /// What was granted.
    pub scope: Option<String>,
    /// The session of the user whom it speaks for; none where a client acts for itself.
    pub session: Option<SessionClaims>,
}

/// Holds a token against everything that can be known from the keys and the time; `find` is asked once, for the key that
/// the header names.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify<'k>(
    token: &str,
    expected: &Expected<'_>,
    find: impl FnOnce(&Kid) -> Result<TrustedKey<'k>, VerificationError>,
) -> Result<AccessToken, VerificationError> {
    let unverified = Unverified::parse(token)?;
    let kid: Kid = unverified.kid.parse().map_err(|_| VerificationError::UnknownKey)?;
    let trusted = find(&kid)?;
    if unverified.alg != trusted.key.algorithm().name() {
        return Err(VerificationError::Algorithm);
    }
    // In its one spelling: every token that can pass was written by us.
    let token_type: TokenType = unverified.typ.parse().map_err(|_| VerificationError::Type)?;
    let mut claims = Claims(unverified.verified(trusted.key, CLAIMS)?);
    let not_before = claims.optional("nbf", Claims::date)?;
    let token = claims.token(kid, token_type, not_before)?;
    if token.iss != expected.issuer {
        return Err(VerificationError::Issuer);
    }
    check_dates(&token, not_before, expected, trusted.max_token_ttl)?;
    Ok(token)
}

/// The login that an ID token of this server names (OpenID Connect Core 1.0 section 3.1.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintedLogin {
    /// The user.
    pub sub: String,
    /// The login session.
    pub sid: String,
    /// The client that the token was given to.
    pub client_id: String,
}

/// Reads `id_token_hint`. The token may have expired: a client sends the last one that it has. `None` if a trusted key did not sign it as an ID
/// token of this issuer.
#[must_use]
pub fn read_hint<'k>(
    token: &str,
    issuer: &str,
    find: impl FnOnce(&Kid) -> Result<TrustedKey<'k>, VerificationError>,
) -> Option<HintedLogin> {
    let unverified = Unverified::parse(token).ok()?;
    let trusted = find(&unverified.kid.parse().ok()?).ok()?;
    if unverified.alg != trusted.key.algorithm().name() || unverified.typ != TokenType::Jwt.name() {
        return None;
    }
    // No access token has the last two.
    let names = ["iss", "sub", "sid", "azp", "at_hash"];
    match unverified.verified(trusted.key, names).ok()? {
        [
            Some(Value::String(iss)),
            Some(Value::String(sub)),
            Some(Value::String(sid)),
            Some(Value::String(client_id)),
            Some(_),
        ] if iss == issuer => Some(HintedLogin { sub, sid, client_id }),
        _ => None,
    }
}

fn check_dates(
    token: &AccessToken,
    not_before: Option<UnixTime>,
    expected: &Expected<'_>,
    longest: Seconds,
) -> Result<(), VerificationError> {
    // No leeway: we know our own time.
    if token.exp <= expected.now {
        return Err(VerificationError::Expired(token.exp));
    }
    let latest = expected.now + expected.clock_skew;
    for (claim, at) in [("iat", Some(token.iat)), ("nbf", not_before)] {
        if let Some(at) = at.filter(|&at| at > latest) {
            return Err(VerificationError::NotYet { claim, at });
        }
    }
    // With `iat` at most S ahead this also bounds how far ahead `exp` may lie.
    let lifetime = token.exp - token.iat;
    if lifetime <= Seconds::ZERO || lifetime > longest {
        return Err(VerificationError::Lifetime { lifetime, longest });
    }
    Ok(())
}

/// Whether the token was given to this client, and is of the type that the client is registered for.
#[must_use]
pub fn is_client(client: &Client, token: &AccessToken) -> bool {
    client.id.as_str() == token.client_id && client.token_type == token.token_type
}

/// Whether the token of a session has the type that the settings give to people's tokens now. A token that was issued before
/// `since`, when the process read the settings, may have the former one.
#[must_use]
pub fn is_type_of_accounts(token: &AccessToken, token_type: TokenType, since: UnixTime) -> bool {
    token.token_type == token_type || token.iat < since
}

/// Whether this client may know that the token is valid: its own, or one for a resource that it is (RFC 7662 section 4).
#[must_use]
pub fn may_introspect(client: &Client, token: &AccessToken) -> bool {
    let serves = |recipient: &String| client.serves.iter().any(|served| served.as_str() == recipient);
    is_client(client, token) || token.aud.iter().any(serves)
}

/// The longest `jti` that is taken, in octets: an index of PostgreSQL cannot hold every longer one.
const LONGEST_JTI: usize = 1_024;

/// Every claim that is looked at.
const CLAIMS: [&str; 13] = [
    "iss",
    "sub",
    "aud",
    "client_id",
    "iat",
    "exp",
    "jti",
    "scope",
    "nbf",
    "sid",
    "grant_id",
    "tid",
    "roles",
];

/// The claims that are there, in the order of [`CLAIMS`]; each is taken once.
struct Claims([Option<Value>; CLAIMS.len()]);

impl Claims {
    fn place(&mut self, claim: &'static str) -> Option<&mut Option<Value>> {
        let mut places = CLAIMS.iter().zip(&mut self.0);
        places.find(|(name, _)| **name == claim).map(|(_, place)| place)
    }

    fn take(&mut self, claim: &'static str) -> Option<Value> {
        self.place(claim).and_then(Option::take)
    }

    fn token(
        mut self,
        kid: Kid,
        token_type: TokenType,
        not_before: Option<UnixTime>,
    ) -> Result<AccessToken, VerificationError> {
        Ok(AccessToken {
            kid,
            token_type,
            iss: self.text("iss")?,
            sub: self.text("sub")?,
            aud: self.audience()?,
            client_id: self.text("client_id")?,
            iat: self.date("iat")?,
            exp: self.date("exp")?,
            jti: self.name()?,
            scope: self.optional("scope", Self::text)?,
            session: self.optional("sid", |claims, _| claims.session(not_before))?,
        })
    }

    fn session(&mut self, not_before: Option<UnixTime>) -> Result<SessionClaims, VerificationError> {
        let missing = |claim, form| VerificationError::Claim { claim, form };
        let roles = match self.take("roles") {
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(role) => Some(role),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        Ok(SessionClaims {
            nbf: not_before.map(|at| at.0),
            sid: self.text("sid")?,
            grant_id: self.optional("grant_id", Self::text)?,
            tid: self.text("tid")?,
            roles: roles.ok_or(missing("roles", "a list of texts"))?,
        })
    }

    fn optional<T>(
        &mut self,
        claim: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<T, VerificationError>,
    ) -> Result<Option<T>, VerificationError> {
        let is_there = self.place(claim).is_some_and(|place| place.is_some());
        is_there.then(|| read(self, claim)).transpose()
    }

    fn text(&mut self, claim: &'static str) -> Result<String, VerificationError> {
        match self.take(claim) {
            // It may be written down, and PostgreSQL cannot store U+0000.
            Some(Value::String(text)) if !text.is_empty() && !text.contains('\0') => Ok(text),
            _ => Err(VerificationError::Claim {
                claim,
                form: "a text that is not empty and has no U+0000",
            }),
        }
    }

    /// The `jti`, which is the key of a row once the token is denied.
    fn name(&mut self) -> Result<String, VerificationError> {
        let name = self.text("jti")?;
        if name.len() > LONGEST_JTI {
            return Err(VerificationError::Claim {
                claim: "jti",
                form: "a text of at most 1024 octets",
            });
        }
        Ok(name)
    }

    fn audience(&mut self) -> Result<Vec<String>, VerificationError> {
        let text = |item| match item {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => None,
        };
        let texts: Option<Vec<String>> = match self.take("aud") {
            Some(Value::Array(items)) => items.into_iter().map(text).collect(),
            Some(item) => text(item).map(|text| vec![text]),
            None => None,
        };
        texts.filter(|texts| !texts.is_empty()).ok_or(VerificationError::Claim {
            claim: "aud",
            form: "a text that is not empty, or a list of such",
        })
    }

    fn date(&mut self, claim: &'static str) -> Result<UnixTime, VerificationError> {
        self.take(claim)
            .as_ref()
            .and_then(Value::as_i64)
            .filter(|date| (0..=LATEST_DATE).contains(date))
            .map(UnixTime)
            .ok_or(VerificationError::Claim {
                claim,
                form: "whole seconds since 1970, not after the year 9999",
            })
    }
}

/// The row of the key that this kid names, when tokens by it can be valid now.
///
/// # Errors
/// Why none can be.
pub fn trusted_row<'k>(
    keys: &'k Keys,
    policy: &Policy,
    now: UnixTime,
    kid: &Kid,
) -> Result<&'k SigningKey, VerificationError> {
    let row = keys
        .find(kid)
        .filter(|row| !row.is_keyless())
        .ok_or(VerificationError::UnknownKey)?;
    // Another node, whose clock is ahead, may have begun to sign already.
    let may_have_signed = row.activates_at <= now + policy.windows().clock_skew;
    match keys.state(row, policy, now) {
        State::Revoked => Err(VerificationError::RevokedKey(row.revoked_at.unwrap_or(now))),
        State::Expired => Err(VerificationError::ExpiredKey),
        State::Pending if !may_have_signed => Err(VerificationError::PendingKey(row.activates_at)),
        State::Retired if never_active(keys, row) => Err(VerificationError::PendingKey(row.activates_at)),
        State::Pending | State::Active | State::Retired => Ok(row),
    }
}

/// Outranked before its time came.
fn never_active(keys: &Keys, row: &SigningKey) -> bool {
    keys.superseded_at(row)
        .is_some_and(|superseded_at| superseded_at <= row.activates_at)
}
