//! Turns at signing. A worker signs for one request and then looks at all its connections again: whoever asks for the key
//! set waits for one RSA signature at most, however many are asked for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::jose::alg::Algorithm;

/// How many of the shortest signatures are made in one turn: more would cost whoever waits as much as one of RSA, and fewer each
/// token a look at all connections.
const SHARES: u32 = 4;

thread_local! {
    // A worker is a thread, and a turn is a worker's.
    static TURNS: Arc<Semaphore> = Arc::new(Semaphore::new(SHARES as usize));
}

/// Waits until this worker may sign for a request, and until everybody else who asked it for something has been heard. The
/// turn ends when it is dropped.
pub async fn turn(alg: Algorithm) -> Option<OwnedSemaphorePermit> {
    let shares = match alg {
        Algorithm::Rs256 => SHARES,
        Algorithm::Es256 => 1,
    };
    let turns = TURNS.with(Arc::clone);
    // Never closed, so that there always is one.
    let turn = turns.acquire_many_owned(shares).await.ok();
    tokio::task::yield_now().await;
    turn
}
