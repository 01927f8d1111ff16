//! Objects of the tree, and who may do what with one.

use std::collections::BTreeMap;

use super::content::Content;
use crate::attr::{Attr, Device, FileType, SetAttr, SetTime, Time};
use crate::service::{Caller, FsResult, Special, Status};

pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const EXECUTE: u32 = 1;

pub(super) const SETUID: u32 = 0o4000;
pub(super) const SETGID: u32 = 0o2000;
pub(super) const STICKY: u32 = 0o1000;
const GROUP_EXECUTE: u32 = 0o010;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) links: u32,
    pub(super) body: Body,
    /// What an exclusive CREATE made it with, and its ctime then: it counts while nothing has changed since.
    pub(super) verifier: Option<([u8; 8], Time)>,
}

#[derive(Debug)]
pub(super) enum Body {
    Regular(Content),
    Directory(Directory),
    Symlink(Vec<u8>),
    Special(Special),
}

/// Names, each with the cookie it keeps for as long as it is there.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) parent: u64,
    names: BTreeMap<Vec<u8>, (u64, u64)>,
    cookies: BTreeMap<u64, Vec<u8>>,
    next_cookie: u64,
}

impl Directory {
    pub(super) fn new(parent: u64) -> Self {
        Self {
            parent,
            names: BTreeMap::new(),
            cookies: BTreeMap::new(),
            // `.` and `..` have 1 and 2.
            next_cookie: 3,
        }
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<u64> {
        self.names.get(name).map(|&(number, _)| number)
    }

    pub(super) fn insert(&mut self, name: &[u8], number: u64) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.names.insert(name.to_vec(), (number, cookie));
        self.cookies.insert(cookie, name.to_vec());
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some((_, cookie)) = self.names.remove(name) {
            self.cookies.remove(&cookie);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Cookie, name and number of every entry, in the order of cookies.
    pub(super) fn by_cookie(&self) -> impl Iterator<Item = (u64, &[u8], u64)> {
        self.cookies
            .iter()
            .map(|(&cookie, name)| (cookie, name.as_slice(), self.names[name].0))
    }
}

impl Node {
    pub(super) fn attr(&self) -> Attr {
        let (file_type, size, used, device) = match &self.body {
            Body::Regular(content) => (
                FileType::Regular,
                content.size(),
                content.used(),
                Device::default(),
            ),
            Body::Directory(_) => (FileType::Directory, 4096, 4096, Device::default()),
            Body::Symlink(target) => (FileType::Symlink, target.len() as u64, 0, Device::default()),
            Body::Special(special) => (special.file_type, 0, 0, special.device),
        };
        Attr {
            file_type,
            mode: self.mode,
            links: self.links,
            uid: self.uid,
            gid: self.gid,
            size,
            used,
            device,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }

    /// The content of a regular file.
    pub(super) fn content(&self) -> FsResult<&Content> {
        match &self.body {
            Body::Regular(content) => Ok(content),
            Body::Directory(_) => Err(Status::IsDir),
            Body::Symlink(_) | Body::Special(_) => Err(Status::Inval),
        }
    }

    /// Whether the caller has all of `needed` ([`READ`] | [`WRITE`] | [`EXECUTE`]): path_resolution(7), "Permissions".
    pub(super) fn check(&self, caller: &Caller, needed: u32) -> FsResult<()> {
        let granted = if caller.uid == 0 {
            // Root may do everything, but execute only what somebody may execute.
            let executable = matches!(self.body, Body::Directory(_)) || self.mode & 0o111 != 0;
            READ | WRITE | if executable { EXECUTE } else { 0 }
        } else if caller.uid == self.uid {
            self.mode >> 6 & 7
        } else if caller.in_group(self.gid) {
            self.mode >> 3 & 7
        } else {
            self.mode & 7
        };
        if granted & needed == needed {
            Ok(())
        } else {
            Err(Status::Access)
        }
    }

    /// Whether the caller may set these attributes: chmod(2), chown(2), utimensat(2), and RFC 1813 §3.3.2.
    pub(super) fn check_setattr(&self, caller: &Caller, set: &SetAttr) -> FsResult<()> {
        let is_root = caller.uid == 0;
        let is_owner = caller.uid == self.uid;
        if set.mode.is_some() && !is_root && !is_owner {
            return Err(Status::Perm);
        }
        if let Some(uid) = set.uid
            && !is_root
            && !(is_owner && uid == self.uid)
        {
            return Err(Status::Perm);
        }
        if let Some(gid) = set.gid
            && !is_root
            && !(is_owner && (gid == self.gid || caller.in_group(gid)))
        {
            return Err(Status::Perm);
        }
        if !is_root && !is_owner {
            // A value needs the owner, the clock's time needs leave to write: utimensat(2).
            let times = [set.atime, set.mtime];
            if times.iter().any(|time| matches!(time, SetTime::Client(_))) {
                return Err(Status::Perm);
            }
            if times.contains(&SetTime::ServerNow) {
                self.check(caller, WRITE)?;
            }
        }
        if set.size.is_some() {
            self.content()?;
            if !is_owner {
                self.check(caller, WRITE)?;
            }
        }
        Ok(())
    }

    /// Sets everything but the size.
    pub(super) fn apply(&mut self, caller: &Caller, set: &SetAttr, now: Time) {
        if *set == SetAttr::default() {
            return;
        }
        let is_root = caller.uid == 0;
        if set.uid.is_some() || set.gid.is_some() {
            self.drop_privileges(caller);
        }
        self.uid = set.uid.unwrap_or(self.uid);
        self.gid = set.gid.unwrap_or(self.gid);
        if let Some(mode) = set.mode {
            self.mode = mode;
            // chmod(2): a group the caller is not in cannot be lent.
            if !is_root && !caller.in_group(self.gid) {
                self.mode &= !SETGID;
            }
        }
        let stamp = |wanted: SetTime, old: Time| match wanted {
            SetTime::Keep => old,
            SetTime::ServerNow => now,
            SetTime::Client(time) => time,
        };
        self.atime = stamp(set.atime, self.atime);
        self.mtime = stamp(set.mtime, self.mtime);
        self.ctime = now;
    }

    /// The owner changes, or somebody who is not root changes the content: setuid goes, and setgid where it lends a group
    /// or where the caller is not in it.
    pub(super) fn drop_privileges(&mut self, caller: &Caller) {
        if matches!(self.body, Body::Directory(_)) {
            return;
        }
        self.mode &= !SETUID;
        if self.mode & GROUP_EXECUTE != 0 || (caller.uid != 0 && !caller.in_group(self.gid)) {
            self.mode &= !SETGID;
        }
    }
}
