//! Who a provider says that it is: one issuer, or the template of a directory service with an issuer for each directory.

use std::fmt;
use std::str::FromStr;

use url::Url;

use crate::jose::id_token::DIRECTORY;
use crate::text;

use super::https_url;

/// The place of a directory's id in the issuer of a multi-tenant directory service, as Microsoft Entra ID writes it in its metadata.
const PLACE: &str = DIRECTORY;

/// The directory at which the metadata for all of them is.
const EVERY: &str = "common";

/// The issuer of a provider, byte for byte as it calls itself (OpenID Connect Discovery section 4.3): an https URL without
/// query and fragment. A directory service has `{tenantid}` as a part of the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProviderIssuer(String);

/// The text cannot be an issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an issuer is an https URL without a user, a query and a fragment, such as https://accounts.google.com, or with {{tenantid}} as one \
     part of its path, such as https://login.microsoftonline.com/{{tenantid}}/v2.0"
)]
pub struct InvalidProviderIssuer;

/// Why an issuer is not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerMistake {
    /// It is none.
    #[error(transparent)]
    Form(#[from] InvalidProviderIssuer),
    /// Its host.
    #[error("the issuer {0}; give one such as https://accounts.google.com")]
    Host(&'static str),
    /// The place of the metadata.
    #[error(
        "this is where a provider's metadata is, not its issuer; give the member 'issuer' of that document, which is {0} or the same with a \
         slash at its end"
    )]
    Discovery(String),
    /// Several directories at once, which have no issuer.
    #[error(
        "'{word}' stands for many directories of Microsoft Entra ID, of which each has an issuer of its own; give {template} with \
         --directory ID for each one whose people may log in, or with --any-directory"
    )]
    ManyDirectories {
        /// The part of the path.
        word: &'static str,
        /// The issuer that was meant.
        template: String,
    },
    /// The directory of personal accounts, by a name that it does not call itself.
    #[error("'consumers' stands for the directory of personal Microsoft accounts, whose issuer is {0}; give that one")]
    Consumers(String),
}

/// Where a provider's metadata is, behind its issuer: OpenID Connect Discovery section 4, RFC 8414 section 3.
const WELL_KNOWN: &str = "/.well-known/";
const DISCOVERY: [&str; 2] = ["openid-configuration", "oauth-authorization-server"];

/// Names in the place of a directory's id that are none, at the directory service of Microsoft.
const MANY_DIRECTORIES: [&str; 2] = [EVERY, "organizations"];
const CONSUMERS: &str = "consumers";
/// The directory of personal Microsoft accounts.
const CONSUMERS_ID: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

/// The directory service in its clouds.
const MICROSOFT: [&str; 6] = [
    "microsoftonline.com",
    "microsoftonline.us",
    "microsoftonline.cn",
    "chinacloudapi.cn",
    "login.microsoft.com",
    "sts.windows.net",
];

impl ProviderIssuer {
    /// An issuer that an operator wants to register: neither the place of its metadata nor a name for many directories, with which no
    /// login could succeed.
    ///
    /// # Errors
    /// [`IssuerMistake`] says what would be right.
    pub fn to_register(issuer: &str) -> Result<Self, IssuerMistake> {
        let lower = issuer.to_ascii_lowercase();
        for place in DISCOVERY.map(|name| format!("{WELL_KNOWN}{name}")) {
            let Some(at) = lower.find(&place) else { continue };
            let behind = issuer[at + place.len()..].split(['?', '#']).next().unwrap_or_default();
            let meant = format!("{}{behind}", &issuer[..at]);
            let meant = Self::to_register(meant.strip_suffix('/').unwrap_or(&meant))?;
            return Err(IssuerMistake::Discovery(meant.0));
        }
        if let Some(fault) = text::url_fault(issuer) {
            return Err(IssuerMistake::Host(fault));
        }
        let parsed: Self = issuer.parse()?;
        let url = Url::parse(issuer).map_err(|_| InvalidProviderIssuer)?;
        if let Some(fault) = text::host_fault(&url) {
            return Err(IssuerMistake::Host(fault));
        }
        let host = url.host_str().unwrap_or_default();
        let is_of = |domain: &&str| {
            host.strip_suffix(*domain)
                .is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let path = url.path().trim_end_matches('/').to_ascii_lowercase();
        let mut parts = path.split('/').skip(1);
        let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let is_directory_service = MICROSOFT.iter().any(is_of) || (second, third) == (Some("v2.0"), None);
        let template = |directory: &str| format!("{}/{directory}/v2.0", url.origin().ascii_serialization());
        if is_directory_service && let Some(word) = MANY_DIRECTORIES.into_iter().find(|word| *word == first) {
            return Err(IssuerMistake::ManyDirectories {
                word,
                template: template(PLACE),
            });
        }
        if is_directory_service && first == CONSUMERS {
            return Err(IssuerMistake::Consumers(template(CONSUMERS_ID)));
        }
        Ok(parsed)
    }

    /// The issuer as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether each directory has an issuer of its own.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.0.contains(PLACE)
    }

    /// The issuer of one directory.
    #[must_use]
    pub fn of_directory(&self, directory: &str) -> String {
        self.0.replace(PLACE, directory)
    }

    /// Whether an answer that names this issuer may be the provider's (RFC 9207). The ID token says which directory it is from.
    #[must_use]
    pub fn may_be(&self, iss: &str) -> bool {
        match self.0.split_once(PLACE) {
            None => iss == self.0,
            Some((before, after)) => iss
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|directory| directory.parse::<DirectoryId>().is_ok()),
        }
    }

    /// Where its metadata is (OpenID Connect Discovery section 4).
    ///
    /// # Errors
    /// Never for an issuer that was parsed; the type does not show it.
    pub fn discovery_url(&self) -> Result<Url, InvalidProviderIssuer> {
        let base = self.of_directory(EVERY);
        let base = base.strip_suffix('/').unwrap_or(&base);
        Url::parse(&format!("{base}{WELL_KNOWN}{}", DISCOVERY[0])).map_err(|_| InvalidProviderIssuer)
    }
}

impl FromStr for ProviderIssuer {
    type Err = InvalidProviderIssuer;

    fn from_str(text: &str) -> Result<Self, InvalidProviderIssuer> {
        let places = text.split('/').skip(3).filter(|part| *part == PLACE).count();
        let braces = text.matches(['{', '}']).count();
        https_url(text)
            .filter(|url| url.query().is_none() && places <= 1 && braces == 2 * places)
            .map(|_| Self(text.to_owned()))
            .ok_or(InvalidProviderIssuer)
    }
}

impl fmt::Display for ProviderIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The id of one directory (`tid`): 1 to 64 of `A-Z a-z 0-9 -`, in lower case here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryId(String);

/// The text cannot be a directory's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a directory's id is 1 to 64 letters, digits and '-', such as 72f988bf-86f1-41af-91ab-2d7cd011db47")]
pub struct InvalidDirectoryId;

impl DirectoryId {
    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DirectoryId {
    type Err = InvalidDirectoryId;

    fn from_str(text: &str) -> Result<Self, InvalidDirectoryId> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(is_plain);
        fits.then(|| Self(text.to_ascii_lowercase())).ok_or(InvalidDirectoryId)
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The directories whose people may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directories {
    /// Any directory of the service, whoever runs it.
    Any,
    /// These alone.
    Listed(Vec<DirectoryId>),
}

impl Directories {
    /// Whether people of this directory may log in.
    #[must_use]
    pub fn admit(&self, directory: &DirectoryId) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(listed) => listed.contains(directory),
        }
    }
}

/// The text cannot say which directories there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("directories are '*' or ids separated by single spaces")]
pub struct InvalidDirectories;

impl FromStr for Directories {
    type Err = InvalidDirectories;

    fn from_str(text: &str) -> Result<Self, InvalidDirectories> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let ids: Result<_, _> = text.split(' ').map(str::parse).collect();
        ids.map(Self::Listed).map_err(|_| InvalidDirectories)
    }
}

impl fmt::Display for Directories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.pad("*"),
            Self::Listed(ids) => f.pad(&ids.iter().map(DirectoryId::as_str).collect::<Vec<_>>().join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_keeps_its_spelling_and_leads_to_its_metadata() {
        for (issuer, discovery) in [
            (
                "https://accounts.google.com",
                "https://accounts.google.com/.well-known/openid-configuration",
            ),
            (
                "https://a.example/",
                "https://a.example/.well-known/openid-configuration",
            ),
            (
                "https://a.example/tenant",
                "https://a.example/tenant/.well-known/openid-configuration",
            ),
            (
                "https://login.microsoftonline.com/{tenantid}/v2.0",
                "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration",
            ),
        ] {
            let parsed: ProviderIssuer = issuer.parse().unwrap();
            assert_eq!(parsed.as_str(), issuer);
            assert_eq!(parsed.discovery_url().unwrap().as_str(), discovery);
        }
        for bad in [
            "",
            "accounts.google.com",
            "http://accounts.google.com",
            "https://user@accounts.google.com",
            "https://accounts.google.com?a",
            "https://accounts.google.com#a",
            "https://accounts.google.com\n",
            "https://{tenantid}.example",
            "https://a.example/{tenantid}/{tenantid}",
            "https://a.example/x{tenantid}",
            "https://a.example/{tid}",
            "https://a.example/{",
        ] {
            assert_eq!(bad.parse::<ProviderIssuer>(), Err(InvalidProviderIssuer), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_issuer_of_anybody_is_not_registered() {
        for good in [
            "https://accounts.google.com",
            "https://a.example/",
            "https://a.example/common",
            "https://a.example/realms/common",
            "https://login.microsoftonline.com/{tenantid}/v2.0",
            "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
            "https://login.microsoftonline.com/commonwealth.example/v2.0",
        ] {
            assert_eq!(ProviderIssuer::to_register(good).unwrap().as_str(), good);
        }
        let template = "give https://login.microsoftonline.com/{tenantid}/v2.0 with --directory ID";
        for (bad, says) in [
            ("http://a.example", "an issuer is an https URL"),
            ("https://a..example", "a label that is empty"),
            ("https://-a.example/common/v2.0", "begins or ends with a hyphen"),
            (
                "https://a..example/.well-known/openid-configuration",
                "a label that is empty",
            ),
            (
                "https://a.example/.well-known/openid-configuration",
                "which is https://a.example or the same with",
            ),
            (
                "https://a.example/.well-known/openid-configuration/",
                "which is https://a.example or",
            ),
            (
                "https://a.example/x/.Well-Known/OpenID-Configuration?appid=1",
                "which is https://a.example/x or",
            ),
            (
                "https://a.example/.well-known/oauth-authorization-server/x",
                "which is https://a.example/x or",
            ),
            (
                "http://a.example/.well-known/openid-configuration",
                "an issuer is an https URL",
            ),
            ("https://login.microsoftonline.com/common/v2.0", template),
            ("https://login.microsoftonline.com/Common/v2.0/", template),
            ("https://login.microsoftonline.com/organizations", template),
            (
                "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration",
                template,
            ),
            ("https://LOGIN.microsoftonline.com/common/v2.0", template),
            (
                "https://login.microsoftonline.us/organizations/v2.0",
                "give https://login.microsoftonline.us/{tenantid}/v2.0",
            ),
            (
                "https://login.example/organizations/v2.0",
                "give https://login.example/{tenantid}/v2.0",
            ),
            (
                "https://login.microsoftonline.com/consumers/v2.0",
                "whose issuer is https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
            ),
        ] {
            let mistake = ProviderIssuer::to_register(bad).unwrap_err();
            let proposal = match &mistake {
                IssuerMistake::Discovery(meant) | IssuerMistake::Consumers(meant) => Some(meant),
                IssuerMistake::ManyDirectories { template, .. } => Some(template),
                IssuerMistake::Form(_) | IssuerMistake::Host(_) => None,
            };
            if let Some(proposal) = proposal {
                assert!(ProviderIssuer::to_register(proposal).is_ok(), "{bad}: {proposal}");
            }
            let mistake = mistake.to_string();
            assert!(mistake.contains(says), "{bad}: {mistake}");
        }
    }

    #[test]
    fn a_template_may_be_any_directory_of_the_service_and_nothing_else() {
        let issuer: ProviderIssuer = "https://login.example/{tenantid}/v2.0".parse().unwrap();
        assert!(issuer.may_be("https://login.example/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0"));
        for other in [
            "https://login.example/{tenantid}/v2.0",
            "https://login.example//v2.0",
            "https://login.example/a/b/v2.0",
            "https://login.example/a/v2.0/",
            "https://login.example.evil/a/v2.0",
        ] {
            assert!(!issuer.may_be(other), "{other}");
        }
        let plain: ProviderIssuer = "https://id.example".parse().unwrap();
        assert!(plain.may_be("https://id.example") && !plain.may_be("https://id.example/"));
    }

    #[test]
    fn directories_are_any_or_listed() {
        assert_eq!("*".parse(), Ok(Directories::Any));
        let listed: Directories = "A-1 b".parse().unwrap();
        assert_eq!(listed.to_string(), "a-1 b");
        assert!(listed.admit(&"a-1".parse().unwrap()) && !listed.admit(&"a".parse().unwrap()));
        for bad in ["", " ", "a  b", "a/b", "*  ", "* a"] {
            assert_eq!(bad.parse::<Directories>(), Err(InvalidDirectories), "{bad:?}");
        }
    }
}
