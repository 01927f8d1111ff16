//! The same sequences of operations on the kernel's overlayfs, on a stack of cowfs over the same layers, and on a tree in
//! memory. After each step all three have answered alike and look alike: types, modes, owners, link counts, identities,
//! sizes, devices, times and contents. Now and then both file systems are closed and opened again.
//!
//! Needs root, for mounting. Everything is mounted in a mount namespace of its own, on a tmpfs that goes with it.
//! Where overlayfs cannot be mounted the test fails: it has compared nothing.
//!
//! `XENO_OVERLAY_SECONDS` says how long (45 without), `XENO_SEED` where the seeds begin (1 without).
#![cfg(feature = "overlayfs")]
#![expect(clippy::print_stderr, reason = "the report of a test")]

mod layers;
mod mounted;
mod op;
mod otherwise;
mod served;
mod view;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowfs::import::Source as ImportSource;
use cowfs::memory::Memory;
use cowfs::opener::Opener;
use cowfs::quota::Quota;
use cowfs::service::{FileService, Handle, LayerSource, StackOpener, Status};
use cowfs::template::{Store, TemplateOptions};
use xeno_tests::lab::dice::Dice;

use mounted::Mounted;
use op::{Op, ROOT, SetTo, Source, Who};
use served::Served;
use view::{Against, Tree, difference};

/// Set in the process that has a mount namespace of its own: where its tmpfs is.
const INSIDE: &str = "XENO_OVERLAY_INSIDE";

/// Steps of one sequence.
const STEPS: usize = 400;

/// A stack of cowfs that can be closed and opened again.
pub(crate) struct Ours {
    opener: Opener,
    writable: PathBuf,
    layers: Vec<LayerSource>,
    epoch: u64,
    pub(crate) service: Arc<dyn FileService>,
}

impl Ours {
    pub(crate) fn new(dir: &Path, layers: Vec<LayerSource>) -> Self {
        let (opener, writable) = (Opener::new(&dir.join("store")), dir.join("writable"));
        let service = Self::open(&opener, &writable, &layers, 1);
        Self {
            opener,
            writable,
            layers,
            epoch: 1,
            service,
        }
    }

    fn open(opener: &Opener, writable: &Path, layers: &[LayerSource], epoch: u64) -> Arc<dyn FileService> {
        let writable = opener
            .open_writable(writable, epoch, Quota::default())
            .expect("opening the writable layer");
        opener
            .open_stack(layers, Some(writable))
            .expect("opening the stack")
    }

    /// Closes it, has the writable layer checked, and opens it under the next epoch or the same.
    fn restart(&mut self, next_epoch: bool) {
        self.service.flush_all().expect("flushing");
        // The lock goes with the stack.
        self.service = Arc::new(Memory::new());
        let report = cowfs::fsck::fsck(&self.writable).expect("checking");
        assert_eq!(report.problems, [], "fsck");
        self.epoch += u64::from(next_epoch);
        self.service = Self::open(&self.opener, &self.writable, &self.layers, self.epoch);
    }
}

/// What was counted, for the report.
#[derive(Default)]
struct Count {
    sequences: u64,
    steps: u64,
    succeeded: u64,
    restarts: u64,
    not_asked: u64,
}

/// Operations that one side cannot be asked for, and why. Everything else is compared.
fn cannot_be_asked(who: Who, op: &Op, tree: &Tree) -> Option<&'static str> {
    match op {
        // utimensat(2) wants the owner for one time alone; on the wire it is what a client sends for opening an empty
        // file with O_TRUNC, which a writer may do (Linux leaves the size out when it does not change).
        Op::Utimens { path, atime, mtime } => {
            let now_alone = matches!(
                (atime, mtime),
                (SetTo::Now, SetTo::Omit) | (SetTo::Omit, SetTo::Now)
            );
            let owner = tree.get(path).is_none_or(|shown| shown.uid == who.uid);
            (now_alone && who != ROOT && !owner)
                .then_some("one time set to now by a writer who is not the owner")
        }
        _ => None,
    }
}

struct Run {
    source: Source,
    kernel: Mounted,
    ours: Ours,
    model: Memory,
    protects_links: bool,
    calls: u64,
    /// Every handle ever seen, by inode number.
    seen: HashMap<u64, Handle>,
    /// Inode numbers of objects that are gone.
    dead: HashSet<u64>,
    tree: Tree,
    story: Vec<String>,
}

impl Run {
    fn new(seed: u64, dir: &Path) -> Self {
        let (template, overlay) = (dir.join("template"), dir.join("overlay"));
        for path in [&template, &overlay] {
            std::fs::create_dir_all(path).expect("a directory");
        }
        layers::template(&template).expect("making a layer");
        layers::overlay(&overlay).expect("making a layer");
        let lowest = if seed.is_multiple_of(2) {
            LayerSource::Dir(template.clone())
        } else {
            let store = Store::open(&dir.join("store")).expect("a store");
            let source = ImportSource::at(&template).expect("the layer");
            let imported = store.import(&source, &TemplateOptions::default(), &mut |_| {});
            LayerSource::Template(imported.expect("importing").digest.to_string())
        };
        // Copies, since nobody may change what lies under a mount.
        let beneath = [dir.join("k-overlay"), dir.join("k-template")];
        layers::copy(&overlay, &beneath[0]).expect("copying a layer");
        layers::copy(&template, &beneath[1]).expect("copying a layer");
        let kernel = Mounted::new(dir, &beneath).expect("overlayfs must be there, or nothing is compared");
        let ours = Ours::new(dir, vec![LayerSource::Dir(overlay), lowest]);
        let model = Memory::new();
        let mut run = Self {
            source: Source { dice: Dice::of(seed) },
            kernel,
            ours,
            model,
            protects_links: served::protects_links(),
            calls: seed << 32,
            seen: HashMap::new(),
            dead: HashSet::new(),
            tree: Tree::new(),
            story: vec![format!("seed {seed}")],
        };
        let tree = run.kernel.tree().expect("reading the mount");
        served::fill(&run.model, &tree).expect("filling the model");
        run.compare();
        run
    }

    fn tail(&self) -> String {
        let from = self.story.len().saturating_sub(15).max(1);
        format!("{}\n{}", self.story[0], self.story[from..].join("\n"))
    }

    fn side<'a>(&self, service: &'a dyn FileService) -> Served<'a> {
        Served {
            service,
            protects_links: self.protects_links,
        }
    }

    /// All three trees are one.
    fn compare(&mut self) {
        let service = Arc::clone(&self.ours.service);
        let (ours, handles) = self.side(&*service).tree().expect("walking the stack");
        let (model, _) = self.side(&self.model).tree().expect("walking the model");
        let kernel = self.kernel.tree().expect("walking the mount");
        if let Some(what) = difference(&ours, &model, Against::Model) {
            panic!("cowfs and the model differ: {what}\nafter\n{}", self.tail());
        }
        if let Some(what) = difference(&ours, &kernel, Against::Overlayfs) {
            panic!("cowfs and overlayfs differ: {what}\nafter\n{}", self.tail());
        }
        // Handles and numbers last as long as what they stand for, and no longer.
        for (number, handle) in &handles {
            assert!(
                !self.dead.contains(number),
                "number {number} lives again, after\n{}",
                self.tail()
            );
            let before = self.seen.insert(*number, *handle);
            assert!(
                before.is_none_or(|before| before == *handle),
                "another handle for {number}, after\n{}",
                self.tail()
            );
        }
        for number in self.seen.keys() {
            if !handles.contains_key(number) {
                self.dead.insert(*number);
            }
        }
        self.tree = ours;
    }

    /// Handles of what is gone are stale.
    fn the_dead_stay_dead(&self) {
        for number in &self.dead {
            let answer = self.ours.service.getattr(&self.seen[number]);
            assert_eq!(
                answer.err(),
                Some(Status::Stale),
                "{number}, after\n{}",
                self.tail()
            );
        }
    }

    fn step(&mut self, count: &mut Count) {
        let (who, op) = self.source.next(&self.tree);
        count.steps += 1;
        if let Some(_why) = cannot_be_asked(who, &op, &self.tree) {
            count.not_asked += 1;
            return;
        }
        self.calls += 1;
        self.story.push(format!("uid {} {op:?}", who.uid));
        let service = Arc::clone(&self.ours.service);
        let kernel = self.kernel.apply(who, &op);
        let ours = self.side(&*service).apply(who, &op, self.calls);
        let model = self.side(&self.model).apply(who, &op, self.calls);
        let story = || format!("after\n{}\non\n{}", self.tail(), along(&self.tree, &op));
        assert_eq!(ours, kernel, "cowfs, overlayfs, {}", story());
        assert_eq!(ours, model, "cowfs, the model, {}", story());
        count.succeeded += u64::from(ours.is_ok());
        self.compare();
    }

    fn restart(&mut self) {
        let next_epoch = self.source.dice.one_in(2);
        self.story.push(format!("restart, next epoch: {next_epoch}"));
        self.kernel.restart().expect("mounting again");
        self.ours.restart(next_epoch);
        self.compare();
        self.the_dead_stay_dead();
    }
}

/// What stood along the paths of an operation.
fn along(tree: &Tree, op: &Op) -> String {
    let mut lines = Vec::new();
    for path in op.paths() {
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at);
        for end in std::iter::once(0).chain(ends).chain([path.len()]) {
            if let Some(shown) = tree.get(&path[..end]) {
                lines.push(format!(
                    "/{}: {}",
                    String::from_utf8_lossy(&path[..end]),
                    view::brief(shown)
                ));
            }
        }
    }
    lines.join("\n")
}

fn sequence(seed: u64, dir: &Path, count: &mut Count) {
    let mut run = Run::new(seed, dir);
    for _ in 0..STEPS {
        run.step(count);
        if run.source.dice.one_in(40) {
            run.restart();
            count.restarts += 1;
        }
    }
    run.restart();
    count.restarts += 1;
    count.sequences += 1;
}

#[test]
fn cowfs_does_as_overlayfs_does() {
    inside("cowfs_does_as_overlayfs_does", |tmpfs| {
        let number = |name: &str, otherwise| {
            let text = std::env::var(name).ok();
            text.map_or(otherwise, |text| text.parse().expect("a number"))
        };
        let seconds = number("XENO_OVERLAY_SECONDS", 45);
        let first = number("XENO_SEED", 1);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut count = Count::default();
        let mut seed = first;
        // At least one with each kind of lowest layer, however slow the machine.
        while seed < first + 2 || Instant::now() < end {
            let dir = tmpfs.join(format!("seed{seed}"));
            sequence(seed, &dir, &mut count);
            std::fs::remove_dir_all(&dir).expect("clearing up");
            seed += 1;
        }
        eprintln!(
            "overlayfs: {} sequences (seeds {first}..{seed}), {} steps compared of which {} succeeded, {} restarts, \
             {} not asked for",
            count.sequences,
            count.steps - count.not_asked,
            count.succeeded,
            count.restarts,
            count.not_asked
        );
    });
}

#[test]
fn what_overlayfs_does_otherwise_is_known() {
    inside("what_overlayfs_does_otherwise_is_known", otherwise::check);
}

/// Runs `story` with a tmpfs in a mount namespace that ends with it: the test runs itself there.
fn inside(test: &str, story: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        // The modes are what sequences ask for.
        rustix::process::umask(rustix::fs::Mode::empty());
        let dir = PathBuf::from(dir);
        let flags = rustix::mount::MountFlags::NOATIME;
        rustix::mount::mount("tmpfs", &dir, "tmpfs", flags, Some(c"mode=755")).expect("mounting a tmpfs");
        story(&dir);
        return;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "overlayfs is mounted by root only: run `make test-overlayfs` as root"
    );
    let dir = tempfile::tempdir().expect("a directory");
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, dir.path())
        .status()
        .expect("running unshare");
    assert!(status.success(), "in its namespace: {status}");
}
