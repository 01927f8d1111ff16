//! Layers that travel.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::super::disk::Disk;
use super::super::replay::replay;
use super::super::saved::pinned;
use super::super::{Meta, known_content};
use super::name::{self, Name};
pub(crate) use super::receive::receive_on;
use super::*;

/// The files of a layer that travel, by their paths; of content only what its log knows, where `known` says so.
pub(crate) fn files(disk: &Disk, dir: &Path, known: bool) -> BTreeMap<String, Vec<u8>> {
    let (names, _others) = name::list(disk, dir).expect("listing");
    let content = known.then(|| {
        let meta = Meta::read(disk, dir).expect("reading").expect("a layer");
        let state = replay(disk, dir, &meta).expect("replaying").state;
        let pinned = pinned(disk, dir, &state).expect("reading checkpoints");
        let mut known = known_content(&state);
        known.extend(pinned);
        known
    });
    let counts = |name: &Name| match (name, &content) {
        (Name::Content(id), Some(content)) => content.contains(id),
        _ => true,
    };
    let counting = names.into_iter().filter(counts);
    let read = |name: Name| {
        let path = name.path(dir);
        let bytes = disk.read(&path).expect("reading");
        let path = path.strip_prefix(dir).expect("below").display().to_string();
        (path, bytes)
    };
    counting.map(read).collect()
}

/// A round: the one end sends, the other receives and puts what has come in its place. Returns the bytes sent, and what has
/// arrived.
pub(crate) fn journey(
    send: impl FnOnce(&mut Sending<'_>) -> Result<(), TravelError>,
    arrivals: &[Arrival],
    ledgers: &Ledgers,
    last: bool,
) -> Result<(u64, Arrived), TravelError> {
    journey_to(&Disk::Host, send, arrivals, ledgers, last)
}

pub(crate) fn journey_to(
    disk: &Disk,
    send: impl FnOnce(&mut Sending<'_>) -> Result<(), TravelError>,
    arrivals: &[Arrival],
    ledgers: &Ledgers,
    last: bool,
) -> Result<(u64, Arrived), TravelError> {
    let (here, there) = UnixStream::pair().expect("a pair");
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            let received = receive_on(disk, &there, arrivals, ledgers)?;
            let mut there = &there;
            io::Write::write_all(&mut there, &in_place()).map_err(TravelError::Stream)?;
            Ok(received)
        });
        let sent = Sending::begin(&here, arrivals.len(), last).and_then(|mut sending| {
            send(&mut sending)?;
            sending.finish()
        });
        drop(here);
        let received: Result<Arrived, TravelError> = receiving.join().expect("it does not panic");
        Ok((sent?, received?))
    })
}
