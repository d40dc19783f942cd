//! Sessions: one login, one refresh family, one row.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use uuid::Uuid;

use crate::clock::{Seconds, UnixTime};

use super::client_address::ClientAddress;
use super::tenant::TenantId;
use super::user::{UserId, parse_uuid, uuid_at};

/// No access token of a session lives longer: after that, nothing is left of one that has ended.
pub const LONGEST_ACCESS_TOKEN: Seconds = Seconds(15 * 60);

/// `sid` of a session's tokens: a `UUIDv7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Uuid);

/// The text names no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session's id is a UUID such as 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b")]
pub struct InvalidSessionId;

impl SessionId {
    /// An id that no session has, made at this time.
    #[must_use]
    pub fn generate(now: UnixTime) -> Self {
        Self(uuid_at(now))
    }

    /// When the session began, by its id.
    #[must_use]
    pub fn created_at(self) -> UnixTime {
        let seconds = self.0.get_timestamp().map_or(0, |timestamp| timestamp.to_unix().0);
        UnixTime(i64::try_from(seconds).unwrap_or(i64::MAX))
    }

    /// Its 16 octets, as they stand in a refresh token.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The id with these octets.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, InvalidSessionId> {
        parse_uuid(text).map(Self).ok_or(InvalidSessionId)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a session has ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndedBy {
    /// The user, on this device or on another.
    Logout,
    /// The password was changed.
    PasswordChange,
    /// The account was suspended.
    Suspension,
    /// The account was deleted.
    Deletion,
    /// Its tenant was disabled.
    TenantDisabled,
    /// An operator.
    Operator,
    /// The refresh token was given back (RFC 7009).
    Revocation,
    /// A refresh token came again that had been used: it may be stolen (RFC 9700 section 4.14.2).
    Reuse,
    /// A refresh token was newer than the database: an older one was put in its place.
    Rollback,
}

impl EndedBy {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Logout,
        Self::PasswordChange,
        Self::Suspension,
        Self::Deletion,
        Self::TenantDisabled,
        Self::Operator,
        Self::Revocation,
        Self::Reuse,
        Self::Rollback,
    ];

    /// Its name in the database and the audit log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::PasswordChange => "password_change",
            Self::Suspension => "suspension",
            Self::Deletion => "deletion",
            Self::TenantDisabled => "tenant_disabled",
            Self::Operator => "operator",
            Self::Revocation => "revocation",
            Self::Reuse => "reuse",
            Self::Rollback => "rollback",
        }
    }
}

impl FromStr for EndedBy {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|reason| reason.name() == name).ok_or(())
    }
}

/// What a session is used from, as it is shown to its user: never trusted, and never compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The address of the client.
    pub address: String,
    /// What the client says it is: at most 400 characters, none of them a control character.
    pub user_agent: String,
}

impl Device {
    /// The device at this address, with its `User-Agent`.
    #[must_use]
    pub fn new(address: ClientAddress, user_agent: &str) -> Self {
        Self {
            address: address.to_string(),
            user_agent: user_agent
                .chars()
                .filter(|character| !character.is_control())
                .take(400)
                .collect(),
        }
    }
}

/// A session, without the digests of its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub sid: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// The tenant of the user.
    pub tenant: TenantId,
    /// The client that the user logged in with.
    pub client_id: String,
    /// The `aud` of its access tokens.
    pub audience: String,
    /// When the user logged in.
    pub created_at: UnixTime,
    /// When it was last refreshed.
    pub rotated_at: UnixTime,
    /// When it ends, however often it is refreshed.
    pub expires_at: UnixTime,
    /// Since when it has ended, and why.
    pub ended: Option<(UnixTime, EndedBy)>,
    /// Where it was last used from.
    pub address: String,
    /// What it was last used with.
    pub user_agent: String,
}
