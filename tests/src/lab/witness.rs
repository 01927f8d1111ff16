//! What a guest with the demonstration's scripts says of itself, and what it has written.

use std::time::Duration;

use super::{LabResult, http, wait_for};

const FETCH: Duration = Duration::from_secs(5);

/// What the guest at this port says of itself now, by the first word of the line.
///
/// # Errors
/// In words: it does not answer, or does not say.
pub fn says_now(port: u16, word: &str) -> Result<String, String> {
    let page = http::get(port, "/cgi-bin/guest", FETCH)?;
    let mut lines = page.body.lines();
    let found = lines.find_map(|line| line.strip_prefix(&format!("{word} ")).map(str::to_owned));
    found.ok_or("it does not say".into())
}

/// The same, as soon as it says it.
///
/// # Errors
/// Once the deadline has passed.
pub fn says(port: u16, word: &str, deadline: Duration) -> LabResult<String> {
    wait_for("the guest's word of itself", deadline, || says_now(port, word))
}

/// Has the guest write a line, and waits until it has synced it.
///
/// # Errors
/// Once the deadline has passed.
pub fn write(port: u16, line: &str, deadline: Duration) -> LabResult<()> {
    wait_for("a line that is synced", deadline, || {
        let page = http::get(port, &format!("/cgi-bin/ledger?{line}"), FETCH)?;
        if page.body.contains("committed") {
            Ok(())
        } else {
            Err(format!("{} {}", page.status, page.body))
        }
    })
}

/// The lines that the guest has written.
///
/// # Errors
/// Once the deadline has passed.
pub fn ledger(port: u16, deadline: Duration) -> LabResult<Vec<String>> {
    wait_for("the lines written", deadline, || {
        let page = http::get(port, "/cgi-bin/ledger", FETCH)?;
        if page.status == 200 {
            Ok(page.body.lines().map(str::to_owned).collect())
        } else {
            Err(format!("{}", page.status))
        }
    })
}
