//! `xeno rollout`: how far rollouts are, and what people do to them.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use xeno_agent::api::{
    RolloutRequest, RolloutState, RolloutVerb, RolloutView, RolloutsView, VerdictWord, WaveView,
};
use xeno_agent::api_client::ClientError;

use super::freeze::user;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::link::{self, AgentArgs, wait};
use crate::output::{self, BAD, BOLD, FAINT, FAIR, GOOD, TextFormat, ago, paint};

/// Clears the screen and goes to its upper left corner (console_codes(4)).
const HOME: &str = "\x1b[H\x1b[2J";

/// How long between two looks with --watch.
const EVERY: Duration = Duration::from_secs(1);

/// Cells of a wave's bar.
const BAR: u32 = 24;

/// Shows how far new revisions of slices are, and stops, hurries or takes back what is under way.
///
/// Nobody directs a rollout: each node changes its own slivers, wave by wave, and all follow one record on the fleet's
/// board. The agent that is asked tells what it sees, and does not do more than put a word of yours into that record.
/// It has to be one on whose node the slice has slivers.
#[derive(Subcommand)]
pub(crate) enum Rollout {
    /// Shows how far rollouts are, by wave, and what each sliver waits for that has yet to change.
    Status(Status),
    /// Begins nothing new until it is resumed. What has begun is finished.
    Pause(Word),
    /// Goes on with a rollout that is paused or held, or tries again one that failed or was aborted.
    Resume(Word),
    /// Begins the next wave without waiting for the one before.
    Promote(Promote),
    /// Has all go back to what was good before a rollout that is under way.
    Abort(Word),
    /// Has all go back to what was good before a rollout that is through.
    Undo(Word),
    /// Shows what happened in the rollouts of a slice.
    History(History),
}

/// Which rollouts, and in which form.
#[derive(Args)]
pub(crate) struct Status {
    /// Only this slice.
    slice: Option<String>,
    /// Shows it again and again, until Ctrl-C.
    #[arg(short, long)]
    watch: bool,
    /// Form of the result; with --watch, one JSON document a line.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
    #[command(flatten)]
    agent: AgentArgs,
}

/// A slice, and who says so.
#[derive(Args)]
pub(crate) struct Word {
    /// The slice.
    slice: String,
    /// Who says so [default: this user].
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    agent: AgentArgs,
}

/// A slice, and how far.
#[derive(Args)]
pub(crate) struct Promote {
    #[command(flatten)]
    word: Word,
    /// All waves at once.
    #[arg(long)]
    all: bool,
}

/// A slice, and in which form.
#[derive(Args)]
pub(crate) struct History {
    /// The slice.
    slice: String,
    /// Form of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
    #[command(flatten)]
    agent: AgentArgs,
}

pub(crate) fn run(command: &Rollout) -> Outcome {
    match command {
        Rollout::Status(args) => status(args),
        Rollout::Pause(word) => press(word, RolloutVerb::Pause),
        Rollout::Resume(word) => press(word, RolloutVerb::Resume),
        Rollout::Promote(args) if args.all => press(&args.word, RolloutVerb::PromoteAll),
        Rollout::Promote(args) => press(&args.word, RolloutVerb::Promote),
        Rollout::Abort(word) => press(word, RolloutVerb::Abort),
        Rollout::Undo(word) => press(word, RolloutVerb::Undo),
        Rollout::History(args) => history(args),
    }
}

fn status(args: &Status) -> Outcome {
    let client = args.agent.client();
    wait(async {
        if !args.watch {
            show(
                &only(client.rollouts().await?, args.slice.as_deref())?,
                args.output,
            )?;
            return Ok(Exit::Done);
        }
        let screen = std::io::stdout().is_terminal() && args.output == TextFormat::Text;
        let mut stop = std::pin::pin!(link::terminated()?);
        let mut before = None;
        loop {
            let now = only(client.rollouts().await?, args.slice.as_deref())?;
            if screen {
                output::styled(&format!("{HOME}{}", text(&now)))?;
            } else if before.as_ref() != Some(&now) {
                // Elsewhere only what is new is said.
                match args.output {
                    TextFormat::Json => output::text(&format!("{}\n", line(&now)?))?,
                    TextFormat::Text => output::styled(&text(&now))?,
                }
            }
            before = Some(now);
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = &mut stop => return Ok(Exit::Done),
            }
        }
    })
}

fn press(word: &Word, what: RolloutVerb) -> Outcome {
    let client = word.agent.client();
    let request = RolloutRequest {
        slice: word.slice.clone(),
        what,
        by: word.by.clone().unwrap_or_else(user),
    };
    let rollouts = wait(async {
        client.roll(&request).await.map_err(|error| match error {
            ClientError::Refused { status: 409, .. } => {
                let slice = &word.slice;
                Failure::from(error).hint(format!("see how far it is: `xeno rollout status {slice}`"))
            }
            other => other.into(),
        })
    })?;
    show(&only(rollouts, Some(&word.slice))?, TextFormat::Text)?;
    Ok(Exit::Done)
}

fn history(args: &History) -> Outcome {
    let client = args.agent.client();
    let rollouts = wait(async { Ok(client.rollouts().await?) })?;
    let rollouts = only(rollouts, Some(&args.slice))?;
    let lines = rollouts.rollouts.iter().flat_map(|rollout| &rollout.history);
    match args.output {
        TextFormat::Json => output::json(&lines.collect::<Vec<_>>())?,
        TextFormat::Text => {
            let now = output::now_ms();
            let lines = lines.map(|line| {
                let (by, what) = (output::clean(&line.by), output::clean(&line.what));
                format!("{:>11}  {by}: {what}\n", ago(line.at_ms, now))
            });
            output::text(&lines.collect::<String>())?;
        }
    }
    Ok(Exit::Done)
}

/// Those of one slice, which has to be there.
fn only(mut rollouts: RolloutsView, slice: Option<&str>) -> Outcome<RolloutsView> {
    if let Some(slice) = slice {
        rollouts.rollouts.retain(|rollout| rollout.slice == slice);
        if rollouts.rollouts.is_empty() {
            let node = &rollouts.node;
            let said = format!("node {node} knows of no rollout of `{slice}`");
            return Err(Failure::said(said).hint("ask the agent of a node that has slivers of it".to_owned()));
        }
    }
    Ok(rollouts)
}

fn show(rollouts: &RolloutsView, form: TextFormat) -> Outcome<()> {
    match form {
        TextFormat::Json => output::json(rollouts),
        TextFormat::Text => output::styled(&text(rollouts)),
    }
}

fn line(rollouts: &RolloutsView) -> Outcome<String> {
    serde_json::to_string(rollouts).map_err(|error| Failure::doing("write JSON", &error))
}

fn text(rollouts: &RolloutsView) -> String {
    let mut text = String::new();
    if let Some(problem) = &rollouts.problem {
        let problem = format!(
            "as node {} knew it last: {}",
            rollouts.node,
            output::clean(problem)
        );
        text.push_str(&format!("{}\n", paint(FAIR, &problem)));
    }
    if rollouts.rollouts.is_empty() {
        text.push_str("no rollout has ever begun\n");
    }
    for (number, rollout) in rollouts.rollouts.iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        text.push_str(&one(rollout));
    }
    text
}

/// A rollout for people: a line that says how it is, a bar a wave, and a line a sliver that is not there yet.
fn one(rollout: &RolloutView) -> String {
    let style = match rollout.verdict {
        VerdictWord::Done => GOOD,
        VerdictWord::Rolling => BOLD,
        VerdictWord::Paused | VerdictWord::Held => FAIR,
        VerdictWord::Failed | VerdictWord::Aborted => BAD,
    };
    let short = |commit: &str| commit.get(..8).unwrap_or(commit).to_owned();
    let from = rollout.good.as_deref().map(|good| format!("{} → ", short(good)));
    let mut text = format!(
        "{}  {}{}  {}\n",
        paint(BOLD, &rollout.slice),
        from.unwrap_or_default(),
        short(&rollout.commit),
        paint(style, &output::clean(&rollout.says)),
    );
    for (number, wave) in (1..).zip(&rollout.waves) {
        text.push_str(&bar(
            number,
            wave,
            number == rollout.wave && rollout.verdict == VerdictWord::Rolling,
        ));
    }
    if let Some(holds) = &rollout.holds {
        text.push_str(&format!("  {}\n", output::clean(holds)));
    }
    let width = |of: fn(&xeno_agent::api::RolloutSliverView) -> &str| {
        rollout
            .slivers
            .iter()
            .map(|sliver| of(sliver).chars().count())
            .max()
            .unwrap_or(0)
    };
    let (slivers, nodes) = (width(|sliver| &sliver.sliver), width(|sliver| &sliver.node));
    for sliver in &rollout.slivers {
        let (word, style) = match sliver.state {
            RolloutState::There => continue,
            RolloutState::Changing => ("changing", BOLD),
            RolloutState::Failed => ("failed", BAD),
            RolloutState::Away => ("away", FAIR),
            RolloutState::Waiting => ("waits", FAINT),
        };
        let why = sliver
            .why
            .as_deref()
            .map(|why| format!("  {}", output::clean(why)));
        text.push_str(&format!(
            "  {:slivers$}  {:nodes$}  {}{}\n",
            sliver.sliver,
            sliver.node,
            paint(style, &format!("{word:8}")),
            why.unwrap_or_default(),
        ));
    }
    text
}

/// `  wave 1  canary ████████░░░░  3 of 6, 1 failed`
fn bar(number: u32, wave: &WaveView, now: bool) -> String {
    let cells = |part: u32| {
        let cells = u64::from(BAR) * u64::from(part) / u64::from(wave.all.max(1));
        usize::try_from(cells).unwrap_or(0)
    };
    let (there, changing) = (cells(wave.there), cells(wave.changing));
    let (failed, away) = (cells(wave.failed), cells(wave.away));
    let rest = (BAR as usize).saturating_sub(there + changing + failed + away);
    let mut said = vec![format!("{} of {}", wave.there, wave.all)];
    for (count, word) in [
        (wave.changing, "changing"),
        (wave.failed, "failed"),
        (wave.away, "away"),
        (wave.waiting, "waiting"),
    ] {
        if count > 0 {
            said.push(format!("{count} {word}"));
        }
    }
    let of = wave.of.as_deref().map(output::clean);
    format!(
        "  {} wave {number} {:7} {}{}{}{}{}  {}{}\n",
        if now { "›" } else { " " },
        if wave.canary { "canary" } else { "" },
        paint(GOOD, &"█".repeat(there)),
        paint(BOLD, &"▓".repeat(changing)),
        paint(BAD, &"█".repeat(failed)),
        paint(FAIR, &"░".repeat(away)),
        paint(FAINT, &"·".repeat(rest)),
        said.join(", "),
        of.map(|of| paint(FAINT, &format!("  {of}"))).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use xeno_agent::api::{FORMAT_VERSION, RolloutSliverView};

    use super::*;

    #[test]
    fn a_rollout_is_drawn_by_wave() {
        let sliver = |number: u32, wave, state, why: &str| RolloutSliverView {
            sliver: format!("web/{number}"),
            node: format!("cam-0{number}"),
            wave,
            state,
            why: (!why.is_empty()).then(|| why.to_owned()),
        };
        let rollouts = RolloutsView {
            format_version: FORMAT_VERSION,
            node: "cam-00".to_owned(),
            problem: None,
            rollouts: vec![RolloutView {
                slice: "web".to_owned(),
                commit: "b".repeat(40),
                good: Some("a".repeat(40)),
                verdict: VerdictWord::Rolling,
                says: "rolling out".to_owned(),
                holds: Some("wave 2 of 3: 1 of 3 are healthy, and sliver 2 is not yet".to_owned()),
                wave: 2,
                waves: vec![
                    WaveView {
                        canary: true,
                        all: 1,
                        there: 1,
                        ..WaveView::default()
                    },
                    WaveView {
                        of: Some("{ site: cam }".to_owned()),
                        all: 3,
                        changing: 1,
                        failed: 1,
                        away: 1,
                        ..WaveView::default()
                    },
                    WaveView {
                        all: 2,
                        waiting: 2,
                        ..WaveView::default()
                    },
                ],
                slivers: vec![
                    sliver(0, 1, RolloutState::There, ""),
                    sliver(2, 2, RolloutState::Changing, ""),
                    sliver(1, 2, RolloutState::Failed, "its health check fails: status 500"),
                    sliver(3, 2, RolloutState::Away, "node cam-03 is out of reach"),
                    sliver(
                        4,
                        3,
                        RolloutState::Waiting,
                        "it changes in wave 3 of 3, and wave 2 is under way",
                    ),
                ],
                history: Vec::new(),
            }],
        };
        let expected = "\
web  aaaaaaaa → bbbbbbbb  rolling out
    wave 1 canary  ████████████████████████  1 of 1
  › wave 2         ▓▓▓▓▓▓▓▓████████░░░░░░░░  0 of 3, 1 changing, 1 failed, 1 away  { site: cam }
    wave 3         ························  0 of 2, 2 waiting
  wave 2 of 3: 1 of 3 are healthy, and sliver 2 is not yet
  web/2  cam-02  changing
  web/1  cam-01  failed    its health check fails: status 500
  web/3  cam-03  away      node cam-03 is out of reach
  web/4  cam-04  waits     it changes in wave 3 of 3, and wave 2 is under way
";
        assert_eq!(
            anstream::adapter::strip_str(&text(&rollouts)).to_string(),
            expected
        );
    }
}
