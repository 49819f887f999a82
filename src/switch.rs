//! The live switch: the key `enabled` of a JetStream KV bucket turns workers and callers off and on while they run.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::kv::Operation;
use futures_util::StreamExt;
use tokio::sync::watch;

/// The key that is watched.
const KEY: &str = "enabled";
/// The pause before a lost watch is taken up again; each failure doubles it, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// JetStream that has not answered in this time is away.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Watches `bucket` for as long as the returned receiver or a clone of it lives. It holds `configured` until the bucket
/// says otherwise, and again once the key is deleted. What the bucket said last holds while JetStream is away.
pub(crate) fn watch_switch(client: async_nats::Client, bucket: String, configured: bool) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(configured);
    tokio::spawn(async move {
        let mut pause = PAUSE_MIN;
        let mut complained = false;
        let keep_on = async {
            loop {
                let error = match follow(&client, &bucket, configured, &sender, &mut pause, &mut complained).await {
                    Ok(()) => "the watch ended".to_owned(),
                    Err(error) => error,
                };
                // Once for each loss, not for each try.
                if !std::mem::replace(&mut complained, true) {
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

/// Follows the key until the watch is lost.
async fn follow(
    client: &async_nats::Client,
    bucket: &str,
    configured: bool,
    sender: &watch::Sender<bool>,
    pause: &mut Duration,
    complained: &mut bool,
) -> Result<(), String> {
    let opened = tokio::time::timeout(ANSWER_MAX, async {
        let store = jetstream::new(client.clone())
            .get_key_value(bucket)
            .await
            .map_err(|error| error.to_string())?;
        // The present value comes first, then every change.
        let watch = store.watch_with_history(KEY).await.map_err(|error| error.to_string())?;
        let present = store.entry(KEY).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((watch, present.is_some()))
    });
    let (mut watch, exists) = opened.await.map_err(|_| "JetStream does not answer".to_owned())??;
    *pause = PAUSE_MIN;
    if std::mem::take(complained) {
        tracing::info!(bucket, "the live switch is back");
    }
    if !exists {
        set(sender, configured);
    }
    while let Some(entry) = watch.next().await {
        let entry = entry.map_err(|error| error.to_string())?;
        match (entry.operation, entry.value.trim_ascii()) {
            (Operation::Put, b"true") => set(sender, true),
            (Operation::Put, b"false") => set(sender, false),
            (Operation::Put, _) => {
                tracing::warn!(bucket, "the live switch holds neither `true` nor `false`: ignored");
            }
            (Operation::Delete | Operation::Purge, _) => set(sender, configured),
        }
    }
    Ok(())
}

fn set(sender: &watch::Sender<bool>, enabled: bool) {
    sender.send_if_modified(|now| std::mem::replace(now, enabled) != enabled);
}
