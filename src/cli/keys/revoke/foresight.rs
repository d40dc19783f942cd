//! `keys revoke --dry-run`: what a revocation would do now. Nothing is written.

use serde_json::json;

use crate::clock::UnixTime;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;
use crate::keys::emergency::{self, Response, Revocation, accepted_until};
use crate::keys::lifecycle::Keys;
use crate::keys::policy::Policy;

use super::super::View;
use super::Request;
use crate::cli::context::{Context, Failure};
use crate::cli::output;

/// What would happen to the keys of one algorithm.
struct Foreseen {
    alg: Algorithm,
    revoke: Vec<Kid>,
    /// The key that signs afterwards; none when a new one would be made, or none signs.
    signs: Option<Kid>,
    makes_key: bool,
    ends_removal: bool,
}

pub(super) async fn run(context: &Context, request: &Request) -> Result<(), Failure> {
    let view = View::read(context).await?;
    let (policy, now) = (&view.policy, view.now);
    let foreseen = foresee(&view.keys, policy, request, now)?;
    let until = accepted_until(policy, now);
    if context.json {
        let revocations: Vec<_> = foreseen
            .iter()
            .map(|line| {
                json!({
                    "alg": line.alg,
                    "revoked": line.revoke,
                    "already_revoked": line.revoke.is_empty(),
                    "makes_key": line.makes_key,
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
            _ if line.makes_key => format!("a new {alg} key would be made and sign at once"),
            Some(kid) => format!("{alg} key {kid} would sign"),
            None => format!("no {alg} key would sign"),
        });
    }
    if foreseen.iter().any(|line| !line.revoke.is_empty()) {
        output::line(&format!(
            "\nRevoked now, a verifier that cached the key set may still accept a revoked key until {}.\nOne that fetches the set again \
             only when it meets an unknown kid drops the revoked key when it meets the new one.",
            output::time(until, now)
        ));
    }
    output::line("Nothing was changed.");
    Ok(())
}

fn foresee(keys: &Keys, policy: &Policy, request: &Request, now: UnixTime) -> Result<Vec<Foreseen>, Failure> {
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
    Ok(match emergency::revoke(keys, policy, kid, now)? {
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
