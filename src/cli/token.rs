//! `keyround token`: for people with a terminal and a token.

mod deny;
mod inspect;
mod issue;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::Value;

use crate::clock::{Seconds, UnixTime};
use crate::config::TokenDates;
use crate::jose::jwk_set::{JwkSet, reasons};
use crate::jose::jwt::{TokenError, verify_access_token_signature};

use super::context::{Context, read_content, read_text};
use super::failure::Failure;
use super::input;
use super::output;

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Verify a token offline against a key set, as a service would: its signature, its type and its lifetime.
    Verify {
        /// The key set, as served at /.well-known/jwks.json; - for standard input.
        #[arg(long, value_name = "FILE")]
        key_set: PathBuf,
        /// A file that holds the token, or the token endpoint's whole answer; - for standard input.
        file: PathBuf,
    },
    /// Refuse one token from now on, wherever introspection is asked.
    Deny(deny::DenyRequest),
    /// Sign a token for a client, as the token endpoint would.
    Issue(issue::IssueRequest),
    /// Say step by step whether this server would accept a token, and why not.
    Inspect(inspect::InspectRequest),
}

pub async fn run(context: &Context, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Verify { key_set, file } => verify(context, &key_set, &file),
        TokenCommand::Deny(request) => deny::run(context, &request).await,
        TokenCommand::Issue(request) => issue::run(context, request).await,
        TokenCommand::Inspect(request) => inspect::run(context, &request).await,
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
    let expires_at = check_dates(&claims, now, &TokenDates::read(&context.sources)?)?;
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

/// The dates of a token, as the server checks them when it is asked; answers with its end.
fn check_dates(claims: &Value, now: UnixTime, allowed: &TokenDates) -> Result<UnixTime, Failure> {
    let invalid = |why: String| Failure::Refused(format!("the token is not valid: {why}"));
    let date = |claim: &str| claims.get(claim).map(|value| value.as_i64().map(UnixTime));
    let required = |claim: &str| {
        let date = date(claim).flatten();
        date.ok_or_else(|| invalid(format!("{claim} is missing or no integer")))
    };
    let (expires_at, issued_at) = (required("exp")?, required("iat")?);
    let not_before = date("nbf").map(|_| required("nbf")).transpose()?;
    if expires_at <= now {
        return Err(invalid(format!("it expired at {}", output::time(expires_at, now))));
    }
    let latest = now + allowed.clock_skew;
    for (claim, at) in [("iat", Some(issued_at)), ("nbf", not_before)] {
        if let Some(at) = at.filter(|&at| at > latest) {
            return Err(invalid(format!(
                "its {claim} is {}, further in the future than keys.clock_skew ({}) explains: a key that was stolen signed it, or a \
                 clock is wrong",
                output::time(at, now),
                allowed.clock_skew
            )));
        }
    }
    let (lifetime, longest) = (expires_at - issued_at, allowed.max_token_ttl);
    if lifetime <= Seconds::ZERO || lifetime > longest {
        return Err(invalid(format!(
            "it lives {lifetime}, but tokens.max_token_ttl is {longest}; if that was longer when the key signed, add \
             --set tokens.max_token_ttl={lifetime}, or ask 'keyround token inspect', which knows it of each key"
        )));
    }
    Ok(expires_at)
}

fn read_key_set(path: &Path) -> Result<JwkSet, Failure> {
    let content = read_content("--key-set", path)?;
    JwkSet::read(&content).map_err(|error| Failure::Usage(format!("{} cannot be used: {error}", input::shown(path))))
}

fn read_token(path: &Path) -> Result<String, Failure> {
    token_in(&read_text("the argument FILE", path)?)
        .ok_or_else(|| Failure::Usage(format!("{} holds no access_token", input::shown(path))))
}

/// The token in a text as people have it: alone, as the value of a header (`Bearer ...`) or the whole header, or in the token endpoint's
/// answer.
fn token_in(text: &str) -> Option<String> {
    let text = text.trim();
    if text.starts_with('{') {
        let answer = serde_json::from_str::<Value>(text).ok()?;
        return Some(answer.get("access_token")?.as_str()?.to_owned());
    }
    let after = |text: &'_ str, word: &str| -> Option<String> {
        let (head, rest) = text.split_at_checked(word.len())?;
        head.eq_ignore_ascii_case(word).then(|| rest.trim_start().to_owned())
    };
    let value = after(text, "Authorization:").unwrap_or_else(|| text.to_owned());
    Some(after(&value, "Bearer ").unwrap_or(value))
}
