//! Operations that make names: CREATE, MKDIR, SYMLINK, MKNOD, LINK.

use super::permit::{self, R, W, X};
use super::resolve::Node;
use super::{Stack, check_name, is_dots};
use crate::attr::{Attr, Device, FileType, SetAttr};
use crate::handle::ObjectKey;
use crate::service::{
    Around, CallKey, Caller, Changed, CreateMode, FsResult, Handle, InDirectory, Special, Status,
};
use crate::writable::record::{Body, Call, Change, Name, Stored};
use crate::writable::state::State;

/// Longest target of a symbolic link, as on Linux (PATH_MAX).
const TARGET_MAX: usize = 4096;
/// Most names of one file, as on ext4.
const LINKS_MAX: u32 = 65_000;

/// An object about to be made.
struct New<'a> {
    file_type: FileType,
    set: &'a SetAttr,
    body: Body,
}

impl Stack {
    /// A directory that the caller may search, and its attributes; `name` is one that can be in it.
    pub(crate) fn enter(
        &self,
        state: &State,
        caller: &Caller,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<(Node, Attr)> {
        let node = self.find(state, dir)?;
        let attr = self.attr(state, &node)?;
        if attr.file_type != FileType::Directory {
            return Err(Status::NotDir);
        }
        check_name(name)?;
        permit::require(caller, &attr, X)?;
        Ok((node, attr))
    }

    fn make(
        &self,
        caller: &Caller,
        call: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        new: New<'_>,
    ) -> FsResult<Changed<InDirectory>> {
        let mut state = self.write_state()?;
        let (node, attr) = self.enter(&state, caller, dir, name)?;
        if is_dots(name) || self.child(&state, &node, name)?.is_some() {
            return Err(Status::Exist);
        }
        permit::require(caller, &attr, W | X)?;
        if matches!(new.file_type, FileType::Block | FileType::Character) && caller.uid != 0 {
            return Err(Status::Perm);
        }
        self.make_in(&mut state, caller, call, (&node, &attr), name, new)
    }

    /// Makes an object under a name that is free, in a directory that the caller may write.
    fn make_in(
        &self,
        state: &mut State,
        caller: &Caller,
        call: Option<CallKey>,
        (dir, dir_attr): (&Node, &Attr),
        name: &[u8],
        new: New<'_>,
    ) -> FsResult<Changed<InDirectory>> {
        self.writable()?;
        self.check_call(state, call)?;
        self.check_objects(state)?;
        let before = self.before(state, dir)?;
        let (mode, uid, gid) = permit::birth(caller, dir_attr, new.file_type, new.set);
        let dir_key = self.copy_up(state, dir)?;
        let now = self.now();
        let key = ObjectKey {
            layer: state.layer(),
            number: state.take_number(),
        };
        let attr = Stored {
            mode,
            uid,
            gid,
            atime: super::time_after(new.set.atime, now, now),
            mtime: super::time_after(new.set.mtime, now, now),
            ctime: now,
        };
        let mut body = new.body;
        if let Body::Directory { parent, .. } = &mut body {
            *parent = dir_key;
        }
        let links = u32::from(new.file_type != FileType::Directory);
        let changes = vec![
            Change::Make {
                key,
                links,
                attr,
                body,
            },
            Change::Entry {
                dir: dir_key,
                name: name.to_vec(),
                target: Some(Name::Object(key)),
            },
            self.touch_dir(state, dir_key, now)?,
        ];
        let call = call.map(|key_of_call| Call {
            key: key_of_call,
            made: Some(key),
        });
        let ticket = self.record(state, call, changes)?;
        let after = self.object(state, &Node::Recorded(dir_key))?;
        let made = self.object(state, &Node::Recorded(key))?;
        Ok(Changed {
            value: InDirectory {
                dir: Around { before, after },
                made: Some(made),
            },
            ticket,
        })
    }

    /// CREATE.
    pub(crate) fn do_create(
        &self,
        caller: &Caller,
        call: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        mode: CreateMode,
    ) -> FsResult<Changed<InDirectory>> {
        let mut state = self.write_state()?;
        let (node, attr) = self.enter(&state, caller, dir, name)?;
        if is_dots(name) {
            return Err(Status::Exist);
        }
        if let Some(there) = self.child(&state, &node, name)? {
            return self.create_existing(&mut state, caller, call, &node, &there, mode);
        }
        permit::require(caller, &attr, W | X)?;
        let none = SetAttr::default();
        let (set, verifier) = match &mode {
            CreateMode::Unchecked(set) | CreateMode::Guarded(set) => (set, None),
            // The client sets the mode next; until then only the owner has the file.
            CreateMode::Exclusive(verifier) => (&none, Some(*verifier)),
        };
        let size = set.size.unwrap_or(0);
        super::data::check_size(size)?;
        let body = Body::File {
            size,
            base: None,
            verifier,
        };
        let new = New {
            file_type: FileType::Regular,
            set,
            body,
        };
        self.make_in(&mut state, caller, call, (&node, &attr), name, new)
    }

    fn create_existing(
        &self,
        state: &mut State,
        caller: &Caller,
        call: Option<CallKey>,
        dir: &Node,
        there: &Node,
        mode: CreateMode,
    ) -> FsResult<Changed<InDirectory>> {
        let attr = self.attr(state, there)?;
        let mut there = there.clone();
        let mut remembered = None;
        let done = call.map(|key| Call {
            key,
            made: Some(there.key()),
        });
        match mode {
            CreateMode::Guarded(_) => return Err(Status::Exist),
            CreateMode::Exclusive(verifier) => {
                let recorded = state.objects.get(&there.key()).and_then(|object| object.file());
                if recorded.is_none_or(|file| file.verifier != Some(verifier)) {
                    return Err(Status::Exist);
                }
            }
            CreateMode::Unchecked(set) => {
                match attr.file_type {
                    FileType::Regular => {}
                    FileType::Directory => return Err(Status::IsDir),
                    FileType::Block
                    | FileType::Character
                    | FileType::Symlink
                    | FileType::Socket
                    | FileType::Fifo => return Err(Status::Exist),
                }
                if set.size.is_some() {
                    let only_size = SetAttr {
                        size: set.size,
                        ..SetAttr::default()
                    };
                    remembered = Some(self.set_on(state, caller, done, &there, &only_size)?);
                    there = Node::Recorded(there.key());
                }
            }
        }
        let ticket = match remembered {
            Some(ticket) => ticket,
            None => self.remember_call(state, done)?,
        };
        let before = self.before(state, dir)?;
        let dir = Around {
            before,
            after: self.object(state, &self.locate(state, dir.key())?)?,
        };
        let made = Some(self.object(state, &there)?);
        Ok(Changed {
            value: InDirectory { dir, made },
            ticket,
        })
    }

    /// MKDIR.
    pub(crate) fn do_mkdir(
        &self,
        caller: &Caller,
        call: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        // Born without layers below: what a whiteout hid stays hidden. The parent is filled in later.
        let body = Body::Directory {
            parent: self.root,
            merge: None,
        };
        let set = SetAttr { size: None, ..*set };
        self.make(
            caller,
            call,
            dir,
            name,
            New {
                file_type: FileType::Directory,
                set: &set,
                body,
            },
        )
    }

    /// SYMLINK.
    pub(crate) fn do_symlink(
        &self,
        caller: &Caller,
        call: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        target: &[u8],
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        if target.len() > TARGET_MAX {
            return Err(Status::NameTooLong);
        }
        if target.is_empty() || target.contains(&0) {
            return Err(Status::Inval);
        }
        let body = Body::Symlink {
            target: target.to_vec(),
        };
        let set = SetAttr {
            mode: Some(set.mode.unwrap_or(0o777)),
            size: None,
            ..*set
        };
        self.make(
            caller,
            call,
            dir,
            name,
            New {
                file_type: FileType::Symlink,
                set: &set,
                body,
            },
        )
    }

    /// MKNOD.
    pub(crate) fn do_mknod(
        &self,
        caller: &Caller,
        call: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        special: Special,
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        let device = match special.file_type {
            FileType::Block | FileType::Character => special.device,
            FileType::Socket | FileType::Fifo => Device::default(),
            FileType::Regular | FileType::Directory | FileType::Symlink => return Err(Status::BadType),
        };
        let body = Body::Special {
            file_type: special.file_type,
            device,
        };
        let set = SetAttr { size: None, ..*set };
        let new = New {
            file_type: special.file_type,
            set: &set,
            body,
        };
        self.make(caller, call, dir, name, new)
    }

    /// LINK.
    pub(crate) fn do_link(
        &self,
        caller: &Caller,
        call: Option<CallKey>,
        file: &Handle,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>> {
        let mut state = self.write_state()?;
        let state = &mut *state;
        let target = self.find(state, file)?;
        let (node, attr) = self.enter(state, caller, dir, name)?;
        if is_dots(name) || self.child(state, &node, name)?.is_some() {
            return Err(Status::Exist);
        }
        permit::require(caller, &attr, W | X)?;
        let target_attr = self.attr(state, &target)?;
        if target_attr.file_type == FileType::Directory {
            // As link(2); RFC 1813 has no better word.
            return Err(Status::Perm);
        }
        if target_attr.links >= LINKS_MAX {
            return Err(Status::MLink);
        }
        self.writable()?;
        self.check_call(state, call)?;
        let before = self.before(state, &node)?;
        let key = self.copy_up(state, &target)?;
        let dir_key = self.copy_up(state, &node)?;
        let now = self.now();
        let object = state.objects.get(&key).ok_or(Status::Stale)?;
        let changes = vec![
            Change::Entry {
                dir: dir_key,
                name: name.to_vec(),
                target: Some(Name::Object(key)),
            },
            Change::Links {
                key,
                links: object.links + 1,
            },
            Change::Attr {
                key,
                attr: Stored {
                    ctime: now,
                    ..object.attr
                },
            },
            self.touch_dir(state, dir_key, now)?,
        ];
        let call = call.map(|key_of_call| Call {
            key: key_of_call,
            made: Some(key),
        });
        let ticket = self.record(state, call, changes)?;
        let after = self.object(state, &Node::Recorded(dir_key))?;
        let made = Some(self.object(state, &Node::Recorded(key))?);
        Ok(Changed {
            value: InDirectory {
                dir: Around { before, after },
                made,
            },
            ticket,
        })
    }

    /// The change of a directory's times that goes with a change of its names.
    pub(crate) fn touch_dir(
        &self,
        state: &State,
        key: ObjectKey,
        now: crate::attr::Time,
    ) -> FsResult<Change> {
        let attr = state.objects.get(&key).ok_or(Status::Stale)?.attr;
        Ok(Change::Attr {
            key,
            attr: Stored {
                mtime: now,
                ctime: now,
                ..attr
            },
        })
    }

    /// Whether the caller may list a directory.
    pub(crate) fn may_list(&self, caller: &Caller, attr: &Attr) -> FsResult<()> {
        permit::require(caller, attr, R)
    }
}
