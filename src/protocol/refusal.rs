//! The other reply: why there is no ranking.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::Deserializer;

use super::encoding::Encoding;
use super::reader::{self, Sink, Value};
use super::reply::DecodeError;

/// The longest message that leaves a worker, in bytes; a longer one is cut.
pub const MESSAGE_BYTES_MAX: usize = 300;

/// The reasons for a refusal. Code, name and whether a retry makes sense follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// 400: body or header cannot be understood, or a field is outside its range.
    InvalidRequest,
    /// 404: the model asked for is not served here.
    UnknownModel,
    /// 413: more documents, or a longer text, than the worker's limits.
    TooLarge,
    /// 429: the queue is full, or waiting in it would outlast the budget.
    Overloaded,
    /// 429: switched off, shutting down, or its model failed.
    Unavailable,
    /// 504: the budget ran out before the scores were ready.
    DeadlineExceeded,
    /// 500: anything else.
    Internal,
}

impl RefusalKind {
    /// Every kind, in the order of the contract's table.
    pub const ALL: [RefusalKind; 7] = [
        RefusalKind::InvalidRequest,
        RefusalKind::UnknownModel,
        RefusalKind::TooLarge,
        RefusalKind::Overloaded,
        RefusalKind::Unavailable,
        RefusalKind::DeadlineExceeded,
        RefusalKind::Internal,
    ];

    /// The numeric code, as in HTTP.
    pub fn code(self) -> u16 {
        match self {
            RefusalKind::InvalidRequest => 400,
            RefusalKind::UnknownModel => 404,
            RefusalKind::TooLarge => 413,
            RefusalKind::Overloaded | RefusalKind::Unavailable => 429,
            RefusalKind::DeadlineExceeded => 504,
            RefusalKind::Internal => 500,
        }
    }

    /// The name on the wire and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            RefusalKind::InvalidRequest => "invalid_request",
            RefusalKind::UnknownModel => "unknown_model",
            RefusalKind::TooLarge => "too_large",
            RefusalKind::Overloaded => "overloaded",
            RefusalKind::Unavailable => "unavailable",
            RefusalKind::DeadlineExceeded => "deadline_exceeded",
            RefusalKind::Internal => "internal",
        }
    }

    /// Whether the same request may succeed if sent again.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            RefusalKind::Overloaded | RefusalKind::Unavailable | RefusalKind::Internal
        )
    }

    /// The scope of a refusal that does not name its own.
    pub fn scope(self) -> RefusalScope {
        match self {
            RefusalKind::InvalidRequest | RefusalKind::UnknownModel | RefusalKind::TooLarge => RefusalScope::Request,
            RefusalKind::Overloaded
            | RefusalKind::Unavailable
            | RefusalKind::DeadlineExceeded
            | RefusalKind::Internal => RefusalScope::Worker,
        }
    }

    /// The kind of this name; failing that (a kind that came later), the one that stands for this code.
    fn from_wire(name: Option<&str>, code: Option<u16>) -> Option<RefusalKind> {
        let by_name = name.and_then(|name| Self::ALL.into_iter().find(|kind| kind.name() == name));
        by_name.or_else(|| code.and_then(|code| Self::ALL.into_iter().find(|kind| kind.code() == code)))
    }
}

/// Whom a refusal says something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalScope {
    /// The request: an idle worker would refuse it as well, so asking another one, or later, is of no use.
    Request,
    /// The worker as it is now: circuits and retries go by it.
    Worker,
}

impl RefusalScope {
    /// Every scope.
    pub const ALL: [RefusalScope; 2] = [RefusalScope::Request, RefusalScope::Worker];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            RefusalScope::Request => "request",
            RefusalScope::Worker => "worker",
        }
    }

    fn from_wire(name: Option<&str>) -> Option<RefusalScope> {
        let name = name?;
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// Why a request is answered without a ranking. Its message is for people: one line, bounded, and free of paths,
/// secrets and request content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {}: {message}", kind.code(), kind.name())]
pub struct Refusal {
    /// The reason.
    pub kind: RefusalKind,
    /// What is wrong, for people.
    pub message: String,
    /// Whether an idle worker would refuse the request as well.
    pub scope: RefusalScope,
}

impl Refusal {
    /// A refusal of this kind, of the scope that the kind mostly has; the message becomes one line of at most
    /// [`MESSAGE_BYTES_MAX`] bytes.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        let message = message.into();
        let message = match one_line(&message) {
            Cow::Borrowed(_) => message,
            Cow::Owned(cut) => cut,
        };
        Self {
            kind,
            message,
            scope: kind.scope(),
        }
    }

    /// The same refusal of another scope.
    pub fn with_scope(self, scope: RefusalScope) -> Self {
        Self { scope, ..self }
    }

    /// 400: name the field, what was expected and what was found.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::InvalidRequest, message)
    }

    /// 404.
    pub fn unknown_model(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::UnknownModel, message)
    }

    /// 413: name the limit and the value.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::TooLarge, message)
    }

    /// 429: the queue is full, or too long for the budget.
    pub fn overloaded(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::Overloaded, message)
    }

    /// 429: not serving at present.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::Unavailable, message)
    }

    /// 504.
    pub fn deadline_exceeded(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::DeadlineExceeded, message)
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::Internal, message)
    }

    /// The body of the reply that tells of this refusal.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        encoding.write(&WireRefusal {
            error: WireError {
                code: self.kind.code(),
                kind: self.kind.name(),
                message: &one_line(&self.message),
                retryable: self.kind.retryable(),
                scope: self.scope.name(),
            },
        })
    }

    /// The value of [`SERVICE_ERROR`](super::headers::SERVICE_ERROR): the message in printable ASCII on one line, any
    /// other character as `?`.
    pub fn header_value(&self) -> String {
        one_line(&self.message)
            .chars()
            .map(|character| if matches!(character, ' '..='~') { character } else { '?' })
            .collect()
    }

    /// Reads the body of a refusal. A kind that this version does not know is read by its code; a scope that is not
    /// there (an older worker), or not known, by the kind.
    ///
    /// # Errors
    /// The body is not a refusal.
    pub fn decode(encoding: Encoding, body: &[u8]) -> Result<Refusal, DecodeError> {
        let (sink, read) = reader::read(encoding, body, RefusalSink::default);
        read.map_err(DecodeError::new)?;
        let error = sink
            .error
            .ok_or_else(|| DecodeError::new(reader::missing("error", "an object")))?;
        let kind = RefusalKind::from_wire(error.kind.as_deref(), error.code)
            .ok_or_else(|| DecodeError::new("`error`: neither `kind` nor `code` is a known one".to_owned()))?;
        let scope = RefusalScope::from_wire(error.scope.as_deref()).unwrap_or(kind.scope());
        Ok(Refusal::new(kind, error.message.unwrap_or_default()).with_scope(scope))
    }
}

/// One line of at most [`MESSAGE_BYTES_MAX`] bytes; borrowed when it is one already.
fn one_line(message: &str) -> Cow<'_, str> {
    if message.len() <= MESSAGE_BYTES_MAX && !message.contains(char::is_control) {
        return Cow::Borrowed(message);
    }
    const ELLIPSIS: &str = "...";
    let cut = message.len() > MESSAGE_BYTES_MAX;
    let room = if cut {
        MESSAGE_BYTES_MAX - ELLIPSIS.len()
    } else {
        MESSAGE_BYTES_MAX
    };
    let mut line = String::with_capacity(MESSAGE_BYTES_MAX);
    for character in message.chars() {
        let character = if character.is_control() { ' ' } else { character };
        if line.len() + character.len_utf8() > room {
            break;
        }
        line.push(character);
    }
    if cut {
        line.push_str(ELLIPSIS);
    }
    Cow::Owned(line)
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Serialize)]
struct WireRefusal<'a> {
    error: WireError<'a>,
}

#[derive(Serialize)]
struct WireError<'a> {
    code: u16,
    kind: &'a str,
    message: &'a str,
    retryable: bool,
    scope: &'a str,
}

#[derive(Default)]
struct RefusalSink {
    error: Option<ErrorSink>,
}

impl Sink for RefusalSink {
    const FIELDS: &'static [&'static str] = &["error"];

    fn field<'de, D: Deserializer<'de>>(&mut self, _: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        let mut error = ErrorSink::default();
        if value.object(&mut error)? {
            self.error = Some(error);
        }
        Ok(())
    }
}

#[derive(Default)]
struct ErrorSink {
    code: Option<u16>,
    kind: Option<String>,
    message: Option<String>,
    scope: Option<String>,
}

impl Sink for ErrorSink {
    const FIELDS: &'static [&'static str] = &["code", "kind", "message", "scope"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &'static str, value: Value<'_, D>) -> Result<(), D::Error> {
        match name {
            "code" => self.code = value.count()?.and_then(|code| u16::try_from(code).ok()),
            "kind" => self.kind = value.text()?,
            "scope" => self.scope = value.text()?,
            _ => self.message = value.text()?,
        }
        Ok(())
    }
}
