//! Every key: its kind, its range, and whether it is secret. What a key means stands in `config/default.toml`; tests
//! hold that file, this table, the structs in `raw` and `docs/configuration.md` together.

use super::forms;
use super::key::{Key, hinted, integer, list, optional, or_zero, secret, switch, text};
use super::log_filter;
use super::{DeviceChoice, FallbackScores, KernelsChoice, LogFormat, OnFailure, PrecisionChoice, TokenizerChoice};

/// Ten minutes.
const MILLISECONDS_MAX: i64 = 600_000;
/// More than any machine has cores.
const THREADS_MAX: i64 = 1024;

const PATH: &str = "a path";
const MODEL: &str = "`builtin`, a folder, or a hub id `owner/name`";

/// Every key, in the order of `config/default.toml`.
pub static KEYS: &[Key] = &[
    switch("enabled"),
    hinted(
        list(
            "nats.url",
            1,
            "a URL `nats://host:port` or `tls://host:port`",
            forms::is_server_url,
        ),
        forms::port_hint,
    ),
    switch("nats.ignore_discovered_servers"),
    text(
        "nats.subject",
        "a NATS subject without wildcards, spaces, empty tokens or a leading `$`",
        forms::is_subject,
    ),
    text(
        "nats.queue_group",
        "a name without spaces, wildcards or empty tokens",
        forms::is_subject,
    ),
    optional(
        "nats.switch_bucket",
        "letters, digits, `-` and `_`",
        forms::is_service_name,
    ),
    optional(
        "nats.switch_domain",
        "a name without dots, spaces or wildcards",
        forms::is_token,
    ),
    text(
        "nats.service_name",
        "letters, digits, `-` and `_`",
        forms::is_service_name,
    ),
    text(
        "nats.connection_name",
        "a text without control characters",
        forms::is_plain,
    ),
    optional("nats.credentials_file", PATH, forms::is_plain),
    optional("nats.nkey_seed_file", PATH, forms::is_plain),
    optional("nats.user", "a text without control characters", forms::is_plain),
    secret("nats.password"),
    optional("nats.password_file", PATH, forms::is_plain),
    secret("nats.token"),
    optional("nats.token_file", PATH, forms::is_plain),
    switch("nats.tls_required"),
    optional("nats.tls_ca_file", PATH, forms::is_plain),
    optional("nats.tls_cert_file", PATH, forms::is_plain),
    optional("nats.tls_key_file", PATH, forms::is_plain),
    optional(
        "nats.inbox_prefix",
        "a NATS subject without wildcards, spaces or empty tokens",
        forms::is_subject,
    ),
    list(
        "nats.reply_prefixes",
        0,
        "whole tokens of a NATS subject, `_INBOX` or `_INBOX.>`, without other wildcards, spaces or a leading `$`",
        forms::is_subject_prefix,
    ),
    integer("nats.connect_timeout_ms", 100, MILLISECONDS_MAX, "ms"),
    integer("nats.connect_retries_max", 0, 10_000, "retries"),
    integer("nats.ping_interval_ms", 10, MILLISECONDS_MAX, "ms"),
    integer("nats.subscription_capacity", 1, 65_536, "messages"),
    text("model.id", MODEL, forms::is_plain),
    list("model.aliases", 0, "a text without control characters", forms::is_plain),
    text("model.revision", "a branch, tag or commit", forms::is_revision),
    optional("model.hub_cache_dir", PATH, forms::is_plain),
    secret("model.hub_token"),
    hinted(
        optional(
            "model.hub_endpoint",
            "a URL `https://host` or `http://host`, without a user in it",
            forms::is_web_url,
        ),
        forms::port_hint,
    ),
    switch("model.hub_offline"),
    integer("model.hub_retries_max", 0, 100, "retries"),
    integer("model.load_retries_max", 0, 100, "retries"),
    integer("model.load_retry_delay_ms", 0, MILLISECONDS_MAX, "ms"),
    list("model.fallback_ids", 0, MODEL, forms::is_plain),
    text("model.device", DeviceChoice::ALLOWED, |text| {
        text.parse::<DeviceChoice>().is_ok()
    }),
    text("model.precision", PrecisionChoice::ALLOWED, |text| {
        text.parse::<PrecisionChoice>().is_ok()
    }),
    text("model.kernels", KernelsChoice::ALLOWED, |text| {
        text.parse::<KernelsChoice>().is_ok()
    }),
    text("model.tokenizer", TokenizerChoice::ALLOWED, |text| {
        text.parse::<TokenizerChoice>().is_ok()
    }),
    or_zero("model.max_length", 8, 65_536, "tokens", "the model's own limit"),
    integer("model.warmup_samples", 0, 1024, "pairs"),
    or_zero("model.threads", 1, THREADS_MAX, "threads", "by the number of cores"),
    text("model.cuda_library", "a library's name or path", forms::is_plain),
    or_zero("model.hang_timeout_ms", 100, MILLISECONDS_MAX, "ms", "no bound"),
    integer("batch.window_ms", 0, 1000, "ms"),
    or_zero("batch.tokens_max", 64, 16_777_216, "tokens", "by device"),
    integer("queue.requests_max", 1, 1_000_000, "requests"),
    integer("queue.pairs_max", 1, 100_000_000, "pairs"),
    integer("queue.bytes_max", 1024, 1 << 40, "bytes"),
    or_zero("queue.leave_at_percent", 1, 100, "per cent", "never"),
    integer("queue.rejoin_at_percent", 0, 99, "per cent"),
    integer("queue.dwell_ms_min", 0, MILLISECONDS_MAX, "ms"),
    integer("limits.documents_max", 1, 1_000_000, "documents"),
    integer("limits.query_bytes_max", 1, 64 << 20, "bytes"),
    integer("limits.document_bytes_max", 1, 64 << 20, "bytes"),
    integer("limits.default_timeout_ms", 1, MILLISECONDS_MAX, "ms"),
    integer("limits.timeout_ms_max", 1, MILLISECONDS_MAX, "ms"),
    or_zero(
        "tokenize.threads",
        1,
        THREADS_MAX,
        "threads",
        "by the number of cores and the device",
    ),
    or_zero("cache.document_bytes_max", 1 << 16, 1 << 40, "bytes", "none are kept"),
    or_zero("cache.scores_max", 64, 1_000_000_000, "scores", "none are kept"),
    integer("shutdown.grace_ms", 0, MILLISECONDS_MAX, "ms"),
    hinted(
        optional(
            "health.listen",
            "an address `ip:port`, port 0: any free one",
            forms::is_socket_address,
        ),
        forms::listen_hint,
    ),
    integer("health.heart_beat_age_max_ms", 10_000, MILLISECONDS_MAX, "ms"),
    hinted(
        text(
            "gateway.listen",
            "an address `ip:port`, port 0: any free one",
            forms::is_socket_address,
        ),
        forms::listen_hint,
    ),
    integer("gateway.timeout_ms", 1, MILLISECONDS_MAX, "ms"),
    text("gateway.on_failure", OnFailure::ALLOWED, |text| {
        text.parse::<OnFailure>().is_ok()
    }),
    text("gateway.fallback_scores", FallbackScores::ALLOWED, |text| {
        text.parse::<FallbackScores>().is_ok()
    }),
    list(
        "gateway.models",
        0,
        "`name=subject`: the name of a model, and the NATS subject of its workers",
        forms::is_named_subject,
    ),
    switch("gateway.any_model"),
    or_zero("gateway.split_pairs", 1, 1_000_000, "pairs", "never"),
    secret("gateway.token"),
    optional("gateway.token_file", PATH, forms::is_plain),
    integer("gateway.requests_max", 1, 100_000, "requests"),
    integer("gateway.connections_max", 1, 100_000, "connections"),
    integer("gateway.documents_max", 1, 1_000_000, "documents"),
    integer("gateway.body_bytes_max", 1024, 1 << 30, "bytes"),
    or_zero(
        "gateway.pending_body_bytes_max",
        1024,
        1 << 40,
        "bytes",
        "64 times `gateway.body_bytes_max`",
    ),
    integer("gateway.request_timeout_ms", 1, MILLISECONDS_MAX, "ms"),
    hinted(
        list(
            "gateway.cors_origins",
            0,
            "`*`, or an origin `https://host` or `http://host:port`",
            forms::is_origin,
        ),
        |text| forms::origin(text).err(),
    ),
    hinted(
        optional(
            "traces.otlp_endpoint",
            "a URL `http://host:port` or `https://host:port`, without a user in it",
            forms::is_web_url,
        ),
        forms::port_hint,
    ),
    integer("traces.sample_percent", 0, 100, "per cent"),
    text("log.format", LogFormat::ALLOWED, |text| {
        text.parse::<LogFormat>().is_ok()
    }),
    hinted(
        text(
            "log.level",
            "a filter such as `info` or `info,nats_rerank=debug`",
            log_filter::is_log_filter,
        ),
        log_filter::hint,
    ),
];

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether keys of that section exist.
pub fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.section() == name && !name.is_empty())
}

/// The key that somebody who wrote `name` most likely meant.
pub fn nearest(name: &str) -> &'static Key {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    let likeness = |key: &Key| {
        let whole = strsim::normalized_damerau_levenshtein(name, key.name);
        // The right key in the wrong section is nearer than its spelling says.
        if leaf == key.leaf() { whole.max(0.9) } else { whole }
    };
    let mut best = &KEYS[0];
    for key in KEYS {
        if likeness(key) > likeness(best) {
            best = key;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lie_at_most_one_section_deep() {
        for (place, key) in KEYS.iter().enumerate() {
            assert!(
                KEYS[..place].iter().all(|other| other.name != key.name),
                "{} twice",
                key.name
            );
            assert!(key.name.matches('.').count() <= 1, "{}", key.name);
            assert!(
                !key.leaf().contains("__"),
                "{} could not be told in the environment",
                key.name
            );
        }
    }

    #[test]
    fn the_nearest_key_is_what_was_meant() {
        for (written, meant) in [
            ("nats.ulr", "nats.url"),
            ("nats_url", "nats.url"),
            ("model.idd", "model.id"),
            ("batch.window", "batch.window_ms"),
            ("batch.max_length", "model.max_length"),
            ("queue_group", "nats.queue_group"),
            ("limits.max_documents", "limits.documents_max"),
            ("enable", "enabled"),
            ("log.lvl", "log.level"),
        ] {
            assert_eq!(nearest(written).name, meant, "{written}");
        }
    }

    #[test]
    fn a_variable_is_named_after_its_key() {
        assert_eq!(
            find("nats.queue_group").map(Key::variable).as_deref(),
            Some("RERANK_NATS__QUEUE_GROUP")
        );
        assert_eq!(find("enabled").map(Key::variable).as_deref(), Some("RERANK_ENABLED"));
    }
}
