//! `xeno suspend` and `xeno resume`: a slice's state, changed where it is written.

use clap::Args;
use xeno_model::desired::{Slice, SliverState};
use xeno_model::id::{SliceName, SliverId};
use xeno_model::manifest::{Editor, Kind, Step};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::worktree::{FileChange, IntentArgs, Worktree};

/// Sets `state: suspended` in the manifest of a slice or sliver, and commits that.
///
/// Once pushed, the memory of the guests goes to an image and they end; `xeno resume` has them go on from it. Only the
/// one value changes; comments and layout stay.
#[derive(Args)]
pub(crate) struct Suspend {
    /// The slice, as in web, or one sliver of it, as in web/0.
    #[arg(value_parser = target)]
    what: Target,
    #[command(flatten)]
    intent: IntentArgs,
}

/// Sets `state: running` in the manifest of a suspended slice or sliver, and commits that.
#[derive(Args)]
pub(crate) struct Resume {
    /// The slice, as in web, or one sliver of it, as in web/0.
    #[arg(value_parser = target)]
    what: Target,
    #[command(flatten)]
    intent: IntentArgs,
}

/// A slice, or one of its slivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Slice(SliceName),
    Sliver(SliverId),
}

impl Target {
    /// The slice that is meant, or that it belongs to.
    pub(crate) fn slice(&self) -> &SliceName {
        match self {
            Self::Slice(slice) => slice,
            Self::Sliver(sliver) => &sliver.slice,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Slice(slice) => slice.fmt(f),
            Self::Sliver(sliver) => sliver.fmt(f),
        }
    }
}

/// Reads one from the command line.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    if text.contains('/') {
        return crate::link::sliver(text).map(Target::Sliver);
    }
    SliceName::new(text)
        .map(Target::Slice)
        .map_err(|error| error.to_string())
}

pub(crate) fn suspend(args: &Suspend) -> Outcome {
    set(&args.intent, &args.what, SliverState::Suspended)
}

pub(crate) fn resume(args: &Resume) -> Outcome {
    set(&args.intent, &args.what, SliverState::Running)
}

const STATE: &[Step<'_>] = &[Step::Key("spec"), Step::Key("state")];

fn set(args: &IntentArgs, what: &Target, state: SliverState) -> Outcome {
    let worktree = Worktree::open(args)?;
    let name = what.slice();
    let slice = found(&worktree, what)?;
    let states: Vec<SliverState> = match what {
        Target::Slice(_) => slice.slivers.values().map(|(_, sliver)| sliver.state).collect(),
        Target::Sliver(id) => slice
            .slivers
            .get(&id.number)
            .map(|(_, sliver)| sliver.state)
            .into_iter()
            .collect(),
    };
    if states.iter().all(|now| *now == state) {
        output::text(&format!("nothing to do: {what} is {state} already\n"))?;
        return Ok(Exit::Done);
    }
    if states.contains(&SliverState::Stopped) {
        let hint = match state {
            SliverState::Suspended => "what is stopped has no memory that could be kept",
            SliverState::Running | SliverState::Stopped => {
                "there is no image to go on from; set `state: running` in its manifest, and it boots"
            }
        };
        return Err(
            Failure::said(format!("{what} is stopped, not {}", opposite(state))).hint(hint.to_owned()),
        );
    }
    let file = worktree
        .defining(Kind::Slice, name.as_str())
        .ok_or_else(|| Failure::said(format!("no file defines the slice {name}")))?;
    let editor = Editor::new(&file, Kind::Slice, name.as_str());
    let by_hand = |error: xeno_model::manifest::EditError| {
        Failure::tried(&error).hint(format!("set `state: {state}` there by hand"))
    };
    let text = editor.set(STATE, &state.to_string()).map_err(by_hand)?;
    let changes = [FileChange {
        path: file.path().to_owned(),
        content: text.into_bytes(),
        executable: false,
    }];
    let verb = match state {
        SliverState::Suspended => "Suspend",
        SliverState::Running | SliverState::Stopped => "Resume",
    };
    worktree.commit(args, &format!("{verb} {what}"), &changes)
}

fn opposite(state: SliverState) -> SliverState {
    match state {
        SliverState::Suspended => SliverState::Running,
        SliverState::Running | SliverState::Stopped => SliverState::Suspended,
    }
}

/// The slice that is meant, if there is one, and the sliver in it.
pub(crate) fn found<'a>(worktree: &'a Worktree, what: &Target) -> Outcome<&'a Slice> {
    let slices = &worktree.fleet().slices;
    let slice = slices.get(what.slice()).ok_or_else(|| {
        let known = slices.keys().map(SliceName::as_str);
        Failure::said(format!("there is no slice {}", what.slice())).hint(
            xeno_model::diagnostic::did_you_mean(what.slice().as_str(), known, "slices"),
        )
    })?;
    match what {
        Target::Sliver(id) if !slice.slivers.contains_key(&id.number) => {
            let count = output::count(slice.slivers.len(), "sliver", "slivers");
            Err(Failure::said(format!(
                "there is no sliver {id}: the slice {} has {count}",
                id.slice
            )))
        }
        Target::Sliver(_) | Target::Slice(_) => Ok(slice),
    }
}
