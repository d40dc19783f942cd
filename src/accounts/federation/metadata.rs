//! What a provider says of itself (OpenID Connect Discovery section 3, RFC 8414 section 2).

use serde_json::{Map, Value};
use url::Url;

use crate::jose::alg::Algorithm;
use crate::jose::strict_json;

use super::{ProviderIssuer, https_url};

/// How we prove ourselves at its token endpoint (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// `client_secret_basic`.
    Basic,
    /// `client_secret_post`.
    Post,
}

/// The part that a login needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderMetadata {
    /// Where people log in.
    pub authorization_endpoint: Url,
    /// Where a code becomes an ID token.
    pub token_endpoint: Url,
    /// Where its keys are.
    pub jwks_uri: Url,
    /// Where it says more of who has logged in.
    pub userinfo_endpoint: Option<Url>,
    /// How we prove ourselves there.
    pub authentication: ClientAuthentication,
    /// Whether every answer names its issuer (RFC 9207 section 3).
    pub names_issuer: bool,
    /// Whether `email_verified` is among the claims that it lists; none if it lists no claims (OpenID Connect Discovery section 3).
    pub lists_email_verified: Option<bool>,
}

/// Why a document is not a provider's metadata. No variant holds a part of it, but for the issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// No JSON object.
    #[error("its metadata must be a JSON object in which every name stands once")]
    NoObject,
    /// Another provider's.
    #[error(
        "its metadata names the issuer {found}, but {configured} was configured; both must be the same, byte for byte{hint}"
    )]
    Issuer {
        /// What was configured.
        configured: ProviderIssuer,
        /// What was found, in quotes and without what cannot be seen.
        found: String,
        /// What to do, if that can be told.
        hint: &'static str,
    },
    /// A place to go to.
    #[error("its metadata must have an https URL without a user and a fragment as {0}")]
    Endpoint(&'static str),
    /// No signature that we verify.
    #[error(
        "it signs ID tokens neither with RS256 nor with ES256, and no other algorithm is verified; choose one of these there"
    )]
    Algorithms,
    /// No way to prove ourselves.
    #[error("its token endpoint must take client_secret_basic or client_secret_post")]
    Authentication,
}

impl ProviderMetadata {
    /// Reads the document that was found at the issuer's discovery URL.
    ///
    /// # Errors
    /// [`MetadataError`] says what is wrong.
    pub fn parse(document: &[u8], issuer: &ProviderIssuer) -> Result<Self, MetadataError> {
        let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
        let mut members = strict_json::object(document).map_err(|_| MetadataError::NoObject)?;
        // What has no value is left out (RFC 8414 section 3.2); some write it as null.
        members.retain(|_, value| !value.is_null());
        let named = members.get("issuer").and_then(Value::as_str);
        if named != Some(issuer.as_str()) {
            return Err(other_issuer(issuer, named));
        }
        let endpoint = |name| {
            let text = members.get(name).and_then(Value::as_str);
            text.and_then(https_url).ok_or(MetadataError::Endpoint(name))
        };
        if !signs_verifiably(&members) {
            return Err(MetadataError::Algorithms);
        }
        Ok(Self {
            authorization_endpoint: endpoint("authorization_endpoint")?,
            token_endpoint: endpoint("token_endpoint")?,
            jwks_uri: endpoint("jwks_uri")?,
            userinfo_endpoint: match members.get("userinfo_endpoint") {
                None => None,
                Some(_) => Some(endpoint("userinfo_endpoint")?),
            },
            authentication: authentication(&members)?,
            names_issuer: members.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
            lists_email_verified: members
                .get("claims_supported")
                .and_then(Value::as_array)
                .map(|claims| claims.iter().any(|claim| claim == "email_verified")),
        })
    }
}

/// The longest issuer of others that is told, in characters.
const LONGEST_TOLD: usize = 300;

fn other_issuer(configured: &ProviderIssuer, named: Option<&str>) -> MetadataError {
    let found = named.map_or_else(
        || "nothing that is a text".to_owned(),
        |named| {
            let start: String = named.chars().take(LONGEST_TOLD).collect();
            // What is not ASCII may look like something else.
            format!("'{}'", start.escape_default())
        },
    );
    // What would pass as an issuer can be copied from the sentence.
    let is_issuer = named.is_some_and(|named| named.len() <= LONGEST_TOLD && named.parse::<ProviderIssuer>().is_ok());
    MetadataError::Issuer {
        configured: configured.clone(),
        found,
        hint: if is_issuer {
            "; if that provider is meant, give what it names as --issuer"
        } else {
            ""
        },
    }
}

/// Whether an algorithm that we verify is among those that it signs ID tokens with. RS256 is when nothing is said, for every provider must
/// have it (OpenID Connect Discovery section 3).
fn signs_verifiably(members: &Map<String, Value>) -> bool {
    match members.get("id_token_signing_alg_values_supported") {
        None => true,
        Some(Value::Array(algorithms)) => algorithms
            .iter()
            .filter_map(Value::as_str)
            .any(|name| name.parse::<Algorithm>().is_ok()),
        Some(_) => false,
    }
}

/// Basic when nothing is said, and when both are.
fn authentication(members: &Map<String, Value>) -> Result<ClientAuthentication, MetadataError> {
    let Some(methods) = members.get("token_endpoint_auth_methods_supported") else {
        return Ok(ClientAuthentication::Basic);
    };
    let methods = methods.as_array().ok_or(MetadataError::Authentication)?;
    let takes = |name: &str| methods.iter().any(|method| method == name);
    if takes("client_secret_basic") {
        Ok(ClientAuthentication::Basic)
    } else if takes("client_secret_post") {
        Ok(ClientAuthentication::Post)
    } else {
        Err(MetadataError::Authentication)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(change: impl FnOnce(&mut Value)) -> Result<ProviderMetadata, MetadataError> {
        let mut document = json!({
            "issuer": "https://id.example/", "authorization_endpoint": "https://id.example/auth?a=b",
            "token_endpoint": "https://api.example/token", "jwks_uri": "https://keys.example/jwks.json",
        });
        change(&mut document);
        ProviderMetadata::parse(
            format!("{document}\n").as_bytes(),
            &"https://id.example/".parse().unwrap(),
        )
    }

    #[test]
    fn what_a_login_needs_is_read() {
        let metadata = read(|_| {}).unwrap();
        assert_eq!(metadata.authorization_endpoint.as_str(), "https://id.example/auth?a=b");
        assert_eq!(metadata.authentication, ClientAuthentication::Basic);
        assert!(!metadata.names_issuer);
        assert_eq!(metadata.userinfo_endpoint, None);
        let userinfo = "https://api.example/userinfo";
        let metadata = read(|document| document["userinfo_endpoint"] = userinfo.into()).unwrap();
        assert_eq!(metadata.userinfo_endpoint.unwrap().as_str(), userinfo);
        for (methods, expected) in [
            (json!(["client_secret_post"]), Ok(ClientAuthentication::Post)),
            (
                json!(["none", "client_secret_post", "client_secret_basic"]),
                Ok(ClientAuthentication::Basic),
            ),
            (json!(["private_key_jwt"]), Err(MetadataError::Authentication)),
            (json!([]), Err(MetadataError::Authentication)),
            (json!("client_secret_basic"), Err(MetadataError::Authentication)),
        ] {
            let read = read(|document| document["token_endpoint_auth_methods_supported"] = methods.clone());
            assert_eq!(read.map(|metadata| metadata.authentication), expected, "{methods}");
        }
        for (claims, lists) in [
            (json!(["sub", "email"]), Some(false)),
            (json!(["sub", "email_verified"]), Some(true)),
            (json!([]), Some(false)),
            (json!("email_verified"), None),
            (json!(null), None),
        ] {
            let read = read(|document| document["claims_supported"] = claims.clone());
            assert_eq!(read.unwrap().lists_email_verified, lists, "{claims}");
        }
        let names = read(|document| document["authorization_response_iss_parameter_supported"] = true.into());
        assert!(names.unwrap().names_issuer);
    }

    #[test]
    fn a_provider_that_signs_with_other_algorithms_alone_is_refused() {
        for (algorithms, is_good) in [
            (json!(["RS256"]), true),
            (json!(["PS256", "ES256", "EdDSA"]), true),
            (json!(["EdDSA"]), false),
            (json!(["HS256", "none"]), false),
            (json!(["PS256", "RS384", "RS512", "ES384", "ES512", "ES256K"]), false),
            (json!(["rs256"]), false),
            (json!([]), false),
            (json!("RS256"), false),
            (json!(7), false),
            // As if it were not there.
            (json!(null), true),
        ] {
            let read = read(|document| document["id_token_signing_alg_values_supported"] = algorithms.clone());
            let expected = if is_good {
                Ok(())
            } else {
                Err(MetadataError::Algorithms)
            };
            assert_eq!(read.map(drop), expected, "{algorithms}");
        }
    }

    #[test]
    fn another_providers_metadata_and_places_without_tls_are_refused() {
        for issuer in [
            "https://id.example",
            "https://ID.example/",
            "https://id.example//",
            "https://other.example/",
        ] {
            let refused = read(|document| document["issuer"] = issuer.into())
                .unwrap_err()
                .to_string();
            let both = format!("names the issuer '{issuer}', but https://id.example/ was configured");
            assert!(refused.contains(&both) && refused.contains("--issuer"), "{refused}");
        }
        for name in [
            "authorization_endpoint",
            "token_endpoint",
            "jwks_uri",
            "userinfo_endpoint",
        ] {
            for value in [
                json!("http://id.example/"),
                json!("/auth"),
                json!("https://user:password@id.example/"),
                json!("https://id.example/#a"),
                json!("javascript:alert(1)"),
                json!(["https://id.example/"]),
            ] {
                let read = read(|document| document[name] = value.clone());
                assert_eq!(read, Err(MetadataError::Endpoint(name)), "{value}");
            }
            let read = read(|document| document[name] = Value::Null);
            if name == "userinfo_endpoint" {
                assert_eq!(read.unwrap().userinfo_endpoint, None);
            } else {
                assert_eq!(read, Err(MetadataError::Endpoint(name)));
            }
        }
        for name in [
            "token_endpoint_auth_methods_supported",
            "authorization_response_iss_parameter_supported",
            "response_modes_supported",
        ] {
            let with_null = read(|document| document[name] = Value::Null);
            assert_eq!(with_null, read(|_| {}), "{name}");
        }
        for (issuer, told) in [
            (Value::Null, "nothing that is a text,"),
            (json!(7), "nothing that is a text,"),
            (json!("https://\u{1b}[2J\u{202e}'"), "'https://\\u{1b}[2J\\u{202e}\\'',"),
        ] {
            let refused = read(|document| document["issuer"] = issuer.clone())
                .unwrap_err()
                .to_string();
            assert!(refused.contains(told) && !refused.contains("--issuer"), "{refused}");
        }
        let long = read(|document| document["issuer"] = "https://a.example/".repeat(10_000).into());
        assert!(long.unwrap_err().to_string().len() < 500);
        let issuer = "https://id.example".parse().unwrap();
        for text in [
            "",
            "[]",
            "<html>",
            r#"{"issuer":"https://id.example","issuer":"https://id.example"}"#,
        ] {
            assert_eq!(
                ProviderMetadata::parse(text.as_bytes(), &issuer),
                Err(MetadataError::NoObject),
                "{text}"
            );
        }
    }
}
