//! The typed decoder: `serde_yaml` over what the structural check has left of each document.
//!
//! Both readers of YAML must see the same document; where they do not, it is refused rather than guessed at. What
//! decoding itself could find, the check has found before; should the two disagree, the path at which decoding failed
//! says where.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use serde_yaml::Value;

use super::kinds::Kind;
use super::raw::{RawFleet, RawLock, RawMoves, RawNode, RawOwner, RawSite, RawSlice, RawTemplate, RawTenant};
use super::text::{SourceText, Span};
use super::tree::{NodeId, NodeValue, ScalarKind, Step, Tree, path_text};
use crate::diagnostic::{Code, Diagnostic};

/// What a document says, by kind.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Fleet(Box<RawFleet>),
    Site(RawSite),
    Node(RawNode),
    Template(RawTemplate),
    Tenant(RawTenant),
    Slice(Box<RawSlice>),
    Placement(RawLock),
    Moves(RawMoves),
}

/// Reads all documents of a file once more, with the other reader: whether each is what the tree holds. Short if the
/// readers do not even see the same documents.
pub(crate) fn agreed(source: &SourceText, tree: &Tree, findings: &mut Vec<Diagnostic>) -> Vec<bool> {
    let mut roots = tree.roots.iter();
    let mut agreed = Vec::with_capacity(tree.roots.len());
    for document in serde_yaml::Deserializer::from_str(source.text()) {
        match Value::deserialize(document) {
            // Empty documents are not in the tree either.
            Ok(Value::Null) => {}
            Ok(value) => {
                let Some(&root) = roots.next() else {
                    findings.push(ambiguous(
                        source,
                        tree,
                        None,
                        "one reader of YAML sees more documents here than another",
                    ));
                    return Vec::new();
                };
                let different = differs(tree, root, &value);
                agreed.push(different.is_none());
                if let Some(at) = different {
                    let message = "two readers of YAML understand this value differently";
                    findings.push(ambiguous(source, tree, Some(at), message));
                }
            }
            Err(error) => {
                let mut finding = ambiguous(
                    source,
                    tree,
                    roots.next().copied(),
                    &format!("one reader of YAML refuses this: {error}"),
                );
                if let Some(location) = error.location() {
                    let line = u32::try_from(location.line()).unwrap_or(u32::MAX);
                    let column = u32::try_from(location.column())
                        .unwrap_or(u32::MAX)
                        .saturating_sub(1);
                    let span = Span {
                        line,
                        column,
                        end_line: line,
                        end_column: column.saturating_add(1),
                    };
                    finding.place = source.place(span, String::new());
                }
                findings.push(finding);
                return Vec::new();
            }
        }
    }
    if let Some(&root) = roots.next() {
        findings.push(ambiguous(
            source,
            tree,
            Some(root),
            "one reader of YAML sees fewer documents here than another",
        ));
        return Vec::new();
    }
    agreed
}

/// Reads the body of a document of a known kind from what the structural check has left of it.
pub(crate) fn body(
    source: &SourceText,
    tree: &Tree,
    root: NodeId,
    kind: Kind,
    value: Value,
    findings: &mut Vec<Diagnostic>,
) -> Option<Body> {
    let mut reader = Reader {
        source,
        tree,
        root,
        findings,
    };
    match kind {
        Kind::Fleet => Some(Body::Fleet(Box::new(reader.spec(value)?.unwrap_or_default()))),
        Kind::Site => Some(Body::Site(reader.spec(value)?.unwrap_or_default())),
        Kind::Node => reader.spec(value)?.map(Body::Node),
        Kind::Template => reader.spec(value)?.map(Body::Template),
        Kind::Tenant => Some(Body::Tenant(reader.spec(value)?.unwrap_or_default())),
        Kind::Slice => {
            let metadata = value.get("metadata").cloned();
            let mut slice: RawSlice = reader.spec(value)??;
            // What is wrong in it is nothing by now, and what is right was checked: this cannot fail.
            let owner = metadata.and_then(|metadata| RawOwner::deserialize(metadata).ok());
            slice.owner = owner.unwrap_or_else(RawOwner::unclear);
            Some(Body::Slice(Box::new(slice)))
        }
        Kind::Placement => reader.spec(value)?.map(Body::Placement),
        Kind::Moves => reader.spec(value)?.map(Body::Moves),
    }
}

struct Reader<'a> {
    source: &'a SourceText,
    tree: &'a Tree,
    root: NodeId,
    findings: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    /// `Some(None)` if there is none to read.
    fn spec<S: DeserializeOwned>(&mut self, mut document: Value) -> Option<Option<S>> {
        let spec = document.get_mut("spec").map_or(Value::Null, std::mem::take);
        match serde_path_to_error::deserialize(spec) {
            Ok(spec) => Some(spec),
            Err(error) => {
                let below = error.path().iter().filter_map(|segment| match segment {
                    Segment::Seq { index } => Some(Step::Index(*index)),
                    Segment::Map { key } => Some(Step::Key(key)),
                    Segment::Enum { .. } | Segment::Unknown => None,
                });
                let steps: Vec<Step<'_>> = std::iter::once(Step::Key("spec")).chain(below).collect();
                let (_, at) = self.tree.walk(self.root, &steps);
                let place = self.source.place(self.tree.node(at).span, path_text(&steps));
                let finding = Diagnostic::error(Code::BadValue, place, error.inner().to_string());
                self.findings.push(finding);
                None
            }
        }
    }
}

/// The first value in which the tree and the other reader differ.
fn differs(tree: &Tree, id: NodeId, value: &Value) -> Option<NodeId> {
    let same = match (&tree.node(id).value, value) {
        (NodeValue::Scalar { text, .. }, value) => match (tree.scalar_kind(id), value) {
            (Some(ScalarKind::Null), Value::Null) => true,
            (Some(ScalarKind::Bool(flag)), Value::Bool(other)) => flag == *other,
            (Some(ScalarKind::Unsigned(number)), Value::Number(other)) => other.as_u64() == Some(number),
            (Some(ScalarKind::OtherNumber), Value::Number(other)) => {
                other.as_u64().is_none() || text.starts_with('-')
            }
            (Some(ScalarKind::Text), Value::String(other)) => text == other,
            _ => false,
        },
        (NodeValue::List(items), Value::Sequence(others)) => {
            if items.len() == others.len() {
                let mut pairs = items.iter().zip(others);
                return pairs.find_map(|(item, other)| differs(tree, *item, other));
            }
            false
        }
        (NodeValue::Map(entries), Value::Mapping(others)) => {
            if entries.len() == others.len() {
                let mut pairs = entries.iter().zip(others);
                return pairs.find_map(|((key, item), (other_key, other))| {
                    differs(tree, *key, other_key).or_else(|| differs(tree, *item, other))
                });
            }
            false
        }
        (NodeValue::List(_) | NodeValue::Map(_), _) => false,
    };
    (!same).then_some(id)
}

fn ambiguous(source: &SourceText, tree: &Tree, at: Option<NodeId>, message: &str) -> Diagnostic {
    let span = at.map_or_else(Span::default, |at| tree.node(at).span);
    let span = Span {
        line: span.line.max(1),
        ..span
    };
    let shown: String = message.chars().take(300).collect();
    Diagnostic::error(Code::Ambiguous, source.place(span, String::new()), shown)
        .help("write it more plainly: put text in quotes, avoid directives and unusual escapes")
}
