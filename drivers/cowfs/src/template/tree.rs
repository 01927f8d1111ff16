//! A whole tree in memory while a layer is being made: members arrive in any order, the encoded index does not show it.

use std::collections::BTreeMap;

use super::format::{self, NodeRecord, Payload};
use crate::attr::{Device, FileType, Time};
use crate::layer::ContentHash;

/// What is wrong with a member of a tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    /// Not a name: empty, too long, `.`, `..`, or with `/` or NUL in it.
    #[error("not a usable file name: {}", String::from_utf8_lossy(.0))]
    BadName(Vec<u8>),
    /// Something lies below an object that is no directory.
    #[error("{} lies below something that is not a directory", String::from_utf8_lossy(.0))]
    NotADirectory(Vec<u8>),
    /// A directory cannot have a second name.
    #[error("a hard link to a directory")]
    LinkToDirectory,
    /// A symlink's target is empty, longer than 4095 bytes or contains NUL.
    #[error("a symbolic link with an impossible target")]
    BadTarget,
    /// A tree of more objects, names or bytes of names than the index format can count.
    #[error("the tree is too large for an index")]
    TooLarge,
}

/// Owner, permissions and time of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, setuid, setgid and sticky; other bits are dropped.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content. Layers keep no other times: those depend on the machine.
    pub mtime: Time,
}

/// An object that is no directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// A regular file and what is in it; the hash is zero in a snapshot.
    Regular {
        /// Length in bytes.
        size: u64,
        /// Its content.
        content: ContentHash,
    },
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A block device.
    Block(Device),
    /// A character device.
    Character(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Names an object of one [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TreeId(usize);

#[derive(Debug)]
struct TreeNode {
    meta: Meta,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Directory(Directory),
    Leaf(Leaf),
}

#[derive(Debug, Default)]
struct Directory {
    children: BTreeMap<Box<[u8]>, Child>,
    opaque: bool,
    implied: bool,
}

#[derive(Clone, Copy, Debug)]
enum Child {
    Node(usize),
    Whiteout,
}

/// An index as bytes.
pub struct Encoded {
    /// The bytes, ready for [`super::index::Index`].
    pub bytes: Vec<u8>,
    /// Which object got which number: the object at position `i` is node `i + 1`.
    pub order: Vec<TreeId>,
}

/// A tree under construction. A later member replaces an earlier one of the same path.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<TreeNode>,
}

impl Tree {
    /// The root directory of every tree.
    pub const ROOT: TreeId = TreeId(0);

    /// An empty tree whose root is implied and has these attributes for want of better ones.
    #[must_use]
    pub fn new(implied: Meta) -> Self {
        Self {
            nodes: vec![TreeNode {
                meta: implied,
                body: Body::Directory(Directory {
                    implied: true,
                    ..Directory::default()
                }),
            }],
        }
    }

    /// Gives a directory its attributes: from now on it is not merely implied. Does nothing to other objects.
    pub fn describe(&mut self, dir: TreeId, meta: Meta) {
        let node = &mut self.nodes[dir.0];
        if let Body::Directory(directory) = &mut node.body {
            directory.implied = false;
            node.meta = meta;
        }
    }

    /// Puts a directory at `name`, or describes the one that is there.
    ///
    /// # Errors
    /// [`TreeError::BadName`], or [`TreeError::NotADirectory`] if `parent` is none.
    pub fn directory(&mut self, parent: TreeId, name: &[u8], meta: Meta) -> Result<TreeId, TreeError> {
        if let Some(Child::Node(child)) = self.child(parent, name)?
            && matches!(self.nodes[child].body, Body::Directory(_))
        {
            self.describe(TreeId(child), meta);
            return Ok(TreeId(child));
        }
        self.put(parent, name, meta, Body::Directory(Directory::default()))
    }

    /// The directory at `name`, made as an implied one if nothing is there.
    ///
    /// # Errors
    /// [`TreeError::NotADirectory`] if something else is there: nothing is ever looked up through a symlink.
    pub fn implied_directory(&mut self, parent: TreeId, name: &[u8]) -> Result<TreeId, TreeError> {
        match self.child(parent, name)? {
            Some(Child::Node(child)) if matches!(self.nodes[child].body, Body::Directory(_)) => {
                Ok(TreeId(child))
            }
            Some(Child::Node(_)) => Err(TreeError::NotADirectory(name.to_vec())),
            Some(Child::Whiteout) | None => {
                let meta = self.nodes[Self::ROOT.0].meta;
                let meta = Meta {
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                    ..meta
                };
                let implied = Directory {
                    implied: true,
                    ..Directory::default()
                };
                self.put(parent, name, meta, Body::Directory(implied))
            }
        }
    }

    /// Puts an object that is no directory at `name`.
    ///
    /// # Errors
    /// [`TreeError::BadName`], [`TreeError::BadTarget`], or [`TreeError::NotADirectory`] if `parent` is none.
    pub fn leaf(&mut self, parent: TreeId, name: &[u8], meta: Meta, leaf: Leaf) -> Result<TreeId, TreeError> {
        if let Leaf::Symlink(target) = &leaf
            && !format::is_target(target)
        {
            return Err(TreeError::BadTarget);
        }
        self.put(parent, name, meta, Body::Leaf(leaf))
    }

    /// Gives `target` another name.
    ///
    /// # Errors
    /// [`TreeError::LinkToDirectory`], and those of [`Tree::leaf`].
    pub fn link(&mut self, parent: TreeId, name: &[u8], target: TreeId) -> Result<(), TreeError> {
        if matches!(self.nodes[target.0].body, Body::Directory(_)) {
            return Err(TreeError::LinkToDirectory);
        }
        self.child(parent, name)?;
        self.children(parent, name)?
            .insert(name.into(), Child::Node(target.0));
        Ok(())
    }

    /// Marks `name` as deleted. An object of the same name in this layer stays, and then a directory is opaque: the
    /// mark only speaks about the layers below.
    ///
    /// # Errors
    /// Those of [`Tree::leaf`].
    pub fn whiteout(&mut self, parent: TreeId, name: &[u8]) -> Result<(), TreeError> {
        match self.child(parent, name)? {
            Some(Child::Node(child)) => {
                if let Body::Directory(directory) = &mut self.nodes[child].body {
                    directory.opaque = true;
                }
            }
            Some(Child::Whiteout) => {}
            None => {
                self.children(parent, name)?.insert(name.into(), Child::Whiteout);
            }
        }
        Ok(())
    }

    /// Makes a directory hide everything that lower layers have at its place.
    ///
    /// # Errors
    /// [`TreeError::NotADirectory`].
    pub fn set_opaque(&mut self, dir: TreeId) -> Result<(), TreeError> {
        match &mut self.nodes[dir.0].body {
            Body::Directory(directory) => {
                directory.opaque = true;
                Ok(())
            }
            Body::Leaf(_) => Err(TreeError::NotADirectory(Vec::new())),
        }
    }

    /// The object at `name` in `parent`, if there is one.
    #[must_use]
    pub fn find(&self, parent: TreeId, name: &[u8]) -> Option<TreeId> {
        match &self.nodes[parent.0].body {
            Body::Directory(directory) => match directory.children.get(name)? {
                Child::Node(child) => Some(TreeId(*child)),
                Child::Whiteout => None,
            },
            Body::Leaf(_) => None,
        }
    }

    /// The tree as an index. `snapshot` says that regular files have no content hash.
    ///
    /// Numbers go by breadth: the root is 1, then the objects of the root by name, then those of its first directory,
    /// and so on. An object of several names is numbered at the first.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`].
    pub fn encode(&self, snapshot: bool) -> Result<Encoded, TreeError> {
        let mut numbers = vec![0_u32; self.nodes.len()];
        let mut links = vec![0_u32; self.nodes.len()];
        let mut order = vec![Self::ROOT];
        let mut places = vec![(0_u32, 0_u32)];
        let mut ranges = Vec::new();
        let mut entries = Vec::new();
        let mut strings = Vec::new();
        numbers[0] = 1;
        links[0] = 2;
        let mut next = 0;
        while let Some(&TreeId(at)) = order.get(next) {
            next += 1;
            let first = small(entries.len() / format::ENTRY_SIZE)?;
            if let Body::Directory(directory) = &self.nodes[at].body {
                for (name, child) in &directory.children {
                    let node = match *child {
                        Child::Whiteout => 0,
                        Child::Node(child) => {
                            if numbers[child] == 0 {
                                order.push(TreeId(child));
                                numbers[child] = small(order.len())?;
                                places.push((numbers[at], small(entries.len() / format::ENTRY_SIZE)?));
                            }
                            links[child] = links[child].checked_add(1).ok_or(TreeError::TooLarge)?;
                            if matches!(self.nodes[child].body, Body::Directory(_)) {
                                links[child] = 2;
                                links[at] = links[at].checked_add(1).ok_or(TreeError::TooLarge)?;
                            }
                            numbers[child]
                        }
                    };
                    format::put_entry(&mut entries, small(strings.len())?, name, node);
                    strings.extend_from_slice(name);
                }
            }
            ranges.push((first, small(entries.len() / format::ENTRY_SIZE)? - first));
        }

        let mut nodes = Vec::with_capacity(order.len() * format::NODE_SIZE);
        for (i, &TreeId(at)) in order.iter().enumerate() {
            let TreeNode { meta, body } = &self.nodes[at];
            let none = Device::default();
            let (file_type, size, payload) = match body {
                Body::Directory(_) => {
                    let (first, count) = ranges[i];
                    (
                        FileType::Directory,
                        format::DIRECTORY_SIZE,
                        Payload::Directory { first, count },
                    )
                }
                Body::Leaf(Leaf::Regular { size, content }) => {
                    (FileType::Regular, *size, Payload::Content(*content))
                }
                Body::Leaf(Leaf::Symlink(target)) => {
                    let offset = small(strings.len())?;
                    let len = small(target.len())?;
                    strings.extend_from_slice(target);
                    (FileType::Symlink, u64::from(len), Payload::Target { offset, len })
                }
                Body::Leaf(Leaf::Block(device)) => (FileType::Block, 0, Payload::Device(*device)),
                Body::Leaf(Leaf::Character(device)) => (FileType::Character, 0, Payload::Device(*device)),
                Body::Leaf(Leaf::Fifo) => (FileType::Fifo, 0, Payload::Device(none)),
                Body::Leaf(Leaf::Socket) => (FileType::Socket, 0, Payload::Device(none)),
            };
            let (opaque, implied) = match body {
                Body::Directory(directory) => (directory.opaque, directory.implied),
                Body::Leaf(_) => (false, false),
            };
            let (parent, place) = places[i];
            NodeRecord {
                file_type,
                opaque,
                implied,
                mode: if file_type == FileType::Symlink {
                    0o777
                } else {
                    meta.mode & 0o7777
                },
                links: links[at],
                uid: meta.uid,
                gid: meta.gid,
                size,
                mtime: meta.mtime,
                parent,
                place,
                payload,
            }
            .encode(&mut nodes);
        }
        small(strings.len())?;
        Ok(Encoded {
            bytes: format::assemble(snapshot, &nodes, &entries, &strings),
            order,
        })
    }

    fn child(&self, parent: TreeId, name: &[u8]) -> Result<Option<Child>, TreeError> {
        if !format::is_name(name) {
            return Err(TreeError::BadName(name.to_vec()));
        }
        match &self.nodes[parent.0].body {
            Body::Directory(directory) => Ok(directory.children.get(name).copied()),
            Body::Leaf(_) => Err(TreeError::NotADirectory(name.to_vec())),
        }
    }

    fn children(
        &mut self,
        parent: TreeId,
        name: &[u8],
    ) -> Result<&mut BTreeMap<Box<[u8]>, Child>, TreeError> {
        match &mut self.nodes[parent.0].body {
            Body::Directory(directory) => Ok(&mut directory.children),
            Body::Leaf(_) => Err(TreeError::NotADirectory(name.to_vec())),
        }
    }

    fn put(&mut self, parent: TreeId, name: &[u8], meta: Meta, mut body: Body) -> Result<TreeId, TreeError> {
        let before = self.child(parent, name)?;
        if let (Some(Child::Whiteout), Body::Directory(directory)) = (before, &mut body) {
            directory.opaque = true;
        }
        let id = self.nodes.len();
        self.nodes.push(TreeNode { meta, body });
        self.children(parent, name)?.insert(name.into(), Child::Node(id));
        Ok(TreeId(id))
    }
}

/// Counts and offsets of an index have 32 bits.
fn small(count: usize) -> Result<u32, TreeError> {
    u32::try_from(count).map_err(|_| TreeError::TooLarge)
}
