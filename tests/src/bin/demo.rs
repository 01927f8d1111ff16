//! `xeno-demo`: the demonstration behind `make demo` and `make demo-stop`.

use std::path::PathBuf;
use std::process::ExitCode;

use xeno_tests::demo::{report::say, run, stop};

const USAGE: &str =
    "usage: xeno-demo run --xeno FILE --images DIR --dir DIR [--keep]\n       xeno-demo stop --dir DIR";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        arguments
            .iter()
            .position(|word| word == name)
            .and_then(|at| arguments.get(at + 1))
            .map(PathBuf::from)
    };
    let outcome = match (arguments.first().map(String::as_str), value("--dir")) {
        (Some("run"), Some(dir)) => match (value("--xeno"), value("--images")) {
            (Some(xeno), Some(images)) => {
                let keep = arguments.iter().any(|word| word == "--keep");
                run::run(&run::Options {
                    xeno,
                    images,
                    dir,
                    keep,
                })
            }
            _ => return usage(),
        },
        (Some("stop"), Some(dir)) => stop::end_all(&dir),
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\n\u{2717} {error}"));
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                say(&format!("  because: {cause}"));
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    say(USAGE);
    ExitCode::from(2)
}
