//! An etcd of a test's own, on loopback, ended with the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use rustix::process::{Pid, Signal, kill_process};
use xeno_test_support::free_port;

use super::super::{EtcdBoard, EtcdConfig};
use crate::board::{Board as _, Key, Prefix};

/// How long an etcd may take to answer: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// One member, with its data in a directory that goes with it.
pub(super) struct Server {
    dir: tempfile::TempDir,
    arguments: Vec<String>,
    config: EtcdConfig,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// A server that is its whole cluster, and answers.
    pub(super) async fn new() -> Self {
        let server = Self::make("http", free_port(), (free_port(), None), &[], None);
        server.run().await
    }

    /// The same, with certificates on both sides.
    pub(super) async fn with_tls(certificates: &Certificates) -> Self {
        let path = |name: &str| certificates.path(name).display().to_string();
        let more = [
            "--cert-file".to_owned(),
            path("leaf.pem"),
            "--key-file".to_owned(),
            path("leaf.key"),
            "--trusted-ca-file".to_owned(),
            path("ca.pem"),
            "--client-cert-auth".to_owned(),
        ];
        let server = Self::make(
            "https",
            free_port(),
            (free_port(), None),
            &more,
            Some(certificates),
        );
        server.run().await
    }

    /// Several members of one cluster.
    pub(super) async fn cluster(members: usize) -> Vec<Self> {
        let ports: Vec<_> = (0..members).map(|_| (free_port(), free_port())).collect();
        let peer = |(n, (_, peer)): (usize, &(u16, u16))| format!("m{n}=http://127.0.0.1:{peer}");
        let all = ports.iter().enumerate().map(peer).collect::<Vec<_>>().join(",");
        let make = |(n, (client, peer)): (usize, &(u16, u16))| {
            Self::make("http", *client, (*peer, Some((n, all.clone()))), &[], None)
        };
        let servers: Vec<_> = ports.iter().enumerate().map(make).collect();
        servers.iter().for_each(Self::start);
        for server in &servers {
            server.answers(&server.board()).await;
        }
        servers
    }

    async fn run(self) -> Self {
        self.start();
        self.answers(&self.board()).await;
        self
    }

    fn make(
        scheme: &str,
        port: u16,
        (peer, cluster): (u16, Option<(usize, String)>),
        more: &[String],
        certificates: Option<&Certificates>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (url, peer) = (
            format!("{scheme}://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let (name, all) = match cluster {
            None => ("m0".to_owned(), format!("m0={peer}")),
            Some((n, all)) => (format!("m{n}"), all),
        };
        let data = dir.path().join("data").display().to_string();
        let pairs = [
            ("--name", name.as_str()),
            ("--data-dir", &data),
            ("--listen-client-urls", &url),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &all),
            ("--logger", "zap"),
            // Times of a machine that is busy with other tests, and still short.
            ("--heartbeat-interval", "50"),
            ("--election-timeout", "500"),
        ];
        let pairs = pairs
            .iter()
            .flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]);
        let config = EtcdConfig {
            endpoints: vec![url.clone()],
            prefix: Prefix::new("xenoslice/fleet/").unwrap(),
            ca: certificates.map(|made| made.path("ca.pem")),
            identity: certificates.map(|made| (made.path("leaf.pem"), made.path("leaf.key"))),
            user: None,
            timeout: Duration::from_secs(10),
        };
        Self {
            dir,
            arguments: pairs.chain(more.iter().cloned()).collect(),
            config,
            child: Mutex::default(),
        }
    }

    /// Starts it, if it does not run.
    pub(super) fn start(&self) {
        let mut child = self.child.lock().unwrap();
        if child.is_some() {
            return;
        }
        let program = std::env::var_os("XENO_ETCD").expect("XENO_ETCD names an etcd: `make test-board`");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let started = Command::new(program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        *child = Some(started.expect("etcd starts"));
    }

    /// Ends it as a power failure would.
    pub(super) fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Has it stand still, or go on.
    pub(super) fn freeze(&self, frozen: bool) {
        let child = self.child.lock().unwrap();
        let pid = Pid::from_child(child.as_ref().expect("it runs"));
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(pid, signal).unwrap();
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn config(&self) -> EtcdConfig {
        self.config.clone()
    }

    pub(super) fn board(&self) -> EtcdBoard {
        EtcdBoard::new(self.config()).unwrap()
    }

    /// A client of etcd's own.
    pub(super) async fn raw(&self, options: Option<ConnectOptions>) -> Client {
        Client::connect(&self.config.endpoints, options).await.unwrap()
    }

    /// Waits until it answers this board.
    pub(super) async fn answers(&self, board: &EtcdBoard) {
        let answered = tokio::time::timeout(PATIENCE, async {
            while board.get(&Key::new("is/there").unwrap()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if answered.await.is_err() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(20).collect();
            panic!(
                "etcd does not answer; its last words, latest first:\n{}",
                last.join("\n")
            );
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock()
            && let Some(mut child) = child.take()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An authority and one certificate of its, for either side. Made by the program openssl, which whoever runs an etcd has:
/// what a crate makes of our own language's TLS proves less about theirs.
pub(super) struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    pub(super) fn make() -> Self {
        let made = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let config = "
            [req]\nprompt = no\ndistinguished_name = name\n
            [name]\nCN = test\n
            [ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\n
            [leaf]\nsubjectAltName = IP:127.0.0.1\nextendedKeyUsage = serverAuth, clientAuth\n";
        let config: String = config.lines().map(|line| format!("{}\n", line.trim())).collect();
        std::fs::write(made.path("config"), config).unwrap();
        made.openssl("ca", &[]);
        made.openssl("leaf", &["-CA", "ca.pem", "-CAkey", "ca.key"]);
        made
    }

    fn openssl(&self, name: &str, by: &[&str]) {
        let new = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ];
        let done = Command::new("openssl")
            .current_dir(self.dir.path())
            .args(["req", "-x509", "-config", "config", "-extensions", name])
            .args(new)
            .args(by)
            .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
            .output()
            .expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
