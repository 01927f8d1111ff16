//! Messages between the two ends: `length 4 | kind 1 | payload`, little-endian, every length bounded before anything is
//! read.

use std::io::{self, Read, Write};

use super::super::codec::{Malformed, Reader, Writer};
use super::described::{BLOCK, Hash};
use super::name::Name;
use super::{Refusal, TravelError};
use crate::layer::LayerId;

/// What a stream begins with.
const MAGIC: &[u8; 8] = b"xenotrav";
/// The version spoken; the one end refuses another's.
pub(super) const VERSION: u32 = 1;
/// Bytes of one message.
const MESSAGE_MAX: usize = BLOCK + 256;
/// Bytes kept before they are written.
const BUFFER: usize = 256 << 10;
/// Hashes of blocks in one message.
pub(super) const HASHES_MAX: usize = (MESSAGE_MAX - 64) / 40;
/// Layers in one journey.
pub(super) const LAYERS_MAX: u32 = 64;
/// Bytes of a reason.
const TEXT_MAX: usize = 400;
/// Longest file: what off_t holds.
const LEN_MAX: u64 = if cfg!(test) { 4 << 20 } else { i64::MAX as u64 };

/// What travels of one layer, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heading {
    pub(super) layer: LayerId,
    /// The highest epoch that it was open under.
    pub(super) epoch: u64,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The sender begins.
    Hello { layers: u32, last: bool },
    /// The next layer.
    Layer(Heading),
    /// The receiver has this much of it: what it had after the round that this token was given for, or anything.
    Here(Option<Token>),
    /// The sender remembers that round (it was the last one), and goes on from there.
    Known,
    /// It does not: the receiver says what it has, file by file.
    Unknown,
    /// The receiver has a file, with so many blocks that are not all zeros, whose hashes follow.
    Have { name: Name, len: u64, blocks: u64 },
    /// Hashes of blocks of the file named last.
    Hashes(Vec<(u64, Hash)>),
    /// That was all it has.
    HaveAll,
    /// The sender is about to send this many bytes of content.
    Coming(u64),
    /// A file is not part of the layer any more.
    Drop(Name),
    /// A file, anew or as it is there but for what follows.
    File { name: Name, len: u64, anew: bool },
    /// A block of it, from this byte of the block on: what is before stays as it is.
    Block { index: u64, from: u64, bytes: Vec<u8> },
    /// A block of it that is all zeros now.
    Zero(u64),
    /// The file is whole and holds this.
    FileEnd(Hash),
    /// The layer is whole and holds this many files and this.
    Commit { files: u64, digest: Hash },
    /// It is durable here; the token stands for it.
    Done(Token),
    /// All layers have arrived, and are in their place.
    InPlace,
    /// The end that says it does not go on.
    Refused(Refusal, String),
}

/// Names a round that the receiver has whole.
pub(super) type Token = [u8; 16];

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Layer(_) => 2,
            Self::Here(_) => 3,
            Self::Known => 4,
            Self::Unknown => 5,
            Self::Have { .. } => 6,
            Self::Hashes(_) => 7,
            Self::HaveAll => 8,
            Self::Coming(_) => 9,
            Self::Drop(_) => 10,
            Self::File { .. } => 11,
            Self::Block { .. } => 12,
            Self::Zero(_) => 13,
            Self::FileEnd(_) => 14,
            Self::Commit { .. } => 15,
            Self::Done(_) => 16,
            Self::InPlace => 17,
            Self::Refused(..) => 18,
        }
    }

    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Hello { layers, last } => {
                out.raw(MAGIC);
                out.u32(VERSION);
                out.u32(*layers);
                out.u8(u8::from(*last));
            }
            Self::Layer(heading) => {
                out.raw(&heading.layer.0);
                out.u64(heading.epoch);
            }
            Self::Here(token) => {
                out.u8(u8::from(token.is_some()));
                out.raw(&token.unwrap_or_default());
            }
            Self::Known | Self::Unknown | Self::HaveAll | Self::InPlace => {}
            Self::Have { name, len, blocks } => {
                name.encode(out);
                out.u64(*len);
                out.u64(*blocks);
            }
            Self::Hashes(hashes) => {
                out.count(hashes.len());
                for (index, hash) in hashes {
                    out.u64(*index);
                    out.raw(hash);
                }
            }
            Self::Coming(bytes) => out.u64(*bytes),
            Self::Drop(name) => name.encode(out),
            Self::File { name, len, anew } => {
                name.encode(out);
                out.u64(*len);
                out.u8(u8::from(*anew));
            }
            Self::Block { index, from, bytes } => {
                out.u64(*index);
                out.u64(*from);
                out.raw(bytes);
            }
            Self::Zero(index) => out.u64(*index),
            Self::FileEnd(digest) => out.raw(digest),
            Self::Commit { files, digest } => {
                out.u64(*files);
                out.raw(digest);
            }
            Self::Done(token) => out.raw(token),
            Self::Refused(why, text) => {
                out.u8(why.number());
                let mut text = text.as_str();
                while text.len() > TEXT_MAX {
                    text = text.char_indices().next_back().map_or("", |(at, _)| &text[..at]);
                }
                out.string(text.as_bytes());
            }
        }
    }

    fn decode(kind: u8, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let message = match kind {
            1 => {
                if from.raw(8, "magic")? != MAGIC {
                    return Err(Malformed::Value("magic"));
                }
                if from.u32("version")? != VERSION {
                    return Err(Malformed::Value("version"));
                }
                let layers = from.u32("layers")?;
                if layers > LAYERS_MAX {
                    return Err(Malformed::Value("layers"));
                }
                Self::Hello {
                    layers,
                    last: flag(&mut from)?,
                }
            }
            2 => Self::Layer(Heading {
                layer: LayerId(from.array("layer")?),
                epoch: from.u64("epoch")?,
            }),
            3 => {
                let known = flag(&mut from)?;
                let token = from.array("token")?;
                Self::Here(known.then_some(token))
            }
            4 => Self::Known,
            5 => Self::Unknown,
            6 => Self::Have {
                name: Name::decode(&mut from)?,
                len: length(&mut from)?,
                blocks: from.u64("blocks")?,
            },
            7 => {
                let count = from.count(40, "hashes")?;
                let mut hashes = Vec::with_capacity(count);
                for _ in 0..count {
                    hashes.push((from.u64("block")?, from.array("hash")?));
                }
                Self::Hashes(hashes)
            }
            8 => Self::HaveAll,
            9 => Self::Coming(from.u64("bytes")?),
            10 => Self::Drop(Name::decode(&mut from)?),
            11 => Self::File {
                name: Name::decode(&mut from)?,
                len: length(&mut from)?,
                anew: flag(&mut from)?,
            },
            12 => {
                let (index, start) = (from.u64("block")?, from.u64("block")?);
                let rest = bytes.len() - from.position();
                Self::Block {
                    index,
                    from: start,
                    bytes: from.raw(rest, "block")?.to_vec(),
                }
            }
            13 => Self::Zero(from.u64("block")?),
            14 => Self::FileEnd(from.array("digest")?),
            15 => Self::Commit {
                files: from.u64("files")?,
                digest: from.array("digest")?,
            },
            16 => Self::Done(from.array("token")?),
            17 => Self::InPlace,
            18 => {
                let why = Refusal::of_number(from.u8("reason")?).ok_or(Malformed::Value("reason"))?;
                let text = from.string("reason")?;
                if text.len() > TEXT_MAX {
                    return Err(Malformed::Value("reason"));
                }
                // It is shown to people: nothing in it may move their cursor.
                let text = String::from_utf8_lossy(text);
                let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
                Self::Refused(why, plain.collect())
            }
            _ => return Err(Malformed::Value("kind of message")),
        };
        from.done()?;
        Ok(message)
    }
}

fn flag(from: &mut Reader<'_>) -> Result<bool, Malformed> {
    match from.u8("flag")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed::Value("flag")),
    }
}

fn length(from: &mut Reader<'_>) -> Result<u64, Malformed> {
    let len = from.u64("length")?;
    if len > LEN_MAX {
        return Err(Malformed::Value("length"));
    }
    Ok(len)
}

/// The bytes of a message.
pub(super) fn framed(message: &Message) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(0);
    out.u8(message.kind());
    message.encode(&mut out);
    let len = u32::try_from(out.bytes.len() - 5).unwrap_or(u32::MAX);
    out.bytes[..4].copy_from_slice(&len.to_le_bytes());
    out.bytes
}

/// One end of a stream.
pub(super) struct Wire<S> {
    stream: S,
    out: Vec<u8>,
    /// Bytes given to the stream.
    pub(super) sent: u64,
}

impl<S: Read + Write> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            out: Vec::new(),
            sent: 0,
        }
    }

    /// Says something; it goes out with what follows, or when an answer is waited for.
    pub(super) fn say(&mut self, message: &Message) -> Result<(), TravelError> {
        self.out.extend_from_slice(&framed(message));
        if self.out.len() >= BUFFER {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Lets go of all that was said.
    pub(super) fn flush(&mut self) -> Result<(), TravelError> {
        let written = self
            .stream
            .write_all(&self.out)
            .and_then(|()| self.stream.flush());
        self.sent = self
            .sent
            .saturating_add(super::super::log::as_u64(self.out.len()));
        self.out.clear();
        match written {
            Ok(()) => Ok(()),
            // The other end may have said why it left.
            Err(error) => match self.read() {
                Ok(Message::Refused(why, text)) => Err(TravelError::Refused { why, text }),
                _ => Err(TravelError::Stream(error)),
            },
        }
    }

    /// The next message of the other end.
    pub(super) fn hear(&mut self) -> Result<Message, TravelError> {
        if !self.out.is_empty() {
            self.flush()?;
        }
        match self.read()? {
            Message::Refused(why, text) => Err(TravelError::Refused { why, text }),
            message => Ok(message),
        }
    }

    fn read(&mut self) -> Result<Message, TravelError> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).map_err(TravelError::Stream)?;
        let [a, b, c, d, kind] = head;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if len > MESSAGE_MAX {
            return Err(TravelError::Malformed("a message is too long".to_owned()));
        }
        let mut payload = vec![0; len];
        self.stream
            .read_exact(&mut payload)
            .map_err(TravelError::Stream)?;
        Message::decode(kind, &payload).map_err(|error| TravelError::Malformed(error.to_string()))
    }

    /// Tells the other end, if it still listens, why this one leaves.
    pub(super) fn refuse(&mut self, why: Refusal, text: String) {
        self.out.clear();
        let told: io::Result<()> = self
            .stream
            .write_all(&framed(&Message::Refused(why, text)))
            .and_then(|()| self.stream.flush());
        // Where it does not, the end of the stream says enough.
        let _told = told;
    }
}
