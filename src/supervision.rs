//! Tasks that run as long as the server: restarted when they end, and reported by `/livez` when they are stuck.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{sleep, uptime};

/// How long a task that ended waits for its next start, so that one that always panics does not occupy a core.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What the loops of a server report to. Clones share the list.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<Vec<Weak<Pulse>>>>);

/// When a loop last completed a turn. It is watched until it is dropped.
pub struct Pulse {
    task: &'static str,
    longest: Duration,
    last: Mutex<Duration>,
}

impl Pulse {
    /// Notes that a turn is complete. A loop that panics in every turn never gets here.
    pub fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = uptime();
    }

    fn age(&self) -> Duration {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        uptime().saturating_sub(last)
    }
}

impl Tasks {
    /// Watches a loop whose turns, with the pause between two of them, take at most this long.
    #[must_use]
    pub fn watch(&self, task: &'static str, longest: Duration) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse {
            task,
            longest,
            last: Mutex::new(uptime()),
        });
        let mut pulses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulses.retain(|pulse| pulse.strong_count() > 0);
        pulses.push(Arc::downgrade(&pulse));
        pulse
    }

    /// The loops that completed no turn for longer than they should, and for how long.
    #[must_use]
    pub fn stuck(&self) -> Vec<(&'static str, Duration)> {
        let pulses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulses
            .iter()
            .filter_map(Weak::upgrade)
            .map(|pulse| (pulse.task, pulse.age(), pulse.longest))
            .filter(|(_, age, longest)| age > longest)
            .map(|(task, age, _)| (task, age))
            .collect()
    }

    /// Runs a loop until the server stops, and starts it again if it ends or panics before that.
    pub async fn supervise<F>(
        self,
        task: &'static str,
        longest: Duration,
        mut stop: watch::Receiver<bool>,
        run: impl Fn(Arc<Pulse>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let pulse = self.watch(task, longest);
        loop {
            let ended = tokio::spawn(run(Arc::clone(&pulse))).await;
            // A server that is gone has stopped as well.
            if *stop.borrow() || stop.has_changed().is_err() {
                return;
            }
            match ended {
                Ok(()) => tracing::error!(task, "a task ended before the server stopped; it is started again"),
                Err(error) => tracing::error!(task, %error, "a task failed; it is started again"),
            }
            tokio::select! {
                () = sleep(RESTART_PAUSE) => {}
                _ = stop.wait_for(|&stop| stop) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_completes_no_turn_is_stuck_until_it_does() {
        let tasks = Tasks::default();
        let pulse = tasks.watch("follow", LONGEST);
        sleep(LONGEST).await;
        assert_eq!(tasks.stuck(), []);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(tasks.stuck().len(), 1);
        assert_eq!(tasks.stuck()[0].0, "follow");
        pulse.beat();
        assert_eq!(tasks.stuck(), []);
        sleep(LONGEST * 2).await;
        drop(pulse);
        assert_eq!(tasks.stuck(), [], "it is not watched any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_or_ends_is_started_again() {
        for panics in [true, false] {
            let tasks = Tasks::default();
            let (stop, stopped) = watch::channel(false);
            let starts = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&starts);
            let supervised = tokio::spawn(
                tasks
                    .clone()
                    .supervise("follow", LONGEST, stopped.clone(), move |pulse| {
                        let start = counted.fetch_add(1, Ordering::Relaxed);
                        let mut stopped = stopped.clone();
                        async move {
                            if start < 3 {
                                assert!(!panics, "the first three end at once");
                                return;
                            }
                            pulse.beat();
                            let _ = stopped.wait_for(|&stop| stop).await;
                        }
                    }),
            );
            sleep(Duration::from_secs(5)).await;
            assert_eq!(starts.load(Ordering::Relaxed), 4);
            assert_eq!(tasks.stuck(), []);
            stop.send_replace(true);
            supervised.await.unwrap();
            assert_eq!(starts.load(Ordering::Relaxed), 4);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_in_every_turn_is_stuck() {
        let tasks = Tasks::default();
        let (stop, stopped) = watch::channel(false);
        let supervised = tokio::spawn(tasks.clone().supervise("rotate", LONGEST, stopped, |_| async {
            panic!("in every turn");
        }));
        sleep(LONGEST * 2).await;
        assert_eq!(tasks.stuck()[0].0, "rotate");
        stop.send_replace(true);
        supervised.await.unwrap();
    }
}
