//! What the driver needs to know before it looks at anything.

use std::path::{Path, PathBuf};

use crate::accel::AccelChoice;

/// How the driver is set up.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// Directory for run directories; made when missing, private to the user. Two agents never share one.
    pub state_dir: PathBuf,
    /// QEMU; `None`: the first [`QEMU_NAME`] in `PATH`.
    pub qemu_binary: Option<PathBuf>,
    /// The program whose `guestfwd SOCKET` is [`crate::forward::run`].
    pub xeno_binary: PathBuf,
    /// What executes guest code.
    pub accel: AccelChoice,
    /// Control group in which guests get their shares of the processors; `None`: the agent's own, if it was given one.
    pub cgroup: Option<PathBuf>,
    /// Directory for the memory of suspended guests; made when missing, private to the user.
    pub images_dir: PathBuf,
    /// Bytes a second at which an image is written, where it must leave the disk to others; `None`: as fast as it goes.
    pub image_rate: Option<u64>,
}

/// The program that is looked for in `PATH`.
pub const QEMU_NAME: &str = "qemu-system-x86_64";

/// Longest path of the state directory in bytes. A unix socket's path has at most 107 (`sun_path` in unix(7), less
/// the final zero); the longest name below the state directory is a run directory of 24 and `/console.sock`.
pub const STATE_DIR_LEN_MAX: usize = 107 - 1 - 24 - "/console.sock".len();

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A directory cannot be made or looked at.
    #[error("cannot use the state directory {}", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Sockets would not fit.
    #[error(
        "the state directory {} is {len} bytes long, but unix sockets below it allow only {STATE_DIR_LEN_MAX}",
        path.display()
    )]
    TooLong {
        /// The directory.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// QEMU's option syntax has no safe form for it.
    #[error("{what} {} contains a character other than letters, digits and /._+@~=-", path.display())]
    Unsafe {
        /// Which path.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
}

impl QemuConfig {
    /// The usual configuration: images beside the state directory, QEMU from `PATH`, the running program as forwarder, the accelerator found out.
    #[must_use]
    pub fn new(state_dir: PathBuf, xeno_binary: PathBuf) -> Self {
        Self {
            images_dir: state_dir.with_file_name("images"),
            image_rate: None,
            cgroup: None,
            state_dir,
            qemu_binary: None,
            xeno_binary,
            accel: AccelChoice::Auto,
        }
    }

    /// The QEMU program, if there is one.
    #[must_use]
    pub fn find_qemu(&self) -> Option<PathBuf> {
        if let Some(named) = &self.qemu_binary {
            return named.is_file().then(|| named.clone());
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join(QEMU_NAME))
            .find(|file| file.is_file())
    }

    /// Makes the state directory private and its path final, and checks the paths that QEMU will be given.
    pub(crate) fn prepare(&self) -> Result<PathBuf, ConfigError> {
        let failed = |source| ConfigError::StateDir {
            path: self.state_dir.clone(),
            source,
        };
        xeno_kept::files::make_private(&self.state_dir).map_err(failed)?;
        // A process is recognised by the path it was given, so there must be one spelling of it.
        let path = std::fs::canonicalize(&self.state_dir).map_err(failed)?;
        let len = path.as_os_str().len();
        if len > STATE_DIR_LEN_MAX {
            return Err(ConfigError::TooLong { path, len });
        }
        for (what, path) in [("the state directory", &path), ("the program", &self.xeno_binary)] {
            if safe(path).is_none() {
                return Err(ConfigError::Unsafe {
                    what,
                    path: path.clone(),
                });
            }
        }
        Ok(path)
    }
}

/// The path as text, if QEMU's option syntax (commas separate), its `guestfwd` (g_shell_parse_argv splits) and
/// the kernel command line all take it as it is.
pub(crate) fn safe(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"/._+@~=-".contains(&b);
    (text.starts_with('/') && text.bytes().all(fine)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_safe() {
        assert_eq!(safe(Path::new("/a/b-c_d.e~1")), Some("/a/b-c_d.e~1"));
        for hostile in [
            "relative", "/a b", "/a,b", "/a'b", "/a\"b", "/a$b", "/a\nb", "/a;b", "/ä", "/a:b", "",
        ] {
            assert_eq!(safe(Path::new(hostile)), None, "{hostile:?}");
        }
    }

    #[test]
    fn a_state_directory_too_long_for_sockets_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(STATE_DIR_LEN_MAX));
        let error = QemuConfig::new(long, "/bin/true".into()).prepare().unwrap_err();
        assert!(matches!(error, ConfigError::TooLong { .. }), "{error}");
    }
}
