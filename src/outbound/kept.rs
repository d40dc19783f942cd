//! Documents of others, fetched when they are needed and cached.
//!
//! A request that the cache can answer waits for nothing: not for a lock, not for a fetch. A stale document is answered at once and
//! renewed behind. Only a request that needs what the cache does not have waits, for a fetch that it shares with all others.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::clock::{Clock, sleep};

use super::FetchError;

/// How many documents are cached; beyond, the one that was used least recently makes room.
const MAX_DOCUMENTS: usize = 1_024;
/// How many fetches run at once.
pub const MAX_FETCHES: usize = 32;
/// How many of them go to one host: a slow one leaves room for the others.
pub const MAX_FETCHES_OF_HOST: usize = 4;
/// How long a request waits for a fetch, which may wait for others itself.
const PATIENCE: Duration = Duration::from_secs(6);

/// How long something is cached. All of it is compared with monotonic time.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheWindows {
    /// How long it is used without asking for a newer one.
    pub fresh: Duration,
    /// How long it is then used at once, while a newer one is asked for.
    pub stale: Duration,
    /// How long it is used when no newer one can be had.
    pub longest: Duration,
    /// From the end of an attempt, whatever came of it, none is made for this long.
    pub cooldown: Duration,
}

/// What is known of one address.
struct DocumentState<T, E> {
    found: Option<(T, Duration)>,
    /// When the last attempt ended.
    ended: Option<Duration>,
    /// Why the last attempt failed.
    failure: Option<E>,
    is_fetching: bool,
    used: Duration,
}

struct DocumentSlot<T, E> {
    state: Mutex<DocumentState<T, E>>,
    /// Counts the attempts that have ended.
    attempts: watch::Sender<u64>,
}

impl<T, E> Default for DocumentSlot<T, E> {
    fn default() -> Self {
        Self {
            state: Mutex::new(DocumentState {
                found: None,
                ended: None,
                failure: None,
                is_fetching: false,
                used: Duration::ZERO,
            }),
            attempts: watch::Sender::new(0),
        }
    }
}

impl<T, E> DocumentSlot<T, E> {
    fn lock(&self) -> MutexGuard<'_, DocumentState<T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone, E: Clone + From<FetchError>> DocumentState<T, E> {
    /// What can be answered without another attempt.
    fn outcome(&self, now: Duration, longest: Duration) -> Result<T, E> {
        match &self.found {
            Some((found, at)) if now.saturating_sub(*at) < longest => Ok(found.clone()),
            _ => Err(self.failure.clone().unwrap_or_else(|| FetchError::TooSlow.into())),
        }
    }
}

/// An attempt that runs. If its task dies, the next request may make another one.
struct FetchAttempt<T, E: From<FetchError>> {
    place: Arc<DocumentSlot<T, E>>,
    started: Duration,
    clock: Clock,
    began: Duration,
    result: Option<Result<T, E>>,
}

impl<T, E: From<FetchError>> Drop for FetchAttempt<T, E> {
    fn drop(&mut self) {
        // The fetch takes real time, whatever clock `started` was read from.
        let ended = self.started + self.clock.read().monotonic.saturating_sub(self.began);
        let mut state = self.place.lock();
        state.is_fetching = false;
        state.ended = Some(ended);
        match self.result.take() {
            Some(Ok(found)) => {
                // A document may be as old as the beginning of its fetch.
                state.found = Some((found, self.started));
                state.failure = None;
            }
            Some(Err(failure)) => state.failure = Some(failure),
            None => state.failure = Some(FetchError::Unreachable.into()),
        }
        drop(state);
        self.place.attempts.send_modify(|attempts| *attempts += 1);
    }
}

/// The documents of many addresses. `T` is cheap to clone.
pub(super) struct KeptDocuments<K, T, E> {
    windows: CacheWindows,
    clock: Clock,
    places: Mutex<HashMap<K, Arc<DocumentSlot<T, E>>>>,
    fetches: Arc<Semaphore>,
    fetches_of_hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl<K, T, E> KeptDocuments<K, T, E>
where
    K: Eq + Hash + Clone,
    T: Clone + Send + 'static,
    E: Clone + From<FetchError> + Send + 'static,
{
    /// Nothing is fetched yet.
    pub fn new(windows: CacheWindows) -> Self {
        Self {
            windows,
            clock: Clock::system(),
            places: Mutex::default(),
            fetches: Arc::new(Semaphore::new(MAX_FETCHES)),
            fetches_of_hosts: Mutex::default(),
        }
    }

    /// What `fetch` gives for this address at this host, now or a while ago; `fits` says whether what is needed is in what is cached.
    ///
    /// # Errors
    /// Why there is nothing, when nothing can be had that is young enough.
    pub async fn find<F>(
        &self,
        key: &K,
        host: &str,
        now: Duration,
        fits: impl Fn(&T) -> bool,
        fetch: impl FnOnce() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let place = self.place(key, now);
        let mut attempts = {
            let mut state = place.lock();
            let age = state.found.as_ref().map(|(_, at)| now.saturating_sub(*at));
            let is_fitting = state.found.as_ref().is_some_and(|(found, _)| fits(found));
            let answer = state.outcome(now, self.windows.longest);
            if is_fitting && age.is_some_and(|age| age < self.windows.fresh) {
                return answer;
            }
            let is_cooling = state
                .ended
                .is_some_and(|ended| now.saturating_sub(ended) < self.windows.cooldown);
            if !state.is_fetching {
                if is_cooling {
                    return answer;
                }
                state.is_fetching = true;
                self.start(&place, host, now, fetch());
            }
            // After the window for stale documents an attempt that failed already is not waited for again.
            let may_be_stale = age.is_some_and(|age| age < self.windows.stale) || state.failure.is_some();
            if is_fitting && may_be_stale && answer.is_ok() {
                return answer;
            }
            place.attempts.subscribe()
        };
        tokio::select! {
            _ = attempts.changed() => {}
            () = sleep(PATIENCE) => {}
        }
        place.lock().outcome(now, self.windows.longest)
    }

    /// In a task of its own: a request that is given up ends no fetch that others wait for.
    fn start(
        &self,
        place: &Arc<DocumentSlot<T, E>>,
        host: &str,
        started: Duration,
        fetch: impl Future<Output = Result<T, E>> + Send + 'static,
    ) {
        let mut attempt = FetchAttempt {
            place: Arc::clone(place),
            started,
            clock: self.clock.clone(),
            began: self.clock.read().monotonic,
            result: None,
        };
        let (of_host, all) = (self.fetches_of(host), Arc::clone(&self.fetches));
        tokio::spawn(async move {
            // The host's first: while it waits for a slow host, it takes no room from others.
            let permits = (of_host.acquire().await, all.acquire().await);
            if permits.0.is_ok() && permits.1.is_ok() {
                attempt.result = Some(fetch.await);
            }
            drop(attempt);
        });
    }

    fn fetches_of(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.fetches_of_hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MAX_DOCUMENTS && !hosts.contains_key(host) {
            hosts.retain(|_, fetches| Arc::strong_count(fetches) > 1);
        }
        let fetches = hosts.entry(host.to_owned());
        Arc::clone(fetches.or_insert_with(|| Arc::new(Semaphore::new(MAX_FETCHES_OF_HOST))))
    }

    fn place(&self, key: &K, now: Duration) -> Arc<DocumentSlot<T, E>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MAX_DOCUMENTS && !places.contains_key(key) {
            let oldest = places.iter().min_by_key(|(_, place)| place.lock().used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                places.remove(&oldest);
            }
        }
        let place = Arc::clone(places.entry(key.clone()).or_default());
        place.lock().used = now;
        place
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const WINDOWS: CacheWindows = CacheWindows {
        fresh: Duration::from_mins(1),
        stale: Duration::from_mins(3),
        longest: Duration::from_hours(1),
        cooldown: Duration::from_secs(1),
    };

    type Documents = KeptDocuments<u16, u8, FetchError>;

    /// A fetch that answers when the test says so.
    async fn held(mut answer: watch::Receiver<Option<Result<u8, FetchError>>>) -> Result<u8, FetchError> {
        let answered = answer.wait_for(Option::is_some).await;
        answered.map_or(Err(FetchError::Unreachable), |answer| {
            answer.unwrap_or(Err(FetchError::Unreachable))
        })
    }

    /// Polled once: what waits for nothing is there.
    async fn at_once<T>(answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = Box::pin(answer);
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match answer.as_mut().poll(context) {
                std::task::Poll::Ready(answer) => Some(answer),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    /// Lets every task go on as far as it can: there is one thread.
    async fn settle() {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// All that wait for an address that does not answer learn it together, however late they came.
    #[tokio::test]
    async fn who_waited_for_an_attempt_makes_none() {
        let kept: Arc<Documents> = Arc::new(KeptDocuments::new(WINDOWS));
        let attempts = Arc::new(AtomicU64::new(0));
        let (answer, answered) = watch::channel(None);
        let waiting: Vec<_> = (0..20)
            .map(|number| {
                let (kept, attempts, answered) = (Arc::clone(&kept), Arc::clone(&attempts), answered.clone());
                tokio::spawn(async move {
                    let fetch = || {
                        attempts.fetch_add(1, Ordering::SeqCst);
                        held(answered)
                    };
                    kept.find(&0, "a", secs(2 * number), |_| true, fetch).await
                })
            })
            .collect();
        settle().await;
        answer.send_replace(Some(Err(FetchError::TooSlow)));
        for task in waiting {
            assert_eq!(task.await.unwrap(), Err(FetchError::TooSlow));
        }
        assert_eq!(attempts.load(Ordering::SeqCst), 1);
        let again = kept.find(&0, "a", secs(60), |_| true, || async { Ok(7) }).await;
        assert_eq!(again, Ok(7));
    }

    /// A caller that needs a key which is not there waits for a slow host; the others do not wait for that caller.
    #[tokio::test]
    async fn what_is_fresh_is_answered_while_a_fetch_hangs() {
        let kept: Documents = KeptDocuments::new(WINDOWS);
        let (_answer, answered) = watch::channel(None);
        assert_eq!(kept.find(&0, "a", secs(10), |_| true, || async { Ok(7) }).await, Ok(7));
        let mut stranger = Box::pin(kept.find(&0, "a", secs(20), |_| false, || held(answered.clone())));
        assert_eq!(at_once(&mut stranger).await, None);
        settle().await;
        for second in 21..69 {
            let answer = at_once(kept.find(&0, "a", secs(second), |_| true, || held(answered.clone()))).await;
            assert_eq!(answer, Some(Ok(7)), "{second}");
        }
    }

    #[tokio::test]
    async fn what_is_stale_is_answered_at_once_and_renewed_behind() {
        let kept: Documents = KeptDocuments::new(WINDOWS);
        let (answer, answered) = watch::channel(None);
        let attempts = AtomicU64::new(0);
        let find = |second: u64| {
            kept.find(
                &0,
                "a",
                secs(second),
                |_| true,
                || {
                    attempts.fetch_add(1, Ordering::SeqCst);
                    held(answered.clone())
                },
            )
        };
        assert_eq!(kept.find(&0, "a", secs(0), |_| true, || async { Ok(7) }).await, Ok(7));
        for second in [60, 61, 100, 179] {
            assert_eq!(at_once(find(second)).await, Some(Ok(7)), "{second}");
            settle().await;
        }
        assert_eq!(
            attempts.load(Ordering::SeqCst),
            1,
            "the host hangs: one attempt at a time"
        );
        // Past the bound it is waited for, once.
        let mut waiting = Box::pin(find(181));
        assert_eq!(at_once(&mut waiting).await, None);
        answer.send_replace(Some(Err(FetchError::TooSlow)));
        assert_eq!(waiting.await, Ok(7), "what is known is used when no newer can be had");
        assert_eq!(
            at_once(find(200)).await,
            Some(Ok(7)),
            "an attempt has failed: it is not waited for again"
        );
        settle().await;
        answer.send_replace(Some(Ok(8)));
        assert_eq!(at_once(find(300)).await, Some(Ok(7)));
        settle().await;
        assert_eq!(at_once(find(301)).await, Some(Ok(8)));
        // Nothing is used longer than the longest window.
        answer.send_replace(Some(Err(FetchError::Status)));
        assert_eq!(find(300 + 3_600).await, Err(FetchError::Status));
    }

    #[tokio::test]
    async fn the_cooldown_counts_from_the_end_of_an_attempt() {
        let kept: Documents = KeptDocuments::new(CacheWindows {
            cooldown: Duration::from_millis(200),
            ..WINDOWS
        });
        let slow = || async {
            sleep(Duration::from_millis(300)).await;
            Err(FetchError::TooSlow)
        };
        let never = || async { Ok(1) };
        assert_eq!(
            kept.find(&0, "a", secs(0), |_| true, slow).await,
            Err(FetchError::TooSlow)
        );
        let during = Duration::from_millis(450);
        assert_eq!(
            at_once(kept.find(&0, "a", during, |_| true, never)).await,
            Some(Err(FetchError::TooSlow)),
            "200 ms after the beginning, but not after the end"
        );
        assert_eq!(kept.find(&0, "a", secs(60), |_| true, never).await, Ok(1));
    }

    /// One host that hangs, with many addresses, leaves room for the fetches of others.
    #[tokio::test]
    async fn a_slow_host_does_not_hold_up_others() {
        let kept: Arc<Documents> = Arc::new(KeptDocuments::new(WINDOWS));
        let (_answer, answered) = watch::channel(None);
        let running = Arc::new(AtomicU64::new(0));
        for key in 0..200 {
            let (answered, running) = (answered.clone(), Arc::clone(&running));
            let fetch = || async move {
                running.fetch_add(1, Ordering::SeqCst);
                held(answered).await
            };
            assert_eq!(at_once(kept.find(&key, "slow", secs(0), |_| true, fetch)).await, None);
        }
        settle().await;
        assert_eq!(running.load(Ordering::SeqCst), MAX_FETCHES_OF_HOST as u64);
        assert_eq!(
            kept.find(&999, "quick", secs(0), |_| true, || async { Ok(7) }).await,
            Ok(7)
        );
    }

    #[tokio::test]
    async fn the_least_recently_used_makes_room() {
        let kept: Documents = KeptDocuments::new(WINDOWS);
        let most = u16::try_from(MAX_DOCUMENTS).unwrap();
        for key in 0..most {
            assert_eq!(
                kept.find(&key, "a", secs(u64::from(key) / 100), |_| true, || async { Ok(1) })
                    .await,
                Ok(1)
            );
        }
        // The first is used again, so that it stays; one more takes the place of another.
        assert_eq!(kept.find(&0, "a", secs(20), |_| true, || async { Ok(2) }).await, Ok(1));
        assert_eq!(
            kept.find(&most, "a", secs(21), |_| true, || async { Ok(3) }).await,
            Ok(3)
        );
        assert_eq!(kept.find(&0, "a", secs(22), |_| true, || async { Ok(2) }).await, Ok(1));
        assert_eq!(kept.places.lock().unwrap().len(), MAX_DOCUMENTS);
    }

    /// A task that dies is an attempt that failed.
    #[tokio::test]
    async fn an_attempt_that_dies_is_followed_by_another() {
        let kept: Documents = KeptDocuments::new(WINDOWS);
        let dies = || async { panic!("a fault in the fetch") };
        assert_eq!(
            kept.find(&0, "a", secs(0), |_| true, dies).await,
            Err(FetchError::Unreachable)
        );
        assert_eq!(kept.find(&0, "a", secs(9), |_| true, || async { Ok(7) }).await, Ok(7));
    }
}
