//! Asking before what cannot be undone, or what people notice at once.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

use crate::accounts::visible::is_blank;
use crate::events::LONGEST_REASON;

use super::failure::Failure;

/// A text that people read later, such as a reason. It may begin with a hyphen, as an item of a list does.
pub fn worded(text: &str) -> Result<String, &'static str> {
    if text.chars().all(is_blank) {
        return Err("it is blank; write some words");
    }
    let is_letter = text.starts_with('-') && text.chars().count() == 2;
    if is_letter || text.starts_with("--") {
        return Err("it looks like a flag; write some words");
    }
    if text.chars().count() > LONGEST_REASON {
        return Err("it is longer than 1000 characters; write a shorter one");
    }
    Ok(text.to_owned())
}

/// The reason of a change, for the audit log.
#[derive(Args)]
pub struct Reason {
    /// Why, for the audit log.
    #[arg(long, value_name = "TEXT", default_value = "asked for", allow_hyphen_values = true, value_parser = worded)]
    pub reason: String,
}

#[derive(Args)]
pub struct Confirmation {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Refuses at once where nobody could answer; `what` is what would be done, as in "the deletion".
    pub fn can_be_given(&self, what: &str) -> Result<(), Failure> {
        if self.yes || std::io::stdin().is_terminal() {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "nobody can confirm {what}, because standard input is not a terminal; add --yes to go on without a question"
        )))
    }

    /// Asks the person at the terminal; anything but "yes" ends it.
    pub fn ask(&self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        // On standard error, so that what is printed can go elsewhere.
        eprint!("{question} Type 'yes' to go on: ");
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        if read.is_ok() && answer.trim() == "yes" {
            return Ok(());
        }
        Err(Failure::Refused(
            "nothing was changed, because the answer was not 'yes'".to_owned(),
        ))
    }
}
