use xeno_model::id::Timestamp;

use super::*;
use crate::testing::golden;

/// The golden text is rewritten on request by `UPDATE=1`.
#[test]
fn every_reason_reads_well() {
    let line = |reason: &Reason| format!("{}: {}\n", reason.code(), sentence(reason));
    let text: String = Reason::examples().iter().map(line).collect();
    golden("src/report/reasons.txt", include_str!("reasons.txt"), &text);
}

#[test]
fn moments_are_read_from_the_calendar() {
    for (ms, text) in [
        (0, "1970-01-01 00:00:00 UTC"),
        (951_782_400_000, "2000-02-29 00:00:00 UTC"),
        (4_107_542_399_999, "2100-02-28 23:59:59 UTC"),
        (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
    ] {
        assert_eq!(utc(Timestamp(ms)), text);
    }
}
