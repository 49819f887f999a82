//! Counted instructions against the stored ones. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What counts depend on, next to the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The compiler, `1.95.0`.
    pub rustc: String,
    /// The architecture, `x86_64`.
    pub arch: String,
    /// Instructions beyond the architecture's base for which libraries have code of their own; empty or `avx2`.
    pub cpu: String,
    /// The valgrind that counted; told, and not compared.
    pub valgrind: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin {
            rustc,
            arch,
            cpu,
            valgrind,
        } = self;
        write!(f, "rustc {rustc}, {arch} {cpu}, valgrind {valgrind}")
    }
}

/// Instructions by hot path.
pub type Counts = BTreeMap<String, u64>;

/// The content of `figures.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Where they were counted.
    pub origin: Origin,
    /// What was counted.
    pub instructions: Counts,
}

/// How far a count may be above the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The same compiler (but for its patch version) and kind of CPU.
    Same,
    /// Another compiler, or a CPU with other instructions: its code differs.
    OtherCompiler,
    /// Another architecture: only what grows out of all proportion is found.
    OtherArchitecture,
}

impl Bound {
    /// The bound for counts from `here` against stored ones from `stored`.
    pub fn between(stored: &Origin, here: &Origin) -> Bound {
        let minor = |version: &str| version.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
        if stored.arch != here.arch {
            Bound::OtherArchitecture
        } else if stored.cpu != here.cpu || minor(&stored.rustc) != minor(&here.rustc) {
            Bound::OtherCompiler
        } else {
            Bound::Same
        }
    }

    /// In percent.
    pub fn percent(self) -> u64 {
        match self {
            Bound::Same => 15,
            Bound::OtherCompiler => 40,
            Bound::OtherArchitecture => 150,
        }
    }
}

/// What became of a hot path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within the bound.
    Kept,
    /// So far below that the stored figure no longer guards anything.
    Better,
    /// Above the bound.
    Worse,
    /// Counted, and not stored.
    New,
    /// Stored, and not counted any more.
    Gone,
}

/// A hot path's counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which path.
    pub path: String,
    /// The stored count.
    pub stored: Option<u64>,
    /// The count now.
    pub now: Option<u64>,
    /// What this means.
    pub verdict: Verdict,
}

/// Holds `now` to `stored`, path by path.
pub fn compare(stored: &Counts, now: &Counts, bound: Bound) -> Vec<Line> {
    let mut paths: Vec<&String> = stored.keys().chain(now.keys()).collect();
    paths.sort();
    paths.dedup();
    let line = |path: &String| {
        let (stored, now) = (stored.get(path).copied(), now.get(path).copied());
        let verdict = match (stored, now) {
            (Some(stored), Some(now)) => judge(stored, now, bound),
            (None, _) => Verdict::New,
            (Some(_), None) => Verdict::Gone,
        };
        Line {
            path: path.clone(),
            stored,
            now,
            verdict,
        }
    };
    paths.into_iter().map(line).collect()
}

/// A factor to both sides: 15 % more is as far off as 1 / 1.15.
fn judge(stored: u64, now: u64, bound: Bound) -> Verdict {
    let exceeds =
        |greater: u64, lesser: u64| u128::from(greater) * 100 > u128::from(lesser) * u128::from(100 + bound.percent());
    if exceeds(now, stored) {
        Verdict::Worse
    } else if exceeds(stored, now) {
        Verdict::Better
    } else {
        Verdict::Kept
    }
}

/// Whether `make guard` fails. A path that became better does not: its figure should be refreshed, and that is told.
pub fn fails(lines: &[Line]) -> bool {
    let failing = |line: &Line| matches!(line.verdict, Verdict::Worse | Verdict::New | Verdict::Gone);
    lines.is_empty() || lines.iter().any(failing)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
        let change = match (self.stored, self.now) {
            (Some(stored), Some(now)) if stored > 0 => {
                format!("{:+.1} %", (now as f64 / stored as f64 - 1.0) * 100.0)
            }
            _ => "-".to_owned(),
        };
        let verdict = match self.verdict {
            Verdict::Kept => "",
            Verdict::Better => "  better: refresh",
            Verdict::Worse => "  WORSE",
            Verdict::New => "  NO STORED FIGURE",
            Verdict::Gone => "  STORED, BUT NOT COUNTED",
        };
        write!(
            f,
            "{:<36}{:>14}{:>14}{change:>11}{verdict}",
            self.path,
            count(self.stored),
            count(self.now)
        )
    }
}
