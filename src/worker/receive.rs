//! The first stage: the queue-group subscription. With `reply` the only one that speaks NATS.
//!
//! Never blocks on anything but a place in the outbox, since a subscription that is not read drops messages silently.

use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use tokio::sync::watch;

use super::decode::Incoming;
use super::status::{State, Status};
use super::ticket::{Outbox, Place};
use crate::protocol::RequestHeaders;
use crate::telemetry::names;

/// Where to listen.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) subject: String,
    pub(super) queue_group: String,
}

/// How the group is left so that nothing is lost (FACTS: of the ways tried, the only one that lost none of 10,000): ask
/// the server to end the subscription this many messages from now, read on for as long as messages come, then drain.
const LEAVE_AFTER_MESSAGES: u64 = 64;
/// No message for this long after asking to leave: drain.
const LEAVE_QUIET: Duration = Duration::from_millis(50);

/// Where this worker should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// In the queue group.
    In,
    /// Out of it until the queue is shorter.
    Full,
    /// Out of it because reranking is switched off.
    Off,
    /// Out of it, for good.
    End,
}

/// Joins and leaves the queue group as `wish` says, and hands every message with a place to answer it to `take`. Leaves
/// without losing what the server has sent already. Returns when `wish` ends.
pub(super) async fn receive(
    client: &async_nats::Client,
    group: &Group,
    outbox: &Outbox,
    status: &Status,
    mut wish: watch::Receiver<Wish>,
    joined: impl Fn() + Sync,
    take: impl Fn(Incoming, Place) + Sync,
) -> Result<(), String> {
    loop {
        // A sender that is gone can wish for nothing any more.
        let wanted = wish
            .wait_for(|&wish| {
                match wish {
                    Wish::Full => status.set_state(State::Full),
                    Wish::Off => status.set_state(State::Off),
                    Wish::In | Wish::End => return true,
                }
                false
            })
            .await
            .map_or(Wish::End, |wish| *wish);
        if wanted == Wish::End {
            return Ok(());
        }
        serve(client, group, outbox, status, &mut wish, &joined, &take).await?;
    }
}

/// One membership, from joining to having left.
async fn serve(
    client: &async_nats::Client,
    group: &Group,
    outbox: &Outbox,
    status: &Status,
    wish: &mut watch::Receiver<Wish>,
    joined: &(impl Fn() + Sync),
    take: &(impl Fn(Incoming, Place) + Sync),
) -> Result<(), String> {
    let Group { subject, queue_group } = group;
    let mut subscription = client
        .queue_subscribe(subject.clone(), queue_group.clone())
        .await
        .map_err(|error| format!("cannot subscribe to {subject}: {error}"))?;
    // A round trip: from here on the server routes to this worker.
    client
        .flush()
        .await
        .map_err(|error| format!("cannot subscribe to {subject}: {error}"))?;
    status.set_state(State::Serving);
    joined();
    let mut received: u64 = 0;
    let leaves = loop {
        tokio::select! {
            biased;
            // The guard is dropped here: it must not be held while waiting.
            () = async { let _ = wish.wait_for(|&wish| wish != Wish::In).await; } => break true,
            message = subscription.next() => match message {
                Some(message) => {
                    received += 1;
                    if !pass_on(message, outbox, status, take).await {
                        break false;
                    }
                }
                None => break false,
            },
        }
    };
    if !leaves {
        return Err("the subscription ended: the connection to NATS is closed".to_owned());
    }
    let _ = subscription.unsubscribe_after(received + LEAVE_AFTER_MESSAGES).await;
    while let Ok(Some(message)) = tokio::time::timeout(LEAVE_QUIET, subscription.next()).await {
        pass_on(message, outbox, status, take).await;
    }
    let _ = subscription.drain().await;
    while let Ok(Some(message)) = tokio::time::timeout(LEAVE_QUIET * 20, subscription.next()).await {
        pass_on(message, outbox, status, take).await;
    }
    Ok(())
}

/// False when nothing can be answered any more.
async fn pass_on(
    message: async_nats::Message,
    outbox: &Outbox,
    status: &Status,
    take: &(impl Fn(Incoming, Place) + Sync),
) -> bool {
    let received_at = Instant::now();
    let received_at_unix = SystemTime::now();
    let Some(reply_to) = message.reply else {
        metrics::counter!(names::MESSAGES_WITHOUT_REPLY_TOTAL).increment(1);
        tracing::debug!("a message without a reply subject was dropped");
        return true;
    };
    status.received();
    let Some(place) = outbox.place().await else {
        return false;
    };
    let headers = message.headers.as_ref().map_or_else(RequestHeaders::default, |map| {
        let pairs = map
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())));
        RequestHeaders::from_pairs(pairs)
    });
    take(
        Incoming {
            reply_to: reply_to.to_string(),
            headers,
            body: message.payload,
            received_at,
            received_at_unix,
        },
        place,
    );
    true
}

/// What the connection tells of itself.
pub(super) fn on_event(event: async_nats::Event, status: &Status) {
    use async_nats::Event;
    match event {
        Event::Connected => {
            status.set_connected(true);
            tracing::info!("connected to NATS");
        }
        Event::Disconnected => {
            status.set_connected(false);
            tracing::warn!("the connection to NATS is lost: reconnecting");
        }
        Event::SlowConsumer(_) => {
            metrics::counter!(names::NATS_SLOW_CONSUMER_TOTAL).increment(1);
            tracing::warn!("messages were dropped: this worker could not read them fast enough");
        }
        Event::ServerError(error) => tracing::error!(%error, "the NATS server reports an error"),
        Event::ClientError(error) => tracing::error!(%error, "the NATS client reports an error"),
        event => tracing::info!(%event, "NATS"),
    }
}
