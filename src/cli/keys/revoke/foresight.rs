//! `keys revoke --dry-run`: what a revocation would do now. Nothing is written.

use serde_json::json;

use crate::app::StartError;
use crate::clock::UnixTime;
use crate::crypto::sealing::MasterKeys;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::keyring::trusted_time;
use crate::keys::emergency::{self, Response, Revocation, accepted_until};
use crate::keys::lifecycle::Keys;
use crate::keys::policy::Policy;
use crate::rotation::sealing::{UnlistedMasterKey, sealing_key};

use super::super::View;
use super::{RevokeRequest, of_no_row};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output;

/// Who would make the key that signs then.
enum Maker {
    /// The command itself.
    Command,
    /// A server, as soon as it has followed: the command could seal no key.
    Server(UnlistedMasterKey),
}

/// What would happen to the keys of one algorithm.
struct Foreseen {
    alg: Algorithm,
    revoke: Vec<Kid>,
    /// The key that signs afterwards; none when a new one would be made, or none signs.
    signs: Option<Kid>,
    makes_key: bool,
    ends_removal: bool,
}

pub(super) async fn run(context: &Context, request: &RevokeRequest) -> Result<(), Failure> {
    let view = View::read(context).await?;
    let (policy, now) = (&view.policy, view.now);
    let foreseen = foresee(&view.keys, policy, request, now)?;
    let maker = maker(context).await?;
    let until = accepted_until(policy, view.latest);
    if context.json {
        let revocations: Vec<_> = foreseen
            .iter()
            .map(|line| {
                json!({
                    "alg": line.alg,
                    "revoked": line.revoke,
                    "already_revoked": line.revoke.is_empty(),
                    "makes_key": line.makes_key,
                    "made_by": line.makes_key.then_some(match maker {
                        Maker::Command => "command",
                        Maker::Server(_) => "server",
                    }),
                    "servers_without_master_key": match &maker {
                        Maker::Server(unlisted) if line.makes_key => Some(&unlisted.nodes),
                        _ => None,
                    },
                    "signs_then": line.signs,
                    "ends_removal": line.ends_removal,
                    "accepted_until": until.rfc3339(),
                })
            })
            .collect();
        output::json(&json!({ "dry_run": true, "revocations": revocations }));
        return Ok(());
    }
    for line in &foreseen {
        let alg = line.alg;
        if line.revoke.is_empty() {
            output::line(&format!("the {alg} key {} is revoked already", request.kid));
        }
        for kid in &line.revoke {
            output::line(&format!("{alg} key {kid} would be revoked"));
        }
        if line.ends_removal {
            output::line(&format!("the removal of {alg} would be called off"));
        }
        output::line(&match &line.signs {
            _ if line.makes_key => match &maker {
                Maker::Command => format!("a new {alg} key would be made and sign at once"),
                Maker::Server(unlisted) => format!(
                    "no {alg} key would sign until a running server has made a new one, within {}: this command would seal none. {unlisted}",
                    policy.windows().replica_refresh * 2
                ),
            },
            Some(kid) => format!("{alg} key {kid} would sign"),
            None => format!("no {alg} key would sign"),
        });
    }
    if foreseen.iter().any(|line| !line.revoke.is_empty()) {
        output::line(&format!(
            "\nRevoked now, a verifier that cached the key set may still accept a revoked key until {}.\nOne that fetches the set again \
             only when it meets an unknown kid drops the revoked key when it meets the new one.",
            output::time(until, view.latest)
        ));
    }
    output::line("Nothing was changed.");
    Ok(())
}

/// Asks what the command itself asks before it seals a key.
async fn maker(context: &Context) -> Result<Maker, Failure> {
    let (config, db) = context.database().await?;
    let master_keys = config.master_key_text()?;
    let master_keys = MasterKeys::parse(&master_keys).map_err(|error| Failure::Start(StartError::MasterKey(error)))?;
    let trusted = trusted_time(&db, &config.keys.policy, &context.clock, None).await?;
    Ok(
        match sealing_key(&db, &config.keys.policy, &master_keys, &trusted).await? {
            Ok(_) => Maker::Command,
            Err(unlisted) => Maker::Server(unlisted),
        },
    )
}

fn foresee(keys: &Keys, policy: &Policy, request: &RevokeRequest, now: UnixTime) -> Result<Vec<Foreseen>, Failure> {
    let first = one(keys, policy, &request.kid, now)?;
    let asked = first.alg;
    let mut foreseen = vec![first];
    if request.all_algorithms {
        let others = keys.algorithms().into_iter().filter(|&alg| alg != asked);
        let active = others.filter_map(|alg| keys.active(alg, now));
        for key in active {
            foreseen.push(one(keys, policy, &key.kid, now)?);
        }
        let signing = keys.active(asked, now).map(|active| active.kid.clone());
        // The key that was asked for may be another one than that which signs.
        if let Some(kid) =
            signing.filter(|kid| !foreseen[0].makes_key && !foreseen[0].revoke.is_empty() && *kid != request.kid)
        {
            foreseen.push(one(keys, policy, &kid, now)?);
        }
    }
    Ok(foreseen)
}

fn one(keys: &Keys, policy: &Policy, kid: &Kid, now: UnixTime) -> Result<Foreseen, Failure> {
    let response = emergency::revoke(keys, policy, kid, now).map_err(|unknown| of_no_row(&unknown))?;
    Ok(match response {
        Response::AlreadyRevoked { signs_now } => Foreseen {
            alg: emergency::find_material(keys, kid).map_or(Algorithm::Rs256, |jwk| jwk.alg),
            revoke: Vec::new(),
            signs: signs_now,
            makes_key: false,
            ends_removal: false,
        },
        Response::Revoke(Revocation {
            alg,
            revoke,
            ends_removal,
            replacement,
            ..
        }) => Foreseen {
            alg,
            signs: keys
                .active(alg, now)
                .map(|active| active.kid.clone())
                .filter(|kid| !revoke.contains(kid)),
            makes_key: replacement.is_some(),
            ends_removal: ends_removal.is_some(),
            revoke,
        },
    })
}
