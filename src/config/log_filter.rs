//! What `log.level` may be: the filter expressions of `tracing-subscriber`, less what it takes and nobody means.
//!
//! Its parser takes a word that is no level for a target of which everything is wanted, so `inf` would silence the log but for
//! a target of that name; and it does not trim what it cuts out, so ` debug` behind a comma would be such a target too.

use tracing_subscriber::EnvFilter;

/// The levels, in the parser's own words.
const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];
/// What other programs call them.
const OTHER_WORDS: [(&str, &str); 6] = [
    ("warning", "warn"),
    ("err", "error"),
    ("fatal", "error"),
    ("critical", "error"),
    ("verbose", "debug"),
    ("none", "off"),
];
/// What our own targets begin with.
const OWN_TARGET: &str = "nats_rerank";
/// A target that is as near to ours as this is a slip.
const SLIP_LIKENESS_MIN: f64 = 0.75;

/// An expression that `telemetry::logs` can use, and that says what it seems to.
pub fn is_log_filter(text: &str) -> bool {
    hint(text).is_none() && EnvFilter::builder().parse(trimmed(text)).is_ok()
}

/// The expression without white space round its parts.
pub fn trimmed(text: &str) -> String {
    parts(text).collect::<Vec<_>>().join(",")
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// What is wrong, with the nearest that would not be.
pub fn hint(text: &str) -> Option<String> {
    if parts(text).next().is_none() {
        return Some("it names no level".to_owned());
    }
    parts(text).find_map(part_hint)
}

/// A part is `level`, `target`, or `target[span{field=value}]=level` with any of it left out.
fn part_hint(part: &str) -> Option<String> {
    let (head, level) = match part.rfind(']') {
        Some(end) => {
            let (head, rest) = part.split_at(end + 1);
            (head, rest.strip_prefix('='))
        }
        None => match part.split_once('=') {
            Some((head, level)) => (head, Some(level)),
            None => (part, None),
        },
    };
    match level {
        Some("") => return Some(format!("`{part}` names no level")),
        Some(level) if !is_level(level) => {
            return Some(format!(
                "`{level}` is no level, did you mean `{}`?",
                nearest_level(level)
            ));
        }
        Some(_) => {}
        None if is_level(head) => return None,
        None if head.contains(['[', ':']) || head.starts_with(OWN_TARGET) => {}
        None if is_slip(head) => return Some(format!("`{head}` is no target here, did you mean `{OWN_TARGET}`?")),
        None => {
            let nearest = nearest_level(head);
            return Some(format!(
                "`{head}` is no level, did you mean `{nearest}`? (a target is written `{head}={nearest}`)"
            ));
        }
    }
    let target = head.split(['[', ':']).next().unwrap_or_default();
    is_slip(target).then(|| format!("`{target}` is no target here, did you mean `{OWN_TARGET}`?"))
}

fn is_level(word: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) || matches!(word, "0" | "1" | "2" | "3" | "4" | "5")
}

fn is_slip(target: &str) -> bool {
    target != OWN_TARGET && strsim::normalized_damerau_levenshtein(target, OWN_TARGET) >= SLIP_LIKENESS_MIN
}

fn nearest_level(word: &str) -> &'static str {
    let word = word.to_ascii_lowercase();
    if let Some((_, level)) = OTHER_WORDS.iter().find(|(other, _)| *other == word) {
        return level;
    }
    let likeness = |level: &str| strsim::normalized_damerau_levenshtein(&word, level);
    let mut best = LEVELS[2];
    for level in LEVELS {
        if likeness(level) > likeness(best) {
            best = level;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_say_what_they_seem_to() {
        for text in [
            "info",
            "INFO",
            "off",
            "3",
            "info,nats_rerank=debug",
            "info, nats_rerank=debug",
            " debug ",
            "info,,nats_rerank=debug,",
            "nats_rerank",
            "nats_rerank::traces=debug",
            "warn,async_nats=info,tokio=off",
            "info,nats_rerank::worker",
            "info,[request]=debug",
            "info,nats_rerank[request{pairs=3}]=trace",
            "off,nats_rerank::worker[batch]=debug",
        ] {
            assert_eq!(hint(text), None, "{text:?}");
            assert!(is_log_filter(text), "{text:?}");
        }
    }

    #[test]
    fn a_slip_is_named_with_what_was_meant() {
        for (text, meant) in [
            ("inf", "did you mean `info`?"),
            ("ifno", "did you mean `info`?"),
            ("Debg", "did you mean `debug`?"),
            ("warning", "did you mean `warn`?"),
            ("none", "did you mean `off`?"),
            ("traec", "did you mean `trace`?"),
            ("6", "is no level"),
            ("info,debgu", "did you mean `debug`?"),
            ("nats_rerank=loud", "`loud` is no level"),
            ("nats_rerank=inf", "did you mean `info`?"),
            ("nats_rerank=", "names no level"),
            ("info,nats_rernk=debug", "did you mean `nats_rerank`?"),
            ("info,nats-rerank=debug", "did you mean `nats_rerank`?"),
            ("nats-rerank", "did you mean `nats_rerank`?"),
            ("info,nats_rernk::worker=debug", "did you mean `nats_rerank`?"),
            ("async_nats", "`async_nats="),
            ("a=b=c", "is no level"),
            (" , ", "names no level"),
        ] {
            assert!(!is_log_filter(text), "{text:?}");
            let hint = hint(text).unwrap_or_else(|| panic!("{text:?}"));
            assert!(hint.contains(meant), "{text:?}: {hint}");
        }
    }
}
