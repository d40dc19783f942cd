//! `keyround clients update`: other settings for a client that exists.

use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};

use crate::accounts::user::Name;
use crate::clock::{Seconds, UnixTime};
use crate::events::Event;
use crate::jose::alg::Algorithm;
use crate::jose::jwk_set::LeftOut;
use crate::jose::jwt::TokenType;
use crate::oauth::claims::{RolesClaim, ScopeClaims};
use crate::oauth::client::{Audience, Client, ClientId, Consent, Party, RedirectUri};
use crate::oauth::scope::Scope;
use crate::store::StoreError;
use crate::store::clients::ClientUpdate;
use crate::values::parse_duration;

use super::{
    distinct, entry, keys, pkce, refuse_contradictory, refuse_foreign_scope, refuse_impossible, scope_claims, to_json,
    token_type, unknown, words,
};
use crate::cli::confirm::Confirmation;
use crate::cli::context::{ACTOR, Context};
use crate::cli::differences::{self, Difference, differences, reason};
use crate::cli::failure::Failure;
use crate::cli::{list, output, scope};

/// The word for "as the settings say".
const DEFAULT: &str = "default";

/// How often a change that another one preceded is tried.
const TRIES: usize = 5;

/// A value of the client's own, or what the settings say.
#[derive(Clone, Copy)]
enum Choice<T> {
    Default,
    Own(T),
}

impl<T> Choice<T> {
    fn parse<E: ToString>(text: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<Self, String> {
        if text == DEFAULT {
            return Ok(Self::Default);
        }
        parse(text).map(Self::Own).map_err(|error| error.to_string())
    }

    fn into_option(self) -> Option<T> {
        match self {
            Self::Default => None,
            Self::Own(value) => Some(value),
        }
    }
}

#[derive(Args)]
pub struct ClientChanges {
    /// The client.
    #[arg(allow_hyphen_values = true)]
    id: ClientId,
    /// The services it may ask for tokens for, in place of those before; the first is the default.
    #[arg(long = "audience", value_name = "AUDIENCE", num_args = 1.., value_parser = list::audience)]
    audiences: Vec<Audience>,
    /// The services that it is, in place of those before: it may introspect tokens for them.
    #[arg(long, value_name = "AUDIENCE", num_args = 1.., conflicts_with = "no_serves", value_parser = list::audience)]
    serves: Vec<Audience>,
    /// It introspects no tokens any more.
    #[arg(long)]
    no_serves: bool,
    /// The widest scope it may have, such as "read write", in place of the one before; "" for none.
    #[arg(long, value_parser = scope::registered)]
    scope: Option<Scope>,
    #[arg(long, help = "The algorithm of its tokens, or 'default' for tokens.default_algorithm", value_parser = |text: &str| Choice::parse(text, Algorithm::from_str))]
    algorithm: Option<Choice<Algorithm>>,
    /// The `typ` of its tokens: at+jwt (RFC 9068), or JWT for services that accept nothing else.
    #[arg(long, value_name = "TYPE", value_parser = token_type())]
    token_type: Option<TokenType>,
    #[arg(long, value_name = "TTL", help = "How long its tokens live, such as 5m, or 'default' for tokens.access_token_ttl", value_parser = |text: &str| Choice::parse(text, parse_duration))]
    token_ttl: Option<Choice<Seconds>>,
    #[command(flatten)]
    login: LoginChanges,
    #[command(flatten)]
    keys: Option<keys::ClientKeySource>,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// What only matters for people who log in with the client.
#[derive(Args)]
struct LoginChanges {
    /// Where a login may lead back to, in place of those before, byte for byte.
    #[arg(long = "redirect-uri", value_name = "URI", num_args = 1..)]
    redirect_uris: Vec<RedirectUri>,
    /// Where a logout that it begins may lead back to, in place of those before, byte for byte.
    #[arg(long = "post-logout-redirect-uri", value_name = "URI", num_args = 1.., conflicts_with = "no_post_logout_redirect_uri")]
    post_logout_redirect_uris: Vec<RedirectUri>,
    /// A logout that it begins leads nowhere any more.
    #[arg(long)]
    no_post_logout_redirect_uri: bool,
    /// It is your own: people are not asked before it gets what it asks for.
    #[arg(long, conflicts_with = "third_party")]
    first_party: bool,
    /// It is another party's: people are asked once.
    #[arg(long)]
    third_party: bool,
    /// Whether it must send a code challenge (RFC 7636): required, or optional for a client that cannot.
    #[arg(long, value_name = "WHETHER", value_parser = ["required", "optional"])]
    pkce: Option<String>,
    #[arg(long, help = "What people see of it, or 'default' for its id", value_parser = |text: &str| Choice::parse(text, Name::from_str))]
    name: Option<Choice<Name>>,
    #[arg(long, value_name = "ALGORITHM", help = "The algorithm of its ID tokens, or 'default' for that of its access tokens", value_parser = |text: &str| Choice::parse(text, Algorithm::from_str))]
    id_token_algorithm: Option<Choice<Algorithm>>,
    /// Where the claims of the scopes profile and email are: at userinfo, or in the `id_token` too.
    #[arg(long, value_name = "PLACE", value_parser = scope_claims())]
    scope_claims: Option<ScopeClaims>,
    #[arg(long, value_name = "CLAIM", help = "The claim that lists a person's roles, such as groups, or 'default' for none", value_parser = |text: &str| Choice::parse(text, RolesClaim::from_str))]
    roles_claim: Option<Choice<RolesClaim>>,
}

impl LoginChanges {
    const fn is_empty(&self) -> bool {
        self.redirect_uris.is_empty()
            && self.post_logout_redirect_uris.is_empty()
            && !self.no_post_logout_redirect_uri
            && !self.first_party
            && !self.third_party
            && self.pkce.is_none()
            && self.name.is_none()
            && self.id_token_algorithm.is_none()
            && self.scope_claims.is_none()
            && self.roles_claim.is_none()
    }

    fn applied_to(&self, old: Client, now: UnixTime) -> Client {
        let list =
            |new: &[RedirectUri], old: Vec<RedirectUri>| if new.is_empty() { old } else { distinct(new.to_vec()) };
        Client {
            redirect_uris: list(&self.redirect_uris, old.redirect_uris),
            post_logout_redirect_uris: if self.no_post_logout_redirect_uri {
                Vec::new()
            } else {
                list(&self.post_logout_redirect_uris, old.post_logout_redirect_uris)
            },
            party: match old.party {
                _ if self.third_party => Party::Third,
                Party::Third if self.first_party => Party::First {
                    since: now,
                    consent: Consent::None,
                },
                party => party,
            },
            is_pkce_optional: self
                .pkce
                .as_ref()
                .map_or(old.is_pkce_optional, |pkce| pkce == "optional"),
            name: self.name.clone().map_or(old.name, Choice::into_option),
            id_token_alg: self.id_token_algorithm.map_or(old.id_token_alg, Choice::into_option),
            scope_claims: self.scope_claims.unwrap_or(old.scope_claims),
            roles_claim: self.roles_claim.clone().map_or(old.roles_claim, Choice::into_option),
            ..old
        }
    }
}

impl ClientChanges {
    const fn is_empty(&self) -> bool {
        self.audiences.is_empty()
            && self.serves.is_empty()
            && !self.no_serves
            && self.scope.is_none()
            && self.algorithm.is_none()
            && self.token_type.is_none()
            && self.token_ttl.is_none()
            && self.login.is_empty()
            && self.keys.is_none()
    }

    fn applied_to(&self, old: &Client, now: UnixTime) -> Client {
        let list = |new: &[Audience], old: &[Audience]| {
            if new.is_empty() {
                old.to_vec()
            } else {
                distinct(new.to_vec())
            }
        };
        let changed = Client {
            audiences: list(&self.audiences, &old.audiences),
            serves: if self.no_serves {
                Vec::new()
            } else {
                list(&self.serves, &old.serves)
            },
            scope: self.scope.clone().unwrap_or_else(|| old.scope.clone()),
            alg: self.algorithm.map_or(old.alg, Choice::into_option),
            token_type: self.token_type.unwrap_or(old.token_type),
            token_ttl: self.token_ttl.map_or(old.token_ttl, Choice::into_option),
            ..old.clone()
        };
        self.login.applied_to(changed, now)
    }
}

/// What differs: the name of a setting, with its values before and after.
fn differing(old: &Client, new: &Client) -> Vec<Difference> {
    fn or_default<T: ToString>(value: Option<&T>) -> String {
        value.map_or_else(|| DEFAULT.to_owned(), T::to_string)
    }
    let values = |client: &Client| {
        [
            ("audiences", words(&client.audiences)),
            ("serves", words(&client.serves)),
            ("scope", client.scope.to_string()),
            ("algorithm", or_default(client.alg.as_ref())),
            ("token_type", client.token_type.to_string()),
            ("token_ttl", or_default(client.token_ttl.as_ref())),
            ("redirect_uris", words(&client.redirect_uris)),
            ("post_logout_redirect_uris", words(&client.post_logout_redirect_uris)),
            ("first_party", matches!(client.party, Party::First { .. }).to_string()),
            ("pkce", pkce(client).to_owned()),
            ("name", or_default(client.name.as_ref())),
            ("id_token_algorithm", or_default(client.id_token_alg.as_ref())),
            ("scope_claims", client.scope_claims.name().to_owned()),
            ("roles_claim", or_default(client.roles_claim.as_ref())),
        ]
    };
    differences(values(old), values(new))
}

pub async fn run(context: &Context, changes: ClientChanges) -> Result<(), Failure> {
    if changes.is_empty() {
        return Err(Failure::Usage(
            "nothing to change was given; give one or more of --audience, --serves, --no-serves, --scope, --algorithm, --token-type, \
             --token-ttl, --redirect-uri, --post-logout-redirect-uri, --no-post-logout-redirect-uri, --first-party, --third-party, --pkce, \
             --name, --id-token-algorithm, --scope-claims, --roles-claim, --jwks-file and --jwks-uri"
                .to_owned(),
        ));
    }
    let mut changes = changes;
    let read = changes.keys.take().map(keys::ClientKeySource::read).transpose()?;
    let (new_keys, left_out) = read.map_or_else(|| (None, Vec::new()), |(keys, left_out)| (Some(keys), left_out));
    let (config, foundation) = context.foundation().await?;
    let db = &foundation.rotator.db;
    let id = changes.id.clone();
    let mut is_confirmed = false;
    for _ in 0..TRIES {
        let stored = db.client(&id).await?.ok_or_else(|| unknown(&id))?;
        let secrets = stored.secrets.iter().count();
        let old = stored.client;
        let now = context.clock.read().wall;
        let new = changes.applied_to(&old, now);
        // What stays as it was is not judged again: the settings may have changed since.
        let mut differences = differing(&old, &new);
        let differs = |name: &str| differences.iter().any(|difference| difference.name == name);
        let judged = Client {
            alg: new.alg.filter(|_| differs("algorithm")),
            id_token_alg: new.id_token_alg.filter(|_| differs("id_token_algorithm")),
            token_ttl: new.token_ttl.filter(|_| differs("token_ttl")),
            ..new.clone()
        };
        refuse_impossible(&judged, &config)?;
        if differs("scope") || differs("audiences") {
            refuse_foreign_scope(&new, db).await?;
        }
        if !changes.login.is_empty() || differs("scope") {
            refuse_contradictory(&new, &config)?;
        }
        let old_keys = db.client_keys(&id).await?;
        let keys = new_keys.as_ref().filter(|keys| old_keys.as_ref() != Some(*keys));
        let ended = if keys.is_some() { secrets } else { 0 };
        if ended > 0 && !is_confirmed {
            keys::ask_to_end(&changes.confirmation, &id, ended)?;
            is_confirmed = true;
        }
        let mut entries = Vec::new();
        if !differences.is_empty() {
            entries.push(entry(Event::ClientUpdated, &id, now, &ACTOR, &reason(&differences)));
        }
        if let Some(keys) = keys {
            entries.push(entry(Event::ClientKeysChanged, &id, now, &ACTOR, "asked for"));
            let before = old_keys.as_ref().map_or_else(|| "a secret".to_owned(), keys::told);
            differences.push(Difference {
                name: "keys",
                old: before,
                new: keys::told(keys),
            });
        }
        let update = ClientUpdate {
            old: &old,
            new: &new,
            keys,
        };
        if entries.is_empty() || db.update_client(&update, &entries).await? {
            let warning = match keys {
                Some(keys) => keys::unfetched(context, &config, keys).await,
                None => None,
            };
            tell(context, &new, &differences, ended, &left_out, warning.as_deref());
            return Ok(());
        }
        // It was changed meanwhile, or deleted: look again.
    }
    Err(StoreError::Conflict.into())
}

fn tell(
    context: &Context,
    client: &Client,
    differences: &[Difference],
    ended_secrets: usize,
    left_out: &[LeftOut],
    warning: Option<&str>,
) {
    if context.json {
        let mut shown = to_json(client);
        let changes = differences::to_json(differences);
        shown["changed"] = json!(!changes.is_empty());
        shown["changes"] = Value::Object(changes);
        shown["ended_secrets"] = json!(ended_secrets);
        keys::show_left_out(&mut shown, left_out);
        shown["warning"] = json!(warning);
        output::json(&shown);
        return;
    }
    if differences.is_empty() {
        output::line(&format!(
            "client {} has these settings already; nothing was changed",
            client.id
        ));
    } else {
        output::line(&format!("client {} is changed", client.id));
        differences::tell(differences, 26);
    }
    match ended_secrets {
        0 => {}
        1 => output::line("Its secret is refused from now on."),
        _ => output::line("Its secrets are refused from now on."),
    }
    keys::tell_left_out(left_out);
    keys::tell_warning(warning);
}
