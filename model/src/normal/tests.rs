use proptest::prelude::*;

use super::*;
use crate::desired::{CarriedFile, Health, Probe, Publish, Resources, SliverState, TemplateRef};
use crate::id::{ChannelName, DomainUuid, FleetName, SliverId, TemplateName};
use crate::units::{BitRate, Bytes, Millis};

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

fn web() -> DesiredSliver {
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
            memory: Bytes(128 << 20),
            cpu_weight: 256,
            cpu_cap_percent: None,
            disk: Some(Bytes(1 << 30)),
            net_rate: None,
        },
        state: SliverState::Running,
        health: Some(Health {
            probe: Probe::Tcp { port: 80 },
            interval: Millis(2000),
            threshold: 1,
            grace: Millis(120_000),
        }),
        publish: vec![Publish {
            guest: 80,
            host: 18080,
        }],
    }
}

/// Digests are stored on nodes and compared across versions of the program: they must never move by accident.
#[test]
fn digests_are_what_they_were() {
    let found = [slice_revision(&web()), stack_digest(&web()), boot_digest(&web())].map(|d| d.short());
    assert_eq!(found, ["d2f775441d73", "bf45f18a2fea", "c22a10715973"]);
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
fn memory_needs_a_boot() {
    check(
        |s| s.resources.memory = Bytes(256 << 20),
        false,
        true,
        &["memory 128MiB → 256MiB"],
    );
}

#[test]
fn tuning_and_watching_need_no_boot() {
    check(
        |s| {
            s.resources.cpu_weight = 512;
            s.resources.cpu_cap_percent = Some(50);
            s.resources.net_rate = Some(BitRate(10_000_000));
            s.health = None;
        },
        false,
        false,
        &[
            "cpu weight 256 → 512",
            "cpu cap no limit → 50%",
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
    let newer = text.replace("\"formatVersion\":1", "\"formatVersion\":2");
    assert!(matches!(
        from_json(&newer),
        Err(NormalError::Version { found: 2 })
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
    ]
}

fn any_mounts() -> impl Strategy<Value = Vec<Mount>> {
    let mount = (
        proptest::collection::vec(any_layer(), 0..4),
        prop_oneof![Just(WritableKind::Local), Just(WritableKind::ReadOnly)],
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

fn any_sliver() -> impl Strategy<Value = DesiredSliver> {
    let resources = (
        0u32..3,
        0u64..3,
        0u32..3,
        proptest::option::of(0u32..3),
        proptest::option::of(0u64..3),
        proptest::option::of(any::<u64>()),
    )
        .prop_map(|(vcpus, memory, cpu_weight, cap, disk, rate)| Resources {
            vcpus,
            memory: Bytes(memory),
            cpu_weight,
            cpu_cap_percent: cap,
            disk: disk.map(Bytes),
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
    )
        .prop_map(|(kernel, mounts, resources, state, health, publish, number)| {
            let id = SliverId { number, ..web().id };
            DesiredSliver {
                uuid: DomainUuid::of(&FleetName::new("demo").unwrap(), &id),
                id,
                kernel,
                mounts,
                resources,
                state,
                health,
                publish,
            }
        })
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
