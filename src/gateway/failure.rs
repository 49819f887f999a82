//! What is answered in place of a ranking, in each dialect's own shape.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use super::dialect::Dialect;
use crate::client::AnnReason;
use crate::protocol::{Refusal, RefusalKind};

/// When to come again after 429 and 503. Whoever is full has room again, or another gateway has, in less.
const RETRY_AFTER_S: &str = "1";

/// An answer that is no ranking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    /// A name for programs.
    pub(super) kind: &'static str,
    /// What is wrong, for people; without request content.
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
        }
    }

    /// No ranking within the budget, where the settings say that this is an error.
    pub(super) fn no_ranking(reason: AnnReason, detail: Option<&str>) -> Self {
        let message = match detail {
            Some(detail) => format!("no ranking: {reason} ({detail})"),
            None => format!("no ranking: {reason}"),
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason.name(), message)
    }

    /// Whether the same request may succeed if sent again.
    pub(super) fn is_retryable(&self) -> bool {
        matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT
        )
    }

    pub(super) fn response(&self, dialect: &Dialect) -> Response {
        let mut response = Response::new(Body::from(dialect.failure(self).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

/// What the request itself is to blame for has the code that it has on the wire.
impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::InvalidRequest => StatusCode::BAD_REQUEST,
            RefusalKind::UnknownModel => StatusCode::NOT_FOUND,
            RefusalKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refusal.kind.name(), refusal.message)
    }
}
