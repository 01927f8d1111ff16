//! The adapter over a real file server, real layers and a real template store, all in one process.

use std::fs;

use cowfs::attr::SetAttr;
use cowfs::config::Config;
use cowfs::nfs::client::{Client as NfsClient, WireHandle};
use cowfs::service::Caller;
use cowfs::writable::mark::Mark;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use xeno_model::desired::CarriedFile;
use xeno_model::id::{NodeName, Timestamp};
use xeno_model::observed::LayerLimits;
use xeno_model::units::Bytes;
use xeno_reconciler::ports::Retry;
use xeno_state::node::{Limits, NodeState};

use super::*;

mod moves;

const START_MS: u64 = 1_790_000_000_000;

struct World {
    dir: TempDir,
    storage: NodeStorage,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

fn web() -> SliverId {
    SliverId::parse("web-site/12").unwrap()
}

impl World {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let state_dir = dir.path().join("state");
        let node = NodeName::new("cam-01").unwrap();
        let state = NodeState::open(&state_dir, &node, Limits::default()).unwrap();
        fs::create_dir_all(dir.path().join("overlays/apache")).unwrap();
        fs::write(dir.path().join("overlays/apache/index.html"), "hello").unwrap();
        let paths = StoragePaths {
            state: state_dir,
            templates: dir.path().join("templates"),
            cowfs: dir.path().join("cowfs.sock"),
            overlay_roots: vec![dir.path().join("overlays")],
            remotes: RemotesConfig::default(),
            writable_roots: Vec::new(),
            server: None,
        };
        let storage = NodeStorage::open(paths, Store::new(state), Clock::from_ms(START_MS)).unwrap();
        let mut world = Self {
            dir,
            storage,
            server: None,
        };
        world.start_server().await;
        world
    }

    async fn start_server(&mut self) {
        let config = Config {
            listen: None,
            store: self.storage.paths.templates.clone(),
            control: Some(self.storage.paths.cowfs.clone()),
            connections: 64,
            lender: None,
            user: None,
            links: None,
            sandbox: None,
            exports: Vec::new(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            cowfs::server::serve(config, |_| ready.send(()).unwrap(), shutdown)
                .await
                .unwrap();
        });
        is_ready.await.unwrap();
        self.server = Some((stop, task));
    }

    async fn stop_server(&mut self) {
        let (stop, task) = self.server.take().unwrap();
        stop.send(()).unwrap();
        task.await.unwrap();
    }

    fn overlay(&self) -> PathBuf {
        self.dir.path().join("overlays/apache")
    }

    /// `/` writable over an overlay, `/var/log` writable, `/doc` read-only.
    fn mounts(&self) -> Vec<MountSpec> {
        let mount = |path: &str, writable| MountSpec {
            path: path.to_owned(),
            layers: vec![LayerSource::Directory(self.overlay())],
            writable,
            place: None,
            quota_bytes: None,
            quota_inodes: None,
            leased: false,
            share: 256,
        };
        vec![mount("/", true), mount("/var/log", true), mount("/doc", false)]
    }

    async fn see(&self) -> ObservedStorage {
        let seen = self.storage.observe().await.unwrap().remove(&web());
        match seen.unwrap_or_else(|| Seen::Known(ObservedStorage::default())) {
            Seen::Known(storage) => storage,
            Seen::Unknown { why } => panic!("{why}"),
        }
    }

    async fn build(&self, stack: &Digest) {
        let (storage, mounts) = (&self.storage, self.mounts());
        // Twice each: what is so already is success.
        for _ in 0..2 {
            storage.open_writable(&web(), Epoch(1), &mounts).await.unwrap();
        }
        for _ in 0..2 {
            storage.stack(&web(), stack, &mounts).await.unwrap();
        }
        for _ in 0..2 {
            storage.export(&web(), &mounts).await.unwrap();
        }
    }

    /// Opens what was taken apart, and has it go back.
    async fn go_back(&self, name: &str, done: &str) -> PortResult<()> {
        let (storage, mounts) = (&self.storage, self.mounts());
        storage.open_writable(&web(), Epoch(1), &mounts).await.unwrap();
        storage.restore(&web(), Epoch(1), name, Some(done)).await
    }

    async fn take_apart(&self) {
        for _ in 0..2 {
            self.storage.unexport(&web()).await.unwrap();
        }
        for _ in 0..2 {
            self.storage.close_writable(&web()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_another_agent_has_in_the_same_file_server_is_left_alone() {
    let world = World::new().await;
    let stack = Digest::of(b"stack");
    world.build(&stack).await;

    let state_dir = world.dir.path().join("other");
    let node = NodeName::new("cam-02").unwrap();
    let state = NodeState::open(&state_dir, &node, Limits::default()).unwrap();
    let paths = StoragePaths {
        state: state_dir,
        templates: world.storage.paths.templates.clone(),
        cowfs: world.storage.paths.cowfs.clone(),
        overlay_roots: world.storage.paths.overlay_roots.clone(),
        remotes: RemotesConfig::default(),
        writable_roots: Vec::new(),
        server: None,
    };
    let other = NodeStorage::open(paths, Store::new(state), Clock::from_ms(START_MS)).unwrap();
    assert!(other.observe().await.unwrap().is_empty());
    other.unexport(&web()).await.unwrap();
    other.close_writable(&web()).await.unwrap();
    let refused = other.open_writable(&web(), Epoch(1), &world.mounts()).await;
    assert!(refused.unwrap_err().what.contains("is open as"));

    let seen = world.see().await;
    assert_eq!(
        (seen.open, seen.stack, seen.exported),
        (Some(Epoch(1)), Some(stack), true)
    );
}

#[tokio::test]
async fn a_sliver_is_built_seen_taken_apart_set_aside_revived_and_purged() {
    let mut world = World::new().await;
    let stack = Digest::of(b"stack");
    assert_eq!(world.see().await, ObservedStorage::default());

    world
        .storage
        .open_writable(&web(), Epoch(1), &world.mounts())
        .await
        .unwrap();
    let seen = world.see().await;
    assert_eq!(
        (seen.on_disk, seen.open, seen.stack, seen.exported),
        (true, Some(Epoch(1)), None, false)
    );
    world.build(&stack).await;
    let seen = world.see().await;
    assert_eq!(
        (seen.open, seen.stack, seen.exported),
        (Some(Epoch(1)), Some(stack), true)
    );
    assert!(seen.bytes > 0);
    let mounts = world.storage.guest_mounts(&web(), &world.mounts());
    assert_eq!(
        mounts.iter().map(|mount| mount.path.as_str()).collect::<Vec<_>>(),
        ["/", "/var/log", "/doc"]
    );
    for mount in &mounts {
        assert!(mount.socket.exists(), "{}", mount.socket.display());
    }

    // An open layer is never moved away below the server.
    let refused = world.storage.tombstone(&web()).await.unwrap_err();
    assert!(refused.what.contains("still open"), "{refused}");

    // The file server's end loses nothing on disk, and everything can be put back.
    world.stop_server().await;
    let blind = world.storage.observe().await.unwrap_err();
    assert_eq!(blind.retry, Retry::Later);
    world.start_server().await;
    let seen = world.see().await;
    assert_eq!(
        (seen.on_disk, seen.open, seen.stack, seen.exported),
        (true, None, None, false)
    );
    world.build(&stack).await;
    assert!(world.see().await.exported);

    world.take_apart().await;
    let seen = world.see().await;
    assert_eq!(
        (seen.on_disk, seen.open, seen.stack, seen.exported),
        (true, None, None, false)
    );
    let kept = world.storage.disk.layer(&web(), 0);
    assert!(kept.exists());
    for _ in 0..2 {
        world.storage.tombstone(&web()).await.unwrap();
    }
    let seen = world.see().await;
    assert!(!seen.on_disk);
    assert!(
        seen.tombstone.is_some_and(|since| since >= Timestamp(START_MS)),
        "{seen:?}"
    );

    // Wanted again: what it wrote is there again.
    world.build(&stack).await;
    let seen = world.see().await;
    assert_eq!((seen.on_disk, seen.tombstone, seen.exported), (true, None, true));

    world.take_apart().await;
    world.storage.tombstone(&web()).await.unwrap();
    for _ in 0..2 {
        world.storage.purge(&web()).await.unwrap();
    }
    assert_eq!(world.see().await, ObservedStorage::default());
    world.stop_server().await;
}

#[tokio::test]
async fn limits_and_shares_are_passed_on_seen_and_moved_while_in_use() {
    let mut world = World::new().await;
    let bounded = |bytes: Option<u64>, inodes: Option<u64>, share: u32| {
        let mut mounts = world.mounts();
        for mount in &mut mounts {
            (mount.quota_bytes, mount.quota_inodes, mount.share) = (bytes, inodes, share);
        }
        mounts
    };
    let seen = async || {
        let seen = world.see().await;
        (seen.limits, seen.shares)
    };
    let is = |bytes: Option<u64>, inodes, share| {
        let bytes = bytes.map(Bytes);
        (
            BTreeSet::from([LayerLimits { bytes, inodes }]),
            BTreeSet::from([share]),
        )
    };
    let limit = async |mounts: &[MountSpec]| world.storage.limit(&web(), Some(Epoch(1)), mounts).await;
    let early = limit(&bounded(None, None, 256)).await;
    assert_eq!(early.unwrap_err().retry, Retry::Later, "nothing is opened by it");
    world.build(&Digest::of(b"stack")).await;
    assert_eq!(seen().await, is(None, None, 256));
    for (bytes, inodes, share) in [
        (Some(2 << 20), None, 256),
        (Some(1 << 20), Some(100), 256),
        (None, Some(50), 1),
        (Some(5 << 20), None, 10_000),
    ] {
        limit(&bounded(bytes, inodes, share)).await.unwrap();
        assert_eq!(seen().await, is(bytes, inodes, share));
    }
    let used = world.see().await;
    assert_eq!(
        (used.open, used.exported),
        (Some(Epoch(1)), true),
        "it stays in use"
    );
    world.take_apart().await;
    let opened = world
        .storage
        .open_writable(&web(), Epoch(1), &bounded(Some(3 << 20), Some(7), 256))
        .await;
    opened.unwrap();
    assert_eq!(seen().await.0, is(Some(3 << 20), Some(7), 256).0);
    world.stop_server().await;
}

#[tokio::test]
async fn what_is_half_open_does_not_look_open() {
    let world = World::new().await;
    let mounts = world.mounts();
    world
        .storage
        .open_writable(&web(), Epoch(1), &mounts)
        .await
        .unwrap();
    world
        .storage
        .client
        .delete_writable(&mount_name(&web(), 1))
        .await
        .unwrap();
    assert_eq!(world.see().await.open, Some(Epoch(0)));
    world.storage.close_writable(&web()).await.unwrap();
    world.build(&Digest::of(b"stack")).await;
    world
        .storage
        .client
        .delete_export(&mount_name(&web(), 2))
        .await
        .unwrap();
    assert!(!world.see().await.exported);
    world
        .storage
        .client
        .delete_stack(&mount_name(&web(), 2))
        .await
        .unwrap();
    assert_eq!(world.see().await.stack, Some(Digest([0; 32])));
}

#[tokio::test]
async fn strangers_in_the_file_server_are_not_ours() {
    let world = World::new().await;
    let spec = StackSpec {
        layers: vec![Served::Dir(world.overlay())],
        writable: None,
        label: None,
    };
    for name in ["docs", "Docs.0", "web-01.0", "web-1.00", "a/b-1.0"] {
        world.storage.client.put_stack(name, &spec).await.unwrap();
    }
    assert!(world.storage.observe().await.unwrap().is_empty());
}

#[tokio::test]
async fn only_directories_below_the_roots_become_layers() {
    let world = World::new().await;
    let stack = |path: PathBuf| {
        let mount = MountSpec {
            path: "/".to_owned(),
            layers: vec![LayerSource::Directory(path)],
            writable: false,
            place: None,
            quota_bytes: None,
            quota_inodes: None,
            leased: false,
            share: 256,
        };
        let storage = &world.storage;
        async move { storage.stack(&web(), &Digest::of(b"stack"), &[mount]).await }
    };
    let link = world.dir.path().join("overlays/link");
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    for outside in ["/etc".into(), link, world.dir.path().join("overlays/../state")] {
        let refused = stack(outside).await.unwrap_err();
        assert!(refused.what.contains("overlay_roots"), "{refused}");
        assert_eq!(refused.retry, Retry::Never);
    }
    stack(world.overlay()).await.unwrap();
}

#[tokio::test]
async fn files_of_the_repository_become_a_layer_once() {
    let world = World::new().await;
    let file = |content| CarriedFile {
        executable: false,
        content,
    };
    let blob = "ab".repeat(20);
    let files = FileSet {
        files: BTreeMap::from([
            (
                "etc/motd".to_owned(),
                file(CarriedContent::Inline("hello\n".to_owned())),
            ),
            (
                "srv/page".to_owned(),
                file(CarriedContent::Blob {
                    id: blob.clone(),
                    size: 4,
                }),
            ),
        ]),
    };
    let digest = Digest::of(b"files");
    let missing = world
        .storage
        .import_files(&digest, &files, &BTreeMap::new())
        .await
        .unwrap_err();
    assert!(missing.what.contains("srv/page"), "{missing}");
    let blobs = BTreeMap::from([(blob, b"page".to_vec())]);
    for _ in 0..2 {
        world.storage.import_files(&digest, &files, &blobs).await.unwrap();
    }
    assert_eq!(
        world.storage.file_layers().await.unwrap(),
        BTreeSet::from([digest])
    );
    let mount = MountSpec {
        path: "/".to_owned(),
        layers: vec![LayerSource::Files(digest)],
        writable: false,
        place: None,
        quota_bytes: None,
        quota_inodes: None,
        leased: false,
        share: 256,
    };
    world
        .storage
        .stack(&web(), &Digest::of(b"stack"), &[mount])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_template_comes_from_the_first_source_that_has_it() {
    let world = World::new().await;
    let other = world.dir.path().join("other");
    let there = Templates::open(&other).unwrap();
    let file = FileToImport {
        path: "a",
        mode: 0o644,
        bytes: b"content",
    };
    let digest = Digest(there.import_files(&[file]).unwrap().0);
    let fetch = |sources: &[&str]| {
        let sources: Vec<_> = sources.iter().map(|source| (*source).to_owned()).collect();
        let storage = &world.storage;
        async move { storage.fetch_template(&digest, &sources).await }
    };
    let none = fetch(&[]).await.unwrap_err();
    assert!(none.what.contains("names no source"), "{none}");
    let unknown = fetch(&["oci://registry/x"]).await.unwrap_err();
    assert_eq!(unknown.retry, Retry::Never);
    let missing = fetch(&["file:///nonexistent"]).await.unwrap_err();
    assert_eq!(missing.retry, Retry::Later);
    fetch(&["file:///nonexistent", &format!("file://{}", other.display())])
        .await
        .unwrap();
    assert!(world.storage.templates().await.unwrap().contains(&digest));
    fetch(&[]).await.unwrap();
    let kernel = world.storage.boot_files(&digest).await.unwrap_err();
    assert!(kernel.what.contains("without a kernel"), "{kernel}");
    assert_eq!(kernel.retry, Retry::Never);
}

#[test]
fn names_lead_back_to_their_sliver() {
    for text in ["web/0", "a-1/0", "a/10", "web-site/12"] {
        let sliver = SliverId::parse(text).unwrap();
        assert_eq!(read_mount_name(&mount_name(&sliver, 3)), Some((sliver, 3)));
    }
    for other in [
        "web", "web-0", "web-0.", "web-0.x", "web-00.1", "Web-0.1", "web-0.01", "",
    ] {
        assert_eq!(read_mount_name(other), None, "{other}");
    }
    let label = Label {
        stack: Digest::of(b"x"),
        mounts: 2,
    };
    assert_eq!(Label::parse(&label.to_string()), Some(label));
    assert_eq!(Label::parse("v2 x 1"), None);
}

#[tokio::test]
async fn a_mark_outlives_everything_but_a_change() {
    let mut world = World::new().await;
    let stack = Digest::of(b"stack");
    world.build(&stack).await;
    assert_eq!(world.see().await.mark, None, "making the layers has changed them");
    world.take_apart().await;
    let mark = world.see().await.mark.unwrap();
    assert_eq!(world.see().await.mark, Some(mark), "looking is no change");

    // Open, in a stack and served it is the same, also to a file server that was started anew.
    let mounts = world.mounts();
    world
        .storage
        .open_writable(&web(), Epoch(1), &mounts)
        .await
        .unwrap();
    assert_eq!(world.see().await.mark, Some(mark));
    world.build(&stack).await;
    assert_eq!(world.see().await.mark, Some(mark));
    world.stop_server().await;
    world.start_server().await;
    assert_eq!(world.see().await.mark, Some(mark));
    world.build(&stack).await;
    world.take_apart().await;
    assert_eq!(world.see().await.mark, Some(mark));

    // Set aside and taken up again, too.
    world.storage.tombstone(&web()).await.unwrap();
    let seen = world.see().await;
    assert!(seen.tombstone.is_some());
    assert_eq!(seen.mark, Some(mark));

    // What lies below is another layer once it was edited: a guest in memory would not find its files again.
    fs::write(world.overlay().join("index.html"), "edited").unwrap();
    world.build(&stack).await;
    assert_eq!(world.see().await.mark, None);
    world.take_apart().await;
    let other = world.see().await.mark.unwrap();
    assert_ne!(other, mark);
    world.stop_server().await;
}

#[tokio::test]
async fn a_layer_that_lies_elsewhere_is_looked_at_by_the_file_server() {
    let mut world = World::new().await;
    let elsewhere = world.dir.path().join("shared");
    fs::create_dir(&elsewhere).unwrap();
    world.storage.paths.writable_roots = vec![elsewhere.clone()];
    let mut mounts = world.mounts();
    mounts.truncate(1);
    let path = elsewhere.join("web").display().to_string();
    mounts[0].place = Some(Place::Node { path });
    let (storage, nothing) = (&world.storage, BTreeSet::new());
    storage.open_writable(&web(), Epoch(1), &mounts).await.unwrap();
    storage
        .checkpoint(&web(), Epoch(1), "first", false, &nothing)
        .await
        .unwrap();
    let checkpoints = async || world.see().await.checkpoints.into_keys().collect::<Vec<_>>();
    assert_eq!(checkpoints().await, ["first"]);
    storage.close_writable(&web()).await.unwrap();
    let mark = world.see().await.mark;
    assert!(mark.is_some());
    assert_eq!(world.see().await.mark, mark);
    storage
        .checkpoint(&web(), Epoch(1), "second", false, &nothing)
        .await
        .unwrap();
    assert_eq!(checkpoints().await, ["first", "second"]);
    // What it holds is the same when it is set aside.
    let mark = world.see().await.mark;
    storage.tombstone(&web()).await.unwrap();
    let seen = world.see().await;
    assert_eq!((seen.on_disk, seen.mark), (false, mark));
    // It outlives whatever this node forgets of it.
    let held = Mark::of(&elsewhere.join("web")).unwrap();
    storage.purge(&web()).await.unwrap();
    assert_eq!(world.see().await, ObservedStorage::default());
    assert_eq!(Mark::of(&elsewhere.join("web")).unwrap(), held);
    world.stop_server().await;
}

#[tokio::test]
async fn one_that_cannot_be_read_is_not_seen_and_everybody_else_is() {
    let mut world = World::new().await;
    let stack = Digest::of(b"stack");
    world.build(&stack).await;
    let broken = SliverId::parse("broken/0").unwrap();
    let one = &world.mounts()[..1];
    world.storage.open_writable(&broken, Epoch(1), one).await.unwrap();
    fs::write(
        world.storage.disk.layer(&broken, 0).with_file_name("mounts.json"),
        "?",
    )
    .unwrap();
    let seen = world.storage.observe().await.unwrap();
    let Seen::Unknown { why } = &seen[&broken] else {
        panic!("{seen:?}")
    };
    assert!(why.contains("mounts.json"), "{why}");
    assert!(world.see().await.exported);
    world.stop_server().await;
}

/// A guest of the first mount.
struct Guest {
    client: NfsClient,
    root: WireHandle,
}

impl Guest {
    async fn of(world: &World) -> Self {
        let mounts = world.storage.guest_mounts(&web(), &world.mounts());
        let stream = UnixStream::connect(&mounts[0].socket).await.unwrap();
        let client = NfsClient::new(stream, "guest", &Caller::root());
        let root = client.mount(&mounts[0].export).await.unwrap();
        Self { client, root }
    }

    async fn make(&self, name: &str) {
        let attributes = SetAttr::default();
        let made = self.client.mkdir(&self.root, name.as_bytes(), &attributes).await;
        made.unwrap();
    }

    async fn sees(&self, name: &str) -> bool {
        self.client.lookup(&self.root, name.as_bytes()).await.is_ok()
    }
}

#[tokio::test]
async fn layers_are_kept_while_they_are_used_and_go_back_when_nobody_does() {
    let mut world = World::new().await;
    let (stack, nothing) = (Digest::of(b"stack"), BTreeSet::new());
    world.build(&stack).await;
    let checkpoints = async || world.see().await.checkpoints.into_keys().collect::<Vec<_>>();
    let keep = async |name: &str, fresh, drops: &BTreeSet<String>| {
        let storage = &world.storage;
        let kept = storage.checkpoint(&web(), Epoch(1), name, fresh, drops).await;
        kept.unwrap();
    };
    let guest = Guest::of(&world).await;
    guest.make("first").await;
    keep("xeno-a-1", false, &nothing).await;
    guest.make("second").await;
    // What is there stays as it is, unless it is to be made anew.
    keep("xeno-a-1", false, &nothing).await;
    keep("by-hand", false, &nothing).await;
    assert_eq!(checkpoints().await, ["by-hand", "xeno-a-1"]);
    let in_use = world
        .storage
        .restore(&web(), Epoch(1), "xeno-a-1", Some("xeno-back-a-1"))
        .await;
    assert!(in_use.unwrap_err().what.contains("part of a stack"));
    assert!(guest.sees("second").await);

    // While nobody has them open, too; they are closed again.
    world.take_apart().await;
    keep("xeno-b-2", false, &nothing).await;
    let seen = world.see().await;
    assert_eq!((seen.open, seen.checkpoints.len()), (None, 3));

    let missing = world.go_back("xeno-c-3", "xeno-back-c-3").await;
    assert_eq!(missing.unwrap_err().retry, Retry::Never);
    world.go_back("xeno-a-1", "xeno-back-b-2").await.unwrap();
    world.build(&stack).await;
    let guest = Guest::of(&world).await;
    assert_eq!(
        (guest.sees("first").await, guest.sees("second").await),
        (true, false)
    );
    guest.make("third").await;
    drop(guest);

    // Who has gone back does not do it again, and what was undone is still there to go to.
    world.take_apart().await;
    world.go_back("xeno-a-1", "xeno-back-b-2").await.unwrap();
    world.build(&stack).await;
    let guest = Guest::of(&world).await;
    assert!(guest.sees("third").await);
    keep("xeno-a-1", true, &BTreeSet::from(["xeno-back-b-2".to_owned()])).await;
    drop(guest);
    assert_eq!(checkpoints().await, ["by-hand", "xeno-a-1", "xeno-b-2"]);
    world.take_apart().await;
    world.go_back("xeno-b-2", "xeno-back-a-1").await.unwrap();
    world.build(&stack).await;
    let guest = Guest::of(&world).await;
    assert!(guest.sees("second").await && !guest.sees("third").await);
    drop(guest);
    world.stop_server().await;
}
