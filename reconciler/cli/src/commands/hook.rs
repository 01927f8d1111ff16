//! `xeno hook …`: a push is answered with its plan, or refused with its mistakes.

use std::fs;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use xeno_agent::api_client::ApiClient;
use xeno_agent::snapshot::Snapshot;
use xeno_agent::source::Reader;
use xeno_model::desired::Disturbance;
use xeno_model::id::Revision;
use xeno_reconciler::approval::threshold;
use xeno_reconciler::change::{Cause, Disruption};
use xeno_reconciler::moving;
use xeno_reconciler::plan::{Basis, Plan};
use xeno_reconciler::render::{self, Colour};

use super::plan::base_commit;
use crate::commits::{Commit, History, plan_from, plans, show};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome, chain};
use crate::link::wait;
use crate::output;
use crate::whole_file;

/// First words of every hook that this program wrote.
const MARK: &str = "# Written by `xeno hook install`";

/// Most bytes of what git says on standard input: one line for each reference of the push.
const STDIN_BYTES_MAX: u64 = 16 << 20;

/// How long an agent may take to say what it sees.
const ASK_MAX: Duration = Duration::from_secs(10);

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
    /// Socket of an agent that is asked what its node looks like; may be given again. Plans of other nodes assume.
    #[arg(long = "agent", value_name = "FILE")]
    agents: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Run {
    /// The branch that nodes follow.
    #[arg(long)]
    branch: String,
    /// Directory of the fleet inside the repository.
    #[arg(long = "path", default_value = "")]
    subpath: String,
    /// Sockets of agents that are asked.
    #[arg(long = "agent", value_name = "FILE")]
    agents: Vec<PathBuf>,
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
    let hook = hooks_directory(&repository).join("pre-receive");
    let program = std::env::current_exe().map_err(|error| Failure::doing("find this program", &error))?;
    // A hook runs in the repository, wherever this was said.
    let agents = args
        .agents
        .iter()
        .map(std::path::absolute)
        .collect::<Result<Vec<_>, _>>();
    let agents = agents.map_err(|error| Failure::doing("find an agent's socket", &error))?;
    let command = command(&program, &branch, &args.subpath, &agents)?;
    let script = script(&command);
    match fs::read(&hook) {
        Ok(there) if !String::from_utf8_lossy(&there).contains(MARK) => {
            return Err(
                Failure::said(format!("{} is there already, and is not ours", hook.display())).hint(format!(
                    "call this from it, with the same standard input:\n{command}"
                )),
            );
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::doing(format_args!("read {}", hook.display()), &error)),
    }
    // A push that comes in between finds the old hook or the new one.
    whole_file::replace(&hook, script.as_bytes(), Some(0o755))
        .map_err(|error| Failure::doing(format_args!("write {}", hook.display()), &error))?;
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

fn script(command: &str) -> String {
    format!(
        "#!/bin/sh\n{MARK}; running that again rewrites it.\n# Answers a push with its plan, or refuses it.\nexec {command}\n"
    )
}

fn command(program: &Path, branch: &str, subpath: &str, agents: &[PathBuf]) -> Outcome<String> {
    let text = |path: &Path| {
        let text = path.to_str().map(quoted);
        text.ok_or_else(|| Failure::said(format!("the path {} is not UTF-8", path.display())))
    };
    let mut command = format!(
        "{} hook run --branch={} --path={}",
        text(program)?,
        quoted(branch),
        quoted(subpath)
    );
    for agent in agents {
        command.push_str(&format!(" --agent={}", text(agent)?));
    }
    Ok(command)
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
    let after = Commit { revision: new, fleet };
    let mut plans = plans(before.as_ref(), &after, None)?;
    for agent in &args.agents {
        match seen(agent) {
            Ok(seen) => {
                let observed = plan_from(&seen, &after)?;
                // An agent of a node that the fleet does not name has no say here.
                if let Some(plan) = plans.iter_mut().find(|plan| plan.node == observed.node) {
                    *plan = observed;
                }
            }
            Err(why) => output::note(&format!(
                "{} was not asked what its node looks like: {why}",
                agent.display()
            )),
        }
    }
    if let Some(before) = &before {
        moving::tell(&before.fleet, &after.fleet, &mut plans);
    }
    let order = before
        .as_ref()
        .map(|before| render::order_of_moves(&before.fleet, &after.fleet));
    answer(&plans, after.fleet.approval, &order.unwrap_or_default())?;
    Ok(Exit::Done)
}

/// What an agent sees, if it says so in time: a push must not hang on it.
fn seen(socket: &Path) -> Result<Snapshot, String> {
    let client = ApiClient::new(socket);
    let answer = wait(async {
        tokio::time::timeout(ASK_MAX, client.observed())
            .await
            .map_err(|_| Failure::said(format!("no answer within {} s", ASK_MAX.as_secs())))?
            .map_err(Failure::from)
    });
    match answer {
        Ok(value) => Snapshot::from_json(&value.to_string()).map_err(|error| chain(&error)),
        Err(Failure::Said { what, .. }) => Err(what),
        Err(Failure::Shown | Failure::Unread) => Err("it did not answer".to_owned()),
    }
}

/// The plan of every node, observed where its agent was asked, else on what the commit before asked for.
/// `order`: what is to be said of all moves together.
fn answer(plans: &[Plan], approval: Option<Disturbance>, order: &str) -> Outcome<()> {
    let (same, changed): (Vec<_>, Vec<_>) = plans.iter().partition(|plan| render::is_empty(plan));
    let mut text = String::new();
    for (i, plan) in changed.iter().enumerate() {
        text.push('\n');
        if i < NODES_IN_FULL_MAX {
            text.push_str(&render::marked(plan, Colour::Plain));
        } else {
            let basis = basis(&[plan]);
            text.push_str(&format!("{}: {}  ({basis})\n", plan.node, render::summary(plan)));
        }
    }
    let basis = basis(&same);
    match (changed.is_empty(), same.as_slice()) {
        (_, []) => {}
        (true, _) => {
            text.push_str(&format!(
                "\nNothing to do on any node: this commit changes no sliver.  ({basis})\n"
            ));
        }
        (false, [one]) => text.push_str(&format!("\nNothing to do on {}.  ({basis})\n", one.node)),
        (false, many) => {
            text.push_str(&format!(
                "\nNothing to do on {} other nodes.  ({basis})\n",
                many.len()
            ));
        }
    }
    let waiting = approval.map_or(0, |from| waiting(plans, threshold(from)));
    if waiting > 0 {
        let slivers = output::count(waiting, "sliver waits", "slivers wait");
        text.push_str(&format!(
            "\n{slivers} until somebody approves what disturbs {}: `xeno approve` on a node of the fleet.\n",
            if waiting == 1 { "it" } else { "them" }
        ));
    }
    if !order.is_empty() {
        text.push('\n');
        text.push_str(order);
    }
    if plans.iter().any(|plan| !plan.moves.is_empty()) {
        text.push_str("\nSlivers move by way of the fleet's board. Nodes without one make them anew, and set aside what they wrote.\n");
    }
    text.push('\n');
    output::text(&text)
}

/// How many slivers are disturbed at least so, each counted once: one that moves is in two plans.
fn waiting(plans: &[Plan], from: Disruption) -> usize {
    let disturbed = |plan: &Plan| {
        let changes = plan
            .changes
            .values()
            .filter(|change| change.cause == Cause::Change);
        changes.filter(|change| change.class.disruption() >= from).count()
            + plan
                .moves
                .values()
                .filter(|moving| moving.from == plan.node && moving.how.disruption() >= from)
                .count()
    };
    plans.iter().map(disturbed).sum()
}

/// What a statement about several plans is based on.
fn basis(plans: &[&Plan]) -> String {
    let observed = plans.iter().filter(|plan| plan.basis == Basis::Observed).count();
    match plans.len() - observed {
        0 if observed > 0 => "observed".to_owned(),
        _ if observed == 0 => "assumed".to_owned(),
        assumed => format!("{observed} observed, {assumed} assumed"),
    }
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
        let agents = [PathBuf::from("/run/a b.sock")];
        let command = command(Path::new("/opt/it's here/xeno"), "main", "a b", &agents);
        let text = script(&command.expect("a command"));
        assert!(text.starts_with("#!/bin/sh\n# Written by"));
        assert!(
            text.ends_with("exec '/opt/it'\\''s here/xeno' hook run --branch='main' --path='a b' --agent='/run/a b.sock'\n"),
            "{text}"
        );
    }
}
