//! The cookies and the CSRF token.

use reqwest::Method;
use serde_json::{Value, json};

use super::visitor::{PASSWORD, Site, Visitor, email, refused, set_cookies, told};

/// A cookie's name and its attributes, sorted, without the value and the length of its life.
fn attributes(cookie: &str) -> (String, Vec<String>) {
    let mut parts = cookie.split("; ");
    let name = parts.next().unwrap().split('=').next().unwrap().to_owned();
    let mut attributes: Vec<String> = parts
        .filter(|part| !part.starts_with("Max-Age="))
        .map(str::to_owned)
        .collect();
    attributes.sort();
    (name, attributes)
}

/// What an issuer with https needs: a proxy ends TLS.
const HTTPS: (&str, &str) = ("server.trusted_proxies", "127.0.0.1");

crate::on_both_databases!(cookies_are_cleared_as_they_were_set, |database| {
    for (issuer, path, plain) in [
        ("https://id.example.com", "/auth", false),
        ("https://example.com/tenants/acme", "/tenants/acme/auth", false),
        ("http://127.0.0.1:8080", "/auth", true),
    ] {
        let database = if database.url.starts_with("sqlite:") {
            crate::helpers::TestDatabase::sqlite()
        } else {
            crate::helpers::TestDatabase::postgres().await
        };
        let plain_setting = ("accounts.plain_http_cookies", if plain { "true" } else { "false" });
        let settings = [("server.issuer", issuer), HTTPS, plain_setting];
        let settings = if plain {
            &[settings[0], settings[2]][..]
        } else {
            &settings[..]
        };
        let site = Site::start(database, settings).await;
        let below = path.trim_end_matches("/auth");
        let at = |path: &str| format!("{below}{path}");
        let mut ada = site.visitor();
        let csrf = ada.bare(Method::GET, &at("/auth/csrf")).send().await.unwrap();
        let csrf_cookie = set_cookies(csrf.headers()).remove(0);
        ada.keep(csrf.headers());
        let token = csrf.json::<Value>().await.unwrap()["csrf_token"]
            .as_str()
            .unwrap()
            .to_owned();
        let body = json!({ "email": email("ada"), "password": PASSWORD, "name": "ada" });
        let registered = ada
            .with_cookies(Method::POST, &at("/auth/register"))
            .header("X-CSRF-Token", &token);
        assert!(registered.json(&body).send().await.unwrap().status().is_success());
        let body = json!({ "email": email("ada"), "password": PASSWORD });
        let login = ada
            .with_cookies(Method::POST, &at("/auth/login"))
            .header("X-CSRF-Token", &token);
        let login = login.json(&body).send().await.unwrap();
        assert_eq!(login.status(), 200);
        let [refresh_cookie, binding_cookie, login_cookie] = set_cookies(login.headers()).try_into().unwrap();
        ada.keep(login.headers());

        let (name, set) = attributes(&refresh_cookie);
        let secure: &[&str] = if plain { &[] } else { &["Secure"] };
        let path = format!("Path={path}");
        let expected = [&["HttpOnly", &path, "SameSite=Strict"], secure].concat();
        assert_eq!(set, expected);
        assert_eq!(
            name,
            if plain {
                "keyround-refresh"
            } else {
                "__Secure-keyround-refresh"
            }
        );
        assert!(refresh_cookie.contains("; Max-Age=604800"), "{refresh_cookie}");
        let (name, set) = attributes(&csrf_cookie);
        assert_eq!(set, [&["HttpOnly", "Path=/", "SameSite=Strict"], secure].concat());
        assert_eq!(name, if plain { "keyround-csrf" } else { "__Host-keyround-csrf" });
        assert!(!csrf_cookie.contains("Max-Age"), "{csrf_cookie}");
        let (name, set) = attributes(&binding_cookie);
        assert_eq!(set, [&["HttpOnly", "Path=/", "SameSite=Strict"], secure].concat());
        let prefix = if plain { "" } else { "__Host-" };
        assert_eq!(name, format!("{prefix}keyround-refresh-binding"));
        assert!(binding_cookie.contains("; Max-Age=604800"), "{binding_cookie}");
        // A client that sends the browser here finds it.
        let (name, set) = attributes(&login_cookie);
        assert_eq!(set, [&["HttpOnly", "Path=/", "SameSite=Lax"], secure].concat());
        assert_eq!(name, format!("{prefix}keyround-login"));
        for cookie in [&refresh_cookie, &binding_cookie, &csrf_cookie, &login_cookie] {
            assert!(!cookie.contains("Domain"), "{cookie}");
            assert!(cookie.split(';').next().unwrap().len() <= 4_096);
        }

        let csrf = ada.with_cookies(Method::GET, &at("/auth/csrf")).send().await.unwrap();
        ada.keep(csrf.headers());
        let token = csrf.json::<Value>().await.unwrap()["csrf_token"]
            .as_str()
            .unwrap()
            .to_owned();
        let logout = ada
            .with_cookies(Method::POST, &at("/auth/logout"))
            .header("X-CSRF-Token", &token);
        let logout = logout.send().await.unwrap();
        assert_eq!(logout.status(), 204);
        let cleared = set_cookies(logout.headers());
        assert_eq!(cleared.len(), 4, "{cleared:?}");
        for (set, cleared) in [&refresh_cookie, &binding_cookie, &csrf_cookie, &login_cookie]
            .into_iter()
            .zip(&cleared)
        {
            assert_eq!(attributes(set), attributes(cleared));
            assert!(cleared.contains("; Max-Age=0"), "{cleared}");
            assert!(cleared.contains("=;"), "{cleared}");
        }
        site.stop().await;
    }
});

async fn refresh_with(visitor: &Visitor<'_>, header: Option<&str>) -> (u16, String) {
    let mut request = visitor.with_cookies(Method::POST, "/auth/refresh");
    if let Some(header) = header {
        request = request.header("X-CSRF-Token", header);
    }
    told(request.send().await.unwrap()).await
}

crate::on_both_databases!(a_csrf_token_serves_one_session_and_comes_in_the_header, |database| {
    let site = Site::start(database, &[]).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let before = ada.csrf().await;
    // A second tab gets the same, so that neither takes it from the other.
    assert_eq!(ada.csrf().await, before);
    let csrf_cookie_before = ada.jar.clone();
    ada.log_in("ada").await;
    let forged = refused(403, "csrf_failed");
    // What was given before the login is of no use after it.
    ada.jar.extend(csrf_cookie_before);
    assert_eq!(refresh_with(&ada, Some(&before)).await, forged);
    let kept = ada.jar.clone();
    let own = ada.csrf().await;
    assert_ne!(own, before);
    // Two tabs that ask at once get the same, so that neither takes it from the other.
    ada.jar = kept;
    assert_eq!(ada.csrf().await, own);
    assert_eq!(refresh_with(&ada, None).await, forged, "cookie only");
    assert_eq!(refresh_with(&ada, Some("")).await, forged, "empty");
    let in_query = ada.with_cookies(
        Method::POST,
        &format!("/auth/refresh?csrf_token={own}&X-CSRF-Token={own}"),
    );
    assert_eq!(told(in_query.send().await.unwrap()).await, forged, "query only");
    let mut tampered = own.clone();
    tampered.pop();
    assert_eq!(refresh_with(&ada, Some(&tampered)).await, forged);
    // That of another session, with its cookie and all.
    let mut bob = site.person("bob").await;
    let strange = bob.csrf().await;
    let kept = ada.jar.clone();
    let csrf_cookie = bob.jar.iter().find(|(name, _)| name.contains("csrf")).unwrap();
    ada.jar.insert(csrf_cookie.0.clone(), csrf_cookie.1.clone());
    assert_eq!(refresh_with(&ada, Some(&strange)).await, forged);
    ada.jar = kept;
    // Without its cookie.
    let (name, value) = ada.jar.iter().find(|(name, _)| name.contains("csrf")).unwrap();
    let (name, value) = (name.clone(), value.clone());
    ada.jar.remove(&name);
    assert_eq!(refresh_with(&ada, Some(&own)).await, forged);
    ada.jar.insert(name, value);
    // None of the attempts has used the refresh token up.
    assert_eq!(refresh_with(&ada, Some(&own)).await.0, 200);
    site.stop().await;
});

crate::on_both_databases!(a_login_begins_anew, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    let (first, old) = (ada.csrf().await, ada.sid.clone());
    let old_token = ada.access_token.clone();
    ada.log_in("ada").await;
    assert_ne!(ada.sid, old);
    assert_eq!(refresh_with(&ada, Some(&first)).await, refused(403, "csrf_failed"));
    // Nobody holds the refresh token of the session before, so it has ended.
    let mut before = site.visitor();
    before.access_token = old_token;
    assert_eq!(before.me().await, refused(401, "session_ended"));
    assert_eq!(ada.me().await.0, 200);
    site.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_that_uses_or_sets_a_cookie_is_guarded() {
    let site = Site::start(crate::helpers::TestDatabase::sqlite(), &[]).await;
    let ada = site.person("ada").await;
    let login = json!({ "email": email("ada"), "password": PASSWORD });
    let register = json!({ "email": email("eve"), "password": PASSWORD, "name": "Eve" });
    for (path, body) in [
        ("/auth/register", Some(&register)),
        ("/auth/login", Some(&login)),
        ("/auth/refresh", None),
        ("/auth/logout", None),
        ("/auth/logout-all", None),
    ] {
        let mut request = ada.with_cookies(Method::POST, path).bearer_auth(&ada.access_token);
        if let Some(body) = body {
            request = request.json(body);
        }
        assert_eq!(
            told(request.send().await.unwrap()).await,
            refused(403, "csrf_failed"),
            "{path}"
        );
    }
    // Whoever wants no cookie needs no token: nothing comes along by itself.
    let mut login = login;
    login["token_delivery"] = json!("body");
    let answer = ada.json(Method::POST, "/auth/login", &login).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers().get("set-cookie")),
        (200, None)
    );
    let tokens: Value = answer.json().await.unwrap();
    let body = json!({ "refresh_token": tokens["refresh_token"], "token_delivery": "body" });
    let answer = ada.json(Method::POST, "/auth/refresh", &body).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers().get("set-cookie")),
        (200, None)
    );
    let tokens: Value = answer.json().await.unwrap();
    assert!(tokens["refresh_token"].is_string());
    // No script may turn one way into the other.
    let into_cookie = json!({ "refresh_token": tokens["refresh_token"], "token_delivery": "cookie" });
    let answer = ada
        .json(Method::POST, "/auth/refresh", &into_cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(told(answer).await, refused(400, "invalid_request"));
    let mut ada = ada;
    let answer = ada
        .post("/auth/refresh", Some(json!({ "token_delivery": "body" })))
        .await;
    assert_eq!(told(answer).await, refused(400, "invalid_request"));
    ada.refresh().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_that_comes_twice_is_refused() {
    let site = Site::start(crate::helpers::TestDatabase::sqlite(), &[]).await;
    let mut ada = site.person("ada").await;
    let csrf = ada.csrf().await;
    for name in ["__Host-keyround-refresh-binding", "__Host-keyround-csrf"] {
        let twice = ada
            .with_cookies(Method::POST, "/auth/refresh")
            .header("X-CSRF-Token", &csrf)
            .header("Cookie", format!("{name}=planted"));
        assert_eq!(
            told(twice.send().await.unwrap()).await,
            refused(400, "invalid_request"),
            "{name}"
        );
    }
    site.stop().await;
}

const REFRESH: &str = "__Secure-keyround-refresh";
const BINDING: &str = "__Host-keyround-refresh-binding";

// A sibling domain plants a refresh cookie of its own session, but none with the prefix __Host-.
crate::on_both_databases!(a_planted_refresh_cookie_counts_for_nothing, |database| {
    let site = Site::start(database, &[]).await;
    let eve = site.person("eve").await;
    let mut ada = site.person("ada").await;
    // Beside the own cookie, before it and behind it: the own one counts.
    let own = ada.sid.clone();
    for planted in [eve.jar[REFRESH].as_str(), "garbage", ""] {
        for is_first in [true, false] {
            let csrf = ada.csrf().await;
            let mut pairs: Vec<String> = ada.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            pairs.insert(if is_first { 0 } else { pairs.len() }, format!("{REFRESH}={planted}"));
            let request = ada.bare(Method::POST, "/auth/refresh").header("X-CSRF-Token", csrf);
            let answer = request.header("Cookie", pairs.join("; ")).send().await.unwrap();
            ada.keep(answer.headers());
            ada.take(answer).await;
            assert_eq!(ada.sid, own, "{planted}");
        }
    }
    // In place of it, or in a browser that has none: as if no cookie came.
    let mut empty = site.visitor();
    for visitor in [&mut ada, &mut empty] {
        visitor.jar.insert(REFRESH.to_owned(), eve.jar[REFRESH].clone());
        let answer = visitor.post("/auth/refresh", None).await;
        assert_eq!(told(answer).await, refused(401, "refresh_missing"));
        assert_eq!(
            visitor.post("/auth/logout", None).await.status(),
            401,
            "no token, no session"
        );
    }
    assert_eq!(eve.me().await.0, 200, "and it ended nothing");
    site.stop().await;
});

// The version before set no binding cookie: its sessions live on, and get one when they are refreshed.
crate::on_both_databases!(sessions_from_before_the_binding_cookie_live_on, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    ada.jar.remove(BINDING);
    let answer = ada.post("/auth/refresh", None).await;
    assert_eq!(told(answer).await, refused(401, "refresh_missing"), "of this version");
    let upgraded = "UPDATE _sqlx_migrations SET installed_on = '2099-01-01 00:00:00' WHERE version = 21";
    site.raw.execute(upgraded).await;
    let again = crate::helpers::TestApp::start_with_clock(
        &site.database,
        &[
            ("keys.algorithms", "ES256"),
            ("tokens.default_algorithm", "ES256"),
            ("accounts.bcrypt_cost", "4"),
        ],
        site.app.clock.clone(),
    )
    .await;
    let cookie = format!("{REFRESH}={}", ada.jar[REFRESH]);
    let ask = |method, path: &str| again.http.request(method, format!("{}{path}", again.url));
    let csrf = ask(Method::GET, "/auth/csrf")
        .header("Cookie", &cookie)
        .send()
        .await
        .unwrap();
    let csrf_cookie = set_cookies(csrf.headers())
        .remove(0)
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let token = csrf.json::<Value>().await.unwrap()["csrf_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let refreshed = ask(Method::POST, "/auth/refresh")
        .header("Cookie", format!("{cookie}; {csrf_cookie}"))
        .header("X-CSRF-Token", token)
        .send()
        .await
        .unwrap();
    assert_eq!(refreshed.status(), 200);
    let set = set_cookies(refreshed.headers());
    assert!(set.len() == 3 && set[1].starts_with(BINDING), "{set:?}");
    again.running.stop().await;
    site.stop().await;
});

/// RFC 6265 section 5.4: the header carries the cookies of every application of this host, whatever octets they hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_of_other_applications_do_not_matter() {
    let site = Site::start(crate::helpers::TestDatabase::sqlite(), &[]).await;
    let mut ada = site.person("ada").await;
    let csrf = ada.csrf().await;
    for other in [
        "user=J\u{fc}rgen".as_bytes(),
        b"user=J\xfcrgen",
        b"\xff\xfe=\x80",
        b"a",
        b"=",
        b"a=b=c; ;;",
        b"keyround-refresh=x; __Secure-keyround-refresh2=y; x__Host-keyround-csrf=z",
    ] {
        for is_first in [true, false] {
            let pairs: Vec<String> = ada.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let own = pairs.join("; ");
            let line = if is_first {
                [other, b"; ", own.as_bytes()].concat()
            } else {
                [own.as_bytes(), b";", other].concat()
            };
            let answer = ada
                .bare(Method::POST, "/auth/refresh")
                .header("X-CSRF-Token", &csrf)
                .header("Cookie", reqwest::header::HeaderValue::from_bytes(&line).unwrap())
                .send()
                .await
                .unwrap();
            ada.keep(answer.headers());
            assert_eq!(answer.status(), 200, "{}", other.escape_ascii());
        }
    }
    site.stop().await;
}
