//! What the loop does, in figures.

use super::*;
use crate::figures::tests::parse;

#[tokio::test(start_paused = true)]
async fn what_was_done_and_what_waits_is_counted() {
    let world = World::started();
    let figures = async || parse(&world.running().handle.figures().await.unwrap().text());
    let at_first = figures().await;
    assert_eq!(at_first.get("xeno_agent_generation"), Some(&0.0));
    assert!(!at_first.contains_key("xeno_agent_source_age_seconds"));

    let taken = PortError::later("port 80 is in use");
    world.node.script("boot", Fault::Fails(taken));
    let mut large = sliver("large/0");
    large.resources.memory = Bytes(1 << 50);
    world.push(commit(1, [sliver("web/0"), large])).await;
    world
        .until("one to be up and one to wait", |status| {
            let of = |id: &str| {
                status
                    .slivers
                    .iter()
                    .find(|one| one.id == id)
                    .map(|one| one.phase)
            };
            of("web/0") == Some(SliverPhase::Settled) && of("large/0") == Some(SliverPhase::Waiting)
        })
        .await;
    let figures = figures().await;
    let check = |series: &str, value: f64| {
        assert_eq!(figures.get(series), Some(&value), "{series} in {figures:#?}");
    };
    check("xeno_agent_slivers{phase=\"settled\"}", 1.0);
    check("xeno_agent_slivers{phase=\"waiting\"}", 1.0);
    check("xeno_agent_waiting_slivers{reason=\"noRoom\"}", 1.0);
    check("xeno_agent_actions_total{kind=\"boot\",outcome=\"failed\"}", 1.0);
    check("xeno_agent_actions_total{kind=\"boot\",outcome=\"done\"}", 1.0);
    check(
        "xeno_agent_actions_total{kind=\"export\",outcome=\"failed\"}",
        0.0,
    );
    check("xeno_agent_generation", 1.0);
    check("xeno_agent_file_server_up", 1.0);
    check("xeno_agent_state_up", 1.0);
    check("xeno_agent_blind_facets", 0.0);
    assert!(
        figures["xeno_agent_runs_total{outcome=\"done\"}"] >= 1.0,
        "{figures:#?}"
    );
    // However many slivers there are, there are no more series.
    assert!(
        figures.keys().all(|series| !series.contains("web")),
        "{figures:#?}"
    );
}
