//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use tower_http::cors::{Any, CorsLayer};

use super::dialect::{Dialect, Door};
use super::failure::Failure;
use super::{Gateway, arrival, guard, pages, rerank};
use crate::protocol::headers::{DEADLINE_UNIX_MS, TIMEOUT_MS, TRACEPARENT, TRACESTATE};

/// Every path with its method. A test holds the router and `openapi.json` to it.
#[cfg(test)]
pub(super) const ROUTES: [(&str, &str); 15] = [
    ("post", "/rerank"),
    ("post", "/v1/rerank"),
    ("post", "/v2/rerank"),
    ("get", "/v1/models"),
    ("get", "/info"),
    ("get", "/health"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/stats"),
    ("get", "/openapi.json"),
    ("get", "/"),
    ("get", "/page.css"),
    ("get", "/page.js"),
    ("get", "/icon.svg"),
];

/// How long a browser may remember what it was told of CORS.
const CORS_MAX_AGE: std::time::Duration = std::time::Duration::from_secs(600);

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    let ask = |door| {
        post(
            move |State(gateway): State<Arc<Gateway>>, request: Request| async move {
                rerank::rerank(&gateway, door, request).await
            },
        )
    };
    // What costs the workers something, or tells of them, is behind the token.
    let guarded = Router::new()
        .route("/rerank", ask(Door::Rerank))
        .route("/v1/rerank", ask(Door::V1))
        .route("/v2/rerank", ask(Door::V2))
        .route("/v1/models", get(pages::models))
        .route("/info", get(pages::info))
        .route_layer(from_fn_with_state(gateway.clone(), guard::guard));
    let open = Router::new()
        .route("/health", get(pages::ready))
        .route("/readyz", get(pages::ready))
        .route("/livez", get(pages::alive))
        .route("/metrics", get(pages::metrics))
        .route("/stats", get(pages::stats))
        .route("/openapi.json", get(pages::openapi))
        .route("/", get(pages::page))
        .route("/page.css", get(pages::css))
        .route("/page.js", get(pages::js))
        .route("/icon.svg", get(pages::icon));
    let router = guarded
        .merge(open)
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_such_path);
    let router = match cors(&gateway.settings.cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.with_state(gateway)
}

async fn no_such_path(request: Request) -> Response {
    let (head, body) = request.into_parts();
    arrival::forget(&head, body).await;
    let failure = Failure::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "there is nothing at this path: /openapi.json lists what there is",
    );
    failure.response(Dialect::of_path(head.uri.path()))
}

async fn wrong_method(request: Request) -> Response {
    let (head, body) = request.into_parts();
    arrival::forget(&head, body).await;
    let failure = Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path has another method: POST to ask for a ranking, GET for the rest",
    );
    failure.response(Dialect::of_path(head.uri.path()))
}

/// Without origins there is no layer at all, so a browser keeps other origins' pages out.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let lower = |name: &str| HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).ok();
    let sent = [header::AUTHORIZATION, header::CONTENT_TYPE];
    let ours = [TIMEOUT_MS, DEADLINE_UNIX_MS, TRACEPARENT, TRACESTATE]
        .into_iter()
        .filter_map(lower);
    let exposed = [rerank::FALLBACK, rerank::PARTIAL].into_iter().filter_map(lower);
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(sent.into_iter().chain(ours).collect::<Vec<_>>())
        .expose_headers(exposed.chain([header::RETRY_AFTER]).collect::<Vec<_>>())
        .max_age(CORS_MAX_AGE);
    Some(if origins.iter().any(|origin| origin == "*") {
        layer.allow_origin(Any)
    } else {
        // The settings are validated: an origin is ASCII.
        let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        layer.allow_origin(origins.collect::<Vec<_>>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_holds_every_route_and_no_other() {
        let text = include_str!("openapi.json");
        let described: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
        let mut found: Vec<(String, String)> = Vec::new();
        for (path, methods) in described["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                assert!(
                    operation["summary"].is_string() && operation["responses"]["200"].is_object(),
                    "{method} {path}"
                );
                found.push((method.clone(), path.clone()));
            }
        }
        let mut routes: Vec<(String, String)> = ROUTES
            .iter()
            // What a browser loads for the page is no interface.
            .filter(|(_, path)| !path.contains("page.") && !path.contains("icon."))
            .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
            .collect();
        found.sort();
        routes.sort();
        assert_eq!(found, routes);
        // Every reference leads somewhere.
        for (_, rest) in text.match_indices("\"#/").map(|(at, _)| text.split_at(at + 2)) {
            let pointer = rest.split('"').next().unwrap_or_default();
            assert!(described.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn the_list_holds_every_route() {
        let source = include_str!("routes.rs");
        let (code, _) = source.split_once("#[cfg(test)]\nmod tests").expect("the tests");
        assert_eq!(code.matches(".route(\"").count(), ROUTES.len());
        for (_, path) in ROUTES {
            assert!(code.contains(&format!(".route(\"{path}\", ")), "{path}");
        }
    }
}
