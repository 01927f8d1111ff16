//! Where a laboratory ends an agent: this very process, as `kill -9` does, at one moment of one kind of action, or after one thing
//! that is done in a move. Built
//! without the feature `lab` there is nothing of it.

use xeno_reconciler::action::ActionKind;

/// A moment of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It is journalled that it begins, and nothing has happened.
    BeforeEffect,
    /// It has happened, and nobody has written that down.
    AfterEffect,
    /// It is written down.
    AfterRecord,
}

/// Ends the process if `XENO_CRASH_AT` says so, as in `boot:after-effect`.
pub(crate) fn at(kind: ActionKind, moment: Moment) {
    let moment = match moment {
        Moment::BeforeEffect => "before-effect",
        Moment::AfterEffect => "after-effect",
        Moment::AfterRecord => "after-record",
    };
    here(kind.verb(), moment);
}

/// Ends the process if `XENO_CRASH_AT` says so, as in `depart:of-a-move`: this has happened, and nobody has heard of it.
pub(crate) fn after_move(what: &str) {
    here(what, "of-a-move");
}

#[cfg(feature = "lab")]
fn here(what: &str, moment: &str) {
    use std::sync::OnceLock;

    static WHERE: OnceLock<Option<String>> = OnceLock::new();
    let Some(wanted) = WHERE.get_or_init(|| std::env::var("XENO_CRASH_AT").ok()) else {
        return;
    };
    if *wanted == format!("{what}:{moment}") {
        // Nothing is dropped, flushed or said.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(not(feature = "lab"))]
fn here(_: &str, _: &str) {}
