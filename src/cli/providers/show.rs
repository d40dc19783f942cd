//! `keyround providers list` and `show`.

use serde_json::{Value, json};

use crate::accounts::federation::{Directories, Provider, ProviderName};

use super::{people_counted, redirect, to_json, unknown};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output;

pub async fn list(context: &Context) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let providers = db.identity_providers().await?;
    if context.json {
        let shown: Vec<Value> = providers.iter().map(|provider| to_json(&config, provider)).collect();
        output::json(&shown);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = providers.iter().map(row).collect();
    let headings = ["PROVIDER", "STATE", "LINKS", "ISSUER", "CLIENT ID"];
    output::line(&output::table(&headings, &rows));
    Ok(())
}

fn row(provider: &Provider) -> Vec<String> {
    let state = if provider.disabled_at.is_some() {
        "disabled"
    } else {
        "enabled"
    };
    vec![
        provider.name.to_string(),
        state.to_owned(),
        links(provider).to_owned(),
        provider.issuer.to_string(),
        provider.client_id.to_string(),
    ]
}

pub async fn one(context: &Context, name: &ProviderName) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let provider = db.identity_provider(name).await?.ok_or_else(|| unknown(name))?;
    let people = db.people_of_provider(name).await?.ok_or_else(|| unknown(name))?;
    if context.json {
        let mut shown = to_json(&config, &provider);
        shown["people"] = json!(people.all);
        shown["people_without_another_login"] = json!(people.without_another_login);
        output::json(&shown);
        return Ok(());
    }
    let now = context.clock.read().wall;
    let state = provider.disabled_at.map_or_else(
        || "enabled".to_owned(),
        |disabled_at| format!("disabled since {}", output::time(disabled_at, now)),
    );
    let directories = provider.directories.as_ref().map(|directories| match directories {
        Directories::Any => "any".to_owned(),
        listed @ Directories::Listed(_) => listed.to_string(),
    });
    let verified = match provider.reads_email_verified_text_since {
        Some(_) => "the value true, the text \"true\", or xms_edov",
        None => "the value true",
    };
    for (heading, value) in [
        ("provider", provider.name.to_string()),
        ("state", state),
        ("issuer", provider.issuer.to_string()),
        ("directories", directories.unwrap_or_default()),
        ("client id", provider.client_id.to_string()),
        ("client secret", "not shown".to_owned()),
        ("scope", provider.scope.to_string()),
        ("links", links(&provider).to_owned()),
        ("email_verified", verified.to_owned()),
        ("redirect URI", redirect(&config, &provider)),
        ("people", people_counted(people)),
        ("created", output::time(provider.created_at, now)),
    ] {
        output::line(format!("{heading:<16}{value}").trim_end());
    }
    Ok(())
}

fn links(provider: &Provider) -> &'static str {
    if provider.links_verified_emails_since.is_some() {
        "verified e-mails"
    } else {
        "nothing"
    }
}
