//! What a guest starts with: an initramfs of ours that mounts the root over NFS, and the small init.
//!
//! The two scripts beside this file say how; [`kernel_arguments`] makes the arguments they understand. The console shows
//! `xeno: root mounted` once the root is there and `xeno: small init ready` once the small init has prepared it.
//!
//! A root with an init of its own needs nothing special. For the power button to work it needs something that listens:
//! with systemd that is logind, which needs udev, so on Debian the packages `systemd-sysv`, `udev`, `dbus` and
//! `libpam-systemd`.

mod cpio;
mod modules;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

pub use modules::ModulesError;

use crate::template::Boot;
use cpio::{Cpio, TooLarge};

/// First program of a guest.
const INIT: &str = include_str!("init.sh");
/// Process 1 of guests without an init of their own.
const SMALL_INIT: &str = include_str!("small-init.sh");

/// How the image is compressed. All of these are in Debian's kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// With gzip, which every kernel understands.
    #[default]
    Gzip,
    /// With zstd, from Linux 5.9 on: smaller, and faster to unpack.
    Zstd,
}

/// What goes into an initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestOptions {
    /// The kernel's modules: a directory `/lib/modules/VERSION` with its `modules.dep`.
    pub modules: PathBuf,
    /// A statically linked busybox, as Debian's `busybox-static` has in `/bin/busybox`.
    pub busybox: PathBuf,
    /// Compression.
    pub compression: Compression,
}

/// Why no initramfs could be made.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// busybox cannot be read.
    #[error("reading {} (package busybox-static)", path.display())]
    Busybox {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// busybox would need libraries, of which the initramfs has none.
    #[error("{} is not statically linked: install busybox-static", .0.display())]
    NotStatic(PathBuf),
    /// The modules cannot be had.
    #[error("collecting kernel modules")]
    Modules(#[source] ModulesError),
    /// A file is too large for the format.
    #[error("a file of 4 GiB or more cannot be in an initramfs")]
    TooLarge,
    /// Compressing failed.
    #[error("compressing the initramfs")]
    Compress(#[source] io::Error),
}

impl From<TooLarge> for GuestError {
    fn from(_: TooLarge) -> Self {
        Self::TooLarge
    }
}

/// Makes the initramfs. Equal input gives equal bytes.
///
/// # Errors
/// [`GuestError`].
pub fn build_initramfs(options: &GuestOptions) -> Result<Vec<u8>, GuestError> {
    let busybox = fs::read(&options.busybox).map_err(|source| GuestError::Busybox {
        path: options.busybox.clone(),
        source,
    })?;
    if needs_interpreter(&busybox) {
        return Err(GuestError::NotStatic(options.busybox.clone()));
    }
    let modules = modules::pick(&options.modules).map_err(GuestError::Modules)?;

    let mut cpio = Cpio::default();
    for directory in ["bin", "dev", "modules", "proc", "root", "sys"] {
        cpio.directory(directory, 0o755)?;
    }
    // The kernel opens the console before anything has mounted a devtmpfs.
    cpio.character_device("dev/console", 0o600, (5, 1))?;
    cpio.character_device("dev/null", 0o666, (1, 3))?;
    cpio.file("bin/busybox", 0o755, &busybox)?;
    cpio.file("init", 0o755, INIT.as_bytes())?;
    cpio.file("small-init", 0o755, SMALL_INIT.as_bytes())?;
    let mut order = String::new();
    for module in &modules {
        let file = format!("{}.ko", module.name);
        cpio.file(&format!("modules/{file}"), 0o644, &module.bytes)?;
        order.push_str(&file);
        order.push('\n');
    }
    cpio.file("modules/order", 0o644, order.as_bytes())?;
    compress(&cpio.finish()?, options.compression).map_err(GuestError::Compress)
}

/// What a guest is told by its kernel's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNetwork {
    /// The guest's address with the length of its prefix: `10.0.2.15/24`.
    pub address: String,
    /// Default route, if it has one.
    pub gateway: Option<String>,
    /// The file server's address.
    pub server: String,
    /// Its port, for NFS and MOUNT.
    pub port: u16,
    /// The export that is the root.
    pub export: String,
    /// Further exports: path below the root, and export; outer paths first.
    pub mounts: Vec<(String, String)>,
    /// Host name.
    pub hostname: String,
}

/// The kernel's command line for a guest, but for what only the hypervisor knows (such as `console=`).
#[must_use]
pub fn kernel_arguments(network: &GuestNetwork, boot: &Boot, extra: &str) -> String {
    let mut words = Vec::new();
    let mut word = |key: &str, value: &str| words.push(format!("xeno.{key}={}", encode(value)));
    word("addr", &network.address);
    if let Some(gateway) = &network.gateway {
        word("gateway", gateway);
    }
    word("server", &network.server);
    word("port", &network.port.to_string());
    word("export", &network.export);
    word("hostname", &network.hostname);
    words.extend(boot_words(boot));
    for (path, export) in &network.mounts {
        words.push(format!("xeno.mount={}:{}", encode(path), encode(export)));
    }
    if *boot == (Boot::Native {}) {
        words.push(format!("systemd.hostname={}", encode(&network.hostname)));
    }
    if !extra.is_empty() {
        words.push(extra.to_owned());
    }
    words.join(" ")
}

/// The words of the kernel's command line that say how a template's guests come up.
#[must_use]
pub fn boot_words(boot: &Boot) -> Vec<String> {
    match boot {
        Boot::Native {} => vec!["xeno.init=native".to_owned()],
        Boot::Small { run } => vec!["xeno.init=small".to_owned(), format!("xeno.run={}", encode(run))],
    }
}

/// Replaces whatever could end a word or mean something to a shell by `%XX`.
fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/.,-_@+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn compress(bytes: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => {
            // A header without a time stamp.
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Compression::Zstd => zstd::bulk::compress(bytes, 9),
    }
}

/// Whether a program for Linux (ELF, 64 or 32 bits, little-endian) has an interpreter, which loads its libraries.
/// Anything else is left for the guest to judge.
fn needs_interpreter(program: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let field = |at: usize, len: usize| -> Option<usize> {
        let bytes = program.get(at..at.checked_add(len)?)?;
        bytes.iter().rev().try_fold(0_usize, |value, &byte| {
            value.checked_mul(256)?.checked_add(usize::from(byte))
        })
    };
    if !program.starts_with(b"\x7fELF") || program.get(5) != Some(&1) {
        return false;
    }
    let (table, size, count) = if program.get(4) == Some(&2) {
        (field(32, 8), field(54, 2), field(56, 2))
    } else {
        (field(28, 4), field(42, 2), field(44, 2))
    };
    let (Some(table), Some(size), Some(count)) = (table, size, count) else {
        return false;
    };
    (0..count).any(|i| {
        let at = i.checked_mul(size).and_then(|offset| table.checked_add(offset));
        at.and_then(|at| field(at, 4)) == Some(INTERPRETER as usize)
    })
}

/// Where Debian has busybox.
#[must_use]
pub fn default_busybox() -> &'static Path {
    Path::new("/bin/busybox")
}
