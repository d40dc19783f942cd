//! `keyround providers check`: whether people can log in with the providers.

use std::sync::Arc;

use serde_json::json;

use crate::accounts::federation::metadata::Metadata;
use crate::accounts::federation::{ProviderIssuer, ProviderName};
use crate::app::StartError;
use crate::config::Config;
use crate::outbound::Outbound;
use crate::outbound::providers::{ProviderError, Providers};

use super::unknown;
use crate::cli::context::{Context, Failure};
use crate::cli::output;

fn providers(config: &Config) -> Result<Providers, Failure> {
    let outbound = Outbound::new(&config.outbound).map_err(StartError::Outbound)?;
    Ok(Providers::new(outbound))
}

/// What a provider says of itself, if it can be asked now. Settings with which none can be asked are another command's matter.
pub async fn ask(
    context: &Context,
    config: &Config,
    issuer: &ProviderIssuer,
) -> Result<Option<Arc<Metadata>>, ProviderError> {
    match providers(config) {
        Ok(providers) => providers
            .metadata(issuer, context.clock.read().monotonic)
            .await
            .map(Some),
        Err(_) => Ok(None),
    }
}

async fn judge(providers: &Providers, context: &Context, issuer: &ProviderIssuer) -> Result<(), ProviderError> {
    let now = context.clock.read().monotonic;
    let metadata = providers.metadata(issuer, now).await?;
    providers.keys(&metadata, now, |_| true).await?;
    Ok(())
}

pub async fn run(context: &Context, name: Option<ProviderName>) -> Result<(), Failure> {
    let (config, db) = context.database().await?;
    let registered = if let Some(name) = &name {
        vec![db.identity_provider(name).await?.ok_or_else(|| unknown(name))?]
    } else {
        let mut all = db.identity_providers().await?;
        all.retain(|provider| provider.disabled_at.is_none());
        all
    };
    let providers = providers(&config)?;
    let mut judged = Vec::new();
    for provider in registered {
        let verdict = judge(&providers, context, &provider.issuer).await;
        judged.push((provider.name, verdict.err().map(|error| error.to_string())));
    }
    if context.json {
        let shown = judged
            .iter()
            .map(|(name, fault)| json!({ "provider": name.as_str(), "in_order": fault.is_none(), "fault": fault }));
        output::json(&shown.collect::<Vec<_>>());
    } else {
        let rows: Vec<Vec<String>> = judged
            .iter()
            .map(|(name, fault)| vec![name.to_string(), fault.clone().unwrap_or_else(|| "in order".to_owned())])
            .collect();
        output::line(&output::table(&["PROVIDER", "RESULT"], &rows));
    }
    let faulty: Vec<&str> = judged
        .iter()
        .filter(|(_, fault)| fault.is_some())
        .map(|(name, _)| name.as_str())
        .collect();
    if faulty.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "nobody can log in with {} now",
        faulty.join(", ")
    )))
}
