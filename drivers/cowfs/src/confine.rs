//! Giving up, before anything is served, whatever the server does not need: root's rights, and with Landlock
//! (landlock(7)) every directory that its configuration does not name.
//!
//! A guest that finds a hole in this program then holds an ordinary user's process that sees the layers it serves anyway,
//! and can neither open other files nor bind or connect TCP sockets. Landlock is a promise as good as the kernel: what an
//! older one does not know is left out, and what was reached is said in the log and in `GET /v1/status`.

use std::fmt;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{geteuid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::config::Config;
use crate::opener::Opener;
use crate::service::LayerSource;

/// The newest set of rights that this program knows to ask for.
const KNOWN: ABI = ABI::V6;

/// What keeps this process from files it does not need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// All that this program asks for.
    Full,
    /// As much of it as the kernel knows.
    Partial,
    /// Nothing.
    None(&'static str),
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Partial => f.write_str("partial: the kernel does not know all of it"),
            Self::None(why) => write!(f, "none: {why}"),
        }
    }
}

/// Why the server cannot give up what it should.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// No such user.
    #[error("there is no user `{0}` in /etc/passwd")]
    NoSuchUser(String),
    /// Only root can become someone else.
    #[error("the server is to run as user {wanted} and was started by user {now}")]
    NotRoot {
        /// Who was asked for.
        wanted: u32,
        /// Who started it.
        now: u32,
    },
    /// A configuration that names root.
    #[error("`user` names the superuser: leave it out to run as root")]
    Root,
    /// There are threads already, which would keep their rights.
    #[error("the process has {0} threads already")]
    Threads(u32),
    /// The kernel refused.
    #[error("{doing}")]
    Io {
        /// What was attempted.
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Landlock refused what it should know.
    #[error("restricting the process")]
    Landlock(#[from] RulesetError),
    /// There is no sandbox, and the configuration asks for one.
    #[error("`sandbox.required` is set, and the sandbox is {0}")]
    Required(Sandbox),
}

static REACHED: OnceLock<Sandbox> = OnceLock::new();

/// What [`enter`] reached in this process.
pub fn sandbox() -> Sandbox {
    REACHED.get().cloned().unwrap_or(Sandbox::None("not asked for"))
}

/// Becomes the configured user and confines the calling thread, and all that it starts later, to what `config` names.
/// Makes the directories that belong to it first. To be called once, by a process of one thread.
///
/// # Errors
/// [`ConfineError`]; the process may then have given up some of its rights and should end.
pub fn enter(config: &Config) -> Result<Sandbox, ConfineError> {
    if let Some(links) = &config.links {
        make_table(&links.table)?;
    }
    if let Some(user) = &config.user {
        let threads = threads();
        if threads != 1 {
            return Err(ConfineError::Threads(threads));
        }
        become_user(user)?;
    } else if geteuid().is_root() {
        tracing::warn!(
            "running as root: set `user`, so that a hole in this program is not a hole in the machine"
        );
    }
    let reached = restrict(config)?;
    Ok(REACHED.get_or_init(|| reached).clone())
}

/// Confines the calling thread alone, without changing the user.
///
/// # Errors
/// [`ConfineError`].
pub fn restrict(config: &Config) -> Result<Sandbox, ConfineError> {
    let required = config.sandbox.as_ref().is_some_and(|sandbox| sandbox.required);
    let reached = if config.sandbox.is_none() && config.control.is_some() {
        Sandbox::None(
            "stacks made over the control socket may be anywhere, and the configuration has no [sandbox]",
        )
    } else {
        let ruleset = places(config)?;
        match ruleset.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced => Sandbox::Full,
            RulesetStatus::PartiallyEnforced => Sandbox::Partial,
            RulesetStatus::NotEnforced => Sandbox::None("the kernel has no Landlock"),
        }
    };
    match reached {
        Sandbox::None(_) if required => Err(ConfineError::Required(reached)),
        reached => Ok(reached),
    }
}

/// How many threads this process has (`Threads` in proc_pid_status(5)); 1 where nobody says.
fn threads() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(1)
}

/// Takes on a user's id and primary group for good, and no other groups.
fn become_user(name: &str) -> Result<(), ConfineError> {
    let (uid, gid) = find_user(name)?;
    if uid == 0 {
        return Err(ConfineError::Root);
    }
    if !geteuid().is_root() {
        let now = geteuid().as_raw();
        return if now == uid && getuid().as_raw() == uid {
            Ok(())
        } else {
            Err(ConfineError::NotRoot { wanted: uid, now })
        };
    }
    let failed = |source: rustix::io::Errno| ConfineError::Io {
        doing: format!("becoming user `{name}`"),
        source: source.into(),
    };
    let (user, group) = (
        rustix::process::Uid::from_raw(uid),
        rustix::process::Gid::from_raw(gid),
    );
    set_thread_groups(&[]).map_err(failed)?;
    set_thread_res_gid(group, group, group).map_err(failed)?;
    set_thread_res_uid(user, user, user).map_err(failed)?;
    // Leaving user id 0 in all three places clears every capability (capabilities(7)); nothing brings it back.
    if set_thread_res_uid(rustix::process::Uid::ROOT, None, None).is_ok() || geteuid() != user {
        return Err(ConfineError::Io {
            doing: format!("becoming user `{name}`"),
            source: io::Error::other("the rights of root are still there"),
        });
    }
    Ok(())
}

/// User and group id of a name, or of a number (passwd(5)). No name service is asked: it would want sockets.
///
/// # Errors
/// [`ConfineError::NoSuchUser`], or [`ConfineError::Io`] where the list of users cannot be read.
pub fn find_user(name: &str) -> Result<(u32, u32), ConfineError> {
    let no_such = || ConfineError::NoSuchUser(name.to_owned());
    let text = std::fs::read_to_string("/etc/passwd").map_err(|source| ConfineError::Io {
        doing: "reading /etc/passwd".to_owned(),
        source,
    })?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (login, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (login == name || uid == name).then_some((uid.parse().ok()?, gid.parse().ok()?))
    });
    found.ok_or_else(no_such)
}

/// Who may do what where.
fn places(config: &Config) -> Result<RulesetCreated, ConfineError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::ConnectTcp)?
        .scope(Scope::from_all(KNOWN))?;
    let listen = config.listen.map(|address| address.port());
    let links = config.links.as_ref().map(|links| links.listen);
    let ports: Vec<u16> = listen.into_iter().chain(links).collect();
    // A port that the kernel is to choose cannot be named.
    let named = !ports.contains(&0);
    if named {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    let mut ruleset = ruleset.create()?;
    for port in ports.into_iter().filter(|_| named) {
        ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
    }
    for (path, access) in wanted(config)? {
        // What is not there cannot be allowed.
        match PathFd::new(&path) {
            Ok(fd) => ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(path = %path.display(), error, "left out of the sandbox");
            }
        }
    }
    Ok(ruleset)
}

/// Directories, and what is allowed in each and below.
fn wanted(config: &Config) -> Result<Vec<(PathBuf, BitFlags<AccessFs>)>, ConfineError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let mut wanted: Vec<(PathBuf, BitFlags<AccessFs>)> = vec![
        ("/dev/urandom".into(), AccessFs::ReadFile.into()),
        // Numbers of links, for clients that are named by one; the files are behind symbolic links.
        ("/sys/class/net".into(), read),
        ("/sys/devices".into(), read),
        (config.store.clone(), read),
    ];
    // Its key is the one thing that serving writes to the store.
    if let Err(error) = Opener::new(&config.store).prepare_store() {
        tracing::warn!(error = &error as &dyn std::error::Error, "the template store");
    }
    wanted.extend(config.links.iter().map(|links| (links.table.clone(), read)));
    let sandbox = config.sandbox.clone().unwrap_or_default();
    wanted.extend(sandbox.read.into_iter().map(|dir| (dir, read)));
    wanted.extend(sandbox.write.into_iter().map(|dir| (dir, write)));
    let sockets = config.exports.iter().filter_map(|export| export.socket.as_ref());
    for dir in sockets
        .chain(&config.control)
        .filter_map(|socket| socket.parent())
    {
        wanted.push((dir.to_owned(), AccessFs::MakeSock | AccessFs::RemoveFile));
    }
    for export in &config.exports {
        if let Some(writable) = &export.writable {
            make_private(writable)?;
            wanted.push((writable.to_owned(), write));
            // A new layer's name is synced in its parent.
            if let Some(parent) = writable.parent() {
                wanted.push((parent.to_owned(), AccessFs::ReadDir.into()));
            }
        }
        for layer in &export.layers {
            match layer {
                LayerSource::Dir(dir) => wanted.push((dir.clone(), read)),
                LayerSource::Template(_) => {}
            }
        }
    }
    Ok(wanted)
}

/// Makes the table of links, while that is possible: it is another's to fill, but what is not there cannot be allowed.
fn make_table(dir: &Path) -> Result<(), ConfineError> {
    if !geteuid().is_root() || dir.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).create(dir);
    // Whatever the umask: the server reads it, and only root writes to it.
    let made = made.and_then(|()| std::fs::set_permissions(dir, Permissions::from_mode(0o755)));
    made.map_err(|source| ConfineError::Io {
        doing: format!("making {}", dir.display()),
        source,
    })
}

/// Makes a directory of a writable layer, so that there is something to allow.
fn make_private(dir: &Path) -> Result<(), ConfineError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| ConfineError::Io {
            doing: format!("making {}", dir.display()),
            source,
        })
}
