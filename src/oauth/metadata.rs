//! What clients and verifiers need to set themselves up from the issuer alone (RFC 8414; OpenID Connect Discovery 1.0).

use serde::Serialize;

use crate::accounts::session::ACR_PASSWORD;
use crate::jose::alg::Algorithm;

use super::authorization::{OFFLINE_ACCESS, OPENID, Prompt, ResponseMode};
use super::client::Grant;
use super::endpoints::{
    AUTHORIZATION_PATH, END_SESSION_PATH, INTROSPECTION_PATH, KEY_SET_PATH, REVOCATION_PATH, TOKEN_PATH, USERINFO_PATH,
};
use super::pkce;

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
    /// The member is required (RFC 8414 section 2), and an empty array is not allowed (section 3.2). Without accounts there is no
    /// authorization endpoint, so nothing is issued there, which `none` says (OAuth 2.0 Multiple Response Type Encoding Practices,
    /// section 4).
    pub response_types_supported: Vec<&'static str>,
    /// Required by strict readers of OpenID metadata: one subject, the same for every client.
    pub subject_types_supported: Vec<&'static str>,
    /// Every algorithm that may ever sign, in advance: go-oidc and others take it as their allow-list at their start.
    pub id_token_signing_alg_values_supported: Vec<&'static str>,
    /// Where people log in; none without accounts.
    #[serde(flatten)]
    pub logins: Option<LoginMetadata>,
}

/// What clients need to log people in (OpenID Connect Discovery 1.0 section 3, RFC 9207 section 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of the document")]
pub struct LoginMetadata {
    /// Where a client sends a person.
    pub authorization_endpoint: String,
    /// What is known of a person.
    pub userinfo_endpoint: String,
    /// Where a client sends a person to log out.
    pub end_session_endpoint: String,
    /// How answers reach a client.
    pub response_modes_supported: Vec<&'static str>,
    /// Every answer names the issuer.
    pub authorization_response_iss_parameter_supported: bool,
    /// PKCE.
    pub code_challenge_methods_supported: Vec<&'static str>,
    /// The scopes that mean something to this server.
    pub scopes_supported: Vec<&'static str>,
    /// What ID tokens and the userinfo endpoint may say.
    pub claims_supported: Vec<&'static str>,
    /// Clients may ask for single claims.
    pub claims_parameter_supported: bool,
    /// How surely a person may have logged in.
    pub acr_values_supported: Vec<&'static str>,
    /// Request objects are refused.
    pub request_parameter_supported: bool,
    /// So are those by reference, which a client would otherwise expect.
    pub request_uri_parameter_supported: bool,
    /// What a client may ask of a person.
    pub prompt_values_supported: Vec<&'static str>,
    /// The languages of the pages.
    pub ui_locales_supported: Vec<&'static str>,
}

impl LoginMetadata {
    /// That of this issuer, with pages in these languages.
    #[must_use]
    pub fn new(issuer: &str, languages: Vec<&'static str>) -> Self {
        Self {
            authorization_endpoint: format!("{issuer}{AUTHORIZATION_PATH}"),
            userinfo_endpoint: format!("{issuer}{USERINFO_PATH}"),
            end_session_endpoint: format!("{issuer}{END_SESSION_PATH}"),
            response_modes_supported: ResponseMode::ALL.map(ResponseMode::name).to_vec(),
            authorization_response_iss_parameter_supported: true,
            code_challenge_methods_supported: vec![pkce::METHOD],
            scopes_supported: vec![OPENID, "profile", "email", OFFLINE_ACCESS],
            claims_supported: vec![
                "iss",
                "sub",
                "aud",
                "exp",
                "iat",
                "auth_time",
                "nonce",
                "acr",
                "amr",
                "azp",
                "sid",
                "at_hash",
                "name",
                "email",
                "email_verified",
            ],
            claims_parameter_supported: true,
            acr_values_supported: vec![ACR_PASSWORD],
            request_parameter_supported: false,
            request_uri_parameter_supported: false,
            prompt_values_supported: Prompt::ALL.map(Prompt::name).to_vec(),
            ui_locales_supported: languages,
        }
    }
}

impl Metadata {
    /// The metadata of this issuer with these algorithms, where people have accounts and log in, or not.
    #[must_use]
    pub fn new(issuer: &str, algorithms: &[Algorithm], logins: Option<LoginMetadata>) -> Self {
        let has_accounts = logins.is_some();
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
            grant_types_supported: Grant::ALL
                .into_iter()
                .filter(|grant| has_accounts || *grant != Grant::AuthorizationCode)
                .map(Grant::name)
                .chain(refresh)
                .collect(),
            response_types_supported: vec![if has_accounts { "code" } else { "none" }],
            subject_types_supported: vec!["public"],
            id_token_signing_alg_values_supported: algorithms.iter().map(|alg| alg.name()).collect(),
            logins,
        }
    }
}
