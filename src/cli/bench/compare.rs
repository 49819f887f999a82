//! Two reports side by side, and whether they may be compared at all. Pure.

use comfy_table::CellAlignment;
use serde::Serialize;

use super::figures::Figures;
use super::report::{Measured, Report};
use crate::cli::ruled_table;

/// Two reports compared.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    /// Nothing but the workers, or the program, differs.
    comparable: bool,
    /// What else differs: each makes the ratios mean less.
    differences: Vec<String>,
    /// What differs and may be the very thing that is compared.
    notes: Vec<String>,
    runs: Vec<Pair>,
}

/// Two runs of the same load, or the only ones there are.
#[derive(Debug, Serialize)]
struct Pair {
    /// Such as `20 requests a second`.
    load: String,
    rows: Vec<Row>,
}

/// One figure of both runs.
#[derive(Debug, Serialize)]
struct Row {
    figure: String,
    a: Option<f64>,
    b: Option<f64>,
    /// `b` by `a`, if there are both and `a` is not zero.
    ratio: Option<f64>,
}

/// Compares `b` to `a`.
pub(super) fn compare(a: &Report, b: &Report) -> Comparison {
    let mut differences = Vec::new();
    let mut notes = Vec::new();
    let mut differs = |what: &str, a: String, b: String| {
        if a != b {
            differences.push(format!("{what}: {a} against {b}"));
        }
    };
    let machine = |report: &Report| {
        let machine = &report.machine;
        format!("{} cores of {}, {}", machine.cores, machine.cpu, machine.os)
    };
    differs("machine", machine(a), machine(b));
    let payload = |report: &Report| {
        let payload = &report.settings.payload;
        format!(
            "{} requests of {} documents in all, {} bytes of text, checksum {}",
            payload.requests, payload.documents, payload.text_bytes, payload.fingerprint
        )
    };
    differs("payload", payload(a), payload(b));
    let (of_a, of_b) = (&a.settings, &b.settings);
    differs("encoding", of_a.encoding.clone(), of_b.encoding.clone());
    differs("budget, ms", of_a.timeout_ms.to_string(), of_b.timeout_ms.to_string());
    differs("retries", of_a.retries.to_string(), of_b.retries.to_string());
    let open = |report: &Report| report.runs.iter().any(|run| run.figures.rate_per_s.is_some());
    if open(a) && open(b) {
        differs(
            "arrivals",
            format!("{:?}", of_a.arrivals),
            format!("{:?}", of_b.arrivals),
        );
        differs("seed of arrivals", of_a.seed.to_string(), of_b.seed.to_string());
        differs(
            "requests under way at most",
            of_a.in_flight_max.to_string(),
            of_b.in_flight_max.to_string(),
        );
    }
    let loads = |report: &Report| {
        let loads: Vec<String> = report.runs.iter().map(|run| load(&run.figures)).collect();
        loads.join("; ")
    };
    differs("load", loads(a), loads(b));
    let mut note = |what: &str, a: String, b: String| {
        if a != b {
            notes.push(format!("{what}: {a} against {b}"));
        }
    };
    let models = |report: &Report| {
        let models = report.runs.iter().flat_map(|run| &run.figures.models);
        models
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(", ")
    };
    note("model", models(a), models(b));
    note("version", a.version.clone(), b.version.clone());
    let workers = |report: &Report| {
        let most = report.runs.iter().map(|run| run.figures.workers.len()).max();
        most.unwrap_or_default().to_string()
    };
    note("workers that answered", workers(a), workers(b));
    Comparison {
        comparable: differences.is_empty(),
        differences,
        notes,
        runs: pairs(&a.runs, &b.runs),
    }
}

/// One run of each are a pair whatever they were; of several, those of the same load.
fn pairs(a: &[Measured], b: &[Measured]) -> Vec<Pair> {
    if let ([a], [b]) = (a, b) {
        let (load_a, load_b) = (load(&a.figures), load(&b.figures));
        let load = if load_a == load_b {
            load_a
        } else {
            format!("{load_a} against {load_b}")
        };
        return vec![pair(load, &a.figures, &b.figures)];
    }
    a.iter()
        .filter_map(|a| {
            let same = load(&a.figures);
            let b = b.iter().find(|b| load(&b.figures) == same)?;
            Some(pair(same, &a.figures, &b.figures))
        })
        .collect()
}

fn load(figures: &Figures) -> String {
    match (figures.rate_per_s, figures.callers) {
        (Some(rate), _) => format!("{rate} requests a second"),
        (None, Some(1)) => "1 caller".to_owned(),
        (None, callers) => format!("{} callers", callers.unwrap_or_default()),
    }
}

fn pair(load: String, a: &Figures, b: &Figures) -> Pair {
    let (a, b) = (rows(a), rows(b));
    let mut names: Vec<&String> = a.iter().map(|(name, _)| name).collect();
    for (name, _) in &b {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let rows = names.into_iter().map(|name| {
        let value = |rows: &[(String, f64)]| rows.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        let (a, b) = (value(&a), value(&b));
        Row {
            figure: name.clone(),
            a,
            b,
            ratio: a.zip(b).filter(|(a, _)| *a != 0.0).map(|(a, b)| b / a),
        }
    });
    Pair {
        load,
        rows: rows.collect(),
    }
}

fn rows(figures: &Figures) -> Vec<(String, f64)> {
    let mut rows: Vec<(String, f64)> = [
        ("requests", figures.requests as f64),
        ("answered in time, %", figures.answered_share * 100.0),
        ("answered a second", figures.requests_per_s),
        ("pairs a second", figures.pairs_per_s),
        ("tokens a second", figures.tokens_per_s),
        ("p50 ms", figures.p50_ms),
        ("p90 ms", figures.p90_ms),
        ("p95 ms", figures.p95_ms),
        ("p99 ms", figures.p99_ms),
        ("max ms", figures.max_ms),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let reasons = figures.reasons.iter();
    rows.extend(reasons.map(|(reason, count)| (format!("failed: {reason}"), *count as f64)));
    let refusals = figures.refusals.iter();
    rows.extend(refusals.map(|(kind, times)| (format!("time to {kind}, p99 ms"), times.p99_ms)));
    if let Some(lag) = figures.sender_lag {
        rows.push(("sender late by, p99 ms".to_owned(), lag.p99_ms));
    }
    rows
}

/// The comparison for people.
pub(super) fn table(comparison: &Comparison, name_a: &str, name_b: &str) -> String {
    let mut page = String::new();
    let mut lines = |title: &str, items: &[String]| {
        if !items.is_empty() {
            page.push_str(&format!("{title}\n"));
            items.iter().for_each(|item| page.push_str(&format!("  {item}\n")));
        }
    };
    lines("NOT COMPARABLE: more than the workers differs", &comparison.differences);
    lines("Different, and perhaps what is compared:", &comparison.notes);
    if comparison.runs.is_empty() {
        page.push_str("No load was measured in both.\n");
    }
    for pair in &comparison.runs {
        let mut table = ruled_table();
        table.set_header([pair.load.as_str(), name_a, name_b, "ratio"]);
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        for row in &pair.rows {
            table.add_row([
                row.figure.clone(),
                shown(row.a),
                shown(row.b),
                row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        page.push_str(&format!("{table}\n"));
    }
    page
}

fn number(value: f64) -> String {
    if value == value.trunc() || value >= 1e5 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::report::tests::report;

    fn open(rate: f64, p99_ms: f64) -> Figures {
        Figures {
            rate_per_s: Some(rate),
            requests: 100,
            answered_share: 1.0,
            p99_ms,
            ..Figures::default()
        }
    }

    fn row<'a>(comparison: &'a Comparison, figure: &str) -> &'a Row {
        comparison.runs[0].rows.iter().find(|row| row.figure == figure).unwrap()
    }

    #[test]
    fn ratios_are_of_the_second_by_the_first() {
        let mut second = open(20.0, 15.0);
        second.reasons.insert("timed out".to_owned(), 4);
        let comparison = compare(&report([open(20.0, 10.0)]), &report([second]));
        assert!(comparison.comparable, "{:?}", comparison.differences);
        assert_eq!(row(&comparison, "p99 ms").ratio, Some(1.5));
        let only_b = row(&comparison, "failed: timed out");
        assert_eq!((only_b.a, only_b.b, only_b.ratio), (None, Some(4.0), None));
        assert_eq!(row(&comparison, "p50 ms").ratio, None, "nothing by zero");
        let text = table(&comparison, "a.json", "b.json");
        assert!(text.contains("1.500") && !text.contains("NOT COMPARABLE"), "{text}");
    }

    #[test]
    fn other_machines_payloads_and_rates_are_not_comparable() {
        let a = report([open(20.0, 10.0)]);
        let mut other_machine = report([open(20.0, 10.0)]);
        other_machine.machine.cores += 1;
        let mut other_payload = report([open(20.0, 10.0)]);
        other_payload.settings.payload.fingerprint = "0".to_owned();
        let mut other_seed = report([open(20.0, 10.0)]);
        other_seed.settings.seed += 1;
        for (b, what) in [
            (other_machine, "machine"),
            (other_payload, "payload"),
            (other_seed, "seed"),
            (report([open(40.0, 10.0)]), "load"),
        ] {
            let comparison = compare(&a, &b);
            assert!(!comparison.comparable, "{what}");
            assert!(
                comparison
                    .differences
                    .iter()
                    .any(|difference| difference.starts_with(what)),
                "{what}"
            );
            assert_eq!(comparison.runs.len(), 1, "{what}: the figures are shown all the same");
            assert!(table(&comparison, "a", "b").contains("NOT COMPARABLE"));
        }
    }

    #[test]
    fn another_model_or_version_is_a_note() {
        let mut b = report([open(20.0, 10.0)]);
        b.version = "9.9.9".to_owned();
        b.runs[0].figures.models.insert("other".to_owned());
        let comparison = compare(&report([open(20.0, 10.0)]), &b);
        assert!(comparison.comparable);
        assert_eq!(comparison.notes.len(), 2, "{:?}", comparison.notes);
    }

    #[test]
    fn sweeps_are_paired_by_their_rates() {
        let comparison = compare(
            &report([open(5.0, 1.0), open(10.0, 2.0), open(20.0, 4.0)]),
            &report([open(10.0, 3.0), open(20.0, 6.0), open(40.0, 9.0)]),
        );
        let loads: Vec<&str> = comparison.runs.iter().map(|pair| pair.load.as_str()).collect();
        assert_eq!(loads, ["10 requests a second", "20 requests a second"]);
        assert!(!comparison.comparable);
    }
}
