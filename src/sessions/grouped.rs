//! Questions to the database that come while one is being answered: they wait for it, and are asked together (group commit).
//!
//! Alone, a question is asked at once. Under load the database answers many with one statement and one commit, so that a refresh
//! costs it the less, the more there are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::sleep;

/// How many are asked together at most.
const MOST: usize = 256;

/// How long the database may take; longer than it takes by itself to give up whatever it gives up. A connection may die unheard
/// while it answers, and those who wait must not wait for that.
const PATIENCE: Duration = Duration::from_secs(10);

/// One kind of question.
pub struct Grouped<Q, A>(Arc<Mutex<Waiting<Q, A>>>);

struct Waiting<Q, A> {
    questions: Vec<(Q, oneshot::Sender<A>)>,
    /// Whether somebody asks, and will ask again for those who came meanwhile.
    is_asking: bool,
}

impl<Q, A> Default for Grouped<Q, A> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Waiting {
            questions: Vec::new(),
            is_asking: false,
        })))
    }
}

impl<Q: Clone + Send + 'static, A: Send + 'static> Grouped<Q, A> {
    /// The answer to this question. `ask` answers many, in their order; whose question finds nobody asking brings the one that is
    /// used.
    pub async fn answer<F>(&self, question: Q, ask: impl Fn(Vec<Q>) -> F + Clone + Send + Sync + 'static) -> A
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        loop {
            let (sender, answer) = oneshot::channel();
            let is_first = {
                let mut waiting = lock(&self.0);
                waiting.questions.push((question.clone(), sender));
                !std::mem::replace(&mut waiting.is_asking, true)
            };
            if is_first {
                let mut asking = Asking {
                    waiting: Arc::clone(&self.0),
                    is_done: false,
                };
                if let Some(waiting) = asking.take() {
                    put(waiting, &ask).await;
                    asking.go_on(ask.clone());
                }
            }
            if let Ok(answer) = answer.await {
                return answer;
            }
            // Whoever asked was cut short: its client has gone away, or the database took too long.
        }
    }
}

async fn put<Q, A, F>(waiting: Vec<(Q, oneshot::Sender<A>)>, ask: &impl Fn(Vec<Q>) -> F)
where
    F: Future<Output = Vec<A>>,
{
    let (questions, senders): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
    let answers = tokio::select! {
        answers = ask(questions) => answers,
        // They ask again, by a connection that lives or is found not to.
        () = sleep(PATIENCE) => return,
    };
    for (sender, answer) in senders.into_iter().zip(answers) {
        // Whose client has gone away does not wait any more.
        let _ = sender.send(answer);
    }
}

fn lock<Q, A>(waiting: &Mutex<Waiting<Q, A>>) -> MutexGuard<'_, Waiting<Q, A>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one who asks.
struct Asking<Q, A> {
    waiting: Arc<Mutex<Waiting<Q, A>>>,
    is_done: bool,
}

impl<Q: Send + 'static, A: Send + 'static> Asking<Q, A> {
    /// Goes on by itself, so that the first one need not stay for those who came meanwhile.
    fn go_on<F>(mut self, ask: impl Fn(Vec<Q>) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let mut next = self.take();
        if next.is_some() {
            tokio::spawn(async move {
                while let Some(waiting) = next {
                    put(waiting, &ask).await;
                    next = self.take();
                }
            });
        }
    }

    /// Those who wait; none when nobody does, and then this one asks no more.
    fn take(&mut self) -> Option<Vec<(Q, oneshot::Sender<A>)>> {
        let mut waiting = lock(&self.waiting);
        let count = waiting.questions.len().min(MOST);
        self.is_done = count == 0;
        waiting.is_asking = !self.is_done;
        (!self.is_done).then(|| waiting.questions.drain(..count).collect())
    }
}

impl<Q, A> Drop for Asking<Q, A> {
    /// Cut short, by a client that went away or a panic: those who wait learn it, and ask again.
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        if !self.is_done {
            waiting.is_asking = false;
            waiting.questions.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    type Counted = Grouped<u32, (u32, usize)>;

    /// Ten times the question, and how many were asked together.
    async fn ask(questions: Vec<u32>) -> Vec<(u32, usize)> {
        tokio::task::yield_now().await;
        let count = questions.len();
        questions.into_iter().map(|question| (question * 10, count)).collect()
    }

    #[tokio::test]
    async fn everybody_gets_their_own_answer_and_those_who_wait_are_asked_together() {
        let grouped = Arc::new(Counted::default());
        let tasks: Vec<_> = (0..600)
            .map(|question| {
                let grouped = Arc::clone(&grouped);
                tokio::spawn(async move { (question, grouped.answer(question, ask).await) })
            })
            .collect();
        let mut largest = 0;
        for task in tasks {
            let (question, (answer, count)) = task.await.unwrap();
            assert_eq!(answer, question * 10);
            largest = largest.max(count);
        }
        assert_eq!(largest, MOST);
        assert_eq!(grouped.answer(7, ask).await, (70, 1));
    }

    #[tokio::test]
    async fn whose_client_goes_away_holds_up_nobody() {
        let grouped = Arc::new(Counted::default());
        let (_never, hanging) = tokio::sync::watch::channel(());
        let gone = {
            let (grouped, hanging) = (Arc::clone(&grouped), hanging.clone());
            let hang = move |_| {
                let mut hanging = hanging.clone();
                async move {
                    let _ = hanging.changed().await;
                    Vec::new()
                }
            };
            tokio::spawn(async move { grouped.answer(1, hang).await })
        };
        tokio::task::yield_now().await;
        let waiting = {
            let grouped = Arc::clone(&grouped);
            tokio::spawn(async move { grouped.answer(2, ask).await })
        };
        tokio::task::yield_now().await;
        gone.abort();
        assert_eq!(waiting.await.unwrap(), (20, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_died_unheard_holds_nobody_up_for_long() {
        let grouped = Arc::new(Counted::default());
        let died = Arc::new(AtomicBool::new(false));
        let ask_once_in_vain = move |questions: Vec<u32>| {
            let is_first = !died.swap(true, Ordering::Relaxed);
            async move {
                if is_first {
                    std::future::pending::<()>().await;
                }
                ask(questions).await
            }
        };
        let mut tasks = tokio::task::JoinSet::new();
        for question in 1..=3 {
            let (grouped, ask) = (Arc::clone(&grouped), ask_once_in_vain.clone());
            tasks.spawn(async move { grouped.answer(question, ask).await.0 });
        }
        let answers = tokio::time::timeout(PATIENCE * 2, tasks.join_all()).await;
        let mut answers = answers.expect("they wait for the connection that died");
        answers.sort_unstable();
        assert_eq!(answers, [10, 20, 30]);
    }

    #[tokio::test]
    async fn after_a_panic_the_next_one_asks() {
        let grouped = Arc::new(Counted::default());
        let panicked = {
            let grouped = Arc::clone(&grouped);
            tokio::spawn(async move { grouped.answer(1, |_| async { panic!("as told") }).await })
        };
        assert!(panicked.await.unwrap_err().is_panic());
        assert_eq!(grouped.answer(2, ask).await, (20, 1));
    }
}
