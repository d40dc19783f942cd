//! Whether every server has followed a revocation, and which have not.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use crate::cli::context::ACTOR;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::clock::{Clock, UnixTime, sleep};
use crate::events::{Entry, Event};
use crate::rotation::Rotator;
use crate::store::nodes::{FORGOTTEN_AFTER, Heartbeat};
use crate::text;

use super::LOOK;

/// Refuses an id that no server has, before anything is changed. One that was forgotten is accepted, so that a command can be repeated.
pub(super) async fn require_nodes(rotator: &Rotator, stopped: &[String]) -> Result<(), Failure> {
    if stopped.is_empty() {
        return Ok(());
    }
    let nodes = rotator.db.all_nodes().await?;
    let mut unknown = Vec::new();
    for id in stopped {
        let is_known = nodes.iter().any(|node| node.node_id == *id) || rotator.db.is_forgotten_node(id).await?;
        if !is_known {
            unknown.push(text::quoted(id));
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    let known = if nodes.is_empty() {
        "the database knows no server".to_owned()
    } else {
        let known: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        format!("the database knows {}", known.join("; "))
    };
    Err(Failure::Usage(output::printable(&format!(
        "--stopped: no server has the node id {}, and no key was revoked; leave it out if that server has signed off, or correct it: {known}",
        unknown.join(", ")
    ))))
}

/// Forgets servers of which the operator says that they are stopped. One that has sent a heartbeat lately runs, and is not forgotten.
pub(super) async fn forget(rotator: &Rotator, stopped: &[String], reason: &str) -> Result<(), Failure> {
    if stopped.is_empty() {
        return Ok(());
    }
    let now = rotator.now().await?;
    let mut running = Vec::new();
    for node in rotator.db.all_nodes().await? {
        if !stopped.contains(&node.node_id) {
            continue;
        }
        let seen_at = UnixTime(node.seen_at);
        if (now - seen_at).abs() <= rotator.policy.windows().snapshot_max_age {
            running.push(format!("{node}, last seen {}", output::time(seen_at, now)));
            continue;
        }
        rotator.db.leave(&node.node_id).await?;
        let reason = format!("said to be stopped: {reason}");
        rotator
            .db
            .note(&Entry::new(
                Event::NodeForgotten,
                &node.node_id,
                now,
                ACTOR.as_str(),
                reason,
            ))
            .await?;
    }
    if running.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(output::printable(&format!(
        "the key is revoked, but these servers are not stopped, or were until a moment ago: {}; stop each of them, and run the same \
         command again after {}",
        running.join("; "),
        rotator.policy.windows().snapshot_max_age
    ))))
}

/// The servers, and which of them have followed.
pub(super) struct Followers {
    living: usize,
    /// Those that live and have not confirmed.
    behind: Vec<Heartbeat>,
    /// Those that have not confirmed and have sent no heartbeat lately, without having signed off.
    silent: Vec<Heartbeat>,
    other_policy: Vec<String>,
    at: UnixTime,
}

/// What was seen while the command waited.
struct Watched {
    version: i64,
    /// The changes of the keys since the revocation. Whichever of them a node serves, it has followed.
    changes: HashSet<String>,
    nodes: BTreeMap<String, Heartbeat>,
    /// The first heartbeat of each node.
    first: BTreeMap<String, Heartbeat>,
}

impl Watched {
    /// Whether a node has sent a heartbeat meanwhile. Its clock, this command's or the database's may be wrong, so the time of a
    /// heartbeat alone does not tell who is alive.
    fn has_moved(&self, node: &Heartbeat) -> bool {
        self.first.get(&node.node_id).is_some_and(|first| first != node)
    }

    fn has_followed(&self, node: &Heartbeat) -> bool {
        match &node.change_id {
            Some(change) => self.changes.contains(change),
            // A node of an earlier version of Keyround.
            None => node.version >= self.version,
        }
    }
}

impl Followers {
    /// Waits until every living node serves this version, at most as long as they may take; for all of that time if nodes were forgotten,
    /// since one that lives after all sends its next heartbeat within it.
    pub(super) async fn wait(rotator: &Rotator, version: i64, has_forgotten: bool) -> Result<Self, Failure> {
        let clock: &Clock = &rotator.clock;
        let deadline = clock.read().monotonic + rotator.policy.windows().replica_refresh.duration();
        let mut watched = Watched {
            version,
            changes: HashSet::new(),
            nodes: BTreeMap::new(),
            first: BTreeMap::new(),
        };
        loop {
            let followers = Self::look(rotator, &mut watched).await?;
            let settled = !has_forgotten && followers.behind.is_empty() && followers.silent.is_empty();
            if settled || clock.read().monotonic >= deadline {
                return Ok(followers);
            }
            sleep(LOOK).await;
        }
    }

    async fn look(rotator: &Rotator, watched: &mut Watched) -> Result<Self, Failure> {
        watched.changes.insert(rotator.db.key_change().await?.to_string());
        let now = rotator.now().await?;
        // A node that has sent no heartbeat for a while may be cut off from the database, and still serve the revoked key.
        for node in rotator.db.all_nodes().await? {
            watched
                .first
                .entry(node.node_id.clone())
                .or_insert_with(|| node.clone());
            watched.nodes.insert(node.node_id.clone(), node);
        }
        let memory = rotator.policy.windows().snapshot_max_age;
        let (living, silent): (Vec<Heartbeat>, Vec<Heartbeat>) = watched
            .nodes
            .values()
            .cloned()
            .partition(|node| (now - UnixTime(node.seen_at)).abs() <= memory || watched.has_moved(node));
        let own_policy = rotator.policy.fingerprint();
        Ok(Self {
            living: living.len(),
            other_policy: living
                .iter()
                .filter(|node| node.policy_fingerprint != own_policy)
                .map(ToString::to_string)
                .collect(),
            behind: living.into_iter().filter(|node| !watched.has_followed(node)).collect(),
            silent: silent.into_iter().filter(|node| !watched.has_followed(node)).collect(),
            at: now,
        })
    }

    /// Fails while a server may not know of the revocation; `again` is the command to be run then.
    pub(super) fn require_all(&self, again: &str) -> Result<(), Failure> {
        let unconfirmed: Vec<&Heartbeat> = self.behind.iter().chain(&self.silent).collect();
        if unconfirmed.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = unconfirmed
            .iter()
            .map(|node| {
                let seen_at = UnixTime(node.seen_at);
                format!(
                    "{node}, last seen {}, counts until {}",
                    output::time(seen_at, self.at),
                    output::time(seen_at + FORGOTTEN_AFTER, self.at)
                )
            })
            .collect();
        // A row may hold anything, and this goes to a shell.
        let is_plain = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let stopped: Vec<String> = unconfirmed
            .iter()
            .filter(|node| is_plain(&node.node_id))
            .map(|node| format!(" --stopped {}", node.node_id))
            .collect();
        Err(Failure::Refused(output::printable(&format!(
            "the key is revoked in the database, but these servers have not confirmed that they follow: {}. One that is cut off from the \
             database publishes the revoked key as long as it runs, so stop each of them, or make sure that it is stopped; then name those \
             that are stopped: {again}{}",
            named.join("; "),
            stopped.concat()
        ))))
    }

    pub(super) fn to_json(&self) -> Value {
        let to_json = |node: &Heartbeat, is_living: bool| {
            json!({
                "node_id": node.node_id,
                "host": node.place.host,
                "listener": node.place.listener,
                "process_id": node.place.process_id,
                "seen_at": UnixTime(node.seen_at).rfc3339(),
                "counts_until": (UnixTime(node.seen_at) + FORGOTTEN_AFTER).rfc3339(),
                "version": node.version,
                "living": is_living,
            })
        };
        let behind = self.behind.iter().map(|node| to_json(node, true));
        let silent = self.silent.iter().map(|node| to_json(node, false));
        json!({
            "living": self.living,
            "unconfirmed": behind.chain(silent).collect::<Vec<_>>(),
            "other_policy": self.other_policy,
        })
    }

    pub(super) fn print(&self) {
        match (self.living, self.behind.len()) {
            (0, _) if !self.silent.is_empty() => output::line("No server has sent a heartbeat lately."),
            (0, _) => output::line("No server is running; each that starts serves the new keys."),
            (1, 0) => output::line("The one living node has confirmed that it serves the new keys."),
            (living, 0) => output::line(&format!(
                "All {living} living nodes have confirmed that they serve the new keys."
            )),
            (living, behind) => {
                output::line(&format!(
                    "{behind} of {living} living nodes have not confirmed; look at these, and stop those that do not follow:"
                ));
                for node in &self.behind {
                    let seen = output::time(UnixTime(node.seen_at), self.at);
                    output::line(&format!("  {}  last seen {seen}", output::printable(&node.to_string())));
                }
            }
        }
        if !self.silent.is_empty() {
            output::line(
                "These sent no heartbeat lately, did not sign off and have not confirmed; make sure that each is stopped, since one \
                 that is cut off from the database still publishes the revoked key:",
            );
            for node in &self.silent {
                let seen = output::time(UnixTime(node.seen_at), self.at);
                output::line(&format!("  {}  last seen {seen}", output::printable(&node.to_string())));
            }
        }
        for node in &self.other_policy {
            output::line(&format!(
                "Node {node} runs with another policy than this command; the times above are by the policy of this command."
            ));
        }
    }
}
