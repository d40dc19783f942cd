//! Scope (RFC 6749 section 3.3): a set of words, written in the order they were given.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// A set of scope tokens, possibly empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(Vec<String>);

/// The text is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a scope is words of printable ASCII without quotes and backslashes, separated by single spaces")]
pub struct InvalidScope;

/// The most words of a scope: of that which a client may have, and of one that a request names.
pub const MAX_SCOPE_WORDS: usize = 64;

impl Scope {
    /// How many words it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether every word of this scope is in the other.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.iter().all(|word| other.0.contains(word))
    }

    /// Whether it has this word.
    #[must_use]
    pub fn contains(&self, word: &str) -> bool {
        self.0.iter().any(|own| own == word)
    }

    /// Its words that the other has too.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        Self(self.0.iter().filter(|word| other.0.contains(word)).cloned().collect())
    }

    /// Its words but for this one.
    #[must_use]
    pub fn without(&self, word: &str) -> Self {
        Self(self.0.iter().filter(|own| *own != word).cloned().collect())
    }

    /// Its words, and those of the other that it lacks.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let more = other.0.iter().filter(|word| !self.0.contains(word));
        Self(self.0.iter().chain(more).cloned().collect())
    }

    /// Its words, and this one.
    #[must_use]
    pub(super) fn with(mut self, word: &str) -> Self {
        if !self.contains(word) {
            self.0.push(word.to_owned());
        }
        self
    }

    /// Its words.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there is no word at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut words: Vec<String> = Vec::new();
        let mut known = HashSet::new();
        for word in text.split(' ') {
            let fits = !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E));
            if !fits {
                return Err(InvalidScope);
            }
            if known.insert(word) {
                words.push(word.to_owned());
            }
        }
        Ok(Self(words))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_order_and_lose_their_doubles() {
        let scope: Scope = "b a b".parse().unwrap();
        assert_eq!(scope.to_string(), "b a");
        assert!("a".parse::<Scope>().unwrap().is_within(&scope));
        assert!(!"a c".parse::<Scope>().unwrap().is_within(&scope));
    }

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        for text in [" a", "a ", "a  b", "a\"b", "a\\b", "a\nb", "ä"] {
            assert_eq!(text.parse::<Scope>(), Err(InvalidScope), "{text:?}");
        }
    }
}
