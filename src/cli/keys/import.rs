//! `keys import` and `keys export`: keys move in with both halves or one, and move out with their public half alone.

use std::fs::Metadata;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::accounts::visible::has_blank;
use crate::clock::UnixTime;
use crate::jose::import::{self, Imported, LONGEST_FILE, Passphrase};
use crate::jose::jwk::{Kid, PublicJwk};
use crate::keys::emergency::UnknownKey;
use crate::keys::keyset::KeySet;
use crate::rotation::Rotator;
use crate::text;

use super::{Inserted, View, tell_pending_before};
use crate::cli::context::{ACTOR, Context};
use crate::cli::failure::Failure;
use crate::cli::input::{self, cannot_read, cannot_read_secret};
use crate::cli::output;

#[derive(Args)]
pub struct Import {
    /// The key: PEM (PKCS#8, PKCS#1, SEC1, or a public key with --verify-only) or JWK; - for standard input.
    file: PathBuf,
    /// The file whose first line opens an encrypted PEM, or - for standard input; at a terminal you are asked when it is left out.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Never sign with it; publish its public half so that tokens of another issuer stay valid.
    #[arg(long, requires = "until")]
    verify_only: bool,
    /// When the last token that it signed has expired: a time such as 2026-12-31T00:00:00Z, or Unix seconds; it leaves the key set then.
    #[arg(long, value_name = "TIME", requires = "verify_only")]
    until: Option<UnixTime>,
    /// The kid that its tokens carry, where the file does not say it.
    #[arg(long, allow_hyphen_values = true, requires = "verify_only", value_parser = super::kid)]
    kid: Option<Kid>,
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "imported", allow_hyphen_values = true, value_parser = crate::cli::confirm::worded)]
    reason: String,
}

pub async fn run(context: &Context, request: &Import) -> Result<(), Failure> {
    let imported = read(request)?;
    let (_, foundation) = context.foundation().await?;
    match request.until {
        Some(until) => verifying(context, &foundation.rotator, request, imported, until).await,
        None => signing(context, &foundation.rotator, request, imported).await,
    }
}

async fn signing(context: &Context, rotator: &Rotator, request: &Import, imported: Imported) -> Result<(), Failure> {
    let key = imported.private.ok_or_else(|| {
        Failure::Usage(format!(
            "{} holds a public key, which cannot sign; to publish it for another issuer's tokens add --verify-only --until TIME",
            input::shown(&request.file)
        ))
    })?;
    let before = rotator.db.signing_keys().await?.keys();
    let done = rotator.import_signing(&key, &ACTOR, &request.reason).await?;
    let new = &done.generation;
    if context.json {
        output::json(&Inserted::new(Some(done.kid), new, &before));
    } else {
        output::line(&format!(
            "{} key {} (generation {}) is published and activates {}",
            new.alg,
            done.kid,
            new.generation,
            output::time(new.activates_at, new.published_at)
        ));
        tell_pending_before(&before, new);
    }
    Ok(())
}

async fn verifying(
    context: &Context,
    rotator: &Rotator,
    request: &Import,
    imported: Imported,
    until: UnixTime,
) -> Result<(), Failure> {
    if let Some(kid) = &request.kid
        && let Some(mistake) = kid.mistake().or_else(|| {
            has_blank(kid.as_str()).then_some("has a character that cannot be seen, or several blanks in a row")
        })
    {
        return Err(Failure::Usage(format!(
            "--kid '{kid}' {mistake}, as a file or a shell adds it; give the name that stands in the header of the key's tokens, which 'keyround \
             token inspect TOKEN' shows. If it really is so, write it into a JWK"
        )));
    }
    let kid = match (imported.kid, request.kid.clone()) {
        (Some(own), Some(given)) if own != given => {
            return Err(Failure::Usage(format!(
                "the JWK's kid is '{own}', and --kid says '{given}'; leave --kid out, or correct the one that is wrong"
            )));
        }
        (Some(kid), _) | (None, Some(kid)) => kid,
        (None, None) => {
            return Err(Failure::Usage(
                "the file does not say which kid the key's tokens carry; give it with --kid".to_owned(),
            ));
        }
    };
    let jwk = PublicJwk {
        kid,
        alg: imported.alg,
        parameters: imported.parameters,
    };
    let key = rotator.import_verifying(jwk, until, &ACTOR, &request.reason).await?;
    let leaves_at = key.leaves_at(&rotator.policy);
    if context.json {
        output::json(&json!({
            "kid": key.jwk.kid,
            "alg": key.jwk.alg,
            "generation": null,
            "published_at": key.published_at.rfc3339(),
            "until": key.expires_at.rfc3339(),
            "expires_at": leaves_at.rfc3339(),
        }));
    } else {
        output::line(&format!(
            "{} key {} is published to verify with and leaves the key set {}",
            key.jwk.alg,
            key.jwk.kid,
            output::time(leaves_at, key.published_at)
        ));
    }
    Ok(())
}

fn read(request: &Import) -> Result<Imported, Failure> {
    let (text, metadata) =
        read_file(&request.file).map_err(|error| cannot_read("the argument FILE", &request.file, &error))?;
    let passphrase = request.passphrase_file.as_deref().map(read_passphrase).transpose()?;
    let passphrase = match &passphrase {
        Some(text) => Passphrase::Text(text),
        None if std::io::stdin().is_terminal() => Passphrase::AskAtTerminal,
        None => Passphrase::None,
    };
    let imported = import::read(&text, passphrase)
        .map_err(|error| Failure::Refused(format!("{}: {error}", input::shown(&request.file))))?;
    if let Some(file) = &request.passphrase_file
        && !import::is_encrypted(&text)
    {
        // The operator believes that the file is encrypted, and any reader of it has the key.
        return Err(Failure::Usage(format!(
            "{} is not encrypted, so that --passphrase-file {} opens nothing and nothing was imported; leave --passphrase-file out if this is \
             the key, and keep copies of it encrypted ('openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE')",
            input::shown(&request.file),
            input::shown(file)
        )));
    }
    if imported.private.is_some() {
        input::refuse_exposed("the argument FILE", &request.file, &metadata)?;
    }
    Ok(imported)
}

fn read_file(path: &Path) -> std::io::Result<(Zeroizing<Vec<u8>>, Metadata)> {
    let file = input::open(path)?;
    let metadata = file.metadata()?;
    // The buffer never grows, so no copy of the key stays behind.
    let mut text = Zeroizing::new(Vec::with_capacity(2 * LONGEST_FILE));
    file.take(LONGEST_FILE as u64 + 1).read_to_end(&mut text)?;
    Ok((text, metadata))
}

fn read_passphrase(path: &Path) -> Result<Zeroizing<String>, Failure> {
    const FLAG: &str = "--passphrase-file";
    let (text, metadata) = read_file(path).map_err(|error| cannot_read_secret(FLAG, path, &error))?;
    input::refuse_exposed(FLAG, path, &metadata)?;
    let text = text::decode(&text).map_err(|error| cannot_read_secret(FLAG, path, &error))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Zeroizing::new(line.to_owned())),
        _ => Err(Failure::Usage(format!(
            "{} holds no passphrase on its first line",
            input::shown(path)
        ))),
    }
}

/// One public key, or the whole key set, as JWK or as PEM.
pub fn export(context: &Context, view: &View, kid: Option<&Kid>, pem: bool) -> Result<(), Failure> {
    let jwks = match kid {
        Some(kid) => vec![find(view, kid)?],
        None => KeySet::at(&view.keys, &view.policy, view.now).jwks().to_vec(),
    };
    if pem {
        let pems: Vec<(&Kid, String)> = jwks
            .iter()
            .map(|jwk| Ok((&jwk.kid, to_pem(jwk)?)))
            .collect::<Result<_, Failure>>()?;
        if context.json {
            let keys: Vec<Value> = pems
                .iter()
                .map(|(kid, pem)| json!({ "kid": kid, "pem": pem }))
                .collect();
            output::json(&keys);
        } else {
            // Text before a block is no part of it (RFC 7468 section 2). Of one key it is left out, for readers that do not know so.
            for (jwk, (kid, pem)) in jwks.iter().zip(&pems) {
                if jwks.len() > 1 {
                    output::line(&format!("# {} key {kid}", jwk.alg));
                }
                output::line(pem.trim_end());
            }
        }
    } else {
        match (kid, jwks.first()) {
            (Some(_), Some(jwk)) => output::line(&jwk.to_json()),
            _ => output::line(&KeySet::at(&view.keys, &view.policy, view.now).to_json()),
        }
    }
    Ok(())
}

fn find(view: &View, kid: &Kid) -> Result<PublicJwk, Failure> {
    let signing = view.keys.find(kid).and_then(|key| key.jwk.clone());
    let jwk = signing.or_else(|| view.keys.find_verifying(kid).map(|key| key.jwk.clone()));
    Ok(jwk.ok_or_else(|| UnknownKey(kid.clone()))?)
}

fn to_pem(jwk: &PublicJwk) -> Result<String, Failure> {
    import::public_pem(&jwk.parameters).map_err(|error| Failure::Refused(format!("key {}: {error}", jwk.kid)))
}
