//! A real file server, a stack for it, and a guest that works on it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowfs::attr::{FileType, SetAttr};
use cowfs::nfs::client::{Client, ClientError, WireHandle};
use cowfs::service::{Caller, CreateMode, Stability};
use tokio::net::UnixStream;

use crate::world::World;

/// Machines are shared: generous, and only reached when something is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

/// A program that ends with the test.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts the file server, and waits until its control socket answers.
    pub(crate) fn serve(world: &World, config: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_xeno"))
            .args(["cowfs", "serve", "--config"])
            .arg(world.path(config))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(world.path("cowfs.log")).expect("a log"))
            .spawn();
        let running = Self(child.expect("it starts"));
        until_there(world, "cowfs.sock");
        running
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self, world: &World) {
        let killed = world.sh(".", &format!("kill -TERM {}", self.0.id()));
        assert_eq!(killed.code, Some(0));
        assert!(self.0.wait().expect("it ends").success());
    }
}

/// Waits until somebody listens on a socket.
pub(crate) fn until_there(world: &World, socket: &str) {
    let until = Instant::now() + DEADLINE;
    while std::os::unix::net::UnixStream::connect(world.path(socket)).is_err() {
        let said = || std::fs::read_to_string(world.path("cowfs.log")).unwrap_or_default();
        assert!(Instant::now() < until, "{socket} does not answer: {}", said());
        std::thread::yield_now();
    }
}

/// A guest: a client of one export.
pub(crate) struct Guest {
    runtime: tokio::runtime::Runtime,
    client: Client,
    root: WireHandle,
}

impl Guest {
    /// Mounts the export that a socket leads to.
    pub(crate) fn mount(world: &World, socket: &str, export: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let (client, root) = runtime.block_on(async {
            let stream = UnixStream::connect(world.path(socket)).await.expect("a socket");
            let client = Client::new(stream, "guest", &Caller::root());
            let root = client.mount(export).await.expect("a mount");
            (client, root)
        });
        Self {
            runtime,
            client,
            root,
        }
    }

    fn at(&self, path: &str) -> WireHandle {
        self.runtime.block_on(async {
            let mut handle = self.root.clone();
            for name in path.split('/').filter(|name| !name.is_empty()) {
                handle = self
                    .client
                    .lookup(&handle, name.as_bytes())
                    .await
                    .expect(path)
                    .handle;
            }
            handle
        })
    }

    fn place<'a>(&self, path: &'a str) -> (WireHandle, &'a [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.at(dir), name.as_bytes())
    }

    /// Makes a file, or writes it anew.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        let (dir, name) = self.place(path);
        let mode = SetAttr {
            mode: Some(0o644),
            size: Some(0),
            ..SetAttr::default()
        };
        self.runtime.block_on(async {
            let made = self.client.create(&dir, name, CreateMode::Unchecked(mode)).await;
            let handle = made.expect(path).expect("a handle").handle;
            // Not synced: whoever looks has it written first.
            let written = self.client.write(&handle, 0, bytes, Stability::Unstable).await;
            assert_eq!(written.expect(path).0 as usize, bytes.len());
        });
    }

    /// What a file begins with, or why it cannot be read.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let handle = self.at(path);
        let read = self.runtime.block_on(self.client.read(&handle, 0, 1 << 16));
        read.map(|(bytes, _)| bytes.to_vec())
    }

    /// Changes attributes.
    pub(crate) fn set(&self, path: &str, set: &SetAttr) {
        let handle = self.at(path);
        self.runtime
            .block_on(self.client.setattr(&handle, set, None))
            .expect(path);
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &str) {
        let (dir, name) = self.place(path);
        self.runtime.block_on(self.client.remove(&dir, name)).expect(path);
    }

    /// Renames.
    pub(crate) fn rename(&self, from: &str, to: &str) {
        let ((a, from), (b, to)) = (self.place(from), self.place(to));
        self.runtime
            .block_on(self.client.rename((&a, from), (&b, to)))
            .expect("a rename");
    }

    /// Makes a symbolic link.
    pub(crate) fn symlink(&self, path: &str, target: &str) {
        let (dir, name) = self.place(path);
        let made = self
            .runtime
            .block_on(self.client.symlink(&dir, name, target.as_bytes()));
        made.expect(path);
    }

    /// All that a guest can see, by path.
    pub(crate) fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        let mut todo = vec![(String::new(), self.root.clone())];
        self.runtime.block_on(async {
            while let Some((path, handle)) = todo.pop() {
                let (_, attr) = self.client.getattr(&handle).await.expect("attributes");
                let content = match attr.file_type {
                    FileType::Regular => {
                        let (bytes, end) = self.client.read(&handle, 0, 1 << 20).await.expect("content");
                        assert!(end);
                        String::from_utf8_lossy(&bytes).into_owned()
                    }
                    FileType::Symlink => {
                        let target = self.client.readlink(&handle).await.expect("a target");
                        String::from_utf8_lossy(&target).into_owned()
                    }
                    _ => String::new(),
                };
                if attr.file_type == FileType::Directory {
                    let (entries, end) = self.client.readdir(&handle, 0, 1 << 20).await.expect("a listing");
                    assert!(end);
                    for entry in entries.iter().filter(|entry| !entry.name.starts_with(b".")) {
                        let found = self.client.lookup(&handle, &entry.name).await.expect("a name");
                        todo.push((
                            format!("{path}/{}", String::from_utf8_lossy(&entry.name)),
                            found.handle,
                        ));
                    }
                }
                let seen = format!(
                    "{:?} {:o} {}:{} {} {content}",
                    attr.file_type, attr.mode, attr.uid, attr.gid, attr.mtime.seconds
                );
                tree.insert(path, seen);
            }
        });
        tree
    }
}

fn file(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("a mode");
}

/// A template in a store, a directory over it, and a configuration that serves both under a writable layer.
pub(crate) fn stack() -> World {
    let world = World::new();
    for (path, text) in [
        ("base/etc/motd", "one\ntwo\nthree\n"),
        ("base/etc/issue", "issue\n"),
        ("base/etc/hosts", "127.0.0.1 localhost\n"),
        ("base/srv/old/page", "page\n"),
        ("base/bin/tool", "#!/bin/sh\n"),
        ("site/etc/site.conf", "site = 1\n"),
    ] {
        file(&world.path(path), text);
    }
    let imported = world.xeno(
        ".",
        &[
            "template",
            "import",
            "base",
            "--store",
            "templates",
            "--name",
            "base",
            "--owner",
            "0:0",
        ],
    );
    assert_eq!(imported.code, Some(0), "{imported:?}");
    config(
        &world,
        "cowfs.toml",
        &format!(
            "{{ dir = \"site\" }}, {{ template = \"{}\" }}",
            imported.out.trim()
        ),
        true,
    );
    world
}

/// Writes a configuration: the export `/web` of these layers, with a socket of its own.
pub(crate) fn config(world: &World, name: &str, layers: &str, writable: bool) {
    let writable = if writable { "writable = \"w/web\"\n" } else { "" };
    let text = format!(
        "control = \"cowfs.sock\"\n\n[[export]]\nname = \"/web\"\nsocket = \"web.sock\"\n{writable}layers = [ {layers} ]\n"
    );
    std::fs::write(world.path(name), text).expect("a configuration");
}
