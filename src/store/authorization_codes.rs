//! Table `authorization_codes`: each is redeemed once, by the one statement in which everything that it is bound to must fit.

use sqlx::FromRow;

use crate::accounts::session::{Device, EndedBy};
use crate::clock::UnixTime;
use crate::events::Entry;
use crate::oauth::authorization::CODE_TTL;
use crate::oauth::claims::PersonClaim;
use crate::oauth::client::{Audience, ClientId};
use crate::oauth::pkce::CodeChallenge;
use crate::oauth::scope::Scope;
use crate::values::SessionId;

use super::audit::note;
use super::transaction::retry;
use super::{Db, StoreError, in_tx, on_read, on_write};

/// Only while the login session lives, and the client is there and allowed what it needs to be.
const INSERT: &str = "INSERT INTO authorization_codes (code_digest, client_id, redirect_uri, code_challenge, login_session_id, user_id, scope, \
                      audience, nonce, expires_at, claims) \
                      SELECT $1, $2, $3, $4, login_session_id, user_id, $5, $6, $7, $8, $10 FROM login_sessions \
                      WHERE login_session_id = $9 AND revoked_at IS NULL \
                      AND EXISTS (SELECT 1 FROM clients WHERE clients.client_id = $2 AND clients.disabled_at IS NULL) \
                      AND ($11 = 0 OR EXISTS (SELECT 1 FROM consents WHERE consents.user_id = login_sessions.user_id AND consents.client_id = $2))";
const REDEEM: &str = "UPDATE authorization_codes SET grant_id = $2 \
                      WHERE code_digest = $1 AND grant_id IS NULL AND expires_at > $3 AND client_id = $4 AND redirect_uri = $5 \
                      AND code_challenge IS NOT DISTINCT FROM $6 \
                      RETURNING login_session_id, scope, audience, nonce, claims";
const KNOWN: &str = "SELECT count(*) FROM authorization_codes WHERE code_digest = $1";
const REDEEMED: &str = "SELECT grant_id FROM authorization_codes \
                        WHERE code_digest = $1 AND client_id = $2 AND grant_id IS NOT NULL AND expires_at > $3";
/// A grant of a login session that lives, of a user who may act.
macro_rules! begin_grant {
    ($lock:expr) => {
        concat!(
            "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, rotated_at, \
             expires_at, address, user_agent, login_session_id, scope) \
             SELECT $1, l.user_id, l.tenant_id, $2, $3, 1, $4, $5, $6, $6, l.expires_at, $7, $8, l.login_session_id, $9 \
             FROM login_sessions l JOIN users ON users.user_id = l.user_id JOIN tenants ON tenants.tenant_id = l.tenant_id \
             WHERE l.login_session_id = $10 AND l.revoked_at IS NULL AND l.expires_at > $6 \
             AND users.suspended_at IS NULL AND tenants.disabled_at IS NULL",
            $lock
        )
    };
}
const SQLITE_BEGIN_GRANT: &str = begin_grant!("");
const POSTGRES_BEGIN_GRANT: &str = begin_grant!(" FOR SHARE");
const PRUNE: &str = "DELETE FROM authorization_codes WHERE code_digest IN \
                     (SELECT code_digest FROM authorization_codes WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";

/// A code that is to be given.
#[derive(Clone, Copy, Debug)]
pub struct NewCode<'a> {
    /// Its digest.
    pub digest: &'a str,
    /// The client that it is given to.
    pub client_id: &'a ClientId,
    /// Where it is sent.
    pub redirect_uri: &'a str,
    /// What proves that who redeems it asked for it.
    pub code_challenge: Option<&'a CodeChallenge>,
    /// The login session that it gets a grant of.
    pub login_session: SessionId,
    /// What the grant allows.
    pub scope: &'a Scope,
    /// The `aud` of its access tokens.
    pub audience: &'a Audience,
    /// What the ID token repeats.
    pub nonce: Option<&'a str>,
    /// What the ID token is to say of the person besides.
    pub claims: &'a [PersonClaim],
    /// Whether the person must have allowed the client something.
    pub needs_consent: bool,
}

/// What redeems a code, and the grant that it makes.
#[derive(Clone, Copy, Debug)]
pub struct Redemption<'a> {
    /// The digest of the code.
    pub digest: &'a str,
    /// The client that presents it.
    pub client_id: &'a ClientId,
    /// The redirect URI of its request.
    pub redirect_uri: &'a str,
    /// What its verifier answers.
    pub code_challenge: Option<&'a CodeChallenge>,
    /// The id of the grant.
    pub grant: SessionId,
    /// The digest of its first refresh token's secret.
    pub current_hash: &'a str,
    /// The first salt.
    pub salt: &'a str,
    /// Where it is redeemed from.
    pub device: &'a Device,
}

/// What became of a code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// It got its grant.
    Now(CodeGrant),
    /// It had got one before: that grant has ended now, if it had not yet (RFC 6749 section 4.1.2).
    Before(SessionId),
    /// There is no such code, it has expired, is bound to something else, or its login session has ended.
    No,
}

/// The grant that a code got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeGrant {
    /// The login session that it belongs to.
    pub login_session: SessionId,
    /// What it allows.
    pub scope: Scope,
    /// The `aud` of its access tokens.
    pub audience: Audience,
    /// What the ID token repeats.
    pub nonce: Option<String>,
    /// What the ID token is to say of the person besides.
    pub claims: Vec<PersonClaim>,
}

#[derive(FromRow)]
struct RedeemedRow {
    login_session_id: String,
    scope: String,
    audience: String,
    nonce: Option<String>,
    claims: String,
}

impl TryFrom<RedeemedRow> for CodeGrant {
    type Error = StoreError;

    fn try_from(row: RedeemedRow) -> Result<Self, StoreError> {
        let corrupt = |reason: &str| corrupt(&row.login_session_id, reason);
        Ok(Self {
            login_session: row.login_session_id.parse().map_err(|_| corrupt("its login session"))?,
            scope: row.scope.parse().map_err(|_| corrupt("its scope"))?,
            audience: row.audience.parse().map_err(|_| corrupt("its audience"))?,
            claims: row
                .claims
                .split_ascii_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(|_| corrupt("its claims"))?,
            nonce: row.nonce,
        })
    }
}

/// The row is named by its login session: a digest helps no reader.
fn corrupt(login_session: &str, reason: &str) -> StoreError {
    StoreError::Corrupt {
        table: "authorization_codes",
        row: login_session.to_owned(),
        reason: reason.to_owned(),
    }
}

impl Db {
    /// Writes a code down; false when its login session has ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn create_code(&self, code: &NewCode<'_>, now: UnixTime) -> Result<bool, StoreError> {
        let created = on_write!(self, |pool| sqlx::query(INSERT)
            .bind(code.digest)
            .bind(code.client_id.as_str())
            .bind(code.redirect_uri)
            .bind(code.code_challenge.map(CodeChallenge::as_str))
            .bind(code.scope.to_string())
            .bind(code.audience.as_str())
            .bind(code.nonce)
            .bind((now + CODE_TTL).0)
            .bind(code.login_session.to_string())
            .bind(
                code.claims
                    .iter()
                    .map(|claim| claim.name())
                    .collect::<Vec<_>>()
                    .join(" ")
            )
            .bind(i64::from(code.needs_consent))
            .execute(pool)
            .await?
            .rows_affected());
        Ok(created == 1)
    }

    /// Gives a code its grant, once. `begun` is noted for the grant, `reused` for the grant that ends because its code came again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn redeem_code(
        &self,
        redemption: &Redemption<'_>,
        now: UnixTime,
        begun: &Entry,
        reused: &Entry,
    ) -> Result<Redeemed, StoreError> {
        // What is no code does not hold up those who write.
        let known: i64 = on_read!(self, |pool| sqlx::query_scalar(KNOWN)
            .bind(redemption.digest)
            .fetch_one(pool)
            .await)?;
        if known == 0 {
            return Ok(Redeemed::No);
        }
        retry(|| self.try_to_redeem_code(redemption, now, begun, reused)).await
    }

    async fn try_to_redeem_code(
        &self,
        redemption: &Redemption<'_>,
        now: UnixTime,
        begun: &Entry,
        reused: &Entry,
    ) -> Result<Redeemed, StoreError> {
        let mut tx = self.begin().await?;
        let now = tx.stamp(now).await?;
        let row: Option<RedeemedRow> = in_tx!(&mut tx, |connection| sqlx::query_as(REDEEM)
            .bind(redemption.digest)
            .bind(redemption.grant.to_string())
            .bind(now.0)
            .bind(redemption.client_id.as_str())
            .bind(redemption.redirect_uri)
            .bind(redemption.code_challenge.map(CodeChallenge::as_str))
            .fetch_optional(connection)
            .await?);
        let Some(row) = row else {
            return self.note_reuse(tx, redemption, now, reused).await;
        };
        let granted = CodeGrant::try_from(row)?;
        let text = tx.text(SQLITE_BEGIN_GRANT, POSTGRES_BEGIN_GRANT);
        let inserted = in_tx!(&mut tx, |connection| sqlx::query(text)
            .bind(redemption.grant.to_string())
            .bind(redemption.client_id.as_str())
            .bind(granted.audience.as_str())
            .bind(redemption.current_hash)
            .bind(redemption.salt)
            .bind(now.0)
            .bind(&redemption.device.address)
            .bind(&redemption.device.user_agent)
            .bind(granted.scope.to_string())
            .bind(granted.login_session.to_string())
            .execute(connection)
            .await?
            .rows_affected());
        if inserted == 0 {
            return Ok(Redeemed::No);
        }
        note(&mut tx, begun, now).await?;
        tx.commit().await?;
        Ok(Redeemed::Now(granted))
    }

    /// A code that comes again ends its grant: one of the two who had it has stolen it.
    async fn note_reuse(
        &self,
        mut tx: super::Tx,
        redemption: &Redemption<'_>,
        now: UnixTime,
        reused: &Entry,
    ) -> Result<Redeemed, StoreError> {
        let grant: Option<String> = in_tx!(&mut tx, |connection| sqlx::query_scalar(REDEEMED)
            .bind(redemption.digest)
            .bind(redemption.client_id.as_str())
            .bind(now.0)
            .fetch_optional(connection)
            .await?);
        let Some(grant) = grant else {
            return Ok(Redeemed::No);
        };
        let grant: SessionId = grant.parse().map_err(|_| corrupt("", "its grant"))?;
        if super::sessions::end_grant(&mut tx, grant, EndedBy::Reuse, now).await? {
            let entry = Entry {
                subject: grant.to_string(),
                ..reused.clone()
            };
            note(&mut tx, &entry, now).await?;
            tx.commit().await?;
        }
        Ok(Redeemed::Before(grant))
    }

    /// Forgets at most `limit` codes that expired at this time or earlier; answers with their number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn prune_codes(&self, expired: UnixTime, limit: u32) -> Result<u64, StoreError> {
        Ok(on_write!(self, |pool| sqlx::query(PRUNE)
            .bind(expired.0)
            .bind(i64::from(limit))
            .execute(pool)
            .await?
            .rows_affected()))
    }
}
