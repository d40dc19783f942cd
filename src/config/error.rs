//! Why settings are refused.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::clock::Seconds;
use crate::jose::alg::Algorithm;
use crate::keys::policy::PolicyError;
use crate::text;
use crate::values::Issuer;

/// Settings that are refused. No message holds the value of a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable that is no setting.
    #[error("the environment has {name}, which is not a setting of Keyround{hint}")]
    UnknownVariable {
        /// Its name.
        name: String,
        /// What was probably meant.
        hint: String,
    },
    /// A section or field that is no setting.
    #[error("{path} has {name}, which is not a setting of Keyround{hint}", path = path.display())]
    UnknownField {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// What was probably meant.
        hint: String,
    },
    /// A flag for a setting that does not exist.
    #[error("a flag sets {name}, which is not a setting of Keyround{hint}")]
    UnknownFlag {
        /// Its name.
        name: String,
        /// What was probably meant.
        hint: String,
    },
    /// A variable with bytes that are no text.
    #[error("{variable} is not valid UTF-8 text")]
    NotUnicode {
        /// Its name.
        variable: String,
    },
    /// The file cannot be read.
    #[error("cannot read the settings in {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML, in line {line}: {why}; deploy/config.example.toml shows the form", path = path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        why: String,
    },
    /// A section is written as a value.
    #[error("{path} has a value for {name}, which is a section; write [{name}] and its fields below", path = path.display())]
    NotASection {
        /// The file.
        path: PathBuf,
        /// The section.
        name: String,
    },
    /// The layers, each sound, did not merge.
    #[error("the settings of the file, the environment and the flags could not be merged")]
    Unmerged,
    /// A value of the wrong type.
    #[error("{setting} is {found}, but must be {form}")]
    BadType {
        /// The name as it was written.
        setting: String,
        /// What was written, unless it may be secret.
        found: String,
        /// The right form.
        form: &'static str,
    },
    /// A value that its type refuses.
    #[error("{setting}{quoted} {why}")]
    BadValue {
        /// The name as it was written.
        setting: String,
        /// The value, unless it is secret.
        quoted: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A setting without a value.
    #[error("{setting} is not set, and has no default; {cure}")]
    Missing {
        /// Its name.
        setting: &'static str,
        /// How to set it.
        cure: String,
    },
    /// A secret and its file, both given.
    #[error("{setting} and {setting}_file are both set; keep one of them")]
    Both {
        /// The secret's name.
        setting: &'static str,
    },
    /// No master key.
    #[error(
        "there is no master key: set keys.master_key_file to a file made by `keyround master-key generate FILE`, or \
         keys.master_key (KEYROUND_KEYS__MASTER_KEY) to what `keyround master-key generate` prints"
    )]
    NoMasterKey,
    /// A secret's file cannot be read.
    #[error("cannot read {path}, which {setting} names: {source}", path = path.display())]
    SecretUnreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file of the master key does not exist.
    #[error(
        "{path}, which keys.master_key_file names, does not exist; if this is a new server, 'keyround master-key generate {shown}' makes \
         it. If the database has keys already, only the master key that sealed them opens them: put that file back, and make no new one",
        path = path.display(),
        shown = text::for_shell(&path.display().to_string())
    )]
    NoMasterKeyFile {
        /// The file.
        path: PathBuf,
    },
    /// A secret's file that others may read.
    #[error(
        "{path}, which {setting} names, has mode {mode:04o}: group or others may open it; {cure} (a mounted file of root's may have 0440 or \
         0640: in Kubernetes, defaultMode: 0440 and an fsGroup)",
        path = path.display()
    )]
    SecretExposed {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What to do.
        cure: String,
    },
    /// A secret's file that holds no secret.
    #[error("{path}, which {setting} names, {why}", path = path.display())]
    SecretRefused {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// An issuer without TLS that others are to reach.
    #[error(
        "server.issuer is {issuer}, which is not https; write an https URL, set server.behind_tls_proxy = true if a proxy ends \
         TLS in front, or use a loopback host (127.0.0.0/8, ::1, localhost)"
    )]
    IssuerNotHttps {
        /// The issuer.
        issuer: Issuer,
    },
    /// TLS for an issuer that nobody asks by TLS.
    #[error(
        "server.issuer is {issuer}, but server.tls_certificate_file makes server.listen speak TLS; write the issuer as an https \
         URL, or take server.tls_certificate_file and server.tls_key_file out"
    )]
    TlsForPlainIssuer {
        /// The issuer.
        issuer: Issuer,
    },
    /// Half a pair.
    #[error(
        "{given} is set, but {missing} is not; TLS needs server.tls_certificate_file and server.tls_key_file, plain http neither"
    )]
    HalfTls {
        /// The setting that is there.
        given: &'static str,
        /// The setting that is not.
        missing: &'static str,
    },
    /// A certificate or a key that cannot be served.
    #[error("{path}, which {setting} names, {why}", path = path.display())]
    TlsRefused {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A listener without TLS that others can reach.
    #[error(
        "server.listen is {address}, which is plain http beyond loopback; listen on a loopback address, set \
         server.behind_tls_proxy = true if a proxy ends TLS in front, or give server.listen a certificate by \
         server.tls_certificate_file and server.tls_key_file"
    )]
    PlainListener {
        /// Its address.
        address: SocketAddr,
    },
    /// An admin listener that others can reach.
    #[error(
        "server.admin_listen is {address}, which other machines can reach: it gives health and metrics to any caller, always in plain http \
         beyond loopback, also if server.listen has a certificate; listen on a loopback address such as 127.0.0.1:9090. Only behind a proxy \
         that ends TLS (server.behind_tls_proxy = true) may it be an address of a private network"
    )]
    OpenAdminListener {
        /// Its address.
        address: SocketAddr,
    },
    /// A proxy in front whose address is unknown.
    #[error(
        "server.listen speaks plain http behind a proxy that ends TLS, but server.trusted_proxies lists no proxy: every client would \
         have the proxy's address, and a few wrong passwords of one would lock out all; list the addresses that the proxy connects \
         from, such as server.trusted_proxies = [\"127.0.0.1\"] (KEYROUND_SERVER__TRUSTED_PROXIES=127.0.0.1), or end TLS here by \
         server.tls_certificate_file and server.tls_key_file"
    )]
    NoTrustedProxies,
    /// Two files in one place.
    #[error("{one} and {other} both name {path}, but one would overwrite the other; give each its own file", path = path.display())]
    SameFile {
        /// The setting that comes first in the table.
        one: &'static str,
        /// The other one.
        other: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Both listeners in one place.
    #[error("server.listen and server.admin_listen are both {0}; give each its own port")]
    SameListener(SocketAddr),
    /// One listener takes all addresses of the other's port.
    #[error(
        "server.listen is {0} and server.admin_listen {1}, and one of them takes the port of the other; give each its own port"
    )]
    OverlappingListeners(SocketAddr, SocketAddr),
    /// Tokens that would live longer than the longest.
    #[error(
        "tokens.access_token_ttl is {given}, but tokens.max_token_ttl is {longest}; shorten tokens.access_token_ttl or lengthen \
         tokens.max_token_ttl"
    )]
    TokenTooLong {
        /// What was written.
        given: Seconds,
        /// The most there is.
        longest: Seconds,
    },
    /// Tokens that would be born dead.
    #[error("tokens.access_token_ttl is 0s, but must be at least 1s")]
    TokenTooShort,
    /// A default that no key could sign with.
    #[error(
        "tokens.default_algorithm is {given}, which keys.algorithms does not enable; enable it there, or choose one of: {enabled}"
    )]
    AlgorithmNotEnabled {
        /// What was written.
        given: Algorithm,
        /// What is enabled.
        enabled: String,
    },
    /// An account setting out of its range.
    #[error("{setting} is {given}, but must be {needed}")]
    AccountsOutOfRange {
        /// The setting.
        setting: &'static str,
        /// What was written.
        given: String,
        /// What would be right.
        needed: String,
    },
    /// Two policies for gateways with one name.
    #[error("{setting} has two policies named '{name}'; write one, with several scope= or role= if they are needed")]
    RepeatedPolicy {
        /// The setting.
        setting: String,
        /// The name.
        name: String,
    },
    /// Cookies without protection where others could read them.
    #[error(
        "accounts.plain_http_cookies is true, but it is only for development on this very machine: server.issuer must be http on a \
         loopback host, and server.listen a loopback address; take it out"
    )]
    PlainHttpCookies,
    /// Two cookies of one name.
    #[error("{setting} makes a cookie called {name}, and so is {cookie}: a browser mixes them up; write another name")]
    SameCookie {
        /// The setting.
        setting: &'static str,
        /// The whole name.
        name: String,
        /// The other cookie.
        cookie: &'static str,
    },
    /// Access tokens that look like ID tokens.
    #[error(
        "accounts.audience and accounts.client_id are equal, and accounts.token_type is JWT: such an access token looks like an ID \
         token for that client; write another audience, or accounts.token_type = \"at+jwt\""
    )]
    AudienceIsClientId,
    /// Windows that break the promise.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}
