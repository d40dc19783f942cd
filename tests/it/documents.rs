//! What the program tells about its own commands: completions that a shell takes, and a manual page for each.

use std::collections::BTreeSet;
use std::process::Command;

use crate::process::run;

#[test]
fn a_shell_completes_commands() {
    let folder = tempfile::tempdir().unwrap();
    let script = run(folder.path(), &[], &["completions", "bash"]);
    assert!(script.status.success());
    std::fs::write(folder.path().join("keyround.bash"), script.stdout).unwrap();
    let ask = "source ./keyround.bash; COMP_WORDS=(keyround keys rev); COMP_CWORD=2; COMPREPLY=(); \
               _keyround keyround rev keys; echo \"${COMPREPLY[*]}\"";
    let answer = Command::new("bash")
        .args(["-c", ask])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), "revoke\n");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = run(folder.path(), &[], &["completions", shell]);
        assert!(String::from_utf8(script.stdout).unwrap().contains("rotate"), "{shell}");
    }
    assert_eq!(run(folder.path(), &[], &["completions", "tea"]).status.code(), Some(2));
}

#[test]
fn every_command_of_the_help_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    assert!(run(folder.path(), &[], &["man", "pages"]).status.success());
    let pages: BTreeSet<String> = std::fs::read_dir(folder.path().join("pages"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let help = String::from_utf8(run(folder.path(), &[], &["--help"]).stdout).unwrap();
    let commands = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    let mut named = 0;
    for command in commands
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
    {
        if !command.is_empty() && command != "help" {
            assert!(
                pages.contains(&format!("keyround-{command}.1")),
                "no page for {command}: {pages:?}"
            );
            named += 1;
        }
    }
    assert!(named >= 9);
    let page = std::fs::read_to_string(folder.path().join("pages/keyround-keys-rotate.1")).unwrap();
    assert!(
        page.contains(".TH keyround-keys-rotate 1") && page.contains("dry\\-run"),
        "{page}"
    );
    assert_eq!(run(folder.path(), &[], &["man", "/dev/null/x"]).status.code(), Some(1));
}
