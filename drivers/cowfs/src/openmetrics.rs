//! Figures as OpenMetrics text (OpenMetrics 1.0.0, openmetrics.io), for Prometheus and its like.

use std::fmt::{Display, Write as _};

/// What the text is, for `content-type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a family of figures is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the program starts anew; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts what lies below each of some bounds; its samples end in `_bucket`, `_count` and `_sum`.
    Histogram,
    /// Words that stay the same; its sample ends in `_info`.
    Info,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// A text that is being written: family by family, and the samples of each directly after it.
#[derive(Clone, Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family. A name that ends in `_bytes` or `_seconds` has that unit.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.put(format_args!("# TYPE {name} {}\n", kind.word()));
        let unit = ["bytes", "seconds"].into_iter().find(|unit| {
            let rest = name.strip_suffix(unit);
            rest.is_some_and(|rest| rest.ends_with('_'))
        });
        if let Some(unit) = unit {
            self.put(format_args!("# UNIT {name} {unit}\n"));
        }
        self.put(format_args!("# HELP {name} {}\n", Escaped(help)));
    }

    /// One sample of the family begun last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.put(format_args!("{name}"));
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            self.put(format_args!("{before}{label}=\"{}\"", Escaped(text)));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        self.put(format_args!("{after} {value}\n"));
    }

    /// The whole text.
    #[must_use]
    pub fn end(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a string cannot fail");
    }
}

/// Text as the format has it between quotes and in help.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for char in self.0.chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                char => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_samples_are_as_the_format_has_them() {
        let mut text = Text::default();
        text.family("calls", Kind::Counter, "Calls.");
        text.sample("calls_total", &[("of", "a"), ("why", "\\ \"x\"\n")], 3);
        text.family("age_seconds", Kind::Gauge, "Two\nlines.");
        text.sample("age_seconds", &[], "1.5");
        assert_eq!(
            text.end(),
            "# TYPE calls counter\n# HELP calls Calls.\ncalls_total{of=\"a\",why=\"\\\\ \\\"x\\\"\\n\"} 3\n\
             # TYPE age_seconds gauge\n# UNIT age_seconds seconds\n# HELP age_seconds Two\\nlines.\nage_seconds 1.5\n# EOF\n"
        );
    }
}
