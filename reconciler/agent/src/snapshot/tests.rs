use std::collections::BTreeSet;

use xeno_model::desired::{Access, Publish, Remote};
use xeno_model::id::{Digest, DomainUuid, Epoch, FleetName, MigrationId, NodeName, SliceName};
use xeno_model::observed::{
    Ability, DomainState, Domains, HealthVerdict, LayerLimits, Leasing, Limits, ObservedDomain,
    ObservedImage, ObservedStorage, RemoteState, Seen, Stranger,
};
use xeno_model::units::Bytes;
use xeno_reconciler::freeze::FreezeScope;

use super::*;

fn id(text: &str) -> SliverId {
    SliverId::parse(text).unwrap()
}

fn everything() -> Snapshot {
    let (web, db) = (id("web/0"), id("db/1"));
    let uuid = DomainUuid::of(&FleetName::new("acme").unwrap(), &web);
    let publish = vec![Publish {
        guest: 80,
        host: 8080,
    }];
    let domain = |state| ObservedDomain {
        uuid,
        state,
        booted: Digest::of(b"boot"),
        memory_mib: 128,
        memory_max_mib: 256,
        vcpus: 2,
        limits: Limits::default(),
        publish: publish.clone(),
    };
    let image = ObservedImage {
        uuid,
        boot: Digest::of(b"boot"),
        memory_mib: 128,
        memory_max_mib: 256,
        publish: publish.clone(),
        mark: Some(Digest::of(b"disk")),
        bytes: 1 << 27,
        at: Timestamp(7),
    };
    let states = [
        DomainState::Running,
        DomainState::Paused,
        DomainState::Stopping,
        DomainState::Crashed,
        DomainState::Kept { epoch: Epoch(4) },
        DomainState::Copy {
            migration: MigrationId([5; 16]),
        },
    ];
    let ours = (0..)
        .zip(states)
        .map(|(n, state)| (id(&format!("web/{n}")), domain(state)));
    let domains = Domains {
        ours: ours.collect(),
        images: BTreeMap::from([(db.clone(), image)]),
        able: BTreeSet::from([Ability::Memory, Ability::Suspend]),
        strangers: vec![Stranger {
            name: "win".to_owned(),
            memory_mib: 4096,
        }],
    };
    let storage = ObservedStorage {
        on_disk: true,
        open: Some(Epoch(3)),
        limits: BTreeSet::from([
            LayerLimits::default(),
            LayerLimits {
                bytes: Some(Bytes(5)),
                inodes: Some(6),
            },
        ]),
        shares: BTreeSet::from([256, 7]),
        checkpoints: BTreeMap::from([("before".to_owned(), Timestamp(8))]),
        stack: Some(Digest::of(b"stack")),
        exported: true,
        parked: true,
        lease: Leasing::Lapsed,
        bytes: 9,
        tombstone: Some(Timestamp(8)),
        mark: Some(Digest::of(b"mark")),
    };
    let verdicts = [
        HealthVerdict::Healthy,
        HealthVerdict::Starting,
        HealthVerdict::Unhealthy { why: "no".to_owned() },
    ];
    let applied = AppliedSliver {
        desired: crate::event_loop::tests::sliver("web/0"),
        epoch: Epoch(3),
        complete: false,
        at: Timestamp(9),
    };
    let freeze = |scope, until| Freeze {
        scope,
        reason: "audit".to_owned(),
        by: "eve".to_owned(),
        since: Timestamp(1),
        until,
    };
    Snapshot {
        observed: ObservedNode {
            node: NodeName::new("cam-01").unwrap(),
            at: Timestamp(11),
            domains: Seen::Known(domains),
            storage: Seen::Known(BTreeMap::from([
                (web.clone(), Seen::Known(storage)),
                (db.clone(), Seen::Known(ObservedStorage::default())),
                (
                    db.beside(),
                    Seen::Unknown {
                        why: "permission denied".to_owned(),
                    },
                ),
            ])),
            templates: Seen::Known(BTreeSet::from([Digest::of(b"t")])),
            file_layers: Seen::Unknown {
                why: "nobody answers".to_owned(),
            },
            remotes: Seen::Known(BTreeMap::from([
                (
                    Remote::to_read("nfs://store.example/a"),
                    RemoteState::Silent {
                        since: Timestamp(5),
                        why: "it hangs".to_owned(),
                    },
                ),
                (
                    Remote {
                        url: "nfs://store.example/b".to_owned(),
                        access: Access::ReadWrite,
                    },
                    RemoteState::Answers,
                ),
            ])),
            health: (0..)
                .zip(verdicts)
                .map(|(n, verdict)| (id(&format!("web/{n}")), verdict))
                .collect(),
        },
        applied: BTreeMap::from([(web.clone(), applied)]),
        revision: Some(Revision::new(&"ab".repeat(20)).unwrap()),
        generation: Generation(4),
        applied_generation: Generation(3),
        removed_recently: 2,
        tombstone_ms: 99,
        restarts: BTreeMap::from([(web.clone(), vec![Timestamp(1), Timestamp(2)])]),
        freezes: vec![
            freeze(FreezeScope::Node, None),
            freeze(
                FreezeScope::Slice(SliceName::new("web").unwrap()),
                Some(Timestamp(5)),
            ),
            freeze(FreezeScope::Sliver(db), None),
        ],
    }
}

#[test]
fn what_is_written_reads_back() {
    let snapshot = everything();
    let text = snapshot.to_json().to_string();
    assert_eq!(Snapshot::from_json(&text).unwrap(), snapshot);
}

#[test]
fn what_is_no_snapshot_is_refused_with_the_reason() {
    let check = |text: &str, expected: &str| {
        let error = Snapshot::from_json(text).unwrap_err();
        let chain = xeno_state::error::chain(&error);
        assert!(chain.contains(expected), "{chain}");
    };
    check("", "EOF");
    check("{}", "missing field");
    check("{\"formatVersion\": 2}", "version 2, this program knows 1");
    let mut value = everything().to_json();
    value["node"] = "Not A Name".into();
    check(&value.to_string(), "the node");
    let mut value = everything().to_json();
    value["applied"]["web/0"]["desired"] = serde_json::json!({});
    check(&value.to_string(), "applied of web/0");
    let mut value = everything().to_json();
    value["templates"]["known"][0] = "sha256:nothing".into();
    check(&value.to_string(), "a digest");
}
