//! Every command of every page in docs/operate/runbooks is run here, and what it prints is held against what the page promises.
//!
//! docs/operate/runbooks/README.md says how a page is written. A server is brought into the state that the page names, then
//! one shell runs the page from top to bottom.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use keyround::accounts::session::{Device, LoginMethod};
use keyround::app::Foundation;
use keyround::clock::{Clock, Seconds, UnixTime};
use keyround::jose::alg::Algorithm;
use keyround::jose::import::{self, Passphrase};
use keyround::jose::jwt::{AccessTokenClaims, AudienceClaim, Signer, TokenType, random_jti};
use keyround::keyring::Keyring;
use keyround::oauth::client::Client;
use keyround::sessions::{Grouped, RefreshRequest, Replays, SessionTokens, Sessions};
use keyround::telemetry::SessionMetrics;
use serde_json::json;

use crate::database_roles::{as_role, grants};
use crate::helpers::{TestDatabase, config, private_file};
use crate::process::{BINARY, PATH, Serving, free_port, run};
use crate::rows::Raw;

/// What a page tells to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A command, its exit code, and the lines that it prints.
    Run {
        command: String,
        code: i32,
        expected: Vec<String>,
    },
    /// Something that a person does outside of the shell: `<!-- then: ... -->`.
    Then(String),
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/runbooks")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(folder().join(format!("{name}.md"))).unwrap()
}

fn comment<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix("<!-- ")?
        .strip_prefix(name)?
        .strip_prefix(": ")?
        .strip_suffix(" -->")
}

fn state(page: &str) -> Option<&str> {
    page.lines().find_map(|line| comment(line, "state"))
}

/// What stands below a heading, up to the next.
fn section<'a>(page: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n"))?;
    rest.split("\n## ").next()
}

/// What the page does, from top to bottom.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if !inside {
            inside = line == "```console";
            assert!(
                inside || !line.starts_with("```") || line == "```",
                "only blocks of console are allowed on a page: {line}"
            );
            steps.extend(comment(line, "then").map(|what| Step::Then(what.to_owned())));
            continue;
        }
        if line == "```" {
            inside = false;
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step::Run {
                command: command.to_owned(),
                code: 0,
                expected: Vec::new(),
            });
        } else if let Some(Step::Run {
            command,
            code,
            expected,
        }) = steps.last_mut()
        {
            if let Some(more) = line.strip_prefix("> ") {
                command.push('\n');
                command.push_str(more);
            } else if let Some(number) = line.strip_prefix("[exit ").and_then(|rest| rest.strip_suffix(']')) {
                *code = number.parse().unwrap();
            } else {
                expected.push(line.to_owned());
            }
        } else {
            panic!("output before a command: {line}");
        }
    }
    assert!(!inside, "a block is not closed");
    steps
}

/// Whether a line is what a page promises: runs of blanks count as one, `…` stands for anything, KID for a key's name, TIME
/// for a moment.
fn fits(expected: &str, line: &str) -> bool {
    // What is now on this machine was some seconds ago on a slower one.
    let words = |text: &str| {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        words.replace("(now)", "(0s ago)")
    };
    fits_words(&words(expected), &words(line))
}

fn fits_words(expected: &str, line: &str) -> bool {
    if expected.is_empty() {
        return line.is_empty();
    }
    if let Some(rest) = expected.strip_prefix('…') {
        return line
            .char_indices()
            .map(|(at, _)| at)
            .chain([line.len()])
            .any(|at| fits_words(rest, &line[at..]));
    }
    for (word, length, part) in [
        (
            "KID",
            43,
            (|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') as fn(u8) -> bool,
        ),
        ("TIME", 20, |byte| byte.is_ascii_digit() || b"-T:Z".contains(&byte)),
    ] {
        if let Some(rest) = expected.strip_prefix(word)
            && line.len() >= length
            && line.as_bytes()[..length].iter().all(|&byte| part(byte))
            && fits_words(rest, &line[length..])
        {
            return true;
        }
    }
    let mut rest = expected.chars();
    let first = rest.next();
    let mut line = line.chars();
    first == line.next() && fits_words(rest.as_str(), line.as_str())
}

/// The same for all lines; a line that is only `…` stands for any number of lines.
fn all_fit(expected: &[String], lines: &[String]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first.trim() == "…" => (0..=lines.len()).any(|at| all_fit(rest, &lines[at..])),
        Some((first, rest)) => lines
            .split_first()
            .is_some_and(|(line, others)| fits(first, line) && all_fit(rest, others)),
    }
}

/// A shell that keeps its variables from one command to the next. All that it started ends with it.
pub struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    /// A shell in this folder with these variables.
    pub fn start(folder: &Path, variables: &[(&str, String)]) -> Self {
        let bin = folder.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(BINARY, bin.join("keyround")).unwrap();
        // A loop that waits for what never comes must not hold the suite.
        let mut child = Command::new("timeout")
            .args(["180", "sh"])
            .current_dir(folder)
            .env_clear()
            .env("PATH", format!("{}:{PATH}", bin.display()))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Runs one command; answers with its exit code and what it printed on either stream.
    fn run(&mut self, command: &str) -> (i32, Vec<String>) {
        const END: &str = "@@ended with ";
        writeln!(
            self.input,
            "{{ {command}\n}} </dev/null 2>&1\nprintf '\\n{END}%s\\n' $?"
        )
        .unwrap();
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "the shell ended at: {command}\n{}", lines.join("\n"));
            let line = line.trim_end().to_owned();
            if let Some(code) = line.strip_prefix(END) {
                while lines.last().is_some_and(String::is_empty) {
                    lines.pop();
                }
                return (code.parse().unwrap(), lines);
            }
            lines.push(line);
        }
    }
}

impl Shell {
    /// Runs one command, and holds what it does against what a page promises.
    pub fn holds(&mut self, page: &str, command: &str, code: i32, expected: &[String]) {
        let (ended, lines) = self.run(command);
        let expected = trimmed(expected);
        assert!(
            ended == code && all_fit(&expected, &lines),
            "{page} promises for\n$ {command}\n{}\n[exit {code}]\n\nbut it printed\n{}\n[exit {ended}]",
            expected.join("\n"),
            lines.join("\n")
        );
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// A node: its settings, and its server while it runs.
type Node = (Vec<(&'static str, String)>, Option<Serving>);

/// The servers that a page is about.
struct Site {
    database: TestDatabase,
    nodes: Vec<Node>,
    secret: String,
    raw: Option<Raw>,
    /// An empty database that the page moves to.
    new_database: Option<NewDatabase>,
}

/// An empty PostgreSQL database with the two roles of docs/operate/postgresql.md.
struct NewDatabase {
    database: TestDatabase,
    owner: String,
    server: String,
    /// What is run once the tables are there.
    revokes: String,
}

impl NewDatabase {
    async fn make() -> Self {
        let database = TestDatabase::postgres().await;
        let suffix = database.url.rsplit('/').next().unwrap().to_owned();
        let [before, revokes] = grants(&suffix).try_into().unwrap();
        let raw = Raw::open(&database).await;
        raw.execute(&before).await;
        raw.close().await;
        let of = |role: &str| as_role(&database, &format!("{role}_{suffix}")).url;
        Self {
            owner: of("owner"),
            server: of("server"),
            revokes,
            database,
        }
    }
}

impl Site {
    fn new(database: TestDatabase, count: usize) -> Self {
        let issuer = "http://127.0.0.1:8080";
        let nodes = (0..count)
            .map(|_| {
                let variables = vec![
                    ("KEYROUND_SERVER__ISSUER", issuer.to_owned()),
                    ("KEYROUND_SERVER__LISTEN", format!("127.0.0.1:{}", free_port())),
                    ("KEYROUND_SERVER__ADMIN_LISTEN", format!("127.0.0.1:{}", free_port())),
                    ("KEYROUND_KEYS__MASTER_KEY_FILE", "keys/master.key".to_owned()),
                    ("KEYROUND_KEYS__LEDGER_FILE", "keys/revoked-kids".to_owned()),
                    ("KEYROUND_DATABASE__URL", database.url.clone()),
                ];
                (variables, None)
            })
            .collect();
        let mut site = Self {
            database,
            nodes,
            secret: String::new(),
            raw: None,
            new_database: None,
        };
        site.keyround(&["master-key", "generate", "keys/master.key"]);
        site.start_all();
        let client = "clients create --id billing --grant client_credentials --audience https://api.example.com --json";
        let made = site.keyround(&client.split(' ').collect::<Vec<_>>());
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        made["client_secret"].as_str().unwrap().clone_into(&mut site.secret);
        site
    }

    fn folder(&self) -> &Path {
        self.database.folder.path()
    }

    fn keyround(&self, arguments: &[&str]) -> String {
        let output = run(self.folder(), &borrowed(&self.nodes[0].0), arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn start_all(&mut self) {
        let folder = self.database.folder.path();
        for (variables, serving) in &mut self.nodes {
            *serving = Some(Serving::start(folder, &borrowed(variables), &["serve"]));
        }
    }

    fn stop_all(&mut self) {
        for (_, serving) in &mut self.nodes {
            if let Some(serving) = serving.take() {
                assert!(serving.stop().0.success());
            }
        }
    }

    async fn sql(&mut self, statement: &str) {
        if self.raw.is_none() {
            self.raw = Some(Raw::open(&self.database).await);
        }
        self.raw.as_ref().unwrap().execute(statement).await;
    }

    /// Waits until a query answers with this number.
    async fn until(&mut self, query: &str, number: i64) {
        for _ in 0..600 {
            if self.raw.as_ref().unwrap().number(query).await == number {
                return;
            }
            keyround::clock::sleep(Duration::from_millis(100)).await;
        }
        panic!("never {number}: {query}");
    }

    async fn lose_database(&mut self) {
        if let Some(raw) = self.raw.take() {
            raw.close().await;
        }
        if let Some(file) = self.database.url.strip_prefix("sqlite:") {
            for ending in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(self.folder().join(format!("{file}{ending}")));
            }
        } else {
            self.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
        }
    }

    /// Makes every row older, as if this time had passed.
    async fn age(&mut self, seconds: i64) {
        let statement =
            "UPDATE signing_keys SET published_at = published_at - SECONDS, activates_at = activates_at - SECONDS";
        self.sql(&statement.replace("SECONDS", &seconds.to_string())).await;
    }

    /// What a shell of the operator has in its environment.
    fn variables(&self) -> Vec<(&'static str, String)> {
        let listener = |variables: &[(&str, String)], name: &str| {
            let (_, address) = variables.iter().find(|(variable, _)| variable.ends_with(name)).unwrap();
            format!("http://{address}")
        };
        let every = |name: &str| {
            let addresses = self.nodes.iter().map(|(variables, _)| listener(variables, name));
            addresses.collect::<Vec<_>>().join(" ")
        };
        let mut variables = self.nodes[0].0.clone();
        variables.push(("NODES", every("__LISTEN")));
        variables.push(("ADMIN_NODES", every("__ADMIN_LISTEN")));
        variables.push(("SITE", listener(&variables, "__LISTEN")));
        variables.push(("LEDGER", "keys/revoked-kids".to_owned()));
        variables.push(("CLIENT", format!("billing:{}", self.secret)));
        if let Some(new) = &self.new_database {
            variables.push(("NEW_DATABASE", new.server.clone()));
            variables.push(("NEW_OWNER", new.owner.clone()));
        }
        variables
    }
}

fn borrowed<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

const A_DAY: i64 = 86_400;

/// A database that takes no more keys.
const FULL_ON_SQLITE: &str =
    "CREATE TRIGGER no_room AFTER INSERT ON signing_keys BEGIN SELECT RAISE(FAIL, 'disk is full'); END";
const FULL_ON_POSTGRES: &str = "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN RAISE EXCEPTION 'disk is full'; END $$; \
    CREATE TRIGGER no_room AFTER INSERT ON signing_keys FOR EACH ROW EXECUTE FUNCTION no_room()";

/// Brings servers into the state that a page names.
async fn arrange(state: &str, database: TestDatabase) -> Site {
    let on_postgres = database.url.starts_with("postgres");
    if state == "database-clock-off" {
        move_clock(&database).await;
    }
    let mut site = Site::new(database, if on_postgres { 2 } else { 1 });
    match state {
        "running" => site.age(3_600).await,
        "database-clock-off" => {}
        // The successor was published a day ago and signs in some seconds.
        "successor-signs-soon" => {
            site.keyround(&["keys", "rotate", "--reason", "to be watched"]);
            site.stop_all();
            site.age(A_DAY - 12).await;
            site.start_all();
        }
        "rotation-failing" => {
            site.sql(if on_postgres { FULL_ON_POSTGRES } else { FULL_ON_SQLITE })
                .await;
            site.age(29 * A_DAY + 4 * 3_600).await;
        }
        "master-key-lost" => {
            site.stop_all();
            std::fs::remove_file(site.folder().join("keys/master.key")).unwrap();
        }
        "corrupted-row" => {
            site.stop_all();
            site.sql("UPDATE signing_keys SET sealed = 'x' || sealed WHERE alg = 'RS256'")
                .await;
            site.start_all();
        }
        // Superseded ten minutes ago: still published, its private half destroyed.
        "key-retired" => {
            site.keyround(&["keys", "rotate", "--algorithm", "RS256"]);
            site.stop_all();
            site.age(A_DAY + 600).await;
            site.start_all();
            site.until("SELECT count(*) FROM signing_keys WHERE sealed IS NOT NULL", 2)
                .await;
        }
        "moving-in" => {
            site.age(3_600).await;
            bring_old_keys(&site);
        }
        "revocation-lost" => lose_revocation(&mut site).await,
        "account-in-use" => use_account(&site, false).await,
        "passwords-guessed" => guess_passwords(&site).await,
        "refresh-token-reused" => use_account(&site, true).await,
        other => panic!("no page may name the state {other}: this test does not know it"),
    }
    site
}

/// A key is revoked, and the database is set back to what it was before; the servers are stopped.
async fn lose_revocation(site: &mut Site) {
    let listed: serde_json::Value = serde_json::from_str(&site.keyround(&["keys", "list", "--json"])).unwrap();
    let is_active = |key: &&serde_json::Value| key["alg"] == "ES256" && key["state"] == "active";
    let kid = listed.as_array().unwrap().iter().find(is_active).unwrap()["kid"].clone();
    let kid = kid.as_str().unwrap();
    site.sql("SELECT 1").await;
    let sealed = format!("SELECT sealed FROM signing_keys WHERE kid = '{kid}'");
    let sealed = site.raw.as_ref().unwrap().texts(&sealed).await.remove(0);
    site.keyround(&["keys", "revoke", kid, "--reason", "leaked", "--yes"]);
    site.stop_all();
    site.sql(&format!(
        "DELETE FROM signing_keys WHERE alg = 'ES256' AND kid <> '{kid}'"
    ))
    .await;
    site.sql(&format!(
        "UPDATE signing_keys SET revoked_at = NULL, sealed = '{sealed}' WHERE kid = '{kid}'"
    ))
    .await;
    site.sql("DELETE FROM audit WHERE event = 'key.revoked'").await;
}

/// An account with two sessions, of one of which `thief/` holds an access token. `reused`: a refresh token of that session
/// comes again that was used long ago.
async fn use_account(site: &Site, reused: bool) {
    let email = "ada@example.com";
    site.keyround(&["users", "create", "--email", email, "--name", "Ada"]);
    let key = std::fs::read_to_string(site.folder().join("keys/master.key")).unwrap();
    let config = config(&site.database, &[("keys.master_key", key.trim())]);
    let foundation = Foundation::open(&config, Clock::system()).await.unwrap();
    let rotator = foundation.rotator;
    let keyring = Keyring::load(
        rotator.db.clone(),
        Arc::clone(&rotator.master_key),
        Arc::clone(&rotator.policy),
        rotator.clock.clone(),
        None,
    );
    let sessions = Sessions {
        db: rotator.db,
        keyring: Arc::new(keyring.await.unwrap()),
        hash_key: Arc::new(foundation.hash_key),
        clock: rotator.clock,
        issuer: config.server.issuer.as_str().to_owned(),
        client: Client::of_accounts(&config.accounts.client, UnixTime(0)).unwrap(),
        alg: Algorithm::Es256,
        access_token_ttl: Seconds(600),
        settings: config.accounts.sessions.clone(),
        metrics: SessionMetrics::default(),
        replays: Replays::default(),
        families: Grouped::default(),
        claims: Grouped::default(),
    };
    let user = sessions
        .db
        .user_by_email(&email.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let device = |last| Device::new([192, 0, 2, last].into(), "a browser");
    sessions.begin(&user, LoginMethod::Password, &device(7)).await.unwrap();
    let refresh = async |token: &SessionTokens| {
        let request = RefreshRequest {
            token: &token.refresh_token,
            client_id: &config.accounts.client.id,
            client: &sessions.client,
            scope: None,
            audiences: &[],
            device: &device(8),
        };
        sessions.refresh(&request).await
    };
    let first = sessions.begin(&user, LoginMethod::Password, &device(8)).await.unwrap();
    let second = refresh(&first).await.unwrap();
    let third = refresh(&second).await.unwrap();
    if reused {
        assert!(refresh(&first).await.is_err());
    }
    let folder = site.folder().join("thief");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("access-token"), &third.access_token).unwrap();
    sessions.db.close().await;
}

/// An account, at whose password somebody guesses until a limit is met.
async fn guess_passwords(site: &Site) {
    let file = site.folder().join("password");
    private_file(&file, "seven green umbrellas\n");
    let email = "ada@example.com";
    let create = [
        "users",
        "create",
        "--email",
        email,
        "--name",
        "Ada",
        "--password-file",
        "password",
    ];
    site.keyround(&create);
    let url = format!("{}/auth/login", site.nodes[0].1.as_ref().unwrap().url);
    let body = json!({ "email": email, "password": "a guess", "token_delivery": "body" });
    let http = reqwest::Client::new();
    for _ in 0..200 {
        let answer = http.post(&url).json(&body).send().await.unwrap();
        if answer.status() == 429 {
            return;
        }
        assert_eq!(answer.status(), 401);
    }
    panic!("no limit is met");
}

/// The keys of another server, and a token of it.
fn bring_old_keys(site: &Site) {
    let folder = site.folder().join("old");
    std::fs::create_dir_all(&folder).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys");
    for (from, to) in [("rsa.public.jwk", "public.jwk"), ("p256.pkcs8.pem", "signing.pem")] {
        private_file(folder.join(to), std::fs::read(fixtures.join(from)).unwrap());
    }
    let read = |name: &str| import::read(&std::fs::read(fixtures.join(name)).unwrap(), Passphrase::None).unwrap();
    let kid = read("rsa.public.jwk").kid.unwrap();
    let signer = Signer::new(kid, read("rsa.pkcs8.pem").private.unwrap());
    let now = Clock::system().read().wall;
    let claims = AccessTokenClaims {
        iss: "http://127.0.0.1:8080".to_owned(),
        sub: "billing".to_owned(),
        aud: AudienceClaim::one("https://api.example.com"),
        client_id: "billing".to_owned(),
        iat: now.0,
        exp: now.0 + 3_600,
        jti: random_jti(),
        scope: None,
        session: None,
    };
    let token = signer.sign_access_token(TokenType::AtJwt, &claims).unwrap();
    std::fs::write(folder.join("token.json"), token).unwrap();
}

/// Puts a clock in front of the database's own that is ten minutes behind once the table `off` says so.
async fn move_clock(database: &TestDatabase) {
    let raw = Raw::open(database).await;
    let name = database.url.rsplit('/').next().unwrap();
    raw.execute("CREATE TABLE off (seconds BIGINT); INSERT INTO off VALUES (0)")
        .await;
    raw.execute(
        "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
         $$ SELECT pg_catalog.clock_timestamp() - make_interval(secs => (SELECT seconds FROM public.off)) $$",
    )
    .await;
    raw.execute(&format!("ALTER DATABASE {name} SET search_path = public, pg_catalog"))
        .await;
    raw.close().await;
}

/// What a person does between two commands.
async fn act(site: &mut Site, what: &str) {
    match what {
        "the database's clock goes wrong" => site.sql("UPDATE off SET seconds = 600").await,
        "the clock is set" => site.sql("UPDATE off SET seconds = 0").await,
        "there is room on the disk again" if site.database.url.starts_with("postgres") => {
            site.sql("DROP TRIGGER no_room ON signing_keys").await;
        }
        "there is room on the disk again" => site.sql("DROP TRIGGER no_room").await,
        "every node is restarted, one after the other" => {
            let folder = site.database.folder.path().to_owned();
            for (variables, serving) in &mut site.nodes {
                assert!(serving.take().unwrap().stop().0.success());
                *serving = Some(Serving::start(&folder, &borrowed(variables), &["serve"]));
            }
        }
        "the stated end has come" => {
            // While no server runs: to a running one, a row that goes before its end has vanished.
            site.stop_all();
            let earlier = "UPDATE verifying_keys SET expires_at = expires_at - 7330";
            site.sql(earlier).await;
            site.start_all();
        }
        "the new version has brought a schema that the old one does not know" => {
            let checksum = if site.database.url.starts_with("postgres") {
                "'\\x00'"
            } else {
                "x'00'"
            };
            let columns = "version, description, installed_on, success, checksum, execution_time";
            let values = format!("9999, 'later', CURRENT_TIMESTAMP, true, {checksum}, 0");
            site.sql(&format!("INSERT INTO _sqlx_migrations ({columns}) VALUES ({values})"))
                .await;
        }
        "the database is lost, and an empty one is in its place"
        | "every node is stopped, and an empty database is in place of the old one" => {
            site.stop_all();
            site.lose_database().await;
        }
        "the export begins with a byte order mark and does not end with a newline" => {
            let export = site.folder().join("people.txt");
            let people = std::fs::read_to_string(&export).unwrap();
            std::fs::write(&export, format!("\u{feff}{}", people.strip_suffix('\n').unwrap())).unwrap();
        }
        "every node is started" => site.start_all(),
        "every node is stopped" => site.stop_all(),
        "every node is stopped, and ten minutes pass" => {
            site.stop_all();
            site.age(600).await;
            site.sql("UPDATE clock SET reached = reached - 600, confirmed = confirmed - 600")
                .await;
        }
        "the second block of SQL is run" => {
            let new = site.new_database.as_ref().unwrap();
            let owner = TestDatabase {
                url: new.owner.clone(),
                folder: tempfile::tempdir().unwrap(),
            };
            let owner = Raw::open(&owner).await;
            owner.execute(&new.revokes).await;
            owner.close().await;
            let raw = Raw::open(&new.database).await;
            let may_delete = "SELECT count(*) FROM information_schema.role_table_grants \
                              WHERE table_name = 'audit' AND privilege_type IN ('UPDATE', 'DELETE') AND grantee LIKE 'server%'";
            assert_eq!(raw.number(may_delete).await, 0);
            raw.close().await;
        }
        "every node is started on the new database" => {
            let url = site.new_database.as_ref().unwrap().server.clone();
            for (variables, _) in &mut site.nodes {
                for (name, value) in variables.iter_mut() {
                    if *name == "KEYROUND_DATABASE__URL" {
                        value.clone_from(&url);
                    }
                }
            }
            site.start_all();
        }
        other => panic!("no page may say '{other}': this test does not know it"),
    }
}

/// Runs a page on this database from top to bottom.
async fn follow(name: &str, database: TestDatabase) {
    let page = page(name);
    let steps = steps(&page);
    let mut site = Box::pin(arrange(state(&page).unwrap(), database)).await;
    if page.contains("$NEW_DATABASE") {
        site.new_database = Some(NewDatabase::make().await);
    }
    let mut shell = Shell::start(site.folder(), &site.variables());
    for step in &steps {
        match step {
            Step::Then(what) => act(&mut site, what).await,
            Step::Run {
                command,
                code,
                expected,
            } => shell.holds(name, &on_free_ports(command), *code, expected),
        }
    }
}

/// A start that a page expects to fail, beside servers that run here, is one on another machine, whose ports are free.
fn on_free_ports(command: &str) -> String {
    let fails = "keyround serve 2>&1 | tail -1";
    let free = "KEYROUND_SERVER__LISTEN=127.0.0.1:0 KEYROUND_SERVER__ADMIN_LISTEN=127.0.0.1:0";
    command.replace(fails, &format!("{free} {fails}"))
}

fn trimmed(lines: &[String]) -> Vec<String> {
    let end = lines
        .iter()
        .rposition(|line| !line.trim().is_empty())
        .map_or(0, |last| last + 1);
    lines[..end].to_vec()
}

/// One test a page; a page without one is found below.
macro_rules! pages {
    ($($test:ident: $name:literal on $database:expr;)*) => {
        const TESTED: &[&str] = &[$($name),*];

        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                follow($name, $database).await;
            }
        )*
    };
}

pages! {
    rotation_watched: "rotation-watched" on TestDatabase::sqlite();
    rotation_watched_with_two_nodes: "rotation-watched" on TestDatabase::postgres().await;
    rotate_early: "rotate-early" on TestDatabase::sqlite();
    rotate_early_with_two_nodes: "rotate-early" on TestDatabase::postgres().await;
    signing_key_compromised: "signing-key-compromised" on TestDatabase::sqlite();
    signing_key_compromised_with_two_nodes: "signing-key-compromised" on TestDatabase::postgres().await;
    rotation_overdue: "rotation-overdue" on TestDatabase::sqlite();
    rotation_overdue_with_two_nodes: "rotation-overdue" on TestDatabase::postgres().await;
    a_verifier_refuses_tokens: "verifier-refuses-tokens" on TestDatabase::sqlite();
    a_verifier_refuses_tokens_of_two_nodes: "verifier-refuses-tokens" on TestDatabase::postgres().await;
    clock_fault: "clock-fault" on TestDatabase::postgres().await;
    upgrade: "upgrade" on TestDatabase::sqlite();
    upgrade_with_two_nodes: "upgrade" on TestDatabase::postgres().await;
    master_key_changed: "master-key-changed" on TestDatabase::sqlite();
    master_key_changed_with_two_nodes: "master-key-changed" on TestDatabase::postgres().await;
    master_key_compromised: "master-key-compromised" on TestDatabase::sqlite();
    master_key_compromised_with_two_nodes: "master-key-compromised" on TestDatabase::postgres().await;
    moving_in: "moving-in" on TestDatabase::sqlite();
    moving_in_with_two_nodes: "moving-in" on TestDatabase::postgres().await;
    sqlite_to_postgresql: "sqlite-to-postgresql" on TestDatabase::sqlite();
    restore_from_backup: "restore-from-backup" on TestDatabase::sqlite();
    restore_from_backup_with_two_nodes: "restore-from-backup" on TestDatabase::postgres().await;
    revocation_lost: "revocation-lost" on TestDatabase::sqlite();
    revocation_lost_with_two_nodes: "revocation-lost" on TestDatabase::postgres().await;
    master_key_lost: "master-key-lost" on TestDatabase::sqlite();
    master_key_lost_with_two_nodes: "master-key-lost" on TestDatabase::postgres().await;
    corrupted_key_row: "corrupted-key-row" on TestDatabase::sqlite();
    corrupted_key_row_with_two_nodes: "corrupted-key-row" on TestDatabase::postgres().await;
    account_taken_over: "account-taken-over" on TestDatabase::sqlite();
    account_taken_over_with_two_nodes: "account-taken-over" on TestDatabase::postgres().await;
    moving_people_in: "moving-people-in" on TestDatabase::sqlite();
    moving_people_in_with_two_nodes: "moving-people-in" on TestDatabase::postgres().await;
    passwords_guessed: "passwords-guessed" on TestDatabase::sqlite();
    passwords_guessed_with_two_nodes: "passwords-guessed" on TestDatabase::postgres().await;
    refresh_token_reused: "refresh-token-reused" on TestDatabase::sqlite();
    refresh_token_reused_with_two_nodes: "refresh-token-reused" on TestDatabase::postgres().await;
}

/// No runbook, and run in the same way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants() {
    Box::pin(follow("../tenants", TestDatabase::sqlite())).await;
    Box::pin(follow("../tenants", TestDatabase::postgres().await)).await;
}

#[test]
fn every_page_is_run_and_linked_and_says_what_it_must() {
    let pages: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "README")
        .collect();
    assert_eq!(pages, TESTED.iter().map(|&name| name.to_owned()).collect());
    for name in &pages {
        let text = page(name);
        assert!(state(&text).is_some(), "{name}.md names no state");
        assert!(!steps(&text).is_empty(), "{name}.md has no command");
        for heading in ["When", "Verify", "How to go back", "What stays exposed"] {
            let told = section(&text, heading).is_some_and(|body| !body.trim().is_empty());
            assert!(told, "{name}.md says nothing below '## {heading}'");
        }
        let (when, _) = text
            .split_once("README.md#where-to-run-the-commands)")
            .unwrap_or_else(|| {
                panic!("{name}.md does not say where its commands run");
            });
        assert!(!when.contains("\n$ "), "{name}.md has a command before it says where");
        assert!(
            page("README").contains(&format!("({name}.md)")),
            "README.md does not link {name}.md"
        );
    }
}

#[test]
fn promises_are_read_strictly() {
    let steps = steps("text\n```console\n$ one \\\n> two\nout\n[exit 1]\n$ three\n```\n<!-- then: act -->\n");
    let run = |command: &str, code, expected: &[&str]| Step::Run {
        command: command.to_owned(),
        code,
        expected: expected.iter().map(|&line| line.to_owned()).collect(),
    };
    assert_eq!(
        steps,
        [
            run("one \\\ntwo", 1, &["out"]),
            run("three", 0, &[]),
            Step::Then("act".to_owned())
        ]
    );
    let kid = "a4EiglXMrLd2y6Yl5qReLSE0vRtIf4NnF0Z8Rr-OIT4";
    assert!(fits(
        "key KID  is … TIME",
        &format!("key {kid} is revoked 2026-11-22T22:50:05Z")
    ));
    for wrong in [
        "key short is revoked 2026-11-22T22:50:05Z".to_owned(),
        format!("key {kid} is revoked yesterday"),
        format!("key {kid} was revoked 2026-11-22T22:50:05Z"),
        format!("key {kid} is revoked 2026-11-22T22:50:05Z and more"),
    ] {
        assert!(!fits("key KID is … TIME", &wrong), "{wrong}");
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(all_fit(&lines("a\n…\nd"), &lines("a\nb\nc\nd")));
    assert!(!all_fit(&lines("a\n…\nd"), &lines("a\nb\nc")));
    assert!(!all_fit(&lines("a"), &lines("a\nb")) && !all_fit(&lines("a\nb"), &lines("a")));
}

/// The block of the page on runbooks that opens a shell there.
fn shell(place: &str) -> String {
    let readme = page("README");
    let (_, block) = readme.split_once(&format!("<!-- shell: {place} -->\n```sh\n")).unwrap();
    block.split("```").next().unwrap().to_owned()
}

/// What the unit sets is what the shell sets, and a command without `--config` finds the settings of the file.
#[test]
fn the_shell_of_a_systemd_node_has_its_settings() {
    let unit = crate::deployment::text("keyround.service");
    let folder = unit
        .lines()
        .find_map(|line| line.strip_prefix("WorkingDirectory="))
        .unwrap();
    assert!(shell("systemd").starts_with(&format!("cd {folder}\n")));
    let block = shell("systemd");
    for variable in unit
        .lines()
        .filter_map(|line| line.strip_prefix("Environment=KEYROUND_"))
    {
        assert!(block.contains(&format!("export KEYROUND_{variable}\n")), "{variable}");
    }
    assert!(unit.contains("ExecStart=/usr/local/bin/keyround --config /etc/keyround/config.toml serve"));
    let root = tempfile::tempdir().unwrap();
    let here = |path: &str| format!("{}{path}", root.path().display());
    std::fs::create_dir_all(here("/etc/keyround")).unwrap();
    std::fs::create_dir_all(here("/var/lib/keyround/data")).unwrap();
    std::fs::write(
        here("/etc/keyround/config.toml"),
        "[server]\nissuer = \"http://127.0.0.1:8080\"\n[database]\nurl = \"sqlite:data/keyround.db\"\n",
    )
    .unwrap();
    let made = crate::process::run(root.path(), &[], &["master-key", "generate", "etc/keyround/master.key"]);
    assert!(made.status.success());
    let block = block
        .replace("/etc/keyround", &here("/etc/keyround"))
        .replace("/var/lib", &here("/var/lib"));
    let program = Path::new(env!("CARGO_BIN_EXE_keyround")).parent().unwrap();
    let output = Command::new("bash")
        .args([
            "-ec",
            &format!("{block}keyround db migrate; keyround master-key status; echo x > here.txt"),
        ])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", program.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        Path::new(&here("/var/lib/keyround/data/keyround.db")).exists(),
        "{said}"
    );
    assert!(Path::new(&here("/var/lib/keyround/here.txt")).exists(), "{said}");
}

/// The settings have a file for the URL of the server; the URL of the owner comes from another one, which no other user can read.
#[test]
fn the_shell_of_the_owner_uses_its_url_whatever_the_settings_file_names() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    std::fs::write(
        folder.join("config.toml"),
        "[server]\nissuer = \"http://127.0.0.1:8080\"\n[database]\nurl_file = \"server-url\"\n\
         [keys]\nmaster_key_file = \"master.key\"\n",
    )
    .unwrap();
    let made = crate::process::run(folder, &[], &["master-key", "generate", "master.key"]);
    assert!(made.status.success());
    let program = Path::new(env!("CARGO_BIN_EXE_keyround")).parent().unwrap();
    let script = format!(
        "keyround() {{ command keyround --config config.toml \"$@\"; }}\n\
         (umask 077 && echo sqlite:server.db > server-url)\n{}stat -c %a owner-url\nkeyround db migrate",
        // What a person pastes.
        shell("owner").replacen("cat >", "echo sqlite:owner.db | cat >", 1)
    );
    let output = Command::new("bash")
        .args(["-ec", &script])
        .current_dir(folder)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", program.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.starts_with("600\n"), "{said}");
    assert!(
        folder.join("owner.db").exists() && !folder.join("server.db").exists(),
        "{said}"
    );
}

/// The image has what the pages need, and the containers a folder that its user can write.
#[test]
fn the_containers_have_a_shell_and_a_folder() {
    use crate::deployment::text;
    let image = text("Dockerfile");
    let (_, last) = image.rsplit_once("\nFROM ").unwrap();
    // Of Debian, so with a shell, sed, grep and an awk.
    assert!(last.starts_with("debian:") && last.contains(" curl "));
    let user = last.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    let (user, group) = user.split_once(':').unwrap();
    let (compose, manifests) = (text("compose.yaml"), text("kubernetes/keyround.yaml"));
    assert!(compose.contains(&format!("  tmpfs: [\"/runbooks:uid={user},gid={group},mode=0700\"]\n")));
    assert!(manifests.contains("            - name: work\n              mountPath: /runbooks\n"));
    // Commands are run there, so a path in the settings is whole.
    let names = ["_FILE: ", "_FILE=", "__URL: "];
    let lines = [&compose, &manifests, &image].into_iter().flat_map(|text| text.lines());
    let values = lines
        .filter(|line| names.iter().any(|name| line.contains(name)))
        .map(|line| line.rsplit(['=', ' ']).next().unwrap());
    let paths: Vec<&str> = values.map(|value| value.trim_start_matches("sqlite:")).collect();
    assert!(
        paths.len() >= 8 && paths.iter().all(|path| path.starts_with('/')),
        "{paths:?}"
    );
    assert!(paths.contains(&"/var/lib/keyround/data/keyround.db"));
    let compose_shell = shell("compose");
    let service = compose_shell.trim().split(' ').rev().nth(1).unwrap();
    assert!(compose_shell.contains("--workdir /runbooks ") && compose.contains(&format!("\n  {service}: &node\n")));
    let kubernetes_shell = shell("kubernetes");
    assert!(
        kubernetes_shell.contains("-n keyround exec -it keyround-0 -c keyround -- ")
            && kubernetes_shell.contains("cd /runbooks")
    );
}
