//! What is wrong with somebody's manifests: positioned, explained, with a way out, and all of it at once.
//!
//! A [`Diagnostic`] is about a text that a person wrote; it is collected, never thrown. It carries the line it points
//! at, so that it can be drawn anywhere without the file.

mod code;
mod render;
mod suggest;

pub use code::Code;
pub use render::Paint;
pub use suggest::{did_you_mean, nearest};

use std::ops::Range;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The manifests cannot be used.
    Error,
    /// They can, but probably mean something else.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Where in a file something is. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Path of the file below the fleet's root.
    pub path: String,
    /// First line.
    pub line: usize,
    /// First column.
    pub column: usize,
    /// Last line.
    pub end_line: usize,
    /// Column after the last character.
    pub end_column: usize,
    /// The value's address in its document, as `spec.mounts[0].path`; empty where there is none.
    pub value: String,
    /// The first line, or the part of it around the span.
    pub(crate) excerpt: String,
    /// The span's part of the excerpt, in bytes.
    pub(crate) marked: Range<usize>,
}

impl Place {
    /// A file as a whole.
    #[must_use]
    pub fn file(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            line: 1,
            column: 1,
            end_line: 1,
            end_column: 1,
            value: String::new(),
            excerpt: String::new(),
            marked: 0..0,
        }
    }
}

/// A second place that belongs to the matter, such as the first of two definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    /// Where.
    pub place: Place,
    /// What is there.
    pub label: String,
}

/// One thing that is wrong with the manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Which kind of thing it is; never changes its meaning between versions.
    pub code: Code,
    /// Where.
    pub place: Place,
    /// What is wrong, as one lower-case phrase.
    pub message: String,
    /// A word or two beside the marked text.
    pub label: Option<String>,
    /// Other places that belong to it.
    pub related: Vec<Related>,
    /// What to do about it.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error at a place.
    #[must_use]
    pub fn error(code: Code, place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            place,
            message: message.into(),
            label: None,
            related: Vec::new(),
            help: Vec::new(),
        }
    }

    /// The same with a word beside the marked text.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The same with one more way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// The same with a second place.
    #[must_use]
    pub fn related(mut self, place: Place, label: impl Into<String>) -> Self {
        self.related.push(Related {
            place,
            label: label.into(),
        });
        self
    }
}

/// Most diagnostics that a report shows.
pub const SHOWN_MAX: usize = 100;

/// All that is wrong with one commit, in reading order: by file, line and column, each thing once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    shown: Vec<Diagnostic>,
    more: usize,
}

impl Report {
    /// Sorts the findings, drops repetitions and keeps the first [`SHOWN_MAX`].
    #[must_use]
    pub fn new(mut all: Vec<Diagnostic>) -> Self {
        sort(&mut all);
        let more = all.len().saturating_sub(SHOWN_MAX);
        all.truncate(SHOWN_MAX);
        Self { shown: all, more }
    }

    /// The findings that are shown.
    #[must_use]
    pub fn shown(&self) -> &[Diagnostic] {
        &self.shown
    }

    /// How many more there are.
    #[must_use]
    pub fn more(&self) -> usize {
        self.more
    }
}

/// Puts findings into reading order and drops repetitions, as one value reached through several aliases makes.
pub(crate) fn sort(all: &mut Vec<Diagnostic>) {
    let key = |d: &Diagnostic| {
        (
            d.place.path.clone(),
            d.place.line,
            d.place.column,
            d.code,
            d.message.clone(),
        )
    };
    all.sort_by_cached_key(key);
    all.dedup();
}
