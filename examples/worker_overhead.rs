//! What a worker costs besides the forward pass: a request over NATS to a worker whose engine answers at once, and its stages one
//! by one.
//!
//!     nats-server &
//!     cargo run --release --example worker_overhead [folder of a checkpoint] [nats://host:port]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nats_rerank::model::engine::{Engine, EngineError, EngineInfo};
use nats_rerank::model::{Checkpoint, PairTokenizer, PairTokens};
use nats_rerank::protocol::{Encoding, RankedDocument, Ranking, Reply, Request, ScoreActivation, TimingsMs, Usage};

use nats_rerank::nats::ConnectionSettings;
use nats_rerank::worker::{self, Loaded, MembershipPolicy, QueueLimits, RequestLimits, State, Status, WorkerSettings};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const DOCUMENTS: usize = 24;
const WORDS: &str = include_str!("../src/cli/bench/words.txt");

struct AtOnce(EngineInfo);

impl Engine for AtOnce {
    fn info(&self) -> &EngineInfo {
        &self.0
    }

    fn score(&mut self, pairs: &[&PairTokens]) -> Result<Vec<f32>, EngineError> {
        Ok(pairs.iter().map(|pair| pair.ids.len() as f32).collect())
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "models/builtin".to_owned());
    let url = arguments.next().unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let checkpoint = Checkpoint::open("overhead", Path::new(&folder), None)?;
    let tokenizer = Arc::new(PairTokenizer::open(&checkpoint)?);
    let plain = request(|word, _| word.to_owned());
    let prose = request(|word, at| match at % 10 {
        0 => format!("{},", word.to_uppercase()),
        3 => format!("{word}ings."),
        7 => format!("un{word}-like"),
        _ => word.to_owned(),
    });
    let accents = request(|word, at| {
        if at % 5 == 0 {
            format!("{word}é")
        } else {
            word.to_owned()
        }
    });
    let russian = request(|word, _| {
        word.chars()
            .map(|c| char::from_u32(0x430 + u32::from(c) % 26).unwrap_or('а'))
            .collect()
    });
    for (name, request) in [
        ("plain", &plain),
        ("prose", &prose),
        ("accents", &accents),
        ("cyrillic", &russian),
    ] {
        tokens(name, request, &tokenizer)?;
    }
    by_library(&plain, &checkpoint)?;
    let cached = PairTokenizer::open(&checkpoint)?;
    cached.cache_documents(1 << 24);
    tokens("plain, from the cache", &plain, &cached)?;
    for encoding in [Encoding::Json, Encoding::MsgPack] {
        codec(&plain, encoding)?;
    }
    if url == "none" {
        return Ok(());
    }
    over_nats(&plain, &checkpoint, tokenizer, &url)
}

fn request(spell: impl Fn(&str, usize) -> String) -> Request {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut random = fastrand::Rng::with_seed(1);
    let mut text = |length: usize| -> String {
        let chosen: Vec<String> = (0..length)
            .map(|at| spell(words[random.usize(..words.len())], at))
            .collect();
        chosen.join(" ")
    };
    let query = text(6);
    let documents: Vec<String> = (0..DOCUMENTS).map(|place| text(10 + place * 160 / 23)).collect();
    Request::new(query, documents.iter().map(String::as_str))
}

/// Microseconds of the median and the fastest of many runs.
fn timed(name: &str, mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..400)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{name:44} p50 {:8.1} µs  best {:8.1} µs",
        times[times.len() / 2],
        times[0]
    );
    times[times.len() / 2]
}

fn tokens(name: &str, request: &Request, tokenizer: &PairTokenizer) -> Result<(), Failure> {
    let query = tokenizer.query(&request.query)?;
    let mut count = 0;
    let us = timed(&format!("tokenize, {name}"), || {
        count = 0;
        for document in &request.documents {
            let pair = tokenizer.pair(&query, &document.text, true);
            count += pair.map_or(0, |pair| std::hint::black_box(pair).ids.len());
        }
    });
    println!("{:44} {count} tokens, {:.1} million a second", "", count as f64 / us);
    Ok(())
}

fn by_library(request: &Request, checkpoint: &Checkpoint) -> Result<(), Failure> {
    let mut library = tokenizers::Tokenizer::from_file(&checkpoint.tokenizer)?;
    library.with_padding(None);
    library.with_truncation(None)?;
    timed("tokenize, plain, the library's encode_fast", || {
        for document in &request.documents {
            let _ = std::hint::black_box(library.encode_fast(document.text.as_str(), false));
        }
    });
    Ok(())
}

fn codec(request: &Request, encoding: Encoding) -> Result<(), Failure> {
    let body = request.encode(encoding);
    timed(&format!("decode, {encoding:?}, {} bytes", body.len()), || {
        let _ = std::hint::black_box(Request::decode_within(encoding, &body, 1000));
    });
    let reply = Reply {
        rankings: (0..DOCUMENTS)
            .map(|index| Ranking {
                index,
                score: index as f32 / 3.0,
                id: None,
                document: None::<RankedDocument>,
            })
            .collect(),
        top_k_applied: false,
        below_min_score: None,
        model: "model".to_owned(),
        usage: Usage::default(),
        timings_ms: TimingsMs::default(),
    };
    timed(&format!("encode a reply, {encoding:?}"), || {
        let _ = std::hint::black_box(reply.encode(encoding));
    });
    Ok(())
}

fn over_nats(
    request: &Request,
    checkpoint: &Checkpoint,
    tokenizer: Arc<PairTokenizer>,
    url: &str,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let info = EngineInfo {
        kernels: "none",
        attention: "own",
        model_id: "overhead".to_owned(),
        device: "none".to_owned(),
        precision: "none".to_owned(),
        activation: ScoreActivation::Identity,
        length_max: checkpoint.spec.length_max,
        batch_tokens: 4096,
    };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let status = Status::new();
    let settings = settings(url);
    runtime.block_on(async move {
        let load = move || {
            Ok(Loaded {
                engine: Box::new(AtOnce(info)),
                tokenizer,
            })
        };
        let worker = tokio::spawn(worker::run(settings, load, stopped, status.clone()));
        while status.state() != State::Serving {
            if worker.is_finished() {
                worker.await??;
                return Err("the worker ended before it served".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let client = async_nats::connect(url).await?;
        let mut echo = client.subscribe("overhead.echo").await?;
        let answering = client.clone();
        tokio::spawn(async move {
            use futures_util::StreamExt as _;
            while let Some(message) = echo.next().await {
                if let Some(reply) = message.reply {
                    let _ = answering.publish(reply, vec![b'x'; 900].into()).await;
                }
            }
        });
        let body: bytes::Bytes = request.encode(Encoding::Json).into();
        let (mut whole, mut bare) = (Vec::new(), Vec::new());
        for round in 0..3000 {
            for (subject, times) in [("rerank.overhead", &mut whole), ("overhead.echo", &mut bare)] {
                let started = Instant::now();
                let reply = client.request(subject, body.clone()).await?;
                if round == 0 && subject == "rerank.overhead" {
                    Reply::decode(Encoding::Json, &reply.payload)?;
                }
                times.push(started.elapsed().as_secs_f64() * 1e6);
            }
        }
        for (name, times) in [
            ("a request to the worker", &mut whole),
            ("an echo of the same bytes", &mut bare),
        ] {
            times.sort_by(f64::total_cmp);
            println!(
                "{name:44} p50 {:8.1} µs  p10 {:8.1} µs  p90 {:8.1} µs",
                times[1500], times[300], times[2700]
            );
        }
        stop.send_replace(true);
        worker.await??;
        Ok(())
    })
}

fn settings(url: &str) -> WorkerSettings {
    WorkerSettings {
        connection: ConnectionSettings {
            urls: vec![url.to_owned()],
            ..ConnectionSettings::default()
        },
        connect_retries_max: 3,
        subscription_capacity: 1024,
        subject: "rerank.overhead".to_owned(),
        queue_group: "rerank".to_owned(),
        reply_prefixes: Vec::new(),
        service_name: "rerank".to_owned(),
        enabled: true,
        switch_bucket: None,
        switch_domain: None,
        membership: MembershipPolicy {
            leave_at: Some(0.8),
            rejoin_at: 0.5,
            dwell_min: Duration::from_millis(50),
        },
        hang_timeout: None,
        measure: true,
        aliases: Vec::new(),
        window: Duration::from_millis(2),
        batch_tokens_max: None,
        queue: QueueLimits {
            requests_max: 512,
            pairs_max: 65536,
            bytes_max: 1 << 26,
        },
        limits: RequestLimits {
            documents_max: 1000,
            query_bytes_max: 1 << 16,
            document_bytes_max: 1 << 20,
            default_timeout: Duration::from_secs(5),
            timeout_max: Duration::from_secs(60),
            model_names: Vec::new(),
        },
        scores_max: 0,
        tokenize_threads: 0,
        grace: Duration::from_secs(1),
    }
}
