//! Which characters can be seen: two texts that look the same should be the same.

use icu_properties::props::{
    CanonicalCombiningClass, DefaultIgnorableCodePoint, EmojiModifier, EmojiPresentation, ExtendedPictographic,
    GeneralCategory, GeneralCategoryGroup, JoiningType,
};
use icu_properties::{CodePointMapData, CodePointMapDataBorrowed, CodePointSetData, CodePointSetDataBorrowed};

/// What a renderer shows as nothing (Unicode `Default_Ignorable_Code_Point`, UAX #44).
const IGNORABLE: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<DefaultIgnorableCodePoint>();

const CATEGORY: CodePointMapDataBorrowed<'static, GeneralCategory> = CodePointMapData::new();

/// Marks that are drawn over, under or around the character before them, without a place of their own.
const MARKS: GeneralCategoryGroup = GeneralCategoryGroup::NonspacingMark.union(GeneralCategoryGroup::EnclosingMark);

/// The most marks on one character. The highest stacks of Tibetan have eight, other scripts four.
pub const MAX_MARKS: usize = 8;

/// Characters that are drawn and blank, beside white space: the object replacement, BRAILLE PATTERN BLANK, EGYPTIAN HIEROGLYPH FULL BLANK
/// and HALF BLANK, KHITAN SMALL SCRIPT FILLER, MUSICAL SYMBOL NULL NOTEHEAD.
const BLANK: [char; 6] = [
    '\u{fffc}',
    '\u{2800}',
    '\u{13441}',
    '\u{13442}',
    '\u{16fe4}',
    '\u{1d159}',
];

/// Whether a character shows nothing, or not the same to everyone: white space, controls, format characters, private use, and what Unicode
/// has not assigned. The space between two words counts too.
#[must_use]
pub fn is_blank(character: char) -> bool {
    character.is_whitespace()
        || GeneralCategoryGroup::Other.contains(CATEGORY.get(character))
        || IGNORABLE.contains(character)
        || BLANK.contains(&character)
}

/// Whether a text has a mark on nothing, or more than [`MAX_MARKS`] on one character: such are drawn over the text around them.
#[must_use]
pub fn has_stray_marks(text: &str) -> bool {
    let mut marks = None;
    text.chars().any(|character| {
        if MARKS.contains(CATEGORY.get(character)) {
            marks = marks.map(|marks| marks + 1);
        } else if !IGNORABLE.contains(character) {
            marks = (!is_blank(character)).then_some(0);
        }
        MARKS.contains(CATEGORY.get(character)) && marks.is_none_or(|marks| marks > MAX_MARKS)
    })
}

/// ZERO WIDTH NON-JOINER: keeps two letters from joining that would.
const NON_JOINER: char = '\u{200c}';
/// ZERO WIDTH JOINER: joins what would not, such as the parts of an emoji.
const JOINER: char = '\u{200d}';
/// VARIATION SELECTOR-16: shows the character before it in colour.
const IN_COLOUR: char = '\u{fe0f}';

const COMBINING: CodePointMapDataBorrowed<'static, CanonicalCombiningClass> = CodePointMapData::new();
const JOINING: CodePointMapDataBorrowed<'static, JoiningType> = CodePointMapData::new();
const PICTURE: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<ExtendedPictographic>();
const PICTURE_IN_COLOUR: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<EmojiPresentation>();
const SKIN_TONE: CodePointSetDataBorrowed<'static> = CodePointSetData::new::<EmojiModifier>();

/// Whether a text has a character that cannot be seen, other than single spaces between words, and those that change what is seen around
/// them: joiners in words of scripts whose letters join (RFC 5892 appendices A.1 and A.2), and joiners and variation selectors in
/// emoji (UTS #51).
#[must_use]
pub fn has_blank(text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    characters.iter().enumerate().any(|(at, &character)| {
        let (before, after) = (&characters[..at], &characters[at + 1..]);
        let is_allowed = match character {
            ' ' => before.last().is_some_and(|&before| before != ' ') && !after.is_empty(),
            NON_JOINER => is_half_letter(before, after) || parts_letters(before, after),
            JOINER => is_half_letter(before, after) || joins_pictures(before, after),
            IN_COLOUR => before
                .last()
                .is_some_and(|&picture| PICTURE.contains(picture) && !PICTURE_IN_COLOUR.contains(picture)),
            _ => false,
        };
        is_blank(character) && !is_allowed
    })
}

/// The text without the non-joiners that part two letters which do not join anyway. People type them behind such letters too, and
/// nothing shows whether they did.
#[must_use]
pub fn without_idle_joiners(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let is_idle = |at: usize| {
        let (before, after) = (&characters[..at], &characters[at + 1..]);
        characters[at] == NON_JOINER
            && !is_half_letter(before, after)
            && !parts_letters(before, after)
            && joining(before.iter().rev()).is_some_and(|letter| letter != JoiningType::NonJoining)
            && joining(after.iter()).is_some_and(|letter| letter != JoiningType::NonJoining)
    };
    (0..characters.len())
        .filter(|&at| !is_idle(at))
        .map(|at| characters[at])
        .collect()
}

/// A virama before it takes the vowel from a letter; the joiner chooses how it is written with the next one.
fn is_half_letter(before: &[char], after: &[char]) -> bool {
    let is_virama = |&character: &char| COMBINING.get(character) == CanonicalCombiningClass::Virama;
    before.last().is_some_and(is_virama) && after.first().is_some_and(|&after| !is_blank(after))
}

/// How the first letter joins, marks aside.
fn joining<'a>(letters: impl Iterator<Item = &'a char>) -> Option<JoiningType> {
    let is_mark = |letter: &JoiningType| *letter == JoiningType::Transparent;
    letters
        .map(|&letter| JOINING.get(letter))
        .find(|letter| !is_mark(letter))
}

/// Whether two letters would join without the non-joiner between them.
fn parts_letters(before: &[char], after: &[char]) -> bool {
    let (before, after) = (joining(before.iter().rev()), joining(after.iter()));
    matches!(before, Some(JoiningType::LeftJoining | JoiningType::DualJoining))
        && matches!(after, Some(JoiningType::RightJoining | JoiningType::DualJoining))
}

fn joins_pictures(before: &[char], after: &[char]) -> bool {
    let decorates = |character: char| character == IN_COLOUR || SKIN_TONE.contains(character);
    let picture = before.iter().rev().find(|&&character| !decorates(character));
    let is_picture = |character: Option<&char>| character.is_some_and(|&character| PICTURE.contains(character));
    is_picture(picture) && is_picture(after.first())
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
    fn what_unicode_gives_no_look_is_blank() {
        for blank in [
            // Format characters.
            '\u{600}',
            '\u{605}',
            '\u{6dd}',
            '\u{70f}',
            '\u{8e2}',
            '\u{110bd}',
            '\u{110cd}',
            '\u{13430}',
            '\u{1343f}',
            '\u{fff9}',
            '\u{fffb}', // Private use.
            '\u{e000}',
            '\u{f8ff}',
            '\u{f0000}',
            '\u{10fffd}', // Not assigned, and no characters.
            '\u{378}',
            '\u{2fe0}',
            '\u{fdd0}',
            '\u{ffff}',
            '\u{1fffe}',
            '\u{50000}', // Drawn and blank.
            '\u{fffc}',
            '\u{2800}',
            '\u{13441}',
            '\u{13442}',
            '\u{16fe4}',
            '\u{1d159}',
        ] {
            assert!(is_blank(blank) && has_blank(&format!("a{blank}b")), "{blank:?}");
        }
    }

    #[test]
    fn marks_are_few_and_on_something() {
        let marks = |count: usize| "\u{301}\u{489}".repeat(count / 2);
        for text in [
            "Ada",
            "Ha\u{323}\u{302}u",
            "\u{5e9}\u{5c1}\u{5bc}\u{5b8}\u{596}",
            // The highest stack of Tibetan.
            "\u{f67}\u{f90}\u{fb5}\u{fa8}\u{fb3}\u{fba}\u{fbc}\u{fbb}\u{f82}",
            "ก\u{e34}\u{e48}",
            "श\u{94d}\u{200d}री",
            &format!("a{}b{}", marks(8), marks(8)),
        ] {
            assert!(!has_stray_marks(text), "{text}");
        }
        for text in [
            "\u{301}a",
            "a \u{301}",
            "\u{20dd}",
            &format!("a{}", marks(10)),
            &format!("Ada b{} c", marks(40)),
            &"\u{633}\u{64b}\u{200c}\u{64b}\u{64b}\u{200c}".replace('\u{64b}', "\u{64b}\u{64b}\u{64b}"),
        ] {
            assert!(has_stray_marks(text), "{text}");
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
            // Persian: the joiner keeps two letters apart.
            "علی\u{200c}رضا",
            "می\u{200c}خواهم",
            "علي\u{64b}\u{200c}رضا",
            // Sinhala, Devanagari, Kannada.
            "ශ\u{dca}\u{200d}රී",
            "श\u{94d}\u{200d}री",
            "क\u{94d}\u{200c}ष",
            "ರ\u{ccd}\u{200d}ಕ",
            "😀",
            "Ada ❤\u{fe0f}",
            "👩\u{200d}💻",
            "👩🏽\u{200d}🔬",
            "❤\u{fe0f}\u{200d}🔥",
            "👨\u{200d}👩\u{200d}👧",
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
            // Letters that do not join, and a joiner at the end, twice, or of the other kind.
            "نيما\u{200c}يوشيج",
            "علی\u{200c}",
            "علی\u{200c}\u{200c}رضا",
            "علی\u{200d}رضا",
            "क\u{200c}ष",
            "क\u{94d}\u{200d}",
            "क\u{94d}\u{200d} ष",
            "क\u{94d}\u{200d}\u{200c}ष",
            // Emoji: nothing to change, or nothing to join.
            "1\u{fe0f}",
            "A\u{fe0f}",
            "😀\u{fe0f}",
            "❤\u{fe0e}",
            "❤\u{fe0f}\u{fe0f}",
            "👩\u{200d}",
            "👩\u{200d}a",
            "👩\u{200d}\u{200d}💻",
            // A flag of a region, of invisible letters.
            "🏴\u{e0067}\u{e0062}\u{e007f}",
        ] {
            assert!(has_blank(text), "{text:?}");
        }
    }

    #[test]
    fn a_joiner_that_changes_nothing_is_no_part_of_a_name() {
        for (typed, kept) in [
            ("نیما\u{200c}یوشیج", "نیمایوشیج"),
            ("کار\u{200c}آفرین", "کارآفرین"),
            ("علی\u{200c}رضا", "علی\u{200c}رضا"),
            ("श\u{94d}\u{200d}री", "श\u{94d}\u{200d}री"),
            // Refused afterwards.
            ("A\u{200c}da", "A\u{200c}da"),
            ("علی\u{200c}", "علی\u{200c}"),
        ] {
            assert_eq!(without_idle_joiners(typed), kept);
        }
    }
}
