//! `match`: labels that nodes must have, and what is known of the labels there are.

use std::collections::{BTreeMap, BTreeSet};

use super::{At, Resolver, draft};
use crate::desired::{DesiredFleet, Matching};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::manifest::{Entries, FromText, Kind, NumberRange, Short, Step, Text};

/// The labels of a fleet; `None` if some node cannot be read, which may have any.
pub(super) struct Labels {
    keys: Option<BTreeSet<String>>,
    regions: Option<BTreeSet<String>>,
}

/// What stands for something that is no label.
const WORDS: [&str; 3] = ["node", "site", "region"];

impl Labels {
    pub(super) fn of(fleet: &DesiredFleet, nodes_whole: bool, sites_whole: bool) -> Self {
        let keys = || {
            fleet
                .nodes
                .values()
                .flat_map(|node| node.labels.keys().cloned())
                .collect()
        };
        let regions = || {
            fleet
                .sites
                .values()
                .filter_map(|site| site.region.clone())
                .collect()
        };
        Self {
            keys: nodes_whole.then(keys),
            regions: sites_whole.then(regions),
        }
    }
}

impl<'a> Resolver<'a> {
    /// Which slivers an override is for; `None` if that cannot be told.
    pub(super) fn matching(
        &mut self,
        at: At<'a>,
        path: &[Step<'_>],
        raw: &'a Entries<Text<Short>, Text<Short>>,
        labels: &Labels,
    ) -> Option<draft::Matching> {
        let mut numbers = Some(None);
        let mut found =
            self.entries(
                at,
                path,
                raw,
                labels,
                |resolver, value, place| match NumberRange::from_text(value) {
                    Ok(range) => numbers = Some(Some(range)),
                    Err(error) => {
                        numbers = None;
                        let mut finding = Diagnostic::error(Code::BadValue, place, error.message);
                        finding.help.extend(error.help);
                        resolver.findings.push(finding);
                    }
                },
            )?;
        found.remove(NUMBER);
        Some(draft::Matching {
            labels: Matching(found),
            numbers: numbers?,
        })
    }

    /// Labels that a node must have; `None` if they cannot be told.
    pub(super) fn node_matching(
        &mut self,
        at: At<'a>,
        path: &[Step<'_>],
        raw: &'a Entries<Text<Short>, Text<Short>>,
        labels: &Labels,
    ) -> Option<Matching> {
        let found = self.entries(at, path, raw, labels, |resolver, _, place| {
            let message = "a node has no `number`: slivers have, and are matched by it in `overrides`";
            resolver
                .findings
                .push(Diagnostic::error(Code::BadValue, place, message));
        })?;
        Some(Matching(found))
    }

    fn entries(
        &mut self,
        at: At<'a>,
        path: &[Step<'_>],
        raw: &'a Entries<Text<Short>, Text<Short>>,
        labels: &Labels,
        mut number: impl FnMut(&mut Self, &str, crate::diagnostic::Place),
    ) -> Option<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        let mut whole = raw.whole;
        for (Text(Short(key)), value) in &raw.known {
            let entry = [path, &[Step::Key(key)]].concat();
            let value = value.as_ref().map(|value| value.0.0.as_str());
            match (key.as_str(), value) {
                (_, None) => whole = false,
                (NUMBER, Some(value)) => number(self, value, at.place(&entry)),
                ("node", Some(value)) => drop(self.find(Kind::Node, value, || at.place(&entry))),
                ("site", Some(value)) => drop(self.find(Kind::Site, value, || at.place(&entry))),
                ("region", Some(value)) => {
                    self.known(
                        labels.regions.as_ref(),
                        value,
                        "site is in the region",
                        "regions",
                        || at.place(&entry),
                    );
                }
                (_, Some(_)) => {
                    let keys = labels.keys.as_ref();
                    let keys =
                        keys.map(|keys| keys.iter().cloned().chain(WORDS.map(str::to_owned)).collect());
                    self.known(keys.as_ref(), key, "node has the label", "labels", || {
                        at.key_place(&entry)
                    });
                }
            }
            found.extend(value.map(|value| (key.clone(), value.to_owned())));
        }
        whole.then_some(found)
    }

    /// Reports a word that is not among those there are.
    fn known(
        &mut self,
        known: Option<&BTreeSet<String>>,
        word: &str,
        lacking: &str,
        what: &str,
        place: impl FnOnce() -> crate::diagnostic::Place,
    ) {
        let Some(known) = known.filter(|known| !known.contains(word)) else {
            return;
        };
        let message = format!("no {lacking} `{word}`");
        let mut finding = Diagnostic::error(Code::UnknownName, place(), message);
        finding
            .help
            .extend(did_you_mean(word, known.iter().map(String::as_str), what));
        self.findings.push(finding);
    }
}

const NUMBER: &str = "number";
