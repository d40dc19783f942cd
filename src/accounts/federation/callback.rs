//! What the browser brings back from the provider (RFC 6749 section 4.1.2, RFC 9207).

use std::borrow::Cow;

use url::form_urlencoded;

use super::ProviderIssuer;
use super::metadata::ProviderMetadata;

/// The parameters of one answer. All of them come by the browser, and prove nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Which login it answers.
    pub state: String,
    /// Who says that it answers.
    pub iss: Option<String>,
    /// What it says.
    pub outcome: Outcome,
}

/// What a provider answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A code to exchange.
    Code(String),
    /// The person, or the provider, said no.
    Denied,
    /// The provider cannot now.
    Unavailable,
    /// Anything else: our request, or our registration there, is not in order.
    Failed,
}

/// Why it is no answer of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// A parameter is missing.
    #[error("{0} is missing in the provider's answer")]
    Missing(&'static str),
    /// A parameter comes more than once (RFC 6749 section 3.1).
    #[error("{0} stands twice in the provider's answer")]
    Twice(&'static str),
    /// The code is none (RFC 6749 appendix A.11).
    #[error("the code in the provider's answer must be 1 to 2048 printable ASCII characters")]
    Code,
}

/// The longest code that is taken, in bytes.
const LONGEST_CODE: usize = 2_048;

impl Callback {
    /// Reads the query of a request; unknown parameters are ignored, and an empty one is none.
    ///
    /// # Errors
    /// [`CallbackError`] says what is wrong.
    pub fn parse(query: &str) -> Result<Self, CallbackError> {
        let one = |name: &'static str| {
            let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(given, _)| given == name);
            match (values.next(), values.next()) {
                (_, Some(_)) => Err(CallbackError::Twice(name)),
                (first, None) => Ok(first.map(|(_, value)| value).filter(|value| !value.is_empty())),
            }
        };
        let state = one("state")?.ok_or(CallbackError::Missing("state"))?;
        let (code, error) = (one("code")?, one("error")?);
        Ok(Self {
            state: state.into_owned(),
            iss: one("iss")?.map(Cow::into_owned),
            outcome: match error.as_deref() {
                Some("access_denied") => Outcome::Denied,
                Some("temporarily_unavailable" | "server_error") => Outcome::Unavailable,
                Some(_) => Outcome::Failed,
                None => Outcome::Code(printable(code.ok_or(CallbackError::Missing("code"))?)?),
            },
        })
    }

    /// Whether the answer may be this provider's: the issuer that it names, and that it names one if the provider always does
    /// (RFC 9207 section 2.4).
    #[must_use]
    pub fn is_from(&self, issuer: &ProviderIssuer, metadata: &ProviderMetadata) -> bool {
        match &self.iss {
            Some(iss) => issuer.may_be(iss),
            None => !metadata.names_issuer,
        }
    }
}

fn printable(code: Cow<'_, str>) -> Result<String, CallbackError> {
    let fits = code.len() <= LONGEST_CODE && code.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    fits.then(|| code.into_owned()).ok_or(CallbackError::Code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::federation::metadata::ClientAuthentication;

    fn metadata(names_issuer: bool) -> ProviderMetadata {
        ProviderMetadata {
            authorization_endpoint: "https://id.example/auth".parse().unwrap(),
            token_endpoint: "https://id.example/token".parse().unwrap(),
            jwks_uri: "https://id.example/jwks".parse().unwrap(),
            userinfo_endpoint: None,
            authentication: ClientAuthentication::Basic,
            names_issuer,
            lists_email_verified: None,
        }
    }

    #[test]
    fn a_code_or_a_reason_is_read() {
        let code = || Ok(Outcome::Code("c".to_owned()));
        for (query, outcome) in [
            ("state=s&code=c&scope=openid&authuser=0", code()),
            ("state=s&error=access_denied&error_description=x", Ok(Outcome::Denied)),
            ("state=s&error=server_error", Ok(Outcome::Unavailable)),
            ("state=s&error=invalid_scope&code=c", Ok(Outcome::Failed)),
            ("state=s&iss=&error=&code=c", code()),
            ("", Err(CallbackError::Missing("state"))),
            ("state=s", Err(CallbackError::Missing("code"))),
            ("state=s&code=", Err(CallbackError::Missing("code"))),
            ("code=c", Err(CallbackError::Missing("state"))),
            ("state=&code=c", Err(CallbackError::Missing("state"))),
            ("state=s&state=s&code=c", Err(CallbackError::Twice("state"))),
            ("state=s&code=c&code=c", Err(CallbackError::Twice("code"))),
            ("state=s&code=c&iss=a&iss=a", Err(CallbackError::Twice("iss"))),
            ("state=s&code=%0a", Err(CallbackError::Code)),
            ("state=s&code=%c3%a4", Err(CallbackError::Code)),
            (&format!("state=s&code={}", "c".repeat(2_049)), Err(CallbackError::Code)),
        ] {
            assert_eq!(
                Callback::parse(query).map(|callback| callback.outcome),
                outcome,
                "{query}"
            );
        }
    }

    #[test]
    fn an_answer_of_another_issuer_is_not_this_providers() {
        let issuer: ProviderIssuer = "https://id.example".parse().unwrap();
        for (iss, names_issuer, is_from) in [
            ("&iss=https%3A%2F%2Fid.example", true, true),
            ("&iss=https%3A%2F%2Fid.example", false, true),
            ("&iss=https%3A%2F%2Fother.example", true, false),
            ("&iss=https%3A%2F%2Fother.example", false, false),
            ("&iss=https%3A%2F%2Fid.example%2F", false, false),
            ("", false, true),
            ("", true, false),
        ] {
            let callback = Callback::parse(&format!("state=s&code=c{iss}")).unwrap();
            assert_eq!(
                callback.is_from(&issuer, &metadata(names_issuer)),
                is_from,
                "{iss} {names_issuer}"
            );
        }
    }
}
