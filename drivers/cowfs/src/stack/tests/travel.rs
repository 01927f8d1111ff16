//! A writable layer goes to another machine while it is used, and whatever breaks on the way.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::testing::Dice;
use crate::writable::disk::Disk;
use crate::writable::disk::simulated::{Fault, Image, Moment, Simulated, Step};
use crate::writable::travel::tests::{files, journey, journey_to, receive_on};
use crate::writable::travel::{Arrival, Arrived, Ledgers, Refusal, Sending, TravelError};

fn lower() -> MemoryLayer {
    MemoryLayer::new(b"template")
        .file("etc/conf", &[b'o'; 9000])
        .file("bin/perl", b"#!perl")
}

/// A guest's work, in three parts between which the layer may travel.
const PARTS: usize = 3;

fn work(world: &World, part: usize) {
    match part {
        0 => {
            for n in 0..12 {
                let name = format!("file-{n}");
                world.create(&name);
                world.write(&name, 0, &[n + 1; 5000], Stability::Unstable);
            }
            world.create("long");
            world.write("long", 0, &[b'l'; 20_000], Stability::FileSync);
            // A hole between.
            world.write("long", 3_000_000, b"end", Stability::FileSync);
            world.write("etc/conf", 4000, b"changed", Stability::FileSync);
            world.stack.save("kept").expect("saving");
        }
        1 => {
            // In the middle of what has been sent, over its end, and gone.
            world.write("long", 5000, &[b'm'; 4096], Stability::Unstable);
            world.write("file-1", 4990, &[b'n'; 500], Stability::Unstable);
            world.remove("file-2").expect("removing");
            world.rename("file-3", "renamed").expect("renaming");
            world
                .set(
                    "file-4",
                    &SetAttr {
                        size: Some(10),
                        ..SetAttr::default()
                    },
                )
                .expect("cutting");
            world.stack.delete_saved("kept").expect("deleting");
            world.stack.save("kept").expect("saving");
        }
        _ => {
            world.write("long", 5100, b"again", Stability::Unstable);
            world.create("latest");
            world.write("latest", 0, b"inline", Stability::FileSync);
            world.stack.compact().expect("compacting");
            world.write("file-5", 0, b"after", Stability::Unstable);
        }
    }
}

fn arrival(dir: &Path) -> Arrival {
    Arrival {
        staging: dir.join("arriving"),
        place: dir.join("place"),
        bytes_max: None,
    }
}

/// A round to a receiver of this machine.
fn round(world: &World, to: &Path, ledgers: &Ledgers, last: bool) -> Result<(u64, Arrived), TravelError> {
    let send = |sending: &mut Sending<'_>| world.stack.embark(sending);
    journey(send, &[arrival(to)], ledgers, last)
}

#[test]
fn what_has_arrived_is_equal_and_its_handles_are_good() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ledgers = Ledgers::default();
    let source = world(here.path(), 3, &[&lower()]);
    let mut sent = Vec::new();
    for part in 0..PARTS {
        work(&source, part);
        sent.push(
            round(&source, there.path(), &ledgers, part == PARTS - 1)
                .unwrap()
                .0,
        );
    }
    assert_eq!(
        files(&Disk::Host, here.path(), true),
        files(&Disk::Host, &there.path().join("arriving"), true)
    );
    let (handle, tree) = (source.handle("renamed"), source.tree());
    let arrived = world(&there.path().join("arriving"), 4, &[&lower()]);
    assert_eq!(arrived.tree(), tree);
    assert_eq!(arrived.read_handle(&handle).unwrap(), [4; 5000]);
    assert_eq!(arrived.stack.saved().unwrap().len(), 1);
    drop(arrived);
    let report = crate::fsck::fsck(&there.path().join("arriving")).unwrap();
    assert_eq!(report.problems, Vec::<crate::fsck::Problem>::new());
    // Holes are not sent, and what was there is not sent again.
    assert!(sent[0] < 150_000 && sent[2] < 60_000, "{sent:?}");
}

#[test]
fn a_round_with_nothing_new_costs_nothing() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ledgers = Ledgers::default();
    let source = world(here.path(), 1, &[&lower()]);
    work(&source, 0);
    let first = round(&source, there.path(), &ledgers, false).unwrap().0;
    let again = round(&source, there.path(), &ledgers, false).unwrap().0;
    assert!(again < 500, "{again} after {first}");
    // The same if the receiver has forgotten what it knew: it looks through its files.
    let looked = round(&source, there.path(), &Ledgers::default(), true).unwrap().0;
    assert!(looked < 500, "{looked}");
    assert_eq!(
        files(&Disk::Host, here.path(), true),
        files(&Disk::Host, &there.path().join("arriving"), true)
    );
}

/// What was sent stays as it is, although the guest writes to the same files.
#[test]
fn sealed_content_is_not_written_in_place() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = world(here.path(), 1, &[&lower()]);
    work(&source, 0);
    round(&source, there.path(), &Ledgers::default(), false).unwrap();
    let before = files(&Disk::Host, here.path(), false);
    work(&source, 1);
    let after = files(&Disk::Host, here.path(), false);
    for (name, bytes) in before.iter().filter(|(name, _)| name.contains("content")) {
        assert!(after.get(name).is_none_or(|now| now == bytes), "{name}");
    }
}

/// An old copy from before the layer went away saves what is the same; a newer one is never replaced.
#[test]
fn old_copies_help_and_newer_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::create_dir(&b).unwrap();
    let first = world(&a, 1, &[&lower()]);
    work(&first, 0);
    let (there, _) = round(&first, &b, &Ledgers::default(), true).unwrap();
    drop(first);
    std::fs::rename(b.join("arriving"), b.join("place")).unwrap();
    let second = world(&b.join("place"), 2, &[&lower()]);
    work(&second, 1);
    // Back again: the first copy is of an older epoch.
    let back = Arrival {
        staging: dir.path().join("arriving"),
        place: a.clone(),
        bytes_max: None,
    };
    let send = |sending: &mut Sending<'_>| second.stack.embark(sending);
    let (bytes, _) = journey(send, std::slice::from_ref(&back), &Ledgers::default(), true).unwrap();
    assert!(bytes < there / 2, "{bytes} back, {there} there");
    assert_eq!(
        files(&Disk::Host, &b.join("place"), true),
        files(&Disk::Host, &back.staging, true)
    );
    // The other way round it is not taken: this end has the newer one.
    let third = world(&a, 1, &[&lower()]);
    let refused = round(&third, &b, &Ledgers::default(), true);
    let open = matches!(
        &refused,
        Err(TravelError::Refused {
            why: Refusal::Open,
            ..
        })
    );
    assert!(open, "{refused:?}");
    drop(second);
    let refused = round(&third, &b, &Ledgers::default(), true);
    let newer = matches!(
        &refused,
        Err(TravelError::Refused {
            why: Refusal::Newer,
            ..
        })
    );
    assert!(newer, "{refused:?}");
}

#[test]
fn what_is_not_expected_or_too_much_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = world(here.path(), 1, &[&lower()]);
    work(&source, 0);
    let refusal = |arrivals: &[Arrival], layers: usize| {
        let (near, far) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let receiving =
                scope.spawn(move || crate::writable::travel::receive(&far, arrivals, &Ledgers::default()));
            let sent = Sending::begin(&near, layers, true).and_then(|mut sending| {
                (0..layers).try_for_each(|_| source.stack.embark(&mut sending))?;
                sending.finish()
            });
            drop(near);
            assert!(receiving.join().unwrap().is_err());
            match sent {
                Err(TravelError::Refused { why, .. }) => why,
                other => panic!("{other:?}"),
            }
        })
    };
    let one = arrival(there.path());
    assert_eq!(refusal(&[one.clone(), one.clone()], 1), Refusal::Layers);
    assert_eq!(refusal(&[], 1), Refusal::Layers);
    let small = Arrival {
        bytes_max: Some(30_000),
        ..one
    };
    assert_eq!(refusal(&[small], 1), Refusal::NoRoom);
    assert!(refusal(&[arrival(&there.path().join("not/there"))], 1) == Refusal::Disk);
}

/// A stream that ends after so many bytes.
struct Cut<'a> {
    stream: UnixStream,
    left: &'a Cell<usize>,
}

impl Cut<'_> {
    fn allow(&self, wanted: usize) -> io::Result<usize> {
        match self.left.get().min(wanted) {
            0 if wanted > 0 => Err(io::ErrorKind::BrokenPipe.into()),
            some => Ok(some),
        }
    }
}

impl Read for Cut<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = self.allow(buf.len())?;
        let got = self.stream.read(&mut buf[..most])?;
        self.left.set(self.left.get() - got);
        Ok(got)
    }
}

impl Write for Cut<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self.allow(bytes.len())?;
        let wrote = self.stream.write(&bytes[..most])?;
        self.left.set(self.left.get() - wrote);
        Ok(wrote)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_round_that_is_cut_off_anywhere_loses_nothing() {
    let here = tempfile::tempdir().unwrap();
    let source = world(here.path(), 1, &[&lower()]);
    work(&source, 0);
    // Its bytes and what was taken of them; the receiver is over a file system in memory.
    let cut_at = |most: usize, there: &Simulated, ledgers: &Ledgers| {
        let (near, far) = UnixStream::pair().unwrap();
        let left = Cell::new(most);
        let there = Disk::Simulated(there.clone());
        let whole = std::thread::scope(|scope| {
            let receiving = scope.spawn(move || {
                let arrived = receive_on(&there, &far, &[arrival(Path::new("/"))], ledgers)?;
                let told = (&far).write_all(&crate::writable::travel::in_place());
                told.map_err(TravelError::Stream)?;
                Ok::<_, TravelError>(arrived)
            });
            let stream = Cut {
                stream: near,
                left: &left,
            };
            let sent = Sending::begin(stream, 1, true).and_then(|mut sending| {
                source.stack.embark(&mut sending)?;
                sending.finish()
            });
            let _broken_off = receiving.join().unwrap();
            sent.is_ok()
        });
        (whole, most - left.get())
    };
    let (whole, bytes) = cut_at(usize::MAX, &Simulated::default(), &Ledgers::default());
    assert!(whole);
    let expected = files(&Disk::Host, here.path(), true);
    let cuts = (0..150)
        .chain((150..bytes).step_by(bytes / 60))
        .chain(bytes - 60..bytes);
    for cut in cuts {
        let (there, ledgers) = (Simulated::default(), Ledgers::default());
        let (whole, _) = cut_at(cut, &there, &ledgers);
        assert!(!whole, "{cut} of {bytes}");
        let (_, again) = cut_at(usize::MAX, &there, &ledgers);
        let names = 200 * expected.len();
        assert!(
            again < bytes - cut + names + 70_000,
            "{cut} of {bytes}: {again} again"
        );
        let found = files(&Disk::Simulated(there), Path::new("/arriving"), true);
        assert_eq!(found, expected, "{cut} of {bytes}");
    }
}

/// A round to a file system in memory.
fn round_to(
    world: &World,
    disk: &Simulated,
    ledgers: &Ledgers,
    last: bool,
) -> Result<(u64, Arrived), TravelError> {
    let send = |sending: &mut Sending<'_>| world.stack.embark(sending);
    journey_to(
        &Disk::Simulated(disk.clone()),
        send,
        &[arrival(Path::new("/"))],
        ledgers,
        last,
    )
}

#[test]
fn a_crash_of_the_receiver_leaves_the_whole_once_it_was_said_to_be_there() {
    let here = tempfile::tempdir().unwrap();
    let source = world(here.path(), 1, &[&lower()]);
    let (disk, ledgers) = (Simulated::default(), Ledgers::default());
    work(&source, 0);
    round_to(&source, &disk, &ledgers, false).unwrap();
    work(&source, 1);
    round_to(&source, &disk, &ledgers, true).unwrap();
    disk.mark(0);
    // What it was said to hold then; afterwards nothing changes any more.
    let expected = files(&Disk::Host, here.path(), true);
    let (recording, base) = (disk.recording(), Image::default());
    let mut dice = Dice::new(1);
    let (mut whole, mut again) = (0, 0);
    for len in 0..=recording.len() {
        let moment = Moment::new(&base, &recording, len);
        let said = recording[..len].contains(&Step::Mark(0));
        let ways = moment.ways().unwrap_or(u64::MAX);
        let numbers = [
            0,
            ways - 1,
            dice.below(usize::try_from(ways.min(1 << 40)).unwrap()) as u64,
        ];
        for number in numbers {
            let crashed = Simulated::holding(moment.image(&moment.way(number)));
            if said {
                let found = files(&Disk::Simulated(crashed), Path::new("/arriving"), true);
                assert_eq!(found, expected, "way {number} after {len} steps");
                whole += 1;
            } else if dice.one_in(8) {
                // Whatever is left, the next round makes it whole.
                round_to(&source, &crashed, &Ledgers::default(), true)
                    .unwrap_or_else(|error| panic!("way {number} after {len} steps: {error}"));
                let found = files(&Disk::Simulated(crashed), Path::new("/arriving"), true);
                assert_eq!(found, expected, "way {number} after {len} steps, and again");
                again += 1;
            }
        }
    }
    assert!(whole >= 3 && again > 20, "{whole} whole, {again} again");
}

#[test]
fn a_receiver_whose_disk_fails_anywhere_says_so_and_goes_on_later() {
    let here = tempfile::tempdir().unwrap();
    let source = world(here.path(), 1, &[&lower()]);
    work(&source, 0);
    let expected = files(&Disk::Host, here.path(), true);
    for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::IO] {
        let mut after = 0;
        loop {
            let (disk, ledgers) = (Simulated::default(), Ledgers::default());
            disk.fail(Some(Fault {
                after,
                for_ever: after % 2 == 0,
                errno,
            }));
            let outcome = round_to(&source, &disk, &ledgers, true);
            if disk.failed() == 0 {
                outcome.unwrap();
                break;
            }
            match outcome {
                Err(TravelError::Refused { why, .. }) => {
                    let no_room = errno == rustix::io::Errno::NOSPC;
                    assert_eq!(
                        why == Refusal::NoRoom,
                        no_room,
                        "{errno:?} after {after}: {why:?}"
                    );
                }
                other => panic!("{errno:?} after {after}: {other:?}"),
            }
            disk.fail(None);
            round_to(&source, &disk, &ledgers, true).unwrap();
            let found = files(&Disk::Simulated(disk), Path::new("/arriving"), true);
            assert_eq!(found, expected, "{errno:?} after {after}");
            after += 1;
        }
        assert!(after > 30, "{after}");
    }
}

#[test]
fn a_receiver_without_room_says_so_before_it_takes_anything() {
    let here = tempfile::tempdir().unwrap();
    let source = world(here.path(), 1, &[&lower()]);
    work(&source, 0);
    let disk = Simulated::default();
    disk.hold_at_most(Some(50_000));
    let refused = round_to(&source, &disk, &Ledgers::default(), true);
    let full = matches!(
        &refused,
        Err(TravelError::Refused {
            why: Refusal::NoRoom,
            ..
        })
    );
    assert!(full, "{refused:?}");
    assert!(disk.used() < 100, "{}", disk.used());
}
