//! The pages: what is sent or registered is text in them, and nothing is loaded from elsewhere.

use keyround::oauth::client::Client;

use reqwest::Method;

use super::party::{answer_of, leads_to, log_in, own, query, redeem, register, send, third, visit};
use crate::auth::visitor::{PASSWORD, Site, email};
use crate::helpers::answered;

const SCRIPT: &str = "<script>alert(1)</script>";

crate::on_both_databases!(what_a_page_shows_is_text, |database| {
    let site = Site::start(database, &[]).await;
    let id = "<script>alert(1)</script>";
    let hostile = Client {
        scope: "openid <script>alert(1)</script>".parse().unwrap(),
        ..third(id)
    };
    register(&site, &hostile).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let scope = format!("openid {SCRIPT}");
    let hint = "\"><script>alert(1)</script>";
    let asked = query(
        id,
        &[
            ("scope", &scope),
            ("login_hint", hint),
            ("state", hint),
            ("ui_locales", hint),
        ],
    );
    let login = visit(&mut ada, &asked).await;
    let policy = login.headers()["content-security-policy"].to_str().unwrap().to_owned();
    for directive in [
        "default-src 'none'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(directive), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{policy}");
    assert_eq!(login.headers()["cache-control"], "no-store");
    // With no-referrer a browser says "null" of where a form comes from, and the form is refused.
    assert_eq!(login.headers()["referrer-policy"], "same-origin");
    let login = login.text().await.unwrap();
    let next = log_in(&mut ada, &login, "ada").await.text().await.unwrap();
    let consent = visit(&mut ada, leads_to(&next).split_once('?').unwrap().1)
        .await
        .text()
        .await
        .unwrap();
    let posted = query(
        id,
        &[
            ("response_mode", "form_post"),
            ("state", hint),
            ("prompt", "none"),
            ("scope", &scope),
        ],
    );
    let posted = visit(&mut ada, &posted).await.text().await.unwrap();
    let refused = visit(&mut ada, &query(hint, &[("redirect_uri", hint)]))
        .await
        .text()
        .await
        .unwrap();
    for (name, page) in [
        ("login", login),
        ("next", next),
        ("consent", consent),
        ("post", posted),
        ("refused", refused),
    ] {
        assert!(!page.contains("<script>"), "{name}: {page}");
        for attribute in [
            "onload=",
            "onclick=",
            "style=\"",
            "src=\"http",
            "href=\"http",
            "javascript:",
        ] {
            assert!(!page.contains(attribute), "{name} has {attribute}: {page}");
        }
    }
    site.stop().await;
});

crate::on_both_databases!(a_page_says_what_is_wrong_in_the_language_of_the_browser, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let visitor = site.visitor();
    let page = visitor
        .bare(reqwest::Method::GET, "/oauth2/authorize?client_id=app")
        .header("Accept-Language", "fr, de;q=0.8, en;q=0.5")
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), 400);
    let page = page.text().await.unwrap();
    assert!(
        page.contains("Das hat nicht geklappt") && page.contains("redirect_uri is missing"),
        "{page}"
    );
    for (path, kind) in [
        ("/oauth2/authorize/style.css", "text/css; charset=utf-8"),
        ("/oauth2/authorize/send.js", "text/javascript; charset=utf-8"),
    ] {
        let answer = visitor.bare(reqwest::Method::GET, path).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &kind.parse().unwrap())
        );
    }
    site.stop().await;
});

crate::on_both_databases!(a_person_makes_an_account_on_the_way_to_a_client, |database| {
    let site = Site::start(database, &[("accounts.reveal_taken_email", "true")]).await;
    register(&site, &own("app")).await;
    let mut ada = site.visitor();
    let page = visit(&mut ada, &query("app", &[])).await.text().await.unwrap();
    assert!(page.contains("id=\"to-register\""), "{page}");
    let asked = query("app", &[]);
    let shown = answered(ada.with_cookies(Method::GET, &format!("/oauth2/authorize/register?{asked}"))).await;
    ada.keep(shown.headers());
    let shown = shown.text().await.unwrap();
    let address = email("ada");
    for (name, address, password, told) in [
        (" ", address.as_str(), PASSWORD, "A name has"),
        ("Ada", "no address", PASSWORD, "no e-mail address"),
        ("Ada", &address, "short", "Choose another password"),
    ] {
        let fields = [("name", name), ("email", address), ("password", password)];
        let again = send(&mut ada, "/oauth2/authorize/register", &shown, &fields).await;
        let again = again.text().await.unwrap();
        assert!(again.contains(told) && !again.contains(PASSWORD), "{told}: {again}");
    }
    let fields = [("name", "Ada"), ("email", address.as_str()), ("password", PASSWORD)];
    let done = send(&mut ada, "/oauth2/authorize/register", &shown, &fields).await;
    let next = leads_to(&done.text().await.unwrap());
    let answer = answer_of(&visit(&mut ada, next.split_once('?').unwrap().1).await);
    let (status, tokens) = redeem(&site, "app", answer["code"].as_str().unwrap(), &[]).await;
    assert_eq!(status, 200, "{tokens}");
    let taken = send(&mut ada, "/oauth2/authorize/register", &shown, &fields).await;
    assert!(taken.text().await.unwrap().contains("There is an account"));
    // No other site makes an account in a browser, and no request without a destination shows the page.
    let mut stranger = site.visitor();
    let forged = stranger
        .with_cookies(Method::POST, "/oauth2/authorize/register")
        .form(&[
            ("continue", asked.as_str()),
            ("form_token", "guessed"),
            ("name", "Eve"),
            ("email", "eve@example.com"),
            ("password", PASSWORD),
        ]);
    assert_eq!(answered(forged).await.status(), 403);
    let nowhere = answered(stranger.bare(Method::GET, "/oauth2/authorize/register?client_id=app")).await;
    assert_eq!(nowhere.status(), 400);
    stranger.keep(nowhere.headers());
    site.stop().await;
});

crate::on_both_databases!(whether_an_address_is_taken_is_not_told_on_a_page, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let mut eve = site.visitor();
    let asked = query("app", &[]);
    let shown = answered(eve.with_cookies(Method::GET, &format!("/oauth2/authorize/register?{asked}"))).await;
    eve.keep(shown.headers());
    let shown = shown.text().await.unwrap();
    let mut told = Vec::new();
    for name in ["ada", "bob"] {
        let address = email(name);
        let fields = [
            ("name", name),
            ("email", address.as_str()),
            ("password", "seven green umbrellas"),
        ];
        let done = send(&mut eve, "/oauth2/authorize/register", &shown, &fields).await;
        assert_eq!(done.status(), 200);
        let page = done.text().await.unwrap();
        assert!(
            page.contains("Your account is ready if the address was free."),
            "{page}"
        );
        told.push(page.replace(&address, ""));
    }
    assert_eq!(told[0], told[1]);
    site.stop().await;
});

/// Where an operator makes accounts, no page offers to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_makes_accounts_where_an_operator_does() {
    let site = Site::start(
        crate::helpers::TestDatabase::sqlite(),
        &[("accounts.registration", "false")],
    )
    .await;
    register(&site, &own("app")).await;
    let mut ada = site.visitor();
    let page = visit(&mut ada, &query("app", &[])).await.text().await.unwrap();
    assert!(!page.contains("register"), "{page}");
    let path = format!("/oauth2/authorize/register?{}", query("app", &[]));
    let refused = answered(ada.with_cookies(Method::GET, &path)).await;
    assert_eq!(refused.status(), 403);
    site.stop().await;
}
