//! The states of a key (NIST SP 800-57 part 1 section 7).

use std::fmt;

use serde::Serialize;

/// What a key is at a moment. Never stored: it follows from the row, its line, the policy and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Published, and not signing yet.
    Pending,
    /// The one that signs.
    Active,
    /// Superseded, and still published because a token it signed may live.
    Retired,
    /// Out of the set; nothing it signed is valid any more.
    Expired,
    /// Out of the set, and nothing it signed is accepted.
    Revoked,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::Retired, Self::Expired, Self::Revoked];

    /// Whether a key in this state stands in the key set.
    #[must_use]
    pub const fn is_published(self) -> bool {
        matches!(self, Self::Pending | Self::Active | Self::Retired)
    }

    /// The state in lower case, as every output writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
