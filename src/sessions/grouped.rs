//! Questions to the database that come while one is being answered: they wait for it, and are asked together (group commit).
//!
//! Alone, a question is asked at once. Under load the database answers many with one statement and one commit, so that a refresh
//! costs it the less, the more there are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How many are asked together at most.
const MOST: usize = 256;

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

impl<Q: Send + 'static, A: Send + 'static> Grouped<Q, A> {
    /// The answer to this question; none when the server stops meanwhile. `ask` answers many, in their order; whose question finds
    /// nobody asking brings the one that is used.
    pub async fn answer<F>(&self, question: Q, ask: impl Fn(Vec<Q>) -> F + Send + 'static) -> Option<A>
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let is_first = {
            let mut waiting = lock(&self.0);
            waiting.questions.push((question, sender));
            !std::mem::replace(&mut waiting.is_asking, true)
        };
        if is_first {
            // On its own, so that nobody waits for a client that has gone away.
            let asking = Asking {
                waiting: Arc::clone(&self.0),
                is_done: false,
            };
            tokio::spawn(asking.all(ask));
        }
        answer.await.ok()
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

impl<Q, A> Asking<Q, A> {
    async fn all<F>(mut self, ask: impl Fn(Vec<Q>) -> F)
    where
        F: Future<Output = Vec<A>>,
    {
        while let Some((questions, senders)) = self.next() {
            for (sender, answer) in senders.into_iter().zip(ask(questions).await) {
                // Whose client has gone away does not wait any more.
                let _ = sender.send(answer);
            }
        }
    }

    fn next(&mut self) -> Option<(Vec<Q>, Vec<oneshot::Sender<A>>)> {
        let mut waiting = lock(&self.waiting);
        let count = waiting.questions.len().min(MOST);
        self.is_done = count == 0;
        waiting.is_asking = count > 0;
        (count > 0).then(|| waiting.questions.drain(..count).unzip())
    }
}

impl<Q, A> Drop for Asking<Q, A> {
    /// Cut short, by a panic or the end of the server: those who wait learn it, and the next one asks again.
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
            let (question, answer) = task.await.unwrap();
            let (answer, count) = answer.unwrap();
            assert_eq!(answer, question * 10);
            largest = largest.max(count);
        }
        assert_eq!(largest, MOST);
        assert_eq!(grouped.answer(7, ask).await, Some((70, 1)));
    }

    #[tokio::test]
    async fn whose_client_goes_away_holds_up_nobody() {
        let grouped = Arc::new(Counted::default());
        let gone = {
            let grouped = Arc::clone(&grouped);
            tokio::spawn(async move { grouped.answer(1, ask).await })
        };
        tokio::task::yield_now().await;
        gone.abort();
        assert_eq!(grouped.answer(2, ask).await.unwrap().0, 20);
    }

    #[tokio::test]
    async fn after_a_panic_the_next_one_asks() {
        let grouped = Counted::default();
        assert_eq!(grouped.answer(1, |_| async { panic!("as told") }).await, None);
        assert_eq!(grouped.answer(2, ask).await, Some((20, 1)));
    }
}
