//! The cells of the matrix, and which of them there cannot be.

use xeno_reconciler::action::ActionKind;

/// When it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The intent is on disk; nothing has happened.
    BeforeEffect,
    /// It has happened; nobody has written that down.
    AfterEffect,
    /// The outcome is on disk; nothing else has begun.
    AfterRecord,
}

impl Moment {
    pub(crate) const ALL: [Self; 3] = [Self::BeforeEffect, Self::AfterEffect, Self::AfterRecord];
}

/// How it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// The agent is killed, and another is started on its state.
    AgentDies,
    /// The driver never answers.
    DriverHangs,
    /// The driver says that it failed, and did it all the same: at once (after the effect), or only when it had been
    /// given up and looked for (before the effect).
    DriverIsSilent,
}

impl Mishap {
    pub(crate) const ALL: [Self; 3] = [Self::AgentDies, Self::DriverHangs, Self::DriverIsSilent];
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) kind: ActionKind,
    pub(crate) moment: Moment,
    pub(crate) mishap: Mishap,
}

impl Cell {
    /// All cells of one kind of action.
    pub(crate) fn of(kind: ActionKind) -> impl Iterator<Item = Self> {
        Moment::ALL.into_iter().flat_map(move |moment| {
            Mishap::ALL
                .into_iter()
                .map(move |mishap| Self { kind, moment, mishap })
        })
    }

    /// Why it cannot occur.
    pub(crate) fn impossible(self) -> Option<&'static str> {
        let asks_a_driver = self.kind != ActionKind::AwaitHealthy;
        match (self.moment, self.mishap) {
            (_, Mishap::AgentDies) | (Moment::BeforeEffect, Mishap::DriverHangs) => None,
            (Moment::AfterRecord, Mishap::DriverHangs) => Some(
                "hangs after the record: the driver has answered; the next call is the next action's cell",
            ),
            (Moment::AfterRecord, Mishap::DriverIsSilent) => {
                Some("is silent after the record: what is recorded is what was said")
            }
            (Moment::BeforeEffect | Moment::AfterEffect, Mishap::DriverHangs | Mishap::DriverIsSilent)
                if asks_a_driver =>
            {
                None
            }
            (Moment::AfterEffect, Mishap::DriverHangs) => {
                Some("await hangs after the effect: the agent sees for itself that a guest is healthy")
            }
            (Moment::BeforeEffect | Moment::AfterEffect, Mishap::DriverIsSilent) => {
                Some("await succeeds unsaid: the agent sees for itself that a guest is healthy")
            }
        }
    }
}
