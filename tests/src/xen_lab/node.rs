//! A node in the dom0 of a machine, as an operator without systemd sets it up: the Debian package, two files of
//! configuration, and a script at boot.

use super::machine::{Machine, quote};
use crate::lab::{LabError, LabResult, ensure, wait_for};
use crate::xen_lab::machine::DEADLINE;

/// Its name in the repository.
pub const NAME: &str = "xen-01";

/// The repository that it reads and people push to.
pub const REPOSITORY: &str = "/srv/git/fleet.git";

const AGENT: &str = r#"node = "xen-01"
repository = "/srv/git/fleet.git"
state_dir = "/var/lib/xenoslice/state"
socket = "/run/xenoslice/agent.sock"
poll = "5s"
overlay_roots = ["/srv/overlays", "/srv/data/overlays"]

[cowfs]
socket = "/run/xenoslice/cowfs.sock"
store = "/var/lib/xenoslice/templates"
user = "xeno"

[hypervisor]
kind = "xen"
guest = "pv"
shutdown_grace = "60s"
"#;

/// What `docs/xen.md` says of nodes without systemd.
const BOOT: &str = r#"#!/bin/sh
install -d -m 1775 -g xeno /run/xenoslice
install -d -m 0755 /run/xenoslice/links
install -d -m 0700 /run/xenoslice/vif
umask 027
export XENO_LOG=info,xeno_xen=debug
setsid supervise xeno-cowfs xeno cowfs serve --config /etc/xenoslice/cowfs.toml &
setsid supervise xeno-agent xeno agent --config /etc/xenoslice/agent.toml &
"#;

const BOOT_SCRIPT: &str = "/etc/xen-lab/boot.d/50-xenoslice";

/// A daemon of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// `xeno agent`.
    Agent,
    /// `xeno cowfs serve`.
    Cowfs,
}

impl Daemon {
    /// What `supervise` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "xeno-agent",
            Self::Cowfs => "xeno-cowfs",
        }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Agent => "xeno agent --config /etc/xenoslice/agent.toml",
            Self::Cowfs => "xeno cowfs serve --config /etc/xenoslice/cowfs.toml",
        }
    }

    fn socket(self) -> &'static str {
        match self {
            Self::Agent => "/run/xenoslice/agent.sock",
            Self::Cowfs => "/run/xenoslice/cowfs.sock",
        }
    }
}

/// The node.
#[derive(Debug)]
pub struct XenNode<'a> {
    /// Its machine.
    pub machine: &'a Machine,
    /// Its name in the repository.
    pub name: &'static str,
}

impl<'a> XenNode<'a> {
    /// Installs the package that lies in `/srv/data` and starts the node. The bare repository is made, with the hook that asks
    /// the node's agent.
    ///
    /// # Errors
    /// What failed, with what it said.
    pub fn install(machine: &'a Machine) -> LabResult<Self> {
        Self::install_as(machine, NAME, "")
    }

    /// The same of a node with another name, and with more in its agent's configuration.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub fn install_as(machine: &'a Machine, name: &'static str, more: &str) -> LabResult<Self> {
        machine.run(&format!(
            "git init -q --bare -b main {REPOSITORY} && git config --system --add safe.directory '*'"
        ))?;
        let node = Self { machine, name };
        node.dpkg("--install --force-confnew /srv/data/xenoslice.deb")?;
        node.configure(more)?;
        node.await_daemon(Daemon::Cowfs)?;
        node.await_daemon(Daemon::Agent)?;
        machine.run(&format!(
            "xeno hook install {REPOSITORY} --agent /run/xenoslice/agent.sock"
        ))?;
        Ok(node)
    }

    /// Dependencies that a dom0 without an init system has no use for are nobody's loss here.
    fn dpkg(&self, arguments: &str) -> LabResult<()> {
        let command = format!(
            "dpkg {arguments} >/var/log/dpkg-xenoslice.log 2>&1 || {{ cat /var/log/dpkg-xenoslice.log >&2; false; }}"
        );
        self.machine.run(&command).map(drop)
    }

    /// Sets up what the package installed, and starts the daemons.
    fn configure(&self, more: &str) -> LabResult<()> {
        let machine = self.machine;
        let agent = AGENT.replacen(NAME, self.name, 1) + more;
        machine.write("/etc/xenoslice/agent.toml", &agent)?;
        machine.run("sed -i 's|^read = \\[|&\"/srv/overlays\", \"/srv/data\", |' /etc/xenoslice/cowfs.toml && mkdir -p /srv/overlays")?;
        machine.write(BOOT_SCRIPT, BOOT)?;
        machine
            .run(&format!(
                "chmod 755 {BOOT_SCRIPT} && {BOOT_SCRIPT} </dev/null >/dev/null 2>&1"
            ))
            .map(drop)
    }

    /// Installs the later version of the package over this one, with configuration that somebody has changed, and has both
    /// daemons start anew, as systemd would.
    ///
    /// # Errors
    /// What dpkg said, or if a daemon does not come up.
    pub fn upgrade(&self) -> LabResult<()> {
        let before = self.machine.run("md5sum /etc/xenoslice/agent.toml")?;
        self.dpkg("--install --force-confold /srv/data/xenoslice-next.deb")?;
        let after = self.machine.run("md5sum /etc/xenoslice/agent.toml")?;
        ensure(before == after, || {
            "an upgrade changed the configuration".to_owned()
        })?;
        self.crash(Daemon::Cowfs)?;
        self.crash(Daemon::Agent)
    }

    /// Purges the package, and looks at what it leaves: what guests wrote, and nothing else of its own.
    ///
    /// # Errors
    /// What dpkg said, or what is left or gone that should not be.
    pub fn purge(&self) -> LabResult<()> {
        self.kill(Daemon::Agent)?;
        self.kill(Daemon::Cowfs)?;
        self.dpkg("--purge xenoslice")?;
        self.machine
            .run(
                "test -d /var/lib/xenoslice/state/writable && test -e /var/lib/xenoslice/state/state.db && \
                 test -d /var/lib/xenoslice/templates",
            )
            .map_err(|error| LabError::Check(format!("a purge took what is the guests': {error}")))?;
        // The sockets in /run are gone with the next boot.
        let left = self.machine.run(
            "for path in /usr/bin/xeno /usr/lib/xenoslice /etc/xenoslice /etc/xen/scripts/vif-xeno /usr/share/doc/xenoslice; do \
             [ ! -e $path ] || echo $path; done",
        )?;
        ensure(left.trim().is_empty(), || format!("a purge left {left}"))
    }

    /// Installs the package once more and sets it up as before.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub fn install_again(&self) -> LabResult<()> {
        self.dpkg("--install --force-confnew /srv/data/xenoslice.deb")?;
        self.machine
            .run("rm -f /run/xeno-agent.stop /run/xeno-cowfs.stop")?;
        self.configure("")?;
        self.await_daemon(Daemon::Cowfs)?;
        self.await_daemon(Daemon::Agent)
    }

    /// Waits until a daemon takes connections.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn await_daemon(&self, daemon: Daemon) -> LabResult<()> {
        let (name, socket) = (daemon.name(), daemon.socket());
        self.machine.await_output(
            &format!("{name} to listen"),
            &format!("curl -s --max-time 10 -o /dev/null --unix-socket {socket} http://node/v1/status && echo listens || tail -n 5 /var/log/{name}.log"),
            |said| said.starts_with("listens").then_some(()),
        )
    }

    /// Kills a daemon as a crash would; `supervise` starts it again.
    ///
    /// # Errors
    /// If there is no other process of it in the end.
    pub fn crash(&self, daemon: Daemon) -> LabResult<()> {
        let name = daemon.name();
        let pid = self.machine.run(&format!("cat /run/{name}.pid"))?;
        let pid = pid.trim();
        self.machine.run(&format!("kill -9 {pid}"))?;
        self.machine.await_output(
            &format!("{name} to be started again"),
            &format!("cat /run/{name}.pid"),
            |said| (said.trim() != pid).then_some(()),
        )?;
        self.await_daemon(daemon)
    }

    /// Kills a daemon and leaves it dead.
    ///
    /// # Errors
    /// What the shell there said.
    pub fn kill(&self, daemon: Daemon) -> LabResult<()> {
        let name = daemon.name();
        self.machine
            .run(&format!(
                "touch /run/{name}.stop && kill -9 $(cat /run/{name}.pid)"
            ))
            .map(drop)
    }

    /// Starts a daemon that was left dead.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(&self, daemon: Daemon) -> LabResult<()> {
        let (name, command) = (daemon.name(), daemon.command());
        self.machine.run(&format!(
            "rm -f /run/{name}.stop; umask 027; export XENO_LOG=info,xeno_xen=debug; setsid supervise {name} {command} </dev/null >/dev/null 2>&1 &"
        ))?;
        self.await_daemon(daemon)
    }

    /// Runs a `xeno` command in dom0 that has to succeed.
    ///
    /// # Errors
    /// What it said if it failed.
    pub fn xeno(&self, arguments: &[&str]) -> LabResult<String> {
        let words: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
        self.machine.run(&format!("NO_COLOR=1 xeno {}", words.join(" ")))
    }

    /// Waits until planning anew finds nothing to do: `plan --detailed-exitcode` says 0.
    ///
    /// # Errors
    /// The plan that is left once the deadline has passed, and what the agent said last.
    pub fn await_converged(&self) -> LabResult<()> {
        self.await_plan("NO_COLOR=1 xeno plan --refresh --detailed-exitcode")
    }

    /// The same of what was accepted last, where the repository cannot be read.
    ///
    /// # Errors
    /// As [`Self::await_converged`].
    pub fn await_converged_offline(&self) -> LabResult<()> {
        self.await_plan("NO_COLOR=1 xeno plan --detailed-exitcode")
    }

    fn await_plan(&self, command: &str) -> LabResult<()> {
        let waited = wait_for(
            &format!("{} to have nothing left to do", self.name),
            DEADLINE,
            || {
                let output = self.machine.output(command).map_err(|error| error.to_string())?;
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
        );
        waited.map_err(|error| self.explained(&error.to_string()))
    }

    /// An error with the ends of both logs.
    fn explained(&self, error: &str) -> LabError {
        let logs = self
            .machine
            .output("for log in /var/log/xeno-*.log; do echo \"--- $log\"; tail -n 15 $log; done; xl list");
        let logs = logs.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        LabError::Check(format!("{error}\n{logs}"))
    }

    /// Takes the repository out of the agent's reach, or brings it back.
    ///
    /// # Errors
    /// What the shell there said.
    pub fn hide_repository(&self, hidden: bool) -> LabResult<()> {
        let (from, to) = if hidden {
            (REPOSITORY, "/srv/git/hidden.git")
        } else {
            ("/srv/git/hidden.git", REPOSITORY)
        };
        self.machine.run(&format!("mv {from} {to} && sync")).map(drop)
    }

    /// Waits until a page of a guest, on a published port of the node, is as wanted.
    ///
    /// # Errors
    /// With what came last.
    pub fn await_page<T>(
        &self,
        port: u16,
        path: &str,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> LabResult<T> {
        let waited = self.machine.await_output(
            &format!("{path} on port {port}"),
            &format!("curl -sS --max-time 10 http://127.0.0.1:{port}{path} 2>&1"),
            &mut wanted,
        );
        waited.map_err(|error| self.explained(&error.to_string()))
    }

    /// What a guest says of itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn guest(&self, port: u16) -> LabResult<Guest> {
        self.await_page(port, "/cgi-bin/guest", Guest::read)
    }

    /// Has a guest write a line durably.
    ///
    /// # Errors
    /// If it does not say that it has.
    pub fn commit(&self, port: u16, line: &str) -> LabResult<()> {
        let path = format!("/cgi-bin/ledger?{line}");
        self.await_page(port, &path, |said| said.starts_with("committed").then_some(()))
    }

    /// Has a guest write a line durably; whether it says that it has. A guest that is refused says so.
    ///
    /// # Errors
    /// If it says neither.
    pub fn tries_to_commit(&self, port: u16, line: &str) -> LabResult<bool> {
        let path = format!("/cgi-bin/ledger?{line}");
        self.await_page(port, &path, |said| {
            let committed = said.starts_with("committed");
            (committed || said.starts_with("refused")).then_some(committed)
        })
    }

    /// The lines that a guest has.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ledger(&self, port: u16) -> LabResult<Vec<String>> {
        self.await_page(port, "/cgi-bin/ledger", |said| {
            let answered = !said.is_empty() && !said.starts_with("curl");
            answered.then(|| said.lines().map(ToOwned::to_owned).collect())
        })
    }

    /// Fails unless a guest still has all these lines, in this order.
    ///
    /// # Errors
    /// With what it has.
    pub fn ensure_kept(&self, port: u16, lines: &[&str]) -> LabResult<()> {
        let mut kept = self.ledger(port)?;
        // A line whose answer was lost is asked for again.
        kept.dedup();
        ensure(kept == lines, || {
            format!("the ledger holds {kept:?} and should hold {lines:?}")
        })
    }
}

/// What a guest says of itself: `/cgi-bin/guest` of the small template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Another with each boot.
    pub boot: String,
    /// Its host name.
    pub hostname: String,
    /// How far it has counted.
    pub count: u64,
    /// Processors that its kernel uses.
    pub cpus: u32,
    /// Its memory, as its kernel sees it.
    pub memory_kib: u64,
    /// Where its root comes from.
    pub root: String,
}

impl Guest {
    fn read(page: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = page
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            Some(line.trim().to_owned())
        };
        Some(Self {
            boot: field("boot").filter(|boot| !boot.is_empty())?,
            hostname: field("hostname")?,
            count: field("count")?.parse().ok()?,
            cpus: field("cpus")?.parse().ok()?,
            memory_kib: field("memory")?.parse().ok()?,
            root: field("root")?,
        })
    }
}
