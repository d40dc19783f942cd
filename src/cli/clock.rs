//! `keyround clock`: whether the clock is in doubt, and the end of the doubt.

use std::fmt;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::clock::UnixTime;
use crate::keyring::{node_in_doubt, trusted_time};
use crate::keys::SigningKey;
use crate::keys::history::signed_between;
use crate::keys::lifecycle::Keys;
use crate::keys::trusted_time::{Doubt, TrustedTime};
use crate::store::nodes::Heartbeat;

use super::confirm::Confirmation;
use super::context::{ACTOR, Context};
use super::failure::Failure;
use super::output;

#[derive(Subcommand)]
pub enum ClockCommand {
    /// Compare the clock with the database's clock and record; fails when it is in doubt.
    Check,
    /// Confirm that the clock is right although it is in doubt. The times of the keys move by the step, so no key signs or leaves because of it.
    Confirm {
        /// Why, for the audit log.
        #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = super::confirm::worded)]
        reason: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

pub async fn run(context: &Context, command: &ClockCommand) -> Result<(), Failure> {
    match command {
        ClockCommand::Check => check(context).await,
        ClockCommand::Confirm { reason, confirmation } => confirm(context, reason, confirmation).await,
    }
}

async fn check(context: &Context) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let trusted = trusted_time(&db, &config.keys.policy, &context.clock, None).await?;
    let node = node_in_doubt(&db, &config.keys.policy, &trusted).await?;
    let doubt = worst(&trusted, node.as_ref());
    let detail = described(&trusted, node.as_ref());
    if context.json {
        output::json(&json!({
            "in_doubt": doubt.is_some(),
            "doubt": doubt.map(Doubt::name),
            "node_in_doubt": node.as_ref().map(|(node, _)| node.to_string()),
            "off_by_seconds": doubt.map_or(0, |doubt| doubt.length().0),
            "reached": trusted.reached().rfc3339(),
            "clock": trusted.reference().rfc3339(),
            "detail": detail,
        }));
    } else {
        output::line(&output::printable(&detail));
    }
    match doubt.filter(|doubt| !doubt.is_harmless()) {
        Some(_) => Err(Failure::Refused("the clock is in doubt".to_owned())),
        None => Ok(()),
    }
}

/// The doubt that counts: this command's own, unless it looks harmless and a server knows better.
fn worst(trusted: &TrustedTime, node: Option<&(Heartbeat, Doubt)>) -> Option<Doubt> {
    let own = trusted.doubt();
    own.filter(|own| !own.is_harmless())
        .or(node.map(|(_, doubt)| *doubt))
        .or(own)
}

/// Whether the clock is in order: neither this command nor a server that runs doubts it.
pub(super) fn is_in_order(trusted: &TrustedTime, node: Option<&(Heartbeat, Doubt)>) -> bool {
    worst(trusted, node).is_none_or(Doubt::is_harmless)
}

/// What is said of it.
pub(super) fn described(trusted: &TrustedTime, node: Option<&(Heartbeat, Doubt)>) -> String {
    let own = trusted.doubt().filter(|own| !own.is_harmless() || node.is_none());
    let about_node = node.map(|(node, doubt)| format!("the server {node} has its clock in doubt: {doubt}"));
    let doubts: Vec<String> = own.iter().map(ToString::to_string).chain(about_node).collect();
    if doubts.is_empty() {
        return "the clock agrees with all that it is compared with".to_owned();
    }
    doubts.join("; ")
}

async fn confirm(context: &Context, reason: &str, confirmation: &Confirmation) -> Result<(), Failure> {
    let (_, foundation) = context.foundation().await?;
    let rotator = &foundation.rotator;
    let trusted = rotator.look().await?;
    if let Some(question) = question(&trusted) {
        confirmation.can_be_given("the clock")?;
        confirmation.ask(&question)?;
    }
    // By the times that they had while the clock was wrong.
    let keys = rotator.db.signing_keys().await?.keys();
    let ended = rotator.confirm_clock(&trusted, &ACTOR, reason).await?;
    let ahead = DatedAhead::of(&keys, &trusted);
    if context.json {
        output::json(&json!({
            "confirmed": ended.is_some(),
            "step_seconds": ended.map_or(0, |doubt| doubt.length().0),
            "time": trusted.reference().rfc3339(),
            "dated_ahead": ahead.as_ref().map(DatedAhead::to_json),
        }));
    } else if let Some(doubt) = ended {
        output::line(&format!(
            "the clock is confirmed: {} is right, a step of {}",
            trusted.reference().rfc3339(),
            doubt.length()
        ));
        if let Some(ahead) = ahead {
            output::line(&ahead.to_string());
        }
    } else {
        output::line("another node has confirmed the clock in this moment");
    }
    Ok(())
}

/// What a clock that was ahead leaves behind: tokens that are dated in the future.
struct DatedAhead<'k> {
    /// The latest time that a token may say it was issued at.
    issued_until: UnixTime,
    /// The keys that may have signed one, with the end of the longest token of each.
    keys: Vec<(&'k SigningKey, UnixTime)>,
}

impl<'k> DatedAhead<'k> {
    /// None unless this is a step back.
    fn of(keys: &'k Keys, trusted: &TrustedTime) -> Option<Self> {
        let (issued_until, now) = (trusted.reached(), trusted.reference());
        let signed = signed_between(keys, now, issued_until).map(|key| (key, issued_until + key.max_token_ttl));
        let keys: Vec<_> = signed.collect();
        (now < issued_until && !keys.is_empty()).then_some(Self { issued_until, keys })
    }

    fn to_json(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|(key, until)| json!({ "kid": key.kid, "alg": key.alg.name(), "tokens_valid_until": until.rfc3339() }))
            .collect();
        json!({ "issued_until": self.issued_until.rfc3339(), "keys": keys })
    }
}

impl fmt::Display for DatedAhead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nBefore the step, tokens may have been dated up to {}. By its dates such a token is valid longer than any other, also if it \
             was stolen. These keys may have signed one:",
            self.issued_until.rfc3339()
        )?;
        for (key, until) in &self.keys {
            writeln!(f, "  {} key {}, valid until {}", key.alg, key.kid, until.rfc3339())?;
        }
        f.write_str(
            "'keyround keys rotate' replaces the keys that sign; such tokens are refused once the old keys have left the set ('keyround keys \
             plan' says when). 'keyround keys revoke KID' refuses all tokens of a key at once.",
        )
    }
}

fn question(trusted: &TrustedTime) -> Option<String> {
    let by = trusted.doubt().map(Doubt::length)?;
    Some(format!(
        "The database has reached {}, and the clock says {}, a step of {by}. If the clock is wrong, set it instead.",
        trusted.reached().rfc3339(),
        trusted.reference().rfc3339(),
    ))
}
