//! `agent.toml`: strict, with the place of every mistake.
//!
//! ```toml
//! node = "cam-01"                         # as the repository names it
//! repository = "ssh://git@host/fleet.git" # or a path; file://, ssh://, user@host:path, https://
//! branch = "main"                         # default: main
//! path = ""                               # folder of fleet.yaml in the repository; default: its root
//! state_dir = "/var/lib/xenoslice"        # default: state
//! socket = "/run/xenoslice/agent.sock"    # default: agent.sock
//! poll = "30s"                            # how often the repository is asked (jittered); default: 30s
//! look = "10s"                            # how often the node is looked at without a reason; default: 10s
//! overlay_roots = ["/srv/overlays"]       # directory layers lie below one of these; default: none
//! writable_roots = ["/srv/shared"]        # writable layers at file:///… lie below one of these; default: none
//! parallel = 4                            # actions at a time; default: 4
//! tombstone = "7d"                        # how long what a removal set aside is kept; default: 7d
//! accept_rewrites = false                 # whether a branch may be rewritten; default: false
//! ssh_key = "/etc/xenoslice/id_ed25519"   # private key for the repository; default: the ssh agent's
//!
//! [cowfs]
//! socket = "/run/xenoslice/cowfs.sock"    # control socket of the file server; default: cowfs.sock
//! store = "/var/lib/xenoslice/templates"  # its template store; default: templates
//! user = "xeno"                           # whom it runs as; default: as the agent
//!
//! [remotes]
//! dir = "/run/xenoslice/remote"           # where overlays of nfs:// and afs: are mounted; default: this
//! away = "wait"                           # what a read meets while the server is away: wait or fail; default: wait
//! fail_after = "60s"                      # for away = "fail"; default: 60s
//! nfs = ["4.2", "4.1", "3"]               # versions, in the order in which they are tried; default: these
//! idle = "60s"                            # how long a mount stays that nobody uses; default: 60s
//! mount = "mount"                         # the program mount(8); default: mount in PATH
//!
//! [hypervisor]
//! kind = "qemu"                           # qemu or xen; default: qemu
//! shutdown_grace = "20s"                  # how long a guest may take to stop by itself; default: 20s
//! accel = "auto"                          # qemu: auto, kvm or tcg; default: auto
//! cgroup = "/sys/fs/cgroup/xeno"          # group in which guests get processor shares; default: the agent's own, if
//!                                         # it was given one (qemu)
//! guest = "pvh"                           # xen: pv or pvh; default: pvh where the node can, else pv
//! dom0_reserve = "512MiB"                 # xen: memory that dom0 keeps; default: 512MiB
//! xl = "xl"                               # xen: the program; default: xl in PATH
//! console_dir = "/var/log/xen/console"    # xen: where xenconsoled keeps what guests print; default: this
//!
//! [board]                                 # what all agents of the fleet share; default: no board
//! kind = "etcd"                           # sqlite (agents of one machine) or etcd
//! path = "/var/lib/xenoslice/board.db"    # sqlite: the file; default: board.db
//! endpoints = ["https://etcd-1:2379"]     # etcd: its members
//! ca = "/etc/xenoslice/etcd-ca.pem"       # etcd: whose certificates are trusted; needed for https
//! certificate = "/etc/xenoslice/node.pem" # etcd: ours, and its key
//! key = "/etc/xenoslice/node.key"
//! user = "cam-01"                         # etcd: a user of its own authentication, and the file with the password
//! password_file = "/etc/xenoslice/etcd-password"
//! prefix = "xenoslice/"                   # etcd: what all keys of the fleet begin with; default: this
//! timeout = "5s"                          # etcd: how long a call may take; default: this
//! fence = ["/etc/xenoslice/fence", "{node}"] # makes sure that a node is off which has no sign of life, and ends with 0 if it
//!                                         # is; for slices with `failover`; default: people do
//!
//! [peers]                                 # where other agents reach this one; default: loopback with sqlite, else nowhere
//! listen = "[::]:7046"
//! advertise = "cam-01.example.org:7046"   # default: what `listen` says
//! ```
//!
//! Paths are relative to the file.

mod remotes;

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use xeno_model::id::NodeName;
use xeno_model::units::{Bytes, Millis};
use xeno_qemu::AccelChoice;
use xeno_state::board::BoardConfig;
use xeno_xen::GuestKind;

use self::board::RawBoard;
use self::peers::RawPeers;
use crate::source::RemoteUrl;
pub use peers::PeersConfig;
use remotes::RawRemotes;
pub use remotes::{Away, NfsVersion, RemotesConfig};

mod board;
mod peers;

/// The longest file taken.
const LEN_MAX: u64 = 1 << 20;

/// Actions at a time, at most: each may hold a connection and a thread.
const PARALLEL_MAX: usize = 64;

/// How an agent is set up. All paths are absolute.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The node.
    pub node: NodeName,
    /// Address of the repository, as written.
    pub repository: RemoteUrl,
    /// Branch.
    pub branch: String,
    /// Folder of `fleet.yaml` in the repository.
    pub folder: String,
    /// Directory of everything the agent keeps.
    pub state_dir: PathBuf,
    /// Socket of the API.
    pub socket: PathBuf,
    /// How often the repository is asked.
    pub poll: Duration,
    /// How often the node is looked at without a reason.
    pub look: Duration,
    /// Control socket of the file server.
    pub cowfs_socket: PathBuf,
    /// Template store.
    pub templates: PathBuf,
    /// Whom the file server runs as, where it is not whom the agent runs as.
    pub cowfs_user: Option<String>,
    /// Directory layers lie below one of these.
    pub overlay_roots: Vec<PathBuf>,
    /// Writable layers at `file://` lie below one of these.
    pub writable_roots: Vec<PathBuf>,
    /// How remote directories are mounted.
    pub remotes: RemotesConfig,
    /// What runs guests.
    pub hypervisor: HypervisorConfig,
    /// How long a guest may take to stop by itself.
    pub shutdown_grace: Duration,
    /// Actions at a time.
    pub parallel: usize,
    /// How long what a removal set aside is kept.
    pub tombstone: Duration,
    /// Whether a branch may be rewritten.
    pub accept_rewrites: bool,
    /// Private key for the repository.
    pub ssh_key: Option<PathBuf>,
    /// What all agents of the fleet share, if they do.
    pub board: Option<BoardConfig>,
    /// The program, and its arguments, that makes sure that a node is off, for slices that ask for `failover`.
    pub fence: Option<Vec<String>>,
    /// Where it listens for other agents, if it does.
    pub peers: Option<PeersConfig>,
}

/// What runs guests, and how it is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HypervisorConfig {
    /// Unprivileged QEMU.
    Qemu {
        /// What executes guest code.
        accel: AccelChoice,
        /// Control group in which guests get their shares of the processors.
        cgroup: Option<PathBuf>,
    },
    /// Xen; the agent runs in dom0, as root.
    Xen {
        /// Virtualisation of guests; `None`: what the node can.
        guest: Option<GuestKind>,
        /// Memory that dom0 keeps, in MiB.
        dom0_reserve_mib: u64,
        /// The program `xl`.
        xl: PathBuf,
        /// Where `xenconsoled` keeps what guests print.
        console_dir: Option<PathBuf>,
    },
}

impl HypervisorConfig {
    /// As the file names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Qemu { .. } => "qemu",
            Self::Xen { .. } => "xen",
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    node: Spanned<String>,
    repository: Spanned<String>,
    #[serde(default = "main_branch")]
    branch: Spanned<String>,
    #[serde(default = "empty")]
    path: Spanned<String>,
    #[serde(default = "state")]
    state_dir: PathBuf,
    #[serde(default = "agent_socket")]
    socket: PathBuf,
    poll: Option<Spanned<String>>,
    look: Option<Spanned<String>>,
    #[serde(default)]
    cowfs: RawCowfs,
    #[serde(default)]
    overlay_roots: Vec<PathBuf>,
    #[serde(default)]
    writable_roots: Vec<PathBuf>,
    #[serde(default)]
    remotes: RawRemotes,
    #[serde(default)]
    hypervisor: RawHypervisor,
    parallel: Option<Spanned<usize>>,
    tombstone: Option<Spanned<String>>,
    #[serde(default)]
    accept_rewrites: bool,
    ssh_key: Option<PathBuf>,
    board: Option<RawBoard>,
    peers: Option<Spanned<RawPeers>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCowfs {
    socket: Option<PathBuf>,
    store: Option<PathBuf>,
    user: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHypervisor {
    kind: Option<Spanned<String>>,
    accel: Option<Spanned<String>>,
    shutdown_grace: Option<Spanned<String>>,
    cgroup: Option<Spanned<PathBuf>>,
    guest: Option<Spanned<String>>,
    dom0_reserve: Option<Spanned<String>>,
    xl: Option<Spanned<PathBuf>>,
    console_dir: Option<Spanned<PathBuf>>,
}

impl RawHypervisor {
    /// What the settings come to. A mistake has its place.
    fn read(&self, base: &Path) -> Result<HypervisorConfig, (Range<usize>, String)> {
        let kind = self.kind.as_ref().map_or("qemu", |kind| kind.get_ref());
        let spans = [
            ("accel", "qemu", self.accel.as_ref().map(Spanned::span)),
            ("cgroup", "qemu", self.cgroup.as_ref().map(Spanned::span)),
            ("guest", "xen", self.guest.as_ref().map(Spanned::span)),
            (
                "dom0_reserve",
                "xen",
                self.dom0_reserve.as_ref().map(Spanned::span),
            ),
            ("xl", "xen", self.xl.as_ref().map(Spanned::span)),
            ("console_dir", "xen", self.console_dir.as_ref().map(Spanned::span)),
        ];
        let foreign = spans.into_iter().find_map(|(setting, of, span)| {
            let span = span.filter(|_| of != kind)?;
            Some((
                span,
                format!("`{setting}` is for kind = \"{of}\", and this is \"{kind}\""),
            ))
        });
        let unknown = || {
            let span = self.kind.as_ref().map_or(0..0, Spanned::span);
            let message = format!("`{kind}` is not a hypervisor this version drives: qemu and xen are");
            Err((span, message))
        };
        let config = match kind {
            "qemu" => HypervisorConfig::Qemu {
                accel: match &self.accel {
                    None => AccelChoice::Auto,
                    Some(accel) => accel
                        .get_ref()
                        .parse()
                        .map_err(|message| (accel.span(), message))?,
                },
                cgroup: self.cgroup.as_ref().map(|path| base.join(path.get_ref())),
            },
            "xen" => HypervisorConfig::Xen {
                guest: match &self.guest {
                    None => None,
                    Some(guest) => {
                        let kind = GuestKind::parse(guest.get_ref());
                        let message = || format!("`{}` is no kind of guest: pv and pvh are", guest.get_ref());
                        Some(kind.ok_or_else(|| (guest.span(), message()))?)
                    }
                },
                dom0_reserve_mib: match &self.dom0_reserve {
                    None => xeno_xen::config::DOM0_RESERVE_MIB,
                    Some(reserve) => {
                        let bytes = Bytes::parse(reserve.get_ref());
                        bytes.map_err(|error| (reserve.span(), error.to_string()))?.mib()
                    }
                },
                // A name without a slash is looked for in PATH.
                xl: match &self.xl {
                    None => PathBuf::from("xl"),
                    Some(xl) if xl.get_ref().components().count() == 1 => xl.get_ref().clone(),
                    Some(xl) => base.join(xl.get_ref()),
                },
                console_dir: self.console_dir.as_ref().map(|path| base.join(path.get_ref())),
            },
            _ => return unknown(),
        };
        foreign.map_or(Ok(config), Err)
    }
}

fn main_branch() -> Spanned<String> {
    Spanned::new(0..0, "main".to_owned())
}

fn empty() -> Spanned<String> {
    Spanned::new(0..0, String::new())
}

fn state() -> PathBuf {
    "state".into()
}

fn agent_socket() -> PathBuf {
    "agent.sock".into()
}

impl AgentConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`], with the place of the first mistake.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        if fs::metadata(path).map_err(read)?.len() > LEN_MAX {
            return Err(read(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "more than a MiB is no configuration",
            )));
        }
        let text = fs::read_to_string(path).map_err(read)?;
        let full = std::path::absolute(path).map_err(read)?;
        Self::parse(path, &text, full.parent().unwrap_or(Path::new("/")))
    }

    /// Reads the text of a configuration file whose relative paths are relative to `base`.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] with the place of the first mistake.
    pub fn parse(path: &Path, text: &str, base: &Path) -> Result<Self, ConfigError> {
        let wrong = |span: Option<Range<usize>>, message: String| {
            let before = text.get(..span.map_or(0, |span| span.start)).unwrap_or_default();
            ConfigError::Wrong {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
                message,
            }
        };
        let raw: Raw =
            toml::from_str(text).map_err(|error| wrong(error.span(), error.message().trim().to_owned()))?;
        let span = |span: Range<usize>| Some(span);
        let time = |value: Option<&Spanned<String>>, default: u64| match value {
            None => Ok(Duration::from_millis(default)),
            Some(value) => match Millis::parse(value.get_ref()) {
                Ok(Millis(0)) => Err(wrong(
                    span(value.span()),
                    "it must be more than nothing".to_owned(),
                )),
                Ok(Millis(ms)) => Ok(Duration::from_millis(ms)),
                Err(error) => Err(wrong(span(value.span()), error.to_string())),
            },
        };
        let node = NodeName::new(raw.node.get_ref())
            .map_err(|error| wrong(span(raw.node.span()), error.to_string()))?;
        let repository = repository(raw.repository.get_ref(), base)
            .map_err(|message| wrong(span(raw.repository.span()), message))?;
        if raw.branch.get_ref().is_empty() {
            return Err(wrong(span(raw.branch.span()), "a branch has a name".to_owned()));
        }
        let folder = raw.path.get_ref().trim_matches('/').to_owned();
        if folder.split('/').any(|part| part == "..") {
            return Err(wrong(
                span(raw.path.span()),
                "the folder lies within the repository".to_owned(),
            ));
        }
        let hypervisor = raw
            .hypervisor
            .read(base)
            .map_err(|(place, message)| wrong(span(place), message))?;
        let board = raw.board.as_ref().map(|board| board.read(base)).transpose();
        let board = board.map_err(|(place, message)| wrong(span(place), message))?;
        let fence = raw.board.as_ref().map(RawBoard::read_fence).transpose();
        let fence = fence
            .map_err(|(place, message)| wrong(span(place), message))?
            .flatten();
        let peers = match (&raw.peers, &board) {
            (Some(peers), None) => {
                let message =
                    "`[peers]` needs a `[board]`: it is by that that agents know each other".to_owned();
                return Err(wrong(span(peers.span()), message));
            }
            (Some(peers), Some(_)) => {
                let peers = peers.get_ref().read();
                Some(peers.map_err(|(place, message)| wrong(span(place), message))?)
            }
            (None, Some(BoardConfig::Sqlite { .. })) => PeersConfig::loopback(),
            (None, Some(BoardConfig::Etcd(_)) | None) => None,
        };
        let remotes = raw
            .remotes
            .read(base)
            .map_err(|(place, message)| wrong(span(place), message))?;
        let parallel = match &raw.parallel {
            None => 4,
            Some(parallel) if (1..=PARALLEL_MAX).contains(parallel.get_ref()) => *parallel.get_ref(),
            Some(parallel) => {
                return Err(wrong(
                    span(parallel.span()),
                    format!("it must be 1 to {PARALLEL_MAX}"),
                ));
            }
        };
        let at = |path: PathBuf| base.join(path);
        Ok(Self {
            node,
            repository,
            branch: raw.branch.into_inner(),
            folder,
            state_dir: at(raw.state_dir),
            socket: at(raw.socket),
            poll: time(raw.poll.as_ref(), 30_000)?,
            look: time(raw.look.as_ref(), 10_000)?,
            cowfs_socket: at(raw.cowfs.socket.unwrap_or_else(|| "cowfs.sock".into())),
            templates: at(raw.cowfs.store.unwrap_or_else(|| "templates".into())),
            cowfs_user: raw.cowfs.user,
            overlay_roots: raw.overlay_roots.into_iter().map(at).collect(),
            writable_roots: raw.writable_roots.into_iter().map(at).collect(),
            remotes,
            hypervisor,
            shutdown_grace: time(raw.hypervisor.shutdown_grace.as_ref(), 20_000)?,
            parallel,
            tombstone: time(raw.tombstone.as_ref(), 7 * 86_400_000)?,
            accept_rewrites: raw.accept_rewrites,
            ssh_key: raw.ssh_key.map(at),
            board,
            fence,
            peers,
        })
    }
}

/// An address, where a relative path is relative to the configuration file.
fn repository(text: &str, base: &Path) -> Result<RemoteUrl, String> {
    let is_path = !text.contains(':') && !text.starts_with('/') && !text.is_empty();
    let full = if is_path {
        base.join(text).display().to_string()
    } else {
        text.to_owned()
    };
    RemoteUrl::parse(&full).map_err(|error| xeno_state::error::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentConfig, String> {
        AgentConfig::parse(Path::new("agent.toml"), text, Path::new("/etc/xenoslice"))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn two_lines_are_enough() {
        let config = parse("node = \"cam-01\"\nrepository = \"/srv/fleet.git\"\n").unwrap();
        assert_eq!(config.state_dir, Path::new("/etc/xenoslice/state"));
        assert_eq!(config.poll, Duration::from_secs(30));
        assert_eq!(config.tombstone, Duration::from_secs(7 * 86_400));
        assert_eq!(
            (config.branch.as_str(), config.folder.as_str(), config.parallel),
            ("main", "", 4)
        );
    }

    #[test]
    fn everything_can_be_said() {
        let text = r#"
            node = "cam-01"
            repository = "ssh://git@example.net/fleet.git"
            branch = "live"
            path = "fleets/north/"
            state_dir = "/var/lib/x"
            socket = "run/agent.sock"
            poll = "2m"
            look = "5s"
            overlay_roots = ["/srv/overlays", "more"]
            parallel = 8
            tombstone = "1d"
            accept_rewrites = true
            ssh_key = "id"
            [cowfs]
            user = "xeno"
            socket = "/run/c.sock"
            store = "/srv/templates"
            [hypervisor]
            kind = "qemu"
            accel = "tcg"
            shutdown_grace = "5s"
            cgroup = "/sys/fs/cgroup/xeno"
        "#;
        let config = parse(text).unwrap();
        assert_eq!(config.folder, "fleets/north");
        assert_eq!(config.socket, Path::new("/etc/xenoslice/run/agent.sock"));
        assert_eq!(
            config.overlay_roots,
            [Path::new("/srv/overlays"), Path::new("/etc/xenoslice/more")]
        );
        assert_eq!(config.shutdown_grace, Duration::from_secs(5));
        let qemu = HypervisorConfig::Qemu {
            accel: "tcg".parse().unwrap(),
            cgroup: Some("/sys/fs/cgroup/xeno".into()),
        };
        assert_eq!(config.hypervisor, qemu);
    }

    #[test]
    fn a_node_with_xen_needs_only_to_say_so() {
        let with = |hypervisor: &str| {
            let text =
                format!("node = \"a\"\nrepository = \"/r\"\n[hypervisor]\nkind = \"xen\"\n{hypervisor}");
            parse(&text).unwrap().hypervisor
        };
        let usual = HypervisorConfig::Xen {
            guest: None,
            dom0_reserve_mib: 512,
            xl: "xl".into(),
            console_dir: None,
        };
        assert_eq!(with(""), usual);
        let said = with("guest = \"pv\"\ndom0_reserve = \"1GiB\"\nxl = \"bin/xl\"\nconsole_dir = \"/c\"\n");
        let expected = HypervisorConfig::Xen {
            guest: Some(GuestKind::Pv),
            dom0_reserve_mib: 1024,
            xl: "/etc/xenoslice/bin/xl".into(),
            console_dir: Some("/c".into()),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn mistakes_have_a_place() {
        let check = |line: &str, expected: &str| {
            let text = format!("node = \"cam-01\"\nrepository = \"/srv/fleet.git\"\n{line}\n");
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        };
        check("pol = \"30s\"", "agent.toml:3:1: unknown field `pol`");
        check("poll = \"30\"", "agent.toml:3:8: `30` is not a span of time");
        check("poll = \"0s\"", "agent.toml:3:8: it must be more than nothing");
        check("parallel = 0", "agent.toml:3:12: it must be 1 to 64");
        check("path = \"../up\"", "agent.toml:3:8: the folder lies within");
        check(
            "hypervisor = { kind = \"kvm\" }",
            "agent.toml:3:23: `kvm` is not a hypervisor",
        );
        check(
            "hypervisor = { kind = \"xen\", accel = \"kvm\" }",
            "agent.toml:3:38: `accel` is for kind = \"qemu\"",
        );
        check(
            "hypervisor = { guest = \"pv\" }",
            "agent.toml:3:24: `guest` is for kind = \"xen\"",
        );
        check(
            "hypervisor = { kind = \"xen\", guest = \"hvm\" }",
            "agent.toml:3:38: `hvm` is no kind of guest",
        );
        check(
            "hypervisor = { kind = \"xen\", dom0_reserve = \"lots\" }",
            "agent.toml:3:45:",
        );
        check("hypervisor = { accel = \"fast\" }", "agent.toml:3:24:");
        check("node = \"twice\"", "agent.toml:3:1: duplicate key");
        let error = parse("node = \"Cam\"\nrepository = \"/x\"").unwrap_err();
        assert!(
            error.starts_with("agent.toml:1:8: `Cam` is not a name"),
            "{error}"
        );
        let error = parse("node = \"cam\"\nrepository = \"http://x/y\"").unwrap_err();
        assert!(error.starts_with("agent.toml:2:14: "), "{error}");
        let error = parse("node = \"cam\"").unwrap_err();
        assert!(error.contains("missing field `repository`"), "{error}");
    }
}
