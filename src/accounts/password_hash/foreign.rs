//! What other systems store that is not accepted: kinds of hashes, and what is written around a hash.

/// The name of a kind of hash that is known and not accepted.
pub(super) fn refused_kind(stored: &str) -> Option<&'static str> {
    const KINDS: [(&str, &str); 35] = [
        ("$1$", "MD5 (md5crypt)"),
        ("$apr1$", "MD5 (Apache)"),
        ("$md5$", "MD5 (Solaris)"),
        ("$md5,", "MD5 (Solaris)"),
        ("md5$", "MD5"),
        ("{md5}", "MD5 (LDAP)"),
        ("{smd5}", "MD5 (LDAP)"),
        ("$p$", "MD5 (phpass)"),
        ("$h$", "MD5 (phpBB)"),
        ("$sha1$", "SHA-1 (sha1crypt)"),
        ("sha1$", "SHA-1"),
        ("{sha}", "SHA-1 (LDAP)"),
        ("{ssha}", "SHA-1 (LDAP)"),
        ("$5$", "SHA-256 (sha256crypt)"),
        ("{sha256}", "SHA-256 (LDAP)"),
        ("{ssha256}", "SHA-256 (LDAP)"),
        ("scram-sha-256$", "SCRAM-SHA-256 (PostgreSQL)"),
        ("$6$", "SHA-512 (sha512crypt)"),
        ("{sha512}", "SHA-512 (LDAP)"),
        ("{ssha512}", "SHA-512 (LDAP)"),
        ("$s$", "SHA-512 (Drupal)"),
        ("grub.pbkdf2.", "PBKDF2 in the form of GRUB"),
        ("$7$", "scrypt in the form of crypt ($7$)"),
        ("$8$", "PBKDF2 in the form of Cisco"),
        ("$9$", "scrypt in the form of Cisco"),
        ("$y$", "yescrypt"),
        ("$gy$", "yescrypt with GOST"),
        ("$3$", "NTLM"),
        ("{crypt}", "crypt (LDAP)"),
        ("crypt$", "DES (Django's crypt)"),
        ("$2$", "bcrypt $2$, which came before $2a$"),
        ("$2x$", "bcrypt $2x$, which reads passwords wrongly"),
        ("$argon2d$", "Argon2d"),
        ("argon2$argon2d$", "Argon2d"),
        ("$argon2id$v=16$", "Argon2 version 16"),
    ];
    let lower = stored.to_ascii_lowercase();
    let is_hexadecimal = |text: &str| text.bytes().all(|octet| octet.is_ascii_hexdigit());
    let of_crypt = |text: &str| {
        text.bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || b"./".contains(&octet))
    };
    KINDS
        .iter()
        .find_map(|(prefix, name)| lower.starts_with(prefix).then_some(*name))
        .or_else(|| match stored.len() {
            13 if of_crypt(stored) => Some("DES (crypt)"),
            20 if stored.starts_with('_') && of_crypt(&stored[1..]) => Some("DES (BSDi's crypt)"),
            32 if is_hexadecimal(stored) => Some("MD5 or NTLM, without a salt"),
            35 if lower.starts_with("md5") && is_hexadecimal(&stored[3..]) => Some("MD5 (PostgreSQL)"),
            40 if is_hexadecimal(stored) => Some("SHA-1, without a salt"),
            41 if stored.starts_with('*') && is_hexadecimal(&stored[1..]) => Some("SHA-1 (MySQL)"),
            64 if is_hexadecimal(stored) => Some("SHA-256, without a salt"),
            128 if is_hexadecimal(stored) => Some("SHA-512, without a salt"),
            _ => None,
        })
}

/// What other systems write around a hash, or in place of one.
pub(super) fn wrapped(stored: &str) -> Option<&'static str> {
    let lower = stored.to_ascii_lowercase();
    let is_marked = [
        "{bcrypt}",
        "{argon2}",
        "{argon2@springsecurity_v5_8}",
        "{scrypt}",
        "{pbkdf2}",
    ];
    if is_marked.iter().any(|mark| lower.starts_with(mark)) {
        return Some("a hash behind the mark of Spring Security; take the mark off, from '{' to '}'");
    }
    if lower.starts_with("{noop}") {
        return Some("a password as it was typed ({noop}); give it with --password-file, without the mark");
    }
    if matches!(stored, "!" | "*" | "!!" | "!*" | "x" | "*LK*" | "NP") {
        return Some(
            "the mark of an account that has no password, or whose password is locked; create the account without a hash",
        );
    }
    let behind_name = stored.split_once(':').map_or("", |(_, rest)| rest);
    if behind_name.starts_with(['$', '{', '!', '*']) {
        return Some("a whole line of a file of passwords; give what stands between its first and its second colon");
    }
    stored
        .starts_with('{')
        .then_some("JSON or a hash behind a mark in braces; give the hash alone")
}
