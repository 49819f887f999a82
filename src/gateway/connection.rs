//! One open connection: what it is at, written by its task and read by the table of [`connections`](super::connections).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// No byte of a request is there.
    Idle,
    /// A part of a head is there.
    Head,
    /// A body is arriving.
    Body,
    /// A body is not read on until there is room for its next bytes.
    Room,
    /// A request is being answered.
    Work,
    /// An answer is leaving.
    Answer,
    /// All is said; what the client still sends is read and forgotten.
    Linger,
    /// It gave way; its task ends it.
    Closed,
}

impl Phase {
    const ALL: [Phase; 8] = [
        Phase::Idle,
        Phase::Head,
        Phase::Body,
        Phase::Room,
        Phase::Work,
        Phase::Answer,
        Phase::Linger,
        Phase::Closed,
    ];
}

/// Why a body is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Others need its room or its connection, and it is slow.
    Slow,
    /// The gateway stops.
    Stop,
}

/// What the task of a connection has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Stay,
    /// End after the request at work.
    Finish,
    /// End at once: nothing was asked, or it gave way.
    Close,
}

const CUT_NONE: u8 = 0;
const CUT_SLOW: u8 = 1;
const CUT_STOP: u8 = 2;

/// One open connection. Its task writes what it is at; the table reads that.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    epoch: Instant,
    /// Microseconds after the epoch, and below them in three bits the phase: since when it is in it; in `Body` and `Answer`,
    /// when it last made progress.
    state: AtomicU64,
    /// Whether it is one past the limit. Written under the table's lock.
    extra: AtomicBool,
    /// Whether it left the table before its end.
    out: AtomicBool,
    /// Whether bytes were read while a request was at work: a part of the next head.
    read_ahead: AtomicBool,
    /// Whether the body of the last request was not read to its end.
    unread: AtomicBool,
    cut: AtomicU8,
    /// Wakes the task of the connection.
    pub(super) wake: Notify,
    /// Wakes whoever waits for bytes of a body.
    wake_body: Notify,
}

impl Connection {
    pub(super) fn new(id: u64, epoch: Instant, extra: bool) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            id,
            epoch,
            state: AtomicU64::new(0),
            extra: AtomicBool::new(extra),
            out: AtomicBool::new(false),
            read_ahead: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            cut: AtomicU8::new(CUT_NONE),
            wake: Notify::new(),
            wake_body: Notify::new(),
        });
        connection.state.store(connection.word(Phase::Idle), Ordering::Release);
        connection
    }

    fn word(&self, phase: Phase) -> u64 {
        (self.epoch.elapsed().as_micros() as u64) << 3 | phase as u64
    }

    fn read(word: u64) -> (Phase, Duration) {
        (Phase::ALL[(word & 7) as usize], Duration::from_micros(word >> 3))
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Its state as one word, what that means: its phase, and since when it is in it or made progress, after the epoch.
    pub(super) fn state(&self) -> (u64, Phase, Duration) {
        let word = self.state.load(Ordering::Acquire);
        let (phase, since) = Self::read(word);
        (word, phase, since)
    }

    pub(super) fn is_extra(&self) -> bool {
        self.extra.load(Ordering::Acquire)
    }

    /// It is no extra one any more. Under the table's lock.
    pub(super) fn set_full(&self) {
        self.extra.store(false, Ordering::Release);
    }

    /// Whether its body is cut already.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire) != CUT_NONE
    }

    pub(super) fn phase(&self) -> Phase {
        Self::read(self.state.load(Ordering::Acquire)).0
    }

    /// From one phase to another, unless it is in a third one.
    fn step(&self, from: Phase, to: Phase) {
        let found = self.state.load(Ordering::Acquire);
        if Self::read(found).0 == from {
            let _ = self
                .state
                .compare_exchange(found, self.word(to), Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Sets the phase, unless it gave way already.
    pub(super) fn set(&self, phase: Phase) {
        let mut found = self.state.load(Ordering::Acquire);
        while Self::read(found).0 != Phase::Closed {
            match self
                .state
                .compare_exchange(found, self.word(phase), Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return,
                Err(other) => found = other,
            }
        }
    }

    /// Bytes came in.
    pub(super) fn bytes_read(&self) {
        match self.phase() {
            Phase::Idle => self.step(Phase::Idle, Phase::Head),
            Phase::Work | Phase::Answer => self.read_ahead.store(true, Ordering::Release),
            _ => {}
        }
    }

    /// Bytes went out.
    pub(super) fn bytes_written(&self) {
        self.step(Phase::Answer, Phase::Answer);
    }

    /// Everything that there was to write went out.
    pub(super) fn flushed(&self) {
        let next = if self.read_ahead.load(Ordering::Acquire) {
            Phase::Head
        } else {
            Phase::Idle
        };
        self.step(Phase::Answer, next);
    }

    /// A whole head is there, with or without a body behind it.
    pub(super) fn begin_request(&self, has_body: bool) {
        self.read_ahead.store(false, Ordering::Release);
        self.unread.store(has_body, Ordering::Release);
        self.set(Phase::Work);
    }

    /// The body was read to its end.
    pub(super) fn body_read(&self) {
        self.unread.store(false, Ordering::Release);
        // Too late to be cut for being slow.
        let _ = self
            .cut
            .compare_exchange(CUT_SLOW, CUT_NONE, Ordering::AcqRel, Ordering::Acquire);
        self.set(Phase::Work);
    }

    /// Whether the client may still send a part of the last request's body.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Whether it ends after the answer at hand.
    pub(super) fn is_last(&self) -> bool {
        self.is_extra() || self.is_out() || self.is_unread() || self.is_stopping()
    }

    pub(super) fn is_out(&self) -> bool {
        self.out.load(Ordering::Acquire)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.cut.load(Ordering::Acquire) == CUT_STOP
    }

    /// Waits until the body is not to be waited for any longer.
    pub(super) async fn cut(&self) -> Cut {
        loop {
            match self.cut.load(Ordering::Acquire) {
                CUT_SLOW => return Cut::Slow,
                CUT_STOP => return Cut::Stop,
                _ => self.wake_body.notified().await,
            }
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.phase() {
            Phase::Closed => Verdict::Close,
            Phase::Idle | Phase::Head | Phase::Linger if self.is_stopping() => Verdict::Close,
            _ if self.is_stopping() || self.is_out() => Verdict::Finish,
            _ => Verdict::Stay,
        }
    }

    pub(super) fn stop(&self) {
        self.cut.store(CUT_STOP, Ordering::Release);
        self.wake.notify_one();
        self.wake_body.notify_one();
    }

    /// Not before a stop, which says more.
    pub(super) fn cut_slow(&self) -> bool {
        let cut = self
            .cut
            .compare_exchange(CUT_NONE, CUT_SLOW, Ordering::AcqRel, Ordering::Acquire);
        if cut.is_ok() {
            self.wake_body.notify_one();
        }
        cut.is_ok()
    }

    /// Ends it if its state is still `found`; under the table's lock. A body that is cut is answered first.
    pub(super) fn give_way(&self, found: u64) -> bool {
        if Self::read(found).0 == Phase::Body {
            if !self.cut_slow() {
                return false;
            }
        } else if self
            .state
            .compare_exchange(found, self.word(Phase::Closed), Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            return false;
        }
        self.out.store(true, Ordering::Release);
        self.wake.notify_one();
        true
    }
}
