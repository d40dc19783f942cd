//! Which database: a file, memory or a server, with the password that its URL may hold.

use std::fmt;
use std::net::Ipv6Addr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use url::Url;

use super::{Refusal, SecretText, check_path, refuse};

/// Where rows are kept. `Display` and `Debug` hide the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// The embedded database in a file.
    Sqlite {
        /// The file, relative to the working directory.
        path: PathBuf,
    },
    /// The embedded database in memory: gone when the process ends.
    SqliteInMemory,
    /// A PostgreSQL server.
    Postgres(PostgresUrl),
}

/// The URL of a PostgreSQL database on one or more servers, with the password that it may hold.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    text: SecretText,
    shown: String,
    holds_password: bool,
    servers: Vec<PostgresServer>,
    connect_timeout: Option<Duration>,
    files: Vec<(String, PathBuf)>,
}

/// One of the servers of a URL.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresServer {
    /// Its host and port, for people.
    pub name: String,
    url: SecretText,
}

impl PostgresServer {
    /// A URL of this server alone with its password, for the driver alone.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.url.reveal()
    }
}

impl PostgresUrl {
    /// The URL with its password, as it was written.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.text.reveal()
    }

    /// Whether it holds a password.
    #[must_use]
    pub const fn holds_password(&self) -> bool {
        self.holds_password
    }

    /// The servers, in the order of the URL.
    #[must_use]
    pub fn servers(&self) -> &[PostgresServer] {
        &self.servers
    }

    /// The files that its options name, with the options.
    #[must_use]
    pub fn files(&self) -> &[(String, PathBuf)] {
        &self.files
    }

    /// How long one server may take to accept a connection, where the URL says so.
    #[must_use]
    pub const fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Database {
    /// The role that the URL names.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        let Self::Postgres(url) = self else { return None };
        let (_, rest) = url.shown.split_once("://")?;
        let (user, _) = rest.split(['/', '?']).next()?.rsplit_once('@')?;
        user.split(':').next().filter(|role| !role.is_empty())
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path } => write!(f, "sqlite:{}", path.display()),
            Self::SqliteInMemory => f.write_str("sqlite::memory:"),
            Self::Postgres(url) => f.write_str(&url.shown),
        }
    }
}

impl FromStr for Database {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        match text.split_once(':') {
            Some(("sqlite", rest)) => parse_sqlite(rest),
            Some(("postgres" | "postgresql", _)) => parse_postgres(text),
            _ => Err(other_database(text)),
        }
    }
}

/// What is wrong with the beginning of a text that is no URL of a database of ours. Nothing behind the scheme is repeated.
fn other_database(text: &str) -> Refusal {
    const FORMS: &str = "write sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE";
    const OTHERS: [(&str, &str); 12] = [
        ("mysql", "MySQL"),
        ("mysql2", "MySQL"),
        ("mariadb", "MariaDB"),
        ("mssql", "SQL Server"),
        ("sqlserver", "SQL Server"),
        ("oracle", "Oracle"),
        ("mongodb", "MongoDB"),
        ("mongodb+srv", "MongoDB"),
        ("redis", "Redis"),
        ("rediss", "Redis"),
        ("cockroachdb", "CockroachDB"),
        ("cockroach", "CockroachDB"),
    ];
    let scheme = text.split(':').next().unwrap_or_default();
    let lower = scheme.to_ascii_lowercase();
    let is_dsn = text.split_whitespace().any(|word| {
        ["host=", "hostaddr=", "dbname=", "user=", "password="]
            .iter()
            .any(|option| word.starts_with(option))
    });
    let why = if text.trim().is_empty() {
        "is empty".to_owned()
    } else if is_dsn {
        "is a list of options as libpq reads it, and not a URL".to_owned()
    } else if text.starts_with(char::is_whitespace) {
        "begins with white space".to_owned()
    } else if !text.contains(':') {
        "has no scheme, and so names neither SQLite nor PostgreSQL".to_owned()
    } else if let Some((_, name)) = OTHERS.iter().find(|(other, _)| *other == lower) {
        format!("is the URL of {name}, which Keyround does not use")
    } else if lower == "jdbc" {
        "is a URL of JDBC; take 'jdbc:' away".to_owned()
    } else if matches!(lower.as_str(), "http" | "https") {
        "is the address of a web page".to_owned()
    } else if matches!(lower.as_str(), "sqlite" | "postgres" | "postgresql") {
        format!("has a scheme in capitals; write {lower}:")
    } else if lower.starts_with("postgres") || matches!(lower.as_str(), "pg" | "pgsql" | "psql") {
        "has a scheme that is meant for another program; the scheme is postgres".to_owned()
    } else if lower.starts_with("sqlite") || matches!(lower.as_str(), "file" | "sql") {
        "has a scheme that is meant for another program; the scheme of a file is sqlite".to_owned()
    } else {
        "has another scheme than sqlite and postgres".to_owned()
    };
    Refusal(format!("{why}; {FORMS}"))
}

fn parse_sqlite(rest: &str) -> Result<Database, Refusal> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path == ":memory:" {
        return refuse(
            "is a database in memory, which no command could see and whose keys would be gone when the server stops; write sqlite:PATH, \
             or try Keyround by 'keyround serve --dev'",
        );
    }
    if path.is_empty() {
        return refuse("names no file; write one such as sqlite:data/keyround.db");
    }
    check_path(path)?;
    if path.contains("://") {
        return refuse("is another URL after sqlite:; write sqlite:PATH, or the URL of PostgreSQL alone");
    }
    if path.contains(['?', '#', '\0']) {
        return refuse("has parameters, but Keyround sets SQLite's own; write sqlite:PATH alone");
    }
    let folder = path.trim_end_matches('/');
    if folder.len() < path.len() || Path::new(path).is_dir() {
        return refuse(format!(
            "names a folder; write the file in it, such as sqlite:{}/keyround.db",
            folder.escape_debug()
        ));
    }
    Ok(Database::Sqlite { path: path.into() })
}

/// The options that the driver knows, by libpq's names; those of its own are aliases, or bound its caches.
const OPTIONS: [&str; 20] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "target_session_attrs",
    "user",
];
/// The options that name a file.
const FILE_OPTIONS: [&str; 7] = [
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslrootcert",
];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
const DEFAULT_PORT: &str = "5432";

fn parse_postgres(text: &str) -> Result<Database, Refusal> {
    // `Url` knows no list of hosts, so that part is taken out for it.
    let Some((scheme, rest)) = text.split_once("://") else {
        return refuse("lacks the '//' behind its scheme; write postgres://USER:PASSWORD@HOST/DATABASE");
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let with_host = |host: &str, tail: &str| format!("{scheme}://{user}{host}{tail}");
    let one_host = if authority.is_empty() { "" } else { "host.invalid" };
    let Ok(mut url) = Url::parse(&with_host(one_host, tail)) else {
        return Err(not_a_url(hosts));
    };
    for host in hosts.split(',') {
        refuse_bare_address(host)?;
    }
    // An unencoded password would be taken for a path, and shown.
    if url.fragment().is_some()
        || url.path().contains(['@', ':'])
        || url.query().is_some_and(|query| query.contains('@'))
    {
        return refuse("holds an unencoded '#', '@', ':', '/' or '?'; in a password write %23, %40, %3A, %2F or %3F");
    }
    let options: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let option = |name: &str| {
        let found = options.iter().rev().find(|(option, _)| option == name);
        found.map(|(_, value)| value.as_str())
    };
    if url.path().trim_start_matches('/').is_empty() && option("dbname").is_none() {
        return refuse("names no database; write postgres://USER:PASSWORD@HOST/DATABASE");
    }
    check_options(&options)?;
    let connect_timeout = option("connect_timeout")
        .map(|seconds| match seconds.parse::<u64>() {
            Ok(seconds) if (1..=60).contains(&seconds) => Ok(Duration::from_secs(seconds)),
            _ => refuse("has a connect_timeout that is not 1 to 60 seconds"),
        })
        .transpose()?;
    let hosts = hosts_of(hosts, option("hostaddr").or_else(|| option("host")), option("port"))?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let ours = ["host", "hostaddr", "port", "target_session_attrs", "connect_timeout"];
    for (name, value) in options.iter().filter(|(name, _)| !ours.contains(&name.as_str())) {
        query.append_pair(name, value);
    }
    let query = query.finish();
    let files = options
        .iter()
        .filter(|(name, _)| FILE_OPTIONS.contains(&name.as_str()))
        .map(|(name, path)| (name.clone(), PathBuf::from(path)))
        .collect::<Vec<_>>();
    for (name, path) in &files {
        check_path(&path.to_string_lossy())
            .map_err(|Refusal(why)| Refusal(format!("has the option {name}, whose path {why}")))?;
    }
    refuse_pipes(&files)?;
    let servers = hosts
        .into_iter()
        .map(|(host, port)| {
            // A folder of sockets is written as an option.
            let url = if host.starts_with('/') {
                let mut socket = url::form_urlencoded::Serializer::new(query.clone());
                socket.append_pair("host", &host).append_pair("port", &port);
                with_host("localhost", &format!("{}?{}", url.path(), socket.finish()))
            } else {
                with_host(&format!("{host}:{port}"), &format!("{}?{query}", url.path()))
            };
            let Ok(_) = Url::parse(&url) else {
                return refuse("names a host that is neither a name, an address nor a folder of sockets");
            };
            Ok(PostgresServer {
                name: if host.starts_with('/') {
                    host
                } else {
                    format!("{host}:{port}")
                },
                url: SecretText::new(url.as_str()),
            })
        })
        .collect::<Result<Vec<_>, Refusal>>()?;
    let holds_password = url.password().is_some() || option("password").is_some();
    // These cannot fail on a URL with a host; on one without there is nothing to hide there.
    if url.password().is_some() {
        let _ = url.set_password(Some("hidden"));
    }
    if url.query().is_some() {
        url.set_query(Some("hidden"));
    }
    Ok(Database::Postgres(PostgresUrl {
        text: SecretText::new(text),
        shown: url
            .to_string()
            .replacen("host.invalid", authority.rsplit('@').next().unwrap_or_default(), 1),
        holds_password,
        servers,
        connect_timeout,
        files,
    }))
}

/// Refuses an IPv6 address without the brackets that divide it from a port (RFC 3986 section 3.2.2). It is not repeated: without an '@'
/// before it, a part of a password may be there.
fn refuse_bare_address(host: &str) -> Result<(), Refusal> {
    let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    // The zone of a link-local address has no place in a URL for this driver.
    let address = host.split('%').next().unwrap_or_default();
    let with_port = host.rsplit_once(':').is_some_and(|(host, _)| is_address(host));
    if is_address(address) || with_port {
        return refuse(
            "has an IPv6 address without brackets, so that nothing tells where its port begins; write it in brackets, such as \
             postgres://USER:PASSWORD@[2001:db8::1]:5432/DATABASE",
        );
    }
    let inner = host.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    match inner {
        Some((inner, _)) if inner.contains('%') => refuse(
            "has an IPv6 address with a zone ('%'), which a URL of a database does not have; write an address without one, or a name",
        ),
        Some((inner, _)) if !is_address(inner) => {
            refuse("has brackets around something else than an IPv6 address; take them out")
        }
        None if host.contains(['[', ']']) => {
            refuse("has a bracket without the other one; write an IPv6 address as [2001:db8::1]")
        }
        _ => Ok(()),
    }
}

/// Refuses files that no connection could read a second time.
fn refuse_pipes(files: &[(String, PathBuf)]) -> Result<(), Refusal> {
    let is_pipe = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
    files
        .iter()
        .find(|(_, path)| is_pipe(path))
        .map_or(Ok(()), |(name, _)| {
            refuse(format!(
                "has the option {name} with a pipe, but each connection reads it again; name a file"
            ))
        })
}

fn not_a_url(hosts: &str) -> Refusal {
    let about_hosts = if hosts.contains(',') {
        "; several hosts are written HOST1:PORT1,HOST2:PORT2"
    } else {
        ""
    };
    Refusal(format!(
        "is not the URL of a PostgreSQL database; write postgres://USER:PASSWORD@HOST/DATABASE, with '@', ':', '/', '#', '?' \
         and '%' in a password percent-encoded{about_hosts}"
    ))
}

/// Refuses what would be ignored: a misspelt `sslmode` connects in the clear.
fn check_options(options: &[(String, String)]) -> Result<(), Refusal> {
    for (place, (name, value)) in options.iter().enumerate() {
        let is_server_setting = name.starts_with("options[") && name.ends_with(']');
        if !is_server_setting && !OPTIONS.contains(&name.as_str()) {
            // What has not the form of an option may be a part of a password, and is not shown.
            let is_word = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'-');
            let has_form = !value.is_empty() && name.len() <= 40 && name.bytes().all(is_word);
            return refuse(match similar(name) {
                Some(similar) => format!("has the option '{name}', which is unknown; did you mean '{similar}'?"),
                None if has_form => format!(
                    "has the option '{name}', which is unknown; the options are {}",
                    OPTIONS.join(", ")
                ),
                None => format!("has an unknown option; the options are {}", OPTIONS.join(", ")),
            });
        }
        if name != "options" && options[..place].iter().any(|(earlier, _)| earlier == name) {
            return refuse(format!("has the option '{name}' twice; write it once"));
        }
        match name.as_str() {
            "sslmode" | "ssl-mode" if !SSL_MODES.contains(&value.as_str()) => {
                return refuse(format!("has an unknown {name}; write one of {}", SSL_MODES.join(", ")));
            }
            // Keyround writes with each look at the keys, so that only a server that accepts writes is of use.
            "target_session_attrs" if !["any", "read-write", "primary"].contains(&value.as_str()) => {
                return refuse(
                    "has a target_session_attrs that is of no use: Keyround writes, and connects only to a server that accepts \
                     writes; write read-write, primary or any, or leave it out",
                );
            }
            _ => {}
        }
    }
    Ok(())
}

fn similar(name: &str) -> Option<&'static str> {
    let likeness = |option: &&str| strsim::jaro_winkler(&name.to_ascii_lowercase(), option);
    OPTIONS
        .into_iter()
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
        .filter(|option| likeness(option) > 0.85)
}

/// The hosts with their ports. As in libpq, the options name them where the authority does not, one port is for all hosts, and an
/// empty port is the default.
fn hosts_of(authority: &str, hosts: Option<&str>, ports: Option<&str>) -> Result<Vec<(String, String)>, Refusal> {
    let from_authority = || {
        authority.split(',').map(|host| {
            let decoded = |host: &str| percent_decoded(host);
            match host.rsplit_once(':') {
                // Colons within brackets are of an IPv6 address.
                Some((host, port)) if !port.contains(']') => (decoded(host), port.to_owned()),
                _ => (decoded(host), String::new()),
            }
        })
    };
    let mut pairs: Vec<(String, String)> = match hosts {
        Some(hosts) => hosts.split(',').map(|host| (host.to_owned(), String::new())).collect(),
        None => from_authority().collect(),
    };
    if let Some(ports) = ports {
        let ports: Vec<&str> = ports.split(',').collect();
        if ports.len() != 1 && ports.len() != pairs.len() {
            return refuse(format!("names {} hosts and {} ports", pairs.len(), ports.len()));
        }
        for (place, pair) in pairs.iter_mut().enumerate() {
            (*ports.get(place).unwrap_or(&ports[0])).clone_into(&mut pair.1);
        }
    }
    for (host, port) in &mut pairs {
        if host.is_empty() {
            "localhost".clone_into(host);
        }
        if host.contains(':') && !host.starts_with(['[', '/']) {
            *host = format!("[{host}]");
        }
        if port.is_empty() {
            DEFAULT_PORT.clone_into(port);
        }
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return refuse("names a port that is not a number from 1 to 65535; is an '@' missing after the password?");
        }
    }
    Ok(pairs)
}

fn percent_decoded(text: &str) -> String {
    let pair = format!("x={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_files_or_servers() {
        let sqlite = |path: &str| Database::Sqlite { path: path.into() };
        for (text, database) in [
            ("sqlite:data/keyround.db", sqlite("data/keyround.db")),
            ("sqlite:/var/lib/keyround.db", sqlite("/var/lib/keyround.db")),
            ("sqlite:///var/lib/keyround.db", sqlite("/var/lib/keyround.db")),
        ] {
            assert_eq!(text.parse::<Database>().unwrap(), database, "{text}");
        }
        for (text, why) in [
            ("sqlite::memory:", "is a database in memory"),
            ("sqlite://:memory:", "is a database in memory"),
            ("sqlite:postgres://u:secret@h/x", "is another URL after sqlite:"),
            ("sqlite:data/keyround.db\r", "ends with a carriage return"),
            ("sqlite: data/keyround.db", "begins with a blank"),
            ("sqlite:///data/keyround.db\n", "ends with a line end"),
            (" sqlite:data/keyround.db", "begins with white space"),
            (
                "postgres://h/k?sslrootcert=ca.pem%0A",
                "has the option sslrootcert, whose path ends with a line end",
            ),
            ("sqlite:/", "names a folder"),
            (
                "sqlite:data/",
                "names a folder; write the file in it, such as sqlite:data/keyround.db",
            ),
            (
                "sqlite:.",
                "names a folder; write the file in it, such as sqlite:./keyround.db",
            ),
            (
                "sqlite:..//",
                "names a folder; write the file in it, such as sqlite:../keyround.db",
            ),
            (
                "sqlite:///usr",
                "names a folder; write the file in it, such as sqlite:/usr/keyround.db",
            ),
        ] {
            let refusal = text.parse::<Database>().unwrap_err().to_string();
            assert!(refusal.contains(why), "{text}: {refusal}");
        }
        for text in [
            "",
            "sqlite:",
            "data/keyround.db",
            "mysql://a/b",
            "sqlite:a.db?mode=ro",
            "postgres://host",
        ] {
            assert!(text.parse::<Database>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_told_without_its_parts() {
        for (text, why) in [
            ("mysql://app:swordfish@db/keyround", "is the URL of MySQL"),
            ("MongoDB+srv://app:swordfish@db/keyround", "is the URL of MongoDB"),
            ("jdbc:postgresql://db/swordfish", "take 'jdbc:' away"),
            ("postgresql+asyncpg://app:swordfish@db/x", "the scheme is postgres"),
            ("pgsql://app:swordfish@db/x", "the scheme is postgres"),
            ("POSTGRES://app:swordfish@db/x", "a scheme in capitals; write postgres:"),
            ("SQLite:swordfish.db", "a scheme in capitals; write sqlite:"),
            ("sqlite3:swordfish.db", "the scheme of a file is sqlite"),
            ("file:swordfish.db", "the scheme of a file is sqlite"),
            ("https://swordfish.example", "is the address of a web page"),
            ("swordfish.db", "has no scheme"),
            ("swordfish:5432/x", "has another scheme"),
            (
                "host=db user=app password=swordfish",
                "a list of options as libpq reads it",
            ),
            ("postgres:app:swordfish@db/x", "lacks the '//' behind its scheme"),
            ("postgres://app:swordfish@db", "names no database"),
            (
                "postgres://app:swordfish@db:70000/x",
                "names a port that is not a number from 1 to 65535",
            ),
            (
                "postgres://app:swordfish@db:54x2/x",
                "names a port that is not a number from 1 to 65535",
            ),
            (" ", "is empty"),
        ] {
            let refusal = text.parse::<Database>().unwrap_err().to_string();
            assert!(refusal.contains(why) && !refusal.contains("fish"), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_password_never_shows() {
        for text in [
            "postgres://app:swordfish@db.example.com/keyround",
            "postgresql://app@db.example.com/keyround?password=swordfish",
            "postgres:///keyround?host=/run/postgresql&password=swordfish",
        ] {
            let database: Database = text.parse().unwrap();
            let Database::Postgres(url) = &database else {
                panic!("{text}")
            };
            assert_eq!(url.reveal(), text);
            assert!(!format!("{database} {database:?}").contains("swordfish"), "{text}");
            assert!(format!("{database}").contains("/keyround"), "{text}");
            for server in url.servers() {
                assert!(!server.name.contains("swordfish"));
            }
        }
        for text in [
            "postgres://app:1#swordfish@db.example.com/keyround",
            "postgres://app:1/swordfish@db.example.com/keyround",
            "postgres://app:1?swordfish@db.example.com/keyround",
            "postgres://app:sword/fish@db.example.com/keyround",
        ] {
            let refusal = text.parse::<Database>().unwrap_err().to_string();
            assert!(!refusal.contains("fish"), "{refusal}");
        }
    }

    fn servers(text: &str) -> Vec<String> {
        let Database::Postgres(url) = text.parse().unwrap() else {
            panic!("{text}")
        };
        let reveal = |server: &PostgresServer| format!("{} {}", server.name, server.reveal());
        url.servers().iter().map(reveal).collect()
    }

    #[test]
    fn several_hosts_are_read_as_libpq_reads_them() {
        for (text, expected) in [
            ("postgres://u:p@a/k", &["a:5432 postgres://u:p@a:5432/k?"][..]),
            (
                "postgres://u:p@a,b:6000,[::1]:7000/k?target_session_attrs=read-write&sslmode=require",
                &[
                    "a:5432 postgres://u:p@a:5432/k?sslmode=require",
                    "b:6000 postgres://u:p@b:6000/k?sslmode=require",
                    "[::1]:7000 postgres://u:p@[::1]:7000/k?sslmode=require",
                ],
            ),
            (
                "postgresql:///k?host=a,b&port=1,2&user=u",
                &["a:1 postgresql://a:1/k?user=u", "b:2 postgresql://b:2/k?user=u"],
            ),
            (
                "postgres://u@/k?host=a,b&port=6000",
                &["a:6000 postgres://u@a:6000/k?", "b:6000 postgres://u@b:6000/k?"],
            ),
            (
                "postgres:///k?host=/run/postgresql&password=p",
                &["/run/postgresql postgres://localhost/k?password=p&host=%2Frun%2Fpostgresql&port=5432"],
            ),
            (
                "postgres://u@%2Frun%2Fpostgresql/k",
                &["/run/postgresql postgres://u@localhost/k?host=%2Frun%2Fpostgresql&port=5432"],
            ),
        ] {
            assert_eq!(servers(text), expected, "{text}");
        }
        let Database::Postgres(url) = "postgres://u:p@a,b/k?connect_timeout=3".parse().unwrap() else {
            panic!()
        };
        assert_eq!(url.connect_timeout(), Some(Duration::from_secs(3)));
        assert_eq!(url.shown, "postgres://u:hidden@a,b/k?hidden");
    }

    #[test]
    fn an_option_that_would_be_ignored_is_refused() {
        for (text, says) in [
            ("postgres://h/k?sslmod=verify-full", "did you mean 'sslmode'?"),
            ("postgres://h/k?SSLMODE=verify-full", "did you mean 'sslmode'?"),
            (
                "postgres://h/k?zzzzzzzzzz=1",
                "has the option 'zzzzzzzzzz', which is unknown; the options are application_name",
            ),
            (
                "postgres://h/k?pool_size=5",
                "has the option 'pool_size', which is unknown",
            ),
            ("postgres://h/k?Swordfish7!", "has an unknown option; the options are"),
            ("postgres://h/k?swordfish", "has an unknown option; the options are"),
            ("postgres://h/k?sslmode=verify_full", "write one of disable"),
            ("postgres://h/k?sslmode=disable&sslmode=verify-full", "twice"),
            ("postgres://h/k?target_session_attrs=standby", "accepts writes"),
            ("postgres://h/k?target_session_attrs=readwrite", "accepts writes"),
            ("postgres://h/k?connect_timeout=0", "1 to 60"),
            ("postgres://a,b/k?port=1,2,3", "2 hosts and 3 ports"),
            ("postgres://a:1,b:x/k", "a port that is not a number"),
            ("postgres://a b,c/k", "names a host that is neither"),
            ("postgres://u:p@::1/k", "has an IPv6 address without brackets"),
            (
                "postgres://u:p@::1:5432/k",
                "write it in brackets, such as postgres://USER:PASSWORD@[2001:db8::1]:5432/DATABASE",
            ),
            ("postgres://u:p@2001:db8::7/k", "has an IPv6 address without brackets"),
            (
                "postgres://u:p@2001:db8:0:0:0:0:0:7:5432/k",
                "has an IPv6 address without brackets",
            ),
            ("postgres://u:p@db,fe80::1/k", "has an IPv6 address without brackets"),
            (
                "postgres://u:p@fe80::1%25eth0/k",
                "has an IPv6 address without brackets",
            ),
            ("postgres://u:p@[fe80::1%25eth0]/k", "with a zone"),
            ("postgres://u:p@[db.example.com]/k", "brackets around something else"),
            ("postgres://u:p@[::1/k", "a bracket without the other one"),
            ("postgres://u:p@::1]:5432/k", "a bracket without the other one"),
        ] {
            let refusal = text.parse::<Database>().unwrap_err().to_string();
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
    }
}
