//! What a commit holds, as far as manifests need to know: names, sizes and kinds of files, not their content.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Every file below the directory that `fleet.yaml` sits in, manifests included, by its path from there: `a/b.yaml`,
/// never with a leading `/`, `.` or `..`. Directories appear only through what they hold, as in git.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryTree {
    /// Files by path.
    pub entries: BTreeMap<String, TreeEntry>,
}

/// One file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Git object id of its content: 40 hexadecimal digits.
    pub blob: String,
    /// Length in bytes; 0 for submodules.
    pub size: u64,
    /// What kind of file it is.
    pub mode: FileMode,
}

/// Kinds of files in git (git-fast-import(1), "filemodify").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileMode {
    /// 100644.
    Regular,
    /// 100755.
    Executable,
    /// 120000: its content is the path it leads to.
    Symlink,
    /// 160000: another repository's commit; its content is not here.
    Submodule,
}

impl RepositoryTree {
    /// The files below a directory, by full path, in order.
    pub fn below<'a>(&'a self, directory: &str) -> impl Iterator<Item = (&'a str, &'a TreeEntry)> {
        let prefix = format!("{directory}/");
        self.entries
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .map(|(path, entry)| (path.as_str(), entry))
    }
}
