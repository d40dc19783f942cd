//! How long the database may take for one request: each statement has a limit of its own, and a request has several of them.

use std::cell::Cell;
use std::pin::Pin;
use std::time::Duration;

use crate::clock::{sleep, uptime};

use super::{StoreError, timed_out};

/// How long all statements of a request may take together. Each answer is due within 3 s, and has more to do than to wait for them.
pub const ALLOWANCE: Duration = Duration::from_millis(2_500);

tokio::task_local! {
    /// What is left of it.
    static LEFT: Cell<Duration>;
}

/// Answers a request, whose statements together have [`ALLOWANCE`]. What is not done in a request, such as a task, has no such limit.
pub fn of_one_request<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    LEFT.scope(Cell::new(ALLOWANCE), work)
}

/// What somebody else asks of the database for this request too.
///
/// # Errors
/// When it takes longer than the request has left.
pub async fn shared<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    limited(ALLOWANCE, Box::pin(answer))
        .await
        .unwrap_or_else(|| Err(timed_out()))
}

/// What comes within this time and what the request has left; nothing after it. It is on the heap, since each layer of futures around
/// it would hold it twice.
pub(super) async fn limited<T>(limit: Duration, answer: Pin<Box<impl Future<Output = T>>>) -> Option<T> {
    let (left, began) = (LEFT.try_with(Cell::get).ok(), uptime());
    let answer = tokio::select! {
        answer = answer => Some(answer),
        () = sleep(left.map_or(limit, |left| left.min(limit))) => None,
    };
    if let Some(left) = left {
        let took = uptime().saturating_sub(began);
        // A wait within a wait has taken its part already, which is part of this one.
        let _ = LEFT.try_with(|now| now.set(left.saturating_sub(took)));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_statements_of_a_request_share_what_it_has() {
        let began = uptime();
        let answered = of_one_request(async {
            let mut answered = 0;
            while limited(EACH * 2, Box::pin(sleep(EACH))).await.is_some() {
                answered += 1;
            }
            // Nothing is left.
            assert!(limited(EACH, Box::pin(sleep(Duration::from_millis(1)))).await.is_none());
            answered
        });
        assert_eq!(answered.await, 2);
        assert_eq!(uptime(), began + ALLOWANCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_within_a_wait_counts_once() {
        of_one_request(async {
            let outer = limited(EACH * 2, Box::pin(limited(EACH * 2, Box::pin(sleep(EACH)))));
            assert_eq!(outer.await, Some(Some(())));
            assert_eq!(LEFT.with(Cell::get) + EACH, ALLOWANCE);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_has_the_limit_of_each_statement_alone() {
        for _ in 0..10 {
            assert!(limited(EACH * 2, Box::pin(sleep(EACH))).await.is_some());
        }
        assert!(limited(EACH, Box::pin(sleep(EACH * 2))).await.is_none());
    }
}
