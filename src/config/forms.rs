//! What a text setting must look like. Nothing here opens a file or looks a name up.

use std::str::FromStr;

use async_nats::ServerAddr;
use url::{Host, Url};

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

/// Whole tokens that subjects begin with, as people write them in permissions too: `_INBOX` or `_INBOX.>`.
pub fn is_subject_prefix(text: &str) -> bool {
    is_subject(subject_prefix(text))
}

/// Those tokens alone.
pub fn subject_prefix(text: &str) -> &str {
    text.strip_suffix(".>").unwrap_or(text)
}

/// One token of a subject, such as a JetStream domain.
pub fn is_token(text: &str) -> bool {
    is_subject(text) && !text.contains('.')
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
                && address.port() != 0
                && matches!(address.into_inner().path(), "" | "/")
        })
}

/// A URL of the web, without query or fragment (paths are appended to it) and without a user (it is shown in messages;
/// the hub has a token for that).
pub fn is_web_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    !rest.starts_with(['/', ':'])
        && is_plain(rest)
        && !rest.contains([' ', '?', '#', '\\', '@'])
        && Url::parse(text).is_ok_and(|url| url.host().is_some() && url.port() != Some(0))
}

/// What is wrong with the port of an address or a URL, if it is that.
pub fn port_hint(text: &str) -> Option<String> {
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next()?;
    // What stands before the `@` may be a secret.
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (_, port) = host.rsplit_once(':').filter(|_| !host.ends_with(']'))?;
    match port.parse::<u16>() {
        Ok(0) => Some("port 0 is none that a server can be reached at".to_owned()),
        Ok(_) => None,
        Err(_) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let shown: String = port.chars().take(20).collect();
            Some(format!("port {shown} is above 65535"))
        }
        Err(_) => Some("the port must be a number from 0 to 65535".to_owned()),
    }
}

/// The same of an address to listen on, where port 0 stands for any free one.
pub fn listen_hint(text: &str) -> Option<String> {
    port_hint(text).filter(|_| !text.ends_with(":0"))
}

/// An origin as browsers send it: scheme and host in lower case, a host of other letters in Punycode, no default port, nothing
/// behind. `*` stands for any.
///
/// # Errors
/// Why no browser sends such an origin.
pub fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let wrong = |reason: &str| Err(reason.to_owned());
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        Ok(_) => return wrong("an origin begins with https:// or http://"),
        Err(url::ParseError::RelativeUrlWithoutBase) => return wrong("an origin begins with https:// or http://"),
        Err(error) => return Err(port_hint(text).unwrap_or_else(|| error.to_string())),
    };
    let behind = text.split_once("://").map_or("", |(_, rest)| rest);
    if behind.is_empty() || behind.starts_with('/') || text.contains(['\\', char::from(0x7f)]) || !is_plain(text) {
        return wrong("an origin has two slashes and a host behind its scheme");
    }
    if behind.contains('@') {
        return wrong("an origin holds no user");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || behind.matches('/').count() > 1 {
        return wrong("an origin ends behind its host and port: nothing of a page's path belongs to it");
    }
    if matches!(url.host(), Some(Host::Domain(host)) if host.contains('*')) {
        return wrong("an origin is one host: `*` stands for any only by itself");
    }
    if url.port() == Some(0) {
        return wrong("port 0 is none that a page can come from");
    }
    Ok(url.origin().ascii_serialization())
}

/// Something that [`origin`] takes.
pub fn is_origin(text: &str) -> bool {
    origin(text).is_ok()
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
    fn subject_prefixes() {
        all(
            is_subject_prefix,
            &["_INBOX", "_INBOX.>", "_R_", "a.b.>"],
            &[
                "", ">", ".>", "*", "_INBOX.", "_INBOX.*", "_INBOX>", "a.>.>", "$KV", "$JS.>", "a b",
            ],
        );
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
                "db:99999",
                "nats://db:0",
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
                "https://hub:99999",
                "http://hub:0/mirror",
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
            &[
                "*",
                "https://shop.example",
                "http://127.0.0.1:3000",
                "https://shop.example/",
            ],
            &[
                "",
                "shop.example",
                "https://shop.example/a",
                "https://shop.example//",
                "https://shop.example?",
                "https://shop.example/#",
                "https:shop.example",
                "https:///shop.example",
                "https://u:p@shop.example",
                "https://shop.example:99999",
                "https://shop.example:0",
                "https://shop example",
                "https://*.example",
                "https://",
                "ftp://shop.example",
                "**",
                "null",
            ],
        );
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for (written, sent) in [
            ("*", "*"),
            ("https://shop.example", "https://shop.example"),
            ("HTTPS://Shop.Example", "https://shop.example"),
            ("https://shop.example/", "https://shop.example"),
            ("https://shop.example:443", "https://shop.example"),
            ("http://shop.example:80/", "http://shop.example"),
            ("http://shop.example:443", "http://shop.example:443"),
            ("https://shop.example:8443", "https://shop.example:8443"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("http://[2001:DB8::0001]:3000", "http://[2001:db8::1]:3000"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ] {
            assert_eq!(origin(written).as_deref(), Ok(sent), "{written}");
        }
        assert!(
            origin("https://shop.example:99999")
                .unwrap_err()
                .contains("port 99999 is above 65535")
        );
        assert!(origin("https://*.example").unwrap_err().contains("one host"));
        assert!(origin("shop.example").unwrap_err().contains("https://"));
    }

    #[test]
    fn ports_that_are_none_are_named() {
        for (text, hint) in [
            ("127.0.0.1:99999", Some("port 99999 is above 65535")),
            ("[::1]:65536", Some("port 65536 is above 65535")),
            ("nats://u:hunter2@db:70000/", Some("port 70000 is above 65535")),
            (
                "https://hub.example:99999999999999999999/mirror",
                Some("port 99999999999999999999 is above 65535"),
            ),
            ("nats://db:-1", Some("the port must be a number from 0 to 65535")),
            ("nats://db:0", Some("port 0 is none that a server can be reached at")),
            ("https://hub.example", None),
            ("https://[::1]", None),
            ("127.0.0.1:9464", None),
        ] {
            assert_eq!(port_hint(text).as_deref(), hint, "{text}");
        }
        assert_eq!(listen_hint("127.0.0.1:0"), None);
        assert!(listen_hint("127.0.0.1:99999").is_some());
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
