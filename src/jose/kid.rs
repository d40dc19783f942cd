//! The names of keys, `kid`: ours, and those that others chose.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest `kid`, in octets of UTF-8. Names of key vaults are URLs of about 150.
pub const LONGEST_KID: usize = 512;

/// A key's name, `kid`: any text (RFC 7517 section 4.5) up to [`LONGEST_KID`]. Only U+0000 is refused, which PostgreSQL cannot store.
/// Our own are thumbprints; a key that was imported keeps the name that its tokens carry.
///
/// [`Kid::as_str`] is the name itself. Shown, it is one line whose every character is visible: others are escaped, and the backslash too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Kid(String);

/// The text cannot be a `kid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a kid is a text of at most {LONGEST_KID} bytes without the character U+0000")]
pub struct InvalidKid;

impl Kid {
    /// Why a name that was typed is probably not meant, as the rest of a sentence. RFC 7517 allows it, and a JWK may have it.
    #[must_use]
    pub fn mistake(&self) -> Option<&'static str> {
        if self.0.is_empty() {
            return Some("is empty");
        }
        if self.0.chars().any(char::is_control) {
            return Some("has a control character, such as a line end");
        }
        if self.0.trim() != self.0 {
            return Some("begins or ends with a blank");
        }
        None
    }

    /// The kid as it stands in a token's header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest of a key in base64url, which is a kid by construction.
    pub(super) fn of_digest(base64url: String) -> Self {
        Self(base64url)
    }
}

impl FromStr for Kid {
    type Err = InvalidKid;

    fn from_str(text: &str) -> Result<Self, InvalidKid> {
        if text.len() > LONGEST_KID || text.contains('\0') {
            return Err(InvalidKid);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Kid {
    type Error = InvalidKid;

    fn try_from(text: String) -> Result<Self, InvalidKid> {
        text.parse()
    }
}

impl From<Kid> for String {
    fn from(kid: Kid) -> Self {
        kid.0
    }
}

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&visible(&self.0))
    }
}

/// The text with every character visible, so that no name moves a cursor, turns the direction of a line or looks like another one.
fn visible(text: &str) -> Cow<'_, str> {
    let stands = |character: char| matches!(character, '\'' | '"') || character.escape_debug().count() == 1;
    if text.is_empty() {
        return Cow::Borrowed("\"\"");
    }
    if text.chars().all(stands) {
        return Cow::Borrowed(text);
    }
    let escape = |escaped: &mut String, character: char| {
        if stands(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_debug());
        }
    };
    let mut escaped = String::with_capacity(2 * text.len());
    text.chars().for_each(|character| escape(&mut escaped, character));
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kid_is_any_text_up_to_its_length() {
        let longest = "a".repeat(LONGEST_KID);
        for text in [
            "",
            " ",
            "my key",
            "a\"b\\c",
            "cl\u{e9} \u{1f511}",
            "https://vault.example/keys/a/1?b=c#d",
            "a\nb\u{1b}[31m",
            &longest,
        ] {
            let kid: Kid = text.parse().unwrap();
            assert_eq!((kid.as_str(), String::from(kid.clone()).as_str()), (text, text));
            let json = serde_json::to_string(&kid).unwrap();
            assert_eq!(serde_json::from_str::<Kid>(&json).unwrap(), kid);
        }
        for text in [
            format!("{longest}a"),
            "\u{e9}".repeat(LONGEST_KID / 2 + 1),
            "a\0b".to_owned(),
        ] {
            assert_eq!(text.parse::<Kid>(), Err(InvalidKid));
        }
    }

    #[test]
    fn a_name_that_nobody_means_is_known() {
        for (text, says) in [
            ("", "empty"),
            (" ", "blank"),
            ("a ", "blank"),
            ("\u{a0}a", "blank"),
            ("a\n", "control character"),
            ("a\tb", "control character"),
            ("a\u{1b}[31m", "control character"),
            ("a\u{85}b", "control character"),
        ] {
            let kid: Kid = text.parse().unwrap();
            assert!(kid.mistake().is_some_and(|mistake| mistake.contains(says)), "{text:?}");
        }
        for text in ["my key", "a=b", "cl\u{e9}", "old-issuer:2024/a=1"] {
            assert_eq!(text.parse::<Kid>().unwrap().mistake(), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_of_a_kid_is_one_visible_line() {
        for (text, shown) in [
            (
                "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
                "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
            ),
            ("my key", "my key"),
            ("it's \"a\"", "it's \"a\""),
            ("a\\nb", "a\\\\nb"),
            ("a\nb", "a\\nb"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{202e}a", "\\u{202e}a"),
            ("a\u{200b}", "a\\u{200b}"),
            ("\u{85}", "\\u{85}"),
            ("cl\u{e9}", "cl\u{e9}"),
            ("", "\"\""),
        ] {
            assert_eq!(text.parse::<Kid>().unwrap().to_string(), shown, "{text:?}");
        }
    }
}
