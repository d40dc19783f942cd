//! The files in deploy/: alerts, unit, image steps and gateway, each held by the real program that reads it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyround::config::settings::{SETTINGS, Setting};

use crate::process::{BINARY, PATH, Serving, free_port, run};

/// Where programs of the system are; those that would be started as a service when installed lie unpacked in target/tools.
pub fn programs() -> String {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/usr");
    format!("{PATH}:/usr/sbin:/sbin:{tools}/bin:{tools}/sbin")
}

pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// A page in docs/.
fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// A file in deploy/.
pub fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

/// Runs a program of the system, which `tests/packages.sh tools` installs.
fn system(program: &str, arguments: &[&str]) -> Output {
    Command::new("/usr/bin/env")
        .env_clear()
        .env("PATH", programs())
        .arg(program)
        .args(arguments)
        .output()
        .unwrap()
}

pub fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = system(program, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

/// A server with one client; everything in this folder.
fn serve(folder: &Path, more: &[(&str, &str)]) -> (Vec<(String, String)>, Serving) {
    let listen = format!("127.0.0.1:{}", free_port());
    let admin = format!("127.0.0.1:{}", free_port());
    let mut variables: Vec<(String, String)> = [
        ("KEYROUND_SERVER__ISSUER", "https://localhost"),
        ("KEYROUND_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ("KEYROUND_SERVER__LISTEN", listen.as_str()),
        ("KEYROUND_SERVER__ADMIN_LISTEN", admin.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    variables.extend(
        more.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let serving = Serving::start(folder, &borrowed(&variables), &["serve"]);
    (variables, serving)
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

#[test]
fn the_alerts_are_rules_and_fire_when_they_should() {
    succeed(
        "promtool",
        &["check", "rules", deploy("prometheus-alerts.yaml").to_str().unwrap()],
    );
    succeed(
        "promtool",
        &["test", "rules", deploy("prometheus-alerts.test.yaml").to_str().unwrap()],
    );
}

/// The words after each occurrence of `before`.
fn names_after<'a>(text: &'a str, before: &'a str) -> BTreeSet<&'a str> {
    text.split(before)
        .skip(1)
        .map(|rest| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()
                .unwrap()
        })
        .collect()
}

/// The same, in the order in which they are written.
fn in_order<'a>(text: &'a str, before: &'a str) -> Vec<&'a str> {
    let rest = text.split(before).skip(1);
    rest.map(|rest| rest.lines().next().unwrap().trim()).collect()
}

/// Each check has an alert that asks for it, or a reason why there is none; docs/operate/alerts.md has the table.
#[test]
fn every_check_has_an_alert_or_a_reason() {
    let rules = text("prometheus-alerts.yaml");
    let page = std::fs::read_to_string(document("operate/alerts.md")).unwrap();
    let (_, table) = page.split_once("\n## Which check has which alert\n").unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows: Vec<(&str, &str)> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.trim_end_matches(" |").split_once("` | "))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let (_, serving) = serve(folder.path(), &[]);
    let mut checks = BTreeSet::new();
    for endpoint in ["livez", "readyz", "readyz/issue"] {
        let answer = succeed("curl", &["-s", &format!("{}/{endpoint}", serving.admin_url)]);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        for check in answer["checks"].as_array().unwrap() {
            checks.insert(check["name"].as_str().unwrap().to_owned());
        }
    }
    let described: BTreeSet<String> = rows.iter().map(|(check, _)| (*check).to_owned()).collect();
    assert_eq!(described, checks, "the checks of docs/operate/alerts.md");
    let expression = |alert: &str| {
        let (_, rule) = rules.split_once(&format!("- alert: {alert}\n")).unwrap();
        rule.lines().next().unwrap().trim().to_owned()
    };
    for (check, alert) in rows {
        match alert.split_once(": ") {
            Some((alert, reason)) => assert!(
                (alert == "none" || rules.contains(&format!("- alert: {}\n", alert.trim_matches('`'))))
                    && reason.len() > 10,
                "{check}: {alert}"
            ),
            None => assert_eq!(
                expression(alert.trim_matches('`')),
                format!("expr: keyround_check{{check=\"{check}\"}} == 0")
            ),
        }
        let alerts = rules.matches(&format!("check=\"{check}\"")).count();
        assert_eq!(
            alerts,
            usize::from(!alert.contains(": ")),
            "alerts on the check {check}"
        );
    }
}

#[test]
fn every_alert_is_tested_names_a_metric_that_exists_and_has_its_runbook() {
    let (rules, tests) = (text("prometheus-alerts.yaml"), text("prometheus-alerts.test.yaml"));
    let alerts = names_after(&rules, "- alert: ");
    assert!(alerts.len() >= 9, "{alerts:?}");
    assert_eq!(
        alerts,
        names_after(&tests, "  - name: "),
        "an alert without a test, or the other way round"
    );
    let published = "runbook_url: https://docs.example.com/keyround/";
    let pages = rules.lines().filter_map(|line| line.trim().strip_prefix(published));
    let pages: Vec<&str> = pages.collect();
    assert_eq!(pages.len(), alerts.len(), "each alert has its runbook");
    for (alert, page) in in_order(&rules, "- alert: ").into_iter().zip(pages) {
        let (page, anchor) = page.split_once('#').unwrap_or((page, ""));
        let source = document(&page.replace(".html", ".md"));
        assert!(source.exists(), "{} does not exist", source.display());
        let text = std::fs::read_to_string(&source).unwrap();
        let anchors = crate::documents::anchors(&source);
        assert!(
            anchor.is_empty() || anchors.contains(anchor),
            "{alert}: {page} has no #{anchor}"
        );
        // A page about it names it where it says when to read it; a section has its name, or names it.
        let about = match anchor {
            "" => text.split_once("\n## When\n").map(|(_, rest)| rest),
            anchor if anchor == alert.to_lowercase() => Some(alert),
            anchor => text
                .to_lowercase()
                .find(&format!("\n## {anchor}\n"))
                .map(|at| &text[at + 1..]),
        };
        let about = about.unwrap_or_else(|| panic!("{alert}: {page} says of no alert when it is read"));
        let about = about.split("\n## ").next().unwrap();
        assert!(about.contains(alert), "{alert}: {page} is not about it");
    }
    let pages = std::fs::read_dir(document("operate/runbooks")).unwrap();
    let pages = pages.map(|page| std::fs::read_to_string(page.unwrap().path()).unwrap());
    let list = std::fs::read_to_string(document("operate/alerts.md")).unwrap();
    let listed: BTreeSet<String> = names_after(list.split("\n## ").next().unwrap(), "`Keyround")
        .iter()
        .map(|named| format!("Keyround{named}"))
        .collect();
    assert_eq!(
        listed.iter().map(String::as_str).collect::<BTreeSet<&str>>(),
        alerts,
        "the table of docs/operate/alerts.md"
    );
    for page in pages.chain([list]) {
        for named in names_after(&page, "`Keyround") {
            assert!(
                alerts.contains(format!("Keyround{named}").as_str()),
                "no alert is called Keyround{named}"
            );
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let (_, serving) = serve(folder.path(), &[]);
    // What is counted by an outcome has none before it happens.
    let body = r#"{"email": "nobody@example.com", "password": "a guess", "token_delivery": "body"}"#;
    let login = format!("{}/auth/login", serving.url);
    succeed(
        "curl",
        &["-s", "-H", "Content-Type: application/json", "-d", body, &login],
    );
    let metrics = succeed("curl", &["-sf", &format!("{}/metrics", serving.admin_url)]);
    let expressions: String = rules.lines().filter(|line| line.trim().starts_with("expr: ")).collect();
    for metric in names_after(&expressions, "keyround_") {
        assert!(
            metrics.contains(&format!("\nkeyround_{metric}")),
            "no metric keyround_{metric}: {metrics}"
        );
    }
    let checked: Vec<&str> = rules
        .split("check=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    for check in checked {
        assert!(
            metrics.contains(&format!("\nkeyround_check{{check=\"{check}\"}} 1")),
            "no check {check}"
        );
    }
}

#[test]
fn every_variable_in_the_files_is_a_setting() {
    let known: BTreeSet<String> = SETTINGS.iter().map(Setting::variable).collect();
    for file in ["Dockerfile", "compose.yaml", "keyround.service"] {
        let text = text(file);
        let named = names_after(&text, "KEYROUND_");
        assert!(!named.is_empty(), "deploy/{file} sets nothing");
        for name in named {
            assert!(
                known.contains(&format!("KEYROUND_{name}")),
                "deploy/{file} sets KEYROUND_{name}, which is none"
            );
        }
    }
}

#[test]
fn the_health_check_says_how_the_server_of_this_machine_is() {
    let folder = tempfile::tempdir().unwrap();
    let (variables, serving) = serve(folder.path(), &[]);
    for (arguments, checks) in [(vec!["healthcheck"], 2), (vec!["healthcheck", "--issue"], 14)] {
        let answer = run(folder.path(), &borrowed(&variables), &arguments);
        assert!(answer.status.success());
        assert_eq!(
            String::from_utf8(answer.stdout).unwrap().matches(" ok ").count(),
            checks
        );
        let json = run(
            folder.path(),
            &borrowed(&variables),
            &[&arguments[..], &["--json"]].concat(),
        );
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["checks"].as_array().unwrap().len(), checks);
    }
    serving.stop();
    let answer = run(folder.path(), &borrowed(&variables), &["healthcheck"]);
    assert_eq!(answer.status.code(), Some(1));
    let error = String::from_utf8(answer.stderr).unwrap();
    assert!(
        error.starts_with("keyround: no server answers at http://127.0.0.1:"),
        "{error}"
    );
}

#[test]
fn the_steps_of_the_image_leave_a_user_and_folders_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    let dockerfile = text("Dockerfile");
    for line in [
        "RUN deploy/build.sh build /out",
        "build.sh install /",
        "USER 10001:10001",
        r#"CMD ["keyround", "healthcheck"]"#,
    ] {
        assert!(dockerfile.contains(line), "the Dockerfile has no '{line}'");
    }
    let root = tempfile::tempdir().unwrap();
    let script = deploy("build.sh");
    let (script, root_path) = (script.to_str().unwrap(), root.path().to_str().unwrap());
    // Whoever is not root cannot give files away; then the folders are all that can be seen.
    let is_root = succeed("id", &["-u"]).trim() == "0";
    for _ in 0..2 {
        let output = system("sh", &[script, "install", root_path]);
        assert!(output.status.success() || !is_root, "{output:?}");
    }
    let users = std::fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    assert_eq!(users, "keyround:x:10001:10001::/var/lib/keyround:/usr/sbin/nologin\n");
    for folder in ["", "data", "keys", "ledger"] {
        let made = root.path().join("var/lib/keyround").join(folder).metadata().unwrap();
        assert_eq!(made.permissions().mode() & 0o777, 0o700);
    }
    assert_eq!(system("sh", &[script, "nonsense", root_path]).status.code(), Some(2));
}

#[test]
fn the_build_step_of_the_image_makes_the_program() {
    let out = tempfile::tempdir().unwrap();
    let built = Command::new("sh")
        .arg(deploy("build.sh"))
        .arg("build")
        .arg(out.path())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // What the tests were built with, so that nothing is compiled twice.
        .env("PROFILE", "dev")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let version = Command::new(out.path().join("keyround"))
        .arg("--version")
        .output()
        .unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("keyround "));
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("keyround.service");
    std::fs::write(
        &unit,
        text("keyround.service").replace("/usr/local/bin/keyround", BINARY),
    )
    .unwrap();
    for file in ["keyround.service", "Dockerfile"] {
        for setting in ["MALLOC_MMAP_THRESHOLD_=4194304", "MALLOC_ARENA_MAX=2"] {
            assert!(text(file).contains(setting), "{file}: {setting}");
        }
    }
    for line in [
        // A start that fails is tried again, however often: the default gives up after five within ten seconds.
        "StartLimitIntervalSec=0",
        // It waits for the time.
        "After=network-online.target time-sync.target",
        "Wants=network-online.target time-sync.target",
        // As many connections as `server.max_connections` takes, and the files beside them.
        "LimitNOFILE=16384",
    ] {
        assert!(
            text("keyround.service").lines().any(|written| written == line),
            "{line}"
        );
    }
    let said = succeed("systemd-analyze", &["verify", unit.to_str().unwrap()]);
    assert!(!said.contains("keyround.service"), "{said}");
    // docs/operate/deploy.md tells the figure, 1.2; the threshold is in tenths.
    #[rustfmt::skip]
    succeed("systemd-analyze", &["security", "--offline=true", "--threshold=15", "--no-pager", unit.to_str().unwrap()]);
}

/// nginx in the foreground; ended when dropped.
pub struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-QUIT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// Makes a key and a certificate of its own for localhost in this folder; answers with their paths.
pub fn self_signed(folder: &Path) -> (String, String) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (key, certificate) = (path("privkey.pem"), path("fullchain.pem"));
    #[rustfmt::skip]
    succeed("openssl", &[
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost", "-keyout", &key, "-out", &certificate,
    ]);
    (key, certificate)
}

/// The digest of that key's public half, as browsers are told of a certificate (RFC 7469 section 2.4).
pub fn key_digest(folder: &Path) -> String {
    let key = folder.join("privkey.pem");
    let der = system(
        "openssl",
        &["pkey", "-in", key.to_str().unwrap(), "-pubout", "-outform", "DER"],
    );
    STANDARD.encode(openssl::sha::sha256(&der.stdout))
}

fn start_nginx(folder: &Path, port: u16, backends: [&str; 2]) -> Nginx {
    let (key, certificate) = self_signed(folder);
    let site = text("nginx/keyround.conf");
    assert!(
        ["10.0.0.1:8080", "10.0.0.2:8080", "listen 443 ssl;"]
            .iter()
            .all(|shipped| site.contains(shipped))
    );
    let site = site
        .replace("10.0.0.1:8080", backends[0])
        .replace("10.0.0.2:8080", backends[1])
        .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port} ssl;"))
        .replace("id.example.com", "localhost")
        .replace("/etc/nginx/keyround/fullchain.pem", &certificate)
        .replace("/etc/nginx/keyround/privkey.pem", &key);
    start_nginx_with(folder, &site)
}

/// Starts nginx with this for its sites; everything of it lies in the folder.
pub fn start_nginx_with(folder: &Path, site: &str) -> Nginx {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("site.conf"), site).unwrap();
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};", path(kind)))
        .concat();
    let main = format!(
        "daemon off; worker_processes 1; pid {}; error_log stderr; events {{}} http {{ access_log off; {folders} include {}; }}",
        path("nginx.pid"),
        path("site.conf")
    );
    std::fs::write(path("nginx.conf"), main).unwrap();
    succeed(
        "nginx",
        &[
            "-t",
            "-q",
            "-e",
            "stderr",
            "-c",
            &path("nginx.conf"),
            "-p",
            folder.to_str().unwrap(),
        ],
    );
    let nginx = Command::new("/usr/bin/env")
        .env("PATH", programs())
        .args([
            "nginx",
            "-e",
            "stderr",
            "-c",
            &path("nginx.conf"),
            "-p",
            folder.to_str().unwrap(),
        ])
        .stderr(Stdio::null())
        .spawn();
    Nginx(nginx.unwrap())
}

#[test]
fn keys_and_tokens_come_through_nginx_also_while_a_node_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let site = format!("https://localhost:{port}");
    let settings = [("KEYROUND_SERVER__ISSUER", site.as_str())];
    let (mut variables, serving) = serve(folder.path(), &settings);
    variables.retain(|(_, value)| value != "https://localhost");
    let client = "clients create --id billing --grant client_credentials --audience https://api.example.com --json";
    let client = run(
        folder.path(),
        &borrowed(&variables),
        &client.split(' ').collect::<Vec<_>>(),
    );
    let client: serde_json::Value = serde_json::from_slice(&client.stdout).unwrap();
    let secret = format!("billing:{}", client["client_secret"].as_str().unwrap());

    // The first of the two never answers.
    let away = format!("127.0.0.1:{}", free_port());
    let _nginx = start_nginx(folder.path(), port, [&away, serving.url.trim_start_matches("http://")]);
    let certificate = folder.path().join("fullchain.pem").to_str().unwrap().to_owned();
    let retry = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1"];
    let key_set = format!("{site}/.well-known/jwks.json");
    let ask = |more: &[&str]| {
        succeed(
            "curl",
            &[&["-sSf", "--cacert", &certificate], &retry[..], more].concat(),
        )
    };
    let keys = ask(&["-i", &key_set]);
    assert!(
        keys.contains("cache-control: public, max-age=300") && keys.contains("Strict-Transport-Security:"),
        "{keys}"
    );
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for _ in 0..5 {
        ask(&["-o", &at("keys.json"), &key_set]);
        ask(&[
            "-o",
            &at("token.json"),
            "-u",
            &secret,
            "-d",
            "grant_type=client_credentials",
            &format!("{site}/oauth2/token"),
        ]);
        let verified = run(
            folder.path(),
            &[],
            &["token", "verify", "--key-set", "keys.json", "token.json"],
        );
        assert!(
            verified.status.success(),
            "{}",
            String::from_utf8_lossy(&verified.stderr)
        );
    }
    // What a client writes into the header is not believed.
    ask(&[
        "-H",
        "X-Forwarded-For: 203.0.113.9",
        "-u",
        &secret,
        "-d",
        "grant_type=client_credentials",
        &format!("{site}/oauth2/token"),
    ]);
    let (_, log, _) = serving.stop();
    let granted: Vec<&String> = log.iter().filter(|line| line.contains("a token was granted")).collect();
    assert_eq!(granted.len(), 6);
    assert!(
        granted.iter().all(|line| line.contains("client.ip=127.0.0.1")),
        "{granted:#?}"
    );
}

/// The release carries no symbols, and is built from the lock file everywhere.
#[test]
fn the_release_binary_is_stripped_and_locked() {
    let read = |name: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let release = &manifest["profile"]["release"];
    assert_eq!(release.get("strip"), Some(&toml::Value::Boolean(true)));
    assert_eq!(release.get("debug"), None);
    // The profile that the image has; no command line takes it back.
    assert!(text("build.sh").contains("profile=${PROFILE:-release}"));
    for file in ["Makefile", "deploy/build.sh", "deploy/Dockerfile"] {
        let file_text = read(file);
        assert!(
            !file_text.contains("RUSTFLAGS") && !file_text.contains("CARGO_PROFILE"),
            "{file}"
        );
        for line in file_text.lines().filter(|line| line.contains("cargo build")) {
            assert!(line.contains("--locked"), "{file}: {line}");
        }
    }
}
