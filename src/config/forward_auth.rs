//! Section `forward_auth`: what gateways require of a token, by the name that they ask for.

use std::collections::BTreeSet;

use crate::accounts::user::Role;
use crate::text;
use crate::values::{Refusal, refuse};

use super::ConfigError;
use super::layers::Layers;

const POLICIES: &str = "forward_auth.policies";
const MAX_NAME: usize = 64;
/// The policy that there is without the setting.
const DEFAULT: &str = "default";

/// Section `forward_auth`. A visitor of a gateway can choose neither a policy nor a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAuth {
    policies: Vec<ForwardAuthPolicy>,
}

/// What a gateway requires of a token, asked for as `/auth/verify/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAuthPolicy {
    name: String,
    /// The token's `aud` must contain it.
    pub audience: String,
    /// The token must have every one of these scopes.
    pub scopes: Vec<String>,
    /// The person must have one of these roles; an empty list requires none.
    pub roles: Vec<String>,
}

impl ForwardAuth {
    /// The policy of this name, compared byte by byte.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&ForwardAuthPolicy> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    pub(super) fn read(layers: &Layers, default_audience: &str) -> Result<Self, ConfigError> {
        let policies = layers.list(POLICIES, |text| parse_policy(text, default_audience))?;
        let mut names = BTreeSet::new();
        for policy in &policies {
            if !names.insert(&policy.name) {
                return Err(ConfigError::RepeatedPolicy {
                    setting: layers.written_name(POLICIES),
                    name: policy.name.clone(),
                });
            }
        }
        Ok(Self { policies })
    }
}

/// Reads `NAME [audience=AUDIENCE] [scope=SCOPE]... [role=ROLE]...`.
fn parse_policy(text: &str, default_audience: &str) -> Result<ForwardAuthPolicy, Refusal> {
    let shown = text.escape_debug();
    let mut words = text.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    if !is_policy_name(name) {
        return refuse(format!(
            "holds '{shown}', which does not begin with a name of 1 to {MAX_NAME} lower-case letters, digits, - and _; write a \
             policy such as 'api audience=https://api.example.com role=admin'"
        ));
    }
    let mut policy = ForwardAuthPolicy {
        name: name.to_owned(),
        audience: default_audience.to_owned(),
        scopes: Vec::new(),
        roles: Vec::new(),
    };
    let mut has_audience = false;
    let mut requires = name == DEFAULT;
    for word in words {
        requires = true;
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let problem = match key {
            "audience" if has_audience => Some("names a second audience; write a policy for each audience"),
            "audience" if is_quoted(value) => {
                Some("has quotation marks around or within its audience, which would be a part of it; leave them out")
            }
            "audience" if text::is_audience(value) => {
                has_audience = true;
                value.clone_into(&mut policy.audience);
                None
            }
            "audience" => {
                Some("has an audience that is empty, too long, no URI or not printable ASCII, so that no token has it")
            }
            "scope" if is_scope(value) => {
                policy.scopes.push(value.to_owned());
                None
            }
            "scope" => {
                Some("has a scope that is empty or no scope of RFC 6749 section 3.3; write scope=NAME for each scope")
            }
            "role" if value.parse::<Role>().is_ok() => {
                policy.roles.push(value.to_owned());
                None
            }
            "role" => Some("has no role's name behind role=; a role has 1 to 64 letters, digits and -_.:"),
            _ => Some("has a word other than audience=, scope= and role="),
        };
        if let Some(problem) = problem {
            return refuse(format!("holds '{shown}', which {problem}"));
        }
    }
    if !requires {
        return refuse(format!(
            "holds '{shown}', a policy that requires nothing, as a value behind the wrong separator would be: repeat the word for several values \
             (role=admin role=owner), or write '{name} audience={default_audience}' if every token for that audience is to pass, of people and of clients; only the policy \
             '{DEFAULT}' may stand alone"
        ));
    }
    if !policy.scopes.is_empty() && !policy.roles.is_empty() {
        return refuse(format!(
            "holds '{shown}', which asks for a scope and a role, so that no token passes it: people's tokens have roles and no scope, clients' \
             tokens have scopes and no role; write a policy for each"
        ));
    }
    Ok(policy)
}

fn is_policy_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain)
}

/// An apostrophe may be within a URI (RFC 3986 section 2.2).
fn is_quoted(audience: &str) -> bool {
    const MARKS: [char; 8] = [
        '"', '\'', '`', '\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}',
    ];
    audience.contains('"') || audience.starts_with(MARKS) || audience.ends_with(MARKS)
}

/// RFC 6749 section 3.3.
fn is_scope(text: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    !text.is_empty() && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: &str = "https://id.example.com";

    fn parse(text: &str) -> Result<ForwardAuthPolicy, Refusal> {
        parse_policy(text, ACCOUNTS)
    }

    #[test]
    fn a_policy_is_a_name_and_what_it_requires() {
        let bare = parse("default").unwrap();
        assert_eq!(
            (bare.audience.as_str(), bare.scopes.len(), bare.roles.len()),
            (ACCOUNTS, 0, 0)
        );
        let full = parse("  api_2-b  scope=read audience=urn:x:a=b scope=write:all ").unwrap();
        assert_eq!(full.name, "api_2-b");
        assert_eq!(full.audience, "urn:x:a=b");
        assert_eq!(full.scopes, ["read", "write:all"]);
        let people = parse("people role=owner audience=urn:x role=admin").unwrap();
        assert_eq!((people.audience.as_str(), people.roles.len()), ("urn:x", 2));
        assert_eq!(people.roles, ["owner", "admin"]);
    }

    #[test]
    fn what_is_no_policy_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "does not begin with a name"),
            ("audience=https://api.example.com", "does not begin with a name"),
            ("API", "does not begin with a name"),
            ("a/b", "does not begin with a name"),
            ("a%2fb", "does not begin with a name"),
            ("..", "does not begin with a name"),
            ("api: scope=read", "does not begin with a name"),
            (&"a".repeat(65), "does not begin with a name"),
            ("api audience=", "an audience that is empty"),
            ("api audience", "an audience that is empty"),
            ("api audience=a audience=a", "a second audience"),
            ("api audience=\"https://api.example.com\"", "leave them out"),
            ("api audience='https://api.example.com'", "leave them out"),
            ("api audience=\"", "leave them out"),
            ("api audience=a\"b", "leave them out"),
            ("api audience=\u{201e}a\u{201c}", "leave them out"),
            ("api audience=\u{e4}", "not printable ASCII"),
            ("owner", "requires nothing"),
            ("owner ", "requires nothing"),
            ("api scope=", "no scope of RFC 6749"),
            ("api scope=\"read\"", "no scope of RFC 6749"),
            ("api role=", "no role's name"),
            ("api role=a|b", "no role's name"),
            ("api read", "a word other than"),
            ("api roles=admin", "a word other than"),
            ("api Role=admin", "a word other than"),
            ("api scope=read role=admin", "no token passes it"),
            ("default role=admin scope=read", "no token passes it"),
        ] {
            let refusal = parse(text).unwrap_err().to_string();
            assert!(refusal.contains(why), "{text}: {refusal}");
        }
    }
}
