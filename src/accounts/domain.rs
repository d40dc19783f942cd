//! The domains of e-mail addresses, each in one form (IDNA 2008, UTS #46).

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::visible::{has_stray_marks, is_blank};

/// ZERO WIDTH NON-JOINER and ZERO WIDTH JOINER, which spell words of Indic and Arabic scripts (RFC 5892 appendices A.1 and A.2).
const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];

/// Punctuation that a name may have (RFC 5892 appendices A.3 to A.7).
const PUNCTUATION: [char; 5] = ['\u{b7}', '\u{375}', '\u{5f3}', '\u{5f4}', '\u{30fb}'];

/// A domain with at least two labels.
pub(super) struct Domain {
    /// Its name in Unicode.
    pub name: String,
    /// Its name in DNS, where that is another one.
    pub in_ascii: Option<String>,
    /// It was given in ASCII.
    pub is_given_in_ascii: bool,
}

impl Domain {
    /// A domain as people write it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let unseen = |character: char| is_blank(character) && !JOINERS.contains(&character);
        // The mapping would take some of them out.
        if text.chars().any(unseen) || has_stray_marks(text) {
            return None;
        }
        let is_ascii = text.is_ascii();
        let lower = text.to_ascii_lowercase();
        if is_ascii && !lower.contains("xn--") {
            return is_domain(&lower).then(|| Self::plain(lower));
        }
        let (name, mapped) = idna::domain_to_unicode(text);
        if is_ascii && (mapped.is_err() || !is_domain(&name)) {
            // A name of DNS that stands for no other.
            return is_domain(&lower).then(|| Self::plain(lower));
        }
        mapped.ok()?;
        if !is_domain(&name) {
            return None;
        }
        let dns_name = in_ascii(&name)?;
        Some(Self {
            is_given_in_ascii: is_ascii,
            in_ascii: Some(dns_name).filter(|dns_name| *dns_name != name),
            name,
        })
    }

    /// The domain of an account that exists, as it is.
    pub(super) fn stored(text: &str) -> Option<Self> {
        let folded: String = text.to_lowercase().nfkc().collect();
        if !is_domain(&folded) {
            return None;
        }
        let dns_name = in_ascii(&folded).filter(|dns_name| *dns_name != folded);
        Some(Self {
            in_ascii: dns_name,
            ..Self::plain(folded)
        })
    }

    const fn plain(name: String) -> Self {
        Self {
            name,
            in_ascii: None,
            is_given_in_ascii: false,
        }
    }
}

/// The name in DNS, if it is not too long.
fn in_ascii(name: &str) -> Option<String> {
    idna::domain_to_ascii(name).ok().filter(|ascii| fits_dns(ascii))
}

/// Whether a name in ASCII is short enough (RFC 1035 section 2.3.4).
pub(super) fn fits_dns(ascii: &str) -> bool {
    ascii.len() <= 253 && ascii.split('.').all(|label| label.len() <= 63)
}

/// Letters, digits and hyphens, at least two labels of them.
fn is_domain(name: &str) -> bool {
    let is_of_name = |character: char| {
        character.is_alphanumeric()
            || matches!(character, '-' | '.')
            || is_combining_mark(character)
            || JOINERS.contains(&character)
            || PUNCTUATION.contains(&character)
    };
    let is_label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    name.contains('.') && name.split('.').all(is_label) && name.chars().all(is_of_name)
}
