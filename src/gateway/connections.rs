//! The table of open connections: which one gives way when there are too many.
//!
//! Every connection is accepted. Up to `connections_max` are served in full. Past that, a connection that asks nothing gives
//! way: the one that has been idle longest, then one that takes longer over its request or over reading its answer than
//! [`SLOW_AFTER`] allows. If there is none, the new connection is an *extra* one: it is there for probes, has to give way to
//! the next extra one, and is closed after one answer, unless it can become a full one by then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{Connection, Phase};
use crate::telemetry::gateway_names::EVICTION_REASONS;

/// Connections past the limit, for probes.
pub(super) const EXTRAS_MAX: usize = 32;
/// Without a byte for so long, a connection gives way to one that has just come: what was just accepted may have asked
/// already. To one that has asked it gives way at once.
const IDLE_AFTER: Duration = Duration::from_millis(100);
/// When others are short of connections or of room: how long a head may take, how long a body may take over
/// [`SLOW_BYTES`], and how long an answer may lie unread.
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(2);
/// A body that brings so many bytes every [`SLOW_AFTER`] is not slow: 4 KiB a second.
pub(super) const SLOW_BYTES: usize = 8 * 1024;
/// An answer of which nothing was read for so long is given up, whether or not others are short.
const UNREAD_MAX: Duration = Duration::from_secs(30);
/// A connection that is looked at may change at that moment; then the next one is looked for, so often at most.
const TRIES: usize = 8;

/// Why a connection gave way, in the order of [`EVICTION_REASONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Eviction {
    Idle,
    Slow,
    Extra,
}

/// What there is to hope for where bodies need more room than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bodies {
    /// No body is arriving but those that wait for room, longer than this one: nobody else will make any.
    None,
    /// Others are arriving, and will have arrived, be slow, or be refused.
    Arriving,
    /// A slow one was cut.
    Cut,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connections {
    full_max: usize,
    epoch: Instant,
    table: Mutex<Table>,
    evicted: [AtomicU64; EVICTION_REASONS.len()],
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Connection>>,
    full: usize,
    extras: usize,
    next_id: u64,
}

impl Table {
    /// The connection that gives way first: its word, and why. Looks at all, which is done only when places are short.
    fn first_to_go(
        &self,
        extras: bool,
        idle_for: Duration,
        now: Duration,
    ) -> Option<(&Arc<Connection>, u64, Eviction)> {
        let candidates = self.open.values().filter_map(|connection| {
            if connection.is_extra() != extras {
                return None;
            }
            let (word, phase, since) = connection.state();
            let why = match phase {
                Phase::Closed => return None,
                // Its answer is on its way.
                Phase::Body if connection.is_cut() => return None,
                _ if extras => Eviction::Extra,
                Phase::Idle | Phase::Linger if now.saturating_sub(since) >= idle_for => Eviction::Idle,
                Phase::Head | Phase::Body | Phase::Answer if now.saturating_sub(since) >= SLOW_AFTER => Eviction::Slow,
                _ => return None,
            };
            Some((connection, word, why, since))
        });
        let first = candidates.min_by_key(|(_, _, why, since)| (*why as usize, *since));
        first.map(|(connection, word, why, _)| (connection, word, why))
    }
}

impl Connections {
    /// A table for so many connections, and [`EXTRAS_MAX`] extra ones.
    pub(super) fn new(full_max: usize) -> Connections {
        Connections {
            full_max,
            epoch: Instant::now(),
            table: Mutex::default(),
            evicted: Default::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a new connection; another one may have to give way for it.
    pub(super) fn admit(&self) -> Arc<Connection> {
        let table = &mut *self.table();
        let extra = !self.has_room(table, IDLE_AFTER);
        if extra {
            if table.extras >= EXTRAS_MAX {
                self.end_first(table, true, Duration::ZERO);
            }
            table.extras += 1;
        } else {
            table.full += 1;
        }
        table.next_id += 1;
        let connection = Connection::new(table.next_id, self.epoch, extra);
        table.open.insert(connection.id(), connection.clone());
        connection
    }

    /// Whether it may ask for anything: an extra one becomes a full one if it can.
    pub(super) fn promote(&self, connection: &Connection) -> bool {
        if !connection.is_extra() {
            return true;
        }
        let table = &mut *self.table();
        // It has asked, which those that are idle have not.
        if connection.is_out() || !self.has_room(table, Duration::ZERO) {
            return false;
        }
        connection.set_full();
        table.extras -= 1;
        table.full += 1;
        true
    }

    /// A connection has ended.
    pub(super) fn ended(&self, connection: &Connection) {
        Self::remove(&mut self.table(), connection);
    }

    /// There are too few file descriptors for another connection: has one give way. False if all are needed.
    pub(super) fn spare_one(&self) -> bool {
        let table = &mut *self.table();
        self.end_first(table, false, Duration::ZERO) || self.end_first(table, true, Duration::ZERO)
    }

    /// Cuts the slowest of the bodies that are slow, since another one needs room.
    ///
    /// `waiting` is who needs it. Of those that wait, the last one is answered that there is no hope, so that the others have
    /// some.
    pub(super) fn cut_slowest_body(&self, waiting: Option<&Connection>) -> Bodies {
        let table = self.table();
        let now = self.epoch.elapsed();
        let since_mine = waiting.map_or(now, |waiting| waiting.state().2);
        let mut found = Bodies::None;
        let bodies = table.open.values().filter_map(|connection| {
            let (_, phase, since) = connection.state();
            if phase == Phase::Body || phase == Phase::Room && since > since_mine {
                found = Bodies::Arriving;
            }
            (phase == Phase::Body).then_some((connection, since))
        });
        let slow = bodies
            .filter(|(connection, since)| now.saturating_sub(*since) >= SLOW_AFTER && !connection.is_cut())
            .min_by_key(|(_, since)| *since);
        match slow {
            Some((connection, _)) if connection.cut_slow() => Bodies::Cut,
            _ => found,
        }
    }

    /// Ends those that do not read their answer.
    pub(super) fn sweep(&self) {
        let table = &mut *self.table();
        let now = self.epoch.elapsed();
        let stuck: Vec<_> = table
            .open
            .values()
            .filter_map(|connection| {
                let (word, phase, since) = connection.state();
                let is_stuck = phase == Phase::Answer && now.saturating_sub(since) >= UNREAD_MAX;
                is_stuck.then(|| (connection.clone(), word))
            })
            .collect();
        for (connection, word) in stuck {
            self.end(table, &connection, word, Eviction::Slow);
        }
    }

    /// The gateway stops: who has not asked is ended at once, who has is answered.
    pub(super) fn stop(&self) {
        for connection in self.table().open.values() {
            connection.stop();
        }
    }

    /// Connections in the table.
    pub(super) fn open(&self) -> usize {
        self.table().open.len()
    }

    pub(super) fn max(&self) -> usize {
        self.full_max
    }

    /// How many gave way for each reason.
    pub(super) fn evicted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.evicted.iter().map(|count| count.load(Ordering::Relaxed));
        EVICTION_REASONS.iter().copied().zip(counts)
    }

    fn has_room(&self, table: &mut Table, idle_for: Duration) -> bool {
        table.full < self.full_max || self.end_first(table, false, idle_for)
    }

    fn end_first(&self, table: &mut Table, extras: bool, idle_for: Duration) -> bool {
        for _ in 0..TRIES {
            let now = self.epoch.elapsed();
            let Some((connection, word, why)) = table.first_to_go(extras, idle_for, now) else {
                return false;
            };
            let connection = connection.clone();
            if self.end(table, &connection, word, why) {
                return true;
            }
        }
        false
    }

    fn end(&self, table: &mut Table, connection: &Connection, word: u64, why: Eviction) -> bool {
        let gave_way = connection.give_way(word);
        if gave_way {
            Self::remove(table, connection);
            self.evicted[why as usize].fetch_add(1, Ordering::Relaxed);
        }
        gave_way
    }

    fn remove(table: &mut Table, connection: &Connection) {
        if table.open.remove(&connection.id()).is_some() {
            if connection.is_extra() {
                table.extras -= 1;
            } else {
                table.full -= 1;
            }
        }
    }
}
