//! The body of a request, as long as it may be and no longer.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::body::{BodyStream, MessageBody};
use actix_web::dev::Payload;
use actix_web::http::header;
use bytes::{Bytes, BytesMut};

use crate::clock::sleep;
use crate::http::framing::Body;
use crate::text;

/// How long a body may take to arrive; the listener limits only the headers.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It did not arrive in time.
    Late,
    /// It is longer than it may be.
    TooLong,
    /// It ended before it was whole.
    Cut,
}

/// Reads at most so many bytes.
///
/// # Errors
/// [`Unreadable`] says why there is nothing to read.
pub async fn read(request: &HttpRequest, payload: Payload, longest: usize) -> Result<Bytes, Unreadable> {
    // To the library the body of a request with `Upgrade: websocket` has no end.
    let announced = match Body::of(request.head()) {
        Body::Sized(length) => length,
        Body::Chunked(_) => u64::MAX,
    };
    tokio::select! {
        biased;
        body = collect(payload, announced, longest) => body,
        () = sleep(DEADLINE) => Err(Unreadable::Late),
    }
}

/// What came in one piece is not copied.
async fn collect(payload: Payload, announced: u64, longest: usize) -> Result<Bytes, Unreadable> {
    let mut pieces = pin!(BodyStream::new(payload));
    let mut body = Bytes::new();
    while (body.len() as u64) < announced
        && let Some(piece) = poll_fn(|context| pieces.as_mut().poll_next(context)).await
    {
        let piece = piece.map_err(|_| Unreadable::Cut)?;
        if body.len() + piece.len() > longest {
            return Err(Unreadable::TooLong);
        }
        body = if body.is_empty() {
            piece
        } else {
            let mut longer = BytesMut::from(body);
            longer.extend_from_slice(&piece);
            longer.freeze()
        };
    }
    Ok(body)
}

/// What a `Content-Type` names, without its parameters.
#[must_use]
pub fn essence(content_type: &[u8]) -> &[u8] {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii()
}

/// Which type came, as the beginning of a sentence. It is repeated only if it has the form of a short one (RFC 6838 section 4.2): a header may
/// hold anything.
#[must_use]
pub fn type_that_came(content_type: &[u8]) -> String {
    let is_name = |name: &str| {
        (1..=40).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let essence = std::str::from_utf8(essence(content_type)).unwrap_or("?");
    match essence.split_once('/') {
        _ if essence.is_empty() => "there is no Content-Type".to_owned(),
        Some((kind, inner)) if is_name(kind) && is_name(inner) && !text::holds_secret(essence) => {
            format!("Content-Type is {}", essence.to_ascii_lowercase())
        }
        _ => "Content-Type is no media type".to_owned(),
    }
}

/// How a request says that its body is compressed, as the beginning of a sentence.
#[must_use]
pub fn announced_coding(request: &HttpRequest) -> Option<String> {
    const CODINGS: [&str; 7] = ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"];
    let values = request.headers().get_all(header::CONTENT_ENCODING);
    let mut codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let coding = codings.find(|coding| {
        let coding = coding.trim_ascii();
        !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
    })?;
    let known = CODINGS
        .iter()
        .find(|known| coding.trim_ascii().eq_ignore_ascii_case(known.as_bytes()));
    Some(format!("Content-Encoding is {}", known.unwrap_or(&"another one")))
}

/// How a body looks that is compressed although nothing says so.
#[must_use]
pub fn looks_compressed(body: &[u8]) -> Option<&'static str> {
    if body.starts_with(b"\x1f\x8b") {
        Some("the body is compressed by gzip")
    } else if body.starts_with(b"\x28\xb5\x2f\xfd") {
        Some("the body is compressed by Zstandard")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_repeated_only_if_it_has_the_form_of_one() {
        let long = format!("application/{}", "x".repeat(41));
        for (content_type, told) in [
            ("Text/JSON; charset=utf-8", "Content-Type is text/json"),
            ("application/vnd.api+json", "Content-Type is application/vnd.api+json"),
            ("", "there is no Content-Type"),
            (";", "there is no Content-Type"),
            ("json", "Content-Type is no media type"),
            ("/", "Content-Type is no media type"),
            ("text/", "Content-Type is no media type"),
            ("application/json, text/plain", "Content-Type is no media type"),
            ("text/<script>", "Content-Type is no media type"),
            ("text/\u{fc}", "Content-Type is no media type"),
            (
                "a/sohMxTzEWaEGlBI_vs3ZwMJGpGtMweOXN0qP7ysi",
                "Content-Type is no media type",
            ),
            (&long, "Content-Type is no media type"),
        ] {
            assert_eq!(type_that_came(content_type.as_bytes()), told, "{content_type}");
        }
    }
}
