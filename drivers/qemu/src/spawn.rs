//! Starts QEMU so that it belongs to nobody.
//!
//! In a session of its own, a signal to the agent's group or terminal does not reach it; with its output in a file,
//! no pipe of the agent's breaks under it. QEMU's own `-daemonize` does less: it sends later complaints to
//! `/dev/null`.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;
use tokio::sync::watch;

/// A QEMU that was started by this process, seen from outside.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// Its process id; not to be signalled without looking who that is.
    pub(crate) pid: u32,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Spawned {
    /// Waits for its end.
    pub(crate) async fn exited(&mut self) -> Option<ExitStatus> {
        match self.exit.wait_for(Option::is_some).await {
            Ok(status) => *status,
            // The runtime goes down; nobody knows.
            Err(_) => None,
        }
    }
}

/// Starts `program`, its output appended to `log`.
///
/// # Errors
/// Of the file system and of fork(2) and execve(2).
#[expect(
    unsafe_code,
    reason = "a session of its own can only be had between fork and exec"
)]
pub(crate) fn spawn(program: &Path, args: &[String], log: &Path) -> io::Result<Spawned> {
    let stdout = OpenOptions::new().append(true).open(log)?;
    let stderr = stdout.try_clone()?;
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    let alone = || {
        rustix::process::setsid()?;
        // Nothing that it starts gains privileges by a set-user-id bit or file capabilities (prctl(2)).
        rustix::thread::set_no_new_privs(true)?;
        Ok(())
    };
    // SAFETY: both are plain system calls, without allocation or locks.
    unsafe { command.pre_exec(alone) };
    let mut child = command.spawn()?;
    let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
    let (tell, exit) = watch::channel(None);
    // Collects it when it ends, and notes how, whoever waits.
    tokio::spawn(async move {
        match child.wait().await {
            Ok(status) => {
                tracing::info!(pid, %status, "QEMU ended");
                tell.send_replace(Some(status));
            }
            Err(error) => tracing::warn!(pid, %error, "cannot wait for QEMU"),
        }
    });
    Ok(Spawned { pid, exit })
}
