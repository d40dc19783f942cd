//! `keyround config`: look at the settings.

use clap::Subcommand;

use super::{Context, Failure, output};

#[derive(Subcommand)]
pub enum Command {
    /// Read the settings and hold them against each other; warnings name verifiers that would refuse tokens.
    Check,
    /// Print the effective settings; secrets are hidden.
    Show,
}

pub fn run(context: &Context, command: &Command) -> Result<(), Failure> {
    let config = context.config()?;
    let warnings = config.warnings();
    match command {
        Command::Check if context.json => output::json(&serde_json::json!({ "ok": true, "warnings": warnings })),
        Command::Check => {
            for warning in &warnings {
                output::line(&format!("warning: {warning}"));
            }
            output::line("the settings hold");
        }
        Command::Show if context.json => output::json(&config.to_json()),
        Command::Show => output::line(config.to_toml().trim_end()),
    }
    Ok(())
}
