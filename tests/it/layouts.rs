//! The layouts that deploy/ ships, compose.yaml and keyround.service, as far as they can be had without a container engine and
//! without systemd as the first process: the same user, owners and modes, read-only paths, environment, directories and signals, taken
//! from the files themselves. In each of them a key is revoked, the ledger must be written, and it must outlive a restart and a
//! database that was set back.
//!
//! This takes root and a mount namespace. A machine that allows neither runs the rest with `TEST_WITHOUT_NAMESPACES=yes`.

mod kubernetes;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use serde_json::Value;

use crate::deployment::{deploy, self_signed, start_nginx_with, text};
use crate::gateways::load::{Request, under_load};
use crate::helpers::TestDatabase;
use crate::process::{BINARY, PATH, free_port};

const MASTER_KEY: &str = "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=\n";

#[expect(
    clippy::disallowed_methods,
    reason = "the person who runs the tests says so by the environment"
)]
fn is_left_out() -> bool {
    let may_mount = Command::new("unshare")
        .args(["--mount", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if may_mount {
        return false;
    }
    assert!(
        std::env::var_os("TEST_WITHOUT_NAMESPACES").is_some(),
        "this machine allows no mount namespace, which the layouts of deploy/ need; run the tests as root, or set \
         TEST_WITHOUT_NAMESPACES=yes to go on without these"
    );
    true
}

/// What a shipped file says about how the server runs.
struct Layout {
    user: u32,
    group: u32,
    umask: &'static str,
    working_directory: String,
    environment: BTreeMap<String, String>,
    arguments: Vec<String>,
    /// Files that are there, with mode and owner; none of them can be written.
    files: Vec<(String, String, u32, (u32, u32))>,
    /// The folders that can be written.
    writable: Vec<String>,
    /// Of these, those that are volumes with an owner and a mode of their own.
    volumes: Vec<(String, u32, (u32, u32))>,
    /// How long it may take to stop.
    grace: Duration,
}

/// The root of that layout below a folder, and the server in it.
struct Deployment<'a> {
    layout: &'a Layout,
    root: PathBuf,
    server: Option<Child>,
    admin: String,
    public: String,
}

impl<'a> Deployment<'a> {
    /// Makes the root as the image and the person who installs do.
    fn install(layout: &'a mut Layout, folder: &Path) -> Self {
        let root = folder.join("root");
        let made = Command::new("sh")
            .arg(deploy("build.sh"))
            .arg("install")
            .arg(&root)
            .status();
        assert!(made.unwrap().success());
        for bound in ["usr", "proc", "dev", "etc/ssl", "run", "tmp", "opt"] {
            std::fs::create_dir_all(root.join(bound)).unwrap();
        }
        for link in ["lib", "lib64", "bin", "sbin"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        // In place of /usr/local/bin, which is the machine's own here.
        std::fs::copy(BINARY, root.join("opt/keyround")).unwrap();
        for (path, text, mode, owner) in &layout.files {
            let file = root.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(*mode)).unwrap();
            chown(&file, Some(owner.0), Some(owner.1)).unwrap();
        }
        for (path, mode, owner) in &layout.volumes {
            let volume = root.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(&volume).unwrap();
            chown(&volume, Some(owner.0), Some(owner.1)).unwrap();
            std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(*mode)).unwrap();
        }
        let (public, admin) = (free_port(), free_port());
        let at = |port: u16| format!("127.0.0.1:{port}");
        layout
            .environment
            .insert("KEYROUND_SERVER__LISTEN".to_owned(), at(public));
        layout
            .environment
            .insert("KEYROUND_SERVER__ADMIN_LISTEN".to_owned(), at(admin));
        Self {
            layout,
            root,
            server: None,
            admin: format!("http://{}", at(admin)),
            public: format!("http://{}", at(public)),
        }
    }

    /// The program as that user, in a mount namespace where everything but the writable folders is read-only.
    fn command(&self, arguments: &[&str]) -> Command {
        let root = self.root.to_str().unwrap();
        let mut script = format!("set -e\nmount --make-rprivate /\nmount --bind {root} {root}\n");
        for bound in ["usr", "proc", "dev", "etc/ssl"] {
            let _ = writeln!(script, "mount --rbind /{bound} {root}/{bound}");
        }
        for folder in &self.layout.writable {
            let _ = writeln!(script, "mount --bind {root}{folder} {root}{folder}");
        }
        let _ = writeln!(script, "mount -o remount,bind,ro {root}");
        let _ = writeln!(script, "umask {}", self.layout.umask);
        let (user, group) = (self.layout.user, self.layout.group);
        let _ = writeln!(
            script,
            "exec setpriv --reuid {user} --regid {group} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
             env --chdir={} /opt/keyround \"$@\"",
            self.layout.working_directory
        );
        // The second shell is inside: what it starts sees that root alone.
        let outer = script.replace("exec setpriv", &format!("exec chroot {root} setpriv"));
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &outer, "sh"])
            .args(arguments)
            .env_clear()
            .env("PATH", format!("{PATH}:/usr/sbin:/sbin"))
            .envs(&self.layout.environment)
            .stdin(Stdio::null());
        command
    }

    /// Another command with the options that the server has.
    fn run(&self, arguments: &[&str]) -> Output {
        let (_, options) = self.layout.arguments.split_last().unwrap();
        let options = options.iter().map(String::as_str);
        let arguments: Vec<&str> = options.chain(arguments.iter().copied()).collect();
        self.command(&arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    }

    async fn start(&mut self) {
        let log_path = self.root.with_file_name("server.log");
        let log = std::fs::File::create(&log_path).unwrap();
        let arguments: Vec<&str> = self.layout.arguments.iter().map(String::as_str).collect();
        let server = self.command(&arguments).stdout(Stdio::null()).stderr(log).spawn();
        self.server = Some(server.unwrap());
        for _ in 0..2_400 {
            let answer = reqwest::get(format!("{}/readyz/issue", self.admin)).await;
            if answer.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            let said = || std::fs::read_to_string(&log_path).unwrap();
            assert!(ended.is_none(), "the server ended: {ended:?} {}", said());
            sleep(Duration::from_millis(50)).await;
        }
        panic!("never ready: {}", std::fs::read_to_string(&log_path).unwrap());
    }

    /// As the file's own manager stops it: by SIGTERM, and within its grace.
    async fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        let told = Command::new("kill").args(["-TERM", &server.id().to_string()]).status();
        assert!(told.unwrap().success());
        let clock = Clock::system();
        let begun = clock.read().monotonic;
        loop {
            if let Some(status) = server.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            let waited = clock.read().monotonic.saturating_sub(begun);
            assert!(waited < self.layout.grace, "still running after {waited:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn kids(&self) -> Vec<String> {
        let answer = reqwest::get(format!("{}/.well-known/jwks.json", self.public))
            .await
            .unwrap();
        let key_set: Value = answer.json().await.unwrap();
        let keys = key_set["keys"].as_array().unwrap();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    /// The ledger, where the settings of the layout say that it is.
    fn ledger(&self) -> String {
        let path = self.layout.environment["KEYROUND_KEYS__LEDGER_FILE"].as_str();
        let file = self.root.join(path.trim_start_matches('/'));
        let mode = file
            .metadata()
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{path} may be read or written by others: {mode:o}");
        std::fs::read_to_string(file).unwrap()
    }
}

impl Drop for Deployment<'_> {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// A key is revoked and stays so.
async fn hold_to_its_ledger(mut layout: Layout, sqlite: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    // The user in the layout reaches it.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let mut deployment = Deployment::install(&mut layout, folder.path());
    deployment.start().await;
    // Nothing but the writable folders can be written, and the server is not root.
    let process = deployment.server.as_ref().unwrap().id();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    assert!(
        status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}", deployment.layout.user)),
        "{status}"
    );
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    // What a process that may be dumped shows to its own user belongs to root here.
    let memory = std::fs::metadata(format!("/proc/{process}/mem")).unwrap();
    assert_eq!(memory.uid(), 0, "its memory can be dumped");
    assert!(
        !deployment
            .run(&["master-key", "generate", "/etc/keyround-written"])
            .status
            .success()
    );
    deployment.succeed(&["healthcheck", "--issue"]);
    let kid = deployment.kids().await[0].clone();
    deployment.stop().await;
    let saved: Vec<(PathBuf, Vec<u8>)> = sqlite
        .iter()
        .flat_map(|path| {
            ["", "-wal"].map(|suffix| {
                deployment
                    .root
                    .join(format!("{}{suffix}", path.trim_start_matches('/')))
            })
        })
        .filter_map(|file| std::fs::read(&file).ok().map(|bytes| (file, bytes)))
        .collect();
    deployment.start().await;

    deployment.succeed(&["keys", "revoke", &kid, "--reason", "test", "--yes"]);
    deployment.succeed(&["healthcheck", "--issue"]);
    assert!(deployment.ledger().contains(&kid), "{}", deployment.ledger());
    deployment.stop().await;
    deployment.start().await;
    assert!(deployment.ledger().contains(&kid));
    assert!(!deployment.kids().await.contains(&kid));
    deployment.stop().await;

    if !saved.is_empty() {
        for (file, bytes) in saved {
            std::fs::write(file, bytes).unwrap();
        }
        let shared_memory = deployment
            .root
            .join(format!("{}-shm", sqlite.unwrap().trim_start_matches('/')));
        let _ = std::fs::remove_file(shared_memory);
        deployment.start_set_back().await;
        assert!(
            !deployment.kids().await.contains(&kid),
            "a database that was set back brings {kid} back"
        );
        deployment.stop().await;
    }
}

impl Deployment<'_> {
    /// Starts it where a check may be red: the key that the ledger names was the only one that signs.
    async fn start_set_back(&mut self) {
        let log = std::fs::File::create(self.root.with_file_name("set-back.log")).unwrap();
        let arguments: Vec<&str> = self.layout.arguments.iter().map(String::as_str).collect();
        let server = self.command(&arguments).stdout(Stdio::null()).stderr(log).spawn();
        self.server = Some(server.unwrap());
        let key_set = format!("{}/.well-known/jwks.json", self.public);
        for _ in 0..2_400 {
            if reqwest::get(&key_set).await.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("the key set is never served");
    }
}

/// The values of a key of the unit, in the order in which they stand.
fn unit<'a>(text: &'a str, key: &'a str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .collect()
}

/// The unit, with these settings in the file that its head speaks of.
fn installed(settings: &str) -> Layout {
    let text = text("keyround.service");
    let only = |key| match unit(&text, key)[..] {
        [value] => value,
        ref several => panic!("{key} stands {} times in the unit", several.len()),
    };
    let expected = [
        ("ProtectSystem", "strict"),
        ("PrivateTmp", "yes"),
        ("User", "keyround"),
        ("StateDirectory", "keyround"),
    ];
    for (key, value) in expected {
        assert_eq!(only(key), value, "{key}");
    }
    let command: Vec<&str> = only("ExecStart").split(' ').collect();
    assert_eq!(command[0], "/usr/local/bin/keyround");
    let environment = unit(&text, "Environment")
        .into_iter()
        .map(|variable| variable.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Layout {
        user: 10001,
        group: 10001,
        umask: "0077",
        working_directory: only("WorkingDirectory").to_owned(),
        environment,
        arguments: command[1..].iter().map(|&word| word.to_owned()).collect(),
        files: vec![
            (
                "/etc/keyround/config.toml".to_owned(),
                settings.to_owned(),
                0o600,
                (10001, 10001),
            ),
            (
                "/etc/keyround/master.key".to_owned(),
                MASTER_KEY.to_owned(),
                0o600,
                (10001, 10001),
            ),
        ],
        writable: vec!["/var/lib/keyround".to_owned(), "/tmp".to_owned()],
        volumes: Vec::new(),
        grace: Duration::from_secs(only("TimeoutStopSec").parse().unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unit_writes_its_ledger() {
    if is_left_out() {
        return;
    }
    let layout = installed(
        "[server]\nissuer = \"https://id.example.com\"\nbehind_tls_proxy = true\ntrusted_proxies = [\"127.0.0.1\"]\n",
    );
    hold_to_its_ledger(layout, Some("/var/lib/keyround/data/keyround.db")).await;
}

/// Restarts two such nodes behind nginx as shipped, by the signal and within the time of the layout.
async fn restart_one_after_the_other(name: &str, mut layouts: [Layout; 2]) {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = &mut layouts;
    for (layout, folder) in [&mut *first, &mut *second].into_iter().zip(&folders) {
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let proxies = "KEYROUND_SERVER__TRUSTED_PROXIES".to_owned();
        layout.environment.insert(proxies, "127.0.0.1".to_owned());
        layout
            .environment
            .insert("KEYROUND_SERVER__SHUTDOWN_DELAY".to_owned(), "1s".to_owned());
    }
    let mut nodes = [
        Deployment::install(first, folders[0].path()),
        Deployment::install(second, folders[1].path()),
    ];
    for node in &mut nodes {
        node.start().await;
    }
    let client = "clients create --id strong --grant client_credentials --audience https://api.example.com --json";
    let client = nodes[0].run(&client.split(' ').collect::<Vec<_>>());
    let client: Value = serde_json::from_slice(&client.stdout).unwrap();

    let (key, certificate) = self_signed(folders[0].path());
    let port = free_port();
    let address = |node: &Deployment<'_>| node.public.trim_start_matches("http://").to_owned();
    let site = text("nginx/keyround.conf")
        .replace("10.0.0.1:8080", &address(&nodes[0]))
        .replace("10.0.0.2:8080", &address(&nodes[1]))
        .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port} ssl;"))
        .replace("/etc/nginx/keyround/fullchain.pem", &certificate)
        .replace("/etc/nginx/keyround/privkey.pem", &key);
    let nginx = tempfile::tempdir().unwrap();
    let _nginx = start_nginx_with(nginx.path(), &site);
    sleep(Duration::from_secs(1)).await;
    let requests = Request::of_keyround(
        &format!("https://localhost:{port}"),
        client["client_secret"].as_str().unwrap(),
    );
    under_load(name, &requests, async || {
        for node in &mut nodes {
            node.stop().await;
            node.start().await;
        }
    })
    .await;
    for node in &mut nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_units_restart_and_no_request_fails() {
    if is_left_out() {
        return;
    }
    let database = TestDatabase::postgres().await;
    let settings = format!(
        "[server]\nissuer = \"https://id.example.com\"\nbehind_tls_proxy = true\n[database]\nurl = \"{}\"\n",
        database.url
    );
    restart_one_after_the_other("units", [installed(&settings), installed(&settings)]).await;
}

/// The lines below one that reads like this, as far as they are indented more.
fn block<'a>(text: &'a str, head: &str) -> Vec<&'a str> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines
        .iter()
        .position(|line| *line == head)
        .unwrap_or_else(|| panic!("compose.yaml has no '{head}'"));
    let below = lines[first + 1..]
        .iter()
        .take_while(|line| line.is_empty() || indent(line) > indent(head));
    below.copied().collect()
}

/// `NAME: value` in these lines.
fn variables(lines: &[&str]) -> BTreeMap<String, String> {
    lines
        .iter()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(name, _)| name.starts_with("KEYROUND_"))
        .map(|(name, value)| (name.to_owned(), interpolated(value.trim_matches('"')).to_owned()))
        .collect()
}

/// What a container engine makes of `${NAME:-DEFAULT}` where the variable is not set.
fn interpolated(value: &str) -> &str {
    let default = value
        .strip_prefix("${")
        .and_then(|value| value.strip_suffix('}')?.split_once(":-"));
    default.map_or(value, |(_, default)| default)
}

/// The folders that a service's volumes are mounted at; a volume takes owner and mode from the folder of the image.
fn mounted(lines: &[&str]) -> Vec<String> {
    let line = lines.iter().find_map(|line| line.trim().strip_prefix("volumes: ["));
    let volumes = line
        .unwrap_or_else(|| panic!("no volumes in {lines:#?}"))
        .trim_end_matches(']')
        .split(", ");
    volumes
        .map(|volume| volume.trim_matches('"').split_once(':').unwrap().1.to_owned())
        .collect()
}

/// What the Dockerfile sets.
fn of_the_image(dockerfile: &str) -> BTreeMap<String, String> {
    dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("ENV "))
        .flat_map(|line| line.split(' '))
        .map(|variable| variable.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A service of compose.yaml in the image of the Dockerfile.
fn composed(service: &str, secrets: &[(&str, &str)]) -> Layout {
    let (compose, image) = (text("compose.yaml"), text("Dockerfile"));
    let common = block(&compose, "x-keyround: &keyround");
    for line in [
        "  read_only: true",
        "  cap_drop: [ALL]",
        "  security_opt: [\"no-new-privileges:true\"]",
    ] {
        assert!(common.contains(&line), "compose.yaml has no '{line}'");
    }
    let grace = common
        .iter()
        .find_map(|line| line.trim().strip_prefix("stop_grace_period: ")?.strip_suffix('s'));
    let after = |instruction: &str| {
        let line = image.lines().rfind(|line| line.starts_with(instruction));
        line.unwrap_or_else(|| panic!("the Dockerfile has no {instruction}"))[instruction.len()..].to_owned()
    };
    let user = after("USER ");
    let (user, group) = user.split_once(':').unwrap();
    let user: u32 = user.parse().unwrap();
    assert_eq!(
        (after("STOPSIGNAL "), after("CMD ")),
        ("SIGTERM".to_owned(), "[\"serve\"]".to_owned())
    );
    let mut environment = of_the_image(&image);
    let own = block(&compose, service);
    environment.extend(variables(&block(&compose, "x-settings: &settings")));
    environment.extend(variables(&own));
    environment.insert(
        "KEYROUND_SERVER__ISSUER".to_owned(),
        "https://id.example.com".to_owned(),
    );
    // A secret of a file keeps the file's owner and mode, and is mounted read-only.
    let secret = |&(name, text): &(&str, &str)| {
        let is_given = own
            .iter()
            .any(|line| line.trim().starts_with("secrets: [") && line.contains(name));
        assert!(is_given, "{service} has no secret {name}");
        (format!("/run/secrets/{name}"), text.to_owned(), 0o600, (user, user))
    };
    Layout {
        user,
        group: group.parse().unwrap(),
        umask: "0022",
        working_directory: after("WORKDIR "),
        environment,
        arguments: vec!["serve".to_owned()],
        files: secrets.iter().map(secret).collect(),
        writable: mounted(&own),
        volumes: Vec::new(),
        grace: Duration::from_secs(grace.unwrap().parse().unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_container_with_sqlite_writes_its_ledger() {
    if is_left_out() {
        return;
    }
    let layout = composed("  keyround:", &[("master_key", MASTER_KEY)]);
    hold_to_its_ledger(layout, Some("/var/lib/keyround/data/keyround.db")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_containers_with_postgresql_write_their_ledgers() {
    if is_left_out() {
        return;
    }
    let database = TestDatabase::postgres().await;
    let secrets = [("master_key", MASTER_KEY), ("database_url", database.url.as_str())];
    hold_to_its_ledger(composed("  node-1: &node", &secrets), None).await;
    // The other one is the same but for its volume.
    let compose = text("compose.yaml");
    let [first, second] = ["  node-1: &node", "  node-2:"].map(|service| block(&compose, service));
    assert!(second.contains(&"    <<: *node"), "{second:#?}");
    assert_eq!(mounted(&first), mounted(&second));
    let volumes = |lines: &[&str]| {
        lines
            .iter()
            .find(|line| line.contains("volumes:"))
            .map(ToString::to_string)
    };
    assert_ne!(volumes(&first), volumes(&second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_containers_restart_and_no_request_fails() {
    if is_left_out() {
        return;
    }
    let database = TestDatabase::postgres().await;
    let secrets = [("master_key", MASTER_KEY), ("database_url", database.url.as_str())];
    // The other is the same but for its volume: see above.
    let node = || composed("  node-1: &node", &secrets);
    restart_one_after_the_other("containers", [node(), node()]).await;
}
