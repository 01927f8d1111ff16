//! Reads the members of a tar archive one after the other, with a bound on everything the archive can ask for.
//!
//! Headers are decoded by the `tar` crate; what goes on between them is here, since that crate reads extended headers of
//! any length into memory. Formats: POSIX ustar and pax (IEEE Std 1003.1, `pax`), GNU long names.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::{ImportError, Limits};

/// Bytes of a block.
const BLOCK: usize = 512;

/// One member, extended headers applied.
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) entry_type: EntryType,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: i64,
    pub(super) size: u64,
    pub(super) major: u32,
    pub(super) minor: u32,
    /// Whether extended attributes say that the directory is opaque (overlayfs).
    pub(super) opaque: bool,
}

/// Extended headers for the next member, or for all that follow.
#[derive(Clone, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    opaque: bool,
}

/// An archive being read.
pub(super) struct Archive<R> {
    from: R,
    /// Bytes of the current member that have not been read, and the padding after them.
    left: u64,
    padding: u64,
    global: Extended,
    limits: Limits,
    headers: u64,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(from: R, limits: &Limits) -> Self {
        Self {
            from,
            left: 0,
            padding: 0,
            global: Extended::default(),
            limits: *limits,
            headers: 0,
        }
    }

    /// The next member; what is left of the one before is passed over. `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ImportError> {
        let mut extended = self.global.clone();
        let mut pending = false;
        loop {
            self.pass_over()?;
            let Some(header) = self.header()? else {
                return if pending {
                    Err(ImportError::Archive("it ends within a member"))
                } else {
                    Ok(None)
                };
            };
            self.headers += 1;
            // Extended headers come at most twice or so per member; without a member between them they could go on
            // for ever.
            if self.headers > self.limits.entries_max.saturating_mul(4) {
                return Err(ImportError::Limit("too many headers in the archive"));
            }
            let size = header
                .entry_size()
                .map_err(|_| ImportError::Archive("a size that is no number"))?;
            let entry_type = header.entry_type();
            if !matches!(
                entry_type,
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            ) {
                return self.member(&header, entry_type, size, extended).map(Some);
            }
            let text = self.text(size)?;
            match entry_type {
                EntryType::GNULongName => extended.path = Some(until_nul(&text).to_vec()),
                EntryType::GNULongLink => extended.link = Some(until_nul(&text).to_vec()),
                EntryType::XGlobalHeader => {
                    records(&text, &mut self.global)?;
                    extended = self.global.clone();
                    continue;
                }
                _ => records(&text, &mut extended)?,
            }
            pending = true;
        }
    }

    fn member(
        &mut self,
        header: &Header,
        entry_type: EntryType,
        size: u64,
        extended: Extended,
    ) -> Result<Member, ImportError> {
        let number =
            |what: io::Result<u64>| what.map_err(|_| ImportError::Archive("a field that is no number"));
        let size = extended.size.unwrap_or(size);
        // The format's other types have no data, whatever the size field says of the file they stand for.
        self.left = match entry_type {
            EntryType::Symlink
            | EntryType::Link
            | EntryType::Directory
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo => {
                if size != 0 && entry_type != EntryType::Symlink && entry_type != EntryType::Directory {
                    return Err(ImportError::Archive("a link or device with data"));
                }
                0
            }
            _ => size,
        };
        self.padding = self.left.next_multiple_of(BLOCK as u64) - self.left;
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        // Before POSIX, a directory was a file with a slash at the end of its name.
        let entry_type = if entry_type == EntryType::Regular && path.ends_with(b"/") {
            EntryType::Directory
        } else {
            entry_type
        };
        Ok(Member {
            link: extended
                .link
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
            path,
            entry_type,
            mode: header
                .mode()
                .map_err(|_| ImportError::Archive("a mode that is no number"))?
                & 0o7777,
            uid: extended.uid.map_or_else(|| number(header.uid()), Ok)?,
            gid: extended.gid.map_or_else(|| number(header.gid()), Ok)?,
            // A binary field may hold a time before 1970 (GNU): two's complement.
            mtime: extended
                .mtime
                .map_or_else(|| number(header.mtime()).map(u64::cast_signed), Ok)?,
            size,
            major: device(header.device_major())?,
            minor: device(header.device_minor())?,
            opaque: extended.opaque,
        })
    }

    /// One header, or `None` at the end: a block of zeros, or nothing more.
    fn header(&mut self) -> Result<Option<Header>, ImportError> {
        let mut block = [0; BLOCK];
        let mut got = 0;
        while got < block.len() {
            match self.from.read(&mut block[got..]) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(ImportError::Archive("it is cut short")),
                Ok(count) => got += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(unreadable(source)),
            }
        }
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = |range: &[u8]| range.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let found = sum(&block[..148]) + sum(&block[156..]) + 8 * u32::from(b' ');
        if header.cksum().ok() != Some(found) {
            return Err(ImportError::Archive("a header with a wrong checksum"));
        }
        Ok(Some(header))
    }

    fn text(&mut self, size: u64) -> Result<Vec<u8>, ImportError> {
        if size > self.limits.header_bytes_max {
            return Err(ImportError::Limit(
                "an extended header of the archive is too long",
            ));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        let mut text = Vec::new();
        self.read_to_end(&mut text).map_err(unreadable)?;
        Ok(text)
    }

    fn pass_over(&mut self) -> Result<(), ImportError> {
        let left = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let passed = io::copy(&mut (&mut self.from).take(left), &mut io::sink()).map_err(unreadable)?;
        if passed == left {
            Ok(())
        } else {
            Err(ImportError::Archive("it is cut short"))
        }
    }
}

/// Reads the data of the current member.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.from.read(&mut buf[..wanted])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut short",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Reads the records of a pax header: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.
fn records(mut text: &[u8], into: &mut Extended) -> Result<(), ImportError> {
    let wrong = || ImportError::Archive("an extended header that makes no sense");
    let number = |value: &[u8]| {
        std::str::from_utf8(value)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    while !text.is_empty() && text[0] != 0 {
        let space = text.iter().position(|&byte| byte == b' ').ok_or_else(wrong)?;
        let len = number(&text[..space])
            .and_then(|len| usize::try_from(len).ok())
            .ok_or_else(wrong)?;
        if len > text.len() || len < space + 3 || text[len - 1] != b'\n' {
            return Err(wrong());
        }
        let record = &text[space + 1..len - 1];
        text = &text[len..];
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => into.path = Some(value.to_vec()),
            b"linkpath" => into.link = Some(value.to_vec()),
            b"size" => into.size = Some(number(value).ok_or_else(wrong)?),
            b"uid" => into.uid = Some(number(value).ok_or_else(wrong)?),
            b"gid" => into.gid = Some(number(value).ok_or_else(wrong)?),
            b"mtime" => into.mtime = Some(seconds(value).ok_or_else(wrong)?),
            b"SCHILY.xattr.trusted.overlay.opaque" | b"SCHILY.xattr.user.overlay.opaque" => {
                into.opaque = value == b"y";
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(ImportError::Archive(
                    "sparse files are not supported: make it without --sparse",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A decimal time, cut to the second that began before it.
fn seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let before_the_second = whole.starts_with('-') && fraction.bytes().any(|byte| byte != b'0');
    if before_the_second {
        seconds.checked_sub(1)
    } else {
        Some(seconds)
    }
}

fn device(number: io::Result<Option<u32>>) -> Result<u32, ImportError> {
    // Old archives fill the field with spaces or nothing where there is no device.
    Ok(number.ok().flatten().unwrap_or(0))
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or(text)
}

fn unreadable(source: io::Error) -> ImportError {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        ImportError::Archive("it is cut short")
    } else {
        ImportError::Read {
            path: "the archive".into(),
            source,
        }
    }
}
