//! Layers that travel.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::super::disk::Disk;
use super::super::disk::simulated::Simulated;
use super::super::extents::ContentId;
use super::super::log::as_u64;
use super::super::replay::replay;
use super::super::saved::pinned;
use super::super::{Meta, Options, Writable, known_content};
use super::described::BLOCK;
use super::name::{self, Name};
pub(crate) use super::receive::receive_on;
use super::wire::{Message, framed};
use super::*;
use crate::testing::Dice;

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

/// A stream that says what was recorded, whatever it is told.
struct Recorded {
    says: io::Cursor<Vec<u8>>,
    heard: Vec<u8>,
}

impl Recorded {
    fn saying(bytes: Vec<u8>) -> Self {
        Self {
            says: io::Cursor::new(bytes),
            heard: Vec::new(),
        }
    }
}

impl io::Read for Recorded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.says.read(buf)
    }
}

impl io::Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A layer with a few files.
fn small_layer(dir: &Path) -> Writable {
    Writable::create_if_missing(dir).expect("making a layer");
    let mut writable = Writable::open(dir, 1, Options::default()).expect("opening it");
    writable.save("kept").expect("a checkpoint");
    for number in 10..14 {
        let id = ContentId { number, epoch: 1 };
        let file = writable.content.create(id).expect("a file");
        let bytes = vec![1; 3 * BLOCK / 2];
        file.write_all_at(&bytes, u64::from(number == 12) * 5 * as_u64(BLOCK))
            .expect("writing");
    }
    writable
}

fn arrival() -> Arrival {
    Arrival {
        staging: PathBuf::from("/staging"),
        place: PathBuf::from("/place"),
        bytes_max: Some(1 << 20),
    }
}

/// What the sender of a whole round says, message by message, to a receiver that has nothing.
fn said(layer: &Writable) -> Vec<Vec<u8>> {
    let answers = [
        Message::Here(None),
        Message::HaveAll,
        Message::Done([0; 16]),
        Message::InPlace,
    ];
    let mut recorded = Recorded::saying(answers.iter().flat_map(framed).collect());
    let mut sending = Sending::begin(&mut recorded, 1, true).expect("it begins");
    let ashore = Ashore::of(layer).expect("a layer");
    ashore.send(&mut sending).expect("it goes");
    sending.finish().expect("it ends");
    let mut left = recorded.heard.as_slice();
    let mut messages = Vec::new();
    while let Some(head) = left.first_chunk::<4>() {
        let len = 5 + usize::try_from(u32::from_le_bytes(*head)).expect("it fits");
        messages.push(left[..len].to_vec());
        left = &left[len..];
    }
    messages
}

fn hear(messages: &[Vec<u8>]) -> (Result<Arrived, TravelError>, Simulated) {
    let disk = Simulated::default();
    let mut stream = Recorded::saying(messages.concat());
    let on = Disk::Simulated(disk.clone());
    (
        receive_on(&on, &mut stream, &[arrival()], &Ledgers::default()),
        disk,
    )
}

/// Whatever comes, nothing is touched but the directory aside, and little is kept of it.
fn is_harmless(disk: &Simulated) {
    let on = Disk::Simulated(disk.clone());
    let names = on.list(Path::new("/")).expect("listing");
    assert!(names.iter().all(|name| name == "staging"), "{names:?}");
    assert!(disk.used() < 32 << 20, "{}", disk.used());
    if !names.is_empty() {
        for name in on.list(Path::new("/staging")).expect("listing") {
            let known = ["layer.json", "log", "content", "checkpoints", "lock", ".round"];
            assert!(known.iter().any(|known| name == *known), "{name:?}");
        }
    }
}

#[test]
fn a_receiver_bears_whatever_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let layer = small_layer(dir.path());
    let messages = said(&layer);
    assert!(messages.len() > 15, "{}", messages.len());
    let (whole, disk) = hear(&messages);
    assert!(whole.expect("it arrives").last);
    is_harmless(&disk);
    let mut dice = Dice::new(7);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..1500 {
        let mut messages = messages.clone();
        for _ in 0..=dice.below(2) {
            let at = dice.below(messages.len());
            let other = dice.below(messages.len());
            match dice.below(8) {
                0 => drop(messages.remove(at)),
                1 => messages.swap(at, other),
                2 => {
                    let again = messages[other].clone();
                    messages.insert(at, again);
                }
                3 => {
                    // A number that is very large, somewhere in it.
                    let message = &mut messages[at];
                    let from = dice.below(message.len());
                    let end = message.len().min(from + 8);
                    message[from..end].fill(0xff);
                }
                4 => {
                    let len = messages[at].len();
                    messages[at].truncate(dice.below(len));
                }
                5 => messages.truncate(at + 1),
                _ => {
                    let message = &mut messages[at];
                    let byte = dice.below(message.len().min(40));
                    message[byte] ^= 1 << dice.below(8);
                }
            }
            if messages.is_empty() {
                break;
            }
        }
        let (heard, disk) = hear(&messages);
        is_harmless(&disk);
        match heard {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    // Some orders are as good as others, and some files may come twice.
    assert!(
        refused > 700 && taken < refused,
        "{taken} taken, {refused} refused"
    );
}

#[test]
fn names_that_no_layer_has_are_refused() {
    let check = |message: &Message| {
        let dir = tempfile::tempdir().expect("a directory");
        let mut messages = said(&small_layer(dir.path()));
        messages.insert(4, framed(message));
        let (heard, disk) = hear(&messages);
        assert!(matches!(heard, Err(TravelError::Malformed(_))), "{heard:?}");
        is_harmless(&disk);
    };
    for bad in ["..", ".", "", "a/b", "../../x", ".hidden", "a\0b"] {
        check(&Message::Drop(Name::State(bad.to_owned())));
        check(&Message::File {
            name: Name::Manifest(bad.to_owned()),
            len: 1,
            anew: true,
        });
    }
    check(&Message::File {
        name: Name::Meta,
        len: u64::MAX,
        anew: true,
    });
    check(&Message::Block {
        index: 0,
        from: 0,
        bytes: vec![1],
    });
    check(&Message::InPlace);
}

#[test]
fn a_sender_bears_whatever_it_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let layer = small_layer(dir.path());
    let name = Name::Content(ContentId { number: 10, epoch: 1 });
    let answers = [
        Message::Here(None),
        Message::Have {
            name,
            len: 9000,
            blocks: 2,
        },
        Message::Hashes(vec![(0, [1; 32]), (1, [2; 32])]),
        Message::HaveAll,
        Message::Done([0; 16]),
        Message::InPlace,
    ];
    let answers: Vec<Vec<u8>> = answers.iter().map(framed).collect();
    let send = |says: Vec<u8>| {
        let mut sending = Sending::begin(Recorded::saying(says), 1, true)?;
        Ashore::of(&layer)?.send(&mut sending)?;
        sending.finish()
    };
    send(answers.concat()).expect("it goes");
    let mut dice = Dice::new(11);
    for _ in 0..2000 {
        let mut says = answers.concat();
        for _ in 0..=dice.below(3) {
            let at = dice.below(says.len());
            says[at] ^= 1 << dice.below(8);
        }
        if dice.one_in(4) {
            says.truncate(dice.below(says.len()));
        }
        // It goes or it does not; it neither panics nor takes what it is not given.
        let _outcome = send(says);
    }
}
