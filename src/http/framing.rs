//! Where a request ends: its head at a blank line, its body where its framing says so (RFC 9112 sections 6 and 7).
//!
//! Nothing is judged here. The HTTP library parses the same bytes and refuses what is wrong; these scanners only count, and on
//! every request that the library accepts they find the end that it finds.

use actix_web::dev::RequestHead;
use actix_web::http::header;

/// Finds the blank line that ends a head, across reads.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum HeadScan {
    /// Line ends before the request line are skipped.
    #[default]
    Before,
    Within,
    LineStart,
    AfterReturn,
}

impl HeadScan {
    /// The number of bytes up to and including the blank line.
    pub(super) fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            *self = match (byte, *self) {
                (b'\r' | b'\n', Self::Before) => Self::Before,
                (b'\n', Self::LineStart | Self::AfterReturn) => {
                    *self = Self::Within;
                    return Some(at + 1);
                }
                (b'\n', Self::Within) => Self::LineStart,
                (b'\r', Self::LineStart) => Self::AfterReturn,
                _ => Self::Within,
            };
        }
        None
    }
}

/// What is left of the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// So many bytes.
    Sized(u64),
    Chunked(Chunk),
}

/// Where in a chunked body the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size(u64),
    /// Behind the size, up to the end of its line.
    Extension(u64),
    /// In the data, or in the line end behind it.
    Data(u64),
    TrailerStart,
    Trailer,
    TrailerReturn,
    LastReturn,
}

impl BodyFraming {
    pub(super) const NONE: Self = Self::Sized(0);

    /// The body that this head announces.
    pub(super) fn of(head: &RequestHead) -> Self {
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            return Self::Chunked(Chunk::Size(0));
        }
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        Self::Sized(length.unwrap_or(0))
    }

    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::NONE)
    }

    /// Passes what belongs to the body; answers how many bytes that is.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match *self {
                Self::NONE => break,
                Self::Sized(left) => {
                    let length = shorter(left, bytes.len() - at);
                    *self = Self::Sized(left - length as u64);
                    at += length;
                }
                Self::Chunked(Chunk::Data(left)) => {
                    let length = shorter(left, bytes.len() - at);
                    *self = Self::Chunked(match left - length as u64 {
                        0 => Chunk::Size(0),
                        left => Chunk::Data(left),
                    });
                    at += length;
                }
                Self::Chunked(chunk) => {
                    *self = chunk.after(byte);
                    at += 1;
                }
            }
        }
        at
    }
}

fn shorter(left: u64, available: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(available)
}

impl Chunk {
    /// The step outside the data. A size that does not fit is refused by the library.
    fn after(self, byte: u8) -> BodyFraming {
        BodyFraming::Chunked(match (self, byte) {
            (Self::Size(0) | Self::Extension(0), b'\n') | (Self::TrailerReturn, _) => Self::TrailerStart,
            (Self::Size(size) | Self::Extension(size), b'\n') => Self::Data(size.saturating_add(2)),
            (Self::Size(size), byte) => match char::from(byte).to_digit(16) {
                Some(digit) => Self::Size(size.saturating_mul(16).saturating_add(digit.into())),
                None => Self::Extension(size),
            },
            (Self::TrailerStart, b'\r') => Self::LastReturn,
            (Self::Trailer, b'\r') => Self::TrailerReturn,
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
            (Self::LastReturn, _) => return BodyFraming::NONE,
            (other, _) => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use actix_http::h1::{Codec, Message, MessageType};
    use bytes::BytesMut;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use proptest::test_runner::{Config, TestRunner};
    use tokio_util::codec::Decoder;

    use super::*;

    const NEXT: &str = "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// The library's reading of a request: its body's framing, and how long the request is.
    fn by_the_library(bytes: &[u8]) -> (BodyFraming, usize) {
        let mut codec = Codec::default();
        let mut buffer = BytesMut::from(bytes);
        let Some(Message::Item(request)) = codec.decode(&mut buffer).unwrap() else {
            panic!("no head in {}", bytes.escape_ascii());
        };
        let body = BodyFraming::of(request.head());
        while codec.message_type() != MessageType::None {
            let piece = codec.decode(&mut buffer).unwrap();
            assert!(piece.is_some(), "no end in {}", bytes.escape_ascii());
        }
        (body, bytes.len() - buffer.len())
    }

    /// Ours, when the bytes come in pieces of this length.
    fn by_the_scanners(bytes: &[u8], piece: usize, mut body: BodyFraming) -> usize {
        let (mut head, mut at, mut has_head) = (HeadScan::default(), 0, false);
        for piece in bytes.chunks(piece) {
            let mut rest = piece;
            if !has_head {
                let end = head.find_end(rest);
                has_head = end.is_some();
                let length = end.unwrap_or(rest.len());
                rest = &rest[length..];
                at += length;
            }
            if has_head {
                at += body.pass(rest);
            }
        }
        assert!(has_head && body.is_over());
        at
    }

    // The codec of the library spawns its clock.
    #[actix_web::test]
    async fn the_scanners_find_the_end_that_the_library_finds() {
        let blank = format!("100\r\n{}\r\n0\r\n\r\n", "\n".repeat(256));
        let many = format!("0\r\n{}\r\n", "X-A: b\r\n".repeat(300));
        let chunked = [
            "0\r\n\r\n",
            "3\r\nx=1\r\n0\r\n\r\n",
            "3;a=b\r\nx=1\r\n0;c\r\n\r\n",
            "3 \r\nx=1\r\n0 \r\n\r\n",
            "3;a=\"b\\\"c\"\r\nx=1\r\n0\r\n\r\n",
            "00000000000000000000a\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
            "A\r\n0\r\n\r\n0\r\n\r\n\r\n1\r\n\n\r\n000\r\n\r\n",
            "0\r\nX-A: b\r\nX-C: d\r\n\r\n",
            "0\r\nX\nY\n\n\r\nZ\r\n\r\n",
            "0\r\n\nX: y\r\n\r\n",
            "0\r\n\n\r\nX: y\r\n\r\n",
            &blank,
            &many,
        ];
        let of_chunks = chunked.map(|body| format!("Transfer-Encoding: Chunked\r\n\r\n{body}"));
        let sized = [
            "\r\n",
            "Content-Length: 0\r\n\r\n",
            "Content-Length: 3\r\n\r\nx=1",
            "Content-Length:   000000000000000000000004  \r\n\r\n\r\n\r\n",
            "Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nx=1",
            "X: y\nContent-Length: 3\n\nx=1",
        ];
        for rest in of_chunks.iter().map(String::as_str).chain(sized) {
            for before in ["", "\r\n", "\n\r\n"] {
                let request = format!("{before}POST / HTTP/1.1\r\nHost: a\r\n{rest}{NEXT}");
                let (body, length) = by_the_library(request.as_bytes());
                assert_eq!(length, request.len() - NEXT.len(), "{request:?}");
                for piece in [1, 2, 3, 7, 100, request.len()] {
                    let found = by_the_scanners(request.as_bytes(), piece, body);
                    assert_eq!(found, length, "{request:?} in pieces of {piece}");
                }
            }
        }
    }

    /// A request, more or less as it should be.
    fn request() -> impl Strategy<Value = Vec<u8>> {
        let line = (
            select(&["", "", "\r\n", "\n", "\r\n\n"][..]),
            select(&["GET", "HEAD", "POST", "OPTIONS"][..]),
            select(&["/", "*", "/a?b=c", "http://a/"][..]),
            select(&["1.1", "1.1", "1.1", "1.0"][..]),
        );
        let headers = vec(
            select(
                &[
                    "Host: a",
                    "X: y",
                    "X:",
                    " folded",
                    "Connection: close",
                    "Connection: keep-alive",
                    "Upgrade: h2c",
                    "Expect: 100-continue",
                    "Content-Length: 0",
                    "Content-Length: 1",
                    "Transfer-Encoding: chunked",
                ][..],
            ),
            0..3,
        );
        let line_end = select(&["\r\n", "\r\n", "\n"][..]);
        let chunk = (
            vec(any::<u8>(), 1..40),
            select(&["", "0", "00000000000000000"][..]),
            select(&["", "", " ", "\t ", ";a", ";a=\"b;\\\"c\"", " ;"][..]),
        );
        let trailers = vec(
            select(&["X: y\r\n", "\n\r\n", "\nX\r\n", "Content-Length: 9\r\n", "X\n\n\r\n"][..]),
            0..3,
        );
        let body = prop_oneof![
            Just((Vec::new(), Vec::new())),
            (vec(any::<u8>(), 0..40), select(&["", " ", "000"][..]))
                .prop_map(|(body, before)| (format!("Content-Length: {before}{}", body.len()).into_bytes(), body)),
            (vec(chunk, 0..4), trailers).prop_map(|(chunks, trailers)| {
                let mut body = Vec::new();
                for (data, before, extension) in chunks {
                    body.extend_from_slice(format!("{before}{:X}{extension}\r\n", data.len()).as_bytes());
                    body.extend_from_slice(&data);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(format!("0\r\n{}\r\n", trailers.concat()).as_bytes());
                (b"Transfer-Encoding: chunked".to_vec(), body)
            }),
        ];
        (line, headers, line_end, body).prop_map(
            |((before, method, target, version), headers, end, (framing, body))| {
                let mut request = format!("{before}{method} {target} HTTP/{version}{end}Host: a{end}").into_bytes();
                for header in headers.iter().map(|header| header.as_bytes()).chain([&framing[..]]) {
                    if !header.is_empty() {
                        request.extend_from_slice(header);
                        request.extend_from_slice(end.as_bytes());
                    }
                }
                request.extend_from_slice(end.as_bytes());
                request.extend_from_slice(&body);
                request
            },
        )
    }

    /// The ends of heads and of whole requests that each finds, until the library finds no more.
    fn compare(bytes: &[u8], piece: usize) -> Result<usize, TestCaseError> {
        let (mut codec, mut buffer) = (Codec::default(), BytesMut::from(bytes));
        let mut requests = 0;
        loop {
            let start = bytes.len() - buffer.len();
            let Ok(message) = codec.decode(&mut buffer) else {
                return Ok(requests);
            };
            let mut head = HeadScan::default();
            let mut at = start;
            let found = bytes[start..].chunks(piece).find_map(|piece| {
                let end = head.find_end(piece);
                at += end.unwrap_or(piece.len());
                end
            });
            let Some(Message::Item(request)) = message else {
                prop_assert_eq!(found, None);
                return Ok(requests);
            };
            prop_assert_eq!((found.is_some(), at), (true, bytes.len() - buffer.len()));
            let mut body = BodyFraming::of(request.head());
            for piece in bytes[at..].chunks(piece) {
                at += body.pass(piece);
            }
            while codec.message_type() != MessageType::None {
                match codec.decode(&mut buffer) {
                    Ok(Some(_)) => {}
                    Ok(None) => {
                        prop_assert!(!body.is_over());
                        return Ok(requests);
                    }
                    Err(_) => return Ok(requests),
                }
            }
            prop_assert_eq!((body.is_over(), at), (true, bytes.len() - buffer.len()));
            requests += 1;
        }
    }

    #[actix_web::test]
    async fn generated_requests_end_where_the_library_ends_them() {
        let requests = vec(request(), 1..4).prop_map(|requests| requests.concat());
        let changes = vec((any::<Index>(), select(&b"\r\n 0a;:\t\0\xFF"[..]), any::<bool>()), 0..3);
        let found = Cell::new(0);
        let mut runner = TestRunner::new(Config {
            cases: 4_096,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&(requests, changes, 1..64_usize), |(mut bytes, changes, piece)| {
                for (at, byte, is_new) in changes {
                    let at = at.index(bytes.len());
                    if is_new {
                        bytes.insert(at, byte);
                    } else {
                        bytes[at] = byte;
                    }
                }
                found.set(found.get() + compare(&bytes, piece)?);
                Ok(())
            })
            .unwrap();
        assert!(found.get() > 2_000, "only {} requests are whole", found.get());
    }

    #[test]
    fn no_size_overflows() {
        for size in ["f".repeat(16), "f".repeat(40)] {
            let mut body = BodyFraming::Chunked(Chunk::Size(0));
            let bytes = format!("{size}\r\n{NEXT}");
            assert_eq!(body.pass(bytes.as_bytes()), bytes.len());
            assert!(!body.is_over());
        }
    }
}
