//! Diagnostics as text for people and as JSON for programs.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::{Diagnostic, Place, Report, Severity};

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// No escape codes.
    Plain,
    /// ANSI colours.
    Colour,
}

/// Columns the drawing may take.
const WIDTH: usize = 120;

impl Report {
    /// Draws the findings, an empty line after each, and how many there are; empty if there are none.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut text = String::new();
        for diagnostic in &self.shown {
            text.push_str(&diagnostic.render(paint));
            text.push_str("\n\n");
        }
        if self.more > 0 {
            text.push_str(&format!("and {} more\n\n", self.more));
        }
        text
    }

    /// The findings as one JSON object: `formatVersion`, `diagnostics`, `more`.
    ///
    /// # Panics
    /// Never: the records are strings and numbers.
    #[must_use]
    pub fn to_json(&self) -> String {
        let record = ReportRecord {
            format_version: 1,
            diagnostics: self.shown.iter().map(DiagnosticRecord::from).collect(),
            more: self.more,
        };
        serde_json::to_string(&record).expect("records of strings and numbers are always JSON")
    }
}

impl Diagnostic {
    /// Draws it with the line it points at, without a line break at the end.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let level = || match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level().primary_title(clean(&self.message)).id(self.code.as_str());
        let mut groups = vec![draw(
            title.element(Origin::path(origin(&self.place))),
            &self.place,
            AnnotationKind::Primary,
            self.label.as_deref(),
        )];
        for related in &self.related {
            let title = Level::NOTE.secondary_title(clean(&related.label));
            let group = title.element(Origin::path(origin(&related.place)));
            groups.push(draw(group, &related.place, AnnotationKind::Context, None));
        }
        for help in &self.help {
            groups.push(Group::with_title(Level::HELP.secondary_title(clean(help))));
        }
        let renderer = match paint {
            Paint::Plain => Renderer::plain(),
            Paint::Colour => Renderer::styled(),
        };
        without_continuations(
            &renderer
                .decor_style(DecorStyle::Ascii)
                .term_width(WIDTH)
                .render(&groups),
        )
    }
}

/// The renderer draws `:::` above a snippet whose path it was not given. It was given the whole origin instead, since
/// a clipped line would make it count columns wrongly.
fn without_continuations(drawn: &str) -> String {
    let continuation = |line: &str| {
        let mut escape = false;
        let visible = line.chars().filter(|c| {
            let shown = !escape && *c != '\u{1b}';
            escape = *c == '\u{1b}' || escape && *c != 'm';
            shown && !c.is_whitespace()
        });
        visible.eq(":::".chars())
    };
    let kept: Vec<&str> = drawn.lines().filter(|line| !continuation(line)).collect();
    kept.join("\n")
}

fn draw<'a>(group: Group<'a>, place: &'a Place, kind: AnnotationKind, label: Option<&str>) -> Group<'a> {
    if place.excerpt.is_empty() {
        return group;
    }
    let mark = kind.span(place.marked.clone()).label(label.map(clean));
    let snippet = Snippet::source(place.excerpt.as_str())
        .line_start(place.line)
        .annotation(mark);
    group.element(snippet)
}

/// `slices/web.yaml:14:19 (spec.resources.memory)`
fn origin(place: &Place) -> String {
    let mut text = clean(&place.path);
    if !place.excerpt.is_empty() {
        text.push_str(&format!(":{}:{}", place.line, place.column));
    }
    if !place.value.is_empty() {
        text.push_str(&format!(" ({})", clean(&place.value)));
    }
    text
}

/// Text from outside must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let plain = (!c.is_control()).then_some(c);
            plain
                .into_iter()
                .chain(c.escape_default().filter(move |_| c.is_control()))
        })
        .collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportRecord<'a> {
    format_version: u32,
    diagnostics: Vec<DiagnosticRecord<'a>>,
    more: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiagnosticRecord<'a> {
    severity: &'static str,
    code: &'static str,
    message: &'a str,
    label: Option<&'a str>,
    place: PlaceRecord<'a>,
    related: Vec<RelatedRecord<'a>>,
    help: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlaceRecord<'a> {
    path: &'a str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    value: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RelatedRecord<'a> {
    label: &'a str,
    place: PlaceRecord<'a>,
}

impl<'a> From<&'a Diagnostic> for DiagnosticRecord<'a> {
    fn from(diagnostic: &'a Diagnostic) -> Self {
        Self {
            severity: diagnostic.severity.as_str(),
            code: diagnostic.code.as_str(),
            message: &diagnostic.message,
            label: diagnostic.label.as_deref(),
            place: (&diagnostic.place).into(),
            related: diagnostic
                .related
                .iter()
                .map(|related| RelatedRecord {
                    label: &related.label,
                    place: (&related.place).into(),
                })
                .collect(),
            help: &diagnostic.help,
        }
    }
}

impl<'a> From<&'a Place> for PlaceRecord<'a> {
    fn from(place: &'a Place) -> Self {
        Self {
            path: &place.path,
            line: place.line,
            column: place.column,
            end_line: place.end_line,
            end_column: place.end_column,
            value: &place.value,
        }
    }
}
