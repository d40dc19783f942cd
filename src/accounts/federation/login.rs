//! One login on its way through a provider: the secrets that bind it to a browser, and the request (RFC 6749 section 4.1.1).

use url::Url;
use zeroize::Zeroizing;

use crate::clock::Seconds;
use crate::crypto::keyed_hash::HashKey;
use crate::crypto::purpose::Purpose;
use crate::crypto::random::{NoRandomness, random_secret};
use crate::jose::jwk::sha256_base64url;

use super::Provider;
use super::metadata::ProviderMetadata;

/// How long somebody may take at the provider.
pub const LOGIN_LIFETIME: Seconds = Seconds(600);

/// The characters of 256 bits in base64url.
const SECRET_LENGTH: usize = 43;

/// What one browser knows of one login. `nonce` and PKCE's verifier follow from both secrets under a key of ours, so that they
/// belong to this browser and are kept nowhere.
pub struct LoginSecrets {
    /// `state`: goes to the provider and comes back by the browser.
    pub state: Zeroizing<String>,
    /// The browser's own, in a cookie that the provider never sees.
    pub browser: Zeroizing<String>,
}

impl LoginSecrets {
    /// The secrets of a new login. A browser that has its own keeps it, for somebody may begin in two tabs.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new(browser: Option<&str>) -> Result<Self, NoRandomness> {
        Ok(Self {
            state: random_secret()?,
            browser: match browser.filter(|text| is_secret(text)) {
                Some(known) => Zeroizing::new(known.to_owned()),
                None => random_secret()?,
            },
        })
    }

    /// The secrets that came back; none when either is missing or was never one of ours.
    #[must_use]
    pub fn returned(state: &str, browser: Option<&str>) -> Option<Self> {
        let browser = browser.filter(|browser| is_secret(browser) && is_secret(state))?;
        Some(Self {
            state: Zeroizing::new(state.to_owned()),
            browser: Zeroizing::new(browser.to_owned()),
        })
    }

    /// What is kept in place of `state`.
    #[must_use]
    pub fn state_digest(&self, key: &HashKey) -> String {
        key.digest(Purpose::FederatedLoginState, &self.state)
    }

    /// What is kept in place of the browser's secret.
    #[must_use]
    pub fn browser_digest(&self, key: &HashKey) -> String {
        key.digest(Purpose::FederatedLoginBrowser, &self.browser)
    }

    /// `nonce` (OpenID Connect Core section 3.1.2.1).
    #[must_use]
    pub fn nonce(&self, key: &HashKey) -> String {
        key.digest(Purpose::FederatedLoginNonce, &self.both())
    }

    /// PKCE's `code_verifier` (RFC 7636 section 4.1), 43 characters.
    #[must_use]
    pub fn code_verifier(&self, key: &HashKey) -> Zeroizing<String> {
        Zeroizing::new(key.digest(Purpose::FederatedLoginCodeVerifier, &self.both()))
    }

    /// Both have one length, so that no two pairs share a text.
    fn both(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}.{}", *self.state, *self.browser))
    }

    /// Where the browser goes to log in.
    #[must_use]
    pub fn authorization_url(
        &self,
        provider: &Provider,
        metadata: &ProviderMetadata,
        redirect_uri: &str,
        key: &HashKey,
    ) -> Url {
        let mut url = metadata.authorization_endpoint.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", provider.client_id.as_str())
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("scope", provider.scope.as_str())
            .append_pair("state", &self.state)
            .append_pair("nonce", &self.nonce(key))
            .append_pair("code_challenge", &code_challenge(&self.code_verifier(key)))
            .append_pair("code_challenge_method", "S256");
        url
    }
}

fn is_secret(text: &str) -> bool {
    text.len() == SECRET_LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// `code_challenge` of method S256 (RFC 7636 section 4.2).
fn code_challenge(verifier: &str) -> String {
    sha256_base64url(verifier.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::accounts::federation::{DEFAULT_SCOPE, metadata::ClientAuthentication};
    use crate::clock::UnixTime;

    #[test]
    fn the_challenge_is_that_of_rfc_7636_appendix_b() {
        assert_eq!(
            code_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }

    #[test]
    fn everything_follows_from_both_secrets_and_the_key() {
        let key = HashKey::generate().unwrap();
        let first = LoginSecrets::new(None).unwrap();
        let other_state = LoginSecrets::new(Some(&first.browser)).unwrap();
        assert_eq!(first.browser, other_state.browser);
        let other_browser = LoginSecrets::returned(&first.state, Some(&other_state.state)).unwrap();
        let derived = |secrets: &LoginSecrets, key: &HashKey| {
            [
                secrets.state_digest(key),
                secrets.browser_digest(key),
                secrets.nonce(key),
                secrets.code_verifier(key).to_string(),
            ]
        };
        let mut seen = BTreeSet::new();
        for secrets in [&first, &other_state, &other_browser] {
            seen.extend(derived(secrets, &key));
        }
        // The first two share the browser's digest, the first and the third that of the state.
        assert_eq!(seen.len(), 3 * 4 - 2);
        let elsewhere: BTreeSet<String> = derived(&first, &HashKey::generate().unwrap()).into();
        assert!(seen.is_disjoint(&elsewhere));
        let returned = LoginSecrets::returned(&first.state, Some(&first.browser)).unwrap();
        assert_eq!(derived(&first, &key), derived(&returned, &key));
    }

    #[test]
    fn what_never_was_a_secret_of_ours_is_none() {
        let good = "a".repeat(43);
        assert!(LoginSecrets::returned(&good, Some(&good)).is_some());
        assert!(LoginSecrets::returned(&good, None).is_none());
        for bad in [
            "",
            "a",
            &"a".repeat(44),
            &"ä".repeat(22),
            &format!("{}.", "a".repeat(42)),
        ] {
            assert!(LoginSecrets::returned(bad, Some(&good)).is_none(), "{bad}");
            assert!(LoginSecrets::returned(&good, Some(bad)).is_none(), "{bad}");
            assert_ne!(*LoginSecrets::new(Some(bad)).unwrap().browser, bad);
        }
    }

    #[test]
    fn the_request_asks_for_a_code_and_keeps_the_endpoints_own_query() {
        let provider = Provider {
            name: "google".parse().unwrap(),
            issuer: "https://id.example".parse().unwrap(),
            client_id: "key round".parse().unwrap(),
            scope: DEFAULT_SCOPE.parse().unwrap(),
            links_verified_emails_since: None,
            directories: None,
            reads_email_verified_text_since: None,
            created_at: UnixTime(0),
            disabled_at: None,
        };
        let metadata = ProviderMetadata {
            authorization_endpoint: "https://id.example/auth?a=b".parse().unwrap(),
            token_endpoint: "https://id.example/token".parse().unwrap(),
            jwks_uri: "https://id.example/jwks".parse().unwrap(),
            userinfo_endpoint: None,
            authentication: ClientAuthentication::Basic,
            names_issuer: false,
            lists_email_verified: None,
        };
        let key = HashKey::generate().unwrap();
        let secrets = LoginSecrets::new(None).unwrap();
        let redirect_uri = "https://keyround.example/auth/federated/google/callback";
        let url = secrets.authorization_url(&provider, &metadata, redirect_uri, &key);
        assert!(
            url.as_str()
                .starts_with("https://id.example/auth?a=b&response_type=code&"),
            "{url}"
        );
        let parameters: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!(parameters["client_id"], "key round");
        assert_eq!(parameters["redirect_uri"], redirect_uri);
        assert_eq!(parameters["scope"], DEFAULT_SCOPE);
        assert_eq!(parameters["state"], *secrets.state);
        assert_eq!(parameters["nonce"], secrets.nonce(&key));
        assert_eq!(
            parameters["code_challenge"],
            code_challenge(&secrets.code_verifier(&key))
        );
        assert_eq!(parameters["code_challenge_method"], "S256");
        // Neither leaves this server before the code is exchanged, and the cookie's never.
        assert!(
            !url.as_str().contains(secrets.code_verifier(&key).as_str()) && !url.as_str().contains(&*secrets.browser)
        );
    }
}
