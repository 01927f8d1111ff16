//! The objects that every case finds in its directory.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

/// Length of `file`.
pub(crate) const FILE_LEN: usize = 10_000;

/// Objects whose times are set, a directory after what is in it.
const WITH_TIMES: [&str; 10] = [
    "file",
    "empty",
    "hard1",
    "dir/a",
    "dir/sub/b",
    "fifo",
    "dir/sub",
    "dir",
    "vacant",
    "",
];

/// What stands in `file`.
pub(crate) fn pattern() -> Vec<u8> {
    (0..FILE_LEN)
        .map(|at| b'a' + u8::try_from(at % 23).unwrap_or(0))
        .collect()
}

/// A case's directory and what is in it:
///
/// ```text
/// file      10,000 bytes, 0644          link      -> file
/// empty     0644                        dangling  -> nowhere
/// hard1     same file as hard2          fifo      a named pipe
/// dir/      a, sub/b                    vacant/   an empty directory
/// ```
pub(crate) struct Ground {
    root: PathBuf,
}

impl Ground {
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn exists(&self) -> bool {
        self.root.exists()
    }

    /// Path of an object.
    pub(crate) fn p(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes all objects.
    pub(crate) fn lay(&self) -> std::io::Result<()> {
        // Everything gets its mode as it is made: each call costs a round trip in a guest.
        let umask = rustix::process::umask(Mode::empty());
        let made = self.make();
        rustix::process::umask(umask);
        made?;
        // Long ago, so that a case sees whether a time changed.
        for name in WITH_TIMES {
            set_times(&self.p(name), OLD)?;
        }
        Ok(())
    }

    fn make(&self) -> std::io::Result<()> {
        let file = |name: &str, content: &[u8]| {
            let made = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(self.p(name));
            made?.write_all(content)
        };
        let directory = |name: &str| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(self.p(name))
        };
        directory("")?;
        directory("dir/sub")?;
        directory("vacant")?;
        file("file", &pattern())?;
        file("empty", b"")?;
        file("hard1", b"hard")?;
        fs::hard_link(self.p("hard1"), self.p("hard2"))?;
        file("dir/a", b"a")?;
        file("dir/sub/b", b"b")?;
        symlink("file", self.p("link"))?;
        symlink("nowhere", self.p("dangling"))?;
        rustix::fs::mknodat(CWD, self.p("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
        Ok(())
    }

    /// Changes every object to what it was: afterwards all of it is in the writable layer.
    pub(crate) fn touch_all(&self) -> std::io::Result<()> {
        for name in ["file", "hard1", "dir/a", "dir/sub/b"] {
            let open = fs::OpenOptions::new().read(true).write(true).open(self.p(name))?;
            let mut first = [0];
            open.read_exact_at(&mut first, 0)?;
            open.write_all_at(&first, 0)?;
        }
        // Any change of attributes gives an object a record in the writable layer, this one too.
        for name in ["link", "dangling"].iter().chain(&WITH_TIMES) {
            set_times(&self.p(name), OLD)?;
        }
        Ok(())
    }
}

/// The second of 2001-09-09 01:46:40 UTC.
pub(crate) const OLD: i64 = 1_000_000_000;

/// Sets access and modification time of what `path` names itself.
pub(crate) fn set_times(path: &Path, seconds: i64) -> std::io::Result<()> {
    let at = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: at,
        last_modification: at,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// What `lstat` says.
pub(crate) fn meta(path: &Path) -> Result<fs::Metadata, String> {
    fs::symlink_metadata(path).map_err(|error| format!("lstat {}: {error}", path.display()))
}

/// Permission bits, with setuid, setgid and sticky.
pub(crate) fn bits(path: &Path) -> Result<u32, String> {
    Ok(meta(path)?.mode() & 0o7777)
}

/// A path with a name of these bytes.
pub(crate) fn named(directory: &Path, name: &[u8]) -> PathBuf {
    let c = CString::new(name).unwrap_or_default();
    directory.join(std::ffi::OsStr::from_bytes(c.as_bytes()))
}
