//! Turns of requests that came before the answer to the one before them (RFC 9112, 9.3.2). Between two of them a worker looks at
//! all its connections again: whoever waits for an answer waits for one of these at most, however many are sent.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio_util::sync::PollSemaphore;

thread_local! {
    // A worker is a thread, and a turn is a worker's.
    static TURNS: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// A connection's turn.
pub(super) struct Turn {
    turns: PollSemaphore,
    taken: Option<OwnedSemaphorePermit>,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self {
            turns: PollSemaphore::new(TURNS.with(Arc::clone)),
            taken: None,
        }
    }

    /// Waits for the turn, and then until everybody else has been heard.
    pub(super) fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.taken.is_none() {
            // Never closed, so that there always is one.
            self.taken = ready!(self.turns.poll_acquire(context));
            // Its first poll wakes this task, once the worker has looked at its sockets.
            let mut others = pin!(yield_now());
            return Pin::new(&mut others).poll(context);
        }
        Poll::Ready(())
    }

    /// Lets another connection go on.
    pub(super) fn give_back(&mut self) {
        self.taken = None;
    }
}
