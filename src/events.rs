//! What is audited: each event by its name, and the entry that is written in the transaction of what it records.

use std::fmt;

use crate::clock::UnixTime;

/// What can happen. The audit log has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An operator keeps an algorithm that was left out of the settings.
    AlgorithmKept,
    /// The schedule took an algorithm away that the settings leave out.
    AlgorithmRemoved,
    /// A client was registered.
    ClientCreated,
    /// A client was deleted.
    ClientDeleted,
    /// A client was disabled.
    ClientDisabled,
    /// A client may ask for tokens again.
    ClientEnabled,
    /// The keys that a client proves itself with were changed.
    ClientKeysChanged,
    /// A client got another secret.
    ClientSecretChanged,
    /// Other properties of a client were changed; the reason names them with their old and new values.
    ClientUpdated,
    /// An operator confirmed the clock.
    ClockConfirmed,
    /// An authorization code came again after it was redeemed; its grant was ended.
    CodeReuseDetected,
    /// A person allowed a client something.
    ConsentGranted,
    /// A person took back what a client was allowed.
    ConsentWithdrawn,
    /// A backup was written.
    DatabaseBackedUp,
    /// The rows came from another database.
    DatabaseCopied,
    /// Old rows were deleted.
    DatabasePruned,
    /// The rows came from a backup.
    DatabaseRestored,
    /// A client got a grant of a login session.
    GrantStarted,
    /// A signing key began to sign.
    KeyActivated,
    /// A signing key was made or imported.
    KeyCreated,
    /// The private half of a key was destroyed.
    KeyDestroyed,
    /// A key left the key set at its stated end.
    KeyExpired,
    /// A key is in the key set.
    KeyPublished,
    /// The row of a key was deleted.
    KeyPurged,
    /// A signing key signs no more; it still verifies.
    KeyRetired,
    /// The database had lost a revocation, and has it again.
    KeyRevocationRestored,
    /// A key was revoked.
    KeyRevoked,
    /// What is sealed is being sealed under another master key.
    MasterKeyRewrapStarted,
    /// All that is sealed is sealed under another master key.
    MasterKeyRewrapped,
    /// An operator said that a server is stopped; it is waited for no more.
    NodeForgotten,
    /// An OpenID provider was registered.
    ProviderCreated,
    /// An OpenID provider was deleted.
    ProviderDeleted,
    /// An OpenID provider was disabled.
    ProviderDisabled,
    /// People may log in with an OpenID provider again.
    ProviderEnabled,
    /// The client secret at an OpenID provider was changed.
    ProviderSecretChanged,
    /// Other properties of an OpenID provider were changed.
    ProviderUpdated,
    /// A resource server was registered.
    ResourceCreated,
    /// A resource server was deleted, with its scopes.
    ResourceDeleted,
    /// A scope of a resource server was registered.
    ScopeCreated,
    /// A scope of a resource server was deleted.
    ScopeDeleted,
    /// A session ended, or all those that the reason names.
    SessionEnded,
    /// A refresh token came again within its grace.
    SessionReplayed,
    /// A refresh token came again after its grace; its session was ended.
    SessionReuseDetected,
    /// A refresh token is newer than the database, which was set back; its session was ended.
    SessionRollbackDetected,
    /// Somebody logged in.
    SessionStarted,
    /// A tenant was made.
    TenantCreated,
    /// A tenant was disabled.
    TenantDisabled,
    /// The users of a tenant may log in again.
    TenantEnabled,
    /// A token was denied.
    TokenDenied,
    /// An operator issued a token by the command line.
    TokenIssued,
    /// An account was made by an operator or by a first login with a provider.
    UserCreated,
    /// An account was deleted.
    UserDeleted,
    /// An account was linked with one at an OpenID provider.
    UserIdentityLinked,
    /// A password was changed.
    UserPasswordChanged,
    /// Somebody made an account.
    UserRegistered,
    /// An account may log in again.
    UserResumed,
    /// The roles of an account were changed.
    UserRolesChanged,
    /// An operator ended all sessions of an account.
    UserSessionsEnded,
    /// An account was suspended.
    UserSuspended,
}

impl Event {
    /// All of them, by their names.
    pub const ALL: [Self; 59] = [
        Self::AlgorithmKept,
        Self::AlgorithmRemoved,
        Self::ClientCreated,
        Self::ClientDeleted,
        Self::ClientDisabled,
        Self::ClientEnabled,
        Self::ClientKeysChanged,
        Self::ClientSecretChanged,
        Self::ClientUpdated,
        Self::ClockConfirmed,
        Self::CodeReuseDetected,
        Self::ConsentGranted,
        Self::ConsentWithdrawn,
        Self::DatabaseBackedUp,
        Self::DatabaseCopied,
        Self::DatabasePruned,
        Self::DatabaseRestored,
        Self::GrantStarted,
        Self::KeyActivated,
        Self::KeyCreated,
        Self::KeyDestroyed,
        Self::KeyExpired,
        Self::KeyPublished,
        Self::KeyPurged,
        Self::KeyRetired,
        Self::KeyRevocationRestored,
        Self::KeyRevoked,
        Self::MasterKeyRewrapStarted,
        Self::MasterKeyRewrapped,
        Self::NodeForgotten,
        Self::ProviderCreated,
        Self::ProviderDeleted,
        Self::ProviderDisabled,
        Self::ProviderEnabled,
        Self::ProviderSecretChanged,
        Self::ProviderUpdated,
        Self::ResourceCreated,
        Self::ResourceDeleted,
        Self::ScopeCreated,
        Self::ScopeDeleted,
        Self::SessionEnded,
        Self::SessionReplayed,
        Self::SessionReuseDetected,
        Self::SessionRollbackDetected,
        Self::SessionStarted,
        Self::TenantCreated,
        Self::TenantDisabled,
        Self::TenantEnabled,
        Self::TokenDenied,
        Self::TokenIssued,
        Self::UserCreated,
        Self::UserDeleted,
        Self::UserIdentityLinked,
        Self::UserPasswordChanged,
        Self::UserRegistered,
        Self::UserResumed,
        Self::UserRolesChanged,
        Self::UserSessionsEnded,
        Self::UserSuspended,
    ];

    /// The name, which never changes: the subject's kind, and what happened to it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AlgorithmKept => "algorithm.kept",
            Self::AlgorithmRemoved => "algorithm.removed",
            Self::ClientCreated => "client.created",
            Self::ClientDeleted => "client.deleted",
            Self::ClientDisabled => "client.disabled",
            Self::ClientEnabled => "client.enabled",
            Self::ClientKeysChanged => "client.keys_changed",
            Self::ClientSecretChanged => "client.secret_changed",
            Self::ClientUpdated => "client.updated",
            Self::ClockConfirmed => "clock.confirmed",
            Self::CodeReuseDetected => "code.reuse_detected",
            Self::ConsentGranted => "consent.granted",
            Self::ConsentWithdrawn => "consent.withdrawn",
            Self::DatabaseBackedUp => "database.backed_up",
            Self::DatabaseCopied => "database.copied",
            Self::DatabasePruned => "database.pruned",
            Self::DatabaseRestored => "database.restored",
            Self::GrantStarted => "grant.started",
            Self::KeyActivated => "key.activated",
            Self::KeyCreated => "key.created",
            Self::KeyDestroyed => "key.destroyed",
            Self::KeyExpired => "key.expired",
            Self::KeyPublished => "key.published",
            Self::KeyPurged => "key.purged",
            Self::KeyRetired => "key.retired",
            Self::KeyRevocationRestored => "key.revocation_restored",
            Self::KeyRevoked => "key.revoked",
            Self::MasterKeyRewrapStarted => "master_key.rewrap_started",
            Self::MasterKeyRewrapped => "master_key.rewrapped",
            Self::NodeForgotten => "node.forgotten",
            Self::ProviderCreated => "provider.created",
            Self::ProviderDeleted => "provider.deleted",
            Self::ProviderDisabled => "provider.disabled",
            Self::ProviderEnabled => "provider.enabled",
            Self::ProviderSecretChanged => "provider.secret_changed",
            Self::ProviderUpdated => "provider.updated",
            Self::ResourceCreated => "resource.created",
            Self::ResourceDeleted => "resource.deleted",
            Self::ScopeCreated => "scope.created",
            Self::ScopeDeleted => "scope.deleted",
            Self::SessionEnded => "session.ended",
            Self::SessionReplayed => "session.replayed",
            Self::SessionReuseDetected => "session.reuse_detected",
            Self::SessionRollbackDetected => "session.rollback_detected",
            Self::SessionStarted => "session.started",
            Self::TenantCreated => "tenant.created",
            Self::TenantDisabled => "tenant.disabled",
            Self::TenantEnabled => "tenant.enabled",
            Self::TokenDenied => "token.denied",
            Self::TokenIssued => "token.issued",
            Self::UserCreated => "user.created",
            Self::UserDeleted => "user.deleted",
            Self::UserIdentityLinked => "user.identity_linked",
            Self::UserPasswordChanged => "user.password_changed",
            Self::UserRegistered => "user.registered",
            Self::UserResumed => "user.resumed",
            Self::UserRolesChanged => "user.roles_changed",
            Self::UserSessionsEnded => "user.sessions_ended",
            Self::UserSuspended => "user.suspended",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The longest reason that a person gives, in characters.
pub const LONGEST_REASON: usize = 1_000;

/// What is to be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// The kid, or the id of the client, the user, the session or what else it happened to.
    pub subject: String,
    /// When it took effect.
    pub happened_at: UnixTime,
    /// When it is written down.
    pub noted_at: UnixTime,
    /// Who did it: a node's schedule, a person or a client at an endpoint, or a person by the command line.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Whether it happens to its subject only once.
    pub once: bool,
}

impl Entry {
    /// Something that takes effect now, and may happen again.
    #[expect(clippy::needless_pass_by_value, reason = "an id or a text, as the caller has it")]
    #[must_use]
    pub fn new(
        event: Event,
        subject: impl ToString,
        now: UnixTime,
        actor: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            event,
            subject: subject.to_string(),
            happened_at: now,
            noted_at: now,
            actor: actor.into(),
            reason: reason.into(),
            once: false,
        }
    }

    /// The same, which took effect then.
    #[must_use]
    pub const fn that_happened_at(mut self, time: UnixTime) -> Self {
        self.happened_at = time;
        self
    }

    /// The same, which happens to its subject only once.
    #[must_use]
    pub const fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_event_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Event::ALL.map(Event::name).into();
        assert_eq!(names.len(), Event::ALL.len());
        assert!(names.iter().all(|name| name.split('.').count() == 2), "{names:?}");
    }
}
