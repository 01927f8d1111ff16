//! The kinds of documents and their fields, each with the line that the reference and the schema say of it.

mod fleet;
mod moves;
mod placement;
mod site;
mod slice;
mod template;
mod tenant;
mod text;

use super::read::reads;
use super::shape::{Field, MapShape, Shape, TextShape, required};

/// The `apiVersion` of every document.
pub const API_VERSION: &str = "xenoslice/v1";

/// Most slivers of a slice, and of a fleet.
pub const SLIVERS_MAX: usize = 100_000;
/// Most steps of an order of moves.
pub(super) const STEPS_MAX: usize = SLIVERS_MAX;
/// Most files that one `files:` layer carries.
pub const FILES_MAX: usize = 10_000;
/// Most overrides of a slice: which of them apply to a sliver is kept as bits of one number.
pub const OVERRIDES_MAX: usize = 64;

/// What a document describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The fleet itself.
    Fleet,
    /// A place with nodes.
    Site,
    /// A machine.
    Node,
    /// A published image.
    Template,
    /// Somebody who owns slices.
    Tenant,
    /// A service.
    Slice,
    /// Where the slivers of a slice are: its lock.
    Placement,
    /// In which order slivers move.
    Moves,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: [Self; 8] = [
        Self::Fleet,
        Self::Site,
        Self::Node,
        Self::Template,
        Self::Tenant,
        Self::Slice,
        Self::Placement,
        Self::Moves,
    ];

    /// As manifests write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "Fleet",
            Self::Site => "Site",
            Self::Node => "Node",
            Self::Template => "Template",
            Self::Tenant => "Tenant",
            Self::Slice => "Slice",
            Self::Placement => "Placement",
            Self::Moves => "Moves",
        }
    }

    /// As sentences name it.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Site => "site",
            Self::Node => "node",
            Self::Template => "template",
            Self::Tenant => "tenant",
            Self::Slice => "slice",
            Self::Placement => "placement",
            Self::Moves => "order of moves",
        }
    }

    /// What documents of this kind are for, in a line.
    #[must_use]
    pub fn doc(self) -> &'static str {
        match self {
            Self::Fleet => "All that one repository describes; there is one, in fleet.yaml at its root.",
            Self::Site => "A place with nodes, and what its owner allows there.",
            Self::Node => "One machine with one agent.",
            Self::Template => "A published image: its channels, and where it can be fetched.",
            Self::Tenant => "Somebody who owns slices, and how much of the fleet they may take.",
            Self::Slice => "One service in many places: image, resources, placement, state, health.",
            Self::Placement => {
                "Where the slivers of a slice with `replicas` are; written by `xeno place`, kept in placement/SLICE.lock.yaml."
            }
            Self::Moves => {
                "In which order slivers go where they are placed, so that each fits; written by `xeno evacuate`, kept in placement/moves.yaml."
            }
        }
    }

    pub(crate) fn shape(self) -> &'static MapShape {
        match self {
            Self::Fleet => &fleet::FLEET,
            Self::Site => &site::SITE,
            Self::Node => &site::NODE,
            Self::Template => &template::TEMPLATE,
            Self::Tenant => &tenant::TENANT,
            Self::Slice => &slice::SLICE,
            Self::Placement => &placement::PLACEMENT,
            Self::Moves => &moves::MOVES,
        }
    }
}

const fn map(fields: &'static [Field]) -> MapShape {
    MapShape {
        fields,
        later: &[],
        one_of: &[],
    }
}

const API: Field = required(
    "apiVersion",
    Shape::Word(&[API_VERSION]),
    "Version of the format of this document.",
);
const KIND: Field = required(
    "kind",
    Shape::Word(&[
        "Fleet",
        "Site",
        "Node",
        "Template",
        "Tenant",
        "Slice",
        "Placement",
        "Moves",
    ]),
    "What this document describes.",
);

/// What every document has, whatever its kind; used where the kind is not known.
pub(crate) static HEADER: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field of every kind, with where it is.
    fn fields(path: &str, map: &'static MapShape, all: &mut Vec<(String, &'static Field)>) {
        for field in map.fields {
            let path = format!("{path}.{}", field.name);
            let mut shape = &field.shape;
            while let Shape::List { item: inner, .. } | Shape::Free { value: inner, .. } = shape {
                shape = inner;
            }
            if let Shape::Map(map) | Shape::TextOrMap { map, .. } = shape {
                fields(&path, map, all);
            }
            all.push((path, field));
        }
    }

    #[test]
    fn every_field_says_what_it_is_in_one_line() {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            fields(kind.as_str(), kind.shape(), &mut all);
        }
        assert!(all.len() > 100, "{}", all.len());
        for (path, field) in all {
            let doc = field.doc;
            assert!(
                doc.ends_with('.') && doc.len() <= 160 && !doc.contains('\n'),
                "{path}: {doc}"
            );
            assert!(
                doc.starts_with(|c: char| c.is_ascii_uppercase() || c == '`'),
                "{path}: {doc}"
            );
            assert!(
                !(field.required && field.default.is_some()),
                "{path}: a default for what must be given"
            );
        }
    }

    #[test]
    fn the_kinds_are_those_that_the_header_allows() {
        let Shape::Word(words) = KIND.shape else {
            panic!("kind is a word");
        };
        assert!(
            words
                .iter()
                .copied()
                .eq(Kind::ALL.iter().map(|kind| kind.as_str()))
        );
    }
}
