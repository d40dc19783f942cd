//! E-mail addresses as names of accounts: normalised once, here, so that no spelling is another account.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use unicode_normalization::UnicodeNormalization;

use super::domain::{Domain, fits_dns};
use super::visible::{has_stray_marks, is_blank};

/// An e-mail address in its one form: NFKC, lower case, the domain in Unicode (UTS #46), without spaces around it or dots at its end.
///
/// The part before the @ is lower case too, though RFC 5321 section 2.4 would let it differ: no provider of today tells two
/// accounts apart by it, and an account that could be had twice could be impersonated.
///
/// A domain has two spellings, in Unicode and in ASCII (`xn--`). An account from an earlier version may have either, or there may be two of
/// one mailbox. So the other spelling is looked for too, and the one that was given goes first.
#[derive(Clone, Debug)]
pub struct Email {
    address: String,
    /// The address with its domain in ASCII, where that is another text.
    in_ascii: Option<String>,
    is_given_in_ascii: bool,
}

/// The text is no e-mail address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEmail {
    /// It has another form.
    #[error(
        "an e-mail address looks like name@example.com, at most 254 characters long and each of them visible, and its domain is one of DNS \
         (RFC 5891, UTS #46)"
    )]
    Form,
    /// It has a number where the domain is.
    #[error(
        "what stands behind the @ of an e-mail address is the name of a domain, such as example.com, and no IP address (RFC 5321 section \
         4.1.3) and no number (RFC 1123 section 2.1)"
    )]
    Number,
}

impl Email {
    /// The address in its one form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.address
    }

    /// The spellings that an account may have: the one that was given first, and the other one if there is one.
    #[must_use]
    pub fn spellings(&self) -> (&str, Option<&str>) {
        match self.in_ascii.as_deref() {
            Some(ascii) if self.is_given_in_ascii => (ascii, Some(&self.address)),
            other => (&self.address, other),
        }
    }

    /// Whether this is the spelling of the address, capitals of ASCII aside. Another spelling that folds to the same address, such as one
    /// with a ligature, may be another mailbox. The two spellings of a domain in DNS are the same one.
    #[must_use]
    pub fn is_spelled(&self, text: &str) -> bool {
        let (one, other) = self.spellings();
        one.eq_ignore_ascii_case(text) || other.is_some_and(|other| other.eq_ignore_ascii_case(text))
    }

    /// What stands before the @.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.address
            .rsplit_once('@')
            .map_or(self.address.as_str(), |(local, _)| local)
    }

    /// What stands behind the @.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.address.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl PartialEq for Email {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Eq for Email {}

impl Hash for Email {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

impl PartialOrd for Email {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Email {
    fn cmp(&self, other: &Self) -> Ordering {
        self.address.cmp(&other.address)
    }
}

impl Serialize for Email {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.address)
    }
}

impl FromStr for Email {
    type Err = InvalidEmail;

    /// Refuses characters that cannot be seen: two addresses that look the same must be the same.
    fn from_str(text: &str) -> Result<Self, InvalidEmail> {
        let (_, domain) = parts(text)?;
        if is_number(&domain) {
            return Err(InvalidEmail::Number);
        }
        let email = Self::presented(text)?;
        let ascii = email.in_ascii.as_deref().unwrap_or(&email.address);
        let is_of_dns = ascii.rsplit_once('@').is_some_and(|(_, domain)| fits_dns(domain));
        is_of_dns.then_some(email).ok_or(InvalidEmail::Form)
    }
}

impl Email {
    /// The address of an existing account, as a login presents it. Earlier versions made accounts whose domain is a number, or has a label
    /// that is too long for DNS.
    ///
    /// # Errors
    /// When it is no e-mail address.
    pub fn presented(text: &str) -> Result<Self, InvalidEmail> {
        let (local, domain) = parts(text)?;
        if local.chars().any(is_blank) || has_stray_marks(&local) {
            return Err(InvalidEmail::Form);
        }
        let domain = Domain::parse(&domain).ok_or(InvalidEmail::Form)?;
        Self::new(&local, domain)
    }
}

impl Email {
    /// The address of an account that exists, as it is: an earlier version accepted more, and had two forms of one domain.
    ///
    /// # Errors
    /// When it is no e-mail address.
    pub fn stored(text: &str) -> Result<Self, InvalidEmail> {
        let (local, domain) = parts(text)?;
        Self::new(&local, Domain::stored(&domain).ok_or(InvalidEmail::Form)?)
    }

    fn new(local: &str, domain: Domain) -> Result<Self, InvalidEmail> {
        let address = format!("{local}@{}", domain.name);
        if address.len() > 254 || local.len() > 64 || !is_local(local) {
            return Err(InvalidEmail::Form);
        }
        Ok(Self {
            address,
            in_ascii: domain.in_ascii.map(|ascii| format!("{local}@{ascii}")),
            is_given_in_ascii: domain.is_given_in_ascii,
        })
    }
}

/// The part before the @ in its one form, and the part behind it. Capitals of a domain are its own matter: those of Greek depend on it.
fn parts(text: &str) -> Result<(String, String), InvalidEmail> {
    // Before anything grows: NFKC makes up to 18 characters of one.
    if text.len() > 1_024 {
        return Err(InvalidEmail::Form);
    }
    let composed: String = text.nfkc().collect();
    let (local, domain) = composed
        .trim()
        .trim_end_matches('.')
        .rsplit_once('@')
        .ok_or(InvalidEmail::Form)?;
    // Lower case first and last: folding may bring forth what NFKC changes, and the other way round.
    let local: String = local
        .to_lowercase()
        .nfkc()
        .collect::<String>()
        .to_lowercase()
        .nfkc()
        .collect();
    Ok((local, domain.to_owned()))
}

/// Whether a domain is an IP address, in brackets or not, or ends with a label that is a number in any notation: no top-level domain is,
/// so that readers of URLs take such a name for an IPv4 address.
fn is_number(domain: &str) -> bool {
    let last = domain.rsplit('.').next().unwrap_or_default();
    let is_hexadecimal = |digits: &str| digits.chars().all(|character| character.is_ascii_hexdigit());
    domain.starts_with('[')
        || domain.parse::<IpAddr>().is_ok()
        || (!last.is_empty() && last.chars().all(char::is_numeric))
        || last.to_ascii_lowercase().strip_prefix("0x").is_some_and(is_hexadecimal)
}

fn is_local(local: &str) -> bool {
    !local.is_empty()
        && !local
            .chars()
            .any(|character| character.is_whitespace() || character.is_control())
        && !local.contains(['@', '"', '(', ')', ',', ':', ';', '<', '>', '[', ']', '\\'])
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.address)
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

    /// One mailbox, one account: DNS knows a domain by its name in ASCII, and people by the other one (UTS #46, without transitional
    /// processing).
    #[test]
    fn both_spellings_of_a_domain_are_one_address() {
        for (spellings, address, ascii) in [
            (
                &[
                    "ada@b\u{fc}cher.example",
                    "ada@bu\u{308}cher.example",
                    "ADA@B\u{dc}CHER.example",
                    "ada@xn--bcher-kva.example",
                    "ada@XN--BCHER-KVA.EXAMPLE.",
                ][..],
                "ada@b\u{fc}cher.example",
                "ada@xn--bcher-kva.example",
            ),
            (
                &[
                    "ada@\u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}.\u{92d}\u{93e}\u{930}\u{924}",
                    "ada@xn--j2bd4cyah0f.xn--h2brj9c",
                ],
                "ada@\u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}.\u{92d}\u{93e}\u{930}\u{924}",
                "ada@xn--j2bd4cyah0f.xn--h2brj9c",
            ),
            // A deviation of IDNA 2008 from IDNA 2003: another domain than fass.example.
            (
                &[
                    "ada@fa\u{df}.example",
                    "ada@FA\u{1e9e}.example",
                    "ada@xn--fa-hia.example",
                ],
                "ada@fa\u{df}.example",
                "ada@xn--fa-hia.example",
            ),
            // A capital sigma is the small one of the middle of a word, in DNS also at its end.
            (
                &["ada@\u{3b1}\u{3c3}.example", "ada@\u{391}\u{3a3}.example"],
                "ada@\u{3b1}\u{3c3}.example",
                "ada@xn--mxa0b.example",
            ),
            (
                &[
                    "ada@\u{4f8b}\u{3002}\u{4e2d}\u{56fd}",
                    "ada@\u{4f8b}.\u{4e2d}\u{56fd}",
                    "ada@\u{4f8b}\u{ff0e}\u{4e2d}\u{56fd}",
                ],
                "ada@\u{4f8b}.\u{4e2d}\u{56fd}",
                "ada@xn--fsq.xn--fiqs8s",
            ),
            (
                &["ada@col\u{b7}la.example"],
                "ada@col\u{b7}la.example",
                "ada@xn--colla-sja.example",
            ),
        ] {
            for spelling in spellings {
                let email: Email = spelling.parse().unwrap_or_else(|error| panic!("{spelling}: {error}"));
                assert_eq!(email.as_str(), address, "{spelling}");
                let (given, other) = email.spellings();
                let is_ascii = spelling.is_ascii();
                assert_eq!(
                    (given, other),
                    if is_ascii {
                        (ascii, Some(address))
                    } else {
                        (address, Some(ascii))
                    },
                    "{spelling}"
                );
                assert!(
                    email.is_spelled(address) && email.is_spelled(&ascii.to_uppercase()),
                    "{spelling}"
                );
            }
            for text in [address, ascii] {
                assert_eq!(Email::stored(text).unwrap().as_str(), text, "an account keeps its own");
            }
        }
        let plain: Email = "ada@example.com".parse().unwrap();
        assert_eq!(plain.spellings(), ("ada@example.com", None));
        // A name in DNS like any other, though nothing can be made of it.
        let odd: Email = "ada@XN--a.example.com".parse().unwrap();
        assert_eq!(odd.spellings().1, None);
    }

    #[test]
    fn domains_that_dns_cannot_have_are_refused() {
        let long = "b\u{fc}".repeat(40);
        for domain in [
            "b\u{fc}cher",
            "\u{2665}.example",
            "a\u{2014}b.example",
            "b\u{fc}_cher.example",
            "\u{301}a.example",
            "-b\u{fc}cher.example",
            "b\u{fc}cher..example",
            "\u{5d0}a.example",
            "a\u{ad}b.example",
            "b\u{fc}\u{200b}cher.example",
            "b\u{200d}\u{fc}cher.example",
            &format!("{long}.example"),
        ] {
            assert_eq!(
                format!("ada@{domain}").parse::<Email>(),
                Err(InvalidEmail::Form),
                "{domain:?}"
            );
        }
    }

    #[test]
    fn a_number_is_no_domain_but_an_account_with_one_stays() {
        for domain in [
            "1.2.3.4",
            "1.2.3.4.",
            "[1.2.3.4]",
            "[IPv6:2001:db8::1]",
            "2001:db8::1",
            "127.1",
            "example.1",
            "0x7f.1",
            "example.0x1",
            "example.\u{ff11}",
            "example.\u{661}",
            "\u{ff11}.\u{ff12}.\u{ff13}.\u{ff14}",
            "999.999.999.999",
        ] {
            let text = format!("ada@{domain}");
            assert_eq!(text.parse::<Email>(), Err(InvalidEmail::Number), "{text}");
        }
        for domain in [
            "1.example",
            "1and1.com",
            "127.0.0.1.example.com",
            "0xff.example",
            "example.x1",
        ] {
            assert!(format!("ada@{domain}").parse::<Email>().is_ok(), "{domain}");
        }
        for text in ["ada@1.2.3.4", "ada@example.1"] {
            assert_eq!(Email::presented(text).unwrap().as_str(), text);
            assert_eq!(Email::stored(text).unwrap().as_str(), text);
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
            assert_eq!(bad.parse::<Email>(), Err(InvalidEmail::Form), "{bad:?}");
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
                assert_eq!(text.parse::<Email>(), Err(InvalidEmail::Form), "{text:?}");
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
