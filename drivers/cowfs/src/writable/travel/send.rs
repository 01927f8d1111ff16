//! The end that has the layer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::super::disk::{Disk, DiskFile, Lock, Mode};
use super::super::extents::ContentId;
use super::super::log::as_u64;
use super::super::segment::SegmentName;
use super::super::{Meta, WritableError, lock};
use super::TravelError;
use super::described::{BLOCK, Described, Hash, block_len, each_block};
use super::ledger::Ledger;
use super::name::{self, Name};
use super::receive::{BLOCKS_MAX, FILES_MAX};
use super::wire::{Heading, LAYERS_MAX, Message, Token, Wire};

/// A stream to the other end.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// A round of a journey, seen from the end that has the layers.
pub struct Sending<'a> {
    wire: Wire<Box<dyn Stream + 'a>>,
    last: bool,
}

/// What is remembered of the last whole round: of the same opening of a layer, since sealed files stay as they are only for
/// as long as it is open.
pub(crate) struct Sent {
    token: Token,
    ledger: Ledger,
    sealed: u64,
    log: Option<(SegmentName, u64)>,
    saved: BTreeMap<String, Hash>,
}

/// A layer, and what is known of its files.
pub(crate) struct Source<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) dir: &'a Path,
    pub(crate) heading: (crate::layer::LayerId, u64),
    /// What is known of a layer that is open; `None` for one that is closed: all its files stay as they are.
    pub(crate) open: Option<Open<'a>>,
    /// The last whole round.
    pub(crate) sent: Option<Sent>,
}

/// What is known of an open layer.
pub(crate) struct Open<'a> {
    /// Content files of lower numbers stay as they are.
    pub(crate) sealed: u64,
    /// The last segment of the log, and up to where it goes.
    pub(crate) log: (SegmentName, u64),
    /// The checkpoints that the log knows, with the digests of their manifests.
    pub(crate) saved: &'a BTreeMap<String, Hash>,
    /// The content files that count, of this number and higher.
    pub(crate) content_from: &'a dyn Fn(u64) -> BTreeSet<ContentId>,
}

/// What is to be done about files.
#[derive(Default)]
struct Work {
    /// To be looked at.
    changed: BTreeSet<Name>,
    /// Not there any more.
    dropped: Vec<Name>,
}

impl<'a> Sending<'a> {
    /// Begins a round of so many layers; a `last` one where nothing of them changes meanwhile.
    ///
    /// # Errors
    /// [`TravelError::Stream`].
    pub fn begin(stream: impl Read + Write + 'a, layers: usize, last: bool) -> Result<Self, TravelError> {
        let count = u32::try_from(layers).ok().filter(|&count| count <= LAYERS_MAX);
        let layers = count.ok_or_else(|| TravelError::Malformed("too many layers".to_owned()))?;
        let mut wire = Wire::new(Box::new(stream) as Box<dyn Stream + 'a>);
        wire.say(&Message::Hello { layers, last })?;
        Ok(Self { wire, last })
    }

    /// Whether it is a last one.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// Leaves, and tells the other end why.
    pub(crate) fn leave(mut self, why: &TravelError) {
        if let Some((why, text)) = why.told() {
            self.wire.refuse(why, text);
        }
    }

    /// Waits until all that was sent is in its place; returns how many bytes the round took.
    ///
    /// # Errors
    /// [`TravelError`]; then nothing there has changed that anybody would look at.
    pub fn finish(mut self) -> Result<u64, TravelError> {
        match self.wire.hear()? {
            Message::InPlace => Ok(self.wire.sent),
            _ => Err(unexpected()),
        }
    }

    /// Sends a layer; returns what to remember of it.
    pub(crate) fn layer(&mut self, mut source: Source<'_>) -> Result<Sent, TravelError> {
        let (layer, epoch) = source.heading;
        self.wire.say(&Message::Layer(Heading { layer, epoch }))?;
        let Message::Here(here) = self.wire.hear()? else {
            return Err(unexpected());
        };
        let remembered = source.sent.take().filter(|sent| Some(sent.token) == here);
        let listing = file_error(source.dir);
        let (mut ledger, work, trusted) = match remembered {
            Some(sent) => {
                self.wire.say(&Message::Known)?;
                let work = source.since(&sent, self.last).map_err(&listing)?;
                (sent.ledger, work, sent.log)
            }
            None => {
                self.wire.say(&Message::Unknown)?;
                let there = self.inventory()?;
                let changed = source.all().map_err(&listing)?;
                let dropped = there.files.keys().filter(|name| !changed.contains(name));
                let dropped = dropped.cloned().collect();
                (there, Work { changed, dropped }, None)
            }
        };
        self.wire
            .say(&Message::Coming(source.weight(&work.changed, &ledger)))?;
        for name in &work.dropped {
            if ledger.files.remove(name).is_some() {
                self.wire.say(&Message::Drop(name.clone()))?;
            }
        }
        for name in work.changed {
            let before = ledger.files.remove(&name);
            if let Some(now) = self.file(&source, &name, before, trusted)? {
                ledger.files.insert(name, now);
            }
        }
        self.wire.say(&Message::Commit {
            files: as_u64(ledger.files.len()),
            digest: ledger.digest(),
        })?;
        let Message::Done(token) = self.wire.hear()? else {
            return Err(unexpected());
        };
        Ok(Sent {
            token,
            ledger,
            sealed: source.open.as_ref().map_or(0, |open| open.sealed),
            log: source.open.as_ref().map(|open| open.log),
            saved: source.open.map(|open| open.saved.clone()).unwrap_or_default(),
        })
    }

    /// What the receiver says it has.
    fn inventory(&mut self) -> Result<Ledger, TravelError> {
        let mut ledger = Ledger::default();
        let mut held = 0_u64;
        loop {
            match self.wire.hear()? {
                Message::HaveAll => return Ok(ledger),
                Message::Have { name, len, blocks } => {
                    held = held.saturating_add(blocks);
                    if ledger.files.len() >= FILES_MAX || held > BLOCKS_MAX {
                        return Err(TravelError::Malformed("it has too much".to_owned()));
                    }
                    let mut described = Described {
                        len,
                        blocks: Vec::new(),
                    };
                    while as_u64(described.blocks.len()) < blocks {
                        let Message::Hashes(hashes) = self.wire.hear()? else {
                            return Err(unexpected());
                        };
                        if hashes.is_empty() {
                            return Err(unexpected());
                        }
                        for (index, hash) in hashes {
                            let ascends = described.blocks.last().is_none_or(|(last, _)| *last < index);
                            let room = as_u64(described.blocks.len()) < blocks;
                            if !ascends || !room || block_len(index, len).is_none() {
                                return Err(unexpected());
                            }
                            described.blocks.push((index, hash));
                        }
                    }
                    ledger.files.insert(name, described);
                }
                _ => return Err(unexpected()),
            }
        }
    }

    /// Sends of a file what the receiver does not have, if it is still there; returns what it holds.
    fn file(
        &mut self,
        source: &Source<'_>,
        name: &Name,
        before: Option<Described>,
        trusted: Option<(SegmentName, u64)>,
    ) -> Result<Option<Described>, TravelError> {
        let path = name.path(source.dir);
        let failed = file_error(&path);
        let file = match source.disk.open(&path, Mode::Read) {
            Ok(file) => file,
            // A guest has removed it since it was looked for.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.last => {
                if before.is_some() {
                    self.wire.say(&Message::Drop(name.clone()))?;
                }
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let len = source.len(name, &file).map_err(&failed)?;
        let anew = before.is_none();
        let before = before.unwrap_or_default();
        // A log is only added to: what the other end had of it stands.
        let kept = match (name, trusted) {
            (Name::Log(name), Some((log, end))) if *name == log => end.min(before.len).min(len),
            _ => 0,
        };
        let stands = kept / as_u64(BLOCK);
        let mut now = Described {
            len,
            blocks: before
                .blocks
                .iter()
                .take_while(|(index, _)| *index < stands)
                .copied()
                .collect(),
        };
        let mut begun = false;
        let mut old = before
            .blocks
            .iter()
            .map(|(index, _)| *index)
            .filter(|index| *index >= stands)
            .peekable();
        let wire = &mut self.wire;
        let mut begin = |wire: &mut Wire<Box<dyn Stream + 'a>>| {
            if begun {
                return Ok(());
            }
            begun = true;
            let name = name.clone();
            wire.say(&Message::File { name, len, anew })
        };
        if anew || before.len != len {
            begin(wire)?;
        }
        let mut trouble = None;
        let read = each_block(&file, stands, len, &mut |index, bytes| {
            let hash = *blake3::hash(bytes).as_bytes();
            let mut say = || {
                while let Some(gone) = old.next_if(|&old| old < index) {
                    begin(wire)?;
                    wire.say(&Message::Zero(gone))?;
                }
                old.next_if_eq(&index);
                if before.block(index) != Some(&hash) {
                    begin(wire)?;
                    let from = if index == stands { kept % as_u64(BLOCK) } else { 0 };
                    let rest = usize::try_from(from).ok().and_then(|from| bytes.get(from..));
                    let bytes = rest.unwrap_or_default().to_vec();
                    wire.say(&Message::Block { index, from, bytes })?;
                }
                Ok(())
            };
            if let Err(error) = say() {
                trouble = Some(error);
                return Err(io::ErrorKind::Interrupted.into());
            }
            now.blocks.push((index, hash));
            Ok(())
        });
        if let Some(error) = trouble {
            return Err(error);
        }
        read.map_err(&failed)?;
        for gone in old.filter(|&index| block_len(index, len).is_some()) {
            begin(wire)?;
            wire.say(&Message::Zero(gone))?;
        }
        if begun {
            wire.say(&Message::FileEnd(now.digest(name)))?;
        }
        Ok(Some(now))
    }
}

impl Source<'_> {
    /// Every file that counts.
    fn all(&self) -> io::Result<BTreeSet<Name>> {
        let (names, _others) = name::list(self.disk, self.dir)?;
        Ok(names.into_iter().filter(|name| self.counts(name)).collect())
    }

    fn counts(&self, name: &Name) -> bool {
        let Some(open) = &self.open else { return true };
        match name {
            Name::Meta => true,
            Name::Log(name) => *name <= open.log.0,
            Name::Manifest(name) | Name::State(name) => open.saved.contains_key(name),
            Name::Content(id) => id.number < open.sealed,
        }
    }

    /// What may differ from what was sent. In a last round content files that are gone are left alone: the next opening
    /// removes them, and nobody has to wait for a search.
    fn since(&self, sent: &Sent, last: bool) -> io::Result<Work> {
        let mut work = Work::default();
        let Some(open) = &self.open else {
            // Nothing is remembered of those.
            work.changed = self.all()?;
            return Ok(work);
        };
        let there = if last {
            let logs = name::list_log(self.disk, self.dir)?;
            let mut there: BTreeSet<Name> = logs.into_iter().filter(|name| self.counts(name)).collect();
            there.insert(Name::Meta);
            for name in open.saved.keys() {
                there.extend([Name::Manifest(name.clone()), Name::State(name.clone())]);
            }
            there.extend((open.content_from)(sent.sealed).into_iter().map(Name::Content));
            there
        } else {
            self.all()?
        };
        let stays = |name: &Name| there.contains(name) || last && matches!(name, Name::Content(_));
        let gone = |name: &&Name| !stays(name);
        work.dropped = sent.ledger.files.keys().filter(gone).cloned().collect();
        work.changed = there
            .into_iter()
            .filter(|name| {
                !sent.ledger.files.contains_key(name)
                    || match name {
                        Name::Meta => false,
                        Name::Log(log) => *log == open.log.0 || sent.log.is_none_or(|(last, _)| last == *log),
                        Name::Manifest(name) | Name::State(name) => {
                            sent.saved.get(name) != open.saved.get(name)
                        }
                        Name::Content(id) => id.number >= sent.sealed,
                    }
            })
            .collect();
        Ok(work)
    }

    /// About how many bytes the other end has to find room for.
    fn weight(&self, changed: &BTreeSet<Name>, there: &Ledger) -> u64 {
        let bytes = changed.iter().map(|name| {
            let has = there.files.get(name).map_or(0, Described::bytes);
            // What is gone by now takes none.
            let takes = self.disk.allocated(&name.path(self.dir)).unwrap_or(0);
            takes.saturating_sub(has)
        });
        bytes.fold(0, u64::saturating_add)
    }

    fn len(&self, name: &Name, file: &DiskFile) -> io::Result<u64> {
        match (&self.open, name) {
            (Some(open), Name::Log(log)) if *log == open.log.0 => Ok(open.log.1),
            _ => file.len(),
        }
    }
}

/// A layer that nobody has open, kept closed.
pub struct Ashore {
    disk: Disk,
    dir: PathBuf,
    meta: Meta,
    _lock: Option<Lock>,
}

impl Ashore {
    /// The layer in `dir`, locked so that nobody opens it meanwhile.
    ///
    /// # Errors
    /// [`WritableError`].
    pub fn lock(dir: &Path) -> Result<Self, TravelError> {
        Self::lock_on(&Disk::Host, dir)
    }

    pub(crate) fn lock_on(disk: &Disk, dir: &Path) -> Result<Self, TravelError> {
        let held = lock(disk, dir)?;
        Self::held(disk, dir, Some(held))
    }

    /// The same of a layer that the caller keeps open and still.
    pub(crate) fn of(writable: &super::super::Writable) -> Result<Self, TravelError> {
        Self::held(&writable.disk, &writable.path, None)
    }

    fn held(disk: &Disk, dir: &Path, held: Option<Lock>) -> Result<Self, TravelError> {
        let missing = || WritableError::Missing {
            path: dir.to_path_buf(),
        };
        Ok(Self {
            disk: disk.clone(),
            dir: dir.to_path_buf(),
            meta: Meta::read(disk, dir)?.ok_or_else(missing)?,
            _lock: held,
        })
    }

    /// Sends it.
    ///
    /// # Errors
    /// [`TravelError`].
    pub fn send(&self, sending: &mut Sending<'_>) -> Result<(), TravelError> {
        let epoch = name::epoch_seen(&self.disk, &self.dir).map_err(file_error(&self.dir))?;
        let source = Source {
            disk: &self.disk,
            dir: &self.dir,
            heading: (self.meta.layer, epoch),
            open: None,
            sent: None,
        };
        sending.layer(source).map(drop)
    }
}

fn unexpected() -> TravelError {
    TravelError::Malformed("a message came that does not belong there".to_owned())
}

pub(super) fn file_error(path: &Path) -> impl Fn(io::Error) -> TravelError + '_ {
    move |source| TravelError::File {
        path: path.to_path_buf(),
        source,
    }
}
