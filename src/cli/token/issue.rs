//! `keyround token issue`: a token as the server would sign it.

use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::app::StartError;
use crate::events::{Entry, Event};
use crate::keyring::Keyring;
use crate::oauth::client::{Audience, ClientId, Grant};
use crate::oauth::scope::Scope;
use crate::oauth::token::{Defaults, Granted, TokenRequest, grant};
use crate::text;

use crate::cli::context::{ACTOR, Context};
use crate::cli::failure::Failure;
use crate::cli::{list, output, scope};

#[derive(Args)]
pub struct IssueRequest {
    /// The client that the token is for.
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    client: ClientId,
    /// The services it is for; the client's first when left out.
    #[arg(long = "audience", value_name = "URL", num_args = 1.., value_parser = list::item::<Audience>)]
    audiences: Vec<Audience>,
    /// What it may do there; all that the client may when left out.
    #[arg(long, value_parser = scope::parse::<Scope>)]
    scope: Option<Scope>,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "asked for", allow_hyphen_values = true, value_parser = crate::cli::confirm::worded)]
    reason: String,
}

pub async fn run(context: &Context, request: IssueRequest) -> Result<(), Failure> {
    // A database that does not exist is not made by this.
    context.database().await?.1.close().await;
    let (config, foundation) = context.foundation().await?;
    let rotator = foundation.rotator;
    let stored = rotator.db.client(&request.client).await?.ok_or_else(|| {
        Failure::Refused(format!(
            "no client is called {}; 'keyround clients list' names them all",
            text::quoted(request.client.as_str())
        ))
    })?;
    if stored.client.disabled_at.is_some() {
        return Err(Failure::Refused(format!(
            "the client '{}' is disabled; 'keyround clients enable' lets it act again",
            request.client
        )));
    }
    let defaults = Defaults {
        alg: config.tokens.default_algorithm,
        access_token_ttl: config.tokens.access_token_ttl,
        max_token_ttl: config.tokens.max_token_ttl,
    };
    let asked = TokenRequest {
        grant: Grant::ClientCredentials,
        scope: request.scope,
        audiences: request.audiences,
    };
    let granted: Granted =
        grant(&stored.client, &asked, &defaults).map_err(|refusal| Failure::Refused(refusal.description))?;
    if !rotator.policy.algorithms().contains(&granted.alg) {
        return Err(Failure::Refused(format!(
            "the client is registered for {}, which is not among keys.algorithms",
            granted.alg
        )));
    }
    let clock = rotator.clock.clone();
    if let Some(ledger) = &rotator.ledger {
        ledger
            .require_readable()
            .map_err(|error| Failure::Start(StartError::Ledger(error)))?;
    }
    let keyring = Keyring::load(
        rotator.db.clone(),
        Arc::clone(&rotator.master_key),
        rotator.policy,
        clock,
        rotator.ledger,
    )
    .await?;
    let issued = keyring
        .issue(&granted, config.server.issuer.as_str(), context.clock.read())
        .map_err(|error| Failure::Refused(error.to_string()))?;
    // Written down before it is handed out.
    let now = context.clock.read().wall;
    let entry = Entry::new(
        Event::TokenIssued,
        &granted.client_id,
        now,
        ACTOR.as_str(),
        format!("{} (jti {})", request.reason, issued.claims.jti),
    );
    rotator.db.note(&entry).await?;
    if context.json {
        output::json(&json!({
            "access_token": issued.token,
            "token_type": "Bearer",
            "expires_in": issued.claims.exp - issued.claims.iat,
            "scope": issued.claims.scope,
        }));
    } else {
        output::line(&issued.token);
    }
    Ok(())
}
