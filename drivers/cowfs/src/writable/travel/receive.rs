//! The end that gets the layer: keeps what comes in a directory aside, and touches nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::super::Meta;
use super::super::disk::{Disk, DiskFile, Lock, Mode};
use super::super::log::as_u64;
use super::described::{BLOCK, Described, block_len, each_block};
use super::ground::{lock, old_copy, refuses, remove_if_there, sync_all};
use super::ledger::{Ledger, Ledgers, Round};
use super::name::{self, Name};
use super::send::file_error;
use super::wire::{HASHES_MAX, Heading, Message, Token, Wire};
use super::{Refusal, TravelError};

/// Most files of a layer. The server that opens it takes some 450 bytes of memory for each.
pub(super) const FILES_MAX: usize = 8 << 20;
/// Most blocks of a layer that hold something: 16 TiB.
pub(super) const BLOCKS_MAX: u64 = 16 << 20;
/// Longest `layer.json`.
const META_MAX: u64 = 4096;
/// Written between two looks for room.
const LOOK_EVERY: u64 = 64 << 20;
/// Room left to others on the disk.
const ROOM_LEFT: u64 = if cfg!(test) { 0 } else { 64 << 20 };
/// So many files are synced one by one; more with everything else on their file system.
const SYNCED_EACH: usize = 128;
/// Says which round the directory is as it was left after. Not part of a layer.
const ROUND: &str = ".round";

/// Where a layer arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The directory that it is kept in meanwhile; its parent is there. What an earlier round has left there is gone on
    /// from.
    pub staging: PathBuf,
    /// Its place, where an old copy of it may be. Nothing there is changed.
    pub place: PathBuf,
    /// Most bytes that its files may hold.
    pub bytes_max: Option<u64>,
}

/// What a round has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Whether it was a last one: what is kept aside is whole and durable, and can take its place.
    pub last: bool,
    /// Bytes of content written.
    pub bytes: u64,
}

/// Receives a round. Afterwards, and when what has arrived is in its place, the sender is told so with
/// [`super::in_place`].
///
/// # Errors
/// [`TravelError`]; the sender has been told, and what has arrived is kept for the next round.
pub fn receive(
    stream: impl Read + Write,
    arrivals: &[Arrival],
    ledgers: &Ledgers,
) -> Result<Arrived, TravelError> {
    receive_on(&Disk::Host, stream, arrivals, ledgers)
}

pub(crate) fn receive_on(
    disk: &Disk,
    stream: impl Read + Write,
    arrivals: &[Arrival],
    ledgers: &Ledgers,
) -> Result<Arrived, TravelError> {
    let mut wire = Wire::new(stream);
    let received = receive_all(disk, &mut wire, arrivals, ledgers);
    if let Err(error) = &received
        && let Some((why, text)) = error.told()
    {
        wire.refuse(why, text);
    }
    received
}

fn receive_all<S: Read + Write>(
    disk: &Disk,
    wire: &mut Wire<S>,
    arrivals: &[Arrival],
    ledgers: &Ledgers,
) -> Result<Arrived, TravelError> {
    let Message::Hello { layers, last } = wire.hear()? else {
        return Err(malformed("it does not begin as it should"));
    };
    if usize::try_from(layers).ok() != Some(arrivals.len()) {
        let text = format!("{layers} layers come, and {} are expected", arrivals.len());
        return Err(refuses(Refusal::Layers, text));
    }
    let mut bytes = 0_u64;
    for arrival in arrivals {
        let mut receiver = Receiver::begin(disk, wire, arrival, ledgers)?;
        receiver.round(wire)?;
        let token = receiver.end(last, ledgers)?;
        bytes = bytes.saturating_add(receiver.written);
        wire.say(&Message::Done(token))?;
    }
    wire.flush()?;
    Ok(Arrived { last, bytes })
}

struct Receiver<'a> {
    disk: &'a Disk,
    dir: &'a Path,
    heading: Heading,
    ledger: Ledger,
    bytes_max: Option<u64>,
    /// Bytes of all blocks.
    held: u64,
    blocks: u64,
    written: u64,
    /// When to look for room again.
    look_at: u64,
    dirty: BTreeSet<Name>,
    folders: BTreeSet<PathBuf>,
    /// Whether anything may not be on disk, and not only those.
    unsure: bool,
    /// Begun before anything was written, so that no failure of the disk escapes it.
    barrier: super::super::disk::Barrier,
    _locks: [Option<Lock>; 2],
}

impl<'a> Receiver<'a> {
    /// Agrees with the sender on what is here already.
    fn begin<S: Read + Write>(
        disk: &'a Disk,
        wire: &mut Wire<S>,
        arrival: &'a Arrival,
        ledgers: &Ledgers,
    ) -> Result<Self, TravelError> {
        let Message::Layer(heading) = wire.hear()? else {
            return Err(malformed("a layer should come"));
        };
        let dir = arrival.staging.as_path();
        let at = file_error(dir);
        match disk.make_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(error)),
            _ => {}
        }
        let staging_lock = lock(disk, dir)?;
        let (old, place_lock) = old_copy(disk, &arrival.place, &heading)?;
        let remembered = ledgers.take(dir).filter(|round| {
            let same = round.layer == heading.layer;
            same && disk
                .read(&dir.join(ROUND))
                .is_ok_and(|token| token == round.token)
        });
        let mut here = Self {
            disk,
            dir,
            heading,
            ledger: Ledger::default(),
            bytes_max: arrival.bytes_max,
            held: 0,
            blocks: 0,
            written: 0,
            look_at: 0,
            dirty: BTreeSet::new(),
            folders: BTreeSet::new(),
            unsure: false,
            barrier: disk.begin_sync(dir).map_err(&at)?,
            _locks: [Some(staging_lock), place_lock],
        };
        remove_if_there(disk, &dir.join(ROUND))?;
        let token = remembered.as_ref().map(|round| round.token);
        wire.say(&Message::Here(token))?;
        match (wire.hear()?, remembered) {
            (Message::Known, Some(round)) => {
                here.ledger = round.ledger;
                here.count()?;
            }
            (Message::Unknown, _) => {
                here.look_through(old.then_some(arrival.place.as_path()))?;
                here.tell(wire)?;
            }
            _ => return Err(malformed("it remembers what was not")),
        }
        Ok(here)
    }

    /// Finds out what the directory holds; an empty one is filled from an old copy of the layer.
    fn look_through(&mut self, old: Option<&Path>) -> Result<(), TravelError> {
        let (disk, dir) = (self.disk, self.dir);
        self.unsure = true;
        let (mut names, others) = name::list(disk, dir).map_err(file_error(dir))?;
        for other in others {
            remove_if_there(disk, &other)?;
        }
        // What is of another layer, or cannot tell, is nothing to go on from.
        let ours =
            Meta::read(disk, dir).is_ok_and(|meta| meta.is_none_or(|meta| meta.layer == self.heading.layer));
        if !ours {
            for name in names.drain(..) {
                remove_if_there(disk, &name.path(dir))?;
            }
        }
        if let Some(old) = old.filter(|_| names.is_empty()) {
            let (there, _others) = name::list(disk, old).map_err(file_error(old))?;
            for name in there {
                let from = name.path(old);
                let read = disk.open(&from, Mode::Read).map_err(file_error(&from))?;
                let len = read.len().map_err(file_error(&from))?;
                let (path, file) = self.open_anew(&name)?;
                file.set_len(len).map_err(file_error(&path))?;
                let block = as_u64(BLOCK);
                let copied = each_block(&read, 0, len, &mut |index, bytes| {
                    file.write_all_at(bytes, index * block)
                });
                copied.map_err(file_error(&path))?;
                self.look_for_room(len)?;
                names.push(name);
            }
        }
        for name in names {
            let path = name.path(dir);
            let file = disk.open(&path, Mode::Read).map_err(file_error(&path))?;
            let len = file.len().map_err(file_error(&path))?;
            let described = Described::read(&file, len).map_err(file_error(&path))?;
            self.ledger.files.insert(name, described);
        }
        self.count()
    }

    /// Counts anew what is held.
    fn count(&mut self) -> Result<(), TravelError> {
        let files = self.ledger.files.values();
        let (held, blocks) = files.fold((0_u64, 0_u64), |(bytes, blocks), file| {
            (
                bytes.saturating_add(file.bytes()),
                blocks.saturating_add(as_u64(file.blocks.len())),
            )
        });
        (self.held, self.blocks) = (held, blocks);
        if blocks > BLOCKS_MAX || self.ledger.files.len() > FILES_MAX {
            return Err(malformed("it holds too much"));
        }
        Ok(())
    }

    fn tell<S: Read + Write>(&self, wire: &mut Wire<S>) -> Result<(), TravelError> {
        for (name, file) in &self.ledger.files {
            wire.say(&Message::Have {
                name: name.clone(),
                len: file.len,
                blocks: as_u64(file.blocks.len()),
            })?;
            for part in file.blocks.chunks(HASHES_MAX) {
                wire.say(&Message::Hashes(part.to_vec()))?;
            }
        }
        wire.say(&Message::HaveAll)
    }

    /// Takes what comes, until the sender says that it is whole and it is.
    fn round<S: Read + Write>(&mut self, wire: &mut Wire<S>) -> Result<(), TravelError> {
        loop {
            match wire.hear()? {
                Message::Coming(bytes) => self.check_room(bytes)?,
                Message::Drop(name) => {
                    let path = name.path(self.dir);
                    if let Some(gone) = self.ledger.files.remove(&name) {
                        self.discount(&gone);
                        remove_if_there(self.disk, &path)?;
                        self.folders.extend(path.parent().map(Path::to_path_buf));
                    }
                    self.dirty.remove(&name);
                }
                Message::File { name, len, anew } => self.file(wire, name, len, anew)?,
                Message::Commit { files, digest } => {
                    let same = files == as_u64(self.ledger.files.len()) && digest == self.ledger.digest();
                    return if same {
                        Ok(())
                    } else {
                        Err(malformed("what has arrived is not what was sent"))
                    };
                }
                _ => return Err(malformed("a message came that does not belong there")),
            }
        }
    }

    fn file<S: Read + Write>(
        &mut self,
        wire: &mut Wire<S>,
        name: Name,
        len: u64,
        anew: bool,
    ) -> Result<(), TravelError> {
        if name == Name::Meta && len > META_MAX {
            return Err(malformed("the layer's own file is too long"));
        }
        let before = self.ledger.files.remove(&name);
        if let Some(before) = &before {
            self.discount(before);
        } else if self.ledger.files.len() >= FILES_MAX {
            return Err(malformed("too many files"));
        }
        let (path, file, before) = match before.filter(|_| !anew) {
            Some(before) => {
                let path = name.path(self.dir);
                let file = self
                    .disk
                    .open(&path, Mode::ReadWrite)
                    .map_err(file_error(&path))?;
                (path, file, before)
            }
            None if anew => {
                let (path, file) = self.open_anew(&name)?;
                (path, file, Described::default())
            }
            None => return Err(malformed("a file that is not here goes on")),
        };
        let at = file_error(&path);
        let mut blocks: BTreeMap<u64, _> = before.blocks.into_iter().collect();
        if before.len != len {
            blocks.retain(|index, _| block_len(*index, len).is_some());
            file.set_len(len).map_err(&at)?;
        }
        let start = |index: u64| index * as_u64(BLOCK);
        loop {
            match wire.hear()? {
                Message::Block { index, from, bytes } => {
                    let before = usize::try_from(from).unwrap_or(usize::MAX);
                    if block_len(index, len) != before.checked_add(bytes.len()) {
                        return Err(malformed("a block lies outside of its file"));
                    }
                    if as_u64(blocks.len()).saturating_add(self.blocks) >= BLOCKS_MAX {
                        return Err(malformed("it holds too much"));
                    }
                    file.write_all_at(&bytes, start(index).saturating_add(from))
                        .map_err(&at)?;
                    let mut whole = vec![0; before];
                    file.read_exact_at(&mut whole, start(index)).map_err(&at)?;
                    whole.extend_from_slice(&bytes);
                    blocks.insert(index, *blake3::hash(&whole).as_bytes());
                    let held = as_u64(blocks.len()).saturating_mul(as_u64(BLOCK)).min(len);
                    self.check_bytes(held)?;
                    self.look_for_room(as_u64(bytes.len()))?;
                }
                Message::Zero(index) => {
                    let count =
                        block_len(index, len).ok_or_else(|| malformed("a block lies outside of its file"))?;
                    blocks.remove(&index);
                    file.write_all_at(&vec![0; count], start(index)).map_err(&at)?;
                    self.look_for_room(as_u64(count))?;
                }
                Message::FileEnd(digest) => {
                    let described = Described {
                        len,
                        blocks: blocks.into_iter().collect(),
                    };
                    if described.digest(&name) != digest {
                        return Err(malformed("a file did not arrive as it was sent"));
                    }
                    self.held = self.held.saturating_add(described.bytes());
                    self.blocks = self.blocks.saturating_add(as_u64(described.blocks.len()));
                    self.dirty.insert(name.clone());
                    self.ledger.files.insert(name, described);
                    return Ok(());
                }
                _ => return Err(malformed("a message came that does not belong there")),
            }
        }
    }

    /// Makes a file, or empties it.
    fn open_anew(&mut self, name: &Name) -> Result<(PathBuf, DiskFile), TravelError> {
        let path = name.path(self.dir);
        let open = || self.disk.open(&path, Mode::Truncate);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for folder in [path.parent().and_then(Path::parent), path.parent()]
                    .into_iter()
                    .flatten()
                {
                    // The directory itself is there, and all that is made is below it.
                    if folder.starts_with(self.dir) && folder != self.dir {
                        match self.disk.make_dir(folder) {
                            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                                return Err(file_error(folder)(error));
                            }
                            _ => {}
                        }
                    }
                }
                open()
            }
            opened => opened,
        };
        let mut above = path.parent();
        while let Some(folder) = above.filter(|folder| folder.starts_with(self.dir)) {
            self.folders.insert(folder.to_path_buf());
            above = folder.parent();
        }
        let file = file.map_err(file_error(&path))?;
        Ok((path, file))
    }

    fn discount(&mut self, gone: &Described) {
        self.held = self.held.saturating_sub(gone.bytes());
        self.blocks = self.blocks.saturating_sub(as_u64(gone.blocks.len()));
    }

    /// Refuses what goes beyond the quota, `more` being what the file holds that is on its way.
    fn check_bytes(&self, more: u64) -> Result<(), TravelError> {
        match self.bytes_max {
            Some(most) if self.held.saturating_add(more) > most => Err(refuses(
                Refusal::NoRoom,
                format!("the layer may have {most} bytes here, and holds more"),
            )),
            _ => Ok(()),
        }
    }

    fn check_room(&self, bytes: u64) -> Result<(), TravelError> {
        let space = self.disk.space(self.dir).map_err(file_error(self.dir))?;
        if bytes.saturating_add(ROOM_LEFT) > space.free {
            let text = format!(
                "no space left on device: {bytes} bytes come, {} are free, and {ROOM_LEFT} are kept free for others",
                space.free
            );
            return Err(refuses(Refusal::NoRoom, text));
        }
        Ok(())
    }

    /// Counts what was written, and looks now and then whether others have room left.
    fn look_for_room(&mut self, written: u64) -> Result<(), TravelError> {
        self.written = self.written.saturating_add(written);
        if self.written >= self.look_at {
            self.look_at = self.written.saturating_add(LOOK_EVERY);
            self.check_room(0)?;
        }
        Ok(())
    }

    /// Makes it durable, and remembers it.
    fn end(&mut self, last: bool, ledgers: &Ledgers) -> Result<Token, TravelError> {
        let (disk, dir) = (self.disk, self.dir);
        let at = file_error(dir);
        let meta = Meta::read(disk, dir).map_err(|_| malformed("it is no layer"))?;
        if meta.is_none_or(|meta| meta.layer != self.heading.layer) {
            return Err(malformed("it is not the layer it was said to be"));
        }
        if self.unsure || self.dirty.len() > SYNCED_EACH {
            self.barrier.complete(disk).map_err(&at)?;
        } else {
            let files = self.dirty.iter().map(|name| (name.path(dir), false));
            let folders = self.folders.iter().map(|folder| (folder.clone(), true));
            sync_all(disk, &files.chain(folders).collect::<Vec<_>>())?;
        }
        if let Some(parent) = dir.parent() {
            match disk.sync_dir(parent) {
                // It is somebody else's, who sees to it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced.map_err(file_error(parent))?,
            }
        }
        let mut token = Token::default();
        disk.random(&mut token).map_err(&at)?;
        if !last {
            let path = dir.join(ROUND);
            let noted = disk
                .open(&path, Mode::Truncate)
                .and_then(|file| file.write_all_at(&token, 0));
            noted.map_err(file_error(&path))?;
            let ledger = std::mem::take(&mut self.ledger);
            let layer = self.heading.layer;
            ledgers.put(dir, Round { layer, token, ledger });
        }
        Ok(token)
    }
}

fn malformed(what: &str) -> TravelError {
    TravelError::Malformed(what.to_owned())
}
