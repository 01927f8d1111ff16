//! The fleets of `examples/specs` are valid, and mean what they look like.

use std::path::{Path, PathBuf};

use crate::support::Repository;
use xeno_model::desired::{
    CarriedContent, DesiredFleet, DesiredNode, DesiredSliver, LayerRef, MigrationPolicy, Probe, WritableKind,
};
use xeno_model::diagnostic::{Code, Paint, Report};
use xeno_model::id::{NodeName, Revision, SiteName, SliceName, SliverId};
use xeno_model::placement::{Effort, place};
use xeno_model::time;
use xeno_model::units::Bytes;

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
        fleet.tenants.len(),
        fleet.slices.len(),
    );
    assert_eq!((counts, slivers), ((3, 12, 5, 1, 8), 40));
}

/// What one node of the realistic fleet is to do.
fn node_of(name: &str) -> DesiredNode {
    let revision = Revision::new(&"4c1e9a70".repeat(5)).unwrap();
    valid("realistic").project(&NodeName::new(name).unwrap(), &revision)
}

fn sliver<'n>(node: &'n DesiredNode, name: &str) -> &'n DesiredSliver {
    &node.slivers[&SliverId::parse(name).unwrap()]
}

#[test]
fn the_realistic_fleet_is_otherwise_in_tokyo() {
    let (tokyo, cam) = (node_of("tokyo-01"), node_of("cam-01"));
    let (here, there) = (sliver(&tokyo, "www/4"), sliver(&cam, "www/0"));
    assert_eq!(
        (here.resources.vcpus, here.resources.cpu_cap_percent),
        (1, Some(100))
    );
    assert_eq!(
        (there.resources.vcpus, there.resources.cpu_cap_percent),
        (2, Some(150))
    );
    assert_eq!(here.resources.memory, there.resources.memory);
    let grace = |sliver: &DesiredSliver| sliver.health.as_ref().unwrap().grace.to_string();
    assert_eq!((grace(here), grace(there)), ("5m".to_owned(), "2m".to_owned()));
    let open = |text: &str| tokyo.site.windows.open_at(time::parse(text).unwrap());
    assert!(open("2026-11-22T17:00:00Z") && !open("2026-11-23T17:00:00Z"));
    assert!(
        cam.site
            .windows
            .open_at(time::parse("2026-11-23T17:00:00Z").unwrap())
    );
}

#[test]
fn the_realistic_fleet_has_owners_locks_and_an_end() {
    let nyc = node_of("nyc-01");
    let rules: Vec<String> = nyc
        .ruled_out
        .iter()
        .map(|(sliver, rule)| format!("{sliver}: {rule}"))
        .collect();
    assert_eq!(rules, ["archive/4: does not run the slice archive"]);
    assert!(node_of("cam-01").ruled_out.is_empty());
    let blog = node_of("cam-01");
    assert_eq!(
        sliver(&blog, "blog/0").tenant.as_ref().unwrap().as_str(),
        "riverside"
    );
    let build = node_of("nyc-03");
    assert_eq!(
        sliver(&build, "build/0").migration.policy,
        MigrationPolicy::Restart
    );
    // Where a slice says nothing, the fleet does.
    assert_eq!(sliver(&build, "build/0").rollout.bake.to_string(), "1m");
    let next = node_of("tokyo-04");
    let expires = sliver(&next, "dns-next/0").expires.map(time::rfc3339);
    assert_eq!(expires.as_deref(), Some("2027-03-31T00:00:00Z"));
}

/// Only so many of a slice or tenant may be at a site: the first by slice and number, and those that may not be there
/// anyway do not count.
#[test]
fn a_site_counts_what_it_runs() {
    let mut fleet = valid("realistic");
    let site = fleet.sites.get_mut(&SiteName::new("cam").unwrap()).unwrap();
    site.policy.caps.slice_slivers = Some(3);
    site.policy.caps.tenant_slivers = Some(1);
    site.policy.caps.sliver_memory = Some(Bytes(4 << 30));
    let policy = site.policy.clone();
    let ruled: Vec<String> = fleet
        .ruled_out(&policy)
        .iter()
        .map(|(sliver, rule)| format!("{sliver} {rule}"))
        .collect();
    assert_eq!(
        ruled,
        [
            "archive/0 gives a sliver at most 4GiB of memory, and this one asks for 8GiB",
            "archive/1 gives a sliver at most 4GiB of memory, and this one asks for 8GiB",
            "archive/2 gives a sliver at most 4GiB of memory, and this one asks for 8GiB",
            "archive/3 gives a sliver at most 4GiB of memory, and this one asks for 8GiB",
            "blog/1 runs at most 1 slivers of a tenant, and riverside asks for 2",
            "db/0 gives a sliver at most 4GiB of memory, and this one asks for 6GiB",
            "dns/3 runs at most 3 slivers of a slice, and this one asks for 4",
        ]
    );
}

/// Placing starts from the same documents, whatever the locks say.
#[test]
fn placing_needs_no_lock() {
    let mut repository = Repository::read(&specs().join("realistic"));
    let build = SliceName::new("build").unwrap();
    let ground = repository.survey().unwrap();
    assert_eq!((ground.asks.len(), ground.fixed.len()), (1, 34));
    assert_eq!(ground.asks[&build].previous.len(), 6);
    assert!(
        place(&ground, Effort::Needed)[&build]
            .as_ref()
            .unwrap()
            .moves
            .is_empty()
    );
    repository.files.remove("placement/build.lock.yaml");
    assert_eq!(repository.resolve().unwrap_err()[0].code, Code::Placement);
    let ground = repository.survey().unwrap();
    assert!(ground.asks[&build].previous.is_empty());
    // A slice that has another name now is where it was.
    let lock = "apiVersion: xenoslice/v1\nkind: Placement\nmetadata: { name: make }\nspec: { slivers: { make/0: nyc-04 } }\n";
    repository.put("placement/make.lock.yaml", lock);
    let text = String::from_utf8(repository.files["slices/build.yaml"].1.clone()).unwrap();
    repository.put(
        "slices/build.yaml",
        text.replace("{ name: build }", "{ name: build, movedFrom: make }"),
    );
    assert_eq!(
        repository.survey().unwrap().asks[&build].previous[&0].as_str(),
        "nyc-04"
    );
}
