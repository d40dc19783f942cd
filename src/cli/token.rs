//! `keyround token`: for people with a terminal and a token.

mod deny;
mod inspect;
mod issue;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::Value;

use crate::clock::UnixTime;
use crate::jose::jwk_set::{JwkSet, reasons};
use crate::jose::jwt::{TokenError, verify_access_token_signature};

use super::context::{Context, Failure, read_content, read_text};
use super::output;

#[derive(Subcommand)]
pub enum Command {
    /// Verify a token offline against a key set, as a service would: its signature, its type and its lifetime.
    Verify {
        /// The key set, as served at /.well-known/jwks.json.
        #[arg(long, value_name = "FILE")]
        key_set: PathBuf,
        /// A file that holds the token, or the token endpoint's whole answer.
        file: PathBuf,
    },
    /// Refuse one token from now on, wherever introspection is asked.
    Deny(deny::Request),
    /// Sign a token for a client, as the token endpoint would.
    Issue(issue::Request),
    /// Say step by step whether this server would accept a token, and why not.
    Inspect(inspect::Request),
}

pub async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Verify { key_set, file } => verify(context, &key_set, &file),
        Command::Deny(request) => deny::run(context, &request).await,
        Command::Issue(request) => issue::run(context, request).await,
        Command::Inspect(request) => inspect::run(context, &request).await,
    }
}

fn verify(context: &Context, key_set: &Path, file: &Path) -> Result<(), Failure> {
    let keys = read_key_set(key_set)?;
    let token = read_token(file)?;
    let claims = verify_access_token_signature(&token, &keys.keys).map_err(|error| {
        let left_out = match error {
            TokenError::UnknownKey if !keys.left_out.is_empty() => {
                format!("; of the key set is left out {}", reasons(&keys.left_out))
            }
            _ => String::new(),
        };
        Failure::Refused(format!("the token is not valid: {error}{left_out}"))
    })?;
    let now = context.clock.read().wall;
    let expires_at = claims
        .get("exp")
        .and_then(Value::as_i64)
        .map(UnixTime)
        .ok_or_else(|| Failure::Refused("the token is not valid: exp is missing or no integer".to_owned()))?;
    if expires_at <= now {
        let expired = output::time(expires_at, now);
        return Err(Failure::Refused(format!(
            "the token is not valid: it expired at {expired}"
        )));
    }
    if context.json {
        output::json(&claims);
    } else {
        for key in &keys.left_out {
            output::line(&format!("left out of the key set: {key}"));
        }
        output::line(&format!(
            "the token is valid; it expires at {}",
            output::time(expires_at, now)
        ));
        output::line(&serde_json::to_string_pretty(&claims).unwrap_or_default());
    }
    Ok(())
}

fn read_key_set(path: &Path) -> Result<JwkSet, Failure> {
    let content = read_content(path)?;
    JwkSet::read(&content).map_err(|error| Failure::Usage(format!("{} cannot be used: {error}", path.display())))
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let text = read_text(path)?;
    let text = text.trim();
    if !text.starts_with('{') {
        return Ok(text.to_owned());
    }
    serde_json::from_str::<Value>(text)
        .ok()
        .and_then(|answer| Some(answer.get("access_token")?.as_str()?.to_owned()))
        .ok_or_else(|| Failure::Usage(format!("{} holds no access_token", path.display())))
}
