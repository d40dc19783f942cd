//! Pages of results, each with the commit and the day that it is of.

use std::path::Path;
use std::process::Command;

use keyround::clock::Clock;

/// `at commit C on D`, for a sentence.
pub fn of_now() -> String {
    let git = Command::new("git")
        .args(["rev-parse", "--short=10", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let commit = String::from_utf8(git.stdout).unwrap();
    let day = Clock::system().read().wall.rfc3339();
    format!("at commit {} on {}", commit.trim(), &day[..10])
}

/// Writes a page into docs/proof.
pub fn write(name: &str, page: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/proof");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), page).unwrap();
}
