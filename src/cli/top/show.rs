//! The workers as a table for people, or a line of JSON. Pure.

use comfy_table::{Attribute, Cell, CellAlignment, Color};
use serde::Serialize;

use super::columns;
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

    /// A summary and a table within `width` columns (`None`: as wide as it is); advice without workers.
    pub(super) fn table(&self, color: bool, width: Option<u16>) -> String {
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
        let fitting = columns::fitting(&self.workers, width.map_or(usize::MAX, usize::from));
        table.set_header(fitting.iter().map(|column| column.title));
        for (at, row) in self.workers.iter().enumerate() {
            table.add_row(fitting.iter().map(|column| {
                let text = &column.texts[at];
                match column.title {
                    columns::STATE => state(row, text, color),
                    _ if column.is_number => Cell::new(text).set_alignment(CellAlignment::Right),
                    _ => Cell::new(text),
                }
            }));
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
            "{}: {workers}, {serving} serving, {queue} queued, {:.1} requests/s, {:.1} refused/s{left_out}\n",
            self.service,
            per_s(|row| row.requests_per_s),
            per_s(|row| row.refused_per_s),
        )
    }
}

fn state(row: &Row, name: &str, color: bool) -> Cell {
    let cell = Cell::new(name);
    if !color {
        return cell;
    }
    match name {
        _ if row.gone => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        "serving" => cell.fg(Color::Green),
        "failed" => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        _ => cell.fg(Color::Yellow),
    }
}

/// Nobody answers: what to check.
pub(super) fn nobody(service: &str) -> String {
    format!(
        "No worker answers on $SRV.STATS.{service}. Check that\n  \
         - a worker runs (`nats-rerank worker`), and is connected to this NATS\n    \
         system and account (`nats.url`),\n  \
         - `nats.service_name` is the workers' (here it is `{service}`), and\n    \
         `--subject`, if given, is theirs too,\n  \
         - this user may publish to $SRV.STATS.{service} and subscribe to its\n    \
         inbox (`nats.inbox_prefix`).\n"
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
        let text = page(vec![row("A", false), row("B", false), row("C", true)]).table(false, None);
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            "rerank: 2 workers, 2 serving, 4 queued, 40.0 requests/s, 0.0 refused/s"
        );
        assert!(
            text.contains("gone") && text.contains("12.3") && text.contains("some/model"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "no colour was asked for");
        assert!(page(vec![row("A", false)]).table(true, None).contains('\u{1b}'));
    }

    #[test]
    fn a_page_fits_its_columns() {
        let mut long = row(&"W".repeat(22), false);
        long.stats.model = "cross-encoder/mmarco-mMiniLMv2-L12-H384-v1".to_owned();
        (long.stats.device, long.stats.precision) = ("cpu".to_owned(), "bf16".to_owned());
        let page = page(vec![long.clone(), row("B", true)]);
        let whole = page.table(false, None);
        for words in ["batch", "RSS MB", &*"W".repeat(22), &long.stats.model] {
            assert!(whole.contains(words), "{words}: {whole}");
        }
        for width in [40, 60, 80, 100, 120, 200] {
            let text = page.table(false, Some(width));
            let widest = text.lines().skip(1).map(|line| line.chars().count()).max();
            assert!(widest <= Some(usize::from(width)), "{width}: {text}");
            assert!(text.contains("p99 ms") && text.contains("gone"), "{width}: {text}");
        }
        let narrow = page.table(false, Some(80));
        assert!(
            narrow.contains("…WWWWWWW") && narrow.contains("L12-H384-v1"),
            "{narrow}"
        );
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
        assert!(nobody("rerank").lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn without_workers_there_is_advice() {
        let mut page = page(Vec::new());
        page.complaint = Some("the NATS server said: no".to_owned());
        let text = page.table(false, None);
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
