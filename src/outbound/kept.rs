//! Documents of others, fetched when they are needed and kept a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::FetchError;

/// How many are kept; beyond, all are fetched anew.
const MOST: usize = 1_024;

/// How long something is kept. All of it is held against monotonic time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// How long it is used without asking for a newer one.
    pub fresh: Duration,
    /// How long it is used when no newer one can be had.
    pub longest: Duration,
    /// After an attempt, whatever came of it, none is made for this long.
    pub cooldown: Duration,
}

/// What is known of one address.
struct Known<T, E> {
    found: Option<(T, Duration)>,
    attempted: Option<Duration>,
    failure: Option<E>,
}

struct Place<T, E> {
    /// Attempts that have ended, read by those who wait for one.
    attempts: AtomicU64,
    known: tokio::sync::Mutex<Known<T, E>>,
}

impl<T, E> Default for Place<T, E> {
    fn default() -> Self {
        let known = Known {
            found: None,
            attempted: None,
            failure: None,
        };
        Self {
            attempts: AtomicU64::new(0),
            known: tokio::sync::Mutex::new(known),
        }
    }
}

/// The documents of many addresses. `T` is cheap to clone.
pub(super) struct Kept<K, T, E> {
    windows: Windows,
    places: Mutex<HashMap<K, Arc<Place<T, E>>>>,
}

impl<K: Eq + Hash + Clone, T: Clone, E: Copy + From<FetchError>> Kept<K, T, E> {
    /// Nothing is fetched yet.
    pub fn new(windows: Windows) -> Self {
        Self {
            windows,
            places: Mutex::default(),
        }
    }

    /// What `fetch` gives for this address, now or a while ago; `fits` says whether what is needed is in what is kept.
    ///
    /// # Errors
    /// Why there is nothing, when nothing can be had that is young enough.
    pub async fn find(
        &self,
        key: &K,
        now: Duration,
        fits: impl Fn(&T) -> bool,
        fetch: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let place = self.place(key);
        let attempts = place.attempts.load(Ordering::Acquire);
        // One fetch at a time; only those wait who need the same document, and they take what came of it: one after the other
        // would wait for an address that does not answer.
        let mut known = place.known.lock().await;
        let was_attempted = place.attempts.load(Ordering::Acquire) != attempts;
        let is_young =
            |limit: Duration, moment: Option<Duration>| moment.is_some_and(|moment| now.saturating_sub(moment) < limit);
        let found = known.found.as_ref();
        let is_wanted =
            !is_young(self.windows.fresh, found.map(|(_, at)| *at)) || !found.is_some_and(|(found, _)| fits(found));
        if is_wanted && !was_attempted && !is_young(self.windows.cooldown, known.attempted) {
            known.attempted = Some(now);
            let fetched = fetch().await;
            place.attempts.fetch_add(1, Ordering::Release);
            match fetched {
                Ok(found) => {
                    known.found = Some((found, now));
                    known.failure = None;
                }
                Err(failure) => known.failure = Some(failure),
            }
        }
        if let Some((found, at)) = &known.found
            && is_young(self.windows.longest, Some(*at))
        {
            return Ok(found.clone());
        }
        // Cut off in the middle of its first fetch: the next attempt says more.
        Err(known.failure.unwrap_or_else(|| FetchError::Unreachable.into()))
    }

    fn place(&self, key: &K) -> Arc<Place<T, E>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MOST && !places.contains_key(key) {
            places.clear();
        }
        Arc::clone(places.entry(key.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows {
        fresh: Duration::from_mins(1),
        longest: Duration::from_hours(1),
        cooldown: Duration::from_secs(1),
    };

    /// Those who wait for an address that does not answer learn it together, however late they came.
    #[tokio::test]
    async fn who_waited_for_an_attempt_makes_none() {
        let kept: Arc<Kept<u8, u8, FetchError>> = Arc::new(Kept::new(WINDOWS));
        let attempts = Arc::new(AtomicU64::new(0));
        let (answer, answered) = tokio::sync::watch::channel(false);
        let waiting: Vec<_> = (0..20)
            .map(|number| {
                let (kept, attempts, mut answered) = (Arc::clone(&kept), Arc::clone(&attempts), answered.clone());
                tokio::spawn(async move {
                    let fetch = async || {
                        attempts.fetch_add(1, Ordering::SeqCst);
                        let _ = answered.wait_for(|answered| *answered).await;
                        Err(FetchError::TooSlow)
                    };
                    kept.find(&0, Duration::from_secs(2 * number), |_| true, fetch).await
                })
            })
            .collect();
        // All have begun when none can go on: there is one thread.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        answer.send_replace(true);
        for task in waiting {
            assert_eq!(task.await.unwrap(), Err(FetchError::TooSlow));
        }
        assert_eq!(attempts.load(Ordering::SeqCst), 1);
        let again = kept.find(&0, Duration::from_mins(1), |_| true, async || Ok(7)).await;
        assert_eq!(again, Ok(7));
    }
}
