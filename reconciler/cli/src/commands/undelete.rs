//! `xeno undelete`: what a commit removed, asked for again.

use std::collections::BTreeSet;

use clap::Args;
use git2::{ObjectType, Oid};
use xeno_agent::source::{Reader, RepositorySnapshot};
use xeno_model::desired::{CarriedContent, DesiredFleet, LayerRef};
use xeno_model::id::{NodeName, SliceName, SliverId};
use xeno_model::manifest::{Editor, Kind, Step, parse_file};
use xeno_model::repository::FileMode;

use super::suspend::{Target, target};
use crate::commits::History;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::{AgentArgs, wait};
use crate::output::{self, moment};
use crate::past::{CommitLine, Walk};
use crate::worktree::{FileChange, IntentArgs, Worktree};

/// Brings back a slice or sliver that an earlier commit removed, and commits that.
///
/// Finds the last commit that had it and takes from there its document, the files it carries and its placement, as far
/// as they are gone. A node that still keeps what the slivers wrote takes that into use again.
#[derive(Args)]
pub(crate) struct Undelete {
    /// The slice, as in web, or one sliver of it, as in web/2.
    #[arg(value_parser = target)]
    what: Target,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    intent: IntentArgs,
}

const NODES: &[Step<'_>] = &[Step::Key("spec"), Step::Key("placement"), Step::Key("nodes")];

/// The last commit that had something.
struct Found {
    commit: CommitLine,
    snapshot: RepositorySnapshot,
    fleet: DesiredFleet,
}

pub(crate) fn run(args: &Undelete) -> Outcome {
    let worktree = Worktree::open(&args.intent)?;
    let slice = args.what.slice();
    let there = worktree.fleet().slices.get(slice);
    let is_there = there.is_some_and(|slice| match &args.what {
        Target::Slice(_) => true,
        Target::Sliver(id) => slice.slivers.contains_key(&id.number),
    });
    if is_there {
        output::text(&format!("nothing to do: {} is asked for\n", args.what))?;
        return Ok(Exit::Done);
    }
    let found = find(&worktree, &args.what)?;
    let changes = match (&args.what, there) {
        (Target::Sliver(id), Some(now)) => vec![place_again(&worktree, &found, id, now.slivers.len())?],
        (Target::Slice(_) | Target::Sliver(_), _) => restore(&worktree, &found, slice)?,
    };
    let after = worktree.after(&changes)?;
    let back: Vec<(&NodeName, &SliverId)> = after
        .slices
        .get(slice)
        .into_iter()
        .flat_map(|slice| slice.slivers.values())
        .map(|(node, sliver)| (node, &sliver.id))
        .filter(|(_, id)| there.is_none_or(|there| !there.slivers.contains_key(&id.number)))
        .collect();
    output::note(&format!(
        "from commit {} of {}: {}",
        found.commit.revision.short(),
        moment(found.commit.at_ms),
        output::clean(&found.commit.subject)
    ));
    if back.len() > 1 && matches!(args.what, Target::Sliver(_)) {
        output::note(&format!(
            "the whole slice was removed, and all {} slivers come back",
            back.len()
        ));
    }
    let ended = worktree.commit(&args.intent, &format!("Undelete {}", args.what), &changes)?;
    tell_what_is_kept(&args.agent, &back);
    Ok(ended)
}

/// Goes back in history to the last commit that had it.
fn find(worktree: &Worktree, what: &Target) -> Outcome<Found> {
    let reader = Reader::open(worktree.repository().path())?;
    let head = reader.resolve("HEAD")?;
    let mut history = History::new(reader, worktree.below());
    let mut walk = Walk::new(&mut history, &head)?;
    while let Some((commit, snapshot, fleet)) = walk.next()? {
        let slice = fleet.slices.get(what.slice());
        let has = slice.is_some_and(|slice| match what {
            Target::Slice(_) => true,
            Target::Sliver(id) => slice.slivers.contains_key(&id.number),
        });
        if has {
            return Ok(Found {
                commit,
                snapshot,
                fleet,
            });
        }
    }
    Err(
        Failure::said(format!("no commit before {} asks for {what}", head.short()))
            .hint("`git log --all` may know of it on another branch".to_owned()),
    )
}

/// The document of a slice with everything it needs that is gone.
fn restore(worktree: &Worktree, found: &Found, slice: &SliceName) -> Outcome<Vec<FileChange>> {
    let lost = || {
        Failure::said(format!(
            "commit {} does not say where {slice} is defined",
            found.commit.revision.short()
        ))
    };
    let mut changes = Vec::new();
    let mut wanted = vec![(Kind::Slice, slice.to_string())];
    wanted.extend(
        Kind::ALL
            .into_iter()
            .filter(|kind| kind.as_str() == "Placement")
            .map(|kind| (kind, slice.to_string())),
    );
    for (i, (kind, name)) in wanted.iter().enumerate() {
        // A lock may have stayed, or there never was one.
        if worktree.defining(*kind, name).is_some() {
            continue;
        }
        let file = found.snapshot.files.iter().find_map(|file| {
            let parsed = parse_file(&file.path, &file.content);
            let defines = parsed.names().any(|known| known == (*kind, name.as_str()));
            defines.then_some(parsed)
        });
        let Some(file) = file else {
            if i == 0 {
                return Err(lost());
            }
            continue;
        };
        let text = Editor::new(&file, *kind, name)
            .document_text()
            .map_err(|error| Failure::tried(&error))?;
        add_document(worktree, &mut changes, file.path(), &text)?;
    }
    carried(worktree, found, slice, &mut changes)?;
    Ok(changes)
}

/// Puts a document back into the file it was in: a new one, or behind what that file holds today.
fn add_document(worktree: &Worktree, changes: &mut Vec<FileChange>, path: &str, text: &str) -> Outcome<()> {
    if let Some(change) = changes.iter_mut().find(|change| change.path == path) {
        change
            .content
            .extend_from_slice(format!("---\n{text}").as_bytes());
        return Ok(());
    }
    let content = match worktree.manifest(path) {
        Some(now) => {
            let now = std::str::from_utf8(now)
                .map_err(|error| Failure::doing(format_args!("read {path}"), &error))?;
            let gap = if now.trim().is_empty() { "" } else { "---\n" };
            format!("{}\n{gap}{text}", now.trim_end()).trim_start().to_owned()
        }
        None => text.to_owned(),
    };
    changes.push(FileChange {
        path: path.to_owned(),
        content: content.into_bytes(),
        executable: false,
    });
    Ok(())
}

/// The files that the slice carries and that are no longer in the directory.
fn carried(
    worktree: &Worktree,
    found: &Found,
    slice: &SliceName,
    changes: &mut Vec<FileChange>,
) -> Outcome<()> {
    let slivers = found
        .fleet
        .slices
        .get(slice)
        .into_iter()
        .flat_map(|slice| slice.slivers.values());
    let layers = slivers
        .flat_map(|(_, sliver)| &sliver.mounts)
        .flat_map(|mount| &mount.layers);
    let mut blobs = BTreeSet::new();
    for layer in layers {
        let LayerRef::Files { digest } = layer else {
            continue;
        };
        let files = found
            .fleet
            .files
            .get(digest)
            .into_iter()
            .flat_map(|set| set.files.values());
        blobs.extend(files.filter_map(|file| match &file.content {
            CarriedContent::Blob { id, .. } => Some(id.as_str()),
            CarriedContent::Inline(_) => None,
        }));
    }
    let missing = found.snapshot.tree.entries.iter().filter(|(path, entry)| {
        blobs.contains(entry.blob.as_str())
            && !worktree.has(path)
            && changes.iter().all(|change| change.path != **path)
    });
    let mut files = Vec::new();
    for (path, entry) in missing {
        let failed =
            |error: git2::Error| Failure::doing(format_args!("read {path} of the old commit"), &error);
        let id = Oid::from_str(&entry.blob).map_err(failed)?;
        let odb = worktree.repository().odb().map_err(failed)?;
        let object = odb.read(id).map_err(failed)?;
        if object.kind() == ObjectType::Blob {
            files.push(FileChange {
                path: path.clone(),
                content: object.data().to_vec(),
                executable: entry.mode == FileMode::Executable,
            });
        }
    }
    changes.extend(files);
    Ok(())
}

/// A sliver of a slice that is still there: its node, at the end of the list again.
fn place_again(worktree: &Worktree, found: &Found, id: &SliverId, count: usize) -> Outcome<FileChange> {
    let slice = id.slice.as_str();
    let old = found
        .fleet
        .slices
        .get(&id.slice)
        .and_then(|slice| slice.slivers.get(&id.number));
    let (node, _) = old.ok_or_else(|| Failure::said(format!("the old commit does not place {id}")))?;
    let file = worktree
        .defining(Kind::Slice, slice)
        .ok_or_else(|| Failure::said(format!("no file defines the slice {slice}")))?;
    let editor = Editor::new(&file, Kind::Slice, slice);
    if editor.items(NODES).is_none() {
        return Err(
            Failure::said(format!("{slice} does not name its nodes itself")).hint(format!(
                "raise `replicas` to {} and run `xeno place`",
                u64::from(id.number) + 1
            )),
        );
    }
    if usize::try_from(id.number) != Ok(count) {
        return Err(Failure::said(format!(
            "{slice} has {count} slivers, so the next one is {slice}/{count}"
        ))
        .hint(format!(
            "undelete {slice}/{count} first: numbers follow the order of `placement.nodes`"
        )));
    }
    let text = editor
        .append(NODES, node.as_str())
        .map_err(|error| Failure::tried(&error).hint(format!("add `{node}` to `placement.nodes` by hand")))?;
    Ok(FileChange {
        path: file.path().to_owned(),
        content: text.into_bytes(),
        executable: false,
    })
}

/// Says whether this machine's node still keeps what the slivers wrote. Nobody else can be asked from here.
fn tell_what_is_kept(agent: &AgentArgs, slivers: &[(&NodeName, &SliverId)]) {
    let client = agent.client();
    let asked = wait(async {
        let here = client.status().await?.node.name;
        let tombstones = client.tombstones().await?.tombstones;
        let lines: Vec<String> = slivers
            .iter()
            .filter(|(node, _)| node.as_str() == here)
            .map(|(node, id)| {
                let kept = tombstones
                    .iter()
                    .find(|tombstone| tombstone.sliver == id.to_string());
                match kept {
                    Some(kept) => format!(
                        "{node} keeps what {id} wrote ({}) until {}, and gives it back",
                        output::bytes(kept.bytes),
                        moment(kept.purge_ms)
                    ),
                    None => format!("{node} has set nothing of {id} aside"),
                }
            })
            .collect();
        Ok((here, lines))
    });
    let elsewhere: BTreeSet<&str> = match &asked {
        Ok((here, lines)) => {
            lines.iter().for_each(|line| output::note(line));
            slivers
                .iter()
                .map(|(node, _)| node.as_str())
                .filter(|node| node != here)
                .collect()
        }
        Err(_) => slivers.iter().map(|(node, _)| node.as_str()).collect(),
    };
    if !elsewhere.is_empty() {
        let nodes: Vec<&str> = elsewhere.into_iter().take(6).collect();
        output::note(&format!(
            "not asked whether what they wrote is still kept: {}; `xeno get tombstones` there shows it",
            nodes.join(" ")
        ));
    }
}
