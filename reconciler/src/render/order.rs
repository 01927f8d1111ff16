//! The moves of a commit over the whole fleet: in which order, which of them never find room, and what would help.

use std::fmt::Write as _;

use xeno_model::desired::DesiredFleet;
use xeno_model::placement::{MOVES_PATH, moves_text};

use crate::moving::order::{Course, Lack, Stuck, course, way_out};

/// Most steps, and most slivers that are stuck, that are shown; of the others how many there are.
const SHOWN_MAX: usize = 40;

/// What comes of the moves between two commits, for people; empty where each finds room as things are.
#[must_use]
pub fn order_of_moves(before: &DesiredFleet, after: &DesiredFleet) -> String {
    let course = course(before, after);
    let way = way_out(before, after, &course);
    tell(&course, way.as_ref())
}

/// The same of moves that were looked at.
pub(crate) fn tell(course: &Course, way: Option<&Course>) -> String {
    let mut text = String::new();
    if course.is_plain() {
        return text;
    }
    if !course.steps.is_empty() {
        text.push_str("Slivers move in this order, so that each finds room:\n");
        steps(&mut text, course);
    }
    if course.stuck.is_empty() {
        return text;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let stay = if course.stuck.len() == 1 {
        "One stays where it is"
    } else {
        "These stay where they are"
    };
    let _ = writeln!(text, "{stay} for want of room:");
    for stuck in course.stuck.iter().take(SHOWN_MAX) {
        let Stuck { sliver, from, .. } = stuck;
        let _ = writeln!(text, "  {sliver} on {from}: {}", lacks(stuck));
    }
    more(&mut text, course.stuck.len());
    match way {
        None => text.push_str("Nothing that waits makes that room: make it, or place them elsewhere.\n"),
        Some(way) => {
            text.push_str("They wait for each other. There is a way, with one of them stopped meanwhile:\n");
            steps(&mut text, way);
            if let Some(first) = way.steps.first() {
                let _ = writeln!(
                    text,
                    "Agents go it once this is in the repository, as {MOVES_PATH}:\n"
                );
                text.push_str(&moves_text(&first.from, &way.turns()));
            }
        }
    }
    text
}

/// What a sliver that is stuck lacks, for people.
pub(crate) fn lacks(stuck: &Stuck) -> String {
    let to = &stuck.to;
    match &stuck.lack {
        Lack::Memory { need_mib, free_mib } => {
            let short = need_mib.saturating_sub(*free_mib);
            format!("it needs {need_mib} MiB on {to}, where {free_mib} are left: {short} MiB are missing")
        }
        Lack::Port(port) => format!("its port {port} is taken on {to}"),
        Lack::Turn => format!("its turn to go to {to} never comes"),
    }
}

fn steps(text: &mut String, course: &Course) {
    for (index, step) in course.steps.iter().enumerate().take(SHOWN_MAX) {
        let way = match &step.to {
            Some(to) => format!("goes from {} to {to}", step.from),
            None => format!("is stopped on {}", step.from),
        };
        let after: Vec<String> = step.after.iter().map(|first| (first + 1).to_string()).collect();
        let after = if after.is_empty() {
            String::new()
        } else {
            format!(", after {}", after.join(", "))
        };
        let at = step.to.as_ref().unwrap_or(&step.from);
        let _ = writeln!(
            text,
            "  {}. {} {way}{after}; {} MiB are left on {at}",
            index + 1,
            step.sliver,
            step.left_mib
        );
    }
    more(text, course.steps.len());
}

fn more(text: &mut String, all: usize) {
    if all > SHOWN_MAX {
        let _ = writeln!(text, "  and {} more", all - SHOWN_MAX);
    }
}
