//! A layer that is made up: as many files as wanted, as long as wanted, with bytes that follow from their place, and a
//! count of every byte that anybody reads.

use std::sync::atomic::{AtomicU64, Ordering};

use cowfs::attr::{Attr, Device, FileType, Time};
use cowfs::layer::{ContentHash, Entry, Layer, LayerError, LayerId, NamedEntry, NodeNumber, ROOT};

/// `files` regular files of `size` bytes, `f0` and so on, `per_dir` in each of the directories `d0` and so on.
pub(crate) struct MadeUp {
    pub(crate) files: u64,
    pub(crate) per_dir: u64,
    pub(crate) size: u64,
    /// Bytes of content that were read.
    pub(crate) read: AtomicU64,
    /// Attributes that were asked for, names looked up and directories listed.
    pub(crate) asked: AtomicU64,
}

/// Long ago.
const TIME: Time = Time {
    seconds: 1_000_000_000,
    nanos: 0,
};

/// The byte at a place of any file.
pub(crate) fn byte_at(offset: u64) -> u8 {
    u8::try_from(offset % 251).unwrap_or(0)
}

impl MadeUp {
    pub(crate) fn new(files: u64, per_dir: u64, size: u64) -> Self {
        Self {
            files,
            per_dir,
            size,
            read: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        }
    }

    fn dirs(&self) -> u64 {
        self.files.div_ceil(self.per_dir)
    }

    /// The root is 1, then the directories, then the files.
    fn what(&self, node: NodeNumber) -> Result<What, LayerError> {
        let dirs = self.dirs();
        match node {
            ROOT => Ok(What::Root),
            node if node > ROOT && node <= ROOT + dirs => Ok(What::Dir(node - ROOT - 1)),
            node if node > ROOT + dirs && node <= ROOT + dirs + self.files => {
                Ok(What::File(node - ROOT - dirs - 1))
            }
            node => Err(LayerError::NoSuchNode {
                layer: self.id(),
                node,
            }),
        }
    }

    fn dir_node(&self, dir: u64) -> NodeNumber {
        ROOT + 1 + dir
    }

    fn file_node(&self, file: u64) -> NodeNumber {
        ROOT + 1 + self.dirs() + file
    }

    fn files_of(&self, dir: u64) -> std::ops::Range<u64> {
        dir * self.per_dir..((dir + 1) * self.per_dir).min(self.files)
    }
}

enum What {
    Root,
    Dir(u64),
    File(u64),
}

fn numbered(letter: u8, name: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(&[letter])?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Layer for MadeUp {
    fn id(&self) -> LayerId {
        LayerId(*b"made up!")
    }

    fn attr(&self, node: NodeNumber) -> Result<Attr, LayerError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (file_type, mode, links, size) = match self.what(node)? {
            What::Root => (FileType::Directory, 0o755, 2 + self.dirs(), 0),
            What::Dir(_) => (FileType::Directory, 0o755, 2, 0),
            What::File(_) => (FileType::Regular, 0o644, 1, self.size),
        };
        Ok(Attr {
            file_type,
            mode,
            links: u32::try_from(links).unwrap_or(u32::MAX),
            uid: 0,
            gid: 0,
            size,
            used: size,
            device: Device::default(),
            atime: TIME,
            mtime: TIME,
            ctime: TIME,
        })
    }

    fn lookup(&self, dir: NodeNumber, name: &[u8]) -> Result<Option<Entry>, LayerError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(match self.what(dir)? {
            What::Root => numbered(b'd', name)
                .filter(|dir| *dir < self.dirs())
                .map(|dir| Entry::Node(self.dir_node(dir))),
            What::Dir(dir) => numbered(b'f', name)
                .filter(|file| self.files_of(dir).contains(file))
                .map(|file| Entry::Node(self.file_node(file))),
            What::File(_) => None,
        })
    }

    fn is_opaque(&self, _: NodeNumber) -> Result<bool, LayerError> {
        Ok(false)
    }

    fn entries(&self, dir: NodeNumber) -> Result<Vec<NamedEntry>, LayerError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut entries: Vec<NamedEntry> = match self.what(dir)? {
            What::Root => (0..self.dirs())
                .map(|dir| (format!("d{dir}"), self.dir_node(dir)))
                .map(named)
                .collect(),
            What::Dir(dir) => self
                .files_of(dir)
                .map(|file| (format!("f{file}"), self.file_node(file)))
                .map(named)
                .collect(),
            What::File(_) => Vec::new(),
        };
        entries.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(entries)
    }

    fn place(&self, node: NodeNumber) -> Result<Option<(NodeNumber, Vec<u8>)>, LayerError> {
        Ok(match self.what(node)? {
            What::Root => None,
            What::Dir(dir) => Some((ROOT, format!("d{dir}").into_bytes())),
            What::File(file) => Some((
                self.dir_node(file / self.per_dir),
                format!("f{file}").into_bytes(),
            )),
        })
    }

    fn read(&self, node: NodeNumber, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError> {
        let What::File(_) = self.what(node)? else {
            return Err(LayerError::NoSuchNode {
                layer: self.id(),
                node,
            });
        };
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buf.len().min(left);
        for (at, byte) in buf[..count].iter_mut().enumerate() {
            *byte = byte_at(offset + at as u64);
        }
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn readlink(&self, node: NodeNumber) -> Result<Vec<u8>, LayerError> {
        Err(LayerError::NoSuchNode {
            layer: self.id(),
            node,
        })
    }

    fn content(&self, _: NodeNumber) -> Result<Option<ContentHash>, LayerError> {
        Ok(None)
    }
}

fn named((name, node): (String, NodeNumber)) -> NamedEntry {
    NamedEntry {
        name: name.into_bytes(),
        entry: Entry::Node(node),
    }
}
