//! What a newcomer meets: a port in use, a full disk, a folder that cannot be written, a start that was cut off, a browser.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::helpers::{TestApp, TestDatabase};
use crate::process::{BINARY, PATH, Serving, free_port, run};

const MASTER_KEY: (&str, &str) = (
    "KEYROUND_KEYS__MASTER_KEY",
    "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
);
const ISSUER: (&str, &str) = ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080");
const ANY_PORT: (&str, &str) = ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0");
const ANY_ADMIN_PORT: (&str, &str) = ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0");

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The one sentence behind the log lines.
fn sentence(output: &Output) -> String {
    let error = said(output);
    let last = error.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("keyround: "), "{error}");
    last
}

#[test]
fn a_port_in_use_is_named_before_anything_is_made() {
    // The port behind it is in use too, and the one behind that is ours.
    let (taken, _behind) = std::iter::repeat_with(|| {
        let taken = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
        let behind = TcpListener::bind(("127.0.0.1", taken.local_addr().unwrap().port() + 1));
        behind.map(|behind| (taken, behind))
    })
    .find_map(Result::ok)
    .unwrap();
    let port = taken.local_addr().unwrap().port();
    let (address, ours) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 2));
    for (setting, variable) in [
        ("server.listen", "KEYROUND_SERVER__LISTEN"),
        ("server.admin_listen", "KEYROUND_SERVER__ADMIN_LISTEN"),
    ] {
        for (arguments, more) in [
            (vec!["serve", "--dev"], vec![ISSUER]),
            (vec!["serve"], vec![ISSUER, MASTER_KEY]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut variables: Vec<(&str, &str)> = vec![(ANY_PORT.0, &ours), (ANY_ADMIN_PORT.0, &ours)];
            variables.extend(more);
            variables.retain(|(name, _)| *name != variable);
            variables.push((variable, &address));
            let output = run(folder.path(), &variables, &arguments);
            assert_eq!(output.status.code(), Some(1));
            let sentence = sentence(&output);
            let (_, next) = sentence.split_once(&format!("{variable}=")).unwrap();
            let next = next.split(' ').next().unwrap();
            assert!(next != ours && TcpListener::bind(next).is_ok(), "{sentence}");
            for words in [
                &format!("cannot listen on {address} ({setting})"),
                "another program uses port",
                &format!("{variable}={next}"),
                &format!("--set {setting}={next}"),
            ] {
                assert!(sentence.contains(words), "'{words}' is not in: {sentence}");
            }
            let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
            assert!(left.is_empty(), "nothing is made: {left:?}");
        }
    }
}

#[test]
fn an_address_of_another_machine_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = ("KEYROUND_SERVER__LISTEN", "192.0.2.7:8443");
    let behind_proxy = [
        MASTER_KEY,
        ANY_ADMIN_PORT,
        elsewhere,
        ("KEYROUND_SERVER__ISSUER", "https://id.example.com"),
        ("KEYROUND_SERVER__BEHIND_TLS_PROXY", "true"),
        ("KEYROUND_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let sentence = sentence(&run(folder.path(), &behind_proxy, &["serve"]));
    assert!(
        sentence.contains("no network interface of this machine has the address 192.0.2.7")
            && sentence.contains("KEYROUND_SERVER__LISTEN"),
        "{sentence}"
    );
}

fn shell(folder: &Path, command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env_clear()
        .env("PATH", PATH)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a start has printed.
fn commands(printed: &str) -> Vec<&str> {
    let is_command = |line: &&str| line.starts_with("curl ") || line.starts_with(BINARY);
    printed.lines().map(str::trim).filter(is_command).collect()
}

/// The environment is not that of the other terminal, so that the printed commands say all that is needed.
#[test]
fn a_later_development_start_prints_commands_that_give_a_new_secret() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let variables = [
        ("KEYROUND_SERVER__LISTEN", listen.as_str()),
        ANY_ADMIN_PORT,
        ("KEYROUND_KEYS__MASTER_KEY_FILE", "my keys/it's one.key"),
    ];
    let first = Serving::start(folder.path(), &variables, &["serve", "--dev"]);
    let printed = first.printed_until("token verify");
    let secret_of = |printed: &str| {
        let secret = printed
            .lines()
            .find_map(|line| line.trim().strip_prefix("client secret"));
        secret.map(|secret| secret.trim().to_owned())
    };
    let old = secret_of(&printed).unwrap();
    assert!(first.stop().0.success());

    let second = Serving::start(folder.path(), &variables, &["serve", "--dev"]);
    let printed = second.printed_until("token verify");
    assert!(!printed.contains(&old), "no secret is stored: {printed}");
    assert!(
        printed.contains(&format!("Keyround serves on http://{listen}")),
        "{printed}"
    );
    let commands = commands(&printed);
    assert_eq!(commands.len(), 4, "{printed}");
    assert!(commands[0].contains("clients rotate-secret demo"), "{printed}");
    let new = secret_of(&shell(folder.path(), commands[0])).unwrap();
    assert_ne!(new, old);
    assert!(commands[1].contains("demo:SECRET"), "{printed}");
    let token = shell(folder.path(), &commands[1].replace("SECRET", &new));
    assert!(token.contains("\"access_token\""), "{token}");
    assert!(shell(folder.path(), commands[2]).contains("\"keys\""));
    assert!(shell(folder.path(), commands[3]).contains("the token is valid"));
    let (status, log, _) = second.stop();
    assert!(status.success());
    assert!(!log.join("\n").contains(&new));
}

#[test]
fn a_start_that_was_cut_off_goes_on() {
    // What an earlier version left on a full disk, and what a killed process can leave.
    for half in ["", "data", "keys", "data keys", "unfinished"] {
        let folder = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        if half.contains("data") {
            make("data/keyround.db");
        }
        if half.contains("keys") {
            make("keys/master.key");
        }
        if half == "unfinished" {
            make("keys/.master.key.0.unfinished");
        }
        let serving = Serving::start(folder.path(), &[ISSUER, ANY_PORT, ANY_ADMIN_PORT], &["serve", "--dev"]);
        assert!(serving.stop().0.success(), "{half}");
        let keys: Vec<_> = std::fs::read_dir(folder.path().join("keys"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(keys, ["master.key"], "{half}");
    }
}

/// Runs a script beside a file system of 1 MiB in a mount namespace of its own, mounted at `disk`; `$KEYROUND` is the binary.
fn on_small_disk(folder: &Path, script: &str) -> Output {
    std::fs::create_dir_all(folder.join("disk")).unwrap();
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(format!(
            "mount -t tmpfs -o size=1m tmpfs disk && cd disk || exit 99\n\
             leave() {{ rm -f filler; used=$(du -sk . | cut -f1); \
             head -c $(((1024 - used) * 1024 - $1)) /dev/zero > filler 2>/dev/null; }}\n{script}"
        ))
        .current_dir(folder)
        .env_clear()
        .env("PATH", PATH)
        .env("KEYROUND", BINARY)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_full_disk_is_named_at_the_first_start_and_leaves_no_half_key() {
    for left in [
        0, 4096, 8192, 12288, 16384, 32768, 49152, 65536, 98304, 131_072, 262_144, 393_216,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            "set -- --set server.issuer=http://127.0.0.1:8080 --set server.listen=127.0.0.1:0 \
             --set server.admin_listen=127.0.0.1:0 serve --dev\n\
             leave {left}; $KEYROUND \"$@\"; echo \"exit $?\"; ls -A keys 2>/dev/null; rm filler\n\
             $KEYROUND \"$@\" >printed & until grep -q 'token verify' printed; do sleep 0.1; done; kill $!; wait $!; ls -A keys"
        );
        let output = on_small_disk(folder.path(), &script);
        let (error, out) = (said(&output), String::from_utf8(output.stdout.clone()).unwrap());
        assert_eq!(output.status.code(), Some(0), "{left}: {error} {out}");
        assert!(out.starts_with("exit 1\n"), "{left}: {error} {out}");
        let told = error.lines().find(|line| line.starts_with("keyround: ")).unwrap();
        let names_cause = told.to_lowercase().contains("no space");
        let names_place = told.contains("keys/master.key") || told.contains("data/") || told.contains("revoked-kids");
        assert!(names_cause && names_place, "{left}: {told}");
        // Before and after there was room: the key whole, or none, and nothing beside it.
        let names: Vec<&str> = out.lines().filter(|line| line.contains("key")).collect();
        assert!(names.iter().all(|name| *name == "master.key"), "{left}: {out}");
    }
}

#[test]
fn a_full_disk_is_named_by_commands_and_a_half_backup_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let script = "export KEYROUND_SERVER__ISSUER=http://127.0.0.1:8080 KEYROUND_KEYS__MASTER_KEY_FILE=../master.key
        export KEYROUND_DATABASE__URL=sqlite:keyround.db
        $KEYROUND master-key generate ../master.key || exit 97
        $KEYROUND clients create --id a --grant client_credentials --audience https://a.example || exit 96
        for left in 0 4096 8192 12288 40000; do
          leave $left
          i=0; while [ $i -lt 30 ] && $KEYROUND clients rotate-secret a --end-previous >/dev/null; do i=$((i + 1)); done; echo \"stopped at $i\"
        done
        rm filler; $KEYROUND clients rotate-secret a --end-previous || exit 95
        cp keyround.db .. && rm keyround.db; export KEYROUND_DATABASE__URL=sqlite:../keyround.db
        leave 0; echo backup; $KEYROUND backup copy.json && exit 94; $KEYROUND keys timeline keys.svg && exit 92; ls -A
        rm filler; $KEYROUND backup copy.json || exit 93; ls -A";
    let output = on_small_disk(folder.path(), script);
    let (error, out) = (said(&output), String::from_utf8(output.stdout.clone()).unwrap());
    assert_eq!(output.status.code(), Some(0), "{error} {out}");
    let told: Vec<&str> = error.lines().filter(|line| line.starts_with("keyround: ")).collect();
    assert!(told.len() >= 3, "{error} {out}");
    let (others, backup) = told.split_at(told.len() - 2);
    for line in others {
        assert!(
            line.contains("no space is left for the database sqlite:keyround.db"),
            "{line}"
        );
    }
    assert!(backup[0].contains("cannot write copy.json: No space left"), "{error}");
    assert!(backup[1].contains("cannot write keys.svg: No space left"), "{error}");
    let (_, after) = out.split_once("backup\n").unwrap();
    let before_retry = after.split("wrote ").next().unwrap();
    assert!(
        !before_retry.contains("copy") && !before_retry.contains("keys.svg"),
        "nothing is half written: {out}"
    );
    assert!(
        !after.contains(".unfinished") && after.matches("copy.json").count() == 2,
        "{out}"
    );
}

/// A command that writes, with the database that it uses and what it says, if the disk is full and if it is read-only: what happened and
/// where, why, and what to do.
type Writer = (&'static str, &'static str, [&'static str; 3], [&'static str; 3]);

const FULL: [&str; 3] = [
    "no space is left for the database sqlite:keyround.db",
    "no space is left",
    "make room on its disk and try again; nothing is half written",
];
const READ_ONLY: [&str; 3] = [
    "the database sqlite:keyround.db, which database.url gives, cannot be used",
    "this user may not write it or its folder",
    "mount their file system for writing",
];

const WRITERS: &[Writer] = &[
    (
        "serve",
        "new.db",
        [
            "no space is left for the database sqlite:new.db",
            "no space is left",
            "make room on its disk",
        ],
        [
            "the database new.db cannot be made",
            "Read-only file system",
            "mount the file system of the folder . for writing, or name another folder",
        ],
    ),
    ("serve", "keyround.db", FULL, READ_ONLY),
    (
        "clients create --id a --grant client_credentials --audience https://a.example",
        "keyround.db",
        FULL,
        READ_ONLY,
    ),
    (
        "users create --email ada@example.com --name Ada",
        "keyround.db",
        FULL,
        READ_ONLY,
    ),
    ("keys rotate --reason x", "keyround.db", FULL, READ_ONLY),
    (
        "master-key generate made.key",
        "../keyround.db",
        [
            "cannot write the master key made.key",
            "No space left on device",
            "make room where the folder . is",
        ],
        [
            "cannot write the master key made.key",
            "Read-only file system",
            "mount the file system of the folder . for writing, or name another folder",
        ],
    ),
    (
        "backup copy.json",
        "../keyround.db",
        [
            "cannot write copy.json",
            "No space left on device",
            "make room where the folder . is",
        ],
        [
            "cannot write copy.json",
            "Read-only file system",
            "mount the file system of the folder . for writing, or name another folder",
        ],
    ),
    (
        "keys timeline keys.svg",
        "../keyround.db",
        [
            "cannot write keys.svg",
            "No space left on device",
            "make room where the folder . is",
        ],
        [
            "cannot write keys.svg",
            "Read-only file system",
            "mount the file system of the folder . for writing, or name another folder",
        ],
    ),
    (
        "man pages",
        "../keyround.db",
        [
            "cannot write pages/keyround.1",
            "No space left on device",
            "make room where the folder pages is",
        ],
        ["cannot write", "Read-only file system", "or name another folder"],
    ),
    (
        "db copy --to sqlite:copy.db",
        "../keyround.db",
        [
            "no space is left for the database sqlite:copy.db",
            "no space is left",
            "make room on its disk",
        ],
        [
            "the database copy.db cannot be made",
            "Read-only file system",
            "mount the file system of the folder . for writing, or name another folder",
        ],
    ),
];

#[test]
fn every_command_that_writes_says_what_happened_why_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ISSUER,
        ANY_PORT,
        ANY_ADMIN_PORT,
        MASTER_KEY,
        ("KEYROUND_DATABASE__URL", "sqlite:keyround.db"),
    ];
    let served = Serving::start(folder.path(), &variables, &["serve"]).stop();
    assert!(served.0.success());
    let commands = |full: bool| {
        let run = |(command, database, _, _): &Writer| {
            let room = if full { "leave 0;" } else { "" };
            format!(
                "{room} echo \"== {command}\"; KEYROUND_DATABASE__URL=sqlite:{database} $KEYROUND {command}; echo \"exit $?\"\n"
            )
        };
        WRITERS.iter().map(run).collect::<String>()
    };
    let set = variables
        .map(|(name, value)| format!("export {name}={value}\n"))
        .concat();
    let script = format!(
        "exec 2>&1\n{set}cp ../keyround.db .\n{}rm -rf filler new.db* copy.db* pages\nmount -o remount,ro disk \"$PWD\" || exit 98\n{}",
        commands(true),
        commands(false)
    );
    let output = on_small_disk(folder.path(), &script);
    let out = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{out}");
    let told: Vec<&str> = out.split("== ").skip(1).collect();
    assert_eq!(told.len(), WRITERS.len() * 2, "{out}");
    let (full, read_only) = told.split_at(WRITERS.len());
    for (((command, _, when_full, when_read_only), full), read_only) in WRITERS.iter().zip(full).zip(read_only) {
        for (words, told) in [(when_full, full), (when_read_only, read_only)] {
            assert!(told.starts_with(command) && told.ends_with("exit 1\n"), "{told}");
            let sentence = told.lines().find(|line| line.starts_with("keyround: ")).unwrap();
            for words in words {
                assert!(sentence.contains(words), "{command}: '{words}' is not in: {sentence}");
            }
        }
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("disk")).unwrap();
    let script = "mount -t tmpfs -o ro tmpfs disk && cd disk || exit 99
        $KEYROUND --set server.issuer=http://127.0.0.1:8080 --set server.listen=127.0.0.1:0 --set server.admin_listen=127.0.0.1:0 serve --dev; echo $?
        export KEYROUND_SERVER__ISSUER=http://127.0.0.1:8080 KEYROUND_KEYS__MASTER_KEY=sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=
        $KEYROUND clients list; echo $?
        $KEYROUND clients create --id a --grant client_credentials --audience https://a.example; echo $?
        touch ../keyround.db; KEYROUND_DATABASE__URL=sqlite:new.db $KEYROUND clients create --grant client_credentials --audience https://a.example; echo $?";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", PATH)
        .env("KEYROUND", BINARY)
        .output()
        .unwrap();
    let error = said(&output);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\n1\n1\n1\n", "{error}");
    let told: Vec<&str> = error.lines().filter(|line| line.starts_with("keyround: ")).collect();
    assert!(
        told[0].contains("keys/master.key") && told[0].contains("Read-only"),
        "{error}"
    );
    assert!(told[1].contains("there is no database data/keyround.db yet"), "{error}");
    assert!(
        told[2].contains("data/keyround.db") && told[2].contains("Read-only"),
        "{error}"
    );
    assert!(told[3].contains("new.db") && told[3].contains("Read-only"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_issuer_says_what_it_is() {
    let database = TestDatabase::sqlite();
    for (issuer, paths) in [
        ("http://127.0.0.1:8080", &["/"][..]),
        ("http://127.0.0.1:8080/tenant", &["/tenant", "/tenant/"]),
    ] {
        let app = TestApp::start(&database, &[("server.issuer", issuer)]).await;
        for path in paths {
            for (accept, content_type) in [
                ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
                ("application/json", "application/json"),
                ("*/*", "text/plain; charset=utf-8"),
            ] {
                let request = app.http.get(format!("{}{path}", app.url)).header("accept", accept);
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status(), 200);
                let headers = answer.headers().clone();
                assert_eq!(headers["content-type"], content_type);
                assert_eq!(headers["vary"], "Accept");
                assert_eq!(headers["cache-control"], "public, max-age=300");
                assert_eq!(
                    headers["content-security-policy"],
                    "default-src 'none'; frame-ancestors 'none'"
                );
                assert_eq!(headers["x-content-type-options"], "nosniff");
                assert!(headers.get("server").is_none() && headers.get("set-cookie").is_none());
                let body = answer.text().await.unwrap();
                for link in [
                    "/.well-known/jwks.json",
                    "/.well-known/oauth-authorization-server",
                    "/oauth2/token",
                ] {
                    assert!(body.contains(&format!("{issuer}{link}")), "{body}");
                }
                assert!(body.contains("docs/") && body.len() < 4096, "{body}");
                assert!(
                    !body.contains(env!("CARGO_PKG_VERSION")) && !body.contains("<script"),
                    "{body}"
                );
                // What it names is there.
                for address in body
                    .split(['"', ' ', '\n', '<'])
                    .filter(|word| word.contains("/.well-known/"))
                {
                    let path = address.trim_start_matches("http://127.0.0.1:8080");
                    let linked = app.http.get(format!("{}{path}", app.url)).send().await.unwrap();
                    assert_eq!(linked.status(), 200, "{address}");
                }
            }
            let head = app.http.head(format!("{}{path}", app.url)).send().await.unwrap();
            assert_eq!(head.status(), 200);
            let posted = app.http.post(format!("{}{path}", app.url)).send().await.unwrap();
            assert_eq!(posted.status(), 405);
            assert_eq!(posted.headers()["allow"], "GET, HEAD, OPTIONS");
        }
        app.running.stop().await;
    }
}

/// Where a 404 says that the paths are listed, they are; and every endpoint of the documentation is listed there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_here_says_where_the_paths_are_listed() {
    let database = TestDatabase::sqlite();
    let documented = include_str!("../../docs/reference/endpoints.md");
    let rows = |listener: &str| {
        let begin = format!("| {listener} | ");
        let rows = documented.lines().filter_map(move |line| line.strip_prefix(&begin));
        rows.map(|row| row.split('`').nth(1).unwrap().rsplit(' ').next().unwrap())
            .collect::<Vec<_>>()
    };
    assert!(rows("public").len() > 15 && rows("admin").len() == 4);
    for (issuer, base, accounts) in [
        ("http://127.0.0.1:8080", "", "true"),
        ("http://127.0.0.1:8080/tenant", "/tenant", "true"),
        ("http://127.0.0.1:8080", "", "false"),
    ] {
        let app = TestApp::start(&database, &[("server.issuer", issuer), ("accounts.enabled", accounts)]).await;
        let detail = async |address: String| {
            let answer = app.http.get(address).send().await.unwrap();
            assert_eq!(answer.status(), 404);
            let problem: serde_json::Value = answer.json().await.unwrap();
            problem["detail"].as_str().unwrap().to_owned()
        };
        for path in ["/auth/nothing", "/oauth2/nothing", "/nothing"] {
            let told = detail(format!("{}{base}{path}", app.url)).await;
            let (_, rest) = told.rsplit_once("GET ").unwrap();
            let page = rest.split(' ').next().unwrap();
            assert_eq!(rest, format!("{page} lists the paths"), "{told}");
            let names_accounts = told.contains("accounts.enabled is false");
            assert_eq!(
                names_accounts,
                accounts == "false" && path.starts_with("/auth"),
                "{told}"
            );
            for form in ["text/html", "application/json", "text/plain"] {
                let listed = app.http.get(format!("{}{page}", app.url)).header("accept", form);
                let answer = listed.send().await.unwrap();
                assert_eq!(answer.status(), 200, "{page}");
                let listed = answer.text().await.unwrap();
                for endpoint in rows("public").iter().filter(|endpoint| **endpoint != "/") {
                    let of_people = [
                        "/auth",
                        "/account",
                        "/oauth2/authorize",
                        "/oauth2/userinfo",
                        "/oauth2/logout",
                    ];
                    let is_there = accounts == "true" || !of_people.iter().any(|path| endpoint.starts_with(path));
                    let word = format!("{issuer}{endpoint}");
                    let ends = ["\"", "<", "\n", " ", "\\"].map(|end| format!("{word}{end}"));
                    let is_listed = ends.iter().any(|word| listed.contains(word));
                    assert_eq!(is_listed, is_there, "{word} {form}: {listed}");
                }
            }
        }
        let told = detail(format!("{}/auth/login", app.admin_url)).await;
        for path in rows("admin") {
            assert!(told.contains(path), "{told}");
        }
        app.running.stop().await;
    }
}
