//! `keyround token inspect`: in words, step by step, whether the server would accept a token and why not.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use clap::Args;
use serde_json::{Value, json};

use crate::app::client_of_accounts;
use crate::clock::UnixTime;
use crate::jose::jws::SignatureKey;
use crate::jose::jwt::{SessionClaims, TokenType};
use crate::keyring::trusted_time;
use crate::keys::lifecycle::Keys;
use crate::keys::policy::Policy;
use crate::oauth::client::Client;
use crate::oauth::verification::{
    AccessToken, Expected, TrustedKey, VerificationError, VerificationStep, trusted_row, verify,
};
use crate::store::Db;

use crate::cli::context::{Context, read_text};
use crate::cli::failure::Failure;
use crate::cli::output;

#[derive(Args)]
pub struct InspectRequest {
    /// The token, also as the value of its header (Bearer ...), or - to read it from standard input, where no other process sees it.
    token: String,
}

/// One thing that was looked at.
struct TokenFinding {
    step: &'static str,
    /// None when it was not reached.
    fault: Option<Result<(), String>>,
}

pub async fn run(context: &Context, request: &InspectRequest) -> Result<(), Failure> {
    let token = read(&request.token)?;
    let (config, db) = context.database().await?;
    let policy = &config.keys.policy;
    let keys = db.signing_keys().await?.keys();
    let now = trusted_time(&db, policy, &context.clock, None).await?.checked_at();
    let verdict = judge(&token, config.server.issuer.as_str(), &keys, policy, now);
    let mut findings = steps(verdict.as_ref().err());
    if let Ok(token) = &verdict {
        findings.push(denial(&db, token).await?);
        let accounts = client_of_accounts(&config, &db, now).await?;
        findings.push(client(&db, token, &accounts).await?);
        if let Some(claims) = &token.session {
            findings.push(session(&db, claims, now).await?);
        }
    } else {
        findings.extend(["denied", "client"].map(|step| TokenFinding { step, fault: None }));
    }
    let refused = findings.iter().find_map(|finding| match &finding.fault {
        Some(Err(fault)) => Some(format!("the token is refused at the step '{}': {fault}", finding.step)),
        _ => None,
    });
    print(context, &token, &findings, refused.as_deref());
    refused.map_or(Ok(()), |refused| Err(Failure::Refused(refused)))
}

fn read(argument: &str) -> Result<String, Failure> {
    let token =
        |text: &str| super::token_in(text).ok_or_else(|| Failure::Usage("the JSON has no access_token".to_owned()));
    if argument != "-" {
        return token(argument);
    }
    token(&read_text("the argument TOKEN", Path::new(argument))?)
}

fn judge(
    token: &str,
    issuer: &str,
    keys: &Keys,
    policy: &Policy,
    now: UnixTime,
) -> Result<AccessToken, VerificationError> {
    let parsed: Vec<SignatureKey> = keys
        .iter()
        .filter_map(|row| SignatureKey::new(row.jwk.as_ref()?).ok())
        .collect();
    let expected = Expected {
        issuer,
        now,
        clock_skew: policy.windows().clock_skew,
    };
    verify(token, &expected, |kid| {
        let row = trusted_row(keys, policy, now, kid)?;
        let key = parsed
            .iter()
            .find(|key| key.kid() == kid)
            .ok_or(VerificationError::UnknownKey)?;
        Ok(TrustedKey {
            key,
            max_token_ttl: row.max_token_ttl.max(policy.windows().max_token_ttl),
        })
    })
}

fn steps(refused: Option<&VerificationError>) -> Vec<TokenFinding> {
    VerificationStep::ALL
        .into_iter()
        .map(|step| TokenFinding {
            step: step.name(),
            fault: match refused {
                Some(refused) if refused.step() < step => None,
                Some(refused) if refused.step() == step => Some(Err(refused.to_string())),
                _ => Some(Ok(())),
            },
        })
        .collect()
}

async fn denial(db: &Db, token: &AccessToken) -> Result<TokenFinding, Failure> {
    let denied = db
        .denied_tokens()
        .await?
        .into_iter()
        .any(|denied| denied.jti == token.jti);
    let fault = "it was denied by its jti; 'keyround audit' says by whom";
    Ok(TokenFinding {
        step: "denied",
        fault: Some(if denied { Err(fault.to_owned()) } else { Ok(()) }),
    })
}

async fn client(db: &Db, token: &AccessToken, accounts: &Client) -> Result<TokenFinding, Failure> {
    let other_type = |registered: TokenType| {
        let typ = token.token_type;
        Err(format!(
            "its typ is {typ}, but its client is registered for {registered}"
        ))
    };
    if token.session.is_some() && token.client_id == accounts.id.as_str() {
        let fault = if token.token_type == accounts.token_type {
            Ok(())
        } else {
            other_type(accounts.token_type)
        };
        return Ok(TokenFinding {
            step: "client",
            fault: Some(fault),
        });
    }
    let stored = match token.client_id.parse() {
        Ok(id) => db.client(&id).await?,
        Err(_) => None,
    };
    let fault = match stored {
        None => Err("its client does not exist any more".to_owned()),
        Some(stored) if stored.client.disabled_at.is_some() => Err("its client is disabled".to_owned()),
        Some(stored) if stored.client.token_type != token.token_type => other_type(stored.client.token_type),
        Some(_) => Ok(()),
    };
    Ok(TokenFinding {
        step: "client",
        fault: Some(fault),
    })
}

/// The session that a person's token belongs to.
async fn session(db: &Db, claims: &SessionClaims, now: UnixTime) -> Result<TokenFinding, Failure> {
    let family = match claims.grant().parse() {
        Ok(sid) => db.family(sid, now).await?,
        Err(_) => None,
    };
    let fault = match family {
        None => Err("its session is gone: it has expired, or its account was deleted".to_owned()),
        Some((family, _)) => match (family.session.ended, family.tenant_disabled_at) {
            (Some((at, by)), _) => Err(format!("its session was ended at {at} ({})", by.name())),
            (None, Some(at)) => Err(format!("its tenant was disabled at {at}")),
            (None, None) => Ok(()),
        },
    };
    Ok(TokenFinding {
        step: "session",
        fault: Some(fault),
    })
}

/// What a part says, whether or not it is true.
fn said(token: &str, part: usize) -> Option<Value> {
    let octets = BASE64URL.decode(token.split('.').nth(part)?).ok()?;
    serde_json::from_slice(&octets).ok()
}

fn print(context: &Context, token: &str, findings: &[TokenFinding], refused: Option<&str>) {
    let (header, claims) = (said(token, 0), said(token, 1));
    let word = |finding: &TokenFinding| match finding.fault {
        None => "not reached",
        Some(Ok(())) => "ok",
        Some(Err(_)) => "refused",
    };
    if context.json {
        let steps: Vec<Value> = findings
            .iter()
            .map(|finding| json!({ "step": finding.step, "result": word(finding) }))
            .collect();
        let said = json!({ "header": header, "claims": claims });
        output::json(&json!({ "accepted": refused.is_none(), "reason": refused, "steps": steps, "unverified": said }));
        return;
    }
    for (name, part) in [("header", header), ("claims", claims)] {
        let text = part.map_or_else(|| "unreadable".to_owned(), |part| part.to_string());
        output::line(&format!("{name:<11}{}", output::printable(&text)));
    }
    for finding in findings {
        output::line(&format!("{:<11}{}", finding.step, word(finding)));
    }
    if refused.is_none() {
        output::line("the token is accepted");
    }
}
