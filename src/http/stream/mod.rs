//! A connection whose peer cannot make it hold much: one request at a time, one answer at a time, and an end.
//!
//! The HTTP library reads as many requests as there are, and keeps their answers until they are written, however many. So this stands
//! between it and the socket. It passes one request, up to the end that its framing tells, and opens for the next one when the answer
//! is written: a peer that does not read gets no further. What it has sent meanwhile waits here ([`MAX_HELD`]), and then in the
//! kernel, which holds the peer.

mod connection;
mod pipelining;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::clock::Timer;

use super::connections::ConnectionSlot;
use super::framing::HeadScan;
use super::parser_refusal::{self, MAX_REMEMBERED};

pub use connection::{ANSWER_TICKS, Connection, HEAD_TICKS, IDLE_TICKS, LIFE_TICKS, LONGEST_LIFE_TICKS, TICK};

use connection::Stage;
use pipelining::Turn;

/// How much of what follows a request is read before its answer is written, in bytes.
pub const MAX_HELD: usize = 8 * 1024;

/// A stream between the HTTP library and the socket.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact about the socket, and any of them may hold beside the others"
)]
pub struct Stream<T> {
    io: T,
    connection: Rc<Connection>,
    /// Resolves when it must end for another.
    ended: oneshot::Receiver<()>,
    timer: Timer,
    has_ended: bool,
    /// No request came in time: the library reads the end, and closes.
    is_idle: bool,
    /// Where the head that is read ends.
    end: HeadScan,
    /// Read, and not handed on.
    held: Vec<u8>,
    /// A whole head was handed on: the library looks at it before anything else comes.
    is_turn_over: bool,
    /// Nothing reads from the socket until the answer is written.
    must_wake: bool,
    is_closing: bool,
    /// An answer was just written, and nobody has looked whether the next request is there already.
    may_be_pipelined: bool,
    turn: Turn,
    /// The first bytes of the head that is read.
    head: Vec<u8>,
    /// What is left to write in the place of an answer of the library's own.
    refusal: Option<Vec<u8>>,
    has_https: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream<T> {
    pub(super) fn new(io: T, place: ConnectionSlot, ended: oneshot::Receiver<()>, has_https: bool) -> Self {
        Self {
            io,
            connection: Rc::new(Connection::new(place)),
            ended,
            timer: Timer::new(TICK),
            has_ended: false,
            is_idle: false,
            end: HeadScan::default(),
            held: Vec::new(),
            is_turn_over: false,
            must_wake: false,
            is_closing: false,
            may_be_pipelined: false,
            turn: Turn::new(),
            head: Vec::new(),
            refusal: None,
            has_https,
        }
    }

    /// What the handlers of its requests are given.
    pub(super) fn connection(&self) -> Rc<Connection> {
        Rc::clone(&self.connection)
    }

    /// Fails when the connection must end; a turn ends with what follows it.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.may_be_pipelined {
            self.turn.give_back();
        }
        if !self.has_ended && (self.is_displaced(context) || self.is_overdue(context)) {
            self.has_ended = true;
        }
        if self.has_ended {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    fn is_displaced(&mut self, context: &mut Context<'_>) -> bool {
        Pin::new(&mut self.ended).poll(context).is_ready()
    }

    fn is_overdue(&mut self, context: &mut Context<'_>) -> bool {
        while self.timer.poll(context).is_ready() {
            self.timer.reset(TICK);
            let is_late = self.connection.look();
            if self.is_closing || self.connection.is_too_old() {
                return true;
            }
            if is_late && (self.is_idle || self.connection.stage() != Stage::Idle) {
                return true;
            }
            // The library is told of the end, so that it closes with TLS's own.
            self.is_idle = is_late;
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
        match self.connection.stage() {
            Stage::Idle => {
                self.connection.enter(Stage::Head);
                self.end = HeadScan::default();
                self.head.clear();
            }
            Stage::Head => {}
            Stage::Busy | Stage::Answering | Stage::Draining => return self.connection.pass_body(bytes),
        }
        let room = MAX_REMEMBERED - self.head.len();
        self.head.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        let end = self.end.find_end(bytes);
        self.is_turn_over = end.is_some();
        end.unwrap_or(bytes.len())
    }

    /// Writes the whole of it: the library believes that it wrote its own.
    fn poll_write_refusal(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(refusal) = self.refusal.as_mut().filter(|refusal| !refusal.is_empty()) {
            let length = ready!(Pin::new(&mut self.io).poll_write(context, refusal))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            refusal.drain(..length.min(refusal.len()));
        }
        self.refusal = None;
        Poll::Ready(Ok(()))
    }

    /// Waits for a turn if the next request came before its peer could read the last answer.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            let Poll::Ready(read) = self.poll_hold(context) else {
                self.may_be_pipelined = false;
                return Poll::Pending;
            };
            if !read? {
                self.may_be_pipelined = false;
                return Poll::Ready(Ok(()));
            }
        }
        ready!(self.turn.poll_take(context));
        self.may_be_pipelined = false;
        Poll::Ready(Ok(()))
    }

    /// Reads a piece that the library must not have yet; false at the end of the connection.
    fn poll_hold(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [0; 1024];
        let room = MAX_HELD.saturating_sub(self.held.len()).min(bytes.len());
        let mut piece = ReadBuf::new(bytes.split_at_mut(room).0);
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
        match this.connection.stage() {
            Stage::Idle if this.is_idle => return Poll::Ready(Ok(())),
            Stage::Idle if this.may_be_pipelined => {
                ready!(this.poll_next(context))?;
                if !this.held.is_empty() {
                    this.hand_on_held(buffer);
                }
                return Poll::Ready(Ok(()));
            }
            Stage::Head if this.is_turn_over => {
                // If it is no whole head to the library after all, the rest of it follows.
                this.is_turn_over = false;
                if this.held.is_empty() && !ready!(this.poll_hold(context))? {
                    return Poll::Ready(Ok(()));
                }
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Stage::Busy if this.connection.is_body_over() => {
                // The end of the connection must be seen all the same.
                while this.held.len() < MAX_HELD {
                    if !ready!(this.poll_hold(context))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                this.must_wake = true;
                return Poll::Pending;
            }
            Stage::Answering => {
                this.must_wake = true;
                return Poll::Pending;
            }
            _ => {}
        }
        if !this.held.is_empty() {
            this.hand_on_held(buffer);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        // No more than may be held.
        let most = buffer.remaining().min(MAX_HELD);
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.io).poll_read(context, &mut piece))?;
        let length = piece.filled().len();
        buffer.advance(length);
        if length > 0 {
            this.keep_back(buffer, before);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(context)?;
        // No handler has answered, so that this is the library's own answer.
        if this.refusal.is_none() && !matches!(this.connection.stage(), Stage::Busy | Stage::Answering) {
            this.refusal = parser_refusal::in_place_of(bytes, &this.head, this.has_https);
        }
        if this.refusal.is_some() {
            return this.poll_write_refusal(context).map_ok(|()| bytes.len());
        }
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        if written.is_pending() && this.connection.stage() == Stage::Answering {
            this.connection.waits();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        ready!(Pin::new(&mut this.io).poll_flush(context))?;
        // The library flushes when it has written everything.
        if this.connection.stage() == Stage::Answering {
            this.connection.is_answered();
            // Who sends the next request only now has read this answer, and takes no turn.
            let is_idle = this.connection.stage() == Stage::Idle && this.held.is_empty();
            this.may_be_pipelined = !is_idle || this.poll_hold(context).is_ready();
            if std::mem::take(&mut this.must_wake) || this.may_be_pipelined {
                context.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A place in the line would hold up those behind it.
        this.turn = Turn::new();
        this.check(context)?;
        let closed = Pin::new(&mut this.io).poll_shutdown(context);
        this.is_closing = closed.is_pending();
        closed
    }
}
