//! `keyround resources`: what access tokens are for, and what clients may ask for there.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::accounts::user::Name;
use crate::events::{Entry, Event};
use crate::oauth::client::Audience;
use crate::oauth::resource::{MAX_SCOPES, RegisteredScope, ResourceServer, ScopeTexts, ScopeWord};
use crate::store::Db;
use crate::values::LANGUAGES;

use super::confirm::Reason;
use super::context::{ACTOR, Context};
use super::failure::Failure;
use super::output;

#[derive(Subcommand)]
pub enum ResourcesCommand {
    /// Register a resource server, so that people see its name where they are asked for consent.
    Create {
        /// The audience of its access tokens, such as `https://api.example.com`.
        audience: Audience,
        /// What people call it.
        #[arg(long)]
        name: Name,
    },
    /// List every resource server with its scopes.
    List,
    /// Delete a resource server with its scopes. Clients keep what they are registered for.
    Delete {
        /// The audience of its access tokens.
        audience: Audience,
        #[command(flatten)]
        why: Reason,
    },
    /// Register a scope of a resource server, with what the consent page says of it.
    AddScope {
        /// The audience of the resource server.
        audience: Audience,
        /// The word that clients ask for, such as `orders:read`.
        scope: ScopeWord,
        /// What it allows, as in "en=see your orders"; for several languages, repeat it. One must be in English.
        #[arg(long = "text", value_name = "LANGUAGE=TEXT", required = true, value_parser = text)]
        texts: Vec<(String, String)>,
    },
    /// Delete a scope of a resource server. Clients keep what they are registered for.
    RemoveScope {
        /// The audience of the resource server.
        audience: Audience,
        /// The word.
        scope: ScopeWord,
        #[command(flatten)]
        why: Reason,
    },
}

fn text(text: &str) -> Result<(String, String), String> {
    let parts = text
        .split_once('=')
        .filter(|(language, _)| LANGUAGES.contains(language));
    let (language, text) =
        parts.ok_or_else(|| format!("write LANGUAGE=TEXT, where LANGUAGE is one of {}", LANGUAGES.join(", ")))?;
    Ok((language.to_owned(), text.to_owned()))
}

pub async fn run(context: &Context, command: ResourcesCommand) -> Result<(), Failure> {
    match command {
        ResourcesCommand::Create { audience, name } => create(context, audience, name).await,
        ResourcesCommand::List => list(context).await,
        ResourcesCommand::Delete { audience, why } => {
            let (_, db) = context.database().await?;
            let entry = entry(context, Event::ResourceDeleted, audience.as_str(), &why.reason);
            if !db.delete_resource_server(&audience, &entry).await? {
                return Err(unknown(&audience));
            }
            tell(context, &audience, None, "is deleted");
            Ok(())
        }
        ResourcesCommand::AddScope { audience, scope, texts } => add_scope(context, audience, scope, texts).await,
        ResourcesCommand::RemoveScope { audience, scope, why } => {
            let (_, db) = context.database().await?;
            let entry = entry(context, Event::ScopeDeleted, scope.as_str(), &why.reason);
            if !db.delete_scope(&scope, &audience, &entry).await? {
                db.resource_server(audience.as_str())
                    .await?
                    .ok_or_else(|| unknown(&audience))?;
                return Err(Failure::Refused(format!(
                    "the resource server {audience} has no scope '{scope}'; 'keyround resources list' names them all"
                )));
            }
            tell(context, &audience, Some(&scope), "is deleted");
            Ok(())
        }
    }
}

fn entry(context: &Context, event: Event, subject: &str, reason: &str) -> Entry {
    Entry::new(event, subject, context.clock.read().wall, ACTOR.as_str(), reason)
}

fn unknown(audience: &Audience) -> Failure {
    Failure::Refused(format!(
        "no resource server has the audience {audience}; register it by 'keyround resources create {audience} --name NAME'"
    ))
}

async fn create(context: &Context, audience: Audience, name: Name) -> Result<(), Failure> {
    let (_, db) = context.database().await?;
    let entry = entry(context, Event::ResourceCreated, audience.as_str(), "registered");
    let resource = ResourceServer {
        audience,
        name,
        created_at: context.clock.read().wall,
    };
    if !db.create_resource_server(&resource, &entry).await? {
        return Err(Failure::Refused(format!(
            "there is a resource server with the audience {} already; delete it first, or choose another audience",
            resource.audience
        )));
    }
    tell(context, &resource.audience, None, "is registered");
    Ok(())
}

async fn add_scope(
    context: &Context,
    audience: Audience,
    word: ScopeWord,
    texts: Vec<(String, String)>,
) -> Result<(), Failure> {
    let [first, ..] = LANGUAGES;
    let count = texts.len();
    let texts: BTreeMap<String, String> = texts.into_iter().collect();
    if texts.len() < count {
        return Err(Failure::Usage(
            "--text has one language twice; give each once".to_owned(),
        ));
    }
    let texts = ScopeTexts::new(texts, first).map_err(|why| Failure::Usage(format!("--text: {why} ({first})")))?;
    let (_, db) = context.database().await?;
    let entry = entry(
        context,
        Event::ScopeCreated,
        word.as_str(),
        &format!("registered at {audience}"),
    );
    let scope = RegisteredScope {
        word,
        audience,
        texts,
        created_at: context.clock.read().wall,
    };
    if !db.create_scope(&scope, &entry).await? {
        return Err(refused(&db, &scope).await?);
    }
    tell(context, &scope.audience, Some(&scope.word), "is registered");
    Ok(())
}

/// Why a scope could not be registered.
async fn refused(db: &Db, scope: &RegisteredScope) -> Result<Failure, Failure> {
    if db.resource_server(scope.audience.as_str()).await?.is_none() {
        return Ok(unknown(&scope.audience));
    }
    let all = db.registered_scopes().await?;
    Ok(Failure::Refused(
        match all.iter().find(|other| other.word == scope.word) {
            Some(other) => format!(
                "the scope '{}' is one of the resource server {} already; choose another word, such as one with the service's name before it",
                scope.word, other.audience
            ),
            None => format!("there are {MAX_SCOPES} scopes, and no more can be registered; delete one first"),
        },
    ))
}

fn tell(context: &Context, audience: &Audience, scope: Option<&ScopeWord>, told: &str) {
    if context.json {
        output::json(&json!({ "audience": audience, "scope": scope.map(ScopeWord::as_str), "changed": true }));
    } else if let Some(scope) = scope {
        output::line(&format!("scope {scope} of {audience} {told}"));
    } else {
        output::line(&format!("resource server {audience} {told}"));
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let (_, db) = context.database().await?;
    let (resources, scopes) = (db.resource_servers().await?, db.registered_scopes().await?);
    let of = |resource: &ResourceServer| -> Vec<&RegisteredScope> {
        scopes
            .iter()
            .filter(|scope| scope.audience == resource.audience)
            .collect()
    };
    if context.json {
        let shown: Vec<Value> = resources
            .iter()
            .map(|resource| {
                let scopes = of(resource);
                json!({
                    "audience": resource.audience,
                    "name": resource.name.as_str(),
                    "created_at": resource.created_at.rfc3339(),
                    "scopes": scopes.iter().map(|scope| json!({ "scope": scope.word.as_str(), "texts": scope.texts.all() })).collect::<Vec<_>>(),
                })
            })
            .collect();
        output::json(&shown);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = resources
        .iter()
        .map(|resource| {
            let words: Vec<&str> = of(resource).iter().map(|scope| scope.word.as_str()).collect();
            vec![
                resource.audience.to_string(),
                output::printable(resource.name.as_str()),
                words.join(" "),
            ]
        })
        .collect();
    output::line(&output::table(&["AUDIENCE", "NAME", "SCOPES"], &rows));
    Ok(())
}
