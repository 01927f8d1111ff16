//! Golden plans: one story each. `before.yaml` was carried out (nothing, where it is missing), `world.txt` says what
//! happened to the node since, `after.yaml` is pushed; `plan.txt` is what the node would then do, checked by the
//! independent checker. `UPDATE=1` rewrites the plans; read the difference before you commit it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use xeno_model::desired::{DesiredNode, Publish};
use xeno_model::id::{Digest, Generation, NodeName, Revision, SliverId, Timestamp};
use xeno_model::manifest::parse_file;
use xeno_model::normal::{boot_digest, stack_digest};
use xeno_model::observed::{DomainState, ObservedNode, ObservedStorage, Seen, Stranger};
use xeno_model::repository::{FileMode, RepositoryTree, TreeEntry};
use xeno_model::resolve::resolve;
use xeno_reconciler::assume::observed_from;
use xeno_reconciler::check::check;
use xeno_reconciler::plan::{PlanInput, build};
use xeno_reconciler::render::{self, Colour};

const NODE: &str = "cam-01";
const HOUR_MS: u64 = 3_600_000;
/// 2026-11-22 12:00 UTC, so that times in a plan read like times.
const NOON: u64 = 1_795_348_800_000;

fn desired(manifests: &str, revision: char) -> DesiredNode {
    let entry = TreeEntry {
        blob: "0".repeat(40),
        size: manifests.len().try_into().expect("a small file"),
        mode: FileMode::Regular,
    };
    let tree = RepositoryTree {
        entries: BTreeMap::from([("fleet.yaml".to_owned(), entry)]),
    };
    let file = parse_file("fleet.yaml", manifests.as_bytes());
    let fleet = resolve(&[&file], &tree)
        .unwrap_or_else(|findings| panic!("the scenario's manifests are wrong: {findings:#?}"));
    let revision = Revision::new(&revision.to_string().repeat(40)).expect("40 digits");
    fleet.project(&NodeName::new(NODE).expect("a name"), &revision)
}

/// What one line of `world.txt` does to the node.
struct World {
    observed: ObservedNode,
    removed_recently: u32,
}

impl World {
    /// The next embodiment was started beside the one that runs, and is not healthy yet.
    fn begin_replacing(&mut self, sliver: &SliverId, after: &DesiredNode, port: u16) {
        let second = sliver.beside();
        let wanted = after.embodied(&second).expect("it is desired");
        let mut domain = self.domains().ours[sliver].clone();
        domain.uuid = wanted.uuid;
        domain.booted = boot_digest(&wanted);
        domain.publish = vec![Publish {
            guest: 80,
            host: port,
        }];
        self.domains().ours.insert(second.clone(), domain);
        let mut storage = self.storage_of(sliver).clone();
        storage.stack = Some(stack_digest(&wanted));
        storage.on_disk = false;
        self.storage().insert(second, Seen::Known(storage));
    }

    fn happen(&mut self, line: &str, after: &DesiredNode) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let sliver = |text: &str| SliverId::parse(text).expect("a sliver");
        let why = || "the control socket does not answer".to_owned();
        match words.as_slice() {
            ["domain", name, "missing"] => {
                self.domains().ours.remove(&sliver(name));
            }
            ["domain", name, state] => {
                let state = match *state {
                    "crashed" => DomainState::Crashed,
                    "paused" => DomainState::Paused,
                    other => panic!("no such state: {other}"),
                };
                self.domains()
                    .ours
                    .get_mut(&sliver(name))
                    .expect("it was there")
                    .state = state;
            }
            ["domain", name, "beside", port] => {
                self.begin_replacing(&sliver(name), after, port.parse().expect("a port"));
            }
            ["stranger", name, mib] => {
                let memory_mib = mib.parse().expect("a number of MiB");
                self.domains().strangers.push(Stranger {
                    name: (*name).to_owned(),
                    memory_mib,
                });
            }
            ["fileserver", "restarted"] => {
                for storage in self.storage().values_mut() {
                    let Seen::Known(storage) = storage else { continue };
                    (storage.open, storage.stack, storage.exported) = (None, None, false);
                }
            }
            ["tombstone", name, hours, "hours", "ago"] => {
                let ago: u64 = hours.parse().expect("a number of hours");
                let at = Timestamp(NOON - ago * HOUR_MS);
                let storage = self.storage_of(&sliver(name));
                (storage.on_disk, storage.tombstone) = (false, Some(at));
            }
            ["disk", name, "changed"] => {
                let storage = self.storage_of(&sliver(name));
                storage.mark = Some(Digest::of(b"changed"));
            }
            ["image", name, "missing"] => {
                self.domains().images.remove(&sliver(name));
            }
            ["removed", count] => self.removed_recently = count.parse().expect("a number"),
            ["blind", "domains"] => self.observed.domains = Seen::Unknown { why: why() },
            ["blind", "storage", "of", name] => {
                self.storage().insert(sliver(name), Seen::Unknown { why: why() });
            }
            ["blind", "storage"] => self.observed.storage = Seen::Unknown { why: why() },
            _ => panic!("world.txt: what does {line:?} mean?"),
        }
    }

    fn domains(&mut self) -> &mut xeno_model::observed::Domains {
        match &mut self.observed.domains {
            Seen::Known(domains) => domains,
            Seen::Unknown { .. } => panic!("blind already"),
        }
    }

    fn storage(&mut self) -> &mut BTreeMap<SliverId, Seen<ObservedStorage>> {
        match &mut self.observed.storage {
            Seen::Known(storage) => storage,
            Seen::Unknown { .. } => panic!("blind already"),
        }
    }

    fn storage_of(&mut self, sliver: &SliverId) -> &mut ObservedStorage {
        let nothing = || Seen::Known(ObservedStorage::default());
        match self.storage().entry(sliver.clone()).or_insert_with(nothing) {
            Seen::Known(storage) => storage,
            Seen::Unknown { .. } => panic!("blind already"),
        }
    }
}

fn told(dir: &Path) -> String {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let after = desired(&read("after.yaml").expect("after.yaml"), 'b');
    let before = read("before.yaml").map_or_else(
        || DesiredNode {
            slivers: BTreeMap::new(),
            ..after.clone()
        },
        |manifests| desired(&manifests, 'a'),
    );
    let (observed, applied) = observed_from(&before, Timestamp(NOON));
    let mut world = World {
        observed,
        removed_recently: 0,
    };
    for line in read("world.txt")
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim().is_empty())
    {
        world.happen(line, &after);
    }
    let input = PlanInput {
        applied_generation: Generation(6),
        generation: Generation(7),
        removed_recently: world.removed_recently,
        tombstone_ms: 24 * HOUR_MS,
        ..PlanInput::plain(&after, &applied, &world.observed, Timestamp(NOON))
    };
    let plan = build(&input).unwrap_or_else(|e| panic!("no plan: {e}"));
    let findings = check(&plan, &input);
    assert!(findings.is_empty(), "the checker refuses the plan: {findings:#?}");
    let mut text = render::text(&plan, Colour::Plain);
    if !plan.actions.is_empty() {
        text.push_str("\nactions:\n");
        for planned in &plan.actions {
            let after: Vec<String> = planned.after.iter().map(ToString::to_string).collect();
            let after = if after.is_empty() {
                String::new()
            } else {
                format!("  after {}", after.join(", "))
            };
            let _infallible = writeln!(text, "  {}{after}", planned.action.key());
        }
    }
    text
}

#[test]
fn every_story_ends_in_its_plan() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut stories: Vec<_> = std::fs::read_dir(&root)
        .expect("scenarios")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    stories.sort();
    assert!(
        stories.len() >= 12,
        "only {} scenarios: were they moved?",
        stories.len()
    );
    let mut wrong = String::new();
    for dir in stories {
        let plan = told(&dir);
        let golden = dir.join("plan.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &plan).expect("writing a golden file");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if plan != expected {
            let _infallible = writeln!(
                wrong,
                "{}:\n{}",
                golden.display(),
                similar::TextDiff::from_lines(&expected, &plan)
                    .unified_diff()
                    .header("expected", "planned")
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
