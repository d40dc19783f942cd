//! A real browser goes through the pages: what it says of its own forms, and what it keeps from a form that leads elsewhere, no other client
//! shows.

use keyround::oauth::client::{Client, ClientKind};

use super::party::{query, register, third};
use crate::auth::browser::serve_page;
use crate::auth::visitor::{PASSWORD, Site, email};
use crate::auth::web_driver::Browser;
use crate::helpers::TestDatabase;
use crate::process::free_port;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_logs_a_person_in_with_and_without_scripts() {
    let listen = format!("127.0.0.1:{}", free_port());
    let issuer = format!("http://{listen}");
    let settings = [
        ("server.issuer", issuer.as_str()),
        ("server.listen", &listen),
        ("accounts.plain_http_cookies", "true"),
    ];
    let site = Site::start(TestDatabase::sqlite(), &settings).await;
    let callback = format!("http://127.0.0.1:{}/callback", serve_page());
    site.register("ada").await;
    for (id, has_scripts) in [("app", true), ("other", false)] {
        let client = Client {
            kind: ClientKind::Confidential(None),
            redirect_uris: vec![callback.parse().unwrap()],
            ..third(id)
        };
        register(&site, &client).await;
        let browser = Browser::start(None).await;
        if !has_scripts {
            browser.disable_scripts().await;
        }
        let asked = query(id, &[("redirect_uri", &callback)]);
        browser.open(&format!("{issuer}/oauth2/authorize?{asked}")).await;
        browser.type_into("email", &email("ada")).await;
        browser.type_into("password", PASSWORD).await;
        browser.click("log-in").await;
        // The page behind the form leads back to the request, which asks for consent.
        let consent = format!("{issuer}/oauth2/authorize?");
        browser.until_address(|address| address.starts_with(&consent)).await;
        browser.click("allow").await;
        let back = format!("{callback}?code=");
        let address = browser.until_address(|address| address.starts_with(&back)).await;
        assert!(address.contains("&state=its+state&iss="), "{address}");
        // The next time no page is shown.
        browser
            .open(&format!("{issuer}/oauth2/authorize?{asked}&prompt=none"))
            .await;
        let again = browser.until_address(|address| address.starts_with(&back)).await;
        assert_ne!(again, address);
        let cookies = browser.cookies().await;
        let login = cookies.iter().find(|cookie| cookie.name == "keyround-login").unwrap();
        assert!(
            login.http_only && login.is_for_one_host && login.same_site == "Lax",
            "{login:?}"
        );
    }
    site.stop().await;
}
