//! Where slivers are said to be, and how a command changes that: each sliver where its own slice says it.

use std::collections::BTreeMap;

use xeno_model::desired::{DesiredFleet, SiteRule};
use xeno_model::id::{NodeName, SliverId};
use xeno_model::manifest::{EditError, Editor, Kind, ParsedFile, Step, parse_file};

use crate::failure::{Failure, Outcome};
use crate::output::{self, BAD, BOLD};
use crate::worktree::{FileChange, Worktree};

const SLIVERS: [Step<'static>; 2] = [Step::Key("spec"), Step::Key("slivers")];
const NODES: [Step<'static>; 3] = [Step::Key("spec"), Step::Key("placement"), Step::Key("nodes")];

/// Changes of manifests that are put together one after the other, and written together.
pub(crate) struct Edits<'a> {
    worktree: &'a Worktree,
    /// What files say by now, by path.
    texts: BTreeMap<String, String>,
}

impl<'a> Edits<'a> {
    /// None yet.
    pub(crate) fn new(worktree: &'a Worktree) -> Self {
        Self {
            worktree,
            texts: BTreeMap::new(),
        }
    }

    /// Has a sliver be on a node: in the `nodes` of its slice, or in its lock.
    pub(crate) fn place(&mut self, sliver: &SliverId, node: &NodeName) -> Outcome<()> {
        let slice = sliver.slice.as_str();
        let index = usize::try_from(sliver.number).unwrap_or(usize::MAX);
        let itself = [&NODES[..], &[Step::Index(index)]].concat();
        let stated = self
            .file(Kind::Slice, slice)
            .is_some_and(|file| Editor::new(&file, Kind::Slice, slice).items(&NODES).is_some());
        if stated {
            return self.edit(
                Kind::Slice,
                slice,
                |editor| editor.set_name(&itself, node.as_str()),
                &format!("put `{node}` there by hand"),
            );
        }
        let key = sliver.to_string();
        let locked = [&SLIVERS[..], &[Step::Key(&key)]].concat();
        self.edit(
            Kind::Placement,
            slice,
            |editor| editor.set_name(&locked, node.as_str()),
            &format!("put `{key}: {node}` there by hand"),
        )
    }

    /// Changes the document of that kind and name.
    pub(crate) fn edit(
        &mut self,
        kind: Kind,
        name: &str,
        change: impl FnOnce(&Editor<'_>) -> Result<String, EditError>,
        by_hand: &str,
    ) -> Outcome<()> {
        let file = self
            .file(kind, name)
            .ok_or_else(|| Failure::said(format!("no file defines the {} {name}", kind.noun())))?;
        let text = change(&Editor::new(&file, kind, name))
            .map_err(|error| Failure::tried(&error).hint(by_hand.to_owned()))?;
        self.texts.insert(file.path().to_owned(), text);
        Ok(())
    }

    /// What is to be written.
    pub(crate) fn changes(self) -> Vec<FileChange> {
        let change = |(path, text): (String, String)| FileChange {
            path,
            content: text.into_bytes(),
            executable: false,
        };
        self.texts.into_iter().map(change).collect()
    }

    /// The file that defines a name, as it is by now.
    fn file(&self, kind: Kind, name: &str) -> Option<ParsedFile> {
        let file = self.worktree.defining(kind, name)?;
        Some(match self.texts.get(file.path()) {
            Some(text) => parse_file(file.path(), text.as_bytes()),
            None => file,
        })
    }
}

/// The node of a sliver.
pub(crate) fn node_of<'f>(fleet: &'f DesiredFleet, sliver: &SliverId) -> Option<&'f NodeName> {
    let slice = fleet.slices.get(&sliver.slice)?;
    slice.slivers.get(&sliver.number).map(|(node, _)| node)
}

/// The node that is meant, if there is one.
pub(crate) fn named<'f>(fleet: &'f DesiredFleet, node: &NodeName) -> Outcome<&'f xeno_model::desired::Node> {
    fleet.nodes.get(node).ok_or_else(|| {
        let known = fleet.nodes.keys().map(NodeName::as_str);
        Failure::said(format!("there is no node {node}")).hint(xeno_model::diagnostic::did_you_mean(
            node.as_str(),
            known,
            "nodes",
        ))
    })
}

/// Refuses what would put slivers where the owner of a site does not run them, and that ran before: such a placement reads
/// well, and the guest would stop.
pub(crate) fn refuse_stops(before: &DesiredFleet, after: &DesiredFleet) -> Outcome<()> {
    let old: BTreeMap<SliverId, SiteRule> = ruled_out(before);
    let new: Vec<(SliverId, SiteRule)> = ruled_out(after)
        .into_iter()
        .filter(|(sliver, _)| !old.contains_key(sliver))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    for (sliver, rule) in &new {
        let at = node_of(after, sliver).and_then(|node| after.nodes.get(node));
        let site = at.map_or_else(String::new, |node| format!("the site {} ", node.site));
        output::note(&output::labelled(
            BAD,
            "error",
            &format!("{sliver} would stop: {site}{rule}"),
        ));
    }
    output::note(&output::labelled(
        BOLD,
        "help",
        "name a node of another site, or ask the site's owner",
    ));
    output::note("nothing was written");
    Err(Failure::Shown)
}

fn ruled_out(fleet: &DesiredFleet) -> BTreeMap<SliverId, SiteRule> {
    let sites = fleet.sites.values();
    sites.flat_map(|site| fleet.ruled_out(&site.policy)).collect()
}

/// Reads the name of a node from the command line.
pub(crate) fn node(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).map_err(|error| error.to_string())
}
