//! What a text setting must look like. Nothing here opens a file or looks a name up.

use std::str::FromStr;

use async_nats::ServerAddr;
use tracing_subscriber::EnvFilter;

/// Subjects longer than this are refused by servers or by their logs.
const SUBJECT_BYTES_MAX: usize = 255;

/// Not only white space, and without control characters (a line break in a name breaks a log or a protocol).
pub fn is_plain(text: &str) -> bool {
    !text.trim().is_empty() && !text.chars().any(char::is_control)
}

/// A literal NATS subject; also the form of queue groups and inbox prefixes. What begins with `$` belongs to the
/// server and its services.
pub fn is_subject(text: &str) -> bool {
    text.len() <= SUBJECT_BYTES_MAX
        && !text.starts_with('$')
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '*' || c == '>')
        && text.split('.').all(|token| !token.is_empty())
}

/// A service name by ADR-32.
pub fn is_service_name(text: &str) -> bool {
    text.len() <= SUBJECT_BYTES_MAX && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// What the NATS client can connect to: it is built without web sockets.
pub fn is_server_url(text: &str) -> bool {
    is_plain(text)
        && !text.contains(char::is_whitespace)
        && ServerAddr::from_str(text).is_ok_and(|address| {
            matches!(address.scheme(), "nats" | "tls")
                && !address.host().is_empty()
                && matches!(address.into_inner().path(), "" | "/")
        })
}

/// A URL of the web, without query or fragment (paths are appended to it) and without a user (it is shown in messages;
/// the hub has a token for that).
pub fn is_web_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    !rest.starts_with(['/', ':']) && is_plain(rest) && !rest.contains([' ', '?', '#', '\\', '@'])
}

/// An origin as browsers send it (scheme, host and perhaps a port, nothing behind), or `*` for any.
pub fn is_origin(text: &str) -> bool {
    text == "*" || (is_web_url(text) && !text.ends_with('/') && text.matches('/').count() == 2 && text.is_ascii())
}

/// A model's name and the subject of its workers: `bge-m3=rerank.v1.score.bge-m3`.
pub fn is_named_subject(text: &str) -> bool {
    // A subject may hold `=`, a name not.
    text.split_once('=').is_some_and(|(name, subject)| {
        !name.trim().is_empty() && is_plain(name) && !name.contains(['"', '\'', '[', ']']) && is_subject(subject)
    })
}

/// A branch, tag or commit: it becomes a part of paths and addresses.
pub fn is_revision(text: &str) -> bool {
    text.len() <= SUBJECT_BYTES_MAX
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

/// An address to listen on. No name: what it stands for may change, and looking it up may take long.
pub fn is_socket_address(text: &str) -> bool {
    text.parse::<std::net::SocketAddr>().is_ok()
}

/// An expression that `telemetry::logs` can use.
pub fn is_log_filter(text: &str) -> bool {
    EnvFilter::builder().parse(text).is_ok()
}

/// Whether that server URL carries a user, password or token.
pub fn has_user(url: &str) -> bool {
    // The checks above let only URLs through that parse.
    ServerAddr::from_str(url).is_ok_and(|address| address.has_user_pass() || address.password().is_some())
}

/// Whether what is sent to that server can be read on the way: neither TLS by its scheme nor on this machine.
pub fn is_open_and_remote(url: &str) -> bool {
    ServerAddr::from_str(url).is_ok_and(|address| {
        let host = address.host();
        let here = host == "localhost"
            || host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        !address.tls_required() && !here
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(check: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(check(text), "{text:?} should pass");
        }
        for text in bad {
            assert!(!check(text), "{text:?} should not pass");
        }
    }

    #[test]
    fn subjects() {
        all(
            is_subject,
            &["rerank", "rerank.v1.score", "rerank.v1.score.bge-m3", "_INBOX_rerank"],
            &[
                "",
                ".",
                "a.",
                ".a",
                "a..b",
                "a.*",
                "a.>",
                "a b",
                "a\tb",
                "a\nb",
                "$SRV.PING",
                &"x".repeat(256),
            ],
        );
    }

    #[test]
    fn service_names() {
        all(is_service_name, &["rerank", "rerank-2_b"], &["a b", "a.b", "ä"]);
    }

    #[test]
    fn server_urls() {
        all(
            is_server_url,
            &[
                "nats://127.0.0.1:4222",
                "tls://nats.example:4222",
                "localhost",
                "db:4333",
                "nats://u:p@db",
                "nats://[::1]:4222",
            ],
            &[
                "",
                "nats://",
                "http://db",
                "ws://db",
                "nats://a b",
                "nats://db:99999",
                "nats://db/path",
                "nats://db\n",
            ],
        );
    }

    #[test]
    fn web_urls() {
        all(
            is_web_url,
            &[
                "https://hub.example",
                "http://127.0.0.1:8080",
                "https://hub.example/mirror",
            ],
            &[
                "",
                "hub.example",
                "ftp://hub",
                "https://",
                "https:///x",
                "https://a b",
                "https://hub/?q=1",
                "https://u:p@hub",
            ],
        );
    }

    #[test]
    fn origins() {
        all(
            is_named_subject,
            &["bge-m3=rerank.v1.score.bge-m3", "BAAI/bge-reranker-v2-m3=a=b"],
            &[
                "",
                "=",
                "name",
                "name=",
                "=subject",
                " =subject",
                "name=a b",
                "name=a.>",
                "na\nme=a",
            ],
        );
        all(
            is_origin,
            &["*", "https://shop.example", "http://127.0.0.1:3000"],
            &[
                "",
                "shop.example",
                "https://shop.example/",
                "https://shop.example/a",
                "https://*.example/",
                "null",
            ],
        );
    }

    #[test]
    fn revisions() {
        all(
            is_revision,
            &["main", "v1.0", "refs/pr/3", "0a1b2c"],
            &["../x", "a//b", "/a", "a b", "..", "a/"],
        );
    }

    #[test]
    fn socket_addresses() {
        all(
            is_socket_address,
            &["127.0.0.1:9464", "0.0.0.0:0", "[::1]:80"],
            &["", "localhost:80", ":80", "127.0.0.1", "127.0.0.1:99999", "::1:80"],
        );
    }

    #[test]
    fn log_filters() {
        all(
            is_log_filter,
            &["info", "info,nats_rerank=debug", "off"],
            &["info,nats_rerank=loud", "a=b=c"],
        );
    }

    #[test]
    fn users_in_urls() {
        all(
            has_user,
            &["nats://u:p@db", "u@db", "nats://:p@db"],
            &["nats://db", "db:4222"],
        );
    }

    #[test]
    fn servers_that_can_be_overheard() {
        all(
            is_open_and_remote,
            &["nats://db:4222", "10.0.0.7", "nats://[2001:db8::1]:4222"],
            &["nats://127.0.0.1:4222", "localhost", "nats://[::1]:4222", "tls://db"],
        );
    }
}
