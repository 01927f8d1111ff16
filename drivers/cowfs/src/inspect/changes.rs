//! What a writable layer changes, path by path.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::view::{Item, join, lower_key};
use super::{InspectError, Inspection};
use crate::attr::{Attr, FileType};
use crate::handle::ObjectKey;
use crate::stack::lower::{Lower, LowerChild, Origins};
use crate::writable::record::Name;
use crate::writable::state::{Kind, Object};

/// Files of up to this many bytes are compared by content where nothing else tells whether it changed.
const COMPARED_MAX: u64 = 64 << 20;

/// What happened to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing was there before.
    Added,
    /// It has another name of something that was there already.
    Linked {
        /// That name.
        to: Vec<u8>,
    },
    /// Something of the same type was there.
    Changed,
    /// Something of another type was there.
    Replaced {
        /// Its type.
        was: FileType,
    },
    /// It was somewhere else.
    Renamed {
        /// Where.
        from: Vec<u8>,
    },
    /// Nothing is there any more.
    Removed,
}

/// A number before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrChange<T> {
    /// Before.
    pub before: T,
    /// After.
    pub after: T,
}

/// One path that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path, without a slash in front; empty for the root.
    pub path: Vec<u8>,
    /// What happened to it.
    pub how: How,
    /// Type of what is there now, or was there; `None` where nobody knows any more.
    pub file_type: Option<FileType>,
    /// Whether its content, a link's target or a device's numbers changed.
    pub content: bool,
    /// Its size in bytes, where that is content; before only where something was there.
    pub size: (Option<u64>, Option<u64>),
    /// Mode bits.
    pub mode: Option<AttrChange<u32>>,
    /// Owner and group.
    pub owner: Option<AttrChange<(u32, u32)>>,
    /// Whether the time of its last change, and nothing else, is another.
    pub times: bool,
    /// Whether owner and mode could be compared with what was there.
    pub compared: bool,
}

/// What is known while the tree is walked.
struct Walk<'a> {
    inspection: &'a Inspection,
    /// Every recorded name, by object.
    names: HashMap<ObjectKey, BTreeSet<Vec<u8>>>,
    /// Names of new objects that have been met.
    first: HashMap<ObjectKey, Vec<u8>>,
    /// Former names that a rename has been explained with.
    sources: BTreeSet<Vec<u8>>,
    changes: BTreeMap<Vec<u8>, Change>,
}

impl Inspection {
    /// Everything that is not what the layers below have, sorted by path.
    ///
    /// Times of directories are left out: they follow from what happened in them. Where the layers below are not at hand
    /// [`Change::compared`] is false, and what replaced something appears as added.
    ///
    /// # Errors
    /// What reading may bring.
    pub fn changes(&self) -> Result<Vec<Change>, InspectError> {
        let mut walk = Walk {
            inspection: self,
            names: HashMap::new(),
            first: HashMap::new(),
            sources: BTreeSet::new(),
            changes: BTreeMap::new(),
        };
        walk.collect_names()?;
        let below = match &self.lower {
            Some(lower) => Some(lower.root()?).filter(|origins| !origins.is_empty()),
            None => None,
        };
        if let (Some(lower), Some(origins)) = (&self.lower, &below) {
            let root = Item::Recorded(self.root);
            walk.compare_attributes(&root, b"", &lower.dir_attr(origins)?)?;
        }
        walk.directory(self.root, b"", below.as_ref())?;
        Ok(walk.changes.into_values().collect())
    }
}

impl Walk<'_> {
    fn collect_names(&mut self) -> Result<(), InspectError> {
        let mut todo = vec![(Vec::new(), self.inspection.root)];
        while let Some((path, key)) = todo.pop() {
            let Some(dir) = self.inspection.object(key)?.directory() else {
                continue;
            };
            for (name, target) in &dir.entries {
                if let Name::Object(child) = target {
                    let path = join(&path, name);
                    self.names.entry(*child).or_default().insert(path.clone());
                    todo.push((path, *child));
                }
            }
        }
        Ok(())
    }

    /// A recorded directory at `path`, where the layers below have `here`.
    fn directory(&mut self, key: ObjectKey, path: &[u8], here: Option<&Origins>) -> Result<(), InspectError> {
        let inspection = self.inspection;
        let Some(dir) = inspection.object(key)?.directory() else {
            return Ok(());
        };
        let through = inspection.shows_through(&Item::Recorded(key))?;
        let lower = inspection.lower.as_ref();
        for (name, target) in &dir.entries {
            let path = join(path, name);
            let was_here = child(lower, here, name)?;
            let shown = child(lower, Some(&through), name)?;
            match target {
                Name::Whiteout => {
                    if let (Some(lower), Some(was)) = (lower, was_here.as_ref().or(shown.as_ref())) {
                        self.removed(lower, path, was)?;
                    } else if lower.is_none() {
                        self.put(Change::new(path, How::Removed, None));
                    }
                }
                Name::Object(child) => self.object(*child, path, was_here.as_ref(), shown.as_ref())?,
            }
        }
        // What the layers below have here, and this directory does not let through.
        if let (Some(lower), Some(here)) = (lower, here)
            && *here != through
        {
            let shown = if through.is_empty() {
                BTreeMap::new()
            } else {
                lower.entries(&through)?
            };
            for name in lower.entries(here)?.into_keys() {
                if !dir.entries.contains_key(name.as_slice())
                    && !shown.contains_key(&name)
                    && let Some(was) = lower.child(here, &name)?
                {
                    self.removed(lower, join(path, &name), &was)?;
                }
            }
        }
        Ok(())
    }

    /// A name whose object the layers below had here is gone, unless that object is somewhere else now.
    fn removed(&mut self, lower: &Lower, path: Vec<u8>, was: &LowerChild) -> Result<(), InspectError> {
        let key = lower_key(lower, was);
        let now = self.names.get(&key);
        let origins = self.origins(lower, key)?;
        let moved = now.is_some_and(|now| now.iter().any(|path| !origins.contains(path)));
        if moved && origins.contains(&path) {
            return Ok(());
        }
        let mut change = Change::new(path, How::Removed, Some(type_of(lower, was)?));
        change.compared = true;
        self.put(change);
        Ok(())
    }

    /// The names that an object has in its own layer.
    fn origins(&self, lower: &Lower, key: ObjectKey) -> Result<Vec<Vec<u8>>, InspectError> {
        let Some(at) = lower.index(key.layer) else {
            return Ok(Vec::new());
        };
        if lower.attr(at, key.number)?.file_type == FileType::Directory {
            return Ok(vec![lower.path(at, key.number)?]);
        }
        let mut paths = Vec::new();
        for (dir, name) in lower.names(at, key.number)? {
            paths.push(join(&lower.path(at, dir)?, &name));
        }
        paths.sort();
        Ok(paths)
    }

    /// A recorded object at `path`: what was here before, and what its directory would show without the record.
    fn object(
        &mut self,
        key: ObjectKey,
        path: Vec<u8>,
        was_here: Option<&LowerChild>,
        shown: Option<&LowerChild>,
    ) -> Result<(), InspectError> {
        let inspection = self.inspection;
        let item = Item::Recorded(key);
        let is_same = |child: &LowerChild| {
            inspection
                .lower
                .as_ref()
                .is_some_and(|lower| lower_key(lower, child) == key)
        };
        let directory = inspection.object(key)?.directory().is_some();
        let lower = inspection.lower.as_ref();
        if let (Some(lower), Some(same)) = (
            lower,
            [was_here, shown].into_iter().flatten().find(|c| is_same(c)),
        ) {
            self.compare(lower, &item, &path, same, How::Changed)?;
        } else if key.layer != inspection.own {
            self.moved_or_linked(lower, key, &path)?;
        } else if let Some(first) = self.first.get(&key) {
            let how = How::Linked { to: first.clone() };
            let mut change = Change::now(inspection, &item, path.clone(), how)?;
            change.compared = lower.is_some();
            self.put(change);
        } else {
            self.first.insert(key, path.clone());
            match (lower, was_here) {
                (Some(lower), Some(was)) => {
                    let before = type_of(lower, was)?;
                    if before == inspection.attr(&item)?.file_type {
                        self.compare(lower, &item, &path, was, How::Changed)?;
                    } else {
                        let mut change =
                            Change::now(inspection, &item, path.clone(), How::Replaced { was: before })?;
                        change.compared = true;
                        self.put(change);
                    }
                }
                _ => {
                    let mut change = Change::now(inspection, &item, path.clone(), How::Added)?;
                    change.compared = lower.is_some();
                    self.put(change);
                }
            }
        }
        if directory {
            let here = match was_here {
                Some(LowerChild::Directory(origins)) => Some(origins.clone()),
                Some(LowerChild::File(..)) | None => None,
            };
            self.directory(key, &path, here.as_ref())?;
        }
        Ok(())
    }

    /// An object of a layer below that is not where it was.
    fn moved_or_linked(
        &mut self,
        lower: Option<&Lower>,
        key: ObjectKey,
        path: &[u8],
    ) -> Result<(), InspectError> {
        let inspection = self.inspection;
        let item = Item::Recorded(key);
        let object = inspection.object(key)?;
        let origins = match lower {
            Some(lower) => self.origins(lower, key)?,
            None => remembered(object).into_iter().collect(),
        };
        if origins.iter().any(|origin| origin == path) || origins.is_empty() {
            // The layers below are not at hand, or are not those it came from.
            let mut change = Change::now(inspection, &item, path.to_vec(), How::Changed)?;
            change.content = written(object);
            if change.content || object.directory().is_none() {
                self.put(change);
            }
            return Ok(());
        }
        let now = self.names.get(&key);
        let gone = origins
            .iter()
            .find(|origin| !self.sources.contains(*origin) && now.is_none_or(|now| !now.contains(*origin)));
        let how = match gone {
            Some(from) => {
                self.sources.insert(from.clone());
                How::Renamed { from: from.clone() }
            }
            None => How::Linked {
                to: origins[0].clone(),
            },
        };
        match lower.and_then(|lower| Some((lower, lower.index(key.layer)?))) {
            Some((lower, at)) => {
                let was = match lower.attr(at, key.number)?.file_type {
                    FileType::Directory => LowerChild::Directory(
                        lower
                            .dir_at(&origins[0])?
                            .unwrap_or_else(|| vec![(at, key.number)]),
                    ),
                    _ => LowerChild::File(at, key.number),
                };
                self.compare(lower, &item, path, &was, how)
            }
            None => {
                let mut change = Change::now(inspection, &item, path.to_vec(), how)?;
                change.content = written(object);
                self.put(change);
                Ok(())
            }
        }
    }

    /// Notes how something differs from what was there; for [`How::Changed`], only if it does.
    fn compare(
        &mut self,
        lower: &Lower,
        item: &Item,
        path: &[u8],
        was: &LowerChild,
        how: How,
    ) -> Result<(), InspectError> {
        let before = match was {
            LowerChild::File(at, number) => lower.attr(*at, *number)?,
            LowerChild::Directory(origins) => lower.dir_attr(origins)?,
        };
        let after = self.inspection.attr(item)?;
        let content = self.content_differs(lower, item, was, &before, &after)?;
        let mut change = Change::now(self.inspection, item, path.to_vec(), how)?;
        change.content = content;
        change.compared = true;
        change.attributes(&before, &after);
        change.times = !content
            && change.mode.is_none()
            && change.owner.is_none()
            && after.file_type != FileType::Directory
            && before.mtime != after.mtime;
        if change.how != How::Changed || change.content || change.times || change.attributes_changed() {
            self.put(change);
        }
        Ok(())
    }

    fn compare_attributes(&mut self, item: &Item, path: &[u8], before: &Attr) -> Result<(), InspectError> {
        let after = self.inspection.attr(item)?;
        let mut change = Change::now(self.inspection, item, path.to_vec(), How::Changed)?;
        change.content = false;
        change.compared = true;
        change.attributes(before, &after);
        if change.attributes_changed() {
            self.put(change);
        }
        Ok(())
    }

    fn content_differs(
        &self,
        lower: &Lower,
        item: &Item,
        was: &LowerChild,
        before: &Attr,
        after: &Attr,
    ) -> Result<bool, InspectError> {
        let LowerChild::File(at, number) = was else {
            return Ok(false);
        };
        match after.file_type {
            FileType::Directory | FileType::Socket | FileType::Fifo => Ok(false),
            FileType::Block | FileType::Character => Ok(before.device != after.device),
            FileType::Symlink => {
                let target = lower.layer(*at).readlink(*number)?;
                Ok(self.inspection.target(item)?.as_ref() != Some(&target))
            }
            FileType::Regular => {
                let Item::Recorded(key) = item else {
                    return Ok(false);
                };
                let same = *key == lower.key(*at, *number);
                let file = self.inspection.object(*key)?.file();
                if before.size != after.size {
                    return Ok(true);
                }
                if same && file.is_some_and(|file| file.extents.len() == 0) {
                    // Cut and made as long again: there are zeros now.
                    return Ok(file
                        .and_then(|file| file.base.as_ref())
                        .map_or(0, |base| base.len)
                        < after.size);
                }
                if after.size > COMPARED_MAX {
                    return Ok(true);
                }
                self.bytes_differ(lower, (*at, *number), item, after.size)
            }
        }
    }

    fn bytes_differ(
        &self,
        lower: &Lower,
        (at, number): (usize, u64),
        item: &Item,
        size: u64,
    ) -> Result<bool, InspectError> {
        let (mut ours, mut theirs) = (vec![0; 256 << 10], vec![0; 256 << 10]);
        let mut offset = 0;
        while offset < size {
            let now = self.inspection.read_item(item, offset, &mut ours)?;
            let then = lower.layer(at).read(number, offset, &mut theirs)?;
            if now == 0 || ours[..now] != theirs[..then] {
                return Ok(true);
            }
            offset += crate::writable::log::as_u64(now);
        }
        Ok(false)
    }

    fn put(&mut self, change: Change) {
        self.changes.insert(change.path.clone(), change);
    }
}

impl Change {
    fn new(path: Vec<u8>, how: How, file_type: Option<FileType>) -> Self {
        Self {
            path,
            how,
            file_type,
            content: false,
            size: (None, None),
            mode: None,
            owner: None,
            times: false,
            compared: false,
        }
    }

    /// With the type and size of what is there now.
    fn now(inspection: &Inspection, item: &Item, path: Vec<u8>, how: How) -> Result<Self, InspectError> {
        let attr = inspection.attr(item)?;
        let mut change = Self::new(path, how, Some(attr.file_type));
        if attr.file_type == FileType::Regular {
            change.size.1 = Some(attr.size);
        }
        Ok(change)
    }

    fn attributes(&mut self, before: &Attr, after: &Attr) {
        let (old, new) = (before.mode, after.mode);
        self.mode = (old != new).then_some(AttrChange {
            before: old,
            after: new,
        });
        let (old, new) = ((before.uid, before.gid), (after.uid, after.gid));
        self.owner = (old != new).then_some(AttrChange {
            before: old,
            after: new,
        });
        if before.file_type == FileType::Regular {
            self.size.0 = Some(before.size);
        }
    }

    /// Whether mode, owner or group differ.
    #[must_use]
    pub fn attributes_changed(&self) -> bool {
        self.mode.is_some() || self.owner.is_some()
    }
}

/// What lower directories have under a name.
fn child(
    lower: Option<&Lower>,
    dir: Option<&Origins>,
    name: &[u8],
) -> Result<Option<LowerChild>, InspectError> {
    match (lower, dir.filter(|origins| !origins.is_empty())) {
        (Some(lower), Some(origins)) => Ok(lower.child(origins, name)?),
        _ => Ok(None),
    }
}

fn type_of(lower: &Lower, child: &LowerChild) -> Result<FileType, InspectError> {
    Ok(match child {
        LowerChild::Directory(_) => FileType::Directory,
        LowerChild::File(at, number) => lower.attr(*at, *number)?.file_type,
    })
}

/// Where an object came from, as its record tells.
fn remembered(object: &Object) -> Option<Vec<u8>> {
    match &object.kind {
        Kind::File(file) => file.base.as_ref().map(|base| base.path.clone()),
        Kind::Directory(dir) => dir.merge.as_ref().map(|merge| merge.path.clone()),
        Kind::Symlink { .. } | Kind::Special { .. } => None,
    }
}

/// Whether the record of a file holds content of its own.
fn written(object: &Object) -> bool {
    object.file().is_some_and(|file| {
        let base = file.base.as_ref();
        file.extents.len() > 0 || base.is_none_or(|base| base.len != base.whole || file.size != base.whole)
    })
}
