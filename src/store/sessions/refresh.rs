//! What a refresh asks of the table `sessions`: how the session stands, and the next generation. Those that come at once are
//! answered by one statement.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use crate::accounts::refresh::Family;
use crate::accounts::session::Device;
use crate::accounts::user::Role;
use crate::clock::UnixTime;
use crate::store::timeout::{in_time, within};
use crate::store::{Db, StoreError};
use crate::values::SessionId;

use super::{SessionRow, corrupt, parse_sid};

/// Time by PostgreSQL's clock, in the statement that needs it; not before the time that the nodes have reached, or a clock that
/// is behind would make expired sessions valid again.
macro_rules! postgres_now {
    () => {
        "GREATEST(CAST(floor(extract(epoch FROM clock_timestamp())) AS BIGINT), (SELECT reached FROM clock WHERE id = 1))"
    };
}

macro_rules! family {
    ($now:expr, $which:expr) => {
        concat!(
            "SELECT sid, login_session_id, sessions.user_id, sessions.tenant_id, client_id, audience, generation, current_hash, previous_hash, salt, \
             sessions.created_at, rotated_at, expires_at, revoked_at, revoked_for, address, user_agent, sessions.scope, roles, suspended_at, \
             disabled_at, ",
            $now,
            " AS now FROM sessions JOIN users ON users.user_id = sessions.user_id \
             JOIN tenants ON tenants.tenant_id = sessions.tenant_id WHERE sid ",
            $which
        )
    };
}
const SQLITE_FAMILY: &str = family!("$2", "= $1");
const SQLITE_FAMILIES: &str = family!("$2", "IN (SELECT value FROM json_each($1))");
/// A session with its chain, its user and its tenant, on PostgreSQL; `$1` is its id.
pub const POSTGRES_FAMILY: &str = family!(postgres_now!(), "= $1");
const POSTGRES_FAMILIES: &str = family!(postgres_now!(), "= ANY($1)");

macro_rules! claim {
    ($now:expr, $condition:expr) => {
        concat!(
            "UPDATE sessions SET generation = generation + 1, previous_hash = current_hash, current_hash = $3, salt = $4, \
             address = $5, user_agent = $6, rotated_at = ",
            $now,
            " WHERE sid = $1 AND generation = $2 AND revoked_at IS NULL",
            $condition
        )
    };
}
const SQLITE_CLAIM: &str = claim!("$7", "");
/// The claim of the next generation, on PostgreSQL: session, generation, digest, salt, address, user agent.
pub const POSTGRES_CLAIM: &str = claim!(postgres_now!(), "");
const POSTGRES_CLAIM_IF_FREE: &str = claim!(
    postgres_now!(),
    " AND sid = (SELECT sid FROM sessions WHERE sid = $1 FOR NO KEY UPDATE SKIP LOCKED) RETURNING sid"
);

macro_rules! claims {
    ($now:expr, $claims:expr, $condition:expr) => {
        concat!(
            "UPDATE sessions SET generation = sessions.generation + 1, previous_hash = current_hash, \
             current_hash = claims.successor_hash, salt = claims.salt, address = claims.address, user_agent = claims.user_agent, \
             rotated_at = ",
            $now,
            " FROM ",
            $claims,
            " WHERE sessions.sid = claims.sid AND sessions.generation = claims.generation AND revoked_at IS NULL",
            $condition,
            " RETURNING sessions.sid"
        )
    };
}
const SQLITE_CLAIMS: &str = claims!(
    "$2",
    "(SELECT value ->> 0 AS sid, value ->> 1 AS generation, value ->> 2 AS successor_hash, value ->> 3 AS salt, \
     value ->> 4 AS address, value ->> 5 AS user_agent FROM json_each($1)) AS claims",
    ""
);
// Neither waits for anybody: two that claim the same sessions cannot wait for each other, and one locked row holds up no others.
const POSTGRES_CLAIMS: &str = concat!(
    "WITH free AS MATERIALIZED (SELECT sid FROM sessions WHERE sid = ANY($1) FOR NO KEY UPDATE SKIP LOCKED) ",
    claims!(
        postgres_now!(),
        "unnest($1, $2, $3, $4, $5, $6) AS claims (sid, generation, successor_hash, salt, address, user_agent)",
        " AND sessions.sid IN (SELECT sid FROM free)"
    )
);

/// The next generation of a session.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The session.
    pub sid: SessionId,
    /// The generation that was presented.
    pub generation: i64,
    /// The digest of the successor's secret.
    pub successor_hash: String,
    /// What the successor was made with.
    pub salt: String,
    /// Where it is refreshed from.
    pub device: Device,
}

/// What became of a claim among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The next generation is in its predecessor's place.
    Yes,
    /// Another claim of the same session came first.
    No,
    /// The session has moved on, or somebody was changing it in that moment: asked alone, [`Db::claim_generation`] tells which.
    Unknown,
}

#[derive(Clone, FromRow)]
struct FamilyRow {
    #[sqlx(flatten)]
    session: SessionRow,
    generation: i64,
    current_hash: String,
    previous_hash: Option<String>,
    salt: String,
    roles: String,
    suspended_at: Option<i64>,
    disabled_at: Option<i64>,
    now: i64,
}

impl TryFrom<FamilyRow> for (Family, UnixTime) {
    type Error = StoreError;

    fn try_from(row: FamilyRow) -> Result<Self, StoreError> {
        let roles: Result<Vec<Role>, _> = row.roles.split_ascii_whitespace().map(str::parse).collect();
        let roles = roles.map_err(|_| corrupt(&row.session.sid, "the roles of its user"))?;
        let family = Family {
            session: row.session.try_into()?,
            generation: row.generation,
            current_hash: row.current_hash,
            previous_hash: row.previous_hash,
            salt: row.salt,
            roles,
            suspended_at: row.suspended_at.map(UnixTime),
            tenant_disabled_at: row.disabled_at.map(UnixTime),
        };
        Ok((family, UnixTime(row.now)))
    }
}

/// A session with its chain, its user and its tenant, and the time of the look; none where there is no such session.
pub type Found = Result<Option<(Family, UnixTime)>, StoreError>;

fn parsed<T>(rows: &[PgRow], parse: impl Fn(&PgRow) -> Result<T, sqlx::Error>) -> Result<Vec<T>, StoreError> {
    let rows: Result<Vec<T>, _> = rows.iter().map(parse).collect();
    Ok(rows?)
}

macro_rules! bound {
    ($text:expr, $claim:expr) => {
        sqlx::query($text)
            .bind($claim.sid.to_string())
            .bind($claim.generation)
            .bind(&$claim.successor_hash)
            .bind(&$claim.salt)
            .bind(&$claim.device.address)
            .bind(&$claim.device.user_agent)
    };
}

impl Db {
    /// A session with its chain, its user and its tenant, and the time: PostgreSQL's own, or `now`.
    ///
    /// # Errors
    /// When the database does not answer, or the row cannot be read.
    pub async fn family(&self, sid: SessionId, now: UnixTime) -> Found {
        let sid = sid.to_string();
        let row: Option<FamilyRow> = match self {
            Self::Sqlite { read, patience, .. } => {
                let family = sqlx::query_as(SQLITE_FAMILY).bind(sid).bind(now.0);
                in_time(*patience, async { Ok(family.fetch_optional(read).await?) }).await?
            }
            Self::Postgres { pool, patience, .. } => {
                within(*patience, async {
                    Ok(sqlx::query_as(POSTGRES_FAMILY).bind(sid).fetch_optional(pool).await?)
                })
                .await?
            }
        };
        row.map(TryInto::try_into).transpose()
    }

    /// [`Db::family`] of each of these sessions, in their order.
    pub async fn families(&self, sids: &[SessionId], now: UnixTime) -> Vec<Found> {
        match self.family_rows(sids, now).await {
            Ok(rows) => {
                let answer = |sid: &SessionId| {
                    let row = rows.get(&sid.to_string()).cloned();
                    row.map(TryInto::try_into).transpose()
                };
                sids.iter().map(answer).collect()
            }
            Err(error) => sids.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn family_rows(&self, sids: &[SessionId], now: UnixTime) -> Result<HashMap<String, FamilyRow>, StoreError> {
        let sids: HashSet<String> = sids.iter().map(SessionId::to_string).collect();
        let sids: Vec<String> = sids.into_iter().collect();
        let rows: Vec<FamilyRow> = match (self, &sids[..]) {
            (Self::Sqlite { read, patience, .. }, [only]) => {
                let family = sqlx::query_as(SQLITE_FAMILY).bind(only).bind(now.0);
                in_time(*patience, async { Ok(family.fetch_all(read).await?) }).await?
            }
            (Self::Sqlite { read, patience, .. }, _) => {
                let sids = serde_json::json!(sids).to_string();
                let families = sqlx::query_as(SQLITE_FAMILIES).bind(sids).bind(now.0);
                in_time(*patience, async { Ok(families.fetch_all(read).await?) }).await?
            }
            (Self::Postgres { kept, .. }, [only]) => {
                let rows = kept.rows(|| sqlx::query(POSTGRES_FAMILY).bind(only)).await?;
                parsed(&rows, |row| FamilyRow::from_row(row))?
            }
            (Self::Postgres { kept, .. }, sids) => {
                let rows = kept.rows(|| sqlx::query(POSTGRES_FAMILIES).bind(sids)).await?;
                parsed(&rows, |row| FamilyRow::from_row(row))?
            }
        };
        Ok(rows.into_iter().map(|row| (row.session.sid.clone(), row)).collect())
    }

    /// Puts the next generation in the place of the presented one; false when somebody was faster, or the session has ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn claim_generation(&self, claim: &Claim, now: UnixTime) -> Result<bool, StoreError> {
        let claimed = match self {
            Self::Sqlite { write, patience, .. } => {
                let claimed = async { Ok(bound!(SQLITE_CLAIM, claim).bind(now.0).execute(write).await?) };
                in_time(*patience, claimed).await?
            }
            Self::Postgres { pool, patience, .. } => {
                let claimed = async { Ok(bound!(POSTGRES_CLAIM, claim).execute(pool).await?) };
                return Ok(within(*patience, claimed).await?.rows_affected() == 1);
            }
        };
        Ok(claimed.rows_affected() == 1)
    }

    async fn claim_if_free(&self, claim: &Claim, now: UnixTime) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite { .. } => self.claim_generation(claim, now).await,
            Self::Postgres { kept, .. } => {
                let claimed = kept.rows(|| bound!(POSTGRES_CLAIM_IF_FREE, claim)).await?;
                Ok(claimed.len() == 1)
            }
        }
    }

    /// Puts the next generation of each of these sessions in the place of the presented one, all or none; tells of each what became
    /// of it, in their order.
    pub async fn claim_generations(&self, claims: &[Claim], now: UnixTime) -> Vec<Result<Claimed, StoreError>> {
        if let [only] = claims {
            let claimed = self.claim_if_free(only, now).await;
            return vec![claimed.map(|claimed| if claimed { Claimed::Yes } else { Claimed::Unknown })];
        }
        // Of several for one session the first counts; the others find what it made.
        let mut seen = HashSet::new();
        let (first, rest): (Vec<_>, Vec<_>) = claims.iter().enumerate().partition(|(_, claim)| seen.insert(claim.sid));
        let first: Vec<&Claim> = first.into_iter().map(|(_, claim)| claim).collect();
        let late: HashSet<usize> = rest.into_iter().map(|(place, _)| place).collect();
        match self.claimed(&first, now).await {
            Ok(claimed) => {
                let answer = |(place, claim): (usize, &Claim)| {
                    Ok(match (late.contains(&place), claimed.contains(&claim.sid)) {
                        (true, _) => Claimed::No,
                        (false, true) => Claimed::Yes,
                        (false, false) => Claimed::Unknown,
                    })
                };
                claims.iter().enumerate().map(answer).collect()
            }
            Err(error) => claims.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn claimed(&self, claims: &[&Claim], now: UnixTime) -> Result<HashSet<SessionId>, StoreError> {
        fn column<'c, T>(claims: &[&'c Claim], of: impl Fn(&'c Claim) -> T) -> Vec<T> {
            claims.iter().map(|claim| of(claim)).collect()
        }
        let sids: Vec<String> = match self {
            Self::Sqlite { write, patience, .. } => {
                let rows = column(claims, |claim| {
                    let device = &claim.device;
                    let (sid, generation) = (claim.sid.to_string(), claim.generation);
                    serde_json::json!([
                        sid,
                        generation,
                        claim.successor_hash,
                        claim.salt,
                        device.address,
                        device.user_agent
                    ])
                });
                let rows = serde_json::Value::Array(rows).to_string();
                let claims = sqlx::query_scalar(SQLITE_CLAIMS).bind(rows).bind(now.0);
                in_time(*patience, async { Ok(claims.fetch_all(write).await?) }).await?
            }
            Self::Postgres { kept, .. } => {
                let statement = || {
                    sqlx::query(POSTGRES_CLAIMS)
                        .bind(column(claims, |claim| claim.sid.to_string()))
                        .bind(column(claims, |claim| claim.generation))
                        .bind(column(claims, |claim| claim.successor_hash.as_str()))
                        .bind(column(claims, |claim| claim.salt.as_str()))
                        .bind(column(claims, |claim| claim.device.address.as_str()))
                        .bind(column(claims, |claim| claim.device.user_agent.as_str()))
                };
                parsed(&kept.rows(statement).await?, |row| row.try_get(0))?
            }
        };
        sids.iter().map(|sid| parse_sid(sid)).collect()
    }
}
