//! `keyround providers check`: whether people can log in with the providers.

use std::sync::Arc;

use serde_json::json;

use crate::accounts::federation::metadata::ProviderMetadata;
use crate::accounts::federation::{Provider, ProviderIssuer, ProviderName};
use crate::app::StartError;
use crate::config::Config;
use crate::outbound::Outbound;
use crate::outbound::providers::{ProviderError, Providers};

use super::unknown;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output;

fn providers(config: &Config) -> Result<Providers, Failure> {
    let outbound = Outbound::new(&config.outbound).map_err(StartError::Outbound)?;
    Ok(Providers::new(outbound))
}

/// What was found out about a provider that was asked.
pub struct ProviderAnswer {
    /// What it says of itself.
    pub metadata: Arc<ProviderMetadata>,
    /// Why its keys cannot be used now.
    pub no_keys: Option<ProviderError>,
}

/// Asks a provider. Settings with which none can be asked are another command's matter.
pub async fn ask(
    context: &Context,
    config: &Config,
    issuer: &ProviderIssuer,
) -> Result<Option<ProviderAnswer>, ProviderError> {
    let Ok(providers) = providers(config) else {
        return Ok(None);
    };
    let now = context.clock.read().monotonic;
    let metadata = providers.metadata(issuer, now).await?;
    let no_keys = providers.keys(&metadata, now, |_| true).await.err();
    Ok(Some(ProviderAnswer { metadata, no_keys }))
}

/// Whether people who are new here can log in, as far as the metadata tells.
pub enum Outlook {
    /// Nothing speaks against it.
    Good,
    /// They can if the ID tokens have a claim that the metadata does not list.
    Depends,
    /// They cannot, unless it sends a claim that it does not list.
    NobodyNew,
}

impl Outlook {
    /// What to say of it, if anything.
    pub fn sentence(self, name: &ProviderName) -> Option<String> {
        const NEEDS: &str = "its metadata does not list the claim email_verified";
        match self {
            Self::Good => None,
            Self::Depends => Some(format!(
                "{NEEDS}, so new people can log in only if its ID tokens have it all the same, or xms_edov"
            )),
            Self::NobodyNew => Some(format!(
                "{NEEDS}, without which no new person can log in; Microsoft Entra ID sends xms_edov in its place when it is told to. When its ID \
                 tokens have one of the two, say so by 'keyround providers update {name} --email-verified-as-text'"
            )),
        }
    }
}

/// A directory service sends no `email_verified` unless it is told to, whether it lists its claims or not.
pub fn outlook(provider: &Provider, metadata: &ProviderMetadata) -> Outlook {
    let is_listed = metadata.lists_email_verified.unwrap_or(!provider.issuer.is_template());
    match (is_listed, provider.reads_email_verified_text_since) {
        (true, _) => Outlook::Good,
        (false, Some(_)) => Outlook::Depends,
        (false, None) => Outlook::NobodyNew,
    }
}

/// What was found out about a provider.
struct ProviderVerdict {
    name: ProviderName,
    /// Why nobody can log in.
    fault: Option<String>,
    /// Whether people who are known here can log in nevertheless.
    is_for_known: bool,
    note: Option<String>,
}

async fn judge(providers: &Providers, context: &Context, provider: Provider) -> ProviderVerdict {
    let now = context.clock.read().monotonic;
    let asked = async {
        let metadata = providers.metadata(&provider.issuer, now).await?;
        providers.keys(&metadata, now, |_| true).await?;
        Ok::<_, ProviderError>(outlook(&provider, &metadata))
    };
    let (fault, is_for_known, note) = match asked.await {
        Err(error) => (Some(error.to_string()), false, None),
        Ok(outlook @ Outlook::NobodyNew) => (outlook.sentence(&provider.name), true, None),
        Ok(outlook) => (None, true, outlook.sentence(&provider.name)),
    };
    ProviderVerdict {
        name: provider.name,
        fault,
        is_for_known,
        note,
    }
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
        judged.push(judge(&providers, context, provider).await);
    }
    if context.json {
        let shown = judged.iter().map(|verdict| {
            json!({
                "provider": verdict.name.as_str(),
                "in_order": verdict.fault.is_none(),
                "fault": verdict.fault,
                "note": verdict.note,
            })
        });
        output::json(&shown.collect::<Vec<_>>());
    } else {
        let result = |verdict: &ProviderVerdict| match (&verdict.fault, &verdict.note) {
            (Some(fault), _) => fault.clone(),
            (None, Some(note)) => format!("can be reached; {note}"),
            (None, None) => "in order".to_owned(),
        };
        let rows: Vec<Vec<String>> = judged
            .iter()
            .map(|verdict| vec![verdict.name.to_string(), result(verdict)])
            .collect();
        output::line(&output::table(&["PROVIDER", "RESULT"], &rows));
    }
    let faulty = |is_for_known: bool| {
        let faulty = judged
            .iter()
            .filter(|verdict| verdict.fault.is_some() && verdict.is_for_known == is_for_known);
        let names: Vec<&str> = faulty.map(|verdict| verdict.name.as_str()).collect();
        let who = if is_for_known { "no new person" } else { "nobody" };
        (!names.is_empty()).then(|| format!("{who} can log in with {} now", names.join(", ")))
    };
    let sentences: Vec<String> = [faulty(false), faulty(true)].into_iter().flatten().collect();
    if sentences.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(sentences.join("; ")))
}
