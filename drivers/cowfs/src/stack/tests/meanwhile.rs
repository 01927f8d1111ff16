//! What goes on while the log is made short and checkpoints come and go.

use super::*;
use crate::testing::Dice;

const ROUNDS: usize = 250;

/// One client with a file of its own, and what should be in it.
struct Client<'a> {
    world: &'a World,
    name: String,
    dice: Dice,
    bytes: Vec<u8>,
    made: usize,
}

impl Client<'_> {
    fn set_size(&mut self, size: usize) {
        let set = SetAttr {
            size: Some(size as u64),
            ..SetAttr::default()
        };
        self.world.set(&self.name, &set).expect("setattr");
        self.bytes.resize(size, 0);
    }

    fn write(&mut self, len: usize, stability: Stability) {
        let at = self.dice.below(9000);
        let value = u8::try_from(1 + self.dice.below(250)).expect("it fits");
        let end = at + len;
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[at..end].fill(value);
        self.world
            .write(&self.name, at as u64, &vec![value; len], stability);
    }

    fn step(&mut self) {
        match self.dice.below(12) {
            0..4 => {
                let len = 1 + self.dice.below(900);
                self.write(len, Stability::FileSync);
            }
            4..7 => {
                let len = 1 + self.dice.below(7000);
                self.write(len, Stability::Unstable);
            }
            7 => {
                let handle = self.world.handle(&self.name);
                self.world
                    .stack
                    .commit(&self.world.root, &handle)
                    .expect("commit");
            }
            8 | 9 => {
                let size = self.dice.below(9000);
                self.set_size(size);
            }
            10 => {
                let other = format!("{}-{}", self.name.split('-').next().expect("a name"), self.made);
                self.world.rename(&self.name, &other).expect("rename");
                self.name = other;
                self.made += 1;
            }
            _ => {
                self.world.remove(&self.name).expect("remove");
                self.world.create(&self.name);
                self.bytes.clear();
            }
        }
        assert_eq!(self.world.read(&self.name), self.bytes, "{}", self.name);
    }
}

#[test]
fn everybody_goes_on_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let lower = MemoryLayer::new(b"template").file("etc/conf", &[b'o'; 9000]);
    let before = world(dir.path(), 1, &[&lower]);
    // What is written once and never again has to be moved as well.
    for n in 0..40_u8 {
        before.create(&format!("old{n}"));
        before.write(&format!("old{n}"), 0, &[n; 300], Stability::FileSync);
    }
    let stop = AtomicBool::new(false);
    let mut shown = std::thread::scope(|threads| {
        let over = AtTheEnd(&stop);
        let shaping = threads.spawn(|| {
            let mut rounds = 0_u32;
            while !stop.load(Ordering::Acquire) || rounds < 4 {
                match before.stack.compact() {
                    // Somebody's own call is at it.
                    Ok(()) | Err(Status::Jukebox) => {}
                    Err(status) => panic!("making the log short: {status}"),
                }
                before.stack.save("moment").expect("a checkpoint");
                before.stack.delete_saved("moment").expect("removing it");
                rounds += 1;
            }
            rounds
        });
        let clients: Vec<_> = (0..3)
            .map(|seed| {
                let world = &before;
                threads.spawn(move || {
                    let name = format!("client{seed}-0");
                    world.create(&name);
                    let mut client = Client {
                        world,
                        name,
                        dice: Dice::new(seed),
                        bytes: Vec::new(),
                        made: 1,
                    };
                    (0..ROUNDS).for_each(|_| client.step());
                    (client.name, client.bytes)
                })
            })
            .collect();
        let shown: Vec<_> = clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .collect();
        drop(over);
        assert!(shaping.join().expect("making the log short") >= 4);
        shown
    });
    shown.extend((0..40_u8).map(|n| (format!("old{n}"), vec![n; 300])));
    let tree = before.tree();
    before.stack.flush_all().expect("flushing");
    drop(before);
    let report = crate::fsck::fsck(dir.path()).expect("checking");
    assert_eq!(report.problems, Vec::<crate::fsck::Problem>::new());
    let after = world(dir.path(), 2, &[&lower]);
    assert_eq!(after.tree(), tree);
    for (name, bytes) in shown {
        assert_eq!(after.read(&name), bytes, "{name}");
    }
}

#[test]
fn a_file_is_written_on_after_its_checkpoint_has_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[]);
    before.create("f");
    before.write("f", 0, &[1; 100], Stability::Unstable);
    before.stack.save("moment").expect("a checkpoint");
    // The log holds all of it now; the file that held it is kept for the checkpoint alone.
    before.write("f", 0, &[2; 100], Stability::FileSync);
    before.stack.delete_saved("moment").expect("removing it");
    before.write("f", 50, &[3; 6000], Stability::Unstable);
    let written = [&[2; 50][..], &[3; 6000]].concat();
    assert_eq!(before.read("f"), written);
    before.stack.flush_all().expect("flushing");
    drop(before);
    assert_eq!(world(dir.path(), 2, &[]).read("f"), written);
}

#[test]
fn a_checkpoint_holds_what_was_there_at_its_moment() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = world(dir.path(), 1, &[]);
    before.create("f");
    before.write("f", 0, &[1; 6000], Stability::Unstable);
    before.write("f", 6000, &[2; 100], Stability::FileSync);
    before.create("gone");
    before.write("gone", 0, &[3; 6000], Stability::Unstable);
    let tree = before.tree();
    before.stack.save("moment").expect("a checkpoint");
    before.write("f", 100, &[9; 7000], Stability::Unstable);
    before.remove("gone").expect("remove");
    before.stack.compact().expect("making the log short");
    before.stack.flush_all().expect("flushing");
    drop(before);
    let back = Writable::open_as_last(dir.path())
        .expect("opening")
        .restore("moment");
    drop(back.expect("going back"));
    let after = world(dir.path(), 2, &[]);
    assert_eq!(after.tree(), tree);
    assert_eq!(after.read("f"), [&[1; 6000][..], &[2; 100]].concat());
    assert_eq!(after.read("gone"), [3; 6000]);
}
