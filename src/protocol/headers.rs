//! Header names, and the request headers that mean something to a worker.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Refusal, TraceContext};

/// The encoding of the body, on requests and replies.
pub const CONTENT_TYPE: &str = "Content-Type";
/// The caller's remaining budget in milliseconds.
pub const TIMEOUT_MS: &str = "Rerank-Timeout-Ms";
/// The caller's deadline, in milliseconds since 1970-01-01 UTC.
pub const DEADLINE_UNIX_MS: &str = "Rerank-Deadline-Unix-Ms";
/// W3C trace context: the caller's span.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace context: vendors' additions.
pub const TRACESTATE: &str = "tracestate";
/// On a refusal: its code.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
/// On a refusal: its message.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// On every answer: the id of the worker that gave it.
pub const WORKER: &str = "Rerank-Worker";

/// On every ranking: what the model's activation is ([`ScoreActivation::name`](super::ScoreActivation::name)), so that
/// whoever asked for logits can tell the scores too.
pub const ACTIVATION: &str = "Rerank-Activation";

/// The longest budget that is told apart: a longer one counts as this long, so that a deadline can always be added to
/// a point in time.
pub const BUDGET_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The headers of a request that mean something here, as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHeaders {
    /// [`CONTENT_TYPE`].
    pub content_type: Option<String>,
    /// [`TIMEOUT_MS`].
    pub timeout_ms: Option<String>,
    /// [`DEADLINE_UNIX_MS`].
    pub deadline_unix_ms: Option<String>,
    /// [`TRACEPARENT`].
    pub traceparent: Option<String>,
    /// [`TRACESTATE`].
    pub tracestate: Option<String>,
}

impl RequestHeaders {
    /// Picks the known headers from name and value pairs. Names are compared without regard to case; other headers are
    /// ignored. A header given more than once counts as its values joined by commas, which is what `tracestate` wants
    /// and what makes two budgets a malformed one.
    pub fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            let Some(slot) = headers.slot(name) else {
                continue;
            };
            match slot {
                Some(values) => {
                    values.push(',');
                    values.push_str(value);
                }
                None => *slot = Some(value.to_owned()),
            }
        }
        headers
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<String>> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is(CONTENT_TYPE) {
            Some(&mut self.content_type)
        } else if is(TIMEOUT_MS) {
            Some(&mut self.timeout_ms)
        } else if is(DEADLINE_UNIX_MS) {
            Some(&mut self.deadline_unix_ms)
        } else if is(TRACEPARENT) {
            Some(&mut self.traceparent)
        } else if is(TRACESTATE) {
            Some(&mut self.tracestate)
        } else {
            None
        }
    }

    /// The caller's span. `None` where it sent none, or one that cannot be read: that is no reason to refuse.
    pub fn trace_context(&self) -> Option<TraceContext> {
        TraceContext::parse(self.traceparent.as_deref()?, self.tracestate.as_deref())
    }

    /// What the headers leave the request from `now` on: the earlier one of time-out and deadline, zero for a deadline
    /// that has passed, at most [`BUDGET_MAX`]. `None` without either header.
    ///
    /// # Errors
    /// `invalid_request`, naming the header, for a value that is not a plain decimal number, or a time-out of zero.
    pub fn budget(&self, now: SystemTime) -> Result<Option<Duration>, Refusal> {
        let timeout = match &self.timeout_ms {
            Some(value) => Some(timeout(value)?),
            None => None,
        };
        let until_deadline = match &self.deadline_unix_ms {
            Some(value) => Some(until(value, now)?),
            None => None,
        };
        Ok(match (timeout, until_deadline) {
            (Some(timeout), Some(until_deadline)) => Some(timeout.min(until_deadline)),
            (timeout, until_deadline) => timeout.or(until_deadline),
        })
    }
}

fn timeout(value: &str) -> Result<Duration, Refusal> {
    let ms = decimal(value).ok_or_else(|| {
        Refusal::invalid(format!(
            "header {TIMEOUT_MS}: expected a decimal number of milliseconds above 0"
        ))
    })?;
    if ms <= 0.0 {
        return Err(Refusal::invalid(format!(
            "header {TIMEOUT_MS}: expected a decimal number of milliseconds above 0, found {ms}"
        )));
    }
    Ok(budget_from_ms(ms))
}

fn until(value: &str, now: SystemTime) -> Result<Duration, Refusal> {
    let deadline_ms = decimal(value).ok_or_else(|| {
        Refusal::invalid(format!(
            "header {DEADLINE_UNIX_MS}: expected a decimal number of milliseconds since 1970-01-01 UTC"
        ))
    })?;
    // A clock before 1970 is as good as one that stands at 1970.
    let now_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3;
    Ok(budget_from_ms(deadline_ms - now_ms))
}

/// A plain decimal number: digits, and perhaps a point with digits behind it. No sign, exponent, `inf` or `nan`.
fn decimal(value: &str) -> Option<f64> {
    let value = value.trim_matches([' ', '\t']);
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    value.parse().ok()
}

/// Milliseconds as a duration: negative ones are zero, and [`BUDGET_MAX`] is the most.
pub(crate) fn budget_from_ms(ms: f64) -> Duration {
    // f64::max takes the other value for NaN; infinity ends at the bound.
    let ms = ms.max(0.0).min(BUDGET_MAX.as_secs_f64() * 1e3);
    Duration::from_secs_f64(ms / 1e3)
}
