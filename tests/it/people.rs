//! Accounts and tenants in the database: what a change of one does to its sessions, on both databases.

use keyround::accounts::tenant::{Tenant, TenantId};
use keyround::accounts::user::{Role, User, UserId};
use keyround::clock::{Seconds, UnixTime};
use keyround::store::Db;
use keyround::store::tenants::TenantChange;
use keyround::store::users::{PAGE, StoredUser, UserChange};
use keyround::values::SessionId;

use crate::helpers::{START, TestDatabase, entry};
use crate::rows::Raw;

/// An account of this name that nobody has.
pub fn user(name: &str, tenant: &TenantId) -> StoredUser {
    StoredUser {
        user: User {
            id: UserId::generate(START),
            tenant: tenant.clone(),
            email: format!("{name}@example.com").parse().unwrap(),
            email_verified_at: None,
            name: name.parse().unwrap(),
            roles: Vec::new(),
            created_at: START,
            suspended_at: None,
        },
        password_hash: Some("of the old password".to_owned()),
    }
}

async fn create(db: &Db, name: &str, tenant: &TenantId) -> UserId {
    let stored = user(name, tenant);
    let id = stored.user.id;
    assert!(
        db.create_user(&stored, &entry("user.created", &id.to_string()))
            .await
            .unwrap()
    );
    id
}

async fn create_tenant(db: &Db, id: &str) -> TenantId {
    let tenant = Tenant {
        id: id.parse().unwrap(),
        name: id.to_uppercase(),
        created_at: START,
        disabled_at: None,
    };
    assert!(db.create_tenant(&tenant, &entry("tenant.created", id)).await.unwrap());
    tenant.id
}

/// A session that somebody uses.
async fn log_in(raw: &Raw, user: UserId, tenant: &TenantId) -> SessionId {
    let sid = SessionId::generate(START);
    raw.execute(&format!(
        "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, \
         rotated_at, expires_at, address, user_agent) VALUES ('{sid}', '{user}', '{tenant}', 'first-party', \
         'https://api.example.com', 1, 'hash of {sid}', 'salt', 1, 1, 4000000000, '192.0.2.7', 'a browser')"
    ))
    .await;
    sid
}

async fn change(db: &Db, id: UserId, change: UserChange) -> Option<Vec<SessionId>> {
    let ended = db
        .change_user(id, &change, &entry("user.roles_changed", &id.to_string()))
        .await;
    ended.unwrap().map(|mut ended| {
        ended.sort();
        ended
    })
}

/// Why a session has ended, and that the nodes are told.
async fn ended_for(db: &Db, raw: &Raw, sid: SessionId) -> Option<String> {
    let why = raw
        .texts(&format!(
            "SELECT revoked_for FROM sessions WHERE sid = '{sid}' AND revoked_for IS NOT NULL"
        ))
        .await;
    let told = db.ended_sessions(UnixTime(1)).await.unwrap().contains(&sid.to_string());
    assert_eq!(told, !why.is_empty());
    why.into_iter().next()
}

async fn open(database: &TestDatabase) -> (Db, Raw, TenantId) {
    let db = database.open().await;
    db.ensure_default_tenant(START).await.unwrap();
    (db, Raw::open(database).await, TenantId::default())
}

crate::on_both_databases!(accounts_are_listed_by_id_a_page_at_a_time, |database| {
    let (db, raw, default) = open(&database).await;
    let acme = create_tenant(&db, "acme").await;
    let mut ids = Vec::new();
    for number in 0..=PAGE {
        ids.push(create(&db, &format!("user{number}"), &default).await);
    }
    let other = create(&db, "other", &acme).await;
    ids.push(other);
    ids.sort();
    let first = db.users(None, None, u32::MAX).await.unwrap();
    assert_eq!(
        first.iter().map(|user| user.id).collect::<Vec<_>>(),
        ids[..PAGE as usize],
        "no page holds more"
    );
    let rest = db.users(None, Some(first[99].id), 100).await.unwrap();
    assert_eq!(
        rest.iter().map(|user| user.id).collect::<Vec<_>>(),
        ids[PAGE as usize..]
    );
    assert_eq!(db.users(None, None, 3).await.unwrap(), first[..3]);
    let of_acme = db.users(Some(&acme), None, 100).await.unwrap();
    assert_eq!(of_acme.iter().map(|user| user.id).collect::<Vec<_>>(), [other]);
    assert!(db.users(Some(&acme), Some(other), 100).await.unwrap().is_empty());
    raw.close().await;
    db.close().await;
});

// The account and its sessions in one transaction, and lifting it revives none.
crate::on_both_databases!(suspension_ends_every_session_and_lifting_it_revives_none, |database| {
    let (db, raw, tenant) = open(&database).await;
    let ada = create(&db, "ada", &tenant).await;
    let bob = create(&db, "bob", &tenant).await;
    let mut sids = [log_in(&raw, ada, &tenant).await, log_in(&raw, ada, &tenant).await];
    sids.sort();
    let other = log_in(&raw, bob, &tenant).await;
    assert_eq!(change(&db, ada, UserChange::Suspend).await, Some(sids.to_vec()));
    let suspended = db.user(ada).await.unwrap().unwrap().user.suspended_at;
    assert!(suspended.is_some());
    for sid in sids {
        assert_eq!(ended_for(&db, &raw, sid).await.as_deref(), Some("suspension"));
    }
    assert_eq!(ended_for(&db, &raw, other).await, None, "others are left alone");
    assert_eq!(change(&db, ada, UserChange::Suspend).await, None, "it is so already");
    assert_eq!(db.user(ada).await.unwrap().unwrap().user.suspended_at, suspended);

    assert_eq!(change(&db, ada, UserChange::Resume).await, Some(Vec::new()));
    assert_eq!(db.user(ada).await.unwrap().unwrap().user.suspended_at, None);
    for sid in sids {
        assert_eq!(ended_for(&db, &raw, sid).await.as_deref(), Some("suspension"));
    }
    assert_eq!(change(&db, ada, UserChange::Resume).await, None);
    assert_eq!(change(&db, UserId::generate(START), UserChange::Suspend).await, None);
    let noted = db.audit(None, 100).await.unwrap();
    assert_eq!(
        noted
            .iter()
            .filter(|record| record.event == "user.roles_changed")
            .count(),
        2,
        "what changed nothing is no event"
    );
    raw.close().await;
    db.close().await;
});

crate::on_both_databases!(a_new_password_and_an_operator_end_every_session, |database| {
    let (db, raw, tenant) = open(&database).await;
    let ada = create(&db, "ada", &tenant).await;
    let first = log_in(&raw, ada, &tenant).await;
    let hash = "of the new password".to_owned();
    assert_eq!(
        change(&db, ada, UserChange::SetPassword { hash }).await,
        Some(vec![first])
    );
    let stored = db.user(ada).await.unwrap().unwrap();
    assert_eq!(stored.password_hash.as_deref(), Some("of the new password"));
    let changed_at = raw.number("SELECT password_changed_at FROM users").await;
    assert!(changed_at >= START.0 || database.url.starts_with("postgres"));
    assert_eq!(ended_for(&db, &raw, first).await.as_deref(), Some("password_change"));

    let second = log_in(&raw, ada, &tenant).await;
    assert_eq!(change(&db, ada, UserChange::EndSessions).await, Some(vec![second]));
    assert_eq!(ended_for(&db, &raw, second).await.as_deref(), Some("operator"));
    assert_eq!(
        ended_for(&db, &raw, first).await.as_deref(),
        Some("password_change"),
        "why one ended stays as it was"
    );
    assert_eq!(change(&db, ada, UserChange::EndSessions).await, Some(Vec::new()));
    assert_eq!(
        change(&db, UserId::generate(START), UserChange::EndSessions).await,
        None
    );

    let roles: Vec<Role> = ["admin", "billing:read"].map(|role| role.parse().unwrap()).to_vec();
    let third = log_in(&raw, ada, &tenant).await;
    assert_eq!(
        change(&db, ada, UserChange::SetRoles(roles.clone())).await,
        Some(Vec::new())
    );
    assert_eq!(db.user(ada).await.unwrap().unwrap().user.roles, roles);
    assert_eq!(ended_for(&db, &raw, third).await, None);
    raw.close().await;
    db.close().await;
});

crate::on_both_databases!(
    a_deleted_account_leaves_the_log_and_takes_the_person_along,
    |database| {
        let (db, raw, tenant) = open(&database).await;
        let ada = create(&db, "ada", &tenant).await;
        let bob = create(&db, "bob", &tenant).await;
        let before = log_in(&raw, ada, &tenant).await;
        change(&db, ada, UserChange::EndSessions).await;
        let sid = log_in(&raw, ada, &tenant).await;
        log_in(&raw, bob, &tenant).await;
        for (subject, user) in [("1", ada), ("2", bob)] {
            raw.execute(&format!(
            "INSERT INTO federated_identities (provider, subject, user_id, created_at) VALUES ('google', '{subject}', '{user}', 1)"
        ))
        .await;
        }
        let noted = db.audit(None, 100).await.unwrap();
        assert_eq!(change(&db, ada, UserChange::Delete).await, Some(vec![sid]));
        assert!(db.user(ada).await.unwrap().is_none());
        assert_eq!(ended_for(&db, &raw, sid).await.as_deref(), Some("deletion"));
        assert_eq!(ended_for(&db, &raw, before).await.as_deref(), Some("operator"));
        let whose = "SELECT user_id FROM federated_identities";
        assert_eq!(raw.texts(whose).await, [bob.to_string()]);
        let where_from = format!("SELECT address || user_agent FROM sessions WHERE user_id = '{ada}'");
        assert_eq!(raw.texts(&where_from).await, ["", ""]);
        let of_bob = format!("SELECT address FROM sessions WHERE user_id = '{bob}'");
        assert_eq!(raw.texts(&of_bob).await, ["192.0.2.7"]);
        let after = db.audit(None, 100).await.unwrap();
        assert_eq!(after[1..], noted, "the log only grows");
        assert_eq!(change(&db, ada, UserChange::Delete).await, None);
        // The address is free again; the id is nobody's.
        assert_ne!(create(&db, "ada", &tenant).await, ada);
        raw.close().await;
        db.close().await;
    }
);

crate::on_both_databases!(
    a_disabled_tenant_has_no_sessions_and_enabling_it_revives_none,
    |database| {
        let (db, raw, default) = open(&database).await;
        let acme = create_tenant(&db, "acme").await;
        let ada = create(&db, "ada", &acme).await;
        let bob = create(&db, "bob", &default).await;
        let (sid, other) = (log_in(&raw, ada, &acme).await, log_in(&raw, bob, &default).await);
        let change = async |change| {
            db.change_tenant(&acme, change, &entry("tenant.disabled", "acme"))
                .await
                .unwrap()
        };
        assert_eq!(change(TenantChange::Enable).await, None);
        assert_eq!(change(TenantChange::Disable).await, Some(1));
        assert_eq!(change(TenantChange::Disable).await, None);
        assert!(db.tenant(&acme).await.unwrap().unwrap().disabled_at.is_some());
        assert_eq!(db.disabled_tenants().await.unwrap(), ["acme"]);
        assert_eq!(ended_for(&db, &raw, sid).await.as_deref(), Some("tenant_disabled"));
        assert_eq!(ended_for(&db, &raw, other).await, None);
        // A login that had begun before leaves its session behind.
        let late = log_in(&raw, ada, &acme).await;
        assert_eq!(change(TenantChange::Enable).await, Some(1));
        assert_eq!(db.tenant(&acme).await.unwrap().unwrap().disabled_at, None);
        for sid in [sid, late] {
            assert_eq!(ended_for(&db, &raw, sid).await.as_deref(), Some("tenant_disabled"));
        }
        let nobody: TenantId = "nobody".parse().unwrap();
        let entry = entry("tenant.disabled", "nobody");
        assert_eq!(
            db.change_tenant(&nobody, TenantChange::Disable, &entry).await.unwrap(),
            None
        );
        let noted = db.audit(None, 100).await.unwrap();
        assert_eq!(
            noted.iter().filter(|record| record.event == "tenant.disabled").count(),
            2
        );
        let tenants = db.tenants(None, 100).await.unwrap();
        assert_eq!(
            tenants.iter().map(|tenant| tenant.id.as_str()).collect::<Vec<_>>(),
            ["acme", "default"]
        );
        assert_eq!(db.tenants(Some(&acme), 100).await.unwrap(), tenants[1..]);
        raw.close().await;
        db.close().await;
    }
);

// What waits for the account is seen by what ends its sessions: nothing that began before is left alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_waits_for_a_login_that_holds_the_account() {
    let database = TestDatabase::postgres().await;
    let (db, raw, tenant) = open(&database).await;
    let ada = create(&db, "ada", &tenant).await;
    let login = raw
        .hold(&format!(
            "UPDATE users SET user_id = user_id WHERE user_id = '{ada}' AND suspended_at IS NULL"
        ))
        .await;
    let sid = SessionId::generate(START + Seconds(1));
    let finish = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while raw.number(waiting).await == 0 {
            tokio::task::yield_now().await;
        }
        let crate::rows::Held::Postgres(mut login) = login else {
            panic!("this is PostgreSQL");
        };
        sqlx::query(
            "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, \
             rotated_at, expires_at, address, user_agent) \
             VALUES ($1, $2, 'default', 'a', 'a', 1, 'a', 'a', 1, 1, 4000000000, '', '')",
        )
        .bind(sid.to_string())
        .bind(ada.to_string())
        .execute(&mut *login)
        .await
        .unwrap();
        login.commit().await.unwrap();
    };
    let (suspended, ()) = tokio::join!(change(&db, ada, UserChange::Suspend), finish);
    assert_eq!(suspended, Some(vec![sid]));
    raw.close().await;
    db.close().await;
}
