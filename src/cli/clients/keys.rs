//! Clients that prove themselves by signature: their public keys, from a JWK set in a file.

use std::path::Path;

use serde_json::{Value, json};

use crate::jose::import::{self, Imported, Passphrase};
use crate::jose::jwk::{PublicJwk, thumbprint};
use crate::keys::keyset::KeySet;
use crate::oauth::client::{Client, ClientId};

use super::{ACTOR, Context, Failure, entry, output, to_json, unknown};

/// A client changes its keys with both in the set; more than a few are a mistake.
const MOST_KEYS: usize = 10;

/// Registers a client with keys and without a secret.
pub async fn create(context: &Context, client: &Client, file: &Path) -> Result<(), Failure> {
    let keys = read(file)?;
    let (_, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    let created = entry("client.created", &client.id, client.created_at, ACTOR, "registered");
    // No secret has the empty digest.
    if !db.create_client(client, "", &created).await? {
        return Err(super::taken(client));
    }
    let changed = entry(
        "client.keys_changed",
        &client.id,
        client.created_at,
        ACTOR,
        "registered",
    );
    db.set_client_keys(&client.id, &keys, &changed).await?;
    if context.json {
        let mut shown = to_json(client);
        shown["keys"] = json!(kids(&keys));
        output::json(&shown);
    } else {
        output::line(&format!("client id      {}", client.id));
        output::line(&format!("keys           {}", kids(&keys).join(" ")));
    }
    Ok(())
}

/// Gives a client other keys; its secrets, if it has any, are refused from then on.
pub async fn set(context: &Context, id: &ClientId, file: &Path) -> Result<(), Failure> {
    let keys = read(file)?;
    let (_, foundation) = context.foundation().await?;
    let now = context.clock.read().wall;
    let entry = entry("client.keys_changed", id, now, ACTOR, "asked for");
    if !foundation.rotator.db.set_client_keys(id, &keys, &entry).await? {
        return Err(unknown(id));
    }
    if context.json {
        output::json(&json!({ "client_id": id, "keys": kids(&keys) }));
    } else {
        output::line(&format!("client {id} proves itself with {}", kids(&keys).join(" ")));
    }
    Ok(())
}

fn kids(keys: &KeySet) -> Vec<String> {
    keys.jwks().iter().map(|jwk| jwk.kid.to_string()).collect()
}

fn read(path: &Path) -> Result<KeySet, Failure> {
    let refused = |why: String| Failure::Usage(format!("{} cannot be registered: {why}", path.display()));
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    // What the parser says could quote a private key.
    let set: Value = serde_json::from_str(&text).map_err(|_| refused("it is not JSON".to_owned()))?;
    let keys = set["keys"]
        .as_array()
        .filter(|keys| (1..=MOST_KEYS).contains(&keys.len()))
        .ok_or_else(|| refused(format!("a JWK set has an array 'keys', here of 1 to {MOST_KEYS} keys")))?;
    let jwks: Vec<PublicJwk> = keys
        .iter()
        .map(|key| {
            let key = import::read(key.to_string().as_bytes(), Passphrase::None).map_err(|error| error.to_string())?;
            public(key)
        })
        .collect::<Result<_, String>>()
        .map_err(refused)?;
    let set = KeySet::default().union(jwks);
    if set.jwks().len() < keys.len() {
        return Err(refused(
            "two of its keys have one kid; each must have its own".to_owned(),
        ));
    }
    Ok(set)
}

fn public(key: Imported) -> Result<PublicJwk, String> {
    if key.private.is_some() {
        return Err("it holds a private key, which only the client may have; register the public half".to_owned());
    }
    Ok(PublicJwk {
        kid: key.kid.unwrap_or_else(|| thumbprint(&key.parameters)),
        alg: key.alg,
        parameters: key.parameters,
    })
}
