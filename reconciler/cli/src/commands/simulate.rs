//! `xeno simulate`: what a push would do to a whole fleet, played through in memory.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde_json::json;
use xeno_model::id::SliceName;
use xeno_simulate::{Commit, Outcome as Told, Push, Reach, Story, picture, report};

use crate::commits::{History, Range, empty, show};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, TextFormat};
use crate::whole_file;

/// Most nodes of a fleet that is made up: as many as one has ever been told of.
const NODES_MAX: i64 = 100_000;

/// Plays through what a push would do to a fleet: no node is asked, and nothing is changed.
///
/// The planner, its judge, the rollouts and the way plans are carried out are the real ones; nodes, clocks, the network, the board
/// and whatever goes wrong are simulated, from one seed: the same seed gives the same bytes. How long single steps take is taken
/// from measurements on real nodes, so times are of the right size and no promise.
///
/// With --repo or --rev the fleet is that of a repository, and the push leads from commit A to commit B. Without, a fleet of --nodes
/// nodes with ten slivers each is made up, and a patched template goes below all of them.
#[derive(Args)]
#[command(group = ArgGroup::new("commits").args(["repo", "rev"]).multiple(true))]
#[command(after_long_help = "\
Exit codes: 0 it came to its end, 1 it did not, or something was that must never be; the message says how to repeat it.

    xeno simulate --rev main..topic --svg push.svg
    xeno simulate --rev main..topic --bad web --away 30
    xeno simulate --nodes 1000 --away 33 --faults --seed 7")]
pub(crate) struct Simulate {
    /// Nodes of the fleet that is made up.
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "commits",
          value_parser = clap::value_parser!(u32).range(1..=NODES_MAX))]
    nodes: u32,
    /// From commit A to commit B, or to B from its first parent [default with --repo: HEAD].
    #[arg(long, value_name = "A..B")]
    rev: Option<String>,
    /// The repository of --rev [default: the one around the current directory].
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// Directory of the fleet inside the repository.
    #[arg(
        long = "path",
        value_name = "SUB",
        default_value = "",
        hide_default_value = true,
        requires = "commits"
    )]
    subpath: String,
    /// Where all chance comes from.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// So many of a hundred nodes reach nobody, from beginning to end.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    away: u32,
    /// Lets things go wrong: power, agents, networks, drivers, clocks, the board, the repository.
    #[arg(long)]
    faults: bool,
    /// What the push asks of this slice never becomes healthy; with `:N`, from sliver N on.
    #[arg(long, value_name = "SLICE[:N]", value_parser = bad)]
    bad: Vec<(SliceName, u32)>,
    /// Fleet, pushes and faults are all drawn from the seed; with a number, so many seeds one after the other.
    #[arg(long, value_name = "SEEDS", num_args = 0..=1, default_missing_value = "1",
          conflicts_with_all = ["commits", "nodes", "away", "faults", "bad", "svg"],
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    random: Option<u64>,
    /// Writes a picture of the fleet over time.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Also says which faults, holds and other branches were reached, and how often.
    #[arg(long)]
    reached: bool,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(args: &Simulate) -> Outcome {
    if let Some(seeds) = args.random {
        return random(args, seeds);
    }
    let story = story(args)?;
    let told = tell(&story, &again(args))?;
    if let Some(path) = &args.svg {
        whole_file::replace(path, picture::svg(&told).as_bytes(), None)
            .map_err(|error| Failure::doing(format_args!("write {}", path.display()), &error))?;
    }
    match args.output {
        TextFormat::Json => output::json(&report::json(&told))?,
        TextFormat::Text => {
            let mut text = report::text(&told);
            if args.reached {
                let _ = write!(text, "\nreached:\n{}", report::reached(&told.reach));
            }
            output::text(&text)?;
        }
    }
    Ok(Exit::Done)
}

fn story(args: &Simulate) -> Outcome<Story> {
    let made_up = args.rev.is_none() && args.repo.is_none();
    let mut story = if made_up {
        Story::generated(args.nodes, Push::TemplateForAll, args.seed)
    } else {
        pushed(args)?
    };
    for (slice, from) in &args.bad {
        let number = story
            .number_of(slice)
            .ok_or_else(|| Failure::said(format!("no commit has a slice `{slice}`")))?;
        let checked = story
            .commits()
            .last()
            .and_then(|commit| commit.fleet.slices.get(slice));
        let checked =
            checked.is_some_and(|slice| slice.slivers.values().any(|(_, sliver)| sliver.health.is_some()));
        if !checked {
            return Err(Failure::said(format!(
                "`{slice}` has no health check: nobody would notice that it is bad"
            )));
        }
        story = story.with_bad(number, *from..u32::MAX);
    }
    if args.away > 0 {
        story = story.with_away(args.away);
    }
    Ok(if args.faults { story.with_faults() } else { story })
}

/// The push of a repository's commit.
fn pushed(args: &Simulate) -> Outcome<Story> {
    let mut history = History::open(args.repo.as_deref().unwrap_or(Path::new(".")), &args.subpath)?;
    let range = Range::parse(args.rev.as_deref().unwrap_or("HEAD"))?;
    let to = history.reader().resolve(&range.to)?;
    let after = history.fleet(&to)?.map_err(|report| show(&report))?;
    let from = match &range.from {
        Some(from) => Some(history.reader().resolve(from)?),
        None => history.reader().parent(&to)?,
    };
    let before = match from {
        Some(from) => Commit {
            fleet: history.fleet(&from)?.map_err(|report| show(&report))?,
            revision: from,
        },
        None => Commit {
            fleet: empty(&after),
            revision: to.clone(),
        },
    };
    Ok(Story::pushing(
        before,
        Commit {
            revision: to,
            fleet: after,
        },
        args.seed,
    ))
}

fn tell(story: &Story, again: &str) -> Outcome<Told> {
    story.tell().map_err(|broken| {
        Failure::said(format!("seed {}: {broken}", story.seed)).hint(format!("again: {again}"))
    })
}

/// The command line that repeats it.
fn again(args: &Simulate) -> String {
    let mut words = format!("xeno simulate --seed {}", args.seed);
    match (&args.repo, &args.rev) {
        (None, None) => {
            let _ = write!(words, " --nodes {}", args.nodes);
        }
        (repo, rev) => {
            for (option, value) in [
                ("repo", repo.as_ref().map(|path| path.display().to_string())),
                ("rev", rev.clone()),
            ] {
                if let Some(value) = value {
                    let _ = write!(words, " --{option} {value}");
                }
            }
        }
    }
    if args.away > 0 {
        let _ = write!(words, " --away {}", args.away);
    }
    for (slice, from) in &args.bad {
        let _ = write!(words, " --bad {slice}:{from}");
    }
    if args.faults {
        words.push_str(" --faults");
    }
    words
}

/// Stories of which everything is drawn.
fn random(args: &Simulate, seeds: u64) -> Outcome {
    let (mut reach, mut events) = (Reach::default(), 0);
    for seed in args.seed..args.seed.saturating_add(seeds) {
        let again = format!("xeno simulate --random --seed {seed}");
        let told = tell(&Story::drawn(seed), &again)?;
        reach.merge(&told.reach);
        events += told.events;
        if seeds == 1 && args.output == TextFormat::Text {
            output::text(&report::text(&told))?;
        }
    }
    match args.output {
        TextFormat::Json => output::json(&json!({
            "formatVersion": report::FORMAT_VERSION,
            "seed": args.seed,
            "seeds": seeds,
            "events": events,
            "reached": reach.branches().map(|(branch, count)| (branch.to_owned(), json!(count))).collect::<serde_json::Map<_, _>>(),
        }))?,
        TextFormat::Text => {
            if seeds > 1 {
                output::text(&format!(
                    "{seeds} seeds, {events} events: nothing that must not be\n"
                ))?;
            }
            if args.reached || seeds > 1 {
                output::text(&format!("\nreached:\n{}", report::reached(&reach)))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Reads `SLICE` or `SLICE:N`.
fn bad(text: &str) -> Result<(SliceName, u32), String> {
    let (slice, from) = match text.split_once(':') {
        Some((slice, from)) => (
            slice,
            from.parse()
                .map_err(|_| format!("`{from}` is no number of a sliver"))?,
        ),
        None => (text, 0),
    };
    Ok((SliceName::new(slice).map_err(|error| error.to_string())?, from))
}
