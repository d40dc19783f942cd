//! The rules of the authorization endpoint (RFC 6749 section 4.1, OpenID Connect Core 1.0 section 3.1.2).
//!
//! What may go wrong has two places. Until the client and its redirect URI are known, a refusal is a page, for a redirect to anywhere else
//! would make the server an open redirector (RFC 9700 section 4.11). From then on it goes to the client.

use std::fmt;

use url::{Host, Url, form_urlencoded};

use crate::clock::{Seconds, UnixTime};

use super::claims::RequestedClaims;
use super::client::{Audience, Client, ClientId, ClientKind, Consent, Grant, Party};
use super::error::{ErrorCode, OauthError};
use super::pkce::{self, CodeChallenge};
use super::scope::Scope;
use super::token::{Parameters, requested_audiences, requested_scope};

/// The scope of a request for an ID token (OpenID Connect Core 1.0 section 3.1.2.1).
pub const OPENID: &str = "openid";
/// The scope of a request for a refresh token (section 11).
pub const OFFLINE_ACCESS: &str = "offline_access";

/// How long a code may be redeemed (RFC 6749 section 4.1.2).
pub const CODE_TTL: Seconds = Seconds(60);

/// The longest `state` and `nonce`, in octets: both come back, and a nonce is kept.
const LONGEST_STATE: usize = 4_096;
const LONGEST_NONCE: usize = 512;
/// The longest `login_hint`, in octets.
const LONGEST_HINT: usize = 320;

/// How the answer reaches the client (OAuth 2.0 Multiple Response Type Encoding Practices section 2.1; Form Post Response Mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseMode {
    /// In the query of the redirect URI.
    Query,
    /// In a form that the browser posts there.
    FormPost,
}

impl ResponseMode {
    /// Every mode.
    pub const ALL: [Self; 2] = [Self::Query, Self::FormPost];

    /// The value of `response_mode`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::FormPost => "form_post",
        }
    }
}

/// Why a request gets a page: nothing that it names may be trusted with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDestination {
    /// There is no `client_id`, or it comes twice.
    #[error("the link names no application: client_id is missing or comes twice")]
    NoClient,
    /// No client that logs people in has this id.
    #[error("the application is not registered here, is disabled, or is not one that people log in with")]
    UnknownClient,
    /// There is no `redirect_uri`, or it comes twice.
    #[error("the link does not say where to go afterwards: redirect_uri is missing or comes twice")]
    NoRedirectUri,
    /// It is not one of the client's.
    #[error(
        "the application did not register the address that this link leads back to; its redirect_uri must be, byte for byte, a registered one"
    )]
    UnknownRedirectUri,
}

/// Where the answer goes, and what goes along with every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The redirect URI as the request wrote it, which is one of the client's.
    pub redirect_uri: String,
    /// How the answer gets there.
    pub mode: ResponseMode,
    /// What the client knows its request by again.
    pub state: Option<String>,
}

impl Destination {
    /// The `client_id` of a request.
    ///
    /// # Errors
    /// [`NoDestination::NoClient`], or [`NoDestination::UnknownClient`] for what is no id.
    pub fn client_id(parameters: &Parameters) -> Result<ClientId, NoDestination> {
        let id = parameters.one("client_id").ok().flatten();
        id.ok_or(NoDestination::NoClient)?
            .parse()
            .map_err(|_| NoDestination::UnknownClient)
    }

    /// Where the answer to a request of this client goes.
    ///
    /// # Errors
    /// When people do not log in with the client, or it did not register the redirect URI.
    pub fn find(parameters: &Parameters, client: &Client) -> Result<Self, NoDestination> {
        if client.disabled_at.is_some() || !client.grants.contains(&Grant::AuthorizationCode) {
            return Err(NoDestination::UnknownClient);
        }
        let uri = parameters.one("redirect_uri").ok().flatten();
        let uri = uri.ok_or(NoDestination::NoRedirectUri)?;
        if !client.redirect_uris.iter().any(|registered| registered.admits(uri)) {
            return Err(NoDestination::UnknownRedirectUri);
        }
        let named = parameters.one("response_mode").ok().flatten();
        let mode = ResponseMode::ALL.into_iter().find(|mode| Some(mode.name()) == named);
        Ok(Self {
            redirect_uri: uri.to_owned(),
            // A mode that is unknown is refused by [`AuthorizationRequest::parse`], in the query.
            mode: mode.unwrap_or(ResponseMode::Query),
            state: parameters.one("state").ok().flatten().map(str::to_owned),
        })
    }

    /// The members of an answer: those given, `state`, and `iss` against mix-up (RFC 9207).
    #[must_use]
    pub fn members(&self, given: &[(&'static str, &str)], issuer: &str) -> Vec<(&'static str, String)> {
        given
            .iter()
            .map(|&(name, value)| (name, value))
            .chain(self.state.as_deref().map(|state| ("state", state)))
            .chain([("iss", issuer)])
            .map(|(name, value)| (name, value.to_owned()))
            .collect()
    }

    /// The redirect URI with an answer in its query. A query that is registered stays as it is written.
    #[must_use]
    pub fn with_query(&self, members: &[(&'static str, String)]) -> String {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(members)
            .finish();
        let joint = match self.redirect_uri.split_once('?') {
            None => "?",
            Some((_, "")) => "",
            Some(_) => "&",
        };
        format!("{}{joint}{query}", self.redirect_uri)
    }
}

/// What the client asks the person for (OpenID Connect Core 1.0 section 3.1.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Nothing: what needs a page is refused.
    None,
    /// A login, also of a person who is logged in.
    Login,
    /// Consent, also if it was given before.
    Consent,
    /// A choice among accounts.
    SelectAccount,
}

impl Prompt {
    /// Every value of the parameter.
    pub const ALL: [Self; 4] = [Self::None, Self::Login, Self::Consent, Self::SelectAccount];

    /// The value of `prompt`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Login => "login",
            Self::Consent => "consent",
            Self::SelectAccount => "select_account",
        }
    }

    fn parse(text: Option<&str>) -> Result<Vec<Self>, OauthError> {
        let words = text.unwrap_or_default().split(' ').filter(|word| !word.is_empty());
        let named = |word: &str| Self::ALL.into_iter().find(|prompt| prompt.name() == word);
        let prompts: Option<Vec<Self>> = words.take(Self::ALL.len() + 1).map(named).collect();
        let prompts = prompts.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            OauthError::invalid_request(&format!("prompt is made of {known}"))
        })?;
        if prompts.contains(&Self::None) && prompts.len() > 1 {
            return Err(OauthError::invalid_request(
                "prompt none takes no other value beside it",
            ));
        }
        Ok(prompts)
    }
}

/// What a client asks for, well-formed and within what it is registered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationRequest {
    /// The scope that is asked for, without what the client may not have (RFC 6749 section 3.3).
    pub scope: Scope,
    /// The resource that the access token is for (RFC 8707); none asks for the client's first.
    pub audience: Option<Audience>,
    /// What binds the ID token to the request.
    pub nonce: Option<String>,
    /// What the code is bound to.
    pub code_challenge: Option<CodeChallenge>,
    /// What the person is asked for.
    pub prompts: Vec<Prompt>,
    /// How long ago the person may have logged in.
    pub max_age: Option<Seconds>,
    /// What the person may log in with.
    pub login_hint: Option<String>,
    /// The token of an earlier login, which names the person that is expected.
    pub id_token_hint: Option<String>,
    /// What the client asks to be told beside what the scope brings.
    pub claims: RequestedClaims,
    /// The languages that the person reads, the best first (BCP 47).
    pub ui_locales: Vec<String>,
    /// Whether the answer goes to a site, and not to a program on the device, whose place another program can take.
    pub leads_to_site: bool,
}

impl AuthorizationRequest {
    /// Reads a request of this client; unknown parameters are ignored (RFC 6749 section 3.1).
    ///
    /// # Errors
    /// What goes to the client.
    pub fn parse(parameters: &Parameters, client: &Client) -> Result<Self, OauthError> {
        for (name, code) in [
            ("request", ErrorCode::RequestNotSupported),
            ("request_uri", ErrorCode::RequestUriNotSupported),
            ("registration", ErrorCode::RegistrationNotSupported),
        ] {
            if parameters.one(name)?.is_some() {
                let description = format!("{name} is not supported; send each parameter by itself");
                return Err(OauthError::new(code, &description));
            }
        }
        match parameters.one("response_type")? {
            Some("code") => {}
            Some(_) => {
                let description = "the only response_type is code";
                return Err(OauthError::new(ErrorCode::UnsupportedResponseType, description));
            }
            None => return Err(OauthError::invalid_request("response_type is missing; use code")),
        }
        if let Some(mode) = parameters.one("response_mode")?
            && !ResponseMode::ALL.iter().any(|known| known.name() == mode)
        {
            return Err(OauthError::invalid_request("response_mode is query or form_post"));
        }
        bounded(parameters, "state", LONGEST_STATE)?;
        // A wish, and every ID token says what it is.
        bounded(parameters, "acr_values", LONGEST_STATE)?;
        let claims = RequestedClaims::parse(parameters.one("claims")?)?;
        Ok(Self {
            scope: with_claims(granted_scope(parameters, client)?, &claims, client),
            claims,
            audience: granted_audience(parameters, client)?,
            nonce: bounded(parameters, "nonce", LONGEST_NONCE)?,
            code_challenge: challenge(parameters, client)?,
            prompts: Prompt::parse(parameters.one("prompt")?)?,
            max_age: max_age(parameters)?,
            login_hint: bounded(parameters, "login_hint", LONGEST_HINT)?,
            id_token_hint: parameters.one("id_token_hint")?.map(str::to_owned),
            ui_locales: parameters
                .one("ui_locales")?
                .unwrap_or_default()
                .split(' ')
                .filter(|locale| !locale.is_empty())
                .take(16)
                .map(str::to_owned)
                .collect(),
            leads_to_site: parameters.one("redirect_uri")?.is_some_and(is_site),
        })
    }

    /// Whether the person is asked for this.
    #[must_use]
    pub fn asks_for(&self, prompt: Prompt) -> bool {
        self.prompts.contains(&prompt)
    }

    /// Whether an ID token is asked for.
    #[must_use]
    pub fn is_openid(&self) -> bool {
        self.scope.contains(OPENID)
    }
}

/// Whether an address is that of a site: `localhost` and its like are this device, with `https` too.
fn is_site(uri: &str) -> bool {
    let url = Url::parse(uri).ok().filter(|url| url.scheme() == "https");
    url.is_some_and(|url| match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name != "localhost" && !name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => !address.is_loopback() && !address.is_unspecified(),
        Some(Host::Ipv6(address)) => !address.is_loopback() && !address.is_unspecified(),
        None => false,
    })
}

fn bounded(parameters: &Parameters, name: &'static str, longest: usize) -> Result<Option<String>, OauthError> {
    let value = parameters.one(name)?;
    if value.is_some_and(|value| value.len() > longest) {
        let description = format!("{name} is longer than {longest} octets");
        return Err(OauthError::invalid_request(&description));
    }
    Ok(value.map(str::to_owned))
}

fn granted_scope(parameters: &Parameters, client: &Client) -> Result<Scope, OauthError> {
    let granted = match requested_scope(parameters)? {
        Some(asked) => asked.within(&client.scope),
        None => client.scope.without(OFFLINE_ACCESS),
    };
    if granted.is_empty() {
        let description = "the client is registered for no word of the scope, or for none at all";
        return Err(OauthError::new(ErrorCode::InvalidScope, description));
    }
    Ok(granted)
}

/// A claim that is asked for counts as its scope, so that the person is asked about it, and it is there at the userinfo endpoint.
fn with_claims(scope: Scope, claims: &RequestedClaims, client: &Client) -> Scope {
    if scope.contains(OPENID) {
        scope.and(&claims.scope().within(&client.scope))
    } else {
        scope
    }
}

fn granted_audience(parameters: &Parameters, client: &Client) -> Result<Option<Audience>, OauthError> {
    let mut asked = requested_audiences(parameters)?;
    if asked.len() > 1 {
        let description = "a login is for one resource; ask for one";
        return Err(OauthError::new(ErrorCode::InvalidTarget, description));
    }
    match asked.pop() {
        Some(audience) if !client.audiences.contains(&audience) => {
            let description = "the client is not registered for this resource";
            Err(OauthError::new(ErrorCode::InvalidTarget, description))
        }
        audience => Ok(audience),
    }
}

fn challenge(parameters: &Parameters, client: &Client) -> Result<Option<CodeChallenge>, OauthError> {
    let challenge = parameters.one("code_challenge")?;
    // Without a method it is `plain` (RFC 7636 section 4.3).
    let method = parameters.one("code_challenge_method")?;
    match (challenge, method) {
        (None, None) if client.may_omit_code_challenge() => Ok(None),
        (None, _) => Err(OauthError::invalid_request(
            "code_challenge is missing: this client must use PKCE with the method S256 (RFC 7636)",
        )),
        (Some(challenge), Some(pkce::METHOD)) => challenge
            .parse()
            .map(Some)
            .map_err(|error: pkce::InvalidCodeChallenge| OauthError::invalid_request(&error.to_string())),
        (Some(_), _) => Err(OauthError::invalid_request(
            "code_challenge_method must be S256; without it the method would be plain, which is refused",
        )),
    }
}

fn max_age(parameters: &Parameters) -> Result<Option<Seconds>, OauthError> {
    let text = parameters.one("max_age")?;
    let seconds = text.map(|text| {
        let digits = text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).map(Seconds)
    });
    match seconds {
        Some(None) => Err(OauthError::invalid_request("max_age is a number of seconds")),
        Some(seconds) => Ok(seconds),
        None => Ok(None),
    }
}

/// What is known of the person at the browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// When the person logged in.
    pub auth_time: UnixTime,
    /// Whether it is the person that the hint of the request names; true without a hint.
    pub is_expected: bool,
    /// Whether the person allowed this client all that is asked for.
    pub has_consented: bool,
    /// Whether the login is as sure as the client insists on.
    pub is_sure_enough: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationStep {
    /// A page where the person logs in.
    LogIn,
    /// A page that asks for consent.
    AskForConsent,
    /// A code.
    Answer,
    /// A refusal for the client: a page is needed and `prompt` is `none`, or no page would help.
    Refuse(ErrorCode),
}

impl fmt::Display for AuthorizationStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogIn => "a login is needed",
            Self::AskForConsent => "consent is needed",
            Self::Answer => "a code is given",
            Self::Refuse(ErrorCode::UnmetAuthenticationRequirements) => {
                "the person logged in otherwise than claims insists on in acr"
            }
            Self::Refuse(_) => "the person would have to see a page, and prompt is none",
        })
    }
}

/// What comes next for a request of this client (OpenID Connect Core 1.0 sections 3.1.2.3 and 3.1.2.4).
#[must_use]
pub fn next_step(
    request: &AuthorizationRequest,
    client: &Client,
    present: Option<Present>,
    now: UnixTime,
) -> AuthorizationStep {
    let step = step_with_pages(request, client, present, now);
    match step {
        AuthorizationStep::LogIn if request.asks_for(Prompt::None) => {
            AuthorizationStep::Refuse(ErrorCode::LoginRequired)
        }
        AuthorizationStep::AskForConsent if request.asks_for(Prompt::None) => {
            AuthorizationStep::Refuse(ErrorCode::ConsentRequired)
        }
        step => step,
    }
}

/// Whether a person must allow this client what it asks for.
#[must_use]
pub const fn needs_consent(client: &Client) -> bool {
    !matches!(
        client.party,
        Party::First {
            consent: Consent::None,
            ..
        }
    )
}

fn step_with_pages(
    request: &AuthorizationRequest,
    client: &Client,
    present: Option<Present>,
    now: UnixTime,
) -> AuthorizationStep {
    let Some(present) = present.filter(|present| present.is_expected) else {
        return AuthorizationStep::LogIn;
    };
    let is_too_old = request.max_age.is_some_and(|max_age| now - present.auth_time > max_age);
    if request.asks_for(Prompt::Login) || request.asks_for(Prompt::SelectAccount) || is_too_old {
        return AuthorizationStep::LogIn;
    }
    if !present.is_sure_enough {
        return AuthorizationStep::Refuse(ErrorCode::UnmetAuthenticationRequirements);
    }
    let needs_none = !needs_consent(client);
    // Any program on the device can take the place of an app that has no secret (RFC 8252 section 8.6).
    let is_anybody = client.kind == ClientKind::Public && !request.leads_to_site;
    if request.asks_for(Prompt::Consent) || is_anybody || !(needs_none || present.has_consented) {
        return AuthorizationStep::AskForConsent;
    }
    AuthorizationStep::Answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::client::ClientKind;

    const CHALLENGE: &str = "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";

    fn client() -> Client {
        Client {
            kind: ClientKind::Public,
            redirect_uris: [
                "https://app.example/cb",
                "https://app.example/cb?tenant=a",
                "http://127.0.0.1/cb",
            ]
            .map(|uri| uri.parse().unwrap())
            .to_vec(),
            grants: vec![Grant::AuthorizationCode],
            scope: "openid email offline_access".parse().unwrap(),
            ..Client::example("app")
        }
    }

    fn parameters(query: &str) -> Parameters {
        Parameters::parse(query).unwrap()
    }

    fn parse(query: &str) -> Result<AuthorizationRequest, ErrorCode> {
        AuthorizationRequest::parse(&parameters(query), &client()).map_err(|error| error.code)
    }

    fn good(more: &str) -> Result<AuthorizationRequest, ErrorCode> {
        parse(&format!(
            "response_type=code&redirect_uri=https://app.example/cb&scope=openid&{CHALLENGE}&{more}"
        ))
    }

    #[test]
    fn an_answer_goes_to_a_registered_address_alone() {
        let find = |uri: &str| {
            let encoded: String = form_urlencoded::byte_serialize(uri.as_bytes()).collect();
            let query = format!("client_id=app&redirect_uri={encoded}");
            // A line break at its end is refused before.
            let parsed = Parameters::parse(&query).map_err(|_| NoDestination::UnknownRedirectUri);
            parsed.and_then(|parameters| Destination::find(&parameters, &client()))
        };
        for good in [
            "https://app.example/cb",
            "https://app.example/cb?tenant=a",
            "http://127.0.0.1/cb",
            "http://127.0.0.1:1/cb",
            "http://127.0.0.1:65535/cb",
        ] {
            assert_eq!(find(good).unwrap().redirect_uri, good);
        }
        for bad in [
            "https://app.example/cb/",
            "https://app.example/cb?",
            "https://app.example/cb?tenant=b",
            "https://app.example/cb?tenant=a&x=y",
            "https://app.example/cb#a",
            "https://app.example/CB",
            "https://app.example/a/../cb",
            "https://app.example/%63b",
            "https://app.example/cb%00",
            "https://app.example/cb\n",
            " https://app.example/cb",
            "https://app.example:443/cb",
            "https://app.example:8443/cb",
            "https://APP.example/cb",
            "HTTPS://app.example/cb",
            "http://app.example/cb",
            "//app.example/cb",
            "/cb",
            "https://app.example./cb",
            "https://app.example.evil.example/cb",
            "https://evil.example/cb",
            "https://evil.example/https://app.example/cb",
            "https://app.example@evil.example/cb",
            "https://evil.example\\@app.example/cb",
            "https://evil.example#@app.example/cb",
            "https://app.example/cb@evil.example",
            "https:app.example/cb",
            "https:///app.example/cb",
            "https://app.example\\cb",
            "https://app.exam\u{440}le/cb",
            "https://xn--app-example/cb",
            "javascript:alert(1)",
            "data:text/html,a",
            "http://127.0.0.1:/cb",
            "http://127.0.0.1:0x50/cb",
            "http://127.0.0.1:65536/cb",
            "http://127.0.0.1:80:80/cb",
            "http://127.0.0.1:80@evil.example/cb",
            "http://127.0.0.1:80/cb?x",
            "http://127.0.0.1:80/other",
            "http://127.0.0.1.evil.example/cb",
            "http://127.0.0.1:80.evil.example/cb",
            "http://127.0.0.1:80\\@evil.example/cb",
            "http://127.0.0.2/cb",
            "http://127.1/cb",
            "http://2130706433/cb",
            "http://0x7f.1/cb",
            "http://017700000001/cb",
            "http://localhost/cb",
            "http://[::1]/cb",
            "http://[::ffff:127.0.0.1]/cb",
            "http://0.0.0.0/cb",
            "https://127.0.0.1/cb",
            "http://user@127.0.0.1/cb",
            "http://127.0.0.1%2f@evil.example/cb",
            "http://127.0.0.1:80#/cb",
            "http://127.0.0.1:80?/cb",
            "com.example.app:/cb",
            "https://app.example/cb%3Ftenant=a",
            "https://app.example/cb?tenant=a%23",
            "https://app.example/cb;tenant=a",
            "https://app.example/cb\t",
            "https://app.example/cb https://evil.example",
        ] {
            assert_eq!(find(bad), Err(NoDestination::UnknownRedirectUri), "{bad}");
        }
        for (query, refusal) in [
            ("client_id=app", NoDestination::NoRedirectUri),
            ("client_id=app&redirect_uri=", NoDestination::NoRedirectUri),
            (
                "redirect_uri=https://app.example/cb&redirect_uri=https://evil.example/",
                NoDestination::NoRedirectUri,
            ),
        ] {
            assert_eq!(
                Destination::find(&parameters(query), &client()),
                Err(refusal),
                "{query}"
            );
        }
        let disabled = Client {
            disabled_at: Some(UnixTime(1)),
            ..client()
        };
        let service = Client {
            grants: vec![Grant::ClientCredentials],
            ..client()
        };
        for other in [disabled, service] {
            let found = Destination::find(&parameters("redirect_uri=https://app.example/cb"), &other);
            assert_eq!(found, Err(NoDestination::UnknownClient));
        }
    }

    #[test]
    fn an_answer_keeps_the_registered_query_and_names_the_issuer() {
        for (uri, expected) in [
            (
                "https://app.example/cb",
                "https://app.example/cb?code=a+b&state=%26x&iss=https%3A%2F%2Fid.example",
            ),
            (
                "https://app.example/cb?tenant=a",
                "https://app.example/cb?tenant=a&code=a+b&state=%26x&iss=https%3A%2F%2Fid.example",
            ),
        ] {
            let destination = Destination {
                redirect_uri: uri.to_owned(),
                mode: ResponseMode::Query,
                state: Some("&x".to_owned()),
            };
            let members = destination.members(&[("code", "a b")], "https://id.example");
            assert_eq!(destination.with_query(&members), expected);
        }
    }

    #[test]
    fn what_is_malformed_is_refused_by_its_name() {
        use ErrorCode::{InvalidRequest, InvalidScope, InvalidTarget, UnsupportedResponseType};
        assert!(good("").is_ok());
        for (more, code) in [
            ("request=e30", ErrorCode::RequestNotSupported),
            ("request_uri=https://app.example/r", ErrorCode::RequestUriNotSupported),
            ("registration=%7B%7D", ErrorCode::RegistrationNotSupported),
            ("response_mode=fragment", InvalidRequest),
            ("prompt=none+login", InvalidRequest),
            ("prompt=create", InvalidRequest),
            ("max_age=-1", InvalidRequest),
            ("max_age=a", InvalidRequest),
            ("max_age=99999999999", InvalidRequest),
            ("nonce=a&nonce=b", InvalidRequest),
            ("resource=https://other.example", InvalidTarget),
            (
                "resource=https://api.example&resource=https://other.example",
                InvalidTarget,
            ),
        ] {
            assert_eq!(good(more), Err(code), "{more}");
        }
        assert_eq!(good(&format!("nonce={}", "a".repeat(513))), Err(InvalidRequest));
        assert_eq!(good(&format!("state={}", "a".repeat(4_097))), Err(InvalidRequest));
        for (query, code) in [
            (format!("scope=openid&{CHALLENGE}"), InvalidRequest),
            (format!("response_type=token&{CHALLENGE}"), UnsupportedResponseType),
            (
                format!("response_type=code+id_token&{CHALLENGE}"),
                UnsupportedResponseType,
            ),
            (format!("response_type=code&scope=admin&{CHALLENGE}"), InvalidScope),
        ] {
            assert_eq!(parse(&query), Err(code), "{query}");
        }
    }

    #[test]
    fn a_site_is_not_this_device() {
        for uri in [
            "https://app.example/cb",
            "https://192.0.2.1/cb",
            "https://[2001:db8::1]/cb",
        ] {
            assert!(is_site(uri), "{uri}");
        }
        for uri in [
            "http://127.0.0.1/cb",
            "https://127.0.0.1/cb",
            "https://127.1.2.3:8443/cb",
            "https://[::1]/cb",
            "https://0.0.0.0/cb",
            "https://localhost/cb",
            "https://LOCALHOST./cb",
            "https://app.localhost/cb",
            "com.example.app:/cb",
        ] {
            assert!(!is_site(uri), "{uri}");
        }
    }

    #[test]
    fn a_public_client_cannot_do_without_a_challenge_by_s256() {
        let asked = |challenge: &str, client: &Client| {
            let query = format!("response_type=code&scope=openid&{challenge}");
            let parsed = AuthorizationRequest::parse(&parameters(&query), client);
            parsed.map(|request| request.code_challenge.is_some())
        };
        let confidential = Client {
            kind: ClientKind::Confidential(None),
            ..client()
        };
        let optional = Client {
            is_pkce_optional: true,
            ..confidential.clone()
        };
        for client in [client(), confidential, optional] {
            assert_eq!(asked(CHALLENGE, &client), Ok(true));
            for downgraded in [
                "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
                "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=plain",
                "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=s256",
                "code_challenge_method=S256",
                "code_challenge=short&code_challenge_method=S256",
            ] {
                assert!(asked(downgraded, &client).is_err(), "{downgraded}");
            }
            assert_eq!(asked("", &client).is_ok(), client.is_pkce_optional);
        }
        // Whatever its row says.
        let public = Client {
            is_pkce_optional: true,
            ..client()
        };
        assert!(asked("", &public).is_err());
    }

    #[test]
    fn a_scope_is_what_was_asked_for_and_the_client_may_have() {
        let scope = |query: &str| {
            parse(&format!("response_type=code&{CHALLENGE}&{query}"))
                .unwrap()
                .scope
                .to_string()
        };
        assert_eq!(scope("scope=openid+profile+email"), "openid email");
        assert_eq!(scope("scope=openid+offline_access"), "openid offline_access");
        // Who does not ask gets no token that outlives the visit.
        assert_eq!(scope(""), "openid email");
    }

    #[test]
    fn who_is_asked_for_what() {
        const NOW: UnixTime = UnixTime(1_000);
        let here = Present {
            auth_time: UnixTime(900),
            is_expected: true,
            has_consented: true,
            is_sure_enough: true,
        };
        let unsure = Present {
            is_sure_enough: false,
            ..here
        };
        let stranger = Present {
            is_expected: false,
            ..here
        };
        let new = Present {
            has_consented: false,
            ..here
        };
        let own = Client {
            party: Party::First {
                since: UnixTime(0),
                consent: Consent::None,
            },
            ..client()
        };
        let third = client();
        for (more, client, present, step) in [
            ("", &third, None, AuthorizationStep::LogIn),
            ("", &third, Some(stranger), AuthorizationStep::LogIn),
            ("", &third, Some(new), AuthorizationStep::AskForConsent),
            (
                "",
                &third,
                Some(unsure),
                AuthorizationStep::Refuse(ErrorCode::UnmetAuthenticationRequirements),
            ),
            ("prompt=login", &third, Some(unsure), AuthorizationStep::LogIn),
            ("", &own, Some(new), AuthorizationStep::Answer),
            ("", &third, Some(here), AuthorizationStep::Answer),
            ("max_age=100", &third, Some(here), AuthorizationStep::Answer),
            ("max_age=99", &third, Some(here), AuthorizationStep::LogIn),
            ("max_age=0", &third, Some(here), AuthorizationStep::LogIn),
            ("prompt=login", &third, Some(here), AuthorizationStep::LogIn),
            ("prompt=select_account", &third, Some(here), AuthorizationStep::LogIn),
            ("prompt=consent", &own, Some(here), AuthorizationStep::AskForConsent),
            ("prompt=login+consent", &own, Some(here), AuthorizationStep::LogIn),
            (
                "prompt=none",
                &third,
                None,
                AuthorizationStep::Refuse(ErrorCode::LoginRequired),
            ),
            (
                "prompt=none",
                &third,
                Some(stranger),
                AuthorizationStep::Refuse(ErrorCode::LoginRequired),
            ),
            (
                "prompt=none&max_age=99",
                &third,
                Some(here),
                AuthorizationStep::Refuse(ErrorCode::LoginRequired),
            ),
            (
                "prompt=none",
                &third,
                Some(new),
                AuthorizationStep::Refuse(ErrorCode::ConsentRequired),
            ),
            ("prompt=none", &third, Some(here), AuthorizationStep::Answer),
        ] {
            let request = good(more).unwrap();
            assert_eq!(next_step(&request, client, present, NOW), step, "{more} {present:?}");
        }
    }
}
