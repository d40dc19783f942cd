//! What a person does about an error of the database.

use std::io::ErrorKind;

use super::StoreError;
use super::error::sqlite_code;

/// How the standard library begins an error of the resolver, which has no kind of its own.
const LOOKUP_FAILED: &str = "failed to lookup address information";

/// By the code of PostgreSQL, or the system's error; nothing where the error says it all.
pub(super) fn advice(error: &sqlx::Error) -> Option<&'static str> {
    if let sqlx::Error::Io(error) = error {
        return match error.kind() {
            ErrorKind::ConnectionRefused => Some("start it there, or correct the host and port"),
            ErrorKind::TimedOut => Some("look whether it runs, and at the network to it"),
            _ if error.to_string().starts_with(LOOKUP_FAILED) => {
                Some("correct the name of the host, or the resolver's")
            }
            _ => None,
        };
    }
    if let sqlx::Error::Configuration(error) = error
        && error.is::<super::primary::ReadOnly>()
    {
        return Some("name the primary, or let this one accept writes");
    }
    if sqlite_code(error).is_some() {
        return None;
    }
    let code = error.as_database_error()?.code()?;
    Some(match &*code {
        "28P01" => "give the role's password in the URL; ALTER ROLE ... PASSWORD sets another one",
        "28000" => "make the role by CREATE ROLE ... LOGIN, and let a line of pg_hba.conf admit it from this machine",
        "3D000" => "make it by CREATE DATABASE, or correct its name",
        "53300" => "end other connections, or raise max_connections or the CONNECTION LIMIT; each node keeps up to 22",
        "57P01" | "57P02" | "57P03" => "it stops or starts: wait until it accepts connections, then try again",
        _ => return None,
    })
}

impl StoreError {
    /// What a person does about it, where the error is one of a driver that does not say so.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Unavailable(error) => advice(error),
            _ => None,
        }
    }
}
