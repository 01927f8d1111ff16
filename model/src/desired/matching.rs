//! Which nodes a manifest means: labels that they must have.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::DesiredFleet;
use crate::id::{NodeName, SiteName};

/// Where a node is, as `match` sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Where it stands.
    pub site: SiteName,
    /// Part of the world that the site is in.
    pub region: Option<String>,
    /// What somebody has said of it.
    pub labels: BTreeMap<String, String>,
}

/// Labels that a node must have, all of them. `node`, `site` and `region` stand for what they say.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Matching(pub BTreeMap<String, String>);

impl Matching {
    /// Whether a node has them.
    #[must_use]
    pub fn holds(&self, name: &NodeName, at: &Whereabouts) -> bool {
        self.holds_for(name, &at.site, at.region.as_deref(), &at.labels)
    }

    pub(crate) fn holds_for(
        &self,
        name: &NodeName,
        site: &SiteName,
        region: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        self.0.iter().all(|(key, value)| {
            let found = match key.as_str() {
                "node" => Some(name.as_str()),
                "site" => Some(site.as_str()),
                "region" => region,
                label => labels.get(label).map(String::as_str),
            };
            found == Some(value.as_str())
        })
    }
}

impl fmt::Display for Matching {
    /// As manifests write it: `{ site: tokyo, tier: edge }`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self
            .0
            .iter()
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        f.pad(&format!("{{ {} }}", pairs.join(", ")))
    }
}

impl DesiredFleet {
    /// Where all nodes are.
    #[must_use]
    pub fn whereabouts(&self) -> BTreeMap<NodeName, Arc<Whereabouts>> {
        let nodes = self.nodes.iter();
        let at = nodes.map(|(name, node)| {
            let at = Whereabouts {
                site: node.site.clone(),
                region: self.sites.get(&node.site).and_then(|site| site.region.clone()),
                labels: node.labels.clone(),
            };
            (name.clone(), Arc::new(at))
        });
        at.collect()
    }
}
