//! `xeno hook …`: a push is answered with its plan, or refused with its mistakes.

use std::fs;
use std::io::{BufRead, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use xeno_agent::source::Reader;
use xeno_model::id::Revision;
use xeno_reconciler::render::{self, Colour};

use super::plan::base_commit;
use crate::commits::{Commit, History, plans, show};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output;

/// First words of every hook that this program wrote.
const MARK: &str = "# Written by `xeno hook install`";

/// Most bytes of what git says on standard input: one line for each reference of the push.
const STDIN_BYTES_MAX: u64 = 16 << 20;

/// Nodes whose plans are shown in full; of the others, only what would change.
const NODES_IN_FULL_MAX: usize = 20;

/// Answers pushes with their plan.
#[derive(Subcommand)]
pub(crate) enum Hook {
    /// Installs the hook in a repository that people push to.
    Install(Install),
    /// What the hook runs.
    #[command(hide = true)]
    Run(Run),
}

#[derive(Args)]
pub(crate) struct Install {
    /// The repository, bare or not.
    repository: PathBuf,
    /// Directory of the fleet inside the repository.
    #[arg(
        long = "path",
        value_name = "SUB",
        default_value = "",
        hide_default_value = true
    )]
    subpath: String,
    /// The branch that nodes follow [default: the repository's own].
    #[arg(long)]
    branch: Option<String>,
}

#[derive(Args)]
pub(crate) struct Run {
    /// The branch that nodes follow.
    #[arg(long)]
    branch: String,
    /// Directory of the fleet inside the repository.
    #[arg(long = "path", default_value = "")]
    subpath: String,
}

pub(crate) fn run(command: &Hook) -> Outcome {
    match command {
        Hook::Install(args) => install(args),
        Hook::Run(args) => pre_receive(args),
    }
}

fn install(args: &Install) -> Outcome {
    let reader = Reader::open(&args.repository)?;
    let repository = git2::Repository::open(reader.path())
        .map_err(|error| Failure::doing("open the repository", &error))?;
    let branch = match &args.branch {
        Some(branch) => branch.clone(),
        None => own_branch(&repository)?,
    };
    let directory = hooks_directory(&repository);
    let hook = directory.join("pre-receive");
    let program = std::env::current_exe().map_err(|error| Failure::doing("find this program", &error))?;
    let script = script(&program, &branch, &args.subpath)?;
    match fs::read(&hook) {
        Ok(there) if !String::from_utf8_lossy(&there).contains(MARK) => {
            return Err(
                Failure::said(format!("{} is there already, and is not ours", hook.display())).hint(format!(
                    "call this from it, with the same standard input:\n{}",
                    command(&program, &branch, &args.subpath)?
                )),
            );
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::doing(format_args!("read {}", hook.display()), &error)),
    }
    let failed = |error: std::io::Error| Failure::doing(format_args!("write {}", hook.display()), &error);
    fs::create_dir_all(&directory).map_err(failed)?;
    // Under another name first: a push that comes in between finds the old hook or the new one.
    let fresh = directory.join(format!("pre-receive.{}", std::process::id()));
    fs::write(&fresh, script).map_err(failed)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    fs::rename(&fresh, &hook).map_err(failed)?;
    output::text(&format!(
        "pushes to `{branch}` are answered by {}\n",
        hook.display()
    ))?;
    Ok(Exit::Done)
}

/// The branch that `HEAD` names, born or not.
fn own_branch(repository: &git2::Repository) -> Outcome<String> {
    let head = repository
        .find_reference("HEAD")
        .map_err(|error| Failure::doing("read HEAD", &error))?;
    let target = head.symbolic_target().ok().flatten();
    let branch = target.and_then(|target| target.strip_prefix("refs/heads/").map(str::to_owned));
    branch.ok_or_else(|| {
        Failure::said("the repository's HEAD names no branch").hint("say which with --branch".to_owned())
    })
}

/// Where git looks for hooks (githooks(5), `core.hooksPath`).
fn hooks_directory(repository: &git2::Repository) -> PathBuf {
    let configured = repository
        .config()
        .ok()
        .and_then(|config| config.get_path("core.hooksPath").ok());
    let around = repository.workdir().unwrap_or_else(|| repository.path());
    configured.map_or_else(|| repository.path().join("hooks"), |path| around.join(path))
}

fn script(program: &Path, branch: &str, subpath: &str) -> Outcome<String> {
    Ok(format!(
        "#!/bin/sh\n{MARK}; running that again rewrites it.\n# Answers a push to `{branch}` with its plan, or refuses it.\nexec {}\n",
        command(program, branch, subpath)?
    ))
}

fn command(program: &Path, branch: &str, subpath: &str) -> Outcome<String> {
    let program = program
        .to_str()
        .ok_or_else(|| Failure::said("the path of this program is not UTF-8"))?;
    Ok(format!(
        "{} hook run --branch={} --path={}",
        quoted(program),
        quoted(branch),
        quoted(subpath)
    ))
}

/// One word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Reads `OLD NEW REF` lines (githooks(5), pre-receive). Anything but success refuses the whole push.
fn pre_receive(args: &Run) -> Outcome {
    let tracked = format!("refs/heads/{}", args.branch);
    let mut ours = None;
    for line in std::io::stdin().lock().take(STDIN_BYTES_MAX).lines() {
        let line = line.map_err(|error| Failure::doing("read what git says", &error))?;
        let mut words = line.splitn(3, ' ');
        let (Some(old), Some(new), Some(name)) = (words.next(), words.next(), words.next()) else {
            return Err(Failure::said(format!(
                "git says {line:?}, which is not `OLD NEW REF`"
            )));
        };
        if name == tracked {
            ours = Some((old.to_owned(), new.to_owned()));
        }
    }
    // Other branches are nobody's business here.
    let Some((old, new)) = ours else {
        return Ok(Exit::Done);
    };
    let Some(new) = commit(&new)? else {
        return Err(
            Failure::said(format!("nodes follow `{}`, so it cannot be deleted", args.branch))
                .hint("to end a service, remove its slice; to stop it, set `state: stopped`".to_owned()),
        );
    };
    let old = commit(&old)?;
    let reader = Reader::open_from_env()?;
    if let Some(old) = &old
        && !reader.is_descendant(&new, old)?
        && !rewrites_allowed(&reader)
    {
        return Err(Failure::said(format!(
            "{} does not descend from {}, and nodes would not follow it",
            new.short(),
            old.short()
        ))
        .hint(
            "`git revert` undoes a commit by a new one. To rewrite all the same: `git config xeno.acceptRewrites true` \
             in the repository, and `accept_rewrites = true` for each agent"
                .to_owned(),
        ));
    }
    let mut history = History::new(reader, &args.subpath);
    let fleet = match history.fleet(&new)? {
        Ok(fleet) => fleet,
        Err(report) => {
            let shown = show(&report);
            output::note(&format!(
                "refused: nothing of commit {} was accepted",
                new.short()
            ));
            return Err(shown);
        }
    };
    let before = base_commit(&mut history, old)?;
    answer(before.as_ref(), &Commit { revision: new, fleet })?;
    Ok(Exit::Done)
}

/// The plan of every node, on what the commit before asked for: nobody has looked.
fn answer(before: Option<&Commit>, after: &Commit) -> Outcome<()> {
    let plans = plans(before, after, None)?;
    let (same, changed): (Vec<_>, Vec<_>) = plans.iter().partition(|plan| render::is_empty(plan));
    let mut text = String::new();
    for (i, plan) in changed.iter().enumerate() {
        text.push('\n');
        if i < NODES_IN_FULL_MAX {
            text.push_str(&render::marked(plan, Colour::Plain));
        } else {
            text.push_str(&format!("{}: {}  (assumed)\n", plan.node, render::summary(plan)));
        }
    }
    match (changed.is_empty(), same.as_slice()) {
        (_, []) => {}
        (true, _) => {
            text.push_str("\nNothing to do on any node: this commit changes no sliver.  (assumed)\n")
        }
        (false, [one]) => text.push_str(&format!("\nNothing to do on {}.  (assumed)\n", one.node)),
        (false, many) => text.push_str(&format!(
            "\nNothing to do on {} other nodes.  (assumed)\n",
            many.len()
        )),
    }
    text.push('\n');
    output::text(&text)
}

/// All zeros stand for "none".
fn commit(id: &str) -> Outcome<Option<Revision>> {
    if !id.is_empty() && id.bytes().all(|byte| byte == b'0') {
        return Ok(None);
    }
    Revision::new(id)
        .map(Some)
        .map_err(|error| Failure::doing("read what git says", &error))
}

fn rewrites_allowed(reader: &Reader) -> bool {
    let config = git2::Repository::open(reader.path()).and_then(|repository| repository.config());
    config
        .and_then(|config| config.get_bool("xeno.acceptRewrites"))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_one_command_whatever_the_names() {
        let text = script(Path::new("/opt/it's here/xeno"), "main", "a b").expect("a script");
        assert!(text.starts_with("#!/bin/sh\n# Written by"));
        assert!(
            text.ends_with("exec '/opt/it'\\''s here/xeno' hook run --branch='main' --path='a b'\n"),
            "{text}"
        );
    }
}
