//! A real browser: headless Chromium, driven over the `WebDriver` protocol (W3C) by its own driver.

use std::process::{Child, Command, Stdio};

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::free_port;

/// A cookie as the browser keeps it.
#[derive(Debug)]
pub struct BrowserCookie {
    pub name: String,
    pub path: String,
    pub http_only: bool,
    pub secure: bool,
    pub same_site: String,
    pub is_for_one_host: bool,
}

/// One browser with a profile of its own; ended when dropped.
pub struct Browser {
    http: Client,
    driver: Child,
    session: String,
    profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with the session, and not when it is killed.
        let _ = Command::new("curl")
            .args(["-s", "-m", "10", "-o", "/dev/null", "-X", "DELETE", &self.session])
            .status();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Browser {
    /// Starts a browser. `trusted_key` is the digest of a certificate's key that it takes without asking a CA.
    pub async fn start(trusted_key: Option<&str>) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .env("HOME", profile.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is not installed: run the tests by `make test`");
        let http = Client::new();
        let url = format!("http://127.0.0.1:{port}");
        let mut browser = Self {
            session: url.clone(),
            http,
            driver,
            profile,
        };
        browser.wait_for_driver(&url).await;
        let mut arguments = vec![
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            format!("--user-data-dir={}", browser.profile.path().join("profile").display()),
        ];
        arguments.extend(trusted_key.map(|digest| format!("--ignore-certificate-errors-spki-list={digest}")));
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "timeouts": { "script": 30_000, "pageLoad": 60_000 },
            "goog:chromeOptions": { "args": arguments },
        } } });
        let begun = browser.ask("POST", &format!("{url}/session"), &wanted).await;
        browser.session = format!("{url}/session/{}", begun["sessionId"].as_str().unwrap());
        browser
    }

    async fn wait_for_driver(&self, url: &str) {
        for _ in 0..1_200 {
            let status = self.http.get(format!("{url}/status")).send().await;
            if status.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            keyround::clock::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("chromedriver does not answer");
    }

    async fn ask(&self, method: &str, url: &str, body: &Value) -> Value {
        let mut request = self.http.request(method.parse().unwrap(), url);
        if method == "POST" {
            request = request.json(body);
        }
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let value = answer["value"].clone();
        assert!(value.get("error").is_none(), "{method} {url}: {value}");
        value
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.ask("POST", &format!("{}{path}", self.session), &body).await
    }

    async fn element(&self, id: &str) -> String {
        let found = self
            .post(
                "/element",
                json!({ "using": "css selector", "value": format!("#{id}") }),
            )
            .await;
        let (_, reference) = found.as_object().unwrap().iter().next().unwrap();
        format!("/element/{}", reference.as_str().unwrap())
    }

    /// Loads a page in the tab.
    pub async fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    /// Runs no script of any page from now on.
    pub async fn disable_scripts(&self) {
        let disable = json!({ "cmd": "Emulation.setScriptExecutionDisabled", "params": { "value": true } });
        self.post("/goog/cdp/execute", disable).await;
    }

    /// Waits until the address is one of these, and answers with it.
    pub async fn until_address(&self, is_there: impl Fn(&str) -> bool) -> String {
        let mut address = String::new();
        for _ in 0..600 {
            let url = self.ask("GET", &format!("{}/url", self.session), &Value::Null).await;
            url.as_str().unwrap_or_default().clone_into(&mut address);
            if is_there(&address) {
                return address;
            }
            keyround::clock::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the browser stays at {address}");
    }

    /// The tab.
    pub async fn tab(&self) -> Value {
        self.ask("GET", &format!("{}/window", self.session), &Value::Null).await
    }

    /// Goes on in a new tab.
    pub async fn open_tab(&self) -> Value {
        let tab = self.post("/window/new", json!({ "type": "tab" })).await["handle"].clone();
        self.switch_to(&tab).await;
        tab
    }

    /// Goes on in this tab.
    pub async fn switch_to(&self, tab: &Value) {
        self.post("/window", json!({ "handle": tab })).await;
    }

    /// Types into a field.
    pub async fn type_into(&self, id: &str, text: &str) {
        let element = self.element(id).await;
        self.post(&format!("{element}/value"), json!({ "text": text })).await;
    }

    /// Presses a button of the page, and answers with what the page then shows.
    pub async fn press(&self, id: &str) -> Value {
        self.click(id).await;
        self.outcome(id).await
    }

    /// Clicks on a button of the page.
    pub async fn click(&self, id: &str) {
        let element = self.element(id).await;
        self.post(&format!("{element}/click"), json!({})).await;
    }

    /// What the page shows of this action, once it does.
    pub async fn outcome(&self, action: &str) -> Value {
        let wait = "const [action, done] = arguments; const outcome = document.getElementById('outcome'); \
                    const look = () => { const told = JSON.parse(outcome.textContent || '{}'); \
                    told.action === action ? done(told) : setTimeout(look, 20) }; look()";
        self.post("/execute/async", json!({ "script": wait, "args": [action] }))
            .await
    }

    /// What a function of the page's own module answers, or the problem that it throws.
    pub async fn call(&self, module: &str, function: &str, arguments: &[&str]) -> Value {
        self.call_with(module, function, &json!(arguments)).await
    }

    /// The same with arguments that are not all strings.
    pub async fn call_with(&self, module: &str, function: &str, arguments: &Value) -> Value {
        let script = "const [module, name, given, done] = arguments; \
                      import(module).then((page) => page[name](...given)) \
                      .then(async (told) => done(told instanceof Response ? { status: told.status, body: await told.json() } : told)) \
                      .catch((thrown) => done(thrown instanceof Error ? String(thrown) : thrown))";
        let arguments = json!([module, function, arguments]);
        self.post("/execute/async", json!({ "script": script, "args": arguments }))
            .await
    }

    /// Every cookie that the browser keeps, also those that this page would not see.
    pub async fn cookies(&self) -> Vec<BrowserCookie> {
        let kept = self
            .post(
                "/goog/cdp/execute",
                json!({ "cmd": "Storage.getCookies", "params": {} }),
            )
            .await;
        let text = |cookie: &Value, member: &str| cookie[member].as_str().unwrap_or("").to_owned();
        let cookies = kept["cookies"].as_array().unwrap().iter();
        cookies
            .map(|cookie| BrowserCookie {
                name: text(cookie, "name"),
                path: text(cookie, "path"),
                http_only: cookie["httpOnly"] == true,
                secure: cookie["secure"] == true,
                same_site: text(cookie, "sameSite"),
                is_for_one_host: !text(cookie, "domain").starts_with('.'),
            })
            .collect()
    }
}
