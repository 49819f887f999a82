//! The answer as a person or a program likes to read it. Pure: what to show comes in, text goes out.

pub(super) mod json;
mod table;

use crate::client::Answer;
use crate::protocol::{Document, Request};

use super::args::Format;
use super::failure::Failure;

/// The width of a table when nobody knows how wide the reader's window is.
pub(super) const WIDTH_UNKNOWN: u16 = 120;
/// Characters of a document that a table looks at: more than any window is wide, and little to lay out.
const TEXT_CHARS_MAX: usize = 2_000;

/// What the reader's window can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Is there a terminal, which acts upon control characters?
    pub terminal: bool,
    pub color: bool,
    pub width: u16,
}

/// What came of the request.
#[derive(Clone, Copy)]
pub(super) enum Outcome<'a> {
    /// A ranking that fits the request.
    Ranked(&'a Answer),
    /// None: the documents stay as they came in.
    Unranked(&'a Failure),
}

/// A line of the result: a document's place now, and before.
struct Line<'a> {
    /// From 0.
    rank: usize,
    /// From 0; the place before.
    index: usize,
    score: Option<f32>,
    document: &'a Document,
}

impl Line<'_> {
    /// How many places up, or down if negative.
    fn moved(&self) -> i64 {
        self.index as i64 - self.rank as i64
    }
}

/// The whole output, ending with a line break.
pub(super) fn page(format: Format, request: &Request, outcome: &Outcome<'_>, look: &Look) -> String {
    let lines = lines(request, outcome);
    match format {
        Format::Table => table::table(request, outcome, &lines, look),
        Format::Json => json::object(request, outcome),
        Format::Jsonl => json::lines(&lines),
        Format::Ids => one_a_line(lines.iter().map(|line| match &line.document.id {
            // One a line, whatever an id may hold.
            Some(id) => id.to_string().replace(char::is_control, " "),
            None => line.index.to_string(),
        })),
        // On its way to another program a text is not touched.
        Format::Text if !look.terminal => one_a_line(lines.iter().map(|line| line.document.text.as_str())),
        Format::Text => one_a_line(lines.iter().map(|line| harmless(&line.document.text))),
    }
}

fn one_a_line<T: AsRef<str>>(items: impl Iterator<Item = T>) -> String {
    let mut page = String::new();
    for item in items {
        let item = item.as_ref();
        page.push_str(item);
        // A file's text may bring its own.
        if !item.ends_with('\n') {
            page.push('\n');
        }
    }
    page
}

fn lines<'a>(request: &'a Request, outcome: &Outcome<'_>) -> Vec<Line<'a>> {
    let documents = &request.documents;
    match outcome {
        Outcome::Ranked(answer) => answer
            .reply
            .rankings
            .iter()
            .enumerate()
            .filter_map(|(rank, ranking)| {
                let document = documents.get(ranking.index)?;
                Some(Line {
                    rank,
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
                rank: index,
                index,
                score: None,
                document,
            })
            .collect()
        }
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

/// A text without what could move a terminal's cursor, but with its line breaks and tabs.
fn harmless(text: &str) -> String {
    let control = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    text.chars().filter(|character| !control(*character)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::{DocumentId, Ranking, Reply, TimingsMs, Usage};

    pub(super) const LOOK: Look = Look {
        terminal: false,
        color: false,
        width: 80,
    };

    pub(super) fn request() -> Request {
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

    pub(super) fn answer() -> Answer {
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
                below_min_score: None,
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
            activation: None,
            worker: Some("w-1".into()),
            elapsed: Duration::from_micros(15_250),
        }
    }

    pub(super) fn failure() -> Failure {
        Failure {
            kind: "timed_out",
            what: "no answer within 250 ms".into(),
            advice: "Wait longer",
        }
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
    fn texts_come_as_they_are_but_harmless_to_a_terminal() {
        let text = |look: &Look| page(Format::Text, &request(), &Outcome::Ranked(&answer()), look);
        let untouched =
            "ML algorithms\nDeep learning uses neural networks\nPizza\n\u{1b}[31mrecipes\nSports 統計 news\n";
        assert_eq!(text(&LOOK), untouched);
        let terminal = Look { terminal: true, ..LOOK };
        assert_eq!(text(&terminal), untouched.replace('\u{1b}', ""));
        let mut of_files = request();
        of_files.documents[2].text = "from a file\n".into();
        let page = page(Format::Text, &of_files, &Outcome::Unranked(&failure()), &LOOK);
        assert!(page.ends_with("recipes\nfrom a file\nSports 統計 news\n"), "{page}");
    }
}
