//! Who acts by the command line, for the audit log: the operating system knows the user and the machine.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::sudo_user;

/// The longest name of a user or a machine that is noted, in characters.
const LONGEST_NAME: usize = 64;

/// The user and the machine behind what acts: `command line (ada as root on db1)`.
pub fn of(what: &str) -> String {
    let uid = rustix::process::getuid().as_raw();
    let effective = rustix::process::geteuid().as_raw();
    let mut who = user_name(Path::new("/etc/passwd"), uid);
    if uid != effective {
        let _ = write!(who, " as {}", user_name(Path::new("/etc/passwd"), effective));
    } else if uid == 0
        // Only root's word is taken: any other user can write what it likes there.
        && let Some(caller) = sudo_user()
    {
        who = format!("{} as {who}", bounded(&caller));
    }
    let host = rustix::system::uname();
    format!("{what} ({who} on {})", bounded(&host.nodename().to_string_lossy()))
}

/// The name of a user in a file such as `/etc/passwd`, else its number: a user of a directory service has no line there.
fn user_name(file: &Path, uid: u32) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| bounded(name))
    });
    found.unwrap_or_else(|| format!("uid {uid}"))
}

/// A name that forges no other one: at most so many characters, each that is no part of usual names replaced.
fn bounded(name: &str) -> String {
    let is_plain = |character: char| character.is_alphanumeric() || "-._@\\$".contains(character);
    let shown: String = name
        .chars()
        .take(LONGEST_NAME)
        .map(|character| if is_plain(character) { character } else { '?' })
        .collect();
    if shown.is_empty() { "?".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_bounded_and_forges_nothing() {
        assert_eq!(bounded("ada"), "ada");
        assert_eq!(bounded("DOMAIN\\ada"), "DOMAIN\\ada");
        assert_eq!(bounded("a) on b\n\u{1b}[2J"), "a??on?b???2J");
        assert_eq!(bounded(&"é".repeat(100)).chars().count(), LONGEST_NAME);
        assert_eq!(bounded(""), "?");
    }

    #[test]
    fn a_user_without_a_line_has_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passwd");
        std::fs::write(
            &file,
            "root:x:0:0::/root:/bin/sh\nbroken\n:x:7:\n\u{fffd}:x:8:8\nada:x:1000:1000::/:/\n",
        )
        .unwrap();
        assert_eq!(user_name(&file, 1000), "ada");
        assert_eq!(user_name(&file, 0), "root");
        assert_eq!(user_name(&file, 7), "uid 7");
        assert_eq!(user_name(&file, 8), "?");
        assert_eq!(user_name(Path::new("/nowhere"), 5), "uid 5");
    }
}
