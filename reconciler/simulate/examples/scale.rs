//! How long one rollout over a large fleet takes to simulate, and how much memory: `make simulate-scale`.

#![expect(clippy::print_stdout, reason = "measurements are for people")]
#![expect(clippy::disallowed_methods, reason = "it measures, and looks at itself")]

use std::time::Instant;

use xeno_simulate::{Push, Story};

/// Peak resident memory in MiB (`VmHWM`, proc_pid_status(5)).
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok());
    let nodes: u32 = arguments.next().unwrap_or(1_000);
    let away: u32 = arguments.next().unwrap_or(33);
    let seed: u64 = arguments.next().map_or(1, u64::from);
    let begin = Instant::now();
    let story = Story::generated(nodes, Push::TemplateForAll, seed).with_away(away);
    let made = begin.elapsed();
    match story.tell() {
        Ok(outcome) => {
            let done = outcome
                .slices
                .iter()
                .filter(|slice| slice.waits.is_none())
                .count();
            println!(
                "{nodes} nodes, {} slivers, {away}% away: {} events, {done} of {} rollouts through, {} min of the fleet's time; \
                 made in {:.1} s, told in {:.1} s, {} MiB",
                outcome.slivers,
                outcome.events,
                outcome.slices.len(),
                outcome.ended_ms / 60_000,
                made.as_secs_f64(),
                (begin.elapsed() - made).as_secs_f64(),
                peak_mib()
            );
            if let Some(path) = std::env::var_os("XENO_SVG") {
                std::fs::write(path, xeno_simulate::picture::svg(&outcome))
                    .expect("the picture can be written");
                print!("{}", xeno_simulate::report::text(&outcome));
            }
        }
        Err(broken) => println!("{broken}"),
    }
}
