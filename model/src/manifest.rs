//! From the text of one file to documents with positions: the only module that names `serde_yaml`.
//!
//! [`parse_file`] is a pure function of a path and bytes, so its result can be kept by path and git blob id. It works in
//! three passes: the events of the parser become a tree (bounds, duplicate keys, aliases), the tree is checked against
//! the tables of its kind (every mistake at once), and only then the typed decoder reads it. What spans several
//! documents is the matter of [`crate::resolve`].

mod decode;
mod kinds;
mod raw;
mod read;
mod shape;
mod text;
mod tree;

pub use kinds::{API_VERSION, FILES_MAX, Kind, SLIVERS_MAX};
pub use text::FILE_LEN_MAX;
pub use tree::{DEPTH_MAX, DOCUMENTS_MAX, VALUES_MAX};

pub(crate) use decode::Body;
pub(crate) use raw::{RawFile, RawHealth, RawHypervisor, RawLayer, RawSlice, RawState, RawWritable};
pub(crate) use read::{FilePath, TemplateChoice, TemplateContent, Text};
pub(crate) use tree::Step;

use crate::diagnostic::{Code, Diagnostic, Place, did_you_mean};
use text::SourceText;
use tree::{NodeId, ScalarKind, Tree, path_text};

/// One file, parsed: its documents, and what is wrong with them.
#[derive(Clone, Debug)]
pub struct ParsedFile {
    path: String,
    /// `None` if the bytes were not text.
    source: Option<SourceText>,
    tree: Tree,
    documents: Vec<Document>,
    findings: Vec<Diagnostic>,
    /// Whether something in it could not be told: names it may define are then not called missing.
    opaque: bool,
}

/// One document whose kind and name are known.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    root: NodeId,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// `None` if there is something wrong with it.
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
        opaque: false,
    };
    let source = match SourceText::new(path, bytes) {
        Ok(source) => source,
        Err(finding) => {
            file.findings.push(*finding);
            file.opaque = true;
            return file;
        }
    };
    let built = tree::build(&source);
    file.tree = built.tree;
    file.findings = built.findings;
    file.opaque = !built.whole;
    let usable = file.findings.is_empty();
    let roots = file.tree.roots.clone();
    let mut headers = Vec::with_capacity(roots.len());
    for root in roots {
        if file.findings.len() >= tree::FINDINGS_MAX {
            file.opaque = true;
            break;
        }
        let before = file.findings.len();
        let header = file.header(&source, root);
        headers.push((root, header, file.findings.len() == before));
    }
    // Decoding costs a second parse, and the other reader stops where the tree has found something.
    let mut values = if usable {
        decode::values(&source, &file.tree, &mut file.findings)
    } else {
        Vec::new()
    };
    for (i, (root, header, right)) in headers.into_iter().enumerate() {
        let Some((kind, name)) = header else {
            file.opaque = true;
            continue;
        };
        let value = values.get_mut(i).and_then(Option::take).filter(|_| right);
        let body =
            value.and_then(|value| decode::body(&source, &file.tree, root, kind, value, &mut file.findings));
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
            opaque: true,
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
            .map(|document| (document.kind, document.name.as_str()))
    }

    pub(crate) fn opaque(&self) -> bool {
        self.opaque
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

    /// Checks a document's structure and says what it is, if that can be told.
    fn header(&mut self, source: &SourceText, root: NodeId) -> Option<(Kind, String)> {
        let kind_at = self.tree.entry(root, "kind");
        let word = kind_at.map(|(_, value)| self.tree.text(value).to_owned());
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| Some(kind.as_str()) == word.as_deref());
        if let Some(kind) = kind {
            shape::check(source, &self.tree, root, kind.shape(), &mut self.findings);
            let (_, metadata) = self.tree.entry(root, "metadata")?;
            let (_, name) = self.tree.entry(metadata, "name")?;
            let named = self.tree.scalar_kind(name) == Some(ScalarKind::Text);
            return named.then(|| (kind, self.tree.text(name).to_owned()));
        }
        let place = |id: NodeId, path: &[Step<'_>]| source.place(self.tree.node(id).span, path_text(path));
        let known = || Kind::ALL.iter().map(|kind| kind.as_str());
        let finding = match kind_at {
            Some((_, value)) => {
                let shown: String = self.tree.text(value).chars().take(80).collect();
                let place = place(value, &[Step::Key("kind")]);
                if matches!(shown.as_str(), "Tenant") {
                    Diagnostic::error(
                        Code::NotAvailable,
                        place,
                        format!("`{shown}` is not available in this version"),
                    )
                } else {
                    let mut finding =
                        Diagnostic::error(Code::UnknownKind, place, format!("there is no kind `{shown}`"));
                    finding
                        .help
                        .extend(did_you_mean(&shown, known().collect::<Vec<_>>(), "kinds"));
                    finding
                }
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
