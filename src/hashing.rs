//! Password hashing off the workers: one thread for each core, of the lowest priority, behind a bounded queue.
//!
//! A hash occupies a core for a large part of a second. With fewer threads than cores a core would lie idle while people wait to
//! log in; with as many, at the same priority, requests would wait behind hashes (measured: 99 % of the smallest answers within
//! 35 ms, not 0.5 ms). So there are as many, and the system gives them only what nothing else wants: Linux lets a request that
//! wakes up take the core from a thread of the policy `SCHED_IDLE` at once (0.7 ms; at the nice value 19 it was 1.6 ms). The
//! price: on a machine whose cores are all busy otherwise, nobody logs in.
//!
//! A place in the queue is taken before anything else is done for an attempt, so that what cannot be hashed costs nothing. Who
//! waits and goes away leaves the queue at once, and is not hashed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

#[cfg(target_os = "linux")]
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::clock::{Clock, Seconds};

/// What one hash is taken to cost until the first was measured.
const ASSUMED: Duration = Duration::from_millis(250);

/// The policy of the threads.
#[cfg(target_os = "linux")]
const WHEN_IDLE: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);

type Job = Box<dyn FnOnce() + Send>;

/// Everything waits; come back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are waiting to be checked; try again in {retry_after}")]
pub struct Overflow {
    /// How long the queue that there is now will take, and up to as long again, at random: those who were refused together do not
    /// come back together.
    pub retry_after: Seconds,
}

/// The work ended without an answer: it panicked, or the threads are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the password could not be hashed")]
pub struct NoAnswer;

/// The threads that hash passwords, and the queue in front of them. Clones share both.
#[derive(Clone)]
pub struct Hashing(Arc<Shared>);

struct Shared {
    clock: Clock,
    threads: usize,
    places: Arc<Semaphore>,
    all_places: usize,
    turns: Arc<Semaphore>,
    jobs: mpsc::Sender<Job>,
    /// Microseconds of one job, as a moving average.
    cost: AtomicU64,
}

/// A place in the queue; given back when it is dropped.
pub struct QueueSlot {
    shared: Arc<Shared>,
    place: OwnedSemaphorePermit,
}

impl Hashing {
    /// Starts the threads, with room for so many that wait. They end when the last clone is gone.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(threads: usize, waiting: usize, clock: Clock) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let all_places = threads.saturating_add(waiting).min(Semaphore::MAX_PERMITS);
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name("hashing".to_owned())
                .spawn(move || work(&queue))?;
        }
        Ok(Self(Arc::new(Shared {
            clock,
            threads,
            places: Arc::new(Semaphore::new(all_places)),
            all_places,
            turns: Arc::new(Semaphore::new(threads)),
            jobs,
            cost: AtomicU64::new(in_microseconds(ASSUMED)),
        })))
    }

    /// Takes a place in the queue.
    ///
    /// # Errors
    /// [`Overflow`] when it is full.
    pub fn reserve(&self) -> Result<QueueSlot, Overflow> {
        let shared = Arc::clone(&self.0);
        match Arc::clone(&shared.places).try_acquire_owned() {
            Ok(place) => Ok(QueueSlot { shared, place }),
            Err(_) => Err(Overflow {
                retry_after: spread(shared.time_for_all()),
            }),
        }
    }

    /// How many places are taken, by those that are hashed and those that wait.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.all_places - self.0.places.available_permits()
    }
}

/// Up to twice as long, at random.
fn spread(Seconds(time): Seconds) -> Seconds {
    Seconds(time.saturating_add(rand::random_range(0..=time)))
}

impl Shared {
    fn time_for_all(&self) -> Seconds {
        let jobs = u64::try_from(self.all_places).unwrap_or(u64::MAX);
        let threads = u64::try_from(self.threads).unwrap_or(1);
        let microseconds = self.cost.load(Ordering::Relaxed).saturating_mul(jobs) / threads;
        Seconds(
            i64::try_from(microseconds.div_ceil(1_000_000))
                .unwrap_or(i64::MAX)
                .max(1),
        )
    }

    fn took(&self, time: Duration) {
        // A lost update of an average is none.
        let before = self.cost.load(Ordering::Relaxed);
        let after = (before.saturating_mul(7).saturating_add(in_microseconds(time))) / 8;
        self.cost.store(after, Ordering::Relaxed);
    }
}

impl QueueSlot {
    /// Waits for a thread and does the work there. Dropped before it begins, the work is not done.
    ///
    /// # Errors
    /// [`NoAnswer`] when the work panicked.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NoAnswer> {
        let Self { shared, place } = self;
        let turn = Arc::clone(&shared.turns).acquire_owned().await.map_err(|_| NoAnswer)?;
        let (answer, answered) = oneshot::channel();
        let of_the_job = Arc::clone(&shared);
        let job = move || {
            // A thread that is free takes a job at once, but not in no time.
            if answer.is_closed() {
                return;
            }
            let started = of_the_job.clock.read().monotonic;
            let result = catch_unwind(AssertUnwindSafe(work));
            of_the_job.took(of_the_job.clock.read().monotonic.saturating_sub(started));
            drop((turn, place));
            if let Ok(result) = result {
                // Who went away meanwhile wants no answer.
                let _ = answer.send(result);
            } else {
                tracing::error!("hashing a password panicked");
            }
        };
        shared.jobs.send(Box::new(job)).map_err(|_| NoAnswer)?;
        drop(shared);
        answered.await.map_err(|_| NoAnswer)
    }
}

/// What a thread does until nobody can send it anything.
fn work(queue: &Mutex<mpsc::Receiver<Job>>) {
    // Only Linux has a priority for each thread; elsewhere this would be the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, WHEN_IDLE) {
        tracing::warn!(
            ?error,
            "passwords are hashed at the priority of requests, which will wait for them"
        );
    }
    loop {
        // One waits for a job, the others for their turn to wait.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(job) => job(),
            Err(mpsc::RecvError) => return,
        }
    }
}

fn in_microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::Poll;

    use super::*;
    use crate::clock::UnixTime;

    fn hashing(threads: usize, waiting: usize) -> (Hashing, Clock) {
        let clock = Clock::manual(UnixTime(0));
        (Hashing::start(threads, waiting, clock.clone()).unwrap(), clock)
    }

    /// Polls once: it then stands in the queue.
    async fn begin<F: Future + Unpin>(future: &mut F) {
        poll_fn(|context| {
            assert!(std::pin::Pin::new(&mut *future).poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_says_how_long_it_takes() {
        let (hashing, clock) = hashing(2, 2);
        let places: Vec<QueueSlot> = (0..4).map(|_| hashing.reserve().unwrap()).collect();
        assert_eq!(hashing.taken(), 4);
        let told = |hashing: &Hashing| hashing.reserve().err().unwrap().retry_after.0;
        assert!((1..=2).contains(&told(&hashing)));
        drop(places);
        assert_eq!(hashing.taken(), 0);
        for _ in 0..60 {
            let clock = clock.clone();
            let place = hashing.reserve().unwrap();
            place.run(move || clock.advance(Seconds(6))).await.unwrap();
        }
        let _places: Vec<QueueSlot> = (0..4).map(|_| hashing.reserve().unwrap()).collect();
        let all: std::collections::BTreeSet<i64> = (0..1_000).map(|_| told(&hashing)).collect();
        // Four of six seconds each, two at a time; by chance one of the thirteen is missing once in 10^33 times.
        assert_eq!(all, (12..=24).collect());
    }

    #[tokio::test]
    async fn who_goes_away_leaves_the_queue_and_is_not_hashed() {
        let (hashing, _) = hashing(1, 1);
        let (go_on, wait) = mpsc::channel::<()>();
        let (log, done) = mpsc::channel();
        let first = log.clone();
        let mut running = pin!(hashing.reserve().unwrap().run(move || {
            wait.recv().unwrap();
            first.send("first").unwrap();
        }));
        begin(&mut running).await;
        {
            let second = log.clone();
            let mut waiting = Box::pin(hashing.reserve().unwrap().run(move || second.send("second").unwrap()));
            begin(&mut waiting).await;
            assert!(hashing.reserve().is_err());
        }
        let place = hashing.reserve().expect("its place is free at once");
        go_on.send(()).unwrap();
        running.await.unwrap();
        place.run(move || log.send("third").unwrap()).await.unwrap();
        assert_eq!(done.iter().collect::<Vec<_>>(), ["first", "third"]);
    }

    #[tokio::test]
    async fn a_panic_costs_neither_a_thread_nor_a_place() {
        let (hashing, _) = hashing(1, 0);
        for _ in 0..3 {
            let place = hashing.reserve().unwrap();
            assert_eq!(
                place.run(|| panic!("as the test wants it")).await,
                Err::<(), _>(NoAnswer)
            );
        }
        assert_eq!(hashing.reserve().unwrap().run(|| 7).await, Ok(7));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn only_its_own_threads_have_the_lowest_priority() {
        use thread_priority::thread_schedule_policy;
        let (hashing, _) = hashing(2, 0);
        let place = hashing.reserve().unwrap();
        assert_eq!(place.run(thread_schedule_policy).await.unwrap(), Ok(WHEN_IDLE));
        assert_ne!(thread_schedule_policy(), Ok(WHEN_IDLE));
    }

    #[tokio::test]
    async fn all_threads_work_at_once() {
        let (hashing, _) = hashing(2, 0);
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let meet = |barrier: &Arc<std::sync::Barrier>| {
            let barrier = Arc::clone(barrier);
            hashing.reserve().unwrap().run(move || barrier.wait().is_leader())
        };
        let (one, other) = tokio::join!(meet(&barrier), meet(&barrier));
        assert!(one.unwrap() != other.unwrap());
    }
}
