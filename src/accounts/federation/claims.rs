//! The claims of an ID token whose signature is good (OpenID Connect Core section 3.1.3.7).

use serde_json::{Map, Value};

use crate::clock::{Seconds, UnixTime, finer_unit};
use crate::jose::numeric_date::whole_seconds;

use super::{DirectoryId, Provider};

/// How far the provider's clock may differ from ours.
pub const LEEWAY: Seconds = Seconds(60);

/// What an ID token must say to be the answer to our question.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedIdToken<'a> {
    /// Who was asked.
    pub provider: &'a Provider,
    /// What binds it to the question.
    pub nonce: &'a str,
    /// When the answer is held against the question.
    pub now: UnixTime,
}

/// Who somebody is at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The directory that the person belongs to, where the provider has several.
    pub directory: Option<DirectoryId>,
    /// Its name there, which is never given to another person of the same issuer (OpenID Connect Core section 5.7).
    pub subject: String,
    /// The e-mail as the provider spells it.
    pub email: Option<String>,
    /// Why it is not known that the provider has seen that the e-mail is this person's; none if it has. Only the JSON value `true` says so,
    /// unless an operator has decided otherwise for this provider.
    pub email_doubt: Option<EmailDoubt>,
    /// The name to show.
    pub name: Option<String>,
}

/// Why no account is opened or linked by an e-mail. No variant holds a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmailDoubt {
    /// There is none.
    #[error(
        "the provider names no e-mail address; it must send the claim email (scope email) in the ID token or at its userinfo endpoint"
    )]
    Missing,
    /// Nothing is said of it.
    #[error(
        "the provider does not say whether the e-mail address is verified; it must send the claim email_verified. Microsoft Entra ID sends \
         none by itself: see 'Microsoft Entra ID' in the documentation"
    )]
    Unsaid,
    /// Said as a text.
    #[error(
        "the provider sends email_verified as the text \"true\", which counts only for a provider with --email-verified-as-text \
         ('keyround providers update')"
    )]
    Text,
    /// Said in Microsoft's way.
    #[error(
        "the provider sends xms_edov in place of email_verified, which counts only for a provider with --email-verified-as-text \
         ('keyround providers update')"
    )]
    DomainOwner,
    /// Denied.
    #[error("the provider says that it has not verified the e-mail address")]
    Unverified,
    /// No address of an account.
    #[error("the provider's e-mail address is not one that an account can have")]
    Address,
    /// Another spelling may be another mailbox.
    #[error(
        "the provider spells the e-mail address in another way than accounts do, so that it may be another mailbox"
    )]
    Spelling,
}

/// Which claim is not as it must be. No variant holds a part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Another issuer's.
    #[error("its iss must be the provider's issuer, byte for byte, with its own tid where that is a template")]
    Issuer,
    /// A directory that may not, or none.
    #[error("its tid must be one of the provider's directories that may log in ('providers create --directory')")]
    Directory,
    /// For somebody else.
    #[error("its aud must be our client id, or a list with it")]
    Audience,
    /// Given to somebody else, or for several recipients of whom each could present it here.
    #[error("its azp must be our client id when it has one, and when its aud has several")]
    AuthorizedParty,
    /// No subject.
    #[error("its sub must be 1 to 255 printable ASCII characters")]
    Subject,
    /// A time that is missing, or no number.
    #[error("its exp and iat must be numbers of seconds, and so must nbf when it has one")]
    Time,
    /// A time in a smaller unit.
    #[error("its exp, iat and nbf must be in seconds, and one of them is in {0}")]
    Unit(&'static str),
    /// Too old.
    #[error("it has expired")]
    Expired,
    /// From the future.
    #[error("its iat or nbf lies in the future")]
    Future,
    /// The answer to another question.
    #[error("its nonce must be that of this login")]
    Nonce,
    /// More about somebody else.
    #[error("the sub at the userinfo endpoint must be that of the ID token")]
    OtherSubject,
    /// No text.
    #[error("its email and its name must be texts when it has them")]
    Text,
}

/// Holds the claims against what was asked for.
///
/// # Errors
/// [`ClaimsError`] names the first claim that is not as it must be.
pub fn identity(claims: &Map<String, Value>, expected: ExpectedIdToken<'_>) -> Result<Identity, ClaimsError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let require = |holds: bool, error: ClaimsError| if holds { Ok(()) } else { Err(error) };
    let provider = expected.provider;
    let client_id = provider.client_id.as_str();
    let directory = directory(claims, provider)?;
    let recipients = recipients(claims.get("aud"));
    require(recipients.contains(&client_id), ClaimsError::Audience)?;
    let is_ours = match claims.get("azp") {
        None => recipients.len() == 1,
        Some(azp) => azp == client_id,
    };
    require(is_ours, ClaimsError::AuthorizedParty)?;
    check_times(claims, expected.now)?;
    require(text("nonce") == Some(expected.nonce), ClaimsError::Nonce)?;
    let subject = text("sub").filter(|sub| (1..=255).contains(&sub.len()));
    let subject = subject.filter(|sub| sub.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    Ok(Identity {
        directory,
        ..person(subject.ok_or(ClaimsError::Subject)?, claims, provider)?
    })
}

/// The directory of the token, once it is found to be from there.
fn directory(claims: &Map<String, Value>, provider: &Provider) -> Result<Option<DirectoryId>, ClaimsError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let iss = text("iss").ok_or(ClaimsError::Issuer)?;
    let Some(directories) = &provider.directories else {
        let is_issuer = iss == provider.issuer.as_str();
        return if is_issuer { Ok(None) } else { Err(ClaimsError::Issuer) };
    };
    let tid = text("tid").ok_or(ClaimsError::Directory)?;
    let directory: DirectoryId = tid.parse().map_err(|_| ClaimsError::Directory)?;
    if iss != provider.issuer.of_directory(tid) {
        return Err(ClaimsError::Issuer);
    }
    if !directories.admit(&directory) {
        return Err(ClaimsError::Directory);
    }
    Ok(Some(directory))
}

impl Identity {
    /// The name that no other person at the provider has: a subject is unique in its issuer alone, and each directory is one.
    #[must_use]
    pub fn unique_subject(&self) -> String {
        match &self.directory {
            None => self.subject.clone(),
            Some(directory) => format!("{directory}/{}", self.subject),
        }
    }

    /// This person as the userinfo endpoint tells (OpenID Connect Core section 5.3.2): many providers put no more than the
    /// subject into an ID token.
    ///
    /// # Errors
    /// [`ClaimsError::OtherSubject`] or [`ClaimsError::Text`].
    pub fn completed(&self, userinfo: &Map<String, Value>, provider: &Provider) -> Result<Self, ClaimsError> {
        if userinfo.get("sub").and_then(Value::as_str) != Some(&self.subject) {
            return Err(ClaimsError::OtherSubject);
        }
        let told = person(&self.subject, userinfo, provider)?;
        Ok(Self {
            directory: self.directory.clone(),
            name: told.name.clone().or_else(|| self.name.clone()),
            ..told
        })
    }
}

fn person(subject: &str, claims: &Map<String, Value>, provider: &Provider) -> Result<Identity, ClaimsError> {
    let email = optional_text(claims, "email")?;
    Ok(Identity {
        directory: None,
        subject: subject.to_owned(),
        email_doubt: match &email {
            None => Some(EmailDoubt::Missing),
            Some(_) => email_doubt(claims, provider.reads_email_verified_text_since.is_some()),
        },
        email,
        name: optional_text(claims, "name")?,
    })
}

/// `is_lenient`: an operator lets the other spellings of "verified" count. What says "not verified" is overridden by nothing.
fn email_doubt(claims: &Map<String, Value>, is_lenient: bool) -> Option<EmailDoubt> {
    match claims.get("email_verified") {
        Some(Value::Bool(true)) => None,
        Some(Value::String(text)) if text == "true" => (!is_lenient).then_some(EmailDoubt::Text),
        None | Some(Value::Null) => match claims.get("xms_edov") {
            Some(owner) if is_domain_owner(owner) => (!is_lenient).then_some(EmailDoubt::DomainOwner),
            None | Some(Value::Null) => Some(EmailDoubt::Unsaid),
            Some(_) => Some(EmailDoubt::Unverified),
        },
        Some(_) => Some(EmailDoubt::Unverified),
    }
}

/// The optional claim of Microsoft Entra ID that the directory owns the domain of the e-mail. It is a boolean, and comes as a number or a
/// text as well.
fn is_domain_owner(claim: &Value) -> bool {
    match claim {
        Value::Bool(owner) => *owner,
        Value::Number(number) => number.as_u64() == Some(1),
        Value::String(text) => text == "1" || text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

/// For whom a token is; nobody where the claim is not as RFC 7519 section 4.1.3 has it.
fn recipients(aud: Option<&Value>) -> Vec<&str> {
    match aud {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => {
            let texts: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
            texts.unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn check_times(claims: &Map<String, Value>, now: UnixTime) -> Result<(), ClaimsError> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => whole_seconds(value)
            .map(|time| Some(UnixTime(time)))
            .ok_or(ClaimsError::Time),
    };
    let (exp, iat, nbf) = (time("exp")?, time("iat")?, time("nbf")?);
    let (exp, iat) = exp.zip(iat).ok_or(ClaimsError::Time)?;
    let mut times = [Some(exp), Some(iat), nbf].into_iter().flatten();
    if let Some((unit, _)) = times.find_map(|UnixTime(time)| finer_unit(time)) {
        return Err(ClaimsError::Unit(unit));
    }
    if now >= exp + LEEWAY {
        return Err(ClaimsError::Expired);
    }
    if iat.max(nbf.unwrap_or(iat)) > now + LEEWAY {
        return Err(ClaimsError::Future);
    }
    Ok(())
}

/// An empty text is none.
fn optional_text(claims: &Map<String, Value>, name: &str) -> Result<Option<String>, ClaimsError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(ClaimsError::Text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn provider() -> Provider {
        Provider {
            name: "acme".parse().unwrap(),
            issuer: "https://id.example".parse().unwrap(),
            directories: None,
            client_id: "keyround".parse().unwrap(),
            scope: crate::accounts::federation::DEFAULT_SCOPE.parse().unwrap(),
            links_verified_emails_since: None,
            reads_email_verified_text_since: None,
            created_at: UnixTime(0),
            disabled_at: None,
        }
    }

    fn judged(change: impl FnOnce(&mut Value)) -> Result<Identity, ClaimsError> {
        judged_for(&provider(), change)
    }

    fn judged_for(provider: &Provider, change: impl FnOnce(&mut Value)) -> Result<Identity, ClaimsError> {
        let mut claims = json!({
            "iss": "https://id.example", "sub": "248289761001", "aud": "keyround", "nonce": "n-0S6", "iat": NOW,
            "exp": NOW + 300, "email": "jane@example.com", "email_verified": true, "name": "Jane Doe",
        });
        change(&mut claims);
        let Value::Object(claims) = claims else { unreachable!() };
        identity(
            &claims,
            ExpectedIdToken {
                provider,
                nonce: "n-0S6",
                now: UnixTime(NOW),
            },
        )
    }

    fn with(name: &str, value: Value) -> Result<Identity, ClaimsError> {
        judged(|claims| claims[name] = value)
    }

    fn without(name: &str) -> Result<Identity, ClaimsError> {
        judged(|claims| drop(claims.as_object_mut().unwrap().remove(name)))
    }

    #[test]
    fn a_good_token_says_who_somebody_is() {
        let identity = judged(|_| {}).unwrap();
        assert_eq!(identity.subject, "248289761001");
        assert_eq!(
            (identity.email.as_deref(), identity.email_doubt),
            (Some("jane@example.com"), None)
        );
        assert_eq!(identity.name.as_deref(), Some("Jane Doe"));
        assert!(with("aud", json!(["keyround"])).is_ok());
        assert!(with("azp", json!("keyround")).is_ok());
        assert_eq!(without("email").unwrap().email, None);
        assert_eq!(with("name", json!("")).unwrap().name, None);
    }

    /// OpenID Connect Core section 3.1.3.7, steps 3 to 5.
    #[test]
    fn a_token_for_several_recipients_was_given_to_us() {
        let of = |aud: &Value, azp: Option<&str>| {
            judged(|claims| {
                claims["aud"] = aud.clone();
                if let Some(azp) = azp {
                    claims["azp"] = azp.into();
                }
            })
            .map(drop)
        };
        let several = json!(["https://api.example.com", "keyround", "project-1"]);
        assert_eq!(of(&several, Some("keyround")), Ok(()));
        assert_eq!(of(&several, Some("project-1")), Err(ClaimsError::AuthorizedParty));
        assert_eq!(of(&several, Some("")), Err(ClaimsError::AuthorizedParty));
        assert_eq!(of(&several, None), Err(ClaimsError::AuthorizedParty));
        let others = json!(["https://api.example.com", "project-1"]);
        assert_eq!(of(&others, Some("keyround")), Err(ClaimsError::Audience));
    }

    #[test]
    fn a_directory_service_has_an_issuer_for_each_directory() {
        const ONE: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
        let service = |directories: &str| Provider {
            issuer: "https://login.example/{tenantid}/v2.0".parse().unwrap(),
            directories: Some(directories.parse().unwrap()),
            ..provider()
        };
        let of = |directories: &str, iss: &str, tid: Value| {
            judged_for(&service(directories), |claims| {
                claims["iss"] = iss.into();
                claims["tid"] = tid;
            })
        };
        let own = format!("https://login.example/{ONE}/v2.0");
        for directories in ["*", ONE, &format!("other {}", ONE.to_uppercase())] {
            let identity = of(directories, &own, ONE.into()).unwrap();
            assert_eq!(identity.subject, "248289761001");
            assert_eq!(identity.unique_subject(), format!("{ONE}/248289761001"));
        }
        assert_eq!(of("other", &own, ONE.into()), Err(ClaimsError::Directory));
        for tid in [json!(null), json!(""), json!([ONE]), json!("a/b"), json!(7)] {
            assert_eq!(of("*", &own, tid.clone()), Err(ClaimsError::Directory), "{tid}");
        }
        for iss in [
            "https://login.example/other/v2.0",
            "https://login.example/{tenantid}/v2.0",
            "https://login.example/common/v2.0",
            "https://login.example/other/v2.0/",
        ] {
            assert_eq!(of("*", iss, ONE.into()), Err(ClaimsError::Issuer), "{iss}");
            assert_eq!(of(ONE, iss, ONE.into()), Err(ClaimsError::Issuer), "{iss}");
        }
        // Elsewhere a tid is a claim as any other.
        assert_eq!(with("tid", ONE.into()).unwrap().unique_subject(), "248289761001");
    }

    #[test]
    fn the_text_true_counts_where_an_operator_has_decided_so() {
        let reading = Provider {
            reads_email_verified_text_since: Some(UnixTime(0)),
            ..provider()
        };
        for (value, expected) in [
            (json!(true), true),
            (json!("true"), true),
            (json!("True"), false),
            (json!("false"), false),
            (json!(""), false),
            (json!("1"), false),
            (json!(1), false),
            (json!(["true"]), false),
        ] {
            let identity = judged_for(&reading, |claims| claims["email_verified"] = value.clone()).unwrap();
            assert_eq!(identity.email_doubt.is_none(), expected, "{value}");
            let userinfo = json!({ "sub": "248289761001", "email": "a@example.com", "email_verified": value });
            let completed = identity.completed(userinfo.as_object().unwrap(), &reading).unwrap();
            assert_eq!(completed.email_doubt.is_none(), expected, "{value}");
        }
    }

    #[test]
    fn only_true_says_that_an_email_is_verified_and_else_the_reason_is_named() {
        for (other, doubt) in [
            (json!(false), EmailDoubt::Unverified),
            (json!("false"), EmailDoubt::Unverified),
            (json!("true"), EmailDoubt::Text),
            (json!(1), EmailDoubt::Unverified),
            (json!(null), EmailDoubt::Unsaid),
            (json!([true]), EmailDoubt::Unverified),
        ] {
            let identity = with("email_verified", other.clone()).unwrap();
            assert_eq!(identity.email_doubt, Some(doubt), "{other}");
        }
        assert_eq!(without("email_verified").unwrap().email_doubt, Some(EmailDoubt::Unsaid));
        assert_eq!(without("email").unwrap().email_doubt, Some(EmailDoubt::Missing));
    }

    /// Microsoft Entra ID: where `email_verified` is absent, `xms_edov` counts if an operator has decided so, and never overrides it.
    #[test]
    fn the_owner_of_a_domain_counts_where_an_operator_has_decided_so() {
        let reading = Provider {
            reads_email_verified_text_since: Some(UnixTime(0)),
            ..provider()
        };
        let of = |provider: &Provider, verified: Option<Value>, owner: &Value| {
            let judged = judged_for(provider, |claims| {
                claims["xms_edov"] = owner.clone();
                match verified {
                    None => drop(claims.as_object_mut().unwrap().remove("email_verified")),
                    Some(verified) => claims["email_verified"] = verified,
                }
            });
            judged.unwrap().email_doubt
        };
        for owner in [json!(true), json!(1), json!("1"), json!("true"), json!("True")] {
            assert_eq!(of(&reading, None, &owner), None, "{owner}");
            assert_eq!(of(&reading, Some(Value::Null), &owner), None, "{owner}");
            assert_eq!(of(&reading, Some(json!(false)), &owner), Some(EmailDoubt::Unverified));
            assert_eq!(of(&reading, Some(json!("false")), &owner), Some(EmailDoubt::Unverified));
            assert_eq!(of(&provider(), None, &owner), Some(EmailDoubt::DomainOwner), "{owner}");
        }
        for owner in [
            json!(false),
            json!(0),
            json!("0"),
            json!(""),
            json!(1.5),
            json!([true]),
            json!("false"),
        ] {
            assert_eq!(of(&reading, None, &owner), Some(EmailDoubt::Unverified), "{owner}");
        }
        assert_eq!(of(&reading, None, &Value::Null), Some(EmailDoubt::Unsaid));
    }

    #[test]
    fn userinfo_completes_the_same_person_alone() {
        let bare = judged(|claims| {
            for name in ["email", "email_verified"] {
                claims.as_object_mut().unwrap().remove(name);
            }
        })
        .unwrap();
        let userinfo = |change: &dyn Fn(&mut Value)| {
            let mut claims = json!({ "sub": "248289761001", "email": "jane@example.com", "email_verified": true });
            change(&mut claims);
            bare.completed(claims.as_object().unwrap(), &provider())
        };
        let whole = userinfo(&|_| {}).unwrap();
        assert_eq!(whole, judged(|_| {}).unwrap());
        let unverified = userinfo(&|claims| claims["email_verified"] = "true".into()).unwrap();
        assert_eq!(unverified.email_doubt, Some(EmailDoubt::Text));
        for other in [json!("248289761002"), json!(248_289_761_001_i64), Value::Null] {
            let told = userinfo(&|claims| claims["sub"] = other.clone());
            assert_eq!(told, Err(ClaimsError::OtherSubject), "{other}");
        }
        assert_eq!(userinfo(&|claims| claims["email"] = 7.into()), Err(ClaimsError::Text));
    }

    #[test]
    fn each_claim_that_is_not_as_it_must_be_is_named() {
        for (name, value, error) in [
            ("iss", json!("https://id.example/"), ClaimsError::Issuer),
            ("iss", json!("https://ID.example"), ClaimsError::Issuer),
            ("iss", json!(["https://id.example"]), ClaimsError::Issuer),
            ("aud", json!("other"), ClaimsError::Audience),
            ("aud", json!("keyroun"), ClaimsError::Audience),
            ("aud", json!([]), ClaimsError::Audience),
            ("aud", json!(["keyround", "other"]), ClaimsError::AuthorizedParty),
            ("aud", json!(["keyround", "keyround"]), ClaimsError::AuthorizedParty),
            ("aud", json!(["keyround", 7]), ClaimsError::Audience),
            ("aud", json!(null), ClaimsError::Audience),
            ("aud", json!(["other"]), ClaimsError::Audience),
            ("aud", json!({ "keyround": 1 }), ClaimsError::Audience),
            ("azp", json!("other"), ClaimsError::AuthorizedParty),
            ("azp", json!(null), ClaimsError::AuthorizedParty),
            ("nonce", json!("n-0S7"), ClaimsError::Nonce),
            ("nonce", json!(["n-0S6"]), ClaimsError::Nonce),
            ("sub", json!(""), ClaimsError::Subject),
            ("sub", json!(7), ClaimsError::Subject),
            ("sub", json!("a\nb"), ClaimsError::Subject),
            ("sub", json!("a".repeat(256)), ClaimsError::Subject),
            ("email", json!(["a@b.c"]), ClaimsError::Text),
            ("name", json!({}), ClaimsError::Text),
        ] {
            assert_eq!(with(name, value.clone()), Err(error), "{name} {value}");
        }
        for (name, error) in [
            ("iss", ClaimsError::Issuer),
            ("aud", ClaimsError::Audience),
            ("nonce", ClaimsError::Nonce),
            ("sub", ClaimsError::Subject),
            ("exp", ClaimsError::Time),
            ("iat", ClaimsError::Time),
        ] {
            assert_eq!(without(name), Err(error), "{name}");
        }
    }

    #[test]
    fn times_are_numbers_and_hold_to_the_second() {
        for name in ["exp", "iat", "nbf"] {
            for value in [
                json!("1800000000"),
                json!(1e300),
                json!(u64::MAX),
                json!(null),
                json!([NOW]),
            ] {
                assert_eq!(with(name, value.clone()), Err(ClaimsError::Time), "{name} {value}");
            }
        }
        for time in [json!(1_800_000_000.5), json!(1.8e9)] {
            assert!(
                judged(|claims| ["exp", "iat", "nbf"]
                    .iter()
                    .for_each(|name| claims[*name] = time.clone()))
                .is_ok()
            );
        }
        for (name, distance, expected) in [
            ("exp", -59, Ok(())),
            ("exp", -60, Err(ClaimsError::Expired)),
            ("iat", 60, Ok(())),
            ("iat", 61, Err(ClaimsError::Future)),
            ("nbf", 60, Ok(())),
            ("nbf", 61, Err(ClaimsError::Future)),
        ] {
            let judged = with(name, json!(NOW + distance)).map(drop);
            assert_eq!(judged, expected, "{name} {distance}");
        }
        for name in ["exp", "iat", "nbf"] {
            for (factor, unit) in [(1_000, "milliseconds"), (1_000_000, "microseconds")] {
                let judged = with(name, json!(NOW * factor)).map(drop);
                assert_eq!(judged, Err(ClaimsError::Unit(unit)), "{name}");
            }
        }
        assert_eq!(with("exp", json!(i64::MIN)), Err(ClaimsError::Expired));
        assert!(with("exp", json!(i64::MAX)).is_ok());
    }
}
