//! What an operator decides about people, their sessions and their logins.

use crate::clock::Seconds;
use crate::jose::jwt::TokenType;

use super::limits::AttemptRates;
use super::password_hash::HashParameters;

/// The client that people log in with at `/auth`, as the settings describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Its `client_id`.
    pub id: String,
    /// The `aud` of its tokens.
    pub audience: String,
    /// The `typ` of its access tokens.
    pub token_type: TokenType,
    /// The lifetime of its access tokens.
    pub access_token_ttl: Seconds,
}

/// How sessions live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// A session that was not refreshed for this long has ended.
    pub idle: Seconds,
    /// A session ends this long after its login.
    pub absolute: Seconds,
    /// How long a refresh token may come again after its first use.
    pub refresh_grace: Seconds,
    /// The most sessions of one user.
    pub max_sessions: u32,
}

/// Who may log in, and how often a password is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSettings {
    /// Whether people may register by themselves.
    pub registration: Registration,
    /// The least characters of a new password.
    pub password_min_length: usize,
    /// What new passwords are hashed with.
    pub password_hash: HashParameters,
    /// How often a password may be tried.
    pub attempts: AttemptRates,
}

/// Whether people may register by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// An operator makes accounts.
    Closed,
    /// They may; the answer is the same when the address is taken.
    Open,
    /// They may, and are told when the address is taken, as is everybody who asks.
    OpenAndRevealing,
}
