//! What tests of every crate need against other tests that run beside them: a port that nobody takes before the server that it
//! is meant for, and a program that can be run as soon as it is written.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports that Linux gives to whoever connects, 32768 and up (ip(7), `ip_local_port_range`): one of those may be
/// some client's by the time the server has started, or is started again.
const FIRST: u16 = 16384;
const PORTS: u16 = 16384;
/// How far apart two processes with neighbouring numbers begin to look.
const APART: u32 = 61;

/// A port of loopback that nobody has now, that this process has not been told before, and that no client will be given.
///
/// # Panics
/// If all are taken.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let begin = process::id().wrapping_mul(APART);
    (0..PORTS)
        .map(|_| begin.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)) % u32::from(PORTS))
        .map(|at| FIRST + u16::try_from(at).expect("below the number of ports"))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}

/// Writes a shell script that can be run at once: its lines after `#!/bin/sh`.
///
/// Another process writes it, for one that some other test starts meanwhile would inherit what it is written through, and what
/// anybody may write to is not run (execve(2), ETXTBSY).
///
/// # Panics
/// If it cannot be written.
pub fn write_script(path: &Path, lines: &str) {
    let write = r##"printf '#!/bin/sh\n%s\n' "$0" >"$1" && chmod 755 "$1""##;
    run(
        "sh",
        &["-c".as_ref(), write.as_ref(), lines.as_ref(), path.as_os_str()],
    );
}

/// Copies a program to where anybody may run it, at once: by another process, like [`write_script`].
///
/// # Panics
/// If it cannot be copied.
pub fn copy_program(from: &Path, to: &Path) {
    run("install", &["-m755".as_ref(), from.as_os_str(), to.as_os_str()]);
}

fn run(program: &str, arguments: &[&OsStr]) {
    let done = Command::new(program).args(arguments).status();
    assert!(done.expect("it runs").success(), "{program} failed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_never_one_that_a_client_gets() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
        let mut ports: Vec<u16> = (0..500).map(|_| free_port()).collect();
        assert!(ports.iter().all(|port| (FIRST..FIRST + PORTS).contains(port)));
        assert!(!ports.contains(&taken.local_addr().unwrap().port()));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 500);
    }

    #[test]
    fn what_is_written_runs_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (script, copy) = (dir.path().join("script"), dir.path().join("copy"));
        write_script(&script, "echo \"$1 'a' %s\"");
        copy_program(&script, &copy);
        for program in [script, copy] {
            let said = Command::new(program).arg("b").output().unwrap();
            assert_eq!(said.stdout, b"b 'a' %s\n");
        }
    }
}
