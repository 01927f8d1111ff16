//! `xeno man`: the help texts as manual pages (man-pages(7)).

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::whole_file;

/// Writes a manual page for every command: `xeno man /usr/local/share/man/man1`.
///
/// A page that is there already is replaced. `man xeno` and `man xeno-plan` then find them; without installing anything,
/// `man ./xeno-plan.1` shows one.
#[derive(Args)]
pub(crate) struct ManArgs {
    /// Directory for the pages; made when missing.
    directory: PathBuf,
}

/// What every page says of exit codes, unless the command's own help says it better.
const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "It did what was asked."),
    ("1", "It failed, or found something wrong."),
    (
        "2",
        "The command line cannot be read, or what an option above says.",
    ),
];

pub(crate) fn run<C: CommandFactory>(args: &ManArgs) -> Outcome {
    let failed =
        |error: std::io::Error| Failure::doing(format_args!("write {}", args.directory.display()), &error);
    fs::create_dir_all(&args.directory).map_err(failed)?;
    let pages = pages(C::command()).map_err(|error| Failure::doing("write a manual page", &error))?;
    for (name, page) in &pages {
        let path = args.directory.join(name);
        whole_file::replace(&path, page, None)
            .map_err(|error| Failure::doing(format_args!("write {}", path.display()), &error))?;
    }
    output::text(&format!(
        "wrote {} to {}\n",
        output::count(pages.len(), "page", "pages"),
        args.directory.display()
    ))?;
    Ok(Exit::Done)
}

/// Names and contents of all pages, the program's own first.
fn pages(program: Command) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    collect(&program, None, &mut pages)?;
    Ok(pages)
}

/// The depth of the recursion is that of the commands.
fn collect(
    command: &Command,
    above: Option<&Command>,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> std::io::Result<()> {
    let below: Vec<&Command> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .collect();
    pages.push((format!("{}.1", page_name(command)), page(command, above, &below)?));
    for below in below {
        collect(below, Some(command), pages)?;
    }
    Ok(())
}

/// `xeno-hook-install`
fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command, above: Option<&Command>, below: &[&Command]) -> std::io::Result<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION");
    let man = Man::new(command.clone())
        .source(format!("xeno {version}"))
        .manual("Xenoslice");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if !below.is_empty() {
        man.render_subcommands_section(&mut page)?;
    }
    if command.get_after_long_help().is_some() || command.get_after_help().is_some() {
        man.render_extra_section(&mut page)?;
    }
    let mut rest = Roff::new();
    if below.is_empty() {
        rest.control("SH", ["EXIT STATUS"]);
        for (code, meaning) in EXIT_STATUS {
            rest.control("TP", []);
            rest.text([bold(*code)]);
            rest.text([roman(*meaning)]);
        }
    }
    let related = above.into_iter().chain(below.iter().copied());
    let related: Vec<String> = related.map(|command| page_name(command).to_owned()).collect();
    if !related.is_empty() {
        rest.control("SH", ["SEE ALSO"]);
        let mut line = Vec::new();
        for (i, name) in related.iter().enumerate() {
            line.push(bold(name.as_str()));
            line.push(roman(if i + 1 < related.len() { "(1), " } else { "(1)" }));
        }
        rest.text(line);
    }
    rest.to_writer(&mut page)?;
    page.flush()?;
    Ok(page)
}
