//! Names that may be defined where nobody could read.

use std::collections::BTreeSet;

use crate::manifest::{Kind, ParsedFile, Unread};

/// What the documents that could not be read may define. A name that only seems to be missing is not reported: once
/// the document is right, it may be there.
pub(super) struct UnreadNames {
    anything: bool,
    /// Kinds of documents whose names are wrong.
    kinds: BTreeSet<Kind>,
    /// Words of files with documents that could not be told, as they would be written as names.
    words: BTreeSet<String>,
    nothing: bool,
}

impl UnreadNames {
    pub(super) fn of(files: &[&ParsedFile]) -> Self {
        let unread = |file: &&&ParsedFile| file.unread() == Unread::Documents;
        Self {
            anything: files.iter().any(|file| file.unread() == Unread::Everything),
            kinds: BTreeSet::new(),
            words: files
                .iter()
                .filter(unread)
                .flat_map(|file| words(file.text()))
                .collect(),
            nothing: files.iter().all(|file| file.unread() == Unread::Nothing),
        }
    }

    /// Something that may define anything.
    pub(super) fn add_everything(&mut self) {
        self.anything = true;
        self.nothing = false;
    }

    /// A document of a known kind whose name is wrong.
    pub(super) fn add_kind(&mut self, kind: Kind) {
        self.kinds.insert(kind);
    }

    /// Whether every document's kind is known.
    pub(super) fn is_nothing(&self) -> bool {
        self.nothing
    }

    pub(super) fn may_define(&self, kind: Kind, name: &str) -> bool {
        self.anything || self.kinds.contains(&kind) || self.words.contains(name)
    }
}

/// Whatever may be meant as a name: letter case and separators are what people get wrong.
fn words(text: &str) -> impl Iterator<Item = String> {
    let within = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.split(move |c| !within(c)).filter_map(|word| {
        let word = word.to_ascii_lowercase().replace(['_', '.'], "-");
        let word = word.trim_matches('-');
        (!word.is_empty()).then(|| word.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_however_it_is_written() {
        let found: Vec<String> = words("metadata: { name: 'Cam_01' }\n# see web.yaml\n").collect();
        assert_eq!(found, ["metadata", "name", "cam-01", "see", "web-yaml"]);
    }
}
