//! An axis whose marks are given, whatever its scale is: positions are transformed before they come here.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Marks that are nearer to each other than this share of the axis lose their label.
const LABEL_SPACE: f64 = 0.05;

/// A range with marks at certain positions.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    range: Range<f64>,
    marks: Vec<(f64, String)>,
}

impl Axis {
    /// Marks outside the range, and those too near to the one before, are left out. An empty range becomes one around
    /// its place.
    pub(super) fn new(range: Range<f64>, marks: impl IntoIterator<Item = (f64, String)>) -> Axis {
        let range = if range.end > range.start {
            range
        } else {
            range.start - 0.5..range.start + 0.5
        };
        let space = (range.end - range.start) * LABEL_SPACE;
        let mut kept: Vec<(f64, String)> = Vec::new();
        for mark in marks {
            let near = kept.last().is_some_and(|last| mark.0 - last.0 < space);
            if mark.0 >= range.start && mark.0 <= range.end && !near {
                kept.push(mark);
            }
        }
        Axis { range, marks: kept }
    }

    /// Percentiles, up to so many decades of the share above: 50, 90, 99, 99.9 % at even steps but for the first.
    pub(super) fn percentiles(decades: f64) -> Axis {
        let marks = [0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99];
        let marks = marks.map(|percentile| (at_percentile(percentile), format!("p{percentile}")));
        Axis::new(0.0..decades, marks)
    }

    /// Rates at even steps of their ratio.
    pub(super) fn rates(rates: &[f64]) -> Axis {
        let mut sorted: Vec<f64> = rates.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (sorted.first().copied(), sorted.last().copied());
        let range = at_rate(first.unwrap_or(1.0))..at_rate(last.unwrap_or(1.0));
        let room = (range.end - range.start) * 0.03;
        let marks = sorted.iter().map(|rate| (at_rate(*rate), rate.to_string()));
        Axis::new(range.start - room..range.end + room, marks)
    }
}

/// Where a percentile stands on [`Axis::percentiles`].
pub(super) fn at_percentile(percentile: f64) -> f64 {
    // Never minus zero.
    0.0 - (1.0 - percentile / 100.0).max(1e-9).log10()
}

/// Where a rate stands on [`Axis::rates`].
pub(super) fn at_rate(rate: f64) -> f64 {
    rate.log10()
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, pixels: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        pixels.0 + (share * f64::from(pixels.1 - pixels.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let mark = self.marks.iter().find(|(at, _)| at == value);
        mark.map_or_else(String::new, |(_, label)| label.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_axis_stretches_the_tail() {
        let axis = Axis::percentiles(2.0);
        assert_eq!(axis.map(&at_percentile(0.0), (100, 300)), 100);
        assert_eq!(axis.map(&at_percentile(90.0), (100, 300)), 200);
        assert_eq!(axis.map(&at_percentile(99.0), (100, 300)), 300);
        let labels: Vec<&str> = axis.marks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["p0", "p50", "p75", "p90", "p95", "p99"]);
        assert_eq!(axis.format_ext(&at_percentile(95.0)), "p95");
    }

    #[test]
    fn rates_that_are_too_near_share_a_label() {
        let axis = Axis::rates(&[100.0, 1.0, 10.0, 10.1]);
        let labels: Vec<&str> = axis.marks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["1", "10", "100"]);
        assert_eq!(Axis::rates(&[5.0]).marks.len(), 1, "one rate has an axis too");
    }
}
