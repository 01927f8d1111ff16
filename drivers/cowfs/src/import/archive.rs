//! A tar archive as a tree. Nothing is ever unpacked: members go into the tree, their content into the store.

use std::ffi::OsStr;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use tar::EntryType;

use super::tar::{Archive, Member};
use super::{ImportError, Imported, Limits, Progress, implied_root};
use crate::attr::{Device, FileType, Time};
use crate::template::{Leaf, Meta, StageError, Staging, Tree, TreeError, TreeId};
use crate::whiteout::{self, OciName};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z'];
const BZIP2: &[u8] = b"BZh";

/// Reads an archive, compressed or not, into a tree.
pub(super) fn import(
    from: impl Read,
    owner: Option<(u32, u32)>,
    limits: &Limits,
    staging: &mut Staging,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Imported, ImportError> {
    let reader = decompress(from)?;
    let mut import = ArchiveImport {
        tree: Tree::new(implied_root()),
        owner,
        limits,
        staging,
        done: Progress::default(),
        skipped: 0,
    };
    let mut archive = Archive::new(reader, limits);
    while let Some(member) = archive.next()? {
        import.done.entries += 1;
        if import.done.entries > limits.entries_max {
            return Err(ImportError::Limit("too many members in the archive"));
        }
        import.take(&member, &mut archive)?;
        progress(&import.done);
    }
    Ok(Imported {
        tree: import.tree,
        progress: import.done,
        skipped: import.skipped,
    })
}

fn decompress<'a>(from: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ImportError> {
    let unreadable = |source| ImportError::Read {
        path: "the archive".into(),
        source,
    };
    let mut from = from;
    let mut start = Vec::new();
    (&mut from).take(6).read_to_end(&mut start).map_err(unreadable)?;
    if start.is_empty() {
        // Tar writes at least a block of zeros; an empty file is a mistake, not an empty tree.
        return Err(ImportError::Archive("it is empty"));
    }
    let kind = |magic: &[u8]| start.starts_with(magic);
    if kind(XZ) || kind(BZIP2) {
        return Err(ImportError::Archive(
            "compressed with something other than gzip or zstd",
        ));
    }
    let (gzip, zstd) = (kind(GZIP), kind(ZSTD));
    let whole = io::Cursor::new(start).chain(from);
    Ok(if gzip {
        Box::new(BufReader::with_capacity(
            1 << 18,
            flate2::read::MultiGzDecoder::new(whole),
        ))
    } else if zstd {
        let decoder = zstd::stream::read::Decoder::new(whole).map_err(unreadable)?;
        Box::new(BufReader::with_capacity(1 << 18, decoder))
    } else {
        Box::new(BufReader::with_capacity(1 << 18, whole))
    })
}

struct ArchiveImport<'a> {
    tree: Tree,
    owner: Option<(u32, u32)>,
    limits: &'a Limits,
    staging: &'a mut Staging,
    done: Progress,
    skipped: u64,
}

impl ArchiveImport<'_> {
    fn take(&mut self, member: &Member, data: &mut impl Read) -> Result<(), ImportError> {
        let path = path_of(&member.path);
        let refused = |what| ImportError::Refused {
            path: path.clone(),
            what,
        };
        let wrong = |source| ImportError::Member {
            path: path.clone(),
            source,
        };
        let meta = self
            .meta(member)
            .ok_or_else(|| refused("owner or group is larger than 32 bits"))?;
        let mut names = split(&member.path, self.limits)?;
        let Some(name) = names.pop() else {
            if member.entry_type != EntryType::Directory {
                return Err(refused("something other than a directory in place of the root"));
            }
            self.tree.describe(Tree::ROOT, meta);
            if member.opaque {
                self.tree.set_opaque(Tree::ROOT).map_err(wrong)?;
            }
            return Ok(());
        };
        let mut parent = Tree::ROOT;
        for name in names {
            parent = self.tree.implied_directory(parent, name).map_err(wrong)?;
        }
        match whiteout::oci_name(name) {
            OciName::Plain => {}
            OciName::Whiteout(name) => return self.tree.whiteout(parent, name).map_err(wrong),
            OciName::Opaque => return self.tree.set_opaque(parent).map_err(wrong),
            OciName::Bookkeeping => {
                self.skipped += 1;
                return Ok(());
            }
        }
        let device = Device {
            major: member.major,
            minor: member.minor,
        };
        let leaf = match member.entry_type {
            EntryType::Directory => {
                let dir = self.tree.directory(parent, name, meta).map_err(wrong)?;
                if member.opaque {
                    self.tree.set_opaque(dir).map_err(wrong)?;
                }
                return Ok(());
            }
            EntryType::Link => {
                let target = self
                    .find(&member.link)?
                    .ok_or_else(|| refused("a hard link to something that is not earlier in the archive"))?;
                return self.tree.link(parent, name, target).map_err(wrong);
            }
            EntryType::Regular | EntryType::Continuous => {
                let (content, size) = self.staging.content(data).map_err(|error| match error {
                    StageError::Source(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                        ImportError::Archive("it is cut short")
                    }
                    other => other.into(),
                })?;
                if size != member.size {
                    return Err(ImportError::Archive("it is cut short"));
                }
                self.done.bytes += size;
                Leaf::Regular { size, content }
            }
            EntryType::Symlink => Leaf::Symlink(member.link.clone()),
            EntryType::Char if whiteout::is_overlayfs_whiteout(FileType::Character, device) => {
                return self.tree.whiteout(parent, name).map_err(wrong);
            }
            EntryType::Char => Leaf::Character(device),
            EntryType::Block => Leaf::Block(device),
            EntryType::Fifo => Leaf::Fifo,
            EntryType::GNUSparse => {
                return Err(refused(
                    "sparse files are not supported: make it without --sparse",
                ));
            }
            _ => return Err(refused("a member of an unknown type")),
        };
        self.tree.leaf(parent, name, meta, leaf).map_err(wrong)?;
        Ok(())
    }

    fn meta(&self, member: &Member) -> Option<Meta> {
        let (uid, gid) = match self.owner {
            Some(owner) => owner,
            None => (u32::try_from(member.uid).ok()?, u32::try_from(member.gid).ok()?),
        };
        Some(Meta {
            mode: member.mode,
            uid,
            gid,
            mtime: Time {
                seconds: member.mtime,
                nanos: 0,
            },
        })
    }

    /// The object at a path, without following anything.
    fn find(&self, path: &[u8]) -> Result<Option<TreeId>, ImportError> {
        let names = split(path, self.limits)?;
        Ok(names
            .into_iter()
            .try_fold(Tree::ROOT, |dir, name| self.tree.find(dir, name)))
    }
}

/// The names of a path. A leading slash and `.` mean nothing, as tar has it; `..` is refused.
fn split<'a>(path: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, ImportError> {
    let names: Vec<&[u8]> = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    if names.len() > limits.depth_max {
        return Err(ImportError::Limit("directories are too deep within each other"));
    }
    if names.contains(&b"..".as_slice()) {
        return Err(ImportError::Member {
            path: path_of(path),
            source: TreeError::BadName(b"..".to_vec()),
        });
    }
    Ok(names)
}

/// A path for a message: long ones are cut.
fn path_of(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&path[..path.len().min(1024)]))
}
