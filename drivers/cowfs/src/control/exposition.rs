//! Figures as OpenMetrics text (OpenMetrics 1.0.0, openmetrics.io), for Prometheus and its like.

use std::fmt::Write as _;

use super::api::{ExportStats, Stats};

/// What the text is, for `content-type`.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
    let mut out = String::new();
    family(&mut out, "cowfs_calls", "counter", "Calls answered.");
    each(stats, |export, procedure, counts| {
        line(&mut out, "cowfs_calls_total", export, procedure, counts.calls);
    });
    family(
        &mut out,
        "cowfs_errors",
        "counter",
        "Calls answered with a status other than NFS3_OK, also those for a name that is not there.",
    );
    each(stats, |export, procedure, counts| {
        line(&mut out, "cowfs_errors_total", export, procedure, counts.errors);
    });
    family(
        &mut out,
        "cowfs_transferred_bytes",
        "counter",
        "Bytes carried by READ and WRITE.",
    );
    each(stats, |export, procedure, counts| {
        if matches!(procedure, "READ" | "WRITE") {
            line(
                &mut out,
                "cowfs_transferred_bytes_total",
                export,
                procedure,
                counts.bytes,
            );
        }
    });
    family(
        &mut out,
        "cowfs_call_seconds",
        "histogram",
        "Time from the moment a call was taken until its answer was made.",
    );
    each(stats, |export, procedure, counts| {
        for bound in BOUNDS {
            // A step belongs to the first bound that is not below all of it.
            let within = counts.steps.iter().filter(|(limit, _)| *limit <= bound);
            let count: u64 = within.map(|(_, count)| count).sum();
            let seconds = seconds(bound);
            write(
                &mut out,
                format_args!(
                    "cowfs_call_seconds_bucket{{export=\"{export}\",procedure=\"{procedure}\",le=\"{seconds}\"}} {count}\n"
                ),
            );
        }
        write(
            &mut out,
            format_args!(
                "cowfs_call_seconds_bucket{{export=\"{export}\",procedure=\"{procedure}\",le=\"+Inf\"}} {}\n",
                counts.calls
            ),
        );
        line(
            &mut out,
            "cowfs_call_seconds_count",
            export,
            procedure,
            counts.calls,
        );
        let total = seconds(counts.nanos);
        write(
            &mut out,
            format_args!("cowfs_call_seconds_sum{{export=\"{export}\",procedure=\"{procedure}\"}} {total}\n"),
        );
    });
    for (name, help, value) in GAUGES {
        family(&mut out, name, "gauge", help);
        for (export, stats) in &stats.exports {
            if let Some(value) = value(stats) {
                write(&mut out, format_args!("{name}{{export=\"{export}\"}} {value}\n"));
            }
        }
    }
    out.push_str("# EOF\n");
    out
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

fn each(stats: &Stats, mut visit: impl FnMut(&str, &str, &crate::metrics::Counts)) {
    for (export, stats) in &stats.exports {
        for (procedure, counts) in &stats.procedures {
            visit(export, procedure, counts);
        }
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let unit = match name {
        name if name.ends_with("_bytes") => format!("# UNIT {name} bytes\n"),
        name if name.ends_with("_seconds") => format!("# UNIT {name} seconds\n"),
        _ => String::new(),
    };
    write(
        out,
        format_args!("# TYPE {name} {kind}\n{unit}# HELP {name} {help}\n"),
    );
}

fn line(out: &mut String, name: &str, export: &str, procedure: &str, value: u64) {
    // Names of exports are made of characters that need no escaping.
    write(
        out,
        format_args!("{name}{{export=\"{export}\",procedure=\"{procedure}\"}} {value}\n"),
    );
}

fn write(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}
