//! Log lines on their way out: a bounded queue in front of one thread that writes.
//!
//! Whoever logs never waits and never fails. Where lines cannot be written (a full disk, a reader that is gone or does not read),
//! they are dropped and counted.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

/// The most lines that wait to be written.
pub const MAX_QUEUED_LINES: usize = 4_096;

/// The most bytes that wait to be written.
pub const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the thread waits before it tries a line again that a non-blocking stream did not take.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Where lines are put. Clones share the queue.
#[derive(Clone)]
pub struct LogQueue(Arc<SharedQueue>);

struct SharedQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
    dropped: Counter,
}

#[derive(Default)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    is_writing: bool,
}

impl LogQueue {
    /// Starts the thread that writes to this stream; it runs as long as the process. What is dropped is counted.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(stream: impl Write + Send + 'static, dropped: Counter) -> std::io::Result<Self> {
        let queue = Self(Arc::new(SharedQueue {
            state: Mutex::default(),
            changed: Condvar::new(),
            dropped,
        }));
        let shared = Arc::clone(&queue.0);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write(stream))?;
        Ok(queue)
    }

    /// Puts a line behind the others, or drops it.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.0.lock();
        if state.lines.len() >= MAX_QUEUED_LINES || state.bytes.saturating_add(line.len()) > MAX_QUEUED_BYTES {
            self.0.dropped.inc();
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits a moment until everything is written.
    pub fn flush(&self) {
        let is_busy = |state: &mut QueueState| state.is_writing || !state.lines.is_empty();
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), FLUSH_TIMEOUT, is_busy);
        drop(waited);
    }
}

impl SharedQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, mut stream: impl Write) {
        let mut reported = self.dropped.get();
        let mut is_torn = false;
        loop {
            let line = self.next();
            // A line behind one that was cut off must not become a part of it.
            let end_of_torn = if is_torn { &b"\n"[..] } else { &[] };
            let written = write_all(&mut stream, end_of_torn).and_then(|()| write_all(&mut stream, &line));
            if let Err(bytes) = written {
                is_torn |= bytes > 0;
                self.dropped.inc();
            } else {
                is_torn = false;
            }
            let dropped = self.dropped.get();
            if written.is_ok() && dropped > reported {
                let lines = dropped - reported;
                tracing::warn!(lines, "log lines were dropped, because they could not be written");
                reported = dropped;
            }
            self.lock().is_writing = false;
            self.changed.notify_all();
        }
    }
}

/// Writes everything; on failure answers with the number of bytes that were written before it.
fn write_all(stream: &mut impl Write, bytes: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(0) => return Err(written),
            Ok(count) => written += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::park_timeout(RETRY_PAUSE),
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Takes a write only when the test lets it.
    struct Gate {
        permits: Receiver<std::io::Result<usize>>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = self.permits.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            let _ = self.written.send(bytes[..taken].to_vec());
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (LogQueue, Counter, Sender<std::io::Result<usize>>, Receiver<Vec<u8>>) {
        let (permit, permits) = channel();
        let (written, seen) = channel();
        let dropped = Counter::default();
        let queue = LogQueue::start(Gate { permits, written }, dropped.clone()).unwrap();
        (queue, dropped, permit, seen)
    }

    #[test]
    fn a_stream_that_takes_nothing_costs_a_bounded_queue() {
        let (queue, dropped, permit, seen) = gated();
        for _ in 0..MAX_QUEUED_LINES * 2 {
            queue.push(b"line\n");
        }
        // The thread may hold one line that the queue does not count.
        let lost = usize::try_from(dropped.get()).unwrap();
        assert!((MAX_QUEUED_LINES - 1..=MAX_QUEUED_LINES).contains(&lost), "{lost}");
        queue.flush();
        drop(permit);
        for _ in 0..MAX_QUEUED_LINES * 2 - lost {
            assert_eq!(seen.recv().unwrap(), b"line\n");
        }
    }

    #[test]
    fn long_lines_fill_the_queue_by_their_bytes() {
        let (queue, dropped, _permit, _seen) = gated();
        let long = vec![b'x'; MAX_QUEUED_BYTES / 4];
        for _ in 0..10 {
            queue.push(&long);
        }
        assert!((5..=6).contains(&dropped.get()), "{}", dropped.get());
    }

    #[test]
    fn a_line_that_fails_is_counted_and_the_next_one_begins_a_line() {
        let (queue, dropped, permit, seen) = gated();
        for line in ["first\n", "second\n", "third\n"] {
            queue.push(line.as_bytes());
        }
        permit.send(Ok(2)).unwrap();
        permit.send(Err(std::io::ErrorKind::StorageFull.into())).unwrap();
        permit.send(Err(std::io::ErrorKind::BrokenPipe.into())).unwrap();
        drop(permit);
        let text: Vec<u8> = (0..3).flat_map(|_| seen.recv().unwrap()).collect();
        assert_eq!(text, b"fi\nthird\n");
        assert_eq!(dropped.get(), 2);
    }
}
