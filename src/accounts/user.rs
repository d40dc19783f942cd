//! Users: who an account belongs to.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

use crate::clock::UnixTime;
use crate::values::{parse_uuid, uuid_at};

use super::email::Email;
use super::tenant::TenantId;
use super::visible::{has_blank, has_stray_marks, without_idle_joiners};

/// The version of the UUIDs that users are called by; no client has one of this version as its id.
pub const USER_ID_VERSION: usize = 7;

/// `sub` of a user's tokens (RFC 7519 section 4.1.2): a `UUIDv7` (RFC 9562), never given to anybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Uuid);

/// The text names no user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user's id is a UUID such as 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b")]
pub struct InvalidUserId;

impl UserId {
    /// An id that nobody has, made at this time.
    #[must_use]
    pub fn generate(now: UnixTime) -> Self {
        Self(uuid_at(now))
    }
}

impl FromStr for UserId {
    type Err = InvalidUserId;

    fn from_str(text: &str) -> Result<Self, InvalidUserId> {
        parse_uuid(text).map(Self).ok_or(InvalidUserId)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for UserId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a person is called: 1 to 200 visible characters, NFKC. It is shown to people and never
/// compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// The text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 200 characters, each of them visible, with at most 8 combining marks on each")]
pub struct InvalidName;

impl Name {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    /// Refuses characters that cannot be seen, so that no name looks like another or like none.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let Self(name) = Self::stored(text)?;
        let words: Vec<&str> = name.split(' ').filter(|word| !word.is_empty()).collect();
        let name = without_idle_joiners(&words.join(" "));
        if has_blank(&name) || has_stray_marks(&name) {
            return Err(InvalidName);
        }
        Ok(Self(name))
    }
}

impl Name {
    /// The name of an account that exists: an earlier version accepted more.
    ///
    /// # Errors
    /// When it is no name.
    pub fn stored(text: &str) -> Result<Self, InvalidName> {
        if text.len() > 4_096 {
            return Err(InvalidName);
        }
        let name: String = text.nfkc().collect();
        let name = name.trim();
        let length = name.chars().count();
        if !(1..=200).contains(&length) || name.chars().any(char::is_control) {
            return Err(InvalidName);
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A coarse role, as it stands in tokens: 1 to 64 letters, digits and `-_.:`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Role(String);

/// The text is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role has 1 to 64 letters, digits and -_.: such as billing-admin")]
pub struct InvalidRole;

impl Role {
    /// The role.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(is_plain) {
            return Err(InvalidRole);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// The tenant that it belongs to.
    pub tenant: TenantId,
    /// Its name at logins, unique over all tenants.
    pub email: Email,
    /// Since when the address is known to be the user's.
    pub email_verified_at: Option<UnixTime>,
    /// What the user is called.
    pub name: Name,
    /// What the user is, to the services.
    pub roles: Vec<Role>,
    /// When the account was made.
    pub created_at: UnixTime,
    /// Since when it may do nothing.
    pub suspended_at: Option<UnixTime>,
}

/// The most roles of a user: each access token carries them.
pub const MOST_ROLES: usize = 16;

/// A user would have more roles than a token carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} roles are too many for a token; an account has at most {MOST_ROLES}")]
pub struct TooManyRoles(pub usize);

/// The roles of a user, each once and in the order given.
///
/// # Errors
/// If they are more than [`MOST_ROLES`].
pub fn distinct_roles(roles: Vec<Role>) -> Result<Vec<Role>, TooManyRoles> {
    let mut kept: Vec<Role> = Vec::new();
    for role in roles {
        if !kept.contains(&role) {
            kept.push(role);
        }
    }
    if kept.len() > MOST_ROLES {
        return Err(TooManyRoles(kept.len()));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_version_7_and_differ() {
        let now = UnixTime(1_800_000_000);
        let (one, other) = (UserId::generate(now), UserId::generate(now));
        assert_ne!(one, other);
        assert_eq!(one.0.get_version_num(), 7);
        assert!(UserId::generate(now + crate::clock::Seconds(1)) > one);
        assert_eq!(one.to_string().parse(), Ok(one));
        assert!(one.to_string().to_uppercase().parse::<UserId>().is_err());
        assert!("admin".parse::<UserId>().is_err());
    }

    #[test]
    fn names_and_roles_have_their_forms() {
        assert_eq!(" Ada Lovelace ".parse::<Name>().unwrap().as_str(), "Ada Lovelace");
        assert_eq!("Ada  \u{a0} Lovelace".parse::<Name>().unwrap().as_str(), "Ada Lovelace");
        for bad in [
            "",
            "  ",
            "a\nb",
            &"a".repeat(201),
            "\u{3164}",
            "\u{2800}",
            "Ada\u{200b}",
            "A\u{202e}da",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!("billing-admin".parse::<Role>().is_ok());
        for bad in ["", "a b", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<Role>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_user_has_each_role_once_and_sixteen_at_most() {
        let role = |number: usize| format!("role{number}").parse::<Role>().unwrap();
        let sixteen: Vec<Role> = (0..MOST_ROLES).map(role).collect();
        let twice = [sixteen.clone(), sixteen.clone()].concat();
        assert_eq!(distinct_roles(twice), Ok(sixteen.clone()));
        let more = [sixteen, vec![role(16)]].concat();
        assert_eq!(distinct_roles(more), Err(TooManyRoles(17)));
    }
}
