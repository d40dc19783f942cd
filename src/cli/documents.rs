//! `keyround completions` and `keyround man`: made from the definitions of the commands, so that they never tell anything else.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use serde_json::json;

use crate::files;

use super::context::Context;
use super::failure::Failure;
use super::input::is_standard;
use super::{Arguments, output};

/// Prints what this shell needs to complete commands and flags.
pub fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "keyround", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end());
}

/// Writes a page for each command into this folder.
pub fn man(context: &Context, folder: &Path) -> Result<(), Failure> {
    if is_standard(folder) {
        return Err(Failure::Usage(
            "the pages are several files: name a folder for them, such as pages, or ./- for one of this name"
                .to_owned(),
        ));
    }
    let mut command = Arguments::command();
    command.build();
    std::fs::create_dir_all(folder).map_err(|error| cannot(folder, &error))?;
    let count = pages(&command, "keyround", folder)?;
    if context.json {
        output::json(&json!({ "folder": folder, "pages": count }));
    } else {
        output::line(&format!("wrote {count} pages into the folder {}", folder.display()));
    }
    Ok(())
}

fn pages(command: &Command, name: &str, folder: &Path) -> Result<usize, Failure> {
    let mut page = Vec::new();
    let path = folder.join(format!("{name}.1"));
    // The page's name is the file's, and the synopsis the whole command.
    let command = command.clone().display_name(name.to_owned());
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .and_then(|()| files::replace(&path, &page, 0o666))
        .map_err(|error| cannot(&path, &error))?;
    let shown = command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set() && inner.get_name() != "help");
    let mut count = 1;
    for inner in shown {
        count += pages(inner, &format!("{name}-{}", inner.get_name()), folder)?;
    }
    Ok(count)
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Refused(format!(
        "cannot write {}: {}",
        path.display(),
        files::unwritable(path, error)
    ))
}
