//! Text files as editors, Windows and orchestrators write them: UTF-8, with or without a byte order mark. And which texts are names.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD as BASE64, BASE64_URL_SAFE_NO_PAD as BASE64URL};
use url::{Host, ParseError, Url};

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

/// The text without the one line end that a program writes behind it.
#[must_use]
pub fn without_line_end(text: &str) -> &str {
    let line = text.strip_suffix('\n').unwrap_or(text);
    if line.len() < text.len() {
        line.strip_suffix('\r').unwrap_or(line)
    } else {
        text
    }
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
    // Earlier versions registered what the URL standard reads, which is more than RFC 3986 has in some places and less in others.
    let is_url = || Url::parse(text).is_ok_and(|url| url.fragment().is_none());
    is_printable && (!text.contains(':') || is_absolute_uri(text) || is_url())
}

/// Why a text with a colon is no absolute URI (RFC 3986 section 4.3) that a resource may have as its name, as the rest of a sentence; none if
/// it is one, or a name without a colon.
#[must_use]
pub fn uri_fault(text: &str) -> Option<&'static str> {
    if !text.contains(':') || is_absolute_uri(text) {
        return None;
    }
    let scheme = text.split(':').next().unwrap_or_default();
    Some(if !is_scheme(scheme) {
        "has a colon behind something that is no scheme of a URI, which begins with a letter and has letters, digits, '+', '-' and '.'"
    } else if text.contains('#') {
        "has a fragment, which no name of a resource has"
    } else if matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
        "is no URI of a web server, such as https://api.example.com"
    } else {
        "has characters that no URI has in this place; percent-encode them"
    })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || b"+-.".contains(&octet))
}

/// `absolute-URI` of RFC 3986 section 4.3. One of a web server has a host (RFC 9110 section 4.2).
fn is_absolute_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let needs_host = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    let path = match rest.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if !is_authority(authority, needs_host) {
                return false;
            }
            path
        }
        None if needs_host => return false,
        None => rest,
    };
    is_scheme(scheme) && is_of_uri(path, b":@/?")
}

fn is_authority(text: &str, needs_host: bool) -> bool {
    let (user, place) = text.rsplit_once('@').unwrap_or(("", text));
    let (is_host, port) = if let Some(literal) = place.strip_prefix('[') {
        let Some((address, behind)) = literal.split_once(']') else {
            return false;
        };
        let Some(port) = behind.strip_prefix(':').or_else(|| behind.is_empty().then_some("")) else {
            return false;
        };
        let is_host = address.parse::<std::net::Ipv6Addr>().is_ok() || is_future_address(address);
        (is_host, port)
    } else {
        let (host, port) = place.split_once(':').unwrap_or((place, ""));
        (is_of_uri(host, b"") && !(needs_host && host.is_empty()), port)
    };
    is_of_uri(user, b":") && is_host && port.bytes().all(|octet| octet.is_ascii_digit())
}

/// `IPvFuture` of RFC 3986 section 3.2.2.
fn is_future_address(text: &str) -> bool {
    let version = text.strip_prefix(['v', 'V']).and_then(|rest| rest.split_once('.'));
    version.is_some_and(|(version, name)| {
        !version.is_empty()
            && version.bytes().all(|octet| octet.is_ascii_hexdigit())
            && !name.is_empty()
            && !name.contains('%')
            && is_of_uri(name, b":")
    })
}

/// Unreserved characters, `sub-delims`, percent-encoded octets, and these.
fn is_of_uri(text: &str, others: &[u8]) -> bool {
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let is_right = match octet {
            b'%' => [octets.next(), octets.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            octet => octet.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&octet) || others.contains(&octet),
        };
        if !is_right {
            return false;
        }
    }
    true
}

/// Whether a text is a URI with a user or a password (RFC 3986 section 3.2.1). Every token and log line would repeat them.
#[must_use]
pub fn names_user(text: &str) -> bool {
    let authority = || {
        let rest = text.split_once("://").map(|(_, rest)| rest)?;
        rest.split(['/', '?', '#']).next()
    };
    Url::parse(text).is_ok_and(|url| !url.username().is_empty() || url.password().is_some())
        || is_absolute_uri(text) && authority().is_some_and(|authority| authority.contains('@'))
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

/// Whether a text holds a key: PEM, also in base64, DER in base64, or a JWK.
#[must_use]
pub fn holds_key(text: &str) -> bool {
    let text = text.trim_start();
    text.contains("-----BEGIN ")
        || text.starts_with(['{', '[']) && text.contains("\"kty\"")
        // "-----BEGIN " in base64.
        || text.starts_with("LS0tLS1CRUdJTi")
        || is_der_in_base64(text)
}

/// Whether a text is a SEQUENCE of DER, whole and in base64, as long as a key is at least.
fn is_der_in_base64(text: &str) -> bool {
    let joined: String = text.split_whitespace().collect();
    let plain = joined.trim_end_matches('=');
    let der = BASE64
        .decode(plain)
        .or_else(|_| BASE64URL.decode(plain))
        .unwrap_or_default();
    let end = match der.as_slice() {
        [0x30, length @ 0..=0x7f, ..] => 2 + usize::from(*length),
        [0x30, 0x81, length, ..] => 3 + usize::from(*length),
        [0x30, 0x82, high, low, ..] => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => return false,
    };
    der.len() >= 40 && der.len() == end
}

/// Whether a text that was given as a name may be a secret: key material, a token, or a long random text. Errors do not repeat it.
#[must_use]
pub fn may_be_secret(text: &str) -> bool {
    let text = text.trim();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    let has = |kind: fn(&u8) -> bool| text.bytes().any(|byte| kind(&byte));
    let is_random = text.len() >= 32
        && text.bytes().all(is_plain)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit);
    let is_hexadecimal = text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    holds_key(text) || is_token(text) || is_random || is_hexadecimal
}

/// The same of a text that may hold other words beside it: a list, a policy, a URL with a password.
#[must_use]
pub fn holds_secret(text: &str) -> bool {
    let mut words = text.split([' ', ',', ';', '=', '"', '\'', '[', ']']);
    may_be_secret(text) || words.any(may_be_secret) || has_password(text)
}

/// Whether a text is a URL with a password, or one that lacks its scheme. Of a web address, the name of a user may be a token.
fn has_password(text: &str) -> bool {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_web = scheme.to_ascii_lowercase().starts_with("http");
    authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| is_web || user.contains(':'))
}

/// A word as a shell reads it.
#[must_use]
pub fn for_shell(word: &str) -> String {
    let is_plain = |character: char| character.is_alphanumeric() || "/._-+:@%=,".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// In place of a text that may be a secret.
pub const NOT_REPEATED: &str = "(not repeated, because it may be a secret)";

/// A text without the words that may be secrets.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let is_between = |character: char| character.is_whitespace() || ",;'\"`[].".contains(character);
    text.split_inclusive(is_between)
        .map(|piece| {
            let word = piece.trim_end_matches(is_between);
            if holds_secret(word) {
                piece.replacen(word, NOT_REPEATED, 1)
            } else {
                piece.to_owned()
            }
        })
        .collect()
}

/// A name that was given, in quotation marks, unless a secret may have been given in its place.
#[must_use]
pub fn quoted(name: &str) -> String {
    if holds_secret(name) {
        NOT_REPEATED.to_owned()
    } else {
        format!("'{name}'")
    }
}

/// A sentence without what it quotes of a text, which may be a part of a secret.
#[must_use]
pub fn without_parts_of(text: &str, sentence: &str) -> String {
    let text = text.escape_debug().to_string();
    let mut quotes = sentence.split(['\'', '`']);
    let mut kept = quotes.next().unwrap_or_default().to_owned();
    for (place, part) in quotes.enumerate() {
        let is_quoted = place % 2 == 0;
        kept.push('\'');
        // A single mark is a part of every URL, and no secret.
        let is_mark = part.len() == 1 && part.bytes().all(|octet| octet.is_ascii_punctuation());
        kept.push_str(if is_quoted && !is_mark && !part.is_empty() && text.contains(part) {
            "..."
        } else {
            part
        });
    }
    kept
}

/// Why a text is no URL of the web, as the rest of a sentence; none for one that is, and for one whose fault cannot be told.
#[must_use]
pub fn url_fault(text: &str) -> Option<&'static str> {
    let (scheme, rest) = text.split_once("://")?;
    if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let has_port = |port: &str| !port.is_empty() && port.bytes().all(|octet| octet.is_ascii_digit());
    if host.contains('%') && host.split('%').next().is_some_and(|host| host.matches(':').count() > 1) {
        return Some("has an IPv6 address with a zone ('%'), which no other machine could use");
    }
    // More colons than the one before a port.
    if !host.starts_with('[') && host.matches(':').count() > 1 {
        return Some("has an IPv6 address without brackets, such as [2001:db8::1] has");
    }
    match Url::parse(text).err()? {
        ParseError::InvalidPort => Some(match host.rsplit_once(':') {
            Some((_, port)) if has_port(port) => "has a port beyond 65535",
            _ => "has a port that is not a number",
        }),
        ParseError::InvalidIpv4Address => Some("has a host whose last label is a number, but which is no IPv4 address"),
        ParseError::InvalidIpv6Address => Some("has brackets around something else than an IPv6 address"),
        ParseError::EmptyHost => Some("has no host"),
        ParseError::IdnaError | ParseError::InvalidDomainCharacter => {
            Some("has a host with characters that no host has")
        }
        _ => None,
    }
}

/// Why DNS cannot have the host of a URL, as the rest of a sentence; none for a host that it can have, or an address. An underscore is
/// accepted where names of services and machines have one: browsers send such origins.
#[must_use]
pub fn host_fault(url: &Url) -> Option<&'static str> {
    let Some(Host::Domain(name)) = url.host() else {
        return None;
    };
    let is_of_name = |octet: u8| octet.is_ascii_alphanumeric() || b"-_".contains(&octet);
    if let Some(name) = name.strip_suffix('.')
        && !name.is_empty()
        && !name.ends_with('.')
    {
        return Some("has a host with a dot at its end, which browsers and verifiers take for another host");
    }
    let labels = || name.split('.');
    if labels().any(str::is_empty) {
        return Some("has a host with a label that is empty");
    }
    if name.len() > 253 {
        return Some("has a host of more than 253 characters");
    }
    if labels().any(|label| label.len() > 63) {
        return Some("has a host with a label of more than 63 characters");
    }
    if !labels().all(|label| label.bytes().all(is_of_name)) {
        return Some("has a host with characters other than letters, digits, hyphens and dots");
    }
    if labels().any(|label| label.starts_with('-') || label.ends_with('-')) {
        return Some("has a host with a label that begins or ends with a hyphen");
    }
    if name.rsplit_once('.').is_some_and(|(_, last)| last.contains('_')) {
        return Some("has a host with an underscore in its last label");
    }
    None
}

/// Whether a text has the form of a token: JWS or JWE in its compact serialization (RFC 7515, RFC 7516).
#[must_use]
pub fn is_token(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let parts: Vec<&str> = text.trim().split('.').collect();
    matches!(parts.len(), 3 | 5) && parts[0].starts_with("eyJ") && parts.iter().all(|part| part.bytes().all(is_plain))
}

/// The name that a text was meant to be, if one is near enough: capitals and separators aside, a third of the letters may be wrong, and
/// one in any name.
#[must_use]
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.replace(['_', '.', '-', '+', ' '], "").to_lowercase();
    let written = plain(text);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written, &plain(name)), name))
        // One letter may be wrong in a short name too.
        .filter(|(distance, name)| distance * 3 <= name.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// "; did you mean NAME?" where there is such a name.
#[must_use]
pub fn did_you_mean<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(text, names).map_or(String::new(), |name| format!("; did you mean {name}?"))
}

/// The name with the letter at this place missing, doubled, or changed with its neighbour.
#[cfg(test)]
pub fn misspelt(name: &str, at: usize) -> [String; 3] {
    let letters: Vec<char> = name.chars().collect();
    let (mut missing, mut doubled, mut swapped) = (letters.clone(), letters.clone(), letters.clone());
    missing.remove(at);
    doubled.insert(at, letters[at]);
    swapped.swap(at, (at + 1).min(letters.len() - 1));
    [missing, doubled, swapped].map(String::from_iter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_for_a_shell_stays_one_word() {
        for word in ["/etc/keyround/master.key", "/my keys/a", "a'b", "", "$(id)", "a;b"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", for_shell(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(for_shell("/etc/keyround/master.key"), "/etc/keyround/master.key");
    }

    #[test]
    fn a_mark_that_a_sentence_quotes_stays() {
        let sentence = "write '@' and ':' in place of 'swordfish'";
        assert_eq!(
            without_parts_of("postgres://u:swordfish@h", sentence),
            "write '@' and ':' in place of '...'"
        );
    }

    #[test]
    fn why_a_text_is_no_url_is_told() {
        for (text, fault) in [
            ("https://2001:db8::1", Some("without brackets")),
            ("https://::1:8443/a", Some("without brackets")),
            ("HTTP://::1", Some("without brackets")),
            ("https://user@fe80::1/a", Some("without brackets")),
            ("https://fe80::1%eth0", Some("with a zone")),
            ("https://[fe80::1%25eth0]", Some("with a zone")),
            ("https://[::1", Some("brackets around")),
            ("https://[id.example.com]", Some("brackets around")),
            ("https://id.example.com:99999", Some("a port beyond 65535")),
            ("https://id.example.com:abc", Some("a port that is not a number")),
            ("https://1.2.3.4.5", Some("no IPv4 address")),
            ("https://256.1.1.1", Some("no IPv4 address")),
            ("https://id.example.1", Some("no IPv4 address")),
            ("https://", Some("has no host")),
            ("https://id example.com", Some("characters that no host has")),
            ("https://id<x>.example.com", Some("characters that no host has")),
            ("https://[2001:db8::1]:8443/a:b", None),
            ("https://id.example.com:8443/a:b::c", None),
            ("https://127.0.0.1:8080", None),
            ("sqlite:data", None),
            ("id.example.com", None),
        ] {
            let told = url_fault(text);
            assert_eq!(told.is_some(), fault.is_some(), "{text}: {told:?}");
            assert!(
                told.unwrap_or_default().contains(fault.unwrap_or_default()),
                "{text}: {told:?}"
            );
        }
    }

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

    #[test]
    fn what_may_be_a_secret_is_known_by_its_form() {
        for secret in [
            "-----BEGIN PRIVATE KEY-----\nMIGH",
            "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgIsa3XpN581gTl/NJQzFALSp5BqfwhkXClJczFS4ljzWh",
            "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t",
            "MFkLMFV6n8TpDjNYfaLH7BE2W4Clyu8UOV6DqM3yFzxhhqvQ9Ro/ZImu0/gdQmeM sdb7IEVqj7TZ/iNIbZK33AEmS3CVut8EKU5zmL3iByxRdpvA5QovVHmeww==",
            "{\"kty\":\"EC\",\"d\":\"x\"}",
            "[{\"kty\":\"EC\"}]",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
            "eyJhbGciOiJFUzI1NiJ9.e30.AAAA",
            "0123456789abcdef0123456789abcdef",
        ] {
            assert!(may_be_secret(secret), "{secret}");
        }
        for name in [
            "master.key",
            "/var/lib/keyround/secrets/master.key",
            "/etc/keyround/a-file-with-a-long-name-and-2-digits",
            "https://id.example.com/a/long/path/with/Capitals/and/2/digits",
            "018f3e7a-7c1d-7c3a-9b5e-2f6d1c0a9b8e",
            "MIssing",
            "MFA token of the administrator was stolen with the laptop and its key file",
            "",
        ] {
            assert!(!may_be_secret(name), "{name}");
        }
    }

    #[test]
    fn a_secret_is_known_among_other_words() {
        for text in [
            r#"["-----BEGIN PRIVATE KEY-----\nMIGH"]"#,
            "['sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=']",
            "RS256,eyJhbGciOiJFUzI1NiJ9.e30.AAAA",
            "api role=admin;0123456789abcdef0123456789abcdef",
            "https://ada:pw@id.example.com/a",
            "ada:pw@id.example.com",
        ] {
            assert!(holds_secret(text), "{text}");
        }
        for text in [
            "[\"RS256\", \"ES256\"]",
            "api audience=https://api.example.com role=admin",
            "https://app.example.com:8443/@x:y",
            "ada@example.com",
            "",
        ] {
            assert!(!holds_secret(text), "{text}");
        }
    }

    #[test]
    fn a_name_that_is_nearly_right_is_suggested() {
        for (text, names, nearest_name) in [
            ("es256", &["RS256", "ES256"][..], Some("ES256")),
            ("argon2", &["bcrypt", "argon2id"], Some("argon2id")),
            ("at-jwt", &["at+jwt", "JWT"], Some("at+jwt")),
            ("jsn", &["text", "json"], Some("json")),
            ("ES384", &["RS256", "ES256"], None),
            ("xml", &["text", "json"], None),
            ("", &["text"], None),
            ("d", &["keys", "db"], Some("db")),
            ("tomato", &["db", "man"], None),
        ] {
            assert_eq!(nearest(text, names.iter().copied()), nearest_name, "{text}");
        }
    }
}
