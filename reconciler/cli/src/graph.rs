//! Plans as pictures: the graph of their actions in the languages of Graphviz and of Mermaid.
//!
//! # Source
//! Graphviz: <https://graphviz.org/doc/info/lang.html>. Mermaid: <https://mermaid.js.org/syntax/flowchart.html>.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::output;
use crate::plan_document::{ActionDocument, ChangeDocument, PlanDocument};

/// How an action looks, by what happens to its sliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Comes,
    Changes,
    Goes,
    Shared,
    Waits,
}

impl Look {
    const ALL: [Self; 5] = [Self::Comes, Self::Changes, Self::Goes, Self::Shared, Self::Waits];

    fn of(class: Option<&str>) -> Self {
        match class {
            Some("create" | "start" | "resume") => Self::Comes,
            Some("stop" | "suspend" | "remove" | "purge") => Self::Goes,
            Some("wait") => Self::Waits,
            Some(_) => Self::Changes,
            None => Self::Shared,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Comes => "comes",
            Self::Changes => "changes",
            Self::Goes => "goes",
            Self::Shared => "shared",
            Self::Waits => "waits",
        }
    }

    /// Fill and border: dark enough on white paper, light enough for black letters.
    fn colours(self) -> (&'static str, &'static str) {
        match self {
            Self::Comes => ("#e3f4e3", "#2e7d32"),
            Self::Changes => ("#fff4d6", "#b26a00"),
            Self::Goes => ("#fde3e1", "#b3261e"),
            Self::Shared => ("#eef1f6", "#55607a"),
            Self::Waits => ("#ffffff", "#8a8a8a"),
        }
    }
}

/// Actions of one sliver, or those that several share, in the order of the plan.
struct Group<'a> {
    title: String,
    look: Look,
    actions: Vec<&'a ActionDocument>,
    /// Why nothing is done, where that is so.
    note: Option<String>,
}

fn groups(plan: &PlanDocument) -> Vec<Group<'_>> {
    let mut by_sliver: BTreeMap<Option<&str>, Vec<&ActionDocument>> = BTreeMap::new();
    for action in &plan.actions {
        by_sliver
            .entry(action.sliver.as_deref())
            .or_default()
            .push(action);
    }
    let mut all = Vec::new();
    if let Some(actions) = by_sliver.remove(&None) {
        all.push(Group {
            title: "shared".to_owned(),
            look: Look::Shared,
            actions,
            note: None,
        });
    }
    let changes: BTreeMap<&str, &ChangeDocument> = plan
        .changes
        .iter()
        .map(|change| (change.sliver.as_str(), change))
        .collect();
    for change in changes.values() {
        let actions = by_sliver
            .remove(&Some(change.sliver.as_str()))
            .unwrap_or_default();
        let waits = change.class == "wait";
        if actions.is_empty() && !waits {
            continue;
        }
        let reason = change.reasons.first().map(|reason| reason.text.clone());
        all.push(Group {
            title: format!("{}: {}", change.sliver, words(&change.class)),
            look: Look::of(Some(&change.class)),
            actions,
            note: reason.filter(|_| waits),
        });
    }
    // An action for a sliver that the plan says nothing of cannot be, and is drawn all the same.
    for (sliver, actions) in by_sliver {
        all.push(Group {
            title: sliver.unwrap_or("shared").to_owned(),
            look: Look::Changes,
            actions,
            note: None,
        });
    }
    all
}

/// `inPlace` as people read it.
fn words(class: &str) -> String {
    class.chars().fold(String::new(), |mut text, c| {
        if c.is_ascii_uppercase() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
        text
    })
}

/// The lines in an action's box: what it does, to what, at what cost.
fn lines(action: &ActionDocument) -> Vec<String> {
    let object = action.key.split_once(':').map_or("", |(_, object)| object);
    let mut lines = vec![action.verb.clone()];
    if action.sliver.is_none() {
        lines.push(object.to_owned());
    }
    if let Some(bytes) = action.bytes.filter(|bytes| *bytes > 0) {
        lines.push(output::bytes(bytes));
    }
    if action.memory_mib != 0 {
        lines.push(format!("{:+} MiB memory", action.memory_mib));
    }
    lines
}

/// The plans as one directed graph for `dot`: a cluster for each node, and in it one for each sliver.
pub(crate) fn dot(plans: &[PlanDocument]) -> String {
    let mut out = String::from(
        "digraph plan {\n  rankdir=LR;\n  fontname=\"sans-serif\";\n  node [shape=box, style=\"rounded,filled\", \
         fontname=\"sans-serif\", fontsize=11];\n  edge [color=\"#55607a\"];\n",
    );
    for plan in plans {
        let node = &plan.node;
        let _ = writeln!(out, "  subgraph {} {{", quoted(&format!("cluster {node}")));
        let _ = writeln!(out, "    label={};", quoted(&plan.title()));
        let _ = writeln!(out, "    color=\"#55607a\";");
        let groups = groups(plan);
        if groups.is_empty() {
            let id = quoted(&format!("{node} nothing"));
            let _ = writeln!(
                out,
                "    {id} [label={}, shape=plain, style=\"\"];",
                quoted(&plan.summary)
            );
        }
        for group in groups {
            let (fill, border) = group.look.colours();
            let cluster = quoted(&format!("cluster {node} {}", group.title));
            let _ = writeln!(out, "    subgraph {cluster} {{");
            let _ = writeln!(out, "      label={};", quoted(&group.title));
            let _ = writeln!(out, "      color={};", quoted(border));
            for action in &group.actions {
                let _ = writeln!(
                    out,
                    "      {} [label={}, fillcolor={}, color={}];",
                    quoted(&format!("{node} {}", action.key)),
                    quoted(&lines(action).join("\n")),
                    quoted(fill),
                    quoted(border),
                );
            }
            if let Some(note) = &group.note {
                let id = quoted(&format!("{node} {}", group.title));
                let label = quoted(&output::folded(note, NOTE_COLUMNS).join("\n"));
                let _ = writeln!(out, "      {id} [label={label}, shape=note, style=\"\"];");
            }
            out.push_str("    }\n");
        }
        out.push_str("  }\n");
    }
    for plan in plans {
        for action in &plan.actions {
            for before in &action.after {
                let id = |key: &str| quoted(&format!("{} {key}", plan.node));
                let _ = writeln!(out, "  {} -> {};", id(before), id(&action.key));
            }
        }
    }
    out.push_str("}\n");
    out
}

/// The same for Mermaid, as Markdown on most forges shows it in a block marked `mermaid`.
pub(crate) fn mermaid(plans: &[PlanDocument]) -> String {
    let mut out = String::from("flowchart LR\n");
    let mut clusters = 0_usize;
    let mut edges = String::new();
    let mut looks: BTreeMap<Look, Vec<String>> = BTreeMap::new();
    for (i, plan) in plans.iter().enumerate() {
        let mut ids: BTreeMap<&str, String> = BTreeMap::new();
        let mut cluster = || {
            clusters += 1;
            format!("c{clusters}")
        };
        let _ = writeln!(out, "  subgraph {}[{}]", cluster(), entity(&[plan.title()]));
        let groups = groups(plan);
        if groups.is_empty() {
            let _ = writeln!(out, "    p{i}_0[{}]", entity(std::slice::from_ref(&plan.summary)));
        }
        let mut count = 0_usize;
        for group in groups {
            let _ = writeln!(
                out,
                "    subgraph {}[{}]",
                cluster(),
                entity(std::slice::from_ref(&group.title))
            );
            for action in &group.actions {
                count += 1;
                let id = format!("p{i}_{count}");
                let _ = writeln!(out, "      {id}[{}]", entity(&lines(action)));
                looks.entry(group.look).or_default().push(id.clone());
                ids.insert(action.key.as_str(), id);
            }
            if let Some(note) = &group.note {
                count += 1;
                let id = format!("p{i}_{count}");
                let _ = writeln!(out, "      {id}[{}]", entity(&output::folded(note, NOTE_COLUMNS)));
                looks.entry(Look::Waits).or_default().push(id);
            }
            out.push_str("    end\n");
        }
        out.push_str("  end\n");
        for action in &plan.actions {
            for before in &action.after {
                if let (Some(before), Some(after)) = (ids.get(before.as_str()), ids.get(action.key.as_str()))
                {
                    let _ = writeln!(edges, "  {before} --> {after}");
                }
            }
        }
    }
    out.push_str(&edges);
    for look in Look::ALL {
        if let Some(ids) = looks.get(&look) {
            let (fill, border) = look.colours();
            let _ = writeln!(
                out,
                "  classDef {} fill:{fill},stroke:{border},color:#000000",
                look.name()
            );
            let _ = writeln!(out, "  class {} {}", ids.join(","), look.name());
        }
    }
    out
}

/// Columns of a note in a picture.
const NOTE_COLUMNS: usize = 44;

/// A quoted string of the DOT language, in which only `"` and `\` mean something.
fn quoted(text: &str) -> String {
    let text = output::clean(text).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('\n', "\\n"))
}

/// A quoted label of Mermaid, lines apart; everything that could mean something is written as an entity.
fn entity(lines: &[String]) -> String {
    let plain = |c: char| {
        c.is_alphanumeric() || matches!(c, ' ' | '.' | ',' | ':' | '/' | '-' | '+' | '_' | '(' | ')')
    };
    let escaped = |line: &String| {
        output::clean(line).chars().fold(String::new(), |mut text, c| {
            if plain(c) {
                text.push(c);
            } else {
                let _ = write!(text, "#{};", u32::from(c));
            }
            text
        })
    };
    format!(
        "\"{}\"",
        lines.iter().map(escaped).collect::<Vec<_>>().join("<br/>")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn plan() -> PlanDocument {
        let action = |key: &str, sliver: Option<&str>, after: &[&str]| {
            json!({
                "key": key, "verb": key.split(':').next(), "sliver": sliver, "serves": ["web/0"], "after": after,
                "bytes": null, "memoryMib": if key.starts_with("boot") { 256 } else { 0 },
            })
        };
        let plan = json!({
            "formatVersion": 1, "node": "node-a", "revision": "4c1e9a70aaaa", "generation": 3, "basis": "assumed",
            "summary": "1 to create",
            "changes": [
                {"sliver": "fat/0", "class": "wait", "cause": "change",
                 "reasons": [{"code": "noRoom", "text": "needs \"8192\" MiB, and 1 [of] 2 are\\free; it waits for somebody to change it"}]},
                {"sliver": "old/0", "class": "keep", "cause": "change", "reasons": []},
                {"sliver": "web/0", "class": "inPlace", "cause": "change", "reasons": []},
            ],
            "actions": [
                action("fetch:d2d2d2d2d2d2", None, &[]),
                action("export:web/0", Some("web/0"), &["fetch:d2d2d2d2d2d2"]),
                action("boot:web/0", Some("web/0"), &["export:web/0", "fetch:d2d2d2d2d2d2"]),
            ],
        });
        PlanDocument::read(&plan).expect("a plan")
    }

    #[test]
    fn a_graph_for_dot_has_every_action_and_edge() {
        let text = dot(&[plan()]);
        for part in [
            "\"node-a fetch:d2d2d2d2d2d2\" [label=\"fetch\\nd2d2d2d2d2d2\"",
            "\"node-a boot:web/0\" [label=\"boot\\n+256 MiB memory\"",
            "\"node-a export:web/0\" -> \"node-a boot:web/0\";",
            "\"node-a fetch:d2d2d2d2d2d2\" -> \"node-a boot:web/0\";",
            "label=\"web/0: in place\"",
            "needs \\\"8192\\\" MiB",
            "are\\\\free",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(!text.contains("old/0"), "{text}");
    }

    #[test]
    fn a_graph_for_mermaid_is_well_formed() {
        let text = mermaid(&[plan(), plan()]);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("flowchart LR"));
        let (mut open, mut ids, mut edges) = (0, BTreeSet::new(), 0);
        for line in lines.map(str::trim) {
            if line.starts_with("subgraph ") {
                open += 1;
                assert!(line.ends_with("\"]"), "{line}");
            } else if line == "end" {
                open -= 1;
            } else if let Some((before, after)) = line.split_once(" --> ") {
                assert!(ids.contains(before) && ids.contains(after), "{line}");
                edges += 1;
            } else if let Some((id, label)) = line.split_once('[') {
                assert!(ids.insert(id), "{line} again");
                let inner = label
                    .strip_prefix('"')
                    .and_then(|label| label.strip_suffix("\"]"));
                let inner = inner.expect("a quoted label");
                assert!(!inner.contains(['"', '[', ']', '\\']), "{line}");
            } else {
                assert!(
                    line.starts_with("classDef ") || line.starts_with("class "),
                    "{line}"
                );
            }
            assert!(open >= 0);
        }
        assert_eq!((open, edges, ids.len()), (0, 6, 8));
    }

    #[test]
    fn a_plan_of_another_format_is_not_guessed_at() {
        let plan = json!({
            "formatVersion": 2, "node": "n", "revision": "r", "basis": "observed", "summary": "", "changes": [],
            "actions": [],
        });
        assert!(PlanDocument::read(&plan).is_err());
    }
}
