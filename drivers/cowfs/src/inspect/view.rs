//! The tree as the guest sees it, from the records of the writable layer and the layers below.

use std::collections::BTreeMap;
use std::io;

use super::{InspectError, Inspection};
use crate::attr::{Attr, Device, FileType};
use crate::handle::ObjectKey;
use crate::layer::NodeNumber;
use crate::stack::DIR_BYTES;
use crate::stack::lower::{Lower, LowerChild, Origins};
use crate::writable::extents::Source;
use crate::writable::log::as_u64;
use crate::writable::record::{Base, Name};
use crate::writable::state::{Kind, Object};

/// What a name leads to.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Something that the writable layer has a record of.
    Recorded(ObjectKey),
    /// Anything but a directory, as a layer below has it.
    File(usize, NodeNumber),
    /// A directory as the layers below have it.
    Directory(Origins),
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Name.
    pub name: Vec<u8>,
    /// Attributes.
    pub attr: Attr,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Whether the writable layer has a record of it.
    pub recorded: bool,
}

impl Inspection {
    pub(super) fn object(&self, key: ObjectKey) -> Result<&Object, InspectError> {
        let gone = || InspectError::Below(crate::service::Status::Stale);
        self.state.objects.get(&key).ok_or_else(gone)
    }

    /// The lower directories that show through a directory; nothing where it hides them or they are not at hand.
    pub(super) fn shows_through(&self, item: &Item) -> Result<Origins, InspectError> {
        Ok(match item {
            Item::File(..) => Origins::new(),
            Item::Directory(origins) => origins.clone(),
            Item::Recorded(key) => {
                let merge = self.object(*key)?.directory().and_then(|dir| dir.merge.as_ref());
                match (merge, &self.lower) {
                    // By path, as a stack does when its layers are not those of last time.
                    (Some(merge), Some(lower)) => lower.dir_at(&merge.path)?.unwrap_or_default(),
                    _ => Origins::new(),
                }
            }
        })
    }

    /// A lower child as the guest meets it: one that has got a record elsewhere is that.
    pub(super) fn lower_item(&self, lower: &Lower, child: LowerChild) -> Item {
        let key = lower_key(lower, &child);
        if self.state.objects.contains_key(&key) {
            return Item::Recorded(key);
        }
        match child {
            LowerChild::File(at, number) => Item::File(at, number),
            LowerChild::Directory(origins) => Item::Directory(origins),
        }
    }

    /// What a name in a directory leads to.
    pub(super) fn child(&self, dir: &Item, name: &[u8]) -> Result<Option<Item>, InspectError> {
        if let Item::Recorded(key) = dir {
            let entry = self
                .object(*key)?
                .directory()
                .and_then(|dir| dir.entries.get(name));
            match entry {
                Some(Name::Object(key)) => return Ok(Some(Item::Recorded(*key))),
                Some(Name::Whiteout) => return Ok(None),
                None => {}
            }
        }
        let through = self.shows_through(dir)?;
        let Some(lower) = self.lower.as_ref().filter(|_| !through.is_empty()) else {
            return Ok(None);
        };
        Ok(lower
            .child(&through, name)?
            .map(|child| self.lower_item(lower, child)))
    }

    /// Everything in a directory, by name.
    pub(super) fn children(&self, dir: &Item) -> Result<BTreeMap<Vec<u8>, Item>, InspectError> {
        let mut all = BTreeMap::new();
        let through = self.shows_through(dir)?;
        if let Some(lower) = self.lower.as_ref().filter(|_| !through.is_empty()) {
            for (name, entry) in lower.entries(&through)? {
                let item = if entry.directory {
                    // What a directory is made of depends on all layers, not on the nearest alone.
                    match lower.child(&through, &name)? {
                        Some(child) => self.lower_item(lower, child),
                        None => continue,
                    }
                } else {
                    self.lower_item(lower, LowerChild::File(entry.layer, entry.number))
                };
                all.insert(name, item);
            }
        }
        if let Item::Recorded(key) = dir
            && let Some(dir) = self.object(*key)?.directory()
        {
            for (name, target) in &dir.entries {
                match target {
                    Name::Object(key) => all.insert(name.to_vec(), Item::Recorded(*key)),
                    Name::Whiteout => all.remove(&name[..]),
                };
            }
        }
        Ok(all)
    }

    /// What is at a path; `/` and the empty path are the root.
    pub(super) fn at(&self, path: &[u8]) -> Result<Item, InspectError> {
        let mut item = Item::Recorded(self.root);
        for name in path
            .split(|&byte| byte == b'/')
            .filter(|name| !matches!(*name, b"" | b"."))
        {
            item = match self.child(&item, name)? {
                Some(child) => child,
                None if self.lower.is_none() => return Err(InspectError::NeedsBelow { path: path.to_vec() }),
                None => return Err(InspectError::NoPath { path: path.to_vec() }),
            };
        }
        Ok(item)
    }

    pub(super) fn lower(&self) -> Result<&Lower, InspectError> {
        self.lower
            .as_ref()
            .ok_or(InspectError::NeedsBelow { path: Vec::new() })
    }

    pub(super) fn attr(&self, item: &Item) -> Result<Attr, InspectError> {
        let key = match item {
            Item::File(at, number) => return Ok(self.lower()?.attr(*at, *number)?),
            Item::Directory(origins) => {
                let mut attr = self.lower()?.dir_attr(origins)?;
                attr.size = DIR_BYTES;
                return Ok(attr);
            }
            Item::Recorded(key) => *key,
        };
        let object = self.object(key)?;
        let (file_type, size, used, device) = match &object.kind {
            Kind::File(file) => (
                FileType::Regular,
                file.size,
                file.extents.charge(),
                Device::default(),
            ),
            Kind::Directory(_) => (FileType::Directory, DIR_BYTES, 0, Device::default()),
            Kind::Symlink { target } => (FileType::Symlink, as_u64(target.len()), 0, Device::default()),
            Kind::Special { file_type, device } => (*file_type, 0, 0, *device),
        };
        Ok(Attr {
            file_type,
            mode: object.attr.mode,
            links: object.links,
            uid: object.attr.uid,
            gid: object.attr.gid,
            size,
            used,
            device,
            atime: object.attr.atime,
            mtime: object.attr.mtime,
            ctime: object.attr.ctime,
        })
    }

    pub(super) fn target(&self, item: &Item) -> Result<Option<Vec<u8>>, InspectError> {
        Ok(match item {
            Item::Directory(_) => None,
            Item::File(at, number) => {
                let lower = self.lower()?;
                match lower.attr(*at, *number)?.file_type {
                    FileType::Symlink => Some(lower.layer(*at).readlink(*number)?),
                    _ => None,
                }
            }
            Item::Recorded(key) => match &self.object(*key)?.kind {
                Kind::Symlink { target } => Some(target.clone()),
                Kind::File(_) | Kind::Directory(_) | Kind::Special { .. } => None,
            },
        })
    }

    /// Fills `buf` with the content of a file from `offset` on; less only at its end.
    pub(super) fn read_item(&self, item: &Item, offset: u64, buf: &mut [u8]) -> Result<usize, InspectError> {
        let key = match item {
            Item::Directory(_) => return Ok(0),
            Item::File(at, number) => return Ok(self.lower()?.layer(*at).read(*number, offset, buf)?),
            Item::Recorded(key) => *key,
        };
        let Some(file) = self.object(key)?.file() else {
            return Ok(0);
        };
        let end = offset.saturating_add(as_u64(buf.len())).min(file.size);
        let Some(wanted) = end.checked_sub(offset).and_then(|len| usize::try_from(len).ok()) else {
            return Ok(0);
        };
        let buf = &mut buf[..wanted];
        buf.fill(0);
        if let Some(base) = file.base.as_ref().filter(|base| offset < base.len) {
            let len = usize::try_from(base.len.min(end) - offset).unwrap_or(wanted);
            // Where everything was written over, what is below need not be there.
            if !covered(
                file.extents.within(offset, offset + as_u64(len)),
                offset,
                as_u64(len),
            ) {
                self.read_base(base, offset, &mut buf[..len])?;
            }
        }
        for (from, to, source) in file.extents.within(offset, end) {
            let (file, at) = match source {
                Source::Content(id) => (self.content.open_to_read(id), from),
                Source::Log {
                    segment,
                    at,
                    file_offset,
                } => (self.segment(segment), at + (from - file_offset)),
            };
            let file = file.map_err(InspectError::Content)?;
            let place = |at: u64| usize::try_from(at - offset).unwrap_or(wanted);
            let part = &mut buf[place(from)..place(to)];
            let len = part.len();
            if file.read_at(part, at).map_err(InspectError::Content)? < len {
                return Err(InspectError::Content(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(wanted)
    }

    fn read_base(&self, base: &Base, offset: u64, buf: &mut [u8]) -> Result<(), InspectError> {
        let needs = || InspectError::NeedsBelow {
            path: base.path.clone(),
        };
        let lower = self.lower.as_ref();
        let at = lower.and_then(|lower| Some((lower, lower.index(base.origin.layer)?)));
        let count = match (at, &base.hash, &self.source) {
            (Some((lower, at)), _, _) => lower.layer(at).read(base.origin.number, offset, buf)?,
            (None, Some(hash), Some(source)) => source
                .read_content(hash, offset, buf)
                .map_err(InspectError::Content)?,
            _ => return Err(needs()),
        };
        if count < buf.len() {
            return Err(InspectError::Content(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// The entries of the directory at `path`: those that the layer has a record of, or with `all` everything that the
    /// guest sees.
    ///
    /// # Errors
    /// [`InspectError::NoPath`], [`InspectError::NoDirectory`], and what reading may bring.
    pub fn list(&self, path: &[u8], all: bool) -> Result<Vec<Listed>, InspectError> {
        if all && self.lower.is_none() {
            return Err(InspectError::NeedsBelow { path: path.to_vec() });
        }
        let dir = self.at(path)?;
        if self.attr(&dir)?.file_type != FileType::Directory {
            return Err(InspectError::NoDirectory { path: path.to_vec() });
        }
        let mut listed = Vec::new();
        for (name, item) in self.children(&dir)? {
            let recorded = matches!(item, Item::Recorded(_));
            if all || recorded {
                listed.push(Listed {
                    attr: self.attr(&item)?,
                    target: self.target(&item)?,
                    name,
                    recorded,
                });
            }
        }
        Ok(listed)
    }

    /// Reads a regular file, from `offset` on, into `buf`; returns less than asked only at its end.
    ///
    /// # Errors
    /// [`InspectError::NoPath`], [`InspectError::NoFile`], and what reading may bring.
    pub fn read(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize, InspectError> {
        let item = self.at(path)?;
        if self.attr(&item)?.file_type != FileType::Regular {
            return Err(InspectError::NoFile { path: path.to_vec() });
        }
        self.read_item(&item, offset, buf)
    }

    /// Reads a regular file as the layers below have it; `None` where they have none at that path.
    ///
    /// # Errors
    /// [`InspectError::NeedsBelow`] where they are not at hand, and what reading may bring.
    pub fn read_below(&self, path: &[u8], most: u64) -> Result<Option<Vec<u8>>, InspectError> {
        let lower = self.lower()?;
        let path: Vec<&[u8]> = path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .collect();
        let Some((at, number)) = lower.file_at(&path.join(&b'/'))? else {
            return Ok(None);
        };
        let attr = lower.attr(at, number)?;
        if attr.file_type != FileType::Regular {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(attr.size.min(most)).unwrap_or(0)];
        let count = lower.layer(at).read(number, 0, &mut bytes)?;
        bytes.truncate(count);
        Ok(Some(bytes))
    }

    /// What the layer keeps of each file, in bytes on disk, by path.
    ///
    /// # Errors
    /// What reading may bring.
    pub fn usage(&self) -> Result<BTreeMap<Vec<u8>, u64>, InspectError> {
        let mut usage = BTreeMap::new();
        let mut counted = std::collections::HashSet::new();
        let mut todo = vec![(Vec::new(), self.root)];
        while let Some((path, key)) = todo.pop() {
            let object = self.object(key)?;
            if let Some(dir) = object.directory() {
                for (name, target) in &dir.entries {
                    if let Name::Object(child) = target {
                        todo.push((join(&path, name), *child));
                    }
                }
            } else if counted.insert(key) {
                let charge = object.file().map_or(0, |file| file.extents.charge());
                usage.insert(path, charge);
            }
        }
        Ok(usage)
    }
}

/// Whether ranges in order leave nothing of `start..start + len` out.
fn covered(ranges: impl Iterator<Item = (u64, u64, Source)>, start: u64, len: u64) -> bool {
    let mut at = start;
    for (from, to, _) in ranges {
        if from > at {
            return false;
        }
        at = at.max(to);
    }
    at >= start.saturating_add(len)
}

/// The identity of what a lower name leads to.
pub(super) fn lower_key(lower: &Lower, child: &LowerChild) -> ObjectKey {
    match child {
        LowerChild::File(at, number) => lower.key(*at, *number),
        LowerChild::Directory(origins) => origins.first().map_or_else(
            || unreachable!("origins are never empty"),
            |&(at, number)| lower.key(at, number),
        ),
    }
}

/// A path with one name more; the root is empty.
pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}
