//! Which files of a layer travel, and what they are called on the way: kinds and numbers, never a path.

use std::io;
use std::path::{Path, PathBuf};

use super::super::codec::{Malformed, Reader, Writer};
use super::super::content::{self, file_name};
use super::super::disk::Disk;
use super::super::extents::ContentId;
use super::super::segment::SegmentName;
use super::super::{log, meta, saved};

/// A file of a writable layer. Its lock and the room it keeps for removals stay where they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Name {
    /// Who the layer is, and the key of its handles.
    Meta,
    /// A segment of the log.
    Log(SegmentName),
    /// A checkpoint's manifest.
    Manifest(String),
    /// A checkpoint's state.
    State(String),
    /// A content file.
    Content(ContentId),
}

const META: u8 = 0;
const LOG: u8 = 1;
const MANIFEST: u8 = 2;
const STATE: u8 = 3;
const CONTENT: u8 = 4;

impl Name {
    pub(super) fn encode(&self, out: &mut Writer) {
        match self {
            Self::Meta => out.u8(META),
            Self::Log(name) => {
                out.u8(LOG);
                out.u64(name.sequence);
                out.u64(name.epoch);
            }
            Self::Manifest(name) => {
                out.u8(MANIFEST);
                out.string(name.as_bytes());
            }
            Self::State(name) => {
                out.u8(STATE);
                out.string(name.as_bytes());
            }
            Self::Content(id) => {
                out.u8(CONTENT);
                out.u64(id.number);
                out.u64(id.epoch);
            }
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.u8("kind of file")? {
            META => Self::Meta,
            LOG => Self::Log(SegmentName {
                sequence: from.u64("segment")?,
                epoch: from.u64("segment")?,
            }),
            MANIFEST => Self::Manifest(checkpoint(from)?),
            STATE => Self::State(checkpoint(from)?),
            CONTENT => Self::Content(ContentId {
                number: from.u64("content file")?,
                epoch: from.u64("content file")?,
            }),
            _ => return Err(Malformed::Value("kind of file")),
        })
    }

    /// Where it lies in the layer in `dir`.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        match self {
            Self::Meta => dir.join(meta::FILE),
            Self::Log(name) => dir.join(log::FOLDER).join(name.file_name()),
            Self::Manifest(name) => dir.join(saved::FOLDER).join(format!("{name}{}", saved::MANIFEST)),
            Self::State(name) => dir.join(saved::FOLDER).join(format!("{name}{}", saved::STATE)),
            Self::Content(id) => dir
                .join(content::FOLDER)
                .join(content::folder_name(*id))
                .join(file_name(*id)),
        }
    }
}

fn checkpoint(from: &mut Reader<'_>) -> Result<String, Malformed> {
    let bad = || Malformed::Value("name of a checkpoint");
    let name = std::str::from_utf8(from.string("name of a checkpoint")?).map_err(|_| bad())?;
    saved::check_name(name).map_err(|_| bad())?;
    Ok(name.to_owned())
}

/// The files of the layer in `dir` that travel, and the names of others (lock and reserve aside), which nobody needs.
pub(super) fn list(disk: &Disk, dir: &Path) -> io::Result<(Vec<Name>, Vec<PathBuf>)> {
    let (mut names, mut others) = (Vec::new(), Vec::new());
    match disk.status(&dir.join(meta::FILE)) {
        Ok(_) => names.push(Name::Meta),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut take = |folder: PathBuf, parse: &dyn Fn(&str) -> Option<Name>| -> io::Result<()> {
        for found in listed(disk, &folder)? {
            match found.to_str().and_then(parse) {
                Some(name) => names.push(name),
                None => others.push(folder.join(found)),
            }
        }
        Ok(())
    };
    take(dir.join(log::FOLDER), &|name| {
        SegmentName::parse(name).map(Name::Log)
    })?;
    take(dir.join(saved::FOLDER), &|name| {
        let plain = |name: &str| saved::check_name(name).is_ok().then(|| name.to_owned());
        let manifest = name
            .strip_suffix(saved::MANIFEST)
            .and_then(plain)
            .map(Name::Manifest);
        manifest.or_else(|| name.strip_suffix(saved::STATE).and_then(plain).map(Name::State))
    })?;
    let content = dir.join(content::FOLDER);
    for folder in listed(disk, &content)? {
        take(content.join(&folder), &|name| {
            let id = content::parse(name)?;
            let whole = file_name(id) == name && folder.to_str() == Some(content::folder_name(id).as_str());
            whole.then_some(Name::Content(id))
        })?;
    }
    Ok((names, others))
}

/// The segments of the log in `dir`.
pub(super) fn list_log(disk: &Disk, dir: &Path) -> io::Result<Vec<Name>> {
    let names = listed(disk, &dir.join(log::FOLDER))?;
    let segments = names.iter().filter_map(|name| SegmentName::parse(name.to_str()?));
    Ok(segments.map(Name::Log).collect())
}

fn listed(disk: &Disk, folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    match disk.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

/// The highest epoch that a segment in `dir` is of.
pub(super) fn epoch_seen(disk: &Disk, dir: &Path) -> io::Result<u64> {
    let epochs = list_log(disk, dir)?.into_iter().map(|name| match name {
        Name::Log(name) => name.epoch,
        Name::Meta | Name::Manifest(_) | Name::State(_) | Name::Content(_) => 0,
    });
    Ok(epochs.max().unwrap_or(0))
}
