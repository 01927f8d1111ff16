//! A picture of a story (SVG): the whole fleet over time, and below it each of its nodes or sites.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use xeno_model::id::SliverId;

use crate::outcome::{Milestone, Outcome};
use crate::report::clock;
use crate::trace::Shade;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 84.0;
const FLEET_HEIGHT: f64 = 150.0;
const COLUMNS: u64 = 160;
/// Rows of their own: nodes where there are no more, else sites, else groups of sites.
const ROWS_MAX: usize = 40;

/// How a sliver looks. Out of reach covers whatever it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    New,
    Changing,
    Failed,
    Old,
    Unreachable,
}

/// From the bottom up.
const LOOKS: [(Look, &str, &str); 5] = [
    (Look::New, "as pushed", "#2f7d5b"),
    (Look::Changing, "being changed", "#e0a526"),
    (Look::Failed, "failed", "#c2402f"),
    (Look::Old, "as before", "#d5dde3"),
    (Look::Unreachable, "out of reach", "#8c8f94"),
];

/// How many slivers look how.
type Counts = [u32; LOOKS.len()];

/// Draws a story.
#[must_use]
pub fn svg(outcome: &Outcome) -> String {
    let rows = Rows::of(outcome);
    let end = outcome.ended_ms.saturating_add(outcome.ended_ms / 40).max(1_000);
    let (fleet, each) = sampled(outcome, &rows, end);
    let row = (640.0 / count(rows.names.len().max(1))).clamp(9.0, 22.0);
    let height = TOP + FLEET_HEIGHT + 34.0 + row * count(rows.names.len()) + 40.0;
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" font-family=\"system-ui, sans-serif\" font-size=\"11\" fill=\"#33383d\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    title(outcome, &mut out);
    let bottom = TOP + FLEET_HEIGHT;
    areas(&fleet, TOP, FLEET_HEIGHT, &mut out);
    axis(end, bottom + 34.0 + row * count(rows.names.len()), &mut out);
    milestones(outcome, end, &mut out);
    let _ = writeln!(
        out,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">all</text>",
        LEFT - 8.0,
        TOP + FLEET_HEIGHT / 2.0 + 4.0
    );
    for (number, (name, samples)) in rows.names.iter().zip(&each).enumerate() {
        let y = bottom + 34.0 + row * count(number);
        areas(samples, y, row - 2.0, &mut out);
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"{:.0}\">{}</text>",
            LEFT - 8.0,
            y + row / 2.0 + 2.5,
            row.clamp(8.0, 11.0),
            escape(name)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// What has a row of its own.
struct Rows {
    names: Vec<String>,
    /// The row of each node.
    of: Vec<usize>,
}

impl Rows {
    fn of(outcome: &Outcome) -> Self {
        if outcome.nodes.len() <= ROWS_MAX {
            return Self {
                names: outcome.nodes.iter().map(|(node, _)| node.to_string()).collect(),
                of: (0..outcome.nodes.len()).collect(),
            };
        }
        let site = |n: usize| {
            outcome.nodes[n]
                .1
                .as_ref()
                .map_or("no site", |site| site.as_str())
        };
        let mut sites: Vec<&str> = (0..outcome.nodes.len()).map(site).collect();
        sites.sort_unstable();
        sites.dedup();
        let group = sites.len().div_ceil(ROWS_MAX);
        let names = sites.chunks(group).map(|chunk| match chunk {
            [one] => (*one).to_owned(),
            [first, .., last] => format!("{first} – {last}"),
            [] => String::new(),
        });
        let place = |n: usize| sites.binary_search(&site(n)).unwrap_or(0) / group;
        Self {
            names: names.collect(),
            of: (0..outcome.nodes.len()).map(place).collect(),
        }
    }
}

/// How the fleet and each row are at each column's time.
fn sampled(outcome: &Outcome, rows: &Rows, end: u64) -> (Vec<Counts>, Vec<Vec<Counts>>) {
    let mut now = Now {
        shades: BTreeMap::new(),
        on: vec![Vec::new(); outcome.nodes.len()],
        reached: vec![true; outcome.nodes.len()],
        counts: vec![Counts::default(); rows.names.len()],
        rows,
    };
    for (node, sliver) in &outcome.trace.begin {
        now.set(*node, sliver, Some(Shade::Old));
    }
    let (mut steps, mut reach) = (
        outcome.trace.steps().iter().peekable(),
        outcome.trace.reach().iter().peekable(),
    );
    let mut each = vec![Vec::new(); rows.names.len()];
    let mut fleet = Vec::new();
    for column in 0..=COLUMNS {
        let until = end / COLUMNS * column;
        while let Some((_, node, reaches)) = reach.next_if(|(at, ..)| *at <= until) {
            now.reach(*node, *reaches);
        }
        while let Some(step) = steps.next_if(|step| step.at_ms <= until) {
            let shade = (step.shade != Shade::Gone).then_some(step.shade);
            now.set(step.node, &step.sliver, shade);
        }
        let mut sum = Counts::default();
        for (row, counts) in each.iter_mut().zip(&now.counts) {
            row.push(*counts);
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        fleet.push(sum);
    }
    (fleet, each)
}

struct Now<'a> {
    shades: BTreeMap<(usize, SliverId), Shade>,
    on: Vec<Vec<SliverId>>,
    reached: Vec<bool>,
    counts: Vec<Counts>,
    rows: &'a Rows,
}

impl Now<'_> {
    fn look(&self, node: usize, shade: Shade) -> usize {
        if !self.reached[node] {
            return Look::Unreachable as usize;
        }
        let look = match shade {
            Shade::Old | Shade::Gone => Look::Old,
            Shade::Changing => Look::Changing,
            Shade::New => Look::New,
            Shade::Failed => Look::Failed,
        };
        look as usize
    }

    fn set(&mut self, node: usize, sliver: &SliverId, shade: Option<Shade>) {
        let key = (node, sliver.clone());
        let row = self.rows.of[node];
        let before = match shade {
            Some(shade) => self.shades.insert(key, shade),
            None => self.shades.remove(&key),
        };
        match before {
            Some(before) => {
                let look = self.look(node, before);
                self.counts[row][look] = self.counts[row][look].saturating_sub(1);
            }
            None => self.on[node].push(sliver.clone()),
        }
        if let Some(shade) = shade {
            let look = self.look(node, shade);
            self.counts[row][look] += 1;
        }
    }

    fn reach(&mut self, node: usize, reaches: bool) {
        if self.reached[node] == reaches {
            return;
        }
        let row = self.rows.of[node];
        let shades: Vec<Shade> = self.on[node]
            .iter()
            .filter_map(|sliver| self.shades.get(&(node, sliver.clone())))
            .copied()
            .collect();
        for shade in &shades {
            let look = self.look(node, *shade);
            self.counts[row][look] = self.counts[row][look].saturating_sub(1);
        }
        self.reached[node] = reaches;
        for shade in &shades {
            let look = self.look(node, *shade);
            self.counts[row][look] += 1;
        }
    }
}

/// Stacked areas of one row.
fn areas(samples: &[Counts], y: f64, height: f64, out: &mut String) {
    let most = samples
        .iter()
        .map(|counts| counts.iter().sum::<u32>())
        .max()
        .unwrap_or(0)
        .max(1);
    let x = |column: usize| {
        LEFT + (WIDTH - LEFT - RIGHT) * count(column) / count(samples.len().saturating_sub(1).max(1))
    };
    let level = |counts: &Counts, upto: usize| {
        let sum: u32 = counts[..upto].iter().sum();
        y + height - height * f64::from(sum) / f64::from(most)
    };
    for (number, (_, _, colour)) in LOOKS.iter().enumerate() {
        if samples.iter().all(|counts| counts[number] == 0) {
            continue;
        }
        let _ = write!(out, "<path fill=\"{colour}\" d=\"M");
        let there = samples
            .iter()
            .enumerate()
            .map(|(column, counts)| (x(column), level(counts, number + 1)));
        let back = samples
            .iter()
            .enumerate()
            .rev()
            .map(|(column, counts)| (x(column), level(counts, number)));
        let points: Vec<(String, String)> = there
            .chain(back)
            .map(|(x, y)| (format!("{x:.1}"), format!("{y:.1}")))
            .collect();
        for (number, (x, y)) in points.iter().enumerate() {
            // What is level needs no points between.
            let level = |at: Option<usize>| {
                at.and_then(|at| points.get(at))
                    .is_some_and(|(_, other)| other == y)
            };
            if !level(number.checked_sub(1)) || !level(number.checked_add(1)) {
                let _ = write!(out, "{x} {y} ");
            }
        }
        out.push_str("Z\"/>\n");
    }
}

fn title(outcome: &Outcome, out: &mut String) {
    let words: Vec<String> = outcome
        .pushes
        .iter()
        .map(|push| format!("{} ({} slivers)", push.revision, push.slivers))
        .collect();
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"26\" font-size=\"15\" font-weight=\"600\">Push of {}, simulated on {} nodes, seed {}</text>",
        escape(&words.join(", ")),
        outcome.nodes.len(),
        outcome.seed
    );
    let mut x = LEFT;
    for (_, name, colour) in LOOKS {
        let _ = writeln!(
            out,
            "<rect x=\"{x:.0}\" y=\"42\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"51.5\">{name}</text>",
            x + 16.0
        );
        x += 34.0 + 6.2 * count(name.len());
    }
}

/// A line with times below everything.
fn axis(end: u64, bottom: f64, out: &mut String) {
    let steps = [
        60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400, 172_800,
    ];
    let step = steps
        .into_iter()
        .map(|s| s * 1000)
        .find(|step| end / step <= 9)
        .unwrap_or(604_800_000);
    for at in (0..=end).step_by(usize::try_from(step).unwrap_or(1)) {
        let x = place(at, end);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom:.0}\" stroke=\"#33383d\" stroke-opacity=\"0.12\"/>\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#6a7178\">{}</text>",
            bottom + 16.0,
            clock(at)
        );
    }
}

/// Pushes; where there is one rollout, its waves too; where there are many, when they ended.
fn milestones(outcome: &Outcome, end: u64, out: &mut String) {
    let mut marks: Vec<(u64, String)> = outcome
        .pushes
        .iter()
        .map(|push| (push.at_ms, "push".to_owned()))
        .collect();
    if let [slice] = outcome.slices.as_slice() {
        let began = |milestone: &Milestone| *milestone != Milestone::Begins;
        let shown = slice.milestones.iter().filter(|(_, milestone)| began(milestone));
        marks.extend(shown.map(|(at, milestone)| (*at, milestone.words())));
    } else {
        let ends = |wanted: Milestone| {
            let all = outcome.slices.iter().flat_map(|slice| &slice.milestones);
            all.filter(move |(_, milestone)| *milestone == wanted)
                .map(|(at, _)| *at)
        };
        marks.extend(
            ends(Milestone::Failed)
                .min()
                .map(|at| (at, "first fails".to_owned())),
        );
        marks.extend(
            ends(Milestone::Done)
                .max()
                .map(|at| (at, "last is done".to_owned())),
        );
    }
    marks.sort();
    let mut last = f64::MIN;
    for (at, words) in marks {
        let x = place(at, end);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{:.0}\" x2=\"{x:.1}\" y2=\"{:.0}\" stroke=\"#33383d\" stroke-dasharray=\"2 2\"/>",
            TOP - 6.0,
            TOP + FLEET_HEIGHT
        );
        // Words that would lie over each other are left out.
        if x - last > 60.0 {
            let anchor = if x > WIDTH - 120.0 { "end" } else { "start" };
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{}</text>",
                TOP - 10.0,
                escape(&words)
            );
            last = x;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn place(at: u64, end: u64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * (at as f64) / (end as f64)
}

#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn count(number: usize) -> f64 {
    number as f64
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
