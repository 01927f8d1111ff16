//! The plan of a fleet as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Affected, FleetPlan, Group, Happening, Wave};
use crate::change::{ChangeClass, Disruption};
use crate::moving::How;
use crate::plan::Basis;
use crate::render::{Colour, Style, symbol, tell_order};

/// Most slivers that a line names; of more it says how many.
const NAMED_MAX: usize = 3;

/// The plan, slice by slice and wave by wave. Ends with the line of [`summary`].
#[must_use]
pub fn text(plan: &FleetPlan, colour: Colour) -> String {
    let mut out = header(plan, colour);
    for (name, slice) in &plan.slices {
        for group in &slice.groups {
            out.push('\n');
            self::group(&mut out, plan, (name.as_str(), slice.slivers), group, colour);
        }
    }
    let order = tell_order(&plan.course, plan.way_out.as_ref());
    if !order.is_empty() {
        let _ = write!(out, "\n{order}");
    }
    for (line, note) in remarks(plan) {
        let line = format!("! {line}");
        let _ = writeln!(out, "\n{}", Style::Careful.paint(colour, &line));
        let _ = writeln!(out, "           {note}");
    }
    let _ = writeln!(out, "\n{}", capital(&summary(plan)));
    out
}

/// What happens in all, in one line.
#[must_use]
pub fn summary(plan: &FleetPlan) -> String {
    if plan.is_empty() {
        return format!(
            "nothing to do: all {} stay as they are",
            counted(plan.kept, "sliver")
        );
    }
    let mut counts: BTreeMap<Happening, usize> = BTreeMap::new();
    for group in plan.slices.values().flat_map(|slice| &slice.groups) {
        let happening = match group.happening {
            // However it goes.
            Happening::Move(_) => Happening::Move(How::AtRest),
            happening => happening,
        };
        *counts.entry(happening).or_default() += group.len();
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(happening, _)| std::cmp::Reverse(happening.disruption()));
    let parts: Vec<_> = counts
        .iter()
        .map(|(happening, count)| match happening {
            Happening::Change(ChangeClass::Wait) => format!("{count} waiting"),
            Happening::Change(ChangeClass::InPlace) => format!("{count} to change in place"),
            happening => format!("{count} to {}", happening.word()),
        })
        .collect();
    format!(
        "{}; {} unchanged; on {} of {}",
        parts.join(", "),
        plan.kept,
        plan.touched.len(),
        counted(plan.nodes, "node")
    )
}

/// What is to be known beside what happens: who is not heard of, what is unknown, and what is broken now.
pub(super) fn remarks(plan: &FleetPlan) -> Vec<(String, String)> {
    let mut remarks = Vec::new();
    if !plan.silent.is_empty() {
        let nodes: Vec<_> = plan.silent.iter().map(|node| node.as_str()).collect();
        remarks.push((
            format!("no sign of life: {}", named(&nodes)),
            "what happens there happens once they are back".to_owned(),
        ));
    }
    let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (sliver, why) in &plan.unknown {
        unknown
            .entry(why.to_string())
            .or_default()
            .push(sliver.to_string());
    }
    let from = plan.from.as_ref().map_or("nothing", |from| from.short());
    for (why, slivers) in unknown {
        let slivers: Vec<&str> = slivers.iter().map(String::as_str).collect();
        remarks.push((
            format!("unknown: {}", named(&slivers)),
            format!("{why}; taken to be as {from} asks for"),
        ));
    }
    let mut failed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (sliver, of) in &plan.failed {
        failed
            .entry(&of.why)
            .or_default()
            .push(format!("{sliver} on {}", of.node));
    }
    for (why, slivers) in failed {
        let slivers: Vec<&str> = slivers.iter().map(String::as_str).collect();
        remarks.push((format!("failed now: {}", named(&slivers)), why.to_owned()));
    }
    remarks
}

impl Group {
    /// How many slivers it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waves.values().map(Vec::len).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waves.values().all(Vec::is_empty)
    }

    /// How its rollout goes, in a few words.
    pub(super) fn policy(&self) -> Option<String> {
        use xeno_model::desired::{OnFailure, Share};
        let rollout = self.rollout.as_ref()?;
        let share = |share: Share| match share {
            Share::Count(count) => count.to_string(),
            Share::Percent(percent) => format!("{percent}%"),
        };
        let then = match rollout.on_failure {
            OnFailure::Rollback => "all go back",
            OnFailure::Hold => "it holds",
        };
        Some(format!(
            "at most {} down at once; each wave bakes {}; if more than {} fail, {then}",
            share(rollout.max_unavailable),
            rollout.bake,
            share(rollout.max_failed),
        ))
    }
}

impl Wave {
    /// Its name, by which `xeno rollout status` knows it too.
    pub(super) fn says(&self) -> String {
        let number = self.number + 1;
        match &self.of {
            _ if self.canary => "canary".to_owned(),
            Some(of) => format!("wave {number} {of}"),
            None => format!("wave {number}"),
        }
    }
}

fn header(plan: &FleetPlan, colour: Colour) -> String {
    let from = plan
        .from
        .as_ref()
        .map_or_else(|| "nothing".to_owned(), |from| from.short().to_string());
    let basis = match (plan.basis, &plan.from) {
        (Basis::Observed, _) if plan.unknown.is_empty() => "observed, as the board says".to_owned(),
        (Basis::Observed, _) => {
            let assumed = counted(plan.unknown.len(), "sliver");
            format!("observed, as the board says; {assumed} assumed")
        }
        (Basis::Assumed, Some(from)) => format!("assuming that every node has carried out {}", from.short()),
        (Basis::Assumed, None) => "assuming that nothing runs anywhere".to_owned(),
    };
    let head = format!("fleet {}  {from} -> {}", plan.name, plan.to.short());
    format!("{}  ({basis})\n", Style::Heading.paint(colour, &head))
}

fn group(out: &mut String, plan: &FleetPlan, (slice, slivers): (&str, usize), group: &Group, colour: Colour) {
    let (mark, style) = match group.happening {
        Happening::Change(class) => symbol(class),
        Happening::Move(_) => (">", Style::Good),
    };
    let head = format!("{mark} {:<8} {slice}", group.happening.word());
    let count = match (group.len(), slivers) {
        (len, 0) => counted(len, "sliver"),
        (len, all) => format!("{len} of {}", counted(all, "sliver")),
    };
    let how = match group.happening {
        Happening::Move(how) => format!(", {}", how.word()),
        Happening::Change(_) => String::new(),
    };
    let mut note = note(group.happening.disruption()).to_owned();
    if plan.needs_approval(group.happening) {
        note.push_str(", waits for approval");
    }
    let _ = writeln!(
        out,
        "{}  {count}{how}{}",
        style.paint(colour, &head),
        Style::Faint.paint(colour, &note)
    );
    for reason in &group.reasons {
        let _ = writeln!(out, "           {reason}");
    }
    if let Some(policy) = group.policy() {
        let _ = writeln!(out, "           {}", Style::Faint.paint(colour, &policy));
    }
    let names: Vec<String> = group.waves.keys().flatten().map(Wave::says).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max(7);
    let lines: Vec<_> = group
        .waves
        .iter()
        .map(|(wave, affected)| line((wave.as_ref(), width), affected, plan.basis))
        .collect();
    let widths = [0, 1].map(|column| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    for [wave, slivers, sites] in lines {
        let gap = if widths[0] == 0 { "" } else { "  " };
        let line = format!("{wave:<0$}{gap}{slivers:<1$}  {sites}", widths[0], widths[1]);
        let _ = writeln!(out, "             {}", line.trim_end());
    }
}

/// A wave, its slivers, and where they are.
fn line((wave, width): (Option<&Wave>, usize), affected: &[Affected], basis: Basis) -> [String; 3] {
    let wave = wave.map_or_else(String::new, |wave| {
        format!("{:<width$} {:>4}", wave.says(), affected.len())
    });
    let slivers: Vec<_> = affected
        .iter()
        .map(|affected| match &affected.from {
            Some(from) => format!("{} {from} -> {}", affected.sliver, affected.node),
            // Where no site says where it is.
            None if affected.site.is_none() => format!("{} on {}", affected.sliver, affected.node),
            None => affected.sliver.to_string(),
        })
        .collect();
    let slivers: Vec<&str> = slivers.iter().map(String::as_str).collect();
    let assumed = affected
        .iter()
        .filter(|affected| affected.basis == Basis::Assumed)
        .count();
    // Where all of it is, the first line says so.
    let note = match (basis, assumed) {
        (Basis::Assumed, _) | (Basis::Observed, 0) => String::new(),
        (Basis::Observed, all) if all == affected.len() => "  (assumed)".to_owned(),
        (Basis::Observed, some) => format!("  ({some} assumed)"),
    };
    [wave, named(&slivers), format!("{}{note}", sites(affected))]
}

/// How many there are at which site, most first.
pub(super) fn sites(affected: &[Affected]) -> String {
    let mut sites: BTreeMap<&str, usize> = BTreeMap::new();
    for site in affected.iter().filter_map(|affected| affected.site.as_ref()) {
        *sites.entry(site.as_str()).or_default() += 1;
    }
    let mut sites: Vec<_> = sites.into_iter().collect();
    sites.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let said: Vec<_> = sites
        .iter()
        .map(|(site, count)| {
            if sites.len() == 1 {
                (*site).to_owned()
            } else {
                format!("{site} {count}")
            }
        })
        .collect();
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    named(&said)
}

/// The first few of these, and how many more there are.
pub(super) fn named(all: &[&str]) -> String {
    if all.len() <= NAMED_MAX + 1 {
        return all.join(", ");
    }
    format!(
        "{} and {} more",
        all[..NAMED_MAX].join(", "),
        all.len() - NAMED_MAX
    )
}

pub(super) fn note(disruption: Disruption) -> &'static str {
    match disruption {
        Disruption::None => "",
        Disruption::Reconnects => ", ends connections to the service",
        Disruption::Interrupts => ", interrupts the service",
        Disruption::Ends => ", ends the service",
        Disruption::Destroys => ", destroys what it wrote",
    }
}

pub(super) fn counted(count: usize, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{count} {what}s")
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
