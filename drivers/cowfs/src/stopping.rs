//! Where a laboratory stops a server: this very process, as SIGSTOP does, between two steps of what it does to a writable
//! layer. Built without the feature `lab` there is nothing of it.

/// Stops the process if the file that `XENO_COWFS_STOP_AT` names for this point is there, as in `append:/tmp/now`. The file
/// goes first, so it happens once.
#[cfg(feature = "lab")]
pub(crate) fn at(point: &str) {
    use std::sync::OnceLock;

    static WHERE: OnceLock<Option<String>> = OnceLock::new();
    let wanted = WHERE.get_or_init(|| std::env::var("XENO_COWFS_STOP_AT").ok());
    let file = wanted
        .as_ref()
        .and_then(|wanted| wanted.split_once(':'))
        .filter(|(wanted, _)| *wanted == point);
    if let Some((_, file)) = file
        && std::fs::remove_file(file).is_ok()
    {
        let me = rustix::process::getpid();
        let _never_fails = rustix::process::kill_process(me, rustix::process::Signal::STOP);
    }
}

#[cfg(not(feature = "lab"))]
pub(crate) fn at(_: &str) {}

/// Whether locks on layers are to be taken for granted and not asked for, as on a file system that has none.
#[cfg(feature = "lab")]
pub(crate) fn without_locks() -> bool {
    std::env::var_os("XENO_COWFS_NO_LOCKS").is_some()
}

#[cfg(not(feature = "lab"))]
pub(crate) fn without_locks() -> bool {
    false
}
