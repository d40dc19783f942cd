//! Table `nodes`: each running server says which snapshot it serves, so that a person can see who has followed.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;
use sqlx::FromRow;

use crate::clock::{Seconds, UnixTime};
use crate::text::printable;

use super::revocation_changes::LEAVE_PLACE;
use super::{Db, StoreError, in_tx, on_read, on_write};

pub(super) const BEAT: &str = "INSERT INTO nodes (node_id, seen_at, version, policy_fingerprint, clock_offset, change_id, \
                    master_keys, host, listener, process_id) \
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (node_id) DO UPDATE SET seen_at = excluded.seen_at, \
                    version = excluded.version, policy_fingerprint = excluded.policy_fingerprint, \
                    clock_offset = excluded.clock_offset, change_id = excluded.change_id, \
                    master_keys = excluded.master_keys, host = excluded.host, listener = excluded.listener, \
                    process_id = excluded.process_id";
const SEEN: &str = "SELECT node_id, seen_at, version, policy_fingerprint, clock_offset, change_id, master_keys, host, listener, \
                    process_id FROM nodes ORDER BY node_id";
// A heartbeat of the future is a wrong clock's, and no sign of life.
const LIVING: &str = "SELECT node_id, seen_at, version, policy_fingerprint, clock_offset, change_id, master_keys, host, listener, \
                      process_id FROM nodes WHERE seen_at BETWEEN $1 AND $2 ORDER BY node_id";
const SEEN_SINCE: &str = "SELECT node_id FROM nodes WHERE seen_at >= $1 ORDER BY node_id";
const FORGET: &str = "DELETE FROM nodes WHERE seen_at < $1 OR seen_at > $2";
/// A node that lives soon writes its row again.
pub(super) const FORGET_LATER: &str = "DELETE FROM nodes WHERE seen_at > $1";
pub(super) const LEAVE: &str = "DELETE FROM nodes WHERE node_id = $1";

/// The row of a node that did not sign off is deleted when it is older: by a server that starts, and by `db prune`. Until then the node
/// may be cut off from the database and serve keys that were revoked since.
pub const FORGOTTEN_AFTER: Seconds = Seconds(86_400);

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize)]
pub struct Heartbeat {
    /// The process, by a name that it drew at its start.
    pub node_id: String,
    /// When it was last seen, in Unix seconds.
    pub seen_at: i64,
    /// The version of the keys it serves.
    pub version: i64,
    /// The last change of the keys it serves; none from a node of an earlier version of Keyround.
    pub change_id: Option<String>,
    /// A digest of its policy; two that differ are a rolling change, or a mistake.
    pub policy_fingerprint: String,
    /// Its clock less the database's, in seconds.
    pub clock_offset: i64,
    /// The ids of the master keys that it lists, separated by spaces; empty from a node of an earlier version of Keyround.
    pub master_keys: String,
    /// Where it runs.
    #[sqlx(flatten)]
    #[serde(flatten)]
    pub place: Place,
}

/// Where a node runs; empty for a node of an earlier version of Keyround.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow, Serialize)]
pub struct Place {
    /// The name of its machine, or of its container.
    pub host: String,
    /// The address of its public listener.
    pub listener: String,
    /// The id of its process on that machine.
    pub process_id: i64,
}

impl Place {
    /// Where this process runs.
    #[must_use]
    pub fn here(listener: SocketAddr) -> Self {
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            listener: listener.to_string(),
            process_id: std::process::id().into(),
        }
    }
}

impl fmt::Display for Heartbeat {
    /// What a person needs to find the process.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A row may hold anything, and this goes to a terminal.
        let node_id = printable(&self.node_id);
        let (host, listener) = (printable(&self.place.host), printable(&self.place.listener));
        let process_id = self.place.process_id;
        if host.is_empty() {
            return write!(f, "{node_id} (of an earlier version, which does not say where it runs)");
        }
        write!(
            f,
            "{host} (process {process_id}, listening on {listener}, node {node_id})"
        )
    }
}

macro_rules! beat {
    ($heartbeat:expr, $executor:expr) => {
        sqlx::query($crate::store::nodes::BEAT)
            .bind(&$heartbeat.node_id)
            .bind($heartbeat.seen_at)
            .bind($heartbeat.version)
            .bind(&$heartbeat.policy_fingerprint)
            .bind($heartbeat.clock_offset)
            .bind($heartbeat.change_id.as_deref())
            .bind(&$heartbeat.master_keys)
            .bind(&$heartbeat.place.host)
            .bind(&$heartbeat.place.listener)
            .bind($heartbeat.place.process_id)
            .execute($executor)
            .await
            .map(|_| ())
    };
}

pub(super) use beat;

impl Db {
    /// Says that this node lives, in a transaction as every other change: a connection on which none can begin must not look well.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        in_tx!(&mut tx, |connection| beat!(heartbeat, connection)?);
        tx.commit().await
    }

    /// The nodes whose last heartbeat lies within `memory` of `now`, before it or after: clocks of nodes differ.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn living_nodes(&self, now: UnixTime, memory: Seconds) -> Result<Vec<Heartbeat>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_as(LIVING)
            .bind((now - memory).0)
            .bind((now + memory).0)
            .fetch_all(pool)
            .await)?)
    }

    /// The ids of the nodes that were seen since then, also in a schema of an earlier version.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn node_ids_seen_since(&self, since: UnixTime) -> Result<Vec<String>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_scalar(SEEN_SINCE)
            .bind(since.0)
            .fetch_all(pool)
            .await)?)
    }

    /// Every node that has a row, living or not.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn all_nodes(&self) -> Result<Vec<Heartbeat>, StoreError> {
        Ok(on_read!(self, |pool| sqlx::query_as(SEEN).fetch_all(pool).await)?)
    }

    /// Forgets the nodes that were not seen since then, or only later than `until`, by a clock that was wrong; answers with their
    /// number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_nodes(&self, since: UnixTime, until: UnixTime) -> Result<u64, StoreError> {
        Ok(on_write!(self, |pool| sqlx::query(FORGET)
            .bind(since.0)
            .bind(until.0)
            .execute(pool)
            .await?
            .rows_affected()))
    }

    /// Forgets a node that stops in good order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn leave(&self, node_id: &str) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        in_tx!(&mut tx, |connection| {
            for text in [LEAVE, LEAVE_PLACE] {
                sqlx::query(text)
                    .bind(node_id)
                    .execute(&mut *connection)
                    .await
                    .map(|_| ())?;
            }
        });
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_nothing_that_a_terminal_obeys() {
        let node = |host: &str, listener: &str, node_id: &str| {
            let heartbeat = Heartbeat {
                node_id: node_id.to_owned(),
                seen_at: 0,
                version: 1,
                change_id: None,
                policy_fingerprint: String::new(),
                clock_offset: 0,
                master_keys: String::new(),
                place: Place {
                    host: host.to_owned(),
                    listener: listener.to_owned(),
                    process_id: 7,
                },
            };
            heartbeat.to_string()
        };
        assert_eq!(
            node("web-1", "127.0.0.1:80", "0123"),
            "web-1 (process 7, listening on 127.0.0.1:80, node 0123)"
        );
        for bad in [
            "\u{1b}[2J",
            "a\nb",
            "a\rb",
            "\u{202e}a",
            "\u{2066}",
            "\u{2028}",
            "\u{9b}31m",
            "\u{7f}",
            "\u{200b}",
        ] {
            for shown in [
                node(bad, "b", "c"),
                node("a", bad, "c"),
                node("a", "b", bad),
                node("", "b", bad),
            ] {
                let obeyed = bad
                    .chars()
                    .find(|&character| !character.is_ascii_graphic() && shown.contains(character));
                assert_eq!(obeyed, None, "{bad:?} in {shown:?}");
            }
            assert!(node(bad, "b", "c").contains('\u{fffd}'));
        }
    }
}
