//! `keyround providers update`: other settings for a provider that exists.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::accounts::federation::{
    Directories, DirectoryId, OpenIdScope, Provider, ProviderClientId, ProviderIssuer, ProviderName,
};
use crate::clock::UnixTime;
use crate::events::Event;
use crate::store::StoreError;
use crate::store::identity_providers::{ProviderUpdate, Updated};

use super::{
    AS_TEXT_HELP, ForeseenProvider, ISSUER_HELP, SECRET_HELP, directories, entry, foresee, sealed, to_json, unknown,
};
use crate::cli::context::Context;
use crate::cli::differences::{self, Difference, differences, reason};
use crate::cli::failure::Failure;
use crate::cli::{list, output, scope};

/// How often a change that another one preceded is tried.
const TRIES: usize = 5;

#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct ProviderChanges {
    /// The provider.
    name: ProviderName,
    #[arg(long, value_name = "URL", value_parser = ProviderIssuer::to_register, help = ISSUER_HELP)]
    issuer: Option<ProviderIssuer>,
    /// The directories (tid) of a multi-tenant directory service whose people may log in, in place of those before.
    #[arg(long = "directory", value_name = "ID", num_args = 1.., conflicts_with = "any_directory", value_parser = list::item::<DirectoryId>)]
    directories: Vec<DirectoryId>,
    /// People of any directory of the service may log in, whoever runs it.
    #[arg(long, conflicts_with = "link_verified_email")]
    any_directory: bool,
    /// Its name for us. A provider may call the same people by other names then.
    #[arg(long, value_name = "ID")]
    client_id: Option<ProviderClientId>,
    #[arg(long, value_name = "FILE", help = SECRET_HELP)]
    client_secret_file: Option<PathBuf>,
    /// What is asked for.
    #[arg(long, value_parser = scope::parse::<OpenIdScope>)]
    scope: Option<OpenIdScope>,
    /// Whoever has an e-mail that this provider and we have verified logs in to the account of that e-mail. Only for a provider
    /// that is trusted to verify.
    #[arg(long, conflicts_with = "no_link_verified_email")]
    link_verified_email: bool,
    /// No account is linked by its e-mail any more; those that are linked stay so.
    #[arg(long)]
    no_link_verified_email: bool,
    #[arg(long, help = AS_TEXT_HELP, conflicts_with = "no_email_verified_as_text")]
    email_verified_as_text: bool,
    /// Its `email_verified` must be the JSON value `true` again.
    #[arg(long)]
    no_email_verified_as_text: bool,
}

/// A choice that is made or taken back; what was so already has been so since then.
const fn switched(on: bool, off: bool, old: Option<UnixTime>, now: UnixTime) -> Option<UnixTime> {
    match (on, off, old) {
        (_, true, _) => None,
        (true, false, None) => Some(now),
        (_, false, old) => old,
    }
}

impl ProviderChanges {
    const fn is_empty(&self) -> bool {
        self.issuer.is_none()
            && self.directories.is_empty()
            && !self.any_directory
            && self.client_id.is_none()
            && self.client_secret_file.is_none()
            && self.scope.is_none()
            && !self.link_verified_email
            && !self.no_link_verified_email
            && !self.email_verified_as_text
            && !self.no_email_verified_as_text
    }

    fn applied_to(&self, old: &Provider, now: UnixTime) -> Result<Provider, Failure> {
        let issuer = self.issuer.clone().unwrap_or_else(|| old.issuer.clone());
        let is_named = self.any_directory || !self.directories.is_empty();
        let directories = match &old.directories {
            Some(before) if issuer.is_template() && !is_named => Some(before.clone()),
            _ => directories(&issuer, self.directories.clone(), self.any_directory)?,
        };
        let new = Provider {
            name: old.name.clone(),
            issuer,
            directories,
            client_id: self.client_id.clone().unwrap_or_else(|| old.client_id.clone()),
            scope: self.scope.clone().unwrap_or_else(|| old.scope.clone()),
            links_verified_emails_since: switched(
                self.link_verified_email,
                self.no_link_verified_email,
                old.links_verified_emails_since,
                now,
            ),
            reads_email_verified_text_since: switched(
                self.email_verified_as_text,
                self.no_email_verified_as_text,
                old.reads_email_verified_text_since,
                now,
            ),
            created_at: old.created_at,
            disabled_at: old.disabled_at,
        };
        if new.directories == Some(Directories::Any) && new.links_verified_emails_since.is_some() {
            return Err(Failure::Usage(
                "a provider for any directory links no accounts, because whoever owns a directory may write any address into it; add \
                 --no-link-verified-email, or name the directories (--directory ID)"
                    .to_owned(),
            ));
        }
        Ok(new)
    }
}

/// What differs: the name of a setting, with its values before and after.
fn differing(old: &Provider, new: &Provider) -> Vec<Difference> {
    let yes_or_no = |since: Option<UnixTime>| if since.is_some() { "yes" } else { "no" }.to_owned();
    let values = |provider: &Provider| {
        let directories = provider.directories.as_ref();
        [
            ("issuer", provider.issuer.to_string()),
            ("directories", directories.map(ToString::to_string).unwrap_or_default()),
            ("client_id", provider.client_id.to_string()),
            ("scope", provider.scope.to_string()),
            ("link_verified_email", yes_or_no(provider.links_verified_emails_since)),
            (
                "email_verified_as_text",
                yes_or_no(provider.reads_email_verified_text_since),
            ),
        ]
    };
    differences(values(old), values(new))
}

pub async fn run(context: &Context, changes: ProviderChanges) -> Result<(), Failure> {
    if changes.is_empty() {
        return Err(Failure::Usage(
            "nothing to change was given; give one or more of --issuer, --directory, --any-directory, --client-id, --client-secret-file, \
             --scope, --link-verified-email, --no-link-verified-email, --email-verified-as-text and --no-email-verified-as-text"
                .to_owned(),
        ));
    }
    let (config, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    let name = &changes.name;
    let sealed = match &changes.client_secret_file {
        Some(file) => Some(sealed(&foundation, name, file).await?),
        None => None,
    };
    for _ in 0..TRIES {
        let old = db.identity_provider(name).await?.ok_or_else(|| unknown(name))?;
        let now = context.clock.read().wall;
        let new = changes.applied_to(&old, now)?;
        let differences = differing(&old, &new);
        let foreseen = foresee(context, &config, &new).await;
        // The provider is away, or has become another one: what does not touch the issuer can be changed all the same.
        let foreseen = match foreseen {
            Err(refused) if old.issuer != new.issuer => return Err(refused),
            Err(refused) => ForeseenProvider {
                not_checked: None,
                warning: Some(refused.to_string()),
            },
            Ok(foreseen) => foreseen,
        };
        let mut entries = Vec::new();
        if !differences.is_empty() {
            entries.push(entry(Event::ProviderUpdated, name, now, &reason(&differences)));
        }
        if sealed.is_some() {
            entries.push(entry(Event::ProviderSecretChanged, name, now, "asked for"));
        }
        let update = ProviderUpdate {
            old: &old,
            new: &new,
            sealed: sealed.as_deref(),
        };
        let updated = if entries.is_empty() {
            Updated::Done
        } else {
            db.update_identity_provider(&update, &entries).await?
        };
        match updated {
            Updated::Done => {
                tell(
                    context,
                    &to_json(&config, &new),
                    &new,
                    &differences,
                    sealed.is_some(),
                    &foreseen,
                );
                return Ok(());
            }
            Updated::People(count) => {
                return Err(Failure::Refused(format!(
                    "{count} {} known by what the issuer {} calls them, and another issuer may call other people the same; register it as \
                     another provider, or delete this one first",
                    if count == 1 { "person is" } else { "people are" },
                    old.issuer
                )));
            }
            // It was changed meanwhile, or deleted: look again.
            Updated::Changed => {}
        }
    }
    Err(StoreError::Conflict.into())
}

fn tell(
    context: &Context,
    shown: &Value,
    provider: &Provider,
    differences: &[Difference],
    is_secret_new: bool,
    foreseen: &ForeseenProvider,
) {
    if context.json {
        let mut shown = shown.clone();
        let changes = differences::to_json(differences);
        shown["changed"] = json!(!changes.is_empty() || is_secret_new);
        shown["client_secret_changed"] = json!(is_secret_new);
        shown["changes"] = Value::Object(changes);
        foreseen.show(&mut shown);
        output::json(&shown);
        return;
    }
    if differences.is_empty() && !is_secret_new {
        output::line(&format!(
            "provider {} has these settings already; nothing was changed",
            provider.name
        ));
    } else {
        output::line(&format!("provider {} is changed", provider.name));
        differences::tell(differences, 24);
        if is_secret_new {
            output::line("client secret           as in the file");
        }
    }
    foreseen.tell(&provider.name);
}
