//! The body of a request, as long as it may be and no longer.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use actix_web::body::{BodyStream, MessageBody};
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};

use crate::clock::sleep;

use super::framing::Body;

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
pub async fn read(request: &HttpRequest, payload: web::Payload, longest: usize) -> Result<Bytes, Unreadable> {
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
async fn collect(payload: web::Payload, announced: u64, longest: usize) -> Result<Bytes, Unreadable> {
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
