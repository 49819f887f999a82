//! The answer for programs. The names of the fields are documented in docs/query.md, and stay.

use serde_json::{Map, Value, json};

use crate::protocol::Request;

use super::{Line, Outcome};

/// The whole answer as one object on one line.
pub(super) fn object(request: &Request, outcome: &Outcome<'_>) -> String {
    let mut object = answer(request, outcome, true);
    if let Outcome::Unranked(failure) = outcome
        && let Some(reason) = object.get_mut("reason")
    {
        reason["advice"] = json!(failure.advice);
    }
    format!("{}\n", Value::Object(object))
}

/// An object a document, each on one line.
pub(super) fn lines(lines: &[Line<'_>]) -> String {
    lines
        .iter()
        .map(|line| format!("{}\n", Value::Object(ranking(line, true))))
        .collect()
}

/// What came of a request; with the documents' texts, or without.
pub(in super::super) fn answer(request: &Request, outcome: &Outcome<'_>, texts: bool) -> Map<String, Value> {
    let rankings: Vec<Value> = super::lines(request, outcome)
        .iter()
        .map(|line| Value::Object(ranking(line, texts)))
        .collect();
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("rankings", Value::Array(rankings));
    match outcome {
        Outcome::Ranked(answer) => {
            let reply = &answer.reply;
            let mut timings_ms = json!(reply.timings_ms);
            timings_ms["caller"] = json!((answer.elapsed.as_secs_f64() * 1e6).round() / 1e3);
            put("order", json!("reranked"));
            put("top_k_applied", json!(reply.top_k_applied));
            put("model", json!(reply.model));
            put("worker", json!(answer.worker));
            put("usage", json!(reply.usage));
            put("timings_ms", timings_ms);
        }
        Outcome::Unranked(failure) => {
            put("order", json!("ann"));
            put("reason", json!({"kind": failure.kind, "message": failure.what}));
        }
    }
    object
}

fn ranking(line: &Line<'_>, text: bool) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("rank", json!(line.rank + 1));
    put("index", json!(line.index));
    if let Some(score) = line.score {
        put("score", shortest(score));
        put("moved", json!(line.moved()));
    }
    if let Some(id) = &line.document.id {
        put("id", json!(id));
    }
    if text {
        put("text", json!(line.document.text));
    }
    object
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
    use super::super::tests::{LOOK, answer as reply, failure, request};
    use super::super::{Format, page};
    use super::*;

    #[test]
    fn json_holds_all_there_is() {
        let value = |outcome: &Outcome<'_>| -> Value {
            let page = page(Format::Json, &request(), outcome, &LOOK);
            assert_eq!(page.lines().count(), 1);
            serde_json::from_str(&page).expect("JSON")
        };
        let ranked = value(&Outcome::Ranked(&reply()));
        assert_eq!(ranked["order"], "reranked");
        let first = json!({"rank": 1, "index": 2, "moved": 2, "score": 8.31, "id": "doc\n7", "text": "ML algorithms"});
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

    #[test]
    fn a_line_is_a_document() {
        let page = page(Format::Jsonl, &request(), &Outcome::Ranked(&reply()), &LOOK);
        let lines: Vec<Value> = page
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[1],
            json!({"rank": 2, "index": 0, "moved": -1, "score": 1.5, "text": "Deep learning uses neural networks"})
        );
    }

    #[test]
    fn without_texts_places_and_ids_are_left() {
        let object = Value::Object(answer(&request(), &Outcome::Unranked(&failure()), false));
        assert_eq!(object["rankings"][2], json!({"rank": 3, "index": 2, "id": "doc\n7"}));
        assert_eq!(
            object["reason"],
            json!({"kind": "timed_out", "message": "no answer within 250 ms"})
        );
    }
}
