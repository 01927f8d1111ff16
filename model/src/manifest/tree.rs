//! A file's documents as a tree of values with places.
//!
//! Values are numbered, and an alias is a second parent of the same value: a document that unfolds to billions of values
//! costs no more than its text.

mod build;
mod scalar;

pub use build::{DEPTH_MAX, DOCUMENTS_MAX, VALUES_MAX};
pub(crate) use build::{FINDINGS_MAX, build};
pub(crate) use scalar::{ScalarKind, plain_kind};

use std::collections::BTreeSet;

use super::text::Span;

/// Names a value of a [`Tree`].
pub(crate) type NodeId = usize;

/// Values of all documents of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// Documents that are not empty, in order.
    pub(crate) roots: Vec<NodeId>,
    /// Scalars that have a tag: what they are cannot be told.
    tagged: BTreeSet<NodeId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: NodeValue,
}

#[derive(Clone, Debug)]
pub(crate) enum NodeValue {
    Scalar { text: String, plain: bool },
    List(Vec<NodeId>),
    Map(Vec<(NodeId, NodeId)>),
}

/// One step from a value to a value inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Into a mapping, by key.
    Key(&'a str),
    /// Into a list, counted from 0.
    Index(usize),
}

impl Tree {
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// Text of a scalar; empty for other values.
    pub(crate) fn text(&self, id: NodeId) -> &str {
        match &self.nodes[id].value {
            NodeValue::Scalar { text, .. } => text,
            NodeValue::List(_) | NodeValue::Map(_) => "",
        }
    }

    pub(crate) fn scalar_kind(&self, id: NodeId) -> Option<ScalarKind> {
        match &self.nodes[id].value {
            NodeValue::Scalar { text, plain: true } => Some(plain_kind(text)),
            NodeValue::Scalar { plain: false, .. } => Some(ScalarKind::Text),
            NodeValue::List(_) | NodeValue::Map(_) => None,
        }
    }

    /// Whether a value has been refused as a whole, so that nothing more can be said about it.
    pub(crate) fn refused(&self, id: NodeId) -> bool {
        self.tagged.contains(&id)
    }

    /// Entry of a mapping: key and value.
    pub(crate) fn entry(&self, id: NodeId, key: &str) -> Option<(NodeId, NodeId)> {
        match &self.nodes[id].value {
            NodeValue::Map(entries) => entries.iter().find(|(k, _)| self.text(*k) == key).copied(),
            NodeValue::Scalar { .. } | NodeValue::List(_) => None,
        }
    }

    /// How often a mapping has a key.
    pub(crate) fn count(&self, id: NodeId, key: &str) -> usize {
        match &self.nodes[id].value {
            NodeValue::Map(entries) => entries.iter().filter(|(k, _)| self.text(*k) == key).count(),
            NodeValue::Scalar { .. } | NodeValue::List(_) => 0,
        }
    }

    /// Goes as far along a path as the tree does: the key and value that were reached last. The key is the value
    /// itself for list items and roots.
    pub(crate) fn walk(&self, root: NodeId, path: &[Step<'_>]) -> (NodeId, NodeId) {
        let mut at = (root, root);
        for step in path {
            let next = match (step, &self.nodes[at.1].value) {
                (Step::Key(key), NodeValue::Map(_)) => self.entry(at.1, key),
                (Step::Index(index), NodeValue::List(items)) => items.get(*index).map(|item| (*item, *item)),
                (Step::Key(_) | Step::Index(_), _) => None,
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at
    }
}

/// `spec.mounts[0].path`; keys with other characters are put in quotes.
pub(crate) fn path_text(path: &[Step<'_>]) -> String {
    const LEN_MAX: usize = 200;
    let mut text = String::new();
    for step in path {
        if text.len() > LEN_MAX {
            text.push('…');
            break;
        }
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(key) => {
                let key: String = key.chars().take(80).collect();
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
                if key.is_empty() || !key.bytes().all(plain) {
                    text.push_str(&format!("[{key:?}]"));
                } else {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(&key);
                }
            }
        }
    }
    text
}
