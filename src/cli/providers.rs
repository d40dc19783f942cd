//! `keyround providers`: the OpenID providers that people may log in with.

mod check;
mod show;
mod update;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::accounts::federation::{
    DEFAULT_SCOPE, Directories, DirectoryId, OpenIdScope, Provider, ProviderClientId, ProviderIssuer, ProviderName,
};
use crate::app::Foundation;
use crate::clock::UnixTime;
use crate::config::Config;
use crate::events::{Entry, Event};
use crate::logins::federated::redirect_uri;
use crate::outbound::providers::ProviderError;
use crate::store::identity_providers::{People, ProviderChange};
use crate::text;

use super::confirm::{Confirmation, Reason};
use super::context::{ACTOR, Context};
use super::failure::Failure;
use super::{input, list, output, scope};

#[derive(Subcommand)]
pub enum ProvidersCommand {
    /// Register a provider; tells the redirect URI to register there.
    Create(NewProviderArguments),
    /// List every provider.
    List,
    /// Show one provider, but for its client secret.
    Show {
        /// The provider.
        name: ProviderName,
    },
    /// Change a provider; each setting that is not named stays. Every server goes by it at once.
    Update(update::ProviderChanges),
    /// Ask providers for their metadata and keys, and say which of them people can log in with; exits with 1 when one is not in order.
    Check {
        /// The provider; every one that is enabled when left out.
        name: Option<ProviderName>,
    },
    /// Let nobody log in with a provider from now on. Sessions that began with it live on.
    Disable {
        /// The provider.
        name: ProviderName,
        #[command(flatten)]
        why: Reason,
    },
    /// Let people log in with a disabled provider again.
    Enable {
        /// The provider.
        name: ProviderName,
        #[command(flatten)]
        why: Reason,
    },
    /// Give a provider another client secret, in place of the one before.
    SetSecret {
        /// The provider.
        name: ProviderName,
        #[arg(long, value_name = "FILE", help = SECRET_HELP)]
        client_secret_file: PathBuf,
    },
    /// Delete a provider, and with it who its people are here; their accounts stay.
    Delete {
        /// The provider.
        name: ProviderName,
        #[command(flatten)]
        why: Reason,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

const ISSUER_HELP: &str = "Its issuer, exactly as it writes it. That of a multi-tenant directory service has {tenantid} in its path, such as \
                           https://login.microsoftonline.com/{tenantid}/v2.0";
const SECRET_HELP: &str = "The file with the secret that it gave us, mode 0600, or - for standard input";

#[derive(Args)]
pub struct NewProviderArguments {
    /// Our name for it, as it stands in /auth/federated/NAME.
    name: ProviderName,
    #[arg(long, value_name = "URL", value_parser = ProviderIssuer::to_register, help = ISSUER_HELP)]
    issuer: ProviderIssuer,
    /// The directories (tid) of a multi-tenant directory service whose people may log in.
    #[arg(long = "directory", value_name = "ID", num_args = 1.., conflicts_with = "any_directory", value_parser = list::item::<DirectoryId>)]
    directories: Vec<DirectoryId>,
    /// People of any directory of the service may log in, whoever runs it.
    #[arg(long, conflicts_with = "link_verified_email")]
    any_directory: bool,
    /// Its name for us.
    #[arg(long, value_name = "ID")]
    client_id: ProviderClientId,
    #[arg(long, value_name = "FILE", help = SECRET_HELP)]
    client_secret_file: PathBuf,
    /// What is asked for.
    #[arg(long, default_value = DEFAULT_SCOPE, value_parser = scope::parse::<OpenIdScope>)]
    scope: OpenIdScope,
    /// Whoever has an e-mail that this provider and we have verified logs in to the account of that e-mail. Only for a provider
    /// that is trusted to verify.
    #[arg(long)]
    link_verified_email: bool,
    #[arg(long, help = AS_TEXT_HELP)]
    email_verified_as_text: bool,
}

const AS_TEXT_HELP: &str = "Its email_verified may be the text \"true\" instead of the JSON value; where it is absent, Microsoft's xms_edov counts";

pub async fn run(context: &Context, command: ProvidersCommand) -> Result<(), Failure> {
    match command {
        ProvidersCommand::Create(new) => create(context, new).await,
        ProvidersCommand::List => show::list(context).await,
        ProvidersCommand::Show { name } => show::one(context, &name).await,
        ProvidersCommand::Update(changes) => update::run(context, changes).await,
        ProvidersCommand::Check { name } => check::run(context, name).await,
        ProvidersCommand::Disable { name, why } => {
            let told = ["is disabled", "was disabled already"];
            let event = Event::ProviderDisabled;
            change(context, &name, &ProviderChange::Disable, event, &why.reason, told).await
        }
        ProvidersCommand::Enable { name, why } => {
            let told = ["is enabled", "was enabled already"];
            let event = Event::ProviderEnabled;
            change(context, &name, &ProviderChange::Enable, event, &why.reason, told).await
        }
        ProvidersCommand::SetSecret {
            name,
            client_secret_file,
        } => {
            let (_, foundation) = context.foundation().await?;
            let sealed = sealed(&foundation, &name, &client_secret_file).await?;
            let told = ["has another client secret", "has this client secret already"];
            let changed = ProviderChange::ChangeSecret { sealed };
            let event = Event::ProviderSecretChanged;
            change(context, &name, &changed, event, "asked for", told).await
        }
        ProvidersCommand::Delete {
            name,
            why,
            confirmation,
        } => delete(context, &name, &why, &confirmation).await,
    }
}

async fn sealed(foundation: &Foundation, name: &ProviderName, file: &std::path::Path) -> Result<String, Failure> {
    let secret = input::secret("--client-secret-file", file)?;
    let rotator = &foundation.rotator;
    Ok(rotator.seal_secret(&name.secret_name(), secret.as_bytes()).await?)
}

fn entry(event: Event, name: &ProviderName, now: UnixTime, reason: &str) -> Entry {
    Entry::new(event, name, now, ACTOR.as_str(), reason)
}

/// Which directories may log in: to be said for a template, and for nothing else.
fn directories(issuer: &ProviderIssuer, listed: Vec<DirectoryId>, any: bool) -> Result<Option<Directories>, Failure> {
    match (issuer.is_template(), any, listed.is_empty()) {
        (true, true, _) => Ok(Some(Directories::Any)),
        (true, false, false) => Ok(Some(Directories::Listed(listed))),
        (true, false, true) => Err(Failure::Usage(format!(
            "the issuer {issuer} is that of a directory service; name the directories whose people may log in (--directory ID), or let in those \
             of any (--any-directory)"
        ))),
        (false, false, true) => Ok(None),
        (false, ..) => Err(Failure::Usage(
            "--directory and --any-directory need the issuer of a directory service, with {tenantid} in its path, such as \
             https://login.microsoftonline.com/{tenantid}/v2.0"
                .to_owned(),
        )),
    }
}

/// What is known of a provider before it is written down.
struct ForeseenProvider {
    /// Why it was not asked.
    not_checked: Option<String>,
    /// Why no new person could log in, or what that depends on.
    warning: Option<String>,
}

/// Asks a provider that is to be registered. One that people could never log in with is refused; one that cannot be asked now is not.
async fn foresee(context: &Context, config: &Config, provider: &Provider) -> Result<ForeseenProvider, Failure> {
    let (not_checked, warning) = match check::ask(context, config, &provider.issuer).await {
        Err(error @ ProviderError::Fetch(_)) => (Some(error.to_string()), None),
        Err(error) => return Err(Failure::Refused(format!("the provider was not registered: {error}"))),
        Ok(None) => (None, None),
        Ok(Some(check::ProviderAnswer {
            no_keys: Some(error), ..
        })) => (None, Some(format!("no person can log in with it yet: {error}"))),
        Ok(Some(check::ProviderAnswer { metadata, .. })) => {
            (None, check::outlook(provider, &metadata).sentence(&provider.name))
        }
    };
    Ok(ForeseenProvider { not_checked, warning })
}

impl ForeseenProvider {
    fn show(&self, shown: &mut Value) {
        shown["not_checked"] = json!(self.not_checked);
        shown["warning"] = json!(self.warning);
    }

    fn tell(&self, name: &ProviderName) {
        if let Some(why) = &self.not_checked {
            output::line(&format!(
                "It was not checked: {why}. Run 'keyround providers check {name}' when it can be reached."
            ));
        }
        if let Some(warning) = &self.warning {
            output::line(&format!("Note: {warning}."));
        }
    }
}

async fn create(context: &Context, new: NewProviderArguments) -> Result<(), Failure> {
    let directories = directories(&new.issuer, new.directories, new.any_directory)?;
    let (config, foundation) = context.foundation().await?;
    let now = context.clock.read().wall;
    let provider = Provider {
        name: new.name,
        issuer: new.issuer,
        client_id: new.client_id,
        scope: new.scope,
        directories,
        links_verified_emails_since: new.link_verified_email.then_some(now),
        reads_email_verified_text_since: new.email_verified_as_text.then_some(now),
        created_at: now,
        disabled_at: None,
    };
    let foreseen = foresee(context, &config, &provider).await?;
    let sealed = sealed(&foundation, &provider.name, &new.client_secret_file).await?;
    let entry = entry(Event::ProviderCreated, &provider.name, now, "registered");
    let db = &foundation.rotator.db;
    if !db.create_identity_provider(&provider, &sealed, &entry).await? {
        return Err(Failure::Refused(format!(
            "there is a provider '{}' already; choose another name, or change that one by 'providers update'",
            provider.name
        )));
    }
    let mut shown = to_json(&config, &provider);
    foreseen.show(&mut shown);
    if context.json {
        output::json(&shown);
    } else {
        output::line(&format!("provider       {}", provider.name));
        output::line(&format!("redirect URI   {}", redirect(&config, &provider)));
        output::line("Register this redirect URI there. People log in at /auth/federated/NAME below the issuer.");
        foreseen.tell(&provider.name);
    }
    Ok(())
}

fn redirect(config: &Config, provider: &Provider) -> String {
    redirect_uri(config.server.issuer.as_str(), &provider.name)
}

fn to_json(config: &Config, provider: &Provider) -> Value {
    json!({
        "provider": provider.name.as_str(),
        "issuer": provider.issuer.as_str(),
        "client_id": provider.client_id.as_str(),
        "scope": provider.scope.as_str(),
        "redirect_uri": redirect(config, provider),
        "directories": provider.directories.as_ref().map(|directories| match directories {
            Directories::Any => json!("any"),
            Directories::Listed(ids) => json!(ids.iter().map(DirectoryId::as_str).collect::<Vec<_>>()),
        }),
        "email_verified_as_text": provider.reads_email_verified_text_since.is_some(),
        "link_verified_email": provider.links_verified_emails_since.is_some(),
        "created_at": provider.created_at.rfc3339(),
        "disabled_at": provider.disabled_at.map(UnixTime::rfc3339),
    })
}

fn unknown(name: &ProviderName) -> Failure {
    Failure::Refused(format!(
        "no provider is called {}; 'keyround providers list' names them all",
        text::quoted(name.as_str())
    ))
}

/// Changes a provider; `told` says what is so now, and what was so already.
async fn change(
    context: &Context,
    name: &ProviderName,
    change: &ProviderChange,
    event: Event,
    reason: &str,
    told: [&str; 2],
) -> Result<(), Failure> {
    let (_, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    let entry = entry(event, name, context.clock.read().wall, reason);
    let changed = db.change_identity_provider(name, change, &entry).await?;
    if !changed && db.identity_provider(name).await?.is_none() {
        return Err(unknown(name));
    }
    if context.json {
        output::json(&json!({ "provider": name.as_str(), "changed": changed }));
    } else {
        output::line(&format!("provider {name} {}", told[usize::from(!changed)]));
    }
    Ok(())
}

/// Deletes a provider, once the operator knows how many people it concerns.
async fn delete(
    context: &Context,
    name: &ProviderName,
    why: &Reason,
    confirmation: &Confirmation,
) -> Result<(), Failure> {
    let (_, db) = context.database().await?;
    let people = db.people_of_provider(name).await?.ok_or_else(|| unknown(name))?;
    confirmation.can_be_given("the deletion")?;
    confirmation.ask(&format!(
        "{} Their accounts stay, and so do their sessions; a provider of the same name knows none of them again. 'providers disable' can be \
         taken back.",
        people_told(name, people)
    ))?;
    let (_, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    let entry = entry(Event::ProviderDeleted, name, context.clock.read().wall, &why.reason);
    let changed = db
        .change_identity_provider(name, &ProviderChange::Delete, &entry)
        .await?;
    if context.json {
        output::json(&json!({
            "provider": name.as_str(),
            "changed": changed,
            "people": people.all,
            "people_without_another_login": people.without_another_login,
        }));
    } else if changed {
        output::line(&format!("provider {name} is deleted: {}", people_counted(people)));
    } else {
        output::line(&format!("provider {name} was deleted already"));
    }
    Ok(())
}

/// How many people a deletion concerns, in a sentence.
fn people_told(name: &ProviderName, people: People) -> String {
    format!(
        "With the provider {name}, it is forgotten who its people are here: {}.",
        people_counted(people)
    )
}

fn people_counted(people: People) -> String {
    let noun = |count: i64| if count == 1 { "person" } else { "people" };
    match people {
        People { all: 0, .. } => "no person has logged in with it".to_owned(),
        People {
            all,
            without_another_login: 0,
        } => {
            format!(
                "{all} {} logged in with it, and each has a password or another provider",
                noun(all)
            )
        }
        People {
            all,
            without_another_login,
        } => format!(
            "{all} {} logged in with it, and {without_another_login} of them cannot log in in another way until they have a password \
             ('users set-password')",
            noun(all)
        ),
    }
}
