//! From the text of one file to documents with positions: the only module that names `serde_yaml`.
//!
//! [`parse_file`] is a pure function of a path and bytes, so its result can be kept by path and git blob id. It works in
//! three passes: the events of the parser become a tree (bounds, duplicate keys, aliases), the tree is checked against
//! the tables of its kind (every mistake at once), and the typed decoder reads what is right of it. What spans several
//! documents is the matter of [`crate::resolve`], which goes on with documents that have mistakes: whoever pushes
//! learns of all of them at once, and of none that only follows from another.

mod decode;
mod edit;
mod kinds;
mod partial;
mod raw;
mod read;
mod reference;
mod schema;
mod shape;
mod text;
mod tree;

pub(crate) use edit::name_scalar;
pub use edit::{EditError, Editor};
pub use kinds::{API_VERSION, FILES_MAX, Kind, OVERRIDES_MAX, SLIVERS_MAX};
pub use reference::markdown as reference;
pub use schema::json_schema;
pub use text::FILE_LEN_MAX;
pub use tree::{DEPTH_MAX, DOCUMENTS_MAX, Step, VALUES_MAX};

pub(crate) use decode::Body;
pub(crate) use partial::{Entries, Stated};
pub(crate) use raw::{
    RawDay, RawDefaults, RawDisturbance, RawFile, RawFleet, RawHealth, RawHypervisor, RawImage, RawLayer,
    RawLock, RawMigration, RawMigrationPolicy, RawMount, RawMoves, RawOnFailure, RawPolicy, RawPublish,
    RawQuota, RawResources, RawRollback, RawRollbackData, RawRollout, RawSite, RawSlice, RawSpread, RawStart,
    RawState, RawTemplate, RawTenant, RawWave, RawWindow,
};
pub(crate) use read::{
    FilePath, FromText, NumberRange, Overlay, PublicAddress, SLIVER_PLACE, Short, TemplateChoice,
    TemplateContent, TemplateSource, Text, Writable,
};

use crate::diagnostic::{Code, Diagnostic, Place, did_you_mean};
use serde_yaml::Value;
use text::SourceText;
use tree::{NodeId, Tree, path_text};

/// One file, parsed: its documents, and what is wrong with them.
#[derive(Clone, Debug)]
pub struct ParsedFile {
    path: String,
    /// `None` if the bytes were not text.
    source: Option<SourceText>,
    tree: Tree,
    documents: Vec<Document>,
    findings: Vec<Diagnostic>,
    unread: Unread,
}

/// How much of a file could not be read. What it may define must not be called missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unread {
    /// Every document is known.
    Nothing,
    /// Some document is not, but a name that it defines stands somewhere in the text.
    Documents,
    /// It may define anything.
    Everything,
}

/// One document whose kind is known.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    root: NodeId,
    pub(crate) kind: Kind,
    /// `None` if it has none, two, or one that is no name, which has been said.
    pub(crate) name: Option<String>,
    /// What could be read of it; `None` if that is nothing.
    pub(crate) body: Option<Body>,
}

/// Parses a file. Nothing that it holds can make this fail, panic, or take more than time and memory in proportion to
/// its length: what is wrong with it is in the result.
#[must_use]
pub fn parse_file(path: &str, bytes: &[u8]) -> ParsedFile {
    let mut file = ParsedFile {
        path: path.to_owned(),
        source: None,
        tree: Tree::default(),
        documents: Vec::new(),
        findings: Vec::new(),
        unread: Unread::Nothing,
    };
    let source = match SourceText::new(path, bytes) {
        Ok(source) => source,
        Err(finding) => {
            file.findings.push(*finding);
            file.unread = Unread::Everything;
            return file;
        }
    };
    let built = tree::build(&source);
    file.tree = built.tree;
    file.findings = built.findings;
    if !built.whole {
        file.unread = Unread::Documents;
    }
    // The other reader stops where the tree has found something.
    let plain = file.findings.is_empty();
    let roots = file.tree.roots.clone();
    let mut checked = Vec::with_capacity(roots.len());
    for root in roots {
        if file.findings.len() >= tree::FINDINGS_MAX {
            file.unread = file.unread.max(Unread::Documents);
            break;
        }
        let document = file.check(&source, root);
        // What was not checked must not be read.
        let whole = file.findings.len() < tree::FINDINGS_MAX;
        checked.push((root, document, whole));
    }
    let agreed = if plain {
        decode::agreed(&source, &file.tree, &mut file.findings)
    } else {
        vec![true; checked.len()]
    };
    for (i, (root, document, whole)) in checked.into_iter().enumerate() {
        let Some((kind, value)) = document else {
            continue;
        };
        let name = value.get("metadata").and_then(|metadata| metadata.get("name"));
        let name = name.and_then(|name| name.as_str());
        let name = name.filter(|_| !file.named_twice(root)).map(str::to_owned);
        let usable = whole && agreed.get(i).copied().unwrap_or(false);
        let body = usable
            .then(|| decode::body(&source, &file.tree, root, kind, value, &mut file.findings))
            .flatten();
        file.documents.push(Document {
            root,
            kind,
            name,
            body,
        });
    }
    file.source = Some(source);
    file
}

impl ParsedFile {
    /// Stands for a file that is larger than [`FILE_LEN_MAX`], so that nobody needs to load it.
    #[must_use]
    pub fn too_large(path: &str, len: u64) -> Self {
        Self {
            path: path.to_owned(),
            source: None,
            tree: Tree::default(),
            documents: Vec::new(),
            findings: vec![text::too_large(path, len)],
            unread: Unread::Everything,
        }
    }

    /// Its path below the fleet's root.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it by itself.
    #[must_use]
    pub fn findings(&self) -> &[Diagnostic] {
        &self.findings
    }

    /// The kinds and names of its documents, as far as they could be told.
    pub fn names(&self) -> impl Iterator<Item = (Kind, &str)> {
        self.documents
            .iter()
            .filter_map(|document| Some((document.kind, document.name.as_deref()?)))
    }

    pub(crate) fn unread(&self) -> Unread {
        self.unread
    }

    /// Its text, empty if it has none.
    pub(crate) fn text(&self) -> &str {
        self.source.as_ref().map_or("", |source| source.text())
    }

    pub(crate) fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// The place of a value of a document, or of what is nearest above it.
    pub(crate) fn place(&self, document: &Document, path: &[Step<'_>]) -> Place {
        let (_, at) = self.tree.walk(document.root, path);
        self.place_of(at, path)
    }

    /// The place of a value's key.
    pub(crate) fn key_place(&self, document: &Document, path: &[Step<'_>]) -> Place {
        let (at, _) = self.tree.walk(document.root, path);
        self.place_of(at, path)
    }

    fn place_of(&self, at: NodeId, path: &[Step<'_>]) -> Place {
        match &self.source {
            Some(source) => source.place(self.tree.node(at).span, path_text(path)),
            None => Place::file(&self.path),
        }
    }

    /// Whether a document may have either of two names, which has been said.
    fn named_twice(&self, root: NodeId) -> bool {
        let metadata = self.tree.entry(root, "metadata");
        self.tree.count(root, "metadata") > 1
            || metadata.is_some_and(|(_, metadata)| self.tree.count(metadata, "name") > 1)
    }

    /// Checks a document's structure and says what it is, if that can be told, and what is right of it.
    fn check(&mut self, source: &SourceText, root: NodeId) -> Option<(Kind, Value)> {
        let kind_at = self.tree.entry(root, "kind");
        let word = kind_at.map(|(_, value)| self.tree.text(value).to_owned());
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| Some(kind.as_str()) == word.as_deref());
        if let Some(kind) = kind {
            let value = shape::check(source, &self.tree, root, kind.shape(), &mut self.findings);
            return Some((kind, value));
        }
        self.unread = self.unread.max(Unread::Documents);
        let place = |id: NodeId, path: &[Step<'_>]| source.place(self.tree.node(id).span, path_text(path));
        let known = || Kind::ALL.iter().map(|kind| kind.as_str());
        let finding = match kind_at {
            Some((_, value)) => {
                let shown: String = self.tree.text(value).chars().take(80).collect();
                let place = place(value, &[Step::Key("kind")]);
                let mut finding =
                    Diagnostic::error(Code::UnknownKind, place, format!("there is no kind `{shown}`"));
                finding
                    .help
                    .extend(did_you_mean(&shown, known().collect::<Vec<_>>(), "kinds"));
                finding
            }
            None => {
                let misspelt = kinds::HEADER
                    .iter()
                    .any(|key| self.tree.entry(root, key).is_some());
                let finding = Diagnostic::error(
                    Code::UnknownKind,
                    place(root, &[]),
                    "the document does not say its `kind`",
                );
                if misspelt {
                    finding.help(format!("known kinds: {}", known().collect::<Vec<_>>().join(", ")))
                } else {
                    finding.help("every *.yaml below the fleet's root is read as a manifest; give files for guests another ending")
                }
            }
        };
        self.findings.push(finding);
        None
    }
}
