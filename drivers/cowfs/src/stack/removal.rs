//! Operations that take names away: REMOVE, RMDIR, RENAME.

use super::listing::lock;
use super::permit::{self, W, X};
use super::resolve::Node;
use super::{Stack, is_dots};
use crate::attr::{Attr, FileType, Time};
use crate::handle::ObjectKey;
use crate::service::{Around, CallKey, Caller, Changed, FsResult, Handle, InDirectory, Renamed, Status};
use crate::writable::record::{Call, Change, Name, Stored};
use crate::writable::state::State;

/// A directory and a name in it.
struct Spot<'a> {
    dir: Node,
    attr: Attr,
    name: &'a [u8],
}

/// Whether a name of the writable layer itself leads to an object.
fn names(state: &State, dir: ObjectKey, name: &[u8], object: ObjectKey) -> bool {
    let parent = state.objects.get(&dir).and_then(|object| object.directory());
    parent.and_then(|dir| dir.entries.get(name)) == Some(&Name::Object(object))
}

impl Stack {
    fn spot<'a>(&self, state: &State, caller: &Caller, dir: &Handle, name: &'a [u8]) -> FsResult<Spot<'a>> {
        let (dir, attr) = self.enter(state, caller, dir, name)?;
        Ok(Spot { dir, attr, name })
    }

    /// The change that takes a name away: a whiteout where something below would show through.
    fn hide(&self, state: &State, dir: ObjectKey, name: &[u8]) -> FsResult<Change> {
        let below = self.hidden_below(state, &Node::Recorded(dir), name)?;
        Ok(Change::Entry {
            dir,
            name: name.to_vec(),
            target: below.then_some(Name::Whiteout),
        })
    }

    /// What happens to an object that loses one name, which is about to go from `dir`. An object with several names
    /// gets a record first. Returns lower objects that are gone.
    fn lose_name(
        &self,
        state: &mut State,
        node: &Node,
        (dir, name): (ObjectKey, &[u8]),
        now: Time,
        changes: &mut Vec<Change>,
    ) -> FsResult<Option<ObjectKey>> {
        let node = match node {
            Node::File(key, at) if self.lower.attr(*at, key.number)?.links > 1 => {
                Node::Recorded(self.copy_up(state, node)?)
            }
            other => other.clone(),
        };
        let Node::Recorded(key) = node else {
            return Ok(Some(node.key()));
        };
        let object = state.objects.get(&key).ok_or(Status::Stale)?;
        let counted = names(state, dir, name, key);
        if object.directory().is_some() || (counted && object.links <= 1) {
            changes.push(Change::Drop { key });
        } else if counted {
            changes.push(Change::Links {
                key,
                links: object.links - 1,
            });
            changes.push(Change::Attr {
                key,
                attr: Stored {
                    ctime: now,
                    ..object.attr
                },
            });
        }
        Ok(None)
    }

    /// REMOVE and RMDIR.
    pub(crate) fn do_remove(
        &self,
        caller: &Caller,
        call: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        directory: bool,
    ) -> FsResult<Changed<InDirectory>> {
        let mut state = self.write_state()?;
        let state = &mut *state;
        let spot = self.spot(state, caller, dir, name)?;
        match name {
            b"." if directory => return Err(Status::Inval),
            b".." if directory => return Err(Status::NotEmpty),
            b"." | b".." => return Err(Status::IsDir),
            _ => {}
        }
        let node = self.child(state, &spot.dir, name)?.ok_or(Status::NoEnt)?;
        let attr = self.attr(state, &node)?;
        permit::unlinkable(caller, &spot.attr, &attr)?;
        match (attr.file_type == FileType::Directory, directory) {
            (true, false) => return Err(Status::IsDir),
            (false, true) => return Err(Status::NotDir),
            (true, true) if !lock(&*self.listing(state, &node)?).is_empty() => return Err(Status::NotEmpty),
            _ => {}
        }
        // What takes something away gives room back in the end.
        let _drawing = self.writable()?.log.draw();
        self.check_call(state, call)?;
        let before = self.before(state, &spot.dir)?;
        let dir_key = self.copy_up(state, &spot.dir)?;
        let now = self.now();
        let mut changes = Vec::new();
        let gone = self.lose_name(state, &node, (dir_key, name), now, &mut changes)?;
        changes.insert(0, self.hide(state, dir_key, name)?);
        changes.push(self.touch_dir(state, dir_key, now)?);
        let ticket = self.record(state, call.map(|key| Call { key, made: None }), changes)?;
        self.bury(gone);
        if directory {
            self.unlist(node.key());
        }
        let after = self.object(state, &Node::Recorded(dir_key))?;
        Ok(Changed {
            value: InDirectory {
                dir: Around { before, after },
                made: None,
            },
            ticket,
        })
    }

    fn bury(&self, gone: Option<ObjectKey>) {
        if let Some(key) = gone {
            self.forget(key);
            self.unlist(key);
        }
    }

    /// RENAME.
    pub(crate) fn do_rename(
        &self,
        caller: &Caller,
        call: Option<CallKey>,
        from: (&Handle, &[u8]),
        to: (&Handle, &[u8]),
    ) -> FsResult<Changed<Renamed>> {
        let mut state = self.write_state()?;
        let state = &mut *state;
        let from = self.spot(state, caller, from.0, from.1)?;
        let node = if is_dots(from.name) {
            Err(Status::Inval)
        } else {
            Ok(self.child(state, &from.dir, from.name)?.ok_or(Status::NoEnt)?)
        };
        let to = self.spot(state, caller, to.0, to.1)?;
        if is_dots(to.name) {
            return Err(Status::Inval);
        }
        let node = node?;
        let attr = self.attr(state, &node)?;
        let replaced = self.child(state, &to.dir, to.name)?;
        if replaced.as_ref().is_some_and(|there| there.key() == node.key()) {
            return self.renamed_nothing(state, call, &from, &to);
        }
        // Which of several mistakes is told follows Linux (`do_renameat2`, `vfs_rename`): loops, then leave, then types.
        let directory = attr.file_type == FileType::Directory;
        let moves = directory && from.dir.key() != to.dir.key();
        if moves && self.is_within(state, &to.dir, node.key())? {
            return Err(Status::Inval);
        }
        if let Some(there) = &replaced
            && self.is_within(state, &from.dir, there.key())?
        {
            return Err(Status::NotEmpty);
        }
        permit::unlinkable(caller, &from.attr, &attr)?;
        match &replaced {
            Some(there) => {
                let there = self.attr(state, there)?;
                permit::unlinkable(caller, &to.attr, &there)?;
                match (directory, there.file_type == FileType::Directory) {
                    (true, false) => return Err(Status::NotDir),
                    (false, true) => return Err(Status::IsDir),
                    (true, true) | (false, false) => {}
                }
            }
            None => permit::require(caller, &to.attr, W | X)?,
        }
        if moves {
            // Its `..` changes, which is a write to the directory itself.
            permit::require(caller, &attr, W)?;
        }
        if let Some(there) = &replaced
            && directory
            && !lock(&*self.listing(state, there)?).is_empty()
        {
            return Err(Status::NotEmpty);
        }
        self.writable()?;
        self.check_call(state, call)?;
        self.rename_checked(state, call, (&from, &node), (&to, replaced.as_ref()))
    }

    fn rename_checked(
        &self,
        state: &mut State,
        call: Option<CallKey>,
        (from, node): (&Spot<'_>, &Node),
        (to, replaced): (&Spot<'_>, Option<&Node>),
    ) -> FsResult<Changed<Renamed>> {
        let before = (self.before(state, &from.dir)?, self.before(state, &to.dir)?);
        let key = self.copy_up(state, node)?;
        let (from_key, to_key) = (self.copy_up(state, &from.dir)?, self.copy_up(state, &to.dir)?);
        let now = self.now();
        let mut changes = Vec::new();
        let mut gone = None;
        if let Some(there) = replaced {
            gone = self.lose_name(state, there, (to_key, to.name), now, &mut changes)?;
        }
        let object = state.objects.get(&key).ok_or(Status::Stale)?;
        let attr = Stored {
            ctime: now,
            ..object.attr
        };
        if object.directory().is_none() && !names(state, from_key, from.name, key) {
            // A layer that hid this name has left the stack since the object got its record.
            changes.push(Change::Links {
                key,
                links: object.links.saturating_add(1),
            });
        }
        if object.directory().is_some() && from_key != to_key {
            changes.push(Change::Parent {
                dir: key,
                parent: to_key,
            });
        }
        changes.insert(0, self.hide(state, from_key, from.name)?);
        changes.insert(
            1,
            Change::Entry {
                dir: to_key,
                name: to.name.to_vec(),
                target: Some(Name::Object(key)),
            },
        );
        changes.push(Change::Attr { key, attr });
        changes.push(self.touch_dir(state, from_key, now)?);
        if from_key != to_key {
            changes.push(self.touch_dir(state, to_key, now)?);
        }
        let ticket = self.record(state, call.map(|key| Call { key, made: None }), changes)?;
        self.bury(gone);
        if let Some(there) = replaced {
            self.unlist(there.key());
        }
        let from = Around {
            before: before.0,
            after: self.object(state, &Node::Recorded(from_key))?,
        };
        let to = Around {
            before: before.1,
            after: self.object(state, &Node::Recorded(to_key))?,
        };
        Ok(Changed {
            value: Renamed { from, to },
            ticket,
        })
    }

    /// Two names of one file: rename(2) leaves both.
    fn renamed_nothing(
        &self,
        state: &mut State,
        call: Option<CallKey>,
        from: &Spot<'_>,
        to: &Spot<'_>,
    ) -> FsResult<Changed<Renamed>> {
        let ticket = self.remember_call(state, call.map(|key| Call { key, made: None }))?;
        let around = |spot: &Spot<'_>| {
            Ok(Around {
                before: self.before(state, &spot.dir)?,
                after: self.object(state, &spot.dir)?,
            })
        };
        Ok(Changed {
            value: Renamed {
                from: around(from)?,
                to: around(to)?,
            },
            ticket,
        })
    }

    /// Whether `inner` is the object `outer` or lies below it.
    fn is_within(&self, state: &State, inner: &Node, outer: ObjectKey) -> FsResult<bool> {
        let mut current = inner.clone();
        loop {
            if current.key() == outer {
                return Ok(true);
            }
            if current.key() == self.root {
                return Ok(false);
            }
            current = self.parent(state, &current)?;
        }
    }
}
