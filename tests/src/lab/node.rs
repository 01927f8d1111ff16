//! A node of the laboratory: an agent and a file server, with their configuration, as an operator would set them up.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use xeno_test_support::free_port;

use super::link::Link;
use super::process::Daemon;
use super::{LabError, LabResult, Parts, ensure, wait_for, write};
use crate::demo::stop;

const AGENT_SOCKET: &str = "agent.sock";
const COWFS_SOCKET: &str = "cowfs.sock";

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its name in the repository.
    pub name: String,
    /// Everything it keeps.
    pub dir: PathBuf,
    xeno: PathBuf,
    /// Its agent.
    pub agent: Daemon,
    /// Its file server.
    pub cowfs: Daemon,
}

/// How long a daemon may take to listen: generous, since machines are shared.
const START_DEADLINE: Duration = Duration::from_secs(60);

impl Node {
    /// Configures a node below `dir` and starts its two daemons.
    ///
    /// # Errors
    /// If one of them does not come up; the message shows what it said.
    pub fn start(dir: &Path, name: &str, repository: &Path, parts: &Parts) -> LabResult<Self> {
        Self::start_with(dir, name, repository, parts, "")
    }

    /// Starts a node that is one of a fleet: all of them share a board, a file in `dir`.
    ///
    /// # Errors
    /// If one of its daemons does not come up; the message shows what it said.
    pub fn start_in_fleet(dir: &Path, name: &str, repository: &Path, parts: &Parts) -> LabResult<Self> {
        let board = "\n[board]\nkind = \"sqlite\"\npath = \"../board.db\"\n";
        Self::start_with(dir, name, repository, parts, board)
    }

    /// Starts a node that is one of a fleet with an etcd at `endpoint`.
    ///
    /// # Errors
    /// If one of its daemons does not come up; the message shows what it said.
    pub fn start_with_etcd(
        dir: &Path,
        name: &str,
        repository: &Path,
        parts: &Parts,
        endpoint: &str,
    ) -> LabResult<Self> {
        let listen = free_port();
        Self::start_with(dir, name, repository, parts, &with_etcd(endpoint, listen, listen))
    }

    /// The same, and other agents reach it over the line that comes with it.
    ///
    /// # Errors
    /// If one of its daemons does not come up; the message shows what it said.
    pub fn start_at_a_line(
        dir: &Path,
        name: &str,
        repository: &Path,
        parts: &Parts,
        endpoint: &str,
    ) -> LabResult<(Self, Link)> {
        let listen = free_port();
        let link = Link::to(listen)?;
        let fleet = with_etcd(endpoint, listen, link.port);
        Ok((Self::start_with(dir, name, repository, parts, &fleet)?, link))
    }

    /// The same, with a program that makes sure that a node is off.
    ///
    /// # Errors
    /// If one of its daemons does not come up; the message shows what it said.
    pub fn start_with_fence(
        dir: &Path,
        name: &str,
        repository: &Path,
        parts: &Parts,
        (endpoint, fence): (&str, &Path),
    ) -> LabResult<Self> {
        let listen = free_port();
        let fence = format!(
            "timeout = \"2s\"\nfence = [\"{}\", \"{{node}}\"]\n",
            fence.display()
        );
        let fleet = with_etcd(endpoint, listen, listen).replace("timeout = \"2s\"\n", &fence);
        Self::start_with(dir, name, repository, parts, &fleet)
    }

    fn start_with(dir: &Path, name: &str, repository: &Path, parts: &Parts, more: &str) -> LabResult<Self> {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).map_err(LabError::io(format!("making {}", dir.display())))?;
        write(
            &dir.join("cowfs.toml"),
            "control = \"cowfs.sock\"\nstore = \"templates\"\n",
        )?;
        write(
            &dir.join("agent.toml"),
            &format!(
                "node = \"{name}\"\nrepository = \"{}\"\nstate_dir = \"state\"\nsocket = \"agent.sock\"\npoll = \"30s\"\n\
                 overlay_roots = [\"../overlays\"]\nwritable_roots = [\"../shared\"]\n\n\
                 [cowfs]\nsocket = \"cowfs.sock\"\nstore = \"templates\"\n\n\
                 [hypervisor]\nkind = \"qemu\"\nshutdown_grace = \"20s\"\n{more}",
                repository.display()
            ),
        )?;
        let cowfs = start_cowfs(&parts.xeno, &dir)?;
        let agent = start_agent(&parts.xeno, &dir)?;
        let mut node = Self {
            name: name.to_owned(),
            dir,
            xeno: parts.xeno.clone(),
            agent,
            cowfs,
        };
        await_socket(&mut node.cowfs, &node.dir.join(COWFS_SOCKET))?;
        await_socket(&mut node.agent, &node.dir.join(AGENT_SOCKET))?;
        Ok(node)
    }

    /// Kills the agent as a crash would.
    ///
    /// # Errors
    /// [`LabError::Io`] if it cannot be waited for.
    pub fn kill_agent(&mut self) -> LabResult<()> {
        self.agent.kill()
    }

    /// Kills the file server as a crash would.
    ///
    /// # Errors
    /// [`LabError::Io`] if it cannot be waited for.
    pub fn kill_cowfs(&mut self) -> LabResult<()> {
        self.cowfs.kill()
    }

    /// Starts the agent again and waits until it listens.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart_agent(&mut self) -> LabResult<()> {
        self.agent = start_agent(&self.xeno, &self.dir)?;
        await_socket(&mut self.agent, &self.dir.join(AGENT_SOCKET))
    }

    /// Starts another program in the agent's place, with these variables in its environment.
    ///
    /// # Errors
    /// [`LabError::Io`] if it cannot be started.
    pub fn start_as_agent(&mut self, program: &Path, variables: &[(&str, &str)]) -> LabResult<()> {
        let config = self.dir.join("agent.toml");
        self.agent = Daemon::start_with(
            program,
            &["agent", "--config", &config.to_string_lossy()],
            variables,
            &self.dir.join("agent.log"),
        )?;
        Ok(())
    }

    /// Starts the file server again, as a service manager would.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart_cowfs(&mut self) -> LabResult<()> {
        self.cowfs = start_cowfs(&self.xeno, &self.dir)?;
        await_socket(&mut self.cowfs, &self.dir.join(COWFS_SOCKET))
    }

    /// Processes of guests that run in its directory.
    #[must_use]
    pub fn guests(&self, sliver: &str) -> Vec<u32> {
        stop::guests(&self.dir.join("state/qemu").join(sliver))
    }

    /// Its agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join(AGENT_SOCKET)
    }

    /// Runs a `xeno` command against this node's agent.
    ///
    /// # Errors
    /// [`LabError::Io`] if the program cannot be run; its own exit code is for the caller.
    pub fn xeno(&self, arguments: &[&str]) -> LabResult<Output> {
        Command::new(&self.xeno)
            .env("XENO_SOCKET", self.socket())
            .env("NO_COLOR", "1")
            .args(arguments)
            .output()
            .map_err(LabError::io(format!("running xeno {}", arguments.join(" "))))
    }

    /// Runs a `xeno` command that prints JSON.
    ///
    /// # Errors
    /// If it fails or prints something else.
    pub fn json(&self, arguments: &[&str]) -> LabResult<serde_json::Value> {
        let output = self.xeno(arguments)?;
        ensure(output.status.success(), || {
            format!(
                "xeno {} on {}: {}",
                arguments.join(" "),
                self.name,
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        serde_json::from_slice(&output.stdout).map_err(|e| {
            LabError::Check(format!(
                "xeno {} on {} printed no JSON: {e}",
                arguments.join(" "),
                self.name
            ))
        })
    }

    /// What its file server says of its exports.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn file_server(&self) -> LabResult<serde_json::Value> {
        let control = self.dir.join(COWFS_SOCKET);
        self.json(&[
            "cowfs",
            "stat",
            "-o",
            "json",
            "--control",
            &control.to_string_lossy(),
        ])
    }

    /// Waits until planning anew finds nothing to do.
    ///
    /// # Errors
    /// The plan that is left once the deadline has passed.
    pub fn await_converged(&self, deadline: Duration) -> LabResult<()> {
        wait_for(
            &format!("{} to have nothing left to do", self.name),
            deadline,
            || {
                let output = self
                    .xeno(&["plan", "--refresh", "--detailed-exitcode"])
                    .map_err(|e| e.to_string())?;
                if output.status.code() == Some(0) {
                    return Ok(());
                }
                Err(format!(
                    "exit {:?}\n{}{}",
                    output.status.code(),
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                ))
            },
        )
    }

    /// Waits until `text` stands in so many of its events; gives the last of them.
    ///
    /// # Errors
    /// Once the deadline has passed.
    pub fn await_event(&self, text: &str, times: usize, deadline: Duration) -> LabResult<String> {
        wait_for(&format!("{} to say {text:?}", self.name), deadline, || {
            let mut said = self.said(text).map_err(|error| error.to_string())?;
            match said.pop() {
                Some(last) if said.len() + 1 >= times => Ok(last),
                _ => Err(format!("it said so {} times", said.len())),
            }
        })
    }

    /// In how many of its events `text` stands.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn times_said(&self, text: &str) -> LabResult<usize> {
        self.said(text).map(|said| said.len())
    }

    fn said(&self, text: &str) -> LabResult<Vec<String>> {
        let events = self.json(&["events", "--limit", "1000", "-o", "json"])?;
        let events = events["events"].as_array().into_iter().flatten();
        let said = events.filter_map(|event| event["text"].as_str());
        Ok(said
            .filter(|said| said.contains(text))
            .map(str::to_owned)
            .collect())
    }

    /// Stops both daemons, leaving guests to whoever asked.
    ///
    /// # Errors
    /// If one does not end.
    pub fn stop(&mut self) -> LabResult<()> {
        self.agent.stop()?;
        self.cowfs.stop()
    }
}

/// What makes a node one of a fleet.
fn with_etcd(endpoint: &str, listen: u16, advertise: u16) -> String {
    format!(
        "\n[board]\nkind = \"etcd\"\nendpoints = [\"{endpoint}\"]\ntimeout = \"2s\"\n\n[peers]\nlisten = \"127.0.0.1:{listen}\"\n\
         advertise = \"127.0.0.1:{advertise}\"\n"
    )
}

/// Waits until a daemon takes connections; shows the end of what it said if it ends instead.
fn await_socket(daemon: &mut Daemon, path: &Path) -> LabResult<()> {
    wait_for(
        &format!("somebody to listen on {}", path.display()),
        START_DEADLINE,
        || {
            if daemon.ended() {
                let said = std::fs::read_to_string(&daemon.log).unwrap_or_default();
                let tail: Vec<&str> = said.lines().rev().take(10).collect();
                return Err(format!(
                    "it ended: {}",
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                ));
            }
            std::os::unix::net::UnixStream::connect(path)
                .map(drop)
                .map_err(|e| e.to_string())
        },
    )
}

fn start_agent(xeno: &Path, dir: &Path) -> LabResult<Daemon> {
    let config = dir.join("agent.toml");
    Daemon::start(
        xeno,
        &["agent", "--config", &config.to_string_lossy()],
        &dir.join("agent.log"),
    )
}

fn start_cowfs(xeno: &Path, dir: &Path) -> LabResult<Daemon> {
    let config = dir.join("cowfs.toml");
    Daemon::start(
        xeno,
        &["cowfs", "serve", "--config", &config.to_string_lossy()],
        &dir.join("cowfs.log"),
    )
}
