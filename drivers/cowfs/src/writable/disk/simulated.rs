//! A file system in memory that records what is done to it, fails what it is told to fail, and shows what a crash could
//! have left of it.
//!
//! It promises no more than POSIX does. What was written to a file is on disk once the file was synced; names are on disk
//! once their directory was synced, and not because the file was. Of everything else any part may be there, in any order,
//! and of a write any of its sectors. It promises no less either: a name that was renamed is one or the other, and what a
//! file shows was written to that file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::{FileStatus, Mode, Space};

/// Sectors are written whole or not at all.
pub(crate) const SECTOR: usize = 512;

/// Handle of one file system.
#[derive(Clone, Debug, Default)]
pub(crate) struct Simulated {
    inner: Arc<Mutex<Inner>>,
    process: Arc<Process>,
}

/// Who uses it.
#[derive(Default)]
struct Process {
    killed: AtomicBool,
    interruption: Mutex<Option<Interruption>>,
}

/// Something that happens while a process is stopped.
struct Interruption {
    /// Before how many more calls.
    after: u64,
    what: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

/// An open file of it.
#[derive(Debug)]
pub(crate) struct SimulatedFile {
    disk: Simulated,
    inode: usize,
}

#[derive(Debug, Default)]
struct Inner {
    image: Image,
    recording: Vec<Step>,
    fault: Option<Fault>,
    /// Most bytes of all files together.
    capacity: Option<usize>,
    /// Whether it looks for room only when a file is synced, as a file system of another machine does.
    late: bool,
    calls: u64,
    failed: u64,
}

/// What is in the file system. Inode 0 is the root directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Image {
    inodes: Vec<Inode>,
    clock: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Inode {
    Directory(BTreeMap<OsString, usize>),
    File { bytes: Vec<u8>, changed: i64 },
}

impl Default for Image {
    fn default() -> Self {
        Self {
            inodes: vec![Inode::Directory(BTreeMap::new())],
            clock: 0,
        }
    }
}

/// One call that changed something, or made something durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    MakeDir {
        dir: usize,
        name: OsString,
        inode: usize,
    },
    Create {
        dir: usize,
        name: OsString,
        inode: usize,
    },
    Rename {
        dir: usize,
        from: OsString,
        to: OsString,
        inode: usize,
    },
    Remove {
        dir: usize,
        name: OsString,
    },
    Write {
        inode: usize,
        offset: usize,
        bytes: Vec<u8>,
    },
    SetLen {
        inode: usize,
        len: usize,
    },
    Sync {
        inode: usize,
    },
    /// The file could not be synced, and what was to be written is forgotten: it still shows and will never be on disk,
    /// whoever syncs it next. That is what Linux does.
    SyncFailed {
        inode: usize,
    },
    SyncDir {
        inode: usize,
    },
    /// The test says that something has been acknowledged.
    Mark(usize),
}

/// What becomes of a step that was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// On disk.
    Done,
    /// Not on disk.
    Lost,
    /// Of a write: only sectors before this one, counted within the write.
    Until(usize),
    /// Of a write: only sectors from this one on.
    From(usize),
    /// Of a write: the file has grown, and its new sectors hold zeros.
    Zeros,
}

/// Which calls are to fail, of those that change something or make it durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// How many calls before the first that fails.
    pub(crate) after: u64,
    /// Whether every call after that fails too.
    pub(crate) for_ever: bool,
    /// How.
    pub(crate) errno: Errno,
}

/// What a call does, as far as faults are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Grow,
    Other,
}

impl Inner {
    fn gate(&mut self, kind: Kind) -> io::Result<()> {
        let Some(fault) = self.fault else { return Ok(()) };
        let concerns = match kind {
            Kind::Read => false,
            Kind::Grow => true,
            // A full disk takes nothing away from those who give something back.
            Kind::Other => !matches!(fault.errno, Errno::NOSPC | Errno::DQUOT),
        };
        if !concerns {
            return Ok(());
        }
        let number = self.calls;
        self.calls += 1;
        if number == fault.after || (fault.for_ever && number > fault.after) {
            self.failed += 1;
            return Err(fault.errno.into());
        }
        Ok(())
    }

    fn act(&mut self, step: Step) {
        self.image.apply(&step, Fate::Done);
        self.recording.push(step);
    }
}

impl Simulated {
    /// A file system that holds `image`, all of it on disk.
    pub(crate) fn holding(image: Image) -> Self {
        let disk = Self::default();
        disk.inner().image = image;
        disk
    }

    /// A file system that began with `image` and to which `steps` were done: what the page cache holds is still there.
    pub(crate) fn after(image: &Image, steps: &[Step]) -> Self {
        let disk = Self::holding(image.clone());
        steps.iter().for_each(|step| disk.inner().act(step.clone()));
        disk
    }

    /// The same file system for another process.
    pub(crate) fn another_process(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            process: Arc::default(),
        }
    }

    /// Ends the process: no call of it has an effect any more.
    pub(crate) fn kill(&self) {
        self.process.killed.store(true, Ordering::Release);
    }

    /// Stops the process before one of its calls that change something, does `what`, and lets it go on.
    pub(crate) fn interrupt(&self, after: u64, what: impl FnOnce() + Send + 'static) {
        let what = Box::new(what);
        *self.interruption() = Some(Interruption { after, what });
    }

    /// Hands what this process was to be stopped for to another.
    pub(crate) fn bequeath(&self, other: &Self) {
        *other.interruption() = self.interruption().take();
    }

    /// Whether the process has not been stopped yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.interruption().is_some()
    }

    fn interruption(&self) -> MutexGuard<'_, Option<Interruption>> {
        self.process
            .interruption
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes before each call that changes something.
    fn enter(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let due = {
            let mut pending = self.interruption();
            match pending.as_mut() {
                Some(interruption) if interruption.after > 0 => {
                    interruption.after -= 1;
                    None
                }
                Some(_) => pending.take(),
                None => None,
            }
        };
        if let Some(interruption) = due {
            (interruption.what)();
        }
        if self.process.killed.load(Ordering::Acquire) {
            return Err(Errno::SRCH.into());
        }
        Ok(self.inner())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All steps since it was made.
    pub(crate) fn recording(&self) -> Vec<Step> {
        self.inner().recording.clone()
    }

    /// Notes in the recording that something has been acknowledged.
    pub(crate) fn mark(&self, number: usize) {
        self.inner().recording.push(Step::Mark(number));
    }

    /// Has calls fail from now on; `None` ends it. Counts from here.
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        let mut inner = self.inner();
        (inner.fault, inner.calls, inner.failed) = (fault, 0, 0);
    }

    /// Gives it so many bytes of room.
    pub(crate) fn hold_at_most(&self, bytes: Option<usize>) {
        let mut inner = self.inner();
        (inner.capacity, inner.late) = (bytes, false);
    }

    /// The same, but a write never hears of it: the sync of a file does, and what was written is forgotten.
    pub(crate) fn hold_on_disk_at_most(&self, bytes: usize) {
        let mut inner = self.inner();
        (inner.capacity, inner.late) = (Some(bytes), true);
    }

    /// Bytes of all files.
    pub(crate) fn used(&self) -> usize {
        self.inner().image.used(0)
    }

    pub(super) fn space(&self) -> Space {
        let inner = self.inner();
        let total = inner.capacity.unwrap_or(1 << 30);
        let free = total.saturating_sub(inner.image.used(0));
        Space {
            total: total as u64,
            free: free as u64,
        }
    }

    /// How many calls have failed since [`Simulated::fail`].
    pub(crate) fn failed(&self) -> u64 {
        self.inner().failed
    }

    pub(super) fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.enter()?;
        inner.gate(Kind::Grow)?;
        let (dir, name) = inner.image.place(path)?;
        if inner.image.entry(dir, &name).is_some() {
            return Err(Errno::EXIST.into());
        }
        let inode = inner.image.inodes.len();
        inner.act(Step::MakeDir { dir, name, inode });
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut inner = self.inner();
        inner.gate(Kind::Read)?;
        let inode = inner.image.find(path)?;
        match &inner.image.inodes[inode] {
            Inode::Directory(names) => Ok(names.keys().cloned().collect()),
            Inode::File { .. } => Err(Errno::NOTDIR.into()),
        }
    }

    pub(super) fn open(&self, path: &Path, mode: Mode) -> io::Result<SimulatedFile> {
        let mut inner = self.inner();
        let makes = matches!(mode, Mode::CreateNew | Mode::Truncate);
        inner.gate(if makes { Kind::Grow } else { Kind::Read })?;
        let (dir, name) = inner.image.place(path)?;
        let inode = match (inner.image.entry(dir, &name), mode) {
            (Some(_), Mode::CreateNew) => return Err(Errno::EXIST.into()),
            (Some(inode), Mode::Truncate) => {
                inner.act(Step::SetLen { inode, len: 0 });
                inode
            }
            (Some(inode), Mode::Read | Mode::ReadWrite) => inode,
            (None, Mode::Read | Mode::ReadWrite) => return Err(Errno::NOENT.into()),
            (None, Mode::CreateNew | Mode::Truncate) => {
                let inode = inner.image.inodes.len();
                inner.act(Step::Create { dir, name, inode });
                inode
            }
        };
        Ok(SimulatedFile {
            disk: self.clone(),
            inode,
        })
    }

    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, Mode::Read)?;
        let mut inner = self.inner();
        inner.gate(Kind::Read)?;
        Ok(inner.image.bytes(file.inode).to_vec())
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.enter()?;
        inner.gate(Kind::Grow)?;
        let (dir, from) = inner.image.place(from)?;
        let (to_dir, to) = inner.image.place(to)?;
        assert_eq!(dir, to_dir, "a layer renames within one directory");
        let inode = inner.image.entry(dir, &from).ok_or(Errno::NOENT)?;
        inner.act(Step::Rename { dir, from, to, inode });
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.enter()?;
        inner.gate(Kind::Other)?;
        let (dir, name) = inner.image.place(path)?;
        inner.image.entry(dir, &name).ok_or(Errno::NOENT)?;
        inner.act(Step::Remove { dir, name });
        Ok(())
    }

    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.enter()?;
        inner.gate(Kind::Grow)?;
        let inode = inner.image.find(path)?;
        inner.act(Step::SyncDir { inode });
        Ok(())
    }

    /// Syncs every file and directory below a directory, and that itself.
    pub(super) fn sync_below(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.enter()?;
        let mut left = vec![inner.image.find(path)?];
        while let Some(inode) = left.pop() {
            let step = match &inner.image.inodes[inode] {
                Inode::Directory(names) => {
                    left.extend(names.values());
                    Step::SyncDir { inode }
                }
                Inode::File { .. } => Step::Sync { inode },
            };
            if let Err(error) = inner.gate(Kind::Grow) {
                if let Step::Sync { inode } = step {
                    inner.act(Step::SyncFailed { inode });
                }
                return Err(error);
            }
            inner.act(step);
        }
        Ok(())
    }

    pub(super) fn status(&self, path: &Path) -> io::Result<FileStatus> {
        let mut inner = self.inner();
        inner.gate(Kind::Read)?;
        let inode = inner.image.find(path)?;
        match &inner.image.inodes[inode] {
            Inode::File { bytes, changed } => Ok(FileStatus {
                len: bytes.len() as u64,
                mtime: (*changed, 0),
            }),
            Inode::Directory(_) => Ok(FileStatus {
                len: 0,
                // Another time with each change anywhere.
                mtime: (inner.image.clock, 0),
            }),
        }
    }
}

impl SimulatedFile {
    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.inner();
        inner.gate(Kind::Read)?;
        let bytes = inner.image.bytes(self.inode);
        let rest = bytes.get(whole(offset)..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.enter()?;
        let mut outcome = inner.gate(Kind::Grow);
        if let Some(capacity) = inner.capacity.filter(|_| !inner.late) {
            let grown = (whole(offset) + bytes.len()).saturating_sub(inner.image.bytes(self.inode).len());
            if grown > 0 && inner.image.used(0) + grown > capacity {
                outcome = Err(Errno::NOSPC.into());
            }
        }
        let full = outcome.as_ref().is_err_and(|error| {
            matches!(
                Errno::from_io_error(error),
                Some(Errno::NOSPC | Errno::DQUOT | Errno::IO)
            )
        });
        let part = match &outcome {
            Ok(()) => bytes,
            Err(_) if full => &bytes[..bytes.len() / 2],
            Err(_) => &[],
        };
        if !part.is_empty() {
            let (inode, offset, bytes) = (self.inode, whole(offset), part.to_vec());
            inner.act(Step::Write { inode, offset, bytes });
        }
        outcome
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.enter()?;
        inner.gate(Kind::Other)?;
        let (inode, len) = (self.inode, whole(len));
        inner.act(Step::SetLen { inode, len });
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.enter()?;
        let inode = self.inode;
        let full = inner.late && inner.capacity.is_some_and(|most| inner.image.used(0) > most);
        let room = if full { Err(Errno::NOSPC.into()) } else { Ok(()) };
        if let Err(error) = inner.gate(Kind::Grow).and(room) {
            inner.act(Step::SyncFailed { inode });
            return Err(error);
        }
        inner.act(Step::Sync { inode });
        Ok(())
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        let mut inner = self.disk.inner();
        inner.gate(Kind::Read)?;
        Ok(inner.image.bytes(self.inode).len() as u64)
    }
}

fn whole(offset: u64) -> usize {
    usize::try_from(offset).expect("tests write little")
}

impl Image {
    fn bytes(&self, inode: usize) -> &[u8] {
        match self.inodes.get(inode) {
            Some(Inode::File { bytes, .. }) => bytes,
            Some(Inode::Directory(_)) | None => panic!("inode {inode} is no file"),
        }
    }

    /// Bytes of the files that can be reached.
    fn used(&self, inode: usize) -> usize {
        match &self.inodes[inode] {
            Inode::File { bytes, .. } => bytes.len(),
            Inode::Directory(names) => names.values().map(|&inode| self.used(inode)).sum(),
        }
    }

    fn entry(&self, dir: usize, name: &OsString) -> Option<usize> {
        match &self.inodes[dir] {
            Inode::Directory(names) => names.get(name).copied(),
            Inode::File { .. } => None,
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut inode = 0;
        for part in path.components() {
            if let Component::Normal(name) = part {
                inode = self.entry(inode, &name.to_owned()).ok_or(Errno::NOENT)?;
            }
        }
        Ok(inode)
    }

    fn place(&self, path: &Path) -> io::Result<(usize, OsString)> {
        let dir = self.find(path.parent().unwrap_or(Path::new("/")))?;
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok((dir, name.to_owned()))
    }

    fn names(&mut self, dir: usize) -> &mut BTreeMap<OsString, usize> {
        match &mut self.inodes[dir] {
            Inode::Directory(names) => names,
            Inode::File { .. } => panic!("inode {dir} is no directory"),
        }
    }

    /// An inode of which nothing but its existence is known yet.
    fn exists(&mut self, inode: usize, new: &Inode) {
        while self.inodes.len() <= inode {
            self.inodes.push(new.clone());
        }
    }

    /// Makes the change of one step, as far as its fate lets it.
    fn apply(&mut self, step: &Step, fate: Fate) {
        self.clock += 1;
        let changed = self.clock;
        let file = Inode::File {
            bytes: Vec::new(),
            changed,
        };
        // An inode is there also where the name that was made with it is lost: a later name may lead to it.
        match step {
            Step::MakeDir { inode, .. } => self.exists(*inode, &Inode::Directory(BTreeMap::new())),
            Step::Create { inode, .. } => self.exists(*inode, &file),
            _ => {}
        }
        if fate == Fate::Lost {
            return;
        }
        match step {
            Step::MakeDir { dir, name, inode } | Step::Create { dir, name, inode } => {
                self.names(*dir).insert(name.clone(), *inode);
            }
            Step::Rename { dir, from, to, inode } => {
                let names = self.names(*dir);
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Step::Remove { dir, name } => {
                self.names(*dir).remove(name);
            }
            Step::Write { inode, offset, bytes } => {
                let range = sectors(*offset, bytes.len(), fate);
                if let Inode::File {
                    bytes: there,
                    changed: when,
                } = &mut self.inodes[*inode]
                {
                    *when = changed;
                    let grown = match fate {
                        Fate::Zeros => offset + bytes.len(),
                        _ => offset + range.end,
                    };
                    if there.len() < grown && (!range.is_empty() || fate == Fate::Zeros) {
                        there.resize(grown, 0);
                    }
                    if !range.is_empty() {
                        there[offset + range.start..offset + range.end].copy_from_slice(&bytes[range]);
                    }
                }
            }
            Step::SetLen { inode, len } => {
                if let Inode::File { bytes, changed: when } = &mut self.inodes[*inode] {
                    *when = changed;
                    bytes.resize(*len, 0);
                }
            }
            Step::Sync { .. } | Step::SyncFailed { .. } | Step::SyncDir { .. } | Step::Mark(_) => {}
        }
    }
}

/// Which bytes of a write of `len` bytes at `offset` arrive.
fn sectors(offset: usize, len: usize, fate: Fate) -> std::ops::Range<usize> {
    let border = |sector: usize| {
        ((offset / SECTOR + sector) * SECTOR)
            .saturating_sub(offset)
            .min(len)
    };
    match fate {
        Fate::Done => 0..len,
        Fate::Lost | Fate::Zeros => 0..0,
        Fate::Until(sector) => 0..border(sector),
        Fate::From(sector) => border(sector)..len,
    }
}

/// How many sectors a write touches.
fn sector_count(offset: usize, len: usize) -> usize {
    (offset + len).div_ceil(SECTOR) - offset / SECTOR
}

/// A moment of a recording: the machine stops after the first `len` steps.
pub(crate) struct Moment<'a> {
    base: &'a Image,
    steps: &'a [Step],
    /// The steps that are not durable, with what may have become of each.
    pub(crate) open: Vec<(usize, Vec<Fate>)>,
}

impl<'a> Moment<'a> {
    /// The moment after the first `len` steps of a recording that began with `base`.
    pub(crate) fn new(base: &'a Image, recording: &'a [Step], len: usize) -> Self {
        let steps = &recording[..len];
        let mut open = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let later = &steps[index + 1..];
            let fates = match step {
                Step::MakeDir { dir, .. }
                | Step::Create { dir, .. }
                | Step::Rename { dir, .. }
                | Step::Remove { dir, .. } => {
                    if later.contains(&Step::SyncDir { inode: *dir }) {
                        continue;
                    }
                    vec![Fate::Done, Fate::Lost]
                }
                Step::SetLen { inode, .. } => {
                    if later.contains(&Step::Sync { inode: *inode }) {
                        continue;
                    }
                    vec![Fate::Done, Fate::Lost]
                }
                Step::Write { inode, offset, bytes } => {
                    let (synced, failed) = (Step::Sync { inode: *inode }, Step::SyncFailed { inode: *inode });
                    let first = later.iter().find(|step| **step == synced || **step == failed);
                    if first == Some(&synced) {
                        continue;
                    }
                    let mut fates = vec![Fate::Done, Fate::Lost, Fate::Zeros];
                    match sector_count(*offset, bytes.len()) {
                        0 | 1 => {}
                        2 => fates.extend([Fate::Until(1), Fate::From(1)]),
                        n => fates.extend([
                            Fate::Until(1),
                            Fate::Until(n - 1),
                            Fate::From(1),
                            Fate::From(n - 1),
                        ]),
                    }
                    fates
                }
                Step::Sync { .. } | Step::SyncFailed { .. } | Step::SyncDir { .. } | Step::Mark(_) => {
                    continue;
                }
            };
            open.push((index, fates));
        }
        Self { base, steps, open }
    }

    /// In how many ways it can have ended, or `None` where there are very many.
    pub(crate) fn ways(&self) -> Option<u64> {
        self.open
            .iter()
            .try_fold(1_u64, |ways, (_, fates)| ways.checked_mul(fates.len() as u64))
    }

    /// What the file system holds after the crash, where `fates` says what became of each open step.
    pub(crate) fn image(&self, fates: &[Fate]) -> Image {
        let mut image = self.base.clone();
        let mut open = self.open.iter().map(|(index, _)| *index).zip(fates).peekable();
        for (index, step) in self.steps.iter().enumerate() {
            let fate = match open.peek() {
                Some(&(at, &fate)) if at == index => {
                    open.next();
                    fate
                }
                _ => Fate::Done,
            };
            image.apply(step, fate);
        }
        // When something was written says nothing about what is there.
        image.clock = 0;
        for inode in &mut image.inodes {
            if let Inode::File { changed, .. } = inode {
                *changed = 0;
            }
        }
        image
    }

    /// Fates by number, counting through all ways.
    pub(crate) fn way(&self, mut number: u64) -> Vec<Fate> {
        let choose = |(_, fates): &(usize, Vec<Fate>)| {
            let len = fates.len() as u64;
            let fate = fates[whole(number % len)];
            number /= len;
            fate
        };
        self.open.iter().map(choose).collect()
    }
}
