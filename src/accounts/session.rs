//! Login sessions and their grants. A person logs in once and has a login session; each client that gets tokens of it has a grant, which is one
//! refresh family and one row, however often it refreshes. The grant that the login itself made has the name of its login session, and
//! both end together. A grant of a version that knew no login sessions counts as its own.

use std::str::FromStr;

use crate::clock::UnixTime;
use crate::values::SessionId;

use super::client_address::ClientAddress;
use super::tenant::TenantId;
use super::user::UserId;

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

/// How a person was authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginMethod {
    /// By the password of the account.
    Password,
    /// By another provider, which has methods of its own.
    Provider,
}

impl LoginMethod {
    /// The methods that we know were used (RFC 8176 section 2), separated by spaces.
    #[must_use]
    pub const fn amr(self) -> &'static str {
        match self {
            Self::Password => "pwd",
            Self::Provider => "",
        }
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

/// A grant, without the digests of its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub sid: SessionId,
    /// The login session that it belongs to. Versions that knew no login sessions wrote none.
    pub login: Option<SessionId>,
    /// Whose it is.
    pub user: UserId,
    /// The tenant of the user.
    pub tenant: TenantId,
    /// The client that the user logged in with.
    pub client_id: String,
    /// The `aud` of its access tokens.
    pub audience: String,
    /// What it allows, words separated by spaces; none for the grant of a login at `/auth`.
    pub scope: String,
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

impl Session {
    /// The login session that its tokens name in `sid`.
    #[must_use]
    pub fn login_session(&self) -> SessionId {
        self.login.unwrap_or(self.sid)
    }
}

/// A login session that lives, as a browser shows it to log in elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSession {
    /// Its id, which tokens name in `sid`.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// When the person was authenticated.
    pub auth_time: UnixTime,
    /// How (RFC 8176).
    pub amr: Vec<String>,
    /// How surely, if that was noted.
    pub acr: Option<String>,
}

/// The `acr` of a login with a password of this server (OpenID Connect Core 1.0 section 2).
pub const ACR_PASSWORD: &str = "1";

impl LoginSession {
    /// How surely the person was authenticated; none where another provider did it, which has levels of its own.
    #[must_use]
    pub fn acr(&self) -> Option<&str> {
        let by_password = self.amr.iter().any(|method| method == LoginMethod::Password.amr());
        self.acr.as_deref().or_else(|| by_password.then_some(ACR_PASSWORD))
    }
}
