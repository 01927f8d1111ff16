//! The fleets of `examples/specs` are valid, and mean what they look like.

use std::path::{Path, PathBuf};

use crate::support::Repository;
use xeno_model::desired::{CarriedContent, DesiredFleet, LayerRef, Probe, WritableKind};
use xeno_model::diagnostic::{Paint, Report};
use xeno_model::id::{NodeName, SliceName};

pub(crate) fn specs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/specs")
}

fn valid(name: &str) -> DesiredFleet {
    Repository::read(&specs().join(name))
        .resolve()
        .unwrap_or_else(|findings| panic!("{}", Report::new(findings).render(Paint::Plain)))
}

#[test]
fn every_example_is_valid() {
    let mut count = 0;
    for entry in std::fs::read_dir(specs()).unwrap() {
        valid(entry.unwrap().file_name().to_str().unwrap());
        count += 1;
    }
    assert!(count >= 2, "found {count} examples");
}

#[test]
fn the_small_fleet_means_what_it_says() {
    let fleet = valid("small");
    let (node, web) = &fleet.slices[&SliceName::new("web").unwrap()].slivers[&0];
    assert_eq!(node, &NodeName::new("laptop").unwrap());
    assert_eq!(web.resources.memory.to_string(), "128MiB");
    assert_eq!(web.resources.cpu_weight, 256);
    assert_eq!((web.publish[0].guest, web.publish[0].host), (80, 18080));
    assert!(
        matches!(&web.health.as_ref().unwrap().probe, Probe::Http { port: 80, path, expect: 200 } if path == "/")
    );
    assert_eq!(web.mounts[0].writable, WritableKind::Local);
    let LayerRef::Files { digest } = &web.mounts[0].layers[0] else {
        panic!("the nearest layer is the files");
    };
    let files = &fleet.files[digest].files;
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        ["etc/motd", "var/www/html/index.html"]
    );
    assert!(
        matches!(&files["var/www/html/index.html"].content, CarriedContent::Blob { size, .. } if *size > 0)
    );
    assert!(
        matches!(&web.mounts[0].layers[1], LayerRef::Template(t) if t.to_string() == "debian-web/current")
    );
}

#[test]
fn the_realistic_fleet_has_its_size() {
    let fleet = valid("realistic");
    let slivers: usize = fleet.slices.values().map(|slice| slice.slivers.len()).sum();
    let counts = (
        fleet.sites.len(),
        fleet.nodes.len(),
        fleet.templates.len(),
        fleet.slices.len(),
    );
    assert_eq!((counts, slivers), ((3, 12, 5, 8), 40));
}
