//! The loads.

use std::collections::VecDeque;
use std::sync::Arc;

use cowfs::attr::{FileType, SetAttr};
use cowfs::nfs::ops::{FATTR3_LEN, MAX_HANDLE, Procedure, write_sattr};
use cowfs::nfs::xdr::{Reader, Writer};

use crate::Failure;
use crate::load::{Wire, Work};

/// NFS3ERR_NOENT.
const NO_ENTRY: u32 = 2;

/// Bytes of a small READ.
const BLOCK: u32 = 4096;

/// Bytes of a large READ or WRITE.
pub(crate) const MEGABYTE: u32 = 1 << 20;

/// WRITEs between two COMMITs.
const WRITES: u64 = 64;

/// A file as a walk found it.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) dir: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) handle: Vec<u8>,
    pub(crate) size: u64,
}

/// What is in an export.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) root: Vec<u8>,
    pub(crate) dirs: Vec<Vec<u8>>,
    /// Those that are small.
    pub(crate) files: Vec<File>,
    /// Those in the root.
    pub(crate) big: Vec<File>,
}

impl Tree {
    /// The big file of this name.
    pub(crate) fn big(&self, name: &str) -> Result<&File, Failure> {
        let found = self.big.iter().find(|file| file.name == name.as_bytes());
        found.ok_or_else(|| format!("the export has no {name}").into())
    }
}

/// Finds everything in an export.
pub(crate) fn discover(wire: &mut Wire, root: Vec<u8>) -> Result<Tree, Failure> {
    let mut walk = Walk::new(&root);
    walk.keep = Some(Tree {
        root,
        ..Tree::default()
    });
    wire.run(&mut walk, 16, std::time::Duration::MAX)?;
    let mut tree = walk.keep.take().ok_or("nothing was kept")?;
    // Servers list in orders of their own; the loads shall ask the same of all.
    tree.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tree)
}

/// The numbers 0 to `len`, all over the place and the same each time.
fn shuffled(count: u64, len: usize) -> usize {
    let mixed = count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    usize::try_from(mixed).unwrap_or_default() % len.max(1)
}

fn ok(reply: &mut Reader<'_>) -> Result<(), Failure> {
    match reader_status(reply)? {
        0 => Ok(()),
        status => Err(format!("the server answers with status {status}").into()),
    }
}

fn reader_status(reply: &mut Reader<'_>) -> Result<u32, Failure> {
    Ok(reply.u32()?)
}

fn skip_post(reply: &mut Reader<'_>) -> Result<(), Failure> {
    if reply.bool()? {
        reply.array::<FATTR3_LEN>()?;
    }
    Ok(())
}

/// GETATTR of one file after the other.
pub(crate) struct GetAttr {
    pub(crate) tree: Arc<Tree>,
    pub(crate) count: u64,
}

impl Work for GetAttr {
    fn next(&mut self, arguments: &mut Writer) -> Option<(Procedure, u64)> {
        self.count += 1;
        let file = self.tree.files.get(shuffled(self.count, self.tree.files.len()))?;
        arguments.opaque(&file.handle);
        Some((Procedure::GetAttr, 0))
    }

    fn done(&mut self, _: u64, reply: &mut Reader<'_>) -> Result<u64, Failure> {
        ok(reply)?;
        Ok(1)
    }
}

/// LOOKUP of names that are there, or are not.
pub(crate) struct Lookup {
    pub(crate) tree: Arc<Tree>,
    pub(crate) count: u64,
    pub(crate) present: bool,
}

impl Work for Lookup {
    fn next(&mut self, arguments: &mut Writer) -> Option<(Procedure, u64)> {
        self.count += 1;
        let file = self.tree.files.get(shuffled(self.count, self.tree.files.len()))?;
        arguments.opaque(&file.dir);
        if self.present {
            arguments.opaque(&file.name);
        } else {
            // Another one each time, as searches along a path are.
            arguments.opaque(format!("absent-{}", self.count).as_bytes());
        }
        Some((Procedure::Lookup, 0))
    }

    fn done(&mut self, _: u64, reply: &mut Reader<'_>) -> Result<u64, Failure> {
        match (reader_status(reply)?, self.present) {
            (0, true) | (NO_ENTRY, false) => Ok(1),
            (status, _) => Err(format!("LOOKUP: status {status}").into()),
        }
    }
}

/// READDIRPLUS of a whole tree, once; counts entries.
pub(crate) struct Walk {
    todo: VecDeque<(Vec<u8>, u64)>,
    asked: Vec<(Vec<u8>, u64)>,
    pub(crate) keep: Option<Tree>,
}

impl Walk {
    pub(crate) fn new(root: &[u8]) -> Self {
        Self {
            todo: VecDeque::from([(root.to_vec(), 0)]),
            asked: Vec::new(),
            keep: None,
        }
    }
}

impl Work for Walk {
    fn next(&mut self, arguments: &mut Writer) -> Option<(Procedure, u64)> {
        let (dir, cookie) = self.todo.pop_front()?;
        arguments.opaque(&dir);
        arguments.u64(cookie);
        arguments.u64(0);
        // As Linux asks.
        arguments.u32(32 << 10);
        arguments.u32(64 << 10);
        let token = u64::try_from(self.asked.len()).ok()?;
        self.asked.push((dir, cookie));
        Some((Procedure::ReadDirPlus, token))
    }

    fn done(&mut self, token: u64, reply: &mut Reader<'_>) -> Result<u64, Failure> {
        let dir = self.asked[usize::try_from(token)?].0.clone();
        ok(reply)?;
        skip_post(reply)?;
        reply.u64()?;
        let (mut entries, mut last) = (0, 0);
        while reply.bool()? {
            reply.u64()?;
            let name = reply.opaque(255)?;
            last = reply.u64()?;
            // Type and size are enough: what the client does with each entry is time that no server can make up for.
            let attr = if reply.bool()? {
                Some(reply.array::<FATTR3_LEN>()?)
            } else {
                None
            };
            let handle = if reply.bool()? {
                Some(reply.opaque(MAX_HANDLE)?)
            } else {
                None
            };
            entries += 1;
            if matches!(name, b"." | b"..") {
                continue;
            }
            let (Some(attr), Some(handle)) = (attr, handle) else {
                return Err("an entry without attributes".into());
            };
            let mut attr = Reader::new(&attr);
            let (file_type, _, size) = (attr.u32()?, attr.array::<16>()?, attr.u64()?);
            if file_type == FileType::Directory as u32 {
                self.todo.push_back((handle.to_vec(), 0));
                if let Some(tree) = &mut self.keep {
                    tree.dirs.push(handle.to_vec());
                }
            } else if let Some(tree) = &mut self.keep
                && file_type == FileType::Regular as u32
            {
                let file = File {
                    dir: dir.clone(),
                    name: name.to_vec(),
                    handle: handle.to_vec(),
                    size,
                };
                if dir == tree.root {
                    tree.big.push(file);
                } else {
                    tree.files.push(file);
                }
            }
        }
        if !reply.bool()? {
            self.todo.push_front((dir, last));
        }
        Ok(entries)
    }
}

/// One tree after the other, for a window that is longer than a walk takes.
pub(crate) struct Walks {
    pub(crate) root: Vec<u8>,
    pub(crate) walk: Walk,
    pub(crate) outstanding: u64,
}

impl Work for Walks {
    fn next(&mut self, arguments: &mut Writer) -> Option<(Procedure, u64)> {
        if self.walk.todo.is_empty() && self.outstanding == 0 {
            self.walk = Walk::new(&self.root);
        }
        let next = self.walk.next(arguments)?;
        self.outstanding += 1;
        Some(next)
    }

    fn done(&mut self, token: u64, reply: &mut Reader<'_>) -> Result<u64, Failure> {
        self.outstanding -= 1;
        self.walk.done(token, reply)
    }
}

/// LOOKUP, ACCESS and READ of one small file after the other; counts files.
pub(crate) struct SmallFiles {
    pub(crate) tree: Arc<Tree>,
    pub(crate) count: u64,
    /// Files that have been looked up, and may be asked for next: index, and whether access was asked for.
    pub(crate) ready: VecDeque<(u64, bool)>,
}

impl Work for SmallFiles {
    fn next(&mut self, arguments: &mut Writer) -> Option<(Procedure, u64)> {
        let len = u64::try_from(self.tree.files.len()).ok()?;
        let (index, step) = match self.ready.pop_front() {
            None => {
                self.count += 1;
                (
                    u64::try_from(shuffled(self.count, self.tree.files.len())).ok()?,
                    0,
                )
            }
            Some((index, false)) => (index, 1),
            Some((index, true)) => (index, 2),
        };
        let file = &self.tree.files[usize::try_from(index).ok()?];
        let procedure = match step {
            0 => {
                arguments.opaque(&file.dir);
                arguments.opaque(&file.name);
                Procedure::Lookup
            }
            1 => {
                arguments.opaque(&file.handle);
                arguments.u32(0x3f);
                Procedure::Access
            }
            _ => {
                arguments.opaque(&file.handle);
                arguments.u64(0);
                arguments.u32(u32::try_from(file.size.max(1)).unwrap_or(MEGABYTE).min(MEGABYTE));
                Procedure::Read
            }
        };
        Some((procedure, step * len + index))
    }

    fn done(&mut self, token: u64, reply: &mut Reader<'_>) -> Result<u64, Failure> {
        ok(reply)?;
        let len = u64::try_from(self.tree.files.len())?;
        let (index, step) = (token % len, token / len);
        match step {
            0 => self.ready.push_back((index, false)),
            1 => self.ready.push_back((index, true)),
            _ => return Ok(1),
        }
        Ok(0)
    }
}

/// READ of a big file, from its beginning to its end or all over the place; counts bytes or calls.
pub(crate) struct Content {
    pub(crate) handle: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) at: u64,
    pub(crate) random: bool,
}

impl Work for Content {
    fn next(&mut self, arguments: &mut Writer) -> Option<(Procedure, u64)> {
        let len = if self.random {
            BLOCK
        } else {
            MEGABYTE.min(u32::try_from(self.size).ok()?)
        };
        let blocks = (self.size / u64::from(len)).max(1);
        let block = if self.random {
            u64::try_from(shuffled(self.at, usize::try_from(blocks).ok()?)).ok()?
        } else {
            self.at % blocks
        };
        self.at += 1;
        arguments.opaque(&self.handle);
        arguments.u64(block * u64::from(len));
        arguments.u32(len);
        Some((Procedure::Read, u64::from(len)))
    }

    fn done(&mut self, token: u64, reply: &mut Reader<'_>) -> Result<u64, Failure> {
        ok(reply)?;
        skip_post(reply)?;
        if u64::from(reply.u32()?) != token {
            return Err("a short READ".into());
        }
        Ok(if self.random { 1 } else { token })
    }
}

/// WRITEs of a megabyte and a COMMIT after every 64, each further into a new file; counts bytes.
pub(crate) struct Writes {
    pub(crate) handle: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) sent: u64,
    pub(crate) outstanding: u64,
    /// Whether a COMMIT is next, and whether one is outstanding.
    pub(crate) commit: bool,
    pub(crate) committing: bool,
}

impl Work for Writes {
    fn next(&mut self, arguments: &mut Writer) -> Option<(Procedure, u64)> {
        arguments.opaque(&self.handle);
        if self.commit {
            if self.outstanding > 0 {
                return None;
            }
            self.commit = false;
            self.outstanding = 1;
            self.committing = true;
            arguments.u64(0);
            arguments.u32(0);
            return Some((Procedure::Commit, 0));
        }
        if self.committing {
            return None;
        }
        arguments.u64(self.sent * u64::from(MEGABYTE));
        arguments.u32(MEGABYTE);
        arguments.u32(0);
        arguments.opaque(&self.content);
        self.sent += 1;
        self.outstanding += 1;
        self.commit = self.sent.is_multiple_of(WRITES);
        Some((Procedure::Write, u64::from(MEGABYTE)))
    }

    fn done(&mut self, token: u64, reply: &mut Reader<'_>) -> Result<u64, Failure> {
        ok(reply)?;
        self.outstanding -= 1;
        self.committing = false;
        Ok(token)
    }

    fn may_end(&self) -> bool {
        !self.commit && !self.committing && self.sent.is_multiple_of(WRITES)
    }
}

/// CREATE of one file after the other in one directory.
pub(crate) struct Creates {
    pub(crate) dir: Vec<u8>,
    pub(crate) count: u64,
}

impl Work for Creates {
    fn next(&mut self, arguments: &mut Writer) -> Option<(Procedure, u64)> {
        self.count += 1;
        arguments.opaque(&self.dir);
        arguments.opaque(format!("file-{}", self.count).as_bytes());
        // GUARDED.
        arguments.u32(1);
        write_sattr(arguments, &mode(0o644));
        Some((Procedure::Create, 0))
    }

    fn done(&mut self, _: u64, reply: &mut Reader<'_>) -> Result<u64, Failure> {
        ok(reply)?;
        Ok(1)
    }
}

/// These mode bits and nothing else.
fn mode(mode: u32) -> SetAttr {
    SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    }
}

/// Makes a directory or a file and returns its handle.
pub(crate) fn make(wire: &mut Wire, dir: &[u8], name: &str, directory: bool) -> Result<Vec<u8>, Failure> {
    let mut arguments = Writer::default();
    arguments.opaque(dir);
    arguments.opaque(name.as_bytes());
    let procedure = if directory {
        write_sattr(&mut arguments, &mode(0o755));
        Procedure::MkDir
    } else {
        arguments.u32(1);
        write_sattr(&mut arguments, &mode(0o644));
        Procedure::Create
    };
    let reply = wire.ask(procedure, arguments.buffer())?;
    let mut reader = Reader::new(&reply);
    if !reader.bool()? {
        return Err("no handle for what was made".into());
    }
    Ok(reader.opaque(MAX_HANDLE)?.to_vec())
}

/// Removes a file.
pub(crate) fn remove(wire: &mut Wire, dir: &[u8], name: &str) -> Result<(), Failure> {
    let mut arguments = Writer::default();
    arguments.opaque(dir);
    arguments.opaque(name.as_bytes());
    wire.ask(Procedure::Remove, arguments.buffer()).map(drop)
}

/// Four KiB into the middle of a file, durable when it is answered (FILE_SYNC).
pub(crate) fn first_write(wire: &mut Wire, file: &File) -> Result<(), Failure> {
    let mut arguments = Writer::default();
    arguments.opaque(&file.handle);
    arguments.u64(file.size / 2);
    arguments.u32(BLOCK);
    arguments.u32(2);
    arguments.opaque(&[7; 4096]);
    wire.ask(Procedure::Write, arguments.buffer()).map(drop)
}
