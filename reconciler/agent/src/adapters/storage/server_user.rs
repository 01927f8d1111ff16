//! Directories that the file server works in, where it runs as a user of its own and the agent as root.
//!
//! The server owns nothing but what it writes itself: each writable layer, and the place of its sockets. All above that
//! stays root's, which the server's group may pass through; so whatever became of the server, it cannot put one of the
//! agent's directories in another's place.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::Path;

use xeno_reconciler::ports::{PortError, PortResult};

/// The user that the file server runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerUser {
    uid: u32,
    gid: u32,
}

/// What the file server may do with a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    None,
    /// Go through it.
    Pass,
    /// Everything.
    Own,
}

impl ServerUser {
    /// The user of this name. `None` where it is who we are ourselves: then there is nothing to divide.
    ///
    /// # Errors
    /// If there is no such user, or we are neither root nor that user.
    pub(crate) fn named(name: &str) -> PortResult<Option<Self>> {
        let (uid, gid) = cowfs::confine::find_user(name)
            .map_err(|error| PortError::never(format!("[cowfs] user: {error}")))?;
        let own = rustix::process::geteuid();
        if own.as_raw() == uid {
            return Ok(None);
        }
        if !own.is_root() {
            return Err(PortError::never(format!(
                "[cowfs] user: only an agent of root's may have a file server of {name}'s"
            )));
        }
        Ok(Some(Self { uid, gid }))
    }
}

/// Makes a directory if it is missing, and sees to it that the file server may do with it what it should.
pub(super) fn make_dir(path: &Path, server: Option<ServerUser>, access: Access) -> PortResult<()> {
    at(path, DirBuilder::new().recursive(true).mode(0o700).create(path))?;
    match server {
        Some(server) => open_to(path, server, access),
        None => Ok(()),
    }
}

/// Lets the file server do with a directory what it should, whatever the umask was when it was made.
pub(super) fn open_to(path: &Path, server: ServerUser, access: Access) -> PortResult<()> {
    let (owner, mode) = match access {
        Access::None => return Ok(()),
        Access::Pass => (0, 0o750),
        Access::Own => (server.uid, 0o700),
    };
    at(path, chown(path, Some(owner), Some(server.gid)))?;
    at(path, fs::set_permissions(path, Permissions::from_mode(mode)))
}

fn at<T>(path: &Path, result: io::Result<T>) -> PortResult<T> {
    result.map_err(|error| PortError::later(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn only_root_can_divide_and_everybody_can_be_their_own_server() {
        assert!(ServerUser::named("nobody-of-this-name").is_err());
        let own = rustix::process::geteuid();
        let named = ServerUser::named(&own.as_raw().to_string());
        // Users of a container need not stand in its passwd.
        assert!(matches!(named, Ok(None) | Err(_)), "{named:?}");
        if !own.is_root() {
            assert!(ServerUser::named("root").is_err());
        }
    }

    #[test]
    fn a_server_owns_what_it_writes_and_passes_through_the_rest() {
        if !rustix::process::geteuid().is_root() {
            // Nothing can be given to another user.
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let server = Some(ServerUser { uid: 4321, gid: 8765 });
        let check = |name: &str, access, expected: (u32, u32, u32)| {
            let path = place.path().join(name);
            // Twice: the second time it is there.
            make_dir(&path, server, access).unwrap();
            make_dir(&path, server, access).unwrap();
            let found = fs::metadata(&path).unwrap();
            assert_eq!(
                (found.uid(), found.gid(), found.mode() & 0o7777),
                expected,
                "{name}"
            );
        };
        check("writable", Access::Pass, (0, 8765, 0o750));
        check("writable/web-0", Access::Pass, (0, 8765, 0o750));
        check("writable/web-0/0", Access::Own, (4321, 8765, 0o700));
        let own_group = rustix::process::getegid().as_raw();
        check("tombstones", Access::None, (0, own_group, 0o700));
    }
}
