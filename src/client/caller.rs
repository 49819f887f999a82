//! One request, one answer, within a budget.

use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{HeaderMap, Message, RequestErrorKind};

use crate::nats::{self, ConnectError, ConnectPlan, ConnectionSettings};
use crate::protocol::{DEFAULT_SUBJECT, Encoding, Refusal, RefusalKind, Reply, Request, headers};

/// Commands that may wait for the connection: a caller whose connection is gone should hear of it, not pile up work.
const CLIENT_CAPACITY: usize = 256;
/// A request's own inbox gets one message. (A few more, should somebody answer who ought not to.)
const SUBSCRIPTION_CAPACITY: usize = 4;

/// A connection to NATS over which reranking is asked for. Cheap to clone; clones share the connection.
///
/// ```no_run
/// use nats_rerank::client::{CallError, CallOptions, Caller};
/// use nats_rerank::nats::ConnectionSettings;
/// use nats_rerank::protocol::Request;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let caller = Caller::connect(&ConnectionSettings::default()).await?;
/// let candidates = ["Pizza recipes for beginners", "ML algorithms and optimization"];
/// let request = Request::new("machine learning algorithms", candidates);
/// match caller.rerank(&request, &CallOptions::default()).await {
///     Ok(answer) => {
///         for ranking in &answer.reply.rankings {
///             println!("{:7.3}  {}", ranking.score, candidates[ranking.index]);
///         }
///     }
///     // No ranking in time: go on with the candidates as they are.
///     Err(CallError::TimedOut { .. } | CallError::NoResponders { .. }) => {}
///     Err(error) => eprintln!("not reranked: {error}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Caller {
    client: async_nats::Client,
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
}

impl Default for CallOptions {
    /// The contract's own subject, JSON, one second.
    fn default() -> Self {
        Self {
            subject: DEFAULT_SUBJECT.to_owned(),
            encoding: Encoding::Json,
            timeout: Duration::from_secs(1),
        }
    }
}

/// A worker's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The ranking; it fits the request (see [`Reply::check`]).
    pub reply: Reply,
    /// The id of the worker that answered, if it gave one.
    pub worker: Option<String>,
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
    /// There is no connection to NATS at present. It is taken up again by itself.
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
        let plan = ConnectPlan {
            retries_max: 0,
            subscription_capacity: SUBSCRIPTION_CAPACITY,
            client_capacity: CLIENT_CAPACITY,
        };
        let client = nats::connect(settings, plan, |event| tracing::debug!(%event, "NATS connection")).await?;
        Ok(Caller { client })
    }

    /// Asks for a ranking and waits for it, for `options.timeout` at most, whatever the connection does.
    ///
    /// # Errors
    /// See [`CallError`]: in every case there is no ranking, and the documents keep the order they have.
    pub async fn rerank(&self, request: &Request, options: &CallOptions) -> Result<Answer, CallError> {
        let started = Instant::now();
        let timed_out = CallError::TimedOut {
            timeout: options.timeout,
        };
        // A request published now would leave after the reconnect, for an answer that nobody waits for.
        if self.client.connection_state() != State::Connected {
            return Err(CallError::Disconnected);
        }
        let body = request.encode(options.encoding);
        let bytes = body.len();
        let left = options.timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(timed_out);
        }
        let message = async_nats::Request::new()
            .payload(body.into())
            .headers(request_headers(options.encoding, left))
            // An inbox of its own: async-nats keeps an unanswered request of the shared one for good.
            .inbox(self.client.new_inbox())
            .timeout(None);
        let asked = self.client.send_request(options.subject.clone(), message);
        let message = match tokio::time::timeout(left, asked).await {
            Err(_) => return Err(timed_out),
            Ok(Err(error)) => {
                return Err(match error.kind() {
                    RequestErrorKind::TimedOut => timed_out,
                    RequestErrorKind::NoResponders => CallError::NoResponders {
                        subject: options.subject.clone(),
                    },
                    RequestErrorKind::InvalidSubject => CallError::InvalidSubject {
                        subject: options.subject.clone(),
                    },
                    RequestErrorKind::MaxPayloadExceeded => CallError::TooLarge {
                        bytes,
                        bytes_max: self.client.max_payload(),
                    },
                    RequestErrorKind::Other => CallError::Disconnected,
                });
            }
            Ok(Ok(message)) => message,
        };
        let (reply, worker) = open(&message, request)?;
        Ok(Answer {
            reply,
            worker,
            elapsed: started.elapsed(),
        })
    }
}

fn request_headers(encoding: Encoding, left: Duration) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(headers::CONTENT_TYPE, encoding.content_type());
    // To the microsecond, and never zero, which would be malformed.
    let left_ms = (left.as_secs_f64() * 1e3).max(0.001);
    map.insert(headers::TIMEOUT_MS, format!("{left_ms:.3}").as_str());
    map
}

/// Reads an answer as a stranger's: it has to be a refusal, or a ranking that fits the request.
fn open(message: &Message, request: &Request) -> Result<(Reply, Option<String>), CallError> {
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
    reply
        .check(request.documents.len(), request.top_k)
        .map_err(|error| CallError::BadReply(error.to_string()))?;
    Ok((reply, worker))
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
