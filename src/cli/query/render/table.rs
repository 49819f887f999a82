//! The answer for people: what moved, and how far.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Row};

use crate::cli::ruled_table;
use crate::protocol::Request;

use super::{Line, Look, Outcome, plain};

/// The whole page.
pub(super) fn table(request: &Request, outcome: &Outcome<'_>, lines: &[Line<'_>], look: &Look) -> String {
    let mut page = head(request, outcome);
    let ids = lines.iter().any(|line| line.document.id.is_some());
    let ranked = matches!(outcome, Outcome::Ranked(_));

    let mut table = ruled_table();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(look.width);
    if look.color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    let titles = [
        ("rank", true),
        ("before", ranked),
        ("score", ranked),
        ("id", ids),
        ("document", true),
    ];
    table.set_header(titles.iter().filter(|(_, shown)| *shown).map(|(title, _)| {
        let cell = Cell::new(title);
        if look.color {
            cell.add_attribute(Attribute::Bold)
        } else {
            cell
        }
    }));
    for line in lines {
        let mut row = Row::new();
        row.max_height(1)
            .add_cell(Cell::new(line.rank + 1).set_alignment(CellAlignment::Right));
        if ranked {
            row.add_cell(moved(line, look.color));
        }
        if let Some(score) = line.score {
            row.add_cell(Cell::new(shown_score(score)).set_alignment(CellAlignment::Right));
        }
        if ids {
            let id = line.document.id.as_ref().map(ToString::to_string).unwrap_or_default();
            row.add_cell(Cell::new(plain(&id)));
        }
        row.add_cell(Cell::new(plain(&line.document.text)));
        table.add_row(row);
    }
    page.push_str(&table.to_string());
    page.push('\n');
    page
}

fn head(request: &Request, outcome: &Outcome<'_>) -> String {
    let mut head = format!("query   {}\n", plain(&request.query));
    match outcome {
        Outcome::Ranked(answer) => {
            let reply = &answer.reply;
            let _ = write!(head, "model   {}", plain(&reply.model));
            if let Some(worker) = &answer.worker {
                let _ = write!(head, "   worker {}", plain(worker));
            }
            let usage = reply.usage;
            let _ = write!(
                head,
                "   {} documents, {} tokens",
                request.documents.len(),
                usage.tokens
            );
            if usage.truncated > 0 {
                let _ = write!(head, ", {} cut to the model's limit", usage.truncated);
            }
            let timings = reply.timings_ms;
            let _ = writeln!(
                head,
                "\ntime    {:.1} ms for the caller; in the worker {:.1} ms: queue {:.1}, tokenize {:.1}, infer {:.1}",
                answer.elapsed.as_secs_f64() * 1e3,
                timings.total,
                timings.queue,
                timings.tokenize,
                timings.infer
            );
        }
        Outcome::Unranked(failure) => {
            let _ = writeln!(head, "order   as it came in ({})", failure.kind);
        }
    }
    head
}

/// The rank before, and how far the document moved.
fn moved(line: &Line<'_>, color: bool) -> Cell {
    let (before, moved) = (line.index + 1, line.moved());
    let (text, tint) = match moved.signum() {
        1 => (format!("{before} ↑{moved}"), Some(Color::Green)),
        -1 => (format!("{before} ↓{}", moved.unsigned_abs()), Some(Color::Red)),
        _ => (format!("{before} ="), None),
    };
    match tint.filter(|_| color) {
        Some(tint) => Cell::new(text).fg(tint),
        None => Cell::new(text),
    }
}

/// Four decimals; a score too small for them keeps its order of magnitude.
fn shown_score(score: f32) -> String {
    if score != 0.0 && score.abs() < 0.001 {
        format!("{score:.2e}")
    } else {
        format!("{score:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LOOK, answer, failure, request};
    use super::super::{Format, page};
    use super::*;

    #[test]
    fn the_table_tells_what_moved_where() {
        let page = page(Format::Table, &request(), &Outcome::Ranked(&answer()), &LOOK);
        let rows: Vec<Vec<&str>> = page
            .lines()
            .skip_while(|line| !line.trim_start().starts_with("rank"))
            .map(|line| line.split_whitespace().collect())
            .filter(|row: &Vec<&str>| row.first().is_some_and(|cell| cell.parse::<u32>().is_ok()))
            .collect();
        assert_eq!(rows[0], ["1", "3", "↑2", "8.3100", "doc", "7", "ML", "algorithms"]);
        assert_eq!(rows[1][..4], ["2", "1", "↓1", "1.5000"]);
        assert_eq!(rows[2][..4], ["3", "2", "↓1", "-0.2500"]);
        assert_eq!(rows[3][..4], ["4", "4", "=", "1.20e-5"]);
        assert_eq!(rows.len(), 4);
        for part in [
            "query   machine learning algorithms",
            "model   builtin   worker w-1   4 documents, 52 tokens\n",
            "15.2 ms for the caller; in the worker 14.3 ms: queue 0.8, tokenize 1.9, infer 11.2",
        ] {
            assert!(page.contains(part), "{page}");
        }
        assert!(
            !page.contains('\u{1b}'),
            "a document's escape sequences reach the terminal"
        );
    }

    #[test]
    fn the_table_fits_the_window() {
        let mut request = request();
        request.documents[0].text = "wide 統計 ".repeat(500);
        for width in [60, 80, 140] {
            let page = page(
                Format::Table,
                &request,
                &Outcome::Ranked(&answer()),
                &Look { width, ..LOOK },
            );
            let table: Vec<&str> = page.lines().skip(3).collect();
            // A rule at each end, the header with its rule, and one line a row.
            assert_eq!(table.len(), 4 + 4, "{page}");
            // Wide characters take two columns, so that counting characters is on the safe side only this way round.
            assert!(
                table.iter().all(|line| line.chars().count() <= usize::from(width)),
                "{page}"
            );
            assert!(page.contains("wide 統計 ..") || page.contains("..."), "{page}");
        }
    }

    #[test]
    fn colour_comes_only_when_asked_for() {
        let colored = page(
            Format::Table,
            &request(),
            &Outcome::Ranked(&answer()),
            &Look { color: true, ..LOOK },
        );
        assert!(colored.contains("\u{1b}["));
        let unranked = page(Format::Table, &request(), &Outcome::Unranked(&failure()), &LOOK);
        assert!(!unranked.contains('\u{1b}'));
    }
}
