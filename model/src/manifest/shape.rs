//! What a document must look like, as tables, and the check of a whole document against them.
//!
//! A typed decoder stops at its first error. This check goes on, so that every misspelt field, missing value and wrong
//! unit of a push is reported at once. It hands on what is right: the document with nothing (`null`, which no table
//! allows) in place of all that is wrong, so that the rest can be read and its names followed.

use serde_yaml::{Mapping, Value};

use super::read::TextError;
use super::text::SourceText;
use super::tree::{FINDINGS_MAX, NodeId, NodeValue, ScalarKind, Step, Tree, path_text};
use crate::diagnostic::{Code, Diagnostic, nearest};

/// What one value must be.
pub(crate) enum Shape {
    /// A mapping with these fields.
    Map(&'static MapShape),
    /// A mapping from names that the author chooses.
    Free {
        key: &'static TextShape,
        value: &'static Shape,
        len_max: usize,
    },
    /// A list.
    List { item: &'static Shape, len_max: usize },
    /// A text of this kind.
    Text(&'static TextShape),
    /// The same, also where YAML takes it for a whole number.
    TextOrNumber(&'static TextShape),
    /// The same, or a mapping.
    TextOrMap {
        text: &'static TextShape,
        map: &'static MapShape,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number within bounds.
    Number { min: u64, max: u64 },
    /// `true` or `false`.
    Flag,
}

/// A kind of text.
#[allow(
    dead_code,
    reason = "the schema and the reference of manifests are made from it"
)]
pub(crate) struct TextShape {
    /// What it is, with its article.
    pub(crate) what: &'static str,
    /// How it is written.
    pub(crate) how: &'static str,
    /// What an editor may check (ECMA 262); it may allow more than `read` does, never less.
    pub(crate) pattern: Option<&'static str>,
    /// Reads it.
    pub(crate) read: fn(&str) -> Result<(), TextError>,
}

/// A mapping with known fields.
pub(crate) struct MapShape {
    pub(crate) fields: &'static [Field],
    /// Fields of the design that this version does not have.
    pub(crate) later: &'static [&'static str],
    /// Exactly one of these must be there; empty: no such rule.
    pub(crate) one_of: &'static [&'static str],
}

/// A field of a mapping.
#[allow(
    dead_code,
    reason = "the schema and the reference of manifests are made from it"
)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) shape: Shape,
    /// What it says, in a line.
    pub(crate) doc: &'static str,
    /// What holds where it is left out, as one would write or say it.
    pub(crate) default: Option<&'static str>,
}

impl Field {
    /// The same with a default.
    pub(crate) const fn default(self, default: &'static str) -> Self {
        Self {
            default: Some(default),
            ..self
        }
    }
}

/// A field that must be there.
pub(crate) const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field {
        name,
        required: true,
        shape,
        doc,
        default: None,
    }
}

/// A field that may be there.
pub(crate) const fn optional(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field {
        name,
        required: false,
        shape,
        doc,
        default: None,
    }
}

/// Checks a value and all in it; returns it with nothing in place of what is wrong or cannot be told:
///
/// - a wrong value, a value with a tag, and a field that was misspelt;
/// - every optional field that is not there, where a field beside it cannot be understood and may be the one meant;
/// - the keys of a free mapping that do not read, all of them as one entry.
///
/// Unknown fields are left out. Of a key that is given twice, the first counts.
pub(crate) fn check<'a>(
    source: &'a SourceText,
    tree: &'a Tree,
    root: NodeId,
    shape: &'static MapShape,
    findings: &'a mut Vec<Diagnostic>,
) -> Value {
    let mut checker = Checker {
        source,
        tree,
        path: Vec::new(),
        findings,
    };
    checker.map(root, root, shape)
}

struct Checker<'a> {
    source: &'a SourceText,
    tree: &'a Tree,
    path: Vec<Step<'a>>,
    findings: &'a mut Vec<Diagnostic>,
}

impl<'a> Checker<'a> {
    /// Checks one value. The depth of the recursion is that of the tables.
    fn value(&mut self, key: NodeId, id: NodeId, shape: &'static Shape) -> Value {
        let tree = self.tree;
        if self.findings.len() >= FINDINGS_MAX || tree.refused(id) {
            return Value::Null;
        }
        match (shape, &tree.node(id).value) {
            (Shape::Map(map) | Shape::TextOrMap { map, .. }, NodeValue::Map(_)) => self.map(key, id, map),
            (Shape::Free { key, value, len_max }, NodeValue::Map(entries)) => {
                let within = self.check_len(id, entries.len(), *len_max, "entries");
                let mut read = Mapping::new();
                for (k, v) in entries.iter().take(*len_max) {
                    if !usable_key(tree, *k) {
                        read.insert(Value::Null, Value::Null);
                        continue;
                    }
                    let name = tree.text(*k);
                    self.path.push(Step::Key(name));
                    let read_key = match (key.read)(name) {
                        Ok(()) => Value::String(name.to_owned()),
                        Err(error) => self.bad_text(*k, error),
                    };
                    let value = self.value(*k, *v, value);
                    keep_first(&mut read, read_key, value);
                    self.path.pop();
                }
                only_if(within, Value::Mapping(read))
            }
            (Shape::List { item, len_max }, NodeValue::List(items)) => {
                let within = self.check_len(id, items.len(), *len_max, "items");
                let mut read = Vec::with_capacity(items.len().min(*len_max));
                for (i, child) in items.iter().take(*len_max).enumerate() {
                    self.path.push(Step::Index(i));
                    read.push(self.value(*child, *child, item));
                    self.path.pop();
                }
                only_if(within, Value::Sequence(read))
            }
            (shape, _) => match (shape, tree.scalar_kind(id)) {
                (Shape::Text(text), Some(kind)) => self.text(id, kind, text.read),
                (
                    Shape::TextOrNumber(text) | Shape::TextOrMap { text, .. },
                    Some(ScalarKind::Text | ScalarKind::Unsigned(_)),
                ) => self.text(id, ScalarKind::Text, text.read),
                (Shape::Word(words), Some(ScalarKind::Text)) => self.word(id, words),
                (Shape::Number { min, max }, Some(ScalarKind::Unsigned(number))) => {
                    if number >= *min && number <= *max {
                        return Value::Number(number.into());
                    }
                    let message = format!("{number} is out of range");
                    let help = format!("it may be {min} to {max}");
                    self.add(id, Code::BadValue, message, Some(help))
                }
                (Shape::Flag, Some(ScalarKind::Bool(flag))) => Value::Bool(flag),
                _ => self.wrong_type(key, id, shape),
            },
        }
    }

    fn map(&mut self, key: NodeId, id: NodeId, shape: &'static MapShape) -> Value {
        let tree = self.tree;
        let NodeValue::Map(entries) = &tree.node(id).value else {
            let message = format!("expected a mapping, found {}", self.found(id));
            return self.add(id, Code::WrongType, message, None);
        };
        let mut read = Mapping::new();
        // A field that was misspelt is not missing as well.
        let mut meant = Vec::new();
        // Whether any field that is not there may be meant by one that cannot be understood.
        let mut unclear = false;
        // Whether fields may come from a merge key, which nobody unfolds.
        let mut merged = false;
        for (k, v) in entries {
            if !usable_key(tree, *k) {
                unclear = true;
                merged |= tree.text(*k) == "<<";
                continue;
            }
            let name = tree.text(*k);
            self.path.push(Step::Key(name));
            match shape.fields.iter().find(|field| field.name == name) {
                Some(field) => {
                    let value = self.value(*k, *v, &field.shape);
                    keep_first(&mut read, Value::String(name.to_owned()), value);
                }
                None => match self.unknown_field(*k, name, shape) {
                    Meant::Field(field) => meant.push(field),
                    Meant::Later => {}
                    Meant::Anything => unclear = true,
                },
            }
            self.path.pop();
        }
        let has = |name: &str| entries.iter().any(|(k, _)| tree.text(*k) == name);
        let gone = |field: &&Field| !has(field.name) && !meant.contains(&field.name);
        let missing: Vec<String> = shape
            .fields
            .iter()
            .filter(|field| field.required && gone(field))
            .map(|field| format!("`{}`", field.name))
            .collect();
        if !missing.is_empty() && !merged {
            let message = format!("{} must be given", missing.join(", "));
            self.add(key, Code::MissingField, message, None);
        }
        self.check_choice(key, shape, &meant, merged, has);
        for field in shape.fields {
            if meant.contains(&field.name) || unclear {
                keep_first(&mut read, Value::String(field.name.to_owned()), Value::Null);
            }
        }
        Value::Mapping(read)
    }

    fn check_choice(
        &mut self,
        key: NodeId,
        shape: &MapShape,
        meant: &[&str],
        merged: bool,
        has: impl Fn(&str) -> bool,
    ) {
        let given: Vec<&str> = shape.one_of.iter().copied().filter(|name| has(name)).collect();
        let (code, message) = match given.len() {
            _ if shape.one_of.is_empty() => return,
            1 => return,
            0 if merged || shape.one_of.iter().any(|name| meant.contains(name)) => return,
            0 => {
                let message = format!("one of {} must be given", quoted(shape.one_of));
                (Code::MissingField, message)
            }
            _ => {
                let given = given.join("` and `");
                let message = format!(
                    "only one of {} may be given, not `{given}` together",
                    quoted(shape.one_of)
                );
                (Code::BadValue, message)
            }
        };
        self.add(key, code, message, None);
    }

    /// Reports a field that does not exist; which one was meant, if that can be told.
    fn unknown_field(&mut self, key: NodeId, name: &str, shape: &MapShape) -> Meant {
        let shown: String = name.chars().take(80).collect();
        if shape.later.contains(&name) {
            let message = format!("`{shown}` is not available in this version");
            self.add(key, Code::NotAvailable, message, None);
            return Meant::Later;
        }
        let known = shape.fields.iter().map(|field| field.name);
        let meant = nearest(name, known.clone());
        let all: Vec<String> = known.map(|name| format!("`{name}`")).collect();
        let help = match meant {
            Some(meant) => format!("did you mean `{meant}`? (known fields: {})", all.join(", ")),
            None => format!("known fields: {}", all.join(", ")),
        };
        self.add(
            key,
            Code::UnknownField,
            format!("there is no field `{shown}` here"),
            Some(help),
        );
        meant.map_or(Meant::Anything, Meant::Field)
    }

    fn text(&mut self, id: NodeId, kind: ScalarKind, read: fn(&str) -> Result<(), TextError>) -> Value {
        let text = self.tree.text(id);
        match (read(text), kind) {
            (Ok(()), ScalarKind::Text) => Value::String(text.to_owned()),
            (Err(error), ScalarKind::Text) => self.bad_text(id, error),
            // A bare number where an amount belongs lacks its unit, which the reader says better.
            (Err(error), ScalarKind::Unsigned(_) | ScalarKind::OtherNumber) => self.bad_text(id, error),
            (_, kind) => {
                let help = match kind {
                    ScalarKind::Null => None,
                    _ => Some(format!(
                        "write it in quotes: \"{}\"",
                        text.chars().take(80).collect::<String>()
                    )),
                };
                self.add(
                    id,
                    Code::WrongType,
                    format!("expected text, found {}", self.found(id)),
                    help,
                )
            }
        }
    }

    fn word(&mut self, id: NodeId, words: &'static [&'static str]) -> Value {
        let text = self.tree.text(id);
        if words.contains(&text) {
            return Value::String(text.to_owned());
        }
        let shown: String = text.chars().take(80).collect();
        let known = quoted(words);
        let help = match nearest(text, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? (known words: {known})"),
            None => format!("known words: {known}"),
        };
        let message = format!("`{shown}` is not known here");
        self.add(id, Code::BadValue, message, Some(help))
    }

    fn wrong_type(&mut self, key: NodeId, id: NodeId, shape: &Shape) -> Value {
        let expected = match shape {
            Shape::Map(_) | Shape::Free { .. } => "a mapping".to_owned(),
            Shape::List { .. } => "a list".to_owned(),
            Shape::Text(_) => "text".to_owned(),
            Shape::TextOrNumber(text) => text.what.to_owned(),
            Shape::TextOrMap { text, .. } => format!("{} or a mapping", text.what),
            Shape::Word(words) => format!("one of `{}`", words.join("`, `")),
            Shape::Number { min, max } => format!("a whole number from {min} to {max}"),
            Shape::Flag => "`true` or `false`".to_owned(),
        };
        // Nothing at all has no place of its own worth pointing at: its key has.
        let at = if self.tree.scalar_kind(id) == Some(ScalarKind::Null) {
            key
        } else {
            id
        };
        let message = format!("expected {expected}, found {}", self.found(id));
        self.add(at, Code::WrongType, message, None)
    }

    fn check_len(&mut self, id: NodeId, len: usize, len_max: usize, what: &str) -> bool {
        if len > len_max {
            let message = format!("{len} {what} are more than the {len_max} allowed");
            self.add(id, Code::Limit, message, None);
        }
        len <= len_max
    }

    fn bad_text(&mut self, id: NodeId, error: TextError) -> Value {
        let code = if error.message.ends_with("not available in this version") {
            Code::NotAvailable
        } else {
            Code::BadValue
        };
        self.add(id, code, error.message, error.help)
    }

    fn found(&self, id: NodeId) -> &'static str {
        match &self.tree.node(id).value {
            NodeValue::List(_) => "a list",
            NodeValue::Map(_) => "a mapping",
            NodeValue::Scalar { .. } => match self.tree.scalar_kind(id) {
                Some(ScalarKind::Null) | None => "nothing",
                Some(ScalarKind::Bool(_)) => "true or false",
                Some(ScalarKind::Unsigned(_) | ScalarKind::OtherNumber) => "a number",
                Some(ScalarKind::Text) => "text",
            },
        }
    }

    /// Reports something; what then stands in the place of the value.
    fn add(&mut self, id: NodeId, code: Code, message: String, help: Option<String>) -> Value {
        if self.findings.len() >= FINDINGS_MAX {
            return Value::Null;
        }
        let place = self.source.place(self.tree.node(id).span, path_text(&self.path));
        let mut finding = Diagnostic::error(code, place, message);
        finding.help.extend(help);
        self.findings.push(finding);
        Value::Null
    }
}

/// What somebody meant by a field that does not exist.
enum Meant {
    /// Most likely this one.
    Field(&'static str),
    /// One of a later version.
    Later,
    /// It cannot be told.
    Anything,
}

fn keep_first(mapping: &mut Mapping, key: Value, value: Value) {
    if !mapping.contains_key(&key) {
        mapping.insert(key, value);
    }
}

fn only_if(right: bool, value: Value) -> Value {
    if right { value } else { Value::Null }
}

fn quoted(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// Whether a key is one that the tree's own checks have not refused.
fn usable_key(tree: &Tree, key: NodeId) -> bool {
    tree.scalar_kind(key) == Some(ScalarKind::Text) && tree.text(key) != "<<"
}
