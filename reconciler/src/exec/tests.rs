use super::*;
use crate::testing::{World, health, id, sliver};

fn key(text: &str) -> ActionKey {
    ActionKey(text.to_owned())
}

fn run(world: &World) -> Run {
    Run::new(world.plan(), RetryPolicy::default(), 1)
}

fn ready(run: &Run, limit: usize, now_ms: u64) -> Vec<String> {
    run.ready(limit, now_ms).into_iter().map(|key| key.0).collect()
}

fn start(run: &mut Run, text: &str) {
    run.started(&key(text)).unwrap();
}

fn done(run: &mut Run, text: &str) {
    assert_eq!(
        run.finished(&key(text), Outcome::Done, 0).unwrap(),
        &ActionState::Done
    );
}

fn fail(run: &mut Run, text: &str, retry: Retry, now_ms: u64) -> ActionState {
    let why = "no".to_owned();
    run.finished(&key(text), Outcome::Failed { why, retry }, now_ms)
        .unwrap()
        .clone()
}

/// Starts and ends whatever is ready until nothing is.
fn drain(run: &mut Run) -> Vec<String> {
    let mut done = Vec::new();
    loop {
        let ready = run.ready(1, u64::MAX);
        let Some(key) = ready.first() else { return done };
        run.started(key).unwrap();
        run.finished(key, Outcome::Done, 0).unwrap();
        done.push(key.0.clone());
    }
}

#[test]
fn a_run_does_all_in_order_and_then_is_done() {
    let mut web = sliver("web/0");
    web.health = Some(health());
    let world = World::wanting([web]);
    let mut run = run(&world);
    assert_eq!(run.state(), RunState::Running);
    assert_eq!(drain(&mut run), world.keys());
    assert_eq!(run.state(), RunState::Done);
    assert!(run.settled().contains(&id("web/0")));
}

#[test]
fn an_empty_run_is_done_at_once() {
    let world = World::wanting([sliver("web/0")]).settle();
    let run = run(&world);
    assert!(run.is_finished());
    assert_eq!(run.state(), RunState::Done);
    assert_eq!(run.settled().len(), 1);
}

#[test]
fn no_more_are_in_flight_than_allowed_and_one_per_sliver() {
    let mut run = run(&World::wanting(["a/0", "b/0", "c/0"].map(sliver)));
    assert_eq!(
        ready(&run, 3, 0),
        [
            "fetch:d1d1d1d1d1d1",
            "import:f1f1f1f1f1f1",
            "open:a/0",
            "open:b/0"
        ]
    );
    start(&mut run, "open:a/0");
    start(&mut run, "open:b/0");
    assert_eq!(ready(&run, 3, 0), ["fetch:d1d1d1d1d1d1", "import:f1f1f1f1f1f1"]);
    assert_eq!(
        ready(&run, 2, 0),
        ["fetch:d1d1d1d1d1d1"],
        "a fetch takes nobody's place"
    );
    assert_eq!(
        run.started(&key("open:a/0")),
        Err(RunError::NotReady(key("open:a/0")))
    );
    assert_eq!(
        run.started(&key("boot:a/0")),
        Err(RunError::NotReady(key("boot:a/0")))
    );
    assert_eq!(
        run.finished(&key("boot:a/0"), Outcome::Done, 0),
        Err(RunError::NotInFlight(key("boot:a/0")))
    );
    assert_eq!(
        run.started(&key("boot:x/0")),
        Err(RunError::Unknown(key("boot:x/0")))
    );
}

#[test]
fn a_failure_blocks_what_depends_on_it_and_nothing_else() {
    let mut run = run(&World::wanting(["a/0", "b/0"].map(sliver)));
    for action in ["fetch:d1d1d1d1d1d1", "import:f1f1f1f1f1f1", "open:a/0"] {
        start(&mut run, action);
        done(&mut run, action);
    }
    start(&mut run, "stack:a/0");
    let state = fail(&mut run, "stack:a/0", Retry::Never, 0);
    assert!(matches!(state, ActionState::Failed { tries: 1, .. }));
    drain(&mut run);
    assert_eq!(run.state(), RunState::Failed);
    assert_eq!(run.settled(), BTreeSet::from([id("b/0")]));
    assert_eq!(run.trouble(&id("a/0")).unwrap().0, key("stack:a/0"));
    assert_eq!(run.trouble(&id("b/0")), None);
    let boot = run
        .actions()
        .find(|(a, _)| a.action.key() == key("boot:a/0"))
        .unwrap()
        .1;
    assert_eq!(
        boot,
        &ActionState::Blocked {
            by: key("export:a/0")
        }
    );
}

#[test]
fn a_failure_that_may_pass_is_tried_again_but_not_for_ever() {
    let mut world = World::wanting([sliver("a/0")]).settle();
    world.domains().ours.clear();
    let mut run = run(&world);
    let mut now = 0;
    for tries in 1..=3 {
        start(&mut run, "boot:a/0");
        let ActionState::Pausing {
            until_ms, tries: n, ..
        } = fail(&mut run, "boot:a/0", Retry::Later, now)
        else {
            panic!("it should pause")
        };
        assert_eq!(n, tries);
        let pause = until_ms - now;
        let whole = 1_000 << (tries - 1);
        assert!(
            (whole / 2..=whole).contains(&pause),
            "{pause} ms after try {tries}"
        );
        assert_eq!(ready(&run, 1, until_ms - 1).len(), 0);
        assert_eq!(run.next_try_ms(), Some(until_ms));
        now = until_ms;
        assert_eq!(ready(&run, 1, now), ["boot:a/0"]);
    }
    start(&mut run, "boot:a/0");
    let last = fail(&mut run, "boot:a/0", Retry::Later, now);
    assert!(matches!(last, ActionState::Failed { tries: 4, .. }));
    assert_eq!((run.state(), run.next_try_ms()), (RunState::Failed, None));
}

#[test]
fn pauses_stay_within_their_bounds() {
    let policy = RetryPolicy::default();
    for tries in [0, 1, 2, 10, 63, 64, u32::MAX] {
        for seed in 0..50 {
            assert!(policy.pause_ms(tries, seed) <= policy.pause_ms_max);
        }
    }
}

#[test]
fn a_newer_commit_stops_before_the_first_shutdown_or_after_the_boot() {
    let mut world = World::wanting(["a/0", "b/0"].map(sliver)).settle();
    for name in ["a/0", "b/0"] {
        world.want(name).resources.vcpus = 2;
        world.want(name).health = Some(health());
    }
    let mut run = run(&world);
    start(&mut run, "checkpoint:a/0");
    done(&mut run, "checkpoint:a/0");
    start(&mut run, "shutdown:a/0");
    run.supersede();
    assert_eq!(ready(&run, 4, 0).len(), 0, "b/0 is not taken down any more");
    assert!(!run.is_finished());
    done(&mut run, "shutdown:a/0");
    assert_eq!(drain(&mut run), ["boot:a/0"]);
    assert_eq!(run.state(), RunState::Superseded);
    assert_eq!(
        run.settled(),
        BTreeSet::new(),
        "a/0 was not waited for to be healthy"
    );
}

#[test]
fn what_is_down_comes_up_before_more_goes_down() {
    let names = ["a/0", "b/0", "c/0", "d/0"];
    let mut world = World::wanting(names.map(sliver)).settle();
    for name in names {
        world.want(name).resources.vcpus = 2;
    }
    let mut run = run(&world);
    assert_eq!(ready(&run, 2, 0), ["checkpoint:a/0", "checkpoint:b/0"]);
    for checkpoint in ["checkpoint:a/0", "checkpoint:b/0"] {
        start(&mut run, checkpoint);
        done(&mut run, checkpoint);
    }
    // What is kept of them gets older with every moment.
    assert_eq!(ready(&run, 2, 0), ["shutdown:a/0", "shutdown:b/0"]);
    start(&mut run, "shutdown:a/0");
    start(&mut run, "shutdown:b/0");
    done(&mut run, "shutdown:b/0");
    assert_eq!(ready(&run, 2, 0), ["boot:b/0"]);
}
