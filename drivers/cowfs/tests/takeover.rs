//! Two real servers over one writable layer: the first is stopped (SIGSTOP) between two steps, the second takes over under
//! the next epoch, and the first goes on. Nothing that it does afterwards is ever seen.
//!
//! The servers are processes of this very test binary. Locks are taken for granted, as on a file system that has none; the
//! feature `lab` has the points to stop at.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowfs::attr::SetAttr;
use cowfs::control::api::{ExportSpec, StackSpec, WritableSpec};
use cowfs::control::client::Client as ControlClient;
use cowfs::export::State;
use cowfs::nfs::client::{Client, WireHandle};
use cowfs::service::{Caller, CreateMode, LayerSource, Stability};
use tokio::net::UnixStream;

/// Says to a process of this test that it is to be a server, with this configuration.
const CONFIG: &str = "XENO_COWFS_TEST_SERVER";
/// Long enough for a busy machine; nothing waits that long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(60);
/// Printed once the server answers.
const READY: &str = "the server is ready";

/// Not a test but the server that the tests start.
#[test]
fn server() {
    let Some(config) = std::env::var_os(CONFIG) else {
        return;
    };
    let config = cowfs::config::load(Path::new(&config)).expect("the configuration");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        #[expect(clippy::print_stdout, reason = "the test waits for it")]
        let ready = |_| println!("{READY}");
        // Until it is killed.
        let served = cowfs::server::serve(config, ready, std::future::pending()).await;
        served.expect("serving");
    });
}

struct Server {
    process: Child,
    control: ControlClient,
    socket: PathBuf,
    layer: PathBuf,
    epoch: u64,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is fine.
        let _killed = self.process.kill();
        let _waited = self.process.wait();
    }
}

/// Starts a server that stops at `point` once the file `stop` is there.
fn start(dir: &Path, name: &str, epoch: u64, point: &str) -> Server {
    let own = dir.join(name);
    std::fs::create_dir(&own).expect("making its directory");
    let config = own.join("cowfs.toml");
    std::fs::write(&config, "control = \"control.sock\"\n").expect("writing the configuration");
    let mut process = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "server", "--nocapture"])
        .env(CONFIG, &config)
        .env("XENO_COWFS_NO_LOCKS", "1")
        .env(
            "XENO_COWFS_STOP_AT",
            format!("{point}:{}", dir.join("stop").display()),
        )
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting a server");
    let stdout = BufReader::new(process.stdout.take().expect("it is piped"));
    let ready = stdout
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains(READY));
    assert!(ready, "the server ended before it was ready");
    Server {
        process,
        control: ControlClient::new(own.join("control.sock")),
        socket: own.join("export.sock"),
        layer: dir.join("w"),
        epoch,
    }
}

impl Server {
    /// Opens the layer and serves it.
    async fn open(&self, lower: &Path) -> (Client, WireHandle) {
        let writable = WritableSpec {
            path: self.layer.clone(),
            epoch: self.epoch,
            quota_bytes: None,
            quota_inodes: None,
        };
        self.control
            .put_writable("w", &writable)
            .await
            .expect("opening the layer");
        let stack = StackSpec {
            layers: vec![LayerSource::Dir(lower.to_owned())],
            writable: Some("w".to_owned()),
            label: None,
        };
        self.control.put_stack("w", &stack).await.expect("stacking");
        let export = ExportSpec {
            stack: "w".to_owned(),
            socket: Some(self.socket.clone()),
            peer_uid: None,
            clients: Vec::new(),
            link: None,
            leased: false,
            state: State::Active,
            weight: Default::default(),
        };
        self.control.put_export("w", &export).await.expect("exporting");
        let stream = UnixStream::connect(&self.socket).await.expect("connecting");
        let client = Client::new(stream, "guest", &Caller::root());
        let root = client.mount("/").await.expect("mounting");
        (client, root)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process id"), signal).expect("signalling");
    }

    /// Waits until the process has stopped itself.
    fn wait_until_stopped(&self) {
        let began = Instant::now();
        let stat = format!("/proc/{}/stat", self.process.id());
        loop {
            let text = std::fs::read_to_string(&stat).expect("the process is there");
            // After the name in parentheses: the state (proc_pid_stat(5)).
            if text
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('T'))
            {
                return;
            }
            assert!(began.elapsed() < DEADLINE, "it did not stop: {text}");
            std::thread::yield_now();
        }
    }
}

fn unchecked() -> CreateMode {
    CreateMode::Unchecked(SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    })
}

/// What a guest can see: names, and the content of the file.
async fn seen(client: &Client, root: &WireHandle, file: &WireHandle) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (entries, eof) = client.readdir(root, 0, 1 << 16).await.expect("listing");
    assert!(eof);
    let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort();
    let content = client.read(file, 0, 1 << 16).await.expect("reading").0;
    (names, content.to_vec())
}

/// Has the first server stop at `point` in the middle of `late`, and the second take over.
async fn check(point: &str, late: impl AsyncFnOnce(Client, WireHandle, WireHandle) -> bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let lower = dir.path().join("lower");
    std::fs::create_dir(&lower).expect("making the lower layer");
    let first = start(dir.path(), "first", 1, point);
    let (client, root) = first.open(&lower).await;
    let made = client
        .create(&root, b"file", unchecked())
        .await
        .expect("creating");
    let file = made.expect("a handle").handle;
    client
        .write(&file, 0, &[1; 9000], Stability::FileSync)
        .await
        .expect("writing");
    client
        .create(&root, b"goes", unchecked())
        .await
        .expect("creating");

    std::fs::write(dir.path().join("stop"), "").expect("arming");
    let held = (root.clone(), file.clone());
    let (answered, second) = tokio::join!(late(client, held.0, held.1), async {
        tokio::task::block_in_place(|| first.wait_until_stopped());
        let second = start(dir.path(), "second", 2, "never");
        let (client, again) = second.open(&lower).await;
        assert_eq!(again, root, "the same handles");
        let before = seen(&client, &root, &file).await;
        first.signal(rustix::process::Signal::CONT);
        (second, client, before)
    });
    let (second, client, before) = second;
    let after = seen(&client, &root, &file).await;
    assert_eq!(after, before, "stopped at {point}");
    if answered {
        assert!(
            after.0.contains(&b"late".to_vec())
                || after.1.contains(&9)
                || !after.0.contains(&b"goes".to_vec()),
            "stopped at {point}: what was answered is not there"
        );
    }
    client
        .create(&root, b"of the second", unchecked())
        .await
        .expect("creating");
    client
        .write(&file, 100, &[5; 5000], Stability::FileSync)
        .await
        .expect("writing");
    let expected = seen(&client, &root, &file).await;
    drop((client, second, first));

    // Nobody is left: what is on disk is what the second has said.
    assert_eq!(
        cowfs::fsck::fsck(&dir.path().join("w"))
            .expect("checking")
            .problems,
        Vec::new()
    );
    let third = start(dir.path(), "third", 3, "never");
    let (client, _) = third.open(&lower).await;
    assert_eq!(seen(&client, &root, &file).await, expected, "stopped at {point}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_between_check_and_append() {
    check("append", async |client, root, _| {
        client.create(&root, b"late", unchecked()).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_before_it_writes_in_place() {
    check("write", async |client, _, file| {
        client
            .write(&file, 0, &[9; 9000], Stability::FileSync)
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_before_it_removes_content() {
    check("remove", async |client, root, _| {
        client.remove(&root, b"goes").await.is_ok()
    })
    .await;
}
