//! What an agent does, in figures, for Prometheus and its like. There is one of each for a node, whatever it runs: labels are
//! words of this program, never names of slivers, slices or tenants.

use std::collections::BTreeMap;

use cowfs::openmetrics::{Kind, Text};
use xeno_reconciler::action::{ActionKey, ActionKind};
use xeno_reconciler::exec::Outcome;

use crate::api::SliverPhase;

/// What has ended since the agent began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tries of actions by kind: those that did it, and those that failed.
    actions: BTreeMap<ActionKind, (u64, u64)>,
    /// Runs by how they ended.
    runs: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// A try of an action has ended.
    pub(crate) fn action(&mut self, key: &ActionKey, outcome: &Outcome) {
        let verb = key.0.split(':').next().unwrap_or_default();
        let Some(kind) = ActionKind::ALL.into_iter().find(|kind| kind.verb() == verb) else {
            return;
        };
        let (done, failed) = self.actions.entry(kind).or_default();
        *match outcome {
            Outcome::Done => done,
            Outcome::Failed { .. } => failed,
        } += 1;
    }

    /// A run has ended.
    pub(crate) fn run(&mut self, outcome: &'static str) {
        *self.runs.entry(outcome).or_default() += 1;
    }
}

/// The agent at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub(crate) node: String,
    pub(crate) hypervisor: String,
    pub(crate) began_ms: u64,
    pub(crate) now_ms: u64,
    pub(crate) tally: Tally,
    /// Slivers by what each is about.
    pub(crate) phases: BTreeMap<&'static str, u64>,
    /// Slivers that wait, by the code of what they wait for first.
    pub(crate) waiting: BTreeMap<&'static str, u64>,
    /// Actions of the last plan that was made.
    pub(crate) plan_actions: Option<u64>,
    /// Actions of the run under way that have not ended.
    pub(crate) run_actions: u64,
    pub(crate) generation: u64,
    /// When the repository was last read.
    pub(crate) read_ms: Option<u64>,
    pub(crate) source_fails: bool,
    /// Whether the file server told what it has at the last look; `None` before the first.
    pub(crate) file_server: Option<bool>,
    /// Facets of the node that could not be seen at the last look.
    pub(crate) blind: u64,
    pub(crate) state_fails: bool,
}

/// All words for what a sliver is about.
const PHASES: [SliverPhase; 6] = [
    SliverPhase::Settled,
    SliverPhase::Pending,
    SliverPhase::Changing,
    SliverPhase::Waiting,
    SliverPhase::Failing,
    SliverPhase::Leftover,
];

/// How runs end.
const RUNS: [&str; 5] = ["done", "failed", "superseded", "stopped", "abandoned"];

/// Milliseconds as seconds, exactly.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

impl Figures {
    /// As OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Text::default();
        out.family("xeno_agent", Kind::Info, "The agent.");
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("node", &self.node),
            ("hypervisor", &self.hypervisor),
        ];
        out.sample("xeno_agent_info", &labels, 1);
        out.family(
            "xeno_agent_slivers",
            Kind::Gauge,
            "Slivers that are desired, applied or here, by what each is about.",
        );
        for phase in PHASES.map(SliverPhase::as_str) {
            let count = self.phases.get(phase).copied().unwrap_or(0);
            out.sample("xeno_agent_slivers", &[("phase", phase)], count);
        }
        out.family(
            "xeno_agent_waiting_slivers",
            Kind::Gauge,
            "Slivers that wait, by the code of the reason that comes first.",
        );
        for (code, count) in &self.waiting {
            out.sample("xeno_agent_waiting_slivers", &[("reason", code)], count);
        }
        self.work(&mut out);
        self.sight(&mut out);
        out.end()
    }

    /// What it does.
    fn work(&self, out: &mut Text) {
        out.family(
            "xeno_agent_actions",
            Kind::Counter,
            "Tries of actions that have ended since the agent began.",
        );
        for (kind, (done, failed)) in &self.tally.actions {
            for (outcome, count) in [("done", done), ("failed", failed)] {
                let labels = [("kind", kind.verb()), ("outcome", outcome)];
                out.sample("xeno_agent_actions_total", &labels, count);
            }
        }
        out.family(
            "xeno_agent_runs",
            Kind::Counter,
            "Runs that have ended since the agent began.",
        );
        for outcome in RUNS {
            let count = self.tally.runs.get(outcome).copied().unwrap_or(0);
            out.sample("xeno_agent_runs_total", &[("outcome", outcome)], count);
        }
        let gauge = |out: &mut Text, name: &str, help: &str, value: Option<u64>| {
            out.family(name, Kind::Gauge, help);
            if let Some(value) = value {
                out.sample(name, &[], value);
            }
        };
        let plan = "Actions of the plan that was made last.";
        gauge(out, "xeno_agent_plan_actions", plan, self.plan_actions);
        let run = "Actions of the run under way that have not ended.";
        gauge(out, "xeno_agent_run_actions", run, Some(self.run_actions));
        let generation = "How many desired states the node has accepted.";
        gauge(out, "xeno_agent_generation", generation, Some(self.generation));
    }

    /// What it sees.
    fn sight(&self, out: &mut Text) {
        out.family("xeno_agent_uptime_seconds", Kind::Gauge, "Since the agent began.");
        let uptime = seconds(self.now_ms.saturating_sub(self.began_ms));
        out.sample("xeno_agent_uptime_seconds", &[], uptime);
        out.family(
            "xeno_agent_source_age_seconds",
            Kind::Gauge,
            "Since the repository was last read with success.",
        );
        if let Some(read_ms) = self.read_ms {
            let age = seconds(self.now_ms.saturating_sub(read_ms));
            out.sample("xeno_agent_source_age_seconds", &[], age);
        }
        let flags = [
            (
                "xeno_agent_source_up",
                "Whether the repository could be read when it was last tried.",
                Some(!self.source_fails),
            ),
            (
                "xeno_agent_file_server_up",
                "Whether the file server answered at the last look.",
                self.file_server,
            ),
            (
                "xeno_agent_state_up",
                "Whether the state could be written when it was last tried.",
                Some(!self.state_fails),
            ),
        ];
        for (name, help, up) in flags {
            out.family(name, Kind::Gauge, help);
            if let Some(up) = up {
                out.sample(name, &[], u8::from(up));
            }
        }
        out.family(
            "xeno_agent_blind_facets",
            Kind::Gauge,
            "Facets of the node that could not be seen at the last look.",
        );
        out.sample("xeno_agent_blind_facets", &[], self.blind);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use xeno_reconciler::ports::Retry;

    /// Every sample by name and labels, after everything has been looked at that the format asks for: families described
    /// once and before their samples, samples of a family together and none twice, suffixes as the type has them, values
    /// that are numbers, and the end.
    pub(crate) fn parse(text: &str) -> BTreeMap<String, f64> {
        let body = text.strip_suffix("# EOF\n").expect("it ends");
        let (mut seen, mut samples) = (Vec::new(), BTreeMap::new());
        let mut family: Option<(String, String)> = None;
        let mut described = Vec::new();
        for line in body.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words.as_slice() {
                ["#", "TYPE", name, kind] => {
                    assert!(!seen.contains(&(*name).to_owned()), "{name} comes twice");
                    seen.push((*name).to_owned());
                    described = vec!["TYPE"];
                    family = Some(((*name).to_owned(), (*kind).to_owned()));
                }
                ["#", what @ ("UNIT" | "HELP"), name, text] => {
                    let (of, _) = family.as_ref().expect("a type first");
                    assert_eq!(of, name);
                    assert!(!described.contains(what), "{line}");
                    described.push(what);
                    assert!(*what == "HELP" || name.ends_with(&format!("_{text}")), "{line}");
                }
                _ => {
                    assert!(!line.starts_with('#'), "{line}");
                    let (of, kind) = family.as_ref().expect("a family");
                    let (series, value) = line.rsplit_once(' ').expect("a value");
                    let (name, labels) = match series.split_once('{') {
                        Some((name, labels)) => (name, labels.strip_suffix('}').expect("closed")),
                        None => (series, ""),
                    };
                    let suffix = name.strip_prefix(of.as_str()).expect("of its family");
                    let expected = match kind.as_str() {
                        "counter" => "_total",
                        "info" => "_info",
                        "gauge" => "",
                        other => panic!("no {other} here"),
                    };
                    assert_eq!(suffix, expected, "{line}");
                    for label in labels.split("\",").filter(|label| !label.is_empty()) {
                        let (key, value) = label.split_once("=\"").expect("a label");
                        assert!(key.bytes().all(|byte| byte.is_ascii_lowercase()), "{line}");
                        assert!(!value.trim_end_matches('"').contains(['"', '\\', '\n']), "{line}");
                    }
                    let value: f64 = value.parse().expect("a number");
                    assert!(value.is_finite() && value >= 0.0, "{line}");
                    assert!(
                        samples.insert(series.to_owned(), value).is_none(),
                        "{series} twice"
                    );
                }
            }
        }
        samples
    }

    #[test]
    fn a_text_that_says_everything_is_as_the_format_has_it() {
        let mut tally = Tally::default();
        let boot = ActionKey("boot:web/0".to_owned());
        tally.action(&boot, &Outcome::Done);
        let failed = Outcome::Failed {
            why: "no".to_owned(),
            retry: Retry::Later,
        };
        tally.action(&boot, &failed);
        tally.action(&boot, &failed);
        tally.run("failed");
        let figures = Figures {
            node: "cam-01".to_owned(),
            hypervisor: "qemu".to_owned(),
            began_ms: 1_000,
            now_ms: 61_500,
            tally,
            phases: BTreeMap::from([("waiting", 2)]),
            waiting: BTreeMap::from([("noRoom", 2)]),
            plan_actions: Some(5),
            run_actions: 3,
            generation: 7,
            read_ms: Some(60_000),
            file_server: Some(false),
            blind: 1,
            ..Figures::default()
        };
        let samples = parse(&figures.text());
        for (series, value) in [
            ("xeno_agent_slivers{phase=\"waiting\"}", 2.0),
            ("xeno_agent_slivers{phase=\"settled\"}", 0.0),
            ("xeno_agent_waiting_slivers{reason=\"noRoom\"}", 2.0),
            ("xeno_agent_actions_total{kind=\"boot\",outcome=\"done\"}", 1.0),
            ("xeno_agent_actions_total{kind=\"boot\",outcome=\"failed\"}", 2.0),
            ("xeno_agent_runs_total{outcome=\"failed\"}", 1.0),
            ("xeno_agent_plan_actions", 5.0),
            ("xeno_agent_run_actions", 3.0),
            ("xeno_agent_generation", 7.0),
            ("xeno_agent_uptime_seconds", 60.5),
            ("xeno_agent_source_age_seconds", 1.5),
            ("xeno_agent_source_up", 1.0),
            ("xeno_agent_file_server_up", 0.0),
            ("xeno_agent_state_up", 1.0),
            ("xeno_agent_blind_facets", 1.0),
        ] {
            assert_eq!(samples.get(series), Some(&value), "{series}");
        }
    }

    #[test]
    fn what_is_not_known_yet_has_no_sample() {
        let samples = parse(&Figures::default().text());
        for absent in [
            "xeno_agent_plan_actions",
            "xeno_agent_source_age_seconds",
            "xeno_agent_file_server_up",
        ] {
            assert!(!samples.contains_key(absent), "{absent}");
        }
    }
}
