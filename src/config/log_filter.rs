//! `log.filter`: which log lines are written.
//!
//! The filter library takes an unknown word for the name of a module, of which it writes everything, and nothing of any other:
//! `warning` would silence all. So a word that stands alone must be a level.

use tracing_subscriber::EnvFilter;

use crate::values::Refusal;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What other programs call the levels.
const SYNONYMS: [(&str, &str); 17] = [
    ("warning", "warn"),
    ("warnings", "warn"),
    ("err", "error"),
    ("errors", "error"),
    ("critical", "error"),
    ("fatal", "error"),
    ("panic", "error"),
    ("notice", "info"),
    ("information", "info"),
    ("informational", "info"),
    ("default", "info"),
    ("verbose", "debug"),
    ("fine", "debug"),
    ("all", "trace"),
    ("none", "off"),
    ("quiet", "off"),
    ("silent", "off"),
];

/// A filter, as the library reads it.
pub(super) fn parse(text: &str) -> Result<String, Refusal> {
    let mut has_level = false;
    // As the library does, which knows no comma within the fields of a span.
    for directive in text.split(',') {
        let directive = directive.trim();
        let is_module = directive.contains(['=', '[']);
        if is_module {
            let behind_span = directive.rsplit_once(']').map_or(directive, |(_, rest)| rest);
            let level = behind_span.split_once('=').map_or("", |(_, level)| level);
            if !level.contains('=') && !level.is_empty() && !is_level(level) {
                return Err(unknown(level));
            }
            has_level |= directive.starts_with("keyround");
        } else if is_level(directive) {
            has_level = true;
        } else if directive.is_empty() {
            return Err(Refusal("has an empty part between commas; leave it out".to_owned()));
        } else if directive.contains("::") || directive.starts_with("keyround") {
            let is_module = parse(&format!("info,{directive}=debug")).is_ok();
            let module = if is_module { directive } else { "keyround" };
            return Err(Refusal(format!(
                "has a module without a level; write such as {module}=debug, beside a level for all others: info,{module}=debug"
            )));
        } else {
            return Err(unknown(directive));
        }
    }
    if let Err(error) = EnvFilter::try_new(text) {
        return Err(Refusal(format!(
            "is not a log filter ({error}); write one such as info or info,keyround=debug"
        )));
    }
    if !has_level {
        let whole = format!("info,{}", text.trim());
        let meant = if parse(&whole).is_ok() { &whole } else { "info" };
        return Err(Refusal(format!(
            "has no level for the modules that it does not name, so nothing of Keyround would be written; write {meant}"
        )));
    }
    Ok(text.to_owned())
}

/// The library takes capitals and digits too.
fn is_level(word: &str) -> bool {
    LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || matches!(word, "0" | "1" | "2" | "3" | "4" | "5")
}

fn unknown(word: &str) -> Refusal {
    let lower = word.to_ascii_lowercase();
    let synonym = SYNONYMS
        .iter()
        .find(|(other, _)| *other == lower)
        .map(|(_, level)| *level);
    let near = || {
        let nearest = LEVELS
            .iter()
            .min_by_key(|level| strsim::damerau_levenshtein(&lower, level));
        nearest
            .copied()
            .filter(|level| strsim::damerau_levenshtein(&lower, level) <= 2)
    };
    let hint = synonym
        .or_else(near)
        .map_or(String::new(), |level| format!("; did you mean {level}?"));
    Refusal(format!(
        "has '{}', which is no level; the levels are {}{hint}",
        word.escape_debug(),
        LEVELS.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_modules_with_levels() {
        for text in [
            "info",
            "WARN",
            "off",
            "3",
            "info,actix_server=warn",
            "keyround=debug",
            "keyround::rotation=trace,error",
            "info,sqlx=off",
            "info,keyround[request{method=GET}]=debug",
            "info,[request]=debug",
        ] {
            assert_eq!(parse(text).map_err(|Refusal(why)| why), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_would_silence_all_is_refused_with_what_was_meant() {
        for (text, why) in [
            ("warning", "did you mean warn?"),
            ("Warning", "did you mean warn?"),
            ("verbose", "did you mean debug?"),
            ("inof", "did you mean info?"),
            ("fatal", "did you mean error?"),
            ("none", "did you mean off?"),
            ("loud", "the levels are off, error, warn, info, debug, trace"),
            ("info,verbose", "did you mean debug?"),
            ("keyround=warning", "did you mean warn?"),
            ("info,sqlx=verbose", "did you mean debug?"),
            ("keyround", "write such as keyround=debug"),
            ("info,keyround::http", "write such as keyround::http=debug"),
            (
                "keyruond=debug",
                "nothing of Keyround would be written; write info,keyruond=debug",
            ),
            ("sqlx=debug", "nothing of Keyround would be written"),
            ("info,,debug", "an empty part"),
            ("info,", "an empty part"),
            ("a=b=c", "is not a log filter"),
        ] {
            let Refusal(refusal) = parse(text).unwrap_err();
            assert!(refusal.contains(why), "{text}: {refusal}");
        }
    }
}
