//! Which database: a file, memory or a server, with the password that its URL may hold.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

use super::values::{Refusal, SecretText, refuse};

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

/// The URL of a PostgreSQL database, with the password that it may hold.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    text: SecretText,
    shown: String,
}

impl PostgresUrl {
    /// The URL with its password, for the driver alone.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.text.reveal()
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
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
            _ => refuse("is not the URL of a database; write sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE"),
        }
    }
}

fn parse_sqlite(rest: &str) -> Result<Database, Refusal> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path == ":memory:" {
        return Ok(Database::SqliteInMemory);
    }
    if path.is_empty() {
        return refuse("names no file; write one such as sqlite:data/keyround.db");
    }
    if path.contains(['?', '#', '\0']) {
        return refuse("has parameters, but Keyround sets SQLite's own; write sqlite:PATH alone");
    }
    Ok(Database::Sqlite { path: path.into() })
}

fn parse_postgres(text: &str) -> Result<Database, Refusal> {
    let Ok(mut url) = Url::parse(text) else {
        return refuse(
            "is not the URL of a PostgreSQL database; write postgres://USER:PASSWORD@HOST/DATABASE, with '@', ':', '/', '#', '?' \
             and '%' in a password percent-encoded",
        );
    };
    // An unencoded password would be taken for a path, and shown.
    if url.fragment().is_some()
        || url.path().contains(['@', ':'])
        || url.query().is_some_and(|query| query.contains('@'))
    {
        return refuse("holds an unencoded '#', '@', ':', '/' or '?'; in a password write %23, %40, %3A, %2F or %3F");
    }
    if url.path().trim_start_matches('/').is_empty() {
        return refuse("names no database; write postgres://USER:PASSWORD@HOST/DATABASE");
    }
    // These cannot fail on a URL with a host; on one without there is nothing to hide there.
    if url.password().is_some() {
        let _ = url.set_password(Some("hidden"));
    }
    if url.query().is_some() {
        url.set_query(Some("hidden"));
    }
    Ok(Database::Postgres(PostgresUrl {
        text: SecretText::new(text),
        shown: url.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_files_memory_or_servers() {
        let sqlite = |path: &str| Database::Sqlite { path: path.into() };
        for (text, database) in [
            ("sqlite:data/keyround.db", sqlite("data/keyround.db")),
            ("sqlite:/var/lib/keyround.db", sqlite("/var/lib/keyround.db")),
            ("sqlite:///var/lib/keyround.db", sqlite("/var/lib/keyround.db")),
            ("sqlite::memory:", Database::SqliteInMemory),
        ] {
            assert_eq!(text.parse::<Database>().unwrap(), database, "{text}");
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
}
