//! The log of a process: its form, its filter, and where its lines go.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::sync::LazyLock;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;

use super::format::{Lines, Quoted};
use super::log_queue::LogQueue;

/// There is one log a process, and it may run before there are metrics.
pub(super) static DROPPED_LOG_LINES: LazyLock<Counter> = LazyLock::new(Counter::default);

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line; control characters in values are escaped.
    Json,
}

/// The log of a server; the last lines are written when it is dropped.
pub struct Logging(LogQueue);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Sends logs to standard error from now on, panics among them.
///
/// # Errors
/// When the system refuses a thread.
pub fn start_logging(format: LogFormat, filter: &str) -> std::io::Result<Logging> {
    let queue = LogQueue::start(std::io::stderr(), DROPPED_LOG_LINES.clone())?;
    let lines = Lines {
        queue: queue.clone(),
        is_json: format == LogFormat::Json,
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter_of(filter))
        .with_writer(lines);
    match format {
        LogFormat::Text => logs.fmt_fields(Quoted).init(),
        LogFormat::Json => logs.json().init(),
    }
    // The hook of the standard library writes to standard error itself, and waits for its reader.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace));
        tracing::error!(location, backtrace, "panic: {message}");
    }));
    Ok(Logging(queue))
}

/// The filter, without lines of libraries that it does not name: any caller could fill the log with malformed requests, and the pool
/// writes a line for each connection that it gives up while a database is away.
fn filter_of(text: &str) -> EnvFilter {
    let left_out = [
        ("actix_http", "actix_http=off"),
        ("sqlx", "sqlx_core::pool=off"),
        // "relation already exists, skipping", at a start that brings the schema up to date.
        ("sqlx", "sqlx=warn"),
    ];
    let directives = left_out.into_iter().filter(|(name, _)| !text.contains(name));
    directives
        .filter_map(|(_, directive)| directive.parse().ok())
        // Configuration has parsed the text before.
        .fold(EnvFilter::new(text), EnvFilter::add_directive)
}
