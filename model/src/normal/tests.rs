use proptest::prelude::*;

use super::*;
use crate::desired::{
    CHECKPOINTS, CarriedFile, Health, Matching, Migration, MigrationPolicy, OnFailure, Probe, Publish,
    Resources, RollbackData, Rollout, Share, SliverState, Start, TemplateRef, Wave,
};
use crate::id::{ChannelName, DomainUuid, FleetName, SliverId, TemplateName, TenantName, Timestamp};
use crate::observed::DomainState;
use crate::units::{BitRate, ByteRate, Bytes, Millis};

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn template(name: &str, channel: Option<&str>, content: u8) -> TemplateRef {
    TemplateRef {
        name: TemplateName::new(name).unwrap(),
        channel: channel.map(|c| ChannelName::new(c).unwrap()),
        digest: digest(content),
        sources: vec!["file:///srv/templates".into()],
    }
}

pub(super) fn web() -> DesiredSliver {
    let id = SliverId::parse("web/0").unwrap();
    DesiredSliver {
        uuid: DomainUuid::of(&FleetName::new("demo").unwrap(), &id),
        id,
        kernel: template("debian-web", Some("current"), 1),
        mounts: vec![Mount {
            path: "/".into(),
            layers: vec![
                LayerRef::Files { digest: digest(9) },
                LayerRef::Directory {
                    path: "/srv/overlays/acme".into(),
                },
                LayerRef::Template(template("debian-web", Some("current"), 1)),
            ],
            writable: WritableKind::Local,
        }],
        resources: Resources {
            vcpus: 1,
            vcpus_max: None,
            memory: Bytes(128 << 20),
            memory_max: None,
            cpu_weight: 256,
            cpu_cap_percent: None,
            disk: Some(Bytes(1 << 30)),
            inodes: None,
            net_rate: None,
        },
        state: SliverState::Running,
        health: Some(Health {
            probe: Probe::Tcp { port: 80 },
            interval: Millis(2000),
            threshold: 1,
            grace: Millis(120_000),
        }),
        addresses: vec![],
        publish: vec![Publish {
            guest: 80,
            host: 18080,
        }],
        tenant: None,
        start: Start::Boot,
        expires: None,
        moved_from: None,
        rollout: Rollout::default(),
        migration: Migration::default(),
        failover: false,
        rollback: RollbackData::Keep,
        checkpoints: CHECKPOINTS,
    }
}

/// Digests are stored on nodes and compared across versions of the program: they must never move by accident.
#[test]
fn digests_are_what_they_were() {
    let found = [slice_revision(&web()), stack_digest(&web()), boot_digest(&web())].map(|d| d.short());
    assert_eq!(found, ["5642415069ff", "bf45f18a2fea", "079595cf2283"]);
}

#[test]
fn a_set_of_files_is_its_paths_modes_and_contents() {
    let set = |path: &str, executable, content| FileSet {
        files: [(path.to_owned(), CarriedFile { executable, content })].into(),
    };
    let text = || CarriedContent::Inline("x".into());
    let blob = |size| CarriedContent::Blob {
        id: "0".repeat(40),
        size,
    };
    let sets = [
        set("a", false, text()),
        set("b", false, text()),
        set("a", true, text()),
        set("a", false, blob(1)),
        set("a", false, blob(2)),
    ];
    let digests: std::collections::BTreeSet<Digest> = sets.iter().map(file_set_digest).collect();
    assert_eq!(digests.len(), sets.len());
    assert_eq!(file_set_digest(&sets[0]).short(), "6b74813c8b8a");
}

/// Applies one change and says which digests move and how the difference reads.
fn check(change: impl FnOnce(&mut DesiredSliver), stack_moves: bool, boot_moves: bool, phrases: &[&str]) {
    let (before, mut after) = (web(), web());
    change(&mut after);
    assert_ne!(slice_revision(&before), slice_revision(&after));
    assert_eq!(
        stack_digest(&before) != stack_digest(&after),
        stack_moves,
        "stack digest"
    );
    assert_eq!(
        boot_digest(&before) != boot_digest(&after),
        boot_moves,
        "boot digest"
    );
    let found: Vec<String> = differences(&before, &after)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, phrases);
}

#[test]
fn memory_and_ports_need_no_boot() {
    check(
        |s| {
            s.resources.memory = Bytes(256 << 20);
            s.resources.memory_max = Some(Bytes(512 << 20));
            s.publish[0].host = 18081;
        },
        false,
        false,
        &[
            "memory 128MiB → 256MiB",
            "room to grow none → up to 512MiB",
            "published ports 18080:80 → 18081:80",
        ],
    );
}

#[test]
fn more_cpus_need_a_boot() {
    check(|s| s.resources.vcpus = 2, false, true, &["vcpus 1 → 2"]);
    let more = |s: &mut DesiredSliver| s.resources.vcpus_max = Some(2);
    check(more, false, true, &["vcpus to come none → up to 2"]);
}

#[test]
fn cpus_up_to_the_most_need_none() {
    let mut before = web();
    before.resources.vcpus_max = Some(2);
    let mut after = before.clone();
    after.resources.vcpus = 2;
    assert_eq!(boot_digest(&before), boot_digest(&after));
    assert_ne!(slice_revision(&before), slice_revision(&after));
    // Where the most is what it has, it is what it always was.
    let mut bounded = web();
    bounded.resources.vcpus_max = Some(1);
    assert_eq!(boot_digest(&bounded), boot_digest(&web()));
}

#[test]
fn how_it_is_managed_disturbs_nothing() {
    check(
        |s| {
            s.tenant = Some(TenantName::new("acme").unwrap());
            s.start = Start::Resume;
            s.expires = Some(Timestamp(1_798_675_200_000));
            s.moved_from = Some(SliverId::parse("www/0").unwrap());
            s.rollout.canary = 0;
            s.migration.downtime = Millis(1);
            s.failover = true;
            s.rollback = RollbackData::Restore;
            s.checkpoints = 1;
        },
        false,
        false,
        &[
            "owned by the fleet → acme",
            "start boot → resume",
            "expires 2026-12-31T00:00:00Z",
            "was www/0 before",
            "is rolled out otherwise",
            "moves to other nodes otherwise",
            "another node may take it over",
            "data in a rollback keep → restore",
            "checkpoints kept 3 → 1",
        ],
    );
}

#[test]
fn writes_go_elsewhere() {
    let url = || "nfs://store.example/acme/web-0".to_owned();
    check(
        |s| {
            s.mounts[0].writable = WritableKind::Remote { url: url() };
            s.mounts[0].layers[1] = LayerRef::Remote { url: url() };
        },
        true,
        true,
        &[
            "/ loses a layer: directory /srv/overlays/acme",
            "/ has a new layer: remote nfs://store.example/acme/web-0",
            "writes to / local → nfs://store.example/acme/web-0",
        ],
    );
}

/// What an agent of the first format stored of [`web`].
const WEB_V1: &str = r#"{"formatVersion":1,"id":"web/0","uuid":"e85abf2d-cbd1-8cc0-b96f-921594771ece","kernel":{"name":"debian-web","channel":"current","digest":"sha256:0101010101010101010101010101010101010101010101010101010101010101","sources":["file:///srv/templates"]},"mounts":[{"path":"/","layers":[{"files":{"digest":"sha256:0909090909090909090909090909090909090909090909090909090909090909"}},{"directory":{"path":"/srv/overlays/acme"}},{"template":{"name":"debian-web","channel":"current","digest":"sha256:0101010101010101010101010101010101010101010101010101010101010101","sources":["file:///srv/templates"]}}],"writable":"local"}],"resources":{"vcpus":1,"memoryBytes":134217728,"cpuWeight":256,"cpuCapPercent":null,"diskBytes":1073741824,"netBitsPerSecond":null},"state":"running","health":{"probe":{"tcp":{"port":80}},"intervalMs":2000,"threshold":1,"graceMs":120000},"publish":[{"guest":80,"host":18080}]}"#;

/// The digest under which it started it.
const WEB_BOOT_V1: &str = "sha256:c22a107159734e2af120b4b0487f761365eec5de1fe2cac4f43caebf614fc80d";

/// An upgraded agent finds what it has applied, and the guests that run, as it left them.
#[test]
fn what_an_earlier_version_stored_means_the_same() {
    assert_eq!(from_json(WEB_V1).unwrap(), web());
    let more = WEB_V1.replacen('{', "{\"tenant\":null,", 1);
    assert!(matches!(from_json(&more), Err(NormalError::Json(_))));
}

#[test]
fn a_guest_that_an_earlier_version_started_is_recognised() {
    let booted = Digest::parse(WEB_BOOT_V1).unwrap();
    let domain = |booted| ObservedDomain {
        uuid: web().uuid,
        state: DomainState::Running,
        booted,
        memory_mib: 128,
        memory_max_mib: 128,
        limits: Default::default(),
        vcpus: 1,
        publish: web().publish,
    };
    let (mut larger, mut other) = (web(), web());
    larger.resources.memory = Bytes(512 << 20);
    larger.publish.clear();
    larger.resources.cpu_weight = 1;
    other.resources.vcpus = 2;
    assert_eq!(current_boot(&domain(booted), [&web()]), boot_digest(&web()));
    // Also when more has been asked for since: memory and ports are what it was started with.
    assert_eq!(
        current_boot(&domain(booted), [&other, &larger]),
        boot_digest(&web())
    );
    assert_eq!(current_boot(&domain(booted), [&other]), booted);
    assert_eq!(current_boot(&domain(digest(7)), [&web()]), digest(7));
}

#[test]
fn tuning_and_watching_need_no_boot() {
    check(
        |s| {
            s.resources.cpu_weight = 512;
            s.resources.cpu_cap_percent = Some(50);
            s.resources.net_rate = Some(BitRate(10_000_000));
            s.resources.inodes = Some(5000);
            s.health = None;
        },
        false,
        false,
        &[
            "cpu weight 256 → 512",
            "cpu cap no limit → 50%",
            "inodes no limit → 5000",
            "network rate no limit → 10Mbit",
            "health is no longer asked",
        ],
    );
}

#[test]
fn a_channel_that_moves_changes_the_stack_and_the_kernel() {
    check(
        |s| {
            s.kernel.digest = digest(2);
            s.mounts[0].layers[2] = LayerRef::Template(template("debian-web", Some("current"), 2));
        },
        true,
        true,
        &[
            "debian-web/current moved 010101010101 → 020202020202 (kernel)",
            "debian-web/current moved 010101010101 → 020202020202 (/)",
        ],
    );
}

#[test]
fn another_name_for_the_same_content_changes_nothing_that_runs() {
    check(
        |s| s.mounts[0].layers[2] = LayerRef::Template(template("debian-web", None, 1)),
        false,
        false,
        &["debian-web/current is now named debian-web@sha256:010101010101… (/)"],
    );
}

#[test]
fn layers_come_and_go_and_change() {
    check(
        |s| {
            s.mounts[0].layers[0] = LayerRef::Files { digest: digest(8) };
            s.mounts[0].layers[1] = LayerRef::Directory {
                path: "/srv/overlays/new".into(),
            };
        },
        true,
        true,
        &[
            "files in / changed 090909090909 → 080808080808",
            "/ loses a layer: directory /srv/overlays/acme",
            "/ has a new layer: directory /srv/overlays/new",
        ],
    );
}

#[test]
fn text_of_another_version_or_with_more_fields_is_refused() {
    let text = to_json(&web());
    let newer = text.replace("\"formatVersion\":2", "\"formatVersion\":3");
    assert!(matches!(
        from_json(&newer),
        Err(NormalError::Version { found: 3 })
    ));
    let more = text.replacen('{', "{\"more\":1,", 1);
    assert!(matches!(from_json(&more), Err(NormalError::Json(_))));
    let forged = text.replace("web/0", "../0");
    assert!(matches!(
        from_json(&forged),
        Err(NormalError::Name { field: "id", .. })
    ));
}

fn any_template() -> impl Strategy<Value = TemplateRef> {
    (
        "[a-z]{1,3}",
        proptest::option::of("[a-z]{1,2}"),
        0u8..3,
        proptest::collection::vec("\\PC{0,8}", 0..3),
    )
        .prop_map(|(name, channel, content, sources)| TemplateRef {
            sources,
            ..template(&name, channel.as_deref(), content)
        })
}

fn any_layer() -> impl Strategy<Value = LayerRef> {
    prop_oneof![
        any_template().prop_map(LayerRef::Template),
        "/\\PC{0,6}".prop_map(|path| LayerRef::Directory { path }),
        (0u8..3).prop_map(|n| LayerRef::Files { digest: digest(n) }),
        "nfs://\\PC{0,6}".prop_map(|url| LayerRef::Remote { url }),
    ]
}

fn any_mounts() -> impl Strategy<Value = Vec<Mount>> {
    let mount = (
        proptest::collection::vec(any_layer(), 0..4),
        prop_oneof![
            Just(WritableKind::Local),
            Just(WritableKind::ReadOnly),
            Just(WritableKind::Memory),
            "nfs://\\PC{0,2}".prop_map(|url| WritableKind::Remote { url }),
        ],
    );
    // Paths of mounts are unique in a valid sliver.
    (
        proptest::collection::vec(mount, 1..4),
        Just(vec!["/", "/var", "/srv", "/home"]).prop_shuffle(),
    )
        .prop_map(|(mounts, paths)| {
            let mount = |((layers, writable), path): (_, &str)| Mount {
                path: path.into(),
                layers,
                writable,
            };
            mounts.into_iter().zip(paths).map(mount).collect()
        })
}

fn any_health() -> impl Strategy<Value = Option<Health>> {
    let probe = prop_oneof![
        (any::<u16>(), "/\\PC{0,6}", 100u16..600).prop_map(|(port, path, expect)| Probe::Http {
            port,
            path,
            expect
        }),
        any::<u16>().prop_map(|port| Probe::Tcp { port }),
        "\\PC{0,6}".prop_map(|marker| Probe::Console { marker }),
    ];
    proptest::option::of((probe, any::<u64>(), any::<u32>(), any::<u64>()).prop_map(
        |(probe, interval, threshold, grace)| Health {
            probe,
            interval: Millis(interval),
            threshold,
            grace: Millis(grace),
        },
    ))
}

fn any_share() -> impl Strategy<Value = Share> {
    prop_oneof![
        (0u32..3).prop_map(Share::Count),
        (0u8..3).prop_map(Share::Percent)
    ]
}

fn any_wave() -> impl Strategy<Value = Wave> {
    let labels = proptest::collection::btree_map("[a-b]", "[a-b]", 1..3);
    prop_oneof![
        any_share().prop_map(Wave::Share),
        labels.prop_map(|labels| Wave::Match(Matching(labels)))
    ]
}

fn any_rollout() -> impl Strategy<Value = Rollout> {
    let on_failure = prop_oneof![Just(OnFailure::Rollback), Just(OnFailure::Hold)];
    let waves = proptest::collection::vec(any_wave(), 0..3);
    (
        0u32..2,
        waves,
        any_share(),
        any_share(),
        any_share(),
        0u64..2,
        on_failure,
    )
        .prop_map(
            |(canary, waves, max_unavailable, max_failed, max_unreachable, bake, on_failure)| Rollout {
                canary,
                waves,
                max_unavailable,
                max_failed,
                max_unreachable,
                bake: Millis(bake),
                on_failure,
            },
        )
}

fn any_migration() -> impl Strategy<Value = Migration> {
    let policies = vec![
        MigrationPolicy::Live,
        MigrationPolicy::Suspend,
        MigrationPolicy::Restart,
    ];
    let bandwidth = proptest::option::of(any::<u64>().prop_map(ByteRate));
    (proptest::sample::select(policies), 0u64..2, bandwidth).prop_map(|(policy, downtime, bandwidth)| {
        Migration {
            policy,
            downtime: Millis(downtime),
            bandwidth,
        }
    })
}

/// What is managed rather than run: owner, start, expiry, former name, data in a rollback.
fn managed() -> impl Strategy<Value = DesiredSliver> {
    let rollback = (
        prop_oneof![Just(RollbackData::Keep), Just(RollbackData::Restore)],
        2u32..5,
        any::<bool>(),
    );
    (
        proptest::option::of("[a-z]{1,2}"),
        prop_oneof![Just(Start::Boot), Just(Start::Resume)],
        proptest::option::of(any::<u64>().prop_map(Timestamp)),
        proptest::option::of(0u32..3),
        any_rollout(),
        any_migration(),
        rollback,
    )
        .prop_map(
            |(tenant, start, expires, moved_from, rollout, migration, (rollback, checkpoints, failover))| {
                DesiredSliver {
                    tenant: tenant.map(|name| TenantName::new(&name).unwrap()),
                    start,
                    expires,
                    moved_from: moved_from.map(|number| SliverId::new(web().id.slice, number)),
                    rollout,
                    migration,
                    rollback,
                    checkpoints,
                    failover,
                    ..web()
                }
            },
        )
}

fn any_sliver() -> impl Strategy<Value = DesiredSliver> {
    let resources = (
        0u32..3,
        0u64..3,
        0u32..3,
        proptest::option::of(0u32..3),
        proptest::option::of(0u64..3),
        proptest::option::of(any::<u64>()),
        proptest::option::of(0u64..3),
    )
        .prop_map(|(vcpus, memory, cpu_weight, cap, disk, rate, most)| Resources {
            vcpus,
            vcpus_max: cap,
            memory: Bytes(memory),
            memory_max: most.map(Bytes),
            cpu_weight,
            cpu_cap_percent: cap,
            disk: disk.map(Bytes),
            inodes: disk.map(|disk| disk % 2 + 1),
            net_rate: rate.map(BitRate),
        });
    let state = prop_oneof![
        Just(SliverState::Running),
        Just(SliverState::Suspended),
        Just(SliverState::Stopped)
    ];
    let publish = (any::<u16>(), any::<u16>()).prop_map(|(guest, host)| Publish { guest, host });
    (
        any_template(),
        any_mounts(),
        resources,
        state,
        any_health(),
        proptest::collection::vec(publish, 0..3),
        0u32..2,
        managed(),
    )
        .prop_map(
            |(kernel, mounts, resources, state, health, publish, number, managed)| {
                let id = SliverId::new(web().id.slice, number);
                DesiredSliver {
                    uuid: DomainUuid::of(&FleetName::new("demo").unwrap(), &id),
                    id,
                    kernel,
                    mounts,
                    resources,
                    state,
                    health,
                    publish,
                    ..managed
                }
            },
        )
}

proptest! {
    #[test]
    fn text_goes_there_and_back(sliver in any_sliver()) {
        let text = to_json(&sliver);
        let back = from_json(&text).unwrap();
        prop_assert_eq!(&back, &sliver);
        prop_assert_eq!(to_json(&back), text);
        prop_assert_eq!(slice_revision(&back), slice_revision(&sliver));
    }

    #[test]
    fn differences_are_empty_exactly_between_equals(a in any_sliver(), b in any_sliver()) {
        prop_assert_eq!(differences(&a, &b).is_empty(), a == b);
        prop_assert_eq!(slice_revision(&a) == slice_revision(&b), a == b);
        prop_assert!(differences(&a, &a).is_empty());
        if stack_digest(&a) != stack_digest(&b) {
            prop_assert_ne!(boot_digest(&a), boot_digest(&b));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _ = from_json(&text);
    }
}
