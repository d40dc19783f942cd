//! Waiting for what must come.

use std::time::Duration;

use keyround::clock::sleep;

/// Waits for a condition, for at most a minute.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..1_200 {
        if holds().await {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("not within a minute: {what}");
}
