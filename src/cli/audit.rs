//! `keyround audit`: what happened to keys and clients.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::clock::{Seconds, UnixTime};
use crate::keyring::{node_in_doubt, trusted_time};
use crate::store::audit::Record;

use super::clock::{described, is_in_order};
use super::context::Context;
use super::failure::Failure;
use super::output;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuditRequest {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    #[command(flatten)]
    page: Page,
}

#[derive(Subcommand)]
pub enum AuditCommand {
    /// List what happened, newest first; 'keyround audit' alone does the same. SEQ grows; on PostgreSQL a number may be missing where a
    /// change was rolled back, or records were deleted by 'db prune --audit-older-than'.
    List(Page),
}

#[derive(Args)]
pub struct Page {
    /// How many records at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only records before this one: the last SEQ of the page before.
    #[arg(long, value_name = "SEQ")]
    before: Option<i64>,
}

/// A record as programs read it.
#[derive(Serialize)]
struct Shown {
    seq: i64,
    event: String,
    subject: String,
    happened_at: String,
    noted_at: String,
    actor: String,
    reason: String,
}

impl From<Record> for Shown {
    fn from(record: Record) -> Self {
        Self {
            seq: record.seq,
            event: record.event,
            subject: record.subject,
            happened_at: UnixTime(record.happened_at).rfc3339(),
            noted_at: UnixTime(record.noted_at).rfc3339(),
            actor: record.actor,
            reason: record.reason,
        }
    }
}

pub async fn run(context: &Context, request: &AuditRequest) -> Result<(), Failure> {
    let Page { limit, before } = match &request.command {
        Some(AuditCommand::List(page)) => page,
        None => &request.page,
    };
    let (config, db) = context.database().await?;
    let records = db.audit(*before, *limit).await?;
    if context.json {
        output::json(&records.into_iter().map(Shown::from).collect::<Vec<_>>());
    } else {
        let now = context.clock.read().wall;
        let rows: Vec<Vec<String>> = records.iter().map(|record| row(record, now)).collect();
        let headings = ["SEQ", "TIME", "EVENT", "SUBJECT", "ACTOR", "REASON"];
        output::line(&output::table(&headings, &rows));
        let clock_skew = config.keys.policy.windows().clock_skew;
        for step in steps_back(&records, clock_skew) {
            output::line(&format!("\n{step}"));
        }
        let trusted = trusted_time(&db, &config.keys.policy, &context.clock, None).await?;
        let node = node_in_doubt(&db, &config.keys.policy, &trusted).await?;
        // After a stop nothing confirms the clock, and nothing speaks against it.
        if !is_in_order(&trusted, node.as_ref()) {
            let doubt = described(&trusted, node.as_ref());
            output::line(&format!(
                "\nThe clock is in doubt: {doubt}.\nEach time above is by the clock of the machine that wrote the record, right or wrong; SEQ is \
                 the order. See 'keyround clock check'."
            ));
        }
    }
    Ok(())
}

/// Where a record was written at an earlier time than the one before it, by more than clocks may differ: one of the two times is wrong.
fn steps_back(newest_first: &[Record], clock_skew: Seconds) -> Vec<String> {
    newest_first
        .windows(2)
        .filter_map(|pair| {
            let [later, earlier] = pair else { return None };
            let step = Seconds(earlier.noted_at.saturating_sub(later.noted_at));
            (step > clock_skew).then(|| {
                format!(
                    "The clock was set back by {step} between SEQ {} and SEQ {}: the times of one of them, and of others near it, are wrong. \
                     SEQ is the order.",
                    earlier.seq, later.seq
                )
            })
        })
        .collect()
}

fn row(record: &Record, now: UnixTime) -> Vec<String> {
    vec![
        record.seq.to_string(),
        output::time(UnixTime(record.happened_at), now),
        output::printable(&record.event),
        output::printable(&record.subject),
        output::printable(&record.actor),
        output::printable(&record.reason),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_is_told_and_the_difference_of_two_machines_is_not() {
        let record = |seq, noted_at| Record {
            seq,
            event: "key.created".to_owned(),
            subject: "a".to_owned(),
            // Of what was noticed late, which is no step.
            happened_at: 0,
            noted_at,
            actor: String::new(),
            reason: String::new(),
        };
        let told = |noted: &[i64]| {
            let mut newest_first: Vec<Record> = (1..).zip(noted).map(|(seq, &at)| record(seq, at)).collect();
            newest_first.reverse();
            steps_back(&newest_first, Seconds(30))
        };
        assert_eq!(told(&[1_000, 970, 1_000, 2_000_000, 2_000_000]), [""; 0]);
        assert_eq!(told(&[]), [""; 0]);
        let said = told(&[1_000, 969]);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("The clock was set back by 31s between SEQ 1 and SEQ 2"),
            "{said:?}"
        );
        assert_eq!(told(&[5_000, 1_000, 5_000, 1_000]).len(), 2);
    }
}
