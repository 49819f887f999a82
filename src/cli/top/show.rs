//! The workers as a table for people, or a line of JSON. Pure.

use comfy_table::{Attribute, Cell, CellAlignment, Color};
use serde::Serialize;

use super::roll::Row;
use crate::cli::ruled_table;

/// What is shown of one round.
#[derive(Debug, Serialize)]
pub(super) struct Page<'a> {
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) time_unix_ms: u64,
    pub(super) service: &'a str,
    pub(super) workers: Vec<Row>,
    /// Workers that there was no room for.
    pub(super) workers_left_out: u64,
    /// Why answers may be missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) complaint: Option<String>,
}

impl Page<'_> {
    /// One line of JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).map_or_else(|_| String::new(), |line| line + "\n")
    }

    /// A summary and a table; advice without workers.
    pub(super) fn table(&self, color: bool) -> String {
        let mut page = String::new();
        if let Some(complaint) = &self.complaint {
            page.push_str(&format!("NOTE: {complaint}\n"));
        }
        if self.workers.is_empty() {
            page.push_str(&nobody(self.service));
            return page;
        }
        page.push_str(&self.summary());
        let mut table = ruled_table();
        if color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header([
            "worker",
            "state",
            "queue",
            "req/s",
            "refused/s",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "batch",
            "RSS MB",
            "device",
            "model",
        ]);
        let number = |value: Option<f64>, decimals: usize| {
            let text = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"));
            Cell::new(text).set_alignment(CellAlignment::Right)
        };
        for row in &self.workers {
            let stats = &row.stats;
            let device = format!("{} {}", stats.device, stats.precision);
            table.add_row([
                Cell::new(&stats.worker),
                state(row, color),
                number(stats.queue_requests.map(|count| count as f64), 0),
                number(row.requests_per_s, 1),
                number(row.refused_per_s, 1),
                number(stats.p50_ms, 1),
                number(stats.p95_ms, 1),
                number(stats.p99_ms, 1),
                number(stats.batch_pairs_mean, 1),
                number(stats.memory_mb, 0),
                Cell::new(device.trim()),
                Cell::new(&stats.model),
            ]);
        }
        page.push_str(&format!("{table}\n"));
        page
    }

    fn summary(&self) -> String {
        let there = || self.workers.iter().filter(|row| !row.gone);
        let serving = there().filter(|row| row.stats.state == "serving").count();
        let queue: u64 = there().filter_map(|row| row.stats.queue_requests).sum();
        let per_s = |rate: fn(&Row) -> Option<f64>| there().filter_map(rate).fold(0.0, |sum, rate| sum + rate);
        let workers = match there().count() {
            1 => "1 worker".to_owned(),
            count => format!("{count} workers"),
        };
        let left_out = match self.workers_left_out {
            0 => String::new(),
            count => format!(", {count} more are not shown"),
        };
        format!(
            "{}: {workers}, {serving} serving, {queue} requests in queues, {:.1} requests/s, {:.1} refused/s{left_out}\n",
            self.service,
            per_s(|row| row.requests_per_s),
            per_s(|row| row.refused_per_s),
        )
    }
}

fn state(row: &Row, color: bool) -> Cell {
    let name = if row.gone { "gone" } else { row.stats.state.as_str() };
    let cell = Cell::new(name);
    if !color {
        return cell;
    }
    match name {
        "serving" => cell.fg(Color::Green),
        "gone" | "failed" => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        _ => cell.fg(Color::Yellow),
    }
}

/// Nobody answers: what to check.
pub(super) fn nobody(service: &str) -> String {
    format!(
        "No worker answers on $SRV.STATS.{service}. Check that\n  \
         - a worker runs (`nats-rerank worker`), and is connected to this NATS system and account (`nats.url`),\n  \
         - `nats.service_name` is the workers' (here it is `{service}`),\n  \
         - this user may publish to $SRV.STATS.{service} and subscribe to its inbox (`nats.inbox_prefix`).\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::stats::Stats;

    fn row(worker: &str, gone: bool) -> Row {
        Row {
            stats: Stats {
                worker: worker.to_owned(),
                state: "serving".to_owned(),
                model: "some/model".to_owned(),
                queue_requests: Some(2),
                p99_ms: Some(12.34),
                ..Stats::default()
            },
            requests_per_s: (!gone).then_some(20.0),
            refused_per_s: None,
            gone,
        }
    }

    fn page(workers: Vec<Row>) -> Page<'static> {
        Page {
            time_unix_ms: 1,
            service: "rerank",
            workers,
            workers_left_out: 0,
            complaint: None,
        }
    }

    #[test]
    fn the_summary_leaves_out_who_is_gone() {
        let text = page(vec![row("A", false), row("B", false), row("C", true)]).table(false);
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            "rerank: 2 workers, 2 serving, 4 requests in queues, 40.0 requests/s, 0.0 refused/s"
        );
        assert!(
            text.contains("gone") && text.contains("12.3") && text.contains("some/model"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "no colour was asked for");
        assert!(page(vec![row("A", false)]).table(true).contains('\u{1b}'));
    }

    #[test]
    fn without_workers_there_is_advice() {
        let mut page = page(Vec::new());
        page.complaint = Some("the NATS server said: no".to_owned());
        let text = page.table(false);
        assert!(text.starts_with("NOTE: the NATS server said: no\n"), "{text}");
        assert!(
            text.contains("$SRV.STATS.rerank") && text.contains("nats.service_name"),
            "{text}"
        );
    }

    #[test]
    fn json_is_one_line_with_a_workers_figures_side_by_side() {
        let line = page(vec![row("A", false)]).json();
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let worker = &value["workers"][0];
        assert_eq!(
            (&worker["worker"], &worker["requests_per_s"]),
            (&"A".into(), &20.0.into())
        );
    }
}
