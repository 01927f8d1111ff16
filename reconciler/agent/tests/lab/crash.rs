//! Crash at every step: every kind of action, at every moment of it, goes wrong in every way. Whatever happens, the
//! node ends as it would have without, and nothing happens twice.

mod cell;
mod scenario;

use std::collections::BTreeMap;

use cell::{Cell, Mishap, Moment};
use scenario::{Scenario, replacement, scenario};
use tokio::time::Duration;
use xeno_reconciler::action::ActionKind;
use xeno_reconciler::ports::PortError;
use xeno_reconciler::scripted::Fault;

use crate::fleet::id;
use crate::runtime::in_parallel;
use crate::world::{End, World};

/// How a story went: how it ended, and how often each action changed something after it began.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Went {
    end: End,
    effects: BTreeMap<String, usize>,
}

/// Plays a story, with something going wrong in it or without.
async fn play(story: &Scenario, wrong: Option<Cell>) -> Went {
    let mut world = World::new();
    world.look_every = Duration::from_secs(30);
    world.start().await;
    world.guest_says(&id("db/0"), "ready");
    if story.about != "web/0" {
        world.guest_says(&id("web/0"), "ready");
    }
    let awaited = wrong.is_some_and(|cell| cell.kind == ActionKind::AwaitHealthy);
    if !(awaited && story.before.iter().all(|commit| !commit.names(story.about))) {
        world.guest_says(&id(story.about), "ready");
        // The second embodiment, where there is one.
        world.guest_says(&id(story.about).beside(), "ready");
    }
    let mut number = 0;
    for before in &story.before {
        number += 1;
        world.push(before.desired(number)).await;
        world.converged().await;
        world.pass(before.then_pass()).await;
    }
    world.converged().await;
    (story.happens)(&world);
    let began = world.all_effects();
    if let Some(cell) = wrong {
        inject(&world, cell).await;
    }
    world.push(story.then.desired(number + 1)).await;
    if let Some(cell) = wrong {
        strike(&mut world, story, cell).await;
    }
    world.converged().await;
    world.pass(story.then.then_pass()).await;
    // A failure is only forgotten once a look finds that its end has lasted.
    world.pass(Duration::from_secs(60)).await;
    world.converged().await;
    let mut effects = world.all_effects();
    for (key, before) in began {
        match effects.get_mut(&key) {
            Some(now) if *now > before => *now -= before,
            Some(_) | None => drop(effects.remove(&key)),
        }
    }
    world.stop().await;
    Went {
        end: world.end(),
        effects,
    }
}

/// Prepares what is to go wrong.
async fn inject(world: &World, cell: Cell) {
    let verb = cell.kind.verb();
    let script = |fault: Fault| world.node.script(verb, fault);
    match (cell.moment, cell.mishap) {
        (Moment::BeforeEffect, Mishap::AgentDies | Mishap::DriverHangs) => script(Fault::Hangs),
        (Moment::AfterEffect, Mishap::AgentDies | Mishap::DriverHangs) => script(Fault::HangsAfter),
        (Moment::AfterRecord, _) => world.end_after_record(verb).await,
        (Moment::AfterEffect, Mishap::DriverIsSilent) => script(Fault::SucceedsUnsaid),
        (Moment::BeforeEffect, Mishap::DriverIsSilent) => {
            // Every try of a run fails; once it has been given up and looked at, it is done after all.
            script(Fault::Late { looks: 1 });
            for _ in 0..3 {
                script(Fault::Fails(PortError::later("still at it")));
            }
        }
    }
}

/// Lets it go wrong, and goes on.
async fn strike(world: &mut World, story: &Scenario, cell: Cell) {
    let verb = cell.kind.verb();
    if cell.kind == ActionKind::AwaitHealthy {
        strike_awaiting(world, story, cell).await;
    } else if cell.moment == Moment::AfterRecord {
        let ended = || world.has_ended_after_record();
        world.until_node("the record", |_| ended()).await;
    } else {
        let of_verb = |key: &String| key.split(':').next() == Some(verb);
        world
            .until_node("the blow", |node| node.struck().iter().any(of_verb))
            .await;
    }
    if cell.mishap != Mishap::AgentDies {
        return;
    }
    world.kill().await;
    if cell.kind == ActionKind::AwaitHealthy {
        world.guest_says(&id(story.about), "ready");
    }
    world.start_again().await;
    world.status().await;
    let lost = world.events("lost").await;
    let was_lost = lost.iter().any(|text| text.starts_with(&format!("{verb}:")));
    assert_eq!(was_lost, cell.moment != Moment::AfterRecord, "{lost:?}");
}

/// No driver is asked whether a guest is healthy: what goes wrong is the guest, or the agent that waits for it.
async fn strike_awaiting(world: &World, story: &Scenario, cell: Cell) {
    let about = id(story.about);
    let awaiting = format!("await:{about}");
    let waits = |status: &xeno_agent::api::Status| {
        let run = status.run.as_ref();
        run.is_some_and(|run| run.in_flight.iter().any(|one| one.action == awaiting))
    };
    world.until("the wait for health", waits).await;
    match (cell.moment, cell.mishap) {
        (Moment::BeforeEffect, Mishap::AgentDies) => {}
        (Moment::AfterEffect, Mishap::AgentDies) => world.guest_says(&about, "ready"),
        (Moment::AfterRecord, _) => {
            world.guest_says(&about, "ready");
            world
                .until_node("the record", |_| world.has_ended_after_record())
                .await;
        }
        (Moment::BeforeEffect | Moment::AfterEffect, Mishap::DriverHangs | Mishap::DriverIsSilent) => {
            // Longer than anybody waits for it.
            world.pass(Duration::from_secs(300)).await;
            assert!(!world.events("failed").await.is_empty(), "nobody gave it up");
            world.guest_says(&about, "ready");
        }
    }
}

/// What one kind of action came to.
#[derive(Debug, Default)]
struct Tally {
    played: usize,
    impossible: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
}

/// All cells of a kind; a story that breaks down is one of the things that are wrong.
async fn judged(kind: ActionKind) -> Tally {
    let told = tokio::spawn(all_cells(kind)).await;
    told.unwrap_or_else(|panic| Tally {
        wrong: vec![format!("the story of {kind:?}: {panic}")],
        ..Tally::default()
    })
}

async fn all_cells(kind: ActionKind) -> Tally {
    let mut tally = Tally::default();
    cells_of(kind, scenario, &mut tally).await;
    if replacement(kind).is_some() {
        let again = |kind| replacement(kind).unwrap_or_else(|| scenario(kind));
        cells_of(kind, again, &mut tally).await;
    }
    tally
}

/// All cells of a kind in one of its stories.
async fn cells_of(kind: ActionKind, told: fn(ActionKind) -> Scenario, tally: &mut Tally) {
    let story = told(kind);
    let right = play(&story, None).await;
    let does = |key: &String| key.split(':').next() == Some(kind.verb());
    // Nobody but the agent itself awaits health, so that leaves no effect.
    if kind != ActionKind::AwaitHealthy && !right.effects.keys().any(does) {
        let effects = &right.effects;
        tally
            .wrong
            .push(format!("the story of {kind:?} has none: {effects:?}"));
        return;
    }
    for cell in Cell::of(kind) {
        if let Some(why) = cell.impossible() {
            *tally.impossible.entry(why).or_default() += 1;
            continue;
        }
        tally.played += 1;
        let went = tokio::spawn(async move { play(&told(kind), Some(cell)).await });
        match went.await {
            Ok(went) if went == right => {}
            // A bystander is left alone by whatever goes wrong, or it would differ here as well.
            Ok(went) => tally
                .wrong
                .push(format!("{cell:?}:\n{}", difference(&right, &went))),
            Err(panic) => tally.wrong.push(format!("{cell:?}: {panic}")),
        }
    }
}

/// The matrix: every cell of it, or why there is none. `XENO_KIND=Boot` plays those of one kind.
#[test]
#[expect(
    clippy::print_stdout,
    reason = "the size of the matrix is part of what it shows"
)]
fn crash_at_every_step() {
    let only = std::env::var("XENO_KIND").ok();
    let chosen = |kind: &ActionKind| only.as_ref().is_none_or(|only| *only == format!("{kind:?}"));
    let kinds: Vec<_> = ActionKind::ALL.into_iter().filter(chosen).collect();
    let tallies = in_parallel(&kinds, |kind| Box::pin(judged(kind)));
    let played: usize = tallies.iter().map(|tally| tally.played).sum();
    let mut impossible = BTreeMap::<&str, usize>::new();
    for (why, cells) in tallies.iter().flat_map(|tally| &tally.impossible) {
        *impossible.entry(why).or_default() += cells;
    }
    let stories = kinds.len() + kinds.iter().filter(|kind| replacement(**kind).is_some()).count();
    let impossibles: usize = impossible.values().sum();
    println!(
        "{} kinds of action: {played} cells played, {impossibles} impossible:",
        kinds.len()
    );
    for (why, cells) in &impossible {
        println!("{cells:4}  {why}");
    }
    let wrong: Vec<_> = tallies.into_iter().flat_map(|tally| tally.wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(
        played + impossibles,
        stories * Moment::ALL.len() * Mishap::ALL.len()
    );
}

fn difference(right: &Went, went: &Went) -> String {
    let mut text = String::new();
    if right.effects != went.effects {
        text.push_str(&format!(
            "effects {:?}\nbut should {:?}\n",
            went.effects, right.effects
        ));
    }
    let lines = |of: &Went| format!("{:#?}", of.end).replace("\\n", "\n");
    let (should, does) = (lines(right), lines(went));
    for (should, does) in should.lines().zip(does.lines()) {
        if should != does {
            text.push_str(&format!("- {should}\n+ {does}\n"));
        }
    }
    text
}
