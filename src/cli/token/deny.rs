//! `keyround token deny`: refuse one token by its name.

use clap::Args;
use serde_json::json;

use crate::clock::{Seconds, UnixTime};
use crate::events::{Entry, Event};
use crate::keyring::trusted_time;
use crate::text;

use crate::cli::context::{ACTOR, Context};
use crate::cli::failure::Failure;
use crate::cli::output;

#[derive(Args)]
pub struct DenyRequest {
    /// The token's jti.
    #[arg(allow_hyphen_values = true, value_parser = jti)]
    jti: String,
    /// The token's exp: Unix seconds, or a time such as 2026-11-22T21:00:00Z.
    #[arg(long, value_name = "TIME")]
    until: UnixTime,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "asked for", allow_hyphen_values = true, value_parser = crate::cli::confirm::worded)]
    reason: String,
}

/// The longest jti, in octets. Those of Keyround have 22; each denied one is held in the memory of every node.
const LONGEST_JTI: usize = 256;
/// The longest denial. No token lives so long, and every node keeps the name of a denied token until its end.
const LONGEST_DENIAL: Seconds = Seconds(10 * 366 * 86_400);

fn jti(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > LONGEST_JTI || text.contains(char::is_control) {
        return Err(format!("a jti has 1 to {LONGEST_JTI} octets and no control characters"));
    }
    if text::is_token(text) {
        return Err("it is a whole token; give its jti, which 'keyround token inspect -' shows".to_owned());
    }
    Ok(text.to_owned())
}

pub async fn run(context: &Context, request: &DenyRequest) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    // A clock that is wrong must not refuse the denial of a token that lives.
    let now = trusted_time(&db, &config.keys.policy, &context.clock, None)
        .await?
        .reached();
    let windows = config.keys.policy.windows();
    let latest = now + LONGEST_DENIAL;
    if request.until > latest {
        return Err(Failure::Usage(format!(
            "--until is later than {latest}, ten years from now; give the token's exp in seconds"
        )));
    }
    let until = request.until + windows.verifier_leeway;
    if until <= now {
        return Err(Failure::Usage(format!(
            "--until is {}, and nobody accepts a token that expired then; give the token's exp",
            output::time(request.until, now)
        )));
    }
    let entry = Entry::new(
        Event::TokenDenied,
        &request.jti,
        now,
        ACTOR.as_str(),
        request.reason.clone(),
    );
    let denied = db.deny_token(&request.jti, until, &entry).await?;
    if context.json {
        output::json(&json!({ "jti": request.jti, "denied_until": until.rfc3339(), "changed": denied }));
    } else {
        let jti = output::printable(&request.jti);
        let told = if denied {
            "is denied"
        } else {
            "was denied already, for as long or longer,"
        };
        output::line(&format!(
            "token {jti} {told} until {}, which is its exp and keys.verifier_leeway",
            output::time(until, now)
        ));
        output::line(&format!(
            "Every node's introspection refuses it within {}. Verifiers that do not ask still accept it until it expires.",
            windows.replica_refresh
        ));
    }
    Ok(())
}
