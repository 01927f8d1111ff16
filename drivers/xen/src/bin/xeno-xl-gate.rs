//! The transport that xl sends a running domain through: `xl migrate -s xeno-xl-gate DOMID SOCKET`.
//!
//! ```text
//! xeno-xl-gate SOCKET ...         what xl puts behind the socket is not looked at
//! ```
//!
//! It hands its input and output to the agent that listens on the socket, and waits for its end.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(socket) = std::env::args_os().nth(1).map(PathBuf::from) else {
        complain("usage: xeno-xl-gate SOCKET");
        return ExitCode::from(2);
    };
    match xeno_xen::gate::pipe::hand_over(&socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{}: {error}", socket.display()));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program for whoever runs it")]
fn complain(why: &str) {
    eprintln!("xeno-xl-gate: {why}");
}
