//! Text files as editors, Windows and orchestrators write them: UTF-8, with or without a byte order mark. And which texts are names.

use url::Url;

/// Why the content of a file is not read as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// It is UTF-16, as Windows writes it unless asked for something else.
    #[error("it is UTF-16 text; save it as UTF-8")]
    Utf16,
    /// It is in another encoding, or it is not text.
    #[error("line {line} is not UTF-8 text; save the file as UTF-8")]
    NotUtf8 {
        /// The line, from 1.
        line: usize,
    },
}

/// The text without its byte order mark, which is not part of it (RFC 3629 section 6).
///
/// # Errors
/// [`NotText`] names the encoding or the line.
pub fn decode(content: &[u8]) -> Result<&str, NotText> {
    let content = without_mark(content)?;
    std::str::from_utf8(content).map_err(|error| NotText::NotUtf8 {
        line: content[..error.valid_up_to()].split(|&octet| octet == b'\n').count(),
    })
}

/// The content without its byte order mark, for readers that skip what is around a PEM, whatever its encoding is.
///
/// # Errors
/// [`NotText::Utf16`].
pub fn without_mark(content: &[u8]) -> Result<&[u8], NotText> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    // Without a mark, UTF-16 shows by the zero octet in one of the first two.
    if content.starts_with(b"\xff\xfe")
        || content.starts_with(b"\xfe\xff")
        || content.iter().take(2).any(|&octet| octet == 0)
    {
        return Err(NotText::Utf16);
    }
    Ok(content)
}

/// Whether a client may have this id: see [`crate::oauth::client::ClientId`].
#[must_use]
pub fn is_client_id(text: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
    (1..=255).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Whether a resource may have this name: see [`crate::oauth::client::Audience`].
#[must_use]
pub fn is_audience(text: &str) -> bool {
    let is_printable = (1..=2048).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_uri = || Url::parse(text).is_ok_and(|url| url.fragment().is_none());
    is_printable && (!text.contains(':') || is_uri())
}

/// A text from outside without the characters that move a terminal's cursor, begin a line, turn the direction of one, or show nothing. The
/// joiners of words and emoji stay.
#[must_use]
pub fn printable(text: &str) -> String {
    let is_unseen = |character: char| {
        matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e0fff}'
        )
    };
    text.replace(
        |character: char| character.is_control() || is_unseen(character),
        "\u{fffd}",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_content_and_other_encodings_are_named() {
        for (content, expected) in [
            (&b"a"[..], Ok("a")),
            (b"\xef\xbb\xbfa\r\n", Ok("a\r\n")),
            (b"", Ok("")),
            (b"\xef\xbb\xbf", Ok("")),
            ("\u{fc}".as_bytes(), Ok("\u{fc}")),
            (b"\xff\xfea\0", Err(NotText::Utf16)),
            (b"\xfe\xff\0a", Err(NotText::Utf16)),
            (b"a\0b\0", Err(NotText::Utf16)),
            (b"a\nJ\xfcrgen", Err(NotText::NotUtf8 { line: 2 })),
        ] {
            assert_eq!(decode(content), expected, "{}", content.escape_ascii());
        }
        assert_eq!(without_mark(b"\xef\xbb\xbfJ\xfcrgen"), Ok(&b"J\xfcrgen"[..]));
        assert_eq!(without_mark(b"\xff\xfea\0"), Err(NotText::Utf16));
    }

    #[test]
    fn what_is_printed_moves_no_cursor_and_turns_no_line() {
        for (text, shown) in [
            ("web-1", "web-1"),
            ("J\u{fc}rgen \u{674e}", "J\u{fc}rgen \u{674e}"),
            (
                "\u{639}\u{644}\u{6cc}\u{200c}\u{631}",
                "\u{639}\u{644}\u{6cc}\u{200c}\u{631}",
            ),
            ("a\u{1b}[2Jb", "a\u{fffd}[2Jb"),
            ("a\r\nb\tc\0", "a\u{fffd}\u{fffd}b\u{fffd}c\u{fffd}"),
            ("\u{9b}31m\u{7f}\u{85}", "\u{fffd}31m\u{fffd}\u{fffd}"),
            ("\u{202e}a\u{2066}\u{200f}\u{61c}", "\u{fffd}a\u{fffd}\u{fffd}\u{fffd}"),
            ("\u{2028}\u{200b}\u{feff}", "\u{fffd}\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(printable(text), shown, "{text:?}");
        }
    }
}
