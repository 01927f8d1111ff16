//! [`FileService`] in terms of the operations; reading calls are answered here.

use std::sync::PoisonError;

use super::Stack;
use super::permit;
use super::resolve::Node;
use crate::attr::Attr;
use crate::attr::{FileType, SetAttr, Time};
use crate::layer::Lent;
use crate::service::{
    Around, CallKey, Caller, Changed, CreateMode, FileService, FsResult, FsStat, Handle, InDirectory,
    ListedEntry, Object, ReadOutcome, Renamed, Replayed, Special, Stability, Stamp, Statistics, Status,
    Ticket, WriteVerifier, Written,
};
use crate::writable::mark::Mark;
use crate::writable::saved::{Saved, SavedError};
use crate::writable::travel::{Sending, TravelError};

impl FileService for Stack {
    fn root(&self) -> Object {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        self.object(&state, &self.root_node()).unwrap_or_else(|_| Object {
            // Only layers that cannot be read bring us here; their root still has a handle and a type.
            handle: self.root_handle(),
            fileid: self.root.fileid(),
            attr: bare_root(),
        })
    }

    fn answers_from_memory(&self) -> bool {
        // The state is in memory and no lock on it is held across a sync; indexes of layers are mapped or in memory.
        true
    }

    fn getattr(&self, handle: &Handle) -> FsResult<Object> {
        let state = self.read_state()?;
        let node = self.find(&state, handle)?;
        Ok(self.object_known(handle, &node, self.attr(&state, &node)?))
    }

    fn setattr(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        handle: &Handle,
        set: &SetAttr,
        guard: Option<Time>,
    ) -> FsResult<Changed<Around>> {
        self.do_setattr(caller, key, handle, set, guard)
    }

    fn lookup(&self, caller: &Caller, dir: &Handle, name: &[u8]) -> FsResult<(Object, Object)> {
        let state = self.read_state()?;
        let (node, attr) = self.enter(&state, caller, dir, name)?;
        let dir = self.object_known(dir, &node, attr);
        let child: Node = match name {
            b"." => node,
            b".." => self.parent(&state, &node)?,
            name => self.child(&state, &node, name)?.ok_or(Status::NoEnt)?,
        };
        Ok((self.object(&state, &child)?, dir))
    }

    fn access(&self, caller: &Caller, handle: &Handle, wanted: u32) -> FsResult<(u32, Object)> {
        let object = self.getattr(handle)?;
        Ok((
            permit::access_bits(caller, &object.attr, wanted, self.top.is_some()),
            object,
        ))
    }

    fn readlink(&self, caller: &Caller, handle: &Handle) -> FsResult<(Vec<u8>, Object)> {
        // A symbolic link's mode means nothing (symlink(7)), so anybody may read it.
        let _ = caller;
        let state = self.read_state()?;
        let node = self.find(&state, handle)?;
        let object = self.object(&state, &node)?;
        if object.attr.file_type != FileType::Symlink {
            return Err(Status::Inval);
        }
        Ok((self.target(&state, &node)?, object))
    }

    fn read(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> FsResult<ReadOutcome> {
        self.do_read(caller, handle, offset, count, out)
    }

    fn read_cached(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> Option<ReadOutcome> {
        self.do_read_cached(caller, handle, offset, count, out)
    }

    fn read_lent(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
    ) -> Option<(ReadOutcome, Lent)> {
        self.do_read_lent(caller, handle, offset, count)
    }

    fn write(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        data: &[u8],
        stability: Stability,
    ) -> FsResult<Changed<Written>> {
        self.do_write(caller, handle, offset, data, stability)
    }

    fn create(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        mode: CreateMode,
    ) -> FsResult<Changed<InDirectory>> {
        self.do_create(caller, key, dir, name, mode)
    }

    fn mkdir(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        self.do_mkdir(caller, key, dir, name, set)
    }

    fn symlink(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        target: &[u8],
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        self.do_symlink(caller, key, dir, name, target, set)
    }

    fn mknod(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        special: Special,
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        self.do_mknod(caller, key, dir, name, special, set)
    }

    fn remove(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>> {
        self.do_remove(caller, key, dir, name, false)
    }

    fn rmdir(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>> {
        self.do_remove(caller, key, dir, name, true)
    }

    fn rename(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        from: (&Handle, &[u8]),
        to: (&Handle, &[u8]),
    ) -> FsResult<Changed<Renamed>> {
        self.do_rename(caller, key, from, to)
    }

    fn link(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        file: &Handle,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>> {
        self.do_link(caller, key, file, dir, name)
    }

    fn readdir(
        &self,
        caller: &Caller,
        dir: &Handle,
        cookie: u64,
        with_objects: bool,
        visit: &mut dyn FnMut(&ListedEntry) -> bool,
    ) -> FsResult<(Object, bool)> {
        let state = self.read_state()?;
        let (node, object) = self.to_list(&state, caller, dir)?;
        let mut visit = |entry: &ListedEntry, _node: Option<&Node>| visit(entry);
        let (done, _version) = self.list(&state, &node, cookie, with_objects, &mut visit)?;
        Ok((object, done))
    }

    fn readdir_stamped(
        &self,
        caller: &Caller,
        dir: &Handle,
        cookie: u64,
        with_objects: bool,
        visit: &mut dyn FnMut(&ListedEntry) -> bool,
    ) -> FsResult<(Object, bool, Option<Stamp>)> {
        self.list_stamped(caller, dir, cookie, with_objects, visit)
    }

    fn stands(
        &self,
        caller: &Caller,
        dir: &Handle,
        stamp: &Stamp,
        changed: &mut dyn FnMut(usize, &Object),
    ) -> Option<Object> {
        self.still_stands(caller, dir, stamp, changed)
    }

    fn fsstat(&self) -> FsResult<FsStat> {
        self.do_fsstat()
    }

    fn commit(&self, caller: &Caller, handle: &Handle) -> FsResult<Around> {
        self.do_commit(caller, handle)
    }

    fn write_verifier(&self) -> WriteVerifier {
        // Another one as soon as something is lost, so that it is written again.
        let losses = self.top.as_ref().map_or(0, |top| top.content.losses());
        u64::from_ne_bytes(self.verifier)
            .wrapping_add(losses)
            .to_ne_bytes()
    }

    fn settle(&self, ticket: Ticket) -> FsResult<()> {
        self.settle_ticket(ticket)
    }

    fn tend(&self, wanted: &dyn Fn() -> bool) {
        if let Some(top) = &self.top {
            self.compact_if_long(top, wanted);
            top.log.keep_room();
        }
    }

    fn flush_all(&self) -> FsResult<()> {
        self.do_flush_all()
    }

    fn save(&self, name: &str) -> Result<(), SavedError> {
        Stack::save(self, name)
    }

    fn delete_saved(&self, name: &str) -> Result<(), SavedError> {
        Stack::delete_saved(self, name)
    }

    fn saved(&self) -> Result<Vec<Saved>, SavedError> {
        Stack::saved(self)
    }

    fn compact(&self) -> FsResult<()> {
        Stack::compact(self)
    }

    fn embark(&self, sending: &mut Sending<'_>) -> Result<(), TravelError> {
        Stack::embark(self, sending)
    }

    fn unchanged_mark(&self) -> Option<Mark> {
        Stack::unchanged_mark(self)
    }

    fn statistics(&self) -> Option<Statistics> {
        self.top.as_ref().map(|_| Stack::statistics(self))
    }

    fn replayed(&self, key: &CallKey) -> Option<Replayed> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let made = state.calls.get(key)?;
        let made = made.and_then(|key| {
            let node = self.locate(&state, key).ok()?;
            self.object(&state, &node).ok()
        });
        Some(Replayed { made })
    }
}

fn bare_root() -> Attr {
    Attr {
        file_type: FileType::Directory,
        mode: 0,
        links: 2,
        uid: 0,
        gid: 0,
        size: 0,
        used: 0,
        device: crate::attr::Device::default(),
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
    }
}
