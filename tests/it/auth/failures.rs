//! Everything that can go wrong for somebody who is logged in, each as a black box: what is refused, by which code, and what lives on.

use std::time::Duration;

use keyround::accounts::session::EndedBy;
use keyround::clock::{UnixTime, sleep};
use keyround::store::sessions::{Ending, SessionEnd};
use reqwest::Method;
use serde_json::{Value, json};

use crate::helpers::entry;

use super::visitor::{PASSWORD, Site, Visitor, email, refused, told};

crate::on_both_databases!(an_expired_access_token_is_told_from_a_bad_one, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    assert_eq!(ada.me().await.0, 200);
    let good = ada.access_token.clone();
    let an_hour_earlier = |claims: &mut Value| {
        for claim in ["iat", "nbf", "exp"] {
            claims[claim] = json!(claims[claim].as_i64().unwrap() - 3_600);
        }
    };
    ada.access_token = site.forge(&good, |_, claims| an_hour_earlier(claims)).await;
    assert_eq!(ada.me().await, refused(401, "token_expired"));
    assert_eq!(ada.verify().await, 401);
    let answer = ada.bearer(Method::GET, "/auth/me").send().await.unwrap();
    let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
    assert_eq!(
        challenge,
        r#"Bearer realm="keyround", error="invalid_token", error_description="The access token has expired""#
    );
    // A refresh mends it.
    ada.refresh().await;
    assert_eq!(ada.me().await.0, 200);
    site.stop().await;
});

crate::on_both_databases!(a_token_that_is_not_ours_or_for_others_is_refused, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    let good = ada.access_token.clone();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let tampered = format!("{message}.{other}{}", &signature[1..]);
    let unsigned = format!("{message}.");
    let elsewhere = site
        .forge(&good, |_, claims| claims["aud"] = json!("https://api.example.com"))
        .await;
    let stranger = site
        .forge(&good, |_, claims| claims["iss"] = json!("https://id.example.org"))
        .await;
    let id_token = site.forge(&good, |header, _| header["typ"] = json!("JWT")).await;
    let none = site.forge(&good, |header, _| header["alg"] = json!("none")).await;
    let hmac = site.forge(&good, |header, _| header["alg"] = json!("HS256")).await;
    let unknown = site.forge(&good, |header, _| header["alg"] = json!("XS999")).await;
    let other_key = site
        .forge(&good, |header, _| header["kid"] = json!("A".repeat(43)))
        .await;
    for (bad, what) in [
        (tampered, "a tampered signature"),
        (unsigned, "no signature"),
        (elsewhere, "another audience"),
        (stranger, "another issuer"),
        (id_token, "a token of another type"),
        (none, "the algorithm none"),
        (hmac, "the algorithm HS256"),
        (unknown, "an unknown algorithm"),
        (other_key, "an unknown key"),
        ("garbage".to_owned(), "garbage"),
    ] {
        ada.access_token = bad;
        assert_eq!(ada.me().await, refused(401, "token_invalid"), "{what}");
        assert_eq!(ada.verify().await, 401, "{what}");
    }
    // The forge forges well.
    ada.access_token = site.forge(&good, |_, _| ()).await;
    assert_eq!(ada.me().await.0, 200);
    // A refresh token is no access token.
    let refresh_cookie = ada.jar.values().find(|value| value.len() > 100 && !value.contains('.'));
    ada.access_token = refresh_cookie.unwrap().clone();
    assert_eq!(ada.me().await, refused(401, "token_invalid"));
    site.stop().await;
});

crate::on_both_databases!(a_denied_token_is_refused_and_the_session_lives_on, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    let claims = crate::token::claims(&ada.access_token);
    let jti = claims["jti"].as_str().unwrap();
    let server = &site.app.running.server;
    let until = UnixTime(claims["exp"].as_i64().unwrap());
    server
        .db
        .deny_token(jti, until, &entry("token.denied", jti))
        .await
        .unwrap();
    server.keyring.refresh().await.unwrap();
    assert_eq!(ada.me().await, refused(401, "token_invalid"));
    assert_eq!(ada.verify().await, 401);
    ada.refresh().await;
    assert_eq!(ada.me().await.0, 200);
    site.stop().await;
});

crate::on_both_databases!(a_used_refresh_token_ends_its_session_and_no_other, |database| {
    let site = Site::start(database, &[("accounts.refresh_grace", "0s")]).await;
    let mut ada = site.person("ada").await;
    let mut elsewhere = site.visitor();
    elsewhere.log_in("ada").await;
    let stolen = ada.jar.clone();
    ada.refresh().await;
    let mut thief = site.visitor();
    thief.jar = stolen;
    assert_eq!(
        told(thief.post("/auth/refresh", None).await).await,
        refused(401, "refresh_reused")
    );
    // Whoever is right is out as well, and is told why.
    assert_eq!(ada.me().await, refused(401, "session_ended"));
    assert_eq!(ada.verify().await, 401);
    assert_eq!(
        told(ada.post("/auth/refresh", None).await).await,
        refused(401, "refresh_reused")
    );
    assert_eq!(elsewhere.me().await.0, 200);
    elsewhere.refresh().await;
    site.stop().await;
});

crate::on_both_databases!(after_a_logout_nothing_of_the_session_is_of_use, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    let mut elsewhere = site.visitor();
    elsewhere.log_in("ada").await;
    let kept = ada.jar.clone();
    let answer = ada.post("/auth/logout", None).await;
    assert_eq!(answer.status(), 204);
    assert!(ada.jar.is_empty(), "{:?}", ada.jar);
    assert_eq!(ada.me().await, refused(401, "session_ended"));
    assert_eq!(ada.verify().await, 401);
    ada.jar = kept;
    assert_eq!(
        told(ada.post("/auth/refresh", None).await).await,
        refused(401, "session_ended")
    );
    // Once more is as good as once.
    assert_eq!(ada.post("/auth/logout", None).await.status(), 204);
    assert_eq!(elsewhere.me().await.0, 200);
    site.stop().await;
});

crate::on_both_databases!(a_logout_takes_a_refresh_token_or_an_access_token_too, |database| {
    let site = Site::start(database, &[]).await;
    site.register("ada").await;
    for by_refresh_token in [true, false] {
        let body = json!({ "email": email("ada"), "password": PASSWORD, "token_delivery": "body" });
        let mut phone = site.visitor();
        let answer = phone.json(Method::POST, "/auth/login", &body).send().await.unwrap();
        assert_eq!(answer.headers().get("set-cookie"), None);
        let tokens: Value = answer.json().await.unwrap();
        tokens["access_token"]
            .as_str()
            .unwrap()
            .clone_into(&mut phone.access_token);
        assert_eq!(phone.me().await.0, 200);
        let refresh_token = json!({ "refresh_token": tokens["refresh_token"] });
        let logout = if by_refresh_token {
            phone.json(Method::POST, "/auth/logout", &refresh_token)
        } else {
            phone.bearer(Method::POST, "/auth/logout")
        };
        let answer = logout.send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers().get("set-cookie")),
            (204, None)
        );
        assert_eq!(phone.me().await, refused(401, "session_ended"));
        let refresh = phone.json(Method::POST, "/auth/refresh", &refresh_token);
        assert_eq!(told(refresh.send().await.unwrap()).await, refused(401, "session_ended"));
    }
    let nobody = site.visitor().bare(Method::POST, "/auth/logout").send().await.unwrap();
    assert_eq!(told(nobody).await, refused(401, "token_missing"));
    site.stop().await;
});

crate::on_both_databases!(a_logout_that_is_tried_again_holds_here_at_once, |database| {
    let site = Site::start(database, &[]).await;
    site.register("ada").await;
    let sessions = &site.app.running.server.sessions;
    for way in ["/auth/logout", "/auth/logout by access token", "/auth/logout-all"] {
        let body = json!({ "email": email("ada"), "password": PASSWORD, "token_delivery": "body" });
        let mut phone = site.visitor();
        let answer = phone.json(Method::POST, "/auth/login", &body).send().await.unwrap();
        let tokens: Value = answer.json().await.unwrap();
        tokens["access_token"]
            .as_str()
            .unwrap()
            .clone_into(&mut phone.access_token);
        assert_eq!(phone.me().await.0, 200);
        // Its answer was not heard: the session has ended, and this node has not read so.
        let sid = sessions.named_in(tokens["refresh_token"].as_str().unwrap()).unwrap();
        let noted = entry("session.ended", &sid.to_string());
        let ending = Ending {
            sid,
            of: None,
            by: EndedBy::Logout,
            is_proven: false,
        };
        let ended = sessions.db.end_session(&ending, &noted).await;
        assert_eq!(ended.unwrap(), SessionEnd::New);
        let again = match way {
            "/auth/logout" => {
                let token = json!({ "refresh_token": tokens["refresh_token"] });
                phone.json(Method::POST, way, &token)
            }
            way => phone.bearer(Method::POST, way.split(' ').next().unwrap()),
        };
        assert_eq!(again.send().await.unwrap().status(), 204, "{way}");
        assert_eq!(phone.me().await, refused(401, "session_ended"), "{way}");
    }
    site.stop().await;
});

crate::on_both_databases!(every_device_is_listed_and_can_be_logged_out_from_another, |database| {
    let site = Site::start(database, &[]).await;
    let ada = site.person("ada").await;
    let mut elsewhere = site.visitor();
    elsewhere.log_in("ada").await;
    let bob = site.person("bob").await;
    let list: Value = ada
        .bearer(Method::GET, "/auth/sessions")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let sessions = list["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2, "{list}");
    for session in sessions {
        let is_current = session["sid"] == ada.sid.as_str();
        assert!(is_current || session["sid"] == elsewhere.sid.as_str());
        assert_eq!(session["current"], is_current);
        assert_eq!(session["address"], "127.0.0.1");
        for time in ["created_at", "last_used_at", "expires_at"] {
            assert!(session[time].is_i64(), "{session}");
        }
    }
    let end = |visitor: &Visitor<'_>, sid: &str| visitor.bearer(Method::DELETE, &format!("/auth/sessions/{sid}"));
    // Somebody else's session is as unknown as one that never was.
    for sid in [ada.sid.as_str(), "019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b", "nonsense"] {
        assert_eq!(
            told(end(&bob, sid).send().await.unwrap()).await,
            refused(404, "not_found")
        );
    }
    let in_capitals = elsewhere.sid.to_uppercase();
    assert_eq!(end(&ada, &in_capitals).send().await.unwrap().status(), 204);
    assert_eq!(elsewhere.me().await, refused(401, "session_ended"));
    assert_eq!(elsewhere.verify().await, 401);
    assert_eq!(
        told(elsewhere.post("/auth/refresh", None).await).await,
        refused(401, "session_ended")
    );
    assert_eq!(
        told(end(&ada, &elsewhere.sid).send().await.unwrap()).await,
        refused(404, "not_found")
    );
    assert_eq!((ada.me().await.0, bob.me().await.0), (200, 200));
    site.stop().await;
});

crate::on_both_databases!(a_logout_everywhere_ends_every_session_of_one_person, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    let mut elsewhere = site.visitor();
    elsewhere.log_in("ada").await;
    let bob = site.person("bob").await;
    let csrf = ada.csrf().await;
    let logout = ada
        .with_cookies(Method::POST, "/auth/logout-all")
        .bearer_auth(&ada.access_token)
        .header("X-CSRF-Token", csrf);
    let answer = logout.send().await.unwrap();
    assert_eq!(answer.status(), 204);
    ada.keep(answer.headers());
    assert!(ada.jar.is_empty());
    for visitor in [&ada, &elsewhere] {
        assert_eq!(visitor.me().await, refused(401, "session_ended"));
        assert_eq!(visitor.verify().await, 401);
    }
    assert_eq!(
        told(elsewhere.post("/auth/refresh", None).await).await,
        refused(401, "session_ended")
    );
    assert_eq!(bob.me().await.0, 200);
    site.stop().await;
});

crate::on_both_databases!(a_password_change_ends_every_other_session, |database| {
    let site = Site::start(database, &[]).await;
    let ada = site.person("ada").await;
    let mut elsewhere = site.visitor();
    elsewhere.log_in("ada").await;
    let fresh = "an even longer walk by 9 seas";
    let change = |current: &str, new: &str| {
        ada.bearer(Method::POST, "/auth/password")
            .json(&json!({ "current_password": current, "new_password": new }))
    };
    let wrong = change("not the password 1", fresh).send().await.unwrap();
    // The access token is valid: a client that refreshes after a 401 would send the wrong password again.
    assert!(!wrong.headers().contains_key("www-authenticate"));
    assert_eq!(told(wrong).await, refused(403, "current_password_wrong"));
    let weak = change(PASSWORD, "12345678").send().await.unwrap();
    assert_eq!(told(weak).await, refused(400, "password_refused"));
    assert_eq!(elsewhere.me().await.0, 200);
    let answer = change(PASSWORD, fresh).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    assert_eq!(elsewhere.me().await, refused(401, "session_ended"));
    assert_eq!(elsewhere.verify().await, 401);
    assert_eq!(
        told(elsewhere.post("/auth/refresh", None).await).await,
        refused(401, "session_ended")
    );
    let old = json!({ "email": email("ada"), "password": PASSWORD });
    assert_eq!(
        told(elsewhere.post("/auth/login", Some(old)).await).await,
        refused(401, "login_failed")
    );
    let new = json!({ "email": email("ada"), "password": fresh });
    let answer = elsewhere.post("/auth/login", Some(new)).await;
    elsewhere.take(answer).await;
    site.stop().await;
});

crate::on_both_databases!(a_suspension_ends_everything_and_its_end_revives_nothing, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    let suspend = |at: &str| format!("UPDATE users SET suspended_at = {at} WHERE email = '{}'", email("ada"));
    site.raw.execute(&suspend("1")).await;
    let server = &site.app.running.server;
    let user = crate::token::claims(&ada.access_token)["sub"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    server
        .sessions
        .end_all(user, None, EndedBy::Suspension, "operator")
        .await
        .unwrap();
    assert_eq!(ada.me().await, refused(401, "session_ended"));
    assert_eq!(ada.verify().await, 401);
    assert_eq!(
        told(ada.post("/auth/refresh", None).await).await,
        refused(403, "account_suspended")
    );
    // A login cannot tell it from a wrong password.
    let right = json!({ "email": email("ada"), "password": PASSWORD });
    let wrong = json!({ "email": email("ada"), "password": "not the password 1" });
    let mut shown = Vec::new();
    for body in [&right, &wrong] {
        let answer = ada.post("/auth/login", Some(body.clone())).await;
        assert_eq!(answer.status(), 401);
        let mut headers = answer.headers().clone();
        headers.remove("date");
        headers.remove("x-request-id");
        let mut problem: serde_json::Value = answer.json().await.unwrap();
        assert!(problem.as_object_mut().unwrap().remove("request_id").is_some());
        shown.push((headers, problem));
    }
    assert_eq!(shown[0], shown[1]);
    site.raw.execute(&suspend("NULL")).await;
    assert_eq!(ada.me().await, refused(401, "session_ended"));
    assert_eq!(
        told(ada.post("/auth/refresh", None).await).await,
        refused(401, "session_ended")
    );
    let answer = ada.post("/auth/login", Some(right)).await;
    ada.take(answer).await;
    assert_eq!(ada.me().await.0, 200);
    site.stop().await;
});

crate::on_both_databases!(too_many_wrong_passwords_are_told_when_to_come_again, |database| {
    let site = Site::start(database, &[]).await;
    site.register("ada").await;
    let mut stranger = site.visitor();
    let wrong = json!({ "email": email("ada"), "password": "not the password 1" });
    let mut limited = None;
    for _ in 0..200 {
        let answer = stranger.post("/auth/login", Some(wrong.clone())).await;
        if answer.status() == 429 {
            limited = Some(answer);
            break;
        }
        assert_eq!(told(answer).await, refused(401, "login_failed"));
    }
    let limited = limited.expect("nobody is ever limited");
    let wait: i64 = limited.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(wait >= 1);
    assert_eq!(told(limited).await, refused(429, "rate_limited"));
    // Not even the right one is looked at.
    let right = json!({ "email": email("ada"), "password": PASSWORD });
    assert_eq!(
        told(stranger.post("/auth/login", Some(right)).await).await,
        refused(429, "rate_limited")
    );
    site.stop().await;
});

// Whatever a proxy writes, clients that it names differently do not lock each other out.
crate::on_both_databases!(clients_behind_a_proxy_do_not_share_its_limits, |database| {
    let site = Site::start(database, &[("server.trusted_proxies", "127.0.0.1")]).await;
    site.register("ada").await;
    let log_in = async |client: &str, password: &str| {
        let body = json!({ "email": email("ada"), "password": password, "token_delivery": "body" });
        let request = site.visitor().json(Method::POST, "/auth/login", &body);
        request
            .header("X-Forwarded-For", client)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    for stranger in ["[2001:db8::1]", "unknown", "_f00"] {
        let mut statuses = Vec::new();
        for _ in 0..6 {
            statuses.push(log_in(stranger, "not the password 1").await);
        }
        assert_eq!(statuses, [401, 401, 401, 401, 401, 429], "{stranger}");
    }
    for owner in ["[2001:db8:1::1]:4711", "_b4r", "198.51.100.1", ""] {
        assert_eq!(log_in(owner, PASSWORD).await, 200, "{owner}");
    }
    site.stop().await;
});

/// How many attempts came to an end.
fn attempts(site: &Site) -> usize {
    let metrics = site.app.running.server.metrics.encode();
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("keyround_password_attempts_total{"));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum()
}

crate::on_both_databases!(whose_client_hangs_up_is_not_hashed, |database| {
    const MANY: usize = 24;
    let site = Site::start(database, &[("accounts.bcrypt_cost", "13")]).await;
    let hashing = &site.app.running.server.logins.hashing;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..MANY {
        let body =
            json!({ "email": email(&format!("nobody-{number}")), "password": PASSWORD, "token_delivery": "body" });
        let request = site.visitor().json(Method::POST, "/auth/login", &body);
        asking.spawn(request.send());
    }
    while hashing.taken() + attempts(&site) < MANY {
        sleep(Duration::from_millis(5)).await;
    }
    // Each connection closes.
    asking.shutdown().await;
    while hashing.taken() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let ended = attempts(&site);
    assert!(ended < MANY / 2, "{ended} of {MANY} were hashed for nobody");
    site.stop().await;
});

crate::on_both_databases!(too_many_refreshes_wait_and_lose_nothing, |database| {
    let site = Site::start(database, &[("accounts.refresh_limit_session", "2/1h")]).await;
    let (mut ada, mut bob) = (site.person("ada").await, site.person("bob").await);
    ada.refresh().await;
    ada.refresh().await;
    let limited = ada.post("/auth/refresh", None).await;
    let wait: i64 = limited.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3_600).contains(&wait), "{wait}");
    assert_eq!(told(limited).await, refused(429, "rate_limited"));
    // The other way in is none round it.
    let token = &ada.jar["__Secure-keyround-refresh"];
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", "first-party"),
        ("refresh_token", token),
    ];
    let answer = ada
        .bare(Method::POST, "/oauth2/token")
        .form(&form)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 429);
    let told: i64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((wait - 60..=wait).contains(&told), "{told} beside {wait}");
    // Nobody else waits, and the session lives.
    bob.refresh().await;
    assert_eq!(ada.me().await.0, 200);
    site.stop().await;
});
