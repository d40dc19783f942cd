//! `keyround clients`: who may ask for tokens.

mod delete;
mod keys;
mod show;
mod update;

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::accounts::user::{Name, USER_ID_VERSION};
use crate::app::Foundation;
use crate::clock::{Seconds, UnixTime};
use crate::config::Config;
use crate::crypto::purpose::Purpose;
use crate::crypto::random::random_secret;
use crate::events::{Entry, Event};
use crate::jose::alg::Algorithm;
use crate::jose::jwt::TokenType;
use crate::oauth::authorization::OFFLINE_ACCESS;
use crate::oauth::claims::{RolesClaim, ScopeClaims};
use crate::oauth::client::{Audience, Client, ClientId, ClientKind, ClientSecret, Consent, Grant, Party, RedirectUri};
use crate::oauth::endpoints::USERINFO_PATH;
use crate::oauth::resource::RegisteredScope;
use crate::oauth::scope::Scope;
use crate::store::Db;
use crate::store::clients::{ClientChange, EndedSecret, StoredClient};
use crate::text;
use crate::values::parse_duration;

use super::confirm::{Confirmation, Reason};
use super::context::{ACTOR, Context};
use super::failure::Failure;
use super::{input, list, output, scope};

#[derive(Subcommand)]
pub enum ClientsCommand {
    /// Register a client; its secret is shown this once.
    Create(Box<NewClientArguments>),
    /// List every client.
    List,
    /// Show one client.
    Show {
        /// The client.
        #[arg(allow_hyphen_values = true)]
        id: ClientId,
    },
    /// Change what a client may ask for; each setting that is not named stays. Every server knows it within a tenth of a second. With
    /// --jwks-file or --jwks-uri it proves itself by these keys alone, and a secret that it has is refused: you are asked first.
    Update(Box<update::ClientChanges>),
    /// Refuse a client from now on.
    Disable {
        /// The client.
        #[arg(allow_hyphen_values = true)]
        id: ClientId,
        #[command(flatten)]
        why: Reason,
    },
    /// Let a disabled client act again.
    Enable {
        /// The client.
        #[arg(allow_hyphen_values = true)]
        id: ClientId,
        #[command(flatten)]
        why: Reason,
    },
    /// Delete a client. Its secrets and keys are forgotten. Introspection refuses its tokens at once; who verifies them by the key set accepts them until they expire.
    Delete {
        /// The client.
        #[arg(allow_hyphen_values = true)]
        id: ClientId,
        #[command(flatten)]
        why: Reason,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Let a client prove itself with these keys alone (`private_key_jwt`), in place of those it has and of any secret.
    SetKeys {
        /// The client.
        #[arg(allow_hyphen_values = true)]
        id: ClientId,
        #[command(flatten)]
        keys: keys::ClientKeySource,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Give a client a new secret; the one before stays valid beside it. A client with two valid secrets gets another one only if you say
    /// which of them ends.
    RotateSecret {
        /// The client.
        #[arg(allow_hyphen_values = true)]
        id: ClientId,
        /// End the older one of two valid secrets: the client uses the newest.
        #[arg(long)]
        end_previous: bool,
        /// Put the new secret in place of the newest, which was lost: the one before it stays valid.
        #[arg(long, conflicts_with = "end_previous")]
        replace_newest: bool,
        #[arg(long, value_name = "FILE", help = SECRET_FILE_HELP)]
        secret_file: Option<PathBuf>,
    },
}

const SECRET_FILE_HELP: &str = "A secret that it has already, in a file of mode 0600 or on standard input (-): 16 to 512 printable ASCII characters that cannot be guessed; \
                                a random one when left out";

#[derive(Args)]
pub struct NewClientArguments {
    #[arg(
        long,
        help = "Its name, such as billing, svc:prod or https://app.example.com; a random one when left out"
    )]
    id: Option<ClientId>,
    #[arg(
        long = "grant",
        value_name = "GRANT",
        required = true,
        value_parser = list::item::<Grant>,
        help = "How it obtains tokens: client_credentials as a service, authorization_code for people who log in"
    )]
    grants: Vec<Grant>,
    /// The services it may ask for tokens for; the first is the default. A client that only logs people in needs none: its access tokens are
    /// then for `/oauth2/userinfo` alone.
    #[arg(long = "audience", value_name = "AUDIENCE", num_args = 1.., value_parser = list::audience)]
    audiences: Vec<Audience>,
    #[arg(
        long = "redirect-uri",
        value_name = "URI",
        num_args = 1..,
        help = "Where a login may lead back to, byte for byte; the port of http://127.0.0.1 and http://[::1] is free"
    )]
    redirect_uris: Vec<RedirectUri>,
    /// Where a logout that it begins may lead back to, byte for byte.
    #[arg(long = "post-logout-redirect-uri", value_name = "URI", num_args = 1..)]
    post_logout_redirect_uris: Vec<RedirectUri>,
    /// It runs where others can read it, in a browser or on a device, and so has no secret.
    #[arg(long, conflicts_with_all = ["secret_file", "jwks_file", "jwks_uri"])]
    public: bool,
    /// It is your own: people are not asked before it gets what it asks for.
    #[arg(long)]
    first_party: bool,
    /// What people see of it on pages; its id when left out.
    #[arg(long)]
    name: Option<Name>,
    #[arg(
        long,
        value_name = "ALGORITHM",
        help = "The algorithm of its ID tokens; that of its access tokens when left out"
    )]
    id_token_algorithm: Option<Algorithm>,
    /// Where the claims of the scopes profile and email are: at userinfo, or in the `id_token` too, for a program that asks no userinfo endpoint.
    #[arg(long, value_name = "PLACE", default_value = "userinfo", value_parser = scope_claims())]
    scope_claims: ScopeClaims,
    /// The claim that lists a person's roles in its ID tokens and at userinfo, such as groups; as one text with :text behind the name.
    #[arg(long, value_name = "CLAIM")]
    roles_claim: Option<RolesClaim>,
    /// Whether it must send a code challenge (RFC 7636): required, or optional for a client that cannot.
    #[arg(long, value_name = "WHETHER", default_value = "required", value_parser = ["required", "optional"])]
    pkce: String,
    /// The services that it is: it may introspect tokens for them.
    #[arg(long, value_name = "AUDIENCE", num_args = 1.., value_parser = list::audience)]
    serves: Vec<Audience>,
    /// The widest scope it may have, such as "read write".
    #[arg(long, default_value = "", value_parser = scope::registered)]
    scope: Scope,
    #[arg(long, help = "The algorithm of its tokens; tokens.default_algorithm when left out")]
    algorithm: Option<Algorithm>,
    /// The `typ` of its tokens: at+jwt (RFC 9068), or JWT for services that accept nothing else.
    #[arg(long, value_name = "TYPE", default_value = "at+jwt", value_parser = token_type())]
    token_type: TokenType,
    #[arg(
        long,
        value_name = "TTL",
        value_parser = parse_duration,
        help = "How long its tokens live, such as 5m; tokens.access_token_ttl when left out"
    )]
    token_ttl: Option<Seconds>,
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["jwks_file", "jwks_uri"],
        help = SECRET_FILE_HELP
    )]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    keys: Option<keys::ClientKeySource>,
}

fn token_type() -> impl clap::builder::TypedValueParser<Value = TokenType> {
    PossibleValuesParser::new(TokenType::ALL.map(TokenType::name)).try_map(|text| text.parse::<TokenType>())
}

fn scope_claims() -> impl clap::builder::TypedValueParser<Value = ScopeClaims> {
    PossibleValuesParser::new(ScopeClaims::ALL.map(ScopeClaims::name)).try_map(|text| text.parse::<ScopeClaims>())
}

pub async fn run(context: &Context, command: ClientsCommand) -> Result<(), Failure> {
    match command {
        ClientsCommand::Create(new) => create(context, *new).await,
        ClientsCommand::List => show::list(context).await,
        ClientsCommand::Show { id } => show::one(context, &id).await,
        ClientsCommand::Update(changes) => update::run(context, *changes).await,
        ClientsCommand::Disable { id, why } => {
            let change = ClientChange::Disable;
            change_client(
                context,
                &id,
                &change,
                &why,
                Event::ClientDisabled,
                ["is disabled", "was disabled already"],
            )
            .await
        }
        ClientsCommand::Enable { id, why } => {
            let change = ClientChange::Enable;
            change_client(
                context,
                &id,
                &change,
                &why,
                Event::ClientEnabled,
                ["is enabled", "was enabled already"],
            )
            .await
        }
        ClientsCommand::Delete { id, why, confirmation } => delete::run(context, &id, &why, &confirmation).await,
        ClientsCommand::SetKeys { id, keys, confirmation } => keys::set(context, &id, keys, &confirmation).await,
        ClientsCommand::RotateSecret {
            id,
            end_previous,
            replace_newest,
            secret_file,
        } => {
            let ends = match (end_previous, replace_newest) {
                (true, _) => EndedSecret::Previous,
                (_, true) => EndedSecret::Newest,
                _ => EndedSecret::None,
            };
            rotate_secret(context, &id, ends, secret_file).await
        }
    }
}

/// Registers a client with a fresh secret; none when its id is taken.
pub async fn register(
    foundation: &Foundation,
    client: &Client,
    actor: &str,
    reason: &str,
) -> Result<Option<Zeroizing<String>>, Failure> {
    let secret = fresh_secret()?;
    register_with(foundation, client, &secret, actor, reason)
        .await
        .map(|created| created.then_some(secret))
}

/// The same with this secret; false when the id is taken.
async fn register_with(
    foundation: &Foundation,
    client: &Client,
    secret: &str,
    actor: &str,
    reason: &str,
) -> Result<bool, Failure> {
    let digest = foundation.hash_key.digest(Purpose::ClientSecret, secret);
    let entry = entry(Event::ClientCreated, &client.id, client.created_at, actor, reason);
    Ok(foundation.rotator.db.create_client(client, &digest, &entry).await?)
}

fn fresh_secret() -> Result<Zeroizing<String>, Failure> {
    random_secret().map_err(|error| Failure::Refused(error.to_string()))
}

/// The secret that a client brings along.
fn secret_of(file: &std::path::Path) -> Result<ClientSecret, Failure> {
    let text = input::secret("--secret-file", file)?;
    text.parse()
        .map_err(|why| Failure::Usage(format!("--secret-file {}: {why}", input::shown(file))))
}

fn entry(event: Event, id: &ClientId, now: UnixTime, actor: &str, reason: &str) -> Entry {
    Entry::new(event, id, now, actor, reason)
}

async fn create(context: &Context, mut new: NewClientArguments) -> Result<(), Failure> {
    let config = context.config()?;
    let keys = new.keys.take();
    let brought = new.secret_file.as_deref().map(secret_of).transpose()?;
    let client = client(new, &config, context.clock.read().wall)?;
    if let Some(keys) = keys {
        return keys::create(context, &client, keys).await;
    }
    let is_public = client.kind == ClientKind::Public;
    if brought.is_none() && !is_public {
        output::require_reader()?;
    }
    let (_, foundation) = context.foundation().await?;
    refuse_foreign_scope(&client, &foundation.rotator.db).await?;
    if is_public {
        return create_public(context, &foundation, &client).await;
    }
    if let Some(secret) = brought {
        if !register_with(
            &foundation,
            &client,
            secret.as_str(),
            &ACTOR,
            "registered with its own secret",
        )
        .await?
        {
            return Err(taken(&client));
        }
        if context.json {
            output::json(&to_json(&client));
        } else {
            output::line(&format!("client id      {}", client.id));
            output::line("client secret  as in the file");
        }
        return Ok(());
    }
    let secret = register(&foundation, &client, &ACTOR, "registered")
        .await?
        .ok_or_else(|| taken(&client))?;
    if context.json {
        let mut shown = to_json(&client);
        shown["client_secret"] = json!(secret.as_str());
        output::secret_json(&shown);
    } else {
        output::line(&format!("client id      {}", client.id));
        output::secret(&format!("client secret  {}", secret.as_str()));
        output::line("The secret is shown this once; keep it where only the client can read it.");
    }
    Ok(())
}

/// A client without a secret.
async fn create_public(context: &Context, foundation: &Foundation, client: &Client) -> Result<(), Failure> {
    let entry = entry(
        Event::ClientCreated,
        &client.id,
        client.created_at,
        &ACTOR,
        "registered without a secret",
    );
    if !foundation.rotator.db.create_client(client, "", &entry).await? {
        return Err(taken(client));
    }
    if context.json {
        output::json(&to_json(client));
    } else {
        output::line(&format!("client id      {}", client.id));
        output::line("client secret  none: it is public");
    }
    Ok(())
}

fn taken(client: &Client) -> Failure {
    Failure::Refused(format!(
        "there is a client '{}' already; choose another id, or delete that one first",
        client.id
    ))
}

/// The client that was asked for.
fn client(new: NewClientArguments, config: &Config, now: UnixTime) -> Result<Client, Failure> {
    if let Some(id) = &new.id {
        refuse_id_of_people(id, config)?;
    }
    // Never that of a user, which is a bare UUID.
    let random_id = || format!("client-{}", uuid::Uuid::new_v4()).parse();
    let client = Client {
        id: new
            .id
            .map_or_else(random_id, Ok)
            .map_err(|error| Failure::Refused(error.to_string()))?,
        kind: if new.public {
            ClientKind::Public
        } else {
            ClientKind::Confidential(None)
        },
        party: if new.first_party {
            Party::First {
                since: now,
                consent: Consent::None,
            }
        } else {
            Party::Third
        },
        redirect_uris: distinct(new.redirect_uris),
        post_logout_redirect_uris: distinct(new.post_logout_redirect_uris),
        name: new.name,
        id_token_alg: new.id_token_algorithm,
        scope_claims: new.scope_claims,
        roles_claim: new.roles_claim,
        is_pkce_optional: new.pkce == "optional",
        grants: distinct(new.grants),
        scope: new.scope,
        audiences: distinct(new.audiences),
        serves: distinct(new.serves),
        alg: new.algorithm,
        token_type: new.token_type,
        token_ttl: new.token_ttl,
        created_at: now,
        disabled_at: None,
    };
    refuse_impossible(&client, config)?;
    refuse_contradictory(&client, config)?;
    Ok(with_audience(client, config))
}

/// Refuses a scope of a resource server that the client gets no tokens for.
async fn refuse_foreign_scope(client: &Client, db: &Db) -> Result<(), Failure> {
    let registered = db.registered_scopes().await?;
    let is_foreign = |scope: &&RegisteredScope| {
        client.scope.contains(scope.word.as_str()) && !client.audiences.contains(&scope.audience)
    };
    match registered.iter().find(is_foreign) {
        Some(scope) => Err(Failure::Usage(format!(
            "the scope '{}' is one of the resource server {}, which is not among the audiences of the client; add it by --audience, or leave the \
             scope out",
            scope.word, scope.audience
        ))),
        None => Ok(()),
    }
}

/// A client that only logs people in has access tokens for the one endpoint that it asks who they are, and for nothing that a gateway or
/// an account is reached with.
fn with_audience(mut client: Client, config: &Config) -> Client {
    let userinfo = format!("{}{USERINFO_PATH}", config.server.issuer.as_str());
    if client.audiences.is_empty()
        && let Ok(own) = userinfo.parse()
    {
        client.audiences.push(own);
    }
    client
}

/// Refuses what could never work, or would not mean what it says.
fn refuse_contradictory(client: &Client, config: &Config) -> Result<(), Failure> {
    let id = client.id.as_str();
    let is_audience = id == config.server.issuer.as_str()
        || id == config.accounts.client.audience
        || client.audiences.iter().any(|audience| audience.as_str() == id);
    let logs_in = client.grants.contains(&Grant::AuthorizationCode);
    let is_service = client.grants.contains(&Grant::ClientCredentials);
    let why = if is_service && client.audiences.is_empty() {
        "--audience is missing: say which services it may ask for tokens for"
    } else if logs_in && client.redirect_uris.is_empty() {
        "--redirect-uri is missing: say where a login leads back to, such as https://app.example.com/callback"
    } else if !logs_in && !client.post_logout_redirect_uris.is_empty() {
        "--post-logout-redirect-uri is for people who log in; add --grant authorization_code, or leave it out"
    } else if !logs_in && !client.redirect_uris.is_empty() {
        "--redirect-uri is for people who log in; add --grant authorization_code, or leave it out"
    } else if !logs_in && matches!(client.party, Party::First { .. }) {
        "--first-party is about people who log in; add --grant authorization_code, or leave it out"
    } else if !logs_in
        && (client.id_token_alg.is_some()
            || client.roles_claim.is_some()
            || client.scope_claims != ScopeClaims::Userinfo)
    {
        "--id-token-algorithm, --scope-claims and --roles-claim are about people who log in; add --grant authorization_code, or leave them out"
    } else if logs_in && is_audience {
        "the client_id is an audience, so that its ID tokens would look like access tokens for that audience; choose another id"
    } else if logs_in && client.scope.without(OFFLINE_ACCESS).is_empty() {
        "--scope is missing: say what a login may ask for, such as \"openid email\""
    } else if client.kind == ClientKind::Public && is_service {
        "--public has no secret, and the grant client_credentials needs one; leave one of them out"
    } else if client.kind == ClientKind::Public && client.is_pkce_optional {
        "--pkce optional is for clients with a secret: a public client has nothing else that proves its request"
    } else {
        return Ok(());
    };
    Err(Failure::Usage(why.to_owned()))
}

/// Compares what was asked for with the policy: a client that could never have its token is refused now.
fn refuse_impossible(client: &Client, config: &Config) -> Result<(), Failure> {
    let enabled = config.keys.policy.algorithms();
    let chosen = client.alg.into_iter().chain(client.id_token_alg);
    if let Some(alg) = chosen.into_iter().find(|alg| !enabled.contains(alg)) {
        let enabled: Vec<&str> = enabled.iter().map(|alg| alg.name()).collect();
        return Err(Failure::Usage(format!(
            "{alg} is not among keys.algorithms ({}); choose one of these, or enable it first",
            enabled.join(", ")
        )));
    }
    let longest = config.tokens.max_token_ttl;
    match client.token_ttl {
        Some(ttl) if ttl > longest => {
            return Err(Failure::Usage(format!(
                "--token-ttl is {ttl}, but tokens.max_token_ttl is {longest}; choose at most {longest}, or raise that setting"
            )));
        }
        Some(ttl) if ttl < Seconds(1) => {
            return Err(Failure::Usage(format!(
                "--token-ttl is {ttl}, but a token must live at least 1s"
            )));
        }
        _ => {}
    }
    refuse_id_as_audience(client, config)
}

/// A service must not look like a person in its tokens, nor like what people log in with (RFC 9068 section 5). The id of a person is a
/// `UUIDv7` that this server makes; a UUID of another version, such as other systems give to clients, is never one.
fn refuse_id_of_people(id: &ClientId, config: &Config) -> Result<(), Failure> {
    if uuid::Uuid::parse_str(id.as_str()).is_ok_and(|uuid| uuid.get_version_num() == USER_ID_VERSION) {
        return Err(Failure::Usage(format!(
            "'{id}' is a UUID of version 7, which is the id of a user in a token's sub, so the client could be taken for a person; choose a \
             UUID of another version, such as {}, or a name such as billing",
            uuid::Uuid::new_v4()
        )));
    }
    if id.as_str() == config.accounts.client.id {
        return Err(Failure::Usage(format!(
            "'{id}' is what people log in with (accounts.client_id); choose another id, or change that setting"
        )));
    }
    Ok(())
}

/// An access token of type JWT for a client must not look like an ID token for it. The database is asked about other clients when this
/// one is written.
fn refuse_id_as_audience(client: &Client, config: &Config) -> Result<(), Failure> {
    let accounts = &config.accounts.client;
    let is_id = |audience: &&Audience| audience.as_str() == client.id.as_str() || audience.as_str() == accounts.id;
    if client.token_type == TokenType::Jwt
        && let Some(audience) = client.audiences.iter().find(is_id)
    {
        return Err(Failure::Usage(format!(
            "the audience '{audience}' is a client_id, so that a token of type JWT would look like an ID token for that client; \
             choose another audience, or --token-type at+jwt"
        )));
    }
    if accounts.token_type == TokenType::Jwt && client.id.as_str() == accounts.audience {
        return Err(Failure::Usage(format!(
            "'{}' is accounts.audience, whose tokens are of type JWT and would look like ID tokens for this client; choose another id",
            client.id
        )));
    }
    Ok(())
}

fn distinct<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    items.into_iter().fold(Vec::new(), |mut kept, item| {
        if !kept.contains(&item) {
            kept.push(item);
        }
        kept
    })
}

/// A client as programs read it; its secret is not known any more.
fn to_json(client: &Client) -> Value {
    json!({
        "client_id": client.id,
        "kind": client.kind.name(),
        "first_party": matches!(client.party, Party::First { .. }),
        "redirect_uris": client.redirect_uris.iter().map(RedirectUri::as_str).collect::<Vec<_>>(),
        "post_logout_redirect_uris": client.post_logout_redirect_uris.iter().map(RedirectUri::as_str).collect::<Vec<_>>(),
        "pkce": pkce(client),
        "name": client.name.as_ref().map(Name::as_str),
        "id_token_algorithm": client.id_token_alg,
        "scope_claims": client.scope_claims.name(),
        "roles_claim": client.roles_claim.as_ref().map(RolesClaim::to_string),
        "grants": client.grants,
        "scope": client.scope.to_string(),
        "audiences": client.audiences,
        "serves": client.serves,
        "algorithm": client.alg,
        "token_type": client.token_type,
        "token_ttl": client.token_ttl.map(|ttl| ttl.to_string()),
        "created_at": client.created_at.rfc3339(),
        "disabled_at": client.disabled_at.map(UnixTime::rfc3339),
    })
}

const fn pkce(client: &Client) -> &'static str {
    if client.is_pkce_optional {
        "optional"
    } else {
        "required"
    }
}

fn stored_json(stored: &StoredClient) -> Value {
    let mut shown = to_json(&stored.client);
    shown["valid_secrets"] = json!(stored.secrets.iter().count());
    shown
}

fn words<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

fn unknown(id: &ClientId) -> Failure {
    Failure::Refused(format!(
        "no client is called {}; 'keyround clients list' names them all",
        text::quoted(id.as_str())
    ))
}

/// Changes a client; `told` says what is so now, and what was so already.
async fn change_client(
    context: &Context,
    id: &ClientId,
    change: &ClientChange,
    why: &Reason,
    event: Event,
    told: [&str; 2],
) -> Result<(), Failure> {
    let (_, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    let entry = entry(event, id, context.clock.read().wall, &ACTOR, &why.reason);
    let changed = db.change_client(id, change, &entry).await?;
    if !changed && db.client(id).await?.is_none() {
        return Err(unknown(id));
    }
    if context.json {
        output::json(&json!({ "client_id": id, "changed": changed }));
    } else {
        output::line(&format!("client {id} {}", told[usize::from(!changed)]));
    }
    Ok(())
}

async fn rotate_secret(
    context: &Context,
    id: &ClientId,
    ends: EndedSecret,
    secret_file: Option<PathBuf>,
) -> Result<(), Failure> {
    let brought = secret_file.as_deref().map(secret_of).transpose()?;
    if brought.is_none() {
        output::require_reader()?;
    }
    let (_, foundation) = context.foundation().await?;
    let fresh = fresh_secret()?;
    let secret = brought.as_ref().map_or(fresh.as_str(), ClientSecret::as_str);
    let digest = foundation.hash_key.digest(Purpose::ClientSecret, secret);
    let now = context.clock.read().wall;
    let entry = entry(Event::ClientSecretChanged, id, now, &ACTOR, "asked for");
    let db = &foundation.rotator.db;
    if let (Some(secret), Some(stored)) = (&brought, db.client(id).await?) {
        let is_valid = [Some(stored.secrets.current), stored.secrets.previous]
            .into_iter()
            .flatten()
            .any(|digest| {
                foundation
                    .hash_key
                    .matches(Purpose::ClientSecret, secret.as_str(), &digest)
            });
        if is_valid {
            return Err(Failure::Refused(format!(
                "the secret of --secret-file is already valid for client '{id}', and nothing was changed; bring a new one, or leave \
                 --secret-file out and one is made"
            )));
        }
    }
    let change = ClientChange::ChangeSecret { digest, ends };
    if !db.change_client(id, &change, &entry).await? {
        if db.client_keys(id).await?.is_some() {
            return Err(Failure::Refused(format!(
                "client '{id}' proves itself by its keys and has no secret; change them by 'clients set-keys'"
            )));
        }
        db.client(id).await?.ok_or_else(|| unknown(id))?;
        return Err(Failure::Refused(format!(
            "client '{id}' has two valid secrets, and a new one must end one of them: with --end-previous the older one, once the client uses \
             the newest; with --replace-newest the newest, if it was lost"
        )));
    }
    let shown = brought.is_none();
    if context.json {
        let mut told = json!({ "client_id": id });
        if shown {
            told["client_secret"] = json!(secret);
        }
        output::secret_json(&told);
        return Ok(());
    }
    output::line(&format!("client id      {id}"));
    if shown {
        output::secret(&format!("client secret  {secret}"));
        output::line(
            "The secret is shown this once. The one before stays valid until 'clients rotate-secret --end-previous'.",
        );
    } else {
        output::line("client secret  as in the file");
        output::line("The one before stays valid until 'clients rotate-secret --end-previous'.");
    }
    Ok(())
}
