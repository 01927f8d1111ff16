//! `xeno suspend` and `xeno resume`: a slice's state, changed where it is written.

use clap::Args;
use xeno_model::desired::{Slice, SliverState};
use xeno_model::id::{SliceName, SliverId};
use xeno_model::manifest::{EditError, Editor, Kind, Step};

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
const OVERRIDES: &[Step<'_>] = &[Step::Key("spec"), Step::Key("overrides")];

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
    let by_hand =
        |error: EditError| Failure::tried(&error).hint(format!("set `state: {state}` there by hand"));
    let change = |text: String| FileChange {
        path: file.path().to_owned(),
        content: text.into_bytes(),
        executable: false,
    };
    let change = match what {
        Target::Sliver(id) if slice.slivers.len() > 1 => {
            let drafts = overridden(&editor, id.number, state).map_err(by_hand)?;
            first_that_does(&worktree, what, state, drafts.into_iter().map(change))?
        }
        Target::Slice(_) | Target::Sliver(_) => {
            change(editor.set(STATE, &state.to_string()).map_err(by_hand)?)
        }
    };
    let changes = [change];
    let left = worktree.after(&changes)?;
    let verb = match state {
        SliverState::Suspended => "Suspend",
        SliverState::Running | SliverState::Stopped => "Resume",
    };
    let ended = worktree.commit(args, &format!("{verb} {what}"), &changes)?;
    let others = left
        .slices
        .get(name)
        .into_iter()
        .flat_map(|slice| slice.slivers.values());
    for (_, sliver) in
        others.filter(|(_, sliver)| sliver.state != state && *what == Target::Slice(name.clone()))
    {
        output::note(&format!(
            "{} stays {}: an override says so",
            sliver.id, sliver.state
        ));
    }
    Ok(ended)
}

/// The ways to change the state of one sliver of many, the neatest first: taking away an override that says otherwise,
/// changing it, adding one.
fn overridden(editor: &Editor<'_>, number: u32, state: SliverState) -> Result<Vec<String>, EditError> {
    let count = editor.items(OVERRIDES).unwrap_or(0);
    let own = (0..count).rev().find(|index| {
        let at = |key| [OVERRIDES, &[Step::Index(*index), Step::Key(key)]].concat();
        let one = [at("match"), vec![Step::Key("number")]].concat();
        let state = [at("patch"), vec![Step::Key("state")]].concat();
        editor.keys(&at("match")).as_deref() == Some(&["number"])
            && editor.scalar(&one) == Some(number.to_string().as_str())
            && editor.scalar(&state).is_some()
    });
    let mut drafts = Vec::new();
    if let Some(index) = own {
        let patch = [OVERRIDES, &[Step::Index(index), Step::Key("patch")]].concat();
        if editor.keys(&patch).as_deref() == Some(&["state"])
            && let Ok(text) = editor.remove_item(OVERRIDES, index)
        {
            drafts.push(text);
        }
        drafts.push(editor.set(&[patch, vec![Step::Key("state")]].concat(), &state.to_string())?);
    }
    let item = format!("{{ match: {{ number: {number} }}, patch: {{ state: {state} }} }}");
    drafts.push(editor.append(OVERRIDES, &item)?);
    Ok(drafts)
}

fn first_that_does(
    worktree: &Worktree,
    what: &Target,
    state: SliverState,
    drafts: impl Iterator<Item = FileChange>,
) -> Outcome<FileChange> {
    let Target::Sliver(id) = what else {
        return Err(Failure::said(format!("{what} is no sliver")));
    };
    for draft in drafts {
        let fleet = worktree.after(std::slice::from_ref(&draft))?;
        let slice = fleet.slices.get(&id.slice);
        let now = slice
            .and_then(|slice| slice.slivers.get(&id.number))
            .map(|(_, sliver)| sliver.state);
        if now == Some(state) {
            return Ok(draft);
        }
    }
    Err(
        Failure::said(format!("{id} cannot be {state} by an override of its own"))
            .hint("another override decides its state: change that one by hand".to_owned()),
    )
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
