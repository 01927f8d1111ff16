//! What only a person can say: that something is so, and why.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::{Failure, Outcome};

/// Asks at the terminal until it is typed what this is about, so that no habit of saying yes is enough. `false` for any other
/// answer.
///
/// # Errors
/// Where nobody can be asked (`unasked` says what that leaves undone), or the terminal fails.
pub(crate) fn types(question: &str, what: &str, meant: &str, unasked: &str) -> Outcome<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(
            Failure::said(format!("nobody can be asked here whether that is {meant}"))
                .hint(format!("say --yes if it is; {unasked}")),
        );
    }
    let failed = |error: io::Error| Failure::doing("ask at the terminal", &error);
    let mut terminal = io::stderr();
    write!(terminal, "{question} Type {what}: ").map_err(failed)?;
    terminal.flush().map_err(failed)?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim() == what)
}

/// Refuses a reason that the board would not take.
///
/// # Errors
/// If it has more than `len_max` bytes.
pub(crate) fn check_reason(reason: Option<&str>, len_max: usize) -> Outcome<()> {
    if reason.is_some_and(|reason| reason.len() > len_max) {
        return Err(Failure::said(format!("a reason has at most {len_max} bytes")));
    }
    Ok(())
}
