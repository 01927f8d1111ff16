//! `make bench`: measures what this program promises, and writes it down.
//!
//! Each group of figures runs in a process of its own, so that memory is its own and none warms a cache for another.
//! `--tiny` does the same once on tiny fleets, to see that it works. Nothing here fails because something was slow.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what it measures is its output"
)]

mod fleet;
#[cfg(feature = "lab")]
mod hundred;
mod measure;
mod node;
mod plan;
mod push;
mod report;
mod terraform;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

use report::Figure;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How large everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    /// As the goals say.
    Full,
    /// As small as it goes: to see that it works.
    Tiny,
}

/// What a group is given.
#[derive(Clone, Debug)]
struct Setting {
    scale: Scale,
    /// How often what is measured is repeated.
    runs: usize,
    /// An empty directory.
    dir: PathBuf,
    /// The program, where it was built.
    xeno: Option<PathBuf>,
}

type Group = fn(&Setting) -> Result<Vec<Figure>, Failure>;

/// The groups, in the order of the report.
const GROUPS: &[(&str, Group)] = &[
    ("plan", plan::command),
    ("terraform", terraform::beside),
    ("push", push::one_file),
    ("node", node::push_to_action),
    #[cfg(feature = "lab")]
    ("hundred", hundred::slivers),
    ("stages", plan::stages),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    let scale = if has("--tiny") { Scale::Tiny } else { Scale::Full };
    let runs = match (value("--runs"), scale) {
        (Some(runs), _) => runs.parse().map_err(|error| format!("--runs {runs}: {error}"))?,
        (None, Scale::Full) => 7,
        (None, Scale::Tiny) => 1,
    };
    let xeno = value("--xeno").map_or_else(built, |path| Some(PathBuf::from(path)));
    let dir = tempfile::tempdir()?;
    if let Some(name) = value("--group") {
        let group = GROUPS
            .iter()
            .find(|(group, _)| *group == name)
            .map(|(_, run)| run);
        let setting = Setting {
            scale,
            runs,
            dir: dir.path().to_owned(),
            xeno,
        };
        let figures = group.ok_or_else(|| format!("no group {name}"))?(&setting)?;
        let mut out = std::io::stdout().lock();
        for figure in figures {
            writeln!(out, "{}", figure.json())?;
        }
        return Ok(());
    }
    let only = value("--only");
    let report = value("--report").map_or_else(|| dir.path().join("report.json"), PathBuf::from);
    let mut figures = Vec::new();
    for (name, _) in GROUPS
        .iter()
        .filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
    {
        if scale == Scale::Full {
            eprintln!("measuring: {name}");
        }
        figures.extend(in_its_own_process(name, scale, runs, xeno.as_deref())?);
    }
    write(&report, &figures)?;
    if scale == Scale::Full {
        print!("{}", report::table(&figures));
    }
    Ok(())
}

/// The program beside this one: where cargo puts both.
fn built() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let xeno = own.parent()?.join("xeno");
    xeno.is_file().then_some(xeno)
}

fn in_its_own_process(
    name: &str,
    scale: Scale,
    runs: usize,
    xeno: Option<&Path>,
) -> Result<Vec<Value>, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--group", name, "--runs", &runs.to_string()]);
    if scale == Scale::Tiny {
        command.arg("--tiny");
    }
    if let Some(xeno) = xeno {
        command.arg("--xeno").arg(xeno);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the group {name} ended with {}", output.status).into());
    }
    let lines = String::from_utf8(output.stdout)?;
    lines
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

fn write(path: &Path, figures: &[Value]) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, serde_json::to_string_pretty(figures)? + "\n")?;
    Ok(())
}
