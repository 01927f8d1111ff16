//! Clocks and memory: best and median of several runs, and what a child process took.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::Failure;

/// What several runs of the same took, in milliseconds.
///
/// Whatever else the machine does only ever adds time, so the least is nearest to the cost of the work itself; the median
/// says how far the machine was from quiet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Times {
    /// Adds one run: from its beginning to its end, and the CPU time of all threads in between.
    pub(crate) fn add(&mut self, wall: Duration, cpu: Duration) {
        self.wall.push(wall.as_secs_f64() * 1000.0);
        self.cpu.push(cpu.as_secs_f64() * 1000.0);
    }

    /// Adds the runs of another.
    pub(crate) fn merge(&mut self, other: Self) {
        self.wall.extend(other.wall);
        self.cpu.extend(other.cpu);
    }

    /// The shortest.
    pub(crate) fn best(&self) -> f64 {
        self.wall.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The least CPU time: what is left of a run on a machine that does much else.
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The middle one.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.wall.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::INFINITY)
    }
}

/// Runs `work` so many times and keeps its last result.
pub(crate) fn times<T>(
    runs: usize,
    mut work: impl FnMut() -> Result<T, Failure>,
) -> Result<(Times, T), Failure> {
    let mut times = Times::default();
    loop {
        let result = once(&mut times, &mut work)?;
        if times.wall.len() >= runs {
            return Ok((times, result));
        }
    }
}

/// Runs `work` once more and adds what it took.
pub(crate) fn once<T>(times: &mut Times, work: impl FnOnce() -> T) -> T {
    let (begun, before) = (Instant::now(), own_cpu());
    let result = work();
    times.add(begun.elapsed(), own_cpu().saturating_sub(before));
    result
}

/// CPU time of this process so far (clock_gettime(2), CLOCK_PROCESS_CPUTIME_ID).
fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// What a program took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// From start to end.
    pub(crate) wall: Duration,
    /// CPU time of all its threads, user and system, to 10 ms (proc_pid_stat(5)).
    pub(crate) cpu: Duration,
    /// Most memory that it had at a time, in bytes.
    pub(crate) peak: u64,
}

/// How often a running program's memory is looked at: its high-water mark is only missed for the last such moment.
const LOOK: Duration = Duration::from_millis(1);

/// Runs a program to its end, its output thrown away.
pub(crate) fn spend(command: &mut Command) -> Result<Spent, Failure> {
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let pid = child.id();
    let mut peak = 0;
    loop {
        peak = memory(pid, "VmHWM:").unwrap_or(0).max(peak);
        // Left as a zombie for a moment, so that its CPU time can still be read.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(Pid::from_child(&child)), options)?.is_some() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let wall = begun.elapsed();
    let cpu = cpu(pid).unwrap_or_default();
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    Ok(Spent { wall, cpu, peak })
}

/// A line of proc_pid_status(5) that counts memory, in bytes.
pub(crate) fn memory(pid: u32, line: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let found = status.lines().find_map(|text| text.strip_prefix(line))?;
    let kib: u64 = found.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// CPU time of a process, user and system.
pub(crate) fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields count from the last parenthesis; 14 and 15 are in ticks of 10 ms on every architecture Linux runs on here.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}
