//! What clients and verifiers need to set themselves up from the issuer alone (RFC 8414; OpenID Connect Discovery 1.0).

use serde::Serialize;

use crate::jose::alg::Algorithm;

use super::client::Grant;
use super::endpoints::{INTROSPECTION_PATH, KEY_SET_PATH, REVOCATION_PATH, TOKEN_PATH};

/// The metadata document; it names what exists, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// Byte for byte the configured issuer, and the `iss` of every token.
    pub issuer: String,
    /// Where the key set is.
    pub jwks_uri: String,
    /// Where tokens are given.
    pub token_endpoint: String,
    /// How clients prove themselves there.
    pub token_endpoint_auth_methods_supported: Vec<&'static str>,
    /// What clients may sign their assertions with (RFC 8414 section 2).
    pub token_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    /// Where a token is looked at (RFC 7662).
    pub introspection_endpoint: String,
    /// How clients prove themselves there.
    pub introspection_endpoint_auth_methods_supported: Vec<&'static str>,
    /// What they may sign their assertions with there.
    pub introspection_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    /// Where a token is given back (RFC 7009).
    pub revocation_endpoint: String,
    /// How clients prove themselves there.
    pub revocation_endpoint_auth_methods_supported: Vec<&'static str>,
    /// What they may sign their assertions with there.
    pub revocation_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    /// The grants.
    pub grant_types_supported: Vec<&'static str>,
    /// The member is required (RFC 8414 section 2), and an empty array is not allowed (section 3.2). There is no authorization endpoint
    /// yet, so nothing is issued there, which `none` says (OAuth 2.0 Multiple Response Type Encoding Practices, section 4).
    pub response_types_supported: Vec<&'static str>,
    /// Required by strict readers of OpenID metadata: one subject, the same for every client.
    pub subject_types_supported: Vec<&'static str>,
    /// Every algorithm that may ever sign, in advance: go-oidc and others take it as their allow-list at their start.
    pub id_token_signing_alg_values_supported: Vec<&'static str>,
}

impl Metadata {
    /// The metadata of this issuer with these algorithms, where people have accounts or not.
    #[must_use]
    pub fn new(issuer: &str, algorithms: &[Algorithm], has_accounts: bool) -> Self {
        // People's own client has no secret.
        let none = has_accounts.then_some("none");
        let refresh = has_accounts.then_some("refresh_token");
        let methods = || vec!["client_secret_basic", "client_secret_post", "private_key_jwt"];
        let assertion_algorithms = || Algorithm::ALL.map(Algorithm::name).to_vec();
        Self {
            issuer: issuer.to_owned(),
            jwks_uri: format!("{issuer}{KEY_SET_PATH}"),
            token_endpoint: format!("{issuer}{TOKEN_PATH}"),
            token_endpoint_auth_methods_supported: methods().into_iter().chain(none).collect(),
            token_endpoint_auth_signing_alg_values_supported: assertion_algorithms(),
            introspection_endpoint: format!("{issuer}{INTROSPECTION_PATH}"),
            introspection_endpoint_auth_methods_supported: methods(),
            introspection_endpoint_auth_signing_alg_values_supported: assertion_algorithms(),
            revocation_endpoint: format!("{issuer}{REVOCATION_PATH}"),
            revocation_endpoint_auth_methods_supported: methods().into_iter().chain(none).collect(),
            revocation_endpoint_auth_signing_alg_values_supported: assertion_algorithms(),
            grant_types_supported: Grant::ALL.map(Grant::name).into_iter().chain(refresh).collect(),
            response_types_supported: vec!["none"],
            subject_types_supported: vec!["public"],
            id_token_signing_alg_values_supported: algorithms.iter().map(|alg| alg.name()).collect(),
        }
    }
}
