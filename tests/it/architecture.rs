//! Who imports whom, and that the documentation tells what the code does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keyround::config::settings::markdown_table;
use keyround::events::Event;
use keyround::http::codes;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `src`, by its path there, without its comments.
fn sources() -> Vec<(String, String)> {
    fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else {
                into.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text
                .lines()
                .map(|line| if line.trim_start().starts_with("//") { "" } else { line });
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            (name, code.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// `http` for `http/routes.rs`, `app` for `app.rs`.
fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The modules in the order of who may import whom: the table in the crate's documentation is the one list.
fn order() -> Vec<String> {
    read("src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | [`")?.split('`').next().map(str::to_owned))
        .collect()
}

/// The names behind `crate::` (or `crate::{...}`, one level deep) and `keyround::`.
fn imported(code: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect()
    };
    let mut names = BTreeSet::new();
    for start in ["crate::", "keyround::"] {
        for (at, _) in code.match_indices(start) {
            // The name of a log target, in a text.
            let line = code[..at].rsplit('\n').next().unwrap_or_default();
            if line.matches('"').count() % 2 == 1 {
                continue;
            }
            let rest = &code[at + start.len()..];
            let Some(group) = rest.strip_prefix('{') else {
                names.insert(word(rest));
                continue;
            };
            let mut depth = 0;
            let mut item = String::new();
            for character in group.chars() {
                match character {
                    '}' if depth == 0 => break,
                    ',' if depth == 0 => names.extend([word(&std::mem::take(&mut item))]),
                    _ => {
                        depth += i32::from(character == '{') - i32::from(character == '}');
                        item.push(character);
                    }
                }
            }
            names.insert(word(&item));
        }
    }
    names.remove("");
    names
}

/// Whether a crate is named as the start of a path, or after `use`.
fn names_crate(code: &str, name: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        before.is_none_or(|character| !is_part(character))
            && (after.starts_with("::") || (code[..at].ends_with("use ") && after.starts_with([';', ' '])))
    })
}

#[test]
fn the_readers_of_code_see_what_they_should() {
    let code = "use crate::a::{b, c};\nuse crate::{d::{x, y}, e};\nfn f() { crate::g::h() }\n\"keyround::z=debug\"";
    assert_eq!(imported(code), ["a", "d", "e", "g"].map(str::to_owned).into());
    assert!(names_crate("use sqlx;", "sqlx") && names_crate("x(sqlx::query)", "sqlx"));
    let paths: Vec<String> = paths_at("super::{a::B, c::{D, e}, f};")
        .iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(paths, ["super::a::B", "super::c::D", "super::c::e", "super::f"]);
    assert!(names_crate("use rsa as r;", "rsa") && !names_crate("a.rsa_bits; jose::rsa::x; mod rsa", "rsa"));
}

#[test]
fn the_map_names_every_module() {
    let mapped: BTreeSet<String> = order().into_iter().collect();
    let lib = read("src/lib.rs");
    let declared = lib.lines().filter_map(|line| {
        let name = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(name.trim_end_matches(';').to_owned())
    });
    assert_eq!(mapped, declared.collect());
}

#[test]
fn a_module_imports_only_from_modules_above_it() {
    let order = order();
    let place = |name: &str| order.iter().position(|known| known == name);
    let mut breaches = Vec::new();
    for (file, code) in sources() {
        if matches!(file.as_str(), "lib.rs" | "main.rs") {
            continue;
        }
        let own = module(&file);
        let own_place = place(own).unwrap_or_else(|| panic!("src/{file} is not on the map in src/lib.rs"));
        for name in imported(&code) {
            match place(&name) {
                Some(other) if other <= own_place => {}
                _ => breaches.push(format!("src/{file} imports {name}")),
            }
        }
        // A path that climbs could leave its module unseen; in a file of one level `super` is the crate itself.
        let climbs = if file.contains('/') {
            "super::super::super::"
        } else {
            "use super::super::"
        };
        if code.contains(climbs) {
            breaches.push(format!("src/{file} climbs by {climbs}; write crate::"));
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// The paths that a text begins with, each with all its parts: two for `a::{b, c::d}`.
fn paths_at(text: &str) -> Vec<Vec<String>> {
    let length = text
        .find(|character: char| !character.is_alphanumeric() && character != '_')
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(length);
    let mut paths = Vec::new();
    if let Some(group) = rest.strip_prefix("::{") {
        let (mut depth, mut start) = (0, 0);
        for (at, character) in group.char_indices() {
            if depth == 0 && matches!(character, ',' | '}') {
                paths.extend(paths_at(group[start..at].trim()));
                start = at + 1;
            }
            match character {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
        }
    } else if let Some(rest) = rest.strip_prefix("::") {
        paths = paths_at(rest);
    }
    if paths.is_empty() {
        paths.push(Vec::new());
    }
    for path in &mut paths {
        path.insert(0, word.to_owned());
    }
    paths
}

/// The files below `src` that a file names, all by their modules. A name behind a module that re-exports it counts for that module.
fn named_files(own: &[String], code: &str, files: &BTreeSet<Vec<String>>) -> BTreeSet<Vec<String>> {
    let mut named = BTreeSet::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|character| character.is_alphanumeric() || matches!(character, '_' | ':' | '$')) {
                continue;
            }
            for path in paths_at(&code[at..]) {
                let (mut place, mut rest) = (Vec::new(), &path[..]);
                if rest[0] == "crate" {
                    rest = &rest[1..];
                } else {
                    place = own.to_vec();
                }
                while rest.first().is_some_and(|part| part == "super") {
                    place.pop();
                    rest = &rest[1..];
                }
                place.extend_from_slice(rest);
                while !place.is_empty() && !files.contains(&place) {
                    place.pop();
                }
                if !place.is_empty() && place != own {
                    named.insert(place);
                }
            }
        }
    }
    named
}

/// A file is read without the files that use it.
#[test]
fn no_files_import_each_other() {
    /// Tables that are read and ended together.
    const PAIRS: [&str; 4] = ["store/client_keys", "store/clients", "store/sessions", "store/users"];
    let mut codes = std::collections::BTreeMap::new();
    for (file, code) in sources() {
        let path = file.trim_end_matches(".rs");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        if !matches!(path, "lib" | "main") && parts.last().is_some_and(|name| name != "tests") {
            codes.insert(parts, without_tests(&code).to_owned());
        }
    }
    let files: BTreeSet<Vec<String>> = codes.keys().cloned().collect();
    let mut above: Vec<(Vec<String>, BTreeSet<Vec<String>>)> = codes
        .iter()
        .map(|(own, code)| (own.clone(), named_files(own, code, &files)))
        .collect();
    let imports: usize = above.iter().map(|(_, named)| named.len()).sum();
    assert!(imports > 1_000, "{imports}: is the reader blind?");
    above.retain(|(own, _)| !PAIRS.contains(&own.join("/").as_str()));
    // A file that imports none of those that are left is in no circle.
    loop {
        let left: BTreeSet<Vec<String>> = above.iter().map(|(own, _)| own.clone()).collect();
        let before = above.len();
        above.retain(|(_, named)| named.iter().any(|other| left.contains(other)));
        if above.len() == before {
            break;
        }
    }
    let circle: Vec<String> = above.iter().map(|(own, _)| own.join("/")).collect();
    assert!(circle.is_empty(), "in a circle, or over one: {circle:#?}");
}

/// A file without the tests at its end.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// The types that a file declares; those of a trait or of its implementation are no types of the crate.
fn declared_types(code: &str) -> Vec<&str> {
    let mut types = Vec::new();
    for line in without_tests(code).lines() {
        let inner = line.trim_start();
        let word = inner.strip_prefix("pub").map_or(inner, |rest| {
            rest.trim_start_matches("(crate)").trim_start_matches("(super)")
        });
        let mut words = word.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let is_declaration = matches!(kind, "struct" | "enum" | "trait" | "union") || (kind == "type" && inner == line);
        if let Some(name) = words.next().filter(|_| is_declaration) {
            let end = name.find(|character: char| !character.is_alphanumeric() && character != '_');
            types.push(&name[..end.unwrap_or(name.len())]);
        }
    }
    types
}

/// A reader who meets a name knows which type it is.
#[test]
fn a_type_has_its_name_alone() {
    let code = "pub struct A;\n    pub(crate) enum B<T> {\nimpl X {\n    type C = D;\ntype E = F;\n#[cfg(test)]\nmod tests {\nstruct G;";
    assert_eq!(declared_types(code), ["A", "B", "E"]);
    let sources = sources();
    let mut places: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for (file, code) in &sources {
        if !file.ends_with("tests.rs") {
            for name in declared_types(code) {
                places.entry(name).or_default().push(file);
            }
        }
    }
    assert!(places.len() > 500, "{}: is the reader blind?", places.len());
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

/// What is told what time it is and what is stored can be tested without waiting, and simulated.
#[test]
fn rules_ask_no_clock_no_database_and_no_socket() {
    const NEVER: [&str; 10] = [
        "Clock",
        "uptime",
        "sleep",
        "Instant",
        "SystemTime",
        "tokio",
        "TcpStream",
        "UdpSocket",
        "sqlx",
        "reqwest",
    ];
    let mut breaches = Vec::new();
    for (file, code) in sources() {
        if matches!(module(&file), "keys" | "accounts" | "oauth" | "jose") {
            let words: BTreeSet<&str> = without_tests(&code)
                .split(|character: char| !character.is_alphanumeric() && character != '_')
                .collect();
            breaches.extend(
                NEVER
                    .iter()
                    .filter(|word| words.contains(**word))
                    .map(|word| format!("src/{file} names {word}")),
            );
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// What the order of the map would allow, and must not be: rules know no settings, and stored rows know nobody who reads them.
#[test]
fn walls_have_no_door() {
    let walls: [(&str, &[&str]); 10] = [
        ("cli", &["http"]),
        ("jose", &["keys", "accounts"]),
        ("keys", &["config"]),
        ("accounts", &["config"]),
        ("oauth", &["config"]),
        ("sessions", &["config"]),
        ("logins", &["config"]),
        ("store", &["config", "http"]),
        ("values", &["config"]),
        ("keyring", &["accounts"]),
    ];
    let mut breaches = Vec::new();
    for (file, code) in sources() {
        let own = module(&file);
        let never = walls
            .iter()
            .filter(|(room, _)| *room == own)
            .flat_map(|(_, never)| *never);
        let imported = imported(&code);
        breaches.extend(
            never
                .filter(|name| imported.contains(**name))
                .map(|name| format!("src/{file} imports {name}")),
        );
        if imported.contains("app") && !matches!(own, "app" | "cli" | "main") {
            breaches.push(format!("src/{file} imports app"));
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    let rooms: [(&str, &[&str]); 7] = [
        ("actix_web", &["http", "app"]),
        ("sqlx", &["store"]),
        ("reqwest", &["outbound"]),
        // Handshakes are no standard of tokens, and share no code with them.
        ("openssl", &["crypto", "jose", "tls"]),
        ("josekit", &["jose"]),
        ("rsa", &["jose"]),
        ("p256", &["jose"]),
    ];
    let sources = sources();
    for (name, allowed) in rooms {
        let users: BTreeSet<&str> = sources
            .iter()
            .filter(|(_, code)| names_crate(code, name))
            .map(|(file, _)| module(file))
            .collect();
        let strangers: Vec<&&str> = users.iter().filter(|user| !allowed.contains(user)).collect();
        assert!(
            strangers.is_empty(),
            "{name} is named in {strangers:?}, but belongs in {allowed:?}"
        );
        assert!(
            name == "josekit" || !users.is_empty(),
            "nobody uses {name}: is the reader blind?"
        );
    }
}

/// Every path on a listener.
fn paths() -> BTreeSet<String> {
    let endpoints = read("src/oauth/endpoints.rs");
    let text = |line: &str| line.split('"').nth(1).map(str::to_owned);
    let constants = endpoints.lines().filter(|line| line.starts_with("pub const "));
    constants.filter_map(text).collect()
}

/// Every path stands in the one list, so that no two places can tell one differently.
#[test]
fn no_other_file_writes_a_path_out() {
    let paths = paths();
    let mut breaches = Vec::new();
    for (file, code) in sources().iter().filter(|(file, _)| file != "oauth/endpoints.rs") {
        let code = code.split("#[cfg(test)]").next().unwrap();
        let written = paths.iter().filter(|path| code.contains(&format!("\"{path}\"")));
        breaches.extend(written.map(|path| format!("src/{file} writes {path}")));
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn the_documentation_names_every_event() {
    let page = read("docs/reference/events.md");
    let named: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(named, Event::ALL.map(Event::name), "docs/reference/events.md");
}

/// An event that is written out elsewhere could have another name there.
#[test]
fn no_other_file_writes_an_event_out() {
    let mut breaches = Vec::new();
    for (file, code) in sources().iter().filter(|(file, _)| file != "events.rs") {
        let code = code.split("#[cfg(test)]").next().unwrap();
        let written = Event::ALL.iter().filter(|event| code.contains(&format!("\"{event}\"")));
        breaches.extend(written.map(|event| format!("src/{file} writes {event}")));
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// What is printed passes one writer, which keeps its failure for the exit code.
#[test]
fn no_other_file_writes_to_standard_output() {
    const WRITERS: [&str; 3] = ["cli/output.rs", "cli/backup.rs", "cli/mod.rs"];
    let mut breaches = Vec::new();
    for (file, code) in sources() {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let prints = ["stdout()", " println!", " print!"]
            .iter()
            .any(|word| code.contains(word));
        if prints != WRITERS.contains(&file.as_str()) {
            breaches.push(file);
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn the_documentation_names_every_endpoint() {
    let routes = paths();
    assert!(routes.len() >= 19, "{routes:?}");
    let page = read("docs/reference/endpoints.md");
    let written = |route: &str| {
        ["GET ", "POST ", "DELETE ", "any method `"]
            .iter()
            .flat_map(|start| ["`", "/{"].map(|end| format!("{start}{route}{end}")))
            .any(|words| page.contains(&words))
    };
    let missing: Vec<&String> = routes.iter().filter(|route| !written(route)).collect();
    assert!(
        missing.is_empty(),
        "docs/reference/endpoints.md does not name {missing:?}"
    );
}

#[test]
fn the_documentation_has_the_tables_of_settings_and_codes() {
    for (page, name, table) in [
        ("docs/reference/settings.md", "settings", markdown_table()),
        ("docs/reference/accounts.md", "codes", codes::markdown_table()),
    ] {
        let text = read(page);
        let between = text
            .split_once(&format!("<!-- {name} -->"))
            .and_then(|(_, rest)| rest.split_once(&format!("<!-- /{name} -->")))
            .map(|(table, _)| table.trim());
        assert_eq!(
            between,
            Some(table.trim()),
            "between the markers <!-- {name} --> and <!-- /{name} --> {page} must hold what the code says"
        );
    }
}
