//! What was wrong with the arguments, in one sentence that says what was meant and repeats no secret.

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::settings;
use crate::text;

use super::{Arguments, output};

/// What was wrong with the arguments, in one sentence.
pub fn mistake(error: &clap::Error, written: &[String]) -> String {
    let text = without_secrets(error);
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    ) {
        return format!("a command is missing; '{} --help' names them", shown_command(&text));
    }
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let sentence: Vec<&str> = lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.starts_with("tip:"))
        .collect();
    // "tip: a similar subcommand exists: 'keys'"
    let tip = || {
        lines()
            .find_map(|line| line.strip_prefix("tip:")?.split_once("similar")?.1.split_once(": "))
            // clap proposes these two for many names, and no user means them.
            .filter(|(_, names)| !matches!(*names, "'--version'" | "'--help'"))
            .map(|(_, names)| names.to_owned())
    };
    let similar = flag_hint(error, &shown_command(&text), written).unwrap_or_else(|| {
        nearest_name(error, &shown_command(&text))
            .or_else(tip)
            .map_or(String::new(), |names| format!("; did you mean {names}?"))
    });
    let usage = surplus_usage(error, &shown_command(&text)).unwrap_or_default();
    let sentence = sentence.join(" ") + &similar + &usage;
    output::printable(&about_numbers(sentence.strip_prefix("error: ").unwrap_or(&sentence)))
}

/// What clap says, without what may be a secret: an argument too many, such as a password, or a text of a secret's form.
fn without_secrets(error: &clap::Error) -> String {
    let mut text = error.to_string();
    let is_surplus = error.kind() == ErrorKind::UnknownArgument;
    for (kind, value) in error.context() {
        let ContextValue::String(value) = value else { continue };
        let is_name = value.starts_with('-') && !text::may_be_secret(value.trim_start_matches('-'));
        let is_hidden = match kind {
            ContextKind::InvalidArg => is_surplus && !is_name,
            ContextKind::InvalidValue | ContextKind::InvalidSubcommand => text::holds_secret(value),
            _ => false,
        };
        if is_hidden && !value.is_empty() {
            text = text.replace(&format!("'{value}'"), text::NOT_REPEATED);
        }
    }
    text
}

/// The command whose usage clap shows: its words up to the first placeholder.
fn shown_command(help: &str) -> String {
    let usage = help.lines().find_map(|line| line.trim().strip_prefix("Usage: "));
    let words = usage.unwrap_or("keyround").split(' ');
    let command: Vec<&str> = words.take_while(|word| !word.starts_with(['[', '<'])).collect();
    command.join(" ")
}

/// Whether clap took the first letter of a value, such as `-henry@example.com`, for the flag that asks for help or the version. A command
/// that did nothing must not end as one that did its work.
pub fn is_cut_out(written: &[String]) -> bool {
    let asks = |argument: &String| matches!(argument.as_str(), "-h" | "--help" | "-V" | "--version" | "help");
    let begins_so = |argument: &String| argument.starts_with("-h") || argument.starts_with("-V");
    !written.iter().any(asks) && written.iter().any(begins_so)
}

/// Whether a flag was written as such: one of a letter may be the first letter of a value.
fn is_whole(flag: &str, written: &[String]) -> bool {
    let has_value = |rest: &str| rest.starts_with('=') || rest.bytes().all(|octet| octet.is_ascii_digit());
    let is_it = |argument: &String| argument.strip_prefix(flag).is_some_and(has_value);
    flag.starts_with("--") || written.iter().any(is_it)
}

/// What the standard library and clap say of a number, in words for people.
fn about_numbers(sentence: &str) -> String {
    let sentence = sentence
        .replace("invalid digit found in string", "it is not a whole number, such as 50")
        .replace(
            "cannot parse integer from empty string",
            "it is empty; write a whole number, such as 50",
        );
    match sentence.split_once(" is not in ") {
        Some((before, range)) if range.contains("..=") => {
            format!("{before} is not from {}", range.replacen("..=", " to ", 1))
        }
        _ => sentence,
    }
}

/// The command of these words.
fn command_of(shown: &str) -> clap::Command {
    let mut command = Arguments::command();
    command.build();
    for word in shown.split(' ').skip(1) {
        let Some(inner) = command.find_subcommand(word) else {
            break;
        };
        command = inner.clone();
    }
    command
}

/// Options whose values people write without the option.
const MEANT: [&str; 6] = ["id", "email", "name", "role", "algorithm", "client"];

/// Where an argument that is one too many may belong: the options that take such a value, and the usage of the command.
fn surplus_usage(error: &clap::Error, shown: &str) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(surplus)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    if surplus.starts_with('-') {
        return None;
    }
    let mut command = command_of(shown);
    let options: Vec<String> = MEANT
        .into_iter()
        .filter(|&name| {
            command
                .get_arguments()
                .any(|argument| argument.get_long() == Some(name) && argument.get_action().takes_values())
        })
        .map(|name| format!("--{name}"))
        .collect();
    let hint = match options.as_slice() {
        [] if matches!(
            shown,
            "keyround serve" | "keyround config check" | "keyround config show"
        ) =>
        {
            "; a settings file is named by --config FILE".to_owned()
        }
        [] => String::new(),
        options => format!("; write {} before its value", options.join(" or ")),
    };
    let usage = command.render_usage().to_string();
    let usage = usage.split_whitespace().collect::<Vec<_>>().join(" ");
    let about_keys = if shown == "keyround keys rotate" {
        " (a rotation is of an algorithm and not of one key; a key that must not be trusted any more is taken out by 'keyround keys revoke KID')"
    } else {
        ""
    };
    Some(format!("{hint}{about_keys}; {}", usage.replacen("Usage:", "usage:", 1)))
}

/// What does the work of a flag that other programs have.
const OTHER_FLAGS: [(&[&str], &str); 9] = [
    (
        &["--port", "--host", "--bind", "--address", "-p", "-b"],
        "the address and port of the server are a setting: --set server.listen=127.0.0.1:8080",
    ),
    (
        &["--verbose", "--debug", "--log-level", "--loglevel", "-v"],
        "how much is logged is a setting: --set log.filter=info,keyround=debug",
    ),
    (
        &["--quiet", "--silent", "-q"],
        "how much is logged is a setting: --set log.filter=warn",
    ),
    (
        &["--log-format"],
        "the form of log lines is a setting: --set log.format=json",
    ),
    (
        &["--config-file", "--conf", "--settings", "--config-path", "-c"],
        "the settings file is named by --config FILE",
    ),
    (
        &["--database", "--db", "--database-url", "--db-url", "--dsn"],
        "the database is a setting: --set database.url=sqlite:PATH, or --set database.url_file=FILE for a URL with a password",
    ),
    (
        &["--daemon", "--daemonize", "--detach", "--background"],
        "the server stays in the foreground; let systemd or a container run it (docs/operate/deploy.md)",
    ),
    (&["--output", "--format", "-o"], "--json prints JSON in place of text"),
    (
        &["--force", "--assume-yes", "--confirm", "-y"],
        "commands that ask take --yes, and others do not ask",
    ),
];

/// The flag that no command has: where a value may begin with a hyphen, clap takes it for that value.
fn unknown_flag(error: &clap::Error) -> Option<&str> {
    let kind = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::ValueValidation => ContextKind::InvalidValue,
        _ => return None,
    };
    match error.get(kind) {
        Some(ContextValue::String(flag)) if flag.starts_with('-') || kind == ContextKind::InvalidArg => Some(flag),
        _ => None,
    }
}

/// Where the work of an unknown flag is done: by a flag of another name, or by a setting.
fn flag_hint(error: &clap::Error, shown: &str, written: &[String]) -> Option<String> {
    let flag = unknown_flag(error)?.split('=').next().unwrap_or_default();
    if !is_whole(flag, written) {
        return None;
    }
    let name = flag.strip_prefix("--").unwrap_or_default().replace('-', "_");
    if let Some((_, hint)) = OTHER_FLAGS.iter().find(|(flags, _)| flags.contains(&flag)) {
        return Some(format!("; {hint}"));
    }
    let named: Vec<String> = settings::SETTINGS
        .iter()
        .filter(|setting| setting.field == name || setting.name() == name)
        .map(|setting| {
            let file = if setting.secret { "_file" } else { "" };
            let value = if setting.secret { "FILE" } else { "VALUE" };
            format!("--set {}{file}={value}", setting.name())
        })
        .collect();
    // At other commands such a flag is more probably meant for a client or an account.
    let mut words = shown.split(' ').skip(1);
    if !matches!(words.next(), None | Some("serve" | "config" | "healthcheck" | "db")) {
        return None;
    }
    let known = command_of(shown);
    let is_near = known
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .any(|long| long.replace('-', "_") == name);
    (!named.is_empty() && !is_near).then(|| format!("; this is a setting: {}", named.join(" or ")))
}

/// What other programs call a command.
const OTHER_COMMANDS: [(&[&str], &str); 10] = [
    (&["start", "run", "up", "daemon", "listen"], "serve"),
    (&["add", "new", "register", "make"], "create"),
    (&["remove", "rm", "del", "drop", "destroy"], "delete"),
    (&["ls", "all", "index"], "list"),
    (&["get", "describe", "info", "view", "cat"], "show"),
    (&["edit", "set", "modify", "patch"], "update"),
    (&["status", "health", "ping", "ready"], "healthcheck"),
    (&["migrate", "migrations", "upgrade"], "db migrate"),
    (&["rotate", "jwks"], "keys"),
    (&["log", "logs", "history", "events"], "audit"),
];

/// What other programs have as a command, and what does its work here.
const OTHER_WAYS: [(&[&str], &str); 2] = [
    (&["version"], "'keyround --version'"),
    (
        &["keygen", "genkey", "generate-key", "generate", "init"],
        "'keyround master-key generate' for a master key, or 'keyround keys rotate' for a signing key",
    ),
];

/// The command or flag that was meant. What clap proposes comes after it: it finds nothing for a short name or a separator of another kind,
/// and a flag's opposite (`--no-...`) as soon as the flag.
fn nearest_name(error: &clap::Error, shown: &str) -> Option<String> {
    let of_clap = error.context().find_map(|(kind, value)| match (kind, value) {
        (ContextKind::InvalidSubcommand | ContextKind::InvalidArg, ContextValue::String(name)) => Some(name.as_str()),
        _ => None,
    });
    let written = unknown_flag(error).or(of_clap)?;
    let command = command_of(shown);
    if let Some(flag) = written.strip_prefix("--") {
        let flag = flag.split('=').next().unwrap_or_default();
        let longs = || command.get_arguments().filter_map(clap::Arg::get_long);
        // `--ttl` for `--token-ttl`.
        let end = format!("-{flag}");
        let mut ending = longs().filter(|long| long.ends_with(&end));
        let ending = match (ending.next(), ending.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        };
        let known = text::nearest(flag, longs()).or(ending)?;
        return Some(format!("'--{known}'"));
    }
    let names = || command.get_subcommands().map(clap::Command::get_name);
    let top = Arguments::command();
    let is_of_top = |name: &str| top.get_subcommands().any(|command| command.get_name() == name);
    if shown == "keyround" {
        if let Some((_, way)) = OTHER_WAYS.iter().find(|(others, _)| others.contains(&written)) {
            return Some((*way).to_owned());
        }
    } else if is_of_top(written) {
        return Some(format!("'keyround {written}'"));
    }
    let known = text::nearest(written, names()).or_else(|| {
        let (_, ours) = OTHER_COMMANDS.iter().find(|(others, ours)| {
            let first = ours.split(' ').next().unwrap_or_default();
            others.contains(&written.to_ascii_lowercase().as_str()) && names().any(|name| name == first)
        })?;
        Some(ours)
    })?;
    Some(format!("'{known}'"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    /// The name with one letter missing, doubled, or changed with its neighbour, and with another separator.
    fn misspelt(name: &str) -> Vec<String> {
        let letters: Vec<char> = name.chars().collect();
        let mut variants = vec![name.replace('-', "_"), name.replace('-', ""), name.to_uppercase()];
        // In long names at the ends and in the middle, for each variant takes milliseconds.
        let is_tried = |at: &usize| letters.len() <= 4 || [0, letters.len() / 2, letters.len() - 1].contains(at);
        for at in (0..letters.len()).filter(is_tried) {
            variants.extend(text::misspelt(name, at));
        }
        variants
    }

    fn compare(command: &clap::Command, path: &[&str], without: &mut Vec<String>) {
        let names = command.get_subcommands().map(|inner| inner.get_name().to_owned());
        let here = command
            .get_arguments()
            .filter(|flag| path.len() == 1 || !flag.is_global_set());
        let flags = here
            .filter_map(clap::Arg::get_long)
            .filter(|flag| path.len() == 1 || !matches!(*flag, "help" | "version"));
        let names: Vec<String> = names.chain(flags.map(|flag| format!("--{flag}"))).collect();
        for name in &names {
            for variant in misspelt(name.trim_start_matches("--")) {
                let variant = if name.starts_with("--") {
                    format!("--{variant}")
                } else {
                    variant
                };
                if names.contains(&variant) || variant.len() < 2 || variant == "--" {
                    continue;
                }
                let arguments = [path, &[&variant]].concat();
                let Err(error) = Arguments::try_parse_from(&arguments) else {
                    continue;
                };
                let written: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
                let sentence = mistake(&error, &written);
                let is_unknown = matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument);
                // `--o-link` is as near to `--link` as to `--no-link`.
                let plain = name.replacen("--no-", "--", 1);
                if is_unknown
                    && ![name, &plain]
                        .iter()
                        .any(|meant| sentence.contains(&format!("'{meant}'")))
                {
                    without.push(format!("{}: {sentence}", arguments.join(" ")));
                }
            }
        }
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            compare(inner, &[path, &[inner.get_name()]].concat(), without);
        }
    }

    #[test]
    fn every_command_and_flag_that_is_nearly_right_is_proposed() {
        let mut command = Arguments::command();
        command.build();
        let mut without = Vec::new();
        compare(&command, &["keyround"], &mut without);
        assert!(without.is_empty(), "{} {without:#?}", without.len());
    }
}
