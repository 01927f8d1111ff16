//! The changes of a writable layer as a layer of the OCI image specification: an archive with `.wh.` names.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::view::{Item, join, lower_key};
use super::{InspectError, Inspection};
use crate::attr::{Attr, FileType};
use crate::handle::ObjectKey;
use crate::stack::lower::{LowerChild, Origins};
use crate::template::Digest;
use crate::whiteout::{OPAQUE, PREFIX, is_overlayfs_whiteout};
use crate::writable::log::as_u64;
use crate::writable::record::Name;

/// Why nothing was published. What was written until then is to be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The layer could not be read.
    #[error(transparent)]
    Read(#[from] InspectError),
    /// A name that means something else in such an archive.
    #[error(
        "`{}` begins with `.wh.`, which no layer of an image can hold: rename or remove it first",
        String::from_utf8_lossy(path)
    )]
    Reserved {
        /// The path.
        path: Vec<u8>,
    },
    /// A device that means something else in a layer.
    #[error(
        "`{}` is a character device 0:0, which in a layer means that something is deleted: remove it first",
        String::from_utf8_lossy(path)
    )]
    LooksDeleted {
        /// The path.
        path: Vec<u8>,
    },
    /// The archive could not be written.
    #[error("writing the archive")]
    Write(#[source] io::Error),
}

/// An archive that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Members, whiteouts included.
    pub members: u64,
    /// Of these, how many hide something.
    pub whiteouts: u64,
    /// Sockets, which no archive can hold: nobody is listening on them any more either.
    pub sockets: Vec<Vec<u8>>,
}

impl Inspection {
    /// Writes what the layer changes as an archive that gives the same tree over the same layers. Equal layers give
    /// equal bytes.
    ///
    /// Time stamps are cut to whole seconds. What was renamed in the layers below is in the archive with all its content,
    /// since a layer of an image has no way to say where it came from.
    ///
    /// # Errors
    /// [`PublishError`]; the layers below must be at hand wherever something of theirs is needed.
    pub fn publish(&self, out: impl Write) -> Result<Published, PublishError> {
        // An archive made without the layers below could not tell what is new from what replaces something.
        let lower = self.lower()?;
        let here = Some(lower.root().map_err(InspectError::from)?).filter(|origins| !origins.is_empty());
        let mut writer = Publisher {
            inspection: self,
            out: Builder::new(Hashing {
                out,
                hasher: Sha256::new(),
                bytes: 0,
            }),
            first: HashMap::new(),
            report: Published {
                digest: Digest::of(b""),
                bytes: 0,
                members: 0,
                whiteouts: 0,
                sockets: Vec::new(),
            },
        };
        writer.directory(&Item::Recorded(self.root), b"", here.as_ref(), true)?;
        let mut hashing = writer.out.into_inner().map_err(PublishError::Write)?;
        hashing.out.flush().map_err(PublishError::Write)?;
        let digest: [u8; 32] = hashing.hasher.finalize().into();
        writer.report.digest = Digest(digest);
        writer.report.bytes = hashing.bytes;
        Ok(writer.report)
    }
}

struct Publisher<'a, W: Write> {
    inspection: &'a Inspection,
    out: Builder<Hashing<W>>,
    /// The first name under which each object with several went in.
    first: HashMap<ObjectKey, Vec<u8>>,
    report: Published,
}

impl<W: Write> Publisher<'_, W> {
    /// A directory, its marks, and what is in it. `here` is what the layers below have at its path; `merges` says that
    /// all of that shows through but what is recorded.
    fn directory(
        &mut self,
        dir: &Item,
        path: &[u8],
        here: Option<&Origins>,
        merges: bool,
    ) -> Result<(), PublishError> {
        self.member(dir, path, EntryType::Directory)?;
        if !merges {
            if here.is_some() {
                self.mark(&join(path, OPAQUE))?;
            }
            for (name, child) in self.inspection.children(dir)? {
                self.child(&child, &join(path, &name), None, &name)?;
            }
            return Ok(());
        }
        let Item::Recorded(key) = dir else { return Ok(()) };
        let inspection = self.inspection;
        let entries = inspection.object(*key)?.directory().map(|dir| &dir.entries);
        let lower = inspection.lower()?;
        for (name, target) in entries.into_iter().flatten() {
            let at = join(path, name);
            let was = match here {
                Some(origins) => lower.child(origins, name).map_err(InspectError::from)?,
                None => None,
            };
            match target {
                Name::Whiteout if was.is_some() => self.mark(&join(path, &[PREFIX, name].concat()))?,
                Name::Whiteout => {}
                Name::Object(key) => self.child(&Item::Recorded(*key), &at, was.as_ref(), name)?,
            }
        }
        Ok(())
    }

    fn child(
        &mut self,
        item: &Item,
        path: &[u8],
        was: Option<&LowerChild>,
        name: &[u8],
    ) -> Result<(), PublishError> {
        if name.starts_with(PREFIX) {
            return Err(PublishError::Reserved { path: path.to_vec() });
        }
        let inspection = self.inspection;
        let attr = inspection.attr(item)?;
        if attr.file_type == FileType::Directory {
            let here = match was {
                Some(LowerChild::Directory(origins)) => Some(origins),
                Some(LowerChild::File(..)) | None => None,
            };
            let through = inspection.shows_through(item)?;
            let merges = here.is_some_and(|here| *here == through);
            return self.directory(item, path, here, merges);
        }
        if is_overlayfs_whiteout(attr.file_type, attr.device) {
            return Err(PublishError::LooksDeleted { path: path.to_vec() });
        }
        let key = match item {
            Item::Recorded(key) => Some(*key),
            Item::File(at, number) if attr.links > 1 => Some(inspection.lower()?.key(*at, *number)),
            Item::File(..) | Item::Directory(_) => None,
        };
        if let Some(key) = key {
            if let Some(first) = self.first.get(&key) {
                let first = first.clone();
                return self.link(path, &first);
            }
            // Other names, in directories that are not in the archive, go on leading to what the layers below have.
            if attr.links > 1 {
                self.first.insert(key, path.to_vec());
            }
            if let (Item::Recorded(key), Some(was)) = (item, was)
                && attr.links <= 1
                && self.is_unchanged(*key, was, &attr)?
            {
                return Ok(());
            }
        }
        match attr.file_type {
            FileType::Socket => self.report.sockets.push(path.to_vec()),
            FileType::Regular => self.member(item, path, EntryType::Regular)?,
            FileType::Symlink => self.member(item, path, EntryType::Symlink)?,
            FileType::Fifo => self.member(item, path, EntryType::Fifo)?,
            FileType::Character => self.member(item, path, EntryType::Char)?,
            FileType::Block => self.member(item, path, EntryType::Block)?,
            FileType::Directory => {}
        }
        Ok(())
    }

    /// Whether a record says nothing that the layer below does not say.
    fn is_unchanged(&self, key: ObjectKey, was: &LowerChild, attr: &Attr) -> Result<bool, PublishError> {
        let lower = self.inspection.lower()?;
        let LowerChild::File(at, number) = was else {
            return Ok(false);
        };
        if lower_key(lower, was) != key {
            return Ok(false);
        }
        let before = lower.attr(*at, *number).map_err(InspectError::from)?;
        let written = self.inspection.object(key)?.file().is_some_and(|file| {
            file.extents.len() > 0 || file.base.as_ref().is_some_and(|base| base.len < base.whole)
        });
        let same = |attr: &Attr| (attr.mode, attr.uid, attr.gid, attr.size, attr.mtime, attr.device);
        Ok(!written && same(&before) == same(attr))
    }

    fn member(&mut self, item: &Item, path: &[u8], entry_type: EntryType) -> Result<(), PublishError> {
        let inspection = self.inspection;
        let attr = inspection.attr(item)?;
        let mut header = bare(entry_type);
        header.set_mode(attr.mode);
        header.set_uid(u64::from(attr.uid));
        header.set_gid(u64::from(attr.gid));
        header.set_mtime(u64::try_from(attr.mtime.seconds).unwrap_or(0));
        // The root has no name; archives call it so.
        let mut name = if path.is_empty() {
            b".".to_vec()
        } else {
            path.to_vec()
        };
        let mut target = Vec::new();
        match entry_type {
            EntryType::Directory => name.push(b'/'),
            EntryType::Symlink => target = inspection.target(item)?.unwrap_or_default(),
            EntryType::Regular => header.set_size(attr.size),
            EntryType::Char | EntryType::Block => header
                .set_device_major(attr.device.major)
                .and_then(|()| header.set_device_minor(attr.device.minor))
                .map_err(PublishError::Write)?,
            _ => {}
        }
        let mut content = Content {
            inspection,
            item,
            at: 0,
            failed: None,
        };
        let written = if entry_type == EntryType::Regular {
            self.append(header, &name, &target, &mut content)
        } else {
            self.append(header, &name, &target, &mut io::empty())
        };
        match content.failed {
            Some(error) => Err(error.into()),
            None => written,
        }
    }

    fn link(&mut self, path: &[u8], first: &[u8]) -> Result<(), PublishError> {
        self.append(bare(EntryType::Link), path, first, &mut io::empty())
    }

    /// An empty file whose name says it all.
    fn mark(&mut self, path: &[u8]) -> Result<(), PublishError> {
        self.report.whiteouts += 1;
        self.append(bare(EntryType::Regular), path, b"", &mut io::empty())
    }

    /// One member. Names and targets go in byte by byte as they are (the `tar` crate would tidy them up), those that do
    /// not fit a header in GNU's way before it.
    fn append(
        &mut self,
        mut header: Header,
        name: &[u8],
        target: &[u8],
        content: &mut dyn Read,
    ) -> Result<(), PublishError> {
        self.report.members += 1;
        if target.len() > SHORT {
            self.long(EntryType::GNULongLink, target)?;
        }
        if name.len() > SHORT {
            self.long(EntryType::GNULongName, name)?;
        }
        let gnu = header.as_gnu_mut().ok_or_else(not_gnu)?;
        put(&mut gnu.name, name);
        put(&mut gnu.linkname, target);
        header.set_cksum();
        self.out.append(&header, content).map_err(PublishError::Write)
    }

    fn long(&mut self, entry_type: EntryType, text: &[u8]) -> Result<(), PublishError> {
        let mut header = bare(entry_type);
        let gnu = header.as_gnu_mut().ok_or_else(not_gnu)?;
        put(&mut gnu.name, b"././@LongLink");
        header.set_size(as_u64(text.len() + 1));
        header.set_cksum();
        let text = [text, b"\0"].concat();
        self.out.append(&header, &text[..]).map_err(PublishError::Write)
    }
}

/// Bytes of a name or target that a header holds.
const SHORT: usize = 100;

fn put(field: &mut [u8; SHORT], text: &[u8]) {
    let len = text.len().min(SHORT);
    field[..len].copy_from_slice(&text[..len]);
}

/// A header that says nothing but what kind of member it is for.
fn bare(entry_type: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(entry_type);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn not_gnu() -> PublishError {
    PublishError::Write(io::Error::other("a header of another format"))
}

/// The content of a file, from its beginning.
struct Content<'a> {
    inspection: &'a Inspection,
    item: &'a Item,
    at: u64,
    failed: Option<InspectError>,
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.inspection.read_item(self.item, self.at, buf) {
            Ok(count) => {
                self.at += as_u64(count);
                Ok(count)
            }
            Err(error) => {
                self.failed = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

struct Hashing<W> {
    out: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.out.write(buf)?;
        self.hasher.update(&buf[..count]);
        self.bytes += as_u64(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
