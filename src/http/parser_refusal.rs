//! What the HTTP library refuses before there is a request: a head that it cannot read, that is too large, or that does not end. It answers
//! with a status alone, and has no place where a body or a header could be added. So the stream puts the promised form in its place.

use std::fmt::Write as _;

use crate::telemetry::Request;

use super::codes::Code;
use super::headers::protective_headers;
use super::problem::Problem;

/// How much of a head is remembered to know what it asks for.
pub(super) const MAX_REMEMBERED: usize = 512;

/// The answer in the place of the library's own, when this is one.
pub(super) fn in_place_of(answer: &[u8], head: &[u8], has_https: bool) -> Option<Vec<u8>> {
    // Behind an HTTP/1.0 request it names that version.
    let status = answer.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    let (code, detail) = match status {
        b"400" => (Code::InvalidRequest, "the request is not HTTP/1.1 (RFC 9112)"),
        b"408" => (
            Code::HeadTimeout,
            "the head of the request took longer than 5 seconds to arrive",
        ),
        b"431" => (
            Code::HeadersTooLarge,
            "the request has more than 96 headers, or its head is longer than 128 KiB",
        ),
        _ => return None,
    };
    // What its sender calls it stands in a head that was not read.
    let request = Request::new(None, None);
    let id = request.id().to_owned();
    Some(request.sync_scope(|| {
        tracing::debug!(
            status = code.status().as_u16(),
            detail,
            "a request was refused before it was read"
        );
        write(code, detail, path(head), has_https, &id)
    }))
}

/// The path, as far as it can be told.
fn path(head: &[u8]) -> &str {
    let line = head
        .split(|&octet| octet == b'\r' || octet == b'\n')
        .next()
        .unwrap_or_default();
    let target = line.split(|&octet| octet == b' ').nth(1).unwrap_or_default();
    let path = target.split(|&octet| octet == b'?').next().unwrap_or_default();
    std::str::from_utf8(path).unwrap_or_default()
}

fn write(code: Code, detail: &'static str, path: &str, has_https: bool, request_id: &str) -> Vec<u8> {
    let status = code.status();
    let problem = Problem::new(code, detail).at(path);
    let (content_type, body) = (problem.content_type(), problem.body().to_string());
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\ncontent-length: {}\r\ncontent-type: {content_type}\r\ncache-control: no-store\r\nconnection: close\r\n\
         x-request-id: {request_id}\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len()
    );
    for (name, value) in protective_headers(has_https) {
        // Writing to a text cannot fail.
        let _ = write!(answer, "{name}: {value}\r\n");
    }
    answer.push_str("\r\n");
    answer.push_str(&body);
    answer.into_bytes()
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;

    use super::*;

    /// The statuses that the library answers by itself.
    const OF_THE_LIBRARY: [StatusCode; 3] = [
        StatusCode::BAD_REQUEST,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    ];

    fn told(answer: &str, head: &str) -> Option<(String, serde_json::Value)> {
        let told = String::from_utf8(in_place_of(answer.as_bytes(), head.as_bytes(), true)?).unwrap();
        let (head, body) = told.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{told}");
        Some((head.to_owned(), serde_json::from_str(body).unwrap()))
    }

    #[test]
    fn what_the_library_refuses_gets_the_promised_form() {
        for status in OF_THE_LIBRARY {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            for (head, is_oauth) in [
                ("", false),
                ("GET", false),
                ("GET /auth/me?a=/oauth2/token HTTP/1.1\r\nHost: a\r\n", false),
                ("POST /oauth2/token HTTP/1.1\r\n", true),
                ("POST /issuer/oauth2/introspect?a HTTP/1.1\nHost", true),
                ("POST /oauth2/revo", true),
            ] {
                let (lines, body) = told(&answer, head).unwrap();
                assert!(lines.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{lines}");
                assert!(
                    lines.contains("nosniff") && lines.contains("strict-transport-security"),
                    "{lines}"
                );
                let id = lines.split("x-request-id: ").nth(1).unwrap().lines().next().unwrap();
                assert_eq!(id.len(), 32, "{lines}");
                if is_oauth {
                    assert_eq!(body["error"], "invalid_request", "{head}");
                    assert!(lines.contains("content-type: application/json"));
                } else {
                    assert_eq!(body["status"], status.as_u16(), "{head}");
                    assert_eq!(body["request_id"], id, "{head}");
                    assert!(body["code"].is_string() && lines.contains("content-type: application/problem+json"));
                }
            }
        }
        assert!(told("HTTP/1.0 431 Request Header Fields Too Large\r\n\r\n", "GET").is_some());
        for other in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "{\"a\":1}", ""] {
            assert_eq!(told(other, "POST /oauth2/token HTTP/1.1\r\n"), None, "{other}");
        }
    }
}
