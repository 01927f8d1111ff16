//! The plan of a fleet as a comment on a change: Markdown as forges read it (GitHub Flavored Markdown, tables).

use std::fmt::Write as _;

use super::text::{named, note, remarks, sites, summary};
use super::{FleetPlan, Happening, Wave};
use crate::render::tell_order;

/// Most rows of the table; a comment on most forges holds 65,536 characters.
const ROWS_MAX: usize = 200;

/// The plan as Markdown: a heading, what happens in all, and a table by slice and wave.
#[must_use]
pub fn markdown(plan: &FleetPlan) -> String {
    let from = plan
        .from
        .as_ref()
        .map_or_else(|| "nothing".to_owned(), |from| format!("`{}`", from.short()));
    let mut out = format!(
        "### Plan for the fleet `{}`: {from} to `{}`\n\n**{}**\n",
        plan.name,
        plan.to.short(),
        escaped(&summary(plan))
    );
    if !plan.is_empty() {
        table(&mut out, plan);
    }
    let order = tell_order(&plan.course, plan.way_out.as_ref());
    if !order.is_empty() {
        // Names and numbers alone: nothing in it ends the block.
        let _ = writeln!(out, "\n```text\n{order}```");
    }
    for (what, note) in remarks(plan) {
        let _ = writeln!(out, "\n**{}**: {}", escaped(&what), escaped(&note));
    }
    out
}

/// A row for each slice, what happens, and wave.
fn table(out: &mut String, plan: &FleetPlan) {
    out.push_str(
        "\n| Slice | What happens | Wave | Slivers | | Sites | Why |\n|---|---|---|--:|---|---|---|\n",
    );
    let mut rows = 0_usize;
    for (name, slice) in &plan.slices {
        for group in &slice.groups {
            for (wave, affected) in &group.waves {
                rows += 1;
                if rows > ROWS_MAX {
                    continue;
                }
                let slivers: Vec<_> = affected
                    .iter()
                    .map(|affected| match &affected.from {
                        Some(from) => format!("{} {from} \u{2192} {}", affected.sliver, affected.node),
                        None => affected.sliver.to_string(),
                    })
                    .collect();
                let slivers: Vec<&str> = slivers.iter().map(String::as_str).collect();
                let how = match group.happening {
                    Happening::Move(how) => format!(", {}", how.word()),
                    Happening::Change(_) => String::new(),
                };
                let waits = if plan.needs_approval(group.happening) {
                    ", waits for approval"
                } else {
                    ""
                };
                let what = format!(
                    "{}{how}{}{waits}",
                    group.happening.word(),
                    note(group.happening.disruption())
                );
                let wave = wave.as_ref().map_or_else(String::new, Wave::says);
                let mut why = group.reasons.clone();
                why.extend(group.policy());
                let cells = [
                    format!("`{name}`"),
                    what,
                    wave,
                    affected.len().to_string(),
                    named(&slivers),
                    sites(affected),
                    why.join("; "),
                ];
                let _ = writeln!(out, "| {} |", cells.map(|cell| escaped(&cell)).join(" | "));
            }
        }
    }
    if rows > ROWS_MAX {
        let _ = writeln!(out, "\n\u{2026} and {} rows more.", rows - ROWS_MAX);
    }
}

/// Text in a cell: nothing in it ends the cell, or is a mention, a link or markup.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '|' | '\\' | '*' | '_' | '[' | ']' | '#' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '@' => out.push_str("@\u{200b}"),
            c => out.push(c),
        }
    }
    out
}
