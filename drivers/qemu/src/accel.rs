//! What executes guest code: KVM where it really boots Linux, else QEMU's own translator (TCG).
//!
//! A `/dev/kvm` that can be opened proves little: under some outer hypervisors a guest started on it hangs before its
//! first line. So the question is put to KVM itself, once for each kernel, QEMU and boot of the node: a guest with a
//! one-line program has [`PROBE_LIMIT`] to print it. The verdict is kept in the state directory.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::probe_init;

/// How long KVM has. Where it works, Linux is there after one second; under TCG it would take three.
pub const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// A QEMU that does not say its version within this time is not one.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// Verdicts that are kept, newest last.
const VERDICTS_MAX: usize = 32;
/// What is read of a probe's console before it is given up.
const CONSOLE_LEN_MAX: usize = 1 << 20;
const FILE_VERSION: u32 = 1;

/// What executes guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor, through the host kernel.
    Kvm,
    /// QEMU, in software.
    Tcg,
}

impl std::fmt::Display for Accel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What the configuration says about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// Find out.
    #[default]
    Auto,
    /// Use this one, whatever happens.
    Always(Accel),
}

impl std::str::FromStr for AccelChoice {
    type Err = String;

    /// Reads `auto`, `kvm` or `tcg`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Always(Accel::Kvm)),
            "tcg" => Ok(Self::Always(Accel::Tcg)),
            _ => Err(format!(
                "`{}` is not an accelerator: auto, kvm or tcg",
                text.escape_debug()
            )),
        }
    }
}

/// What was found out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What guests run on.
    pub accel: Accel,
    /// Why, in words that fit after "because".
    pub why: String,
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// QEMU does not start.
    #[error("cannot run {}", qemu.display())]
    Qemu {
        /// The program.
        qemu: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not accessible.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Verdicts as they are stored.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredVerdicts {
    version: u32,
    verdicts: Vec<StoredVerdict>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredVerdict {
    /// Boot of the node, QEMU: what a verdict holds for.
    host: String,
    kernel: String,
    accel: Accel,
    why: String,
}

/// The first line of `qemu --version`.
///
/// # Errors
/// [`ProbeError::Qemu`] if it cannot be run, or says nothing.
pub async fn qemu_version(qemu: &Path) -> Result<String, ProbeError> {
    let failed = |source| ProbeError::Qemu {
        qemu: qemu.to_owned(),
        source,
    };
    let output = Command::new(qemu)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_LIMIT, output)
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(failed(io::Error::other("it does not say its version")));
    }
    Ok(line.chars().take(200).collect())
}

/// What guests with this kernel run on. Asks the stored verdicts first; may take [`PROBE_LIMIT`].
///
/// # Errors
/// [`ProbeError`] if QEMU or the kernel cannot be used at all.
pub async fn find_out(state_dir: &Path, qemu: &Path, kernel: &Path) -> Result<Verdict, ProbeError> {
    if let Err(why) = kvm_opens() {
        return Ok(Verdict {
            accel: Accel::Tcg,
            why,
        });
    }
    let host = host_key(qemu).await?;
    let kernel_key = kernel_key(kernel)?;
    let mut stored = read(state_dir);
    let same = |known: &&StoredVerdict| known.host == host && known.kernel == kernel_key;
    if let Some(known) = stored.iter().find(same) {
        return Ok(Verdict {
            accel: known.accel,
            why: known.why.clone(),
        });
    }
    let verdict = probe(state_dir, qemu, kernel).await?;
    tracing::info!(accel = %verdict.accel, why = verdict.why, kernel = %kernel.display(), "probed KVM");
    stored.retain(|known| known.host == host);
    if stored.len() >= VERDICTS_MAX {
        stored.remove(0);
    }
    stored.push(StoredVerdict {
        host,
        kernel: kernel_key,
        accel: verdict.accel,
        why: verdict.why.clone(),
    });
    // A verdict that is not kept is found out again.
    if let Err(error) = write(state_dir, stored) {
        tracing::warn!(
            error = crate::chain(&error),
            "cannot keep what was found out about KVM"
        );
    }
    Ok(verdict)
}

/// What is known without probing: the newest verdict of this boot and this QEMU, or that there is no KVM to probe.
pub async fn known(state_dir: &Path, qemu: &Path) -> Option<Verdict> {
    if let Err(why) = kvm_opens() {
        return Some(Verdict {
            accel: Accel::Tcg,
            why,
        });
    }
    let host = host_key(qemu).await.ok()?;
    let newest = read(state_dir)
        .into_iter()
        .rev()
        .find(|known| known.host == host)?;
    Some(Verdict {
        accel: newest.accel,
        why: newest.why,
    })
}

fn kvm_opens() -> Result<(), String> {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("there is no /dev/kvm".into()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err("this user may not open /dev/kvm (group kvm)".into())
        }
        Err(error) => Err(format!("/dev/kvm does not open: {error}")),
    }
}

async fn host_key(qemu: &Path) -> Result<String, ProbeError> {
    let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
    let boot = fs::read_to_string(&path).map_err(|source| ProbeError::File { path, source })?;
    Ok(format!("{} {}", boot.trim(), qemu_version(qemu).await?))
}

fn kernel_key(kernel: &Path) -> Result<String, ProbeError> {
    let status = fs::metadata(kernel).map_err(|source| ProbeError::File {
        path: kernel.to_owned(),
        source,
    })?;
    Ok(format!(
        "{} {} {}",
        kernel.display(),
        status.len(),
        status.mtime()
    ))
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("accel.json")
}

/// Stored verdicts; none if they cannot be read, since they can be found out again.
fn read(state_dir: &Path) -> Vec<StoredVerdict> {
    let stored = fs::read(file(state_dir)).ok();
    let stored = stored.and_then(|text| serde_json::from_slice::<StoredVerdicts>(&text).ok());
    stored
        .filter(|stored| stored.version == FILE_VERSION)
        .map(|stored| stored.verdicts)
        .unwrap_or_default()
}

fn write(state_dir: &Path, verdicts: Vec<StoredVerdict>) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(&StoredVerdicts {
        version: FILE_VERSION,
        verdicts,
    })?;
    xeno_kept::files::write_durably(&file(state_dir), &text)
}

/// Boots the one-line guest under KVM.
async fn probe(state_dir: &Path, qemu: &Path, kernel: &Path) -> Result<Verdict, ProbeError> {
    let initramfs = state_dir.join("probe.cpio");
    xeno_kept::files::write_durably(&initramfs, &probe_init::initramfs()).map_err(|source| {
        ProbeError::File {
            path: initramfs.clone(),
            source,
        }
    })?;
    let failed = |source| ProbeError::Qemu {
        qemu: qemu.to_owned(),
        source,
    };
    let mut child = Command::new(qemu)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args([
            "-name",
            "guest=xeno-probe",
            "-machine",
            "pc,usb=off",
            "-accel",
            "kvm",
            "-cpu",
            "host",
        ])
        .args([
            "-m",
            "256M",
            "-append",
            "console=ttyS0 panic=-1",
            "-serial",
            "stdio",
            "-sandbox",
            "on,spawn=deny",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(&initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut stdout = child
        .stdout
        .take()
        .ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let mut console = Vec::new();
    let boots = async {
        let mut chunk = [0; 4096];
        loop {
            let len = stdout.read(&mut chunk).await?;
            console.extend_from_slice(&chunk[..len]);
            let marker = probe_init::MARKER.as_bytes();
            let seen = console.windows(marker.len()).any(|window| window == marker);
            if seen || len == 0 || console.len() > CONSOLE_LEN_MAX {
                return Ok::<_, io::Error>(seen);
            }
        }
    };
    let boots = tokio::time::timeout(PROBE_LIMIT, boots).await;
    // Ends the guest, whatever became of it.
    child.kill().await.map_err(failed)?;
    let (accel, why) = match boots {
        Ok(Ok(true)) => (Accel::Kvm, "a test guest booted on /dev/kvm".to_owned()),
        Ok(Ok(false)) => (
            Accel::Tcg,
            "a test guest ended before it booted on /dev/kvm".to_owned(),
        ),
        Ok(Err(error)) => return Err(failed(error)),
        Err(_) => {
            let limit = PROBE_LIMIT.as_secs();
            (
                Accel::Tcg,
                format!("a test guest did not boot on /dev/kvm within {limit} s"),
            )
        }
    };
    Ok(Verdict { accel, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_kept_and_a_broken_file_means_none() {
        let dir = tempfile::tempdir().unwrap();
        let verdict = StoredVerdict {
            host: "h".into(),
            kernel: "k".into(),
            accel: Accel::Tcg,
            why: "w".into(),
        };
        assert_eq!(read(dir.path()).len(), 0);
        write(dir.path(), vec![verdict]).unwrap();
        assert_eq!(read(dir.path())[0].why, "w");
        fs::write(file(dir.path()), "{\"version\":2,\"verdicts\":[]}").unwrap();
        assert_eq!(read(dir.path()).len(), 0);
        fs::write(file(dir.path()), "garbage").unwrap();
        assert_eq!(read(dir.path()).len(), 0);
    }

    #[test]
    fn the_choice_is_read() {
        assert_eq!("auto".parse(), Ok(AccelChoice::Auto));
        assert_eq!("tcg".parse(), Ok(AccelChoice::Always(Accel::Tcg)));
        assert!(
            "hvf"
                .parse::<AccelChoice>()
                .unwrap_err()
                .contains("auto, kvm or tcg")
        );
    }
}
