//! How a body arrives: whole and within its limit, or read and forgotten.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::failure::Failure;

/// Of a body that nobody wants, so much is read, for so long.
const FORGOTTEN_BYTES_MAX: usize = 64 << 20;
const FORGOTTEN_TIME_MAX: Duration = Duration::from_secs(2);

/// The whole body, within the limit.
pub(super) async fn whole(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, Failure> {
    let too_large = |found: &str| {
        Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!(
                "the body has {found}, more than this gateway's limit of {bytes_max} bytes (gateway.body_bytes_max)"
            ),
        )
    };
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = length
        && usize::try_from(length).map_or(true, |length| length > bytes_max)
    {
        forget(headers, body).await;
        return Err(too_large(&format!("{length} bytes")));
    }
    let mut limited = Limited::new(body, bytes_max);
    match (&mut limited).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large("more bytes")),
        Err(_) => Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "the body ended before it was complete",
        )),
    }
}

/// Reads a body that nobody wants, before its request is refused. A connection that is closed over unread bytes is reset, and
/// its client would see that in place of the answer. One that waits for leave to send has sent nothing.
pub(super) async fn forget(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > FORGOTTEN_BYTES_MAX {
                break;
            }
        }
    };
    // What does not come in time is not missed.
    let _ = tokio::time::timeout(FORGOTTEN_TIME_MAX, read).await;
}
