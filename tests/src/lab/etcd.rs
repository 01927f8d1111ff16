//! An etcd of the laboratory: one member on loopback.

use std::path::{Path, PathBuf};
use std::time::Duration;

use xeno_test_support::free_port;

use super::process::Daemon;
use super::{LabResult, http, wait_for};

/// How long it may take to answer: generous, since machines are shared.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// An etcd that can be killed and started again over the same data.
#[derive(Debug)]
pub struct Etcd {
    program: PathBuf,
    dir: PathBuf,
    client: u16,
    peer: u16,
    /// Its process.
    pub daemon: Daemon,
}

impl Etcd {
    /// Starts one whose data lie below `dir`, and waits until it answers.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(program: &Path, dir: &Path) -> LabResult<Self> {
        let (client, peer) = (free_port(), free_port());
        let dir = dir.join("etcd");
        let daemon = launch(program, &dir, client, peer)?;
        let mut etcd = Self {
            program: program.to_owned(),
            dir,
            client,
            peer,
            daemon,
        };
        etcd.answers()?;
        Ok(etcd)
    }

    /// Where it is asked.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// The port of that.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.client
    }

    /// Starts it again, after it was killed.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart(&mut self) -> LabResult<()> {
        self.daemon = launch(&self.program, &self.dir, self.client, self.peer)?;
        self.answers()
    }

    fn answers(&mut self) -> LabResult<()> {
        wait_for("etcd to answer", START_DEADLINE, || {
            let health = http::get(self.client, "/health", Duration::from_secs(5))?;
            if health.body.contains("true") {
                Ok(())
            } else {
                Err(health.body)
            }
        })
    }
}

fn launch(program: &Path, dir: &Path, client: u16, peer: u16) -> LabResult<Daemon> {
    let (client, peer) = (
        format!("http://127.0.0.1:{client}"),
        format!("http://127.0.0.1:{peer}"),
    );
    let data = dir.join("data").display().to_string();
    let cluster = format!("lab={peer}");
    let arguments = [
        ("--name", "lab"),
        ("--data-dir", &data),
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &cluster),
        ("--logger", "zap"),
    ];
    let arguments: Vec<&str> = arguments
        .iter()
        .flat_map(|(name, value)| [*name, *value])
        .collect();
    Daemon::start(program, &arguments, &dir.join("etcd.log"))
}
