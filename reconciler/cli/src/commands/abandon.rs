//! `xeno abandon`: a person's word that the holder of a sliver is lost.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use xeno_agent::api::FORMAT_VERSION;
use xeno_agent::source::Manifests;
use xeno_model::id::SliverId;
use xeno_reconciler::tenure::{Holder, Record};
use xeno_state::abandoned::{self, TEXT_LEN_MAX, Word, becomes};
use xeno_state::board::BoardError;
use xeno_state::{holders, presence};

use super::freeze::user;
use crate::board::{BoardArgs, name, record};
use crate::commits::show;
use crate::directory;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::wait;
use crate::output::{self, FAIR, GOOD, TextFormat, now_ms, paint};
use crate::person;

/// Says that the node which holds a sliver is lost for good, so that another may run it.
///
/// Changes the sliver's record on the fleet's board. What the guest wrote to the lost node's own disk is lost with it: the
/// sliver starts anew where the repository places it. What it wrote to shared storage is there, and what the lost node should
/// still append to it does not count. Refused as long as the holder has a sign of life.
#[derive(Args)]
#[command(after_long_help = "\
Exit codes: 0 the record is changed, or nobody holds the sliver; 1 refused, and nothing is changed.

    xeno get holders
    xeno abandon web/0 --reason 'cam-01 burnt' && xeno migrate web/0 --to cam-02 && git push")]
pub(crate) struct Abandon {
    /// The sliver, as in web/0.
    #[arg(value_parser = crate::link::sliver)]
    sliver: SliverId,
    #[command(flatten)]
    board: BoardArgs,
    /// Why, for whoever wonders; it stands on the board.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Where the sliver writes to: the node's own disk, or shared storage [default: what its manifest says].
    #[arg(long, value_enum)]
    layers: Option<Layers>,
    /// The fleet's directory, for the manifest [default: the nearest one upwards with a fleet.yaml].
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// Also if the holder has a sign of life: it goes on running the guest until it reads the board.
    #[arg(long)]
    even_if_alive: bool,
    /// Asks nothing.
    #[arg(short, long)]
    yes: bool,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

/// Where a sliver writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layers {
    /// The disk of its node.
    Local,
    /// Storage that other nodes reach.
    Shared,
}

pub(crate) fn run(args: &Abandon) -> Outcome {
    let sliver = &args.sliver;
    person::check_reason(args.reason.as_deref(), TEXT_LEN_MAX)?;
    let board = args.board.open()?;
    let failed = |error: BoardError| Failure::from(&error);
    let known = wait(async { holders::read(&board, sliver).await.map_err(failed) })?;
    let was = match &known.record {
        Record::Is(holder) => holder,
        Record::Absent | Record::Unknown => {
            return Err(Failure::said(format!("the board knows no holder of {sliver}"))
                .hint("`xeno get holders` shows those that it knows".to_owned()));
        }
    };
    let Some(node) = &was.node else {
        output::text(&format!("nothing to do: nobody holds {sliver}\n"))?;
        return Ok(Exit::Done);
    };
    let life = wait(async { presence::presence(&board, node).await.map_err(failed) })?;
    if life.is_some() && !args.even_if_alive {
        return Err(
            Failure::said(format!("{node}, which holds {sliver}, has a sign of life")).hint(format!(
                "a node that answers hands it over by itself:\nxeno migrate {sliver} --to NODE && git push"
            )),
        );
    }
    let layers = match args.layers {
        Some(layers) => layers,
        None => layers_of(args)?,
    };
    let Some(to) = becomes(&known, layers == Layers::Local) else {
        return Err(Failure::said(format!("nobody holds {sliver}")));
    };
    explain(args, was, life.is_some(), layers, &to);
    let question = "Abandon it? This cannot be taken back.";
    if !args.yes && !person::types(question, &sliver.to_string(), "meant", "nothing was changed")? {
        return Err(Failure::said("nothing was changed"));
    }
    let word = Word {
        by: user(),
        reason: args.reason.clone(),
        at_ms: now_ms(),
        even_if_alive: args.even_if_alive,
    };
    let done = wait(async {
        let travels = layers == Layers::Local;
        abandoned::abandon(&board, sliver, &known, travels, &word)
            .await
            .map_err(failed)
    })?;
    match done {
        abandoned::Outcome::Done(now) => {
            told(args, &now)?;
            Ok(Exit::Done)
        }
        abandoned::Outcome::Refused => Err(Failure::said(format!(
            "the record of {sliver} has changed meanwhile, or {node} is back: nothing was changed"
        ))
        .hint("look at `xeno get holders`, and decide again".to_owned())),
    }
}

/// What is about to be done, and what it costs.
fn explain(args: &Abandon, was: &Holder, alive: bool, layers: Layers, to: &Holder) {
    let sliver = &args.sliver;
    let life = if alive {
        "has a sign of life"
    } else {
        "has no sign of life"
    };
    output::note(&format!(
        "{sliver} is held by {} under epoch {}, which {life}",
        name(was),
        was.epoch.0
    ));
    if alive {
        output::note(&output::labelled(
            FAIR,
            "warning",
            &format!(
                "{} may be running the guest at this moment. Until it reads the board there can be two of it: both answer \
                 whoever talks to them. Switch that machine off first if you can",
                name(was)
            ),
        ));
    }
    match (layers, &to.node) {
        (Layers::Local, Some(keeper)) => output::note(&format!(
            "{keeper} still keeps its memory and layers from before it moved, and goes on from there: what it wrote \
             since is lost"
        )),
        (Layers::Local, None) => {
            output::note("what it wrote to that node's disk is lost: it starts anew elsewhere")
        }
        (Layers::Shared, _) => {
            output::note(
                "what it wrote to shared storage is there for whoever runs it next; its memory is lost",
            );
        }
    }
}

/// Where the manifest has the sliver write to.
fn layers_of(args: &Abandon) -> Outcome<Layers> {
    let say = "say where it writes to: --layers local or --layers shared";
    let root = directory::fleet_root(args.repo.as_deref().unwrap_or(Path::new(".")));
    if !root.join(xeno_model::resolve::FLEET_FILE).is_file() {
        return Err(
            Failure::said("there are no manifests here that tell what would be lost").hint(say.to_owned()),
        );
    }
    let fleet = Manifests::default()
        .fleet(&directory::read(&root)?)
        .map_err(|report| show(&report))?;
    let slice = fleet.slices.get(&args.sliver.slice);
    match slice.and_then(|slice| slice.slivers.get(&args.sliver.number)) {
        Some((_, sliver)) if sliver.writes() => Ok(Layers::Local),
        Some(_) => Ok(Layers::Shared),
        None => {
            Err(Failure::said(format!("the manifests have no sliver {}", args.sliver)).hint(say.to_owned()))
        }
    }
}

fn told(args: &Abandon, now: &Holder) -> Outcome<()> {
    let sliver = &args.sliver;
    if args.output == TextFormat::Json {
        return output::json(&json!({
            "formatVersion": FORMAT_VERSION, "sliver": sliver.to_string(), "record": record(now),
        }));
    }
    output::styled(&format!(
        "{}: {sliver} is held by {}, under epoch {}\n",
        paint(GOOD, "changed"),
        name(now),
        now.epoch.0
    ))?;
    if now.node.is_none() {
        output::note(&format!(
            "the node takes it where the repository places it; if that is the lost one:\n  xeno migrate {sliver} --to NODE && git push"
        ));
    }
    Ok(())
}
