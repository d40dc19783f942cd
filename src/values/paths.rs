//! What a file of variables, a shell or a template adds to a path by mistake.

use super::{Refusal, refuse};

/// Refuses a path that begins or ends with what cannot be seen, or holds a control character: it names another file than is meant,
/// which would be made without a word.
///
/// # Errors
/// With the character, and what would be right.
pub fn check_path(path: &str) -> Result<(), Refusal> {
    match stray(path) {
        Some((how, name)) => refuse(format!(
            "{how} {name}, so that it names another file than is meant; write the path without it, and rename a file that was made under this name"
        )),
        None => Ok(()),
    }
}

/// How such a character is in the text, and its name.
fn stray(text: &str) -> Option<(&'static str, String)> {
    if let Some(first) = text.chars().next().filter(|&first| is_unseen(first)) {
        return Some(("begins with", name(first)));
    }
    if let Some(last) = text.chars().next_back().filter(|&last| is_unseen(last)) {
        return Some(("ends with", name(last)));
    }
    let control = text.chars().find(|character| character.is_control())?;
    Some(("holds", name(control)))
}

/// White space, controls, and what people paste without seeing it: zero-width characters, marks of direction and of byte order.
fn is_unseen(character: char) -> bool {
    let is_pasted =
        matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    character.is_whitespace() || character.is_control() || is_pasted
}

fn name(character: char) -> String {
    match character {
        ' ' => "a blank".to_owned(),
        '\t' => "a tab".to_owned(),
        '\n' => "a line end (\\n)".to_owned(),
        '\r' => "a carriage return (\\r)".to_owned(),
        _ => format!("the character U+{:04X}, which cannot be seen", u32::from(character)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_no_part_of_a_path() {
        for path in [
            "data/keyround.db",
            "my data/b\u{fc}cher.db",
            "-",
            "\u{645}\u{6cc}\u{200c}\u{631}",
            "",
        ] {
            assert_eq!(check_path(path), Ok(()), "{path:?}");
        }
        for (path, why) in [
            ("a\r", "ends with a carriage return (\\r)"),
            ("a\n", "ends with a line end (\\n)"),
            ("a ", "ends with a blank"),
            (" a", "begins with a blank"),
            ("\ta", "begins with a tab"),
            ("a\u{a0}", "ends with the character U+00A0"),
            ("\u{feff}a", "begins with the character U+FEFF"),
            ("a\u{200b}", "ends with the character U+200B"),
            ("a\nb", "holds a line end (\\n)"),
            ("a\u{1b}b", "holds the character U+001B"),
            ("a\0b", "holds the character U+0000"),
        ] {
            let Refusal(said) = check_path(path).unwrap_err();
            assert!(said.starts_with(why), "{path:?}: {said}");
        }
    }
}
