//! What tests of this crate share: layers made of a few lines, a content store in memory, and the tree that a stack must be
//! like.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};

use crate::attr::{Attr, Device, FileType, SetAttr, Time};
use crate::layer::{
    ContentHash, ContentSource, Entry, Layer, LayerError, LayerId, NamedEntry, NodeNumber, ROOT,
};
use crate::memory::Memory;
use crate::service::{Caller, CreateMode, FileService, Handle, Special, Stability};

/// A layer in memory.
#[derive(Clone, Debug)]
pub(crate) struct MemoryLayer {
    id: LayerId,
    nodes: BTreeMap<NodeNumber, MemoryNode>,
    hashed: bool,
}

#[derive(Clone, Debug)]
struct MemoryNode {
    attr: Attr,
    place: Option<(NodeNumber, Vec<u8>)>,
    entries: BTreeMap<Vec<u8>, Entry>,
    opaque: bool,
    bytes: Vec<u8>,
}

impl MemoryLayer {
    /// A layer with an empty root.
    pub(crate) fn new(id: &[u8; 8]) -> Self {
        let mut layer = Self {
            id: LayerId(*id),
            nodes: BTreeMap::new(),
            hashed: false,
        };
        layer.add(FileType::Directory, 0o755, None, Vec::new());
        layer
    }

    /// Says that its files are in the content store too.
    pub(crate) fn hashed(mut self) -> Self {
        self.hashed = true;
        self
    }

    fn add(
        &mut self,
        file_type: FileType,
        mode: u32,
        place: Option<(NodeNumber, Vec<u8>)>,
        bytes: Vec<u8>,
    ) -> NodeNumber {
        let number = ROOT + self.nodes.len() as u64;
        let time = Time {
            seconds: 1_700_000_000,
            nanos: 5,
        };
        let directory = file_type == FileType::Directory;
        let attr = Attr {
            file_type,
            mode,
            links: if directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            size: bytes.len() as u64,
            used: bytes.len() as u64,
            device: Device::default(),
            atime: time,
            mtime: time,
            ctime: time,
        };
        self.nodes.insert(
            number,
            MemoryNode {
                attr,
                place,
                entries: BTreeMap::new(),
                opaque: false,
                bytes,
            },
        );
        number
    }

    /// Finds or makes the directory of `path` and splits off the last name.
    fn spot(&mut self, path: &str) -> (NodeNumber, Vec<u8>) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = if dir.is_empty() {
            ROOT
        } else {
            self.make_dir(dir, 0o755)
        };
        (dir, name.as_bytes().to_vec())
    }

    fn put(&mut self, path: &str, file_type: FileType, mode: u32, bytes: &[u8]) -> NodeNumber {
        let (dir, name) = self.spot(path);
        let number = self.add(file_type, mode, Some((dir, name.clone())), bytes.to_vec());
        let parent = self.nodes.get_mut(&dir).expect("spot makes it");
        parent.entries.insert(name, Entry::Node(number));
        if file_type == FileType::Directory {
            parent.attr.links += 1;
        }
        number
    }

    fn make_dir(&mut self, path: &str, mode: u32) -> NodeNumber {
        match self.number(path) {
            Some(number) => number,
            None => self.put(path, FileType::Directory, mode, b""),
        }
    }

    /// Adds a file.
    pub(crate) fn file(mut self, path: &str, bytes: &[u8]) -> Self {
        self.put(path, FileType::Regular, 0o644, bytes);
        self
    }

    /// Adds a directory.
    pub(crate) fn dir(mut self, path: &str) -> Self {
        self.make_dir(path, 0o755);
        self
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(mut self, path: &str, target: &[u8]) -> Self {
        self.put(path, FileType::Symlink, 0o777, target);
        self
    }

    /// Adds a character device.
    pub(crate) fn device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let number = self.put(path, FileType::Character, 0o600, b"");
        self.nodes.get_mut(&number).expect("just made").attr.device = Device { major, minor };
        self
    }

    /// Adds another name for a file.
    pub(crate) fn link(mut self, old: &str, new: &str) -> Self {
        let number = self.number(old).expect("the file is there");
        let (dir, name) = self.spot(new);
        self.nodes
            .get_mut(&dir)
            .expect("spot makes it")
            .entries
            .insert(name, Entry::Node(number));
        self.nodes.get_mut(&number).expect("it is there").attr.links += 1;
        self
    }

    /// Adds a whiteout.
    pub(crate) fn whiteout(mut self, path: &str) -> Self {
        let (dir, name) = self.spot(path);
        self.nodes
            .get_mut(&dir)
            .expect("spot makes it")
            .entries
            .insert(name, Entry::Whiteout);
        self
    }

    /// Makes a directory hide what is below.
    pub(crate) fn opaque(mut self, path: &str) -> Self {
        let number = self.make_dir(path, 0o755);
        self.nodes.get_mut(&number).expect("just made").opaque = true;
        self
    }

    /// Changes the attributes of something.
    pub(crate) fn set(mut self, path: &str, change: impl FnOnce(&mut Attr)) -> Self {
        let number = self.number(path).expect("it is there");
        change(&mut self.nodes.get_mut(&number).expect("it is there").attr);
        self
    }

    /// The number at a path.
    pub(crate) fn number(&self, path: &str) -> Option<NodeNumber> {
        let mut number = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match self.nodes.get(&number)?.entries.get(name.as_bytes())? {
                Entry::Node(child) => number = *child,
                Entry::Whiteout => return None,
            }
        }
        Some(number)
    }

    /// All contents, for a content store.
    pub(crate) fn contents(&self) -> HashMap<[u8; 32], Vec<u8>> {
        self.nodes
            .values()
            .map(|node| (*blake3::hash(&node.bytes).as_bytes(), node.bytes.clone()))
            .collect()
    }

    fn node(&self, node: NodeNumber) -> Result<&MemoryNode, LayerError> {
        self.nodes
            .get(&node)
            .ok_or(LayerError::NoSuchNode { layer: self.id, node })
    }
}

impl Layer for MemoryLayer {
    fn id(&self) -> LayerId {
        self.id
    }

    fn attr(&self, node: NodeNumber) -> Result<Attr, LayerError> {
        Ok(self.node(node)?.attr)
    }

    fn lookup(&self, dir: NodeNumber, name: &[u8]) -> Result<Option<Entry>, LayerError> {
        Ok(self.node(dir)?.entries.get(name).copied())
    }

    fn is_opaque(&self, dir: NodeNumber) -> Result<bool, LayerError> {
        Ok(self.node(dir)?.opaque)
    }

    fn entries(&self, dir: NodeNumber) -> Result<Vec<NamedEntry>, LayerError> {
        let entries = self.node(dir)?.entries.iter();
        Ok(entries
            .map(|(name, entry)| NamedEntry {
                name: name.clone(),
                entry: *entry,
            })
            .collect())
    }

    fn place(&self, node: NodeNumber) -> Result<Option<(NodeNumber, Vec<u8>)>, LayerError> {
        Ok(self.node(node)?.place.clone())
    }

    fn read(&self, node: NodeNumber, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError> {
        Ok(copy_from(&self.node(node)?.bytes, offset, buf))
    }

    fn readlink(&self, node: NodeNumber) -> Result<Vec<u8>, LayerError> {
        Ok(self.node(node)?.bytes.clone())
    }

    fn content(&self, node: NodeNumber) -> Result<Option<ContentHash>, LayerError> {
        let hash = *blake3::hash(&self.node(node)?.bytes).as_bytes();
        Ok(self.hashed.then_some(ContentHash(hash)))
    }
}

/// A content store in memory; hashes are BLAKE3 here, which nobody looks into.
#[derive(Default)]
pub(crate) struct MemoryContent {
    by_hash: Mutex<HashMap<[u8; 32], Vec<u8>>>,
}

impl MemoryContent {
    /// A store of the contents of some layers.
    pub(crate) fn of(layers: &[&MemoryLayer]) -> Arc<Self> {
        let all = layers.iter().flat_map(|layer| layer.contents()).collect();
        Arc::new(Self {
            by_hash: Mutex::new(all),
        })
    }
}

impl ContentSource for MemoryContent {
    fn read_content(&self, hash: &ContentHash, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let by_hash = self.by_hash.lock().expect("nobody panics with it");
        let bytes = by_hash.get(&hash.0).ok_or(io::ErrorKind::NotFound)?;
        Ok(copy_from(bytes, offset, buf))
    }
}

fn copy_from(bytes: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let count = buf.len().min(bytes.len() - start);
    buf[..count].copy_from_slice(&bytes[start..start + count]);
    count
}

/// Numbers from a seed (Knuth's MMIX generator); the same on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit as u64).expect("it fits")
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// The lower of two layers that meet in every way: files, links, a device, and bits that programs mind.
pub(crate) fn lower() -> MemoryLayer {
    MemoryLayer::new(b"template")
        .file("etc/passwd", &[b'p'; 5000])
        .file("etc/hosts", b"hosts")
        .file("etc/sub/a", b"deep a")
        .file("etc/sub/b", b"deep b")
        .file("bin/perl", b"#!perl")
        .link("bin/perl", "bin/perl5")
        .link("bin/perl", "etc/sub/perl")
        .symlink("bin/c", b"../etc/hosts")
        .device("d", 1, 3)
        .dir("sub/etc/bin")
        .file("a", &[b'a'; 70_000])
        .set("a", |attr| {
            attr.mode = 0o6755;
            attr.uid = 1000;
            attr.gid = 100;
        })
        .set("etc/sub", |attr| {
            attr.mode = 0o3777;
            attr.gid = 50;
        })
}

/// The upper of them: it hides, adds, and has attributes of its own.
pub(crate) fn upper() -> MemoryLayer {
    MemoryLayer::new(b"overlay1")
        .file("etc/hosts", b"other hosts")
        .whiteout("etc/sub/b")
        .whiteout("bin/perl5")
        .file("etc/sub/c", b"c of overlay")
        .file("sub/c", b"more")
        .opaque("sub/etc")
        .set("etc", |attr| attr.mode = 0o1777)
        .set("sub", |attr| {
            attr.mode = 0o775;
            attr.gid = 100;
        })
}

/// Names in a directory, in order.
pub(crate) fn listed(service: &dyn FileService, dir: &Handle) -> Vec<Vec<u8>> {
    let root = Caller::root();
    let mut names = Vec::new();
    let outcome = service.readdir(&root, dir, 0, true, &mut |entry| {
        names.push(entry.name.clone());
        true
    });
    assert!(outcome.expect("listing").1);
    names.retain(|name| name != b"." && name != b"..");
    names.sort();
    names
}

/// A plain tree in memory that is the same as the one a stack shows.
pub(crate) fn copy(stack: &dyn FileService) -> Memory {
    let (model, root) = (Memory::new(), Caller::root());
    let mut by_id: HashMap<u64, Handle> = HashMap::new();
    let mut todo = vec![(stack.root(), model.root().handle)];
    while let Some((own, copy)) = todo.pop() {
        let set = SetAttr {
            mode: Some(own.attr.mode),
            uid: Some(own.attr.uid),
            gid: Some(own.attr.gid),
            ..SetAttr::default()
        };
        model.setattr(&root, None, &copy, &set, None).expect("setattr");
        if own.attr.file_type != FileType::Directory {
            continue;
        }
        for name in listed(stack, &own.handle) {
            let child = stack.lookup(&root, &own.handle, &name).expect("it was listed").0;
            if let Some(there) = by_id.get(&child.fileid) {
                model.link(&root, None, there, &copy, &name).expect("link");
                continue;
            }
            let none = SetAttr::default();
            let made = match child.attr.file_type {
                FileType::Regular => model.create(&root, None, &copy, &name, CreateMode::Guarded(none)),
                FileType::Directory => model.mkdir(&root, None, &copy, &name, &none),
                FileType::Symlink => {
                    let target = stack.readlink(&root, &child.handle).expect("readlink").0;
                    model.symlink(&root, None, &copy, &name, &target, &none)
                }
                file_type => {
                    let device = child.attr.device;
                    let special = Special { file_type, device };
                    model.mknod(&root, None, &copy, &name, special, &none)
                }
            };
            let made = made
                .expect("making")
                .value
                .made
                .expect("something was made")
                .handle;
            if child.attr.file_type == FileType::Regular {
                let mut bytes = Vec::new();
                let read = stack.read(&root, &child.handle, 0, 1 << 20, &mut bytes);
                assert!(read.expect("reading").eof);
                model
                    .write(&root, &made, 0, &bytes, Stability::FileSync)
                    .expect("writing");
            }
            by_id.insert(child.fileid, made);
            todo.push((child, made));
        }
    }
    model
}
