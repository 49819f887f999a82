//! From a message to a request that is within this worker's limits.

use std::time::{Duration, Instant, SystemTime};

use super::ticket::{Place, Ticket};
use crate::protocol::{Encoding, Refusal, RefusalKind, Request, RequestHeaders};
use crate::telemetry::traces::RequestTrace;

/// A message as it came.
#[derive(Debug)]
pub struct Incoming {
    /// The caller's inbox.
    pub reply_to: String,
    /// The headers that matter here.
    pub headers: RequestHeaders,
    /// The body.
    pub body: bytes::Bytes,
    /// When it was taken from the subscription.
    pub received_at: Instant,
    /// The same in wall-clock time, for `Rerank-Deadline-Unix-Ms`.
    pub received_at_unix: SystemTime,
}

/// A request that was understood and is within the limits.
#[derive(Debug)]
pub struct Decoded {
    /// Its ticket, with the caller's budget.
    pub ticket: Ticket,
    /// The request.
    pub request: Request,
    /// Size of its body.
    pub bytes: usize,
}

/// What one request may ask for, and which model answers.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// Candidates of one request.
    pub documents_max: usize,
    /// Bytes of a query.
    pub query_bytes_max: usize,
    /// Bytes of one document.
    pub document_bytes_max: usize,
    /// The budget of a request that names none.
    pub default_timeout: Duration,
    /// Larger budgets are cut to this.
    pub timeout_max: Duration,
    /// The served model's id and aliases.
    pub model_names: Vec<String>,
}

/// Decodes and checks a message; refused, it is answered and `None` comes back.
pub fn decode(incoming: Incoming, place: Place, limits: &RequestLimits) -> Option<Decoded> {
    let Incoming {
        reply_to,
        headers,
        body,
        received_at,
        received_at_unix,
    } = incoming;
    let mut ticket = Ticket::new(place, reply_to, Encoding::Json, received_at, limits.default_timeout);
    ticket.set_trace(RequestTrace::begin(headers.trace_context()));
    let outcome = Encoding::detect(headers.content_type.as_deref(), &body).and_then(|encoding| {
        ticket.set_encoding(encoding);
        let header_budget = headers.budget(received_at_unix)?;
        let request = Request::decode_within(encoding, &body, limits.documents_max)?;
        // The header wins over the body's timeout_ms (PROTOCOL).
        let budget = header_budget.or(request.budget()).unwrap_or(limits.default_timeout);
        ticket.set_budget(budget.min(limits.timeout_max));
        ticket.trace().set_pairs(request.documents.len());
        check(&request, limits)?;
        Ok(request)
    });
    match outcome {
        Ok(request) => Some(Decoded {
            ticket,
            request,
            bytes: body.len(),
        }),
        Err(refusal) => {
            ticket.refuse(refusal);
            None
        }
    }
}

fn check(request: &Request, limits: &RequestLimits) -> Result<(), Refusal> {
    if let Some(model) = &request.model
        && !limits.model_names.contains(model)
    {
        return Err(Refusal::new(
            RefusalKind::UnknownModel,
            format!(
                "`model` is not served here; this worker serves {}",
                limits.model_names.join(", ")
            ),
        ));
    }
    let too_large = |field: String, unit: &str, limit: (&str, usize), value: usize| {
        Err(Refusal::new(
            RefusalKind::TooLarge,
            format!("`{field}` has {value} {unit}; limits.{} is {}", limit.0, limit.1),
        ))
    };
    if request.query.len() > limits.query_bytes_max {
        return too_large(
            "query".to_owned(),
            "bytes",
            ("query_bytes_max", limits.query_bytes_max),
            request.query.len(),
        );
    }
    for (index, document) in request.documents.iter().enumerate() {
        let bytes = document.text.len();
        if bytes > limits.document_bytes_max {
            let field = format!("documents[{index}]");
            return too_large(field, "bytes", ("document_bytes_max", limits.document_bytes_max), bytes);
        }
    }
    Ok(())
}
