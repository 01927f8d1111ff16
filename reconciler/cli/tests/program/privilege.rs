//! A file server that root starts and that is an ordinary user from then on, and the lender that opens for it what only root may
//! read. Being more than one user needs root; without it there is nothing to tell.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowfs::attr::SetAttr;
use cowfs::nfs::client::{Client, WireHandle};
use cowfs::service::{Caller, CreateMode, Stability};
use tokio::net::UnixStream;
use xeno_test_support::copy_program;

use crate::world::World;

/// Machines are shared: generous, and only reached when something is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

/// Debian's `nobody`.
const NOBODY: u32 = 65_534;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts the program as root, and waits for its socket.
    fn start(world: &World, socket: &str, arguments: &[&str]) -> Self {
        let log = std::fs::File::create(world.path(&format!("{socket}.log"))).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_xeno"))
            .args(arguments)
            .current_dir(world.dir.path())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let running = Self(child.expect("it starts"));
        let until = Instant::now() + DEADLINE;
        while std::os::unix::net::UnixStream::connect(world.path(socket)).is_err() {
            let said = || std::fs::read_to_string(world.path(&format!("{socket}.log"))).unwrap_or_default();
            assert!(Instant::now() < until, "{socket} does not answer: {}", said());
            std::thread::yield_now();
        }
        running
    }

    /// A line of what the kernel says of the process (proc_pid_status(5)).
    fn status(&self, field: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.expect(field)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A directory that the user may pass and work in, an overlay with a private key, and what serves it.
fn world() -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let world = World::new();
    let mode = |path: &str, mode| {
        std::fs::set_permissions(world.path(path), std::fs::Permissions::from_mode(mode)).expect(path);
    };
    mode("", 0o755);
    for path in ["work", "overlays", "overlays/site"] {
        std::fs::create_dir(world.path(path)).expect(path);
        mode(path, 0o755);
    }
    chown(world.path("work"), Some(NOBODY), Some(NOBODY)).expect("root may");
    for (path, bits) in [("overlays/site/key", 0o600), ("overlays/site/page", 0o644)] {
        std::fs::write(world.path(path), path).expect(path);
        mode(path, bits);
    }
    let config = "control = \"work/cowfs.sock\"\nlender = \"lend.sock\"\n\n[[export]]\nname = \"/web\"\n\
                  socket = \"work/web.sock\"\nwritable = \"work/w/web\"\nlayers = [ { dir = \"overlays/site\" } ]\n";
    std::fs::write(world.path("cowfs.toml"), config).expect("a configuration");
    Some(world)
}

/// What a guest of the export is told.
fn asked<T>(world: &World, question: impl AsyncFnOnce(&Client, &WireHandle) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let stream = UnixStream::connect(world.path("work/web.sock"))
            .await
            .expect("a socket");
        let client = Client::new(stream, "guest", &Caller::root());
        let root = client.mount("/web").await.expect("a mount");
        question(&client, &root).await
    })
}

fn content(world: &World, name: &str) -> Option<String> {
    asked(world, async |client, root| {
        let found = client.lookup(root, name.as_bytes()).await.expect("it is listed");
        let read = client.read(&found.handle, 0, 100).await.ok()?;
        Some(String::from_utf8_lossy(&read.0).into_owned())
    })
}

#[test]
fn a_server_that_root_starts_is_an_ordinary_user_from_then_on() {
    let Some(world) = world() else { return };
    let serve = ["cowfs", "serve", "--config", "cowfs.toml", "--user", "nobody"];
    let server = Running::start(&world, "work/cowfs.sock", &serve);
    let four = vec![NOBODY.to_string(); 4].join(" ");
    assert_eq!(server.status("Uid:"), four);
    assert_eq!(server.status("Gid:").split(' ').next(), Some("65534"));
    for rights in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        assert_eq!(server.status(rights), "0000000000000000", "{rights}");
    }
    // All of its threads: what one of them kept, a hole in the program would have.
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.0.id())).expect("threads");
    for thread in threads.map(|thread| thread.expect("a thread").path()) {
        let status = std::fs::read_to_string(thread.join("status")).unwrap_or_default();
        assert!(
            status.is_empty() || status.contains("Uid:\t65534\t65534\t65534\t65534\n"),
            "{status}"
        );
    }
    // What a guest writes belongs to it, wherever the guest's own records say that it belongs.
    asked(&world, async |client, root| {
        let mode = CreateMode::Unchecked(SetAttr::default());
        let made = client
            .create(root, b"new", mode)
            .await
            .expect("made")
            .expect("a handle");
        let attr = client.getattr(&made.handle).await.expect("attributes").1;
        assert_eq!(attr.uid, 0);
        let written = client
            .write(&made.handle, 0, &[7; 100_000], Stability::FileSync)
            .await;
        assert_eq!(written.expect("written").0, 100_000);
    });
    let mut todo = vec![world.path("work/w")];
    let mut looked = 0;
    while let Some(path) = todo.pop() {
        let there = std::fs::symlink_metadata(&path).expect("it is there");
        assert_eq!(there.uid(), NOBODY, "{}", path.display());
        assert_eq!(there.mode() & 0o077, 0, "{}", path.display());
        looked += 1;
        if there.is_dir() {
            let inside = std::fs::read_dir(path).expect("a listing");
            todo.extend(inside.map(|entry| entry.expect("an entry").path()));
        }
    }
    assert!(looked > 4, "{looked}");
}

#[test]
fn who_cannot_be_served_as_is_refused_before_anything_is_made() {
    let Some(world) = world() else { return };
    let check = |user: &str, words: &str| {
        let said = world.xeno(".", &["cowfs", "serve", "--config", "cowfs.toml", "--user", user]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.all().contains(words), "{}", said.all());
        assert!(!world.path("work/w").exists() && !world.path("work/cowfs.sock").exists());
    };
    check("nobody-of-that-name", "there is no user `nobody-of-that-name`");
    check("", "there is no user ``");
    check("root", "names the superuser");
    // Whoever is an ordinary user already cannot become another.
    let program = world.path("program");
    copy_program(env!("CARGO_BIN_EXE_xeno").as_ref(), &program);
    let mut command = Command::new(&program);
    std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
    std::os::unix::process::CommandExt::gid(&mut command, NOBODY);
    let said = command
        .args(["cowfs", "serve", "--config", "cowfs.toml", "--user", "daemon"])
        .current_dir(world.dir.path())
        .output()
        .expect("it runs");
    assert_eq!(said.status.code(), Some(1));
    let words = String::from_utf8_lossy(&said.stderr)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(words.contains("was started by user 65534"), "{words}");
}

#[test]
fn private_files_of_overlays_are_served_while_somebody_lends_them() {
    let Some(world) = world() else { return };
    let agent = "node = \"node-a\"\nrepository = \"repo.git\"\noverlay_roots = [\"overlays\", \"absent\"]\n\n\
                 [cowfs]\nuser = \"nobody\"\n";
    std::fs::write(world.path("agent.toml"), agent).expect("written");
    let lend = ["cowfs", "lend", "--socket", "lend.sock", "--agent", "agent.toml"];
    let lender = Running::start(&world, "lend.sock", &lend);
    let serve = ["cowfs", "serve", "--config", "cowfs.toml", "--user", "nobody"];
    let _server = Running::start(&world, "work/cowfs.sock", &serve);
    let status = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let control = cowfs::control::client::Client::new(world.path("work/cowfs.sock"));
        let status = runtime.expect("a runtime").block_on(control.status());
        status.expect("a status").lender
    };
    assert_eq!(status(), Some(true));
    assert_eq!(content(&world, "page").as_deref(), Some("overlays/site/page"));
    assert_eq!(content(&world, "key").as_deref(), Some("overlays/site/key"));
    drop(lender);
    assert_eq!(status(), Some(false));
    assert_eq!(content(&world, "page").as_deref(), Some("overlays/site/page"));
}
