//! Tenants: each user belongs to one, and a disabled one stops every grant of its users.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::clock::UnixTime;

/// The name of a tenant, `tid` in tokens: 1 to 64 lower-case letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TenantId(String);

/// The text cannot name a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant's id has 1 to 64 lower-case letters, digits and hyphens, such as acme")]
pub struct InvalidTenantId;

impl TenantId {
    /// Whoever registers belongs to this one.
    pub const DEFAULT: &'static str = "default";

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(text: &str) -> Result<Self, InvalidTenantId> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > 64 || !text.bytes().all(is_plain) {
            return Err(InvalidTenantId);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created_at: UnixTime,
    /// Since when nobody of it may do anything.
    pub disabled_at: Option<UnixTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_plain() {
        assert_eq!("default".parse(), Ok(TenantId::default()));
        for bad in ["", "A", "a b", "a_b", "ä", &"a".repeat(65)] {
            assert_eq!(bad.parse::<TenantId>(), Err(InvalidTenantId), "{bad:?}");
        }
    }
}
