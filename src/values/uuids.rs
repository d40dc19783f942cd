//! Ids that are UUIDs of version 7: they are ordered by the time of their making (RFC 9562).

use uuid::{NoContext, Timestamp, Uuid};

use crate::clock::UnixTime;

/// A `UUIDv7` of this time; 74 bits of it are random.
#[must_use]
pub fn uuid_at(now: UnixTime) -> Uuid {
    Uuid::new_v7(Timestamp::from_unix(NoContext, u64::try_from(now.0).unwrap_or(0), 0))
}

/// A UUID in its one spelling: lower case, with hyphens. Ids of tokens are compared as texts, so these have no other one.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok().filter(|uuid| uuid.to_string() == text)
}
