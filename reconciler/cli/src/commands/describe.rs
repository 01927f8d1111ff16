//! `xeno describe`: one sliver.

use clap::Args;
use xeno_agent::api::SliverStatus;
use xeno_model::desired::DesiredSliver;
use xeno_model::id::SliverId;

use super::{get, status};
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::link::{AgentArgs, sliver, wait};
use crate::output::{self, BOLD, TextFormat, bytes, moment, paint};

/// Shows everything about one sliver.
#[derive(Args)]
pub(crate) struct Describe {
    /// The sliver, as in web/0.
    #[arg(value_parser = sliver)]
    sliver: SliverId,
    #[command(flatten)]
    agent: AgentArgs,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

pub(crate) fn run(args: &Describe) -> Outcome {
    let sliver = wait(async { Ok(args.agent.client().describe(&args.sliver).await?) })?;
    match args.output {
        TextFormat::Json => output::json(&sliver)?,
        TextFormat::Text => output::styled(&text(&sliver))?,
    }
    Ok(Exit::Done)
}

fn text(sliver: &SliverStatus) -> String {
    let summary = &sliver.summary;
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<11}{}", output::clean(&text)));
    line("state", summary.phase.as_str().to_owned());
    if !summary.note.is_empty() {
        line("", summary.note.clone());
    }
    let seen = &sliver.observed;
    match &seen.domain {
        Some(domain) => {
            let same = match domain.booted_as_desired {
                Some(true) => ", started as desired",
                Some(false) => ", started as something else than is desired",
                None => "",
            };
            line(
                "domain",
                format!(
                    "{}, {} MiB, {} vCPU{same}",
                    domain.state, domain.memory_mib, domain.vcpus
                ),
            );
        }
        None => line("domain", summary.domain.clone()),
    }
    if let Some(image) = &seen.image {
        let fits = match (image.sealed, image.fits) {
            (false, _) => ", not sealed yet",
            (true, Some(false)) => ", its disk has changed since",
            (true, Some(true) | None) => "",
        };
        line(
            "image",
            format!(
                "{} of {} MiB, stored on {}{fits}",
                bytes(image.bytes),
                image.memory_mib,
                moment(image.at_ms)
            ),
        );
    }
    if summary.restarts > 0 {
        line(
            "restarts",
            format!("{} of late: it ended by itself", summary.restarts),
        );
    }
    if let Some(uuid) = &sliver.uuid {
        line("uuid", uuid.clone());
    }
    line("health", status::health(&summary.health));
    for port in &summary.ports {
        line("port", format!("{} in the guest is {}", port.guest, port.url));
    }
    if let Some(storage) = &seen.storage {
        let epoch = storage.open_epoch.map_or_else(
            || "closed".to_owned(),
            |epoch| format!("open under epoch {epoch}"),
        );
        let served = if storage.exported { "served" } else { "not served" };
        line(
            "storage",
            format!("{epoch}, {served}, {} written", bytes(storage.bytes)),
        );
        if let Some(at) = storage.tombstone_ms {
            line("", format!("set aside on {}", moment(at)));
        }
    }
    for blind in &seen.blind {
        line("not seen", blind.clone());
    }
    if let Some(desired) = sliver.desired.as_ref().and_then(get::desired) {
        made_of(&desired, &mut line);
    }
    if let Some(applied) = &sliver.applied {
        let how = if applied.complete {
            "carried through"
        } else {
            "begun"
        };
        line("applied", format!("{how}, epoch {}", applied.epoch));
    }
    // What needs no change has no reasons either.
    if let Some(change) = sliver.change.as_ref().filter(|change| !change.reasons.is_empty()) {
        line("change", format!("{} ({})", change.class, change.cause));
        for reason in &change.reasons {
            line("", reason.clone());
        }
    }
    if let Some(failure) = &sliver.failure {
        line(
            "failure",
            format!(
                "{}, {} in a row: {}",
                failure.action, failure.attempts, failure.why
            ),
        );
        line(
            "",
            match failure.retry_ms {
                Some(at) if failure.permanent => {
                    format!(
                        "does not pass by itself; tried again on {} in case somebody changed something",
                        moment(at)
                    )
                }
                Some(at) => format!("tried again on {}", moment(at)),
                None => "tried again once the commit changes, or on `xeno reconcile`".to_owned(),
            },
        );
    }
    line("console", sliver.console_log.clone());
    format!("{}\n{}\n", paint(BOLD, &summary.id), lines.join("\n"))
}

fn made_of(desired: &DesiredSliver, line: &mut impl FnMut(&str, String)) {
    for address in &desired.addresses {
        line("address", format!("{address} is routed to the guest"));
    }
    line("kernel", desired.kernel.to_string());
    for mount in &desired.mounts {
        let layers: Vec<String> = mount.layers.iter().map(ToString::to_string).collect();
        line(
            "mount",
            format!(
                "{}: writable {}, over {}",
                mount.path,
                mount.writable,
                layers.join(", over ")
            ),
        );
    }
}
