//! Where log lines go: standard error, for daemons and on request.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Installs the subscriber. `XENO_LOG` says what is shown, as `tracing-subscriber` reads it; else `default` does.
pub(crate) fn install(default: &str) {
    let filter = EnvFilter::try_from_env("XENO_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let terminal = std::io::stderr().is_terminal();
    // The journal stamps lines itself; it sets this variable (systemd.exec(5)).
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none());
    // A second subscriber can only come from a second call; the first one stays.
    let _ = if journal {
        lines.without_time().try_init()
    } else {
        lines.try_init()
    };
}
