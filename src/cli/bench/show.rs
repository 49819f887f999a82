//! Figures as a table for people. Pure.

use comfy_table::CellAlignment;

use super::figures::{Figures, Percentiles};
use crate::cli::ruled_table;

/// A sender that was this late at the 99th percentile, in milliseconds, and by this share of the answers' latency there,
/// makes the latencies say more of itself than they should.
const LAG_NOTABLE_MS: f64 = 2.0;
const LAG_NOTABLE_SHARE: f64 = 0.05;

/// The figures of one run.
pub(super) fn table(figures: &Figures) -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("requests", figures.requests.to_string());
    if let Some(callers) = figures.callers {
        row("callers", callers.to_string());
    }
    if let Some(rate) = figures.rate_per_s {
        row("rate, requests a second", format!("{rate}"));
    }
    row(
        "answered in time",
        format!("{} ({:.2} %)", figures.answered, figures.answered_share * 100.0),
    );
    let [_, second, third] = figures.answered_at_try;
    if second + third > 0 {
        row("  at the second, third try", format!("{second}, {third}"));
    }
    row("answered a second", format!("{:.1}", figures.requests_per_s));
    row("pairs a second", format!("{:.0}", figures.pairs_per_s));
    row("tokens a second", format!("{:.0}", figures.tokens_per_s));
    for (name, ms) in [
        ("p50 ms", figures.p50_ms),
        ("p90 ms", figures.p90_ms),
        ("p95 ms", figures.p95_ms),
        ("p99 ms", figures.p99_ms),
        ("max ms", figures.max_ms),
    ] {
        row(name, format!("{ms:.2}"));
    }
    for (reason, count) in &figures.reasons {
        row(&format!("failed: {reason}"), count.to_string());
    }
    for (kind, times) in &figures.refusals {
        row(&format!("time to {kind}"), short(times));
    }
    if let Some(lag) = &figures.sender_lag {
        row("sender late by", short(lag));
    }
    for (worker, count) in &figures.workers {
        row(
            &format!("worker {worker}"),
            format!("{} answered, {} refused", count.answered, count.refused),
        );
    }
    let mut table = ruled_table();
    table.set_header(["figure", "value"]);
    for (name, value) in rows {
        table.add_row([name, value]);
    }
    format!("{table}\n{}", note(figures))
}

fn short(times: &Percentiles) -> String {
    format!(
        "p50 {:.2}, p99 {:.2}, max {:.2} ms",
        times.p50_ms, times.p99_ms, times.max_ms
    )
}

/// What a reader has to know before believing the latencies.
fn note(figures: &Figures) -> String {
    match &figures.sender_lag {
        Some(lag) if lag.p99_ms > LAG_NOTABLE_MS.max(LAG_NOTABLE_SHARE * figures.p99_ms) => format!(
            "The sender itself was late (p99 {:.1} ms): this machine is too busy for this rate, and every latency above \
             holds that wait.\n",
            lag.p99_ms
        ),
        _ => String::new(),
    }
}

/// One line a rate.
pub(super) fn sweep(runs: &[&Figures]) -> String {
    let mut table = ruled_table();
    table.set_header([
        "rate/s",
        "requests",
        "answered %",
        "answered/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "refused",
        "no responders",
        "turned away p99 ms",
        "timed out",
        "not sent",
        "sender p99 ms",
    ]);
    for figures in runs {
        let failed = |prefix: &str| -> u64 {
            let reasons = figures.reasons.iter();
            reasons
                .filter(|(name, _)| name.starts_with(prefix))
                .map(|(_, count)| count)
                .sum()
        };
        let turned_away_p99 = figures.turned_away_p99_ms();
        table.add_row([
            format!("{}", figures.rate_per_s.unwrap_or_default()),
            figures.requests.to_string(),
            format!("{:.2}", figures.answered_share * 100.0),
            format!("{:.1}", figures.requests_per_s),
            format!("{:.2}", figures.p50_ms),
            format!("{:.2}", figures.p95_ms),
            format!("{:.2}", figures.p99_ms),
            failed("refused").to_string(),
            failed("no responders").to_string(),
            turned_away_p99.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}")),
            failed("timed out").to_string(),
            failed("not sent").to_string(),
            format!("{:.2}", figures.sender_lag.unwrap_or_default().p99_ms),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let late = runs.iter().map(|figures| note(figures)).find(|note| !note.is_empty());
    format!("{table}\n{}", late.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn overloaded(lag_p99_ms: f64) -> Figures {
        Figures {
            requests: 100,
            rate_per_s: Some(50.0),
            answered: 90,
            failed: 10,
            answered_share: 0.9,
            reasons: BTreeMap::from([("refused: overloaded".to_owned(), 7), ("timed out".to_owned(), 3)]),
            refusals: BTreeMap::from([(
                "overloaded".to_owned(),
                Percentiles {
                    count: 7,
                    p99_ms: 1.5,
                    ..Percentiles::default()
                },
            )]),
            sender_lag: Some(Percentiles {
                p99_ms: lag_p99_ms,
                ..Percentiles::default()
            }),
            ..Figures::default()
        }
    }

    #[test]
    fn a_table_tells_failures_and_a_late_sender() {
        let text = table(&overloaded(0.1));
        assert!(
            text.contains("failed: timed out") && text.contains("time to overloaded"),
            "{text}"
        );
        assert!(text.contains("90 (90.00 %)") && !text.contains("too busy"), "{text}");
        assert!(table(&overloaded(60.0)).contains("too busy"));
    }

    #[test]
    fn a_sweep_has_a_line_for_each_rate() {
        let (one, two) = (overloaded(0.1), overloaded(0.2));
        let text = sweep(&[&one, &two]);
        assert_eq!(text.lines().filter(|line| line.contains("90.00")).count(), 2, "{text}");
    }
}
