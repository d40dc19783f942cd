//! Which characters can be seen: two texts that look the same should be the same.

use icu_properties::props::DefaultIgnorableCodePoint;
use icu_properties::{CodePointSetData, CodePointSetDataBorrowed};

/// What a renderer shows as nothing (Unicode `Default_Ignorable_Code_Point`, UAX #44).
const IGNORABLE: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<DefaultIgnorableCodePoint>();

/// Characters that are drawn and blank, beside white space: the interlinear annotations and the object replacement, BRAILLE PATTERN BLANK,
/// KHITAN SMALL SCRIPT FILLER, MUSICAL SYMBOL NULL NOTEHEAD.
const BLANK: [char; 7] = [
    '\u{fff9}',
    '\u{fffa}',
    '\u{fffb}',
    '\u{fffc}',
    '\u{2800}',
    '\u{16fe4}',
    '\u{1d159}',
];

/// Whether a character shows nothing. The space between two words is white space and counts too.
#[must_use]
pub fn is_blank(character: char) -> bool {
    character.is_whitespace() || character.is_control() || IGNORABLE.contains(character) || BLANK.contains(&character)
}

/// Whether a text has a character that cannot be seen, other than single spaces between words. The joiners are allowed where Arabic and
/// Indic scripts need them for spelling: between two of their letters (RFC 5892 appendices A.1 and A.2, simplified).
#[must_use]
pub fn has_blank(text: &str) -> bool {
    let needs_joiners = |character: Option<char>| matches!(character, Some('\u{600}'..='\u{dff}'));
    let mut before = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let after = characters.peek().copied();
        let is_allowed = match character {
            ' ' => before.is_some_and(|before| before != ' ') && after.is_some(),
            '\u{200c}' | '\u{200d}' => needs_joiners(before) && needs_joiners(after),
            _ => false,
        };
        if is_blank(character) && !is_allowed {
            return true;
        }
        before = Some(character);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code point of Unicode 16.0 that is to be refused, by its ranges in `DerivedCoreProperties.txt`.
    const DEFAULT_IGNORABLE: [(u32, u32); 17] = [
        (0xad, 0xad),
        (0x34f, 0x34f),
        (0x61c, 0x61c),
        (0x115f, 0x1160),
        (0x17b4, 0x17b5),
        (0x180b, 0x180f),
        (0x200b, 0x200f),
        (0x202a, 0x202e),
        (0x2060, 0x206f),
        (0x3164, 0x3164),
        (0xfe00, 0xfe0f),
        (0xfeff, 0xfeff),
        (0xffa0, 0xffa0),
        (0xfff0, 0xfff8),
        (0x1bca0, 0x1bca3),
        (0x1d173, 0x1d17a),
        (0xe0000, 0xe0fff),
    ];

    #[test]
    fn what_unicode_calls_ignorable_is_blank() {
        for (first, last) in DEFAULT_IGNORABLE {
            for point in first..=last {
                let character = char::from_u32(point).unwrap();
                assert!(is_blank(character), "U+{point:04X}");
                assert!(has_blank(&format!("a{character}b")), "U+{point:04X}");
            }
        }
        for blank in [
            '\u{a0}', '\u{1680}', '\u{2028}', '\u{2029}', '\u{3000}', '\u{2800}', '\u{85}',
        ] {
            assert!(is_blank(blank), "{blank:?}");
        }
    }

    #[test]
    fn letters_of_every_script_are_seen() {
        for text in [
            "Ada Lovelace",
            "Jürgen Große",
            "Nguyễn Thị Hương",
            "O'Neill-Šťastný",
            "山田 太郎",
            "김철수",
            "עדה לאבלייס",
            "نيما\u{200c}يوشيج",
            "श\u{94d}\u{200d}री",
            "😀",
        ] {
            assert!(!has_blank(text), "{text}");
        }
        for text in [
            "Ada  Lovelace",
            " Ada",
            "Ada ",
            "A\u{200d}da",
            "\u{200c}نيما",
            "Ada\u{200c}نيما",
        ] {
            assert!(has_blank(text), "{text:?}");
        }
    }
}
