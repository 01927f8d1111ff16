//! What came out, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// The best of several runs of one load on one server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Best {
    /// What was done in a second; for [`Unit::Milliseconds`] what one took.
    pub(crate) value: f64,
    /// CPU time of the server for one unit, in microseconds.
    pub(crate) cpu_us: f64,
}

/// What a load counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Calls,
    Entries,
    Files,
    Megabytes,
    /// Less is better.
    Milliseconds,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls/s",
            Self::Entries => "entries/s",
            Self::Files => "files/s",
            Self::Megabytes => "MB/s",
            Self::Milliseconds => "ms",
        }
    }
}

/// One load on all servers.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) load: &'static str,
    pub(crate) outstanding: usize,
    pub(crate) unit: Unit,
    /// How many times the other server is aimed at.
    pub(crate) goal: f64,
    pub(crate) cowfs: Option<Best>,
    pub(crate) null: Option<Best>,
    pub(crate) ganesha: Option<Best>,
}

impl Row {
    /// How many times faster this server is than the other.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let (ours, theirs) = (self.cowfs?.value, self.ganesha?.value);
        Some(if self.unit == Unit::Milliseconds {
            theirs / ours
        } else {
            ours / theirs
        })
    }

    fn name(&self) -> String {
        format!("{}, {} outstanding", self.load, self.outstanding)
    }
}

/// The report: a list of `{name, value, unit, goal, ok}`, as that of `make bench`.
pub(crate) fn report(rows: &[Row]) -> Vec<Value> {
    let mut figures = Vec::new();
    for row in rows {
        let name = row.name();
        let ratio = row.ratio();
        figures.push(json!({
            "name": format!("{name}: times nfs-ganesha over overlayfs"),
            "value": ratio.map(rounded),
            "unit": "×",
            "goal": row.goal,
            "ok": ratio.map(|ratio| ratio >= row.goal),
            "better": "higher",
        }));
        for (server, best) in [("cowfs", row.cowfs), ("null", row.null), ("ganesha", row.ganesha)] {
            figures.push(json!({
                "name": format!("{name}: {server}"),
                "value": best.map(|best| rounded(best.value)),
                "unit": row.unit.name(),
                "goal": null,
                "ok": null,
                "cpu": best.map(|best| rounded(best.cpu_us)),
            }));
        }
    }
    figures
}

/// To three digits.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powf(2.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

/// A number as people read it: three digits, and a k for thousands.
fn shown(best: Option<Best>) -> String {
    match best.map(|best| best.value) {
        None => "–".to_owned(),
        Some(value) if value >= 1_000_000.0 => format!("{:.2} M", value / 1_000_000.0),
        Some(value) if value >= 100_000.0 => format!("{:.0} k", value / 1000.0),
        Some(value) if value >= 10_000.0 => format!("{:.1} k", value / 1000.0),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// The table.
pub(crate) fn table(rows: &[Row]) -> String {
    let head = [
        "load",
        "out",
        "cowfs",
        "null",
        "ganesha",
        "unit",
        "ratio",
        "goal",
        "",
        "CPU µs: cowfs",
        "null",
        "ganesha",
    ];
    let mut cells = vec![head.map(str::to_owned)];
    for row in rows {
        let cpu = |best: Option<Best>| best.map_or("–".to_owned(), |best| format!("{:.2}", best.cpu_us));
        let ratio = row.ratio();
        let verdict = match ratio {
            Some(ratio) if ratio >= row.goal => "ok",
            Some(_) => "MISSED",
            None => "",
        };
        cells.push([
            row.load.to_owned(),
            row.outstanding.to_string(),
            shown(row.cowfs),
            shown(row.null),
            shown(row.ganesha),
            row.unit.name().to_owned(),
            ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2} ×")),
            format!("≥ {}", row.goal),
            verdict.to_owned(),
            cpu(row.cowfs),
            cpu(row.null),
            cpu(row.ganesha),
        ]);
    }
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for row in &cells {
        let mut line = String::new();
        for ((at, cell), width) in row.iter().enumerate().zip(&widths) {
            let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
            // Words line up on the left, numbers on the right.
            let written = if matches!(at, 0 | 5 | 8) {
                write!(line, "{cell}{fill}  ")
            } else {
                write!(line, "{fill}{cell}  ")
            };
            written.expect("writing to a string cannot fail");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
