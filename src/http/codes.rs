//! What `code` can be in a refusal below `/auth`, which programs may rely on, and the statuses of all refusals.

use actix_web::http::StatusCode;

use crate::oauth::error::ErrorCode;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the table says what each one means")]
pub enum Code {
    InvalidRequest,
    InvalidEmail,
    InvalidName,
    PasswordRefused,
    TokenMissing,
    TokenExpired,
    TokenInvalid,
    SessionEnded,
    InsufficientScope,
    LoginFailed,
    RefreshMissing,
    RefreshInvalid,
    RefreshExpired,
    RefreshReused,
    AccountSuspended,
    CsrfFailed,
    CrossSite,
    CurrentPasswordWrong,
    RegistrationClosed,
    FederationDenied,
    EmailNotVerified,
    StateInvalid,
    ProviderUnknown,
    PolicyUnknown,
    NotFound,
    MethodNotAllowed,
    BodyTimeout,
    HeadTimeout,
    EmailTaken,
    AccountExists,
    BodyTooLarge,
    AddressTooLong,
    UnsupportedMediaType,
    RateLimited,
    HeadersTooLarge,
    FederationFailed,
    ProviderUnavailable,
    TemporarilyUnavailable,
}

/// A row of the table.
struct CodeRow {
    name: &'static str,
    status: StatusCode,
    title: &'static str,
    remedy: &'static str,
}

const fn row(name: &'static str, status: StatusCode, title: &'static str, remedy: &'static str) -> CodeRow {
    CodeRow {
        name,
        status,
        title,
        remedy,
    }
}

impl Code {
    /// Every code, by status.
    pub const ALL: [Self; 38] = [
        Self::InvalidRequest,
        Self::InvalidEmail,
        Self::InvalidName,
        Self::PasswordRefused,
        Self::StateInvalid,
        Self::TokenMissing,
        Self::TokenExpired,
        Self::TokenInvalid,
        Self::SessionEnded,
        Self::LoginFailed,
        Self::RefreshMissing,
        Self::RefreshInvalid,
        Self::RefreshExpired,
        Self::RefreshReused,
        Self::InsufficientScope,
        Self::AccountSuspended,
        Self::CsrfFailed,
        Self::CrossSite,
        Self::CurrentPasswordWrong,
        Self::RegistrationClosed,
        Self::FederationDenied,
        Self::EmailNotVerified,
        Self::ProviderUnknown,
        Self::PolicyUnknown,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::HeadTimeout,
        Self::EmailTaken,
        Self::AccountExists,
        Self::BodyTooLarge,
        Self::AddressTooLong,
        Self::UnsupportedMediaType,
        Self::RateLimited,
        Self::HeadersTooLarge,
        Self::FederationFailed,
        Self::ProviderUnavailable,
        Self::TemporarilyUnavailable,
    ];

    /// The one table: name, status, what it means, and what to do about it.
    #[rustfmt::skip]
    const fn row(self) -> CodeRow {
        use StatusCode as S;
        match self {
            Self::InvalidRequest => row("invalid_request", S::BAD_REQUEST, "The request is malformed", "fix the request; `detail` says how"),
            Self::InvalidEmail => row("invalid_email", S::BAD_REQUEST, "This is no e-mail address", "let the user correct it"),
            Self::InvalidName => row("invalid_name", S::BAD_REQUEST, "This is no name", "let the user correct it"),
            Self::PasswordRefused => row("password_refused", S::BAD_REQUEST, "The new password does not do", "show `detail`, and let the user choose another"),
            Self::StateInvalid => row("state_invalid", S::BAD_REQUEST, "The login with another provider was begun in another browser, took too long, or was used already", "send the user to `/auth/federated/{provider}` again"),
            Self::TokenMissing => row("token_missing", S::UNAUTHORIZED, "There is no access token", "send `Authorization: Bearer TOKEN`"),
            Self::TokenExpired => row("token_expired", S::UNAUTHORIZED, "The access token has expired", "refresh, then try again"),
            Self::TokenInvalid => row("token_invalid", S::UNAUTHORIZED, "The access token is not valid here", "refresh once; when that does not help, log in again"),
            Self::SessionEnded => row("session_ended", S::UNAUTHORIZED, "The session has ended", "log in again"),
            Self::LoginFailed => row("login_failed", S::UNAUTHORIZED, "The e-mail address or the password is wrong", "let the user try again; a suspended account looks the same"),
            Self::RefreshMissing => row("refresh_missing", S::UNAUTHORIZED, "There is no refresh token", "log in"),
            Self::RefreshInvalid => row("refresh_invalid", S::UNAUTHORIZED, "The refresh token is not one of ours", "log in again"),
            Self::RefreshExpired => row("refresh_expired", S::UNAUTHORIZED, "The session is over: too old, or too long unused", "log in again"),
            Self::RefreshReused => row("refresh_reused", S::UNAUTHORIZED, "A refresh token of this session was used twice, so the session was ended", "log in again, and look for a program that keeps old tokens, or a thief"),
            Self::InsufficientScope => row("insufficient_scope", S::FORBIDDEN, "The access token does not allow this", "ask for another token, or do without"),
            Self::AccountSuspended => row("account_suspended", S::FORBIDDEN, "The account or its tenant was suspended, and its sessions were ended", "tell the user whom to ask; a login fails with `login_failed` as long as it lasts"),
            Self::CsrfFailed => row("csrf_failed", S::FORBIDDEN, "The CSRF token is missing or does not fit", "ask `GET /auth/csrf` again, then try once more"),
            Self::CrossSite => row("cross_site", S::FORBIDDEN, "Pages of this origin may not do this", "list the page's origin in `accounts.allowed_origins`, and serve it from the same site"),
            Self::CurrentPasswordWrong => row("current_password_wrong", S::FORBIDDEN, "The current password is wrong", "let the user try again; the access token is valid"),
            Self::RegistrationClosed => row("registration_closed", S::FORBIDDEN, "Nobody can register here", "ask the operator for an account"),
            Self::FederationDenied => row("federation_denied", S::FORBIDDEN, "The other provider did not let the user in, or the user cancelled there", "let the user begin again"),
            Self::EmailNotVerified => row("email_not_verified", S::FORBIDDEN, "The other provider names no e-mail address that it has verified and that an account can have", "show `detail` to the user, who can verify or change the address there and begin again; when it stays so, the server's log tells the operator why"),
            Self::ProviderUnknown => row("provider_unknown", S::NOT_FOUND, "No provider of this name is enabled", "use a name that `keyround providers list` shows"),
            Self::PolicyUnknown => row("policy_unknown", S::NOT_FOUND, "A gateway asked for no policy of `forward_auth.policies`", "ask `/auth/verify/POLICY` with a name that is set there"),
            Self::NotFound => row("not_found", S::NOT_FOUND, "Nothing is here", "check the path; `GET /` below the issuer lists the paths, and `GET /auth/sessions` the sessions"),
            Self::MethodNotAllowed => row("method_not_allowed", S::METHOD_NOT_ALLOWED, "The endpoint does not know this method", "use one that `Allow` names"),
            Self::BodyTimeout => row("body_timeout", S::REQUEST_TIMEOUT, "The body took too long", "try again"),
            Self::HeadTimeout => row("head_timeout", S::REQUEST_TIMEOUT, "The head of the request took too long", "try again"),
            Self::EmailTaken => row("email_taken", S::CONFLICT, "There is an account with this e-mail address", "log in; only with `accounts.reveal_taken_email`"),
            Self::AccountExists => row("account_exists", S::CONFLICT, "The account with this e-mail address is not linked to the other provider", "let the user log in as before"),
            Self::BodyTooLarge => row("body_too_large", S::PAYLOAD_TOO_LARGE, "The body is longer than 4 KB", "send less"),
            Self::AddressTooLong => row("address_too_long", S::URI_TOO_LONG, "The path and the query are longer than 8 KiB", "send less"),
            Self::UnsupportedMediaType => row("unsupported_media_type", S::UNSUPPORTED_MEDIA_TYPE, "The body is not JSON, or it is compressed", "send `Content-Type: application/json` and no `Content-Encoding`"),
            Self::RateLimited => row("rate_limited", S::TOO_MANY_REQUESTS, "Too many attempts", "wait for `Retry-After` seconds"),
            Self::HeadersTooLarge => row("headers_too_large", S::REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are longer than `server.max_header_bytes`, or there are too many", "send less: most often the cookies of other applications are too many"),
            Self::FederationFailed => row("federation_failed", S::BAD_GATEWAY, "What the other provider answered is no proof of who the user is", "let the user begin again; when it stays so, the server's log tells the operator why"),
            Self::ProviderUnavailable => row("provider_unavailable", S::SERVICE_UNAVAILABLE, "The other provider does not answer, or not as a provider does", "wait for `Retry-After` seconds and begin again"),
            Self::TemporarilyUnavailable => row("temporarily_unavailable", S::SERVICE_UNAVAILABLE, "The server cannot do this at the moment", "wait for `Retry-After` seconds and try again"),
        }
    }

    /// Its name in answers, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The status of its answers.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.row().status
    }

    /// What it means, as a title.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().title
    }

    /// The same refusal at the endpoints for clients, whose names are those of RFC 6749.
    #[must_use]
    pub const fn in_oauth(self) -> ErrorCode {
        match self {
            Self::RateLimited | Self::TemporarilyUnavailable => ErrorCode::TemporarilyUnavailable,
            _ => ErrorCode::InvalidRequest,
        }
    }

    /// Whether it is about an access token, or that there is none.
    #[must_use]
    pub const fn is_about_a_bearer(self) -> bool {
        self.challenge().is_some()
    }

    /// What `WWW-Authenticate` calls it (RFC 6750 section 3.1): without a token, nothing; None where no bearer token is in
    /// question.
    pub(super) const fn challenge(self) -> Option<&'static str> {
        match self {
            Self::TokenMissing => Some(""),
            Self::TokenExpired | Self::TokenInvalid | Self::SessionEnded => Some(r#", error="invalid_token""#),
            Self::InsufficientScope => Some(r#", error="insufficient_scope""#),
            _ => None,
        }
    }
}

/// The table of codes in Markdown, as it is in docs/reference/accounts.md.
#[must_use]
pub fn markdown_table() -> String {
    let rows = Code::ALL.map(|code| {
        let CodeRow {
            name,
            status,
            title,
            remedy,
        } = code.row();
        format!("| `{name}` | {} | {title}. | {remedy} |\n", status.as_u16())
    });
    format!(
        "| code | status | what it means | what to do |\n|---|---|---|---|\n{}",
        rows.concat()
    )
}

/// The status of a refusal of the protocol (RFC 6749 section 5.2).
#[must_use]
pub const fn status_of(error: ErrorCode) -> StatusCode {
    match error {
        ErrorCode::InvalidClient => StatusCode::UNAUTHORIZED,
        ErrorCode::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidGrant
        | ErrorCode::UnauthorizedClient
        | ErrorCode::UnsupportedGrantType
        | ErrorCode::InvalidScope
        | ErrorCode::InvalidTarget
        | ErrorCode::AccessDenied
        | ErrorCode::UnsupportedResponseType
        | ErrorCode::LoginRequired
        | ErrorCode::ConsentRequired
        | ErrorCode::UnmetAuthenticationRequirements
        | ErrorCode::RequestNotSupported
        | ErrorCode::RequestUriNotSupported
        | ErrorCode::RegistrationNotSupported => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_a_place_in_the_list() {
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        // The last one in the order of the declaration: a new one must be listed too.
        assert_eq!(Code::TemporarilyUnavailable as usize + 1, Code::ALL.len());
    }
}
