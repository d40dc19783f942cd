//! Two nodes on one PostgreSQL database, on two addresses of this machine and with the same ports, as on two machines.

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::time::Duration;

use keyround::clock::sleep;
use serde_json::Value;

use crate::helpers::{TestDatabase, answered};
use crate::process::{free_port, keyround, run};

/// Where the nodes are.
pub const HOSTS: [&str; 2] = ["127.0.0.2", "127.0.0.3"];

pub struct Nodes {
    database: TestDatabase,
    more: Vec<(String, String)>,
    running: [Option<Child>; 2],
    secrets: BTreeMap<String, String>,
    pub port: u16,
    pub admin_port: u16,
}

impl Nodes {
    pub async fn start(more: &[(&str, &str)]) -> Self {
        let mut nodes = Self {
            database: TestDatabase::postgres().await,
            more: more
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            running: [None, None],
            secrets: BTreeMap::new(),
            port: free_port(),
            admin_port: free_port(),
        };
        nodes.start_all().await;
        for (id, audience, scope) in [("strong", "api", "read"), ("weak", "open", "write")] {
            let command = format!(
                "clients create --id {id} --grant client_credentials --audience https://{audience}.example.com --scope {scope} --json"
            );
            let output = run(
                nodes.database.folder.path(),
                &borrowed(&nodes.variables(0)),
                &command.split(' ').collect::<Vec<_>>(),
            );
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let client: Value = serde_json::from_slice(&output.stdout).unwrap();
            let secret = client["client_secret"].as_str().unwrap().to_owned();
            nodes.secrets.insert(id.to_owned(), secret);
        }
        nodes
    }

    fn variables(&self, node: usize) -> Vec<(String, String)> {
        let at = |port: u16| format!("{}:{port}", HOSTS[node]);
        let mut variables: Vec<(String, String)> = [
            ("KEYROUND_SERVER__ISSUER", "https://id.example.com".to_owned()),
            ("KEYROUND_SERVER__LISTEN", at(self.port)),
            ("KEYROUND_SERVER__ADMIN_LISTEN", at(self.admin_port)),
            ("KEYROUND_SERVER__BEHIND_TLS_PROXY", "true".to_owned()),
            ("KEYROUND_SERVER__TRUSTED_PROXIES", "127.0.0.0/8".to_owned()),
            // What tokens are worth is known for so long after each look at the database, however busy the machine is.
            ("KEYROUND_KEYS__REPLICA_REFRESH", "15s".to_owned()),
            ("KEYROUND_DATABASE__URL", self.database.url.clone()),
            (
                "KEYROUND_KEYS__MASTER_KEY",
                "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=".to_owned(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        variables.extend(self.more.iter().cloned());
        variables
    }

    /// Starts this node and waits until it is ready.
    pub async fn start_node(&mut self, node: usize) {
        let folder = self.database.folder.path();
        let log = std::fs::File::create(folder.join(format!("node-{node}.log"))).unwrap();
        let child = keyround(folder, &borrowed(&self.variables(node)), &["serve"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.running[node] = Some(child.unwrap());
        let ready = format!("http://{}:{}/readyz", HOSTS[node], self.admin_port);
        for _ in 0..2_400 {
            if reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(folder.join(format!("node-{node}.log"))).unwrap();
        panic!("node {node} is never ready: {log}");
    }

    /// Tells this node to end, as an operator does, and waits for it.
    pub async fn stop_node(&mut self, node: usize) {
        self.tell_to_end(node);
        self.until_ended(node).await;
    }

    fn tell_to_end(&self, node: usize) {
        if let Some(child) = &self.running[node] {
            let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            assert!(told.unwrap().success());
        }
    }

    async fn until_ended(&mut self, node: usize) {
        let Some(mut child) = self.running[node].take() else {
            return;
        };
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn start_all(&mut self) {
        for node in 0..HOSTS.len() {
            self.start_node(node).await;
        }
    }

    pub async fn stop_all(&mut self) {
        for node in 0..HOSTS.len() {
            self.tell_to_end(node);
        }
        for node in 0..HOSTS.len() {
            self.until_ended(node).await;
        }
    }

    /// Where these are in place of the shipped files' addresses.
    pub fn addresses(&self, admin_port: u16) -> [(&'static str, String); 3] {
        [
            ("10.0.0.1:8080", format!("{}:{}", HOSTS[0], self.port)),
            ("10.0.0.2:8080", format!("{}:{}", HOSTS[1], self.port)),
            ("9090", admin_port.to_string()),
        ]
    }

    pub fn secret(&self, client: &str) -> String {
        self.secrets[client].clone()
    }

    /// A token of this client, straight from a node.
    pub async fn token(&self, client: &str, scope: &str) -> String {
        let request = reqwest::Client::new()
            .post(format!("http://{}:{}/oauth2/token", HOSTS[0], self.port))
            .basic_auth(client, Some(&self.secrets[client]))
            .form(&[("grant_type", "client_credentials"), ("scope", scope)]);
        let answer: Value = answered(request).await.json().await.unwrap();
        answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }
}

impl Nodes {
    /// The token of a person who has registered and logged in.
    pub async fn person(&self) -> String {
        let (email, password) = ("ada@example.com", "a long walk by the sea 7");
        let post = async |path: &str, body: &Value| -> Value {
            let url = format!("http://{}:{}/auth/{path}", HOSTS[0], self.port);
            let answer = answered(reqwest::Client::new().post(url).json(body)).await;
            assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
            answer.json().await.unwrap()
        };
        let account =
            serde_json::json!({ "email": email, "password": password, "name": "ada", "token_delivery": "body" });
        post("register", &account).await;
        let login = serde_json::json!({ "email": email, "password": password, "token_delivery": "body" });
        let session = post("login", &login).await;
        session["access_token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}
