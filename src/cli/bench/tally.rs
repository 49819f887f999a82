//! The book of a run: how each request ended, and when. Pure: no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::CallError;
use crate::protocol::RefusalKind;

/// Workers that are told apart; answers of further ones count as [`OTHER_WORKERS`].
const WORKERS_MAX: usize = 64;
const OTHER_WORKERS: &str = "(others)";
/// Models that are told apart; further ones are left out.
const MODELS_MAX: usize = 8;
/// Spans of a time line at most.
const SPANS_MAX: u64 = 60;
/// Requests that are expected in a span at least: fewer say nothing of a rate.
const SPAN_REQUESTS_MIN: u64 = 10;

/// How one request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// In time, with a ranking.
    Answered { pairs: u64, tokens: u64 },
    /// By a worker, after the last try.
    Refused(RefusalKind),
    /// By NATS: nobody is subscribed.
    NoResponders,
    /// Nothing came within the budget.
    TimedOut,
    /// It never left.
    NotSent(NotSent),
    /// Something came that is no answer to this request.
    BadReply,
}

/// Why a request never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// As many requests as are allowed were under way.
    InFlightLimit,
    /// The sender itself was so late that nothing was left of the budget.
    SenderLate,
    /// There was no connection to NATS.
    Disconnected,
    /// The subject or the request's size is not what NATS takes.
    Invalid,
}

impl Ending {
    /// How a call that failed counts.
    pub(super) fn of(error: &CallError) -> Ending {
        match error {
            CallError::Refused { refusal, .. } => Ending::Refused(refusal.kind),
            CallError::TimedOut { .. } => Ending::TimedOut,
            CallError::NoResponders { .. } => Ending::NoResponders,
            CallError::Disconnected => Ending::NotSent(NotSent::Disconnected),
            CallError::TooLarge { .. } | CallError::InvalidSubject { .. } => Ending::NotSent(NotSent::Invalid),
            CallError::BadReply(_) => Ending::BadReply,
        }
    }

    /// What comes after the budget comes too late, whatever it is: a busy caller may find it before it finds that its
    /// time is over.
    pub(super) fn within(self, took: Duration, budget: Duration) -> Ending {
        match self {
            Ending::Answered { .. } | Ending::Refused(_) | Ending::NoResponders if took > budget => Ending::TimedOut,
            ending => ending,
        }
    }

    /// The name of a failure in reports; `None` for an answer in time.
    fn reason(&self) -> Option<String> {
        Some(match self {
            Ending::Answered { .. } => return None,
            Ending::Refused(kind) => format!("refused: {}", kind.name()),
            Ending::NoResponders => "no responders".to_owned(),
            Ending::TimedOut => "timed out".to_owned(),
            Ending::NotSent(NotSent::InFlightLimit) => "not sent: in-flight limit".to_owned(),
            Ending::NotSent(NotSent::SenderLate) => "not sent: sender late".to_owned(),
            Ending::NotSent(NotSent::Disconnected) => "not sent: no connection".to_owned(),
            Ending::NotSent(NotSent::Invalid) => "not sent: subject or size".to_owned(),
            Ending::BadReply => "bad reply".to_owned(),
        })
    }

    /// The kind whose time to a refusal this is part of.
    fn refusal(&self) -> Option<&'static str> {
        match self {
            Ending::Refused(kind) => Some(kind.name()),
            Ending::NoResponders => Some("no_responders"),
            _ => None,
        }
    }
}

/// A request that has ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// When it was due, from the start of the run.
    pub(super) due: Duration,
    /// From when it was due to its end.
    pub(super) took: Duration,
    /// From when it was due to when its sending began; `None` if it never did.
    pub(super) lag: Option<Duration>,
    /// How often it was sent.
    pub(super) tries: u8,
    /// Who answered or refused.
    pub(super) worker: Option<String>,
    /// The model that scored.
    pub(super) model: Option<String>,
    pub(super) ending: Ending,
}

/// What one worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WorkerCount {
    /// Rankings.
    pub(super) answered: u64,
    /// Refusals that were the last word.
    pub(super) refused: u64,
}

/// Endings of the requests that were due in one span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Span {
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) no_responders: u64,
    pub(super) timed_out: u64,
    /// Not sent, and bad replies.
    pub(super) other: u64,
}

/// Endings over time, by when the requests were due.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Timeline {
    /// Seconds of each span.
    pub(super) span_s: f64,
    pub(super) spans: Vec<Span>,
}

/// Everything that is kept of a run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Nanoseconds of the answers in time.
    pub(super) answered_ns: Vec<u64>,
    /// Nanoseconds to a refusal, by kind.
    pub(super) refused_ns: BTreeMap<&'static str, Vec<u64>>,
    /// Nanoseconds that the sender was late.
    pub(super) lag_ns: Vec<u64>,
    /// Failures by reason.
    pub(super) reasons: BTreeMap<String, u64>,
    /// Requests that have ended.
    pub(super) requests: u64,
    /// Messages sent: tries count.
    pub(super) sent: u64,
    /// Answers at the first, second and third try.
    pub(super) answered_at_try: [u64; 3],
    pub(super) pairs: u64,
    pub(super) tokens: u64,
    pub(super) workers: BTreeMap<String, WorkerCount>,
    pub(super) models: BTreeSet<String>,
    pub(super) timeline: Option<Timeline>,
}

impl Tally {
    /// An empty book with a time line: so many requests are expected within `window`.
    pub(super) fn over(window: Duration, requests: u64) -> Tally {
        Tally {
            timeline: Some(timeline(window, requests)),
            ..Tally::default()
        }
    }

    /// Enters a request that has ended.
    pub(super) fn add(&mut self, ended: Ended) {
        self.requests += 1;
        self.sent += u64::from(ended.tries);
        let took_ns = nanos(ended.took);
        if let Some(lag) = ended.lag {
            self.lag_ns.push(nanos(lag));
        }
        if let Some(span) = self.timeline.as_mut().and_then(|timeline| timeline.at(ended.due)) {
            *match ended.ending {
                Ending::Answered { .. } => &mut span.answered,
                Ending::Refused(_) => &mut span.refused,
                Ending::NoResponders => &mut span.no_responders,
                Ending::TimedOut => &mut span.timed_out,
                Ending::NotSent(_) | Ending::BadReply => &mut span.other,
            } += 1;
        }
        if let Some(kind) = ended.ending.refusal() {
            self.refused_ns.entry(kind).or_default().push(took_ns);
        }
        if let Some(reason) = ended.ending.reason() {
            *self.reasons.entry(reason).or_default() += 1;
        }
        if let Ending::Answered { pairs, tokens } = ended.ending {
            self.answered_ns.push(took_ns);
            self.pairs += pairs;
            self.tokens += tokens;
            let place = usize::from(ended.tries.max(1) - 1).min(self.answered_at_try.len() - 1);
            self.answered_at_try[place] += 1;
        }
        if let Some(model) = ended.model
            && self.models.len() < MODELS_MAX
        {
            self.models.insert(model);
        }
        if let Some(worker) = ended.worker {
            let known = self.workers.len() < WORKERS_MAX || self.workers.contains_key(&worker);
            let name = if known { worker } else { OTHER_WORKERS.to_owned() };
            let count = self.workers.entry(name).or_default();
            match ended.ending {
                Ending::Answered { .. } => count.answered += 1,
                Ending::Refused(_) => count.refused += 1,
                _ => {}
            }
        }
    }
}

impl Timeline {
    /// The span of this time. What is due after the last one counts there.
    fn at(&mut self, due: Duration) -> Option<&mut Span> {
        let last = self.spans.len().checked_sub(1)?;
        let place = (due.as_secs_f64() / self.span_s) as usize;
        self.spans.get_mut(place.min(last))
    }
}

/// At most [`SPANS_MAX`] spans of a round length that cover `window`.
fn timeline(window: Duration, requests: u64) -> Timeline {
    let window_s = window.as_secs_f64().max(1e-6);
    let least_s = window_s / (requests / SPAN_REQUESTS_MIN).clamp(1, SPANS_MAX) as f64;
    let decade = 10f64.powf(least_s.log10().floor());
    let span_s = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * decade)
        .find(|span_s| *span_s >= least_s * (1.0 - 1e-9))
        .unwrap_or(least_s);
    let spans = ((window_s / span_s - 1e-9).ceil() as usize).clamp(1, SPANS_MAX as usize);
    Timeline {
        span_s,
        spans: vec![Span::default(); spans],
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(due_ms: u64, took_ms: u64, tries: u8, ending: Ending) -> Ended {
        Ended {
            due: Duration::from_millis(due_ms),
            took: Duration::from_millis(took_ms),
            lag: (tries > 0).then_some(Duration::from_micros(10)),
            tries,
            worker: matches!(ending, Ending::Answered { .. } | Ending::Refused(_)).then(|| "W1".to_owned()),
            model: None,
            ending,
        }
    }

    #[test]
    fn every_ending_is_counted_once() {
        let answered = Ending::Answered {
            pairs: 24,
            tokens: 2_376,
        };
        let mut tally = Tally::over(Duration::from_secs(6), 1_000);
        for entry in [
            ended(0, 4, 1, answered.clone()),
            ended(100, 9, 2, answered),
            ended(200, 1, 1, Ending::Refused(RefusalKind::Overloaded)),
            ended(300, 0, 1, Ending::NoResponders),
            ended(400, 250, 1, Ending::TimedOut),
            ended(5_900, 0, 0, Ending::NotSent(NotSent::InFlightLimit)),
            ended(9_000, 3, 1, Ending::BadReply),
        ] {
            tally.add(entry);
        }
        assert_eq!((tally.requests, tally.sent), (7, 7));
        assert_eq!(tally.answered_at_try, [1, 1, 0]);
        assert_eq!(tally.answered_ns, [4_000_000, 9_000_000]);
        assert_eq!(tally.refused_ns["overloaded"], [1_000_000]);
        assert_eq!(tally.refused_ns["no_responders"], [0]);
        assert_eq!(tally.lag_ns.len(), 6, "what never left has no lag");
        assert_eq!(tally.reasons.values().sum::<u64>() + 2, tally.requests);
        assert_eq!(
            tally.workers["W1"],
            WorkerCount {
                answered: 2,
                refused: 1
            }
        );
        let timeline = tally.timeline.unwrap();
        assert_eq!((timeline.span_s, timeline.spans.len()), (0.1, 60));
        assert_eq!(timeline.spans[4].timed_out, 1);
        assert_eq!(timeline.spans[59].other, 2, "the last span takes what comes later");
    }

    #[test]
    fn what_comes_after_the_budget_is_timed_out() {
        let budget = Duration::from_millis(250);
        let answered = Ending::Answered { pairs: 1, tokens: 1 };
        let refused = Ending::Refused(RefusalKind::Overloaded);
        for ending in [answered, refused, Ending::NoResponders] {
            assert_eq!(ending.clone().within(budget, budget), ending);
            assert_eq!(
                ending.within(budget + Duration::from_nanos(1), budget),
                Ending::TimedOut
            );
        }
        let not_sent = Ending::NotSent(NotSent::InFlightLimit);
        assert_eq!(not_sent.clone().within(budget * 2, budget), not_sent);
    }

    #[test]
    fn workers_beyond_the_bound_share_a_name() {
        let mut tally = Tally::default();
        for number in 0..200 {
            tally.add(Ended {
                worker: Some(format!("W{number:03}")),
                ..ended(0, 1, 1, Ending::Answered { pairs: 1, tokens: 1 })
            });
        }
        assert_eq!(tally.workers.len(), WORKERS_MAX + 1);
        assert_eq!(tally.workers[OTHER_WORKERS].answered, 200 - WORKERS_MAX as u64);
    }

    #[test]
    fn time_lines_are_round_and_bounded() {
        for (window_s, requests, span_s, spans) in [
            (10.0, 1_000, 0.2, 50),
            (60.0, 6_000, 1.0, 60),
            (3_600.0, 1_000_000, 100.0, 36),
            (0.5, 10_000, 0.01, 50),
            (10.0, 50, 2.0, 5),
            (10.0, 3, 10.0, 1),
        ] {
            let timeline = timeline(Duration::from_secs_f64(window_s), requests);
            assert!(
                (timeline.span_s - span_s).abs() < 1e-9,
                "{window_s}: {}",
                timeline.span_s
            );
            assert_eq!(timeline.spans.len(), spans, "{window_s}");
        }
    }
}
