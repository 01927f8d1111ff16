//! Deletion cannot run away: each story tries to lose what a sliver has written, through the whole agent and a real
//! repository. A writable layer is lost when it is another one than before, or none.

use std::collections::BTreeMap;

use tokio::time::Duration;
use xeno_agent::api::Phase;
use xeno_model::id::SliverId;
use xeno_reconciler::ports::PortError;
use xeno_reconciler::scripted::Fault;

use crate::fleet::{HEAD, Slice, id, manifests, slice};
use crate::repository::Origin;
use crate::world::{TOMBSTONE, World};

const HOUR: Duration = Duration::from_secs(3600);

/// Removals allowed in an hour, as the fleet says.
const BUDGET: usize = 2;

/// The files of a commit.
type Files<'a> = Vec<(&'a str, &'a [u8])>;

/// A node that follows a repository.
struct Story {
    world: World,
    origin: Origin,
}

impl Story {
    /// With these slices carried out.
    async fn of(slices: &[Slice]) -> Self {
        let mut world = World::new();
        let origin = Origin::new(&world.dir.path().join("fleet.git"));
        world.follow(origin.url());
        // These stories take days.
        world.look_every = Duration::from_secs(300);
        world.start().await;
        let mut story = Self { world, origin };
        story.push(slices).await;
        story.world.settled().await;
        story
    }

    /// `db/0` and ten of `web`.
    async fn of_eleven() -> Self {
        Self::of(&[slice("db"), slice("web").replicas(10)]).await
    }

    async fn push(&mut self, slices: &[Slice]) {
        self.origin.manifests(&manifests(slices));
        self.read().await;
    }

    /// Has the repository read, and expects it to be readable.
    async fn read(&self) {
        self.world.read_repository().await.unwrap();
    }

    /// What slivers have written.
    fn written(&self) -> BTreeMap<SliverId, u64> {
        let storage = self.world.node.all_written();
        assert!(!storage.is_empty());
        storage
    }

    fn removed(&self) -> usize {
        self.count("tombstone")
    }

    fn purged(&self) -> usize {
        self.count("purge")
    }

    fn count(&self, verb: &str) -> usize {
        let effects = self.world.node.effects();
        effects
            .iter()
            .filter(|key| key.split(':').next() == Some(verb))
            .count()
    }

    /// Lets hours pass, more than any budget or tombstone lasts, in which nothing at all may happen.
    async fn nothing_happens_for_hours(&self) {
        let (before, written) = (self.world.node.calls(), self.written());
        self.world.pass(4 * HOUR).await;
        assert_eq!(self.world.node.calls(), before);
        assert_eq!(self.written(), written);
    }
}

#[tokio::test(start_paused = true)]
async fn many_removals_in_one_push_keep_to_the_budget_hour_by_hour() {
    let mut story = Story::of_eleven().await;
    let written = story.written();
    story.push(&[slice("db")]).await;
    for hour in 1..=2 {
        story.world.pass(HOUR - Duration::from_secs(120)).await;
        assert_eq!(story.removed(), hour * BUDGET, "in hour {hour}");
        story.world.pass(Duration::from_secs(120)).await;
    }
    assert_eq!(
        story.written(),
        written,
        "a removal sets aside, and deletes nothing"
    );
    assert_eq!(story.purged(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_small_commits_and_many_restarts_have_one_budget() {
    let mut story = Story::of_eleven().await;
    let written = story.written();
    for left in (1..10).rev() {
        story.push(&[slice("db"), slice("web").replicas(left)]).await;
        story.world.pass(Duration::from_secs(150)).await;
        story.world.kill().await;
        story.world.start_again().await;
        story.world.pass(Duration::from_secs(150)).await;
    }
    assert_eq!(story.removed(), BUDGET, "45 minutes later");
    // To ask for one again and remove it again is a removal like any other.
    for replicas in [10, 1, 10, 1] {
        story.push(&[slice("db"), slice("web").replicas(replicas)]).await;
        story.world.pass(Duration::from_secs(60)).await;
    }
    assert!(story.removed() <= BUDGET, "{} within an hour", story.removed());
    assert_eq!(story.written(), written);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_no_longer_named_leaves_everything_alone() {
    let mut story = Story::of_eleven().await;
    let node = "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: { name: cam-01 }\n\
        spec: { site: cambridge, hypervisor: qemu, capacity: { memory: 32GiB, vcpus: 256 } }\n";
    let yaml = manifests(&[slice("db").on("cam-02")]);
    assert!(yaml.contains(node));
    story.origin.manifests(&yaml.replace(node, ""));
    story.read().await;
    story.nothing_happens_for_hours().await;
    assert_eq!(story.world.status().await.phase, Phase::Waiting);
    let why = story.world.agent().handle().why(id("web/3")).await.unwrap();
    assert!(
        why.sentences.concat().contains("does not name this node"),
        "{why:?}"
    );
    // Named again it goes on, within the budget.
    story.push(&[slice("db")]).await;
    story.world.pass(HOUR / 2).await;
    assert_eq!(story.removed(), BUDGET);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_without_slices_removes_nothing() {
    let story = Story::of_eleven().await;
    story.origin.manifests(HEAD);
    story.read().await;
    story.nothing_happens_for_hours().await;
    assert_eq!(story.world.status().await.phase, Phase::Waiting);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_removes_nothing() {
    let mut story = Story::of_eleven().await;
    let good = manifests(&[slice("db")]);
    let huge = format!("{good}# {}\n", "x".repeat(8 << 20));
    let cases: [(&str, Files<'_>); 8] = [
        ("an empty fleet.yaml", vec![("fleet.yaml", b"")]),
        ("only a comment", vec![("fleet.yaml", b"# later\n")]),
        ("no manifests", vec![("README", b"hello")]),
        ("no files", vec![]),
        (
            "half a document",
            vec![("fleet.yaml", &good.as_bytes()[..good.len() - 60])],
        ),
        ("not text", vec![("fleet.yaml", b"\xff\xfe\x00\x01")]),
        ("far too large", vec![("fleet.yaml", huge.as_bytes())]),
        (
            "one bad file among good ones",
            vec![
                ("fleet.yaml", good.as_bytes()),
                ("web.yaml", b"kind: Slice\nspec: ["),
            ],
        ),
    ];
    for (what, files) in &cases {
        story.origin.commit(files);
        story.read().await;
        let status = story.world.status().await;
        assert!(status.rejected.is_some(), "{what}: {status:#?}");
        story.nothing_happens_for_hours().await;
        // Nor does a restart make anything of it.
        story.world.kill().await;
        story.world.start_again().await;
        story.nothing_happens_for_hours().await;
    }
    story.push(&[slice("db")]).await;
    story.world.pass(HOUR / 2).await;
    assert_eq!(story.removed(), BUDGET, "the next good commit counts");
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_is_gone_empty_or_another_removes_nothing() {
    let mut story = Story::of_eleven().await;
    let first = story
        .origin
        .manifests(&manifests(&[slice("db"), slice("web").replicas(10)]));
    story.read().await;
    let fewer = manifests(&[slice("db")]);
    let refused = async |story: &mut Story, what: &str| {
        story.world.read_repository().await.expect_err(what);
        story.nothing_happens_for_hours().await;
        story.world.kill().await;
        story.world.start_again().await;
        story.nothing_happens_for_hours().await;
        let accepted = story.world.status().await.accepted.unwrap();
        assert_eq!(accepted.revision, first, "{what}");
    };
    story.origin.moved(true);
    refused(&mut story, "gone").await;
    story.origin.moved(false);
    story.origin.lose_branch();
    refused(&mut story, "without its branch").await;
    story.origin.reset(&first);
    story.origin.rewrite(&fewer);
    refused(&mut story, "with another history").await;
    story.origin.reset(&first);
    story.read().await;
    assert_eq!(story.removed(), 0);
    story.push(&[slice("db")]).await;
    story.world.pass(HOUR / 2).await;
    assert_eq!(story.removed(), BUDGET, "what descends counts");
}

#[tokio::test(start_paused = true)]
async fn a_rename_without_a_word_is_a_removal_and_can_be_taken_back() {
    let mut story = Story::of(&[slice("db"), slice("web").replicas(4)]).await;
    let written = story.written();
    story.push(&[slice("db"), slice("site").replicas(4)]).await;
    story.world.pass(HOUR / 2).await;
    assert_eq!(story.removed(), BUDGET);
    story.push(&[slice("db"), slice("web").replicas(4)]).await;
    story.world.settled_but_for_removals().await;
    for (sliver, layer) in &written {
        assert_eq!(story.written().get(sliver), Some(layer), "{sliver}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rename_that_says_so_takes_everything_along_and_is_no_removal() {
    let mut story = Story::of(&[slice("db"), slice("web").replicas(4)]).await;
    let written = story.written();
    let renamed = || slice("site").replicas(4).metadata("movedFrom: web");
    story.push(&[slice("db"), renamed()]).await;
    story.world.settled().await;
    let moved = story.written();
    for n in 0..4 {
        let (old, new) = (id(&format!("web/{n}")), id(&format!("site/{n}")));
        assert_eq!(moved.get(&new), written.get(&old), "{new}");
    }
    assert_eq!((story.removed(), story.purged()), (0, 0));
    // What was said once does no harm when it is read again.
    story.world.kill().await;
    story.world.start_again().await;
    story.push(&[slice("db"), renamed().page("other")]).await;
    story.world.settled().await;
    assert_eq!(story.written(), moved);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_sees_nothing_after_an_error_loses_nothing() {
    let mut story = Story::of_eleven().await;
    let written = story.written();
    story.push(&[slice("db"), slice("web").replicas(8)]).await;
    for _ in 0..10 {
        // Domains, storage, templates and files are looked at in this order.
        for _ in 0..4 {
            let fault = Fault::Fails(PortError::later("no answer"));
            story.world.node.script("observe", fault);
        }
        for _ in 0..8 {
            story.world.node.script("observe", Fault::SeesNothing);
        }
        story.world.pass(HOUR).await;
    }
    for sliver in (0..8).map(|n| id(&format!("web/{n}"))) {
        assert_eq!(story.written().get(&sliver), written.get(&sliver), "{sliver}");
    }
    assert!(story.purged() <= 2, "only what nobody asks for any more");
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_and_asked_for_again_is_there_again() {
    let mut story = Story::of(&[slice("db"), slice("web")]).await;
    let written = story.written();
    for _ in 0..3 {
        story.push(&[slice("db")]).await;
        story.world.until_removed("web/0").await;
        story.world.pass(TOMBSTONE / 2).await;
        story.world.kill().await;
        story.world.start_again().await;
        story.push(&[slice("db"), slice("web")]).await;
        story.world.settled().await;
        assert_eq!(story.written(), written);
        // Its next tombstone begins anew.
        story.world.pass(HOUR).await;
    }
    assert_eq!(story.purged(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_purge_waits_for_its_time_and_no_longer() {
    let mut story = Story::of(&[slice("db"), slice("web")]).await;
    story.push(&[slice("db")]).await;
    story.world.until_removed("web/0").await;
    story.world.pass(TOMBSTONE - Duration::from_secs(30)).await;
    assert_eq!(story.purged(), 0);
    assert_eq!(story.written().len(), 2);
    story.world.pass(Duration::from_secs(60)).await;
    assert_eq!(story.purged(), 1);
    story.world.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_by_a_year_deletes_nothing_at_once() {
    let mut story = Story::of(&[slice("db"), slice("web").replicas(4)]).await;
    let written = story.written();
    story.push(&[slice("db")]).await;
    story.world.until_removed("web/0").await;
    story.world.until_removed("web/1").await;
    story.world.clock.turn(365 * 86_400_000);
    story.world.pass(TOMBSTONE / 2).await;
    assert_eq!(
        story.written(),
        written,
        "half the time has not passed, whatever the clock says"
    );
    story.world.kill().await;
    story.world.start_again().await;
    story.world.pass(Duration::from_secs(60)).await;
    assert_eq!(story.written(), written, "nor has it for another agent");
}
