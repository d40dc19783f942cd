//! A used token that comes again too late: its session ends, whoever brought it, wherever, and nobody else's does.

use keyround::accounts::refresh::Refused;
use keyround::accounts::session::EndedBy;
use keyround::keys::trusted_time::Doubt;
use keyround::sessions::SessionTokens;

use super::world::{World, is_active, log_in, refresh, refused};
use crate::helpers::TestApp;
use crate::rows::Raw;

/// Nothing of this session is of use on this server, and the rest is as it was.
async fn assert_killed(app: &TestApp, tokens: &[&SessionTokens], by: EndedBy) {
    for tokens in tokens {
        assert_eq!(refused(app, &tokens.refresh_token).await, Refused::Ended(by));
        assert!(!is_active(app, &tokens.access_token));
    }
}

crate::on_both_databases!(what_is_stolen_ends_its_session_and_no_other, |database| {
    let mut world = World::start(database, &[]).await;
    let other_node = world.another().await;
    let ada = world.user("ada").await;
    let other_device = log_in(&world.app, &ada).await.unwrap();
    let mut caught = 0;
    for way in [
        "after the grace",
        "after its successor was used",
        "after three rotations within a second",
        "after a restart",
        "on the other node",
    ] {
        let stolen = log_in(&world.app, &ada).await.unwrap();
        let second = refresh(&world.app, &stolen.refresh_token).await.unwrap();
        let mut later = Vec::new();
        match way {
            "after its successor was used" => {
                later.push(refresh(&world.app, &second.refresh_token).await.unwrap());
            }
            "after three rotations within a second" => {
                let third = refresh(&world.app, &second.refresh_token).await.unwrap();
                later.push(refresh(&world.app, &third.refresh_token).await.unwrap());
                later.push(third);
            }
            "after a restart" => {
                world.pass(31).await;
                world.restart().await;
            }
            _ => world.pass(31).await,
        }
        other_node.running.server.rotation.tick().await.unwrap();
        let app = if way == "on the other node" {
            &other_node
        } else {
            &world.app
        };
        assert_eq!(refused(app, &stolen.refresh_token).await, Refused::Reused, "{way}");
        caught += 1;
        let dead: Vec<&SessionTokens> = [&stolen, &second].into_iter().chain(&later).collect();
        // At once on the node that noticed, with the next look on the others.
        assert_killed(app, &dead, EndedBy::Reuse).await;
        for node in [&world.app, &other_node] {
            node.running.server.keyring.refresh().await.unwrap();
            assert_killed(node, &dead, EndedBy::Reuse).await;
        }
        assert_eq!(world.noted("session.reuse_detected").await, caught, "{way}");
        let live = world.app.running.server.sessions.list(ada.user.id).await.unwrap();
        assert_eq!(live.len(), 1, "{way}");
    }
    assert!(is_active(&world.app, &other_device.access_token));
    assert!(refresh(&world.app, &other_device.refresh_token).await.is_ok());
    let told = "SELECT actor || '|' || reason FROM audit WHERE event = 'session.reuse_detected' LIMIT 1";
    let reason = format!(
        "client first-party|it was used before, so its session has ended (user {})",
        ada.user.id
    );
    assert_eq!(world.raw.texts(told).await, [reason]);
    let metrics = other_node.running.server.metrics.encode();
    assert!(metrics.contains("keyround_refresh_tokens_reused_total 1"), "{metrics}");
    other_node.running.stop().await;
    world.stop().await;
});

crate::on_both_databases!(a_token_newer_than_the_database_ends_its_session, |database| {
    let world = World::start(database, &[]).await;
    let ada = world.user("ada").await;
    let mut chains = Vec::new();
    for _ in 0..3 {
        let first = log_in(&world.app, &ada).await.unwrap();
        let second = refresh(&world.app, &first.refresh_token).await.unwrap();
        chains.push((first, second));
    }
    // As a backup from between the two refreshes brings it back.
    world.raw.execute("CREATE TABLE backup AS SELECT * FROM sessions").await;
    let mut third = Vec::new();
    for (_, second) in &chains {
        third.push(refresh(&world.app, &second.refresh_token).await.unwrap());
    }
    world.raw.execute("DELETE FROM sessions").await;
    world.raw.execute("INSERT INTO sessions SELECT * FROM backup").await;
    assert_eq!(refused(&world.app, &third[0].refresh_token).await, Refused::RolledBack);
    assert_killed(&world.app, &[&chains[0].1, &third[0]], EndedBy::Rollback).await;
    // Refreshed again in the meantime, by another salt: the same generation twice.
    let twin = refresh(&world.app, &chains[1].1.refresh_token).await.unwrap();
    assert_ne!(*twin.refresh_token, *third[1].refresh_token);
    assert_eq!(refused(&world.app, &third[1].refresh_token).await, Refused::RolledBack);
    assert_killed(&world.app, &[&twin, &third[1]], EndedBy::Rollback).await;
    // Whoever was idle meanwhile goes on.
    assert!(refresh(&world.app, &chains[2].1.refresh_token).await.is_ok());
    assert_eq!(world.noted("session.rollback_detected").await, 2);
    assert_eq!(world.noted("session.reuse_detected").await, 0);
    let metrics = world.app.running.server.metrics.encode();
    assert!(
        metrics.contains("keyround_refresh_tokens_rolled_back_total 2"),
        "{metrics}"
    );
    world.stop().await;
});

crate::on_both_databases!(a_clock_that_went_back_refuses_and_kills_nobody, |database| {
    let world = World::start(database, &[]).await;
    let ada = world.user("ada").await;
    let first = log_in(&world.app, &ada).await.unwrap();
    let second = refresh(&world.app, &first.refresh_token).await.unwrap();
    world
        .raw
        .execute("UPDATE sessions SET rotated_at = rotated_at + 100")
        .await;
    assert_eq!(refused(&world.app, &first.refresh_token).await, Refused::TooEarly);
    world
        .raw
        .execute("UPDATE sessions SET rotated_at = rotated_at - 100")
        .await;
    let again = refresh(&world.app, &first.refresh_token).await.unwrap();
    assert_eq!(*again.refresh_token, *second.refresh_token);
    world
        .raw
        .execute("UPDATE sessions SET rotated_at = rotated_at + 100")
        .await;
    assert!(refresh(&world.app, &second.refresh_token).await.is_ok());
    world.stop().await;
});

crate::on_both_databases!(
    after_a_stop_reuse_is_certain_once_the_grace_has_been_lived_through,
    |database| {
        let mut world = World::start(database, &[]).await;
        let ada = world.user("ada").await;
        let before = log_in(&world.app, &ada).await.unwrap();
        let successor = refresh(&world.app, &before.refresh_token).await.unwrap();
        world
            .raw
            .execute("UPDATE clock SET reached = reached - 1000, confirmed = confirmed - 1000")
            .await;
        world.restart().await;
        let doubt = |world: &World| world.app.running.server.keyring.snapshot().trusted().doubt();
        assert!(
            matches!(doubt(&world), Some(Doubt::Unconfirmed(_))),
            "{:?}",
            doubt(&world)
        );
        world
            .raw
            .execute("UPDATE sessions SET rotated_at = rotated_at - 31")
            .await;
        // By a clock that is 31 s ahead it came again at once.
        assert_eq!(refused(&world.app, &before.refresh_token).await, Refused::ClockInDoubt);
        if let Raw::Sqlite(_) = &world.raw {
            let begun = log_in(&world.app, &ada).await.unwrap();
            let next = refresh(&world.app, &begun.refresh_token).await.unwrap();
            world.pass(31).await;
            assert!(doubt(&world).is_some());
            for (used, newer) in [(&before, &successor), (&begun, &next)] {
                assert_eq!(refused(&world.app, &used.refresh_token).await, Refused::Reused);
                assert_killed(&world.app, &[newer], EndedBy::Reuse).await;
            }
        }
        world.stop().await;
    }
);
