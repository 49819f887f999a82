//! What the operating system says of this process: memory, threads, time on the CPU.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Share of the CPU is measured over at least this long.
const CPU_WINDOW_MIN: Duration = Duration::from_secs(1);

/// The kernel tells processes of CPU time in hundredths of a second, whatever its own clock is (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory and threads of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Resident memory, MiB.
    pub rss_mb: f64,
    /// Virtual memory, MiB.
    pub virtual_mb: f64,
    /// Threads.
    pub threads: u64,
}

/// `None` on systems without `/proc`.
pub fn usage() -> Option<Usage> {
    parse_usage(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_usage(status: &str) -> Option<Usage> {
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Usage {
        rss_mb: number("VmRSS:")? as f64 / 1024.0,
        virtual_mb: number("VmSize:")? as f64 / 1024.0,
        threads: number("Threads:")?,
    })
}

/// CPU time of this process so far, seconds; all threads.
fn cpu_seconds() -> Option<f64> {
    parse_cpu_seconds(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// Measures the share of the CPU between two readings.
#[derive(Debug)]
pub struct CpuMeter(Mutex<Reading>);

#[derive(Debug)]
struct Reading {
    at: Instant,
    seconds: f64,
    percent: f64,
}

impl CpuMeter {
    /// Starts measuring.
    pub fn start() -> CpuMeter {
        CpuMeter(Mutex::new(Reading {
            at: Instant::now(),
            seconds: cpu_seconds().unwrap_or(0.0),
            percent: 0.0,
        }))
    }

    /// Per cent of one core since the last reading, which is at least a second back; 200: two cores busy. `None` on
    /// systems without `/proc`.
    pub fn percent(&self) -> Option<f64> {
        let seconds = cpu_seconds()?;
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = last.at.elapsed();
        if passed >= CPU_WINDOW_MIN {
            last.percent = (seconds - last.seconds).max(0.0) / passed.as_secs_f64() * 100.0;
            last.seconds = seconds;
            last.at = Instant::now();
        }
        Some(last.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let status = "Name:\tx\nVmSize:\t  4096 kB\nVmRSS:\t  2048 kB\nThreads:\t7\n";
        let usage = parse_usage(status);
        assert_eq!(
            usage,
            Some(Usage {
                rss_mb: 2.0,
                virtual_mb: 4.0,
                threads: 7
            })
        );
        assert_eq!(parse_usage("Name:\tx\n"), None);
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(parse_cpu_seconds(stat), Some(2.0));
        assert_eq!(parse_cpu_seconds("12 (a"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_read() {
        let usage = usage().expect("/proc");
        assert!(usage.rss_mb > 0.0 && usage.virtual_mb >= usage.rss_mb && usage.threads >= 1);
        assert!(CpuMeter::start().percent().is_some());
    }
}
