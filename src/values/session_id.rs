//! The id of a session, which its tokens carry as `sid`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use uuid::Uuid;

use crate::clock::{Seconds, UnixTime};

use super::uuids::{parse_uuid, uuid_at};

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
