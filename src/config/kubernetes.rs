//! Kubernetes tells every pod of the services of its namespace by environment variables named after them. A service
//! called `rerank` or `rerank-…` makes variables that begin like ours, and they must not count as mistakes.

/// Whether a variable, without its `RERANK_`, is such a one.
pub fn is_service_link(rest: &str, value: &str) -> bool {
    let tokens: Vec<&str> = rest.split('_').collect();
    let has_pair = |first: &str, second: &str| tokens.windows(2).any(|pair| pair == [first, second]);
    let is_port_of_protocol = tokens.windows(3).any(|three| {
        three[0] == "PORT" && three[1].parse::<u16>().is_ok() && matches!(three[2], "TCP" | "UDP" | "SCTP")
    });
    has_pair("SERVICE", "HOST")
        || has_pair("SERVICE", "PORT")
        || is_port_of_protocol
        || (tokens.last() == Some(&"PORT") && value.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::is_service_link;

    #[test]
    fn service_links_are_told_from_settings() {
        for (rest, value) in [
            ("SERVICE_HOST", "10.0.0.7"),
            ("SERVICE_PORT", "80"),
            ("SERVICE_PORT_HTTP", "80"),
            ("PORT", "tcp://10.0.0.7:80"),
            ("PORT_80_TCP", "tcp://10.0.0.7:80"),
            ("PORT_80_TCP_ADDR", "10.0.0.7"),
            ("GATEWAY_SERVICE_HOST", "10.0.0.8"),
            ("GATEWAY_PORT_80_TCP_PROTO", "tcp"),
        ] {
            assert!(is_service_link(rest, value), "{rest}");
        }
        for (rest, value) in [
            ("NATS__URL", "nats://db"),
            ("PORT", "8080"),
            ("NATS__PORT", "4222"),
            ("HOST", "db"),
        ] {
            assert!(!is_service_link(rest, value), "{rest}");
        }
    }
}
