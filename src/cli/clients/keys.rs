//! Clients that prove themselves by signature: their public keys, from a JWK set in a file or from where they publish it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::config::Config;
use crate::events::Event;
use crate::jose::jwk_set::LeftOut;
use crate::keys::keyset::KeySet;
use crate::oauth::client::{Client, ClientId, JwksUri};
use crate::oauth::client_keys::{self, ClientKeys};
use crate::outbound::Outbound;
use crate::outbound::key_sets::RemoteKeySets;
use crate::text;

use super::{entry, to_json, unknown};
use crate::cli::confirm::Confirmation;
use crate::cli::context::{ACTOR, Context, read_content};
use crate::cli::failure::Failure;
use crate::cli::output;

/// Where the keys come from: with one of these, a client has no secret (`private_key_jwt`).
#[derive(Args)]
#[group(required = false, multiple = false)]
pub struct ClientKeySource {
    /// Its public keys, as a JWK set (- for standard input); to change keys, register both, then the new one alone.
    #[arg(long, value_name = "FILE")]
    jwks_file: Option<PathBuf>,
    /// Where it publishes its public keys as a JWK set; to change keys, it publishes both for a while.
    #[arg(long, value_name = "URL")]
    jwks_uri: Option<JwksUri>,
}

impl ClientKeySource {
    pub fn read(self) -> Result<(ClientKeys, Vec<LeftOut>), Failure> {
        match (self.jwks_uri, self.jwks_file) {
            (Some(uri), _) if text::host_fault(uri.url()).is_some() => Err(Failure::Usage(format!(
                "--jwks-uri {}; give one such as https://billing.example.com/jwks.json",
                text::host_fault(uri.url()).unwrap_or_default()
            ))),
            (Some(uri), _) => Ok((ClientKeys::Published(uri), Vec::new())),
            (None, Some(file)) => read(&file).map(|(keys, left_out)| (ClientKeys::Registered(keys), left_out)),
            (None, None) => Err(Failure::Usage("give --jwks-file or --jwks-uri".to_owned())),
        }
    }
}

/// Registers a client with keys and without a secret.
pub async fn create(context: &Context, client: &Client, source: ClientKeySource) -> Result<(), Failure> {
    let (keys, left_out) = source.read()?;
    let (config, foundation) = context.foundation().await?;
    let entries = [Event::ClientCreated, Event::ClientKeysChanged]
        .map(|event| entry(event, &client.id, client.created_at, &ACTOR, "registered"));
    let db = &foundation.rotator.db;
    super::refuse_foreign_scope(client, db).await?;
    if !db.create_client_with_keys(client, &keys, entries.each_ref()).await? {
        return Err(super::taken(client));
    }
    let warning = unfetched(context, &config, &keys).await;
    if context.json {
        let mut shown = to_json(client);
        show(&mut shown, Some(&keys));
        show_left_out(&mut shown, &left_out);
        shown["warning"] = json!(warning);
        output::json(&shown);
    } else {
        output::line(&format!("client id      {}", client.id));
        output::line(&format!("keys           {}", told(&keys)));
        tell_left_out(&left_out);
        tell_warning(warning.as_deref());
    }
    Ok(())
}

/// Gives a client other keys; its secrets, if it has any, are refused from then on.
pub async fn set(
    context: &Context,
    id: &ClientId,
    source: ClientKeySource,
    confirmation: &Confirmation,
) -> Result<(), Failure> {
    let (keys, left_out) = source.read()?;
    let (config, foundation) = context.foundation().await?;
    let stored = foundation.rotator.db.client(id).await?.ok_or_else(|| unknown(id))?;
    ask_to_end(confirmation, id, stored.secrets.iter().count())?;
    let now = context.clock.read().wall;
    let entry = entry(Event::ClientKeysChanged, id, now, &ACTOR, "asked for");
    if !foundation.rotator.db.set_client_keys(id, &keys, &entry).await? {
        return Err(unknown(id));
    }
    let warning = unfetched(context, &config, &keys).await;
    if context.json {
        let mut shown = json!({ "client_id": id });
        show(&mut shown, Some(&keys));
        show_left_out(&mut shown, &left_out);
        shown["warning"] = json!(warning);
        output::json(&shown);
    } else {
        output::line(&format!("client {id} proves itself with {}", told(&keys)));
        tell_left_out(&left_out);
        tell_warning(warning.as_deref());
    }
    Ok(())
}

/// Asks before keys take the place of secrets.
pub fn ask_to_end(confirmation: &Confirmation, id: &ClientId, secrets: usize) -> Result<(), Failure> {
    if secrets == 0 {
        return Ok(());
    }
    confirmation.can_be_given("that a client's secret ends")?;
    confirmation.ask(&format!(
        "Client {id} will prove itself with these keys alone, and {} refused from then on.",
        if secrets == 1 {
            "its secret is"
        } else {
            "its secrets are"
        }
    ))
}

/// Why the keys that a client publishes cannot be used now, as far as this machine can tell. Its host may not run yet, so this is no
/// refusal.
pub async fn unfetched(context: &Context, config: &Config, keys: &ClientKeys) -> Option<String> {
    let ClientKeys::Published(uri) = keys else { return None };
    let sets = RemoteKeySets::new(Outbound::new(&config.outbound).ok()?);
    let fetched = sets.keys(uri, context.clock.read().monotonic, |_| true).await;
    fetched
        .err()
        .map(|error| format!("{error}; until the server can fetch it, the client gets no token"))
}

pub fn tell_warning(warning: Option<&str>) {
    if let Some(warning) = warning {
        output::line(&format!("Note: {warning}."));
    }
}

/// Adds the keys to what is shown of a client.
pub fn show(shown: &mut Value, keys: Option<&ClientKeys>) {
    shown["keys"] = match keys {
        Some(ClientKeys::Registered(keys)) => json!(kids(keys)),
        _ => json!([]),
    };
    if let Some(ClientKeys::Published(uri)) = keys {
        shown["jwks_uri"] = json!(uri.to_string());
    }
}

/// The keys in one line.
pub fn told(keys: &ClientKeys) -> String {
    match keys {
        ClientKeys::Registered(keys) => {
            let kids: Vec<String> = keys.jwks().iter().map(|jwk| jwk.kid.to_string()).collect();
            kids.join(" ")
        }
        ClientKeys::Published(uri) => format!("those at {uri}"),
    }
}

fn kids(keys: &KeySet) -> Vec<&str> {
    keys.jwks().iter().map(|jwk| jwk.kid.as_str()).collect()
}

pub fn show_left_out(shown: &mut Value, left_out: &[LeftOut]) {
    let told = |key: &LeftOut| json!({ "place": key.place, "kid": key.kid, "reason": key.reason });
    shown["left_out"] = left_out.iter().map(told).collect();
}

pub fn tell_left_out(left_out: &[LeftOut]) {
    for key in left_out {
        output::line(&format!("left out       {key}"));
    }
}

fn read(path: &Path) -> Result<(KeySet, Vec<LeftOut>), Failure> {
    let content = read_content("--jwks-file", path)?;
    client_keys::read(&content).map_err(|why| Failure::Usage(format!("{} cannot be registered: {why}", path.display())))
}
