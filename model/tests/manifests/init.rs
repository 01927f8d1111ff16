//! What `xeno init` writes is a fleet that works.

use xeno_model::desired::{DesiredFleet, SliverState};
use xeno_model::diagnostic::{Paint, Report};
use xeno_model::id::{Digest, FleetName, NodeName, SliceName};
use xeno_model::init::scaffold;

use crate::support::Repository;

fn fleet(template: Option<Digest>) -> DesiredFleet {
    let files = scaffold(
        &FleetName::new("mine").unwrap(),
        &NodeName::new("laptop").unwrap(),
        template,
    );
    let mut repository = Repository::default();
    for (path, text) in files {
        assert!(
            text.lines()
                .all(|line| line.len() <= 120 && !line.contains('@') || line.contains("@sha256:…")),
            "{path}"
        );
        repository.put(&path, text);
    }
    repository
        .resolve()
        .unwrap_or_else(|findings| panic!("{}", Report::new(findings).render(Paint::Plain)))
}

#[test]
fn a_new_fleet_is_valid_and_asks_for_nothing_that_is_not_there() {
    let fleet = fleet(None);
    let (_, web) = &fleet.slices[&SliceName::new("web").unwrap()].slivers[&0];
    assert_eq!(web.state, SliverState::Stopped);
}

#[test]
fn with_a_template_it_runs() {
    let digest = Digest::of(b"template");
    let fleet = fleet(Some(digest));
    let (node, web) = &fleet.slices[&SliceName::new("web").unwrap()].slivers[&0];
    assert_eq!(
        (node.as_str(), web.state, web.kernel.digest),
        ("laptop", SliverState::Running, digest)
    );
}
