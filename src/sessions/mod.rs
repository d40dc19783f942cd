//! Sessions: begun by a login, refreshed without races, and ended for good.
//!
//! Whether the signer is ready is asked before anything changes, and the access token is signed afterwards: what was committed and
//! never answered is found again by the client's next try.

mod codes;
mod ending;
mod grouped;
mod replays;

use std::sync::Arc;

use serde_json::Map;
use zeroize::Zeroizing;

use crate::accounts::refresh::{Family, Limits, PresentedRefresh, Refused, Verdict, judge};
use crate::accounts::refresh_token::{RefreshToken, new_salt};
use crate::accounts::session::{Device, EndedBy, LoginMethod, LoginSession, Session};
use crate::accounts::settings::SessionSettings;
use crate::accounts::tenant::TenantId;
use crate::accounts::user::{Role, UserId};
use crate::clock::{Clock, Seconds, UnixTime};
use crate::crypto::keyed_hash::HashKey;
use crate::crypto::random::NoRandomness;
use crate::events::{Entry, Event};
use crate::jose::alg::Algorithm;
use crate::jose::jwt::IdTokenClaims;
use crate::keyring::{CannotSign, Issued, Keyring};
use crate::oauth::authorization::{OFFLINE_ACCESS, OPENID};
use crate::oauth::claims::{PersonClaim, ScopeClaims, claims_of_scope, person_claims};
use crate::oauth::client::{Audience, Client, Grant};
use crate::oauth::scope::Scope;
use crate::oauth::token::{Granted, GrantedSession};
use crate::store::allowance::shared;
use crate::store::sessions::{Claim, Claimed, Ending, Found, NewSession};
use crate::store::users::StoredUser;
use crate::store::{Db, StoreError};
use crate::tasks::housekeeping::Housekeeping;
use crate::telemetry::SessionMetrics;
use crate::values::{LONGEST_ACCESS_TOKEN, SessionId};

pub use codes::{CannotRedeem, CodeTokens, PresentedCode};
pub use grouped::Grouped;
pub use replays::Replays;

/// How often a claim is tried that other writers are in the way of.
const TRIES: usize = 5;

/// What begins, refreshes and ends sessions.
pub struct Sessions {
    /// The database.
    pub db: Db,
    /// What signs access tokens, and is told which sessions have ended.
    pub keyring: Arc<Keyring>,
    /// What refresh tokens are made and digested with.
    pub hash_key: Arc<HashKey>,
    /// The clock.
    pub clock: Clock,
    /// The issuer of access tokens.
    pub issuer: String,
    /// The client of first-party logins.
    pub client: Client,
    /// What access tokens are signed with, where their client has no wish of its own.
    pub alg: Algorithm,
    /// How long they live there.
    pub access_token_ttl: Seconds,
    /// The limits.
    pub settings: SessionSettings,
    /// What is counted.
    pub metrics: SessionMetrics,
    /// What is noted already.
    pub replays: Replays,
    /// The sessions that are being looked at.
    pub families: Grouped<(SessionId, UnixTime), Found>,
    /// The generations that are being claimed.
    pub claims: Grouped<(Claim, UnixTime), Result<Claimed, StoreError>>,
}

/// What a client gets for a login or a refresh.
pub struct SessionTokens {
    /// The session.
    pub sid: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// The access token.
    pub access_token: String,
    /// How long it is valid.
    pub expires_in: Seconds,
    /// What gets the next one.
    pub refresh_token: Zeroizing<String>,
    /// How long that is of use, unless it is used.
    pub refresh_expires_in: Seconds,
    /// What the access token allows.
    pub scope: Scope,
    /// Who logged in, for a client that asked for it.
    pub id_token: Option<String>,
}

/// Why no session was begun.
#[derive(Debug, thiserror::Error)]
pub enum CannotBegin {
    /// The account was suspended, or its password or tenant changed, since it was looked at.
    #[error("the account has changed in this moment")]
    AccountChanged,
    /// Nothing can be signed; nothing was changed.
    #[error(transparent)]
    CannotSign(#[from] CannotSign),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// Why a session was not refreshed.
#[derive(Debug, thiserror::Error)]
pub enum CannotRefresh {
    /// The token gets nothing: `invalid_grant` (RFC 6749 section 5.2).
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A scope is asked for that the grant does not have (RFC 6749 section 6); the token is as good as before.
    #[error("the scope is wider than the grant's")]
    WiderScope,
    /// Nothing can be signed; the token is as good as before.
    #[error(transparent)]
    CannotSign(#[from] CannotSign),
    /// The database does not answer; the token is as good as before, or may come again within the grace.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no randomness; the token is as good as before.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// Why there is no ID token.
#[derive(Debug, thiserror::Error)]
enum CannotMakeIdToken {
    #[error(transparent)]
    CannotSign(#[from] CannotSign),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CannotMakeIdToken> for CannotRefresh {
    fn from(error: CannotMakeIdToken) -> Self {
        match error {
            CannotMakeIdToken::CannotSign(error) => error.into(),
            CannotMakeIdToken::Store(error) => error.into(),
        }
    }
}

impl From<CannotMakeIdToken> for CannotRedeem {
    fn from(error: CannotMakeIdToken) -> Self {
        match error {
            CannotMakeIdToken::CannotSign(error) => error.into(),
            CannotMakeIdToken::Store(error) => error.into(),
        }
    }
}

/// A refresh token as a client presents it.
#[derive(Clone, Copy)]
pub struct RefreshRequest<'a> {
    /// The token.
    pub token: &'a str,
    /// The client that presents it.
    pub client_id: &'a str,
    /// The client whose algorithm, type and lifetime the tokens have: that of the accounts, if the one that presents it is not registered.
    pub client: &'a Client,
    /// The scope that is asked for; none asks for the session's own.
    pub scope: Option<&'a Scope>,
    /// The resources that are asked for; none asks for the session's own.
    pub audiences: &'a [String],
    /// Where it is presented from.
    pub device: &'a Device,
}

impl Sessions {
    /// Begins a session of a user who has just proved to be the one, with the client and audience of first-party logins. `user` is
    /// what was read when the password was checked: when it has changed since, there is no session.
    ///
    /// # Errors
    /// When the account has changed, nothing can be signed, or the database does not answer.
    pub async fn begin(
        &self,
        user: &StoredUser,
        method: LoginMethod,
        device: &Device,
    ) -> Result<SessionTokens, CannotBegin> {
        self.keyring.signing(self.alg, self.clock.read())?;
        let now = self.now();
        let token = RefreshToken::first(SessionId::generate(now))?;
        let new = NewSession {
            sid: token.sid,
            client_id: self.client.id.as_str(),
            audience: self.client.default_audience(),
            current_hash: &token.digest(&self.hash_key),
            salt: &new_salt()?,
            method,
            idle: self.settings.idle,
            absolute: self.settings.absolute,
            most: self.settings.max_sessions,
            device,
        };
        let whose = format!("user {}", user.user.id);
        let entry = self.entry(Event::SessionStarted, token.sid, &whose, &whose);
        let reason = format!("the account had more than {} sessions", self.settings.max_sessions);
        let surplus = self.entry_about(String::new(), Event::SessionEnded, &whose, &reason);
        let begun = self
            .db
            .begin_session(&new, user, now, &entry, &surplus)
            .await?
            .ok_or(CannotBegin::AccountChanged)?;
        self.have_ended(&begun.ended, EndedBy::Operator);
        self.metrics.started();
        tracing::info!(session.sid = %token.sid, user.id = %user.user.id, client.ip = device.address, "a session has begun");
        let owner = Owner {
            login: token.sid,
            user: user.user.id,
            tenant: &user.user.tenant,
            roles: &user.user.roles,
            client: &self.client,
            audience: self.client.default_audience(),
            scope: Scope::default(),
            rest: begun.expires_at - begun.began,
        };
        Ok(self.tokens(&token, &owner)?)
    }

    /// Gives a refresh token its successor, and a fresh access token.
    ///
    /// # Errors
    /// When it gets nothing, nothing can be signed, or the database does not answer.
    pub async fn refresh(&self, request: &RefreshRequest<'_>) -> Result<SessionTokens, CannotRefresh> {
        let answer = self.try_to_refresh(request).await;
        if let Err(CannotRefresh::Refused(refused)) = &answer {
            self.metrics.refused(refused.name());
        }
        answer
    }

    async fn try_to_refresh(&self, request: &RefreshRequest<'_>) -> Result<SessionTokens, CannotRefresh> {
        let token = self.open(request.token)?;
        self.keyring.signing(self.alg_of(request.client), self.clock.read())?;
        for _ in 0..TRIES {
            let Some((family, now)) = self.family(token.sid).await? else {
                return Err(Refused::Unknown.into());
            };
            let presented = PresentedRefresh {
                token: &token,
                client_id: request.client_id,
                audiences: request.audiences,
            };
            let successor = match judge(&family, &presented, &self.hash_key, now, &self.limits()) {
                Verdict::Refuse(refused) => return Err(refused.into()),
                // By a clock that may be wrong no session ends: the token came a moment ago, or long ago.
                Verdict::Reuse if !self.is_reuse_by_any_clock(&family, &presented, now) => {
                    return Err(Refused::ClockInDoubt.into());
                }
                Verdict::Reuse => return Err(self.kill(&family, EndedBy::Reuse, request.device).await?.into()),
                Verdict::Rollback => return Err(self.kill(&family, EndedBy::Rollback, request.device).await?.into()),
                Verdict::Replay => self.replay(&family, &token, request.device).await?,
                Verdict::Rotate => match self
                    .rotate(&token, &self.owner(&family, request, now)?, request.device)
                    .await?
                {
                    Some(tokens) => return self.with_id_token(tokens, &self.owner(&family, request, now)?).await,
                    // Somebody was faster: what the row says now decides.
                    None => continue,
                },
            };
            let owner = self.owner(&family, request, now)?;
            return self.with_id_token(self.tokens(&successor, &owner)?, &owner).await;
        }
        Err(StoreError::Conflict.into())
    }

    /// The successor with an access token, when this call was the one that put it in its predecessor's place.
    async fn rotate(
        &self,
        token: &RefreshToken,
        owner: &Owner<'_>,
        device: &Device,
    ) -> Result<Option<SessionTokens>, CannotRefresh> {
        let salt = new_salt()?;
        let successor = token.successor(&self.hash_key, &salt);
        let claim = Claim {
            sid: token.sid,
            generation: token.generation,
            successor_hash: successor.digest(&self.hash_key),
            salt,
            device: device.clone(),
        };
        // It is signed while the database works, and nobody gets it unless the claim holds.
        let (claimed, signed) = tokio::join!(self.claimed(claim), async { self.sign(token.sid, owner) });
        match claimed {
            Ok(true) => {
                tracing::debug!(session.sid = %token.sid, "a generation is claimed");
                self.metrics.rotated();
                Ok(Some(self.granted(signed?, &successor, owner)))
            }
            Ok(false) | Err(StoreError::Conflict) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// [`Db::family`], together with those who ask at the same time.
    async fn family(&self, sid: SessionId) -> Found {
        let db = self.db.clone();
        let ask = move |asked: Vec<(SessionId, UnixTime)>| {
            let db = db.clone();
            async move {
                let (sids, times): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
                db.families(&sids, latest(&times)).await
            }
        };
        let found = async { Ok(self.families.answer((sid, self.now()), ask).await) };
        shared(found).await?
    }

    /// [`Db::claim_generation`], together with those who claim at the same time.
    async fn claimed(&self, claim: Claim) -> Result<bool, StoreError> {
        let db = self.db.clone();
        let ask = move |asked: Vec<(Claim, UnixTime)>| {
            let db = db.clone();
            async move {
                let (claims, times): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
                db.claim_generations(&claims, latest(&times)).await
            }
        };
        match shared(self.claims.answer((claim.clone(), self.now()), ask)).await? {
            Claimed::Yes => Ok(true),
            Claimed::No => Ok(false),
            Claimed::Unknown => self.db.claim_generation(&claim, self.now()).await,
        }
    }

    async fn replay(
        &self,
        family: &Family,
        token: &RefreshToken,
        device: &Device,
    ) -> Result<RefreshToken, CannotRefresh> {
        let sid = family.session.sid;
        let successor = token.successor(&self.hash_key, &family.salt);
        if self.replays.is_new(sid, token.generation) {
            let entry = self.entry(
                Event::SessionReplayed,
                sid,
                &format!("user {}", family.session.user),
                &format!("generation {} came again within the grace", token.generation),
            );
            let once = format!("session.replayed {}", token.generation);
            if let Err(error) = self.db.note_once(&entry, &once).await {
                self.replays.forget(sid);
                return Err(error.into());
            }
        }
        self.metrics.replayed();
        tracing::debug!(session.sid = %sid, client.ip = device.address, "a refresh token came again within the grace");
        Ok(successor)
    }

    /// Ends a session for what a refresh token gives away.
    async fn kill(&self, family: &Family, by: EndedBy, device: &Device) -> Result<Refused, StoreError> {
        let session = &family.session;
        let (event, refused) = if by == EndedBy::Rollback {
            (Event::SessionRollbackDetected, Refused::RolledBack)
        } else {
            (Event::SessionReuseDetected, Refused::Reused)
        };
        // No address: this outlives the account. The log has it.
        let from = format!("client {}", session.client_id);
        let reason = format!("{refused} (user {})", session.user);
        let entry = self.entry(event, session.sid, &from, &reason);
        let ending = Ending {
            sid: session.sid,
            of: Some(session.user),
            by,
            is_proven: true,
        };
        self.commit_end(&ending, &entry).await?;
        if by == EndedBy::Rollback {
            self.metrics.rolled_back();
        } else {
            self.metrics.reused();
        }
        tracing::warn!(
            session.sid = %session.sid, user.id = %session.user, client.ip = device.address,
            "{event}: {refused}"
        );
        Ok(refused)
    }

    /// What forgets sessions that have expired.
    #[must_use]
    pub fn housekeeping(&self) -> Housekeeping {
        Housekeeping {
            db: self.db.clone(),
            keyring: Arc::clone(&self.keyring),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// The sessions of a user that have neither ended nor run out, the last used first.
    ///
    /// # Errors
    /// When the database does not answer, or a row cannot be read.
    pub async fn list(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        self.db
            .live_sessions(user, self.now(), self.settings.idle, self.settings.max_sessions)
            .await
    }

    /// The session that a refresh token of ours names, whether it is of use or not.
    #[must_use]
    pub fn named_in(&self, token: &str) -> Option<SessionId> {
        self.open(token).ok().map(|token| token.sid)
    }

    fn open(&self, token: &str) -> Result<RefreshToken, Refused> {
        RefreshToken::open(token, &self.hash_key).map_err(|_| Refused::NotOurs)
    }

    fn limits(&self) -> Limits {
        Limits {
            idle: self.settings.idle,
            grace: self.settings.refresh_grace,
        }
    }

    /// Whether what is reuse by the database's time `now` is reuse for certain: by what has passed at least.
    fn is_reuse_by_any_clock(&self, family: &Family, presented: &PresentedRefresh<'_>, now: UnixTime) -> bool {
        let rotated_at = family.session.rotated_at;
        let at_least = rotated_at + self.passed_at_least(rotated_at, now);
        judge(family, presented, &self.hash_key, at_least, &self.limits()) == Verdict::Reuse
    }

    /// What has passed at least since `then`, both by the database's time, which may be wrong.
    fn passed_at_least(&self, then: UnixTime, now: UnixTime) -> Seconds {
        let skew = self.keyring.policy().windows().clock_skew;
        let snapshot = self.keyring.snapshot();
        let trusted = snapshot.trusted();
        match (trusted.doubt(), trusted.steady_since()) {
            _ if (now - self.now()).abs() > skew => Seconds::ZERO,
            (None, _) => now - then,
            (Some(_), Some(since)) => now - then.max(since),
            (Some(_), None) => Seconds::ZERO,
        }
    }

    /// The time that SQLite goes by: while the clock is in doubt, the time that was reached.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        self.keyring.snapshot().now(self.clock.read(), self.keyring.policy())
    }

    fn tokens(&self, refresh_token: &RefreshToken, owner: &Owner<'_>) -> Result<SessionTokens, CannotSign> {
        let issued = self.sign(refresh_token.sid, owner)?;
        Ok(self.granted(issued, refresh_token, owner))
    }

    /// What the tokens of a client are signed with.
    fn alg_of(&self, client: &Client) -> Algorithm {
        client.alg.unwrap_or(self.alg)
    }

    fn id_token_alg_of(&self, client: &Client) -> Algorithm {
        client.id_token_alg.unwrap_or_else(|| self.alg_of(client))
    }

    /// How long a token for this owner lives: no longer than the end of its session is remembered.
    fn ttl_of(&self, owner: &Owner<'_>) -> Seconds {
        let ttl = owner.client.token_ttl.unwrap_or(self.access_token_ttl);
        ttl.min(LONGEST_ACCESS_TOKEN).min(owner.rest)
    }

    fn sign(&self, grant: SessionId, owner: &Owner<'_>) -> Result<Issued, CannotSign> {
        let granted = Granted {
            sub: owner.user.to_string(),
            client_id: owner.client.id.to_string(),
            audiences: vec![audience(owner.audience)?],
            scope: owner.scope.clone(),
            alg: self.alg_of(owner.client),
            token_type: owner.client.token_type,
            ttl: self.ttl_of(owner),
            session: Some(GrantedSession {
                sid: owner.login.to_string(),
                grant_id: grant.to_string(),
                tid: owner.tenant.to_string(),
                roles: owner.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            }),
        };
        self.keyring.issue(&granted, &self.issuer, self.clock.read())
    }

    fn granted(&self, issued: Issued, refresh_token: &RefreshToken, owner: &Owner<'_>) -> SessionTokens {
        let expires_in = Seconds(issued.claims.exp - issued.claims.iat);
        // As at the token endpoint: a token of ours whose name stands in no line is forged.
        tracing::info!(
            client.id = %owner.client.id, session.sid = %refresh_token.sid, key.alg = %self.alg_of(owner.client), key.kid = %issued.kid,
            token.jti = %issued.claims.jti, token.expires_in = expires_in.0, "a token was granted"
        );
        SessionTokens {
            sid: refresh_token.sid,
            user: owner.user,
            access_token: issued.token,
            expires_in,
            refresh_token: refresh_token.write(&self.hash_key),
            refresh_expires_in: self.settings.idle.min(owner.rest),
            scope: owner.scope.clone(),
            id_token: None,
        }
    }

    /// With an ID token, if the client was granted one.
    async fn with_id_token(
        &self,
        mut tokens: SessionTokens,
        owner: &Owner<'_>,
    ) -> Result<SessionTokens, CannotRefresh> {
        if owner.scope.contains(OPENID) {
            let login = self
                .db
                .login_session(owner.login, self.now(), self.settings.idle)
                .await?;
            // A login session that is idle has a grant that lives: the token says nothing of how the person logged in.
            if let Some(login) = login {
                tokens.id_token = Some(self.id_token(&login, owner, None, &[], &tokens.access_token).await?);
            }
        }
        Ok(tokens)
    }

    /// The ID token that goes with an access token (OpenID Connect Core 1.0 section 3.1.3.3). Of the person it says what the request asked
    /// for, and what the client is registered for.
    async fn id_token(
        &self,
        login: &LoginSession,
        owner: &Owner<'_>,
        nonce: Option<String>,
        asked: &[PersonClaim],
        access_token: &str,
    ) -> Result<String, CannotMakeIdToken> {
        let client_id = owner.client.id.to_string();
        let alg = self.id_token_alg_of(owner.client);
        let is_told = |claim: &PersonClaim| owner.client.scope_claims == ScopeClaims::IdToken || asked.contains(claim);
        let told: Vec<PersonClaim> = claims_of_scope(&owner.scope).filter(is_told).collect();
        let mut person = if told.is_empty() {
            Map::new()
        } else {
            let stored = self.db.user(owner.user).await?;
            stored.map_or_else(Map::new, |stored| person_claims(&stored.user, told))
        };
        if let Some(claim) = &owner.client.roles_claim {
            let roles = owner.roles.iter().map(Role::as_str);
            person.insert(claim.name().to_owned(), claim.value(roles));
        }
        let token = self
            .keyring
            .issue_id_token(alg, self.ttl_of(owner), self.clock.read(), |now, ttl| IdTokenClaims {
                iss: self.issuer.clone(),
                sub: owner.user.to_string(),
                aud: client_id.clone(),
                exp: (now + ttl).0,
                iat: now.0,
                auth_time: login.auth_time.0,
                nonce,
                acr: login.acr().map(str::to_owned),
                amr: login.amr.clone(),
                azp: client_id,
                sid: login.id.to_string(),
                at_hash: IdTokenClaims::hash_of(access_token),
                person,
            })?;
        Ok(token)
    }

    /// What is left of a grant's scope by the registration of its client today. Nothing of the grant is left if people do not log in with the
    /// client any more, or not for this resource, or is another one that was registered later under the same id.
    fn still_allowed(&self, client: &Client, session: &Session, granted: &Scope) -> Result<Scope, Refused> {
        let skew = self.keyring.policy().windows().clock_skew;
        let is_same = session.created_at + skew >= client.created_at;
        let is_for_resource = client
            .audiences
            .iter()
            .any(|audience| audience.as_str() == session.audience);
        let allowed = granted.within(&client.scope);
        if is_same && is_for_resource && client.grants.contains(&Grant::AuthorizationCode) && !allowed.is_empty() {
            Ok(allowed)
        } else {
            Err(Refused::WrongClient)
        }
    }

    /// Whose a grant is, and what is asked for of its scope.
    fn owner<'a>(
        &self,
        family: &'a Family,
        request: &RefreshRequest<'a>,
        now: UnixTime,
    ) -> Result<Owner<'a>, CannotRefresh> {
        let session = &family.session;
        let granted: Scope = session.scope.parse().map_err(|_| StoreError::Corrupt {
            table: "sessions",
            row: session.sid.to_string(),
            reason: "its scope".to_owned(),
        })?;
        let granted = if request.client.id == self.client.id {
            granted
        } else {
            let allowed = self.still_allowed(request.client, session, &granted)?;
            // The registration of the client may have lost it since.
            if !allowed.contains(OFFLINE_ACCESS) {
                return Err(Refused::WrongClient.into());
            }
            allowed
        };
        let scope = match request.scope {
            Some(asked) if !asked.is_within(&granted) => return Err(CannotRefresh::WiderScope),
            Some(asked) => asked.clone(),
            None => granted,
        };
        Ok(Owner {
            login: session.login_session(),
            user: session.user,
            tenant: &session.tenant,
            roles: &family.roles,
            client: request.client,
            audience: &session.audience,
            scope,
            rest: session.expires_at - now,
        })
    }

    fn entry(&self, event: Event, sid: SessionId, actor: &str, reason: &str) -> Entry {
        self.entry_about(sid.to_string(), event, actor, reason)
    }

    fn entry_about(&self, subject: String, event: Event, actor: &str, reason: &str) -> Entry {
        let now = self.now();
        Entry::new(event, subject, now, actor, reason)
    }
}

/// Of those who ask together, the last one knows best how late it is.
fn latest(times: &[UnixTime]) -> UnixTime {
    times.iter().copied().max().unwrap_or(UnixTime(0))
}

/// What the tokens of a session say of it.
struct Owner<'a> {
    login: SessionId,
    user: UserId,
    tenant: &'a TenantId,
    roles: &'a [Role],
    client: &'a Client,
    audience: &'a str,
    scope: Scope,
    rest: Seconds,
}

/// The configuration and the row hold no other.
fn audience(text: &str) -> Result<Audience, CannotSign> {
    text.parse().map_err(|_| CannotSign::Signature)
}
