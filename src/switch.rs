//! The live switch: the key `enabled` of a JetStream KV bucket turns workers and callers off and on while they run.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::kv::{Entry, Operation, Store};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::nats::Sessions;

/// The key that is watched.
const KEY: &str = "enabled";
/// The pause before a lost watch is taken up again; each failure doubles it, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often to see whether the connection is a new one: then the key is looked at, beside the watch.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the key is looked at in any case.
const LOOK_IDLE_EVERY: Duration = Duration::from_secs(30);
/// JetStream that has not answered in this time is away.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Revisions of a key that a bucket keeps at most.
const HISTORY_MAX: usize = 64;

/// A switch as people write it in an environment variable.
pub(crate) fn parse_switch(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Where the switch is.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// The bucket's name.
    pub(crate) name: String,
    /// The JetStream domain that it is in; `None`: the one of the servers connected to.
    pub(crate) domain: Option<String>,
}

/// Watches `bucket` for as long as the returned receiver or a clone of it lives. It holds `configured` until the bucket
/// says otherwise, and again once the key is deleted. What the bucket said last holds while JetStream is away. A value that
/// is neither `true` nor `false` leaves in force what was good before it, see [`Reading`].
pub(crate) fn watch_switch(sessions: Sessions, bucket: Bucket, configured: bool) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(configured);
    let Bucket { name: bucket, domain } = bucket;
    tokio::spawn(async move {
        let mut pause = PAUSE_MIN;
        let mut complained = false;
        let mut reading = Reading::default();
        let keep_on = async {
            loop {
                // What is asked without a connection is answered late, and keeps the next try waiting.
                while !sessions.is_connected() {
                    pause = PAUSE_MIN;
                    tokio::time::sleep(PAUSE_MIN).await;
                }
                let client = sessions.client();
                let api = match &domain {
                    Some(domain) => jetstream::with_domain(client.clone(), domain),
                    None => jetstream::new(client.clone()),
                };
                let switch = Switch {
                    client: &client,
                    api: &api,
                    bucket: &bucket,
                    configured,
                    sender: &sender,
                };
                let followed = switch.follow(&mut reading, &mut pause, &mut complained).await;
                // Once for each loss, not for each try.
                if let Err(error) = followed
                    && !std::mem::replace(&mut complained, true)
                {
                    tracing::warn!(
                        bucket,
                        error,
                        enabled = *sender.borrow(),
                        "the live switch is out of reach: what holds now holds on; trying again"
                    );
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        };
        tokio::select! {
            () = keep_on => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

/// What one revision of the key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// `true` or `false`.
    Value(bool),
    /// Nothing: the key was deleted, or never set.
    Nothing,
    /// Neither of these.
    Garbage,
}

impl Said {
    fn of(operation: Operation, value: &[u8]) -> Said {
        match (operation, value.trim_ascii()) {
            (Operation::Delete | Operation::Purge, _) => Said::Nothing,
            (Operation::Put, b"true") => Said::Value(true),
            (Operation::Put, b"false") => Said::Value(false),
            (Operation::Put, _) => Said::Garbage,
        }
    }
}

/// What a reader of the key knows. Pure.
///
/// | the key holds | in force |
/// |---|---|
/// | `true`, `false` | that |
/// | nothing: never set, or deleted | what is configured |
/// | anything else | the last good value before it since the key was last deleted: by the history of the bucket, else the one that this reader saw last; where there is none, off |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    /// The last good value since the key was deleted.
    good: Option<bool>,
    /// The revision of the garbage that was dealt with last.
    garbage: Option<u64>,
}

impl Reading {
    /// Takes note of what the key says now. Returns what is in force.
    fn take(&mut self, said: Said, configured: bool) -> bool {
        match said {
            Said::Value(value) => {
                self.good = Some(value);
                value
            }
            Said::Nothing => {
                self.good = None;
                configured
            }
            Said::Garbage => self.good.unwrap_or(false),
        }
    }

    /// Takes note of what the bucket remembers of the time before garbage, oldest first.
    fn remember(&mut self, before: impl IntoIterator<Item = Said>) {
        for said in before {
            match said {
                Said::Value(value) => self.good = Some(value),
                Said::Nothing => self.good = None,
                Said::Garbage => {}
            }
        }
    }
}

/// What the switch is followed by.
struct Switch<'a> {
    client: &'a async_nats::Client,
    api: &'a jetstream::Context,
    bucket: &'a str,
    configured: bool,
    sender: &'a watch::Sender<bool>,
}

impl Switch<'_> {
    /// Follows the key until the watch is lost, or (`Ok`) has to be begun anew.
    async fn follow(&self, reading: &mut Reading, pause: &mut Duration, complained: &mut bool) -> Result<(), String> {
        let opened = tokio::time::timeout(ANSWER_MAX, async {
            let store = self
                .api
                .get_key_value(self.bucket)
                .await
                .map_err(|error| error.to_string())?;
            // The present value comes first, then every change.
            let watch = store.watch_with_history(KEY).await.map_err(|error| error.to_string())?;
            let present = store.entry(KEY).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((store, watch, present))
        });
        let (store, mut watch, present) = opened.await.map_err(|_| "JetStream does not answer".to_owned())??;
        *pause = PAUSE_MIN;
        if std::mem::take(complained) {
            tracing::info!(bucket = self.bucket, "the live switch is back");
        }
        let mut seen = self.apply(present.as_ref(), &store, reading).await;
        let statistics = self.client.statistics();
        let mut connection = statistics.connects.load(Ordering::Relaxed);
        let mut looked_at = Instant::now();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entry = watch.next() => {
                    let entry = entry.ok_or("the watch ended")?.map_err(|error| error.to_string())?;
                    seen = self.apply(Some(&entry), &store, reading).await;
                }
                _ = look.tick() => {
                    let connection_now = statistics.connects.load(Ordering::Relaxed);
                    if connection_now == connection && looked_at.elapsed() < LOOK_IDLE_EVERY {
                        continue;
                    }
                    let entry = tokio::time::timeout(ANSWER_MAX, store.entry(KEY))
                        .await
                        .map_err(|_| "JetStream does not answer".to_owned())?
                        .map_err(|error| error.to_string())?;
                    (connection, looked_at) = (connection_now, Instant::now());
                    // The watch goes on from the number where it was. A bucket that was made anew counts from 1 again, and
                    // the watch would wait for a number that comes much later, or never: so watch anew.
                    if self.apply(entry.as_ref(), &store, reading).await != seen {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Does as the entry says, and returns its revision; 0 where the key was never set.
    async fn apply(&self, entry: Option<&Entry>, store: &Store, reading: &mut Reading) -> u64 {
        let Some(entry) = entry else {
            self.set(reading.take(Said::Nothing, self.configured));
            return 0;
        };
        let said = Said::of(entry.operation, &entry.value);
        // At once, and before anything is looked up: what is not known to be good is off.
        self.set(reading.take(said, self.configured));
        if said == Said::Garbage && reading.garbage != Some(entry.revision) {
            let remembered = history(store, entry.revision).await;
            let from = match &remembered {
                Some(before) if before.iter().any(|said| *said != Said::Garbage) => "the bucket's history",
                _ if reading.good.is_some() => "what was seen last",
                _ => "nothing",
            };
            // What could not be looked up is looked up again the next time.
            reading.garbage = remembered.is_some().then_some(entry.revision);
            reading.remember(remembered.unwrap_or_default());
            let enabled = reading.take(said, self.configured);
            self.set(enabled);
            tracing::error!(
                bucket = self.bucket,
                revision = entry.revision,
                enabled,
                from,
                "the live switch holds neither `true` nor `false`: the last good value holds, or off where none is known"
            );
        }
        entry.revision
    }

    fn set(&self, enabled: bool) {
        self.sender
            .send_if_modified(|now| std::mem::replace(now, enabled) != enabled);
    }
}

/// What the bucket remembers of the key before `revision`, oldest first; `None`: it did not answer.
async fn history(store: &Store, revision: u64) -> Option<Vec<Said>> {
    let read = async {
        let mut entries = store.history(KEY).await.ok()?;
        let mut before = Vec::new();
        // A bucket keeps 64 revisions of a key at most.
        while before.len() < HISTORY_MAX
            && let Some(entry) = entries.next().await
        {
            let entry = entry.ok()?;
            if entry.revision >= revision {
                break;
            }
            before.push(Said::of(entry.operation, &entry.value));
        }
        Some(before)
    };
    tokio::time::timeout(ANSWER_MAX, read).await.ok()?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_read_as_it_is_written() {
        let put = |value: &[u8]| Said::of(Operation::Put, value);
        assert_eq!(put(b"true"), Said::Value(true));
        assert_eq!(put(b" false\n"), Said::Value(false));
        for garbage in [&b""[..], b"TRUE", b"0", b"{}", b"true false", b"\xff"] {
            assert_eq!(put(garbage), Said::Garbage, "{garbage:?}");
        }
        assert_eq!(Said::of(Operation::Delete, b""), Said::Nothing);
        assert_eq!(Said::of(Operation::Purge, b"true"), Said::Nothing);
    }

    fn said() -> impl Strategy<Value = Said> {
        prop_oneof![
            Just(Said::Value(true)),
            Just(Said::Value(false)),
            Just(Said::Nothing),
            Just(Said::Garbage)
        ]
    }

    proptest! {
        /// Who has followed the key and who starts now and reads its history agree, and neither goes by garbage.
        #[test]
        fn a_running_reader_and_a_new_one_agree(key in prop::collection::vec(said(), 1..20), configured in any::<bool>()) {
            let mut running = Reading::default();
            let mut in_force = configured;
            for said in &key {
                in_force = running.take(*said, configured);
            }
            let (last, before) = key.split_last().unwrap();
            let mut new = Reading::default();
            if *last == Said::Garbage {
                new.remember(before.iter().copied());
            }
            prop_assert_eq!(new.take(*last, configured), in_force);
            let meant = key.iter().rev().find(|said| **said != Said::Garbage);
            let expected = match (last, meant) {
                (Said::Garbage, Some(Said::Value(value))) | (Said::Value(value), _) => *value,
                (Said::Garbage, _) => false,
                (Said::Nothing, _) => configured,
            };
            prop_assert_eq!(in_force, expected);
        }

        /// Of a bucket that keeps one revision a reader that starts now sees garbage alone: off, whatever is configured.
        #[test]
        fn garbage_alone_is_off(configured in any::<bool>()) {
            let mut new = Reading::default();
            new.remember([]);
            prop_assert!(!new.take(Said::Garbage, configured));
        }
    }
}
