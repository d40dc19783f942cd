//! `keyround audit`: what happened to keys and clients.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::clock::UnixTime;
use crate::store::audit::Record;

use super::context::{Context, Failure};
use super::output;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Request {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    page: Page,
}

#[derive(Subcommand)]
pub enum Command {
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

pub async fn run(context: &Context, request: &Request) -> Result<(), Failure> {
    let Page { limit, before } = match &request.command {
        Some(Command::List(page)) => page,
        None => &request.page,
    };
    let (_, db) = context.database().await?;
    let records = db.audit(*before, *limit).await?;
    if context.json {
        output::json(&records.into_iter().map(Shown::from).collect::<Vec<_>>());
    } else {
        let now = context.clock.read().wall;
        let rows: Vec<Vec<String>> = records.iter().map(|record| row(record, now)).collect();
        let headings = ["SEQ", "TIME", "EVENT", "SUBJECT", "ACTOR", "REASON"];
        output::line(&output::table(&headings, &rows));
    }
    Ok(())
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
