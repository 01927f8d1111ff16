//! A holder that is stopped, and goes on after another has taken over.
//!
//! The old holder is stopped before each call that it makes of the disk, in turn; another opens the layer under a later
//! epoch, without a lock to help; and the old one goes on as if nothing had happened. What it answered is there, and nothing
//! that it does afterwards is ever seen.

use std::sync::Mutex;

use super::explore::{check_any, report};
use super::stories::named;
use super::*;

const EPOCH: u64 = 1_000;

#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    takeovers: u64,
    /// Changes of the old holder that were refused afterwards.
    refused: u64,
}

/// Stops the old holder before its call number `after`; says whether it came to that.
fn run(story: &[Do], after: u64, tried: &mut Tried) -> Result<bool, String> {
    let mut old = Server::start(Image::default(), 1)?;
    let mut known = Facts::first(old.world());
    let taken: Arc<Mutex<Option<Result<Server, String>>>> = Arc::default();
    let (disk, slot) = (old.disk.another_process(), Arc::clone(&taken));
    old.disk.interrupt(after, move || {
        *slot.lock().expect("nobody panics") = Some(Server::start_on(disk, EPOCH));
    });
    let mut steps = story.iter();
    let mut new = None;
    for step in &mut steps {
        let done = old.run(step);
        if old.disk.is_waiting() {
            done.map_err(|status| format!("{step:?}: {status}"))?;
            known = known.after(step, old.world());
            continue;
        }
        let server = taken
            .lock()
            .expect("nobody panics")
            .take()
            .ok_or("nobody took over")??;
        let may = match done {
            // It was answered: so it is there.
            Ok(()) if reads(&old) => vec![known.after(step, old.world())],
            Ok(()) => vec![Facts::first(server.world())],
            Err(_) if old.world.is_none() || step.is_restart() => {
                let restored = if let Do::Restore(name) = step {
                    known.restored(name)
                } else {
                    None
                };
                [Some(known.clone()), restored].into_iter().flatten().collect()
            }
            // What it shows is no measure any more.
            Err(_) if !reads(&old) => vec![known.during(step), Facts::first(server.world())],
            Err(_) => [Ok(known.during(step)), known.done(step, old.world())]
                .into_iter()
                .flatten()
                .collect(),
        };
        let found = check_any(&may, server.world());
        known = found.map_err(|wrong| format!("{step:?} was {done:?}, and the new holder sees {wrong}"))?;
        new = Some(server);
        break;
    }
    let Some(mut new) = new else { return Ok(false) };
    tried.takeovers += 1;
    known = known.after(&Do::TakeOver, new.world());
    // Both go on, in turns.
    let mut mine = [
        Do::Create("of the new holder"),
        Do::Write("of the new holder", 0, 6000, 9, Stability::FileSync),
        Do::Write("etc/conf", 10, 5000, 8, Stability::FileSync),
        Do::Compact,
        Do::Write("etc/conf", 0, 100, 7, Stability::FileSync),
    ]
    .into_iter();
    for step in steps {
        if let Some(step) = mine.next() {
            new.run(&step)
                .map_err(|status| format!("the new holder's {step:?}: {status}"))?;
            known = known.after(&step, new.world());
        }
        if old.world.is_none() {
            break;
        }
        match (old.run(step), step) {
            (Err(_), _) => tried.refused += 1,
            // Nothing was promised by these, or nothing was done.
            (Ok(()), Do::Write(_, _, _, _, Stability::Unstable) | Do::Commit(_) | Do::FlushAll) => {}
            (Ok(()), _) => return Err(format!("{step:?} was answered after another had taken over")),
        }
        known
            .check(new.world())
            .map_err(|wrong| format!("after {step:?} of the old holder: {wrong}"))?;
    }
    drop(old);
    known.check(new.world())?;
    new.restart(EPOCH)?;
    known.check(new.world())?;
    let disk = new.disk.clone();
    drop(new);
    Server::fsck(&disk)?;
    Ok(true)
}

/// Whether everything can be read.
fn reads(server: &Server) -> bool {
    let Some(world) = &server.world else { return false };
    let mut all = true;
    world.tree_with(&mut |_, object| all &= world.read_handle(&object.handle).is_ok());
    all
}

#[test]
fn nothing_of_an_old_holder_is_seen_after_another_took_over() {
    let mut tried = Tried::default();
    for (name, story) in named() {
        for after in 0.. {
            match run(&story, after, &mut tried) {
                Ok(true) => {}
                Ok(false) => break,
                Err(wrong) => panic!("{name}, stopped before call {after}: {wrong}"),
            }
        }
    }
    report("takeovers", format_args!("{tried:?}"));
    assert!(tried.takeovers > 300 && tried.refused > 300, "{tried:?}");
}
