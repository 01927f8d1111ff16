//! Copy-up: giving a lower object a record in the writable layer before its first change.
//!
//! Nothing is copied but attributes (and a symlink's target): a file keeps the lower one as its base and grows written
//! ranges over it. The record carries *all* names that lead to the object, so hard links stay links, and all
//! directories above it have records too, so the writable layer can be read by name whatever is below it. Identity does
//! not change, and nothing a client can see does either, so a copy-up whose operation then fails needs no undoing.

use crate::attr::FileType;
use crate::handle::ObjectKey;
use crate::layer::LayerId;
use crate::service::{FsResult, Status};
use crate::stack::Stack;
use crate::stack::lower::trouble;
use crate::stack::resolve::{LowerDir, Node};
use crate::writable::record::{Base, Body, Change, Merge, Name, Stored};
use crate::writable::state::State;

impl Stack {
    /// Makes sure that an object has a record.
    pub(crate) fn copy_up(&self, state: &mut State, node: &Node) -> FsResult<ObjectKey> {
        // The node may have been found before another copy-up gave the object its record.
        if state.objects.contains_key(&node.key()) {
            return Ok(node.key());
        }
        match node {
            Node::Recorded(_) => Err(Status::Stale),
            Node::Directory(_) => self.copy_up_dir(state, node),
            Node::File(key, at) => self.copy_up_file(state, *key, *at),
        }
    }

    /// From the nearest directory with a record downwards, one record each.
    fn copy_up_dir(&self, state: &mut State, node: &Node) -> FsResult<ObjectKey> {
        let mut chain = Vec::new();
        let mut current = node.clone();
        while let Node::Directory(dir) = &current {
            let above = self.parent(state, &current)?;
            chain.push(std::sync::Arc::clone(dir));
            current = above;
        }
        let mut parent = current.key();
        for dir in chain.into_iter().rev() {
            self.record_dir(state, &dir, parent)?;
            parent = dir.key;
        }
        Ok(parent)
    }

    fn record_dir(&self, state: &mut State, dir: &LowerDir, parent: ObjectKey) -> FsResult<()> {
        let &(at, number) = dir.origins.first().ok_or(Status::Stale)?;
        let (_, name) = self.lower.place(at, number)?.ok_or(Status::Stale)?;
        let attr = Stored::from(&self.lower.dir_attr(&dir.origins)?);
        let merge = Merge {
            path: self.lower.path(at, number)?,
            origins: self.with_ids(&dir.origins),
        };
        let body = Body::Directory {
            parent,
            merge: Some(merge),
        };
        let changes = vec![
            Change::Make {
                key: dir.key,
                links: 0,
                attr,
                body,
            },
            Change::Entry {
                dir: parent,
                name,
                target: Some(Name::Object(dir.key)),
            },
        ];
        self.record(state, None, changes)?;
        Ok(())
    }

    /// Origins as the log keeps them.
    pub(crate) fn with_ids(&self, origins: &[(usize, u64)]) -> Vec<(LayerId, u64)> {
        origins
            .iter()
            .map(|&(at, number)| (self.lower.layer(at).id(), number))
            .collect()
    }

    fn copy_up_file(&self, state: &mut State, key: ObjectKey, at: usize) -> FsResult<ObjectKey> {
        let attr = self.lower.attr(at, key.number)?;
        let layer = self.lower.layer(at);
        let body = match attr.file_type {
            FileType::Regular => {
                let base = Base {
                    origin: key,
                    hash: layer.content(key.number).map_err(|error| trouble(&error))?,
                    len: attr.size,
                    whole: attr.size,
                    mtime: attr.mtime,
                    path: self.lower.path(at, key.number)?,
                };
                let base = (attr.size > 0).then_some(base);
                Body::File {
                    size: attr.size,
                    base,
                    verifier: None,
                }
            }
            FileType::Symlink => Body::Symlink {
                target: layer.readlink(key.number).map_err(|error| trouble(&error))?,
            },
            FileType::Block | FileType::Character | FileType::Socket | FileType::Fifo => Body::Special {
                file_type: attr.file_type,
                device: attr.device,
            },
            FileType::Directory => return Err(Status::IsDir),
        };
        let mut names = Vec::new();
        for (dir, name) in self.lower.names(at, key.number)? {
            if let Some(dir) = self.locate_dir(state, at, dir)?
                && let Some(child) = self.child(state, &dir, &name)?
                && child.key() == key
            {
                names.push((dir, name));
            }
        }
        if names.is_empty() {
            return Err(Status::Stale);
        }
        let links = u32::try_from(names.len()).map_err(|_| Status::MLink)?;
        let mut changes = vec![Change::Make {
            key,
            links,
            attr: Stored::from(&attr),
            body,
        }];
        for (dir, name) in names {
            let dir = self.copy_up(state, &dir)?;
            changes.push(Change::Entry {
                dir,
                name,
                target: Some(Name::Object(key)),
            });
        }
        self.record(state, None, changes)?;
        Ok(key)
    }
}
