//! Memory after a busy day is what it was before.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyround::clock::sleep;
use serde_json::json;

use crate::bounds::{MIB, resident};
use crate::child::Process;
use crate::helpers::TestDatabase;
use crate::until;

const LOGINS: usize = 6_000;
/// What a warm server may hold more than before: caches that are bounded, and pages that the allocator keeps.
const MORE: u64 = 10 * MIB;

/// Logs in until so many did.
async fn log_in(process: &Process, done: usize) {
    let url = format!("http://{}/auth/login", process.address().unwrap());
    let body =
        json!({ "email": "ada@example.com", "password": "correct horse battery staple", "token_delivery": "body" });
    let left = Arc::new(AtomicUsize::new(done));
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (left, url, body) = (Arc::clone(&left), url.clone(), body.clone());
            tokio::spawn(async move {
                let http = reqwest::Client::new();
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
                {
                    let answer = http.post(&url).json(&body).send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                    answer.bytes().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_comes_back_after_many_logins() {
    let database = TestDatabase::sqlite();
    let settings = [
        ("accounts.bcrypt_cost", "4"),
        ("log.filter", "warn,keyround::app=info"),
        ("accounts.limit_address", "100000/100000s"),
        ("accounts.limit_account", "100000/100000s"),
        ("accounts.limit_address_and_account", "100000/100000s"),
    ];
    let mut process = Process::spawn(&database, "logins", &settings);
    process.until_it_serves().await;
    let file = database.folder.path().join("password");
    std::fs::write(&file, "correct horse battery staple").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let create = [
        "users",
        "create",
        "--email",
        "ada@example.com",
        "--name",
        "Ada",
        "--password-file",
        "password",
    ];
    let created = process.run(&create);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    log_in(&process, 1_000).await;
    sleep(Duration::from_secs(2)).await;
    let before = resident(&process);
    log_in(&process, LOGINS).await;
    let busy = resident(&process);
    println!(
        "{LOGINS} logins: {} KiB before, {} KiB right after them",
        before / 1024,
        busy / 1024
    );
    until("memory is back", async || resident(&process) < before + MORE).await;
    println!(
        "{} KiB more than before",
        resident(&process).saturating_sub(before) / 1024
    );
    process.tell_to_stop();
    assert!(process.until_it_ends().await.success());
}
