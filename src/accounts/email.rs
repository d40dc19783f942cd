//! E-mail addresses as names of accounts: normalised once, here, so that no spelling is another account.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use unicode_normalization::UnicodeNormalization;

use super::visible::is_blank;

/// An e-mail address in its one form: NFKC, lower case, without spaces around it or dots at its end.
///
/// The part before the @ is lower case too, though RFC 5321 section 2.4 would let it differ: no provider of today tells two
/// accounts apart by it, and an account that could be had twice could be impersonated.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Email(String);

/// The text is no e-mail address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an e-mail address looks like name@example.com, at most 254 characters long and each of them visible")]
pub struct InvalidEmail;

impl Email {
    /// The address in its one form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the spelling of the address, capitals of ASCII aside. Another spelling that folds to the same address, such as one
    /// with a ligature, may be another mailbox.
    #[must_use]
    pub fn is_spelled(&self, text: &str) -> bool {
        self.0.eq_ignore_ascii_case(text)
    }

    /// What stands before the @.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or(self.0.as_str(), |(local, _)| local)
    }

    /// What stands behind the @.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl FromStr for Email {
    type Err = InvalidEmail;

    /// Refuses characters that cannot be seen: two addresses that look the same must be the same.
    fn from_str(text: &str) -> Result<Self, InvalidEmail> {
        let email = Self::stored(text)?;
        if email.0.chars().any(is_blank) {
            return Err(InvalidEmail);
        }
        Ok(email)
    }
}

impl Email {
    /// The address of an account that exists: an earlier version accepted more.
    ///
    /// # Errors
    /// When it is no e-mail address.
    pub fn stored(text: &str) -> Result<Self, InvalidEmail> {
        // Before anything grows: NFKC makes up to 18 characters of one.
        if text.len() > 1_024 {
            return Err(InvalidEmail);
        }
        // Lower case first and last: folding may bring forth what NFKC changes, and the other way round.
        let folded: String = text
            .to_lowercase()
            .nfkc()
            .collect::<String>()
            .to_lowercase()
            .nfkc()
            .collect();
        let plain = folded.trim().trim_end_matches('.');
        let (local, domain) = plain.rsplit_once('@').ok_or(InvalidEmail)?;
        let is_text = |part: &str| {
            !part.is_empty()
                && !part
                    .chars()
                    .any(|character| character.is_whitespace() || character.is_control())
        };
        let is_domain = domain
            .split('.')
            .all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
            && domain
                .chars()
                .all(|character| character.is_alphanumeric() || matches!(character, '-' | '.'))
            && domain.contains('.');
        let is_local = is_text(local)
            && !local.contains(['@', '"', '(', ')', ',', ':', ';', '<', '>', '[', ']', '\\'])
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..");
        if plain.len() > 254 || local.len() > 64 || !is_domain || !is_local {
            return Err(InvalidEmail);
        }
        Ok(Self(plain.to_owned()))
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_one() {
        for spelling in [
            "ada@example.com",
            " Ada@Example.COM ",
            "ADA@EXAMPLE.COM.",
            "\u{ff41}da@example.com",
            "ada\u{ff20}example.com",
            "ada@exam\u{ff50}le.com\u{3000}",
        ] {
            assert_eq!(
                spelling.parse::<Email>().unwrap().as_str(),
                "ada@example.com",
                "{spelling:?}"
            );
        }
        let email: Email = "Ada.Lovelace+x@mail.example.com".parse().unwrap();
        assert_eq!(
            (email.local_part(), email.domain()),
            ("ada.lovelace+x", "mail.example.com")
        );
    }

    #[test]
    fn the_form_is_stable() {
        for text in [
            "ß@example.com",
            "ſ@example.com",
            "İ@example.com",
            "K@example.com",
            "ﬁ@example.com",
            "ǅ@example.com",
        ] {
            let email: Email = text.parse().unwrap();
            assert_eq!(email.as_str().parse::<Email>().unwrap(), email, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@example",
            "a da@example.com",
            "ada@exa mple.com",
            "ada@-example.com",
            "ada@example..com",
            ".ada@example.com",
            "a..da@example.com",
            "a\u{200b}da@example.com",
            "a\0@example.com",
            "<ada@example.com>",
            "ada@example.com\nBcc: x@example.com",
            "a@b@example.com",
            "\"ada\"@example.com",
        ] {
            assert_eq!(bad.parse::<Email>(), Err(InvalidEmail), "{bad:?}");
        }
        assert!(format!("{}@example.com", "a".repeat(65)).parse::<Email>().is_err());
        assert!(format!("a@{}.com", "b".repeat(300)).parse::<Email>().is_err());
    }

    #[test]
    fn what_cannot_be_seen_is_refused_and_stored_addresses_stay() {
        for unseen in [
            '\u{115f}',
            '\u{1160}',
            '\u{17b4}',
            '\u{180b}',
            '\u{180e}',
            '\u{34f}',
            '\u{61c}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{2800}',
            '\u{2065}',
            '\u{fff0}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0100}',
        ] {
            for text in [format!("a{unseen}da@example.com"), format!("ada{unseen}@example.com")] {
                assert_eq!(text.parse::<Email>(), Err(InvalidEmail), "{text:?}");
                assert!(Email::stored(&text).is_ok(), "{text:?}");
            }
            assert!(
                format!("ada@exa{unseen}mple.com").parse::<Email>().is_err(),
                "{unseen:?}"
            );
        }
    }

    #[test]
    fn only_the_same_spelling_is_the_same_mailbox() {
        let fiona: Email = "fiona@example.com".parse().unwrap();
        assert!(fiona.is_spelled("fiona@example.com") && fiona.is_spelled("Fiona@EXAMPLE.com"));
        for other in [
            "\u{fb01}ona@example.com",
            "\u{ff46}iona@example.com",
            "fiona@example.com.",
            " fiona@example.com",
            "fion\u{aa}@example.com",
        ] {
            assert_eq!(other.parse(), Ok(fiona.clone()), "{other}");
            assert!(!fiona.is_spelled(other), "{other}");
        }
    }
}
