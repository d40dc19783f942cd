//! One token after another: who gets a successor, who gets the same one again, and whose session ends.

use std::time::Duration;

use keyround::accounts::refresh::Refused;
use keyround::accounts::session::EndedBy;
use keyround::clock::{Seconds, sleep};
use keyround::sessions::{CannotBegin, CannotRefresh};
use keyround::store::users::{StoredUser, UserChange};
use keyround::values::LONGEST_ACCESS_TOKEN;
use serde_json::json;

use super::world::{CLIENT, World, claims, is_active, log_in, log_out, refresh, refresh_as, refused};
use crate::helpers::{TestDatabase, entry};
use crate::rows::Raw;

crate::on_both_databases!(a_login_brings_tokens_that_say_what_they_should, |database| {
    let world = World::start(database, &[]).await;
    let app = &world.app;
    let ada = world.user("ada").await;
    let tokens = log_in(app, &ada).await.unwrap();
    let said = claims(&tokens.access_token);
    let iat = said["iat"].as_i64().unwrap();
    let expected = json!({
        "iss": "http://127.0.0.1:8080", "aud": "http://127.0.0.1:8080", "sub": ada.user.id.to_string(), "client_id": CLIENT,
        "iat": iat, "nbf": iat - 60, "exp": iat + 600, "jti": said["jti"], "sid": tokens.sid.to_string(),
        "grant_id": tokens.sid.to_string(), "tid": "default",
        "roles": ["reader", "billing-admin"],
    });
    assert_eq!(said, expected);
    assert_eq!((tokens.expires_in.0, tokens.refresh_expires_in.0), (600, 7 * 86_400));
    assert!(is_active(app, &tokens.access_token));
    let sessions = app.running.server.sessions.list(ada.user.id).await.unwrap();
    let [session] = sessions.as_slice() else {
        panic!("{sessions:?}")
    };
    assert_eq!(session.sid, tokens.sid);
    assert_eq!(
        (session.address.as_str(), session.user_agent.as_str()),
        ("192.0.2.7", "a browser")
    );
    let noted = "SELECT event || '|' || subject || '|' || actor FROM audit WHERE event LIKE 'session.%'";
    assert_eq!(
        world.raw.texts(noted).await,
        [format!("session.started|{}|user {}", tokens.sid, ada.user.id)]
    );
    // The secret is nowhere in the row.
    let row = "SELECT current_hash || salt || coalesce(previous_hash, '') FROM sessions";
    assert_eq!(world.raw.texts(row).await[0].len(), 86);
    world.stop().await;
});

crate::on_both_databases!(a_session_stays_one_row_however_often_it_refreshes, |database| {
    let world = World::start(database, &[]).await;
    let ada = world.user("ada").await;
    let first = log_in(&world.app, &ada).await.unwrap();
    let mut last = first.refresh_token.clone();
    for generation in 2..=50 {
        let next = refresh(&world.app, &last).await.unwrap();
        assert_eq!(next.sid, first.sid);
        assert_ne!(*next.refresh_token, *last);
        assert!(is_active(&world.app, &next.access_token));
        assert_eq!(world.raw.number("SELECT generation FROM sessions").await, generation);
        last = next.refresh_token;
    }
    assert_eq!(world.raw.number("SELECT count(*) FROM sessions").await, 1);
    // Nobody reads the log of what happens all day.
    assert_eq!(
        world
            .raw
            .number("SELECT count(*) FROM audit WHERE event LIKE 'session.%'")
            .await,
        1
    );
    let metrics = world.app.running.server.metrics.encode();
    assert!(
        metrics.contains("keyround_refreshes_total{outcome=\"rotated\"} 49"),
        "{metrics}"
    );
    world.stop().await;
});

crate::on_both_databases!(a_retry_within_the_grace_finds_the_same_successor, |database| {
    let world = World::start(database, &[]).await;
    let ada = world.user("ada").await;
    let first = log_in(&world.app, &ada).await.unwrap();
    let second = refresh(&world.app, &first.refresh_token).await.unwrap();
    let again = refresh(&world.app, &first.refresh_token).await.unwrap();
    assert_eq!(*again.refresh_token, *second.refresh_token);
    assert_ne!(again.access_token, second.access_token);
    world.pass(29).await;
    let late = refresh(&world.app, &first.refresh_token).await.unwrap();
    assert_eq!(*late.refresh_token, *second.refresh_token);
    // Once for the generation, not for each try.
    assert_eq!(world.noted("session.replayed").await, 1);
    let third = refresh(&world.app, &late.refresh_token).await.unwrap();
    assert_eq!(
        *refresh(&world.app, &second.refresh_token).await.unwrap().refresh_token,
        *third.refresh_token
    );
    assert_eq!(world.noted("session.replayed").await, 2);
    world.stop().await;
});

crate::on_both_databases!(the_limits_of_a_session_hold, |database| {
    let settings = [("accounts.session_idle", "1h"), ("accounts.session_absolute", "2h")];
    let world = World::start(database, &settings).await;
    let ada = world.user("ada").await;
    let idle = log_in(&world.app, &ada).await.unwrap();
    let mut used = log_in(&world.app, &ada).await.unwrap();
    assert_eq!(used.refresh_expires_in.0, 3_600);
    world.pass(3_590).await;
    used = refresh(&world.app, &used.refresh_token).await.unwrap();
    world.pass(20).await;
    assert_eq!(refused(&world.app, &idle.refresh_token).await, Refused::Idle);
    assert_eq!(
        world.app.running.server.sessions.list(ada.user.id).await.unwrap().len(),
        1
    );
    world.pass(3_490).await;
    used = refresh(&world.app, &used.refresh_token).await.unwrap();
    // Neither token passes the end of the session.
    let rest = used.expires_in.0;
    assert!(
        (95..=100).contains(&rest) && used.refresh_expires_in.0 == rest,
        "{rest}"
    );
    world.pass(110).await;
    assert_eq!(refused(&world.app, &used.refresh_token).await, Refused::Expired);
    assert!(
        world
            .app
            .running
            .server
            .sessions
            .list(ada.user.id)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(world.noted("session.reuse_detected").await, 0);
    world.stop().await;
});

crate::on_both_databases!(
    a_stranger_with_the_right_token_gets_nothing_and_harms_nobody,
    |database| {
        let world = World::start(database, &[]).await;
        let ada = world.user("ada").await;
        let first = log_in(&world.app, &ada).await.unwrap();
        let second = refresh(&world.app, &first.refresh_token).await.unwrap();
        world.pass(60).await;
        // The old one would end the session, if a stranger were heard.
        for token in [&first.refresh_token, &second.refresh_token] {
            let answer = refresh_as(&world.app, token, "another-app").await;
            assert!(matches!(answer, Err(CannotRefresh::Refused(Refused::WrongClient))));
            let ended = world
                .app
                .running
                .server
                .sessions
                .end_by_token(token, "another-app", EndedBy::Revocation);
            assert_eq!(ended.await.unwrap(), None);
        }
        for noise in [
            "",
            "a",
            &second.refresh_token[1..],
            &second.access_token,
            &"A".repeat(119),
        ] {
            assert_eq!(refused(&world.app, noise).await, Refused::NotOurs);
        }
        assert!(refresh(&world.app, &second.refresh_token).await.is_ok());
        assert_eq!(
            world
                .raw
                .number("SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL")
                .await,
            0
        );
        world.stop().await;
    }
);

crate::on_both_databases!(what_was_ended_stays_ended_and_is_no_theft, |database| {
    let world = World::start(database, &[]).await;
    let sessions = &world.app.running.server.sessions;
    let (ada, bob) = (world.user("ada").await, world.user("bob").await);
    let mut tokens = Vec::new();
    for user in [&ada, &ada, &ada, &ada, &bob] {
        tokens.push(log_in(&world.app, user).await.unwrap());
    }
    // Not another's.
    assert!(
        !sessions
            .end(tokens[0].sid, Some(bob.user.id), EndedBy::Logout, "user bob")
            .await
            .unwrap()
    );
    assert!(log_out(&world.app, &tokens[0]).await);
    assert!(!log_out(&world.app, &tokens[0]).await);
    assert_eq!(
        refused(&world.app, &tokens[0].refresh_token).await,
        Refused::Ended(EndedBy::Logout)
    );
    assert!(!is_active(&world.app, &tokens[0].access_token));

    let ended = sessions
        .end_by_token(&tokens[1].refresh_token, CLIENT, EndedBy::Revocation)
        .await
        .unwrap();
    assert_eq!(ended, Some(tokens[1].sid));
    assert_eq!(
        refused(&world.app, &tokens[1].refresh_token).await,
        Refused::Ended(EndedBy::Revocation)
    );

    let ended = sessions
        .end_all(ada.user.id, Some(tokens[2].sid), EndedBy::PasswordChange, "user ada")
        .await;
    assert_eq!(ended.unwrap(), [tokens[3].sid]);
    assert!(!is_active(&world.app, &tokens[3].access_token));
    assert!(refresh(&world.app, &tokens[2].refresh_token).await.is_ok());
    let ended = sessions
        .end_all(ada.user.id, None, EndedBy::Suspension, "operator")
        .await;
    assert_eq!(ended.unwrap(), [tokens[2].sid]);
    assert!(sessions.list(ada.user.id).await.unwrap().is_empty());

    assert!(is_active(&world.app, &tokens[4].access_token));
    assert!(refresh(&world.app, &tokens[4].refresh_token).await.is_ok());
    assert_eq!(
        (
            world.noted("session.ended").await,
            world.noted("session.reuse_detected").await
        ),
        (4, 0)
    );
    world.stop().await;
});

crate::on_both_databases!(nobody_logs_in_with_an_account_that_has_changed, |database| {
    let world = World::start(database, &[]).await;
    let ada = world.user("ada").await;
    let tokens = log_in(&world.app, &ada).await.unwrap();
    let old = StoredUser {
        password_hash: Some("another hash".to_owned()),
        ..ada.clone()
    };
    let none = StoredUser {
        password_hash: None,
        ..ada.clone()
    };
    for stale in [&old, &none] {
        assert!(matches!(
            log_in(&world.app, stale).await,
            Err(CannotBegin::AccountChanged)
        ));
    }
    for (change, undo, why) in [
        (
            "UPDATE users SET suspended_at = 1",
            "UPDATE users SET suspended_at = NULL",
            Refused::Suspended,
        ),
        (
            "UPDATE tenants SET disabled_at = 1",
            "UPDATE tenants SET disabled_at = NULL",
            Refused::TenantDisabled,
        ),
    ] {
        world.raw.execute(change).await;
        assert!(matches!(
            log_in(&world.app, &ada).await,
            Err(CannotBegin::AccountChanged)
        ));
        assert_eq!(refused(&world.app, &tokens.refresh_token).await, why);
        world.raw.execute(undo).await;
    }
    world.raw.execute("DELETE FROM users").await;
    assert!(matches!(
        log_in(&world.app, &ada).await,
        Err(CannotBegin::AccountChanged)
    ));
    assert_eq!(refused(&world.app, &tokens.refresh_token).await, Refused::Unknown);
    assert_eq!(world.raw.number("SELECT count(*) FROM sessions").await, 1);
    world.stop().await;
});

// Its row is there until the session would have expired.
crate::on_both_databases!(an_end_that_does_not_count_any_more_is_not_taken_for_lost, |database| {
    let mut world = World::start(database, &[]).await;
    let ada = world.user("ada").await;
    let tokens = log_in(&world.app, &ada).await.unwrap();
    assert!(log_out(&world.app, &tokens).await);
    let skew = world.app.config.keys.policy.windows().clock_skew;
    for (seconds, is_refused) in [(60, true), (LONGEST_ACCESS_TOKEN.0 + skew.0 * 2, false)] {
        world.pass(seconds).await;
        world.restart().await;
        let server = &world.app.running.server;
        let ended = server
            .sessions
            .end_by_token(&tokens.refresh_token, CLIENT, EndedBy::Revocation);
        assert_eq!(ended.await.unwrap(), None);
        // The look begins after it. PostgreSQL's clock goes by itself.
        if let Raw::Sqlite(_) = world.raw {
            world.clock.advance(Seconds(1));
        }
        server.rotation.tick().await.unwrap();
        let sessions = &server.keyring.revocations().sessions;
        assert_eq!(sessions.contains(&tokens.sid.to_string()), is_refused, "{seconds}");
        assert_eq!(sessions.missing_count(), 0, "{seconds}");
    }
    world.stop().await;
});

// A command waits for locks as long as it takes, and refreshes go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_sessions_is_stamped_when_it_is_committed() {
    let world = World::start(TestDatabase::postgres().await, &[]).await;
    let ada = world.user("ada").await;
    let tokens = log_in(&world.app, &ada).await.unwrap();
    let db = world.database.open().await;
    let held = world.raw.hold("SELECT user_id FROM users FOR UPDATE").await;
    let suspended = tokio::spawn(async move {
        let noted = entry("user.suspended", "ada");
        db.change_user(ada.user.id, &UserChange::Suspend, &noted).await
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while world.raw.number(waiting).await == 0 {
        sleep(Duration::from_millis(50)).await;
    }
    let now = "SELECT CAST(floor(extract(epoch FROM clock_timestamp())) AS BIGINT)";
    let began = world.raw.number(now).await;
    while world.raw.number(now).await < began + 4 {
        sleep(Duration::from_millis(50)).await;
    }
    held.let_go().await;
    assert_eq!(suspended.await.unwrap().unwrap(), Some(vec![tokens.sid]));
    let stamp = world.raw.number("SELECT revoked_at FROM sessions").await;
    assert!(stamp >= began + 4, "{stamp} is before {began} + 4");
    world.stop().await;
}
