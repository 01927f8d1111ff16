//! What a repository's history did to a slice: which commits changed what nodes are asked for.

use std::collections::{BTreeMap, BTreeSet};

use git2::{Oid, Repository};
use xeno_agent::source::RepositorySnapshot;
use xeno_model::desired::{DesiredFleet, DesiredSliver};
use xeno_model::id::{NodeName, Revision, SliceName};
use xeno_model::normal::differences;

use crate::commits::History;
use crate::failure::{Failure, Outcome};
use crate::output;

/// Commits that are looked at before a search is given up.
const COMMITS_MAX: usize = 10_000;

/// Sentences that one commit is told in.
const SENTENCES_MAX: usize = 8;

/// A commit, for people.
#[derive(Clone, Debug)]
pub(crate) struct CommitLine {
    /// Its id.
    pub(crate) revision: Revision,
    /// When it was written, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Who wrote it.
    pub(crate) author: String,
    /// First line of its message.
    pub(crate) subject: String,
}

/// What one commit did to a slice.
pub(crate) struct Step {
    /// The commit.
    pub(crate) commit: CommitLine,
    /// In sentences.
    pub(crate) did: Vec<String>,
}

/// Goes back from `from` along first parents: what was pushed, in the order in which nodes saw it.
pub(crate) struct Walk<'a> {
    history: &'a mut History,
    repository: Repository,
    next: Option<Oid>,
    seen: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(history: &'a mut History, from: &Revision) -> Outcome<Self> {
        let repository = Repository::open(history.reader().path())
            .map_err(|error| Failure::doing("open the repository", &error))?;
        let next =
            Oid::from_str(from.as_str()).map_err(|error| Failure::doing("read a commit's id", &error))?;
        Ok(Self {
            history,
            repository,
            next: Some(next),
            seen: 0,
        })
    }

    /// The next commit that can be read, with what it holds and asks for. One that has mistakes never reached a node.
    pub(crate) fn next(&mut self) -> Outcome<Option<(CommitLine, RepositorySnapshot, DesiredFleet)>> {
        while let Some(id) = self.next.take() {
            self.seen += 1;
            if self.seen > COMMITS_MAX {
                output::note(&format!(
                    "older commits than the last {COMMITS_MAX} were not looked at"
                ));
                return Ok(None);
            }
            let commit = self
                .repository
                .find_commit(id)
                .map_err(|error| Failure::doing(format_args!("read commit {id}"), &error))?;
            self.next = commit.parent_id(0).ok();
            let revision = Revision::new(&id.to_string())
                .map_err(|error| Failure::doing("read a commit's id", &error))?;
            let author = commit.author();
            let line = CommitLine {
                at_ms: u64::try_from(commit.time().seconds())
                    .unwrap_or(0)
                    .saturating_mul(1000),
                author: String::from_utf8_lossy(author.name_bytes()).into_owned(),
                subject: self.history.reader().subject(&revision)?,
                revision,
            };
            // Also a commit from before the fleet's directory was there.
            if let Ok((snapshot, Ok(fleet))) = self.history.read(&line.revision) {
                return Ok(Some((line, snapshot, fleet)));
            }
        }
        Ok(None)
    }
}

type Slivers = BTreeMap<u32, (NodeName, DesiredSliver)>;

/// The commits that changed a slice, newest first, at most `limit`.
pub(crate) fn of_slice(
    history: &mut History,
    from: &Revision,
    slice: &SliceName,
    only: Option<u32>,
    limit: usize,
) -> Outcome<Vec<Step>> {
    let of = |fleet: &DesiredFleet| -> Slivers {
        let slivers = fleet
            .slices
            .get(slice)
            .map(|slice| slice.slivers.clone())
            .unwrap_or_default();
        slivers
            .into_iter()
            .filter(|(number, _)| only.is_none_or(|only| only == *number))
            .collect()
    };
    let mut steps = Vec::new();
    let mut walk = Walk::new(history, from)?;
    let mut newer = walk.next()?.map(|(line, _, fleet)| (line, of(&fleet)));
    while let Some((line, after)) = newer {
        if steps.len() >= limit {
            break;
        }
        let older = walk.next()?.map(|(line, _, fleet)| (line, of(&fleet)));
        let before = older
            .as_ref()
            .map(|(_, slivers)| slivers.clone())
            .unwrap_or_default();
        if before != after {
            let did = told(slice, &before, &after);
            steps.push(Step { commit: line, did });
        }
        newer = older;
    }
    Ok(steps)
}

/// What changed between two states of a slice, slivers with the same news together.
fn told(slice: &SliceName, before: &Slivers, after: &Slivers) -> Vec<String> {
    let mut news: Vec<(String, BTreeSet<u32>)> = Vec::new();
    let mut add = |sentence: String, number: u32| match news.iter_mut().find(|(known, _)| *known == sentence)
    {
        Some((_, numbers)) => {
            numbers.insert(number);
        }
        None => news.push((sentence, BTreeSet::from([number]))),
    };
    for number in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        match (before.get(number), after.get(number)) {
            (None, Some((node, _))) => add(format!("placed on {node}"), *number),
            (Some((node, _)), None) => add(format!("removed from {node}"), *number),
            (Some((was_on, was)), Some((is_on, is))) => {
                if was_on != is_on {
                    add(format!("moved from {was_on} to {is_on}"), *number);
                }
                for difference in differences(was, is) {
                    add(difference.to_string(), *number);
                }
            }
            (None, None) => {}
        }
    }
    let more = news.len().saturating_sub(SENTENCES_MAX);
    let all = before.len().max(after.len());
    let mut sentences: Vec<String> = news
        .into_iter()
        .take(SENTENCES_MAX)
        .map(|(sentence, numbers)| format!("{}: {sentence}", named(slice, &numbers, all)))
        .collect();
    if more > 0 {
        sentences.push(format!("and {more} more"));
    }
    sentences
}

/// `web`, `web/0`, `web/0 web/2`, or `7 of web`.
fn named(slice: &SliceName, numbers: &BTreeSet<u32>, all: usize) -> String {
    if numbers.len() == all && all > 1 {
        return slice.to_string();
    }
    if numbers.len() > 4 {
        return format!("{} of {slice}", numbers.len());
    }
    let names: Vec<String> = numbers.iter().map(|number| format!("{slice}/{number}")).collect();
    names.join(" ")
}
