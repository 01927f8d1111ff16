//! A plan in a file: written by `xeno plan --out`, carried out by `xeno apply`.
//!
//! The file holds the plan as `-o json` writes it, and a digest of it. What was edited does not fit its digest; what is
//! stale is the agent's to say.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xeno_model::id::Digest;

use crate::failure::{Failure, Outcome};
use crate::plan_document::PlanDocument;

/// Version of the file.
const FORMAT_VERSION: u32 = 1;

/// What it says it is, for whoever opens it.
const KIND: &str = "Plan";

/// Longest file that is read.
const BYTES_MAX: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PlanFile {
    format_version: u32,
    kind: String,
    digest: String,
    plan: Value,
}

/// Writes a plan to a file that is not there yet or that held a plan before.
pub(crate) fn write(path: &Path, plan: &Value) -> Outcome<()> {
    let failed =
        |error: &dyn std::error::Error| Failure::doing(format_args!("write {}", path.display()), error);
    let file = PlanFile {
        format_version: FORMAT_VERSION,
        kind: KIND.to_owned(),
        digest: digest(plan).to_string(),
        plan: plan.clone(),
    };
    if path.exists() && read_file(path).is_err() {
        return Err(
            Failure::said(format!("{} is there already, and is no plan", path.display()))
                .hint("choose another name".to_owned()),
        );
    }
    let text = serde_json::to_string_pretty(&file).map_err(|error| failed(&error))?;
    std::fs::write(path, text + "\n").map_err(|error| failed(&error))
}

/// Reads a plan, and refuses one that is not as it was written.
pub(crate) fn read(path: &Path) -> Outcome<PlanDocument> {
    let file = read_file(path)?;
    if file.kind != KIND || file.format_version != FORMAT_VERSION {
        return Err(
            Failure::said(format!("{} is no plan that this program knows", path.display()))
                .hint("`xeno plan --out FILE` writes one".to_owned()),
        );
    }
    if file.digest != digest(&file.plan).to_string() {
        return Err(Failure::said(format!(
            "{} was edited: it is not the plan that was made",
            path.display()
        ))
        .hint("to have something else done, change the repository, and plan again".to_owned()));
    }
    PlanDocument::read(&file.plan)
}

fn read_file(path: &Path) -> Outcome<PlanFile> {
    let failed =
        |error: &dyn std::error::Error| Failure::doing(format_args!("read {}", path.display()), error);
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut text = String::new();
    let read = file
        .take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(&error))?;
    if read as u64 > BYTES_MAX {
        return Err(Failure::said(format!(
            "{} is longer than any plan",
            path.display()
        )));
    }
    serde_json::from_str(&text).map_err(|error| {
        Failure::said(format!("{} is no plan: {error}", path.display()))
            .hint("`xeno plan --out FILE` writes one".to_owned())
    })
}

/// Of the plan in canonical form: keys in order, no space.
fn digest(plan: &Value) -> Digest {
    Digest::of(canonical(plan).as_bytes())
}

fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries = entries
                .into_iter()
                .map(|(key, value)| format!("{key:?}:{}", canonical(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan() -> Value {
        json!({
            "formatVersion": 1, "node": "node-a", "revision": "4c1e9a70", "generation": 3, "basis": "observed",
            "summary": "nothing to do", "changes": [], "actions": [],
        })
    }

    #[test]
    fn what_was_edited_is_refused_and_layout_means_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("plan");
        write(&path, &plan()).expect("written");
        assert_eq!(read(&path).expect("a plan").node, "node-a");
        write(&path, &plan()).expect("written again");
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, text.replace("\n", "")).expect("written");
        assert!(read(&path).is_ok());
        for (from, to) in [
            ("node-a", "node-b"),
            ("\"generation\": 3", "\"generation\": 4"),
            ("sha256:", "sha256:0"),
        ] {
            std::fs::write(&path, text.replace(from, to)).expect("written");
            let refused = read(&path).expect_err("refused");
            assert!(format!("{refused:?}").contains("was edited"), "{refused:?}");
        }
        std::fs::write(&path, "something else").expect("written");
        assert!(format!("{:?}", read(&path)).contains("is no plan"));
        assert!(format!("{:?}", write(&path, &plan())).contains("is no plan"));
    }
}
