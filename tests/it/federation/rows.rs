//! The tables behind it, on both databases.

use keyround::accounts::federation::return_to::ReturnTo;
use keyround::accounts::federation::{DEFAULT_SCOPE, Provider};
use keyround::accounts::tenant::TenantId;
use keyround::accounts::user::{User, UserId};
use keyround::clock::Seconds;
use keyround::store::federated_identities::FederatedIdentity;
use keyround::store::federated_logins::FederatedLogin;
use keyround::store::identity_providers::{People, ProviderChange, ProviderUpdate, Updated};
use keyround::store::users::StoredUser;
use keyround::store::{Db, StoreError};
use keyround::values::SessionId;

use crate::helpers::{START, entry};

fn provider(name: &str) -> Provider {
    Provider {
        name: name.parse().unwrap(),
        issuer: "https://id.example".parse().unwrap(),
        client_id: "keyround".parse().unwrap(),
        scope: DEFAULT_SCOPE.parse().unwrap(),
        links_verified_emails_since: Some(START),
        directories: None,
        reads_email_verified_text_since: None,
        created_at: START,
        disabled_at: None,
    }
}

async fn create(db: &Db, provider: &Provider) -> bool {
    let entry = entry("provider.created", provider.name.as_str());
    db.create_identity_provider(provider, "sealed", &entry).await.unwrap()
}

async fn change(db: &Db, provider: &Provider, change: &ProviderChange) -> bool {
    let entry = entry("provider.updated", provider.name.as_str());
    db.change_identity_provider(&provider.name, change, &entry)
        .await
        .unwrap()
}

fn user(email: &str, verified: bool) -> StoredUser {
    StoredUser {
        user: User {
            id: UserId::generate(START),
            tenant: TenantId::default(),
            email: email.parse().unwrap(),
            email_verified_at: verified.then_some(START),
            name: "Ada".parse().unwrap(),
            roles: Vec::new(),
            created_at: START,
            suspended_at: None,
        },
        password_hash: None,
    }
}

crate::on_both_databases!(a_provider_is_changed_and_leaves_nothing_behind, |database| {
    let db = database.open().await;
    db.ensure_default_tenant(START).await.unwrap();
    let (acme, other) = (provider("acme"), provider("other"));
    assert!(create(&db, &acme).await && create(&db, &other).await);
    assert!(!create(&db, &acme).await);
    assert_eq!(db.identity_providers().await.unwrap(), [acme.clone(), other.clone()]);
    assert_eq!(
        db.secret("identity-provider:acme").await.unwrap().as_deref(),
        Some("sealed")
    );

    assert!(change(&db, &acme, &ProviderChange::Disable).await);
    assert!(!change(&db, &acme, &ProviderChange::Disable).await);
    let found = db.identity_provider(&acme.name).await.unwrap().unwrap();
    assert_eq!(found.disabled_at, Some(START));
    assert!(change(&db, &acme, &ProviderChange::Enable).await);
    assert!(!change(&db, &acme, &ProviderChange::Enable).await);
    let secret = ProviderChange::ChangeSecret {
        sealed: "new".to_owned(),
    };
    assert!(change(&db, &acme, &secret).await);
    assert_eq!(
        db.secret("identity-provider:acme").await.unwrap().as_deref(),
        Some("new")
    );

    let stored = user("ada@example.com", true);
    let known = FederatedIdentity {
        provider: &acme,
        subject: "1",
    };
    let entries = [&entry("user.created", "1"), &entry("user.identity_linked", "1")];
    assert!(db.create_federated_user(known, &stored, entries).await.unwrap());
    assert_eq!(db.federated_user(known).await.unwrap(), Some(stored.user.id));
    // The same name for another provider means other people.
    let namesake = Provider {
        issuer: "https://evil.example".parse().unwrap(),
        ..acme.clone()
    };
    assert_eq!(
        db.federated_user(FederatedIdentity {
            provider: &namesake,
            subject: "1"
        })
        .await
        .unwrap(),
        None
    );

    assert!(change(&db, &acme, &ProviderChange::Delete).await);
    assert!(!change(&db, &acme, &ProviderChange::Delete).await);
    assert!(!change(&db, &acme, &secret).await, "a secret of nobody");
    assert_eq!(db.identity_providers().await.unwrap(), [other]);
    assert_eq!(db.secret("identity-provider:acme").await.unwrap(), None);
    assert_eq!(db.federated_user(known).await.unwrap(), None);
    assert!(create(&db, &acme).await);
    assert_eq!(
        db.federated_user(known).await.unwrap(),
        None,
        "people of a provider that was deleted"
    );
    assert!(db.user(stored.user.id).await.unwrap().is_some());
    // created twice, changed five times, deleted, and two for the user, and created again.
    assert_eq!(db.audit(None, 100).await.unwrap().len(), 2 + 3 + 1 + 2 + 1);
});

crate::on_both_databases!(a_login_is_taken_once_by_whom_it_belongs_to, |database| {
    let db = database.open().await;
    let login = FederatedLogin {
        state_digest: "state".to_owned(),
        provider: "acme".parse().unwrap(),
        browser_digest: "browser".to_owned(),
    };
    let return_to = ReturnTo::kept("https://id.example/home".to_owned());
    let expires_at = START + Seconds(600);
    let replaces = Some(SessionId::generate(START));
    db.begin_federated_login(&login, &return_to, replaces, expires_at)
        .await
        .unwrap();
    let again = db.begin_federated_login(&login, &return_to, None, expires_at).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    for other in [
        FederatedLogin {
            state_digest: "other".to_owned(),
            ..login.clone()
        },
        FederatedLogin {
            provider: "other".parse().unwrap(),
            ..login.clone()
        },
        FederatedLogin {
            browser_digest: "other".to_owned(),
            ..login.clone()
        },
    ] {
        assert_eq!(db.take_federated_login(&other, START).await.unwrap(), None, "{other:?}");
    }
    assert_eq!(
        db.take_federated_login(&login, expires_at).await.unwrap(),
        None,
        "too late"
    );
    let last_moment = expires_at - Seconds(1);
    // Many at once: one has it.
    let taken: Vec<_> = (0..8)
        .map(|_| {
            let (db, login) = (db.clone(), login.clone());
            tokio::spawn(async move { db.take_federated_login(&login, last_moment).await.unwrap() })
        })
        .collect();
    let mut found = Vec::new();
    for task in taken {
        found.extend(task.await.unwrap());
    }
    assert_eq!(found, [(return_to.clone(), replaces)]);

    db.begin_federated_login(&login, &return_to, None, expires_at)
        .await
        .unwrap();
    assert_eq!(db.prune_federated_logins(last_moment).await.unwrap(), 0);
    assert_eq!(db.prune_federated_logins(expires_at).await.unwrap(), 1);
});

crate::on_both_databases!(a_link_is_written_only_while_everything_holds, |database| {
    let db = database.open().await;
    db.ensure_default_tenant(START).await.unwrap();
    let acme = provider("acme");
    create(&db, &acme).await;
    let link = async |provider: &Provider, subject: &str, stored: &StoredUser| {
        let identity = FederatedIdentity { provider, subject };
        let entry = entry("user.identity_linked", "1");
        db.link_federated_user(identity, stored, &entry).await
    };
    let (verified, unverified) = (user("ada@example.com", true), user("eve@example.com", false));
    for stored in [&verified, &unverified] {
        assert!(db.create_user(stored, &entry("user.created", "1")).await.unwrap());
    }
    assert!(!link(&acme, "1", &unverified).await.unwrap());
    // The address changed after it was looked at.
    let mut moved = verified.clone();
    moved.user.email = "other@example.com".parse().unwrap();
    assert!(!link(&acme, "1", &moved).await.unwrap());
    change(&db, &acme, &ProviderChange::Disable).await;
    assert!(!link(&acme, "1", &verified).await.unwrap());
    change(&db, &acme, &ProviderChange::Enable).await;
    let namesake = Provider {
        issuer: "https://evil.example".parse().unwrap(),
        ..acme.clone()
    };
    assert!(!link(&namesake, "1", &verified).await.unwrap());
    let strict = Provider {
        links_verified_emails_since: None,
        ..provider("strict")
    };
    create(&db, &strict).await;
    assert!(!link(&strict, "1", &verified).await.unwrap());

    assert!(link(&acme, "1", &verified).await.unwrap());
    assert!(
        !link(&acme, "2", &verified).await.unwrap(),
        "two people of one provider"
    );
    // The first one again is somebody else's doing in the same moment.
    let third = user("third@example.com", true);
    assert!(db.create_user(&third, &entry("user.created", "1")).await.unwrap());
    assert!(matches!(link(&acme, "1", &third).await, Err(StoreError::Conflict)));
    let known = FederatedIdentity {
        provider: &acme,
        subject: "1",
    };
    assert_eq!(db.federated_user(known).await.unwrap(), Some(verified.user.id));
    change(&db, &acme, &ProviderChange::Disable).await;
    assert_eq!(db.federated_user(known).await.unwrap(), None);
    let entries = [&entry("user.created", "2"), &entry("user.identity_linked", "2")];
    let identity = FederatedIdentity {
        provider: &acme,
        subject: "2",
    };
    let fourth = user("fourth@example.com", true);
    assert!(!db.create_federated_user(identity, &fourth, entries).await.unwrap());
    assert!(db.user(fourth.user.id).await.unwrap().is_none());
});

crate::on_both_databases!(an_update_undoes_no_other_that_was_first, |database| {
    let db = database.open().await;
    db.ensure_default_tenant(START).await.unwrap();
    let old = provider("acme");
    assert!(create(&db, &old).await);
    let renamed = Provider {
        client_id: "other".parse().unwrap(),
        ..old.clone()
    };
    let moved = Provider {
        issuer: "https://id2.example".parse().unwrap(),
        ..old.clone()
    };
    let update = async |old: &Provider, new: &Provider, sealed| {
        let entries = [entry("provider.updated", "acme")];
        let update = ProviderUpdate { old, new, sealed };
        db.update_identity_provider(&update, &entries).await.unwrap()
    };
    let now = async || db.identity_provider(&old.name).await.unwrap().unwrap();
    assert_eq!(update(&old, &renamed, Some("sealed again")).await, Updated::Done);
    assert_eq!(now().await, renamed);
    let secret = old.name.secret_name();
    assert_eq!(db.secret(&secret).await.unwrap().as_deref(), Some("sealed again"));
    // From what was read before the first one.
    for new in [&old, &moved] {
        assert_eq!(update(&old, new, Some("lost")).await, Updated::Changed);
    }
    assert_eq!(
        (now().await, db.secret(&secret).await.unwrap().as_deref()),
        (renamed.clone(), Some("sealed again"))
    );
    let people = async || db.people_of_provider(&old.name).await.unwrap().unwrap();
    assert_eq!(
        people().await,
        People {
            all: 0,
            without_another_login: 0
        }
    );
    let ada = user("ada@example.com", true);
    let identity = FederatedIdentity {
        provider: &renamed,
        subject: "ada",
    };
    let entries = ["user.created", "user.identity_linked"].map(|event| entry(event, "ada"));
    assert!(
        db.create_federated_user(identity, &ada, entries.each_ref())
            .await
            .unwrap()
    );
    assert_eq!(
        people().await,
        People {
            all: 1,
            without_another_login: 1
        }
    );
    let moved = Provider {
        issuer: "https://id2.example".parse().unwrap(),
        ..renamed.clone()
    };
    assert_eq!(update(&renamed, &moved, None).await, Updated::People(1));
    assert_eq!(update(&renamed, &old, None).await, Updated::Done);
    // Written once for each update that was done.
    let events = db.audit(None, 10).await.unwrap();
    let updates = events
        .iter()
        .filter(|record| record.event == "provider.updated")
        .count();
    assert_eq!(updates, 2);
    assert!(change(&db, &old, &ProviderChange::Delete).await);
    assert_eq!(update(&old, &renamed, None).await, Updated::Changed);
    assert_eq!(db.people_of_provider(&old.name).await.unwrap(), None);
});
