//! What other systems store that is not accepted: kinds of hashes, and what is written around a hash.

/// The name of a kind of hash that is known and not accepted.
pub(super) fn refused_kind(stored: &str) -> Option<&'static str> {
    const KINDS: [(&str, &str); 46] = [
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
        ("$argon2i$v=16$", "Argon2 version 16"),
        ("argon2$argon2id$v=16$", "Argon2 version 16"),
        ("argon2$argon2i$v=16$", "Argon2 version 16"),
        // The PHC form leaves the version out if it is 16.
        ("$argon2id$m=", "Argon2 without v=, which means version 16"),
        ("$argon2i$m=", "Argon2 without v=, which means version 16"),
        ("argon2$argon2id$m=", "Argon2 without v=, which means version 16"),
        ("argon2$argon2i$m=", "Argon2 without v=, which means version 16"),
        (
            "$wp$",
            "bcrypt over HMAC-SHA-384 (WordPress 6.8 and later), not bcrypt of the password",
        ),
        (
            "$bcrypt-sha256$",
            "bcrypt over HMAC-SHA-256 (passlib), not bcrypt of the password",
        ),
        ("0x0100", "SHA-1 (SQL Server)"),
        ("0x0200", "SHA-512 (SQL Server)"),
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
            _ => salted(stored),
        })
}

/// The digest in hexadecimal digits and the salt behind a colon, as Joomla, osCommerce and Magento have it.
fn salted(stored: &str) -> Option<&'static str> {
    let (digest, _) = stored.split_once(':')?;
    if !digest.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return None;
    }
    match digest.len() {
        32 => Some("MD5, with its salt behind a colon (Joomla, osCommerce)"),
        40 => Some("SHA-1, with its salt behind a colon"),
        64 => Some("SHA-256, with its salt behind a colon (Magento)"),
        128 => Some("SHA-512, with its salt behind a colon"),
        _ => None,
    }
}

/// The kind of a hash that begins rightly, although it cannot be read.
pub(super) fn damaged_kind(stored: &str) -> Option<&'static str> {
    const BEGINNINGS: [(&str, &str); 19] = [
        ("$2a$", "bcrypt"),
        ("$2b$", "bcrypt"),
        ("$2y$", "bcrypt"),
        ("bcrypt$", "bcrypt"),
        ("bcrypt_sha256$$2", "bcrypt"),
        ("$argon2id$", "Argon2id"),
        ("$argon2i$", "Argon2i"),
        ("argon2$argon2", "Argon2"),
        ("$pbkdf2$", "PBKDF2"),
        ("$pbkdf2-sha256$", "PBKDF2"),
        ("$pbkdf2-sha512$", "PBKDF2"),
        ("pbkdf2_sha256$", "PBKDF2"),
        ("pbkdf2_sha1$", "PBKDF2"),
        ("pbkdf2:sha1:", "PBKDF2"),
        ("pbkdf2:sha256:", "PBKDF2"),
        ("pbkdf2:sha512:", "PBKDF2"),
        ("$scrypt$", "scrypt"),
        ("scrypt$", "scrypt"),
        ("scrypt:", "scrypt"),
    ];
    BEGINNINGS
        .iter()
        .find_map(|(beginning, kind)| stored.starts_with(beginning).then_some(*kind))
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
    let is_quoted = |mark: char| stored.len() > 1 && stored.starts_with(mark) && stored.ends_with(mark);
    if ['"', '\'', '`'].into_iter().any(is_quoted) {
        return Some("a text in quotation marks; leave them out");
    }
    if stored.contains("\\$") {
        return Some("a text with a backslash before '$', as shells need it; leave the backslashes out");
    }
    if stored.starts_with("!$") || stored.starts_with("*$") {
        return Some(
            "a hash that is locked by the mark before it; create the account without a hash, or take the mark off if the person may log in",
        );
    }
    if stored.starts_with('!') {
        return Some(
            "the mark of an account without a usable password (Django writes '!' and random characters); create the account without a hash",
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
