//! The soundness of the node: what cannot be seen or written, and what the driver says of itself.

use std::collections::BTreeMap;

use tokio::time::{Duration, timeout};
use xeno_model::desired::Standing;
use xeno_model::observed::{ObservedNode, Seen};
use xeno_reconciler::ports::{DriverFact, Hypervisor, MoveLayers, MoveMemory, Remotes, Soundness};
use xeno_reconciler::report;

use crate::api::{Doctor, FORMAT_VERSION, Fact, FactState};
use crate::event_loop::{Agent, mending};

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    pub(in crate::event_loop) fn state_fact(&self) -> Fact {
        let rebuilt = self.memory.rebuilt.as_ref().map(mending::was_rebuilt);
        let (state, text) = match (&self.memory.failure, self.rebuilt_lately(), rebuilt) {
            (Some(why), _, _) => {
                let text = format!("cannot be written, so nothing new is begun: {why}");
                (FactState::Bad, text)
            }
            (None, Some(lately), _) => (FactState::Fair, lately),
            (None, None, Some(long_ago)) => (FactState::Good, format!("can be written; {long_ago}")),
            (None, None, None) => (FactState::Good, "can be written".to_owned()),
        };
        Fact {
            what: "state".to_owned(),
            state,
            text,
        }
    }

    pub(in crate::event_loop) fn doctor(&self) -> Doctor {
        let fact = |what: &str, problem: Option<String>, good: String| Fact {
            what: what.to_owned(),
            state: if problem.is_some() {
                FactState::Bad
            } else {
                FactState::Good
            },
            text: problem.unwrap_or(good),
        };
        let source = match &self.source.head {
            Some(head) => format!("at {}", head.short()),
            None => "not read yet".to_owned(),
        };
        let mut facts = vec![
            fact("repository", self.source.failure.clone(), source),
            fact(
                "newest commit",
                self.memory
                    .rejected
                    .as_ref()
                    .map(|rejected| format!("rejected: {}", rejected.why)),
                "accepted".to_owned(),
            ),
            self.state_fact(),
        ];
        if let Some(observed) = &self.observed {
            let blind = blind_facets(observed);
            for facet in FACETS {
                facts.push(fact(facet, blind.get(facet).cloned(), "can be seen".to_owned()));
            }
        }
        if let Some(desired) = &self.desired
            && desired.standing == Standing::NotNamed
        {
            facts.push(Fact {
                what: "node".to_owned(),
                state: FactState::Fair,
                text: "the repository does not name this node, so nothing on it is changed".to_owned(),
            });
        }
        let unkept = self.all_slivers().into_iter().filter_map(|sliver| {
            let (limits, by) = self.unenforced(&sliver)?;
            Some(format!("{sliver}: {}", report::not_enforced(&limits, by)))
        });
        let unkept: Vec<_> = unkept.collect();
        if !unkept.is_empty() {
            facts.push(Fact {
                what: "limits".to_owned(),
                state: FactState::Fair,
                text: unkept.join("\n"),
            });
        }
        Doctor {
            format_version: FORMAT_VERSION,
            facts,
        }
    }

    pub(in crate::event_loop) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(why) = &self.memory.failure {
            problems.push(format!(
                "the state cannot be written, so nothing new is begun: {why}"
            ));
        }
        problems.extend(self.rebuilt_lately());
        let mut late: Vec<_> = self.stragglers.values().collect();
        late.sort_by(|a, b| a.key.cmp(&b.key));
        problems.extend(late.into_iter().map(|one| {
            let since = report::utc(one.began);
            format!(
                "{} has been under way since {since} and may hang; others go on without it",
                one.key
            )
        }));
        if let Some(why) = &self.source.failure {
            problems.push(format!("the repository cannot be read: {why}"));
        }
        if let Some(rejected) = &self.memory.rejected {
            problems.push(format!(
                "{} was rejected: see `rejected`",
                rejected.revision.short()
            ));
        }
        problems.extend(
            self.refused
                .iter()
                .map(|finding| format!("the plan is not carried out: {finding}")),
        );
        if let Some(observed) = &self.observed {
            // One cause often hides several facets: it is said once.
            let mut causes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
            for (facet, why) in blind_facets(observed) {
                causes.entry(why).or_default().push(facet);
            }
            problems.extend(
                causes
                    .into_iter()
                    .map(|(why, facets)| format!("cannot see the {}: {why}", facets.join(" and the "))),
            );
        }
        problems
    }
}

/// How long a driver may look at what it needs.
const DRIVER_FACTS_MAX: Duration = Duration::from_secs(10);

pub(in crate::event_loop) async fn driver_facts(
    hypervisor: &impl Hypervisor,
    remotes: &impl Remotes,
) -> Vec<Fact> {
    let both = async { (hypervisor.facts().await, remotes.remote_facts().await) };
    let Ok((mut facts, remotes)) = timeout(DRIVER_FACTS_MAX, both).await else {
        return vec![Fact {
            what: "hypervisor".to_owned(),
            state: FactState::Bad,
            text: format!("it did not answer within {} s", DRIVER_FACTS_MAX.as_secs()),
        }];
    };
    facts.extend(remotes);
    let view = |fact: DriverFact| Fact {
        what: fact.what.to_owned(),
        state: match fact.soundness {
            Soundness::Good => FactState::Good,
            Soundness::Fair => FactState::Fair,
            Soundness::Bad => FactState::Bad,
        },
        text: fact.text,
    };
    facts.into_iter().map(view).collect()
}

const FACETS: [&str; 5] = ["domains", "storage", "templates", "file layers", "remotes"];

/// Facets that could not be seen, and why.
pub(in crate::event_loop) fn blind_facets(observed: &ObservedNode) -> BTreeMap<&'static str, String> {
    fn why<T>(seen: &Seen<T>) -> Option<String> {
        match seen {
            Seen::Known(_) => None,
            Seen::Unknown { why } => Some(why.clone()),
        }
    }
    let whys = [
        why(&observed.domains),
        why(&observed.storage),
        why(&observed.templates),
        why(&observed.file_layers),
        why(&observed.remotes),
    ];
    FACETS
        .into_iter()
        .zip(whys)
        .filter_map(|(facet, why)| Some((facet, why?)))
        .collect()
}
