//! A panel's title, and its legend in lines of its own, so that it hides nothing of the chart.

use plotters::prelude::*;

use super::{Area, Drawn, INK, MARGIN, WIDTH, text};

/// Height of the title and a legend of one row.
const CAPTION_HEIGHT: u32 = 58;
/// Of each further row of a legend.
const LEGEND_ROW_HEIGHT: u32 = 20;
/// About as wide as one character of a legend, in pixels; a little too much is better than an overlap.
const LEGEND_CHARACTER: i32 = 7;

/// An entry of a legend.
pub(super) enum Key<'a> {
    Filled(RGBColor, &'a str),
    Dashed(&'a str),
}

impl Key<'_> {
    fn name(&self) -> &str {
        match self {
            Key::Filled(_, name) | Key::Dashed(name) => name,
        }
    }
}

/// Draws title and legend, and gives what is left below.
pub(super) fn caption<'a>(area: &Area<'a>, title: &str, legend: &[Key<'_>]) -> Drawn<Area<'a>> {
    let places = places(legend);
    let rows = places.last().map_or(0, |(_, row)| *row);
    let (caption, below) = area.split_vertically(CAPTION_HEIGHT + rows * LEGEND_ROW_HEIGHT);
    text(&caption, (MARGIN, 10), 19, INK, FontStyle::Bold, title)?;
    for (key, (left, row)) in legend.iter().zip(places) {
        let top = 38 + (row * LEGEND_ROW_HEIGHT) as i32;
        match key {
            Key::Filled(color, _) => {
                caption.draw(&Rectangle::new([(left, top), (left + 12, top + 12)], color.filled()))?;
            }
            Key::Dashed(_) => {
                for (from, to) in [(left - 2, left + 4), (left + 8, left + 14)] {
                    caption.draw(&PathElement::new([(from, top + 6), (to, top + 6)], INK.stroke_width(1)))?;
                }
            }
        }
        text(&caption, (left + 18, top - 1), 16, INK, FontStyle::Normal, key.name())?;
    }
    Ok(below)
}

/// Left edge and row of each entry: what does not fit into a row begins the next one.
fn places(legend: &[Key<'_>]) -> Vec<(i32, u32)> {
    let (mut left, mut row) = (MARGIN, 0);
    let mut places = Vec::with_capacity(legend.len());
    for key in legend {
        let width = 18 + LEGEND_CHARACTER * key.name().chars().count() as i32 + 14;
        if left > MARGIN && left + width > WIDTH as i32 {
            (left, row) = (MARGIN, row + 1);
        }
        places.push((left, row));
        left += width;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_legend_takes_another_row() {
        let name = "a name of some thirty letters";
        let legend: Vec<Key> = (0..7).map(|_| Key::Filled(INK, name)).collect();
        let places = places(&legend);
        assert_eq!((places[0], places[2].1, places[3]), ((MARGIN, 0), 0, (MARGIN, 1)));
        assert!(
            places
                .iter()
                .all(|(left, _)| left + LEGEND_CHARACTER * 29 < WIDTH as i32),
            "{places:?}"
        );
    }
}
