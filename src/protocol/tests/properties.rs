//! What holds for any request, reply, refusal, and for any bytes at all.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use super::BOTH;

fn ids() -> impl Strategy<Value = DocumentId> {
    prop_oneof![
        ".{0,12}".prop_map(DocumentId::Text),
        any::<i64>().prop_map(DocumentId::Integer),
        (i64::MAX as u64 + 1..).prop_map(DocumentId::Unsigned),
    ]
}

fn documents() -> impl Strategy<Value = Document> {
    (any::<String>(), proptest::option::of(ids())).prop_map(|(text, id)| Document { text, id })
}

prop_compose! {
    fn requests()(
        query in ".{0,20}x.{0,20}",
        documents in vec(documents(), 0..20),
        top_k in proptest::option::of(1_usize..),
        (raw_scores, return_documents, truncate) in any::<(bool, bool, bool)>(),
        timeout_ms in proptest::option::of(f64::MIN_POSITIVE..1e12),
        model in proptest::option::of(any::<String>()),
        min_score in proptest::option::of(scores()),
        max_tokens_per_document in proptest::option::of(1_usize..),
        max_tokens_per_pair in proptest::option::of(1_usize..),
    ) -> Request {
        Request {
            query, documents, top_k, raw_scores, return_documents, truncate, timeout_ms, model, min_score,
            max_tokens_per_document, max_tokens_per_pair,
        }
    }
}

fn scores() -> impl Strategy<Value = f32> {
    any::<u32>()
        .prop_map(f32::from_bits)
        .prop_filter("scores are finite", |score| score.is_finite())
}

prop_compose! {
    fn rankings()(
        index in any::<usize>(),
        score in scores(),
        id in proptest::option::of(ids()),
        text in proptest::option::of(any::<String>()),
    ) -> Ranking {
        Ranking { index, score, id, document: text.map(|text| RankedDocument { text }) }
    }
}

prop_compose! {
    fn replies()(
        rankings in vec(rankings(), 0..20),
        top_k_applied in any::<bool>(),
        below_min_score in proptest::option::of(any::<u64>()),
        model in any::<String>(),
        (pairs, tokens, truncated, cached) in any::<(u64, u64, u64, u64)>(),
        microseconds in vec(0_u64..1 << 40, 4),
    ) -> Reply {
        let ms = |at: usize| microseconds[at] as f64 / 1e3;
        Reply {
            rankings,
            top_k_applied,
            below_min_score,
            model,
            usage: Usage { pairs, tokens, truncated, cached },
            timings_ms: TimingsMs { queue: ms(0), tokenize: ms(1), infer: ms(2), total: ms(3) },
        }
    }
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was(request in requests()) {
        for encoding in BOTH {
            let body = request.encode(encoding);
            prop_assert_eq!(Encoding::detect(None, &body), Ok(encoding));
            let read = Request::decode(encoding, &body);
            prop_assert!(read.as_ref() == Ok(&request), "{:?}: {:?}", encoding, read);
        }
    }

    #[test]
    fn a_reply_comes_back_bit_by_bit(reply in replies()) {
        for encoding in BOTH {
            let body = reply.encode(encoding).expect("finite scores");
            prop_assert_eq!(Encoding::detect(None, &body), Ok(encoding));
            let read = Reply::decode(encoding, &body);
            prop_assert!(read.as_ref() == Ok(&reply), "{:?}: {:?}", encoding, read);
            // Equality takes 0 for -0.
            let bits = |reply: &Reply| reply.rankings.iter().map(|ranking| ranking.score.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&read.expect("equal to the reply")), bits(&reply));
        }
    }

    #[test]
    fn a_score_is_the_same_after_json(score in scores()) {
        let written = serde_json::to_string(&score).expect("a number");
        let body = format!(r#"{{"rankings":[{{"index":0,"score":{written}}}],"top_k_applied":false,"model":""}}"#);
        let read = Reply::decode(Encoding::Json, body.as_bytes()).expect("a reply");
        prop_assert_eq!(read.rankings[0].score.to_bits(), score.to_bits());
    }

    #[test]
    fn a_refusal_comes_back(kind in proptest::sample::select(&RefusalKind::ALL[..]), message in any::<String>()) {
        let refusal = Refusal::new(kind, message);
        prop_assert!(refusal.message.len() <= MESSAGE_BYTES_MAX);
        prop_assert!(!refusal.message.contains(char::is_control));
        prop_assert!(refusal.header_value().is_ascii());
        for encoding in BOTH {
            prop_assert_eq!(Refusal::decode(encoding, &refusal.encode(encoding)), Ok(refusal.clone()));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200), content_type in any::<Option<String>>()) {
        for encoding in BOTH {
            if let Err(refusal) = Request::decode(encoding, &bytes) {
                prop_assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
            }
            let _ = Reply::decode(encoding, &bytes);
            let _ = Refusal::decode(encoding, &bytes);
        }
        let _ = Encoding::detect(content_type.as_deref(), &bytes);
    }

    #[test]
    fn a_damaged_body_is_read_or_refused(request in requests(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for encoding in BOTH {
            let mut body = request.encode(encoding);
            let at = at.index(body.len());
            body[at] = byte;
            if let Err(refusal) = Request::decode(encoding, &body) {
                prop_assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
                prop_assert!(refusal.message.len() <= MESSAGE_BYTES_MAX);
            }
        }
    }

    #[test]
    fn any_header_is_read_or_refused(timeout in any::<Option<String>>(), deadline in proptest::option::of("[0-9.]{0,30}")) {
        let headers = RequestHeaders { timeout_ms: timeout, deadline_unix_ms: deadline, ..RequestHeaders::default() };
        if let Ok(Some(budget)) = headers.budget(std::time::SystemTime::now()) {
            prop_assert!(budget <= headers::BUDGET_MAX);
        }
    }
}
