//! The operations, each in terms of the plain tree.

use super::*;

impl FileService for Memory {
    fn root(&self) -> Object {
        self.lock().object(ROOT)
    }

    fn answers_from_memory(&self) -> bool {
        true
    }

    fn getattr(&self, handle: &Handle) -> FsResult<Object> {
        let tree = self.lock();
        Ok(tree.object(tree.number(handle)?))
    }

    fn setattr(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        handle: &Handle,
        set: &SetAttr,
        guard: Option<Time>,
    ) -> FsResult<Changed<Around>> {
        let mut tree = self.lock();
        let number = tree.number(handle)?;
        let node = tree.node(number);
        if guard.is_some_and(|guard| guard != node.ctime) {
            return Err(Status::NotSync);
        }
        node.check_setattr(caller, set)?;
        let before = tree.before(number);
        let truncates = set.size.is_some();
        if let Some(size) = set.size {
            tree.resize(number, size)?;
        }
        let now = tree.now;
        let node = tree.node_mut(number);
        if truncates && caller.uid != 0 {
            node.drop_privileges(caller);
        }
        node.apply(caller, set, now);
        tree.remember(key, None);
        Ok(changed(tree.around(number, before)))
    }

    fn lookup(&self, caller: &Caller, dir: &Handle, name: &[u8]) -> FsResult<(Object, Object)> {
        let tree = self.lock();
        let dir = tree.number(dir)?;
        let found = tree.find(caller, dir, name)?.ok_or(Status::NoEnt)?;
        Ok((tree.object(found), tree.object(dir)))
    }

    fn access(&self, caller: &Caller, handle: &Handle, wanted: u32) -> FsResult<(u32, Object)> {
        let tree = self.lock();
        let number = tree.number(handle)?;
        let node = tree.node(number);
        let granted = if matches!(node.body, Body::Directory(_)) {
            [
                (access::READ, READ),
                (access::LOOKUP, EXECUTE),
                (access::MODIFY, WRITE | EXECUTE),
                (access::EXTEND, WRITE | EXECUTE),
                (access::DELETE, WRITE | EXECUTE),
            ]
            .as_slice()
        } else {
            [
                (access::READ, READ),
                (access::MODIFY, WRITE),
                (access::EXTEND, WRITE),
                (access::EXECUTE, EXECUTE),
            ]
            .as_slice()
        };
        let granted = granted
            .iter()
            .filter(|&&(_, needed)| node.check(caller, needed).is_ok())
            .fold(0, |bits, &(bit, _)| bits | bit);
        Ok((granted & wanted, tree.object(number)))
    }

    fn readlink(&self, _caller: &Caller, handle: &Handle) -> FsResult<(Vec<u8>, Object)> {
        let tree = self.lock();
        let number = tree.number(handle)?;
        match &tree.node(number).body {
            Body::Symlink(target) => Ok((target.clone(), tree.object(number))),
            _ => Err(Status::Inval),
        }
    }

    fn read(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> FsResult<ReadOutcome> {
        let tree = self.lock();
        let number = tree.number(handle)?;
        let node = tree.node(number);
        let content = node.content()?;
        if caller.uid != node.uid && node.check(caller, READ).is_err() {
            node.check(caller, EXECUTE)?;
        }
        let count = content.read(offset, count, out);
        Ok(ReadOutcome {
            file: tree.object(number),
            count,
            eof: offset.saturating_add(u64::from(count)) >= content.size(),
        })
    }

    fn write(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        bytes: &[u8],
        _stability: Stability,
    ) -> FsResult<Changed<Written>> {
        let mut tree = self.lock();
        let number = tree.number(handle)?;
        let node = tree.node(number);
        node.content()?;
        if caller.uid != node.uid {
            node.check(caller, WRITE)?;
        }
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|&end| end <= SIZE_MAX);
        end.ok_or(Status::FBig)?;
        let before = tree.before(number);
        let now = tree.now;
        let node = tree.node_mut(number);
        if !bytes.is_empty() {
            if let Body::Regular(content) = &mut node.body {
                content.write(offset, bytes);
            }
            node.mtime = now;
            node.ctime = now;
            if caller.uid != 0 {
                node.drop_privileges(caller);
            }
        }
        Ok(changed(Written {
            file: tree.around(number, before),
            count: u32::try_from(bytes.len()).map_err(|_| Status::Inval)?,
            stability: Stability::FileSync,
        }))
    }

    fn create(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        mode: CreateMode,
    ) -> FsResult<Changed<InDirectory>> {
        let mut tree = self.lock();
        let dir = tree.number(dir)?;
        let existing = tree.find(caller, dir, name)?.filter(|_| !is_dots(name));
        let Some(existing) = existing else {
            let (set, verifier) = match mode {
                CreateMode::Unchecked(set) | CreateMode::Guarded(set) => (set, None),
                CreateMode::Exclusive(verifier) => (SetAttr::default(), Some(verifier)),
            };
            let mut content = Content::default();
            if let Some(size) = set.size {
                if size > SIZE_MAX {
                    return Err(Status::FBig);
                }
                content.resize(size);
            }
            let made = tree.make(caller, key, dir, name, Body::Regular(content), &set)?;
            if let Some(object) = &made.made {
                let node = tree.node_mut(object.fileid);
                node.verifier = verifier.map(|verifier| (verifier, node.ctime));
            }
            return Ok(changed(made));
        };
        let before = tree.before(dir);
        match mode {
            CreateMode::Guarded(_) => return Err(Status::Exist),
            CreateMode::Exclusive(verifier) => {
                let there = tree.node(existing);
                if there.verifier != Some((verifier, there.ctime)) {
                    return Err(Status::Exist);
                }
            }
            CreateMode::Unchecked(set) => {
                match tree.node(existing).body {
                    Body::Regular(_) => {}
                    Body::Directory(_) => return Err(Status::IsDir),
                    _ => return Err(Status::Exist),
                }
                // Of the attributes only the size is for a file that is already there (open(2), O_TRUNC).
                if let Some(size) = set.size {
                    let only_size = SetAttr {
                        size: Some(size),
                        ..SetAttr::default()
                    };
                    tree.node(existing).check_setattr(caller, &only_size)?;
                    tree.resize(existing, size)?;
                    if caller.uid != 0 {
                        tree.node_mut(existing).drop_privileges(caller);
                    }
                }
            }
        }
        tree.remember(key, Some(existing));
        Ok(changed(InDirectory {
            dir: tree.around(dir, before),
            made: Some(tree.object(existing)),
        }))
    }

    fn mkdir(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
        set: &SetAttr,
    ) -> FsResult<Changed<InDirectory>> {
        let mut tree = self.lock();
        let dir = tree.number(dir)?;
        let body = Body::Directory(Directory::new(dir));
        tree.make(caller, key, dir, name, body, set).map(changed)
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
        if target.is_empty() || target.contains(&0) {
            return Err(Status::Inval);
        }
        let mut tree = self.lock();
        let dir = tree.number(dir)?;
        let body = Body::Symlink(target.to_vec());
        tree.make(caller, key, dir, name, body, set).map(changed)
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
        let device = match special.file_type {
            FileType::Block | FileType::Character => special.device,
            FileType::Socket | FileType::Fifo => Device::default(),
            FileType::Regular | FileType::Directory | FileType::Symlink => return Err(Status::BadType),
        };
        let mut tree = self.lock();
        let dir = tree.number(dir)?;
        let body = Body::Special(Special {
            file_type: special.file_type,
            device,
        });
        tree.make(caller, key, dir, name, body, set).map(changed)
    }

    fn remove(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>> {
        let mut tree = self.lock();
        let dir = tree.number(dir)?;
        let child = tree.find(caller, dir, name)?.ok_or(Status::NoEnt)?;
        if is_dots(name) {
            return Err(Status::IsDir);
        }
        tree.check_removal(caller, dir, child)?;
        if tree.is_directory(child) {
            return Err(Status::IsDir);
        }
        let before = tree.before(dir);
        tree.detach(dir, name, child);
        tree.unlink(child);
        tree.remember(key, None);
        Ok(changed(InDirectory {
            dir: tree.around(dir, before),
            made: None,
        }))
    }

    fn rmdir(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>> {
        let mut tree = self.lock();
        let dir = tree.number(dir)?;
        let child = tree.find(caller, dir, name)?.ok_or(Status::NoEnt)?;
        match name {
            b"." => return Err(Status::Inval),
            b".." => return Err(Status::NotEmpty),
            _ => {}
        }
        tree.check_removal(caller, dir, child)?;
        if !tree.directory(child)?.is_empty() {
            return Err(Status::NotEmpty);
        }
        let before = tree.before(dir);
        tree.detach(dir, name, child);
        tree.unlink(child);
        tree.remember(key, None);
        Ok(changed(InDirectory {
            dir: tree.around(dir, before),
            made: None,
        }))
    }

    fn rename(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        from: (&Handle, &[u8]),
        to: (&Handle, &[u8]),
    ) -> FsResult<Changed<Renamed>> {
        let mut tree = self.lock();
        let (from_dir, to_dir) = (tree.number(from.0)?, tree.number(to.0)?);
        let (from_name, to_name) = (from.1, to.1);
        let moved = tree.find(caller, from_dir, from_name)?.ok_or(Status::NoEnt)?;
        let target = tree.find(caller, to_dir, to_name)?;
        if is_dots(from_name) || is_dots(to_name) {
            return Err(Status::Inval);
        }
        let (before_from, before_to) = (tree.before(from_dir), tree.before(to_dir));
        let renamed = |tree: &Tree| Renamed {
            from: tree.around(from_dir, before_from),
            to: tree.around(to_dir, before_to),
        };
        if target == Some(moved) {
            // Two names of one object, or one name twice: rename(2) does nothing and succeeds.
            tree.remember(key, None);
            return Ok(changed(renamed(&tree)));
        }
        // Which of several mistakes is told follows Linux: loops, then leave, then types.
        let directory = tree.is_directory(moved);
        if directory && tree.is_within(to_dir, moved) {
            return Err(Status::Inval);
        }
        if target.is_some_and(|target| tree.is_within(from_dir, target)) {
            return Err(Status::NotEmpty);
        }
        tree.check_removal(caller, from_dir, moved)?;
        match target {
            Some(target) => {
                tree.check_removal(caller, to_dir, target)?;
                match (directory, tree.is_directory(target)) {
                    (true, false) => return Err(Status::NotDir),
                    (false, true) => return Err(Status::IsDir),
                    (true, true) | (false, false) => {}
                }
            }
            None => tree.node(to_dir).check(caller, WRITE | EXECUTE)?,
        }
        if directory && from_dir != to_dir {
            // Its `..` changes.
            tree.node(moved).check(caller, WRITE)?;
        }
        if let Some(target) = target {
            if directory && !tree.directory(target)?.is_empty() {
                return Err(Status::NotEmpty);
            }
            tree.detach(to_dir, to_name, target);
            tree.unlink(target);
        }
        tree.detach(from_dir, from_name, moved);
        tree.attach(to_dir, to_name, moved);
        let now = tree.now;
        tree.node_mut(moved).ctime = now;
        tree.remember(key, None);
        Ok(changed(renamed(&tree)))
    }

    fn link(
        &self,
        caller: &Caller,
        key: Option<CallKey>,
        file: &Handle,
        dir: &Handle,
        name: &[u8],
    ) -> FsResult<Changed<InDirectory>> {
        let mut tree = self.lock();
        let (file, dir) = (tree.number(file)?, tree.number(dir)?);
        if tree.find(caller, dir, name)?.is_some() {
            return Err(Status::Exist);
        }
        tree.node(dir).check(caller, WRITE | EXECUTE)?;
        if tree.is_directory(file) {
            return Err(Status::Perm);
        }
        let before = tree.before(dir);
        let now = tree.now;
        let node = tree.node_mut(file);
        node.links = node.links.checked_add(1).ok_or(Status::MLink)?;
        node.ctime = now;
        tree.attach(dir, name, file);
        tree.remember(key, Some(file));
        Ok(changed(InDirectory {
            dir: tree.around(dir, before),
            made: Some(tree.object(file)),
        }))
    }

    fn readdir(
        &self,
        caller: &Caller,
        dir: &Handle,
        cookie: u64,
        with_objects: bool,
        visit: &mut dyn FnMut(&ListedEntry) -> bool,
    ) -> FsResult<(Object, bool)> {
        let tree = self.lock();
        let dir = tree.number(dir)?;
        let directory = tree.directory(dir)?;
        tree.node(dir).check(caller, READ)?;
        let dots = [(1, b".".as_slice(), dir), (2, b"..".as_slice(), directory.parent)];
        let all = dots.into_iter().chain(directory.by_cookie());
        for (entry_cookie, name, number) in all.filter(|&(entry_cookie, ..)| entry_cookie > cookie) {
            let entry = ListedEntry {
                name: name.to_vec(),
                fileid: number,
                cookie: entry_cookie,
                object: with_objects.then(|| tree.object(number)),
            };
            if !visit(&entry) {
                return Ok((tree.object(dir), false));
            }
        }
        Ok((tree.object(dir), true))
    }

    fn fsstat(&self) -> FsResult<FsStat> {
        let tree = self.lock();
        let used: u64 = tree.nodes.values().map(|node| node.attr().used).sum();
        Ok(FsStat {
            bytes_total: TOTAL,
            bytes_free: TOTAL.saturating_sub(used),
            files_total: TOTAL,
            files_free: TOTAL.saturating_sub(tree.nodes.len() as u64),
        })
    }

    fn commit(&self, caller: &Caller, handle: &Handle) -> FsResult<Around> {
        let tree = self.lock();
        let number = tree.number(handle)?;
        let node = tree.node(number);
        node.content()?;
        if caller.uid != node.uid {
            node.check(caller, WRITE)?;
        }
        Ok(tree.around(number, tree.before(number)))
    }

    fn write_verifier(&self) -> WriteVerifier {
        self.verifier
    }

    fn settle(&self, _ticket: Ticket) -> FsResult<()> {
        Ok(())
    }

    fn flush_all(&self) -> FsResult<()> {
        Ok(())
    }

    fn replayed(&self, key: &CallKey) -> Option<Replayed> {
        let tree = self.lock();
        let made = (*tree.done.get(key)?).filter(|number| tree.nodes.contains_key(number));
        Some(Replayed {
            made: made.map(|number| tree.object(number)),
        })
    }
}
