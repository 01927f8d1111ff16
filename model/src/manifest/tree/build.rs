//! Building the tree from the parser's events.
//!
//! This pass finds what a typed decoder cannot: keys given twice, tags, merge keys, aliases that would unfold without
//! bound. What an alias would unfold to is counted, and refused beyond a budget.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span as ParserSpan};

use super::{Node, NodeId, NodeValue, ScalarKind, Step, Tree, path_text, plain_kind};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::manifest::text::{SourceText, Span};

/// Deepest nesting of values.
pub const DEPTH_MAX: u32 = 32;
/// Most values in one file, aliases unfolded. A slice of 100,000 slivers has a little more than that.
pub const VALUES_MAX: u32 = 250_000;
/// Most documents in one file.
pub const DOCUMENTS_MAX: usize = 10_000;
/// Findings after which a file is given up.
pub(crate) const FINDINGS_MAX: usize = 200;

/// What came of a file's text.
pub(crate) struct Built {
    pub(crate) tree: Tree,
    pub(crate) findings: Vec<Diagnostic>,
    /// Whether every document was read to its end.
    pub(crate) whole: bool,
}

/// Builds the tree of a file. Values that are refused stay in it, so that later checks can go on.
pub(crate) fn build(source: &SourceText) -> Built {
    let mut builder = Builder {
        source,
        tree: Tree::default(),
        weights: Vec::new(),
        frames: Vec::new(),
        anchors: BTreeMap::new(),
        findings: Vec::new(),
        values: 0,
    };
    let whole = builder.run().map_err(|stop| builder.findings.push(*stop)).is_ok();
    Built {
        tree: builder.tree,
        findings: builder.findings,
        whole,
    }
}

struct Builder<'a> {
    source: &'a SourceText,
    tree: Tree,
    /// For each value, how many values it unfolds to and how deep it is.
    weights: Vec<Weight>,
    frames: Vec<Frame>,
    /// Values that have an anchor; `None` while they are being read.
    anchors: BTreeMap<usize, Option<NodeId>>,
    findings: Vec<Diagnostic>,
    values: u32,
}

#[derive(Clone, Copy)]
struct Weight {
    values: u32,
    depth: u32,
}

struct Frame {
    anchor: usize,
    span: Span,
    content: Content,
}

enum Content {
    List(Vec<NodeId>),
    Map {
        entries: Vec<(NodeId, NodeId)>,
        keys: BTreeMap<String, NodeId>,
        key: Option<NodeId>,
    },
}

type Stop = Box<Diagnostic>;

impl Builder<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        let mut parser = Parser::new_from_str(self.source.text());
        while let Some(next) = parser.next_event() {
            let (event, span) = next.map_err(|error| Box::new(self.syntax(&error)))?;
            self.event(event, convert(span))?;
            if self.findings.len() >= FINDINGS_MAX {
                return Err(Box::new(Diagnostic::error(
                    Code::TooLarge,
                    self.place(convert(span)),
                    "too many mistakes: the rest of the file was not read",
                )));
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                // Anchors live as long as their document (YAML 1.2.2 §3.2.2.2).
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                let plain = style == ScalarStyle::Plain;
                let text = text.into_owned();
                let id = self.add(
                    span,
                    NodeValue::Scalar { text, plain },
                    Weight { values: 1, depth: 1 },
                );
                if tag.is_some() {
                    self.tree.tagged.insert(id);
                }
                self.name(anchor, Some(id));
                self.finish(id, false)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                self.open(anchor, span, Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                self.open(
                    anchor,
                    span,
                    Content::Map {
                        entries: Vec::new(),
                        keys: BTreeMap::new(),
                        key: None,
                    },
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
        }
    }

    fn open(&mut self, anchor: usize, span: Span, content: Content) -> Result<(), Stop> {
        if let Some(Frame {
            content: Content::Map { key: None, .. },
            ..
        }) = self.frames.last()
        {
            self.findings.push(
                Diagnostic::error(Code::UnsupportedYaml, self.place(span), "a key must be text")
                    .label("this is a list or mapping"),
            );
        }
        self.name(anchor, None);
        self.frames.push(Frame {
            anchor,
            span,
            content,
        });
        if u32::try_from(self.frames.len()).unwrap_or(u32::MAX) > DEPTH_MAX {
            return Err(self.too_deep(span));
        }
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Stop> {
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        let children: Vec<NodeId> = match &frame.content {
            Content::List(items) => items.clone(),
            Content::Map { entries, .. } => entries.iter().flat_map(|(k, v)| [*k, *v]).collect(),
        };
        let mut weight = Weight { values: 1, depth: 0 };
        for child in children {
            weight.values = weight.values.saturating_add(self.weights[child].values);
            weight.depth = weight.depth.max(self.weights[child].depth);
        }
        weight.depth += 1;
        let value = match frame.content {
            Content::List(items) => NodeValue::List(items),
            Content::Map { entries, .. } => NodeValue::Map(entries),
        };
        let span = Span {
            end_line: end.end_line,
            end_column: end.end_column,
            ..frame.span
        };
        let id = self.add(span, value, weight);
        self.name(frame.anchor, Some(id));
        self.finish(id, false)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Stop> {
        match self.anchors.get(&anchor) {
            Some(Some(target)) => self.finish(*target, true).map_err(|mut stop| {
                stop.place = self.place(span);
                stop
            }),
            Some(None) => Err(Box::new(Diagnostic::error(
                Code::UnsupportedYaml,
                self.place(span),
                "a value may not contain itself",
            ))),
            None => Err(Box::new(Diagnostic::error(
                Code::Syntax,
                self.place(span),
                "the alias names no anchor of this document",
            ))),
        }
    }

    /// Puts a complete value where it belongs.
    fn finish(&mut self, id: NodeId, by_alias: bool) -> Result<(), Stop> {
        let span = self.tree.nodes[id].span;
        let weight = self.weights[id];
        if u32::try_from(self.frames.len())
            .unwrap_or(u32::MAX)
            .saturating_add(weight.depth)
            > DEPTH_MAX + 1
        {
            return Err(self.too_deep(span));
        }
        // What a value unfolds to is counted where it is complete: scalars as they come, aliases whole.
        let more = match (&self.tree.nodes[id].value, by_alias) {
            (_, true) => weight.values,
            (NodeValue::Scalar { .. } | NodeValue::List(_) | NodeValue::Map(_), false) => 1,
        };
        self.values = self.values.saturating_add(more);
        if self.values > VALUES_MAX {
            return Err(Box::new(
                Diagnostic::error(
                    Code::TooLarge,
                    self.place(span),
                    format!("the file holds more than {VALUES_MAX} values once aliases are unfolded"),
                )
                .help("write fewer aliases, or split the file"),
            ));
        }
        let Some(frame) = self.frames.last_mut() else {
            let empty = matches!(&self.tree.nodes[id].value, NodeValue::Scalar { text, plain: true } if plain_kind(text) == ScalarKind::Null);
            if !empty {
                self.tree.roots.push(id);
            }
            if self.tree.roots.len() > DOCUMENTS_MAX {
                return Err(Box::new(Diagnostic::error(
                    Code::TooLarge,
                    self.place(span),
                    format!("the file holds more than {DOCUMENTS_MAX} documents"),
                )));
            }
            return Ok(());
        };
        match &mut frame.content {
            Content::List(items) => items.push(id),
            Content::Map { entries, key, .. } => match key.take() {
                Some(key) => entries.push((key, id)),
                None => {
                    *key = Some(id);
                    self.check_key(id, by_alias);
                }
            },
        }
        Ok(())
    }

    /// Looks at the key that the innermost mapping has just got.
    fn check_key(&mut self, id: NodeId, by_alias: bool) {
        let Node {
            span,
            value: NodeValue::Scalar { text, plain },
        } = self.tree.nodes[id].clone()
        else {
            return; // said when it was opened
        };
        let place = || self.source.place(span, self.path());
        if by_alias {
            let finding = Diagnostic::error(Code::UnsupportedYaml, place(), "an alias may not be a key");
            return self.findings.push(finding);
        }
        if plain && text == "<<" {
            let finding = Diagnostic::error(
                Code::UnsupportedYaml,
                place(),
                "merge keys are not part of YAML 1.2",
            )
            .help("write the fields out, or give the whole value an anchor and use an alias");
            return self.findings.push(finding);
        }
        if plain && plain_kind(&text) != ScalarKind::Text {
            let finding = Diagnostic::error(Code::UnsupportedYaml, place(), "a key must be text")
                .help(format!("write it in quotes: \"{text}\""));
            return self.findings.push(finding);
        }
        let (first, place) = match &self.frames.last().map(|frame| &frame.content) {
            Some(Content::Map { keys, .. }) => (keys.get(&text).copied(), place()),
            Some(Content::List(_)) | None => return,
        };
        if let Some(first) = first {
            let earlier = self.source.place(self.tree.nodes[first].span, String::new());
            let shown: String = text.chars().take(80).collect();
            self.findings.push(
                Diagnostic::error(Code::DuplicateKey, place, format!("`{shown}` is given twice"))
                    .label("given again")
                    .related(earlier, "it is first given here"),
            );
        } else if let Some(Frame {
            content: Content::Map { keys, .. },
            ..
        }) = self.frames.last_mut()
        {
            keys.insert(text, id);
        }
    }

    fn add(&mut self, span: Span, value: NodeValue, weight: Weight) -> NodeId {
        self.tree.nodes.push(Node { span, value });
        self.weights.push(weight);
        self.tree.nodes.len() - 1
    }

    /// Anchors count from 1; 0 is none.
    fn name(&mut self, anchor: usize, id: Option<NodeId>) {
        if anchor > 0 {
            self.anchors.insert(anchor, id);
        }
    }

    fn refuse_tag(&mut self, tag: Option<&saphyr_parser::Tag>, span: Span) {
        if let Some(tag) = tag {
            let shown: String = tag.to_string().chars().take(80).collect();
            let finding = Diagnostic::error(
                Code::UnsupportedYaml,
                self.place(span),
                format!("the tag `{shown}` is not understood"),
            );
            self.findings
                .push(finding.help("manifests use no tags; the schema says what a value is"));
        }
    }

    fn too_deep(&self, span: Span) -> Stop {
        Box::new(Diagnostic::error(
            Code::TooLarge,
            self.place(span),
            format!("values are nested more than {DEPTH_MAX} deep"),
        ))
    }

    fn syntax(&self, error: &ScanError) -> Diagnostic {
        let mark = error.marker();
        let mut line = u32::try_from(mark.line()).unwrap_or(u32::MAX).max(1);
        let mut column = u32::try_from(mark.col()).unwrap_or(u32::MAX);
        // What is missing at the end of the file is pointed at behind the last thing that is there.
        while line > 1 && self.source.line(line).trim().is_empty() {
            line = line.min(self.source.lines()) - 1;
            column = u32::try_from(self.source.line(line).chars().count()).unwrap_or(u32::MAX);
        }
        let tab = self
            .source
            .line(line)
            .chars()
            .take_while(|c| c.is_whitespace())
            .position(|c| c == '\t');
        let (column, message) = match tab.and_then(|tab| u32::try_from(tab).ok()) {
            Some(tab) => (tab, "a tab may not indent".to_owned()),
            None => (column, error.info().to_owned()),
        };
        let place = self.source.place(
            Span {
                line,
                column,
                end_line: line,
                end_column: column.saturating_add(1),
            },
            self.path(),
        );
        let finding = Diagnostic::error(Code::Syntax, place, message);
        match tab {
            Some(_) => finding.help("YAML wants spaces (YAML 1.2.2 §6.1)"),
            None => finding,
        }
    }

    fn place(&self, span: Span) -> Place {
        self.source.place(span, self.path())
    }

    /// Address of what is being read.
    fn path(&self) -> String {
        let steps: Vec<Step<'_>> = self
            .frames
            .iter()
            .filter_map(|frame| match &frame.content {
                Content::List(items) => Some(Step::Index(items.len())),
                Content::Map { key, .. } => key.map(|key| Step::Key(self.tree.text(key))),
            })
            .collect();
        path_text(&steps)
    }
}

fn convert(span: ParserSpan) -> Span {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Span {
        line: small(span.start.line()).max(1),
        column: small(span.start.col()),
        end_line: small(span.end.line()).max(1),
        end_column: small(span.end.col()),
    }
}
