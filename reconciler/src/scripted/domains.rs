//! The hypervisor of a node in memory.

use std::path::PathBuf;

use xeno_model::id::{Digest, SliverId};
use xeno_model::observed::{Ability, DomainState, Domains, ObservedDomain, ObservedImage, ObservedStorage};

use super::{ScriptedNode, State};
use crate::ports::{DomainSpec, DriverFact, Grace, Hypervisor, PortResult, Soundness, Tuning};

impl Hypervisor for ScriptedNode {
    async fn observe(&self) -> PortResult<Domains> {
        self.look(|state| Domains::clone(&state.domains)).await
    }

    async fn boot(&self, spec: &DomainSpec) -> PortResult<()> {
        let effect = |state: &mut State| {
            let sliver = &spec.sliver;
            if state.runs_as(spec) {
                return;
            }
            let image = state.domains.images.contains_key(sliver);
            state.rule(!image, || format!("boot:{sliver} while an image of it is there"));
            state.start("boot", spec, spec.memory_max_mib);
            state.moves.boot(sliver);
        };
        self.call("boot", &spec.sliver.to_string(), effect).await
    }

    async fn shutdown(&self, sliver: &SliverId, _: Grace) -> PortResult<()> {
        let effect = |state: &mut State| {
            let gone = state.domains.ours.remove(sliver);
            // One that has crashed writes nothing more; it may never have run.
            if gone.is_some_and(|domain| domain.state != DomainState::Crashed) {
                state.write(sliver);
            }
        };
        self.call("shutdown", &sliver.to_string(), effect).await
    }

    async fn unpublish(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            if let Some(domain) = state.domains.ours.get_mut(sliver) {
                domain.publish.clear();
            }
        };
        self.call("unpublish", &sliver.to_string(), effect).await
    }

    async fn publish(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        let effect = |state: &mut State| state.retune("publish", sliver, tuning);
        self.call("publish", &sliver.to_string(), effect).await
    }

    async fn retune(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        let effect = |state: &mut State| state.retune("retune", sliver, tuning);
        self.call("retune", &sliver.to_string(), effect).await
    }

    async fn suspend(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let Some(domain) = state.domains.ours.remove(sliver) else {
                let stored = state.domains.images.contains_key(sliver);
                return state.rule(stored, || format!("suspend:{sliver} without its domain"));
            };
            state.write(sliver);
            let image = ObservedImage {
                uuid: domain.uuid,
                boot: domain.booted,
                memory_mib: domain.memory_mib,
                memory_max_mib: domain.memory_max_mib,
                publish: domain.publish,
                mark: None,
                bytes: domain.memory_mib << 20,
                at: state.now(),
            };
            state.domains.images.insert(sliver.clone(), image);
        };
        self.call("suspend", &sliver.to_string(), effect).await
    }

    async fn seal_image(&self, sliver: &SliverId, mark: &Digest) -> PortResult<()> {
        let effect = |state: &mut State| {
            let quiet = !state.has_domain(sliver) && state.storage(sliver).open.is_none();
            state.rule(quiet, || format!("seal:{sliver} while in use"));
            match state.domains.images.get_mut(sliver) {
                Some(image) => image.mark = Some(*mark),
                None => state.rule(false, || format!("seal:{sliver} without its image")),
            }
        };
        self.call("seal", &sliver.to_string(), effect).await
    }

    async fn resume(&self, spec: &DomainSpec) -> PortResult<()> {
        let effect = |state: &mut State| {
            let sliver = &spec.sliver;
            if state.runs_as(spec) {
                return;
            }
            let Some(image) = state.domains.images.remove(sliver) else {
                return state.rule(false, || format!("resume:{sliver} without its image"));
            };
            let disk = ObservedStorage::mark_of(state.storage.get(sliver));
            let same_disk = image.mark.is_some() && image.mark == disk;
            state.rule(same_disk, || format!("resume:{sliver} over another disk"));
            let same = image.boot == spec.boot && image.uuid == spec.uuid;
            state.rule(same, || format!("resume:{sliver} as something else"));
            let within = spec.memory_mib <= image.memory_max_mib;
            state.rule(within, || format!("resume:{sliver} with more memory than it had"));
            state.start("resume", spec, image.memory_max_mib);
        };
        self.call("resume", &spec.sliver.to_string(), effect).await
    }

    async fn discard_image(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            state.domains.images.remove(sliver);
        };
        self.call("discard", &sliver.to_string(), effect).await
    }

    async fn unpause(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let served = state.storage(sliver).exported;
            state.rule(served, || format!("unpause:{sliver} without its export"));
            let moves = state
                .domains
                .ours
                .get(sliver)
                .is_some_and(|domain| match domain.state {
                    DomainState::Kept { .. } | DomainState::Copy { .. } => true,
                    DomainState::Running
                    | DomainState::Paused
                    | DomainState::Stopping
                    | DomainState::Crashed => false,
                });
            state.rule(!moves, || format!("unpause:{sliver} while it moves"));
            match state.domains.ours.get_mut(sliver) {
                Some(domain) => domain.state = DomainState::Running,
                None => state.rule(false, || format!("unpause:{sliver} without its domain")),
            }
        };
        self.call("unpause", &sliver.to_string(), effect).await
    }

    fn console_log(&self, sliver: &SliverId) -> PathBuf {
        let name = format!("{}.log", sliver.label());
        self.state().consoles.join(name)
    }

    fn console_socket(&self, sliver: &SliverId) -> PathBuf {
        PathBuf::from(format!("/scripted/{}.sock", sliver.label()))
    }

    async fn facts(&self) -> Vec<DriverFact> {
        vec![DriverFact {
            what: "acceleration",
            soundness: Soundness::Good,
            text: "domains of memory are fast".to_owned(),
        }]
    }
}

impl State {
    pub(super) fn retune(&mut self, verb: &str, sliver: &SliverId, tuning: &Tuning) {
        let able = self.domains.able.clone();
        let Some(domain) = self.domains.ours.get_mut(sliver) else {
            self.rule(false, || format!("{verb}:{sliver} without its domain"));
            return;
        };
        let within = tuning.memory_mib <= domain.memory_max_mib;
        if able.contains(&Ability::Vcpus) {
            domain.vcpus = tuning.vcpus;
        }
        if able.contains(&Ability::Memory) {
            domain.memory_mib = tuning.memory_mib;
        }
        if able.contains(&Ability::Ports) {
            domain.publish.clone_from(&tuning.publish);
        }
        domain.limits = tuning.limits;
        self.rule(within, || {
            format!("{verb}:{sliver} beyond what it was started with")
        });
        self.shared_rules(verb, sliver, &tuning.publish);
    }

    fn runs_as(&self, spec: &DomainSpec) -> bool {
        let there = self.domains.ours.get(&spec.sliver);
        there.is_some_and(|d| d.booted == spec.boot && d.state == DomainState::Running)
    }

    fn start(&mut self, verb: &str, spec: &DomainSpec, memory_max_mib: u64) {
        let sliver = &spec.sliver;
        let gone = !self.has_domain(sliver);
        self.rule(gone, || format!("{verb}:{sliver} while its domain is there"));
        let served = self.storage(sliver).exported;
        self.rule(served, || format!("{verb}:{sliver} without its export"));
        let beside = sliver.beside();
        let keeps = |berth| {
            self.storage
                .get(berth)
                .is_some_and(|storage| !storage.limits.is_empty())
        };
        let kept = [sliver, &beside].map(keeps);
        let alone = !self.has_domain(&beside) || kept == [false, false];
        self.rule(alone, || {
            format!("{verb}:{sliver} beside another, over what is kept")
        });
        let domain = ObservedDomain {
            uuid: spec.uuid,
            state: DomainState::Running,
            booted: spec.boot,
            memory_mib: spec.memory_mib,
            memory_max_mib,
            vcpus: spec.vcpus,
            limits: spec.limits,
            publish: spec.publish.clone(),
        };
        self.domains.ours.insert(sliver.clone(), domain);
        self.shared_rules(verb, sliver, &spec.publish);
        self.write(sliver);
    }
}
