//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tower_http::cors::{Any, CorsLayer};

use super::dialect::{Dialect, ROUTES};
use super::failure::Failure;
use super::{Gateway, arrival, guard, pages, rerank};
use crate::protocol::headers::{DEADLINE_UNIX_MS, TIMEOUT_MS, TRACEPARENT, TRACESTATE};

/// Every path that is read by GET. A test holds the router and `openapi.json` to it; requests for rankings have a table of
/// their own (`dialect::ROUTES`).
#[cfg(test)]
const PAGES: [&str; 18] = [
    "/v1/models",
    "/models",
    "/v1/models/{*id}",
    "/info",
    "/meta",
    "/.well-known/ready",
    "/.well-known/live",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/stats",
    "/openapi.json",
    "/",
    "/page.css",
    "/page.js",
    "/icon.svg",
    "/ping",
];

/// How long a browser may remember what it was told of CORS.
const CORS_MAX_AGE: std::time::Duration = std::time::Duration::from_secs(600);

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    let mut guarded = Router::new();
    for route in ROUTES {
        let ask = move |State(gateway): State<Arc<Gateway>>, request: Request| async move {
            rerank::rerank(&gateway, route, request).await
        };
        guarded = guarded.route(route.path, post(ask));
    }
    // What costs the workers something, or tells of them, is behind the token.
    let guarded = guarded
        .route("/v1/models", get(pages::models))
        .route("/models", get(pages::models))
        .route("/v1/models/{*id}", get(pages::model))
        .route("/info", get(pages::info))
        .route("/meta", get(pages::meta))
        .route_layer(from_fn_with_state(gateway.clone(), guard::guard));
    let open = Router::new()
        .route("/health", get(pages::ready))
        .route("/ping", get(pages::ready))
        .route("/.well-known/ready", get(pages::ready))
        .route("/.well-known/live", get(pages::alive))
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
    forgiving(router.with_state(gateway))
}

/// A path that leads nowhere is tried once more without the slashes that it has too many: clients join `http://host/` and
/// `/v1/rerank`, or end an address in one.
fn forgiving(router: Router) -> Router {
    let inner = TowerToHyperService::new(router.clone());
    router.fallback(move |mut request: Request| {
        let inner = inner.clone();
        async move {
            if let Some(uri) = with_single_slashes(request.uri()) {
                *request.uri_mut() = uri;
            }
            // A router answers whatever it is asked.
            match inner.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    })
}

/// The address with one slash for several and none at the end; `None` if it is so already.
fn with_single_slashes(uri: &Uri) -> Option<Uri> {
    let segments: Vec<&str> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    let path = format!("/{}", segments.join("/"));
    if path == uri.path() {
        return None;
    }
    let path = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    Uri::builder().path_and_query(path).build().ok()
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
    let exposed = [rerank::FALLBACK, rerank::PARTIAL, rerank::BELOW_MIN_SCORE]
        .into_iter()
        .filter_map(lower);
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
        let pages = PAGES
            .iter()
            // What a browser loads for the page is no interface.
            .filter(|path| !path.contains("page.") && !path.contains("icon."))
            .map(|path| ("get".to_owned(), path.replace("{*id}", "{id}")));
        let asked = ROUTES.iter().map(|route| ("post".to_owned(), route.path.to_owned()));
        let mut routes: Vec<(String, String)> = pages.chain(asked).collect();
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
    fn the_list_holds_every_page() {
        let source = include_str!("routes.rs");
        let (code, _) = source.split_once("#[cfg(test)]\nmod tests").expect("the tests");
        assert_eq!(code.matches(".route(\"").count(), PAGES.len());
        for path in PAGES {
            assert!(code.contains(&format!(".route(\"{path}\", ")), "{path}");
        }
    }

    #[test]
    fn slashes_too_many_are_left_out() {
        let single = |uri: &str| with_single_slashes(&uri.parse().expect("a URI")).map(|uri| uri.to_string());
        assert_eq!(single("//v1///rerank/?a=//").as_deref(), Some("/v1/rerank?a=//"));
        assert_eq!(single("http://host//rerank").as_deref(), Some("/rerank"));
        assert_eq!(single("//").as_deref(), Some("/"));
        assert_eq!((single("/v1/rerank"), single("/")), (None, None));
    }
}
