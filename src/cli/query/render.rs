//! The answer as a person or a program likes to read it. Pure: what to show comes in, text goes out.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Row, Table, TableComponent, presets};
use serde_json::{Map, Value, json};

use crate::client::Answer;
use crate::protocol::{Document, Request};

use super::Failure;

/// The width of a table when nobody knows how wide the reader's window is.
pub(super) const WIDTH_UNKNOWN: u16 = 120;
/// Characters of a document that a table looks at: more than any window is wide, and little to lay out.
const TEXT_CHARS_MAX: usize = 2_000;

/// How to show the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people: ranks now and before, scores, texts cut to the window's width
    Table,
    /// One JSON object on one line
    Json,
    /// The documents' ids, or places from 0, best first, one a line
    Ids,
}

/// What the reader's window can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub color: bool,
    pub width: u16,
}

/// What came of the request.
pub(super) enum Outcome<'a> {
    /// A ranking that fits the request.
    Ranked(&'a Answer),
    /// None: the documents stay as they came in.
    Unranked(&'a Failure),
}

/// A line of the result: a document's place now, and before.
struct Line<'a> {
    index: usize,
    score: Option<f32>,
    document: &'a Document,
}

/// The whole output, ending with a line break.
pub(super) fn page(format: Format, request: &Request, outcome: &Outcome<'_>, look: &Look) -> String {
    let lines = lines(request, outcome);
    match format {
        Format::Table => table(request, outcome, &lines, look),
        Format::Json => json(outcome, &lines),
        Format::Ids => lines.iter().fold(String::new(), |mut page, line| {
            match &line.document.id {
                // One a line, whatever an id may hold.
                Some(id) => page.push_str(&plain(&id.to_string())),
                None => page.push_str(&line.index.to_string()),
            }
            page.push('\n');
            page
        }),
    }
}

fn lines<'a>(request: &'a Request, outcome: &Outcome<'_>) -> Vec<Line<'a>> {
    let documents = &request.documents;
    match outcome {
        Outcome::Ranked(answer) => answer
            .reply
            .rankings
            .iter()
            .filter_map(|ranking| {
                let document = documents.get(ranking.index)?;
                Some(Line {
                    index: ranking.index,
                    score: Some(ranking.score),
                    document,
                })
            })
            .collect(),
        Outcome::Unranked(_) => {
            let kept = request.top_k.unwrap_or(documents.len());
            let kept = documents.iter().take(kept).enumerate();
            kept.map(|(index, document)| Line {
                index,
                score: None,
                document,
            })
            .collect()
        }
    }
}

fn table(request: &Request, outcome: &Outcome<'_>, lines: &[Line<'_>], look: &Look) -> String {
    let mut page = head(request, outcome);
    let ids = lines.iter().any(|line| line.document.id.is_some());
    let ranked = matches!(outcome, Outcome::Ranked(_));

    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    // Rules frame the head and the foot; between rows they would only take room.
    for rule in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
        TableComponent::LeftBorderIntersections,
        TableComponent::RightBorderIntersections,
    ] {
        table.remove_style(rule);
    }
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
    for (rank, line) in lines.iter().enumerate() {
        let mut row = Row::new();
        row.max_height(1)
            .add_cell(Cell::new(rank + 1).set_alignment(CellAlignment::Right));
        if ranked {
            row.add_cell(moved(rank, line.index, look.color));
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
fn moved(rank: usize, before: usize, color: bool) -> Cell {
    let (text, tint) = match rank.cmp(&before) {
        std::cmp::Ordering::Less => (format!("{} ↑{}", before + 1, before - rank), Some(Color::Green)),
        std::cmp::Ordering::Greater => (format!("{} ↓{}", before + 1, rank - before), Some(Color::Red)),
        std::cmp::Ordering::Equal => (format!("{} =", before + 1), None),
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

/// A text on one line, without what could move a terminal's cursor.
fn plain(text: &str) -> String {
    let visible = |character: char| if character.is_control() { ' ' } else { character };
    text.chars()
        .take(TEXT_CHARS_MAX)
        .map(visible)
        .collect::<String>()
        .trim()
        .to_owned()
}

fn json(outcome: &Outcome<'_>, lines: &[Line<'_>]) -> String {
    let rankings: Vec<Value> = lines
        .iter()
        .enumerate()
        .map(|(rank, line)| {
            let mut object = Map::new();
            object.insert("rank".into(), json!(rank + 1));
            object.insert("index".into(), json!(line.index));
            if let Some(score) = line.score {
                object.insert("score".into(), shortest(score));
            }
            if let Some(id) = &line.document.id {
                object.insert("id".into(), json!(id));
            }
            object.insert("text".into(), json!(line.document.text));
            Value::Object(object)
        })
        .collect();
    let value = match outcome {
        Outcome::Ranked(answer) => {
            let reply = &answer.reply;
            let mut timings_ms = json!(reply.timings_ms);
            timings_ms["caller"] = json!((answer.elapsed.as_secs_f64() * 1e6).round() / 1e3);
            json!({
                "order": "reranked",
                "rankings": rankings,
                "top_k_applied": reply.top_k_applied,
                "model": reply.model,
                "worker": answer.worker,
                "usage": reply.usage,
                "timings_ms": timings_ms,
            })
        }
        Outcome::Unranked(failure) => json!({
            "order": "ann",
            "reason": {"kind": failure.kind, "message": failure.what, "advice": failure.advice},
            "rankings": rankings,
        }),
    };
    format!("{value}\n")
}

/// The shortest decimal number that reads back as this score. (`json!` alone would widen it: 8.31 as 8.3100004196.)
fn shortest(score: f32) -> Value {
    score
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, |score| json!(score))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::{DocumentId, Ranking, Reply, TimingsMs, Usage};

    const LOOK: Look = Look {
        color: false,
        width: 80,
    };

    fn request() -> Request {
        let mut request = Request::new(
            "machine learning\talgorithms",
            [
                "Deep learning uses neural networks",
                "Pizza\n\u{1b}[31mrecipes",
                "ML algorithms",
                "Sports 統計 news",
            ],
        );
        request.documents[2].id = Some(DocumentId::Text("doc\n7".into()));
        request
    }

    fn answer() -> Answer {
        let rankings = [(2, 8.31), (0, 1.5), (1, -0.25), (3, 0.000_012)];
        Answer {
            reply: Reply {
                rankings: rankings
                    .map(|(index, score)| Ranking {
                        index,
                        score,
                        id: None,
                        document: None,
                    })
                    .into(),
                top_k_applied: false,
                model: "builtin".into(),
                usage: Usage {
                    pairs: 4,
                    tokens: 52,
                    truncated: 0,
                    cached: 0,
                },
                timings_ms: TimingsMs {
                    queue: 0.8,
                    tokenize: 1.9,
                    infer: 11.2,
                    total: 14.3,
                },
            },
            worker: Some("w-1".into()),
            elapsed: Duration::from_micros(15_250),
        }
    }

    fn failure() -> Failure {
        Failure {
            kind: "timed_out",
            what: "no answer within 250 ms".into(),
            advice: "Wait longer",
        }
    }

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
                &Look { color: false, width },
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
            &Look { color: true, width: 80 },
        );
        assert!(colored.contains("\u{1b}["));
        let unranked = page(Format::Table, &request(), &Outcome::Unranked(&failure()), &LOOK);
        assert!(!unranked.contains('\u{1b}'));
    }

    #[test]
    fn without_a_ranking_the_order_stays() {
        let ids = |outcome: &Outcome<'_>, request: &Request| page(Format::Ids, request, outcome, &LOOK);
        assert_eq!(ids(&Outcome::Unranked(&failure()), &request()), "0\n1\ndoc 7\n3\n");
        assert_eq!(ids(&Outcome::Ranked(&answer()), &request()), "doc 7\n0\n1\n3\n");
        let table = page(Format::Table, &request(), &Outcome::Unranked(&failure()), &LOOK);
        assert!(table.contains("order   as it came in (timed_out)"), "{table}");
        assert!(!table.contains("score") && !table.contains("before"), "{table}");
        let first_two = Request {
            top_k: Some(2),
            ..request()
        };
        assert_eq!(ids(&Outcome::Unranked(&failure()), &first_two), "0\n1\n");
    }

    #[test]
    fn json_holds_all_there_is() {
        let value = |outcome: &Outcome<'_>| -> Value {
            let page = page(Format::Json, &request(), outcome, &LOOK);
            assert_eq!(page.lines().count(), 1);
            serde_json::from_str(&page).expect("JSON")
        };
        let ranked = value(&Outcome::Ranked(&answer()));
        assert_eq!(ranked["order"], "reranked");
        let first = json!({"rank": 1, "index": 2, "score": 8.31, "id": "doc\n7", "text": "ML algorithms"});
        assert_eq!(ranked["rankings"][0], first);
        assert_eq!(
            (&ranked["worker"], &ranked["usage"]["tokens"]),
            (&json!("w-1"), &json!(52))
        );
        assert_eq!(ranked["timings_ms"]["caller"], json!(15.25));
        let unranked = value(&Outcome::Unranked(&failure()));
        assert_eq!(
            (&unranked["order"], &unranked["reason"]["kind"]),
            (&json!("ann"), &json!("timed_out"))
        );
        assert_eq!(unranked["rankings"][1]["index"], json!(1));
        assert!(unranked["rankings"][1].get("score").is_none());
    }
}
