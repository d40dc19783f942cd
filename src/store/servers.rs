//! The PostgreSQL servers of a URL. As with libpq's `target_session_attrs=read-write`, the one that accepts writes is used; all are
//! asked at once, so that one that does not answer holds up nothing.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::task::JoinSet;

use crate::clock::sleep;
use crate::values::{PostgresServer, PostgresUrl};

use super::advice::advice;
use super::error::described;
use super::{StoreError, primary};

/// How long one server may take to accept a connection and to say whether it accepts writes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before the servers are asked again while none accepts writes.
const SEARCH_PAUSE: Duration = Duration::from_millis(200);

/// The servers of a URL, in its order.
#[derive(Debug)]
pub struct Servers {
    all: Vec<DatabaseServer>,
    timeout: Duration,
    /// The place of the server that is used.
    current: Mutex<usize>,
}

fn options_of(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    // No number with a fraction is read, and PgBouncer refuses this parameter of a start.
    let options = PgConnectOptions::from_str(url)?.extra_float_digits(None);
    // The driver hands the brackets of an IPv6 address to the resolver, which knows no such name.
    let address = options
        .get_host()
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address = address.map(str::to_owned);
    Ok(match address {
        Some(address) => options.host(&address),
        None => options,
    })
}

#[derive(Clone, Debug)]
struct DatabaseServer {
    name: String,
    options: PgConnectOptions,
    has_password: bool,
}

impl Servers {
    pub(super) fn new(url: &PostgresUrl) -> Result<Self, StoreError> {
        let server = |server: &PostgresServer| {
            Ok(DatabaseServer {
                name: server.name.clone(),
                options: options_of(server.reveal())?,
                has_password: url.holds_password(),
            })
        };
        Ok(Self {
            all: url.servers().iter().map(server).collect::<Result<_, StoreError>>()?,
            timeout: url.connect_timeout().unwrap_or(CONNECT_TIMEOUT),
            current: Mutex::new(0),
        })
    }

    /// The options of the server that accepts writes.
    ///
    /// # Errors
    /// What each of them answers, when there is none.
    pub(super) async fn find(&self) -> Result<PgConnectOptions, StoreError> {
        let (found, answers) = self.ask().await;
        match found {
            Some(place) => {
                *self.current() = place;
                Ok(self.all[place].options.clone())
            }
            None => Err(StoreError::NoPrimary(answers)),
        }
    }

    /// Asks every server, until one is found that accepts writes; answers with its place and with what the others said.
    async fn ask(&self) -> (Option<usize>, String) {
        let mut asked = JoinSet::new();
        for (place, server) in self.all.iter().enumerate() {
            let (server, timeout) = (server.clone(), self.timeout);
            asked.spawn(async move { (place, server.ask(timeout).await) });
        }
        let mut answers = vec!["it did not answer".to_owned(); self.all.len()];
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok((place, Ok(()))) => return (Some(place), String::new()),
                Ok((place, Err(reason))) => answers[place] = reason,
                Err(_) => {}
            }
        }
        let named = self.all.iter().zip(&answers);
        let named: Vec<String> = named
            .map(|(server, reason)| format!("{}: {reason}", server.name))
            .collect();
        (None, named.join("; "))
    }

    /// Points the pool to another server whenever the one that it uses fails, until the pool is closed.
    pub(super) async fn follow(self: Arc<Self>, pool: PgPool) {
        let mut troubles = primary::troubles();
        let closed = pool.close_event();
        let search = async {
            while troubles.changed().await.is_ok() {
                loop {
                    if let (Some(place), _) = self.ask().await {
                        let before = std::mem::replace(&mut *self.current(), place);
                        if before != place {
                            let (from, to) = (&self.all[before].name, &self.all[place].name);
                            tracing::warn!(%from, %to, "another database server accepts the writes now");
                            pool.set_connect_options(self.all[place].options.clone());
                            primary::distrust_quietly();
                        }
                        break;
                    }
                    sleep(SEARCH_PAUSE).await;
                }
                troubles.mark_unchanged();
            }
        };
        tokio::select! {
            () = closed => {}
            () = search => {}
        }
    }

    /// More than one, so that there is something to choose.
    pub(super) const fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// What each server answers now; nothing when one accepts writes.
    pub(super) async fn trouble(&self) -> Option<String> {
        let (found, answers) = self.ask().await;
        found.is_none().then_some(answers)
    }

    fn current(&self) -> std::sync::MutexGuard<'_, usize> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// PostgreSQL's `invalid_password`.
const INVALID_PASSWORD: &str = "28P01";

impl DatabaseServer {
    fn reason(&self, error: &sqlx::Error) -> String {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        let reason = described(error);
        let advice = advice(error).map_or_else(String::new, |advice| format!(" ({advice})"));
        if code.as_deref() == Some(INVALID_PASSWORD) && !self.has_password {
            return format!("{reason}; the URL gives no password{advice}");
        }
        format!("{reason}{advice}")
    }

    async fn ask(&self, timeout: Duration) -> Result<(), String> {
        let asked = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            let answer = primary::check(&mut connection).await;
            // Its end need not be waited for.
            drop(connection);
            answer
        };
        tokio::select! {
            answer = asked => answer.map_err(|error| self.reason(&error)),
            () = sleep(timeout) => Err(format!(
                "it did not answer within {} s (look whether PostgreSQL listens there, and at the network to it; connect_timeout in the URL gives \
                 it up to 60 s)",
                timeout.as_secs()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_gets_an_address_without_brackets() {
        for (url, host) in [
            ("postgres://k@[::1]:18190/k", "::1"),
            ("postgres://k@db.example.com:5432/k", "db.example.com"),
            ("postgres://k@127.0.0.1:5432/k", "127.0.0.1"),
        ] {
            assert_eq!(options_of(url).unwrap().get_host(), host);
        }
    }
}
