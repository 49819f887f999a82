//! Reports as SVG: the latency curve and, of an open loop, how requests ended over time; of a sweep, rate against
//! latency and answers in time.

mod axis;
mod legend;
mod panels;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::Report;
use super::schedule::Spacing;
use crate::cli::CliError;

const WIDTH: u32 = 960;
const HEAD_HEIGHT: u32 = 64;
const PANEL_HEIGHT: u32 = 380;
const FOOT_HEIGHT: u32 = 30;
/// From the left edge to titles and legends.
const MARGIN: i32 = 24;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const PALE: RGBColor = RGBColor(0x66, 0x66, 0x66);
const GRID: RGBColor = RGBColor(0xe3, 0xe3, 0xe3);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A report as an SVG page.
///
/// # Errors
/// The plotting library's, which has nothing to complain of in a page of text.
pub(super) fn svg(report: &Report) -> Result<String, CliError> {
    let mut page = String::new();
    draw(report, &mut page).map_err(|error| CliError::Failed(format!("cannot draw the plot: {error}")))?;
    Ok(page)
}

fn draw(report: &Report, page: &mut String) -> Drawn {
    let timeline = match report.runs.as_slice() {
        [one] => one.curves.timeline.as_ref(),
        _ => None,
    };
    let panels = if report.runs.len() > 1 || timeline.is_some() {
        2
    } else {
        1
    };
    let height = HEAD_HEIGHT + panels * PANEL_HEIGHT + FOOT_HEIGHT;
    let root = SVGBackend::with_string(page, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, below) = root.split_vertically(HEAD_HEIGHT);
    let (first, below) = below.split_vertically(PANEL_HEIGHT);
    let (second, foot) = below.split_vertically((panels - 1) * PANEL_HEIGHT);
    text(&head, (MARGIN, 16), 24, INK, FontStyle::Bold, &title(report))?;
    text(&head, (MARGIN, 42), 16, PALE, FontStyle::Normal, &subtitle(report))?;
    match report.runs.as_slice() {
        [one] => {
            panels::latency(&first, one, report.settings.timeout_ms)?;
            if let Some(timeline) = timeline {
                panels::endings(&second, timeline)?;
            }
        }
        several => {
            panels::sweep_latency(&first, several, report.settings.timeout_ms)?;
            panels::sweep_endings(&second, several)?;
        }
    }
    text(&foot, (MARGIN, 6), 14, PALE, FontStyle::Normal, &footer(report))?;
    root.present()?;
    Ok(())
}

fn title(report: &Report) -> String {
    let load = match report.runs.as_slice() {
        [one] => match (one.figures.rate_per_s, one.figures.callers) {
            (Some(rate), _) => format!("open loop, {rate} requests a second"),
            (None, Some(1)) => "closed loop, 1 caller".to_owned(),
            (None, callers) => format!("closed loop, {} callers", callers.unwrap_or_default()),
        },
        several => format!("open loop at {} rates", several.len()),
    };
    format!("nats-rerank: {load}")
}

fn subtitle(report: &Report) -> String {
    let settings = &report.settings;
    let payload = &settings.payload;
    let documents = payload.documents as f64 / payload.requests.max(1) as f64;
    let mut parts = vec![format!("{} documents a request", (documents * 10.0).round() / 10.0)];
    parts.push(match settings.length_mix {
        Some(mix) => format!("built-in text ({})", mix.name()),
        None => "text of a file".to_owned(),
    });
    parts.push(format!("budget {} ms", settings.timeout_ms));
    match settings.retries {
        0 => {}
        1 => parts.push("1 retry".to_owned()),
        retries => parts.push(format!("{retries} retries")),
    }
    if report.runs.iter().any(|run| run.figures.rate_per_s.is_some()) {
        let arrivals = match settings.arrivals {
            Spacing::Poisson => "Poisson arrivals",
            Spacing::Even => "even arrivals",
        };
        parts.push(arrivals.to_owned());
    }
    let workers = report.runs.iter().map(|run| run.figures.workers.len()).max();
    parts.push(match workers.unwrap_or_default() {
        1 => "1 worker".to_owned(),
        workers => format!("{workers} workers"),
    });
    parts.join(", ")
}

fn footer(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "Sender: {} cores, {}, {}. nats-rerank {}, {}",
        machine.cores, machine.cpu, machine.os, report.version, report.time
    )
}

/// Text with its upper left corner at `at`.
fn text(area: &Area<'_>, at: (i32, i32), size: u32, color: RGBColor, style: FontStyle, words: &str) -> Drawn {
    let style = TextStyle::from((FONT, size, style).into_font())
        .color(&color)
        .pos(Pos::new(HPos::Left, VPos::Top));
    area.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::figures::{Figures, Point};
    use crate::cli::bench::report::tests::report;
    use crate::cli::bench::tally::{Span, Timeline};

    fn open(rate: f64) -> Figures {
        Figures {
            rate_per_s: Some(rate),
            requests: 100,
            answered: 80,
            answered_share: 0.8,
            p50_ms: 10.0,
            p99_ms: 90.0,
            ..Figures::default()
        }
    }

    #[test]
    fn an_open_loop_has_a_curve_and_a_time_line() {
        let mut report = report([open(20.0)]);
        let curves = &mut report.runs[0].curves;
        curves.answered = [(0.0, 5.0), (50.0, 10.0), (90.0, 60.0), (99.0, 90.0)]
            .map(|(percentile, ms)| Point { percentile, ms })
            .into();
        curves.timeline = Some(Timeline {
            span_s: 1.0,
            spans: vec![
                Span {
                    answered: 8,
                    timed_out: 2,
                    ..Span::default()
                };
                10
            ],
        });
        let page = svg(&report).unwrap();
        assert!(page.trim_start().starts_with("<svg") && page.trim_end().ends_with("</svg>"));
        for words in [
            "open loop, 20 requests a second",
            "p99",
            "timed out",
            "budget 250 ms",
            "ms",
        ] {
            assert!(page.contains(words), "{words}");
        }
    }

    #[test]
    fn a_sweep_names_its_rates_and_what_was_not_answered_has_no_latency() {
        let nothing = Figures {
            rate_per_s: Some(400.0),
            requests: 100,
            ..Figures::default()
        };
        let page = svg(&report([open(5.0), open(50.0), nothing])).unwrap();
        for words in ["at 3 rates", "requests a second", "400", "answered in time"] {
            assert!(page.contains(words), "{words}");
        }
    }

    #[test]
    fn a_run_without_an_answer_is_drawn_too() {
        assert!(svg(&report([Figures::default()])).is_ok());
    }
}
