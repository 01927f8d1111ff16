//! A test of what programs expect of a root file system, as named cases.
//!
//! Each case has a directory of its own with the same objects (`ground`), and is run on objects that were made there a
//! moment ago, on objects of each kind of layer, and on objects of a layer that were copied up before. The same program
//! runs on a local file system, which is the oracle: a case that fails there is a mistake of the case.
//!
//! ```text
//! posix-suite list
//! posix-suite prepare DIRECTORY      makes the objects of every case there, to be used as a layer
//! posix-suite run [--copied] [--only TEXT] ORIGIN DIRECTORY
//! ```
//!
//! `run` makes the objects when they are missing. It prints a line for each case that fails and one at the end, and exits
//! with 0 when every case holds, 1 when one does not, 2 when it could not run.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program, and this is its report"
)]

mod act;
mod cases;
mod check;
mod ground;
mod short;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cases::Case;
use ground::Ground;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            for case in cases::all() {
                println!("{}", case.full_name());
            }
            ExitCode::SUCCESS
        }
        ["prepare", directory] => match prepare(Path::new(directory)) {
            Ok(count) => {
                println!("{count} grounds in {directory}");
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("posix-suite: {why}");
                ExitCode::from(2)
            }
        },
        ["run", rest @ ..] => match Options::read(rest) {
            Some(options) => run(&options),
            None => usage(),
        },
        // What a case asks of another process: whether it gets a lock.
        ["lock", path] => {
            let open = std::fs::OpenOptions::new().write(true).open(path);
            let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
            match open.map(|open| rustix::fs::fcntl_lock(open, lock)) {
                Ok(Ok(())) => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            }
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: posix-suite list | prepare DIRECTORY | run [--copied] [--only TEXT] ORIGIN DIRECTORY");
    ExitCode::from(2)
}

struct Options {
    /// Changes every object before its case, so that nothing of it is in a lower layer any more.
    copied: bool,
    only: Option<String>,
    /// What the objects come from, as the report calls it.
    origin: String,
    directory: PathBuf,
}

impl Options {
    fn read(words: &[&str]) -> Option<Self> {
        let (mut copied, mut only, mut plain) = (false, None, Vec::new());
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--copied" => copied = true,
                "--only" => only = Some((*words.next()?).to_owned()),
                word => plain.push(word.to_owned()),
            }
        }
        let [origin, directory] = <[String; 2]>::try_from(plain).ok()?;
        Some(Self {
            copied,
            only,
            origin,
            directory: PathBuf::from(directory),
        })
    }
}

fn prepare(directory: &Path) -> std::io::Result<usize> {
    let all = cases::all();
    for case in &all {
        Ground::at(directory.join(case.full_name())).lay()?;
    }
    Ok(all.len())
}

fn run(options: &Options) -> ExitCode {
    // Modes in the cases are what they ask for, whoever runs them.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let start = Instant::now();
    let (mut held, mut failed) = (0u32, 0u32);
    for case in cases::all() {
        let name = format!("{} {}", options.origin, case.full_name());
        if options
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            continue;
        }
        match one(options, &case) {
            Ok(()) => held += 1,
            Err(why) => {
                failed += 1;
                println!("posix FAIL {name}: {why}");
            }
        }
    }
    println!(
        "posix {}: {held} held, {failed} failed, {:.1} s",
        options.origin,
        start.elapsed().as_secs_f64()
    );
    if failed == 0 && held > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

fn one(options: &Options, case: &Case) -> Result<(), String> {
    let ground = Ground::at(options.directory.join(case.full_name()));
    if !ground.exists() {
        ground
            .lay()
            .map_err(|error| format!("making its objects: {error}"))?;
    }
    if options.copied {
        ground
            .touch_all()
            .map_err(|error| format!("changing its objects beforehand: {error}"))?;
    }
    (case.body)(&ground)
}
