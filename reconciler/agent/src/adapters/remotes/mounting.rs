//! Mounting, by mount(8) as a child that can be given up, and unmounting.
//!
//! A child, since mount(2) of a server that does not answer sleeps: in a child it can be killed (the kernel's RPC waits
//! end at a fatal signal), in a thread of ours it could not. `-i` keeps mount(8) from asking for the helper programs of
//! nfs-common: the kernel does it all, given the server's address.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::mount::UnmountFlags;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use xeno_reconciler::ports::PortError;

use super::request::Try;

/// How long one try may take. A server that is there answers within a second.
pub(super) const TRY_MAX: Duration = Duration::from_secs(15);

/// As much is kept of what the program says.
const SAID_MAX: u64 = 4096;

/// How a try ended that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another version of the protocol may do.
    Version(String),
    /// It was not done.
    Failed(PortError),
}

/// Mounts, once.
pub(super) async fn mount(program: &Path, one: &Try, target: &Path) -> Result<(), Refusal> {
    let later = |what: String| Refusal::Failed(PortError::later(what));
    let mut command = Command::new(program);
    command
        .args(["-i", "-t", one.fstype, "-o", &one.options, "--", &one.source])
        .arg(target)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Whoever gives us up gives it up as well.
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(|error| later(format!("{}: {error}", program.display())))?;
    let said = child.stderr.take();
    let ended = async {
        let said = match said {
            Some(said) => read_some(said).await,
            None => String::new(),
        };
        (child.wait().await, said)
    };
    match tokio::time::timeout(TRY_MAX, ended).await {
        Ok((Ok(status), _)) if status.success() => Ok(()),
        Ok((Ok(_), said)) => Err(told(one, &said)),
        Ok((Err(error), _)) => Err(later(format!("{}: {error}", program.display()))),
        Err(_) => Err(later(format!(
            "{} does not answer: it was not mounted within {} s",
            one.source,
            TRY_MAX.as_secs()
        ))),
    }
}

async fn read_some(from: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let mut from = from.take(SAID_MAX);
    // What cannot be read is not there.
    let _ = from.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What mount(8) said, and what to do about it. Its words are those of strerror(3) in the C locale.
fn told(one: &Try, said: &str) -> Refusal {
    let of = format!("mounting {}: {said}", one.source);
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["Protocol not supported", "requested NFS version"]) {
        Refusal::Version(of)
    } else if has(&["unknown filesystem type", "No such device"]) {
        let (kernel, module) = match one.fstype {
            "afs" => ("CONFIG_AFS_FS", "kafs"),
            _ => ("CONFIG_NFS_FS and CONFIG_NFS_V4", "nfsv4"),
        };
        Refusal::Failed(PortError::never(format!(
            "this kernel has no client for {}: `modprobe {module}`, or boot one built with {kernel}",
            one.fstype
        )))
    } else if one.fstype == "afs" && has(&["Destination address required"]) {
        Refusal::Failed(PortError::later(format!(
            "mounting {}: the servers of its cell are not known: name them in DNS (RFC 5864), or in \
             /proc/fs/afs/cells",
            one.source
        )))
    } else if has(&["must be superuser", "Operation not permitted", "bad option"]) {
        Refusal::Failed(PortError::never(of))
    } else {
        Refusal::Failed(PortError::later(of))
    }
}

/// Unmounts. Never asks the server: `UMOUNT_NOFOLLOW` and the kernel's own lookup of mount points leave it alone.
/// `detach` takes a mount out of sight that somebody may still use; without it that is an error (`EBUSY`).
pub(super) fn unmount(target: &Path, detach: bool) -> io::Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, detach);
    rustix::mount::unmount(target, flags).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use xeno_reconciler::ports::Retry;

    use super::*;

    #[test]
    fn what_mount_says_is_understood() {
        let one = |fstype| Try {
            fstype,
            source: "store:/a".to_owned(),
            options: String::new(),
        };
        let check = |fstype, said: &str, retry: Option<Retry>, expected: &str| match told(&one(fstype), said)
        {
            Refusal::Version(what) => assert_eq!((retry, what.as_str()), (None, expected)),
            Refusal::Failed(error) => assert_eq!((retry, error.what.as_str()), (Some(error.retry), expected)),
        };
        check(
            "nfs",
            "mount: /x: Protocol not supported.",
            None,
            "mounting store:/a: mount: /x: Protocol not supported.",
        );
        check(
            "nfs",
            "mount: /x: unknown filesystem type 'nfs'.",
            Some(Retry::Never),
            "this kernel has no client for nfs: `modprobe nfsv4`, or boot one built with CONFIG_NFS_FS and CONFIG_NFS_V4",
        );
        check(
            "afs",
            "mount: /x: unknown filesystem type 'afs'.",
            Some(Retry::Never),
            "this kernel has no client for afs: `modprobe kafs`, or boot one built with CONFIG_AFS_FS",
        );
        check(
            "afs",
            "mount: /x: mount(2) system call failed: Destination address required.",
            Some(Retry::Later),
            "mounting store:/a: the servers of its cell are not known: name them in DNS (RFC 5864), or in \
             /proc/fs/afs/cells",
        );
        check(
            "nfs",
            "mount: /x: mount(2) system call failed: Connection refused.",
            Some(Retry::Later),
            "mounting store:/a: mount: /x: mount(2) system call failed: Connection refused.",
        );
    }
}
