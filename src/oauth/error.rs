//! Refusals of the OAuth endpoints (RFC 6749 section 5.2, RFC 8707 section 2).

use serde::Serialize;

/// The registered names of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed.
    InvalidRequest,
    /// The client is unknown, disabled, or did not prove itself.
    InvalidClient,
    /// The refresh token gets nothing.
    InvalidGrant,
    /// The client may not use this grant.
    UnauthorizedClient,
    /// No such grant here.
    UnsupportedGrantType,
    /// The scope is malformed, or wider than the client's.
    InvalidScope,
    /// The resource is malformed, unknown, or not the client's.
    InvalidTarget,
    /// Something is wrong here, and not with the request.
    TemporarilyUnavailable,
    /// The person refused (RFC 6749 section 4.1.2.1).
    AccessDenied,
    /// No such response type here.
    UnsupportedResponseType,
    /// A page for a login would be needed (OpenID Connect Core 1.0 section 3.1.2.6).
    LoginRequired,
    /// A page for consent would be needed.
    ConsentRequired,
    /// The person logged in otherwise than the client insists on (OpenID Connect Core Error Code `unmet_authentication_requirements` 1.0).
    UnmetAuthenticationRequirements,
    /// No request objects here.
    RequestNotSupported,
    /// No request objects by reference here.
    RequestUriNotSupported,
    /// No registration along with a request here.
    RegistrationNotSupported,
}

impl ErrorCode {
    /// The value of `error`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
            Self::AccessDenied => "access_denied",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::LoginRequired => "login_required",
            Self::ConsentRequired => "consent_required",
            Self::UnmetAuthenticationRequirements => "unmet_authentication_requirements",
            Self::RequestNotSupported => "request_not_supported",
            Self::RequestUriNotSupported => "request_uri_not_supported",
            Self::RegistrationNotSupported => "registration_not_supported",
        }
    }
}

/// A refusal: its name, and a sentence for the developer who reads it. The sentence is ours alone and never repeats what
/// was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {description}", code.name())]
pub struct OauthError {
    /// The name.
    pub code: ErrorCode,
    /// What was wrong, and what would be right; printable ASCII without quotes and backslashes.
    pub description: String,
    /// Whether the client tried the Basic scheme, so that the answer must carry a challenge.
    pub challenge: bool,
}

impl OauthError {
    /// A refusal without a challenge.
    #[must_use]
    pub fn new(code: ErrorCode, description: &str) -> Self {
        Self {
            code,
            description: description.to_owned(),
            challenge: false,
        }
    }

    /// The request is malformed.
    #[must_use]
    pub fn invalid_request(description: &str) -> Self {
        Self::new(ErrorCode::InvalidRequest, description)
    }
}
