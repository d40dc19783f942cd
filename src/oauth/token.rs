//! The token endpoint's rules: what a request asks for, and what its client may have.

use crate::clock::{Seconds, UnixTime};
use crate::jose::alg::Algorithm;
use crate::jose::jwt::{self, AccessTokenClaims, TokenType};

use super::client::{Audience, Client, Grant};
use super::error::{ErrorCode, OauthError};
use super::scope::{MAX_SCOPE_WORDS, Scope};

/// The parameters that an endpoint reads, of which no value ends with a line break. A scope has a refusal of its own, `invalid_scope`.
const KNOWN: [&str; 13] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "resource",
    "audience",
    "token",
    "token_type_hint",
    "refresh_token",
    "code",
    "code_verifier",
    "redirect_uri",
];

/// The most parameters of a form.
pub const MAX_PARAMETERS: usize = 64;

/// The most resources that a request names.
pub const MAX_RESOURCES: usize = 16;

/// The parameters of a form body, in the order they came.
#[derive(Clone)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a form body (`application/x-www-form-urlencoded`).
    ///
    /// # Errors
    /// `invalid_request` when it is not a form of UTF-8 text, or has too many parameters.
    pub fn parse(body: &str) -> Result<Self, OauthError> {
        let pairs = body.split('&').filter(|pair| !pair.is_empty());
        if pairs.clone().nth(MAX_PARAMETERS).is_some() {
            return Err(OauthError::invalid_request(&format!(
                "the form holds more than {MAX_PARAMETERS} parameters"
            )));
        }
        let pairs: Vec<(String, String)> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (form_decode(name), form_decode(value)))
            .collect();
        if pairs.iter().any(|(name, value)| {
            // Each alone, because the search for one character is many times faster than for any of two.
            let broken = |text: &str| text.contains('\0') || text.contains(char::REPLACEMENT_CHARACTER);
            broken(name) || broken(value)
        }) {
            return Err(OauthError::invalid_request(
                "the form holds bytes that are not text in UTF-8",
            ));
        }
        if let Some(name) = KNOWN.iter().find(|known| {
            let ends = |(name, value): &(String, String)| name == *known && value.ends_with(['\n', '\r']);
            pairs.iter().any(ends)
        }) {
            return Err(OauthError::invalid_request(&format!(
                "the value of {name} ends with a line break, as one from a file does; send it without"
            )));
        }
        Ok(Self(pairs))
    }

    /// The value of a parameter that may come once; an empty value is no value (RFC 6749 section 3.2).
    ///
    /// # Errors
    /// `invalid_request` when it comes more than once.
    pub fn one(&self, name: &'static str) -> Result<Option<&str>, OauthError> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(OauthError::invalid_request(&format!("{name} is given more than once")));
        }
        Ok(first.filter(|value| !value.is_empty()))
    }

    /// All of them, written as a query; those of this name are left out.
    #[must_use]
    pub fn query_without(&self, names: &[&str]) -> String {
        let kept = self.0.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(kept)
            .finish()
    }

    /// The values of a parameter that may come several times.
    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A name or a value as it was before it was form-encoded.
pub(super) fn form_decode(text: &str) -> String {
    // Tokens, secrets and ids need no encoding, and to look for it takes a tenth of decoding.
    if !text.contains('%') && !text.contains('+') {
        return text.to_owned();
    }
    let text = text.replace('&', "%26").replace('=', "%3D");
    let decoded = url::form_urlencoded::parse(text.as_bytes()).next();
    decoded.map_or_else(String::new, |(text, _)| text.into_owned())
}

/// What a request asks for, well-formed; whether the client may have it is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The grant.
    pub grant: Grant,
    /// The scope; none asks for all that the client may have.
    pub scope: Option<Scope>,
    /// The resources; none asks for the client's first.
    pub audiences: Vec<Audience>,
}

impl TokenRequest {
    /// Reads the request's parameters; unknown ones are ignored (RFC 6749 section 3.2).
    ///
    /// # Errors
    /// The refusal for the first malformed parameter.
    pub fn parse(parameters: &Parameters) -> Result<Self, OauthError> {
        let grant = parameters
            .one("grant_type")?
            .ok_or_else(|| OauthError::invalid_request("grant_type is missing; use client_credentials"))?
            .parse()
            .ok()
            // The others need a person, and are read elsewhere.
            .filter(|grant| *grant == Grant::ClientCredentials)
            .ok_or_else(|| {
                OauthError::new(
                    ErrorCode::UnsupportedGrantType,
                    "this server knows the grant client_credentials, and authorization_code and refresh_token where people have accounts",
                )
            })?;
        Ok(Self {
            grant,
            scope: requested_scope(parameters)?,
            audiences: requested_audiences(parameters)?,
        })
    }
}

/// The scope that a request asks for.
///
/// # Errors
/// `invalid_scope` when it is malformed or too long.
pub fn requested_scope(parameters: &Parameters) -> Result<Option<Scope>, OauthError> {
    let text = parameters.one("scope")?;
    if text.is_some_and(|text| text.split(' ').nth(MAX_SCOPE_WORDS).is_some()) {
        let description =
            format!("the scope holds more than {MAX_SCOPE_WORDS} words; leave it out to get all that is granted");
        return Err(OauthError::new(ErrorCode::InvalidScope, &description));
    }
    let scope = text.map(str::parse).transpose();
    scope.map_err(|error: super::scope::InvalidScope| OauthError::new(ErrorCode::InvalidScope, &error.to_string()))
}

/// The resources that a request asks for. RFC 8707 names `resource`; `audience` is what many clients send for the same thing.
///
/// # Errors
/// `invalid_target` when one is malformed, or there are too many.
pub fn requested_audiences(parameters: &Parameters) -> Result<Vec<Audience>, OauthError> {
    let mut audiences: Vec<Audience> = Vec::new();
    let targets = parameters.all("resource").chain(parameters.all("audience"));
    let targets = targets.filter(|value| !value.is_empty());
    for (at, value) in targets.enumerate() {
        if at >= MAX_RESOURCES {
            let description = format!("the form names more than {MAX_RESOURCES} resources");
            return Err(OauthError::new(ErrorCode::InvalidTarget, &description));
        }
        let audience: Audience = value.parse().map_err(|_| {
            OauthError::new(
                ErrorCode::InvalidTarget,
                "resource and audience are visible ASCII characters; one with a colon is a URI without a fragment",
            )
        })?;
        if !audiences.contains(&audience) {
            audiences.push(audience);
        }
    }
    Ok(audiences)
}

/// What the server gives where a client has no wish of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The algorithm.
    pub alg: Algorithm,
    /// The lifetime of access tokens.
    pub access_token_ttl: Seconds,
    /// No token lives longer.
    pub max_token_ttl: Seconds,
}

/// What a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Whom the token speaks for: a user, or the client itself.
    pub sub: String,
    /// The client that it is given to.
    pub client_id: String,
    /// For whom.
    pub audiences: Vec<Audience>,
    /// What it may do there.
    pub scope: Scope,
    /// The algorithm of the signature; the request had no say.
    pub alg: Algorithm,
    /// The type of the token.
    pub token_type: TokenType,
    /// How long it lasts.
    pub ttl: Seconds,
    /// The session that it belongs to; none where the client acts for itself.
    pub session: Option<GrantedSession>,
}

/// The session of a token, and what it says of its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedSession {
    /// The login session's id.
    pub sid: String,
    /// The grant's id.
    pub grant_id: String,
    /// The user's tenant.
    pub tid: String,
    /// The user's roles.
    pub roles: Vec<String>,
}

/// Holds a request against what its client may have.
///
/// # Errors
/// `unauthorized_client`, `invalid_scope` or `invalid_target`.
pub fn grant(client: &Client, request: &TokenRequest, defaults: &Defaults) -> Result<Granted, OauthError> {
    if !client.grants.contains(&request.grant) {
        return Err(OauthError::new(
            ErrorCode::UnauthorizedClient,
            "the client is not registered for this grant",
        ));
    }
    let scope = request.scope.clone().unwrap_or_else(|| client.scope.clone());
    if !scope.is_within(&client.scope) {
        return Err(OauthError::new(
            ErrorCode::InvalidScope,
            "the scope holds a word that the client is not registered for",
        ));
    }
    if !request
        .audiences
        .iter()
        .all(|audience| client.audiences.contains(audience))
    {
        return Err(OauthError::new(
            ErrorCode::InvalidTarget,
            "the client is not registered for this resource",
        ));
    }
    let audiences = if request.audiences.is_empty() {
        client.audiences.first().cloned().into_iter().collect()
    } else {
        request.audiences.clone()
    };
    Ok(Granted {
        sub: client.id.to_string(),
        client_id: client.id.to_string(),
        audiences,
        scope,
        alg: client.alg.unwrap_or(defaults.alg),
        token_type: client.token_type,
        ttl: client
            .token_ttl
            .unwrap_or(defaults.access_token_ttl)
            .min(defaults.max_token_ttl),
        session: None,
    })
}

impl Granted {
    /// The claims of the access token (RFC 9068 section 2.2), signed at `now` and living `ttl`. `clock_skew` is how far behind a
    /// verifier's clock may be.
    ///
    /// # Errors
    /// When the audience is empty, which no registered client's is.
    pub fn claims(
        &self,
        issuer: &str,
        jti: String,
        now: UnixTime,
        ttl: Seconds,
        clock_skew: Seconds,
    ) -> Result<AccessTokenClaims, jwt::EmptyAudience> {
        Ok(AccessTokenClaims {
            iss: issuer.to_owned(),
            sub: self.sub.clone(),
            aud: jwt::AudienceClaim::try_from(self.audiences.iter().map(ToString::to_string).collect::<Vec<_>>())?,
            client_id: self.client_id.clone(),
            iat: now.0,
            exp: (now + ttl).0,
            jti,
            scope: (!self.scope.is_empty()).then(|| self.scope.to_string()),
            session: self.session.clone().map(
                |GrantedSession {
                     sid,
                     grant_id,
                     tid,
                     roles,
                 }| jwt::SessionClaims {
                    nbf: Some((now - clock_skew).0),
                    sid,
                    grant_id: Some(grant_id),
                    tid,
                    roles,
                },
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::claims::ScopeClaims;

    fn client() -> Client {
        Client {
            id: "billing".parse().unwrap(),
            kind: crate::oauth::client::ClientKind::Confidential(None),
            party: crate::oauth::client::Party::Third,
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            name: None,
            id_token_alg: None,
            scope_claims: ScopeClaims::Userinfo,
            roles_claim: None,
            is_pkce_optional: false,
            grants: vec![Grant::ClientCredentials],
            scope: "read write".parse().unwrap(),
            audiences: ["https://a.example", "https://b.example"]
                .map(|audience| audience.parse().unwrap())
                .to_vec(),
            serves: Vec::new(),
            alg: None,
            token_type: TokenType::AtJwt,
            token_ttl: None,
            created_at: UnixTime(0),
            disabled_at: None,
        }
    }

    const DEFAULTS: Defaults = Defaults {
        alg: Algorithm::Rs256,
        access_token_ttl: Seconds(600),
        max_token_ttl: Seconds(3_600),
    };

    fn ask(body: &str) -> Result<Granted, ErrorCode> {
        ask_as(&client(), body)
    }

    fn ask_as(client: &Client, body: &str) -> Result<Granted, ErrorCode> {
        let parameters = Parameters::parse(body).map_err(|error| error.code)?;
        let request = TokenRequest::parse(&parameters).map_err(|error| error.code)?;
        grant(client, &request, &DEFAULTS).map_err(|error| error.code)
    }

    #[test]
    fn without_wishes_a_client_gets_its_whole_scope_for_its_first_audience() {
        let granted = ask("grant_type=client_credentials").unwrap();
        assert_eq!(granted.scope.to_string(), "read write");
        assert_eq!(granted.audiences, ["https://a.example".parse().unwrap()]);
        assert_eq!((granted.alg, granted.ttl), (Algorithm::Rs256, Seconds(600)));
    }

    #[test]
    fn resources_may_repeat_and_audience_means_the_same() {
        let granted = ask(
            "grant_type=client_credentials&resource=https://b.example&audience=https://a.example&resource=https://b.example",
        )
        .unwrap();
        let audiences: Vec<&str> = granted.audiences.iter().map(Audience::as_str).collect();
        assert_eq!(audiences, ["https://b.example", "https://a.example"]);
    }

    #[test]
    fn forms_are_read_as_the_standard_says() {
        for body in [
            "a=b&c=d",
            "a",
            "a=",
            "=b",
            "&&a=b&",
            "a=b=c",
            "a+b=c%2Bd",
            "a%3Db=%26",
            "%zz=%",
            "a=%C3%A4",
            "a=%2",
            "=",
            "a==b%3D+",
        ] {
            let standard: Vec<(String, String)> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
            assert_eq!(Parameters::parse(body).unwrap().0, standard, "{body}");
        }
    }

    #[test]
    fn a_request_cannot_choose_its_algorithm_or_lifetime() {
        let granted = ask("grant_type=client_credentials&alg=ES256&expires_in=99999").unwrap();
        assert_eq!((granted.alg, granted.ttl), (Algorithm::Rs256, Seconds(600)));
    }

    #[test]
    fn a_client_lives_no_longer_than_the_longest_token() {
        let client = Client {
            token_ttl: Some(Seconds(7_200)),
            ..client()
        };
        assert_eq!(
            ask_as(&client, "grant_type=client_credentials").unwrap().ttl,
            Seconds(3_600)
        );
    }

    #[test]
    fn each_refusal_has_its_name() {
        for (body, code) in [
            ("", ErrorCode::InvalidRequest),
            ("grant_type=", ErrorCode::InvalidRequest),
            ("grant_type=password", ErrorCode::UnsupportedGrantType),
            (
                "grant_type=client_credentials&grant_type=client_credentials",
                ErrorCode::InvalidRequest,
            ),
            (
                "grant_type=client_credentials&scope=a&scope=b",
                ErrorCode::InvalidRequest,
            ),
            ("grant_type=client_credentials&scope=admin", ErrorCode::InvalidScope),
            ("grant_type=client_credentials&scope=a%22", ErrorCode::InvalidScope),
            (
                "grant_type=client_credentials&resource=https://c.example",
                ErrorCode::InvalidTarget,
            ),
            ("grant_type=client_credentials&resource=api", ErrorCode::InvalidTarget),
            ("grant_type=client_credentials&scope=%00", ErrorCode::InvalidRequest),
            ("grant_type=client_credentials&scope=%ff", ErrorCode::InvalidRequest),
            ("grant_type=client_credentials\n", ErrorCode::InvalidRequest),
            (
                "grant_type=client_credentials&client_secret=a%0D%0A",
                ErrorCode::InvalidRequest,
            ),
        ] {
            assert_eq!(ask(body), Err(code), "{body}");
        }
        let client = Client {
            grants: Vec::new(),
            ..client()
        };
        assert_eq!(
            ask_as(&client, "grant_type=client_credentials"),
            Err(ErrorCode::UnauthorizedClient)
        );
    }
}
