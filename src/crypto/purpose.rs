//! Everything that a keyed hash is made for.

/// What a keyed hash is made for. Hashes for two purposes have nothing in common, although one key makes both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An authorization code, as the database keeps it.
    AuthorizationCode,
    /// The secret of a client, as the database keeps it.
    ClientSecret,
    /// The tag of a token against forged requests.
    Csrf,
    /// The token against forged requests that a session has.
    CsrfOfSession,
    /// The comparison of its two copies.
    CsrfDoubleSubmit,
    /// `state` of a login with another provider, as the database keeps it.
    FederatedLoginState,
    /// The secret of the browser that began it, as the database keeps it.
    FederatedLoginBrowser,
    /// Its `nonce`.
    FederatedLoginNonce,
    /// PKCE's `code_verifier`.
    FederatedLoginCodeVerifier,
    /// The tag of the cookie that names a login session.
    LoginCookie,
    /// The token of a form of ours, made of the cookie that the browser got with it.
    PageForm,
    /// The names under which attempts are counted.
    Limit,
    /// A password, before it is hashed.
    Password,
    /// The tag by which a refresh token is known as one of ours.
    RefreshTokenTag,
    /// A refresh token, as the database keeps it.
    RefreshTokenDigest,
    /// The secret of the refresh token that follows.
    RefreshTokenSuccessor,
    /// What binds the refresh cookie to a browser.
    SessionCookie,
}

impl Purpose {
    /// The text that goes into the hash. It never changes, for hashes are stored.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization-code",
            Self::ClientSecret => "client-secret",
            Self::Csrf => "csrf",
            Self::CsrfOfSession => "csrf-of-session",
            Self::CsrfDoubleSubmit => "csrf-double-submit",
            Self::FederatedLoginState => "federated-login-state",
            Self::FederatedLoginBrowser => "federated-login-browser",
            Self::FederatedLoginNonce => "federated-login-nonce",
            Self::FederatedLoginCodeVerifier => "federated-login-code-verifier",
            Self::LoginCookie => "login-cookie",
            Self::PageForm => "page-form",
            Self::Limit => "limit",
            Self::Password => "password",
            Self::RefreshTokenTag => "refresh-token-tag",
            Self::RefreshTokenDigest => "refresh-token-digest",
            Self::RefreshTokenSuccessor => "refresh-token-successor",
            Self::SessionCookie => "session-cookie",
        }
    }
}
