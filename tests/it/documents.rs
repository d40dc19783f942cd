//! What the program tells about its own commands: completions that a shell takes, and a manual page for each.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client_assertions::keyround;
use crate::helpers::TestDatabase;
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

/// The commands that do something, with what their help says.
fn commands() -> Vec<(String, String)> {
    fn collect(path: &[&str], found: &mut Vec<(String, String)>) {
        let folder = tempfile::tempdir().unwrap();
        let help = run(folder.path(), &[], &[path, &["--help"]].concat());
        let help = String::from_utf8(help.stdout).unwrap();
        let Some((_, commands)) = help.split_once("Commands:\n") else {
            found.push((path.join(" "), help));
            return;
        };
        let lines = commands.split("\n\n").next().unwrap().lines();
        for name in lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
            if !name.is_empty() && name != "help" {
                collect(&[path, &[name]].concat(), found);
            }
        }
    }
    let mut found = Vec::new();
    collect(&[], &mut found);
    found
}

#[test]
fn the_page_of_commands_names_those_that_ask_and_what_each_one_needs() {
    let page = include_str!("../../docs/reference/command-line.md");
    let items: Vec<String> = page.split("\n- ").map(|item| item.replace("\n  ", " ")).collect();
    let asking = items.iter().find(|item| item.contains("ask for confirmation")).unwrap();
    let commands = commands();
    assert!(commands.len() > 40, "{}", commands.len());
    for (command, help) in &commands {
        let asks = help.contains("--yes");
        assert_eq!(asking.contains(&format!("`{command}`")), asks, "{command}");
        // What is not in brackets in the usage is required.
        let usage = help.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap();
        let name = command.split(' ').next_back().unwrap();
        for flag in usage.split(' ').filter(|word| word.starts_with("--")) {
            let is_told = |item: &&String| item.contains(name) && item.contains(flag);
            assert!(
                items.iter().any(|item| is_told(&item)),
                "{command} needs {flag}, and the page does not say so"
            );
        }
    }
}

/// Every file in this folder and below.
pub fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The command that ends a doubt about the clock is long; wherever it is told, it is told whole, and runs without a terminal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_that_confirms_a_clock_is_told_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md")];
    for folder in ["src", "docs", "deploy"] {
        files(&root.join(folder), &mut found);
    }
    let mut told = BTreeSet::new();
    for file in found {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        for (at, _) in text.match_indices("keyround clock confirm") {
            let line = text[at..].split(['\n', '`', '"', ';', '|']).next().unwrap();
            // Up to the quotation mark of the sentence around it.
            let command = line.split_once("--yes").map(|(before, _)| format!("{before}--yes"));
            told.insert(command.unwrap_or_else(|| panic!("{}: {line}", file.display())));
        }
    }
    assert!(told.len() >= 3, "{told:?}");
    let database = TestDatabase::sqlite();
    database.open().await;
    for command in told {
        let quoted = command.split('\'').map(str::to_owned).collect::<Vec<_>>();
        let arguments: Vec<String> = quoted
            .iter()
            .enumerate()
            .flat_map(|(index, part)| match index % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.clone()],
            })
            .collect();
        let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
        let (code, out, err) = keyround(&database, &arguments);
        assert!(
            code == 0 || err.contains("nothing to confirm"),
            "{command}: {code} {out} {err}"
        );
    }
}

/// Markdown files of the repository, without what tools install.
fn pages() -> Vec<PathBuf> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    for folder in ["docs", "deploy"] {
        collect(&root.join(folder), &mut found);
    }
    found
}

/// The text outside of code blocks.
fn prose(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchors of its headings, as renderers of Markdown make them.
pub fn anchors(path: &Path) -> BTreeSet<String> {
    let text = prose(path);
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_internal_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = prose(&page);
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split([')', ' ']).next().unwrap();
            if link.contains(':') {
                continue;
            }
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(file)
            };
            let leads = target.exists() && (anchor.is_empty() || anchors(&target).contains(anchor));
            if !leads {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count > 150, "{count}");
}

#[test]
fn every_page_has_its_place_in_the_book() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: Vec<&str> = summary
        .split("](")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap())
        .collect();
    let mut missing = Vec::new();
    for page in pages().iter().filter_map(|page| page.strip_prefix(&docs).ok()) {
        let name = page.to_str().unwrap();
        if name != "SUMMARY.md" && listed.iter().filter(|listed| **listed == name).count() != 1 {
            missing.push(name.to_owned());
        }
    }
    assert!(missing.is_empty(), "not once in docs/SUMMARY.md: {missing:?}");
    assert!(listed.len() > 40);
}

/// mdBook makes a page of each file that the summary names, and a link to `X.md` leads to `X.html` there, whatever `X.md` is; other files
/// of docs/ are copied. The Makefile copies deploy/ beside the pages. Nothing else is in the built book.
#[test]
fn every_link_of_the_built_book_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = root.join("docs");
    let makefile = std::fs::read_to_string(root.join("Makefile")).unwrap();
    let book = std::fs::read_to_string(docs.join("book.toml")).unwrap();
    assert!(
        makefile.contains("cp -r deploy target/book/deploy") && book.contains("build-dir = \"../target/book/docs\"")
    );
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: BTreeSet<PathBuf> = summary
        .split("](")
        .skip(1)
        .map(|rest| docs.join(rest.split(')').next().unwrap()))
        .collect();
    let (mut broken, mut count) = (Vec::new(), 0);
    for page in &listed {
        let text = prose(page);
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split([')', ' ', '#']).next().unwrap();
            if link.is_empty() || link.contains(':') {
                continue;
            }
            count += 1;
            let mut target = page.parent().unwrap().to_owned();
            for part in Path::new(link) {
                match part.to_str().unwrap() {
                    "." => {}
                    ".." => assert!(target.pop()),
                    name => target.push(name),
                }
            }
            let is_page = target.extension().is_some_and(|extension| extension == "md");
            let leads = if is_page {
                listed.contains(&target)
            } else {
                (target.starts_with(&docs) || target.starts_with(root.join("deploy"))) && target.is_file()
            };
            if !leads {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count > 120, "{count}");
}

/// What it says of where things are.
#[test]
fn the_page_for_contributors_names_what_there_is() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md")).unwrap();
    let missing: Vec<&str> = crate::owasp::named(&page)
        .into_iter()
        .filter(|test| *test != "file::test" && !crate::owasp::exists(test))
        .collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
    let top = ["src/", "tests/", "docs/", "deploy/", "migrations/"];
    let paths: Vec<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| top.iter().any(|top| text.starts_with(top)) && !text.contains(' '))
        .collect();
    assert!(paths.len() > 25, "{paths:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let missing: Vec<&&str> = paths.iter().filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "there are no such files: {missing:#?}");
    for change in [
        "claim",
        "grant type",
        "signer",
        "flag",
        "gateway",
        "endpoint",
        "setting",
        "command",
        "check",
        "alert",
    ] {
        let start = format!("\n**A {change}**");
        assert!(
            page.contains(&start) || page.contains(&start.replace("A ", "An ")),
            "where a new {change} belongs is not said"
        );
    }
}

/// A target that no command names would never run.
#[test]
fn every_target_of_tests_is_run_by_a_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commands = ["tests/all.sh", "Makefile"].map(|file| std::fs::read_to_string(root.join(file)).unwrap());
    let entries = std::fs::read_dir(root.join("tests")).unwrap();
    let targets: Vec<String> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(targets.len() > 5, "{targets:?}");
    let is_run = |target: &str| {
        let command = format!("--test {target}");
        let mut words = commands
            .iter()
            .flat_map(|text| text.match_indices(&command).map(|(at, _)| &text[at..]));
        words.any(|text| !text[command.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_'))
    };
    let forgotten: Vec<&String> = targets.iter().filter(|target| !is_run(target)).collect();
    assert!(forgotten.is_empty(), "no command runs {forgotten:?}");
}
