//! Turns at signing. A worker signs for one request and then looks at all its connections again: whoever asks for the key
//! set waits for one RSA signature at most, however many are asked for.

use std::cell::Cell;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::jose::alg::Algorithm;

/// What a turn has to give. The shortest signatures take one share each while nobody asks for key sets, since to look at all
/// connections costs as much as half of one.
const SHARES: u32 = 8;

/// What one of the shortest signatures takes while key sets are asked for: more of them in a turn would cost whoever waits as much
/// as one of RSA.
const SHARES_BESIDE_KEY_SETS: u32 = 2;

/// How often the worker looks at its connections before it makes one of the longest signatures, as long as it finds key sets to
/// answer. Every 32nd of them takes OpenSSL twice its time, because it makes a new blinding then; with six looks to a signature fewer
/// than one key set in a hundred waits for such a one, even if there always is somebody who asks.
const LOOKS: u32 = 6;

thread_local! {
    // A worker is a thread, and a turn is a worker's.
    static TURNS: Arc<Semaphore> = Arc::new(Semaphore::new(SHARES as usize));
    static KEY_SETS: Cell<u64> = const { Cell::new(0) };
    static FOUND_KEY_SETS: Cell<bool> = const { Cell::new(false) };
}

/// Tells the next turn that this worker has answered with the key set.
pub fn key_set_answered() {
    KEY_SETS.set(KEY_SETS.get().wrapping_add(1));
}

/// Waits until this worker may sign for a request, and until everybody else who asked it for something has been heard. The
/// turn ends when it is dropped.
pub async fn turn(alg: Algorithm) -> Option<OwnedSemaphorePermit> {
    let (shares, looks) = match alg {
        Algorithm::Rs256 => (SHARES, LOOKS),
        Algorithm::Es256 if FOUND_KEY_SETS.get() => (SHARES_BESIDE_KEY_SETS, 1),
        Algorithm::Es256 => (1, 1),
    };
    let turns = TURNS.with(Arc::clone);
    // Never closed, so that there always is one.
    let turn = turns.acquire_many_owned(shares).await.ok();
    for _ in 0..looks {
        let before = KEY_SETS.get();
        tokio::task::yield_now().await;
        let found = KEY_SETS.get() != before;
        FOUND_KEY_SETS.set(found);
        if !found {
            break;
        }
    }
    turn
}
