//! The same move by hand, with xl alone: what of a move's gap is the hypervisor's own.

use xeno_tests::demo::report::say;
use xeno_tests::lab::{LabError, LabResult, ensure};
use xeno_tests::xen_lab::by_hand::{STRANGER, Stranger};

use super::Story;

/// Writes what passes to standard error with the time of day in milliseconds before each line.
const TIMED: &str = r#"perl -MTime::HiRes=time -ne 'BEGIN { $| = 1 } printf "%d %s", time * 1000, $_'"#;

/// Migrates a guest of nobody's live, and says how long xl takes from *the copy is whole* to *it runs*.
pub(super) fn by_hand(story: &mut Story<'_>) -> LabResult<()> {
    let [source, target] = [story.nodes[0].machine, story.nodes[1].machine];
    // In memory, and as large as the sliver's.
    Stranger::create(source)?;
    // A shell in place of ssh (xl(1), migrate -s); what the target's end of xl says is timed there.
    target.write(
        "/root/by-hand",
        &format!(
            "#!/bin/sh\n{{ xl migrate-receive 2>&1 >&4 4>&- | {TIMED} >/root/by-hand.log 4>&-; }} 4>&1\n"
        ),
    )?;
    target.run(
        "chmod 755 /root/by-hand && \
         { setsid socat TCP-LISTEN:7999,bind=10.99.0.2,reuseaddr EXEC:/root/by-hand </dev/null >/dev/null 2>&1 & }",
    )?;
    let said = source.run(&format!(
        "xl migrate -s '' {STRANGER} 'socat - TCP:10.99.0.2:7999,retry=50,interval=0.2' 2>&1"
    ))?;
    let log = target.run(&format!("cat /root/by-hand.log; xl destroy {STRANGER}"))?;
    let at = |words: &str| -> LabResult<u64> {
        let line = log.lines().find(|line| line.contains(words));
        let time = line.and_then(|line| line.split(' ').next()?.parse().ok());
        time.ok_or_else(|| LabError::Check(format!("xl did not say {words:?}: {log}\n{said}")))
    };
    let (whole, runs) = (at("Transfer complete")?, at("Domain started")?);
    ensure(runs >= whole, || log.clone())?;
    say(&format!(
        "by hand xl has a guest run {} ms after its memory was whole:\n{log}",
        runs - whole
    ));
    Ok(())
}
