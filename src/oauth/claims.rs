//! What a client is told of the person who logged in: by the scope (OpenID Connect Core 1.0 section 5.4), by the `claims` parameter (section
//! 5.5), and by its registration.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::accounts::user::User;

use super::error::OauthError;
use super::scope::Scope;

/// A claim about the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersonClaim {
    /// The name of the account.
    Name,
    /// Its e-mail address.
    Email,
    /// Whether the address was verified.
    EmailVerified,
}

/// The text names no claim about the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no claim about a person that this server knows")]
pub struct UnknownClaim;

impl FromStr for PersonClaim {
    type Err = UnknownClaim;

    fn from_str(name: &str) -> Result<Self, UnknownClaim> {
        let named = Self::ALL.into_iter().find(|claim| claim.name() == name);
        named.ok_or(UnknownClaim)
    }
}

impl PersonClaim {
    /// Every claim.
    pub const ALL: [Self; 3] = [Self::Name, Self::Email, Self::EmailVerified];

    /// Its registered name (section 5.1).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Email => "email",
            Self::EmailVerified => "email_verified",
        }
    }

    /// The scope that brings it (section 5.4).
    #[must_use]
    pub const fn scope(self) -> &'static str {
        match self {
            Self::Name => "profile",
            Self::Email | Self::EmailVerified => "email",
        }
    }
}

/// What these claims say of this user.
#[must_use]
pub fn person_claims(user: &User, claims: impl IntoIterator<Item = PersonClaim>) -> Map<String, Value> {
    let value = |claim| match claim {
        PersonClaim::Name => Value::from(user.name.as_str()),
        PersonClaim::Email => Value::from(user.email.to_string()),
        PersonClaim::EmailVerified => Value::from(user.email_verified_at.is_some()),
    };
    let told = claims.into_iter().map(|claim| (claim.name().to_owned(), value(claim)));
    told.collect()
}

/// The claims that this scope brings.
pub fn claims_of_scope(scope: &Scope) -> impl Iterator<Item = PersonClaim> {
    let is_brought = |claim: &PersonClaim| scope.contains(claim.scope());
    PersonClaim::ALL.into_iter().filter(is_brought)
}

/// Where the claims of the scopes `profile` and `email` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScopeClaims {
    /// At the userinfo endpoint (section 5.4).
    #[default]
    Userinfo,
    /// In ID tokens too, for programs that ask no userinfo endpoint, such as the Kubernetes API server.
    IdToken,
}

/// The text is neither of the two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claims of a scope are at 'userinfo' or in the 'id_token' too")]
pub struct UnknownPlace;

impl ScopeClaims {
    /// Every place.
    pub const ALL: [Self; 2] = [Self::Userinfo, Self::IdToken];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Userinfo => "userinfo",
            Self::IdToken => "id_token",
        }
    }
}

impl FromStr for ScopeClaims {
    type Err = UnknownPlace;

    fn from_str(name: &str) -> Result<Self, UnknownPlace> {
        let named = Self::ALL.into_iter().find(|place| place.name() == name);
        named.ok_or(UnknownPlace)
    }
}

/// The claim that lists the roles of the person for a client: its name, and whether it is an array or one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolesClaim {
    name: String,
    is_text: bool,
}

/// The text cannot be a claim of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a claim of roles is a name of 1 to 128 visible ASCII characters without quotes and backslashes that means nothing else, such as groups or \
     https://example.com/roles; with :text behind it, it is one text with spaces between the roles"
)]
pub struct InvalidRolesClaim;

impl RolesClaim {
    /// What asks for one text in place of an array.
    const TEXT: &str = ":text";
    /// Claims that mean something else (RFC 7519 section 4.1, OpenID Connect Core 1.0 sections 2 and 5.1, RFC 9068 section 2.2).
    const TAKEN: [&str; 36] = [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "auth_time",
        "nonce",
        "acr",
        "amr",
        "azp",
        "sid",
        "at_hash",
        "c_hash",
        "s_hash",
        "scope",
        "client_id",
        "tid",
        "grant_id",
        "cnf",
        "act",
        "may_act",
        "name",
        "given_name",
        "family_name",
        "middle_name",
        "nickname",
        "preferred_username",
        "profile",
        "picture",
        "email",
        "email_verified",
        "phone_number",
        "address",
        "updated_at",
    ];

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value for these roles.
    #[must_use]
    pub fn value<'r>(&self, roles: impl Iterator<Item = &'r str>) -> Value {
        if self.is_text {
            Value::from(roles.collect::<Vec<_>>().join(" "))
        } else {
            roles.map(Value::from).collect()
        }
    }
}

impl FromStr for RolesClaim {
    type Err = InvalidRolesClaim;

    fn from_str(text: &str) -> Result<Self, InvalidRolesClaim> {
        let name = text.strip_suffix(Self::TEXT);
        let (name, is_text) = name.map_or((text, false), |name| (name, true));
        let is_visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'\'');
        let fits = (1..=128).contains(&name.len()) && name.bytes().all(is_visible) && !Self::TAKEN.contains(&name);
        if fits {
            Ok(Self {
                name: name.to_owned(),
                is_text,
            })
        } else {
            Err(InvalidRolesClaim)
        }
    }
}

impl fmt::Display for RolesClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.is_text { Self::TEXT } else { "" })
    }
}

/// The longest `claims`, in octets.
const LONGEST: usize = 4_096;

/// What a request asks for by `claims`. A claim that is unknown here is left out, as section 5.5 wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedClaims {
    /// What the ID token is to say of the person.
    pub id_token: Vec<PersonClaim>,
    /// What the userinfo endpoint is to say.
    pub userinfo: Vec<PersonClaim>,
    /// The person that is expected.
    pub sub: Option<String>,
    /// The values of `acr` without which the client wants no answer (section 5.5.1.1).
    pub essential_acr: Option<Vec<String>>,
}

impl RequestedClaims {
    /// Reads the parameter.
    ///
    /// # Errors
    /// `invalid_request` when it is not what section 5.5 describes.
    pub fn parse(text: Option<&str>) -> Result<Self, OauthError> {
        let Some(text) = text else {
            return Ok(Self::default());
        };
        if text.len() > LONGEST {
            let description = format!("claims is longer than {LONGEST} octets");
            return Err(OauthError::invalid_request(&description));
        }
        let malformed = || {
            OauthError::invalid_request(
                "claims is a JSON object with the members id_token and userinfo, each an object of claims (OpenID Connect Core 1.0 section 5.5)",
            )
        };
        let all: Map<String, Value> = serde_json::from_str(text).map_err(|_| malformed())?;
        let of = |place: &str| match all.get(place) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(claims)) if claims.values().all(|claim| claim.is_null() || claim.is_object()) => {
                Ok(Some(claims))
            }
            Some(_) => Err(malformed()),
        };
        let (id_token, userinfo) = (of("id_token")?, of("userinfo")?);
        let value = |claims: Option<&Map<String, Value>>, name: &str| claims?.get(name)?.get("value").cloned();
        let sub = value(id_token, "sub").or_else(|| value(userinfo, "sub"));
        let acr = id_token
            .and_then(|claims| claims.get("acr"))
            .filter(|acr| is_essential(acr));
        Ok(Self {
            id_token: named(id_token),
            userinfo: named(userinfo),
            // What is no text names no person.
            sub: sub.map(|sub| sub.as_str().unwrap_or_default().to_owned()),
            essential_acr: acr.and_then(values),
        })
    }

    /// The scope that brings what is asked for.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let claims = self.id_token.iter().chain(&self.userinfo);
        claims.fold(Scope::default(), |scope, claim| scope.with(claim.scope()))
    }
}

fn named(claims: Option<&Map<String, Value>>) -> Vec<PersonClaim> {
    let is_asked = |claim: &PersonClaim| claims.is_some_and(|claims| claims.contains_key(claim.name()));
    PersonClaim::ALL.into_iter().filter(is_asked).collect()
}

fn is_essential(claim: &Value) -> bool {
    claim.get("essential") == Some(&Value::Bool(true))
}

/// The values that are asked for; none when any will do.
fn values(claim: &Value) -> Option<Vec<String>> {
    let one = claim.get("value").map(std::slice::from_ref);
    let all = claim.get("values").and_then(Value::as_array).map(Vec::as_slice);
    let texts = |values: &[Value]| values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    one.or(all).map(texts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<RequestedClaims, OauthError> {
        RequestedClaims::parse(Some(text))
    }

    #[test]
    fn what_is_asked_for_is_read_and_what_is_unknown_left_out() {
        let asked = parse(
            r#"{"userinfo": {"name": {"essential": true}, "given_name": null, "http://example.com/x": {"value": 7}},
                "id_token": {"email": null, "auth_time": {"essential": true}, "sub": {"value": "ada"},
                             "acr": {"essential": true, "values": ["2", "1"]}}, "other": 7}"#,
        )
        .unwrap();
        assert_eq!(asked.userinfo, [PersonClaim::Name]);
        assert_eq!(asked.id_token, [PersonClaim::Email]);
        assert_eq!(asked.sub.as_deref(), Some("ada"));
        assert_eq!(asked.essential_acr, Some(vec!["2".to_owned(), "1".to_owned()]));
        assert_eq!(asked.scope(), "email profile".parse().unwrap());
    }

    #[test]
    fn what_is_voluntary_is_not_insisted_on() {
        for acr in [
            "null",
            r#"{"values": ["2"]}"#,
            r#"{"essential": false, "value": "2"}"#,
            r#"{"essential": true}"#,
        ] {
            let asked = parse(&format!(r#"{{"id_token": {{"acr": {acr}}}}}"#)).unwrap();
            assert_eq!(asked.essential_acr, None, "{acr}");
        }
        assert_eq!(RequestedClaims::parse(None).unwrap(), RequestedClaims::default());
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let long = format!(r#"{{"id_token": {{"{}": null}}}}"#, "a".repeat(LONGEST));
        let deep = format!(r#"{{"id_token": {}"#, "[".repeat(2_000));
        for text in [
            "",
            "7",
            "[]",
            "{",
            r#"{"id_token": 7}"#,
            r#"{"userinfo": {"name": true}}"#,
            &long,
            &deep,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn roles_are_an_array_or_a_text_under_a_name_of_their_own() {
        let claim: RolesClaim = "groups".parse().unwrap();
        assert_eq!(
            (claim.name(), claim.value(["a", "b"].into_iter())),
            ("groups", json!(["a", "b"]))
        );
        let claim: RolesClaim = "https://example.com/roles:text".parse().unwrap();
        assert_eq!(claim.name(), "https://example.com/roles");
        assert_eq!(claim.value(["a", "b"].into_iter()), json!("a b"));
        assert_eq!(claim.to_string(), "https://example.com/roles:text");
        let long = "a".repeat(129);
        for taken in ["", ":text", "sub", "email:text", "a b", "a\"b", "ä", &long] {
            assert_eq!(taken.parse::<RolesClaim>(), Err(InvalidRolesClaim), "{taken}");
        }
    }
}
