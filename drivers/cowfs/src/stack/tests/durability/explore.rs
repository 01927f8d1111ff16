//! Every crash of a recording.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::*;
use crate::writable::disk::simulated::{Fate, Moment, Step};

/// How thoroughly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Moments with at most so many ways to end are tried in all of them, others in so many.
    pub(super) ways: u64,
    /// One in so many states is crashed again while it is being opened.
    pub(super) again: u64,
    pub(super) seed: u64,
}

impl Effort {
    /// What an ordinary run can afford, or what `XENO_COWFS_CRASHES` asks for: ways for each moment.
    pub(super) fn usual() -> Self {
        let asked = std::env::var("XENO_COWFS_CRASHES").ok();
        let ways = asked.and_then(|ways| ways.parse().ok()).unwrap_or(8);
        Self {
            ways,
            again: 150,
            seed: 1,
        }
    }
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried {
    pub(super) prefixes: u64,
    pub(super) states: u64,
    /// States in a crash while the crash before was being recovered from.
    pub(super) again: u64,
    /// States of a crash after the server alone was killed, and started again.
    pub(super) after_kills: u64,
}

impl std::ops::AddAssign for Tried {
    fn add_assign(&mut self, other: Self) {
        self.prefixes += other.prefixes;
        self.states += other.states;
        self.again += other.again;
        self.after_kills += other.after_kills;
    }
}

/// Tells whoever runs this by hand what was tried.
#[expect(clippy::print_stderr, reason = "a run by hand wants the figures")]
pub(super) fn report(what: &str, tried: std::fmt::Arguments<'_>) {
    eprintln!("{what}: {tried}");
}

/// Crashes at every moment of a story and opens what is left; panics where that is not what it should be.
pub(super) fn every_crash(name: &str, told: &Told, effort: Effort) -> Tried {
    let recording = told.disk.recording();
    let base = Image::default();
    let mut tried = Tried::default();
    let mut seen = HashSet::new();
    let mut dice = Dice::new(effort.seed);
    let mut answered = None;
    for len in 0..=recording.len() {
        if let Some(Step::Mark(number)) = len.checked_sub(1).and_then(|last| recording.get(last)) {
            answered = Some(*number);
        }
        tried.prefixes += 1;
        let candidates = candidates(told, answered);
        tried.after_kills += kill_and_crash(&recording[..len], &candidates, &mut dice)
            .unwrap_or_else(|wrong| panic!("{name}: killed after {len} of {recording:#?}: {wrong}"));
        let moment = Moment::new(&base, &recording, len);
        for fates in choose(&moment, effort.ways, &mut dice) {
            let image = moment.image(&fates);
            if !seen.insert((answered, fingerprint(&image))) {
                continue;
            }
            tried.states += 1;
            let context = || {
                let open: Vec<_> = moment.open.iter().map(|(at, _)| *at).zip(&fates).collect();
                let around = &recording[len.saturating_sub(12)..len];
                format!(
                    "{name}: crash after {len} of {} steps, {answered:?} of {:?} answered, with {open:?}, after {around:#?}",
                    recording.len(),
                    told.steps,
                )
            };
            let again = tried.states % effort.again == 0;
            let recovered = recover(image.clone(), &candidates, 1_000);
            let recovery = recovered.unwrap_or_else(|wrong| panic!("{wrong}\n{}", context()));
            if again {
                tried.again += crash_again(&image, &recovery, &candidates, &mut dice)
                    .unwrap_or_else(|wrong| panic!("crashed again: {wrong}\n{}", context()));
            }
        }
    }
    tried
}

/// What may be there after the crash.
fn candidates(told: &Told, answered: Option<usize>) -> Vec<Facts> {
    let Some(answered) = answered else {
        return vec![told.facts[0].clone()];
    };
    let facts = &told.facts[answered];
    match told.steps.get(answered) {
        // After it too: it was perhaps carried out, and the answer was not sent.
        Some(step) => vec![facts.during(step), told.facts[answered + 1].clone()],
        None => vec![facts.clone()],
    }
}

/// All ways a moment can end if they are few, or some of them: everything arrived, nothing did, all but one, only one,
/// and random ones.
pub(super) fn choose(moment: &Moment<'_>, most: u64, dice: &mut Dice) -> Vec<Vec<Fate>> {
    if let Some(ways) = moment.ways().filter(|&ways| ways <= most) {
        return (0..ways).map(|number| moment.way(number)).collect();
    }
    let open = moment.open.len();
    let mut chosen = vec![vec![Fate::Done; open], vec![Fate::Lost; open]];
    for at in 0..open.min(usize::try_from(most / 4).expect("it is small")) {
        let at = open - 1 - at;
        let mut but_one = vec![Fate::Done; open];
        but_one[at] = Fate::Lost;
        let mut only_one = vec![Fate::Lost; open];
        only_one[at] = Fate::Done;
        chosen.extend([but_one, only_one]);
    }
    while (chosen.len() as u64) < most {
        let random = moment.open.iter().map(|(_, fates)| *dice.pick(fates));
        chosen.push(random.collect());
    }
    chosen
}

fn fingerprint(image: &Image) -> u64 {
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    hasher.finish()
}

/// Opens what a crash has left, compares, changes something, closes and checks; returns what opening did.
fn recover(image: Image, candidates: &[Facts], epoch: u64) -> Result<Vec<Step>, String> {
    let left = Simulated::holding(image.clone());
    Server::fsck(&left)?;
    // Under the epoch it had, as when the same node starts again; or as when another takes over.
    let mut server = match Server::start(image.clone(), 1) {
        Ok(server) => server,
        Err(_passed) => Server::start(image, epoch)?,
    };
    let steps = server.disk.recording();
    check_any(candidates, server.world())?;
    let tree = server.world().tree();
    for step in [
        Do::Create("afterwards"),
        Do::Write("afterwards", 0, 6000, b'!', Stability::FileSync),
    ] {
        let done = server.run(&step);
        done.map_err(|status| format!("{step:?} after recovery: {status}"))?;
    }
    server
        .run(&Do::Remove("afterwards"))
        .map_err(|status| format!("removing: {status}"))?;
    let epoch = server.epoch;
    server.restart(epoch)?;
    let without_times = server.world().tree();
    if tree != without_times {
        return Err(format!("{tree:#?} became {without_times:#?}"));
    }
    let disk = server.disk.clone();
    drop(server);
    Server::fsck(&disk)?;
    Ok(steps)
}

/// Kills the server, starts it again on what the page cache holds, and then crashes.
fn kill_and_crash(steps: &[Step], candidates: &[Facts], dice: &mut Dice) -> Result<u64, String> {
    let base = Image::default();
    let disk = Simulated::after(&base, steps);
    let mut server = match Server::start_on(disk.clone(), 1) {
        Ok(server) => server,
        Err(_passed) => Server::start_on(disk, 1_000)?,
    };
    let probe = Do::Create("after the kill");
    server
        .run(&probe)
        .map_err(|status| format!("{probe:?}: {status}"))?;
    server
        .world()
        .at("after the kill")
        .map_err(|status| status.to_string())?;
    server
        .run(&Do::Remove("after the kill"))
        .map_err(|status| format!("removing: {status}"))?;
    check_any(candidates, server.world())?;
    let recording = server.disk.recording();
    let moment = Moment::new(&base, &recording, recording.len());
    let mut states = 0;
    for fates in choose(&moment, 3, dice) {
        recover(moment.image(&fates), candidates, 1_000)?;
        states += 1;
    }
    Ok(states)
}

/// Whether any of them fits; the first that does.
pub(super) fn check_any(candidates: &[Facts], world: &World) -> Result<Facts, String> {
    let mut wrong = Vec::new();
    for facts in candidates {
        match facts.check(world) {
            Ok(()) => return Ok(facts.clone()),
            Err(why) => wrong.push(why),
        }
    }
    Err(format!("{wrong:#?}"))
}

/// Crashes while `image` is being recovered.
fn crash_again(
    image: &Image,
    recovery: &[Step],
    candidates: &[Facts],
    dice: &mut Dice,
) -> Result<u64, String> {
    let mut states = 0;
    for len in 0..=recovery.len() {
        let moment = Moment::new(image, recovery, len);
        for fates in choose(&moment, 4, dice) {
            recover(moment.image(&fates), candidates, 1_000)?;
            states += 1;
        }
    }
    Ok(states)
}
