//! What exports are asked, as [OpenMetrics text](crate::openmetrics).

use super::api::{ExportStats, Stats};
use crate::openmetrics::{Kind, Text};

/// Upper bounds of the buckets of a histogram, in nanoseconds: 10 µs to 10 s.
const BOUNDS: [u64; 13] = [
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
];

type Gauge = (&'static str, &'static str, fn(&ExportStats) -> Option<u64>);

const GAUGES: &[Gauge] = &[
    (
        "cowfs_connections",
        "Open connections that have used the export.",
        |stats| u64::try_from(stats.connections).ok(),
    ),
    (
        "cowfs_writable_objects",
        "Objects that the writable layer has a record of.",
        |stats| stats.layer.as_ref().map(|layer| layer.objects),
    ),
    (
        "cowfs_writable_bytes",
        "What written content takes up in the writable layer.",
        |stats| stats.layer.as_ref().map(|layer| layer.bytes),
    ),
    (
        "cowfs_writable_quota_bytes",
        "Most bytes that it may take up.",
        |stats| stats.layer.as_ref().and_then(|layer| layer.quota_bytes),
    ),
    (
        "cowfs_writable_log_bytes",
        "Bytes of the writable layer's log.",
        |stats| stats.layer.as_ref().map(|layer| layer.log_bytes),
    ),
    (
        "cowfs_writable_failed",
        "Whether a failure of the disk has made the writable layer refuse changes.",
        |stats| stats.layer.as_ref().map(|layer| u64::from(layer.failed)),
    ),
];

/// The text.
pub(super) fn text(stats: &Stats) -> String {
    let mut out = Text::default();
    out.family("cowfs_calls", Kind::Counter, "Calls answered.");
    each(stats, |labels, _, counts| {
        out.sample("cowfs_calls_total", labels, counts.calls)
    });
    out.family(
        "cowfs_errors",
        Kind::Counter,
        "Calls answered with a status other than NFS3_OK, also those for a name that is not there.",
    );
    each(stats, |labels, _, counts| {
        out.sample("cowfs_errors_total", labels, counts.errors)
    });
    out.family(
        "cowfs_transferred_bytes",
        Kind::Counter,
        "Bytes carried by READ and WRITE.",
    );
    each(stats, |labels, procedure, counts| {
        if matches!(procedure, "READ" | "WRITE") {
            out.sample("cowfs_transferred_bytes_total", labels, counts.bytes);
        }
    });
    out.family(
        "cowfs_call_seconds",
        Kind::Histogram,
        "Time from the moment a call was taken until its answer was made.",
    );
    each(stats, |labels, _, counts| {
        let bucket = |bound: &str, count: u64, out: &mut Text| {
            let labels = [labels[0], labels[1], ("le", bound)];
            out.sample("cowfs_call_seconds_bucket", &labels, count);
        };
        for bound in BOUNDS {
            // A step belongs to the first bound that is not below all of it.
            let within = counts.steps.iter().filter(|(limit, _)| *limit <= bound);
            bucket(&seconds(bound), within.map(|(_, count)| count).sum(), &mut out);
        }
        bucket("+Inf", counts.calls, &mut out);
        out.sample("cowfs_call_seconds_count", labels, counts.calls);
        out.sample("cowfs_call_seconds_sum", labels, seconds(counts.nanos));
    });
    for (name, help, value) in GAUGES {
        out.family(name, Kind::Gauge, help);
        for (export, stats) in &stats.exports {
            if let Some(value) = value(stats) {
                out.sample(name, &[("export", export)], value);
            }
        }
    }
    out.end()
}

/// Nanoseconds as seconds, exactly.
fn seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    let short = text.trim_end_matches('0');
    // "1." is written "1.0", as the format's canonical numbers are.
    if short.ends_with('.') {
        format!("{short}0")
    } else {
        short.to_owned()
    }
}

fn each(stats: &Stats, mut visit: impl FnMut(&[(&str, &str); 2], &str, &crate::metrics::Counts)) {
    for (export, stats) in &stats.exports {
        for (procedure, counts) in &stats.procedures {
            visit(&[("export", export), ("procedure", procedure)], procedure, counts);
        }
    }
}
