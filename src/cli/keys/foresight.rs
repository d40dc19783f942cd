//! `keys plan` and `keys rotate --dry-run`: what will happen when, and what could happen at the earliest.
//!
//! Nothing is reckoned here. The generation to come is put beside those that exist, and the core says what follows.

use serde::Serialize;
use serde_json::json;

use crate::clock::UnixTime;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::keys::SigningKey;
use crate::keys::lifecycle::Keys;
use crate::keys::plan::{NewGeneration, continued, destruction_due, has_room, next_generation, rotate_early};
use crate::keys::state::State;
use crate::rotation::{RotationError, refuse_rotation};

use super::{Inserted, View, chosen, tell_pending_before};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output;

/// What happens to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Publish,
    Activate,
    Retire,
    DestroyPrivateHalf,
    Expire,
}

impl What {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Publish => "is made and published",
            Self::Activate => "activates: it signs from then on",
            Self::Retire => "retires: the next key signs",
            Self::DestroyPrivateHalf => "loses its private half",
            Self::Expire => "expires: it leaves the key set",
        }
    }
}

/// Something that will happen.
struct ForeseenEvent {
    at: UnixTime,
    alg: Algorithm,
    /// None for a key that only verifies.
    generation: Option<i64>,
    /// None for a key that is yet to be made.
    kid: Option<Kid>,
    what: What,
}

#[derive(Serialize)]
struct ShownEvent {
    at: String,
    alg: Algorithm,
    generation: Option<i64>,
    kid: Option<Kid>,
    event: What,
}

impl From<&ForeseenEvent> for ShownEvent {
    fn from(event: &ForeseenEvent) -> Self {
        Self {
            at: event.at.rfc3339(),
            alg: event.alg,
            generation: event.generation,
            kid: event.kid.clone(),
            event: event.what,
        }
    }
}

/// The earliest safe moments of an algorithm, if a rotation began now.
#[derive(Serialize)]
struct Earliest {
    alg: Algorithm,
    /// Whether one more key fits into the set now.
    fits_now: bool,
    publish: String,
    activate: String,
    /// About the key that is active now; none where there is none.
    destroy_active_private_half: Option<String>,
    expire_active: Option<String>,
    #[serde(skip)]
    times: [Option<UnixTime>; 3],
}

pub fn print_plan(context: &Context, view: &View) -> Result<(), Failure> {
    if view.keys.is_empty() {
        return Err(RotationError::NoKeys.into());
    }
    let continued = continued(&view.keys, &view.policy);
    let coming: Vec<NewGeneration> = continued.iter().filter_map(|&alg| coming(view, alg)).collect();
    let events = events(view, &coming);
    let earliest: Vec<Earliest> = continued.iter().map(|&alg| earliest(view, alg)).collect();
    if context.json {
        let events: Vec<ShownEvent> = events.iter().map(ShownEvent::from).collect();
        output::json(&json!({ "now": view.now.rfc3339(), "events": events, "earliest": earliest }));
        return Ok(());
    }
    output::line(&table(&events, view.now));
    output::line("\nAt the earliest, if 'keyround keys rotate' were called now:\n");
    let headings = [
        "ALG",
        "NEW KEY SIGNS",
        "OLD PRIVATE HALF GOES",
        "OLD KEY LEAVES THE SET",
    ];
    let rows: Vec<Vec<String>> = earliest
        .iter()
        .map(|earliest| earliest_row(earliest, view.now))
        .collect();
    output::line(&output::table(&headings, &rows));
    for earliest in earliest.iter().filter(|earliest| !earliest.fits_now) {
        output::line(&format!("\n{}.", RotationError::SetFull(earliest.alg)));
    }
    view.print_doubt();
    Ok(())
}

/// Refuses what one of these algorithms would refuse, so that none is rotated without the others.
pub fn refuse_any(view: &View, algorithms: &[Algorithm]) -> Result<(), Failure> {
    for &alg in algorithms {
        refuse_rotation(&view.keys, &view.policy, alg, view.now)?;
        if !has_room(&view.keys, &view.policy, alg, view.now) {
            return Err(RotationError::SetFull(alg).into());
        }
    }
    Ok(())
}

pub fn print_dry_run(context: &Context, view: &View, algorithm: Option<Algorithm>) -> Result<(), Failure> {
    if view.keys.is_empty() {
        return Err(RotationError::NoKeys.into());
    }
    let chosen = chosen(&view.keys, &view.policy, algorithm);
    refuse_any(view, &chosen)?;
    let inserts: Vec<NewGeneration> = chosen
        .iter()
        .map(|&alg| rotate_early(&view.keys, &view.policy, alg, view.now))
        .collect();
    let mut events = events(view, &inserts);
    events.retain(|event| event.generation.is_some() && chosen.contains(&event.alg));
    if context.json {
        let keys: Vec<Inserted> = inserts.iter().map(|new| Inserted::new(None, new, &view.keys)).collect();
        let events: Vec<ShownEvent> = events.iter().map(ShownEvent::from).collect();
        output::json(&json!({ "dry_run": true, "keys": keys, "events": events }));
        return Ok(());
    }
    output::line("Nothing was changed. Without --dry-run this would follow:\n");
    output::line(&table(&events, view.now));
    for new in &inserts {
        tell_pending_before(&view.keys, new);
    }
    Ok(())
}

/// The generation that the schedule inserts next, as it will be inserted.
fn coming(view: &View, alg: Algorithm) -> Option<NewGeneration> {
    let next = next_generation(&view.keys, &view.policy, alg, view.now)?;
    Some(NewGeneration {
        published_at: next.due_at.max(view.now),
        ..next.generation
    })
}

/// What will happen, in the order of time.
fn events(view: &View, coming: &[NewGeneration]) -> Vec<ForeseenEvent> {
    let keys = with(&view.keys, coming);
    let mut events: Vec<ForeseenEvent> = keys
        .iter()
        .filter(|key| key.revoked_at.is_none())
        .flat_map(|key| events_of(view, &keys, key))
        .chain(verifying_events(view))
        .collect();
    events.sort_by_key(|event| (event.at, event.alg, event.generation, event.what));
    events
}

/// The ends of the keys that only verify.
fn verifying_events(view: &View) -> impl Iterator<Item = ForeseenEvent> {
    let published = view.keys.verifying().iter();
    published
        .filter(|key| key.state(&view.policy, view.now).is_published())
        .map(|key| ForeseenEvent {
            at: key.leaves_at(&view.policy),
            alg: key.jwk.alg,
            generation: None,
            kid: Some(key.jwk.kid.clone()),
            what: What::Expire,
        })
}

fn events_of(view: &View, keys: &Keys, key: &SigningKey) -> Vec<ForeseenEvent> {
    let is_known = view.keys.find(&key.kid).is_some();
    if is_known && key.is_keyless() {
        return Vec::new();
    }
    let (policy, now) = (&view.policy, view.now);
    let superseded_at = keys.superseded_at(key);
    let signs = superseded_at.is_none_or(|superseded_at| superseded_at > key.activates_at);
    let upcoming = |at: UnixTime| (at > now).then_some(at);
    // A replacement is back-dated, and signs from its publication on.
    let activation = if is_known {
        let signs_already = view.keys.state(key, policy, now) == State::Active;
        upcoming(key.activates_at).filter(|_| !signs_already)
    } else {
        Some(key.activates_at.max(key.published_at))
    };
    [
        (What::Publish, (!is_known).then_some(key.published_at)),
        (What::Activate, activation.filter(|_| signs)),
        (What::Retire, superseded_at.and_then(upcoming)),
        // One that is late happens as soon as a server runs.
        (
            What::DestroyPrivateHalf,
            destruction_due(keys, policy, key, now).map(|due| due.max(now)),
        ),
        (What::Expire, keys.expires_at(key, policy).and_then(upcoming)),
    ]
    .into_iter()
    .filter_map(|(what, at)| {
        Some(ForeseenEvent {
            at: at?,
            alg: key.alg,
            generation: Some(key.generation),
            kid: is_known.then(|| key.kid.clone()),
            what,
        })
    })
    .collect()
}

/// The keys as they will be once these generations are inserted.
fn with(keys: &Keys, coming: &[NewGeneration]) -> Keys {
    let coming = coming.iter().map(|new| SigningKey {
        kid: unmade(new),
        alg: new.alg,
        generation: new.generation,
        jwk: None,
        published_at: new.published_at,
        activates_at: new.activates_at,
        prepublish: new.prepublish,
        max_token_ttl: new.max_token_ttl,
        revoked_at: None,
        has_private_half: true,
    });
    Keys::new(keys.iter().cloned().chain(coming).collect())
        .with_verifying(keys.verifying().to_vec())
        .with_kept(keys.kept())
}

/// Stands for the name of a key that has none yet; no thumbprint is so short.
#[expect(clippy::expect_used, reason = "letters, digits and hyphens are a kid")]
fn unmade(new: &NewGeneration) -> Kid {
    format!("next-{}-{}", new.alg, new.generation).parse().expect("a kid")
}

fn earliest(view: &View, alg: Algorithm) -> Earliest {
    let new = rotate_early(&view.keys, &view.policy, alg, view.now);
    let signs_from = new.activates_at.max(new.published_at);
    let keys = with(&view.keys, std::slice::from_ref(&new));
    let active = view.keys.active(alg, view.now);
    let destroyed = active.and_then(|active| destruction_due(&keys, &view.policy, active, view.now));
    let expires = active.and_then(|active| keys.expires_at(active, &view.policy));
    Earliest {
        alg,
        fits_now: has_room(&view.keys, &view.policy, alg, view.now),
        publish: view.now.rfc3339(),
        activate: signs_from.rfc3339(),
        destroy_active_private_half: destroyed.map(UnixTime::rfc3339),
        expire_active: expires.map(UnixTime::rfc3339),
        times: [Some(signs_from), destroyed, expires],
    }
}

fn earliest_row(earliest: &Earliest, now: UnixTime) -> Vec<String> {
    let times = earliest
        .times
        .iter()
        .map(|at| at.map_or_else(|| "-".to_owned(), |at| output::time(at, now)));
    std::iter::once(earliest.alg.to_string()).chain(times).collect()
}

fn table(events: &[ForeseenEvent], now: UnixTime) -> String {
    let row = |event: &ForeseenEvent| {
        vec![
            output::time(event.at, now),
            event.alg.to_string(),
            event
                .generation
                .map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            event
                .kid
                .as_ref()
                .map_or_else(|| "(to be made)".to_owned(), Kid::to_string),
            event.what.sentence().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = events.iter().map(row).collect();
    output::table(&["WHEN", "ALG", "GEN", "KID", "WHAT"], &rows)
}
