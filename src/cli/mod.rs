//! The command line: one file a command group.
//!
//! Every command that prints data takes `--json`. A refusal is one sentence; bad usage and bad settings exit with 2,
//! everything else that fails with 1.

mod actor;
mod audit;
mod backup;
mod clients;
mod clock;
mod config;
mod confirm;
mod context;
mod db;
mod differences;
mod documents;
mod failure;
mod healthcheck;
mod input;
mod keys;
mod list;
mod master_key;
mod mistakes;
mod output;
mod password;
mod providers;
mod resources;
mod scope;
mod serve;
mod tenants;
mod timeline;
mod token;
mod users;
mod welcome;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::clock::Clock;
use crate::config::{Sources, settings};
use crate::text;
use crate::values::{Database, Refusal};

use context::Context;
use failure::Failure;
use mistakes::{is_cut_out, mistake};

/// An identity server whose signing keys rotate themselves.
#[derive(Parser)]
#[command(name = "keyround", version, propagate_version = true)]
struct Arguments {
    /// The settings file (TOML); the environment (`KEYROUND_SECTION__FIELD`) goes before it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, which goes before the environment and the file; may be repeated. Not for secrets.
    #[arg(long, global = true, value_name = "SETTING=VALUE")]
    set: Vec<String>,
    /// Development: issuer and master key have defaults (`http://127.0.0.1:8080`, `keys/master.key`).
    #[arg(long, global = true)]
    dev: bool,
    /// Print JSON instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the key set and tokens, and rotate keys.
    Serve,
    /// Ask the server of this machine whether it is ready; exits with 1 when it is not.
    Healthcheck(healthcheck::HealthRequest),
    /// Look at the settings.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look at the signing keys, rotate or revoke them.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Register clients and change them.
    #[command(subcommand)]
    Clients(clients::ClientsCommand),
    /// Make accounts, look at them and change them.
    #[command(subcommand)]
    Users(users::UsersCommand),
    /// Make tenants, which users belong to, and disable them.
    #[command(subcommand)]
    Tenants(tenants::TenantsCommand),
    /// Register the services that access tokens are for, and what clients may ask for there.
    #[command(subcommand)]
    Resources(resources::ResourcesCommand),
    /// Register OpenID providers that people may log in with, and change them.
    #[command(subcommand)]
    Providers(providers::ProvidersCommand),
    /// Look at what happened.
    Audit(audit::AuditRequest),
    /// Make a master key, see what lies under which, and change it.
    #[command(subcommand)]
    MasterKey(master_key::MasterKeyCommand),
    /// Look after the database itself.
    #[command(subcommand)]
    Db(db::DatabaseCommand),
    /// See whether the clock is in doubt, and confirm one that is right.
    #[command(subcommand)]
    Clock(clock::ClockCommand),
    /// Write the whole database into a new file (mode 0600), while servers run, and try whether it can be restored; what is sealed stays sealed.
    Backup(backup::BackupTarget),
    /// Put a backup into an empty database. Its keys verify on, but new ones sign: a backup may lie in other hands.
    Restore(backup::BackupSource),
    /// Issue, inspect, verify or deny a token.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Print what a shell needs to complete commands and flags.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command.
    Man {
        /// The folder to write them into.
        #[arg(value_parser = input::written())]
        folder: PathBuf,
    },
}

/// Reads the arguments and does what they say.
#[must_use]
pub fn run() -> ExitCode {
    refuse_core_dumps();
    if std::env::args_os()
        .skip(1)
        .any(|argument| holds_key(&argument.to_string_lossy()))
    {
        let sentence = "an argument holds a key, which every process of this machine can read; write the key into a file of mode 0600 and \
                        name the file, or name - and send the key to standard input";
        say(sentence, 2, wants_json());
        return ExitCode::from(2);
    }
    let written: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse_usage(&error, &written),
    };
    let json = arguments.json;
    match execute(arguments).and_then(|()| refuse_unwritten()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure.to_string(), failure.exit_code(), json);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// A secret that was not printed is lost, so output that is missing is a failure, although the command has done its work.
fn refuse_unwritten() -> Result<(), Failure> {
    output::unwritten().map_or(Ok(()), |error| {
        Err(Failure::Refused(format!(
            "the output could not be written: {error}; the command has done its work, so look at the result ('list' or 'show') \
             and replace a secret that was not printed ('clients rotate-secret')"
        )))
    })
}

/// Why a command failed: a sentence for people, or an object for the program that asked for JSON.
fn say(sentence: &str, exit_code: u8, json: bool) {
    if json {
        output::complain_in_json(&serde_json::json!({ "error": sentence, "exit_code": exit_code }));
    } else {
        output::complain(sentence);
    }
}

/// Whether the argument, or what it gives to a flag, is the text of a key.
fn holds_key(argument: &str) -> bool {
    let value = argument.split_once('=').map_or("", |(_, value)| value);
    text::holds_key(argument) || text::holds_key(value)
}

/// What was not understood may be anything, but who writes this word wants JSON.
fn wants_json() -> bool {
    std::env::args_os()
        .any(|argument| argument.as_encoded_bytes().split(|&octet| octet == b'=').next() == Some(b"--json"))
}

/// A core dump would hold the master key and private keys. This bounds a process whose supervisor does not.
fn refuse_core_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // A limit may always be lowered.
    let _ = setrlimit(Resource::Core, none);
}

/// What `--set` gives. Whether there is such a setting, and such a value for it, is asked where all settings are. A value
/// that may be secret is not repeated, so this is no parser of clap's, which would quote it.
fn flags(set: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut flags = BTreeMap::new();
    for text in set {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::Usage("--set takes SETTING=VALUE, such as --set keys.rotation_period=10d".to_owned())
        })?;
        if settings::find(name).is_none() && text::holds_secret(name) {
            return Err(Failure::Usage(
                "--set names a setting before '='; what was given is not repeated, because it may be a secret"
                    .to_owned(),
            ));
        }
        if name == "database.url"
            && let Err(Refusal(why)) = value.parse::<Database>()
        {
            let why = if text::holds_secret(value) {
                text::without_parts_of(value, &why)
            } else {
                why
            };
            return Err(Failure::Usage(format!("--set {name} {why}{PASSWORD_IN_FILE}")));
        }
        if settings::find(name).is_some_and(|setting| setting.secret) && !is_url_without_password(name, value) {
            return Err(Failure::Usage(format!(
                "--set {name} may give a secret, which every process of this machine can read; use {name}_file, or the \
                 environment"
            )));
        }
        flags.insert(name.to_owned(), value.to_owned());
    }
    Ok(flags)
}

/// Help and version as they are; a mistake as its one sentence.
fn refuse_usage(error: &clap::Error, written: &[String]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        if is_cut_out(written) {
            let sentence = "an argument begins with -h or -V and is neither flag; a value that begins with a hyphen is written behind '--', and \
                            that of an option as --OPTION=VALUE";
            say(sentence, 2, wants_json());
            return ExitCode::from(2);
        }
        return match error.print().and_then(|()| std::io::stdout().flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                say(&format!("the output could not be written: {error}"), 1, wants_json());
                ExitCode::FAILURE
            }
            _ => ExitCode::SUCCESS,
        };
    }
    say(&mistake(error, written), 2, wants_json());
    ExitCode::from(2)
}

/// Behind what is wrong with a URL of a database, whose right form has a place for a password.
const PASSWORD_IN_FILE: &str = " (a URL with a password belongs in the file of database.url_file)";

/// Whether this is the URL of a database that holds no password. What is wrong with that of a file is said where all settings are read.
fn is_url_without_password(name: &str, value: &str) -> bool {
    let holds_none = match value.parse() {
        Ok(Database::Postgres(url)) => !url.holds_password(),
        Ok(Database::Sqlite { .. } | Database::SqliteInMemory) => true,
        Err(_) => value.starts_with("sqlite:"),
    };
    name == "database.url" && holds_none && !text::holds_secret(value)
}

fn execute(arguments: Arguments) -> Result<(), Failure> {
    if arguments.config.as_deref().is_some_and(input::is_standard) {
        return Err(Failure::Usage(
            "--config takes a file, not standard input: name a file, ./- for one of this name, or give settings by --set and the \
             environment"
                .to_owned(),
        ));
    }
    let context = Context {
        sources: Sources {
            flags: flags(&arguments.set)?,
            ..Sources::of_process(arguments.config, arguments.dev)?
        },
        clock: Clock::system(),
        json: arguments.json,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Refused(format!("the threads cannot be started: {error}")))?;
    let done = runtime.block_on(async {
        match arguments.command {
            Command::Serve => serve::run(&context).await,
            Command::Healthcheck(request) => healthcheck::run(&context, &request),
            Command::Config(command) => config::run(&context, &command).await,
            Command::Keys(command) => keys::run(&context, command).await,
            Command::Clients(command) => clients::run(&context, command).await,
            Command::Users(command) => users::run(&context, command).await,
            Command::Tenants(command) => tenants::run(&context, command).await,
            Command::Resources(command) => resources::run(&context, command).await,
            Command::Providers(command) => providers::run(&context, command).await,
            Command::Audit(request) => audit::run(&context, &request).await,
            Command::MasterKey(command) => master_key::run(&context, &command).await,
            Command::Db(command) => db::run(&context, &command).await,
            Command::Clock(command) => clock::run(&context, &command).await,
            Command::Backup(target) => backup::backup(&context, &target).await,
            Command::Restore(source) => backup::restore(&context, &source).await,
            Command::Token(command) => token::run(&context, command).await,
            Command::Completions { shell } => {
                documents::completions(shell);
                Ok(())
            }
            Command::Man { folder } => documents::man(&context, &folder),
        }
    });
    // Work that was cut off, such as a look-up of a name, must not hold the end of the process.
    runtime.shutdown_background();
    done.map_err(|failure| match context.config() {
        Ok(config) => failure.located(&config.database, config.database_setting()),
        Err(_) => failure,
    })
}
