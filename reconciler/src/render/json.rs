//! The JSON form of a plan. Its field names are a promise: a change of meaning raises [`FORMAT_VERSION`].

use serde::Serialize;
use xeno_model::id::SliverId;

use super::{basis_word, summary};
use crate::change::{Cause, Change, ChangeClass, Disruption, Reason};
use crate::plan::{Plan, PlannedAction};
use crate::report;

/// Version of the form, in every document as `formatVersion`.
pub const FORMAT_VERSION: u32 = 1;

/// The plan as one JSON document, indented, ending with a newline.
///
/// # Shape
/// `formatVersion`, `node`, `revision` (40 digits), `generation` and `appliedGeneration`, `basis` (`observed` or
/// `assumed`), `summary` (the closing line of the text), `memoryMib` (`capacity`, `now`, `after`; null where the domains
/// could not be seen), `next` (milliseconds since 1970 at which time alone may change the plan, or null), `changes` by sliver: `sliver`, `class` (`keep`, `inPlace`, `create`, `start`, `resume`, `reboot`, `handOver`,
/// `suspend`, `stop`, `remove`, `purge`, `wait`, `move`), `from` and `to` (nodes; only where it moves), `cause` (`change`, `drift`, `schedule`), `disruption` (`none`, `interrupts`, `ends`,
/// `destroys`), `reasons` (each a `code` that stays and a `text` that may get better; what a `wait` waits for comes
/// first); `actions` in order: `key`, `verb`, `sliver` (null where several share it),
/// `serves`, `after` (keys), `bytes` (null: unknown), `memoryMib`.
#[must_use]
pub fn json(plan: &Plan) -> String {
    let document = PlanRecord {
        format_version: FORMAT_VERSION,
        node: plan.node.as_str(),
        revision: plan.revision.as_str(),
        generation: plan.generation.0,
        applied_generation: plan.applied_generation.0,
        basis: basis_word(plan.basis),
        summary: summary(plan),
        memory_mib: plan.memory_mib.map(|memory| MemoryRecord {
            capacity: memory.capacity,
            now: memory.now,
            after: memory.after,
        }),
        next: plan.next.map(|at| at.0),
        changes: changes(plan),
        actions: plan.actions.iter().map(ActionRecord::from).collect(),
    };
    let mut text = serde_json::to_string_pretty(&document)
        .expect("structs of strings, numbers and sequences are always JSON");
    text.push('\n');
    text
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlanRecord<'a> {
    format_version: u32,
    node: &'a str,
    revision: &'a str,
    generation: u64,
    applied_generation: u64,
    basis: &'static str,
    summary: String,
    memory_mib: Option<MemoryRecord>,
    next: Option<u64>,
    changes: Vec<ChangeRecord>,
    actions: Vec<ActionRecord>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemoryRecord {
    capacity: u64,
    now: u64,
    after: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeRecord {
    sliver: String,
    class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    cause: &'static str,
    disruption: &'static str,
    reasons: Vec<ReasonRecord>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReasonRecord {
    code: &'static str,
    text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActionRecord {
    key: String,
    verb: &'static str,
    sliver: Option<String>,
    serves: Vec<String>,
    after: Vec<String>,
    bytes: Option<u64>,
    memory_mib: i64,
}

/// The word for a class that stays.
pub(crate) fn code_of(class: ChangeClass) -> &'static str {
    match class {
        ChangeClass::InPlace => "inPlace",
        ChangeClass::HandOver => "handOver",
        ChangeClass::Keep
        | ChangeClass::Create
        | ChangeClass::Start
        | ChangeClass::Resume
        | ChangeClass::Replace
        | ChangeClass::Reboot
        | ChangeClass::Suspend
        | ChangeClass::Stop
        | ChangeClass::Remove
        | ChangeClass::Purge
        | ChangeClass::Wait => class.word(),
    }
}

/// The word for a disruption that stays.
pub(crate) fn disruption_code(disruption: Disruption) -> &'static str {
    match disruption {
        Disruption::None => "none",
        Disruption::Reconnects => "reconnects",
        Disruption::Interrupts => "interrupts",
        Disruption::Ends => "ends",
        Disruption::Destroys => "destroys",
    }
}

/// What happens to each sliver, by sliver.
fn changes(plan: &Plan) -> Vec<ChangeRecord> {
    let mut changes: Vec<(&SliverId, ChangeRecord)> = plan
        .changes
        .iter()
        .map(|(sliver, change)| (sliver, ChangeRecord::from(change)))
        .collect();
    changes.extend(plan.moves.iter().map(|(sliver, moving)| {
        let record = ChangeRecord {
            sliver: sliver.to_string(),
            class: "move",
            from: Some(moving.from.to_string()),
            to: Some(moving.to.to_string()),
            cause: "change",
            disruption: disruption_code(moving.how.disruption()),
            reasons: vec![ReasonRecord {
                code: "placedElsewhere",
                text: format!("from {} to {}, {}", moving.from, moving.to, moving.how.word()),
            }],
        };
        (sliver, record)
    }));
    changes.sort_by_key(|(sliver, _)| *sliver);
    changes.into_iter().map(|(_, record)| record).collect()
}

impl From<&Change> for ChangeRecord {
    fn from(change: &Change) -> Self {
        Self {
            sliver: change.sliver.to_string(),
            class: code_of(change.class),
            from: None,
            to: None,
            cause: match change.cause {
                Cause::Change => "change",
                Cause::Drift => "drift",
                Cause::Schedule => "schedule",
            },
            disruption: disruption_code(change.class.disruption()),
            reasons: change.reasons.iter().map(ReasonRecord::from).collect(),
        }
    }
}

impl From<&Reason> for ReasonRecord {
    fn from(reason: &Reason) -> Self {
        Self {
            code: reason.code(),
            text: report::sentence(reason),
        }
    }
}

impl From<&PlannedAction> for ActionRecord {
    fn from(planned: &PlannedAction) -> Self {
        Self {
            key: planned.action.key().0,
            verb: planned.action.verb(),
            sliver: planned.action.sliver().map(|sliver| sliver.itself().to_string()),
            serves: planned.serves.iter().map(SliverId::to_string).collect(),
            after: planned.after.iter().map(|key| key.0.clone()).collect(),
            bytes: planned.cost.bytes,
            memory_mib: planned.cost.memory_mib,
        }
    }
}
