//! What a daemon tells the manager that started it (sd_notify(3)): that it answers, that it still does, that it ends.
//!
//! Whether it answers is asked at its own front door, by the way everybody asks; so what the watchdog watches is the loop
//! that answers, and not a timer beside it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::failure::{Failure, Outcome};

/// Pause before a daemon that does not answer yet is asked again.
const STARTING_PAUSE: Duration = Duration::from_millis(100);

/// The manager.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: UnixDatagram,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The manager that the environment names; `None` where nobody waits for word. To be called before a sandbox is entered.
    pub(crate) fn from_environment() -> Outcome<Option<Self>> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let socket = connect(&name).map_err(|error| {
            Failure::doing(
                format_args!("reach the service manager on {}", name.display()),
                &error,
            )
        })?;
        let variable = |name| std::env::var(name).ok();
        let watchdog = watchdog(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            std::process::id(),
        );
        Ok(Some(Self { socket, watchdog }))
    }

    /// Says that the daemon is ready once it `answers`, and goes on to say that it lives for as long as it does. Does not
    /// return: what becomes of a daemon that falls silent is the manager's business.
    pub(crate) async fn keep_informed(&self, answers: impl AsyncFn() -> bool) {
        while !answers().await {
            tokio::time::sleep(STARTING_PAUSE).await;
        }
        self.say("READY=1");
        let Some(watchdog) = self.watchdog else {
            return std::future::pending().await;
        };
        // Twice in its time, as sd_watchdog_enabled(3) advises.
        let pause = watchdog / 2;
        loop {
            if tokio::time::timeout(pause, answers()).await == Ok(true) {
                self.say("WATCHDOG=1");
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Says that the daemon ends in order.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    fn say(&self, word: &str) {
        if let Err(error) = self.socket.send(word.as_bytes()) {
            tracing::warn!(%error, word, "the service manager does not listen");
        }
    }
}

/// Runs a daemon and keeps its manager informed, where it has one.
pub(crate) async fn attended<T>(
    manager: Option<&ServiceManager>,
    answers: impl AsyncFn() -> bool,
    daemon: impl Future<Output = T>,
) -> T {
    let Some(manager) = manager else {
        return daemon.await;
    };
    tokio::select! {
        ended = daemon => ended,
        () = manager.keep_informed(answers) => unreachable!("it is kept informed for ever"),
    }
}

/// Connects to a socket by its path, or by its abstract name behind an `@` (sd_notify(3), "$NOTIFY_SOCKET").
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    use std::os::linux::net::SocketAddrExt as _;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read must not hold up the daemon.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How long a daemon may be silent, if anybody minds: `WATCHDOG_USEC`, where `WATCHDOG_PID` is this process or not said.
fn watchdog(micros: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_watchdog_is_that_of_this_process() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(watchdog(Some("60000000"), Some("7"), 7), minute);
        assert_eq!(watchdog(Some("60000000"), None, 7), minute);
        for (micros, pid) in [
            (Some("60000000"), Some("8")),
            (Some("60000000"), Some("x")),
            (Some("0"), None),
            (Some("soon"), None),
            (None, None),
        ] {
            assert_eq!(watchdog(micros, pid, 7), None, "{micros:?} {pid:?}");
        }
    }

    fn heard(listener: &UnixDatagram) -> String {
        let mut word = [0; 64];
        let len = listener.recv(&mut word).unwrap();
        String::from_utf8_lossy(&word[..len]).into_owned()
    }

    #[tokio::test]
    async fn a_daemon_is_ready_when_it_answers_and_alive_as_long_as_it_does() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let manager = ServiceManager {
            socket: connect(path.as_os_str()).unwrap(),
            watchdog: Some(Duration::from_millis(2)),
        };
        // Silent at first, then answering four times, then silent for ever.
        let asked = Cell::new(0);
        let (silent, fell_silent) = tokio::sync::oneshot::channel();
        let silent = Cell::new(Some(silent));
        let answers = || {
            asked.set(asked.get() + 1);
            let now = asked.get();
            if now == 10
                && let Some(silent) = silent.take()
            {
                let _ = silent.send(());
            }
            async move { (3..=6).contains(&now) }
        };
        let ended = attended(Some(&manager), answers, fell_silent).await;
        ended.unwrap();
        manager.stopping();
        let words: Vec<String> = (0..5).map(|_| heard(&listener)).collect();
        assert_eq!(
            words,
            ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]
        );
    }

    #[tokio::test]
    async fn without_a_manager_nothing_is_asked() {
        let never = async || -> bool { panic!("nobody wants to know") };
        assert_eq!(attended(None, never, async { 5 }).await, 5);
    }
}
