//! `xeno-evaluation`: what deploying a sliver costs, behind `make eval-xen`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use xeno_tests::demo::report::say;
use xeno_tests::evaluation::measure::{Parts, measure};
use xeno_tests::evaluation::report::Report;
use xeno_tests::evaluation::{document, picture};
use xeno_tests::lab::{LabResult, write};

const USAGE: &str = "usage: xeno-evaluation measure --xeno FILE --package DEB --images DIR --roots DIR --report FILE\n       \
     xeno-evaluation write --report FILE --docs DIR";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|word| word == name)?;
        arguments.get(at + 1).map(PathBuf::from)
    };
    let outcome = match (arguments.first().map(String::as_str), value("--report")) {
        (Some("measure"), Some(report)) => {
            match (
                value("--xeno"),
                value("--package"),
                value("--images"),
                value("--roots"),
            ) {
                (Some(xeno), Some(package), Some(images), Some(roots)) => {
                    let parts = Parts {
                        xeno,
                        package,
                        images,
                        roots,
                    };
                    measure(&parts).and_then(|measured| measured.keep(&report))
                }
                _ => return usage(),
            }
        }
        (Some("write"), Some(report)) => match value("--docs") {
            Some(docs) => write_down(&report, &docs),
            None => return usage(),
        },
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

fn write_down(report: &Path, docs: &Path) -> LabResult<()> {
    let report = Report::read(report)?;
    write(&docs.join("evaluation.svg"), &picture::draw(&report))?;
    write(&docs.join("evaluation.md"), &document::write(&report))?;
    say(&document::summary(&report));
    Ok(())
}

fn usage() -> ExitCode {
    say(USAGE);
    ExitCode::from(2)
}
