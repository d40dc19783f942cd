//! A password that an operator gives: asked for at the terminal or read from a file, never an argument, which every process of
//! the machine could read.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::accounts::password::{AccountWords, MOST_OCTETS, Password};
use crate::accounts::password_hash::PasswordHash;
use crate::accounts::user::User;
use crate::config::Config;
use crate::crypto::keyed_hash::HashKey;
use crate::text;

use super::failure::Failure;
use super::input::{self, cannot_read_secret};

const PASSWORD_FILE: &str = "--password-file";

/// The password of a new account, if it is to have one.
#[derive(Args)]
#[group(required = false, multiple = false)]
pub struct First {
    /// The file whose first line is its password, or - for standard input; an account without one logs in by another provider.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Ask for its password at the terminal.
    #[arg(long)]
    ask_password: bool,
    /// The file whose first line is the hash of its password (- for standard input), as another system made it by bcrypt, Argon2, PBKDF2 or scrypt.
    #[arg(long, value_name = "FILE")]
    password_hash_file: Option<PathBuf>,
}

/// The new password of an account.
#[derive(Args)]
pub struct NewPassword {
    /// The file whose first line is the password, or - for standard input; at a terminal you are asked when it is left out.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl First {
    /// The hash to be stored; none when no password is given.
    pub fn hash(&self, user: &User, config: &Config, key: &HashKey) -> Result<Option<String>, Failure> {
        if let Some(path) = &self.password_hash_file {
            let line = read_file("--password-hash-file", path)?;
            let hash = PasswordHash::parse(line.trim())
                .map_err(|error| Failure::Usage(format!("{} cannot be used: {error}", input::shown(path))))?;
            return Ok(Some(hash.as_str().to_owned()));
        }
        let password = match &self.password_file {
            Some(path) => read_file(PASSWORD_FILE, path)?,
            None if self.ask_password => ask()?,
            None => return Ok(None),
        };
        hash(&password, user, config, key).map(Some)
    }
}

impl NewPassword {
    /// The hash to be stored.
    pub fn hash(&self, user: &User, config: &Config, key: &HashKey) -> Result<String, Failure> {
        let password = match &self.password_file {
            Some(path) => read_file(PASSWORD_FILE, path)?,
            None => ask()?,
        };
        hash(&password, user, config, key)
    }
}

/// An operator's password is held against the same rules as anybody's.
fn hash(text: &str, user: &User, config: &Config, key: &HashKey) -> Result<String, Failure> {
    let refused = |why: &dyn std::fmt::Display| Failure::Refused(why.to_string());
    let password = Password::try_from(text.to_owned()).map_err(|error| refused(&error))?;
    let issuer = url::Url::parse(config.server.issuer.as_str()).ok();
    let host = issuer.as_ref().and_then(url::Url::host_str).unwrap_or_default();
    let words = AccountWords::new(user.email.as_str(), user.name.as_str(), host);
    password
        .refuse_as_new(config.accounts.logins.password_min_length, &words)
        .map_err(|error| refused(&error))?;
    let hash =
        PasswordHash::new(&password, config.accounts.logins.password_hash, key).map_err(|error| refused(&error))?;
    Ok(hash.as_str().to_owned())
}

fn read_file(flag: &'static str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    let unreadable = |error| cannot_read_secret(flag, path, &error);
    let file = input::open(path).map_err(unreadable)?;
    input::refuse_exposed(flag, path, &file.metadata().map_err(unreadable)?)?;
    let line = first_line(&mut BufReader::new(file)).map_err(unreadable)?;
    if line.is_empty() {
        return Err(Failure::Usage(format!(
            "{} has nothing on its first line",
            input::shown(path)
        )));
    }
    if flag == PASSWORD_FILE && line.trim() != line.as_str() {
        // A person who copies the password does not see it.
        eprintln!(
            "keyround: warning: the password in {} begins or ends with a blank, which is part of it",
            input::shown(path)
        );
    }
    Ok(line)
}

/// The first line without its end and without a byte order mark, in a buffer that never grows, so that no copy stays behind. What
/// is longer than any password stays longer than any password.
fn first_line(from: &mut impl BufRead) -> std::io::Result<Zeroizing<String>> {
    const ROOM: usize = 2 * MOST_OCTETS;
    let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
    from.take(ROOM as u64).read_until(b'\n', &mut line)?;
    let text = text::decode(&line).map_err(std::io::Error::other)?;
    Ok(Zeroizing::new(text::without_line_end(text).to_owned()))
}

/// Asks twice, because nobody sees what is typed.
fn ask() -> Result<Zeroizing<String>, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "nobody can be asked for the password, because standard input is not a terminal; add --password-file FILE, or - to \
             read standard input"
                .to_owned(),
        ));
    }
    let unreadable = |error: std::io::Error| Failure::Refused(format!("the terminal cannot be read: {error}"));
    let first = ask_unseen("New password: ").map_err(unreadable)?;
    let second = ask_unseen("The same password again: ").map_err(unreadable)?;
    if *first != *second {
        return Err(Failure::Refused(
            "nothing was changed, because the two passwords differ".to_owned(),
        ));
    }
    Ok(first)
}

fn ask_unseen(question: &str) -> std::io::Result<Zeroizing<String>> {
    let hidden = Hidden::begin()?;
    eprint!("{question}");
    let _ = std::io::stderr().flush();
    let line = first_line(&mut std::io::stdin().lock());
    drop(hidden);
    eprintln!();
    line
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes -= LocalModes::ECHO;
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
