//! The objects that every case finds in its directory.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
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
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        let file = |name: &str, content: &[u8]| {
            let path = self.p(name);
            fs::File::create(&path)?.write_all(content)?;
            mode(&path, 0o644)
        };
        let directory = |name: &str| {
            let path = self.p(name);
            fs::create_dir_all(&path)?;
            mode(&path, 0o755)
        };
        directory("")?;
        directory("dir")?;
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
        mode(&self.p("fifo"), 0o644)?;
        // Long ago, so that a case sees whether a time changed.
        for name in WITH_TIMES {
            set_times(&self.p(name), OLD)?;
        }
        Ok(())
    }

    /// Changes every object and takes the change back, times included: afterwards nothing of it is where it was made.
    pub(crate) fn touch_all(&self) -> std::io::Result<()> {
        for name in ["file", "empty", "hard1", "dir/a", "dir/sub/b"] {
            let path = self.p(name);
            let before = fs::symlink_metadata(&path)?;
            let content = fs::read(&path)?;
            let mut open = fs::OpenOptions::new().write(true).open(&path)?;
            open.write_all(b"#")?;
            drop(open);
            fs::OpenOptions::new()
                .write(true)
                .open(&path)?
                .write_all(&content)?;
            let open = fs::OpenOptions::new().write(true).open(&path)?;
            open.set_len(before.len())?;
        }
        for name in WITH_TIMES {
            let path = self.p(name);
            let mode = fs::symlink_metadata(&path)?.permissions();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode.mode() ^ 0o010))?;
            fs::set_permissions(&path, mode)?;
            set_times(&path, OLD)?;
        }
        for name in ["link", "dangling"] {
            let path = self.p(name);
            let aside = self.p("aside");
            fs::rename(&path, &aside)?;
            fs::rename(&aside, &path)?;
        }
        set_times(self.root(), OLD)
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
