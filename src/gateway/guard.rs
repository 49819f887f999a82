//! The token that a request has to carry.

use std::fmt;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;

use super::dialect::{Dialect, Route};
use super::failure::Failure;
use super::stats::Outcome;
use super::{Gateway, arrival};

/// A bearer token. Shown nowhere.
#[derive(Clone)]
pub struct BearerToken(String);

impl BearerToken {
    /// The token in this text, white space around it left out; `None` if that is all there is.
    pub fn new(text: &str) -> Option<BearerToken> {
        let token = text.trim();
        (!token.is_empty()).then(|| BearerToken(token.to_owned()))
    }

    /// Whether these headers carry it. Takes as long wherever the first difference is.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()) else {
            return false;
        };
        let scheme = b"bearer ";
        if value.len() < scheme.len() || !value[..scheme.len()].eq_ignore_ascii_case(scheme) {
            return false;
        }
        let given = value[scheme.len()..].trim_ascii();
        given.ct_eq(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Lets a request pass if it carries the token, or none is asked for.
pub(super) async fn guard(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    match &gateway.settings.token {
        Some(token) if !token.is_in(request.headers()) => {
            let (head, body) = request.into_parts();
            arrival::forget(&head, body).await;
            let path = head.uri.path();
            if let Some(route) = Route::of_path(path) {
                gateway.stats.ended(route, Outcome::Unauthorized);
            }
            let failure = Failure::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "header Authorization: expected Bearer and this gateway's token",
            );
            let mut response = failure.response(Dialect::of_path(path));
            let challenge = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            response
        }
        _ => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_let_in() {
        let token = BearerToken::new(" s3cret\n").expect("a token");
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a value"));
            token.is_in(&headers)
        };
        assert!(with("Bearer s3cret") && with("bearer s3cret") && with("BEARER  s3cret"));
        for wrong in [
            "Bearer",
            "Bearer ",
            "Bearer s3cre",
            "Bearer s3crets",
            "Bearer S3cret",
            "Basic s3cret",
            "s3cret",
        ] {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        assert_eq!(format!("{token:?}"), "***");
        assert!(BearerToken::new(" \n").is_none());
    }
}
