//! `keyround keys`: look at the signing keys, rotate or revoke them, bring in others.

mod foresight;
mod import;
mod removal;
mod revoke;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use crate::clock::UnixTime;
use crate::files;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::keyring::trusted_time;
use crate::keys::SigningKey;
use crate::keys::emergency::UnknownKey;
use crate::keys::history::{expires_at, retires_at};
use crate::keys::lifecycle::Keys;
use crate::keys::plan::{NewGeneration, continued, next_generation};
use crate::keys::policy::Policy;
use crate::keys::state::State;
use crate::keys::trusted_time::Doubt;
use crate::keys::verifying::VerifyingKey;
use crate::rotation::RotationError;
use crate::store::audit::RevocationTimes;

use super::context::{ACTOR, Context};
use super::failure::Failure;
use super::input::is_standard;
use super::{output, timeline};

#[derive(Subcommand)]
pub enum KeysCommand {
    /// List every key with its state and what comes next for it.
    List,
    /// Show everything about one key.
    Show {
        /// The key.
        #[arg(allow_hyphen_values = true, value_parser = kid)]
        kid: Kid,
    },
    /// Say what will happen when, and the earliest safe moment of each step.
    Plan,
    /// Publish the next key now; it signs as soon as every verifier must know it.
    Rotate {
        /// Only this algorithm; all that are enabled when left out.
        #[arg(long)]
        algorithm: Option<Algorithm>,
        /// Why, for the audit log.
        #[arg(long, value_name = "TEXT", default_value = "asked for", allow_hyphen_values = true, value_parser = super::confirm::worded)]
        reason: String,
        /// Say what would happen, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// The emergency: take a key out of trust; where it signed, a new one signs at once.
    Revoke(revoke::RevokeRequest),
    /// Announce the end of an algorithm that keys.algorithms leaves out; until its last key has left, it can be taken back.
    RemoveAlgorithm(removal::Remove),
    /// Take the removal of an algorithm back, while its last key is published.
    KeepAlgorithm(removal::Keep),
    /// Take in a key from elsewhere: to sign with from its turn on, or only to verify with.
    Import(import::Import),
    /// Print public keys: one, or the whole key set.
    Export {
        /// The key; the key set when left out.
        #[arg(allow_hyphen_values = true, value_parser = kid)]
        kid: Option<Kid>,
        /// As PEM instead of JWK.
        #[arg(long)]
        pem: bool,
    },
    /// Draw every key's life as SVG, with now marked.
    Timeline {
        /// Where to write it; standard output when left out, or -.
        #[arg(value_parser = super::input::written())]
        file: Option<PathBuf>,
    },
}

/// A kid may begin with a hyphen, so clap is told to let hyphens pass; a mistyped flag must still be refused as one.
fn kid(text: &str) -> Result<Kid, String> {
    const THUMBPRINT_LENGTH: usize = 43;
    if text.starts_with("--") && text.len() < THUMBPRINT_LENGTH {
        return Err("there is no such flag, and it is no kid".to_owned());
    }
    text.parse()
        .map_err(|error: crate::jose::jwk::InvalidKid| error.to_string())
}

pub async fn run(context: &Context, command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::List => list(context, &View::read(context).await?),
        KeysCommand::Show { kid } => show(context, &kid).await?,
        KeysCommand::Plan => foresight::print_plan(context, &View::read(context).await?)?,
        KeysCommand::Rotate {
            algorithm,
            dry_run: true,
            ..
        } => foresight::print_dry_run(context, &View::read(context).await?, algorithm)?,
        KeysCommand::Rotate { algorithm, reason, .. } => rotate(context, algorithm, &reason).await?,
        KeysCommand::Revoke(request) => revoke::run(context, &request).await?,
        KeysCommand::RemoveAlgorithm(request) => removal::remove(context, &request).await?,
        KeysCommand::KeepAlgorithm(request) => removal::keep(context, &request).await?,
        KeysCommand::Import(request) => import::run(context, &request).await?,
        KeysCommand::Export { kid, pem } => import::export(context, &View::read(context).await?, kid.as_ref(), pem)?,
        KeysCommand::Timeline { file } => draw(context, &View::read(context).await?, file.as_deref())?,
    }
    Ok(())
}

/// The keys at one moment.
struct View {
    keys: Keys,
    policy: Policy,
    /// The time that keys go by.
    now: UnixTime,
    /// The latest time that it may be.
    latest: UnixTime,
    revocations: RevocationTimes,
    doubt: Option<Doubt>,
}

impl View {
    async fn read(context: &Context) -> Result<Self, Failure> {
        let (config, db) = context.database().await?;
        let policy = config.keys.policy;
        let keys = db.signing_keys().await?.keys();
        let trusted = trusted_time(&db, &policy, &context.clock, None).await?;
        Ok(Self {
            keys,
            policy,
            now: trusted.reached(),
            latest: trusted.latest(),
            revocations: db.revocations().await?,
            doubt: trusted.doubt(),
        })
    }

    /// Says by which time the states are told, if it is not the machine's.
    fn print_doubt(&self) {
        if let Some(doubt) = self.doubt {
            output::line(&format!(
                "\nThe clock is in doubt: {doubt}.\nKeys go by {}, and so do the states and times above; see 'keyround clock check'.",
                self.now.rfc3339()
            ));
        }
    }

    fn revoked_at(&self, kid: &Kid) -> Option<UnixTime> {
        Some(self.revocations.of(kid, self.keys.revoked_at(kid)?))
    }

    fn tell_revocation(&self, kid: &Kid) -> String {
        self.revoked_at(kid)
            .map_or_else(|| "-".to_owned(), |at| output::time(at, self.latest))
    }

    /// What the time of a key in this state is compared with: a revocation is dated by the world, and the rest by the keys.
    const fn clock_of(&self, state: State) -> UnixTime {
        match state {
            State::Revoked => self.latest,
            _ => self.now,
        }
    }

    /// Every key; the rows that only mark the removal of an algorithm are none.
    fn iter(&self) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter().filter(|key| !key.is_keyless())
    }

    fn life(&self, key: &SigningKey) -> KeyLife {
        let retires_at = retires_at(&self.keys, key);
        let expires_at = expires_at(&self.keys, &self.policy, key);
        KeyLife {
            kid: key.kid.clone(),
            alg: key.alg,
            generation: Some(key.generation),
            state: self.keys.state(key, &self.policy, self.now),
            published_at: key.published_at.rfc3339(),
            activates_at: Some(key.activates_at.rfc3339()),
            retires_at: retires_at.map(UnixTime::rfc3339),
            expires_at: expires_at.map(UnixTime::rfc3339),
            revoked_at: self.revoked_at(&key.kid).map(UnixTime::rfc3339),
        }
    }

    fn verifying_life(&self, key: &VerifyingKey) -> KeyLife {
        let leaves_at = key.leaves_at(&self.policy);
        KeyLife {
            kid: key.jwk.kid.clone(),
            alg: key.jwk.alg,
            generation: None,
            state: key.state(&self.policy, self.now),
            published_at: key.published_at.rfc3339(),
            activates_at: None,
            retires_at: None,
            expires_at: key.revoked_at.is_none().then(|| leaves_at.rfc3339()),
            revoked_at: self.revoked_at(&key.jwk.kid).map(UnixTime::rfc3339),
        }
    }
}

/// A key as programs read it.
#[derive(Serialize)]
struct KeyLife {
    kid: Kid,
    alg: Algorithm,
    /// None for a key that only verifies, which has no activation either.
    generation: Option<i64>,
    state: State,
    published_at: String,
    activates_at: Option<String>,
    retires_at: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

fn list(context: &Context, view: &View) {
    if context.json {
        let verifying = view.keys.verifying().iter().map(|key| view.verifying_life(key));
        output::json(
            &view
                .iter()
                .map(|key| view.life(key))
                .chain(verifying)
                .collect::<Vec<_>>(),
        );
        return;
    }
    let verifying = view.keys.verifying().iter().map(|key| verifying_row(view, key));
    let rows: Vec<Vec<String>> = view.iter().map(|key| row(view, key)).chain(verifying).collect();
    if rows.is_empty() {
        output::line(&RotationError::NoKeys.to_string());
    } else {
        output::line(&output::table(&["KID", "ALG", "GEN", "STATE", "SINCE", "NEXT"], &rows));
        for line in removal::remarks(&view.keys, &view.policy, view.now) {
            output::line(&line);
        }
    }
    view.print_doubt();
}

fn row(view: &View, key: &SigningKey) -> Vec<String> {
    let state = view.keys.state(key, &view.policy, view.now);
    let expires_at = view.keys.expires_at(key, &view.policy);
    let superseded_at = view.keys.superseded_at(key);
    let since = match state {
        State::Pending => Some(key.published_at),
        // One that stands in for a key that is gone signs before its time.
        State::Active => Some(if key.activates_at > view.now {
            key.published_at
        } else {
            key.activates_at
        }),
        State::Retired => superseded_at,
        State::Expired => expires_at,
        State::Revoked => view.revoked_at(&key.kid),
    };
    let now = view.clock_of(state);
    let time = |at: UnixTime| output::time(at, now);
    let next = match state {
        State::Pending => format!("activates {}", time(key.activates_at)),
        State::Active => superseded_at
            .or_else(|| planned_end(view, key))
            .map_or_else(String::new, |at| format!("retires {}", time(at))),
        State::Retired => expires_at.map_or_else(String::new, |at| format!("expires {}", time(at))),
        State::Expired | State::Revoked => String::new(),
    };
    vec![
        key.kid.to_string(),
        key.alg.to_string(),
        key.generation.to_string(),
        output::state(state),
        since.map_or_else(String::new, time),
        next,
    ]
}

fn verifying_row(view: &View, key: &VerifyingKey) -> Vec<String> {
    let state = key.state(&view.policy, view.now);
    let leaves_at = key.leaves_at(&view.policy);
    let now = view.clock_of(state);
    let time = |at: UnixTime| output::time(at, now);
    let (since, next) = match state {
        State::Revoked => (view.revoked_at(&key.jwk.kid).unwrap_or(now), String::new()),
        State::Expired => (leaves_at, String::new()),
        _ => (key.published_at, format!("expires {}", time(leaves_at))),
    };
    vec![
        key.jwk.kid.to_string(),
        key.jwk.alg.to_string(),
        "-".to_owned(),
        output::state(state),
        time(since),
        next,
    ]
}

/// When the schedule will supersede a key that has no successor yet.
fn planned_end(view: &View, key: &SigningKey) -> Option<UnixTime> {
    if !continued(&view.keys, &view.policy).contains(&key.alg) {
        return None;
    }
    next_generation(&view.keys, &view.policy, key.alg, view.now).map(|next| next.generation.activates_at)
}

/// A key that only verifies.
fn show_verifying(context: &Context, view: &View, key: &VerifyingKey) {
    let life = view.verifying_life(key);
    let jwk = key.jwk.to_json();
    if context.json {
        let mut shown = serde_json::to_value(&life).unwrap_or_default();
        shown["has_private_half"] = json!(false);
        shown["until"] = json!(key.expires_at.rfc3339());
        shown["jwk"] = serde_json::from_str(&jwk).unwrap_or_default();
        output::json(&shown);
        return;
    }
    let time = |at: UnixTime| output::time(at, view.now);
    let expires_at = key.revoked_at.is_none().then(|| key.leaves_at(&view.policy));
    for (name, value) in [
        ("kid", key.jwk.kid.to_string()),
        ("algorithm", key.jwk.alg.to_string()),
        ("generation", "none: it was imported to verify with".to_owned()),
        ("state", output::state(life.state)),
        ("published", time(key.published_at)),
        ("until", time(key.expires_at)),
        ("expires", expires_at.map_or_else(|| "-".to_owned(), time)),
        ("revoked", view.tell_revocation(&key.jwk.kid)),
        ("public half", output::printable(&jwk)),
    ] {
        output::line(&format!("{name:<15}{value}"));
    }
}

async fn show(context: &Context, kid: &Kid) -> Result<(), Failure> {
    let view = View::read(context).await?;
    if let Some(key) = view.keys.find_verifying(kid) {
        show_verifying(context, &view, key);
        return Ok(());
    }
    let (_, db) = context.database().await?;
    let seen = db.key_use(kid).await?;
    let last_verified_at = seen.map(|seen| UnixTime(seen.last_verified_at));
    let verifications = seen.map_or(0, |seen| seen.verifications);
    let key = view
        .iter()
        .find(|key| key.kid == *kid)
        .ok_or_else(|| UnknownKey(kid.clone()))?;
    let life = view.life(key);
    let jwk = key
        .jwk
        .as_ref()
        .map_or_else(String::new, crate::jose::jwk::PublicJwk::to_json);
    if context.json {
        let mut shown = serde_json::to_value(&life).unwrap_or_default();
        shown["prepublish"] = json!(key.prepublish.to_string());
        shown["max_token_ttl"] = json!(key.max_token_ttl.to_string());
        shown["has_private_half"] = json!(key.has_private_half);
        shown["verifications"] = json!(verifications);
        shown["last_verified_at"] = json!(last_verified_at.map(UnixTime::rfc3339));
        shown["jwk"] = serde_json::from_str(&jwk).unwrap_or_default();
        output::json(&shown);
        return Ok(());
    }
    let time = |at: UnixTime| output::time(at, view.now);
    let or_dash = |at: Option<UnixTime>| at.map_or_else(|| "-".to_owned(), time);
    for (name, value) in [
        ("kid", key.kid.to_string()),
        ("algorithm", key.alg.to_string()),
        ("generation", key.generation.to_string()),
        ("state", output::state(life.state)),
        ("published", time(key.published_at)),
        ("activates", time(key.activates_at)),
        ("retires", or_dash(retires_at(&view.keys, key))),
        ("expires", or_dash(expires_at(&view.keys, &view.policy, key))),
        ("revoked", view.tell_revocation(&key.kid)),
        (
            "private half",
            if key.has_private_half {
                "sealed in the database"
            } else {
                "destroyed"
            }
            .to_owned(),
        ),
        ("prepublish", key.prepublish.to_string()),
        ("max token ttl", key.max_token_ttl.to_string()),
        ("verifications", format!("{verifications} by introspection")),
        ("last verified", or_dash(last_verified_at)),
        ("public half", output::printable(&jwk)),
    ] {
        output::line(format!("{name:<15}{value}").trim_end());
    }
    view.print_doubt();
    Ok(())
}

/// A generation that was inserted, or would be.
#[derive(Serialize)]
struct Inserted {
    kid: Option<Kid>,
    alg: Algorithm,
    generation: i64,
    published_at: String,
    activates_at: String,
    pending_before: Vec<PendingBefore>,
}

/// A key that waits to sign already, before one that is inserted behind it.
#[derive(Serialize)]
struct PendingBefore {
    kid: Kid,
    generation: i64,
    activates_at: String,
}

impl Inserted {
    /// `before` holds the keys as they were.
    fn new(kid: Option<Kid>, new: &NewGeneration, before: &Keys) -> Self {
        let shown = |key: &SigningKey| PendingBefore {
            kid: key.kid.clone(),
            generation: key.generation,
            activates_at: key.activates_at.rfc3339(),
        };
        Self {
            kid,
            alg: new.alg,
            generation: new.generation,
            published_at: new.published_at.rfc3339(),
            activates_at: new.activates_at.rfc3339(),
            pending_before: pending_before(before, new).map(shown).collect(),
        }
    }
}

/// The keys that wait to sign before this one.
fn pending_before<'k>(before: &'k Keys, new: &NewGeneration) -> impl Iterator<Item = &'k SigningKey> + use<'k> {
    let (generation, now) = (new.generation, new.published_at);
    before.line(new.alg).iter().filter(move |key| {
        key.generation < generation && key.revoked_at.is_none() && !key.is_keyless() && key.activates_at > now
    })
}

/// Says that an earlier rotation is under way, as after this command was given twice: the new key does not replace the one that waits.
fn tell_pending_before(before: &Keys, new: &NewGeneration) {
    for key in pending_before(before, new) {
        output::line(&format!(
            "  an earlier rotation goes on: {} key {} (generation {}) is pending too and signs first, from {}",
            key.alg,
            key.kid,
            key.generation,
            output::time(key.activates_at, new.published_at)
        ));
    }
}

/// The algorithms that a rotation is about.
fn chosen(keys: &Keys, policy: &Policy, algorithm: Option<Algorithm>) -> Vec<Algorithm> {
    algorithm.map_or_else(|| continued(keys, policy), |alg| vec![alg])
}

async fn rotate(context: &Context, algorithm: Option<Algorithm>, reason: &str) -> Result<(), Failure> {
    let view = View::read(context).await?;
    let chosen = chosen(&view.keys, &view.policy, algorithm);
    foresight::refuse_any(&view, &chosen)?;
    let (_, foundation) = context.foundation().await?;
    let rotator = &foundation.rotator;
    let mut inserted = Vec::new();
    let mut outcome = Ok(());
    for alg in chosen {
        match rotator.rotate(alg, &ACTOR, reason).await {
            Ok((kid, new)) => {
                if !context.json {
                    output::line(&format!(
                        "{alg} key {kid} (generation {}) is published and activates {}",
                        new.generation,
                        output::time(new.activates_at.max(new.published_at), new.published_at)
                    ));
                    tell_pending_before(&view.keys, &new);
                }
                inserted.push(Inserted::new(Some(kid), &new, &view.keys));
            }
            // What was done already is told all the same.
            Err(error) => {
                outcome = Err(error.into());
                break;
            }
        }
    }
    if context.json && (outcome.is_ok() || !inserted.is_empty()) {
        output::json(&json!({ "dry_run": false, "keys": inserted }));
    }
    outcome
}

fn draw(context: &Context, view: &View, file: Option<&Path>) -> Result<(), Failure> {
    let svg = timeline::draw(&view.keys, &view.policy, view.now);
    match file.filter(|path| !is_standard(path)) {
        Some(path) => {
            files::replace(path, svg.as_bytes(), 0o666).map_err(|error| {
                Failure::Refused(format!(
                    "cannot write {}: {}",
                    path.display(),
                    files::unwritable(path, &error)
                ))
            })?;
            if context.json {
                output::json(&json!({ "file": path }));
            } else {
                output::line(&format!(
                    "wrote the lives of {} keys to {}",
                    view.iter().count() + view.keys.verifying().len(),
                    path.display()
                ));
            }
        }
        None if context.json => output::json(&json!({ "svg": svg })),
        None => output::line(svg.trim_end()),
    }
    Ok(())
}
