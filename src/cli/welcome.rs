//! What a development start prints: commands to try, which work in another terminal in the same folder.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use crate::app::Foundation;
use crate::clock::{Clock, UnixTime};
use crate::config::{Config, Sources, settings};
use crate::jose::jwt::TokenType;
use crate::oauth::claims::ScopeClaims;
use crate::oauth::client::{Client, ClientId, ClientKind, Grant, Party};

use super::context::Context;
use super::failure::Failure;
use super::{actor, clients, output};

/// The client that a first development start makes.
const DEMO_CLIENT: &str = "demo";

/// What there is to try things with.
pub enum Welcome {
    /// The demo client was made now, with this secret.
    Made(Zeroizing<String>),
    /// It was made by an earlier start, which showed its secret.
    Known,
    /// There are other clients, and no demo client that may act.
    Others,
}

impl Welcome {
    /// Registers the demo client where no client is registered.
    pub async fn prepare(foundation: &Foundation, clock: &Clock) -> Result<Self, Failure> {
        let db = &foundation.rotator.db;
        if let Some(first) = db.clients(None, 1).await?.first() {
            let demo: ClientId = demo_id()?;
            let stored = if first.client.id == demo {
                Some(first.clone())
            } else {
                db.client(&demo).await?
            };
            let can_act = stored.is_some_and(|stored| stored.client.disabled_at.is_none());
            return Ok(if can_act { Self::Known } else { Self::Others });
        }
        if output::require_reader().is_err() {
            // Its secret would be lost. A later start makes it.
            return Ok(Self::Others);
        }
        let client = demo_client(clock.read().wall)?;
        let actor = actor::of("development start");
        let secret = clients::register(foundation, &client, &actor, "a client to try things with").await?;
        Ok(secret.map_or(Self::Known, Self::Made))
    }

    /// The text for the screen.
    pub fn text(&self, config: &Config, context: &Context) -> String {
        let issuer = config.server.issuer.as_str();
        let program = program();
        let ours = format!("{program}{}", given(&context.sources));
        let mut text = format!("\nKeyround serves on {issuer}. ");
        let secret = match self {
            Self::Made(secret) => {
                let _ = writeln!(
                    text,
                    "A demo client was made; its secret is shown this once:\n\n  client id      {DEMO_CLIENT}\n  client secret  {}\n",
                    secret.as_str()
                );
                secret.as_str()
            }
            Self::Known => {
                let _ = writeln!(
                    text,
                    "The secret of the client '{DEMO_CLIENT}' was shown when it was made, and cannot be shown again. Make a new one, and \
                     write it in place of SECRET:\n\n  {ours} clients rotate-secret {DEMO_CLIENT}\n"
                );
                "SECRET"
            }
            Self::Others => {
                let _ = writeln!(
                    text,
                    "Clients are registered; list them, and make a new secret for one:\n\n  {ours} clients list\n\n  {ours} clients \
                     rotate-secret CLIENT\n\nThen write both below:\n"
                );
                "SECRET"
            }
        };
        let id = if matches!(self, Self::Others) {
            "CLIENT"
        } else {
            DEMO_CLIENT
        };
        let _ = writeln!(
            text,
            r"Paste these into another terminal in the same folder:

  curl -s -u '{id}:{secret}' -d grant_type=client_credentials {issuer}/oauth2/token | tee token.json

  curl -s {issuer}/.well-known/jwks.json | tee jwks.json

  {program} token verify --key-set jwks.json token.json
"
        );
        text
    }
}

fn program() -> String {
    let program = std::env::args().next().unwrap_or_else(|| "keyround".to_owned());
    quoted(&program)
}

/// The flags with which another process finds the same database and master key. A secret is not repeated: it must be in that terminal's
/// environment too.
fn given(sources: &Sources) -> String {
    let mut flags = " --dev".to_owned();
    if let Some(file) = &sources.file {
        let _ = write!(flags, " --config {}", quoted(&file.display().to_string()));
    }
    let from_environment = settings::SETTINGS.iter().filter_map(|setting| {
        let value = sources.environment.get(&setting.variable())?;
        (!setting.secret).then(|| (setting.name(), value.clone()))
    });
    let from_flags = sources.flags.iter().map(|(name, value)| (name.clone(), value.clone()));
    // The last one counts, as flags go before the environment.
    for (name, value) in from_environment.chain(from_flags) {
        let _ = write!(flags, " --set {}", quoted(&format!("{name}={value}")));
    }
    flags
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._/=:,@+".contains(&octet);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn demo_id() -> Result<ClientId, Failure> {
    DEMO_CLIENT.parse().map_err(|_| invalid("id"))
}

fn invalid(what: &str) -> Failure {
    Failure::Refused(format!("the demo client's {what} is invalid"))
}

fn demo_client(now: UnixTime) -> Result<Client, Failure> {
    Ok(Client {
        id: demo_id()?,
        kind: ClientKind::Confidential(None),
        party: Party::Third,
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
        name: None,
        id_token_alg: None,
        scope_claims: ScopeClaims::Userinfo,
        roles_claim: None,
        is_pkce_optional: false,
        grants: vec![Grant::ClientCredentials],
        scope: "read write".parse().map_err(|_| invalid("scope"))?,
        audiences: vec!["https://api.example.com".parse().map_err(|_| invalid("audience"))?],
        serves: Vec::new(),
        alg: None,
        token_type: TokenType::AtJwt,
        token_ttl: None,
        created_at: now,
        disabled_at: None,
    })
}
