//! Tests of the wire contract: the rules one by one, then properties of both encodings.

mod malformed;
mod properties;
mod rules;

use serde_json::Value;

use super::{Encoding, Refusal, RefusalKind, Request};

const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::MsgPack];

/// `json` as a body in this encoding, field by field as it stands there.
fn body(encoding: Encoding, json: &str) -> Vec<u8> {
    match encoding {
        Encoding::Json => json.as_bytes().to_vec(),
        Encoding::MsgPack => {
            let value: Value = serde_json::from_str(json).expect("the test's own JSON");
            rmp_serde::to_vec_named(&value).expect("any JSON value has a MessagePack form")
        }
    }
}

/// The request in `json`, read in both encodings, which must agree.
fn accepted(json: &str) -> Request {
    let [first, second] = BOTH.map(|encoding| {
        Request::decode(encoding, &body(encoding, json))
            .unwrap_or_else(|refusal| panic!("{json} in {encoding:?}: {refusal}"))
    });
    assert!(first == second, "{json}: read otherwise in MessagePack");
    first
}

/// The message that refuses `json`, in both encodings; they must agree.
fn refused(json: &str) -> String {
    let [first, second] = BOTH.map(|encoding| refusal_of(encoding, &body(encoding, json)).message);
    assert_eq!(first, second, "{json}");
    first
}

fn refusal_of(encoding: Encoding, body: &[u8]) -> Refusal {
    let refusal = match Request::decode(encoding, body) {
        Err(refusal) => refusal,
        Ok(_) => panic!("{} was accepted", String::from_utf8_lossy(body)),
    };
    assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
    assert!(
        !refusal.message.contains("SECRET"),
        "content in a message: {}",
        refusal.message
    );
    refusal
}
