//! The panels of a page: each a title, a legend and a chart.

use plotters::prelude::*;
use plotters::series::DashedLineSeries;

use super::axis::{Axis, at_percentile, at_rate};
use super::legend::{Key, caption};
use super::{Area, Drawn, FONT, GRID, INK, PALE};
use crate::cli::bench::figures::{Figures, Point};
use crate::cli::bench::report::Measured;
use crate::cli::bench::tally::{Span, Timeline};

const LINE_WIDTH: u32 = 2;

// Okabe and Ito's colours, which colour-blind readers can tell apart.
const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
const ORANGE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);
const PINK: RGBColor = RGBColor(0xcc, 0x79, 0xa7);
const RUST: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const SKY: RGBColor = RGBColor(0x56, 0xb4, 0xe9);
const GREY: RGBColor = RGBColor(0x99, 0x99, 0x99);

/// One line of a chart.
struct Line {
    name: String,
    color: RGBColor,
    points: Vec<(f64, f64)>,
    /// Show where the points are: of a few that are far from each other.
    dots: bool,
}

/// The latency curve of a run, and the curves of times to a refusal.
pub(super) fn latency(area: &Area<'_>, run: &Measured, budget_ms: u64) -> Drawn {
    let points = |points: &[Point]| -> Vec<(f64, f64)> {
        points
            .iter()
            .map(|point| (at_percentile(point.percentile), point.ms))
            .collect()
    };
    let mut lines = vec![Line {
        name: format!("answered in time ({})", run.figures.answered),
        color: BLUE,
        points: points(&run.curves.answered),
        dots: false,
    }];
    for (kind, curve) in &run.curves.refusals {
        let count = run.figures.refusals.get(kind).map_or(0, |times| times.count);
        lines.push(Line {
            name: format!("{} ({count})", kind.replace('_', " ")),
            color: color_of(kind),
            points: points(curve),
            dots: false,
        });
    }
    let decades = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|(at, _)| *at)
        .fold(1.0, f64::max);
    chart(
        area,
        "Latency by percentile",
        &Axis::percentiles(decades),
        ("percentile", "milliseconds"),
        &lines,
        Limit::BudgetMs(budget_ms),
    )
}

/// The same colour for a kind in every plot, so that plots can be laid side by side.
fn color_of(kind: &str) -> RGBColor {
    match kind {
        "overloaded" => ORANGE,
        "no_responders" => PINK,
        "deadline_exceeded" => SKY,
        "unavailable" => GREEN,
        _ => GREY,
    }
}

/// Latencies by rate.
pub(super) fn sweep_latency(area: &Area<'_>, runs: &[Measured], budget_ms: u64) -> Drawn {
    let line = |name: &str, color, ms: fn(&Figures) -> f64| Line {
        name: name.to_owned(),
        color,
        points: by_rate(runs, |figures| (figures.answered > 0).then(|| ms(figures))),
        dots: true,
    };
    let mut lines = vec![
        line("p50", SKY, |figures| figures.p50_ms),
        line("p95", GREEN, |figures| figures.p95_ms),
        line("p99", BLUE, |figures| figures.p99_ms),
    ];
    let refusals = by_rate(runs, Figures::turned_away_p99_ms);
    if !refusals.is_empty() {
        lines.push(Line {
            name: "turned away, p99".to_owned(),
            color: ORANGE,
            points: refusals,
            dots: true,
        });
    }
    chart(
        area,
        "Latency of the answers in time, by rate",
        &rates(runs),
        ("requests a second", "milliseconds"),
        &lines,
        Limit::BudgetMs(budget_ms),
    )
}

/// How requests ended, by rate.
pub(super) fn sweep_endings(area: &Area<'_>, runs: &[Measured]) -> Drawn {
    let line = |name: &str, color, prefixes: &'static [&'static str]| Line {
        name: name.to_owned(),
        color,
        points: by_rate(runs, move |figures| {
            let failed = figures.reasons.iter();
            let failed = failed.filter(|(reason, _)| prefixes.iter().any(|prefix| reason.starts_with(prefix)));
            let count: u64 = failed.map(|(_, count)| count).sum();
            Some(100.0 * count as f64 / figures.requests.max(1) as f64)
        }),
        dots: true,
    };
    let mut lines = vec![
        line("refused", ORANGE, &["refused"]),
        line("no responders", PINK, &["no responders"]),
        line("timed out", RUST, &["timed out"]),
        line("not sent, or bad reply", GREY, &["not sent", "bad reply"]),
    ];
    lines.retain(|line| line.points.iter().any(|(_, percent)| *percent > 0.0));
    lines.insert(
        0,
        Line {
            name: "answered in time".to_owned(),
            color: BLUE,
            points: by_rate(runs, |figures| Some(100.0 * figures.answered_share)),
            dots: true,
        },
    );
    let axes = ("requests a second", "% of the requests");
    chart(
        area,
        "How requests ended, by rate",
        &rates(runs),
        axes,
        &lines,
        Limit::Percent,
    )
}

fn rates(runs: &[Measured]) -> Axis {
    let rates: Vec<f64> = runs.iter().filter_map(|run| run.figures.rate_per_s).collect();
    Axis::rates(&rates)
}

fn by_rate(runs: &[Measured], value: impl Fn(&Figures) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = runs
        .iter()
        .filter_map(|run| Some((at_rate(run.figures.rate_per_s?), value(&run.figures)?)))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// What the vertical axis has to show beside the lines.
#[derive(Clone, Copy)]
enum Limit {
    /// The budget, if it is near enough to be seen.
    BudgetMs(u64),
    /// All of the whole.
    Percent,
}

/// Lines over a given axis.
fn chart(
    area: &Area<'_>,
    title: &str,
    axis: &Axis,
    (x_name, y_name): (&str, &str),
    lines: &[Line],
    limit: Limit,
) -> Drawn {
    let most = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|(_, y)| *y)
        .fold(0.0, f64::max);
    let budget_ms = match limit {
        Limit::BudgetMs(ms) if ms as f64 <= most * 1.5 => Some(ms as f64),
        _ => None,
    };
    let top = match (limit, budget_ms) {
        (Limit::Percent, _) => 100.0,
        (_, Some(budget_ms)) => most.max(budget_ms),
        _ if most > 0.0 => most,
        _ => 1.0,
    } * 1.05;
    let mut legend: Vec<Key> = lines.iter().map(|line| Key::Filled(line.color, &line.name)).collect();
    let budget_name = budget_ms.map(|ms| format!("budget, {ms} ms"));
    if let Some(name) = &budget_name {
        legend.push(Key::Dashed(name));
    }
    let below = caption(area, title, &legend)?;
    let mut chart = frame(&below).build_cartesian_2d(axis.clone(), 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(PALE)
        .label_style(label())
        .x_desc(x_name)
        .y_desc(y_name)
        .y_label_formatter(&|value| number(*value, top))
        .draw()?;
    if let Some(budget_ms) = budget_ms {
        let range = plotters::coord::ranged1d::Ranged::range(axis);
        let ends = [(range.start, budget_ms), (range.end, budget_ms)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 5, INK.stroke_width(1)))?;
    }
    for line in lines {
        chart.draw_series(LineSeries::new(
            line.points.iter().copied(),
            line.color.stroke_width(LINE_WIDTH),
        ))?;
        if line.dots || line.points.len() == 1 {
            chart.draw_series(line.points.iter().map(|at| Circle::new(*at, 4, line.color.filled())))?;
        }
    }
    Ok(())
}

/// A way to end: its name, its colour, and how many did in a span.
type Part = (&'static str, RGBColor, fn(&Span) -> u64);

/// How requests ended, by when they were due.
pub(super) fn endings(area: &Area<'_>, timeline: &Timeline) -> Drawn {
    let parts: [Part; 5] = [
        ("answered in time", BLUE, |span| span.answered),
        ("refused", ORANGE, |span| span.refused),
        ("no responders", PINK, |span| span.no_responders),
        ("timed out", RUST, |span| span.timed_out),
        ("not sent, or bad reply", GREY, |span| span.other),
    ];
    let seen: Vec<_> = parts
        .into_iter()
        .filter(|(_, _, count)| timeline.spans.iter().any(|span| count(span) > 0))
        .collect();
    let per_s = |count: u64| count as f64 / timeline.span_s;
    let height = |span: &Span| per_s(parts.iter().map(|(_, _, count)| count(span)).sum());
    let top = timeline.spans.iter().map(height).fold(0.0, f64::max).max(1e-9) * 1.05;
    let end_s = timeline.span_s * timeline.spans.len() as f64;
    let legend: Vec<Key> = seen.iter().map(|(name, color, _)| Key::Filled(*color, name)).collect();
    let below = caption(area, "How requests ended, by when they were due", &legend)?;
    let mut chart = frame(&below).build_cartesian_2d(0.0..end_s, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(PALE)
        .label_style(label())
        .x_desc("seconds from the start")
        .y_desc("requests a second")
        .x_label_formatter(&|value| number(*value, end_s))
        .y_label_formatter(&|value| number(*value, top))
        .draw()?;
    for (place, span) in timeline.spans.iter().enumerate() {
        let (left, mut below) = (place as f64 * timeline.span_s, 0.0);
        for (_, color, count) in &seen {
            let above = below + per_s(count(span));
            if above > below {
                let corners = [(left, below), (left + timeline.span_s, above)];
                chart.draw_series([Rectangle::new(corners, color.filled())])?;
            }
            below = above;
        }
    }
    Ok(())
}

fn frame<'a, 'b>(area: &'b Area<'a>) -> ChartBuilder<'b, 'b, SVGBackend<'a>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin_top(8)
        .margin_right(28)
        .margin_left(14)
        .margin_bottom(6)
        .x_label_area_size(46)
        .y_label_area_size(64);
    builder
}

fn label() -> TextStyle<'static> {
    (FONT, 15).into_font().color(&PALE)
}

/// With as many decimals as values up to `most` need.
fn number(value: f64, most: f64) -> String {
    let decimals = if most >= 10.0 {
        0
    } else if most >= 1.0 {
        1
    } else {
        3
    };
    format!("{value:.decimals$}")
}
