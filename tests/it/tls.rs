//! TLS of the public listener, with certificates of the real `openssl` and real clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslAcceptorBuilder, SslFiletype, SslMethod};

use crate::process::{BINARY, PATH, Serving, free_port, run};

/// An authority, and servers' pairs that it signs, in a folder.
pub struct Authority(pub PathBuf);

fn openssl(folder: &Path, arguments: &[&str]) -> Output {
    Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn made(folder: &Path, arguments: &str) {
    let output = openssl(folder, &arguments.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "openssl {arguments}: {output:?}");
}

impl Authority {
    /// An authority in a new folder below this one.
    pub fn new(folder: &Path) -> Self {
        let folder = folder.join("authority");
        std::fs::create_dir(&folder).unwrap();
        made(
            &folder,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=authority -days 30 -keyout ca.key -out ca.pem",
        );
        std::fs::write(
            folder.join("server.ext"),
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n",
        )
        .unwrap();
        Self(folder)
    }

    /// The texts of a certificate with this serial number, valid for this many days, and of its key.
    pub fn pair(&self, serial: u32, days: i32) -> (String, String) {
        self.pair_of("ec -pkeyopt ec_paramgen_curve:P-256", serial, days)
    }

    /// The same for these names, as OpenSSL writes them.
    fn pair_for(&self, names: &str, serial: u32) -> (String, String) {
        let extensions = format!("subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n");
        std::fs::write(self.0.join("server.ext"), extensions).unwrap();
        self.pair(serial, 30)
    }

    /// The same for a key of this kind.
    fn pair_of(&self, kind: &str, serial: u32, days: i32) -> (String, String) {
        made(
            &self.0,
            &format!("req -newkey {kind} -nodes -subj /CN=localhost -keyout server.key -out server.csr"),
        );
        made(
            &self.0,
            &format!(
                "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial {serial} -days {days} -extfile server.ext \
                 -out server.pem"
            ),
        );
        let text = |name: &str| std::fs::read_to_string(self.0.join(name)).unwrap();
        (text("server.pem"), text("server.key"))
    }

    /// What a server in the test's own process speaks TLS with.
    pub fn acceptor(&self) -> SslAcceptorBuilder {
        self.pair(1, 30);
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        acceptor
            .set_private_key_file(self.0.join("server.key"), SslFiletype::PEM)
            .unwrap();
        acceptor.set_certificate_chain_file(self.0.join("server.pem")).unwrap();
        acceptor
    }
}

/// Writes as renewal programs do: whole files that take the old ones' place.
fn write(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&beside, file).unwrap();
}

/// A server with a pair of serial number 1.
struct Site {
    folder: tempfile::TempDir,
    authority: Authority,
    variables: Vec<(String, String)>,
    port: u16,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let port = free_port();
        let variables = [
            ("KEYROUND_SERVER__ISSUER", format!("https://localhost:{port}")),
            ("KEYROUND_SERVER__LISTEN", format!("127.0.0.1:{port}")),
            ("KEYROUND_SERVER__ADMIN_LISTEN", format!("127.0.0.1:{}", free_port())),
            ("KEYROUND_SERVER__TLS_CERTIFICATE_FILE", "fullchain.pem".to_owned()),
            ("KEYROUND_SERVER__TLS_KEY_FILE", "privkey.pem".to_owned()),
            (
                "KEYROUND_KEYS__MASTER_KEY",
                "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=".to_owned(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let site = Self {
            folder,
            authority,
            variables,
            port,
        };
        let (certificate, key) = site.authority.pair(1, 30);
        site.put(&certificate, &key);
        site
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, certificate: &str, key: &str) {
        write(&self.file("fullchain.pem"), certificate);
        write(&self.file("privkey.pem"), key);
    }

    fn variables(&self) -> Vec<(&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    fn start(&self) -> Serving {
        Serving::start(self.folder.path(), &self.variables(), &["serve"])
    }

    fn refused(&self, words: &[&str]) {
        // A server that starts after all must not hold the test for ever.
        let output = Command::new("timeout")
            .args(["30", BINARY, "serve"])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", PATH)
            .envs(self.variables())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        for word in words {
            assert!(error.contains(word), "'{word}' is not in: {error}");
        }
        assert!(!self.file("data").exists(), "a refused start must touch nothing");
    }

    /// A handshake with these flags: whether it succeeded, and what `s_client` said.
    fn handshake(&self, flags: &str) -> (bool, String) {
        let connect = format!(
            "s_client -connect 127.0.0.1:{} -CAfile authority/ca.pem {flags}",
            self.port
        );
        let arguments: Vec<&str> = connect.split_whitespace().collect();
        let output = openssl(self.folder.path(), &arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    }

    /// The serial number that a new connection sees.
    fn serial(&self) -> String {
        let (connected, said) = self.handshake("-verify_return_error");
        assert!(connected, "{said}");
        std::fs::write(self.file("seen.pem"), said).unwrap();
        let output = openssl(self.folder.path(), &["x509", "-in", "seen.pem", "-noout", "-serial"]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn client(&self) -> reqwest::Client {
        let authority = std::fs::read(self.file("authority/ca.pem")).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&authority).unwrap()])
            .build()
            .unwrap()
    }
}

/// Waits until a line is among the metrics.
async fn wait_for_metric(serving: &Serving, line: &str) {
    let url = format!("{}/metrics", serving.admin_url);
    let seen = async {
        loop {
            let metrics = reqwest::get(&url).await.unwrap().text().await.unwrap();
            if metrics.lines().any(|known| known == line) {
                return;
            }
        }
    };
    let seen = tokio::time::timeout(Duration::from_mins(2), seen).await;
    assert!(seen.is_ok(), "'{line}' was never among the metrics");
}

/// A connection that stays open: `openssl s_client`, and the request that it sends each time.
struct KeptOpen(std::process::Child, BufReader<std::process::ChildStdout>);

impl KeptOpen {
    fn open(site: &Site) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", site.port)])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self(child, output)
    }

    fn send(&mut self, text: &str) {
        self.0.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// The status of the next answer; none when the server closed.
    fn status(&mut self) -> Option<String> {
        let mut length = 0;
        let mut status = String::new();
        if self.1.read_line(&mut status).unwrap() == 0 {
            return None;
        }
        loop {
            let mut line = String::new();
            assert!(self.1.read_line(&mut line).unwrap() > 0, "the head has no end");
            if line == "\r\n" {
                break;
            }
            if let Some(given) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = given.trim().parse().unwrap();
            }
        }
        self.1.read_exact(&mut vec![0; length]).unwrap();
        Some(status.split(' ').nth(1).unwrap().to_owned())
    }

    fn ask(&mut self) -> Option<String> {
        self.send("GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n");
        self.status()
    }
}

impl Drop for KeptOpen {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// RFC 9325 sections 3.1.1 and 4.2.
#[test]
fn only_tls_1_2_and_1_3_with_strong_ciphers_are_spoken() {
    let site = Site::new();
    let _serving = site.start();
    // Low enough that the client itself would take anything.
    let weak = "-cipher ALL:COMPLEMENTOFALL:@SECLEVEL=0";
    for (flags, says) in [
        ("-tls1_2", "TLSv1.2"),
        ("-tls1_3", "TLSv1.3"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2"),
        ("-alpn http/1.1", "ALPN protocol: http/1.1"),
        ("-alpn h2,http/1.1", "ALPN protocol: http/1.1"),
        ("-alpn http/1.0,http/1.1", "ALPN protocol: http/1.1"),
        ("-alpn http/1.0", "ALPN protocol: http/1.0"),
        ("-alpn h2,http/1.0", "ALPN protocol: http/1.0"),
        ("", "No ALPN negotiated"),
        ("-tls1_2", "Secure Renegotiation IS supported"),
    ] {
        let (connected, said) = site.handshake(&format!("{flags} -verify_return_error"));
        assert!(connected && said.contains(says), "{flags}: {said}");
        assert!(!said.contains("TLS session ticket:"), "nothing is resumed: {said}");
    }
    let (connected, said) = site.handshake("-tls1_2 -reconnect");
    assert!(
        connected && said.contains("New, TLSv1.2") && !said.contains("Reused"),
        "{said}"
    );
    for flags in [
        format!("-tls1 {weak}"),
        format!("-tls1_1 {weak}"),
        "-tls1_2 -cipher AES128-GCM-SHA256".to_owned(),
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA".to_owned(),
        "-tls1_2 -cipher ECDHE-ECDSA-AES256-SHA384".to_owned(),
        "-tls1_2 -cipher aNULL:@SECLEVEL=0".to_owned(),
        "-alpn h2".to_owned(),
        "-alpn http/0.9,acme-tls/1".to_owned(),
    ] {
        let (connected, said) = site.handshake(&flags);
        assert!(!connected && said.contains("alert"), "{flags}: {said}");
    }
    let request = b"GET /.well-known/jwks.json HTTP/1.0\r\n\r\n";
    let mut client = std::process::Command::new("openssl");
    client.args([
        "s_client",
        "-quiet",
        "-alpn",
        "http/1.0",
        "-CAfile",
        "authority/ca.pem",
        "-connect",
    ]);
    client
        .arg(format!("127.0.0.1:{}", site.port))
        .current_dir(site.folder.path());
    client
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut client = client.stderr(std::process::Stdio::null()).spawn().unwrap();
    client.stdin.as_mut().unwrap().write_all(request).unwrap();
    let answer = String::from_utf8(client.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        answer.starts_with("HTTP/1.0 200") && answer.contains("\"keys\""),
        "{answer}"
    );
    // Plain http gets no answer there.
    let mut plain = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    plain.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    plain
        .write_all(b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1"));
}

/// DHE needs an RSA certificate, and costs the server much more than the client.
#[test]
fn an_rsa_certificate_is_served_without_dhe() {
    let site = Site::new();
    let (certificate, key) = site.authority.pair_of("rsa:2048", 1, 30);
    site.put(&certificate, &key);
    let _serving = site.start();
    for (cipher, is_spoken) in [
        ("ECDHE-RSA-AES128-GCM-SHA256", true),
        ("ECDHE-RSA-CHACHA20-POLY1305", true),
        ("DHE-RSA-AES128-GCM-SHA256", false),
        ("DHE-RSA-AES256-GCM-SHA384", false),
        ("DHE-RSA-CHACHA20-POLY1305", false),
        ("AES128-GCM-SHA256", false),
    ] {
        let (connected, said) = site.handshake(&format!("-tls1_2 -cipher {cipher} -verify_return_error"));
        assert_eq!(connected, is_spoken, "{cipher}: {said}");
    }
}

/// RFC 9325 as a scanner sees it.
#[test]
fn a_scanner_finds_nothing_weak() {
    let site = Site::new();
    let _serving = site.start();
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/usr/bin");
    let scan = Command::new("/usr/bin/env")
        .env_clear()
        .env("PATH", format!("{PATH}:{tools}"))
        .args(["sslscan", "--no-colour", &format!("localhost:{}", site.port)])
        .output()
        .unwrap();
    let said = String::from_utf8(scan.stdout).unwrap();
    let words: Vec<String> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for line in [
        "SSLv2 disabled",
        "SSLv3 disabled",
        "TLSv1.0 disabled",
        "TLSv1.1 disabled",
        "TLSv1.2 enabled",
        "TLSv1.3 enabled",
        "TLSv1.2 not vulnerable to heartbleed",
        "TLSv1.3 not vulnerable to heartbleed",
    ] {
        assert!(words.iter().any(|known| known == line), "no '{line}' in: {said}");
    }
    let accepted: Vec<&String> = words
        .iter()
        .filter(|line| line.starts_with("Preferred ") || line.starts_with("Accepted "))
        .collect();
    assert!(accepted.len() >= 4, "{said}");
    assert!(
        !said.contains("ffdhe"),
        "large fields let strangers spend our time: {said}"
    );
    for cipher in accepted {
        assert!(cipher.contains("GCM") || cipher.contains("CHACHA20"), "{cipher}");
        assert!(cipher.contains("TLSv1.3") || cipher.contains("ECDHE-"), "{cipher}");
    }
}

/// A client that never begins its handshake does not keep its connection.
#[test]
fn a_handshake_that_never_comes_is_cut() {
    let site = Site::new();
    let _serving = site.start();
    let mut silent = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    silent.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let mut answer = Vec::new();
    assert!(
        silent.read_to_end(&mut answer).is_ok(),
        "it is still open after a minute"
    );
    assert!(answer.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_tokens_come_over_https() {
    let site = Site::new();
    let serving = site.start();
    let create = "clients create --id billing --grant client_credentials --audience https://api.example.com --json";
    let client = run(
        site.folder.path(),
        &site.variables(),
        &create.split(' ').collect::<Vec<_>>(),
    );
    let client: serde_json::Value = serde_json::from_slice(&client.stdout).unwrap();
    let http = site.client();
    let issuer = format!("https://localhost:{}", site.port);
    let keys = http
        .get(format!("{issuer}/.well-known/jwks.json"))
        .send()
        .await
        .unwrap();
    assert_eq!(keys.headers()["strict-transport-security"], "max-age=31536000");
    let keys: serde_json::Value = keys.json().await.unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    let token = http
        .post(format!("{issuer}/oauth2/token"))
        .basic_auth("billing", client["client_secret"].as_str())
        .form(&[("grant_type", "client_credentials")])
        .send()
        .await
        .unwrap();
    assert_eq!(token.status(), 200);
    // The admin listener stays plain, and the health check finds it.
    assert!(
        reqwest::get(format!("{}/readyz", serving.admin_url))
            .await
            .unwrap()
            .status()
            .is_success()
    );
    assert!(
        run(site.folder.path(), &site.variables(), &["healthcheck"])
            .status
            .success()
    );
    // Without the authority the certificate is not believed.
    assert!(reqwest::get(format!("{issuer}/.well-known/jwks.json")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pair_is_taken_and_old_connections_stay() {
    let site = Site::new();
    let mut serving = site.start();
    let mut old = KeptOpen::open(&site);
    assert_eq!(old.ask().as_deref(), Some("200"));
    assert_eq!(site.serial(), "serial=01");
    let (certificate, key) = site.authority.pair(2, 60);
    site.put(&certificate, &key);
    serving.wait_for("new connections get the new TLS certificate");
    assert_eq!(site.serial(), "serial=02");
    assert_eq!(old.ask().as_deref(), Some("200"), "a connection that stood is unharmed");

    // Turned links, as orchestrators do: neither path changes, and the files behind it are older.
    for serial in [3, 4] {
        let (certificate, key) = site.authority.pair(serial, 30);
        let folder = site.file(&format!("generation-{serial}"));
        std::fs::create_dir(&folder).unwrap();
        write(&folder.join("fullchain.pem"), &certificate);
        write(&folder.join("privkey.pem"), &key);
    }
    let turn = |generation: &str| {
        std::os::unix::fs::symlink(generation, site.file("turning")).unwrap();
        std::fs::rename(site.file("turning"), site.file("current")).unwrap();
    };
    turn("generation-4");
    for name in ["fullchain.pem", "privkey.pem"] {
        std::fs::remove_file(site.file(name)).unwrap();
        std::os::unix::fs::symlink(format!("current/{name}"), site.file(name)).unwrap();
    }
    serving.wait_for("new connections get the new TLS certificate");
    assert_eq!(site.serial(), "serial=04");
    turn("generation-3");
    serving.wait_for("new connections get the new TLS certificate");
    assert_eq!(site.serial(), "serial=03");
    assert_eq!(old.ask().as_deref(), Some("200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_new_pair_is_refused_and_the_old_one_stays() {
    let site = Site::new();
    let mut serving = site.start();
    let (certificate, key) = site.authority.pair(2, 30);
    let (expired, expired_key) = site.authority.pair(3, -1);
    let (_, other_key) = site.authority.pair(4, 30);
    for (certificate, key, why) in [
        (
            certificate.as_str(),
            other_key.as_str(),
            "does not belong to the first certificate",
        ),
        ("not a certificate", key.as_str(), "holds no certificate"),
        (
            &certificate[..certificate.len() / 2],
            key.as_str(),
            "tls_certificate_file",
        ),
        (
            certificate.as_str(),
            &key[..key.len() / 2],
            "does not hold an unencrypted private key",
        ),
        (certificate.as_str(), "", "is empty"),
        (expired.as_str(), expired_key.as_str(), "expired at"),
    ] {
        site.put(certificate, key);
        // Between the two files another reason may be seen.
        loop {
            let line = serving.wait_for("the new TLS certificate is refused");
            assert!(line.contains("ERROR"), "{line}");
            if line.contains(why) {
                break;
            }
        }
        wait_for_metric(&serving, "keyround_tls_certificate_refused 1").await;
        assert_eq!(site.serial(), "serial=01", "{why}");
    }
    site.put(&certificate, &key);
    serving.wait_for("new connections get the new TLS certificate");
    assert_eq!(site.serial(), "serial=02");
    wait_for_metric(&serving, "keyround_tls_certificate_refused 0").await;
    // A key that others may read is refused like every other secret.
    std::fs::set_permissions(site.file("privkey.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(serving.wait_for("the new TLS certificate is refused").contains("0644"));
    let (status, log, _) = serving.stop();
    assert!(status.success());
    assert!(!log.join("\n").contains("PRIVATE"), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_expiry_of_the_certificate_is_a_metric() {
    let site = Site::new();
    let serving = site.start();
    let asked = openssl(
        site.folder.path(),
        &[
            "x509",
            "-in",
            "fullchain.pem",
            "-noout",
            "-enddate",
            "-dateopt",
            "iso_8601",
        ],
    );
    let text = String::from_utf8(asked.stdout).unwrap();
    let text = text.trim().trim_start_matches("notAfter=").replace(' ', "T");
    let expiry: keyround::clock::UnixTime = text.parse().unwrap();
    let line = format!("keyround_tls_certificate_expiry_timestamp_seconds {}.0", expiry.0);
    wait_for_metric(&serving, &line).await;
}

#[test]
fn a_start_with_a_pair_that_cannot_be_served_is_refused() {
    let mut site = Site::new();
    let (certificate, key) = site.authority.pair(2, 30);
    let (_, other_key) = site.authority.pair(3, 30);
    let (expired, expired_key) = site.authority.pair(4, -1);
    for (certificate, key, words) in [
        (&certificate, &other_key, ["privkey.pem", "does not belong"]),
        (&"nothing".to_owned(), &key, ["fullchain.pem", "holds no certificate"]),
        (&expired, &expired_key, ["fullchain.pem", "expired at"]),
    ] {
        site.put(certificate, key);
        site.refused(&words);
    }
    site.put(&certificate, &key);
    made(
        site.folder.path(),
        "pkey -in privkey.pem -aes256 -passout pass:secret -out encrypted.pem",
    );
    let encrypted = std::fs::read_to_string(site.file("encrypted.pem")).unwrap();
    site.put(&certificate, &encrypted);
    site.refused(&["privkey.pem", "unencrypted"]);
    site.put(&certificate, &key);
    std::fs::set_permissions(site.file("privkey.pem"), std::fs::Permissions::from_mode(0o640)).unwrap();
    site.refused(&["privkey.pem", "0640", "chmod 600"]);
    std::fs::remove_file(site.file("privkey.pem")).unwrap();
    site.refused(&["cannot read privkey.pem", "server.tls_key_file"]);

    let both = ["server.tls_certificate_file", "server.tls_key_file"];
    for half in ["KEYROUND_SERVER__TLS_CERTIFICATE_FILE", "KEYROUND_SERVER__TLS_KEY_FILE"] {
        let variables = site.variables.clone();
        site.variables.retain(|(name, _)| name != half);
        site.refused(&both);
        site.variables = variables;
    }
}

/// As without TLS.
#[test]
fn a_request_under_way_over_tls_is_finished_before_the_server_ends() {
    let site = Site::new();
    let mut serving = site.start();
    let mut connection = KeptOpen::open(&site);
    connection.send(
        "POST /oauth2/token HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n",
    );
    assert_eq!(connection.status().as_deref(), Some("100"));
    serving.terminate();
    serving.wait_for("stopping");
    connection.send("x=1");
    assert_eq!(connection.status().as_deref(), Some("401"));
    assert_eq!(connection.status(), None, "the connection is closed behind the answer");
    assert_eq!(serving.ended().0.code(), Some(0));
}

const WARNING: &str = "the certificate of server.tls_certificate_file is for ";

/// A certificate for another name is served, but told: verifiers would fetch no keys.
#[test]
fn a_certificate_for_another_host_than_the_issuer_is_warned_of() {
    let mut site = Site::new();
    let port = site.port;
    let check = |site: &Site| {
        let output = crate::process::run(site.folder.path(), &site.variables(), &["config", "check"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let set_issuer = |site: &mut Site, issuer: &str| {
        let variable = site.variables.iter_mut().find(|(name, _)| name.ends_with("__ISSUER"));
        issuer.clone_into(&mut variable.unwrap().1);
    };
    let mut serial = 10;
    for (issuer, names, told) in [
        (format!("https://localhost:{port}"), "DNS:localhost,IP:127.0.0.1", None),
        (format!("https://127.0.0.1:{port}"), "DNS:localhost,IP:127.0.0.1", None),
        ("https://id.example.com".to_owned(), "DNS:*.example.com", None),
        ("https://[2001:db8::1]".to_owned(), "IP:2001:db8::1", None),
        (
            "https://id.example.com".to_owned(),
            "DNS:localhost,IP:127.0.0.1",
            Some("localhost, 127.0.0.1, and not for id.example.com, the host of server.issuer"),
        ),
        (
            "https://a.id.example.com".to_owned(),
            "DNS:*.example.com",
            Some("*.example.com, and not for a.id.example.com"),
        ),
        (
            "https://127.0.0.1".to_owned(),
            "DNS:localhost",
            Some("localhost, and not for 127.0.0.1"),
        ),
        // The common name is localhost.
        (
            format!("https://localhost:{port}"),
            "URI:https://localhost",
            Some("no name (clients do not read its common name), and not for localhost"),
        ),
    ] {
        serial += 1;
        let (certificate, key) = site.authority.pair_for(names, serial);
        site.put(&certificate, &key);
        set_issuer(&mut site, &issuer);
        let said = check(&site);
        assert_eq!(said.contains(WARNING), told.is_some(), "{issuer} {names}: {said}");
        if let Some(told) = told {
            assert!(said.contains(told) && said.contains("Behind a proxy"), "{said}");
        }
    }
    // At the start, and when the files change.
    let (right, right_key) = site.authority.pair_for("DNS:localhost", 30);
    let (wrong, wrong_key) = site.authority.pair_for("DNS:id.example.com", 31);
    set_issuer(&mut site, &format!("https://localhost:{port}"));
    site.put(&right, &right_key);
    let mut serving = site.start();
    site.put(&wrong, &wrong_key);
    let line = serving.wait_for(WARNING);
    assert!(line.contains("id.example.com, and not for localhost"), "{line}");
    serving.stop();
    let (_, log, _) = site.start().stop();
    assert_eq!(log.iter().filter(|line| line.contains(WARNING)).count(), 1, "{log:?}");
}
