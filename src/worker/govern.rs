//! Decides from moment to moment whether this worker should be in the queue group, and tells `receive`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::admit::Queue;
use super::membership::{Membership, MembershipPolicy};
use super::receive::Wish;
use crate::telemetry::names;

/// How often a worker that is away looks whether there is room again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Tells the metrics what the switch says. Who looks at a fleet in which nobody works can then see whether that is a fault.
pub(super) fn tell_switch(enabled: bool) {
    metrics::gauge!(names::SWITCHED_OFF).set(if enabled { 0.0 } else { 1.0 });
}

/// Feeds the state machine until `stop` turns true, then wishes for the end.
pub(super) async fn govern(
    policy: MembershipPolicy,
    queue: Arc<Queue>,
    mut switch: watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
    wish: Arc<watch::Sender<Wish>>,
) {
    let mut membership = Membership::new(policy);
    let mut switched = true;
    let mut was_away = false;
    let mut switchable = true;
    tell_switch(*switch.borrow());
    loop {
        let now = Instant::now();
        let enabled = *switch.borrow_and_update();
        if enabled != switched {
            switched = enabled;
            tell_switch(enabled);
            if enabled {
                tracing::info!("switched on: joining the queue group");
            } else {
                tracing::warn!("switched off: connected, but out of the queue group");
            }
        }
        let inside = membership.step(now, enabled, queue.requests() == 0, queue.crowding(now));
        if membership.is_away() != was_away {
            was_away = membership.is_away();
            let state = if was_away {
                "full: leaving the queue group"
            } else {
                "room again: rejoining the queue group"
            };
            let tokens = queue.load().tokens();
            tracing::debug!(requests = queue.requests(), tokens, "{state}");
        }
        let wanted = match (inside, enabled) {
            (true, _) => Wish::In,
            (false, true) => Wish::Full,
            (false, false) => Wish::Off,
        };
        wish.send_if_modified(|wish| {
            // The end is final, whoever wished for it.
            let changed = *wish != wanted && *wish != Wish::End;
            if changed {
                *wish = wanted;
            }
            changed
        });
        // Full, and not yet allowed to leave: then. Away: look again soon. Else nothing is to be done before the queue says so.
        let again = match (membership.is_away(), membership.dwells_until()) {
            (true, _) => Some(now + LOOK_EVERY),
            (false, Some(at)) if at > now => Some(at),
            _ => None,
        };
        tokio::select! {
            () = async {
                let _ = stop.wait_for(|&stop| stop).await;
            } => {
                wish.send_replace(Wish::End);
                return;
            }
            // Once nobody can switch any more, what holds, holds.
            changed = switch.changed(), if switchable => switchable = changed.is_ok(),
            () = queue.pressure() => {}
            () = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}
