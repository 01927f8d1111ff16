//! A state that cannot be written, is damaged, or hears wrong times.

use super::*;

const YEAR_MS: i64 = 366 * 86_400_000;

/// Waits until a removal waits for room in the delete budget.
async fn waits_for_room(world: &World, sliver: &str) {
    let waits = |status: &Status| {
        let mut slivers = status.slivers.iter();
        slivers.any(|s| s.id == sliver && s.note.contains("delete budget"))
    };
    world.until("the removal to wait", waits).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_said_and_passes() {
    let mut world = World::new();
    world.limits.pages_max = 60;
    world.start();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let long = "x".repeat(4000);
    for number in 2..40 {
        let why = format!("{number}{long}");
        let revision = revision(number);
        world.push(SourceNews::Rejected { revision, why }).await;
    }
    let full = |status: &Status| {
        status
            .problems
            .iter()
            .any(|problem| problem.contains("no space left"))
    };
    world.until("the full disk", full).await;
    world.kill().await;
    world.limits = Limits::default();
    world.start();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_that_cannot_be_written_down() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let before = world.node.calls();
    // Stands for a disk that refuses: no intent can be written.
    let other = rusqlite::Connection::open(world.state_dir().join("state.db")).unwrap();
    other
        .execute_batch("ALTER TABLE journal RENAME TO hidden")
        .unwrap();
    world.node.lose_domain(&id("web/0"));
    let broken = |status: &Status| {
        status
            .problems
            .iter()
            .any(|problem| problem.contains("nothing new is begun"))
    };
    world.until("the failure", broken).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.node.calls(), before);
    other
        .execute_batch("ALTER TABLE hidden RENAME TO journal")
        .unwrap();
    world
        .until("the domain to be back", |_| world.calls("boot:web/0") == 2)
        .await;
    world.converged(1).await;
    assert!(!broken(&world.status().await));
}

/// Two guests run, the agent is killed, its state harmed: another agent finds everything as it should be by looking.
async fn rebuilt_at_the_start(harm: impl FnOnce(&mut Vec<u8>)) {
    let mut world = World::started();
    let first = commit(1, [sliver("web/0"), sliver("web/1"), sliver("db/0")]);
    world.push(first.clone()).await;
    world.converged(1).await;
    let before = world.node.calls();
    world.kill().await;
    drop(world.open());
    world.harm_state(harm);
    world.start();
    let accepted = world.status().await.accepted.unwrap();
    assert_eq!(
        (accepted.generation, accepted.revision),
        (1, revision(1).to_string())
    );
    world.push(first).await;
    world.converged(1).await;
    assert_eq!(world.node.calls(), before, "guests are left alone");
    let told = world.events("state-rebuilt").await;
    assert!(
        told.len() == 1 && told[0].contains("state.db.broken-"),
        "{told:?}"
    );
    let status = world.status().await;
    assert!(status.problems[0].contains("damaged"), "{:?}", status.problems);
    let doctor = world.running().handle.doctor().await.unwrap();
    let fact = doctor.facts.iter().find(|fact| fact.what == "state").unwrap();
    assert!(
        fact.state == FactState::Fair && fact.text.contains("damaged"),
        "{fact:?}"
    );
    assert!(
        world
            .running()
            .handle
            .describe(id("web/0"))
            .await
            .unwrap()
            .applied
            .unwrap()
            .complete
    );

    // Nobody knows what was removed before: for a whole window nothing is.
    let pushed = world.status().await.node.now_ms;
    world.push(commit(2, [sliver("db/0")])).await;
    waits_for_room(&world, "web/0").await;
    world
        .until("the removal", |_| world.calls("tombstone:web/0") == 1)
        .await;
    let window = DeleteBudget::default().window.0;
    assert!(world.status().await.node.now_ms - pushed > window - 60_000);
    world.converged(2).await;
    assert!(world.status().await.problems.is_empty());
    assert_eq!(world.calls("boot:db/0"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_state_with_a_garbage_header_is_made_anew_and_guests_are_left_alone() {
    rebuilt_at_the_start(|bytes| bytes[..100].fill(0x55)).await;
}

#[tokio::test(start_paused = true)]
async fn a_truncated_state_is_made_anew_and_guests_are_left_alone() {
    rebuilt_at_the_start(|bytes| bytes.truncate(bytes.len() / 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_state_damaged_under_a_running_agent_is_made_anew_from_what_the_agent_knows() {
    let mut world = World::started();
    let mut failing = sliver("api/0");
    failing.kernel.digest = Digest([0xd9; 32]);
    world.node.script("fetch", Fault::Hangs);
    world.push(commit(1, [sliver("web/0"), sliver("db/0")])).await;
    world.converged(1).await;
    let before = world.node.calls();
    world.harm_state(|bytes| bytes[4096..].fill(0xa5));
    world.push(commit(2, [sliver("web/0"), sliver("db/0")])).await;
    world
        .until("the state to be new", |status| {
            status
                .problems
                .iter()
                .any(|problem| problem.contains("made anew"))
        })
        .await;
    world.converged(2).await;
    assert_eq!(world.node.calls(), before, "guests are left alone");
    assert_eq!(world.events("state-rebuilt").await.len(), 1);
    assert_eq!(world.status().await.accepted.unwrap().generation, 2);
    let described = world.running().handle.describe(id("web/0")).await.unwrap();
    assert!(described.applied.unwrap().complete);
    // It is as durable as any.
    world.kill().await;
    world.start();
    world.push(commit(2, [sliver("web/0"), sliver("db/0")])).await;
    world.converged(2).await;
    assert_eq!(world.node.calls(), before);
    world.push(commit(3, [sliver("db/0")])).await;
    waits_for_room(&world, "web/0").await;
}

#[tokio::test(start_paused = true)]
async fn no_jump_of_the_wall_clock_purges_early_or_fills_the_delete_budget() {
    for jump in [10 * YEAR_MS, -10 * YEAR_MS] {
        let mut world = World::started();
        let all = ["a/0", "b/0", "c/0", "d/0"];
        world.push(commit(1, all.map(sliver))).await;
        world.converged(1).await;
        world.push(commit(2, [sliver("d/0")])).await;
        waits_for_room(&world, "c/0").await;
        let elapsed = world.clock.elapsed_ms();
        world.clock.jump(jump);
        tokio::time::sleep(Duration::from_secs(120)).await;
        // Neither does it if the agent begins anew.
        world.kill().await;
        world.start();
        world.push(commit(2, [sliver("d/0")])).await;
        waits_for_room(&world, "c/0").await;
        assert_eq!((world.calls("tombstone:c/0"), world.calls("purge:a/0")), (0, 0));
        // An hour of certain time later there is room, and after three what was kept is purged.
        world
            .until("the third removal", |_| world.calls("tombstone:c/0") == 1)
            .await;
        let hours = |since: u64| (world.clock.elapsed_ms() - since).div_ceil(60_000);
        assert!((59..62).contains(&hours(elapsed)), "{} minutes", hours(elapsed));
        world.until("the purge", |_| world.calls("purge:a/0") == 1).await;
        assert!((179..183).contains(&hours(elapsed)), "{} minutes", hours(elapsed));
        world
            .until("the last purge", |_| world.calls("purge:c/0") == 1)
            .await;
        assert!((238..246).contains(&hours(elapsed)), "{} minutes", hours(elapsed));
        assert_eq!(world.node.violations(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn no_jump_of_the_wall_clock_hangs_a_retry() {
    for jump in [10 * YEAR_MS, -10 * YEAR_MS] {
        let mut world = World::started();
        world.push(commit(1, [sliver("web/0")])).await;
        world.converged(1).await;
        world.node.lose_domain(&id("web/0"));
        for _ in 0..4 {
            world
                .node
                .script("boot", Fault::Fails(PortError::later("no memory")));
        }
        let failing = |status: &Status| status.slivers[0].phase == SliverPhase::Failing;
        world.until("the failure", failing).await;
        let elapsed = world.clock.elapsed_ms();
        world.clock.jump(jump);
        world.kill().await;
        world.start();
        world.push(commit(1, [sliver("web/0")])).await;
        world.converged(1).await;
        assert!(world.clock.elapsed_ms() - elapsed < 60_000);
    }
}
