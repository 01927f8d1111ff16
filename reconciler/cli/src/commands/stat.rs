//! `xeno cowfs stat`: what a file server does, live.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use cowfs::control::api::{ExportStats, Stats};
use cowfs::control::client::Client;
use cowfs::export::State;
use cowfs::metrics::Counts;
use serde_json::{Value, json};

use super::overlay::Server;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link;
use crate::output::{self, BAD, BOLD, FAINT, FAIR, TextFormat, bytes, count, paint};

/// Clears the screen and goes to its upper left corner (console_codes(4)).
const HOME: &str = "\x1b[H\x1b[2J";

/// Which exports, and in which form.
#[derive(Args)]
pub(crate) struct Stat {
    /// Only these exports.
    exports: Vec<String>,
    #[command(flatten)]
    server: Server,
    /// Shows what comes in every so many seconds, until Ctrl-C.
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,
    /// With --watch: ends after so many intervals.
    #[arg(short = 'n', long, value_name = "N", requires = "watch")]
    count: Option<u64>,
    /// Form of the result; with --watch, one JSON document a line.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("0.1 to 3600 seconds".to_owned())
    }
}

pub(crate) fn run(args: &Stat) -> Outcome {
    let client = Client::new(args.server.socket());
    link::wait(async {
        let ask = || async { only(client.stats().await?, &args.exports) };
        let first = ask().await?;
        let Some(every) = args.watch else {
            match args.output {
                TextFormat::Json => output::json(&value(&first))?,
                TextFormat::Text => output::styled(&text(&first, None))?,
            }
            return Ok(Exit::Done);
        };
        let screen = std::io::stdout().is_terminal() && args.output == TextFormat::Text;
        let mut stop = std::pin::pin!(link::terminated()?);
        let mut before = first;
        let mut shown = 0;
        while args.count.is_none_or(|most| shown < most) {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = &mut stop => return Ok(Exit::Done),
            }
            let now = ask().await?;
            let (interval, since) = between(&before, &now);
            match args.output {
                TextFormat::Json => output::text(&format!("{}\n", value(&interval)))?,
                TextFormat::Text => {
                    let home = if screen { HOME } else { "" };
                    output::text(home)?;
                    output::styled(&text(&interval, Some(since)))?;
                }
            }
            before = now;
            shown += 1;
        }
        Ok(Exit::Done)
    })
}

/// The exports that were asked for; one that is not there is a mistake.
fn only(mut stats: Stats, wanted: &[String]) -> Outcome<Stats> {
    let names: Vec<&str> = wanted.iter().map(|name| name.trim_start_matches('/')).collect();
    if let Some(missing) = names.iter().find(|name| !stats.exports.contains_key(**name)) {
        let there: Vec<String> = stats.exports.into_keys().collect();
        let hint = (!there.is_empty()).then(|| format!("there are: {}", there.join(", ")));
        return Err(Failure::said(format!("there is no export `{missing}`")).hint(hint));
    }
    if !names.is_empty() {
        stats.exports.retain(|name, _| names.contains(&name.as_str()));
    }
    Ok(stats)
}

/// What came between two looks, and how far apart they were.
fn between(before: &Stats, now: &Stats) -> (Stats, Duration) {
    let none = ExportStats::default();
    let exports = now.exports.iter().map(|(name, stats)| {
        let earlier = before.exports.get(name).unwrap_or(&none);
        let fresh = Counts::default();
        let procedures = stats.procedures.iter().map(|(procedure, counts)| {
            let earlier = earlier.procedures.get(procedure).unwrap_or(&fresh);
            (procedure.clone(), counts.since(earlier))
        });
        let procedures = procedures.filter(|(_, counts)| counts.calls > 0).collect();
        let stats = ExportStats {
            procedures,
            ..stats.clone()
        };
        (name.clone(), stats)
    });
    let since = now.uptime_nanos.saturating_sub(before.uptime_nanos);
    let stats = Stats {
        format_version: now.format_version,
        // A server that was started again has an uptime of its own.
        uptime_nanos: if since == 0 { now.uptime_nanos } else { since },
        exports: exports.collect(),
    };
    let since = Duration::from_nanos(stats.uptime_nanos);
    (stats, since)
}

fn value(stats: &Stats) -> Value {
    let exports: BTreeMap<&String, Value> = stats
        .exports
        .iter()
        .map(|(name, export)| {
            let procedures: BTreeMap<&String, Value> = export
                .procedures
                .iter()
                .map(|(procedure, counts)| (procedure, procedure_value(counts)))
                .collect();
            let value = json!({
                "state": export.state,
                "parked": export.parked,
                "lapsed": export.lapsed,
                "connections": export.connections,
                "procedures": procedures,
                "layer": export.layer,
            });
            (name, value)
        })
        .collect();
    json!({ "formatVersion": 1, "nanos": stats.uptime_nanos, "exports": exports })
}

fn procedure_value(counts: &Counts) -> Value {
    json!({
        "calls": counts.calls,
        "failed": counts.errors,
        "bytes": counts.bytes,
        "p50Nanos": counts.percentile(500),
        "p90Nanos": counts.percentile(900),
        "p99Nanos": counts.percentile(990),
        "maxNanos": counts.percentile(1000),
        "meanNanos": counts.nanos.checked_div(counts.calls),
    })
}

/// All exports; with an interval, what came in each second of it.
fn text(stats: &Stats, interval: Option<Duration>) -> String {
    if stats.exports.is_empty() {
        return "nothing is exported\n".to_owned();
    }
    let mut out = String::new();
    for (n, (name, export)) in stats.exports.iter().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        out.push_str(&heading(name, export));
        out.push_str(&table(export, interval));
    }
    out
}

fn heading(name: &str, export: &ExportStats) -> String {
    let mut parts = Vec::new();
    match export.state {
        State::Active => {}
        State::Standby if export.parked => parts.push(paint(FAIR, "parked")),
        State::Standby if export.lapsed => parts.push(paint(FAIR, "without a lease")),
        State::Standby => parts.push(paint(FAIR, "standby")),
        State::Sealed => parts.push(paint(FAIR, "sealed")),
    }
    parts.push(count(export.connections, "connection", "connections"));
    if let Some(layer) = &export.layer {
        let room = layer.quota_bytes.map(|quota| format!(" of {}", bytes(quota)));
        parts.push(format!(
            "{}{} written",
            bytes(layer.bytes),
            room.unwrap_or_default()
        ));
        let objects = usize::try_from(layer.objects).unwrap_or(usize::MAX);
        parts.push(format!("{} changed", count(objects, "object", "objects")));
        parts.push(format!("log {}", bytes(layer.log_bytes)));
        if layer.failed {
            parts.push(paint(BAD, "takes no changes since its disk failed"));
        }
    }
    format!("{}  {}\n", paint(BOLD, &format!("/{name}")), parts.join(", "))
}

fn table(export: &ExportStats, interval: Option<Duration>) -> String {
    if export.procedures.is_empty() {
        return paint(FAINT, "  no calls\n");
    }
    let rate_head = if interval.is_some() { "CALLS/S" } else { "CALLS" };
    let head = [
        "  PROCEDURE",
        rate_head,
        "FAILED",
        "P50",
        "P90",
        "P99",
        "MAX",
        "DATA",
    ]
    .map(str::to_owned);
    let mut procedures: Vec<(&String, &Counts)> = export.procedures.iter().collect();
    // What is asked most first, as top(1) does.
    procedures.sort_by(|a, b| b.1.calls.cmp(&a.1.calls).then_with(|| a.0.cmp(b.0)));
    let mut rows = vec![head];
    for (name, counts) in procedures {
        let time = |per_mille| counts.percentile(per_mille).map_or(String::new(), duration);
        let data = match (counts.bytes, interval) {
            (0, _) => String::new(),
            (total, None) => bytes(total),
            (total, Some(interval)) => format!("{}/s", bytes(per_second(total, interval))),
        };
        rows.push([
            format!("  {name}"),
            match interval {
                None => grouped(counts.calls),
                Some(interval) => grouped(per_second(counts.calls, interval)),
            },
            if counts.errors == 0 {
                String::new()
            } else {
                grouped(counts.errors)
            },
            time(500),
            time(900),
            time(990),
            time(1000),
            data,
        ]);
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut out = String::new();
    for (n, row) in rows.iter().enumerate() {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            // A column that says nothing is not shown.
            if *width > 0 {
                line.push_str(&format!("  {cell:>width$}"));
            }
        }
        let line = line.trim_end();
        out.push_str(&if n == 0 {
            paint(FAINT, line)
        } else {
            line.to_owned()
        });
        out.push('\n');
    }
    out
}

fn per_second(total: u64, interval: Duration) -> u64 {
    let ms = interval.as_millis().max(1);
    u64::try_from(u128::from(total) * 1000 / ms).unwrap_or(u64::MAX)
}

/// 12,345,678.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A short time for people, to two digits: the histogram knows no more.
fn duration(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => (nanos * 10, "ns"),
        1_000..1_000_000 => (nanos / 100, "µs"),
        1_000_000..1_000_000_000 => (nanos / 100_000, "ms"),
        _ => (nanos / 100_000_000, "s"),
    };
    if value >= 100 {
        format!("{} {unit}", value / 10)
    } else {
        format!("{}.{} {unit}", value / 10, value % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(calls: u64) -> Stats {
        let counts = |calls, step, bytes| Counts {
            calls,
            errors: calls / 100,
            bytes,
            nanos: calls * step,
            steps: vec![(step, calls - 1), (step * 50, 1)],
        };
        let procedures = [
            ("GETATTR", counts(calls * 1000, 900, 0)),
            ("READ", counts(calls, 45_000, calls << 20)),
        ];
        let export = ExportStats {
            connections: 1,
            procedures: procedures.map(|(name, counts)| (name.to_owned(), counts)).into(),
            layer: Some(cowfs::control::api::LayerStats {
                objects: 842,
                bytes: 12 << 20,
                quota_bytes: Some(1 << 30),
                log_bytes: 100_000,
                failed: false,
            }),
            ..ExportStats::default()
        };
        Stats {
            format_version: 1,
            uptime_nanos: calls * 10_000_000,
            exports: [("web/0".to_owned(), export)].into(),
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn totals_line_up() {
        assert_eq!(
            plain(&text(&stats(400), None)),
            "\
/web/0  1 connection, 12.0 MiB of 1.0 GiB written, 842 objects changed, log 97.6 KiB
  PROCEDURE    CALLS  FAILED     P50     P90     P99     MAX     DATA
  GETATTR    400,000   4,000  900 ns  900 ns  900 ns   45 µs
  READ           400       4   45 µs   45 µs   45 µs  2.2 ms  400 MiB
"
        );
    }

    #[test]
    fn an_interval_counts_what_came_in_it() {
        let (interval, since) = between(&stats(400), &stats(600));
        assert_eq!(since, Duration::from_secs(2));
        let shown = plain(&text(&interval, Some(since)));
        assert!(shown.contains("GETATTR    100,000"), "{shown}");
        assert!(shown.contains("100 MiB/s"), "{shown}");
        let (idle, since) = between(&stats(400), &stats(400));
        assert!(plain(&text(&idle, Some(since))).ends_with("  no calls\n"));
    }

    #[test]
    fn times_have_two_digits_and_a_unit() {
        for (nanos, shown) in [
            (159, "159 ns"),
            (1_500, "1.5 µs"),
            (45_500, "45 µs"),
            (9_990_000, "9.9 ms"),
            (2_000_000_000, "2.0 s"),
        ] {
            assert_eq!(duration(nanos), shown);
        }
    }
}
