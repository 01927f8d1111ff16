//! Commands that read and change what stands on the board of a fleet: a real one, in a file.

use std::time::Duration;

use xeno_agent::source::{Manifests, Reader};
use xeno_model::desired::Rollout;
use xeno_model::id::{Digest, Epoch, MigrationId, NodeName, Revision, SliceName, SliverId, Timestamp};
use xeno_model::normal::rollout_revision;
use xeno_reconciler::approval::{Ask, Grant};
use xeno_reconciler::change::Disruption;
use xeno_reconciler::rollout::{Condition, RolloutKey, Signed, SliverSummary, Verdict, begin};
use xeno_reconciler::tenure::{Act, BootId, Holder, Memory, Record};
use xeno_state::board::{AnyBoard, Board, BoardConfig, Txn, Write};
use xeno_state::holders::{self, Known};
use xeno_state::presence::Presence;
use xeno_state::{approvals, rollouts, summaries};

use crate::world::{Said, World};

/// A fleet, a board, and agent.toml that names it.
struct Fleet {
    world: World,
    board: AnyBoard,
    runtime: tokio::runtime::Runtime,
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn web() -> SliceName {
    SliceName::new("web").expect("a name")
}

fn sliver(text: &str) -> SliverId {
    SliverId::parse(text).expect("a sliver")
}

fn held(by: &str, epoch: u64) -> Holder {
    Holder {
        node: Some(node(by)),
        boot: BootId([1; 16]),
        epoch: Epoch(epoch),
        memory: None,
        failover: false,
    }
}

impl Fleet {
    fn new() -> Self {
        let world = World::with_hook();
        let path = world.path("work/board.db");
        let text =
            "node = \"node-a\"\nrepository = \"repo.git\"\n[board]\nkind = \"sqlite\"\npath = \"board.db\"\n";
        std::fs::write(world.path("work/agent.toml"), text).expect("written");
        let board = BoardConfig::Sqlite { path }.open().expect("a board");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        Self {
            world,
            board,
            runtime,
        }
    }

    fn read(&self, of: &str) -> Known {
        self.runtime
            .block_on(async { holders::read(&self.board, &sliver(of)).await })
            .expect("the board answers")
    }

    fn record(&self, of: &str) -> Option<Holder> {
        match self.read(of).record {
            Record::Is(holder) => Some(holder),
            Record::Absent | Record::Unknown => None,
        }
    }

    fn give(&self, of: &str, to: &Holder) {
        let known = self.read(of);
        let of = sliver(of);
        let changed = holders::change(&self.board, &of, &known, to, Act::Claim);
        self.runtime.block_on(changed).expect("the board answers");
    }

    /// Gives a node a sign of life.
    fn wake(&self, name: &str) {
        let says = Presence {
            boot: BootId([1; 16]),
            address: None,
            certificate: Digest::of(b"its own"),
        };
        self.runtime.block_on(async {
            let lease = self.board.grant(Duration::from_secs(600)).await.expect("a lease");
            let key = holders::sign_of_life(&node(name)).expect("a key");
            let txn = Txn::put(key, says.encode().expect("short"), Some(lease.id));
            self.board.commit(&txn).await.expect("the board answers");
        });
    }

    /// Takes it away.
    fn lose(&self, name: &str) {
        let key = holders::sign_of_life(&node(name)).expect("a key");
        let txn = Txn::new(Vec::new(), vec![Write::Delete(key)]).expect("a transaction");
        self.runtime
            .block_on(self.board.commit(&txn))
            .expect("the board answers");
    }

    /// The commit that a name stands for, and the revision of `web` there.
    fn web_at(&self, name: &str) -> RolloutKey {
        let said = self.world.git("work", &["rev-parse", name]);
        let commit = Revision::new(said.out.trim()).expect("a commit");
        let snapshot = Reader::open(&self.world.path("work"))
            .and_then(|mut reader| reader.read(&commit, ""))
            .expect("a commit of manifests");
        let fleet = Manifests::default().fleet(&snapshot).expect("without mistakes");
        let slivers = fleet.slices[&web()].slivers.values();
        let revision = rollout_revision(slivers.map(|(_, sliver)| sliver));
        RolloutKey { revision, commit }
    }

    /// Has a node say of a sliver as which revision it stands.
    fn say(&self, name: &str, of: &str, revision: Digest, condition: Condition) {
        let since = Timestamp(1_700_000_000_000);
        let summary = SliverSummary {
            revision,
            condition,
            since,
        };
        let said = [(sliver(of), summary)].into();
        self.runtime
            .block_on(summaries::write(&self.board, &node(name), &said))
            .expect("the board answers");
    }

    fn check(&self, words: &[&str], code: i32, parts: &[&str]) -> Said {
        let words = [words, &["--config", "agent.toml"]].concat();
        let said = self.world.xeno("work", &words);
        assert_eq!(said.code, Some(code), "{words:?}: {said:?}");
        for part in parts {
            // Messages are folded.
            let all = said.all().split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(all.contains(part), "{words:?}: no {part:?} in\n{}", said.all());
        }
        said
    }
}

#[test]
fn a_lost_holder_is_abandoned_once_it_shows_no_life() {
    let fleet = Fleet::new();
    fleet.check(
        &["abandon", "web/0", "--yes"],
        1,
        &["the board knows no holder of web/0", "xeno get holders"],
    );
    fleet.give("web/0", &held("node-a", 4));
    fleet.wake("node-a");
    fleet.check(
        &["abandon", "web/0", "--yes"],
        1,
        &[
            "node-a, which holds web/0, has a sign of life",
            "xeno migrate web/0",
        ],
    );
    fleet.lose("node-a");
    fleet.check(
        &["abandon", "web/0"],
        1,
        &["web/0 is held by node-a under epoch 4", "say --yes if it is"],
    );
    assert_eq!(fleet.record("web/0"), Some(held("node-a", 4)));
    fleet.check(
        &["abandon", "web/0", "--yes", "--reason", "it burnt"],
        0,
        &[
            "has no sign of life",
            "disk is lost",
            "changed: web/0 is held by nobody, under epoch 5",
            "xeno migrate web/0 --to NODE",
        ],
    );
    let now = fleet.record("web/0").expect("a record");
    assert_eq!((now.node, now.epoch, now.memory), (None, Epoch(5), None));
    fleet.check(
        &["abandon", "web/0", "--yes"],
        0,
        &["nothing to do: nobody holds web/0"],
    );
    fleet.check(
        &["get", "holders"],
        0,
        &["web/0 nobody - 5 node-a abandoned by ", ": it burnt"],
    );
}

#[test]
fn a_node_is_said_to_be_off_once_it_shows_no_life() {
    let fleet = Fleet::new();
    let replaceable = Holder {
        failover: true,
        ..held("node-a", 4)
    };
    fleet.give("web/0", &replaceable);
    fleet.give("db/0", &held("node-a", 1));
    fleet.wake("node-a");
    fleet.check(
        &["fence", "node-a", "--confirm", "--yes"],
        1,
        &["node-a has a sign of life", "xeno evacuate node-a"],
    );
    fleet.check(
        &["get", "holders"],
        0,
        &["web/0 node-a yes 4 others may take over"],
    );
    fleet.lose("node-a");
    fleet.check(
        &["get", "holders"],
        0,
        &["web/0 node-a no 4 others may take over once its node is fenced"],
    );
    fleet.check(
        &["fence", "node-a"],
        1,
        &[
            "others may take over from it: web/0",
            "`xeno abandon`: db/0",
            "nothing was written",
            "xeno fence node-a --confirm",
        ],
    );
    fleet.check(
        &["fence", "node-a", "--confirm"],
        1,
        &["nobody can be asked here", "say --yes if it is"],
    );
    fleet.check(
        &[
            "fence",
            "node-a",
            "--confirm",
            "--yes",
            "--reason",
            "pulled the plug",
        ],
        0,
        &["confirmed: node-a is off, and what it holds may be taken over"],
    );
    fleet.check(
        &["get", "holders"],
        0,
        &["web/0 node-a no 4 its node is off, says ", ": pulled the plug"],
    );
    // It was back meanwhile, and holds it anew.
    fleet.give(
        "web/0",
        &Holder {
            epoch: Epoch(5),
            ..replaceable
        },
    );
    fleet.check(
        &["get", "holders"],
        0,
        &["web/0 node-a no 5 others may take over once its node is fenced"],
    );
    let said = fleet.check(
        &["fence", "node-a", "--confirm", "--yes", "-o", "json"],
        0,
        &["mayBeTakenOver"],
    );
    assert!(said.all().contains("web/0"), "{said:?}");
}

#[test]
fn even_a_living_holder_can_be_abandoned_with_a_warning() {
    let fleet = Fleet::new();
    fleet.give("web/0", &held("node-a", 4));
    fleet.wake("node-a");
    let said = fleet.check(
        &["abandon", "web/0", "--yes", "--even-if-alive", "-o", "json"],
        0,
        &["warning: node-a may be running the guest", "has a sign of life"],
    );
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(json["formatVersion"], 1, "{json}");
    assert_eq!(json["record"]["epoch"], 5, "{json}");
    assert!(json["record"]["node"].is_null(), "{json}");
}

#[test]
fn who_kept_the_memory_goes_on_from_it_unless_the_layers_are_shared() {
    let fleet = Fleet::new();
    let moved = Holder {
        memory: Some(Memory {
            migration: MigrationId([7; 16]),
            epoch: Epoch(4),
            keeper: node("node-b"),
        }),
        ..held("node-a", 5)
    };
    // What the manifests do not know, people must say.
    fleet.give("gone/0", &moved);
    fleet.check(
        &["abandon", "gone/0", "--yes"],
        1,
        &[
            "the manifests have no sliver gone/0",
            "--layers local or --layers shared",
        ],
    );
    fleet.check(
        &["abandon", "gone/0", "--yes", "--layers", "shared"],
        0,
        &["held by nobody, under epoch 6", "shared storage is there"],
    );
    fleet.give("web/0", &moved);
    fleet.check(
        &["abandon", "web/0", "--yes"],
        0,
        &["node-b still keeps its memory", "held by node-b, under epoch 6"],
    );
    assert_eq!(
        fleet.record("web/0").and_then(|holder| holder.node),
        Some(node("node-b"))
    );
}

#[test]
fn holders_are_listed_with_their_signs_of_life() {
    let fleet = Fleet::new();
    fleet.check(&["get", "holders"], 0, &["no sliver has a holder yet"]);
    fleet.give("web/0", &held("node-a", 4));
    fleet.give("web/1", &held("node-b", 9));
    fleet.wake("node-b");
    fleet.check(
        &["get", "holders"],
        0,
        &[
            "SLIVER HOLDER SIGN OF LIFE",
            "web/0 node-a no 4",
            "web/1 node-b yes 9",
        ],
    );
    let said = fleet.check(&["get", "holders", "-o", "json"], 0, &[]);
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(json["formatVersion"], 1, "{json}");
    assert_eq!(json["alive"], serde_json::json!(["node-b"]), "{json}");
    let first = &json["holders"][0];
    assert_eq!(
        (
            &first["sliver"],
            &first["node"],
            &first["epoch"],
            &first["signOfLife"]
        ),
        (&"web/0".into(), &"node-a".into(), &4.into(), &false.into()),
        "{json}"
    );
}

#[test]
fn a_board_that_is_not_there_is_not_made() {
    let world = World::with_hook();
    let said = |text: &str| {
        std::fs::write(world.path("work/agent.toml"), text).expect("written");
        let said = world.xeno("work", &["get", "holders", "--config", "agent.toml"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        said.err
    };
    let alone = "node = \"node-a\"\nrepository = \"repo.git\"\n";
    assert!(said(alone).contains("has no [board]"));
    let missing = said(&format!("{alone}[board]\nkind = \"sqlite\"\n"));
    assert!(missing.contains("there is no board at"), "{missing}");
    assert!(!world.path("work/board.db").exists());
}

#[test]
fn an_evacuation_is_called_off_where_it_is() {
    let fleet = Fleet::new();
    let world = &fleet.world;
    std::fs::write(
        world.path("work/sites/more.yaml"),
        "apiVersion: xenoslice/v1\nkind: Node\nmetadata: { name: node-b }\n\
         spec: { site: home, capacity: { memory: 2GiB, vcpus: 4 } }\n",
    )
    .expect("written");
    world.edit(
        "work/slices/web.yaml",
        "placement: { nodes: [node-a] }",
        "placement: { nodes: [node-a, node-a, node-a] }",
    );
    world.commit("three");
    fleet.check(
        &["evacuate", "node-a", "--call-off"],
        0,
        &["nothing to do: no move from node-a is in the order of moves"],
    );
    fleet.check(&["evacuate", "node-a"], 0, &["committed"]);
    // One has arrived, one has not left, and of one the board has never heard.
    fleet.give("web/0", &held("node-b", 2));
    fleet.give("web/1", &held("node-a", 1));
    fleet.check(
        &["evacuate", "node-a", "--call-off"],
        0,
        &[
            "web/1 stays on node-a",
            "web/2 stays on node-a",
            "Call off the evacuation of node-a",
            "xeno uncordon node-a",
        ],
    );
    let web = std::fs::read_to_string(world.path("work/slices/web.yaml")).expect("there");
    assert!(web.contains("nodes: [node-b, node-a, node-a]"), "{web}");
    let order = std::fs::read_to_string(world.path("work/placement/moves.yaml")).expect("there");
    assert!(order.ends_with("steps: []\n"), "{order}");
    let pushed = world.push(&["main"]);
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
}

#[test]
fn a_fleet_is_planned_from_what_its_nodes_say() {
    let fleet = Fleet::new();
    fleet.check(
        &["get", "summaries"],
        0,
        &["no node has said anything of its slivers yet"],
    );
    let world = &fleet.world;
    let mut nodes = String::new();
    for name in ["node-b", "node-c", "node-d"] {
        nodes += &format!(
            "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: {name} }}\nspec: {{ site: home, capacity: {{ memory: 1GiB, vcpus: 2 }} }}\n"
        );
    }
    std::fs::write(world.path("work/nodes.yaml"), nodes).expect("written");
    let all = "nodes: [node-a, node-b, node-c, node-d]";
    world.edit("work/slices/web.yaml", "nodes: [node-a]", all);
    world.commit("four nodes");
    world.edit("work/slices/web.yaml", "vcpus: 1", "vcpus: 2");
    world.commit("more");
    let (before, after) = (fleet.web_at("HEAD~1"), fleet.web_at("HEAD"));
    // The canary is through, one is on its way, one broken, and of one nobody has heard.
    let why = "boot:web/2: no kernel".to_owned();
    fleet.say("node-a", "web/0", after.revision, Condition::Healthy);
    fleet.say("node-b", "web/1", before.revision, Condition::Healthy);
    fleet.say("node-c", "web/2", before.revision, Condition::Failed { why });
    fleet.wake("node-a");
    fleet.wake("node-b");
    let file = &["get", "summaries", "-o", "json"];
    fleet.check(
        &["get", "summaries"],
        0,
        &["web/0 node-a yes healthy", "web/2 node-c no failed", "no kernel"],
    );
    let saved = fleet.check(file, 0, &[]);
    std::fs::write(world.path("work/said.json"), &saved.out).expect("written");

    let plan = ["plan", "--fleet", "--rev", "HEAD~1..HEAD"];
    let parts = [
        "(observed, as the board says; 1 sliver assumed)",
        "± reboot web 3 of 4 slivers",
        "web/1",
        "(1 assumed)",
        "! no sign of life: node-c, node-d",
        "! unknown: web/3 node node-d has said nothing of its slivers; taken to be as",
        "! failed now: web/2 on node-c boot:web/2: no kernel",
        "3 to reboot; 1 unchanged; on 3 of 4 nodes",
    ];
    let online = fleet.check(&[&plan[..], &["--board"]].concat(), 0, &parts);
    let offline = world.xeno("work", &[&plan[..], &["--observed", "said.json"]].concat());
    assert_eq!(
        (offline.code, &offline.out),
        (Some(0), &online.out),
        "{offline:?}"
    );
    let piped = world.sh(
        "work",
        "\"$XENO\" plan --fleet --rev HEAD~1..HEAD --observed - <said.json",
    );
    assert_eq!((piped.code, &piped.out), (Some(0), &online.out), "{piped:?}");
    let json = [&plan[..], &["--observed", "said.json", "-o", "json"]].concat();
    let said = world.xeno("work", &json);
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(
        (&json["basis"], &json["unchanged"]),
        (&"observed".into(), &1.into())
    );
    let unknown = json["unknown"].as_array().expect("a list");
    assert_eq!((unknown.len(), &unknown[0]["sliver"]), (1, &"web/3".into()));
    assert_eq!(json["silent"], serde_json::json!(["node-c", "node-d"]));

    // A revision that failed is not begun again, and the plan says so.
    let signed = Signed {
        at: Timestamp(1),
        by: "node-a",
    };
    let first = begin(None, before, &Rollout::default(), true, signed);
    let mut record = begin(Some(&first), after, &Rollout::default(), false, signed);
    let why = "1 of 4 slivers failed, and 0 may".to_owned();
    record.verdict = Verdict::Failed { why };
    let known = fleet.runtime.block_on(rollouts::read(&fleet.board, &web()));
    let changed = fleet.runtime.block_on(rollouts::change(
        &fleet.board,
        &web(),
        &known.expect("the board answers"),
        &record,
    ));
    assert!(changed.is_ok(), "{changed:?}");
    let part = "nothing of it begins: its rollout is failed, all go back: 1 of 4 slivers failed";
    fleet.check(&[&plan[..], &["--board"]].concat(), 0, &[part]);

    // What is no such file is refused in words.
    let wrong = world.xeno("work", &[&plan[..], &["--observed", "nodes.yaml"]].concat());
    assert!(
        wrong.code == Some(1) && wrong.err.contains("read the summaries"),
        "{wrong:?}"
    );
    std::fs::write(world.path("work/other.json"), "{\"formatVersion\": 1}").expect("written");
    let wrong = world.xeno("work", &[&plan[..], &["--observed", "other.json"]].concat());
    let words = wrong.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        wrong.code == Some(1) && words.contains("xeno get summaries -o json"),
        "{wrong:?}"
    );
}

#[test]
fn what_waits_is_shown_and_just_that_is_approved() {
    let fleet = Fleet::new();
    fleet.check(&["approve"], 0, &["nothing waits for approval"]);
    fleet.check(&["approve", "web"], 1, &["none of that waits for approval"]);
    let asks = |to: u8| {
        let ask = Ask {
            from: Digest([1; 32]),
            to: Some(Digest([to; 32])),
            disruption: Disruption::Interrupts,
        };
        let gone = Ask {
            to: None,
            disruption: Disruption::Ends,
            ..ask
        };
        let all = [(sliver("web/0"), ask), (sliver("db/0"), gone)].into();
        fleet
            .runtime
            .block_on(approvals::write_asks(&fleet.board, &node("node-a"), &all))
            .expect("the board answers");
        ask
    };
    let approved = |of: &str| {
        let of = sliver(of);
        let read = approvals::approved(&fleet.board, &of);
        fleet.runtime.block_on(read).expect("the board answers")
    };
    let first = asks(2);
    fleet.check(
        &["approve"],
        0,
        &[
            "web/0 node-a interrupts 010101010101 020202020202",
            "db/0 node-a ends",
        ],
    );
    let plan = |words: &[&str]| {
        let said = fleet.check(&[words, &["-o", "json"]].concat(), 0, &[]);
        let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
        json["plan"].as_str().expect("a name").to_owned()
    };
    let shown = plan(&["approve"]);
    assert_eq!(approved("web/0"), None, "showing approves nothing");
    // Meanwhile somebody pushes.
    let second = asks(3);
    fleet.check(
        &["approve", "--all", "--plan", &shown],
        1,
        &["what waits is not that plan any more"],
    );
    assert_eq!(approved("web/0"), None);
    let shown = plan(&["approve"]);
    let words = ["approve", "web", "--by", "ada", "--plan", &shown];
    fleet.check(&words, 0, &["approved by ada"]);
    let approval = approved("web/0").expect("it is approved");
    assert_eq!((approval.grant, approval.by.as_str()), (Grant(second), "ada"));
    assert!(!approval.grant.covers(&first), "and nothing else is");
    assert_eq!(approved("db/0"), None);
    let shown = plan(&["approve"]);
    fleet.check(&["approve", "--all", "--plan", &shown[..6]], 0, &["approved by"]);
    assert!(approved("db/0").is_some());
    fleet.check(&["approve", "a b"], 2, &["a b"]);
}
