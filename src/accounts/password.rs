//! Passwords: how much of one is read, and which new ones are taken.
//!
//! A new password may hold any character of Unicode, spaces too, and is never asked for digits or capitals: only for a length,
//! and not to be among the first that are guessed (NIST SP 800-63B-4 section 3.1.1.2).

use std::fmt;

use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;
use zxcvbn::{Score, zxcvbn};

/// The most octets that are read of a password: 64 characters of any script, four times over.
pub const MOST_OCTETS: usize = 1_024;

/// How many characters are judged: the time that it takes grows faster than the length.
const MOST_JUDGED: usize = 100;

/// How many are, when they hold more of the signs that stand for letters than [`MOST_SIGNS`]: each way to read them is tried, and
/// there are twice as many with each such sign. What begins so is no word.
const MOST_JUDGED_OF_SIGNS: usize = 24;
const MOST_SIGNS: usize = 6;
const SIGNS: &str = "4@8({[<369&#!|105$+7%2";

/// Shorter words are in every password.
const SHORTEST_WORD: usize = 3;

/// The name of this program, which people use where a password for it is asked for.
const PRODUCT: &str = "keyround";

/// A password as somebody typed it; shown nowhere, and wiped from memory when it is dropped.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub struct Password(Zeroizing<String>);

/// The password is longer than any that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a password has at most 1024 octets of UTF-8")]
pub struct PasswordTooLong;

/// Why a password is not taken as a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedPassword {
    /// It has too few characters.
    #[error("a password has at least {least} characters; this one has {found}")]
    TooShort {
        /// How many it must have.
        least: usize,
        /// How many it has.
        found: usize,
    },
    /// It is common, a pattern, or made of what everybody knows of the account.
    #[error(
        "this password is among the first that are guessed: it is common, follows a pattern, or is made of the name, the \
         e-mail address or the site; a few unrelated words are a good one"
    )]
    Guessable,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(redacted)")
    }
}

impl TryFrom<String> for Password {
    type Error = PasswordTooLong;

    fn try_from(text: String) -> Result<Self, PasswordTooLong> {
        let text = Zeroizing::new(text);
        if text.len() > MOST_OCTETS {
            return Err(PasswordTooLong);
        }
        Ok(Self(text))
    }
}

impl Password {
    /// Exactly what was typed: what other systems hashed, whose hashes were imported.
    #[must_use]
    pub fn as_typed(&self) -> &str {
        &self.0
    }

    /// The password in NFKC, so that the same characters from another keyboard are the same password.
    #[must_use]
    pub fn normalized(&self) -> Zeroizing<String> {
        // Room for all of it at once: text that grows leaves copies behind that nobody wipes.
        let octets = self.0.nfkc().map(char::len_utf8).sum();
        let mut normalized = Zeroizing::new(String::with_capacity(octets));
        normalized.extend(self.0.nfkc());
        normalized
    }

    /// Whether this may become the password of an account of which these words are known.
    ///
    /// It takes milliseconds, and for some passwords a tenth of a second: never on a worker.
    ///
    /// # Errors
    /// [`RefusedPassword`], as a sentence for the person.
    pub fn refuse_as_new(&self, least: usize, words: &AccountWords) -> Result<(), RefusedPassword> {
        let normalized = self.normalized();
        // One character that NFKC takes apart into many is still quickly guessed.
        let found = normalized.chars().count().min(self.0.chars().count());
        if found < least {
            return Err(RefusedPassword::TooShort { least, found });
        }
        let signs = SIGNS.chars().filter(|sign| normalized.contains(*sign)).count();
        let most = if signs > MOST_SIGNS {
            MOST_JUDGED_OF_SIGNS
        } else {
            MOST_JUDGED
        };
        let judged: Zeroizing<String> = Zeroizing::new(normalized.chars().take(most).collect());
        let words: Vec<&str> = words.0.iter().map(String::as_str).collect();
        // Below this, fewer than a million guesses find it.
        if zxcvbn(&judged, &words).score() < Score::Two {
            return Err(RefusedPassword::Guessable);
        }
        Ok(())
    }
}

/// What everybody knows of an account, as words that a guess is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountWords(Vec<String>);

impl AccountWords {
    /// The words of an e-mail address, a name and the host of the issuer: each whole, and each part.
    #[must_use]
    pub fn new(email: &str, name: &str, host: &str) -> Self {
        let wholes = [email, name, host, PRODUCT].into_iter();
        let halves = email.split('@').chain(name.split_whitespace());
        let parts = [email, name, host]
            .into_iter()
            .flat_map(|text| text.split(|character: char| !character.is_alphanumeric()));
        let mut words: Vec<String> = wholes
            .chain(halves)
            .chain(parts)
            .map(|word| word.nfkc().flat_map(char::to_lowercase).collect())
            .collect();
        words.push(name.split_whitespace().collect::<String>().to_lowercase());
        words.retain(|word: &String| word.chars().count() >= SHORTEST_WORD);
        words.sort_unstable();
        words.dedup();
        Self(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::try_from(text.to_owned()).unwrap()
    }

    fn judge(text: &str) -> Result<(), RefusedPassword> {
        let words = AccountWords::new(
            "Wilhelmine.Krausnick@Postfach.example",
            "Wilhelmine Krausnick",
            "login.rosenbaum.example",
        );
        password(text).refuse_as_new(8, &words)
    }

    #[test]
    fn length_is_counted_in_characters_whichever_way_they_are_written() {
        let refused = |found| Err(RefusedPassword::TooShort { least: 8, found });
        assert_eq!(judge("xk7#qvz"), refused(7));
        assert_eq!(judge(""), refused(0));
        assert_eq!(judge("ünßköπ7"), refused(7), "fifteen octets");
        assert_eq!(judge("u\u{308}n\u{df}ko\u{308}\u{3c0}7"), refused(7), "decomposed");
        assert_eq!(judge("\u{fdfa}"), refused(1), "NFKC makes eighteen characters of one");
        assert_eq!(judge("xk7#qvzp"), Ok(()));
    }

    /// Any Unicode, at least 64 characters, no composition rules.
    #[test]
    fn every_script_spaces_and_long_passphrases_are_taken() {
        let four_octets_each: String = (0..64_u32)
            .map(|n| char::from_u32(0x1f300 + n * 7 % 61).unwrap())
            .collect();
        assert_eq!((four_octets_each.chars().count(), four_octets_each.len()), (64, 256));
        for text in [
            four_octets_each.as_str(),
            "пароль из пяти слов",
            "correct horse battery staple",
            "the quick wombat ate my third umbrella",
            "kvmzqwjx",
            "\u{0}\u{1}\u{7f}\u{200d}\u{feff}\u{e000}\u{10ffff}~",
        ] {
            assert_eq!(judge(text), Ok(()), "{text:?}");
        }
        assert_eq!(judge(&"Aufgeräumt wandert das 9. Nilpferd ".repeat(28)), Ok(()));
    }

    /// NIST SP 800-63B section 3.1.1.2: passwords that are common or of the context.
    #[test]
    fn what_is_guessed_first_is_refused() {
        for text in [
            "password",
            "Passw0rd",
            "12345678",
            "qwertyuiop",
            "iloveyou",
            "baseball1",
            "letmein123",
            "aaaaaaaaaaaa",
            "abcdefgh",
            "19841984",
            "trustno1",
            "drowssap",
            // Of the account: the name, the e-mail address, the site and the product.
            "wilhelmine",
            "Krausnick1",
            "wilhelmine.krausnick@postfach.example",
            "krausnickkrausnick",
            "WilhelmineKrausnick",
            "rosenbaum",
            "R0senbaum!",
            "login.rosenbaum.example",
            "keyround",
            "Keyround1",
            "!@#$%^&*()",
        ] {
            assert_eq!(judge(text), Err(RefusedPassword::Guessable), "{text}");
        }
        let stranger = AccountWords::new("a@b.example", "", "id.example");
        assert_eq!(password("wilhelmine.krausnick").refuse_as_new(8, &stranger), Ok(()));
    }

    #[test]
    fn the_same_characters_are_the_same_password() {
        assert_eq!(*password("\u{e9}\u{fb01}\u{2460}").normalized(), "\u{e9}fi1");
        assert_eq!(*password("e\u{301}fi1").normalized(), "\u{e9}fi1");
        assert_eq!(password("e\u{301}").as_typed(), "e\u{301}");
    }

    #[test]
    fn no_more_than_the_most_is_read_and_nothing_is_shown() {
        assert!(Password::try_from("é".repeat(MOST_OCTETS / 2)).is_ok());
        assert_eq!(
            Password::try_from("a".repeat(MOST_OCTETS + 1)).unwrap_err(),
            PasswordTooLong
        );
        assert_eq!(format!("{:?}", password("hunter2")), "Password(redacted)");
        assert!(PasswordTooLong.to_string().contains(&MOST_OCTETS.to_string()));
        let read: Result<Password, _> = serde_json::from_str(&format!("\"{}\"", "hunter2".repeat(200)));
        let said = read.unwrap_err().to_string();
        assert!(said.contains("1024 octets") && !said.contains("hunter2"), "{said}");
    }
}
