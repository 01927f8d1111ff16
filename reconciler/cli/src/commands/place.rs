//! `xeno place`: where the slivers of slices with `replicas` go, written down as locks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use xeno_agent::source::{Manifests, RepositorySnapshot};
use xeno_model::diagnostic::did_you_mean;
use xeno_model::id::SliceName;
use xeno_model::manifest::{Kind, ParsedFile, parse_file};
use xeno_model::placement::{Effort, Ground, Move, Placed, lock_path, lock_text, place};

use crate::commits::show;
use crate::directory;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, BOLD, FAINT, GOOD, TextFormat, count, paint};
use crate::whole_file;

/// Decides where slivers of slices with `replicas` go, and writes that down.
///
/// For each such slice placement/SLICE.lock.yaml says which sliver is on which node. What may stay where it is stays: only
/// slivers move whose node is gone, is too full or may not have them any more, and, to spread slices more evenly, as many
/// as `maxMoves` allows. Nothing is done to any guest before the locks are committed and pushed.
///
/// A lock is stale if a sliver has to move, has no place, or is not wanted any more; a push with a stale lock is refused.
#[derive(Args)]
#[command(after_long_help = "\
Exit codes: 0 the locks hold, or have been written; 1 something has no place, the manifests have mistakes, or, with \
--check, a lock is stale.

    xeno place && git add placement && git commit
    xeno place --check          in a script, as `cargo build --locked`")]
pub(crate) struct Place {
    /// Slices that may move; all others stay as they are [default: every slice].
    #[arg(value_name = "SLICE", value_parser = |text: &str| SliceName::new(text).map_err(|error| error.to_string()))]
    slices: Vec<SliceName>,
    /// The fleet's directory [default: the nearest one upwards with a fleet.yaml].
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// Writes nothing, and ends with 1 if a lock is stale.
    #[arg(long, conflicts_with = "dry_run")]
    check: bool,
    /// Shows what would be written, and writes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(args: &Place) -> Outcome {
    let start = args.repo.as_deref().unwrap_or(Path::new("."));
    let root = directory::fleet_root(start);
    let snapshot = directory::read(&root)?;
    let mut ground = Manifests::default()
        .survey(&snapshot)
        .map_err(|report| show(&report))?;
    choose(&mut ground, &args.slices)?;
    let locks = Locks::of(&snapshot);
    let effort = if args.check { Effort::Needed } else { Effort::Even };
    let placed = placed(&ground, effort)?;
    let left_behind = match args.slices.as_slice() {
        [] => locks.left_behind(&ground),
        _ => Vec::new(),
    };
    let changes: Vec<Change> = placed
        .into_iter()
        .map(|(slice, placed)| locks.change(slice, placed))
        .collect();
    let stale = !left_behind.is_empty() || changes.iter().any(|change| change.text.is_some());
    if stale && !args.check && !args.dry_run {
        write(&root, &changes, &left_behind)?;
    }
    match args.output {
        TextFormat::Json => output::json(&as_json(&changes, &left_behind, stale))?,
        TextFormat::Text => output::styled(&as_text(args, &changes, &left_behind, stale))?,
    }
    if !(stale && args.check) {
        return Ok(Exit::Done);
    }
    if args.output == TextFormat::Json {
        return Ok(Exit::Failed);
    }
    let number = left_behind.len() + changes.iter().filter(|change| change.text.is_some()).count();
    Err(Failure::said(format!(
        "{} out of date",
        if number == 1 {
            "1 lock is".to_owned()
        } else {
            format!("{number} locks are")
        }
    ))
    .hint("write and commit what changes:\nxeno place && git add placement && git commit".to_owned()))
}

/// Holds every slice that was not named, if any was.
fn choose(ground: &mut Ground, chosen: &[SliceName]) -> Outcome<()> {
    for name in chosen {
        if ground.asks.contains_key(name) {
            continue;
        }
        let fixed = ground.fixed.iter().any(|fixed| fixed.slice == *name);
        return Err(if fixed {
            Failure::said(format!(
                "the slice {name} names its nodes itself, so there is nothing to place"
            ))
            .hint("say `replicas` instead of `nodes` in its `placement` to have nodes found".to_owned())
        } else {
            Failure::said(format!("there is no slice {name} with `replicas`")).hint(did_you_mean(
                name.as_str(),
                ground.asks.keys().map(SliceName::as_str),
                "slices",
            ))
        });
    }
    if !chosen.is_empty() {
        for (name, ask) in &mut ground.asks {
            ask.held = !chosen.contains(name);
        }
    }
    Ok(())
}

/// All placements, or all that is short.
fn placed(ground: &Ground, effort: Effort) -> Outcome<BTreeMap<SliceName, Placed>> {
    let mut placed = BTreeMap::new();
    let mut short = false;
    for (slice, result) in place(ground, effort) {
        match result {
            Ok(found) => drop(placed.insert(slice, found)),
            Err(shortage) => {
                short = true;
                output::note(&output::labelled(output::BAD, "error", &shortage.to_string()));
                output::note(&output::labelled(BOLD, "help", &shortage.help()));
            }
        }
    }
    if short {
        output::note("nothing was written");
        return Err(Failure::Shown);
    }
    Ok(placed)
}

/// The locks that there are.
struct Locks<'a> {
    snapshot: &'a RepositorySnapshot,
    /// By the slice they are of: where they are, and whether they have their file for themselves.
    found: BTreeMap<String, (String, bool)>,
}

/// A lock as it should be.
struct Change {
    slice: SliceName,
    placed: Placed,
    path: String,
    /// Its new text; `None`: it holds as it is.
    text: Option<String>,
    /// Whether its file has other documents, which are not for a program to rewrite.
    shared: bool,
}

impl<'a> Locks<'a> {
    fn of(snapshot: &'a RepositorySnapshot) -> Self {
        let files: Vec<ParsedFile> = snapshot
            .files
            .iter()
            .map(|file| parse_file(&file.path, &file.content))
            .collect();
        let locks = files.iter().flat_map(|file| {
            let alone = file.names().count() == 1;
            let names = file.names().filter(|(kind, _)| *kind == Kind::Placement);
            names.map(move |(_, name)| (name.to_owned(), (file.path().to_owned(), alone)))
        });
        Self {
            snapshot,
            found: locks.collect(),
        }
    }

    /// Files with the lock of a slice that has none any more: each with its slice.
    fn left_behind(&self, ground: &Ground) -> Vec<(String, String)> {
        let wanted: BTreeSet<&str> = ground.asks.keys().map(SliceName::as_str).collect();
        let left = self
            .found
            .iter()
            .filter(|(name, (_, alone))| *alone && !wanted.contains(name.as_str()));
        left.map(|(name, (path, _))| (path.clone(), name.clone()))
            .collect()
    }

    fn change(&self, slice: SliceName, placed: Placed) -> Change {
        let (path, alone) = match self.found.get(slice.as_str()) {
            Some((path, alone)) => (path.clone(), *alone),
            None => (lock_path(&slice), true),
        };
        // A slice without slivers needs no lock.
        let missing = !self.found.contains_key(slice.as_str()) && !placed.slivers.is_empty();
        let changed = missing || !placed.moves.is_empty();
        let text = changed.then(|| lock_text(&slice, &placed.slivers));
        let there = self.snapshot.files.iter().find(|file| file.path == path);
        let text = text.filter(|text| there.is_none_or(|file| *file.content != *text.as_bytes()));
        Change {
            slice,
            placed,
            path,
            text,
            shared: !alone,
        }
    }
}

/// Writes what changes, each file at once: a reader finds the old lock or the new one.
fn write(root: &Path, changes: &[Change], left_behind: &[(String, String)]) -> Outcome<()> {
    if let Some(shared) = changes
        .iter()
        .find(|change| change.shared && change.text.is_some())
    {
        return Err(Failure::said(format!(
            "the lock of {} is in {} together with other documents",
            shared.slice, shared.path
        ))
        .hint(format!(
            "delete it there: it is then written to {}",
            lock_path(&shared.slice)
        )));
    }
    for change in changes {
        let Some(text) = &change.text else { continue };
        let path = root.join(&change.path);
        whole_file::replace(&path, text.as_bytes(), None)
            .map_err(|error| Failure::doing(format_args!("write {}", path.display()), &error))?;
    }
    for (path, _) in left_behind {
        let path = root.join(path);
        fs::remove_file(&path)
            .map_err(|error| Failure::doing(format_args!("remove {}", path.display()), &error))?;
    }
    Ok(())
}

fn as_text(args: &Place, changes: &[Change], left_behind: &[(String, String)], stale: bool) -> String {
    let mut text = String::new();
    let slivers: usize = changes.iter().map(|change| change.placed.slivers.len()).sum();
    for change in changes.iter().filter(|change| change.text.is_some()) {
        text.push_str(&format!("{}\n", paint(BOLD, &change.path)));
        let staying = change.placed.staying();
        if staying > 0 {
            text.push_str(&paint(
                FAINT,
                &format!("= {staying} {}", if staying == 1 { "stays" } else { "stay" }),
            ));
            text.push('\n');
        }
        for moved in &change.placed.moves {
            text.push_str(&line(&change.slice, moved));
        }
    }
    for (path, slice) in left_behind {
        text.push_str(&format!(
            "{}\n- removed: no slice {slice} wants a lock\n",
            paint(BOLD, path)
        ));
    }
    for change in changes.iter().filter(|change| change.placed.more) {
        text.push_str(&format!(
            "{} could be spread more evenly, but moves no more slivers at a time (maxMoves): commit, and run `xeno place` again\n",
            change.slice
        ));
    }
    if !stale {
        text.push_str(&format!(
            "{}: {}, {}: nothing has to move\n",
            paint(GOOD, "ok"),
            count(changes.len(), "slice", "slices"),
            count(slivers, "sliver", "slivers"),
        ));
    } else if args.dry_run {
        text.push_str("nothing was written (--dry-run)\n");
    } else if !args.check {
        text.push_str("written; commit it, and push: nothing moves before\n");
    }
    text
}

/// `+ web/5 → nyc-02`, `> web/2 cam-01 → cam-03: node gone`, `- web/7 from cam-01: only 7 wanted`
fn line(slice: &SliceName, moved: &Move) -> String {
    let Move {
        number,
        from,
        to,
        why,
    } = moved;
    match (from, to) {
        (None, Some(to)) => format!("{} {slice}/{number} → {to}\n", paint(GOOD, "+")),
        (Some(from), Some(to)) => {
            format!(
                "{} {slice}/{number} {from} → {to}: {why}\n",
                paint(output::FAIR, ">")
            )
        }
        (Some(from), None) => format!(
            "{} {slice}/{number} from {from}: {why}\n",
            paint(output::BAD, "-")
        ),
        (None, None) => String::new(),
    }
}

fn as_json(changes: &[Change], left_behind: &[(String, String)], stale: bool) -> Value {
    let slices: Vec<Value> = changes
        .iter()
        .map(|change| {
            let moves = change.placed.moves.iter().map(|moved| {
                json!({
                    "sliver": format!("{}/{}", change.slice, moved.number),
                    "from": moved.from.as_ref().map(ToString::to_string),
                    "to": moved.to.as_ref().map(ToString::to_string),
                    "why": moved.why.to_string(),
                })
            });
            json!({
                "slice": change.slice.to_string(),
                "lock": change.path,
                "changed": change.text.is_some(),
                "staying": change.placed.staying(),
                "moves": moves.collect::<Vec<_>>(),
                "more": change.placed.more,
            })
        })
        .collect();
    let removed: Vec<&str> = left_behind.iter().map(|(path, _)| path.as_str()).collect();
    json!({ "formatVersion": 1, "changed": stale, "slices": slices, "removed": removed })
}
