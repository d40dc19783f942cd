//! `keyround serve`: run the server until a signal.

use std::future::pending;
use std::path::Path;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{Addresses, Foundation, Running, check_tls};
use crate::config::{self, Config, MasterKeySource};
use crate::crypto::sealing::MasterKey;
use crate::telemetry::{self, LogFormat, Logging};
use crate::values::Database;

use super::context::Context;
use super::failure::Failure;
use super::welcome::Welcome;
use super::{master_key, output};

pub async fn run(context: &Context) -> Result<(), Failure> {
    let config = context.config()?;
    if context.sources.development {
        refuse_production(&config)?;
    }
    let _logging = start_logging(&config)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    if let Some(warning) = check_tls(&config, &context.clock)? {
        tracing::warn!("{warning}");
    }
    // A port that is in use is noticed before anything is made.
    let addresses = Addresses::bind(&config)?;
    if context.sources.development {
        make_development_master_key(&config)?;
    }
    let foundation = Foundation::open(&config, context.clock.clone()).await?;
    if foundation.is_new && !context.sources.development {
        warn_of_new_database(&config.database);
    }
    // The secrets are read. From now on no other process of this user may read this one's memory, and no handler of core dumps gets it.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the memory of this process cannot be kept from core dumps");
    }
    let welcome = if context.sources.development {
        let welcome = Welcome::prepare(&foundation, &context.clock).await?;
        Some(welcome.text(&config, context))
    } else {
        None
    };
    // Before anybody can know that it serves: a signal that comes at once must find its handler.
    let mut signals = StopSignals::catch()?;
    let running = Running::start_on(&config, foundation, addresses).await?;
    if let Some(text) = welcome {
        // Its reader may not read, which must not hold the server.
        std::thread::spawn(move || output::line(&text));
    }
    signals.next().await;
    tokio::select! {
        () = running.stop() => Ok(()),
        () = signals.next() => Err(Failure::Refused("a second signal ended the server at once".to_owned())),
    }
}

/// A wrong path or name is otherwise noticed late: the server is healthy, but has other keys, no client and no account.
fn warn_of_new_database(database: &Database) {
    let name = match database {
        Database::Sqlite { path } => std::path::absolute(path)
            .unwrap_or_else(|_| path.clone())
            .display()
            .to_string(),
        Database::SqliteInMemory | Database::Postgres(_) => database.to_string(),
    };
    tracing::warn!(
        "the database {name} is new: it was absent or empty, so this server makes new keys and knows no client and no account; if there \
         should be some, stop the server and correct database.url (a relative path begins at the working directory)"
    );
}

fn start_logging(config: &Config) -> Result<Logging, Failure> {
    let format = match config.log.format {
        config::LogFormatSetting::Text => LogFormat::Text,
        config::LogFormatSetting::Json => LogFormat::Json,
    };
    telemetry::start_logging(format, &config.log.filter)
        .map_err(|error| Failure::Refused(format!("the thread that writes the log cannot be started: {error}")))
}

/// Refuses a development start with settings of production: it would make a client whose secret is printed. Every setting that is in
/// the way is named.
fn refuse_production(config: &Config) -> Result<(), Failure> {
    let server = &config.server;
    let mut refused = Vec::new();
    if server.issuer.is_https() || !server.issuer.is_loopback() {
        refused.push(format!(
            "server.issuer is {}; use http on a loopback host, or leave it out",
            server.issuer
        ));
    }
    if let Database::Postgres(_) = config.database {
        refused.push("database.url is PostgreSQL; use SQLite, or leave it out".to_owned());
    }
    for (setting, listener) in [
        ("server.listen", server.listen),
        ("server.admin_listen", server.admin_listen),
    ] {
        if !listener.ip().to_canonical().is_loopback() {
            refused.push(format!(
                "{setting} is {listener}; use a loopback address, or leave it out"
            ));
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "serve --dev is for development on this machine alone, and registers a client with a printed secret: {}. For production, leave \
         --dev out",
        refused.join(". ")
    )))
}

/// Makes a master key where neither it nor a database exists. With a database but no master key nothing is invented: its
/// keys would be lost.
fn make_development_master_key(config: &Config) -> Result<(), Failure> {
    let (MasterKeySource::File(path), Database::Sqlite { path: database }) =
        (&config.keys.master_key, &config.database)
    else {
        return Ok(());
    };
    let has_content = |path: &Path| path.metadata().is_ok_and(|file| file.len() > 0);
    if has_content(path) {
        return Ok(());
    }
    // An empty file is what a start left that was cut off.
    if has_content(database) {
        return Err(Failure::Usage(format!(
            "the database {} exists, but its master key {} does not; bring the master key back, or move the database away \
             to start again",
            database.display(),
            path.display()
        )));
    }
    let key = MasterKey::generate().map_err(|error| Failure::Refused(error.to_string()))?;
    master_key::write(path, &key.to_base64()).map(drop)
}

/// Whether the process was started with hangups ignored, as `nohup` does.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        // The lowest bit is SIGHUP, signal 1.
        .is_some_and(|mask| mask & 1 == 1)
}

/// The signals that stop the server.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Catches the signals from now on. A hangup counts as well, because a terminal that closes must not cut requests; under
    /// `nohup` it stays ignored.
    fn catch() -> Result<Self, Failure> {
        let catch = |kind| {
            signal(kind).map_err(|error: std::io::Error| Failure::Refused(format!("signals cannot be caught: {error}")))
        };
        let catches_hangup = !ignores_hangup();
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catches_hangup.then(|| catch(SignalKind::hangup())).transpose()?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}
