//! How long the database may take for one request: each statement has a limit of its own, and a request has several of them.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{sleep, uptime};

use super::StoreError;

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
        .unwrap_or_else(|| Err(used_up()))
}

/// What a request has nothing left for ends with this. It says nothing of the connection, unlike a statement that takes too long.
pub(super) fn used_up() -> StoreError {
    let reason = "the statements of a request took too long together";
    StoreError::Unavailable(Arc::new(sqlx::Error::Io(std::io::Error::other(reason))))
}

/// Whether a statement with this limit of its own has less than that.
pub(super) fn is_less_than(limit: Duration) -> bool {
    LEFT.try_with(|left| left.get() < limit).unwrap_or(false)
}

/// Does work that must not be cut off when the request has nothing left: it goes on by itself then. Answers with what it came to, if
/// that was in time.
pub async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    limited(ALLOWANCE, Box::pin(tokio::spawn(work))).await?.ok()
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
    async fn what_must_not_be_cut_off_goes_on_when_nothing_is_left() {
        let (done, mut is_done) = tokio::sync::watch::channel(false);
        of_one_request(async {
            assert_eq!(to_the_end(async { 7 }).await, Some(7));
            let _ = limited(ALLOWANCE, Box::pin(sleep(ALLOWANCE))).await;
            let work = async move {
                for _ in 0..5 {
                    limited(EACH * 2, Box::pin(sleep(EACH))).await.unwrap();
                }
                done.send_replace(true);
            };
            assert_eq!(to_the_end(work).await, None);
        })
        .await;
        assert!(is_done.wait_for(|done| *done).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_has_the_limit_of_each_statement_alone() {
        for _ in 0..10 {
            assert!(limited(EACH * 2, Box::pin(sleep(EACH))).await.is_some());
        }
        assert!(limited(EACH, Box::pin(sleep(EACH * 2))).await.is_none());
    }
}
