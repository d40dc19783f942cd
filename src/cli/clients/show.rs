//! `keyround clients list` and `show`.

use crate::oauth::client::{Client, ClientId, Party};
use crate::store::Db;
use crate::store::clients::StoredClient;

use super::{keys, pkce, stored_json, unknown, words};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output;

/// How many clients are read at once.
const PAGE: u32 = 100;

pub async fn list(context: &Context) -> Result<(), Failure> {
    let (_, db) = context.database().await?;
    let clients = all(&db).await?;
    if context.json {
        output::json(&clients.iter().map(stored_json).collect::<Vec<_>>());
        return Ok(());
    }
    let rows: Vec<Vec<String>> = clients.iter().map(|stored| row(&stored.client)).collect();
    let headings = ["CLIENT", "KIND", "STATE", "ALG", "TTL", "SCOPE", "AUDIENCES"];
    output::line(&output::table(&headings, &rows));
    Ok(())
}

async fn all(db: &Db) -> Result<Vec<StoredClient>, Failure> {
    let mut clients: Vec<StoredClient> = Vec::new();
    loop {
        let after = clients.last().map(|last| last.client.id.clone());
        let page = db.clients(after.as_ref(), PAGE).await?;
        if page.is_empty() {
            return Ok(clients);
        }
        clients.extend(page);
    }
}

fn row(client: &Client) -> Vec<String> {
    vec![
        client.id.to_string(),
        client.kind.name().to_owned(),
        if client.disabled_at.is_some() {
            "disabled"
        } else {
            "enabled"
        }
        .to_owned(),
        client.alg.map_or_else(|| "default".to_owned(), |alg| alg.to_string()),
        client
            .token_ttl
            .map_or_else(|| "default".to_owned(), |ttl| ttl.to_string()),
        client.scope.to_string(),
        words(&client.audiences),
    ]
}

const fn is_first_party(client: &Client) -> bool {
    matches!(client.party, Party::First { .. })
}

pub async fn one(context: &Context, id: &ClientId) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let stored = db.client(id).await?.ok_or_else(|| unknown(id))?;
    let keys = db.client_keys(id).await?;
    if context.json {
        let mut shown = stored_json(&stored);
        keys::show(&mut shown, keys.as_ref());
        output::json(&shown);
        return Ok(());
    }
    let now = context.clock.read().wall;
    let client = &stored.client;
    let default = |value: String| format!("{value} (the default)");
    let state = client.disabled_at.map_or_else(
        || "enabled".to_owned(),
        |disabled_at| format!("disabled since {}", output::time(disabled_at, now)),
    );
    let alg = client.alg.map_or_else(
        || default(config.tokens.default_algorithm.to_string()),
        |alg| alg.to_string(),
    );
    let ttl = client.token_ttl.map_or_else(
        || default(config.tokens.access_token_ttl.to_string()),
        |ttl| ttl.to_string(),
    );
    for (name, value) in [
        ("client id", client.id.to_string()),
        ("kind", client.kind.name().to_owned()),
        ("state", state),
        (
            "first party",
            if is_first_party(client) { "yes" } else { "no" }.to_owned(),
        ),
        ("grants", words(&client.grants)),
        ("redirect URIs", words(&client.redirect_uris)),
        ("after logout", words(&client.post_logout_redirect_uris)),
        ("PKCE", pkce(client).to_owned()),
        (
            "name",
            client.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        ),
        (
            "ID token alg",
            client
                .id_token_alg
                .map_or_else(|| default(alg.clone()), |alg| alg.to_string()),
        ),
        ("scope claims", client.scope_claims.name().to_owned()),
        (
            "roles claim",
            client.roles_claim.as_ref().map(ToString::to_string).unwrap_or_default(),
        ),
        ("audiences", words(&client.audiences)),
        ("serves", words(&client.serves)),
        ("scope", client.scope.to_string()),
        ("algorithm", alg),
        ("token type", client.token_type.to_string()),
        ("token ttl", ttl),
        ("valid secrets", stored.secrets.iter().count().to_string()),
        ("keys", keys.as_ref().map(keys::told).unwrap_or_default()),
        ("created", output::time(client.created_at, now)),
    ] {
        output::line(format!("{name:<15}{value}").trim_end());
    }
    Ok(())
}
