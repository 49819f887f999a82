//! The hot paths that are timed (`micro`) and counted (`guard`): one script each, over the same material every time.
//! Nothing here reads a clock or draws a random number.

mod material;

use std::hint::black_box;
use std::time::{Duration, Instant};

use nats_rerank::bench_support::batch::{BatchPolicy, Batcher, Decision, DeviceState, Job};
use nats_rerank::bench_support::layout::Layout;
use nats_rerank::bench_support::load::Load;
use nats_rerank::bench_support::rank::rank;
use nats_rerank::bench_support::rate::Rate;
use nats_rerank::bench_support::{admit, split_and_merge};
use nats_rerank::model::{PairTokens, ScoreActivation};
use nats_rerank::protocol::{Encoding, Reply, Request};

pub use material::Material;

/// What is measured; made ready beforehand, run once.
pub type Run<'a> = Box<dyn FnOnce() + 'a>;

/// A hot path.
pub struct HotPath {
    /// How the stored figures name it.
    pub name: &'static str,
    /// Makes everything ready that is not to be measured.
    pub prepare: for<'a> fn(&'a Material) -> Run<'a>,
}

/// All of them, in the order in which they are run.
pub const HOT_PATHS: [HotPath; 14] = [
    path("decode_request_json", |m| decode_request(m, Encoding::Json)),
    path("decode_request_msgpack", |m| decode_request(m, Encoding::MsgPack)),
    path("encode_reply_json", |m| encode_reply(m, Encoding::Json)),
    path("encode_reply_msgpack", |m| encode_reply(m, Encoding::MsgPack)),
    path("encode_request_json", |m| encode_request(m, Encoding::Json)),
    path("encode_request_msgpack", |m| encode_request(m, Encoding::MsgPack)),
    path("decode_reply_json", |m| decode_reply(m, Encoding::Json)),
    path("decode_reply_msgpack", |m| decode_reply(m, Encoding::MsgPack)),
    path("admit_200_requests", admission),
    path("tokenize_24_documents", |m| tokenize(m, &m.request)),
    path("tokenize_24_accented_documents", |m| tokenize(m, &m.accented)),
    path("batch_200_requests", batching),
    path("lay_out_3_requests", lay_out),
    path("rank_100_requests_split_and_merge", ranking),
];

const fn path(name: &'static str, prepare: for<'a> fn(&'a Material) -> Run<'a>) -> HotPath {
    HotPath { name, prepare }
}

fn decode_request(material: &Material, encoding: Encoding) -> Run<'_> {
    let body = material.request.encode(encoding);
    Box::new(move || {
        let request = Request::decode_within(encoding, black_box(&body), 1000).expect("a request");
        black_box(request);
    })
}

fn encode_reply(material: &Material, encoding: Encoding) -> Run<'_> {
    Box::new(move || {
        let body = black_box(&material.reply).encode(encoding).expect("finite scores");
        black_box(body);
    })
}

fn encode_request(material: &Material, encoding: Encoding) -> Run<'_> {
    Box::new(move || drop(black_box(black_box(&material.request).encode(encoding))))
}

fn decode_reply(material: &Material, encoding: Encoding) -> Run<'_> {
    let body = material.reply.encode(encoding).expect("finite scores");
    let documents = material.request.documents.len();
    Box::new(move || {
        let reply = Reply::decode(encoding, black_box(&body)).expect("a reply");
        reply.check(documents, None).expect("the reply of this request");
        black_box(reply);
    })
}

/// The estimate, the check and the booking of 200 requests, of which every third leaves again; the queue stays so full
/// that some are refused.
fn admission(material: &Material) -> Run<'_> {
    let start = Instant::now();
    let request = &material.request;
    let mut load = Load::new(Duration::from_millis(500));
    load.set_sizes(4096, 512);
    load.rate = measured_rate();
    Box::new(move || {
        let mut now = start;
        let mut waiting = Vec::with_capacity(200);
        let mut refused = 0;
        for step in 0..200u64 {
            now += Duration::from_millis(7);
            let budget = Duration::from_millis(60 + step * 37 % 400);
            let bytes = request.documents.iter().map(|document| document.text.len());
            match admit(&mut load, now, budget, request.query.len(), bytes) {
                Ok(id) => waiting.push(id),
                Err(_) => refused += 1,
            }
            if step % 3 == 0
                && let Some(id) = waiting.pop()
            {
                load.remove(id);
            }
        }
        assert!((20..180).contains(&refused), "{refused} of 200 refused");
    })
}

fn measured_rate() -> Rate {
    let mut rate = Rate::new();
    for class in 4..13 {
        let tokens = 1usize << class;
        rate.observe(tokens, Duration::from_micros(300 + 9 * tokens as u64));
    }
    rate
}

fn tokenize<'a>(material: &'a Material, request: &'a Request) -> Run<'a> {
    Box::new(move || drop(black_box(material.pairs(black_box(request)))))
}

/// 200 requests pushed by a script into a batcher that is polled after each, as a device would that takes a little
/// longer than the work allows: jobs wait, are spread over batches, and some expire.
fn batching(material: &Material) -> Run<'_> {
    let start = Instant::now();
    let mut jobs: Vec<Job> = (0..200u64)
        .map(|id| {
            let lengths = material.pairs.iter().cycle().skip(id as usize);
            let pairs = 1 + (id as usize * 7) % 40;
            Job {
                id,
                deadline: start + Duration::from_millis(5 * id + 40 + id * 53 % 300),
                lengths: lengths.take(pairs).map(|pair| pair.ids.len() as u32).collect(),
            }
        })
        .collect();
    jobs.reverse();
    // Plain sums: with the measured rate's predictions, nine of ten instructions would be theirs, and those are counted
    // with admission.
    let time = |tokens: usize| Duration::from_nanos(300_000 + 9_000 * tokens as u64);
    let mut batcher = Batcher::new(BatchPolicy {
        window: Duration::from_millis(2),
        tokens_max: 2048,
    });
    Box::new(move || {
        let mut now = start;
        let mut busy_until = start;
        let (mut expired, mut parts) = (0, 0);
        while batcher.jobs() > 0 || !jobs.is_empty() {
            if let Some(job) = jobs.pop() {
                batcher.push(job);
            }
            now += Duration::from_millis(5);
            expired += black_box(batcher.expire(now, time)).len();
            if now < busy_until {
                continue;
            }
            let device = DeviceState::Free {
                since: now,
                saved_by_company: Duration::MAX,
            };
            match batcher.poll(now, device, time) {
                Decision::Take(slices) => {
                    busy_until = now + time(slices.iter().map(|slice| slice.tokens).sum());
                    parts += black_box(slices).len();
                }
                Decision::Wait(_) | Decision::Empty => {}
            }
        }
        assert!(expired > 10 && parts > 100, "{expired} expired, {parts} parts");
    })
}

/// A batch of three requests, two of which are the same.
fn lay_out(material: &Material) -> Run<'_> {
    let requests = [&material.pairs, &material.accented_pairs, &material.pairs];
    let pairs: Vec<&PairTokens> = requests.into_iter().flatten().collect();
    Box::new(move || drop(black_box(Layout::new(black_box(&pairs), None))))
}

/// A worker's ranking of 100 requests, and the client's split of 1,000 candidates and merge of their logits.
fn ranking(material: &Material) -> Run<'_> {
    let requests = vec![material.request.clone(); 100];
    let logits: Vec<f32> = (0..material.request.documents.len())
        .map(|place| ((place * 37) % 101) as f32 / 7.0 - 6.0)
        .collect();
    let bytes: Vec<usize> = (0..1000).map(|index| 200 + index * 31 % 900).collect();
    Box::new(move || {
        for request in requests {
            black_box(rank(request, black_box(&logits), ScoreActivation::Sigmoid));
        }
        let logit = |index: usize| ((index * 7919) % 1009) as f32 / 17.0;
        black_box(split_and_merge(black_box(&bytes), 150, logit));
    })
}
