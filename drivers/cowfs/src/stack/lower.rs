//! The read-only layers of a stack, merged: nearest wins, directories merge, whiteouts hide.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use crate::attr::{Attr, FileType};
use crate::handle::ObjectKey;
use crate::layer::{Entry, Layer, LayerError, LayerId, NodeNumber, ROOT};
use crate::service::{FsResult, Status};

/// Deepest directory a layer may have. A bound on walks towards the root, in case a layer's `place` runs in circles.
const DEPTH_MAX: usize = 4096;

/// Where a merged directory comes from: indices into the stack with numbers there, nearest first, never empty.
pub(crate) type Origins = Vec<(usize, NodeNumber)>;

/// What the lower layers have under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LowerChild {
    /// Anything but a directory.
    File(usize, NodeNumber),
    /// A directory, merged.
    Directory(Origins),
}

/// An entry of a merged lower listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LowerEntry {
    pub(crate) layer: usize,
    pub(crate) number: NodeNumber,
    pub(crate) directory: bool,
}

/// Names of the files of one layer that have several.
type Links = HashMap<NodeNumber, Vec<(NodeNumber, Vec<u8>)>>;

/// The layers, nearest first.
pub(crate) struct Lower {
    layers: Vec<Arc<dyn Layer>>,
    index: HashMap<LayerId, usize>,
    links: Vec<OnceLock<Links>>,
}

/// Turns a layer's trouble into a status, and says it once in the log of the process.
pub(crate) fn trouble(error: &LayerError) -> Status {
    match error {
        LayerError::NoSuchNode { .. } => Status::Stale,
        LayerError::Damaged { .. } | LayerError::Io { .. } => {
            tracing::warn!(%error, "a layer could not answer");
            Status::Io
        }
    }
}

impl Lower {
    pub(crate) fn new(layers: Vec<Arc<dyn Layer>>) -> Self {
        let mut index = HashMap::new();
        for (at, layer) in layers.iter().enumerate() {
            // The same layer twice adds nothing below its first place.
            index.entry(layer.id()).or_insert(at);
        }
        let links = layers.iter().map(|_| OnceLock::new()).collect();
        Self { layers, index, links }
    }

    pub(crate) fn ids(&self) -> Vec<LayerId> {
        self.layers.iter().map(|layer| layer.id()).collect()
    }

    pub(crate) fn index(&self, id: LayerId) -> Option<usize> {
        self.index.get(&id).copied()
    }

    pub(crate) fn layer(&self, at: usize) -> &dyn Layer {
        &*self.layers[at]
    }

    pub(crate) fn key(&self, at: usize, number: NodeNumber) -> ObjectKey {
        ObjectKey {
            layer: self.layers[at].id(),
            number,
        }
    }

    pub(crate) fn attr(&self, at: usize, number: NodeNumber) -> FsResult<Attr> {
        self.layers[at].attr(number).map_err(|error| trouble(&error))
    }

    /// The merged root: all roots down to the first opaque one.
    pub(crate) fn root(&self) -> FsResult<Origins> {
        let mut origins = Origins::new();
        for at in 0..self.layers.len() {
            origins.push((at, ROOT));
            if self.is_opaque(at, ROOT)? {
                break;
            }
        }
        Ok(origins)
    }

    /// What is under `name` in a merged directory.
    pub(crate) fn child(&self, origins: &[(usize, NodeNumber)], name: &[u8]) -> FsResult<Option<LowerChild>> {
        let mut merged = Origins::new();
        for &(at, dir) in origins {
            let number = match self.layers[at]
                .lookup(dir, name)
                .map_err(|error| trouble(&error))?
            {
                None => continue,
                Some(Entry::Whiteout) => break,
                Some(Entry::Node(number)) => number,
            };
            if self.attr(at, number)?.file_type != FileType::Directory {
                if merged.is_empty() {
                    return Ok(Some(LowerChild::File(at, number)));
                }
                break;
            }
            merged.push((at, number));
            if self.is_opaque(at, number)? {
                break;
            }
        }
        Ok((!merged.is_empty()).then_some(LowerChild::Directory(merged)))
    }

    /// All names in a merged directory.
    pub(crate) fn entries(&self, origins: &[(usize, NodeNumber)]) -> FsResult<BTreeMap<Vec<u8>, LowerEntry>> {
        let mut decided: BTreeMap<Vec<u8>, Option<LowerEntry>> = BTreeMap::new();
        for &(at, dir) in origins {
            for named in self.layers[at].entries(dir).map_err(|error| trouble(&error))? {
                if decided.contains_key(&named.name) {
                    continue;
                }
                let entry = match named.entry {
                    Entry::Whiteout => None,
                    Entry::Node(number) => {
                        let directory = self.attr(at, number)?.file_type == FileType::Directory;
                        Some(LowerEntry {
                            layer: at,
                            number,
                            directory,
                        })
                    }
                };
                decided.insert(named.name, entry);
            }
        }
        Ok(decided
            .into_iter()
            .filter_map(|(name, entry)| Some((name, entry?)))
            .collect())
    }

    /// Attributes of a merged directory: those of the nearest layer that describes it.
    pub(crate) fn dir_attr(&self, origins: &[(usize, NodeNumber)]) -> FsResult<Attr> {
        for &(at, dir) in origins {
            if !self.layers[at].is_implied(dir).map_err(|error| trouble(&error))? {
                return self.attr(at, dir);
            }
        }
        origins
            .first()
            .map_or(Err(Status::Stale), |&(at, dir)| self.attr(at, dir))
    }

    /// Directory and name of an object within its layer.
    pub(crate) fn place(&self, at: usize, number: NodeNumber) -> FsResult<Option<(NodeNumber, Vec<u8>)>> {
        self.layers[at].place(number).map_err(|error| trouble(&error))
    }

    /// Path of an object within its layer, without a leading `/`; empty for the root.
    pub(crate) fn path(&self, at: usize, number: NodeNumber) -> FsResult<Vec<u8>> {
        let mut names = Vec::new();
        let mut current = number;
        while let Some((dir, name)) = self.place(at, current)? {
            names.push(name);
            current = dir;
            if names.len() > DEPTH_MAX {
                tracing::warn!(layer = ?self.layers[at].id(), number, "a layer's directories run in circles");
                return Err(Status::Io);
            }
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// The merged directory at a path; `None` if there is none.
    pub(crate) fn dir_at(&self, path: &[u8]) -> FsResult<Option<Origins>> {
        let found = Paths::new(self).directory(path)?;
        Ok((!found.is_empty()).then_some(found))
    }

    /// What is at a path, if that is no directory.
    pub(crate) fn file_at(&self, path: &[u8]) -> FsResult<Option<(usize, NodeNumber)>> {
        let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        let Some(origins) = self.dir_at(dir)? else {
            return Ok(None);
        };
        Ok(match self.child(&origins, name)? {
            Some(LowerChild::File(at, number)) => Some((at, number)),
            Some(LowerChild::Directory(_)) | None => None,
        })
    }

    /// All names of a file within its layer. The first question for a file with several reads the whole layer, once.
    pub(crate) fn names(&self, at: usize, number: NodeNumber) -> FsResult<Vec<(NodeNumber, Vec<u8>)>> {
        if self.attr(at, number)?.links <= 1 {
            return Ok(self.place(at, number)?.into_iter().collect());
        }
        let links = match self.links[at].get() {
            Some(links) => links,
            None => {
                let scanned = self.scan_links(at)?;
                self.links[at].get_or_init(|| scanned)
            }
        };
        Ok(links.get(&number).cloned().unwrap_or_default())
    }

    fn scan_links(&self, at: usize) -> FsResult<Links> {
        let mut links = Links::new();
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            for named in self.layers[at].entries(dir).map_err(|error| trouble(&error))? {
                let Entry::Node(number) = named.entry else {
                    continue;
                };
                let attr = self.attr(at, number)?;
                if attr.file_type == FileType::Directory {
                    dirs.push(number);
                } else if attr.links > 1 {
                    links.entry(number).or_default().push((dir, named.name));
                }
            }
        }
        Ok(links)
    }

    fn is_opaque(&self, at: usize, dir: NodeNumber) -> FsResult<bool> {
        self.layers[at].is_opaque(dir).map_err(|error| trouble(&error))
    }

    /// The chain of directories from `dir` up to the layer's root, `dir` first, each with its name.
    pub(crate) fn ancestry(&self, at: usize, dir: NodeNumber) -> FsResult<Vec<(NodeNumber, Vec<u8>)>> {
        let mut chain = Vec::new();
        let mut current = dir;
        while let Some((parent, name)) = self.place(at, current)? {
            chain.push((current, name));
            current = parent;
            if chain.len() > DEPTH_MAX {
                return Err(Status::Io);
            }
        }
        if current == ROOT {
            Ok(chain)
        } else {
            Err(Status::Stale)
        }
    }
}

/// Merged directories by path. Asked for in the order of paths, what they have in common is looked up once.
pub(crate) struct Paths<'a> {
    lower: &'a Lower,
    /// The directories on the way to the path asked for last, each with its name; empty where there is none.
    way: Vec<(Vec<u8>, Origins)>,
}

impl<'a> Paths<'a> {
    pub(crate) fn new(lower: &'a Lower) -> Self {
        Self {
            lower,
            way: Vec::new(),
        }
    }

    /// The merged directory at a path; empty if there is none.
    pub(crate) fn directory(&mut self, path: &[u8]) -> FsResult<Origins> {
        let mut depth = 0;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            if self.way.get(depth).is_none_or(|(known, _)| known != name) {
                self.way.truncate(depth);
                let found = match self.way.last() {
                    Some((_, above)) => self.lower.child(above, name)?,
                    None => self.lower.child(&self.lower.root()?, name)?,
                };
                let origins = match found {
                    Some(LowerChild::Directory(origins)) => origins,
                    Some(LowerChild::File(..)) | None => Origins::new(),
                };
                self.way.push((name.to_vec(), origins));
            }
            depth += 1;
        }
        self.way.truncate(depth);
        match self.way.last() {
            Some((_, origins)) => Ok(origins.clone()),
            None => self.lower.root(),
        }
    }
}
