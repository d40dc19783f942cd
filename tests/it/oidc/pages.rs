//! The pages: what is sent or registered is text in them, and nothing is loaded from elsewhere.

use keyround::oauth::client::Client;

use super::party::{leads_to, log_in, own, query, register, third, visit};
use crate::auth::visitor::Site;

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
