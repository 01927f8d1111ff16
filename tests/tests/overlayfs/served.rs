//! A tree behind the border of the file server, used as a Linux client would use it.

use std::collections::HashMap;
use std::fs;

use cowfs::attr::{Attr, Device, FileType, SetAttr, SetTime, Time};
use cowfs::service::{
    CallKey, Caller, CreateMode, FileService, FsResult, Handle, Object, Special, Stability, Status, access,
};
use rustix::io::Errno;

use crate::op::{Op, SetTo, Who};
use crate::view::{Kind, Shown, Tree, When, tie};

/// Any service, with operations by path.
pub(crate) struct Served<'a> {
    pub(crate) service: &'a dyn FileService,
    /// Whether this machine's kernel refuses links to files of strangers; a client's kernel does so before it asks.
    pub(crate) protects_links: bool,
}

/// What `fs.protected_hardlinks` says here (proc_sys_fs(5)).
pub(crate) fn protects_links() -> bool {
    fs::read_to_string("/proc/sys/fs/protected_hardlinks").is_ok_and(|text| text.trim() == "1")
}

fn caller(who: Who) -> Caller {
    Caller {
        uid: who.uid,
        gid: who.gid,
        groups: who.group.into_iter().collect(),
    }
}

fn errno(status: Status) -> Errno {
    match status {
        Status::NameTooLong => Errno::NAMETOOLONG,
        Status::NotEmpty => Errno::NOTEMPTY,
        Status::Stale => Errno::STALE,
        Status::DQuot => Errno::DQUOT,
        // The others of RFC 1813 have the numbers of Linux, or should never be seen here.
        status => Errno::from_raw_os_error(i32::try_from(status as u32).unwrap_or(0)),
    }
}

fn time(set: SetTo) -> SetTime {
    match set {
        SetTo::Omit => SetTime::Keep,
        SetTo::Now => SetTime::ServerNow,
        SetTo::At(seconds, nanos) => SetTime::Client(Time { seconds, nanos }),
    }
}

impl Served<'_> {
    /// Does it; `call` makes it a call of its own.
    pub(crate) fn apply(&self, who: Who, op: &Op, call: u64) -> Result<(), Errno> {
        let key = Some(CallKey(u128::from(call).to_be_bytes()));
        self.perform(&caller(who), op, key).map_err(errno)
    }

    fn find(&self, caller: &Caller, path: &[u8]) -> FsResult<Object> {
        let mut object = self.service.root();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            object = self.service.lookup(caller, &object.handle, name)?.0;
        }
        Ok(object)
    }

    fn split<'p>(&self, caller: &Caller, path: &'p [u8]) -> FsResult<(Handle, &'p [u8])> {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (dir, name) = at.map_or((&path[..0], path), |at| (&path[..at], &path[at + 1..]));
        let dir = self.find(caller, dir)?;
        // A client has walked there, and may search it, before it asks.
        if dir.attr.file_type != FileType::Directory {
            return Err(Status::NotDir);
        }
        match self.service.access(caller, &dir.handle, access::LOOKUP)?.0 {
            0 => Err(Status::Access),
            _ => Ok((dir.handle, name)),
        }
    }

    fn perform(&self, caller: &Caller, op: &Op, key: Option<CallKey>) -> FsResult<()> {
        let service = self.service;
        let mode_only = |mode: u32| SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        match op {
            Op::Create { path, mode } => {
                let (dir, name) = self.split(caller, path)?;
                let made = service.create(caller, key, &dir, name, CreateMode::Guarded(mode_only(*mode)))?;
                service.settle(made.ticket)
            }
            Op::Write { path, at, len, byte } => {
                let file = self.open_to_write(caller, path)?;
                // Some of each, by what is written.
                let stability = match byte % 3 {
                    0 => Stability::Unstable,
                    1 => Stability::DataSync,
                    _ => Stability::FileSync,
                };
                let written = service.write(caller, &file, *at, &vec![*byte; *len], stability)?;
                service.settle(written.ticket)
            }
            Op::Truncate { path, size } => {
                let file = self.open_to_write(caller, path)?;
                let set = SetAttr {
                    size: Some(*size),
                    ..SetAttr::default()
                };
                service.settle(service.setattr(caller, key, &file, &set, None)?.ticket)
            }
            Op::Mkdir { path, mode } => {
                let (dir, name) = self.split(caller, path)?;
                service.settle(service.mkdir(caller, key, &dir, name, &mode_only(*mode))?.ticket)
            }
            Op::Symlink { path, target } => {
                let (dir, name) = self.split(caller, path)?;
                let made = service.symlink(caller, key, &dir, name, target, &SetAttr::default())?;
                service.settle(made.ticket)
            }
            Op::Mknod {
                path,
                kind,
                mode,
                device,
            } => {
                let (dir, name) = self.split(caller, path)?;
                let special = Special {
                    file_type: match kind {
                        Kind::Fifo => FileType::Fifo,
                        Kind::Socket => FileType::Socket,
                        Kind::Block => FileType::Block,
                        Kind::Regular | Kind::Directory | Kind::Symlink | Kind::Character => {
                            FileType::Character
                        }
                    },
                    device: Device {
                        major: device.0,
                        minor: device.1,
                    },
                };
                let made = service.mknod(caller, key, &dir, name, special, &mode_only(*mode))?;
                service.settle(made.ticket)
            }
            Op::Unlink { path } => {
                let (dir, name) = self.split(caller, path)?;
                service.settle(service.remove(caller, key, &dir, name)?.ticket)
            }
            Op::Rmdir { path } => {
                let (dir, name) = self.split(caller, path)?;
                service.settle(service.rmdir(caller, key, &dir, name)?.ticket)
            }
            Op::Rename { from, to } => {
                let (from, to) = (self.split(caller, from)?, self.split(caller, to)?);
                let renamed = service.rename(caller, key, (&from.0, from.1), (&to.0, to.1))?;
                service.settle(renamed.ticket)
            }
            Op::Link { from, to } => self.link(caller, key, from, to),
            Op::Chmod { path, mode } => {
                let handle = self.find(caller, path)?.handle;
                service.settle(
                    service
                        .setattr(caller, key, &handle, &mode_only(*mode), None)?
                        .ticket,
                )
            }
            Op::Chown { path, uid, gid } => {
                let handle = self.find(caller, path)?.handle;
                let set = SetAttr {
                    uid: *uid,
                    gid: *gid,
                    ..SetAttr::default()
                };
                service.settle(service.setattr(caller, key, &handle, &set, None)?.ticket)
            }
            Op::Utimens { path, atime, mtime } => {
                let handle = self.find(caller, path)?.handle;
                let set = SetAttr {
                    atime: time(*atime),
                    mtime: time(*mtime),
                    ..SetAttr::default()
                };
                service.settle(service.setattr(caller, key, &handle, &set, None)?.ticket)
            }
        }
    }

    /// What open(2) asks before a client writes.
    fn open_to_write(&self, caller: &Caller, path: &[u8]) -> FsResult<Handle> {
        let object = self.find(caller, path)?;
        match object.attr.file_type {
            FileType::Directory => return Err(Status::IsDir),
            FileType::Regular => {}
            other => unreachable!("only files and directories are written to, not {other:?}"),
        }
        let (granted, _) = self.service.access(caller, &object.handle, access::MODIFY)?;
        if granted & access::MODIFY == 0 {
            return Err(Status::Access);
        }
        Ok(object.handle)
    }

    fn link(&self, caller: &Caller, key: Option<CallKey>, from: &[u8], to: &[u8]) -> FsResult<()> {
        let source = self.find(caller, from)?;
        let (dir, name) = self.split(caller, to)?;
        match self.service.lookup(caller, &dir, name) {
            Ok(_) => return Err(Status::Exist),
            Err(Status::NoEnt) => {}
            Err(other) => return Err(other),
        }
        let attr = source.attr;
        if self.protects_links && caller.uid != 0 && caller.uid != attr.uid {
            let dangerous = attr.file_type != FileType::Regular
                || attr.mode & 0o4000 != 0
                || attr.mode & 0o2010 == 0o2010;
            let wanted = access::READ | access::MODIFY;
            if dangerous || self.service.access(caller, &source.handle, wanted)?.0 != wanted {
                return Err(Status::Perm);
            }
        }
        let linked = self.service.link(caller, key, &source.handle, &dir, name)?;
        self.service.settle(linked.ticket)
    }

    /// The whole tree, and the handle of each object by its number.
    pub(crate) fn tree(&self) -> FsResult<(Tree, HashMap<u64, Handle>)> {
        let root = Caller::root();
        let (mut tree, mut handles) = (Tree::new(), HashMap::new());
        let mut todo = vec![(Vec::new(), self.service.root())];
        while let Some((path, object)) = todo.pop() {
            handles.insert(object.fileid, object.handle);
            let content = match object.attr.file_type {
                FileType::Regular => self.content(&object)?,
                FileType::Symlink => self.service.readlink(&root, &object.handle)?.0,
                _ => Vec::new(),
            };
            if object.attr.file_type == FileType::Directory {
                let mut listed = |entry: &cowfs::service::ListedEntry| {
                    if entry.name != b"." && entry.name != b".." {
                        let mut below = path.clone();
                        if !below.is_empty() {
                            below.push(b'/');
                        }
                        below.extend_from_slice(&entry.name);
                        todo.push((below, entry.object.expect("it was asked for")));
                    }
                    true
                };
                self.service
                    .readdir(&root, &object.handle, 0, true, &mut listed)?;
            }
            tree.insert(path, shown(&object.attr, object.fileid, content));
        }
        tie(&mut tree);
        Ok((tree, handles))
    }

    fn content(&self, object: &Object) -> FsResult<Vec<u8>> {
        let mut out = Vec::new();
        while !self
            .service
            .read(
                &Caller::root(),
                &object.handle,
                out.len() as u64,
                1 << 20,
                &mut out,
            )?
            .eof
        {}
        Ok(out)
    }
}

fn shown(attr: &Attr, number: u64, content: Vec<u8>) -> Shown {
    let kind = match attr.file_type {
        FileType::Regular => Kind::Regular,
        FileType::Directory => Kind::Directory,
        FileType::Block => Kind::Block,
        FileType::Character => Kind::Character,
        FileType::Symlink => Kind::Symlink,
        FileType::Socket => Kind::Socket,
        FileType::Fifo => Kind::Fifo,
    };
    let sized = matches!(kind, Kind::Regular | Kind::Symlink);
    Shown {
        kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        links: u64::from(attr.links),
        size: if sized { attr.size } else { 0 },
        device: (attr.device.major, attr.device.minor),
        atime: When::new(attr.atime.seconds, attr.atime.nanos),
        mtime: When::new(attr.mtime.seconds, attr.mtime.nanos),
        content,
        same_as: Vec::new(),
        number,
    }
}

/// Makes `model`, which is empty, look as `tree` does.
pub(crate) fn fill(model: &dyn FileService, tree: &Tree) -> FsResult<()> {
    let served = Served {
        service: model,
        protects_links: false,
    };
    let root = Caller::root();
    // A path comes after its directory in order.
    for (path, shown) in tree {
        let (dir, name) = served.split(&root, path)?;
        let none = SetAttr::default();
        if path.is_empty() {
            // It is there.
        } else if shown.same_as != *path {
            let first = served.find(&root, &shown.same_as)?.handle;
            model.link(&root, None, &first, &dir, name)?;
        } else {
            let special = |file_type| Special {
                file_type,
                device: Device {
                    major: shown.device.0,
                    minor: shown.device.1,
                },
            };
            match shown.kind {
                Kind::Regular => {
                    let made = model.create(&root, None, &dir, name, CreateMode::Guarded(none))?;
                    let handle = made.value.made.ok_or(Status::ServerFault)?.handle;
                    model.write(&root, &handle, 0, &shown.content, Stability::FileSync)?;
                }
                Kind::Directory => {
                    model.mkdir(&root, None, &dir, name, &none)?;
                }
                Kind::Symlink => {
                    model.symlink(&root, None, &dir, name, &shown.content, &none)?;
                }
                Kind::Fifo => {
                    model.mknod(&root, None, &dir, name, special(FileType::Fifo), &none)?;
                }
                Kind::Socket => {
                    model.mknod(&root, None, &dir, name, special(FileType::Socket), &none)?;
                }
                Kind::Character => {
                    model.mknod(&root, None, &dir, name, special(FileType::Character), &none)?;
                }
                Kind::Block => {
                    model.mknod(&root, None, &dir, name, special(FileType::Block), &none)?;
                }
            }
        }
    }
    for (path, shown) in tree {
        let at = |when| match when {
            When::At(seconds, nanos) => SetTime::Client(Time { seconds, nanos }),
            When::Recently => SetTime::ServerNow,
        };
        let set = SetAttr {
            mode: Some(shown.mode),
            uid: Some(shown.uid),
            gid: Some(shown.gid),
            size: None,
            atime: at(shown.atime),
            mtime: at(shown.mtime),
        };
        let handle = served.find(&root, path)?.handle;
        model.setattr(&root, None, &handle, &set, None)?;
    }
    Ok(())
}
