//! A tree as all sides can show it.

use std::collections::BTreeMap;

/// The type of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Character,
    Block,
}

/// A time stamp: those that sequences set lie long ago, those of a clock do not and differ from side to side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    At(i64, u32),
    Recently,
}

/// The first second of 2020; whatever is later comes from a clock.
const RECENT: i64 = 1_577_836_800;

impl When {
    pub(crate) fn new(seconds: i64, nanos: u32) -> Self {
        if seconds >= RECENT {
            Self::Recently
        } else {
            Self::At(seconds, nanos)
        }
    }
}

/// One object.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u64,
    /// Zero for directories and devices, where it says nothing.
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) atime: When,
    pub(crate) mtime: When,
    /// What stands in a file, or where a symbolic link leads.
    pub(crate) content: Vec<u8>,
    /// The first path, in order, that leads to the same object.
    pub(crate) same_as: Vec<u8>,
    /// The inode number on its own side.
    pub(crate) number: u64,
}

/// Objects by path from the root, which is the empty path.
pub(crate) type Tree = BTreeMap<Vec<u8>, Shown>;

/// Fills in which paths lead to one object.
pub(crate) fn tie(tree: &mut Tree) {
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (path, shown) in tree {
        shown.same_as = first.entry(shown.number).or_insert_with(|| path.clone()).clone();
    }
}

/// Whom ours is held against: what each of them says in a way of its own is left to the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Against {
    /// Reading changes the access time of what is in memory, and comparing reads.
    Model,
    /// A directory that lies in several layers has one link (`ovl_getattr`), whatever is in it.
    Overlayfs,
}

/// The first difference between two trees, in words.
pub(crate) fn difference(ours: &Tree, theirs: &Tree, against: Against) -> Option<String> {
    for path in ours.keys().chain(theirs.keys()) {
        let name = String::from_utf8_lossy(path);
        match (ours.get(path), theirs.get(path)) {
            (Some(ours), Some(theirs)) => {
                let merged =
                    against == Against::Overlayfs && theirs.kind == Kind::Directory && theirs.links == 1;
                let atime = against == Against::Model || ours.atime == theirs.atime;
                let fields = [
                    ("type", ours.kind == theirs.kind),
                    ("mode", ours.mode == theirs.mode),
                    ("owner", (ours.uid, ours.gid) == (theirs.uid, theirs.gid)),
                    ("links", merged || ours.links == theirs.links),
                    ("size", ours.size == theirs.size),
                    ("device", ours.device == theirs.device),
                    ("access time", atime),
                    ("modification time", ours.mtime == theirs.mtime),
                    ("content", ours.content == theirs.content),
                    ("identity", ours.same_as == theirs.same_as),
                ];
                if let Some((field, _)) = fields.iter().find(|(_, same)| !same) {
                    return Some(format!("/{name}: {field}: {} and {}", brief(ours), brief(theirs)));
                }
            }
            (Some(ours), None) => return Some(format!("/{name}: {} and nothing", brief(ours))),
            (None, Some(theirs)) => return Some(format!("/{name}: nothing and {}", brief(theirs))),
            (None, None) => {}
        }
    }
    None
}

/// One object in one line.
pub(crate) fn brief(shown: &Shown) -> String {
    format!(
        "{:?} {:o} {}:{} links {} size {} {:?} atime {:?} mtime {:?} same as /{}",
        shown.kind,
        shown.mode,
        shown.uid,
        shown.gid,
        shown.links,
        shown.size,
        shown.device,
        shown.atime,
        shown.mtime,
        String::from_utf8_lossy(&shown.same_as)
    )
}
