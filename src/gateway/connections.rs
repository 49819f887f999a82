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

#[cfg(test)]
mod tests {
    use super::super::connection::{Cut, Verdict};
    use super::*;

    fn enter(connections: &Connections, phase: Phase) -> Arc<Connection> {
        let connection = connections.admit();
        connection.set(phase);
        // So that no two are of the same microsecond.
        std::thread::sleep(Duration::from_micros(10));
        connection
    }

    /// Who would go first when this much time has passed.
    fn first(connections: &Connections, extras: bool, idle_for: Duration, after: Duration) -> Option<(u64, Eviction)> {
        let now = connections.epoch.elapsed() + after;
        let table = connections.table();
        let first = table.first_to_go(extras, idle_for, now);
        first.map(|(connection, _, why)| (connection.id(), why))
    }

    #[test]
    fn idle_before_slow_and_the_longest_first() {
        let connections = Connections::new(10);
        let head = enter(&connections, Phase::Head);
        let work = enter(&connections, Phase::Work);
        let room = enter(&connections, Phase::Room);
        let body = enter(&connections, Phase::Body);
        let answer = enter(&connections, Phase::Answer);
        let at = |after| first(&connections, false, Duration::ZERO, after);
        assert_eq!(at(Duration::ZERO), None, "nobody is slow yet");
        assert_eq!(at(SLOW_AFTER), Some((head.id(), Eviction::Slow)));
        let idle = enter(&connections, Phase::Idle);
        let linger = enter(&connections, Phase::Linger);
        assert_eq!(at(SLOW_AFTER), Some((idle.id(), Eviction::Idle)));
        let hour = Duration::from_secs(3600);
        assert_eq!(
            first(&connections, false, hour, SLOW_AFTER),
            Some((head.id(), Eviction::Slow))
        );
        // A byte makes the idle one busy; then the next one is first.
        idle.bytes_read();
        assert_eq!(idle.phase(), Phase::Head);
        assert_eq!(at(SLOW_AFTER), Some((linger.id(), Eviction::Idle)));
        connections.ended(&linger);
        connections.ended(&head);
        assert_eq!(at(SLOW_AFTER), Some((body.id(), Eviction::Slow)));
        // Progress counts from now on.
        body.set(Phase::Body);
        assert_eq!(at(SLOW_AFTER), Some((answer.id(), Eviction::Slow)));
        for connection in [&answer, &idle, &body] {
            connections.ended(connection);
        }
        assert_eq!(at(hour), None, "what is at work, or waits for us, is not slow");
        assert_eq!(
            (connections.open(), work.phase(), room.phase()),
            (2, Phase::Work, Phase::Room)
        );
    }

    #[test]
    fn extras_come_past_the_limit_and_give_way_to_each_other() {
        let connections = Connections::new(2);
        let full: Vec<_> = (0..2).map(|_| enter(&connections, Phase::Work)).collect();
        let extras: Vec<_> = (0..EXTRAS_MAX).map(|_| enter(&connections, Phase::Work)).collect();
        assert!(full.iter().all(|one| !one.is_extra()) && extras.iter().all(|one| one.is_extra()));
        let next = enter(&connections, Phase::Idle);
        assert_eq!(connections.open(), 2 + EXTRAS_MAX);
        assert_eq!(
            (extras[0].verdict(), extras[1].verdict()),
            (Verdict::Close, Verdict::Stay)
        );
        assert!(!connections.promote(&next) && connections.promote(&full[0]));
        // An idle one gives way to one that has asked, however short it has been idle.
        full[1].set(Phase::Idle);
        assert!(connections.promote(&next) && !next.is_extra());
        assert!(full[1].is_out() && !connections.promote(&extras[0]), "those are gone");
        connections.ended(&full[0]);
        connections.ended(&full[1]);
        assert!(connections.promote(&extras[1]), "there is a free one");
        for one in extras.iter().chain([&next]) {
            connections.ended(one);
        }
        let table = connections.table();
        assert_eq!((table.open.len(), table.full, table.extras), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_slow_body_is_cut_once_and_answered() {
        let connections = Connections::new(1);
        let body = enter(&connections, Phase::Body);
        let (word, ..) = body.state();
        assert!(connections.end(&mut connections.table(), &body, word, Eviction::Slow));
        assert_eq!((body.cut().await, body.verdict()), (Cut::Slow, Verdict::Finish));
        assert!(body.is_out() && body.is_last() && connections.open() == 0);
        // A stop says more than that, and a body that came in time less.
        let other = enter(&connections, Phase::Body);
        assert!(other.cut_slow() && !other.cut_slow());
        other.body_read();
        assert!(!other.is_cut());
        connections.stop();
        assert_eq!((other.cut().await, other.verdict()), (Cut::Stop, Verdict::Finish));
        other.set(Phase::Idle);
        assert_eq!(other.verdict(), Verdict::Close);
    }

    #[test]
    fn the_last_that_waits_for_room_has_no_hope() {
        let connections = Connections::new(10);
        let first = enter(&connections, Phase::Room);
        let last = enter(&connections, Phase::Room);
        assert_eq!(connections.cut_slowest_body(Some(&first)), Bodies::Arriving);
        assert_eq!(connections.cut_slowest_body(Some(&last)), Bodies::None);
        let body = enter(&connections, Phase::Body);
        assert_eq!(connections.cut_slowest_body(Some(&last)), Bodies::Arriving);
        assert!(!body.is_cut(), "it is not slow yet");
    }

    #[test]
    fn an_answer_is_over_once_all_of_it_is_written() {
        let connections = Connections::new(1);
        let one = connections.admit();
        one.bytes_read();
        one.begin_request(false);
        one.flushed();
        assert_eq!(one.phase(), Phase::Work, "100 Continue is no answer");
        one.set(Phase::Answer);
        one.flushed();
        assert_eq!(one.phase(), Phase::Idle);
        // A part of the next head came early.
        one.begin_request(false);
        one.bytes_read();
        one.set(Phase::Answer);
        one.flushed();
        assert_eq!(one.phase(), Phase::Head);
    }
}
