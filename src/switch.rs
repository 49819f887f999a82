//! The live switch: the key `enabled` of a JetStream KV bucket turns workers and callers off and on while they run.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::jetstream::kv::{Entry, Operation};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

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
/// says otherwise, and again once the key is deleted. What the bucket said last holds while JetStream is away.
pub(crate) fn watch_switch(client: async_nats::Client, bucket: Bucket, configured: bool) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(configured);
    let Bucket { name: bucket, domain } = bucket;
    let api = match domain {
        Some(domain) => jetstream::with_domain(client.clone(), domain),
        None => jetstream::new(client.clone()),
    };
    tokio::spawn(async move {
        let mut pause = PAUSE_MIN;
        let mut complained = false;
        let keep_on = async {
            loop {
                // What is asked without a connection is answered late, and keeps the next try waiting.
                while client.connection_state() != State::Connected {
                    pause = PAUSE_MIN;
                    tokio::time::sleep(PAUSE_MIN).await;
                }
                let followed = follow(&client, &api, &bucket, configured, &sender, &mut pause, &mut complained).await;
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

/// Follows the key until the watch is lost, or (`Ok`) has to be begun anew.
async fn follow(
    client: &async_nats::Client,
    api: &jetstream::Context,
    bucket: &str,
    configured: bool,
    sender: &watch::Sender<bool>,
    pause: &mut Duration,
    complained: &mut bool,
) -> Result<(), String> {
    let opened = tokio::time::timeout(ANSWER_MAX, async {
        let store = api.get_key_value(bucket).await.map_err(|error| error.to_string())?;
        // The present value comes first, then every change.
        let watch = store.watch_with_history(KEY).await.map_err(|error| error.to_string())?;
        let present = store.entry(KEY).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((store, watch, present))
    });
    let (store, mut watch, present) = opened.await.map_err(|_| "JetStream does not answer".to_owned())??;
    *pause = PAUSE_MIN;
    if std::mem::take(complained) {
        tracing::info!(bucket, "the live switch is back");
    }
    let mut seen = apply(present.as_ref(), bucket, configured, sender);
    let statistics = client.statistics();
    let mut connection = statistics.connects.load(Ordering::Relaxed);
    let mut looked_at = Instant::now();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            entry = watch.next() => {
                let entry = entry.ok_or("the watch ended")?.map_err(|error| error.to_string())?;
                seen = apply(Some(&entry), bucket, configured, sender);
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
                if apply(entry.as_ref(), bucket, configured, sender) != seen {
                    return Ok(());
                }
            }
        }
    }
}

/// Does as the entry says, and tells its revision; 0 where the key was never set.
fn apply(entry: Option<&Entry>, bucket: &str, configured: bool, sender: &watch::Sender<bool>) -> u64 {
    let Some(entry) = entry else {
        set(sender, configured);
        return 0;
    };
    match (entry.operation, entry.value.trim_ascii()) {
        (Operation::Put, b"true") => set(sender, true),
        (Operation::Put, b"false") => set(sender, false),
        (Operation::Put, _) => {
            tracing::warn!(bucket, "the live switch holds neither `true` nor `false`: ignored");
        }
        (Operation::Delete | Operation::Purge, _) => set(sender, configured),
    }
    entry.revision
}

fn set(sender: &watch::Sender<bool>, enabled: bool) {
    sender.send_if_modified(|now| std::mem::replace(now, enabled) != enabled);
}
