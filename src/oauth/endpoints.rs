//! Where everything is: the one list of paths. Those of the public listener lie below the issuer.

/// The path of the key set below the issuer; it never changes, because some gateways resolve it once.
pub const KEY_SET_PATH: &str = "/.well-known/jwks.json";
/// The path of the token endpoint below the issuer.
pub const TOKEN_PATH: &str = "/oauth2/token";
/// Where a client sends a person to log in (RFC 6749 section 3.1).
pub const AUTHORIZATION_PATH: &str = "/oauth2/authorize";
/// What the login page sends.
pub const AUTHORIZATION_LOGIN_PATH: &str = "/oauth2/authorize/login";
/// What the consent page sends.
pub const AUTHORIZATION_CONSENT_PATH: &str = "/oauth2/authorize/consent";
/// What the pages look like.
pub const STYLE_PATH: &str = "/oauth2/authorize/style.css";
/// What sends an answer by `form_post`.
pub const SCRIPT_PATH: &str = "/oauth2/authorize/send.js";
/// What is known of the person behind an access token (OpenID Connect Core 1.0 section 5.3).
pub const USERINFO_PATH: &str = "/oauth2/userinfo";
/// Where a client sends a person to log out (OpenID Connect RP-Initiated Logout 1.0).
pub const END_SESSION_PATH: &str = "/oauth2/logout";
/// What the logout page sends.
pub const END_SESSION_CONFIRMATION_PATH: &str = "/oauth2/logout/confirm";
/// The path of the introspection endpoint below the issuer.
pub const INTROSPECTION_PATH: &str = "/oauth2/introspect";
/// The path of the revocation endpoint below the issuer.
pub const REVOCATION_PATH: &str = "/oauth2/revoke";
/// The well-known name of OpenID Connect Discovery 1.0 section 4.
pub const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";
/// The well-known name of RFC 8414 section 3.
pub const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";

/// Where people register.
pub const REGISTER_PATH: &str = "/auth/register";
/// Where people log in.
pub const LOGIN_PATH: &str = "/auth/login";
/// Where a refresh token is exchanged for its successor and an access token.
pub const REFRESH_PATH: &str = "/auth/refresh";
/// Where a session is ended.
pub const LOGOUT_PATH: &str = "/auth/logout";
/// Where all sessions of a person are ended.
pub const LOGOUT_ALL_PATH: &str = "/auth/logout-all";
/// The account behind a token.
pub const ME_PATH: &str = "/auth/me";
/// Where a password is changed.
pub const PASSWORD_PATH: &str = "/auth/password";
/// The sessions of a person.
pub const SESSIONS_PATH: &str = "/auth/sessions";
/// One of them.
pub const SESSION_PATH: &str = "/auth/sessions/{sid}";
/// The page where a person makes an account on the way to a client.
pub const AUTHORIZATION_REGISTER_PATH: &str = "/oauth2/authorize/register";
/// What a person has allowed clients.
pub const CONSENTS_PATH: &str = "/auth/consents";
/// What one of them was allowed.
pub const CONSENT_PATH: &str = "/auth/consents/{client}";
/// The page with what a person has allowed.
pub const CONSENTS_PAGE_PATH: &str = "/account/consents";
/// The token against forged requests.
pub const CSRF_PATH: &str = "/auth/csrf";
/// Where a login with another provider begins.
pub const FEDERATED_PATH: &str = "/auth/federated/{provider}";
/// Where the provider sends the browser back to.
pub const CALLBACK_PATH: &str = "/auth/federated/{provider}/callback";
/// Where gateways ask, followed by the name of a policy.
pub const VERIFY_PATH: &str = "/auth/verify";

// The admin listener.

/// Whether the process lives.
pub const LIVENESS_PATH: &str = "/livez";
/// Whether it is ready to publish keys.
pub const READINESS_PATH: &str = "/readyz";
/// Whether it is ready to issue tokens.
pub const ISSUING_PATH: &str = "/readyz/issue";
/// What is counted.
pub const METRICS_PATH: &str = "/metrics";
