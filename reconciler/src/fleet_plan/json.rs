//! The plan of a fleet as JSON. Its field names are a promise: a change of meaning raises the version.

use serde::Serialize;
use xeno_model::id::SliverId;

use super::text::summary;
use super::{Affected, FleetPlan, Group, Happening};
use crate::moving::order::{Course, Step};
use crate::render::{FORMAT_VERSION, basis_word, code_of, disruption_code, lacks};

/// The plan as one JSON document, indented, ending with a newline.
///
/// # Shape
/// `formatVersion`, `fleet`, `from` (40 digits, or null), `to`, `basis` (`observed` or `assumed`), `summary`, `nodes`, `touched`
/// and `silent` (names; `silent` are those without a sign of life), `unknown` and `failed` (`sliver`, `why`), `unchanged` (how many slivers), `changes`: `slice`, `change` (as in the plan of a node, or `move`),
/// `policy` of a move (or null), `disruption`, `needsApproval`, `wave` (0 is the first; null where no rollout orders it), `canary`, `of` (whom
/// the wave takes, as manifests write it; null where its policy does not say that), `reasons`, and
/// `slivers`: `sliver`, `node`, `from` (null unless it moves), `site`, `basis`. `order` of the moves: `steps` in an order in which each
/// finds room (`sliver`, `from`, `to` or null where it is stopped meanwhile, `after`: numbers of the steps that come first, from 0,
/// `leftMib` on the node then), `stuck` (`sliver`, `why`), and `wayOut`: steps in which those go too, or null.
///
/// # Panics
/// Never: strings, numbers and sequences are always JSON.
#[must_use]
pub fn json(plan: &FleetPlan) -> String {
    let groups = plan
        .slices
        .iter()
        .flat_map(|(name, slice)| slice.groups.iter().map(move |group| (name.as_str(), group)));
    let document = Document {
        format_version: FORMAT_VERSION,
        fleet: plan.name.as_str(),
        from: plan.from.as_ref().map(|from| from.as_str()),
        to: plan.to.as_str(),
        basis: basis_word(plan.basis),
        summary: summary(plan),
        nodes: plan.nodes,
        touched: plan.touched.iter().map(|node| node.as_str()).collect(),
        silent: plan.silent.iter().map(|node| node.as_str()).collect(),
        unknown: plan
            .unknown
            .iter()
            .map(|(sliver, why)| RemarkRecord::new(sliver, why.to_string()))
            .collect(),
        failed: plan
            .failed
            .iter()
            .map(|(sliver, failed)| RemarkRecord::new(sliver, format!("on {}: {}", failed.node, failed.why)))
            .collect(),
        unchanged: plan.kept,
        order: OrderRecord {
            steps: steps(&plan.course),
            stuck: plan
                .course
                .stuck
                .iter()
                .map(|stuck| RemarkRecord::new(&stuck.sliver, lacks(stuck)))
                .collect(),
            way_out: plan.way_out.as_ref().map(steps),
        },
        changes: groups
            .flat_map(|(slice, group)| changes(plan, slice, group))
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&document)
        .expect("structs of strings, numbers and sequences are always JSON");
    text.push('\n');
    text
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    format_version: u32,
    fleet: &'a str,
    from: Option<&'a str>,
    to: &'a str,
    basis: &'static str,
    summary: String,
    nodes: usize,
    touched: Vec<&'a str>,
    silent: Vec<&'a str>,
    unknown: Vec<RemarkRecord>,
    failed: Vec<RemarkRecord>,
    unchanged: usize,
    order: OrderRecord<'a>,
    changes: Vec<ChangeRecord<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderRecord<'a> {
    steps: Vec<StepRecord<'a>>,
    stuck: Vec<RemarkRecord>,
    way_out: Option<Vec<StepRecord<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepRecord<'a> {
    sliver: String,
    from: &'a str,
    to: Option<&'a str>,
    after: Vec<usize>,
    left_mib: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeRecord<'a> {
    slice: &'a str,
    change: &'static str,
    policy: Option<&'static str>,
    disruption: &'static str,
    needs_approval: bool,
    wave: Option<u32>,
    canary: bool,
    of: Option<String>,
    reasons: &'a [String],
    slivers: Vec<SliverRecord<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SliverRecord<'a> {
    sliver: String,
    node: &'a str,
    from: Option<&'a str>,
    site: Option<&'a str>,
    basis: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RemarkRecord {
    sliver: String,
    why: String,
}

impl RemarkRecord {
    fn new(sliver: &SliverId, why: String) -> Self {
        let sliver = sliver.to_string();
        Self { sliver, why }
    }
}

fn steps(course: &Course) -> Vec<StepRecord<'_>> {
    fn record(step: &Step) -> StepRecord<'_> {
        StepRecord {
            sliver: step.sliver.to_string(),
            from: step.from.as_str(),
            to: step.to.as_ref().map(|to| to.as_str()),
            after: step.after.iter().copied().collect(),
            left_mib: step.left_mib,
        }
    }
    course.steps.iter().map(record).collect()
}

fn changes<'a>(
    plan: &'a FleetPlan,
    slice: &'a str,
    group: &'a Group,
) -> impl Iterator<Item = ChangeRecord<'a>> {
    group.waves.iter().map(move |(wave, affected)| ChangeRecord {
        slice,
        change: match group.happening {
            Happening::Change(class) => code_of(class),
            Happening::Move(_) => "move",
        },
        policy: match group.happening {
            Happening::Move(how) => Some(how.word()),
            Happening::Change(_) => None,
        },
        disruption: disruption_code(group.happening.disruption()),
        needs_approval: plan.needs_approval(group.happening),
        wave: wave.as_ref().map(|wave| wave.number),
        canary: wave.as_ref().is_some_and(|wave| wave.canary),
        of: wave
            .as_ref()
            .and_then(|wave| wave.of.as_ref())
            .map(ToString::to_string),
        reasons: &group.reasons,
        slivers: affected.iter().map(sliver).collect(),
    })
}

fn sliver(affected: &Affected) -> SliverRecord<'_> {
    SliverRecord {
        sliver: affected.sliver.to_string(),
        node: affected.node.as_str(),
        from: affected.from.as_ref().map(|from| from.as_str()),
        site: affected.site.as_ref().map(|site| site.as_str()),
        basis: basis_word(affected.basis),
    }
}
