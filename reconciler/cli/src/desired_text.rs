//! What a commit asks for as text that is the same for the same meaning: what is compared by `xeno diff`.
//!
//! A sliver is written as the normaliser sees it, defaults filled in and references followed. Everything else is the
//! document of its manifest, written anew, so that layout and comments do not matter.

use std::collections::BTreeMap;

use serde_yaml::Value;
use xeno_agent::source::RepositorySnapshot;
use xeno_model::desired::{DesiredFleet, DesiredSliver};
use xeno_model::id::{NodeName, SliverId};
use xeno_model::manifest::{Editor, Kind, parse_file};
use xeno_model::normal;

use crate::failure::{Failure, Outcome};

/// Names something that a commit describes. Slivers come last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ObjectName {
    /// A document that is not a slice.
    Document {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A sliver.
    Sliver(SliverId),
}

/// Something that a commit describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// The node it is on, or is.
    pub(crate) node: Option<NodeName>,
    /// Canonical YAML.
    pub(crate) text: String,
}

/// All that a commit describes, or what of it concerns one node.
pub(crate) fn objects(
    snapshot: &RepositorySnapshot,
    fleet: &DesiredFleet,
    only: Option<&NodeName>,
) -> Outcome<BTreeMap<ObjectName, Object>> {
    let mut all = BTreeMap::new();
    for file in &snapshot.files {
        let parsed = parse_file(&file.path, &file.content);
        for (kind, name) in parsed.names().filter(|(kind, _)| *kind != Kind::Slice) {
            let node = NodeName::new(name).ok().filter(|_| kind == Kind::Node);
            if only.is_some_and(|only| node.as_ref() != Some(only)) {
                continue;
            }
            let text = Editor::new(&parsed, kind, name)
                .document_text()
                .map_err(|error| Failure::tried(&error))?;
            let value: Value = serde_yaml::from_str(&text)
                .map_err(|error| Failure::doing(format_args!("read {}", file.path), &error))?;
            let name = ObjectName::Document {
                kind: kind.as_str(),
                name: name.to_owned(),
            };
            let text = written(&value)?;
            all.insert(name, Object { node, text });
        }
    }
    for (node, sliver) in fleet.slices.values().flat_map(|slice| slice.slivers.values()) {
        if only.is_none_or(|only| only == node) {
            let text = written(&value(sliver)?)?;
            let node = Some(node.clone());
            all.insert(ObjectName::Sliver(sliver.id.clone()), Object { node, text });
        }
    }
    Ok(all)
}

/// A sliver's text without what makes each number another: what two slivers of a slice have in common.
pub(crate) fn masked(text: &str, sliver: &SliverId) -> String {
    let Ok(Value::Mapping(mut map)) = serde_yaml::from_str::<Value>(text) else {
        return text.to_owned();
    };
    let number = sliver.number;
    map.shift_remove("id");
    map.shift_remove("uuid");
    if let Some(Value::Sequence(ports)) = map.get_mut("publish") {
        for port in ports {
            if let Some(host) = port.get_mut("host")
                && let Some(n) = host.as_u64()
            {
                *host = n.saturating_sub(u64::from(number)).into();
            }
        }
    }
    written(&Value::Mapping(map)).unwrap_or_else(|_| text.to_owned())
}

/// YAML is a superset of JSON, and reading it as such keeps the order of the fields.
fn value(sliver: &DesiredSliver) -> Outcome<Value> {
    let mut value: Value = serde_yaml::from_str(&normal::to_json(sliver))
        .map_err(|error| Failure::doing(format_args!("write {} as YAML", sliver.id), &error))?;
    if let Value::Mapping(map) = &mut value {
        map.shift_remove("formatVersion");
    }
    Ok(value)
}

fn written(value: &Value) -> Outcome<String> {
    serde_yaml::to_string(value).map_err(|error| Failure::doing("write YAML", &error))
}
