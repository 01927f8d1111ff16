//! What the demonstration found, for people and for programs.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{LabError, LabResult};

/// Steps so far, each with its time.
#[derive(Debug)]
pub struct Report {
    begun: Instant,
    steps: Vec<(String, Duration)>,
    checks: u32,
    figures: Vec<(String, Value)>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            steps: Vec::new(),
            checks: 0,
            figures: Vec::new(),
        }
    }
}

impl Report {
    /// Carries out one step: says what it is, does it, says how long it took.
    ///
    /// # Errors
    /// Those of the step.
    pub fn step<T>(&mut self, title: &str, work: impl FnOnce(&mut Self) -> LabResult<T>) -> LabResult<T> {
        say(&format!("\n\u{25b8} {title}"));
        let start = Instant::now();
        let value = work(self)?;
        let took = start.elapsed();
        say(&format!("  {:.1} s", took.as_secs_f64()));
        self.steps.push((title.to_owned(), took));
        Ok(value)
    }

    /// Notes that something was checked and held.
    pub fn held(&mut self, what: &str) {
        self.checks += 1;
        say(&format!("  \u{2713} {what}"));
    }

    /// Keeps a figure for the table and the JSON.
    pub fn figure(&mut self, name: &str, value: Value) {
        self.figures.push((name.to_owned(), value));
    }

    /// Prints the table of times.
    pub fn print_times(&self) {
        say("\n  step                                                                  seconds");
        for (title, took) in &self.steps {
            say(&format!("  {title:<68}{:>9.1}", took.as_secs_f64()));
        }
        say(&format!(
            "  {:<68}{:>9.1}",
            "in all",
            self.begun.elapsed().as_secs_f64()
        ));
    }

    /// Writes the JSON beside the demonstration.
    ///
    /// # Errors
    /// [`LabError::Io`] naming the path.
    pub fn write(&self, path: &Path, failure: Option<&str>) -> LabResult<()> {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|(title, took)| json!({ "step": title, "seconds": (took.as_secs_f64() * 10.0).round() / 10.0 }))
            .collect();
        let figures: serde_json::Map<String, Value> = self.figures.iter().cloned().collect();
        let report = json!({
            "formatVersion": 1,
            "ok": failure.is_none(),
            "failure": failure,
            "checks": self.checks,
            "seconds": (self.begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            "steps": steps,
            "figures": figures,
        });
        let text = serde_json::to_string_pretty(&report).map_err(|e| LabError::Check(e.to_string()))?;
        crate::lab::write(path, &format!("{text}\n"))
    }

    /// How many checks held.
    #[must_use]
    pub fn checks(&self) -> u32 {
        self.checks
    }
}

/// Prints a line; a closed terminal is nobody's error.
pub fn say(line: &str) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}

/// Prints text from another program, set off from ours.
pub fn quote(text: &str) {
    for line in text.trim_end().lines() {
        say(&format!("  \u{2502} {line}"));
    }
}

/// Bytes as people read them.
#[must_use]
pub fn human(bytes: u64) -> String {
    let mut scaled = bytes;
    let mut rest = 0;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled < 1024 {
            return if unit == "B" {
                format!("{scaled} B")
            } else {
                format!("{scaled}.{} {unit}", rest * 10 / 1024)
            };
        }
        rest = scaled % 1024;
        scaled /= 1024;
    }
    format!("{scaled} TiB")
}
