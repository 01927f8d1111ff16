//! Figures, the table that people read, and the file that programs read.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    value: Option<f64>,
    unit: &'static str,
    goal: Option<Goal>,
    median: Option<f64>,
    cpu: Option<f64>,
    note: Option<String>,
}

impl Figure {
    /// A figure as it was measured.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value: Some(value),
            unit,
            goal: None,
            median: None,
            cpu: None,
            note: None,
        }
    }

    /// The best of several runs, with their median beside it.
    pub(crate) fn times(name: impl Into<String>, times: &super::measure::Times) -> Self {
        Self {
            cpu: Some(times.cpu()),
            ..Self::new(name, times.best(), "ms").median(times.median())
        }
    }

    /// A figure that could not be measured here, and why.
    pub(crate) fn missing(name: impl Into<String>, unit: &'static str, why: impl Into<String>) -> Self {
        Self {
            value: None,
            note: Some(format!("not measured: {}", why.into())),
            ..Self::new(name, 0.0, unit)
        }
    }

    /// Whether its name begins like this.
    pub(crate) fn is_about(&self, stage: &str) -> bool {
        self.name.starts_with(stage)
    }

    /// Says what it should be.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// Adds the median of the runs.
    pub(crate) fn median(mut self, median: f64) -> Self {
        self.median = Some(median);
        self
    }

    /// Adds a word to it.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// As it stands in the report. `ok` is null where there is no goal, or nothing was measured: neither is a success.
    pub(crate) fn json(&self) -> Value {
        let (goal, better) = match self.goal {
            None => (None, None),
            Some(Goal::AtMost(goal)) => (Some(goal), Some("lower")),
            Some(Goal::AtLeast(goal)) => (Some(goal), Some("higher")),
        };
        let ok = self.value.zip(self.goal).map(|(value, goal)| match goal {
            Goal::AtMost(goal) => value <= goal,
            Goal::AtLeast(goal) => value >= goal,
        });
        json!({
            "name": self.name,
            "value": self.value.map(rounded),
            "unit": self.unit,
            "goal": goal,
            "ok": ok,
            "better": better,
            "median": self.median.map(rounded),
            "cpu": self.cpu.map(rounded),
            "note": self.note,
        })
    }
}

/// To four digits: more would only pretend.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 3.0 - value.abs().log10().floor();
    let scale = 10_f64.powf(digits);
    (value * scale).round() / scale
}

/// The report as a table: name, value, median, goal, how far from it, and what there is to say.
pub(crate) fn table(figures: &[Value]) -> String {
    let mut rows = vec![["figure", "best", "median", "CPU", "goal", "of goal", ""].map(str::to_owned)];
    for figure in figures {
        let text = |key: &str| figure[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| figure[key].as_f64();
        let (value, goal) = (number("value"), number("goal"));
        let unit = text("unit");
        let sign = if text("better") == "higher" { "≥" } else { "≤" };
        let verdict = match figure["ok"].as_bool() {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        let ratio = match (value, goal) {
            (Some(value), Some(goal)) if goal != 0.0 => format!("{:.2} ×", value / goal),
            _ => String::new(),
        };
        rows.push([
            text("name"),
            value.map_or("–".to_owned(), |value| format!("{value} {unit}")),
            number("median").map_or(String::new(), |median| format!("{median}")),
            number("cpu").map_or(String::new(), |cpu| format!("{cpu}")),
            goal.map_or(String::new(), |goal| format!("{sign} {goal}")),
            ratio,
            format!("{verdict} {}", text("note")).trim().to_owned(),
        ]);
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        for (i, cell) in row.iter().enumerate() {
            let fill = widths
                .get(i)
                .map_or(0, |width| width.saturating_sub(cell.chars().count()));
            // Numbers line up on the right, words on the left.
            let written = if (1..=5).contains(&i) {
                write!(out, "{}{cell}  ", " ".repeat(fill))
            } else {
                write!(out, "{cell}{}  ", " ".repeat(fill))
            };
            written.expect("writing to a string cannot fail");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}
