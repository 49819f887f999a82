//! Whether a worker's memory stays flat, in small; `make soak` is the same over 100,000 requests.

use futures_util::future::join_all;
use nats_rerank::protocol::{Encoding, Request};

use crate::support::nats_server::NatsServer;
use crate::support::worker::Worker;
use crate::support::{Answer, RawCaller, reference};

const CALLERS: usize = 4;
/// Requests between two readings.
const BLOCK: usize = 100;
const BLOCKS: usize = 40;
/// Blocks after which arenas, plans and buffers of most shapes are there.
const WARM_UP_BLOCKS: usize = 5;
/// Blocks at either end of what is judged.
const COMPARED_BLOCKS: usize = 5;
const DOCUMENTS_MAX: usize = 12;
/// What the memory may grow by. Requests are of 4 KiB on average: kept by mistake, 3,000 of them come to 12 MiB.
const GROWTH_KIB_MAX: u64 = 4 * 1024;

/// Number `number` of the requests: 1 to 13 documents (13 are too many) of 1 to 360 words.
fn request(number: usize) -> Request {
    let documents: Vec<String> = (0..1 + number % (DOCUMENTS_MAX + 1))
        .map(|place| "some words about it ".repeat(1 + (number * 7 + place * 13) % 90))
        .collect();
    let mut request = Request::new(
        "which of them fits ".repeat(1 + number % 5),
        documents.iter().map(String::as_str),
    );
    request.timeout_ms = Some(60_000.0);
    request
}

async fn ask(caller: &RawCaller, number: usize) {
    if number.is_multiple_of(50) {
        caller.ask_json("{\"query\": 1").await.refused();
        return;
    }
    let request = request(number);
    let encoding = if number.is_multiple_of(2) {
        Encoding::Json
    } else {
        Encoding::MsgPack
    };
    let headers = [("Content-Type", encoding.content_type())];
    let answer = caller.send(request.encode(encoding), &headers, encoding).await;
    let fits = request.documents.len() <= DOCUMENTS_MAX;
    assert_eq!(
        matches!(answer, Answer::Scored(_)),
        fits,
        "request {number}: {answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_mixed_lengths_leave_nothing_behind() {
    let server = NatsServer::start();
    let few = format!("limits.documents_max={DOCUMENTS_MAX}");
    let worker = Worker::start(&server.url, &reference("bert-small"), &[&few]);
    let caller = RawCaller::connect(&server.url).await;
    let mut rss_kib = Vec::new();
    for block in 0..BLOCKS {
        let caller = &caller;
        join_all((0..CALLERS).map(|first| async move {
            for number in (first..BLOCK).step_by(CALLERS) {
                ask(caller, block * BLOCK + number).await;
            }
        }))
        .await;
        rss_kib.push(worker.rss_kib());
    }
    println!("resident after each {BLOCK} requests: {rss_kib:?} KiB");
    // An allocator takes and gives back in steps: what is lost for good lifts the lowest reading of the end over the
    // highest of the beginning.
    let beginning = &rss_kib[WARM_UP_BLOCKS..WARM_UP_BLOCKS + COMPARED_BLOCKS];
    let end = &rss_kib[BLOCKS - COMPARED_BLOCKS..];
    let (highest, lowest) = (beginning.iter().max(), end.iter().min());
    let (highest, lowest) = (*highest.expect("readings"), *lowest.expect("readings"));
    assert!(
        lowest <= highest + GROWTH_KIB_MAX,
        "memory grew from {highest} to {lowest} KiB: {rss_kib:?}"
    );
}
