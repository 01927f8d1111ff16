//! `xeno why`: what holds a sliver back, since when, and what a person can do next.

use clap::Args;
use xeno_agent::api::{SliverPhase, WhyReason, WhyView};
use xeno_model::id::SliverId;

use crate::exit::Exit;
use crate::failure::Outcome;
use crate::link::{AgentArgs, sliver, wait};
use crate::output::{self, BOLD, FAINT, FAIR, GOOD, TextFormat, ago, folded, moment, paint};

/// Says why a sliver is not as desired: what it waits for, since when, and what to do next.
#[derive(Args)]
pub(crate) struct Why {
    /// The sliver, as in web/0.
    #[arg(value_parser = sliver)]
    sliver: SliverId,
    #[command(flatten)]
    agent: AgentArgs,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

/// Columns of a sentence.
const COLUMNS: usize = 88;

pub(crate) fn run(args: &Why) -> Outcome {
    let view = wait(async { Ok(args.agent.client().why(&args.sliver).await?) })?;
    match args.output {
        TextFormat::Json => output::json(&view)?,
        TextFormat::Text => output::styled(&text(&view, output::now_ms()))?,
    }
    Ok(Exit::Done)
}

fn text(view: &WhyView, now: u64) -> String {
    let (style, word) = match (view.settled, view.phase) {
        (true, _) => (GOOD, "as desired"),
        (false, SliverPhase::Settled) => (FAIR, "as desired, but not healthy"),
        (false, _) => (FAIR, "not as desired"),
    };
    let cause = match (view.settled, view.cause.as_deref()) {
        (true, _) | (_, None) => "",
        (_, Some("change")) => ": the repository asks for something else",
        (_, Some("drift")) => ": something happened to it by itself",
        (_, Some("schedule")) => ": what was decided earlier is due",
        (_, Some(_)) => "",
    };
    let name = paint(BOLD, &output::clean(&view.sliver));
    let mut out = format!("{name} is {}{cause}\n", paint(style, word));
    for reason in &view.reasons {
        out.push_str(&paragraph(reason, now));
    }
    // What the reasons say is not said twice.
    let besides = if view.reasons.is_empty() {
        &view.sentences
    } else {
        &view.besides
    };
    for sentence in besides {
        for line in folded(&output::clean(sentence), COLUMNS) {
            out.push_str(&format!("  {line}\n"));
        }
    }
    out
}

/// One reason: in words, since when, and what next.
fn paragraph(reason: &WhyReason, now: u64) -> String {
    let mut out = String::new();
    for (i, line) in folded(&output::clean(&reason.text), COLUMNS)
        .into_iter()
        .enumerate()
    {
        let line = if reason.waits { paint(FAIR, &line) } else { line };
        let mark = match (i, reason.waits) {
            (0, true) => "! ",
            (0, false) => "- ",
            (_, _) => "  ",
        };
        out.push_str(&format!("  {mark}{line}\n"));
    }
    if let Some(since) = reason.since_ms {
        let since = format!("since {}, {}", moment(since), ago(since, now));
        out.push_str(&format!("    {}\n", paint(FAINT, &since)));
    }
    for (i, line) in folded(&output::clean(&reason.next), COLUMNS - 6)
        .into_iter()
        .enumerate()
    {
        let label = if i == 0 { "next:" } else { "" };
        out.push_str(&format!("    {label:<5} {line}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use xeno_reconciler::change::Reason;
    use xeno_reconciler::report::{next_step, sentence};

    use super::*;

    fn view(reason: &Reason) -> WhyView {
        let reason = WhyReason {
            code: reason.code().to_owned(),
            text: sentence(reason),
            waits: reason.holds_back(),
            since_ms: None,
            next: next_step(reason, "web/0"),
        };
        WhyView {
            format_version: 1,
            sliver: "web/0".to_owned(),
            phase: SliverPhase::Waiting,
            settled: false,
            class: None,
            cause: Some("change".to_owned()),
            sentences: vec![format!("waits: {}.", reason.text)],
            reasons: vec![reason],
            besides: Vec::new(),
        }
    }

    fn plain(view: &WhyView) -> String {
        anstream::adapter::strip_str(&text(view, 3_600_000)).to_string()
    }

    /// Every reason that a plan or a run can hold has an answer, and none is too long to read. `UPDATE=1` rewrites the
    /// file; read the difference before you commit it.
    #[test]
    fn every_reason_has_an_answer() {
        let mut all = String::new();
        for reason in Reason::examples() {
            let said = plain(&view(&reason));
            assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
            assert!(said.contains("next:"), "{said}");
            // The first line is the same for all.
            let rest = said.split_once('\n').map_or("", |(_, rest)| rest);
            all.push_str(&format!("{}\n{rest}", reason.code()));
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write("src/commands/why.txt", &all).expect("written");
        }
        let expected = include_str!("why.txt");
        let difference = similar::TextDiff::from_lines(expected, &all)
            .unified_diff()
            .to_string();
        assert!(
            expected == all,
            "{difference}\nIf that is right: UPDATE=1 cargo test -p xeno-cli"
        );
    }

    #[test]
    fn what_is_said_in_a_reason_is_not_said_again() {
        let mut view = view(&Reason::NodeNotNamed);
        view.reasons[0].since_ms = Some(0);
        view.besides
            .push("Its health check has not passed yet.".to_owned());
        let said = plain(&view);
        assert_eq!(said.matches("does not name this node").count(), 1, "{said}");
        assert!(
            said.starts_with("web/0 is not as desired: the repository asks for something else\n  ! "),
            "{said}"
        );
        assert!(said.contains(", 60 min ago\n    next: "), "{said}");
        assert!(
            said.ends_with("\n  Its health check has not passed yet.\n"),
            "{said}"
        );
    }
}
