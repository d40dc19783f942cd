//! A connection whose peer cannot make it hold much: one request at a time, one answer at a time, and an end.
//!
//! The HTTP library reads as many requests as there are, and keeps their answers until they are written, however many. So this stands
//! between it and the socket, and hands on the next request only when the answer before it is written: a peer that does not read
//! gets no further. What it has sent meanwhile waits here ([`MAX_HELD`]), and then in the kernel, which holds the peer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::dev::RequestHead;
use actix_web::http::header;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::clock::Timer;

use super::connections::{Activity, Place};
use super::parser_refusal::{self, MAX_REMEMBERED};

/// How much of what follows a request is read before its answer is written, in bytes.
pub const MAX_HELD: usize = 8 * 1024;

/// How many blank lines the body of one request in chunks may hold; only requests have many.
const MAX_BLANK_LINES: u32 = 64;

/// How often a connection is looked at.
pub const TICK: Duration = Duration::from_secs(5);

/// In so many looks a request must be complete up to its body, once its first byte has come.
pub const HEAD_TICKS: u32 = 2;

/// In so many looks the peer must take an answer.
pub const ANSWER_TICKS: u32 = 4;

/// After so many looks a connection is closed with its next answer: an hour.
pub const LIFE_TICKS: u32 = 720;

/// After so many looks it is closed in any case.
pub const LONGEST_LIFE_TICKS: u32 = LIFE_TICKS + 12;

/// What of the body of the current request may still be handed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Sized(u64),
    Chunked { blank_lines: u32 },
}

const NO_BODY: Body = Body::Sized(0);

/// What the stream and the handlers of its requests both know.
pub struct Connection {
    place: Place,
    /// Resolves when it must end for another.
    ended: RefCell<oneshot::Receiver<()>>,
    /// A request is under way.
    is_busy: Cell<bool>,
    /// An answer is not written yet.
    is_answering: Cell<bool>,
    /// A request waits for the answer before it to be written.
    is_waiting: Cell<bool>,
    body: Cell<Body>,
    /// Bytes that were handed on behind the end of the last head.
    ahead: Cell<u64>,
    /// The first bytes of a request have come.
    has_begun: Cell<bool>,
    ticks: Cell<u32>,
}

impl Connection {
    /// A request with this head has come: waits until the answer before it is written.
    pub async fn begin(&self, head: &RequestHead) {
        let is_pipelined = self.is_answering.get();
        if is_pipelined {
            self.is_waiting.set(true);
            poll_fn(|_| {
                if self.is_answering.get() {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            self.is_waiting.set(false);
        }
        let ahead = self.ahead.replace(0);
        // What of it was handed on before is not known.
        let body = if is_pipelined { NO_BODY } else { body(head, ahead) };
        self.body.set(body);
        self.has_begun.set(false);
        self.is_busy.set(true);
        self.place.is(Activity::Busy);
    }

    /// The request has its answer.
    pub fn finish(&self) {
        self.is_answering.set(true);
        self.is_busy.set(false);
    }

    /// Whether it should end with its next answer.
    pub fn is_old(&self) -> bool {
        self.ticks.get() >= LIFE_TICKS
    }
}

/// The body that this head announces, without what was handed on already.
fn body(head: &RequestHead, ahead: u64) -> Body {
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        return Body::Chunked { blank_lines: 0 };
    }
    let length = head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    Body::Sized(u64::saturating_sub(length.unwrap_or(0), ahead))
}

/// Finds blank lines, where heads end, across reads.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Lines {
    #[default]
    Within,
    AtStart,
    BehindReturn,
}

impl Lines {
    /// The number of bytes up to and with the first blank line, and how many follow it without another one.
    fn cut(&mut self, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        let first = self.find(bytes)?;
        let mut rest = Self::default();
        let follows = &bytes[first..];
        Some((first, rest.find(follows).is_none().then_some(follows.len())))
    }

    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            *self = match (byte, *self) {
                (b'\n', Self::AtStart | Self::BehindReturn) => {
                    *self = Self::Within;
                    return Some(at + 1);
                }
                (b'\n', Self::Within) => Self::AtStart,
                (b'\r', Self::AtStart) => Self::BehindReturn,
                _ => Self::Within,
            };
        }
        None
    }
}

/// A stream between the HTTP library and the socket.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact about the socket, and any of them may hold beside the others"
)]
pub struct Stream<T> {
    io: T,
    connection: Rc<Connection>,
    timer: Timer,
    has_ended: bool,
    lines: Lines,
    /// Read, and not handed on.
    held: Vec<u8>,
    /// A blank line was handed on: the library looks at it before anything else comes.
    is_turn_over: bool,
    /// Nothing reads from the socket until the answer is written.
    must_wake: bool,
    head_ticks: u32,
    answer_ticks: u32,
    is_write_blocked: bool,
    is_closing: bool,
    /// The first bytes of the head that is read.
    head: Vec<u8>,
    /// What is left to write in the place of an answer of the library's own.
    refusal: Option<Vec<u8>>,
    has_https: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream<T> {
    pub(super) fn new(io: T, place: Place, ended: oneshot::Receiver<()>, has_https: bool) -> Self {
        Self {
            io,
            connection: Rc::new(Connection {
                place,
                ended: RefCell::new(ended),
                is_busy: Cell::new(false),
                is_answering: Cell::new(false),
                is_waiting: Cell::new(false),
                body: Cell::new(NO_BODY),
                ahead: Cell::new(0),
                has_begun: Cell::new(false),
                ticks: Cell::new(0),
            }),
            timer: Timer::new(TICK),
            has_ended: false,
            lines: Lines::default(),
            held: Vec::new(),
            is_turn_over: false,
            must_wake: false,
            head_ticks: 0,
            answer_ticks: 0,
            is_write_blocked: false,
            is_closing: false,
            head: Vec::new(),
            refusal: None,
            has_https,
        }
    }

    /// What the handlers of its requests are given.
    pub(super) fn connection(&self) -> Rc<Connection> {
        Rc::clone(&self.connection)
    }

    /// Fails when the connection must end.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.has_ended && (self.is_displaced(context) || self.is_overdue(context)) {
            self.has_ended = true;
        }
        if self.has_ended {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    fn is_displaced(&mut self, context: &mut Context<'_>) -> bool {
        let mut ended = self.connection.ended.borrow_mut();
        Pin::new(&mut *ended).poll(context).is_ready()
    }

    fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        while self.timer.poll(context).is_ready() {
            self.timer.reset(TICK);
            let connection = &self.connection;
            let ticks = connection.ticks.get() + 1;
            connection.ticks.set(ticks);
            self.head_ticks = if connection.has_begun.get() {
                self.head_ticks + 1
            } else {
                0
            };
            self.answer_ticks = if self.is_write_blocked {
                self.answer_ticks + 1
            } else {
                0
            };
            if ticks >= LONGEST_LIFE_TICKS
                || self.head_ticks >= HEAD_TICKS
                || self.answer_ticks >= ANSWER_TICKS
                || self.is_closing
            {
                return true;
            }
        }
        false
    }

    /// Hands on what may be handed on of what is held.
    fn hand_on_held(&mut self, buffer: &mut ReadBuf<'_>) {
        let mut held = std::mem::take(&mut self.held);
        let length = held.len().min(buffer.remaining());
        let before = buffer.filled().len();
        buffer.put_slice(held.get(..length).unwrap_or_default());
        held.drain(..length);
        self.held = held;
        self.keep_back(buffer, before);
    }

    /// Keeps back what must not be handed on yet of what was read behind `before`.
    fn keep_back(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let length = self.may_hand_on(buffer.filled().get(before..).unwrap_or_default());
        if let Some(kept) = buffer.filled().get(before + length..).filter(|kept| !kept.is_empty()) {
            // What was held already came later.
            let later = std::mem::replace(&mut self.held, kept.to_vec());
            self.held.extend_from_slice(&later);
            buffer.set_filled(before + length);
        }
    }

    /// How many of these bytes the library may have now.
    fn may_hand_on(&mut self, bytes: &[u8]) -> usize {
        let connection = &self.connection;
        if !connection.is_busy.get() {
            connection.has_begun.set(true);
            let room = MAX_REMEMBERED - self.head.len();
            self.head.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            let Some((end, follows)) = self.lines.cut(bytes) else {
                return bytes.len();
            };
            self.is_turn_over = true;
            // Without another blank line it is no second request: most likely it is the body of this one.
            let follows = follows.unwrap_or(0);
            connection.ahead.set(follows as u64);
            return end + follows;
        }
        match connection.body.get() {
            Body::Sized(left) => {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                connection.body.set(Body::Sized(left - length as u64));
                length
            }
            Body::Chunked { blank_lines } if blank_lines >= MAX_BLANK_LINES => 0,
            Body::Chunked { blank_lines } => match self.lines.find(bytes) {
                Some(end) => {
                    self.is_turn_over = true;
                    connection.body.set(Body::Chunked {
                        blank_lines: blank_lines + 1,
                    });
                    end
                }
                None => bytes.len(),
            },
        }
    }

    /// Writes the whole of it: the library believes that it wrote its own.
    fn poll_write_refusal(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(refusal) = self.refusal.as_mut().filter(|refusal| !refusal.is_empty()) {
            let written = Pin::new(&mut self.io).poll_write(context, refusal);
            self.is_write_blocked = written.is_pending();
            let length = ready!(written)?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            refusal.drain(..length.min(refusal.len()));
        }
        self.refusal = None;
        Poll::Ready(Ok(()))
    }

    /// Reads a piece that the library must not have yet; false at the end of the connection.
    fn poll_hold(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [0; 1024];
        let mut piece = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.io).poll_read(context, &mut piece))?;
        if piece.filled().is_empty() {
            // The peer hung up, and wants no answer.
            self.held = Vec::new();
            return Poll::Ready(Ok(false));
        }
        self.held.extend_from_slice(piece.filled());
        Poll::Ready(Ok(true))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        let connection = &this.connection;
        if connection.is_answering.get() {
            this.must_wake = true;
            return Poll::Pending;
        }
        if std::mem::take(&mut this.is_turn_over) {
            if this.held.is_empty() && !ready!(this.poll_hold(context))? {
                return Poll::Ready(Ok(()));
            }
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let takes_nothing = match connection.body.get() {
            Body::Sized(left) => left == 0,
            Body::Chunked { blank_lines } => blank_lines >= MAX_BLANK_LINES,
        };
        if connection.is_busy.get() && takes_nothing {
            // The end of the connection must be seen all the same.
            while this.held.len() < MAX_HELD {
                if !ready!(this.poll_hold(context))? {
                    return Poll::Ready(Ok(()));
                }
            }
            this.must_wake = true;
            return Poll::Pending;
        }
        if !this.held.is_empty() {
            this.hand_on_held(buffer);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            this.keep_back(buffer, before);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(context)?;
        let connection = &this.connection;
        // No handler has answered, so that this is the library's own answer.
        if this.refusal.is_none() && !connection.is_busy.get() && !connection.is_answering.get() {
            this.refusal = parser_refusal::in_place_of(bytes, &this.head, this.has_https);
        }
        if this.refusal.is_some() {
            return this.poll_write_refusal(context).map_ok(|()| bytes.len());
        }
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        this.is_write_blocked = written.is_pending();
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        let flushed = Pin::new(&mut this.io).poll_flush(context);
        this.is_write_blocked = flushed.is_pending();
        ready!(flushed)?;
        // The library flushes when it has written everything.
        let connection = &this.connection;
        if connection.is_answering.replace(false) {
            connection.place.is(Activity::Kept);
            this.lines = Lines::default();
            this.head.clear();
            if connection.is_waiting.get() || !this.held.is_empty() || std::mem::take(&mut this.must_wake) {
                context.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        let closed = Pin::new(&mut this.io).poll_shutdown(context);
        this.is_closing = closed.is_pending();
        closed
    }
}
