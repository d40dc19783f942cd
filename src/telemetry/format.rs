//! The form of log lines for people: values that could be taken for more than one are in quotation marks, and a line of a request names it.

use std::fmt::{self, Debug};
use std::io::Write;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

use super::log_queue::LogQueue;
use super::request::Request;

/// The queue, which names the request in each of its lines.
#[derive(Clone)]
pub(super) struct Lines {
    pub queue: LogQueue,
    pub is_json: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Every event is written in one piece.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        match Request::name_in_line(line, self.is_json) {
            Some(named) => self.queue.push(&named),
            None => self.queue.push(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `name=value`, with quotation marks around a value that holds a space, a sign of its own, or a control character.
pub(super) struct Quoted;

impl<'w> FormatFields<'w> for Quoted {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Visitor {
            writer,
            is_first: true,
            outcome: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.outcome
    }
}

struct Visitor<'w> {
    writer: Writer<'w>,
    is_first: bool,
    outcome: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, name: &str, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        match name {
            "message" => {
                for character in value.chars() {
                    if character.is_control() {
                        write!(self.writer, "{}", character.escape_default())?;
                    } else {
                        self.writer.write_char(character)?;
                    }
                }
                Ok(())
            }
            // For people, over many lines; it holds names of functions and files alone.
            "backtrace" => write!(self.writer, "{name}:\n{value}"),
            _ if is_plain(value) => write!(self.writer, "{name}={value}"),
            _ => write!(self.writer, "{name}={value:?}"),
        }
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.outcome.is_ok() {
            self.outcome = self.write(name(field), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // What libraries write by the crate `log` carries its place in such fields, which the line names before.
        if self.outcome.is_ok() && !field.name().starts_with("log.") {
            self.outcome = self.write(name(field), &format!("{value:?}"));
        }
    }
}

fn name(field: &Field) -> &'static str {
    field.name().strip_prefix("r#").unwrap_or(field.name())
}

fn is_plain(value: &str) -> bool {
    let is_special =
        |character: char| character.is_whitespace() || character.is_control() || "\"=\\".contains(character);
    !value.is_empty() && !value.contains(is_special)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_value_is_told_from_what_follows() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let logs = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .without_time()
            .with_target(false)
            .with_level(false)
            .fmt_fields(Quoted)
            .finish();
        tracing::subscriber::with_default(logs, || {
            let (detail, empty) = ("the cookie is missing, user=root", "");
            tracing::info!(%detail, text = "plain", empty, number = 5, address = %"::1", forged = %"a\nb\u{1b}[2J \"x\"", "it\u{7}happened");
        });
        let line = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            line,
            "it\\u{7}happened detail=\"the cookie is missing, user=root\" text=plain empty=\"\" number=5 address=::1 \
             forged=\"a\\nb\\u{1b}[2J \\\"x\\\"\"\n"
        );
    }
}
