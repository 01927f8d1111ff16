//! Calls that fail: each call of each story once, and every call from there on.
//!
//! Whatever fails, the client hears what it is, nothing that was promised is lost, and what can go on does: once there is
//! room again writing works again; after a sync that failed nothing more is promised until the layer is opened anew, and
//! reading goes on.

use rustix::io::Errno;

use super::explore::{check_any, choose, report};
use super::stories::named;
use super::*;
use crate::writable::disk::simulated::{Fault, Moment};

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    runs: u64,
    /// Calls that failed.
    faults: u64,
    /// Runs in which the layer took no more changes until it was opened anew.
    failed: u64,
}

/// What a client hears of the cause.
fn told_as(errno: Errno) -> Status {
    match errno {
        Errno::NOSPC => Status::NoSpc,
        Errno::DQUOT => Status::DQuot,
        Errno::ROFS => Status::RoFs,
        _ => Status::Io,
    }
}

/// A server that meets a fault, and what is known of its layer.
struct Run<'a> {
    server: Server,
    known: Facts,
    fault: Fault,
    dice: Dice,
    /// What the client heard.
    heard: Vec<Result<(), Status>>,
    tried: &'a mut Tried,
}

impl Run<'_> {
    fn step(&mut self, step: &Do) -> Result<(), String> {
        if let Do::Restore(name) = step
            && !self.known.holds(name)
        {
            return Ok(());
        }
        if step.is_restart() {
            let epoch = self.server.epoch + u64::from(matches!(step, Do::TakeOver | Do::HandOver));
            if self.server.start_over(step, epoch).is_err() {
                // Whoever looks after it starts it again, once the disk is well.
                self.mend();
                self.server.start_over(step, epoch)?;
            }
            // Perhaps without a last flush.
            let step = if let Do::Restore(_) = step {
                step
            } else {
                &Do::TakeOver
            };
            self.known = self.known.after(step, self.server.world());
            return Ok(());
        }
        let verifier = self.server.world().stack.write_verifier();
        let outcome = self.server.run(step);
        self.heard.push(outcome);
        if self.server.world().stack.write_verifier() != verifier {
            self.known = self.known.clone().with_another_verifier();
        }
        match outcome {
            Ok(()) => self.known = self.known.after(step, self.server.world()),
            Err(status) => {
                let because_of_others = [
                    Status::NoEnt,
                    Status::Exist,
                    Status::NotDir,
                    Status::NotEmpty,
                    Status::Inval,
                ];
                if status != told_as(self.fault.errno) && !because_of_others.contains(&status) {
                    return Err(format!("the client is told: {status}"));
                }
                let during = self.known.during(step);
                if self.server.world().stack.statistics().failed {
                    return self.after_a_failed_sync(step, during);
                }
                // Where there was no room to make it durable, it may show all the same.
                let full = matches!(status, Status::NoSpc | Status::DQuot);
                self.known = match during.check(self.server.world()) {
                    Ok(()) => during,
                    Err(_) if full => self.known.done(step, self.server.world())?,
                    Err(wrong) => return Err(wrong),
                };
            }
        }
        Ok(())
    }

    fn mend(&mut self) {
        self.tried.faults += self.server.disk.failed();
        self.server.disk.fail(None);
    }

    /// The layer promises nothing any more.
    fn after_a_failed_sync(&mut self, step: &Do, during: Facts) -> Result<(), String> {
        self.tried.failed += 1;
        self.mend();
        // Reading goes on, and shows the change or does not.
        let shown = self.known.after(step, self.server.world());
        for change in [Do::Mkdir("refused"), Do::Commit("etc/conf")] {
            // What was never changed has nothing to commit.
            let refused = self.server.run(&change);
            if refused != Err(Status::Io) && !(refused.is_ok() && matches!(change, Do::Commit(_))) {
                return Err(format!("{change:?} after a failed sync: {refused:?}"));
            }
        }
        // What was not synced may be gone, or some of it.
        let either = [during, shown];
        self.crash(&either)?;
        let epoch = self.server.epoch;
        self.server.restart(epoch)?;
        let known = check_any(&either, self.server.world())?;
        self.known = known.after(&Do::Restart, self.server.world());
        Ok(())
    }

    /// A few of the states that a crash now could leave.
    fn crash(&mut self, candidates: &[Facts]) -> Result<(), String> {
        let (base, recording) = (Image::default(), self.server.disk.recording());
        let moment = Moment::new(&base, &recording, recording.len());
        for fates in choose(&moment, 3, &mut self.dice) {
            let image = moment.image(&fates);
            Server::fsck(&Simulated::holding(image.clone()))?;
            let server = Server::start(image, self.server.epoch)?;
            check_any(candidates, server.world()).map_err(|wrong| format!("after a crash: {wrong}"))?;
        }
        Ok(())
    }

    /// The disk is well: so is the service.
    fn end(&mut self) -> Result<(), String> {
        self.mend();
        let probe = Do::Write("etc/conf", 0, 6000, b'!', Stability::FileSync);
        let done = self.server.run(&probe);
        done.map_err(|status| format!("writing once the disk is well: {status}"))?;
        self.known = self.known.after(&probe, self.server.world());
        let known = self.known.clone();
        self.crash(std::slice::from_ref(&known))?;
        let epoch = self.server.epoch;
        self.server.restart(epoch)?;
        self.known.check(self.server.world())
    }
}

/// Runs a story with a fault; says whether it came to pass.
fn run(name: &str, story: &[Do], fault: Fault, tried: &mut Tried) -> bool {
    let server = Server::start(Image::default(), 1).expect("a new layer");
    let known = Facts::first(server.world());
    let mut run = Run {
        server,
        known,
        fault,
        dice: Dice::new(fault.after),
        heard: Vec::new(),
        tried,
    };
    run.server.disk.fail(Some(fault));
    for (number, step) in story.iter().enumerate() {
        let done = run.step(step);
        done.unwrap_or_else(|wrong| {
            panic!(
                "{name}, {fault:?}, step {number} {step:?}: {wrong}, heard {:?}",
                run.heard
            )
        });
    }
    let (before, now) = (run.tried.faults, run.server.disk.failed());
    let done = run.end();
    done.unwrap_or_else(|wrong| panic!("{name}, {fault:?}, at the end: {wrong}, heard {:?}", run.heard));
    run.tried.runs += 1;
    now > 0 || run.tried.faults > before
}

/// Every call of every story fails once, and from there on for ever, in this way: one in so many, but every one in a
/// thorough run.
fn every_call_fails(errno: Errno, once: usize, ever: usize) {
    let thorough = std::env::var_os("XENO_COWFS_CRASHES").is_some();
    let (once, ever) = if thorough { (1, 1) } else { (once, ever) };
    let mut tried = Tried::default();
    for (name, story) in named() {
        for for_ever in [false, true] {
            for after in (0..).step_by(if for_ever { ever } else { once }) {
                let fault = Fault {
                    after,
                    for_ever,
                    errno,
                };
                let faults = tried.faults;
                run(name, &story, fault, &mut tried);
                if tried.faults == faults {
                    break;
                }
            }
        }
    }
    report(&format!("{errno:?}"), format_args!("{tried:?}"));
    assert!(tried.runs > 100 && tried.faults >= tried.runs, "{tried:?}");
}

#[test]
fn a_full_disk_at_every_call() {
    every_call_fails(Errno::NOSPC, 1, 6);
}

#[test]
fn a_quota_of_the_disk_at_every_call() {
    every_call_fails(Errno::DQUOT, 4, 9);
}

#[test]
fn a_broken_disk_at_every_call() {
    every_call_fails(Errno::IO, 1, 4);
}

#[test]
fn a_disk_that_becomes_read_only_at_every_call() {
    every_call_fails(Errno::ROFS, 4, 9);
}

#[test]
fn a_full_disk_leaves_nothing_half_done() {
    let mut server = Server::start(Image::default(), 1).expect("a new layer");
    let tree = server.world().tree();
    server.disk.fail(Some(Fault {
        after: 0,
        for_ever: true,
        errno: Errno::NOSPC,
    }));
    for step in [
        Do::Remove("bin/perl"),
        Do::Rename("usr/lib", "lib"),
        Do::Mkdir("x"),
    ] {
        assert_eq!(server.run(&step), Err(Status::NoSpc), "{step:?}");
    }
    assert_eq!(server.world().tree(), tree);
    server.disk.fail(None);
    assert_eq!(server.run(&Do::Mkdir("x")), Ok(()), "there is space again");
    let tree = server.world().tree();
    server.restart(1).expect("it opens again");
    assert_eq!(server.world().tree(), tree);
}

#[test]
fn a_disk_that_guests_have_filled_takes_removals() {
    let mut server = Server::start(Image::default(), 1).expect("a new layer");
    assert_eq!(server.run(&Do::Mkdir("d")), Ok(()));
    for name in ["a", "b", "c"] {
        assert_eq!(server.run(&Do::Create(name)), Ok(()));
        assert_eq!(
            server.run(&Do::Write(name, 0, 6000, 1, Stability::FileSync)),
            Ok(())
        );
    }
    // Twice, since what was drawn upon is there again once there is room.
    for [first, second] in [["a", "bin/perl"], ["b", "etc/conf"]] {
        let disk = server.disk.clone();
        disk.hold_at_most(Some(disk.used()));
        assert_eq!(server.run(&Do::Mkdir("x")), Err(Status::NoSpc), "it is full");
        assert_eq!(server.run(&Do::Size("c", 100)), Ok(()), "cutting gives room");
        assert_eq!(server.run(&Do::Remove(second)), Ok(()), "removing what is below");
        assert_eq!(server.run(&Do::Remove(first)), Ok(()));
        disk.hold_at_most(Some(disk.used() + (16 << 10)));
        assert_eq!(
            server.run(&Do::Write("c", 0, 5000, 2, Stability::FileSync)),
            Ok(())
        );
        disk.hold_at_most(None);
    }
    let tree = server.world().tree();
    Server::fsck(&server.disk).expect("it is whole");
    server.restart(1).expect("it opens again");
    assert_eq!(server.world().tree(), tree);
}

/// As on a file system of another machine: writing succeeds, and that there is no room shows when it is to be durable.
#[test]
fn a_full_disk_that_says_so_late_loses_nothing_that_was_promised() {
    let mut server = Server::start(Image::default(), 1).expect("a new layer");
    for name in ["a", "b"] {
        assert_eq!(server.run(&Do::Create(name)), Ok(()));
    }
    let kept = Do::Write("a", 0, 6000, 1, Stability::FileSync);
    assert_eq!(server.run(&kept), Ok(()));
    let disk = server.disk.clone();
    let unstable = Do::Write("b", 0, 6000, 2, Stability::Unstable);
    let promised = |server: &Server| {
        assert_eq!(server.world().read("a"), [1; 6000]);
        assert!(!server.world().stack.statistics().failed, "it recovers by itself");
    };
    for round in 0..2 {
        disk.hold_on_disk_at_most(disk.used() + 1000);
        let verifier = server.world().stack.write_verifier();
        assert_eq!(server.run(&unstable), Ok(()), "nobody knows better yet");
        assert_eq!(server.run(&Do::Commit("b")), Err(Status::NoSpc));
        let told = server.world().stack.write_verifier();
        assert_ne!(told, verifier, "it is to be written again");
        // The disk has forgotten it; so asking again succeeds, and says that it is to be written again.
        disk.hold_at_most(None);
        assert_eq!(server.run(&Do::Commit("b")), Ok(()));
        assert_eq!(server.world().stack.write_verifier(), told);

        // Names and small stable writes go to the log.
        disk.hold_on_disk_at_most(disk.used());
        let small = Do::Write("b", 0, 500, 3, Stability::FileSync);
        assert_eq!(server.run(&Do::Mkdir("d")), Err(Status::NoSpc));
        assert_eq!(server.run(&small), Err(Status::NoSpc));
        assert_eq!(server.run(&Do::Mkdir("e")), Err(Status::NoSpc), "and again");
        let seen = server.world().tree();
        assert_eq!(server.run(&Do::Compact), Err(Status::NoSpc));
        promised(&server);

        if round == 0 {
            // Removing makes room, with the room that is kept for that.
            assert_eq!(server.run(&Do::Remove("bin/perl")), Ok(()));
            assert_eq!(server.run(&Do::Remove("b")), Ok(()));
            assert_eq!(server.run(&Do::Create("b")), Ok(()));
        } else {
            disk.hold_at_most(None);
            assert_eq!(server.run(&small), Ok(()));
            assert!(seen.contains_key("/d") && !seen.contains_key("/e"), "{seen:?}");
        }
        disk.hold_at_most(None);
        assert_eq!(server.run(&Do::Rmdir("d")), Ok(()), "what showed is there");
        promised(&server);
    }
    let tree = server.world().tree();
    Server::fsck(&disk).expect("it is whole");
    // After a crash: nothing but what was synced.
    let (base, recording) = (Image::default(), disk.recording());
    let moment = Moment::new(&base, &recording, recording.len());
    for fates in choose(&moment, 5, &mut Dice::new(7)) {
        let server = Server::start(moment.image(&fates), 1).expect("it opens after a crash");
        assert_eq!(server.world().tree(), tree);
        promised(&server);
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    let mut server = Server::start(Image::default(), 1).expect("a new layer");
    assert_eq!(
        server.run(&Do::Write("etc/conf", 0, 5000, 1, Stability::FileSync)),
        Ok(())
    );
    let world = server.world();
    let set = SetAttr::default();
    let made = world
        .stack
        .mkdir(&world.root, None, &world.handle(""), b"x", &set)
        .expect("mkdir");
    let fault = Fault {
        after: 0,
        for_ever: false,
        errno: Errno::IO,
    };
    server.disk.fail(Some(fault));
    assert_eq!(world.stack.settle(made.ticket), Err(Status::Io));
    server.disk.fail(None);
    assert_eq!(
        world.stack.settle(made.ticket),
        Err(Status::Io),
        "trying again would lie"
    );
    assert_eq!(world.mkdir("y").map(|_| ()), Err(Status::Io));
    assert_eq!(world.read("bin/perl"), b"#!perl");
    assert_eq!(
        world.read("etc/conf"),
        [1; 5000],
        "what was changed can be read too"
    );
    assert!(world.stack.statistics().failed);
}
