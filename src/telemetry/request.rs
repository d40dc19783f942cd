//! The request that a task works for: its id and its trace, which answers and log lines tell.

use std::fmt::Write as _;

use tokio::task_local;

/// The longest id of a request that is taken from its sender, in bytes.
pub const LONGEST_REQUEST_ID: usize = 128;

task_local! {
    static CURRENT: Request;
}

/// The names of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    id: String,
    trace: Option<String>,
}

impl Request {
    /// The id that `X-Request-Id` gives if it is well formed, else a random one; and the trace of a `traceparent` (W3C Trace Context).
    #[must_use]
    pub fn new(id: Option<&[u8]>, traceparent: Option<&[u8]>) -> Self {
        let id = id.and_then(plain_id).map_or_else(random_id, str::to_owned);
        Self {
            id,
            trace: traceparent.and_then(trace_id).map(str::to_owned),
        }
    }

    /// The id; letters, digits and a few signs alone.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The trace that it is a part of.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.trace.as_deref()
    }

    /// Runs the work for this request.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// The same at once.
    pub fn sync_scope<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }

    /// The id of the request that this task works for.
    #[must_use]
    pub fn current_id() -> Option<String> {
        CURRENT.try_with(|request| request.id.clone()).ok()
    }

    /// A log line with the names of the request that this task works for. They hold nothing that could end a line or a string.
    pub(super) fn name_in_line(line: &[u8], is_json: bool) -> Option<Vec<u8>> {
        CURRENT
            .try_with(|request| {
                let end = if is_json { &b"}\n"[..] } else { b"\n" };
                let mut line = line.strip_suffix(end)?.to_vec();
                let mut fields = String::new();
                let members = [("request_id", Some(&request.id)), ("trace_id", request.trace.as_ref())];
                for (name, value) in members {
                    let Some(value) = value else { continue };
                    let _ = if is_json {
                        write!(fields, ",\"{name}\":\"{value}\"")
                    } else {
                        write!(fields, " {name}={value}")
                    };
                }
                line.extend_from_slice(fields.as_bytes());
                line.extend_from_slice(end);
                Some(line)
            })
            .ok()
            .flatten()
    }
}

fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// What is usual in such ids (UUIDs, base64, ULIDs, AWS's `Root=1-...`), and nothing that a log or a header would read as its own.
fn plain_id(id: &[u8]) -> Option<&str> {
    let is_plain = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._~+/=:@".contains(octet);
    if id.is_empty() || id.len() > LONGEST_REQUEST_ID || !id.iter().all(is_plain) {
        return None;
    }
    std::str::from_utf8(id).ok()
}

/// The trace id of a `traceparent`: `00-` 32 hexadecimal digits `-` 16 of them `-` 2 of them; later versions may have more behind. All
/// zeros are no id, and version `ff` is forbidden.
fn trace_id(traceparent: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut parts = text.splitn(5, '-');
    let mut part = |length: usize| {
        let is_hex = |octet: u8| octet.is_ascii_digit() || (b'a'..=b'f').contains(&octet);
        parts
            .next()
            .filter(|part| part.len() == length && part.bytes().all(is_hex))
    };
    let (version, trace, parent, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let may_have_more = version != "00";
    let has_more = parts.next().is_some();
    let is_zero = |id: &str| id.bytes().all(|octet| octet == b'0');
    let holds = version != "ff" && (may_have_more || !has_more) && !is_zero(trace) && !is_zero(parent);
    holds.then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_only_if_it_is_plain_and_short() {
        for id in [
            "a",
            "0f8fad5b-d9cb-469f-a165-70867728950e",
            "Root=1-67891233-abc",
            &"x".repeat(128),
        ] {
            assert_eq!(Request::new(Some(id.as_bytes()), None).id(), id);
        }
        for id in [
            "",
            "a b",
            "a\"b",
            "a\nb",
            "a}",
            "a,b",
            "<script>",
            "é",
            "a\\b",
            "${jndi:x}",
            &"x".repeat(129),
        ] {
            let made = Request::new(Some(id.as_bytes()), None);
            assert!(made.id() != id && made.id().len() == 32, "{id}");
        }
        assert_ne!(Request::new(None, None).id(), Request::new(None, None).id());
    }

    #[test]
    fn a_trace_is_read_as_the_recommendation_says() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        for good in [
            format!("00-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-00"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01-what-comes-later"),
        ] {
            assert_eq!(trace_id(good.as_bytes()), Some(TRACE), "{good}");
        }
        for bad in [
            String::new(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-00f067aa0ba902b7"),
            format!("00-{TRACE}-00f067aa0ba902b7-1"),
            format!("00-{}-00f067aa0ba902b7-01", &TRACE[1..]),
            format!("0-{TRACE}-00f067aa0ba902b7-01"),
            "00-\u{fc}".to_owned(),
        ] {
            assert_eq!(trace_id(bad.as_bytes()), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn lines_of_a_request_name_it_and_others_do_not() {
        let traceparent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let request = Request::new(Some(b"abc"), Some(traceparent));
        let (text, json, torn) = request
            .scope(async {
                (
                    Request::name_in_line(b"hello\n", false),
                    Request::name_in_line(b"{\"a\":1}\n", true),
                    Request::name_in_line(b"{\"a\":1", true),
                )
            })
            .await;
        let text = String::from_utf8(text.unwrap()).unwrap();
        assert_eq!(text, "hello request_id=abc trace_id=4bf92f3577b34da6a3ce929d0e0e4736\n");
        let json: serde_json::Value = serde_json::from_slice(&json.unwrap()).unwrap();
        assert_eq!(json["request_id"], "abc");
        assert_eq!(json["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(torn, None);
        assert_eq!(Request::name_in_line(b"hello\n", false), None);
        assert_eq!(Request::current_id(), None);
    }
}
