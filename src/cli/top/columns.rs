//! Which columns of the workers' table there is room for. Pure.
//!
//! A narrow terminal shows less: ids and names are cut at the front, where they are alike, and columns are left out, the
//! least needed first.

use super::roll::Row;

/// The title of the column that is coloured.
pub(super) const STATE: &str = "state";

/// Blanks beside the text of a cell, the one between two columns included.
const PADDING: usize = 3;
/// Characters of a worker's id, and of a model's name, that are kept where there is no room for more.
const WORKER_CHARS_MIN: usize = 8;
const MODEL_CHARS_MIN: usize = 12;
/// What is left out, the least needed first.
const LEFT_OUT: [&str; 8] = [
    "batch",
    "p95 ms",
    "device",
    "RSS MB",
    "refused/s",
    "p50 ms",
    "model",
    "queue",
];

/// A column: its title, and a text for each row.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) is_number: bool,
    pub(super) texts: Vec<String>,
}

impl Column {
    fn width(&self) -> usize {
        let texts = self.texts.iter().map(|text| text.chars().count());
        PADDING + texts.max().unwrap_or(0).max(self.title.chars().count())
    }

    /// Cuts every text to at most `chars_max` characters, at the front.
    fn cut(&mut self, chars_max: usize) {
        for text in &mut self.texts {
            let chars = text.chars().count();
            if chars > chars_max {
                let tail: String = text.chars().skip(chars - (chars_max - 1)).collect();
                *text = format!("…{tail}");
            }
        }
    }
}

/// The columns for `rows` that fit `width`; the most needed ones even if they do not.
pub(super) fn fitting(rows: &[Row], width: usize) -> Vec<Column> {
    let mut columns = all(rows);
    shorten(&mut columns, "worker", WORKER_CHARS_MIN, width);
    for title in LEFT_OUT {
        if excess(&columns, width) <= spare(&columns, "model", MODEL_CHARS_MIN) {
            break;
        }
        columns.retain(|column| column.title != title);
    }
    shorten(&mut columns, "model", MODEL_CHARS_MIN, width);
    columns
}

/// Characters that are too many for `width`.
fn excess(columns: &[Column], width: usize) -> usize {
    columns.iter().map(Column::width).sum::<usize>().saturating_sub(width)
}

/// Characters that the column called `title` can do without.
fn spare(columns: &[Column], title: &str, chars_min: usize) -> usize {
    let column = columns.iter().find(|column| column.title == title);
    column.map_or(0, |column| column.width().saturating_sub(PADDING + chars_min))
}

/// Cuts the texts of one column by as much as there is too much, but keeps `chars_min` characters.
fn shorten(columns: &mut [Column], title: &str, chars_min: usize, width: usize) {
    let cut = excess(columns, width).min(spare(columns, title, chars_min));
    if let Some(column) = columns.iter_mut().find(|column| column.title == title)
        && cut > 0
    {
        column.cut(column.width() - PADDING - cut);
    }
}

fn all(rows: &[Row]) -> Vec<Column> {
    let number = |value: Option<f64>, decimals: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
    };
    let text = |title, text: &dyn Fn(&Row) -> String| Column {
        title,
        is_number: false,
        texts: rows.iter().map(text).collect(),
    };
    let figure = |title, decimals, value: &dyn Fn(&Row) -> Option<f64>| Column {
        title,
        is_number: true,
        texts: rows.iter().map(|row| number(value(row), decimals)).collect(),
    };
    vec![
        text("worker", &|row| row.stats.worker.clone()),
        text(STATE, &|row| {
            let name = if row.gone { "gone" } else { row.stats.state.as_str() };
            name.to_owned()
        }),
        figure("queue", 0, &|row| row.stats.queue_requests.map(|count| count as f64)),
        figure("req/s", 1, &|row| row.requests_per_s),
        figure("refused/s", 1, &|row| row.refused_per_s),
        figure("p50 ms", 1, &|row| row.stats.p50_ms),
        figure("p95 ms", 1, &|row| row.stats.p95_ms),
        figure("p99 ms", 1, &|row| row.stats.p99_ms),
        figure("batch", 1, &|row| row.stats.batch_pairs_mean),
        figure("RSS MB", 0, &|row| row.stats.memory_mb),
        text("device", &|row| {
            format!("{} {}", row.stats.device, row.stats.precision)
                .trim()
                .to_owned()
        }),
        text("model", &|row| row.stats.model.clone()),
    ]
}
