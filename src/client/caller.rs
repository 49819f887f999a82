//! One request, one answer, within a budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::{Event, HeaderMap, Message, ServerError, StatusCode};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::inbox::{self, Inbox};
use crate::nats::{self, ConnectError, ConnectPlan, ConnectionSettings, Sessions, is_subscription_limit};
use crate::protocol::headers::BUDGET_MAX;
use crate::protocol::{
    DEFAULT_SUBJECT, Encoding, Refusal, RefusalKind, Reply, Request, ScoreActivation, TraceContext, headers,
};

const PLAN: ConnectPlan = ConnectPlan {
    retries_max: 0,
    subscription_capacity: inbox::CAPACITY,
    // Of requests that wait for the connection: a caller whose connection is gone should hear of it, not pile up work.
    client_capacity: 256,
};

/// A connection to NATS over which reranking is asked for. Cheap to clone; clones share the connection.
///
/// ```
/// use nats_rerank::client::{CallError, CallOptions, Caller};
/// use nats_rerank::nats::ConnectionSettings;
/// use nats_rerank::protocol::Request;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), nats_rerank::nats::ConnectError> {
/// let settings = ConnectionSettings {
///     // Nothing listens there, so that this example runs anywhere.
///     urls: vec!["nats://127.0.0.1:9".to_owned()],
///     ..ConnectionSettings::default()
/// };
/// let caller = Caller::connect_lazy(&settings).await?;
/// let candidates = ["Pizza recipes for beginners", "ML algorithms and optimization"];
/// let request = Request::new("machine learning algorithms", candidates);
/// match caller.rerank(&request, &CallOptions::default()).await {
///     Ok(answer) => {
///         for ranking in &answer.reply.rankings {
///             println!("{:7.3}  {}", ranking.score, candidates[ranking.index]);
///         }
///     }
///     // No ranking: go on with the candidates as they are.
///     Err(error) => assert_eq!(error, CallError::Disconnected),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Caller {
    sessions: Sessions,
    inbox: Arc<Inbox>,
    /// Refusals of the credentials in a row.
    refusals: Arc<AtomicU32>,
    /// Whether the log has named a stream that captures the subject.
    captured: Arc<AtomicBool>,
}

/// How a request is sent.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// The subject that the workers listen on.
    pub subject: String,
    /// The encoding of request and reply.
    pub encoding: Encoding,
    /// The time that the call may take in all. What is left of it when the request leaves is told to the worker.
    pub timeout: Duration,
    /// The caller's span, of which the worker's becomes a child. `None`: the worker's stands alone.
    pub trace_context: Option<TraceContext>,
}

impl Default for CallOptions {
    /// The contract's own subject, JSON, one second.
    fn default() -> Self {
        Self {
            subject: DEFAULT_SUBJECT.to_owned(),
            encoding: Encoding::Json,
            timeout: Duration::from_secs(1),
            trace_context: None,
        }
    }
}

/// A request as it leaves.
pub(super) struct Ask<'a> {
    pub(super) request: &'a Request,
    /// The same, encoded.
    pub(super) body: Bytes,
    pub(super) subject: &'a str,
    pub(super) encoding: Encoding,
    pub(super) trace_context: Option<&'a TraceContext>,
    pub(super) deadline: Instant,
}

/// A worker's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The ranking; it fits the request (see [`Reply::check`]).
    pub reply: Reply,
    /// The id of the worker that answered, if it gave one.
    pub worker: Option<String>,
    /// The activation of the worker's model, if it named one: what makes scores of logits.
    pub activation: Option<ScoreActivation>,
    /// The time from the call to the answer.
    pub elapsed: Duration,
}

/// Why there is no ranking.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// Nothing came within the call's time.
    #[error("no answer within {} ms", timeout.as_millis())]
    TimedOut {
        /// The time that the call had.
        timeout: Duration,
    },
    /// No worker listens on the subject.
    #[error("no worker listens on `{subject}`")]
    NoResponders {
        /// The subject asked.
        subject: String,
    },
    /// A worker refused the request.
    #[error("refused: {refusal}")]
    Refused {
        /// Its reason.
        refusal: Refusal,
        /// The id of the worker that refused, if it gave one.
        worker: Option<String>,
    },
    /// There is no connection to NATS at present, or no answer can arrive by it. It is taken up again by itself.
    #[error("not connected to NATS")]
    Disconnected,
    /// The request is larger than the NATS server takes.
    #[error("the request has {bytes} bytes, more than the NATS server's limit (max_payload) of {bytes_max}")]
    TooLarge {
        /// The size of its body.
        bytes: usize,
        /// The server's limit on body and headers together.
        bytes_max: usize,
    },
    /// The subject cannot be published to.
    #[error("`{subject}` is not a subject that can be published to")]
    InvalidSubject {
        /// The subject asked.
        subject: String,
    },
    /// The answer is not one that this request can have.
    #[error("the answer makes no sense: {0}")]
    BadReply(String),
}

impl Caller {
    /// Connects; one attempt at each server. A connection that is lost later is taken up again by itself.
    ///
    /// # Errors
    /// No connection could be made: says with which server, why, and what to look at.
    pub async fn connect(settings: &ConnectionSettings) -> Result<Caller, ConnectError> {
        let (limits, limited) = watch::channel(0);
        let refusals = Arc::default();
        let sessions = Sessions::connect(settings, PLAN, on_event(&refusals, limits)).await?;
        Caller::over(sessions, refusals, limited).await
    }

    /// A caller whose connection is made in the background, however long that takes, so that a program can start before
    /// its NATS server. Until then every call ends at once with [`CallError::Disconnected`].
    ///
    /// # Errors
    /// The settings are wrong, or a file that they name. A server that cannot be reached, or that does not accept the
    /// credentials, is no error here: a warning in the log says so.
    pub async fn connect_lazy(settings: &ConnectionSettings) -> Result<Caller, ConnectError> {
        let (limits, limited) = watch::channel(0);
        let refusals = Arc::default();
        let sessions = Sessions::connect_lazy(settings, PLAN, on_event(&refusals, limits)).await?;
        Caller::over(sessions, refusals, limited).await
    }

    async fn over(
        sessions: Sessions,
        refusals: Arc<AtomicU32>,
        limited: watch::Receiver<u64>,
    ) -> Result<Caller, ConnectError> {
        let inbox = Inbox::open(&sessions, limited)
            .await
            .map_err(|error| ConnectError::settings(format!("`nats.inbox_prefix`: {error}")))?;
        Ok(Caller {
            sessions,
            inbox: Arc::new(inbox),
            refusals,
            captured: Arc::default(),
        })
    }

    /// Whether answers can arrive at present: there is a connection, and the server has not refused the subscription to the
    /// inbox (past `max_subscriptions`; it is made again by itself).
    pub fn is_connected(&self) -> bool {
        self.sessions.is_connected() && !self.inbox.is_deaf()
    }

    /// Whether the NATS server has refused the credentials again and again, for some eight seconds: what is wrong with them
    /// does not pass by itself. Connecting goes on, with files of credentials read anew each time; a connection ends this.
    pub fn is_refused(&self) -> bool {
        self.refusals.load(Ordering::Acquire) >= nats::REFUSALS_MAX
    }

    /// The NATS server's limit on body and headers of a message together, in bytes; before the first connection what
    /// servers take unless configured otherwise.
    pub fn max_payload(&self) -> usize {
        self.sessions.client().max_payload()
    }

    /// The connection itself, for what is not a request.
    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Asks for a ranking and waits for it, for `options.timeout` at most, whatever the connection does.
    ///
    /// # Errors
    /// See [`CallError`]: in every case there is no ranking, and the documents keep the order they have.
    pub async fn rerank(&self, request: &Request, options: &CallOptions) -> Result<Answer, CallError> {
        let deadline = Instant::now() + options.timeout.min(BUDGET_MAX);
        // A request published now would leave after the reconnect, for an answer that nobody waits for.
        if !self.is_connected() {
            return Err(CallError::Disconnected);
        }
        let body = request.encode(options.encoding).into();
        let asked = self.ask(Ask {
            request,
            body,
            subject: &options.subject,
            encoding: options.encoding,
            trace_context: options.trace_context.as_ref(),
            deadline,
        });
        asked.await.map_err(|error| match error {
            CallError::TimedOut { .. } => CallError::TimedOut {
                timeout: options.timeout,
            },
            error => error,
        })
    }

    /// [`Caller::rerank`] with a request that is encoded already.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, CallError> {
        let Ask { subject, deadline, .. } = ask;
        let started = Instant::now();
        let left = deadline.saturating_duration_since(started);
        let timed_out = CallError::TimedOut { timeout: left };
        if !self.is_connected() {
            return Err(CallError::Disconnected);
        }
        if left.is_zero() {
            return Err(timed_out);
        }
        let bytes = ask.body.len();
        let client = self.sessions.client();
        let exchange = async {
            let mut awaited = self.inbox.expect();
            client
                .publish_with_reply_and_headers(
                    subject.to_owned(),
                    awaited.subject(),
                    request_headers(ask.encoding, left, ask.trace_context),
                    ask.body,
                )
                .await
                .map_err(|error| match error.kind() {
                    PublishErrorKind::MaxPayloadExceeded => CallError::TooLarge {
                        bytes,
                        bytes_max: client.max_payload(),
                    },
                    PublishErrorKind::InvalidSubject => CallError::InvalidSubject {
                        subject: subject.to_owned(),
                    },
                    PublishErrorKind::Send => CallError::Disconnected,
                })?;
            awaited.answer().await.ok_or(CallError::Disconnected)
        };
        // The wait for room in the connection's buffer lies within the deadline too.
        let message = match tokio::time::timeout_at(deadline, exchange).await {
            Err(_) => return Err(timed_out),
            Ok(message) => message?,
        };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(CallError::NoResponders {
                subject: subject.to_owned(),
            });
        }
        let answer = open(&message, ask.request).map_err(|error| match captor(&message) {
            Some(stream) => self.captured(&stream, subject),
            None => error,
        })?;
        Ok(Answer {
            elapsed: started.elapsed(),
            ..answer
        })
    }

    /// The error for an answer that a stream gave in a worker's place; once in the log too, for those who see reasons alone.
    fn captured(&self, stream: &str, subject: &str) -> CallError {
        let what = format!(
            "the JetStream stream `{stream}` captures `{subject}` and acknowledged the request before a worker could \
             answer: take the subject out of the stream's subjects"
        );
        if !self.captured.swap(true, Ordering::Relaxed) {
            tracing::error!("{what}");
        }
        CallError::BadReply(what)
    }
}

/// Logs what happens to the connection: once that there is none, not with every attempt; and that it is back. Counts
/// refusals of the credentials in a row, and in `limits` the subscriptions that the server refuses for their number.
fn on_event(refusals: &Arc<AtomicU32>, limits: watch::Sender<u64>) -> impl Fn(Event) + Send + Sync + 'static {
    let (complained, connected_before) = (AtomicBool::new(false), AtomicBool::new(false));
    let refusals = refusals.clone();
    move |event| match event {
        Event::ServerError(ServerError::Other(text)) if is_subscription_limit(&text) => {
            limits.send_modify(|limits| *limits += 1);
        }
        Event::ClientError(error) if nats::is_refusal(&error) => {
            let before = refusals.fetch_add(1, Ordering::AcqRel);
            if before == 0 {
                tracing::warn!("the NATS server does not accept the credentials: trying on");
            }
            if before + 1 == nats::REFUSALS_MAX {
                tracing::error!(
                    refusals = nats::REFUSALS_MAX,
                    "the NATS server goes on to refuse the credentials: renew them; connecting is tried on"
                );
            }
        }
        Event::ClientError(_) | Event::ServerError(_) if !complained.swap(true, Ordering::Relaxed) => {
            tracing::warn!(%event, "NATS connection");
        }
        Event::Connected => {
            complained.store(false, Ordering::Relaxed);
            refusals.store(0, Ordering::Release);
            if connected_before.swap(true, Ordering::Relaxed) {
                tracing::info!("connected to NATS again");
            } else {
                tracing::info!("connected to NATS");
            }
        }
        Event::Disconnected => tracing::warn!("the connection to NATS is lost; it is made anew by itself"),
        event => tracing::debug!(%event, "NATS connection"),
    }
}

fn request_headers(encoding: Encoding, left: Duration, trace_context: Option<&TraceContext>) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(headers::CONTENT_TYPE, encoding.content_type());
    // To the microsecond, and never zero, which would be malformed.
    let left_ms = (left.as_secs_f64() * 1e3).max(0.001);
    map.insert(headers::TIMEOUT_MS, format!("{left_ms:.3}").as_str());
    if let Some(context) = trace_context {
        map.insert(headers::TRACEPARENT, context.traceparent().as_str());
        if let Some(state) = context.tracestate() {
            map.insert(headers::TRACESTATE, state);
        }
    }
    map
}

/// Reads an answer as a stranger's: it has to be a refusal, or a ranking that fits the request.
fn open(message: &Message, request: &Request) -> Result<Answer, CallError> {
    let header = |name: &str| message.headers.as_ref().and_then(|headers| find(headers, name));
    let worker = header(headers::WORKER).map(|id| printable(id, 100));
    let encoding = Encoding::detect(header(headers::CONTENT_TYPE), &message.payload);
    if let Some(code) = header(headers::SERVICE_ERROR_CODE) {
        let told = encoding
            .ok()
            .and_then(|encoding| Refusal::decode(encoding, &message.payload).ok());
        let refusal = told.unwrap_or_else(|| refusal_by_headers(code, header(headers::SERVICE_ERROR)));
        return Err(CallError::Refused { refusal, worker });
    }
    let encoding = encoding.map_err(|error| CallError::BadReply(error.message))?;
    let reply = Reply::decode(encoding, &message.payload).map_err(|error| CallError::BadReply(error.to_string()))?;
    if reply.below_min_score.is_some_and(|below| below > 0) && request.min_score.is_none() {
        let complaint = "`below_min_score`: candidates were left out for a least score that nobody asked for";
        return Err(CallError::BadReply(complaint.to_owned()));
    }
    reply
        .check(request.documents.len(), request.top_k)
        .map_err(|error| CallError::BadReply(error.to_string()))?;
    Ok(Answer {
        reply,
        worker,
        activation: header(headers::ACTIVATION).and_then(ScoreActivation::from_name),
        elapsed: Duration::ZERO,
    })
}

/// The JetStream stream that this message comes from: what JetStream answers to a message that a stream has stored, before
/// any worker does.
fn captor(message: &Message) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Acknowledgement {
        stream: String,
        #[allow(
            dead_code,
            reason = "what is neither missing nor another type tells it from other JSON"
        )]
        seq: u64,
    }
    // No worker's answer is without headers.
    if message.headers.is_some() {
        return None;
    }
    let acknowledgement: Acknowledgement = serde_json::from_slice(&message.payload).ok()?;
    Some(printable(&acknowledgement.stream, 100))
}

/// The first value of a header, whatever the case of its name. (async-nats looks up one case only.)
fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(known, _)| AsRef::<str>::as_ref(known).eq_ignore_ascii_case(name))
        .and_then(|(_, values)| values.first())
        .map(|value| value.as_str())
}

fn refusal_by_headers(code: &str, message: Option<&str>) -> Refusal {
    let code = code.trim().parse::<u16>().ok();
    let kind = RefusalKind::ALL
        .into_iter()
        .find(|kind| Some(kind.code()) == code)
        .unwrap_or(RefusalKind::Internal);
    Refusal::new(kind, message.unwrap_or_default())
}

/// A stranger's text for a person to read: no control characters, bounded.
fn printable(text: &str, chars_max: usize) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(chars_max)
        .collect()
}
