//! `keys revoke`: the emergency, and what a person must know about it.

mod followers;
mod foresight;

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::clock::{UnixTime, sleep};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::keys::emergency::{self, Response, Revocation, UnknownKey, accepted_until};
use crate::keys::lifecycle::Keys;
use crate::keys::policy::Policy;
use crate::rotation::{Revoked, RotationError, Rotator};

use super::super::confirm::Confirmation;
use crate::cli::context::{ACTOR, Context};
use crate::cli::failure::Failure;
use crate::cli::output;

use followers::Followers;

/// How long to wait between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args)]
pub struct RevokeRequest {
    /// The key.
    #[arg(allow_hyphen_values = true, value_parser = super::kid)]
    kid: Kid,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run", allow_hyphen_values = true, value_parser = crate::cli::confirm::worded)]
    reason: Option<String>,
    /// Print what would be revoked, what would sign then, and until when a revoked key could still be accepted; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Also replace the active key of every algorithm: they all lay in the same store.
    #[arg(long)]
    all_algorithms: bool,
    /// A server that is stopped for certain, by its node id: it is waited for no more. It may be given several times.
    #[arg(long, value_name = "NODE", conflicts_with = "dry_run")]
    stopped: Vec<String>,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl RevokeRequest {
    fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }

    /// The command that says what is left to do.
    fn again(&self) -> String {
        let all_algorithms = if self.all_algorithms { " --all-algorithms" } else { "" };
        format!("keyround keys revoke {}{all_algorithms} --reason TEXT --yes", self.kid)
    }
}

pub async fn run(context: &Context, request: &RevokeRequest) -> Result<(), Failure> {
    if request.dry_run {
        return foresight::run(context, request).await;
    }
    let (_, foundation) = context.foundation().await?;
    let rotator = &foundation.rotator;
    followers::require_nodes(rotator, &request.stopped).await?;
    confirm(rotator, request).await?;
    let (done, outcome) = revoke(rotator, request).await;
    let written = rotator.ledger.as_ref().map_or(Ok(()), |ledger| {
        ledger.learn(done.iter().flat_map(|revoked| &revoked.materials))
    });
    // A server writes a ledger of its own; this machine may have none.
    let unwritten = rotator.ledger.as_ref().map_or(0, |ledger| ledger.unwritten());
    let written = written.map_err(|error| {
        Failure::Refused(if unwritten == 0 {
            format!("the key is revoked and noted, but {error}")
        } else {
            format!("the key is revoked, but this machine could not note it: {error}; then run the command again")
        })
    });
    let Some(version) = done.iter().map(|revoked| revoked.version).max() else {
        return outcome;
    };
    if !context.json {
        print(request, &done, &rotator.policy, context.clock.read().wall);
    }
    let forgotten = followers::forget(rotator, &request.stopped, request.reason()).await;
    let followers = Followers::wait(rotator, version, !request.stopped.is_empty()).await;
    let outcome = outcome.and(still_revoked(rotator, &done).await);
    let replaced = replaced_by_servers(rotator, &done).await;
    if let (false, Ok(replaced)) = (context.json, &replaced) {
        for (alg, kid) in replaced {
            output::line(&format!("{alg} key {kid}, which a server made, signs now"));
        }
    }
    let outcome = outcome.and(replaced.map(drop));
    if context.json {
        output::json(&json!({
            "revocations": done.iter().map(|revoked| to_json(revoked, &rotator.policy)).collect::<Vec<_>>(),
            "nodes": followers.as_ref().ok().map(Followers::to_json),
        }));
    } else if let Ok(followers) = &followers {
        followers.print();
    }
    outcome
        .and(forgotten)
        .and(followers.and_then(|followers| followers.require_all(&request.again())))
        .and(written)
}

/// Asks, unless there is nothing left to do.
async fn confirm(rotator: &Rotator, request: &RevokeRequest) -> Result<(), Failure> {
    let keys = rotator.db.signing_keys().await?.keys();
    let trusted = rotator.look().await?;
    let Some(mut question) = question(&keys, &rotator.policy, request, trusted.reached())? else {
        return Ok(());
    };
    // What cannot be told now holds up no emergency.
    if let Err(RotationError::UnlistedMasterKey(unlisted)) = rotator.sealing_key(&trusted).await {
        let _ = write!(
            question,
            " A new key is made by a server, not by this command: {unlisted}."
        );
    }
    request.confirmation.can_be_given("the revocation")?;
    request.confirmation.ask(&question)
}

/// A key may be published although no row of it is left: then there is nothing to revoke until a row holds it again. Its own kid is
/// taken for good.
fn of_no_row(unknown: &UnknownKey) -> Failure {
    Failure::Refused(format!(
        "{unknown}. If a server publishes it, its row was lost: save its JWK from the key set, without its kid, in FILE, run 'keyround keys import FILE --kid \
         NEW-KID --verify-only --until TIME', and then 'keyround keys revoke NEW-KID', which revokes the key under both names; see the alert \
         KeyroundRowsVanished"
    ))
}

/// What is asked; nothing when there is nothing left to do.
fn question(keys: &Keys, policy: &Policy, request: &RevokeRequest, now: UnixTime) -> Result<Option<String>, Failure> {
    let kid = &request.kid;
    let about_key = match emergency::revoke(keys, policy, kid, now).map_err(|unknown| of_no_row(&unknown))? {
        Response::AlreadyRevoked { .. } if !request.all_algorithms => return Ok(None),
        Response::AlreadyRevoked { .. } => format!("Key {kid} is revoked already."),
        Response::Revoke(revocation) => {
            let others = beside(keys, kid, &revocation);
            if revocation.replacement.is_some() {
                format!(
                    "Key {kid} signs {} tokens. It will be revoked{others}, a new key signs at once, and every token that the \
                     old key signed will be refused.",
                    revocation.alg
                )
            } else {
                format!("Key {kid} will be revoked{others}, and every token that it signed will be refused.")
            }
        }
    };
    let about_others = if request.all_algorithms {
        " The active key of every algorithm will be replaced in the same way."
    } else {
        ""
    };
    Ok(Some(format!("{about_key}{about_others} This cannot be undone.")))
}

/// What goes with the key: its other names, and the pending keys that were in the same store.
fn beside(keys: &Keys, kid: &Kid, revocation: &Revocation) -> String {
    let material = emergency::find_material(keys, kid);
    let is_alias = |other: &Kid| {
        let jwk = emergency::find_material(keys, other);
        material.zip(jwk).is_some_and(|(one, other)| one.is_same_key(other))
    };
    let others = revocation.revoke.iter().filter(|other| *other != kid);
    let (aliases, pending): (Vec<&Kid>, Vec<&Kid>) = others.partition(|other| is_alias(other));
    let aliases = match aliases.as_slice() {
        [] => String::new(),
        aliases => {
            let names: Vec<String> = aliases.iter().map(ToString::to_string).collect();
            format!(" under its other kid {} too", names.join(", "))
        }
    };
    match pending.len() {
        0 => aliases,
        1 => format!("{aliases} with the pending key"),
        count => format!("{aliases} with {count} pending keys"),
    }
}

/// Revokes the key, and with `--all-algorithms` the active ones. What was done before something failed is told too.
async fn revoke(rotator: &Rotator, request: &RevokeRequest) -> (Vec<Revoked>, Result<(), Failure>) {
    let mut done = Vec::new();
    let outcome = revoke_into(rotator, request, &mut done).await;
    (done, outcome)
}

async fn revoke_into(rotator: &Rotator, request: &RevokeRequest, done: &mut Vec<Revoked>) -> Result<(), Failure> {
    let reason = request.reason();
    let first = rotator.revoke(&request.kid, &ACTOR, reason).await?;
    let since = first.at;
    done.push(first);
    if !request.all_algorithms {
        return Ok(());
    }
    let keys = rotator.db.signing_keys().await?.keys();
    let now = rotator.look().await?.reached();
    let revocations = rotator.db.revocations().await?;
    for alg in keys.algorithms() {
        // Repeated, the command must not revoke the replacements that it made. The times in the rows stand
        // still after a stop and tell no emergency from one before it.
        let revoked_at = keys
            .line(alg)
            .iter()
            .filter_map(|key| Some(revocations.of(&key.kid, key.revoked_at?)))
            .filter(|&at| at >= since)
            .max();
        let active = keys.active(alg, now);
        match (revoked_at, active) {
            (None, Some(active)) => done.push(rotator.revoke(&active.kid, &ACTOR, reason).await?),
            (Some(at), _) if done.iter().all(|revoked| revoked.alg != alg) => done.push(Revoked {
                alg,
                revoked: Vec::new(),
                materials: Vec::new(),
                ends_removal: false,
                signed_before: true,
                signs_now: active.map(|active| active.kid.clone()),
                unreplaced: None,
                at,
                version: done[0].version,
            }),
            _ => {}
        }
    }
    Ok(())
}

fn to_json(revoked: &Revoked, policy: &Policy) -> Value {
    json!({
        "alg": revoked.alg,
        "revoked": revoked.revoked,
        "already_revoked": revoked.revoked.is_empty(),
        "signs_now": revoked.signs_now,
        "servers_without_master_key": revoked.unreplaced.as_ref().map(|unlisted| &unlisted.nodes),
        "revoked_at": revoked.at.rfc3339(),
        "accepted_until": accepted_until(policy, revoked.at).rfc3339(),
    })
}

fn print(request: &RevokeRequest, done: &[Revoked], policy: &Policy, now: UnixTime) {
    for (place, revoked) in done.iter().enumerate() {
        let alg = revoked.alg;
        for kid in &revoked.revoked {
            output::line(&format!("{alg} key {kid} is revoked"));
        }
        if revoked.revoked.is_empty() {
            let at = output::time(revoked.at, now);
            let what = if place == 0 {
                format!("{alg} key {}", request.kid)
            } else {
                format!("the {alg} key")
            };
            output::line(&format!("{what} was revoked already, {at}"));
        }
        if revoked.ends_removal {
            output::line(&format!(
                "the removal of {alg} is called off; announce it again when this is over"
            ));
        }
        if let Some(unlisted) = &revoked.unreplaced {
            output::line(&format!(
                "no replacement of the {alg} key was sealed by this command: {unlisted}"
            ));
            continue;
        }
        output::line(&revoked.signs_now.as_ref().map_or_else(
            || format!("no {alg} key signs now"),
            |kid| {
                if revoked.signed_before && !revoked.revoked.is_empty() {
                    format!("{alg} key {kid} signs, as it did before: what was revoked did not sign")
                } else {
                    format!("{alg} key {kid} signs now")
                }
            },
        ));
    }
    if let Some(last) = done.iter().map(|revoked| revoked.at).max() {
        let until = accepted_until(policy, last);
        let may = if until > now {
            "may still accept"
        } else {
            "may have accepted"
        };
        output::line(&format!(
            "\nA verifier that cached the key set {may} a revoked key until {}.\nOne that fetches the set again only when it \
             meets an unknown kid drops the revoked key when it meets the new one.",
            output::time(until, now)
        ));
    }
}

/// Fails if the database has lost the revocation since, as one does that fails over to a standby without the last seconds.
async fn still_revoked(rotator: &Rotator, done: &[Revoked]) -> Result<(), Failure> {
    let keys = rotator.db.signing_keys().await?.keys();
    let lost: Vec<String> = done
        .iter()
        .flat_map(|revoked| &revoked.revoked)
        .filter(|kid| keys.revoked_at(kid).is_none())
        .map(ToString::to_string)
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "the database has lost the revocation of {} again, as after a failover to a standby that had not received it; run the \
         same command once more",
        lost.join(", ")
    )))
}

/// Where this command could not seal a replacement, a running server makes one as soon as it has followed. Fails if none does.
async fn replaced_by_servers(rotator: &Rotator, done: &[Revoked]) -> Result<Vec<(Algorithm, Kid)>, Failure> {
    let unreplaced: Vec<Algorithm> = done
        .iter()
        .filter(|revoked| revoked.unreplaced.is_some())
        .map(|revoked| revoked.alg)
        .collect();
    if unreplaced.is_empty() {
        return Ok(Vec::new());
    }
    // Twice what a server may take to follow: it reads the revocation, and makes the key.
    let deadline = rotator.clock.read().monotonic + (rotator.policy.windows().replica_refresh * 2).duration();
    loop {
        let keys = rotator.db.signing_keys().await?.keys();
        let now = rotator.look().await?.reached();
        let found: Vec<(Algorithm, Kid)> = unreplaced
            .iter()
            .filter_map(|&alg| Some((alg, keys.active(alg, now)?.kid.clone())))
            .collect();
        if found.len() == unreplaced.len() {
            return Ok(found);
        }
        if rotator.clock.read().monotonic >= deadline {
            let without: Vec<&str> = unreplaced
                .iter()
                .filter(|&alg| found.iter().all(|(found, _)| found != alg))
                .map(|alg| alg.name())
                .collect();
            return Err(Failure::Refused(format!(
                "the key is revoked, but no server has made another one yet, so no {} token is signed; start a server, or restart those that \
                 run, with their own master keys",
                without.join(" or ")
            )));
        }
        sleep(LOOK).await;
    }
}
