//! Bodies that were sent compressed.

use std::io::Read;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::MultiGzDecoder;

use super::failure::Failure;

/// How a body was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentEncoding {
    /// As it is.
    Identity,
    /// By gzip.
    Gzip,
}

impl ContentEncoding {
    /// The encoding that the headers name.
    ///
    /// # Errors
    /// 415 for another one, or several.
    pub(super) fn of(headers: &HeaderMap) -> Result<ContentEncoding, Failure> {
        let mut names = headers.get_all(header::CONTENT_ENCODING).iter();
        let name = match (names.next(), names.next()) {
            (None, _) => return Ok(ContentEncoding::Identity),
            (Some(name), None) => name.to_str().unwrap_or_default().trim().to_ascii_lowercase(),
            (Some(_), Some(_)) => String::new(),
        };
        match &*name {
            "identity" => Ok(ContentEncoding::Identity),
            "gzip" | "x-gzip" => Ok(ContentEncoding::Gzip),
            _ => Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request",
                "header Content-Encoding: expected gzip or none, found another encoding",
            )),
        }
    }

    /// The body as it was before it was compressed, of at most so many bytes. Never holds more than that.
    ///
    /// # Errors
    /// 413 for a larger one, 400 for one that is not gzip or not whole.
    pub(super) async fn decoded(self, body: Bytes, bytes_max: usize) -> Result<Bytes, Failure> {
        match self {
            ContentEncoding::Identity => Ok(body),
            // Millions of bytes take milliseconds, for which other requests should not wait.
            ContentEncoding::Gzip => tokio::task::spawn_blocking(move || gunzip(&body, bytes_max))
                .await
                .unwrap_or_else(|_| Err(not_gzip())),
        }
    }
}

fn gunzip(body: &[u8], bytes_max: usize) -> Result<Bytes, Failure> {
    let mut decoded = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(body)
        .take(limit)
        .read_to_end(&mut decoded)
        .map_err(|_| not_gzip())?;
    if decoded.len() > bytes_max {
        return Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!(
                "the body has more bytes once it is decompressed than this gateway's limit of {bytes_max} bytes \
                 (gateway.body_bytes_max)"
            ),
        ));
    }
    Ok(decoded.into())
}

fn not_gzip() -> Failure {
    Failure::new(
        StatusCode::BAD_REQUEST,
        "invalid_request",
        "header Content-Encoding: the body is not gzip, or it ends before it is complete",
    )
}
