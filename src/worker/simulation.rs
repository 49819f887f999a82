//! A deterministic simulation of admission, batcher, membership and credit together, in virtual time: thousands of seeded
//! schedules, each checked for what must hold whatever happens. `SIMULATION_SEED=n` replays one.

mod world;

use std::time::{Duration, Instant};

use super::batch::{BatchPolicy, Batcher, Decision, DeviceState, Job};
use super::load::Load;
use world::{Plan, Random, Totals, US, World};

fn arbitrary(seed: u64, start: Instant) -> World {
    let mut random = Random(seed);
    let budget = random.range(2_000, 300_000);
    let plan = Plan {
        requests: random.range(1, 150),
        gap_us: random.range(1, 20_000),
        budget_us: (budget / 2 + 1, budget),
        us_a_batch: random.range(0, 5_000),
        ns_a_token: random.range(10, 30_000),
        jitter_percent: random.range(0, 60),
        tokens_max: random.range(1, 8192) as usize,
        window: US * random.range(0, 10_000) as u32,
        large_percent: random.range(0, 20),
        away: random.chance(50),
    };
    World::new(random, plan, start)
}

#[test]
fn whatever_the_schedule_every_request_ends_once() {
    let start = Instant::now();
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        let seed = seed.parse().expect("SIMULATION_SEED is a number");
        println!("{:?}", arbitrary(seed, start).run());
        return;
    }
    for seed in 0..3000 {
        let run = std::panic::AssertUnwindSafe(|| arbitrary(seed, start).run());
        if let Err(panic) = std::panic::catch_unwind(run) {
            println!("replay with SIMULATION_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A device of 100,000 tokens a second, callers with 250 ms, half as many requests as it can do.
fn served_plan() -> Plan {
    Plan {
        requests: 2000,
        gap_us: 17_000,
        budget_us: (249_000, 251_000),
        us_a_batch: 500,
        ns_a_token: 9750,
        jitter_percent: 15,
        tokens_max: 2048,
        window: US * 2000,
        large_percent: 0,
        away: true,
    }
}

/// The same at `load` times what it can do.
fn served(seed: u64, load: f64, away: bool) -> Totals {
    let plan = Plan {
        requests: 4000,
        // 12.5 pairs of 68 tokens, 850 tokens: 8.5 ms of the device.
        gap_us: (8500.0 / load) as u64,
        away,
        ..served_plan()
    };
    World::new(Random(seed), plan, Instant::now()).run()
}

#[test]
fn overload_leaves_throughput_whole_and_wastes_nothing() {
    for seed in 0..5 {
        for away in [false, true] {
            // Saturated: just as much as the device can do.
            let saturated = served(seed, 1.0, away);
            let twice = served(seed, 2.0, away);
            // The second comes in half the time: half as many can be served.
            let share = twice.in_time as f64 / (saturated.in_time as f64 / 2.0);
            assert!(
                share >= 0.95,
                "seed {seed}, away {away}: {share} {saturated:?} {twice:?}"
            );
            let wasted = twice.tokens_wasted as f64 / twice.tokens_computed as f64;
            assert!(wasted < 0.01, "seed {seed}, away {away}: {wasted} {twice:?}");
            assert!(!away || twice.departures > 0, "a full worker leaves");
        }
    }
}

#[test]
fn a_wrong_first_measurement_is_put_right() {
    let mut world = World::new(Random(7), served_plan(), Instant::now());
    // A thousand times slower than it is: at first nothing seems possible.
    world.load.rate = super::rate::Rate::new();
    for tokens in [64, 2048] {
        world.load.rate.observe(tokens, Duration::from_secs(tokens as u64 / 10));
    }
    let totals = world.run();
    assert!(totals.in_time * 10 > totals.sent * 8, "{totals:?}");
}

#[test]
fn large_requests_do_not_block_small_urgent_ones() {
    let start = Instant::now();
    let mut load = Load::new(US * 100_000);
    load.set_sizes(1000, 512);
    load.rate.observe(1000, US * 10_000);
    let mut batcher = Batcher::new(BatchPolicy {
        window: Duration::ZERO,
        tokens_max: 1000,
    });
    let rate = load.rate.clone();
    let time = |tokens| rate.queue_time(tokens, 1000);
    let far = start + Duration::from_secs(60);
    load.check(start, far, 100_000).expect("there is time");
    load.add(far, 100_000);
    batcher.push(Job {
        id: 1,
        deadline: far,
        lengths: vec![100; 1000],
    });
    let Decision::Take(first) = batcher.poll(start, DeviceState::Idle, time) else {
        panic!("no batch")
    };
    assert_eq!((first[0].job, first[0].tokens), (1, 1000));
    load.start(start, 1000);
    // One batch of the large one runs; a small one with 40 ms is admitted and is the very next.
    let soon = start + US * 40_000;
    load.check(start, soon, 500).expect("the small one is in time");
    batcher.push(Job {
        id: 2,
        deadline: soon,
        lengths: vec![50; 10],
    });
    let now = start + US * 10_000;
    let device = batcher.device_state(Some(now), &rate);
    let Decision::Take(second) = batcher.poll(now, device, time) else {
        panic!("no batch")
    };
    assert_eq!((second[0].job, second[0].tokens), (2, 500));
}
