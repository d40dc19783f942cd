//! A real browser on a small page: it registers, logs in, calls an API, lets the access token expire, refreshes from two tabs at once, and
//! logs out. Once over plain HTTP on loopback, with a page of another origin; once over HTTPS, where it takes the prefixed cookies. And the
//! code that the documentation shows for a page.

use std::net::TcpListener;

use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::deployment::Nginx;
use crate::helpers::TestDatabase;
use crate::process::free_port;

use super::gateway;
use super::visitor::{PASSWORD, Site, email, pass};
use super::web_driver::{Browser, BrowserCookie};

const PAGE: &str = include_str!("page.html");

/// Serves the page at an origin of its own.
pub fn serve_page() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let page = || async { HttpResponse::Ok().content_type("text/html").body(PAGE) };
    let server = HttpServer::new(move || App::new().default_service(web::to(page)))
        .workers(1)
        .disable_signals()
        .listen(listener)
        .unwrap();
    tokio::spawn(server.run());
    port
}

/// What the page must go through, in the same way for both.
async fn live(site: &Site, browser: &Browser, page: &str, expected: &Expected<'_>) {
    browser.open(page).await;
    let first_tab = browser.tab().await;
    browser.type_into("email", &email("ada")).await;
    browser.type_into("password", PASSWORD).await;
    browser.type_into("name", "Ada").await;
    let stranger = browser.press("call").await;
    assert_eq!(stranger["status"], 401, "{stranger}");
    let registered = browser.press("register").await;
    assert_eq!(registered["status"], expected.registered, "{registered}");
    let logged_in = browser.press("login").await;
    assert_eq!(logged_in["status"], 200, "{logged_in}");
    assert_eq!(logged_in["cookies"], "", "a page can read a cookie");
    assert!(logged_in.get("refresh_token").is_none());
    expected.hold(&browser.cookies().await, true);
    assert_eq!(browser.press("call").await["status"], 200);

    // The clock of the server is the test's: the token expires now.
    pass(site, 601).await;
    let expired = browser.press("call").await;
    assert_eq!(expired["status"], 401, "{expired}");
    let challenge = expired["challenge"].as_str().unwrap();
    assert!(challenge.contains("The access token has expired"), "{challenge}");

    // Two tabs, one cookie: both are answered, and the session lives on.
    let second_tab = browser.open_tab().await;
    browser.open(page).await;
    browser.click("refresh-everywhere").await;
    let second = browser.outcome("refresh").await;
    browser.switch_to(&first_tab).await;
    let first = browser.outcome("refresh").await;
    for told in [&first, &second] {
        assert_eq!(told["status"], 200, "{told}");
        assert_eq!(told["sid"], logged_in["sid"]);
    }
    for tab in [&first_tab, &second_tab] {
        browser.switch_to(tab).await;
        assert_eq!(browser.press("call").await["status"], 200);
        assert_eq!(browser.press("refresh").await["status"], 200);
    }
    expected.hold(&browser.cookies().await, true);

    // A logout in one tab is one in the other.
    browser.switch_to(&first_tab).await;
    let logged_out = browser.press("logout").await;
    assert_eq!(logged_out["status"], 204, "{logged_out}");
    expected.hold(&browser.cookies().await, false);
    browser.switch_to(&second_tab).await;
    let ended = browser.press("call").await;
    assert_eq!(ended["status"], 401, "{ended}");
    assert!(
        ended["challenge"].as_str().unwrap().contains("The session has ended"),
        "{ended}"
    );
    let refused: Value = browser.press("refresh").await;
    assert_eq!(
        (&refused["status"], &refused["code"]),
        (&401.into(), &"refresh_missing".into()),
        "{refused}"
    );
}

/// How the browser must keep the cookies.
struct Expected<'a> {
    refresh: &'a str,
    binding: &'a str,
    csrf: &'a str,
    login: &'a str,
    secure: bool,
    registered: u16,
}

impl Expected<'_> {
    fn hold(&self, cookies: &[BrowserCookie], logged_in: bool) {
        let named = |name: &str| cookies.iter().find(|cookie| cookie.name == name);
        if !logged_in {
            assert!(
                [self.refresh, self.binding, self.csrf, self.login]
                    .iter()
                    .all(|name| named(name).is_none()),
                "{cookies:?}"
            );
            return;
        }
        assert_eq!(cookies.len(), 4, "{cookies:?}");
        for (name, path, same_site) in [
            (self.refresh, "/auth", "Strict"),
            (self.binding, "/", "Strict"),
            (self.csrf, "/", "Strict"),
            (self.login, "/", "Lax"),
        ] {
            let cookie = named(name).unwrap_or_else(|| panic!("the browser did not take {name}: {cookies:?}"));
            assert_eq!(cookie.path, path);
            assert!(cookie.http_only && cookie.is_for_one_host, "{cookie:?}");
            assert_eq!(cookie.secure, self.secure, "{cookie:?}");
            assert_eq!(cookie.same_site, same_site);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_on_loopback_lives_through_a_session() {
    let page = serve_page();
    let origin = format!("http://127.0.0.1:{page}");
    let listen = format!("127.0.0.1:{}", free_port());
    let issuer = format!("http://{listen}");
    let settings = [
        ("server.issuer", issuer.as_str()),
        ("server.listen", &listen),
        ("accounts.plain_http_cookies", "true"),
        ("accounts.allowed_origins", &origin),
    ];
    let site = Site::start(TestDatabase::sqlite(), &settings).await;
    let browser = Browser::start(None).await;
    let page = format!("{origin}/?auth={issuer}&api={issuer}/auth/me");
    let expected = Expected {
        refresh: "keyround-refresh",
        binding: "keyround-refresh-binding",
        csrf: "keyround-csrf",
        login: "keyround-login",
        secure: false,
        registered: 202,
    };
    live(&site, &browser, &page, &expected).await;
    drop(browser);
    site.stop().await;
}

/// These files and Keyround on one origin over HTTPS, and below /api/ what the shipped configuration guards.
struct OneOrigin {
    site: Site,
    browser: Browser,
    url: String,
    _nginx: Nginx,
    _folder: TempDir,
}

impl OneOrigin {
    async fn start(files: &[(&str, &str)]) -> Self {
        let port = free_port();
        let url = format!("https://localhost:{port}");
        let settings = [
            ("server.issuer", url.as_str()),
            ("server.behind_tls_proxy", "true"),
            ("server.trusted_proxies", "127.0.0.1"),
            ("accounts.audience", "https://api.example.com"),
            ("forward_auth.policies", "api audience=https://api.example.com"),
        ];
        let site = Site::start(TestDatabase::sqlite(), &settings).await;
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let beside = format!(
            "location ~ ^/page {{ root {}; types {{ text/html html; text/javascript js; }} }}\n\
             location /auth/ {{ proxy_pass http://keyround; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n",
            folder.path().display()
        );
        let service = gateway::start_service();
        let nginx = gateway::start(folder.path(), port, &site.app.url, service, &beside);
        let key_digest = crate::deployment::key_digest(folder.path());
        Self {
            browser: Browser::start(Some(&key_digest)).await,
            site,
            url,
            _nginx: nginx,
            _folder: folder,
        }
    }

    async fn stop(self) {
        drop(self.browser);
        self.site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_over_https_gets_the_prefixed_cookies() {
    let origin = OneOrigin::start(&[("page.html", PAGE)]).await;
    let url = &origin.url;
    let page = format!("{url}/page.html?auth={url}&api={url}/api/orders");
    let expected = Expected {
        refresh: "__Secure-keyround-refresh",
        binding: "__Host-keyround-refresh-binding",
        csrf: "__Host-keyround-csrf",
        login: "__Host-keyround-login",
        secure: true,
        registered: 202,
    };
    live(&origin.site, &origin.browser, &page, &expected).await;
    origin.stop().await;
}

/// The code that the documentation shows for a page.
fn shown_code() -> &'static str {
    let text = include_str!("../../../docs/log-in/applications.md");
    let (_, section) = text.split_once("## A page in a browser").unwrap();
    let (_, code) = section.split_once("```js\n").unwrap();
    code.split_once("```\n").unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_code_that_is_shown_keeps_a_page_logged_in() {
    let page = "<!doctype html><title>A page</title>";
    let origin = OneOrigin::start(&[("page.html", page), ("page.js", shown_code())]).await;
    origin.site.register("ada").await;
    let browser = &origin.browser;
    let page = format!("{}/page.html", origin.url);
    browser.open(&page).await;
    let first_tab = browser.tab().await;
    let function = async |name: &str, arguments: &[&str]| browser.call("/page.js", name, arguments).await;

    let refused = function("logIn", &[&email("ada"), "not the password"]).await;
    assert_eq!(refused["code"], "login_failed", "{refused}");
    assert_eq!(function("logIn", &[&email("ada"), PASSWORD]).await, Value::Null);
    let me = function("call", &["/auth/me"]).await;
    assert_eq!(
        (&me["status"], &me["body"]["email"]),
        (&200.into(), &email("ada").into()),
        "{me}"
    );
    // A wrong password is sent once: a typo that is sent again counts as two wrong passwords.
    let refusals = async |code: &str| {
        let app = &origin.site.app;
        let metrics = app.http.get(format!("{}/metrics", app.admin_url)).send().await.unwrap();
        let sample = format!("keyround_refusals_total{{reason=\"{code}\"}} ");
        let text = metrics.text().await.unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(&sample)?.parse::<u32>().ok())
            .unwrap_or(0)
    };
    let change = json!({ "current_password": "not the password", "new_password": "an even longer walk by 9 seas" });
    let again = json!({ "email": email("ada"), "password": "not the password", "token_delivery": "body" });
    for (path, body, status, code) in [
        ("/auth/password", change, 403, "current_password_wrong"),
        ("/auth/login", again, 401, "login_failed"),
    ] {
        let before = refusals(code).await;
        let headers = json!({ "Content-Type": "application/json" });
        let options = json!({ "method": "POST", "headers": headers, "body": body.to_string() });
        let refused = browser.call_with("/page.js", "call", &json!([path, options])).await;
        assert_eq!(
            (&refused["status"], &refused["body"]["code"]),
            (&status.into(), &code.into())
        );
        assert_eq!(refusals(code).await, before + 1, "{path}");
    }
    // It refreshes by itself: here when the token has expired, and in another tab which has none.
    pass(&origin.site, 601).await;
    assert_eq!(function("call", &["/auth/me"]).await["status"], 200);
    let second_tab = browser.open_tab().await;
    browser.open(&page).await;
    assert_eq!(function("call", &["/auth/me"]).await["status"], 200);
    for tab in [&first_tab, &second_tab, &first_tab] {
        browser.switch_to(tab).await;
        assert_eq!(function("refresh", &[]).await, Value::Null);
        assert_eq!(function("call", &["/auth/me"]).await["status"], 200);
    }
    assert_eq!(function("logOut", &[]).await, Value::Null);
    browser.switch_to(&second_tab).await;
    assert_eq!(function("call", &["/auth/me"]).await["code"], "refresh_missing");
    origin.stop().await;
}
