//! A plan as text that people enjoy reading, and as JSON that programs can rely on.

mod json;
mod order;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use xeno_model::desired::MigrationPolicy;
use xeno_model::id::SliverId;

use crate::action::Action;
use crate::change::{Cause, Change, ChangeClass, Disruption, Reason};
use crate::moving::{How, Moving};
use crate::plan::{Basis, Plan, PlannedAction};
use crate::report;

pub use json::{FORMAT_VERSION, json};
pub(crate) use json::{code_of, disruption_code};
pub use order::order_of_moves;
pub(crate) use order::{lacks, tell as tell_order};

/// Whether text carries colours (ANSI X3.64 sequences).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// It does.
    Ansi,
    /// It does not.
    Plain,
}

/// How a piece of text looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Good,
    Careful,
    Bad,
    Heading,
    Faint,
}

impl Style {
    fn sequence(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Careful => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Heading => "\x1b[1m",
            Self::Faint => "\x1b[2m",
        }
    }

    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        match colour {
            Colour::Ansi => format!("{}{text}\x1b[0m", self.sequence()),
            Colour::Plain => text.to_owned(),
        }
    }
}

/// The plan, by sliver: what happens, why, with which steps and at what cost; what came apart by itself stands apart
/// from what was asked for. Ends with one line that says it all, as [`summary`] does.
#[must_use]
pub fn text(plan: &Plan, colour: Colour) -> String {
    written(plan, colour, None)
}

/// The same with every statement marked *observed* or *assumed*: for plans of several nodes side by side, of which some
/// may have been looked at and others not.
#[must_use]
pub fn marked(plan: &Plan, colour: Colour) -> String {
    written(plan, colour, Some(Margin::of(plan)))
}

/// The column in which every statement says what it is based on.
#[derive(Clone, Copy)]
struct Margin {
    word: &'static str,
    column: usize,
}

impl Margin {
    fn of(plan: &Plan) -> Self {
        let heads = plan
            .changes
            .values()
            .filter(|change| change.class != ChangeClass::Keep)
            .map(|change| {
                let head = head(change).chars().count();
                head + disruption_note(change.class.disruption()).chars().count()
            });
        let moves = plan
            .moves
            .iter()
            .map(|(sliver, moving)| move_head(sliver).chars().count() + move_note(moving).chars().count());
        let heads = heads.chain(moves);
        Self {
            word: basis_word(plan.basis),
            column: heads.max().unwrap_or(0) + 2,
        }
    }

    /// What to put behind a statement of `len` characters.
    fn after(self, len: usize, colour: Colour) -> String {
        let gap = self.column.saturating_sub(len).max(2);
        format!("{:gap$}{}", "", Style::Faint.paint(colour, self.word))
    }
}

fn written(plan: &Plan, colour: Colour, margin: Option<Margin>) -> String {
    let mut out = header(plan, colour);
    out.push('\n');
    let mut actions: BTreeMap<&SliverId, Vec<&PlannedAction>> = BTreeMap::new();
    for planned in &plan.actions {
        // What several share is shown with the first of them.
        if let Some(sliver) = planned.serves.first() {
            actions.entry(sliver).or_default().push(planned);
        }
    }
    let sections = [
        (Cause::Change, None),
        (Cause::Drift, Some("drift: what happened to the node by itself")),
        (Cause::Schedule, Some("due: what was decided earlier")),
    ];
    for (cause, title) in sections {
        let changes: Vec<_> = plan
            .changes
            .values()
            .filter(|change| change.cause == cause && change.class != ChangeClass::Keep)
            .collect();
        if changes.is_empty() {
            continue;
        }
        out.push('\n');
        if let Some(title) = title {
            let _ = writeln!(out, "{}", Style::Heading.paint(colour, title));
        }
        for change in changes {
            let steps = actions.get(&change.sliver).map(Vec::as_slice).unwrap_or_default();
            sliver(&mut out, change, steps, colour, margin);
        }
    }
    if !plan.moves.is_empty() {
        out.push('\n');
    }
    for (sliver, moving) in &plan.moves {
        let (head, note) = (move_head(sliver), move_note(moving));
        let len = head.chars().count() + note.chars().count();
        let mark = margin.map_or_else(String::new, |margin| margin.after(len, colour));
        let (head, note) = (Style::Good.paint(colour, &head), Style::Faint.paint(colour, note));
        let _ = writeln!(out, "{head}{note}{mark}");
        let _ = writeln!(out, "           {}", move_way(plan, moving));
        for planned in actions.get(sliver).into_iter().flatten() {
            let line = format!("{:<9} {}", planned.action.verb(), step(planned));
            let _ = writeln!(out, "             {}", Style::Faint.paint(colour, &line));
        }
    }
    let kept = count(plan, ChangeClass::Keep);
    if kept > 0 && !is_empty(plan) {
        let line = format!("= {kept} unchanged");
        let mark = margin.map_or_else(String::new, |margin| margin.after(line.len(), colour));
        let _ = write!(out, "\n{}{mark}\n", Style::Faint.paint(colour, &line));
    }
    if !is_empty(plan) {
        legend(&mut out, plan, colour);
    }
    let mark = match margin {
        Some(margin) => Style::Faint.paint(colour, &format!("  ({})", margin.word)),
        None => String::new(),
    };
    let _ = write!(
        out,
        "\n{}{mark}\n",
        Style::Heading.paint(colour, &capitalised(&summary(plan)))
    );
    out
}

/// The plan in one line: `2 to create, 1 to reboot, 0 to remove; 5 unchanged; memory 384 -> 512 of 2048 MiB`.
#[must_use]
pub fn summary(plan: &Plan) -> String {
    let kept = count(plan, ChangeClass::Keep);
    if is_empty(plan) {
        return match kept {
            0 => "nothing to do: the node should run nothing, and runs nothing".to_owned(),
            1 | 2 => {
                let names: Vec<_> = plan.changes.keys().map(SliverId::to_string).collect();
                let verb = if kept == 1 { "is" } else { "are" };
                format!("nothing to do: {} {verb} as desired", names.join(" and "))
            }
            _ => format!("nothing to do: all {kept} slivers are as desired"),
        };
    }
    let always = [ChangeClass::Create, ChangeClass::Reboot, ChangeClass::Remove];
    let rest = [
        (ChangeClass::Replace, "to replace"),
        (ChangeClass::InPlace, "to change in place"),
        (ChangeClass::Start, "to start"),
        (ChangeClass::Resume, "to resume"),
        (ChangeClass::HandOver, "to hand over"),
        (ChangeClass::Suspend, "to suspend"),
        (ChangeClass::Stop, "to stop"),
        (ChangeClass::Purge, "to purge"),
        (ChangeClass::Wait, "waiting"),
    ];
    let mut parts: Vec<_> = always
        .into_iter()
        .map(|class| format!("{} to {}", count(plan, class), class.word()))
        .collect();
    for (class, words) in rest {
        let count = count(plan, class);
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    if !plan.moves.is_empty() {
        parts.push(format!("{} to move", plan.moves.len()));
    }
    let mut line = format!("{}; {kept} unchanged", parts.join(", "));
    if let Some(memory) = plan.memory_mib {
        let (now, after, capacity) = (memory.now, memory.after, memory.capacity);
        let _ = if now == after {
            write!(line, "; memory {now} of {capacity} MiB")
        } else {
            write!(line, "; memory {now} -> {after} of {capacity} MiB")
        };
    }
    line
}

/// Whether a plan has nothing to do and nothing that waits.
#[must_use]
pub fn is_empty(plan: &Plan) -> bool {
    let mut changes = plan.changes.values();
    plan.moves.is_empty() && changes.all(|change| change.class == ChangeClass::Keep)
}

fn count(plan: &Plan, class: ChangeClass) -> usize {
    plan.changes
        .values()
        .filter(|change| change.class == class)
        .count()
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

fn header(plan: &Plan, colour: Colour) -> String {
    let node = Style::Heading.paint(colour, plan.node.as_str());
    let basis = basis_word(plan.basis);
    let generation = plan.generation.0;
    let before = plan.applied_generation.0;
    // Generation 0 stands for a plan that no node was asked for: from one commit to another.
    let generation = match (before, generation) {
        (_, 0) => String::new(),
        _ if before == generation => format!("generation {generation}  "),
        _ => format!("generation {before} -> {generation}  "),
    };
    let revision = plan.revision.short();
    format!("node {node}  revision {revision}  {generation}({basis})")
}

pub(crate) fn basis_word(basis: Basis) -> &'static str {
    match basis {
        Basis::Observed => "observed",
        Basis::Assumed => "assumed",
    }
}

pub(crate) fn symbol(class: ChangeClass) -> (&'static str, Style) {
    match class {
        ChangeClass::Keep => ("=", Style::Faint),
        ChangeClass::InPlace => ("~", Style::Careful),
        ChangeClass::Create => ("+", Style::Good),
        ChangeClass::Start => (">", Style::Good),
        ChangeClass::Resume => (">", Style::Good),
        ChangeClass::Replace => ("⇄", Style::Careful),
        ChangeClass::Reboot => ("±", Style::Careful),
        ChangeClass::HandOver => ("»", Style::Careful),
        ChangeClass::Suspend => ("z", Style::Bad),
        ChangeClass::Stop => ("o", Style::Bad),
        ChangeClass::Remove => ("-", Style::Bad),
        ChangeClass::Purge => ("x", Style::Bad),
        ChangeClass::Wait => ("!", Style::Careful),
    }
}

fn meaning(class: ChangeClass) -> &'static str {
    match class {
        ChangeClass::Keep => "stays as it is",
        ChangeClass::InPlace => "changes while it runs",
        ChangeClass::Create => "comes to be",
        ChangeClass::Start => "is started",
        ChangeClass::Resume => "goes on from the image of its memory",
        ChangeClass::HandOver => "ends under this name, another goes on with what it wrote",
        ChangeClass::Suspend => "stops with its memory stored, what it wrote stays",
        ChangeClass::Replace => "another takes over once it is healthy, then this one ends",
        ChangeClass::Reboot => "stops and starts again, what it wrote stays",
        ChangeClass::Stop => "stops, what it wrote stays",
        ChangeClass::Remove => "goes, what it wrote is set aside",
        ChangeClass::Purge => "what was set aside is deleted",
        ChangeClass::Wait => "waits, nothing is done",
    }
}

/// Symbols that are not plain from the word beside them are explained, once, when used.
fn legend(out: &mut String, plan: &Plan, colour: Colour) {
    let explained = [
        ChangeClass::Replace,
        ChangeClass::Reboot,
        ChangeClass::HandOver,
        ChangeClass::Suspend,
        ChangeClass::Stop,
        ChangeClass::Remove,
        ChangeClass::Purge,
    ];
    let used: Vec<_> = explained
        .into_iter()
        .filter(|class| count(plan, *class) > 0)
        .map(|class| format!("{} {}", symbol(class).0, meaning(class)))
        .collect();
    if !used.is_empty() {
        let line = format!("({})", used.join("; "));
        let _ = write!(out, "\n{}\n", Style::Faint.paint(colour, &line));
    }
}

fn disruption_note(disruption: Disruption) -> &'static str {
    match disruption {
        Disruption::None => "",
        Disruption::Reconnects => "  ends connections to the service",
        Disruption::Interrupts => "  interrupts the service",
        Disruption::Ends => "  ends the service",
        Disruption::Destroys => "  destroys what it wrote",
    }
}

/// That a sliver moves, in a line: `> move     web/2`.
fn move_head(sliver: &SliverId) -> String {
    format!("> {:<8} {sliver}", "move")
}

fn move_note(moving: &Moving) -> &'static str {
    disruption_note(moving.how.disruption())
}

/// Where it comes from or goes to, and what goes along.
fn move_way(plan: &Plan, moving: &Moving) -> String {
    let way = if moving.to == plan.node {
        format!("comes from {}", moving.from)
    } else {
        format!("goes to {}", moving.to)
    };
    let along = match moving.how {
        How::Running(MigrationPolicy::Live) => "while it runs, with what it wrote",
        How::Running(MigrationPolicy::Suspend) => "with its memory and what it wrote",
        How::Running(MigrationPolicy::Restart) => "and starts anew, with what it wrote",
        How::AtRest => "at rest, with what it wrote",
    };
    format!("{way} {along}")
}

/// What happens to a sliver, in a line: `± reboot   db/0`.
fn head(change: &Change) -> String {
    let (mark, _) = symbol(change.class);
    format!("{mark} {:<8} {}", change.class.word(), change.sliver)
}

fn sliver(
    out: &mut String,
    change: &Change,
    steps: &[&PlannedAction],
    colour: Colour,
    margin: Option<Margin>,
) {
    let (_, style) = symbol(change.class);
    let head = head(change);
    let undoes = |reason: &Reason| matches!(reason, Reason::GoesBack { .. });
    let undoes = change.reasons.iter().any(undoes);
    let note = match (disruption_note(change.class.disruption()), undoes) {
        (note, false) => note,
        ("", true) => "  undoes what it wrote since",
        (_, true) => "  interrupts the service, undoes what it wrote since",
    };
    let len = head.chars().count() + note.chars().count();
    let mark = margin.map_or_else(String::new, |margin| margin.after(len, colour));
    let head = style.paint(colour, &head);
    let note = if note.is_empty() {
        String::new()
    } else {
        Style::Faint.paint(colour, note)
    };
    let _ = writeln!(out, "{head}{note}{mark}");
    for (reason, text) in change.reasons.iter().zip(report::explain(change)) {
        let text = if reason.holds_back() {
            Style::Careful.paint(colour, &text)
        } else {
            text
        };
        let _ = writeln!(out, "           {text}");
    }
    for planned in steps {
        // Of two embodiments each step says which it is about.
        let which = planned
            .action
            .sliver()
            .filter(|_| change.class == ChangeClass::Replace)
            .map_or_else(String::new, |berth| format!("{berth}: "));
        let line = format!("{:<9} {which}{}", planned.action.verb(), step(planned));
        let _ = writeln!(out, "             {}", Style::Faint.paint(colour, &line));
    }
}

/// What a step does, in a few words, and what it costs.
fn step(planned: &PlannedAction) -> String {
    let what = match &planned.action {
        Action::FetchTemplate { digest, .. } => format!("template {}", digest.short()),
        Action::ImportFiles { digest } => format!("files {}", digest.short()),
        Action::MountRemote { remote } => remote.to_string(),
        Action::OpenWritable { .. } => "writable layer".to_owned(),
        Action::Checkpoint { drops, .. } if drops.is_empty() => "what it wrote so far".to_owned(),
        Action::Checkpoint { drops, .. } => {
            let drops: Vec<_> = drops.iter().map(String::as_str).collect();
            format!("what it wrote so far, and drops {}", drops.join(", "))
        }
        Action::Restore { name, .. } => format!("writable layer to {name}"),
        Action::Limit {
            epoch: None, share, ..
        } => format!("share {share} of the file server"),
        Action::Limit { limits, share, .. } => {
            format!("writable layer to {limits}, share {share} of the file server")
        }
        Action::Stack { stack, .. } => format!("layers as {}", stack.short()),
        Action::Export { .. } => "to its domain only".to_owned(),
        Action::Boot { boot, .. } => format!("as {}", boot.short()),
        Action::Resume { boot, .. } => format!("as {}", boot.short()),
        Action::Unpause { .. } => "domain".to_owned(),
        Action::Unpublish { .. } => "its ports no more".to_owned(),
        Action::Retune { tuning, .. } | Action::Publish { tuning, .. } => {
            let limits = &tuning.limits;
            let mut words = vec![format!("{} MiB", tuning.memory_mib)];
            let weight = Some(limits.cpu_weight).filter(|weight| *weight != 256);
            words.extend(weight.map(|weight| format!("cpu weight {weight}")));
            words.extend(limits.cpu_cap_percent.map(|cap| format!("cpu cap {cap}%")));
            words.extend(limits.net_rate.map(|rate| format!("network rate {rate}")));
            words.extend(
                tuning
                    .publish
                    .iter()
                    .map(|p| format!("port {}:{}", p.host, p.guest)),
            );
            words.join(", ")
        }
        Action::Suspend { .. } => "memory to an image".to_owned(),
        Action::Seal { .. } => "image with its writable layer".to_owned(),
        Action::DiscardImage { .. } => "image of its memory".to_owned(),
        Action::Revive { .. } => "writable layer from what was set aside".to_owned(),
        Action::Adopt { from, .. } => format!("writable layer of {from}"),
        Action::AwaitHealthy { .. } => "its health check".to_owned(),
        Action::Shutdown { .. } => "domain".to_owned(),
        Action::Unexport { .. } => "stop serving".to_owned(),
        Action::CloseWritable { .. } => "writable layer".to_owned(),
        Action::Tombstone { .. } => "writable layer set aside".to_owned(),
        Action::Purge { .. } => "writable layer deleted".to_owned(),
    };
    let mut notes = Vec::new();
    match planned.cost.bytes {
        None => notes.push("size unknown until fetched".to_owned()),
        Some(0) => {}
        Some(bytes) => notes.push(amount(bytes)),
    }
    if planned.cost.memory_mib != 0 {
        notes.push(format!("{:+} MiB memory", planned.cost.memory_mib));
    }
    let others = planned.serves.len().saturating_sub(1);
    if others > 0 {
        notes.push(format!("shared with {others} more"));
    }
    if notes.is_empty() {
        what
    } else {
        format!("{what} ({})", notes.join(", "))
    }
}

/// An amount of bytes to about three digits: `203 MiB`.
#[must_use]
pub fn amount(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut whole, mut tenths, mut unit) = (bytes / 1024, bytes % 1024 * 10 / 1024, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if whole >= 10 || tenths == 0 {
        format!("{whole} {}", UNITS[unit])
    } else {
        format!("{whole}.{tenths} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests;
