//! What the stream and the handlers of its requests both know.

use std::cell::Cell;
use std::time::Duration;

use actix_web::dev::RequestHead;

use crate::http::connections::{Activity, ConnectionSlot};
use crate::http::framing::BodyFraming;

/// How often a connection is looked at.
pub const TICK: Duration = Duration::from_secs(5);

/// In so many looks a request must be complete up to its body, once its first byte has come. As long may a body last that still
/// comes when its answer is written.
pub const HEAD_TICKS: u32 = 2;

/// In so many looks the peer must take an answer.
pub const ANSWER_TICKS: u32 = 4;

/// After so many looks without a request a connection is closed.
pub const IDLE_TICKS: u32 = 15;

/// After so many looks a connection is closed with its next answer: an hour.
pub const LIFE_TICKS: u32 = 720;

/// After so many looks it is closed in any case.
pub const LONGEST_LIFE_TICKS: u32 = LIFE_TICKS + 12;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first byte of a request.
    Idle,
    /// The rest of its head.
    Head,
    /// Its handler.
    Busy,
    /// The peer, to take the answer.
    Answering,
    /// The rest of a body that the answer did not need.
    Draining,
}

impl Stage {
    /// For how many looks.
    const fn limit(self) -> u32 {
        match self {
            Self::Idle => IDLE_TICKS,
            Self::Head | Self::Draining => HEAD_TICKS,
            Self::Answering => ANSWER_TICKS,
            // What a handler waits for has its own limits.
            Self::Busy => LONGEST_LIFE_TICKS,
        }
    }
}

/// What the stream and the handlers of its requests both know.
pub struct Connection {
    place: ConnectionSlot,
    stage: Cell<Stage>,
    /// Looks since the stage began.
    waited: Cell<u32>,
    /// What of the body may still be handed on.
    body: Cell<BodyFraming>,
    /// Looks in all.
    ticks: Cell<u32>,
}

impl Connection {
    pub(super) fn new(place: ConnectionSlot) -> Self {
        Self {
            place,
            stage: Cell::new(Stage::Idle),
            waited: Cell::new(0),
            body: Cell::new(BodyFraming::NONE),
            ticks: Cell::new(0),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    pub(super) fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        self.waited.set(0);
    }

    /// A request with this head has come.
    pub fn begin(&self, head: &RequestHead) {
        self.body.set(BodyFraming::of(head));
        self.enter(Stage::Busy);
        self.body_may_be_over();
    }

    /// The request has its answer.
    pub fn finish(&self) {
        self.enter(Stage::Answering);
    }

    /// The answer is written.
    pub(super) fn is_answered(&self) {
        self.waits();
        let has_body = !self.is_body_over();
        self.enter(if has_body { Stage::Draining } else { Stage::Idle });
    }

    /// Only the peer can go on: the connection may end for another.
    pub(super) fn waits(&self) {
        self.place.is(Activity::Kept);
    }

    pub(super) fn is_body_over(&self) -> bool {
        self.body.get().is_over()
    }

    /// How many of these bytes belong to the body.
    pub(super) fn pass_body(&self, bytes: &[u8]) -> usize {
        let mut body = self.body.get();
        let length = body.pass(bytes);
        self.body.set(body);
        self.body_may_be_over();
        length
    }

    fn body_may_be_over(&self) {
        match self.stage() {
            // A peer whose body does not come could hold its place as long as it likes.
            Stage::Busy if self.is_body_over() => self.place.is(Activity::Busy),
            Stage::Draining if self.is_body_over() => self.enter(Stage::Idle),
            _ => {}
        }
    }

    /// A look: whether what it waits for is late.
    pub(super) fn look(&self) -> bool {
        self.ticks.set(self.ticks.get() + 1);
        self.waited.set(self.waited.get() + 1);
        self.waited.get() >= self.stage().limit()
    }

    /// Whether it should end with its next answer.
    pub fn is_old(&self) -> bool {
        self.ticks.get() >= LIFE_TICKS
    }

    /// Whether it ends in any case.
    pub(super) fn is_too_old(&self) -> bool {
        self.ticks.get() >= LONGEST_LIFE_TICKS
    }
}
