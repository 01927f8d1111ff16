//! What the log says: each record is one operation, a list of changes that happen together or not at all.

use super::codec::{Malformed, Reader, Writer};
use super::extents::ContentId;
use crate::attr::{Attr, Device, FileType, Time};
use crate::handle::ObjectKey;
use crate::layer::{ContentHash, LayerId, NodeNumber};
use crate::service::CallKey;

/// The largest file: what a signed offset can say.
pub(crate) const SIZE_MAX: u64 = i64::MAX.unsigned_abs();

/// Numbers are given out one by one from 2 on: no layer ever comes near this, and counting on from it never overflows.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// One operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The call that asked for it, if it must not run twice.
    pub(crate) call: Option<Call>,
    /// What changes.
    pub(crate) changes: Vec<Change>,
}

/// A call that has been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) key: CallKey,
    /// The object it made.
    pub(crate) made: Option<ObjectKey>,
}

/// Attributes as the log keeps them; type, size and links have changes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
}

impl From<&Attr> for Stored {
    fn from(attr: &Attr) -> Self {
        Self {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
        }
    }
}

/// Where a name leads, when the writable layer says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// To an object that has a record of its own.
    Object(ObjectKey),
    /// Nowhere, whatever is below.
    Whiteout,
}

/// The lower file whose bytes show where nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// The lower file.
    pub(crate) origin: ObjectKey,
    /// By what the node's content store knows it.
    pub(crate) hash: Option<ContentHash>,
    /// How many of its bytes still count: a truncation lowers this for good.
    pub(crate) len: u64,
    /// Its size and the time of its last change, to know it again in a layer that keeps no hashes.
    pub(crate) whole: u64,
    pub(crate) mtime: Time,
    /// Where it was in its layer, for people and for repair.
    pub(crate) path: Vec<u8>,
}

/// Where a directory of the writable layer merges with the layers below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    /// Path in the layers below, `/`-separated, empty for the root. Stays when the directory is renamed.
    pub(crate) path: Vec<u8>,
    /// The lower directories there, nearest first, as of the stack last seen.
    pub(crate) origins: Vec<(LayerId, NodeNumber)>,
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    File {
        size: u64,
        base: Option<Base>,
        verifier: Option<[u8; 8]>,
    },
    Directory {
        parent: ObjectKey,
        merge: Option<Merge>,
    },
    Symlink {
        target: Vec<u8>,
    },
    Special {
        file_type: FileType,
        device: Device,
    },
}

/// One change. The numbers in [`Change::encode`] are the format: they never change meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// An object begins to have a record, with so many names.
    Make {
        key: ObjectKey,
        links: u32,
        attr: Stored,
        body: Body,
    },
    /// It is gone for good.
    Drop { key: ObjectKey },
    /// New attributes.
    Attr { key: ObjectKey, attr: Stored },
    /// New number of names (never for directories).
    Links { key: ObjectKey, links: u32 },
    /// What a name stands for; `None`: the writable layer has nothing to say.
    Entry {
        dir: ObjectKey,
        name: Vec<u8>,
        target: Option<Name>,
    },
    /// A directory moved.
    Parent { dir: ObjectKey, parent: ObjectKey },
    /// Truncated or extended: what was beyond `size` is forgotten.
    Size { key: ObjectKey, size: u64 },
    /// Ranges whose bytes are durable in a content file. The size grows to their end.
    Extents {
        key: ObjectKey,
        content: ContentId,
        ranges: Vec<(u64, u64)>,
    },
    /// Bytes written at `offset`. `at` is where they are in the record; known once it is encoded.
    Inline {
        key: ObjectKey,
        offset: u64,
        bytes: Vec<u8>,
        at: u64,
    },
    /// What a merging directory is made of in the stack now below.
    Origins {
        dir: ObjectKey,
        origins: Vec<(LayerId, NodeNumber)>,
    },
    /// The stack now below, nearest first.
    Stack { layers: Vec<LayerId> },
    /// Numbers below this are taken.
    Next { number: u64 },
    /// A call carried out earlier (in checkpoints).
    Called(Call),
    /// Another lower file shows below the written ranges, since the layer of the first has left the stack.
    Base { key: ObjectKey, base: Base, size: u64 },
    /// Content files of epochs before this one are written by nobody any more.
    Adopted { epoch: u64 },
    /// The holder writes no more.
    Closed,
    /// A checkpoint was made, with this digest of its manifest; or removed.
    Saved {
        name: String,
        manifest: Option<[u8; 32]>,
    },
}

impl Record {
    /// The record as bytes. Sets where inline bytes went.
    pub(crate) fn encode(&mut self) -> Vec<u8> {
        let mut out = Writer::default();
        match &self.call {
            None => out.u8(0),
            Some(call) => {
                out.u8(1);
                put_call(&mut out, call);
            }
        }
        out.count(self.changes.len());
        for change in &mut self.changes {
            change.encode(&mut out);
        }
        out.bytes
    }

    /// The record that `bytes` hold.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let call = match from.u8("call mark")? {
            0 => None,
            1 => Some(take_call(&mut from)?),
            _ => return Err(Malformed::Value("call mark")),
        };
        let count = from.count(1, "changes")?;
        let changes = (0..count)
            .map(|_| Change::decode(&mut from))
            .collect::<Result<_, _>>()?;
        from.done()?;
        Ok(Self { call, changes })
    }
}

impl Change {
    fn encode(&mut self, out: &mut Writer) {
        match self {
            Self::Make {
                key,
                links,
                attr,
                body,
            } => {
                out.u8(1);
                put_key(out, *key);
                out.u32(*links);
                put_attr(out, attr);
                put_body(out, body);
            }
            Self::Drop { key } => {
                out.u8(2);
                put_key(out, *key);
            }
            Self::Attr { key, attr } => {
                out.u8(3);
                put_key(out, *key);
                put_attr(out, attr);
            }
            Self::Links { key, links } => {
                out.u8(4);
                put_key(out, *key);
                out.u32(*links);
            }
            Self::Entry { dir, name, target } => {
                out.u8(5);
                put_key(out, *dir);
                out.string(name);
                match target {
                    None => out.u8(0),
                    Some(Name::Object(key)) => {
                        out.u8(1);
                        put_key(out, *key);
                    }
                    Some(Name::Whiteout) => out.u8(2),
                }
            }
            Self::Parent { dir, parent } => {
                out.u8(6);
                put_key(out, *dir);
                put_key(out, *parent);
            }
            Self::Size { key, size } => {
                out.u8(7);
                put_key(out, *key);
                out.u64(*size);
            }
            Self::Extents { key, content, ranges } => {
                out.u8(8);
                put_key(out, *key);
                out.u64(content.number);
                out.u64(content.epoch);
                out.count(ranges.len());
                for (start, end) in ranges {
                    out.u64(*start);
                    out.u64(*end);
                }
            }
            Self::Inline {
                key,
                offset,
                bytes,
                at,
            } => {
                out.u8(9);
                put_key(out, *key);
                out.u64(*offset);
                out.count(bytes.len());
                *at = u64::try_from(out.bytes.len()).unwrap_or(u64::MAX);
                out.raw(bytes);
            }
            Self::Origins { dir, origins } => {
                out.u8(10);
                put_key(out, *dir);
                put_origins(out, origins);
            }
            Self::Stack { layers } => {
                out.u8(11);
                out.count(layers.len());
                for layer in layers {
                    out.raw(&layer.0);
                }
            }
            Self::Next { number } => {
                out.u8(12);
                out.u64(*number);
            }
            Self::Called(call) => {
                out.u8(13);
                put_call(out, call);
            }
            Self::Base { key, base, size } => {
                out.u8(14);
                put_key(out, *key);
                put_base(out, base);
                out.u64(*size);
            }
            Self::Adopted { epoch } => {
                out.u8(15);
                out.u64(*epoch);
            }
            Self::Closed => out.u8(16),
            Self::Saved { name, manifest } => {
                out.u8(17);
                out.string(name.as_bytes());
                out.u8(u8::from(manifest.is_some()));
                out.raw(manifest.as_ref().map_or(&[][..], |digest| digest));
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match from.u8("kind of change")? {
            1 => Self::Make {
                key: take_key(from)?,
                links: from.u32("links")?,
                attr: take_attr(from)?,
                body: take_body(from)?,
            },
            2 => Self::Drop { key: take_key(from)? },
            3 => Self::Attr {
                key: take_key(from)?,
                attr: take_attr(from)?,
            },
            4 => Self::Links {
                key: take_key(from)?,
                links: from.u32("links")?,
            },
            5 => Self::Entry {
                dir: take_key(from)?,
                name: take_name(from)?,
                target: match from.u8("kind of entry")? {
                    0 => None,
                    1 => Some(Name::Object(take_key(from)?)),
                    2 => Some(Name::Whiteout),
                    _ => return Err(Malformed::Value("kind of entry")),
                },
            },
            6 => Self::Parent {
                dir: take_key(from)?,
                parent: take_key(from)?,
            },
            7 => Self::Size {
                key: take_key(from)?,
                size: take_size(from, "size")?,
            },
            8 => Self::Extents {
                key: take_key(from)?,
                content: ContentId {
                    number: take_number(from, "content number")?,
                    epoch: from.u64("content epoch")?,
                },
                ranges: take_ranges(from)?,
            },
            9 => {
                let key = take_key(from)?;
                let offset = from.u64("offset")?;
                let len = from.count(1, "inline bytes")?;
                let at = u64::try_from(from.position()).unwrap_or(u64::MAX);
                let bytes = from.raw(len, "inline bytes")?.to_vec();
                let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
                if end.is_none_or(|end| end > SIZE_MAX) {
                    return Err(Malformed::Value("offset"));
                }
                Self::Inline {
                    key,
                    offset,
                    bytes,
                    at,
                }
            }
            10 => Self::Origins {
                dir: take_key(from)?,
                origins: take_origins(from)?,
            },
            11 => {
                let count = from.count(8, "layers")?;
                let layers = (0..count)
                    .map(|_| from.array("layer").map(LayerId))
                    .collect::<Result<_, _>>()?;
                Self::Stack { layers }
            }
            12 => Self::Next {
                number: take_number(from, "number")?,
            },
            13 => Self::Called(take_call(from)?),
            14 => Self::Base {
                key: take_key(from)?,
                base: take_base(from)?,
                size: take_size(from, "size")?,
            },
            15 => Self::Adopted {
                epoch: from.u64("epoch")?,
            },
            16 => Self::Closed,
            17 => Self::Saved {
                name: String::from_utf8(take_name(from)?).map_err(|_| Malformed::Value("checkpoint"))?,
                manifest: match from.u8("checkpoint")? {
                    0 => None,
                    1 => Some(from.array("checkpoint")?),
                    _ => return Err(Malformed::Value("checkpoint")),
                },
            },
            newer => return Err(Malformed::Newer(newer)),
        })
    }
}

fn put_key(out: &mut Writer, key: ObjectKey) {
    out.raw(&key.layer.0);
    out.u64(key.number);
}

fn take_key(from: &mut Reader<'_>) -> Result<ObjectKey, Malformed> {
    Ok(ObjectKey {
        layer: LayerId(from.array("object")?),
        number: take_number(from, "object")?,
    })
}

fn take_number(from: &mut Reader<'_>, what: &'static str) -> Result<u64, Malformed> {
    let number = from.u64(what)?;
    if number > NUMBER_MAX {
        return Err(Malformed::Value(what));
    }
    Ok(number)
}

/// A size, or an offset that a file may end at.
fn take_size(from: &mut Reader<'_>, what: &'static str) -> Result<u64, Malformed> {
    let size = from.u64(what)?;
    if size > SIZE_MAX {
        return Err(Malformed::Value(what));
    }
    Ok(size)
}

fn put_call(out: &mut Writer, call: &Call) {
    out.raw(&call.key.0);
    out.u8(u8::from(call.made.is_some()));
    if let Some(made) = call.made {
        put_key(out, made);
    }
}

fn take_call(from: &mut Reader<'_>) -> Result<Call, Malformed> {
    let key = CallKey(from.array("call")?);
    let made = match from.u8("outcome")? {
        0 => None,
        1 => Some(take_key(from)?),
        _ => return Err(Malformed::Value("outcome")),
    };
    Ok(Call { key, made })
}

fn put_attr(out: &mut Writer, attr: &Stored) {
    out.u32(attr.mode);
    out.u32(attr.uid);
    out.u32(attr.gid);
    for time in [attr.atime, attr.mtime, attr.ctime] {
        out.i64(time.seconds);
        out.u32(time.nanos);
    }
}

fn take_attr(from: &mut Reader<'_>) -> Result<Stored, Malformed> {
    let (mode, uid, gid) = (from.u32("mode")?, from.u32("uid")?, from.u32("gid")?);
    if mode > 0o7777 {
        return Err(Malformed::Value("mode"));
    }
    let mut time = || {
        let (seconds, nanos) = (from.i64("time")?, from.u32("time")?);
        if nanos >= 1_000_000_000 {
            return Err(Malformed::Value("time"));
        }
        Ok(Time { seconds, nanos })
    };
    let (atime, mtime, ctime) = (time()?, time()?, time()?);
    Ok(Stored {
        mode,
        uid,
        gid,
        atime,
        mtime,
        ctime,
    })
}

fn put_body(out: &mut Writer, body: &Body) {
    match body {
        Body::File { size, base, verifier } => {
            out.u8(1);
            out.u64(*size);
            out.u8(u8::from(base.is_some()));
            if let Some(base) = base {
                put_base(out, base);
            }
            out.u8(u8::from(verifier.is_some()));
            if let Some(verifier) = verifier {
                out.raw(verifier);
            }
        }
        Body::Directory { parent, merge } => {
            out.u8(2);
            put_key(out, *parent);
            out.u8(u8::from(merge.is_some()));
            if let Some(merge) = merge {
                out.string(&merge.path);
                put_origins(out, &merge.origins);
            }
        }
        Body::Symlink { target } => {
            out.u8(5);
            out.string(target);
        }
        Body::Special { file_type, device } => {
            out.u8(match file_type {
                FileType::Block => 3,
                FileType::Socket => 6,
                FileType::Fifo => 7,
                FileType::Character | FileType::Regular | FileType::Directory | FileType::Symlink => 4,
            });
            out.u32(device.major);
            out.u32(device.minor);
        }
    }
}

fn take_body(from: &mut Reader<'_>) -> Result<Body, Malformed> {
    let kind = from.u8("type")?;
    let file_type = match kind {
        1 => {
            let size = take_size(from, "size")?;
            let base = if take_flag(from)? {
                Some(take_base(from)?)
            } else {
                None
            };
            let verifier = if take_flag(from)? {
                Some(from.array("verifier")?)
            } else {
                None
            };
            return Ok(Body::File { size, base, verifier });
        }
        2 => {
            let parent = take_key(from)?;
            let merge = if take_flag(from)? {
                Some(Merge {
                    path: from.string("path")?.to_vec(),
                    origins: take_origins(from)?,
                })
            } else {
                None
            };
            return Ok(Body::Directory { parent, merge });
        }
        5 => {
            return Ok(Body::Symlink {
                target: from.string("target")?.to_vec(),
            });
        }
        3 => FileType::Block,
        4 => FileType::Character,
        6 => FileType::Socket,
        7 => FileType::Fifo,
        _ => return Err(Malformed::Value("type")),
    };
    let device = Device {
        major: from.u32("device")?,
        minor: from.u32("device")?,
    };
    Ok(Body::Special { file_type, device })
}

fn put_base(out: &mut Writer, base: &Base) {
    put_key(out, base.origin);
    out.u8(u8::from(base.hash.is_some()));
    if let Some(hash) = base.hash {
        out.raw(&hash.0);
    }
    out.u64(base.len);
    out.u64(base.whole);
    out.i64(base.mtime.seconds);
    out.u32(base.mtime.nanos);
    out.string(&base.path);
}

fn take_base(from: &mut Reader<'_>) -> Result<Base, Malformed> {
    Ok(Base {
        origin: take_key(from)?,
        hash: if take_flag(from)? {
            Some(ContentHash(from.array("hash")?))
        } else {
            None
        },
        len: take_size(from, "base length")?,
        whole: take_size(from, "base size")?,
        mtime: Time {
            seconds: from.i64("base time")?,
            nanos: from.u32("base time")?,
        },
        path: from.string("path")?.to_vec(),
    })
}

fn take_flag(from: &mut Reader<'_>) -> Result<bool, Malformed> {
    match from.u8("flag")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Value("flag")),
    }
}

fn take_name(from: &mut Reader<'_>) -> Result<Vec<u8>, Malformed> {
    let name = from.string("name")?;
    let wrong = name.is_empty()
        || name.len() > 255
        || name == b"."
        || name == b".."
        || name.iter().any(|&byte| byte == b'/' || byte == 0);
    if wrong {
        Err(Malformed::Value("name"))
    } else {
        Ok(name.to_vec())
    }
}

fn put_origins(out: &mut Writer, origins: &[(LayerId, NodeNumber)]) {
    out.count(origins.len());
    for (layer, number) in origins {
        out.raw(&layer.0);
        out.u64(*number);
    }
}

fn take_origins(from: &mut Reader<'_>) -> Result<Vec<(LayerId, NodeNumber)>, Malformed> {
    let count = from.count(16, "origins")?;
    (0..count)
        .map(|_| Ok((LayerId(from.array("origin")?), from.u64("origin")?)))
        .collect()
}

fn take_ranges(from: &mut Reader<'_>) -> Result<Vec<(u64, u64)>, Malformed> {
    let count = from.count(16, "ranges")?;
    (0..count)
        .map(|_| {
            let (start, end) = (from.u64("range")?, take_size(from, "range")?);
            if start < end {
                Ok((start, end))
            } else {
                Err(Malformed::Value("range"))
            }
        })
        .collect()
}
