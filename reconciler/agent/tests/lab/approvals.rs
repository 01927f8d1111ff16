//! Two whole agents on one board, whose fleet asks that people approve what interrupts a service.

use std::collections::BTreeMap;

use xeno_model::desired::Disturbance;
use xeno_model::id::{SliverId, Timestamp};
use xeno_reconciler::approval::{Ask, Grant};
use xeno_reconciler::change::Disruption;
use xeno_reconciler::ports::PortError;
use xeno_reconciler::rollout::Verdict;
use xeno_reconciler::scripted::Fault;
use xeno_state::approvals::{self, Approval};

use crate::fleet::{id, slice};
use crate::rollouts::{Fleet, minute, web};
use crate::runtime::on_a_clock;

/// Both run page `one`, and what interrupts them waits from now on.
async fn careful() -> Fleet {
    let mut fleet = Fleet::new().await;
    fleet.approval = Some(Disturbance::Interrupts);
    fleet
}

/// What waits, as the board says.
async fn asks(fleet: &Fleet) -> BTreeMap<SliverId, Ask> {
    let mut all = BTreeMap::new();
    for (_, asks) in approvals::asks(&fleet.board).await.unwrap() {
        all.extend(asks.unwrap());
    }
    all
}

async fn approve(fleet: &Fleet, asks: &BTreeMap<SliverId, Ask>) {
    for (sliver, ask) in asks {
        let approval = Approval {
            grant: Grant(*ask),
            by: "ada".to_owned(),
            at: Timestamp(7),
        };
        approvals::approve(&fleet.board, sliver, &approval).await.unwrap();
    }
}

/// Lets ten minutes pass, in which nobody is rebooted.
async fn nothing_happens(fleet: &Fleet) {
    let boots = fleet.boots();
    tokio::time::sleep(10 * minute()).await;
    assert_eq!(fleet.boots(), boots, "nobody has approved anything");
    assert!(fleet.guests().iter().all(|(runs, _)| *runs));
}

#[test]
fn a_push_waits_until_somebody_approves_just_that() {
    on_a_clock(async {
        let mut fleet = careful().await;
        fleet.push(&[web("two")]).await;
        nothing_happens(&fleet).await;
        assert!(fleet.record().await.slots.is_empty(), "nobody waits with a slot");
        let waiting = asks(&fleet).await;
        assert_eq!(
            waiting.keys().cloned().collect::<Vec<_>>(),
            [id("web/0"), id("web/1")]
        );
        assert!(
            waiting
                .values()
                .all(|ask| ask.disruption == Disruption::Interrupts)
        );
        let said = fleet.why().await.join(" ");
        // The other one waits for its wave before anything else.
        assert!(said.contains("nobody has approved that"), "{said}");

        // A later push asks for something else: what is approved now is not that.
        fleet.push(&[web("three")]).await;
        tokio::time::sleep(minute()).await;
        approve(&fleet, &waiting).await;
        nothing_happens(&fleet).await;
        let waiting = asks(&fleet).await;

        // Approved, it comes wave by wave, and nothing waits any more.
        approve(&fleet, &waiting).await;
        fleet.through().await;
        fleet.converged().await;
        assert_eq!(fleet.boots(), [2, 2]);
        tokio::time::sleep(minute()).await;
        assert_eq!(asks(&fleet).await, BTreeMap::new());

        // What disturbs nobody needs nobody's word.
        fleet.push(&[web("three"), slice("db")]).await;
        fleet.converged().await;
        fleet.end().await;
    });
}

#[test]
fn what_waits_is_mended_as_it_was() {
    on_a_clock(async {
        let mut fleet = careful().await;
        fleet.push(&[web("two")]).await;
        nothing_happens(&fleet).await;
        fleet.worlds[0].node.lose_domain(&id("web/0"));
        tokio::time::sleep(10 * minute()).await;
        assert_eq!(fleet.boots(), [2, 1], "it is started again");
        assert_eq!(asks(&fleet).await.len(), 2, "as what it was");
        fleet.end().await;
    });
}

#[test]
fn a_sliver_that_is_taken_out_stays_until_that_is_approved() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        fleet.push(&[web("one"), slice("db")]).await;
        fleet.converged().await;
        fleet.approval = Some(Disturbance::Ends);
        fleet.push(&[web("one")]).await;
        nothing_happens(&fleet).await;
        let runs = || fleet.worlds[0].node.domain_state(&id("db/0"));
        assert!(runs().is_some(), "nobody has approved that it ends");
        let waiting = asks(&fleet).await;
        assert_eq!(waiting[&id("db/0")].to, None);
        approve(&fleet, &waiting).await;
        fleet.converged().await;
        tokio::time::sleep(10 * minute()).await;
        assert_eq!(runs(), None);
        fleet.end().await;
    });
}

#[test]
fn what_was_approved_and_fails_goes_back_without_a_word() {
    on_a_clock(async {
        let mut fleet = careful().await;
        for world in &fleet.worlds {
            let fault = PortError::never("the kernel does not start");
            world.node.script("boot", Fault::Fails(fault));
        }
        fleet.push(&[web("two")]).await;
        nothing_happens(&fleet).await;
        approve(&fleet, &asks(&fleet).await).await;
        let failed = |record: &xeno_reconciler::rollout::RolloutRecord| {
            matches!(record.verdict, Verdict::Failed { .. }) && record.slots.is_empty()
        };
        fleet.until("all back", failed).await;
        tokio::time::sleep(10 * minute()).await;
        let mut boots = fleet.boots();
        boots.sort_unstable();
        assert_eq!(boots, [1, 2], "the canary has booted what it was");
        assert!(fleet.guests().iter().all(|(runs, _)| *runs));
        fleet.end().await;
    });
}

#[test]
fn a_commit_that_takes_the_place_of_an_approved_one_is_not_done_before_it_is_approved() {
    on_a_clock(async {
        // Both are canaries, so that whoever has a turn has it in the next rollout too.
        let both = |page| web(page).with("rollout: { canary: 2 }");
        let mut fleet = careful().await;
        for world in &fleet.worlds {
            world.node.script("await", Fault::Hangs);
        }
        fleet.push(&[both("two").asked()]).await;
        nothing_happens(&fleet).await;
        approve(&fleet, &asks(&fleet).await).await;
        fleet.until("a turn", |record| !record.slots.is_empty()).await;
        while fleet.boots() == [1, 1] {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        // It is waited for until it is healthy; the turn is for whatever comes next; what was approved is not.
        fleet.push(&[both("three")]).await;
        tokio::time::sleep(30 * minute()).await;
        assert!(fleet.guests().iter().all(|(runs, _)| *runs));
        let record = fleet.record().await;
        assert_eq!(
            record.verdict,
            Verdict::Rolling,
            "nobody has become what it asks for"
        );
        assert_eq!(
            record.slots.len(),
            1,
            "it is on its way, however long a person takes"
        );
        let said = fleet.why().await.join(" ");
        assert!(said.contains("nobody has approved that"), "{said}");
        approve(&fleet, &asks(&fleet).await).await;
        fleet.through().await;
        fleet.converged().await;
        fleet.end().await;
    });
}

#[test]
fn an_agent_that_starts_again_goes_on_with_what_was_approved() {
    on_a_clock(async {
        let mut fleet = careful().await;
        fleet.push(&[web("two")]).await;
        nothing_happens(&fleet).await;
        approve(&fleet, &asks(&fleet).await).await;
        for world in &mut fleet.worlds {
            world.kill().await;
            world.start_again().await;
        }
        fleet.through().await;
        fleet.converged().await;
        assert_eq!(fleet.boots(), [2, 2], "nobody was taken back in between");
        fleet.end().await;
    });
}
