//! Tables `revocation_changes` and `revocation_readers`: what is new to a node of what was denied, ended or disabled.
//!
//! The rule is told in [`crate::revocations`]. Here are its statements:
//!
//! 1. A node that has no position takes a place in `revocation_readers`, and commits that, before it reads everything. From then on no
//!    change is forgotten that its first position does not cover.
//! 2. It takes the position first and reads after it: what is committed between the two is read twice, and nothing is left out.
//! 3. A change is forgotten when every place lies beyond it. A place says from where the look reads, not how far it came, so that a
//!    look under way keeps its changes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use serde::de::DeserializeOwned;
use sqlx::{AssertSqlSafe, FromRow, Postgres, Transaction};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::clock::UnixTime;
use crate::revocations::{Endings, Followed, Position, RevocationChange, RevocationKind, Revocations};

use super::timeout::within;
use super::transaction::Backend;
use super::{Db, StoreError, Tx, in_tx, on_write};

/// Rows that are read at once: few enough for the patience of one statement.
const PAGE: usize = 5_000;
/// More changes than these are not read one by one: all names are read instead, which takes less time for each.
const MOST_CHANGES: usize = 20_000;
/// Rows that one statement forgets, and how many statements one look takes for it.
const FORGOTTEN_AT_ONCE: i64 = 1_000;
const STATEMENTS_OF_FORGETTING: usize = 10;

const PLACE: &str = "SELECT mark FROM revocation_readers WHERE node_id = $1";
const TAKE_PLACE: &str = "INSERT INTO revocation_readers (node_id, mark, horizon) VALUES ($1, $2, $3) \
                          ON CONFLICT (node_id) DO UPDATE SET mark = excluded.mark, horizon = excluded.horizon";
pub(super) const LEAVE_PLACE: &str = "DELETE FROM revocation_readers WHERE node_id = $1";
const FORGET_PLACES: &str =
    "DELETE FROM revocation_readers WHERE node_id NOT IN (SELECT node_id FROM nodes WHERE seen_at > $1)";

const SQLITE_NEWEST: &str = "SELECT COALESCE(MAX(seq), 0) FROM revocation_changes";
/// A server that started at another moment is another one, whose numbers may be others. The place is held until the look is committed.
const POSTGRES_PLACE: &str = "SELECT (SELECT mark FROM revocation_readers WHERE node_id = $1 FOR UPDATE), \
                              CAST(pg_current_snapshot() AS TEXT), \
                              CAST(floor(EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000) AS BIGINT)";
const SQLITE_FORGET: &str = "DELETE FROM revocation_changes WHERE seq IN (SELECT seq FROM revocation_changes \
                             WHERE seq < (SELECT MIN(horizon) FROM revocation_readers) ORDER BY seq LIMIT $1)";
/// Nodes that forget at the same time do not wait for each other. The order makes it a walk along the index, however many are kept.
const POSTGRES_FORGET: &str = "DELETE FROM revocation_changes WHERE seq IN (SELECT seq FROM revocation_changes \
    WHERE txid < (SELECT MIN(horizon) FROM revocation_readers) ORDER BY txid LIMIT $1 FOR UPDATE SKIP LOCKED)";
/// Numbers that this server has not given yet: a copy brought them along, and every look would read them.
const POSTGRES_FORGET_COPIED: &str = "DELETE FROM revocation_changes WHERE seq IN (SELECT seq FROM revocation_changes \
    WHERE txid >= (SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)) \
    ORDER BY txid LIMIT $1 FOR UPDATE SKIP LOCKED)";

/// What the database has under a name now; by the key, however many names there are.
macro_rules! changes {
    ($condition:literal) => {
        concat!(
            "SELECT c.seq, c.kind, c.name, \
             CASE WHEN c.kind = 'token' THEN (SELECT denied_until FROM denied_tokens WHERE jti = c.name) END AS denied_until, \
             CASE WHEN c.kind = 'session' THEN (SELECT revoked_at FROM sessions WHERE sid = c.name) END AS revoked_at, \
             CASE WHEN c.kind = 'session' THEN (SELECT expires_at FROM sessions WHERE sid = c.name) END AS expires_at \
             FROM revocation_changes c WHERE ",
            $condition
        )
    };
}
const SQLITE_CHANGES: &str = changes!("c.seq > $1 AND c.seq <= $2 ORDER BY c.seq LIMIT $3");
const POSTGRES_CHANGES: &str = changes!("c.txid >= {next} OR c.txid IN ({in_progress})");

// A page of SQLite is one row of JSON, and PostgreSQL copies lines out: what the driver does for each row would take longer than all the rest.
const SQLITE_DENIED: &str = "SELECT MAX(place), json_group_array(json_array(jti, json_array(denied_until))) FROM \
    (SELECT rowid AS place, jti, denied_until FROM denied_tokens WHERE rowid > $1 ORDER BY rowid LIMIT $2)";
const SQLITE_ENDED: &str = "WITH page AS MATERIALIZED (SELECT rowid AS place, sid, revoked_at, expires_at FROM sessions \
    WHERE revoked_at >= $1 AND (revoked_at, rowid) > ($1, $2) ORDER BY revoked_at, rowid LIMIT $3) \
    SELECT last.revoked_at, last.place, (SELECT json_group_array(json_array(sid, json_array(revoked_at, expires_at))) FROM page) \
    FROM (SELECT revoked_at, place FROM page ORDER BY revoked_at DESC, place DESC LIMIT 1) last";
const POSTGRES_DENIED: &str = "SELECT jti, denied_until FROM denied_tokens";
const POSTGRES_ENDED: &str = "SELECT sid, revoked_at, expires_at FROM sessions WHERE revoked_at >= {since}";

/// What a look found of the place of its node.
pub(super) struct ReadingPlace {
    /// Where it is now, under the mark that the look leaves.
    pub(super) now: Followed,
    /// Whether it goes on from the last look.
    pub(super) goes_on: bool,
}

#[derive(FromRow)]
struct ChangeRow {
    seq: i64,
    kind: String,
    name: String,
    denied_until: Option<i64>,
    revoked_at: Option<i64>,
    expires_at: Option<i64>,
}

/// What changed since the last look.
#[derive(Default)]
pub(super) struct RevocationChanges {
    pub(super) names: Vec<RevocationChange>,
    pub(super) tenants: bool,
}

impl RevocationChanges {
    fn take(&mut self, row: ChangeRow, endings: Endings) {
        let (kind, until) = match row.kind.as_str() {
            "token" => (RevocationKind::Token, row.denied_until.map(UnixTime)),
            "session" => {
                let times = row.revoked_at.zip(row.expires_at);
                let until = times.map(|(ended, expires)| endings.of_session(UnixTime(ended), UnixTime(expires)));
                (RevocationKind::Session, until)
            }
            "tenant" => {
                self.tenants = true;
                return;
            }
            // A later version's.
            _ => return,
        };
        let name = row.name;
        self.names.push(RevocationChange { kind, name, until });
    }
}

/// 128 random bits.
pub(super) fn new_mark() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Finds the node's place and takes the position, within the transaction of its heartbeat. In SQLite this transaction is the only one that
/// writes.
pub(super) async fn find_place(
    tx: &mut Tx,
    node_id: &str,
    followed: Option<&Followed>,
) -> Result<ReadingPlace, StoreError> {
    let (found, position, server) = if let Backend::Sqlite(tx) = &mut tx.on {
        let found: Option<String> = sqlx::query_scalar(PLACE)
            .bind(node_id)
            .fetch_optional(&mut **tx)
            .await?;
        let newest = sqlx::query_scalar(SQLITE_NEWEST).fetch_one(&mut **tx).await?;
        (found, Position::Sequence(newest), 0)
    } else {
        let (found, snapshot, server): (Option<String>, String, i64) =
            in_tx!(tx, |connection| sqlx::query_as(POSTGRES_PLACE)
                .bind(node_id)
                .fetch_one(connection)
                .await?);
        let position = Position::parse(&snapshot).ok_or_else(|| StoreError::Corrupt {
            table: "revocation_changes",
            row: snapshot,
            reason: "the snapshot of this transaction".to_owned(),
        })?;
        (found, position, server)
    };
    let goes_on = followed.is_some_and(|followed| followed.goes_on(found.as_deref(), server));
    let now = Followed {
        mark: new_mark(),
        server,
        position,
    };
    Ok(ReadingPlace { now, goes_on })
}

/// Leaves the mark, and says from where the look reads.
pub(super) async fn take_place(tx: &mut Tx, node_id: &str, mark: &str, horizon: i64) -> Result<(), StoreError> {
    in_tx!(tx, |connection| {
        sqlx::query(TAKE_PLACE)
            .bind(node_id)
            .bind(mark)
            .bind(horizon)
            .execute(connection)
            .await
            .map(|_| ())?;
    });
    Ok(())
}

/// Whether this snapshot still has the mark.
pub(super) async fn has_mark(tx: &mut Tx, node_id: &str, mark: &str) -> Result<bool, StoreError> {
    let found: Option<String> = in_tx!(tx, |connection| sqlx::query_scalar(PLACE)
        .bind(node_id)
        .fetch_optional(connection)
        .await?);
    Ok(found.as_deref() == Some(mark))
}

/// Reads what is new after a position; none if it is so much that everything is to be read instead. In SQLite the mark is committed before
/// the reads, so they go no further than the position that was taken with it.
pub(super) async fn changes_after(
    tx: &mut Tx,
    position: &Position,
    now: &Position,
    endings: Endings,
) -> Result<Option<RevocationChanges>, StoreError> {
    let mut changes = RevocationChanges::default();
    match (&mut tx.on, position) {
        (Backend::Sqlite(tx), Position::Sequence(last)) => {
            let Position::Sequence(newest) = now else {
                return Err(StoreError::Conflict);
            };
            let mut last = *last;
            loop {
                let rows: Vec<ChangeRow> = sqlx::query_as(SQLITE_CHANGES)
                    .bind(last)
                    .bind(newest)
                    .bind(page())
                    .fetch_all(&mut **tx)
                    .await?;
                let is_last = rows.len() < PAGE;
                for row in rows {
                    last = row.seq;
                    changes.take(row, endings);
                }
                if changes.names.len() > MOST_CHANGES {
                    return Ok(None);
                }
                if is_last {
                    return Ok(Some(changes));
                }
            }
        }
        (Backend::Postgres(..), Position::Transactions { next, in_progress, .. }) => {
            // No transaction has the number 0.
            let in_progress: Vec<String> = [0].iter().chain(in_progress).map(i64::to_string).collect();
            let text = POSTGRES_CHANGES
                .replace("{next}", &next.to_string())
                .replace("{in_progress}", &in_progress.join(", "));
            let mut cursor = Cursor::open(tx, &text).await?;
            while let Some(rows) = cursor.next::<ChangeRow>(tx).await? {
                for row in rows {
                    changes.take(row, endings);
                }
                if changes.names.len() > MOST_CHANGES {
                    cursor.close(tx).await?;
                    return Ok(None);
                }
            }
            Ok(Some(changes))
        }
        // The mark is another database's.
        _ => Err(StoreError::Conflict),
    }
}

/// Reads everything that counts, a page at a time, so that it is never in memory twice.
/// `since` is when the first of the ended sessions ended that count.
pub(super) async fn everything(
    tx: &mut Tx,
    since: UnixTime,
    endings: Endings,
    into: &Arc<Revocations>,
) -> Result<(), StoreError> {
    into.begin_whole();
    let mut learning = Learning::new(into);
    match &mut tx.on {
        Backend::Sqlite(tx) => {
            let mut last = Some(i64::MIN);
            while let Some(place) = last {
                let rows: String;
                (last, rows) = sqlx::query_as(SQLITE_DENIED)
                    .bind(place)
                    .bind(page())
                    .fetch_one(&mut **tx)
                    .await?;
                learning
                    .begin(move |into| parse("denied_tokens", &rows, |row| learn_denied(into, row)))
                    .await?;
            }
            let mut last = Some((since.0, i64::MIN));
            while let Some((since, place)) = last {
                let found: Option<(i64, i64, String)> = sqlx::query_as(SQLITE_ENDED)
                    .bind(since)
                    .bind(place)
                    .bind(page())
                    .fetch_optional(&mut **tx)
                    .await?;
                last = found.as_ref().map(|(ended, place, _)| (*ended, *place));
                if let Some((_, _, rows)) = found {
                    learning
                        .begin(move |into| parse("sessions", &rows, |row| learn_ended(into, endings, row)))
                        .await?;
                }
            }
        }
        Backend::Postgres(tx, patience) => {
            let mut copy = CopyOut::begin(tx, *patience, POSTGRES_DENIED).await?;
            while let Some(lines) = copy.next().await? {
                learning
                    .begin(move |into| split("denied_tokens", &lines, |row| learn_denied(into, row)))
                    .await?;
            }
            drop(copy);
            let select = POSTGRES_ENDED.replace("{since}", &since.0.to_string());
            let mut copy = CopyOut::begin(tx, *patience, &select).await?;
            while let Some(lines) = copy.next().await? {
                learning
                    .begin(move |into| split("sessions", &lines, |row| learn_ended(into, endings, row)))
                    .await?;
            }
        }
    }
    learning.end().await
}

/// A name, and what counts of its row.
type RevocationRow<'r, const N: usize> = (Cow<'r, str>, [i64; N]);

fn learn_denied(into: &Revocations, (jti, [until]): RevocationRow<'_, 1>) {
    into.tokens.learn(&jti, UnixTime(until));
}

fn learn_ended(into: &Revocations, endings: Endings, (sid, [ended, expires]): RevocationRow<'_, 2>) {
    let until = endings.of_session(UnixTime(ended), UnixTime(expires));
    into.sessions.learn(&sid, until);
}

/// Takes one page in while the next one is read.
struct Learning {
    into: Arc<Revocations>,
    page: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Learning {
    fn new(into: &Arc<Revocations>) -> Self {
        Self {
            into: Arc::clone(into),
            page: None,
        }
    }

    async fn begin(
        &mut self,
        learn: impl FnOnce(&Revocations) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.end().await?;
        self.into.note_progress();
        let into = Arc::clone(&self.into);
        self.page = Some(spawn_blocking(move || learn(&into)));
        Ok(())
    }

    async fn end(&mut self) -> Result<(), StoreError> {
        match self.page.take() {
            // The server ends.
            Some(page) => page.await.map_err(|_| StoreError::Conflict)?,
            None => Ok(()),
        }
    }
}

fn corrupt(table: &'static str, reason: String) -> StoreError {
    StoreError::Corrupt {
        table,
        row: "one that was revoked".to_owned(),
        reason,
    }
}

/// Reads a page of SQLite.
fn parse<R: DeserializeOwned>(table: &'static str, page: &str, row: impl FnMut(R)) -> Result<(), StoreError> {
    let rows: Vec<R> = serde_json::from_str(page).map_err(|error| corrupt(table, error.to_string()))?;
    rows.into_iter().for_each(row);
    Ok(())
}

/// Reads lines that PostgreSQL copied out, each a name and `N` numbers.
fn split<const N: usize>(
    table: &'static str,
    lines: &[u8],
    mut row: impl FnMut(RevocationRow<'_, N>),
) -> Result<(), StoreError> {
    let lines = std::str::from_utf8(lines).map_err(|error| corrupt(table, error.to_string()))?;
    for line in lines.lines() {
        row(columns(line).ok_or_else(|| corrupt(table, "a line of COPY has another form".to_owned()))?);
    }
    Ok(())
}

fn columns<const N: usize>(line: &str) -> Option<RevocationRow<'_, N>> {
    let mut columns = line.split('\t');
    let name = unescaped(columns.next()?);
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = columns.next()?.parse().ok()?;
    }
    Some((name, numbers))
}

/// A text as `COPY` writes it.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let escaped = (letter == '\\').then(|| letters.next()).flatten();
        plain.push(match escaped {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(other) => other,
            None => letter,
        });
    }
    Cow::Owned(plain)
}

/// The rows of one statement as PostgreSQL copies them out, a page at a time; each page has the patience of a statement of its own.
struct CopyOut<'t> {
    lines: BoxStream<'t, sqlx::Result<Bytes>>,
    patience: Option<Duration>,
}

impl<'t> CopyOut<'t> {
    async fn begin(
        tx: &'t mut Transaction<'static, Postgres>,
        patience: Option<Duration>,
        select: &str,
    ) -> Result<Self, StoreError> {
        let copy = format!("COPY ({select}) TO STDOUT");
        let lines = within(patience, async { Ok(tx.copy_out_raw(&copy).await?) }).await?;
        Ok(Self { lines, patience })
    }

    /// The lines of a page; none at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let mut page = Vec::new();
        within(self.patience, async {
            for _ in 0..PAGE {
                let Some(line) = self.lines.try_next().await? else {
                    break;
                };
                page.extend_from_slice(&line);
            }
            Ok(())
        })
        .await?;
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}

fn page() -> i64 {
    i64::try_from(PAGE).unwrap_or(i64::MAX)
}

/// The rows of one statement in PostgreSQL, a page at a time; each page has the patience of a statement of its own.
struct Cursor {
    is_at_end: bool,
}

impl Cursor {
    /// The text is ours, with numbers in it: a cursor is declared without values.
    async fn open(tx: &mut Tx, select: &str) -> Result<Self, StoreError> {
        let declare = AssertSqlSafe(format!("DECLARE revocations NO SCROLL CURSOR FOR {select}"));
        in_tx!(tx, |connection| sqlx::raw_sql(declare)
            .execute(connection)
            .await
            .map(|_| ())?);
        Ok(Self { is_at_end: false })
    }

    /// Gives up the rows that are left.
    async fn close(self, tx: &mut Tx) -> Result<(), StoreError> {
        if !self.is_at_end {
            in_tx!(tx, |connection| sqlx::raw_sql("CLOSE revocations")
                .execute(connection)
                .await
                .map(|_| ())?);
        }
        Ok(())
    }

    async fn next<R>(&mut self, tx: &mut Tx) -> Result<Option<Vec<R>>, StoreError>
    where
        R: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        let Backend::Postgres(tx, patience) = &mut tx.on else {
            return Ok(None);
        };
        if self.is_at_end {
            return Ok(None);
        }
        let fetch = AssertSqlSafe(format!("FETCH {PAGE} FROM revocations"));
        let rows: Vec<R> = within(*patience, async {
            let fetched = sqlx::query_as(fetch).persistent(false).fetch_all(&mut **tx).await?;
            if fetched.len() < PAGE {
                sqlx::raw_sql("CLOSE revocations").execute(&mut **tx).await?;
            }
            Ok(fetched)
        })
        .await?;
        self.is_at_end = rows.len() < PAGE;
        Ok(Some(rows))
    }
}

impl Db {
    /// Forgets the changes that every node has read, in bounded steps; answers with their number. Nodes whose last heartbeat is no later
    /// than `gone` are not waited for.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_revocation_changes(&self, gone: UnixTime) -> Result<u64, StoreError> {
        on_write!(self, |pool| sqlx::query(FORGET_PLACES)
            .bind(gone.0)
            .execute(pool)
            .await
            .map(|_| ())?);
        let texts: &[&'static str] = match self {
            Self::Sqlite { .. } => &[SQLITE_FORGET],
            Self::Postgres { .. } => &[POSTGRES_FORGET, POSTGRES_FORGET_COPIED],
        };
        let mut forgotten = 0;
        for text in texts {
            for _ in 0..STATEMENTS_OF_FORGETTING {
                let some = on_write!(self, |pool| sqlx::query(*text)
                    .bind(FORGOTTEN_AT_ONCE)
                    .execute(pool)
                    .await?
                    .rows_affected());
                forgotten += some;
                if some == 0 {
                    break;
                }
            }
        }
        Ok(forgotten)
    }
}
