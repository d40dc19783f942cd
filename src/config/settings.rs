//! The one table of settings. The check for unknown names, the example file, the table of docs/reference/settings.md and `config show` all
//! come from it.

use std::fmt::Write as _;

/// One setting: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The section of the file.
    pub section: &'static str,
    /// The field in that section.
    pub field: &'static str,
    /// What holds when nobody says otherwise.
    pub preset: Preset,
    /// What its value looks like.
    pub kind: SettingKind,
    /// Whether its value must never be shown.
    pub secret: bool,
    /// Why one would change it, in one line.
    pub reason: &'static str,
}

/// What holds when nobody says otherwise, as TOML text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// This value.
    Default(&'static str),
    /// Nothing; a value would look like this one.
    Unset(&'static str),
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    /// The URL that names this server.
    Issuer,
    /// An IP address with a port.
    Address,
    /// IP networks or addresses.
    Networks,
    /// Yes or no.
    Flag,
    /// The URL of a database.
    Database,
    /// The path of a file.
    File,
    /// A text that only the process may know.
    Secret,
    /// Names of signature algorithms.
    Algorithms,
    /// The name of one signature algorithm.
    Algorithm,
    /// A length of time.
    Duration,
    /// A whole number.
    Count,
    /// The name of a client.
    ClientId,
    /// The URI of a resource.
    Resource,
    /// The origins of web pages.
    Origins,
    /// What gateways require of a token, by name.
    Policies,
    /// The name of a cookie, without a prefix.
    Cookie,
    /// The function that passwords are hashed with.
    PasswordFunction,
    /// The `typ` of access tokens.
    TokenType,
    /// So many at once, and so many more in a length of time.
    Rate,
    /// The form of a log line.
    LogFormat,
    /// Which log lines are written.
    LogFilter,
}

/// What a value is in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A boolean.
    Flag,
    /// An integer.
    Count,
    /// An array of strings.
    List,
}

impl SettingKind {
    /// The right form of a value, as the end of a sentence.
    #[must_use]
    pub const fn form(self) -> &'static str {
        match self {
            Self::Issuer => "a URL without query, fragment or trailing slash, such as \"https://id.example.com\"",
            Self::Address => "an IP address with a port, such as \"127.0.0.1:8080\"",
            Self::Networks => "a list of IP networks or addresses, such as [\"10.0.0.0/8\", \"192.168.1.7\"]",
            Self::Flag => "true or false",
            Self::Database => "\"sqlite:PATH\" or \"postgres://USER:PASSWORD@HOST/DATABASE\"",
            Self::File => "the path of a file",
            Self::Secret => "a text",
            Self::Algorithms => "a list of RS256 and ES256",
            Self::Algorithm => "RS256 or ES256",
            Self::Duration => "a length of time such as \"30d\", \"24h\", \"5m\", \"10s\" or \"1h30m\"",
            Self::Count => "a whole number",
            Self::ClientId => "visible ASCII characters without a space, such as \"first-party\"",
            Self::Resource => "a name or a URI without a fragment, such as \"https://api.example.com\"",
            Self::Origins => "a list of origins, such as [\"https://app.example.com\"]",
            Self::Policies => "a list of policies, such as [\"api audience=https://api.example.com role=admin\"]",
            Self::Cookie => "letters, digits, - and _, such as \"keyround-refresh\"",
            Self::PasswordFunction => "\"bcrypt\" or \"argon2id\"",
            Self::TokenType => "\"at+jwt\" or \"JWT\"",
            Self::Rate => "a number and a length of time, such as \"20/1h\"",
            Self::LogFormat => "\"text\" or \"json\"",
            Self::LogFilter => "a filter such as \"info\" or \"info,keyround=debug\"",
        }
    }

    /// What a value of this kind is in TOML.
    #[must_use]
    pub const fn shape(self) -> Shape {
        match self {
            Self::Flag => Shape::Flag,
            Self::Count => Shape::Count,
            Self::Networks | Self::Algorithms | Self::Origins | Self::Policies => Shape::List,
            _ => Shape::Text,
        }
    }
}

impl Setting {
    /// The name in sentences: `keys.rotation_period`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.field)
    }

    /// The name in the environment: `KEYROUND_KEYS__ROTATION_PERIOD`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("KEYROUND_{}__{}", self.section, self.field).to_uppercase()
    }

    /// A value as TOML text: the default, or one that shows the form.
    #[must_use]
    pub const fn example(&self) -> &'static str {
        match self.preset {
            Preset::Default(value) | Preset::Unset(value) => value,
        }
    }

    /// The default as TOML text, if there is one.
    #[must_use]
    pub const fn default(&self) -> Option<&'static str> {
        match self.preset {
            Preset::Default(value) => Some(value),
            Preset::Unset(_) => None,
        }
    }
}

const fn row(
    section: &'static str,
    field: &'static str,
    preset: Preset,
    kind: SettingKind,
    secret: bool,
    reason: &'static str,
) -> Setting {
    Setting {
        section,
        field,
        preset,
        kind,
        secret,
        reason,
    }
}

use Preset::{Default, Unset};

/// Every setting, in the order of the file.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row("server", "issuer", Unset(r#""https://id.example.com""#), SettingKind::Issuer, false, "The `iss` of every token and the base of every URL: what verifiers are set up with, byte for byte. Required."),
    row("server", "listen", Default(r#""127.0.0.1:8080""#), SettingKind::Address, false, "Where the public endpoints are served: in plain HTTP, or in HTTPS with `server.tls_certificate_file`."),
    row("server", "admin_listen", Default(r#""127.0.0.1:9090""#), SettingKind::Address, false, "Where health and metrics are served, always in plain HTTP; not for the public."),
    row("server", "tls_certificate_file", Unset(r#""/etc/keyround/tls/fullchain.pem""#), SettingKind::File, false, "The certificate of `server.listen` and its chain, in PEM; taken anew when the file changes. With `server.tls_key_file`."),
    row("server", "tls_key_file", Unset(r#""/etc/keyround/tls/privkey.pem""#), SettingKind::File, false, "The certificate's private key (mode 0600), in PEM and not encrypted."),
    row("server", "behind_tls_proxy", Default("false"), SettingKind::Flag, false, "Says that a proxy ends TLS in front, so that plain HTTP may be served beyond loopback. Otherwise such a listener needs a certificate; if the issuer is on loopback, it is served with a warning."),
    row("server", "trusted_proxies", Default("[]"), SettingKind::Networks, false, "The addresses or networks that your proxies connect from: their `X-Forwarded-For` names the client. Required where a proxy ends TLS."),
    row("server", "max_connections", Default("4096"), SettingKind::Count, false, "The most connections of the public listener; beyond it one without a request under way ends for a new one. Less where fewer files may be open."),
    row("server", "max_connections_per_address", Default("256"), SettingKind::Count, false, "The most of them from one address (an IPv6 /64) that is not in `server.trusted_proxies`."),
    row("server", "max_header_bytes", Default("32768"), SettingKind::Count, false, "The longest request headers that are read, names and values together, from 8192 to 65536 bytes; browsers send the cookies of other applications too."),
    row("server", "shutdown_delay", Default(r#""5s""#), SettingKind::Duration, false, "How long a server that was told to stop says so at `/readyz` and still serves, so that load balancers send it nothing more; at most 5m. `--dev` sets it to 0s."),
    row("outbound", "allowed_networks", Default("[]"), SettingKind::Networks, false, "Private networks that are connected to for the key sets of clients (`jwks_uri`) and for OpenID providers; without, only public addresses are."),
    row("outbound", "ca_file", Unset(r#""/etc/keyround/private-ca.pem""#), SettingKind::File, false, "Certificates in PEM that are trusted beside the system's, for key sets of clients and for OpenID providers."),
    row("database", "url", Default(r#""sqlite:data/keyround.db""#), SettingKind::Database, true, "Where keys and clients are kept: a file for one node, PostgreSQL for several."),
    row("database", "url_file", Unset(r#""/run/secrets/keyround_database_url""#), SettingKind::File, false, "A file (mode 0600) with the URL, instead of `database.url`: for a URL with a password."),
    row("keys", "algorithms", Default(r#"["RS256", "ES256"]"#), SettingKind::Algorithms, false, "The algorithms that are enabled, each with its own line of keys."),
    row("keys", "rotation_period", Default(r#""30d""#), SettingKind::Duration, false, "From one key's first signature to its successor's."),
    row("keys", "prepublish", Default(r#""24h""#), SettingKind::Duration, false, "How long a key is published before its first signature: the time verifiers have to notice it."),
    row("keys", "verifier_cache", Default(r#""30m""#), SettingKind::Duration, false, "The longest time a verifier may use a cached key set, whatever `max-age` says."),
    row("keys", "jwks_max_age", Default(r#""5m""#), SettingKind::Duration, false, "The `max-age` of the key set."),
    row("keys", "replica_refresh", Default(r#""5s""#), SettingKind::Duration, false, "Within this time every node follows a change in the database."),
    row("keys", "snapshot_max_age", Default(r#""30s""#), SettingKind::Duration, false, "A node that has not read the database for this long stops signing."),
    row("keys", "clock_skew", Default(r#""60s""#), SettingKind::Duration, false, "The largest difference between any two machines' clocks."),
    row("keys", "verifier_leeway", Default(r#""5m""#), SettingKind::Duration, false, "How long past its expiry a verifier may accept a token."),
    row("keys", "verify_window", Unset(r#""2h""#), SettingKind::Duration, false, "How long a superseded key stays published; derived when unset, and may only be lengthened."),
    row("keys", "max_published", Default("16"), SettingKind::Count, false, "The most keys in the set (at most 100): some caches hold no more."),
    row("keys", "max_set_bytes", Default("8192"), SettingKind::Count, false, "The most bytes in the set: some gateways read no more."),
    row("keys", "master_key", Unset(r#""32 random bytes in base64""#), SettingKind::Secret, true, "Seals private keys in the database; `keyround master-key generate` makes one. Several may stand there, one a line: the first seals, all open. This or `keys.master_key_file` is required."),
    row("keys", "master_key_file", Unset(r#""/run/secrets/keyround_master_key""#), SettingKind::File, false, "A file (mode 0600) with the master key, or several, one a line, instead of `keys.master_key`."),
    row("keys", "ledger_file", Unset(r#""/var/lib/keyround/revoked-kids""#), SettingKind::File, false, "A file that remembers revoked keys, which a database set back to an old backup forgets. Its folder must be writable, and must not be restored with the database. When unset: `revoked-kids` beside an SQLite file; with PostgreSQL beside `keys.master_key_file`, or none."),
    row("keys", "rsa_bits", Default("2048"), SettingKind::Count, false, "The size of new RSA keys: 2048, 3072 or 4096; larger ones sign more slowly."),
    row("tokens", "access_token_ttl", Default(r#""10m""#), SettingKind::Duration, false, "How long an access token lives when its client says nothing else."),
    row("tokens", "max_token_ttl", Default(r#""1h""#), SettingKind::Duration, false, "The longest that any client may ask for; superseded keys stay published at least this long."),
    row("tokens", "default_algorithm", Default(r#""RS256""#), SettingKind::Algorithm, false, "For clients without an algorithm of their own; RS256, because some gateways take nothing else."),
    row("accounts", "enabled", Default("true"), SettingKind::Flag, false, "Whether people have accounts here: the endpoints below `/auth`, and refresh tokens."),
    row("accounts", "client_id", Default(r#""first-party""#), SettingKind::ClientId, false, "The `client_id` in the tokens of people who log in at `/auth`; no registered client may have it."),
    row("accounts", "audience", Unset(r#""https://api.example.com""#), SettingKind::Resource, false, "The `aud` of those tokens; the issuer when unset."),
    row("accounts", "access_token_ttl", Default(r#""10m""#), SettingKind::Duration, false, "How long their access tokens live, at most 15m: that long a service that verifies offline believes a session that has ended."),
    row("accounts", "token_type", Default(r#""at+jwt""#), SettingKind::TokenType, false, "The `typ` of those tokens: `at+jwt` (RFC 9068), or `JWT` for services that accept nothing else, such as Spring Security by default. With `JWT` no `client_id` may equal `accounts.audience`."),
    row("accounts", "session_idle", Default(r#""7d""#), SettingKind::Duration, false, "A session that was not refreshed for this long has ended."),
    row("accounts", "session_absolute", Default(r#""7d""#), SettingKind::Duration, false, "A session ends this long after its login, however often it is refreshed; at most 90d."),
    row("accounts", "refresh_grace", Default(r#""30s""#), SettingKind::Duration, false, "How long a refresh token may come again after its first use, for a lost answer or a second tab; at most 60s. Later it counts as stolen."),
    row("accounts", "max_sessions", Default("100"), SettingKind::Count, false, "The most sessions of one account; beyond it a login ends the one that was not used for longest."),
    row("accounts", "registration", Default("true"), SettingKind::Flag, false, "Whether people may register by themselves; without, `keyround users create` makes accounts."),
    row("accounts", "reveal_taken_email", Default("false"), SettingKind::Flag, false, "Whether registration says that an e-mail address is taken. Kinder to who forgot the account, and tells everybody who has one."),
    row("accounts", "password_min_length", Default("8"), SettingKind::Count, false, "The least characters of a new password, from 8 to 64; 15 where nothing else protects an account."),
    row("accounts", "password_hash", Default(r#""bcrypt""#), SettingKind::PasswordFunction, false, "What new passwords are hashed with: `bcrypt` or `argon2id`. A password that is hashed otherwise is hashed again at its next login."),
    row("accounts", "bcrypt_cost", Default("12"), SettingKind::Count, false, "The cost of bcrypt, from 4 to 15; each step doubles the time of a login. When it rises, each password follows at its next login."),
    row("accounts", "hashing_queue", Default("100"), SettingKind::Count, false, "How many logins may wait for a core; more are told to come again later."),
    row("accounts", "limit_address", Default(r#""150/1h""#), SettingKind::Rate, false, "How many wrong passwords may come from one address (an IPv6 /64), at once and then in each such time; those being checked count too."),
    row("accounts", "limit_account", Default(r#""20/1h""#), SettingKind::Rate, false, "How many for one account from all addresses together, except those at which it was logged in to within 30 days."),
    row("accounts", "limit_address_and_account", Default(r#""5/15m""#), SettingKind::Rate, false, "How many for one account from one address."),
    row("accounts", "refresh_limit_session", Default(r#""128/2m""#), SettingKind::Rate, false, "How often one session may be refreshed at one node; 64 tabs at once are honest."),
    row("accounts", "refresh_limit_address", Default(r#""6000/1m""#), SettingKind::Rate, false, "How often sessions may be refreshed from one address at one node; many people may share it."),
    row("accounts", "allowed_origins", Default("[]"), SettingKind::Origins, false, "Web pages of other origins that may call `/auth` with cookies (CORS), each written out; a page must also be of the same site."),
    row("accounts", "refresh_cookie", Default(r#""keyround-refresh""#), SettingKind::Cookie, false, "The name of the cookie with the refresh token, behind its prefix `__Secure-`."),
    row("accounts", "csrf_cookie", Default(r#""keyround-csrf""#), SettingKind::Cookie, false, "The name of the cookie against forged requests, behind its prefix `__Host-`."),
    row("accounts", "plain_http_cookies", Default("false"), SettingKind::Flag, false, "For development: cookies without prefixes and without `Secure`. Only where issuer and listener are plain HTTP on loopback; `--dev` sets it there."),
    row("forward_auth", "policies", Default(r#"["default"]"#), SettingKind::Policies, false, "What gateways require of a token: `NAME audience=AUDIENCE scope=SCOPE role=ROLE`, asked as `/auth/verify/NAME`. Without an audience, that of the accounts; every `scope=` is required, and one of several `role=`. People's tokens have roles and no scope; clients' have scopes and no roles."),
    row("log", "format", Default(r#""text""#), SettingKind::LogFormat, false, "`text` for people, `json` for collectors."),
    row("log", "filter", Default(r#""info,actix_server=warn""#), SettingKind::LogFilter, false, "Which lines are written: a level, or levels by module as in `info,keyround=debug`."),
];

/// The row of a setting, by its name in sentences.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name() == name)
}

/// The table as TOML, one line a setting; `line` answers what to write for each.
pub(super) fn toml(mut line: impl FnMut(&'static Setting) -> String) -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
        }
        text.push_str(&line(setting));
    }
    text
}

/// The defaults as a TOML file.
pub(super) fn defaults() -> String {
    toml(|setting| match setting.preset {
        Default(value) => format!("{} = {value}\n", setting.field),
        Unset(_) => String::new(),
    })
}

/// `deploy/config.example.toml`: every setting with its default and its reason.
#[must_use]
pub fn example_file() -> String {
    let head = "# Every setting of Keyround with its default. What has none is commented out and shows the form of a value; so is `database.url`,\n\
                # which is given by one of two settings.\n\
                # The environment overrides this file: keys.rotation_period is KEYROUND_KEYS__ROTATION_PERIOD there.\n\
                # Lists are comma separated in the environment, forward_auth.policies by semicolons. A name that is not in this file is refused.\n\n";
    let body = toml(|setting| {
        let value = match setting.preset {
            // Beside the other of the two it would be one too many.
            Default(value) if setting.name() == "database.url" => format!("# {} = {value}", setting.field),
            Default(value) => format!("{} = {value}", setting.field),
            Unset(example) => format!("# {} = {example}", setting.field),
        };
        format!("# {}\n{value}\n", setting.reason)
    });
    format!("{head}{body}")
}

/// The table of docs/reference/settings.md, in Markdown.
#[must_use]
pub fn markdown_table() -> String {
    let mut table = "| setting | default | why |\n|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let default = setting
            .default()
            .map_or("none".to_owned(), |value| format!("`{value}`"));
        let _ = writeln!(table, "| `{}` | {default} | {} |", setting.name(), setting.reason);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/config.example.toml");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        if written != example_file() {
            let proposal = concat!(env!("CARGO_MANIFEST_DIR"), "/target/config.example.toml");
            std::fs::write(proposal, example_file()).unwrap();
            panic!("deploy/config.example.toml is out of date; copy target/config.example.toml over it");
        }
    }

    #[test]
    fn the_example_file_is_toml_and_holds_the_defaults() {
        let example: toml::Table = example_file().replace("\n# url =", "\nurl =").parse().unwrap();
        let defaults: toml::Table = defaults().parse().unwrap();
        assert_eq!(example, defaults);
        let uncommented = example_file().replace("\n# ", "\n#").replace("\n#", "\n# ");
        for setting in SETTINGS {
            assert!(
                uncommented.contains(&format!("{} = ", setting.field)),
                "{}",
                setting.name()
            );
        }
    }

    #[test]
    fn every_example_of_an_unset_value_is_toml_too() {
        for setting in SETTINGS {
            if let Unset(example) = setting.preset {
                assert!(
                    format!("x = {example}").parse::<toml::Table>().is_ok(),
                    "{}",
                    setting.name()
                );
            }
        }
    }

    #[test]
    fn the_markdown_table_has_a_row_a_setting() {
        assert_eq!(markdown_table().lines().count(), SETTINGS.len() + 2);
        assert!(markdown_table().contains("| `keys.rotation_period` | `\"30d\"` | "));
    }

    #[test]
    fn names_are_unique_and_every_secret_has_its_file() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..index].iter().all(|other| other.name() != setting.name()));
            assert!(!setting.secret || find(&format!("{}_file", setting.name())).is_some());
        }
    }
}
