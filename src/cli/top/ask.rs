//! Asks every worker for its figures over NATS.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::StatusCode;
use async_nats::connection::State;
use futures_util::StreamExt;

use super::roll::{Roll, WORKERS_MAX};
use super::stats::Stats;
use crate::cli::CliError;
use crate::nats::{self, ConnectPlan, ConnectionSettings};

/// After everybody known has answered, a worker that is not known yet has this long, counted from the question.
const NEWCOMERS: Duration = Duration::from_millis(150);
/// Asking waits only while the connection's buffer is full.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);
/// Characters of what a server said that are shown.
const SERVER_ERROR_CHARS_MAX: usize = 200;

/// A connection over which workers are asked.
pub(super) struct Asker {
    client: async_nats::Client,
    answers: async_nats::Subscriber,
    inbox: String,
    service: String,
    /// Workers of other subjects are left out; `None`: nobody is.
    subject: Option<String>,
    /// What the server last complained of: a forbidden subject is told in no other way.
    complaint: Arc<Mutex<Option<String>>>,
}

impl Asker {
    /// Connects, once. With `subject`, workers that listen to another one are left out.
    ///
    /// # Errors
    /// No connection could be made.
    pub(super) async fn connect(
        settings: &ConnectionSettings,
        service: &str,
        subject: Option<String>,
    ) -> Result<Asker, CliError> {
        let plan = ConnectPlan {
            retries_max: 0,
            subscription_capacity: 2 * WORKERS_MAX,
            client_capacity: 16,
        };
        let complaint = Arc::<Mutex<Option<String>>>::default();
        let heard = complaint.clone();
        let client = nats::connect(settings, plan, move |event| {
            if let async_nats::Event::ServerError(error) = event {
                let text: String = error.to_string().chars().take(SERVER_ERROR_CHARS_MAX).collect();
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            }
        })
        .await
        .map_err(|error| CliError::Failed(error.to_string()))?;
        let inbox = client.new_inbox();
        let answers = client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| CliError::Failed(format!("cannot subscribe to the inbox: {error}")))?;
        Ok(Asker {
            client,
            answers,
            inbox,
            service: service.to_owned(),
            subject,
            complaint,
        })
    }

    /// The subject that workers are asked on.
    pub(super) fn subject(&self) -> String {
        format!("$SRV.STATS.{}", self.service)
    }

    /// Why answers may be missing, as far as is known.
    pub(super) fn complaint(&self) -> Option<String> {
        if self.client.connection_state() != State::Connected {
            return Some("the connection to NATS is lost; it is taken up again by itself".to_owned());
        }
        let told = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        told.as_ref().map(|told| format!("the NATS server said: {told}"))
    }

    /// Asks once and enters the answers: for `wait` at most, and less if `eager` and everybody known has answered.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub(super) async fn round(&mut self, roll: &mut Roll, wait: Duration, eager: bool) -> Result<(), CliError> {
        roll.begin();
        let started = Instant::now();
        let ask = self
            .client
            .publish_with_reply(self.subject(), self.inbox.clone(), "".into());
        // Without a connection nobody answers, and the next round asks again.
        let _ = tokio::time::timeout(PUBLISH_TIMEOUT.min(wait), ask).await;
        loop {
            let long = if eager && roll.complete() {
                NEWCOMERS.min(wait)
            } else {
                wait
            };
            match tokio::time::timeout_at((started + long).into(), self.answers.next()).await {
                Err(_) => return Ok(()),
                Ok(None) => return Err(CliError::Failed("the connection to NATS is closed".to_owned())),
                Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => return Ok(()),
                Ok(Some(message)) => {
                    let wanted = |stats: &Stats| self.subject.as_ref().is_none_or(|subject| stats.subject == *subject);
                    if let Some(stats) = Stats::read(&self.service, &message.payload).filter(wanted) {
                        roll.enter(stats, Instant::now());
                    }
                }
            }
        }
    }
}
