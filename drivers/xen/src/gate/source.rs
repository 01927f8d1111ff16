//! The end of the gate where the domain comes from.

use super::wire::{Backward, Forward, MigrationId};
use super::words::{BANNER, FAILED, GO, READY, report};

/// What happens to the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// xl wrote this.
    FromXl(Vec<u8>),
    /// xl writes no more.
    XlClosed,
    /// The other node sent this.
    Frame(Backward),
    /// The other node will send nothing more, or something that cannot be understood.
    LinkLost,
    /// Somebody decided.
    Order(Order),
}

/// What can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// READY may be passed to xl: all that the guest had here is sealed. After [`News::Ready`].
    PassReady,
    /// GO may be passed to the target: it has the right to run. After [`News::Go`]. From here there is no abort.
    PassGo,
    /// The domain stays here. It resumes at once where xl has not been asked, and otherwise once the target has proved
    /// that its copy is gone. Not after [`Order::PassGo`].
    Abort,
    /// The domain resumes here without the target's proof: the right to run never left, and will not; or the target was
    /// fenced, or has said by another way that it has no copy, and the right to run is here again.
    GiveBack,
    /// The domain runs there, which was learnt by another way: xl destroys what is left here.
    GiveAway,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Write this for xl.
    ToXl(Vec<u8>),
    /// Close xl's pipes.
    CloseXl,
    /// Send this to the other node.
    Send(Forward),
    /// Tell whoever decides.
    Tell(News),
}

/// What whoever decides has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// The target has a whole copy, and the domain here is suspended. xl does not know; closing its pipe lets it resume.
    Ready,
    /// xl has given the domain away: it never resumes by itself any more.
    Go,
    /// The target reports that its copy runs.
    Arrived,
    /// The target could not run its copy and destroys it; the proof is [`News::CopyGone`].
    Refused(u8),
    /// The target has no copy, and will have none.
    CopyGone,
    /// Nothing is known of the target from here on.
    LinkLost,
    /// An order came at a moment that has no place for it; nothing was done.
    NotNow(Order),
    /// The gate has done its part.
    Over(End),
}

/// How it ended for xl at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Its pipe was closed before it had READY: it resumes the domain.
    Resumes,
    /// It was told that the copy does not run, and that it has the domain back: it resumes the domain.
    GivenBack,
    /// It was told that the copy runs: it destroys the rest.
    GivenAway,
    /// It is gone, or said what xl does not say: the domain must be looked at, which may run, or be suspended with
    /// nobody to resume it.
    Unclear,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// The domain's memory goes over.
    Streaming,
    /// READY is here and xl has not got it.
    Held,
    /// xl has READY; what it has said of GO so far.
    Asked(Vec<u8>),
    /// xl has said GO; the target has not got it.
    Given,
    /// The target has GO.
    Passed,
    /// The target has GO and could not run its copy.
    Refused,
    /// Called off after xl had READY: waits for GO from xl, if it has not been said, and for the target's proof.
    Undoing(Vec<u8>),
    Over,
}

/// The source of one migration. Pure: it is told what happens and says what is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    stage: Stage,
    /// Whether the target can be told anything.
    link: bool,
    /// Whether the target has proved that it has no copy.
    proof: bool,
    /// Whether its copy is known to run.
    arrived: bool,
    /// Whether xl still listens.
    xl: bool,
}

impl Source {
    /// A migration that begins, with what is to be done first.
    #[must_use]
    pub fn new(id: MigrationId) -> (Self, Vec<Output>) {
        let source = Self {
            stage: Stage::Streaming,
            link: true,
            proof: false,
            arrived: false,
            xl: true,
        };
        (source, vec![Output::Send(Forward::Hello(id))])
    }

    /// Whether xl here has been told how it ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether that is so, and no more will be learnt of what became of the copy.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_over() && (self.proof || self.arrived || !self.link)
    }

    /// What is to be done about what happened, in this order.
    pub fn on(&mut self, input: Input) -> Vec<Output> {
        let mut todo = Vec::new();
        match input {
            Input::FromXl(bytes) => self.heard_xl(bytes, &mut todo),
            Input::XlClosed => self.lost_xl(&mut todo),
            Input::Frame(frame) => self.heard_target(frame, &mut todo),
            Input::LinkLost => self.lost_target(&mut todo),
            Input::Order(order) => self.ordered(order, &mut todo),
        }
        todo
    }

    fn heard_xl(&mut self, bytes: Vec<u8>, todo: &mut Vec<Output>) {
        match &mut self.stage {
            Stage::Streaming => self.send(Forward::Data(bytes), todo),
            Stage::Asked(said) | Stage::Undoing(said) => {
                said.extend_from_slice(&bytes[..bytes.len().min(GO.len() + 1 - said.len())]);
                if !GO.starts_with(said) {
                    // Not xl, or not one that we know. It may have resumed the domain or not.
                    self.send(Forward::Abort, todo);
                    self.end(End::Unclear, todo);
                } else if said.len() == GO.len() {
                    match self.stage {
                        Stage::Asked(_) => {
                            self.stage = Stage::Given;
                            todo.push(Output::Tell(News::Go));
                        }
                        _ => self.undo(todo),
                    }
                }
            }
            // xl waits for READY and has nothing to say.
            Stage::Held => {
                self.send(Forward::Abort, todo);
                self.end(End::Unclear, todo);
            }
            // Nor now, when it waits for a report; but the move is decided without it.
            Stage::Given | Stage::Passed | Stage::Refused | Stage::Over => {}
        }
    }

    fn lost_xl(&mut self, todo: &mut Vec<Output>) {
        self.xl = false;
        match self.stage {
            // Killed in mid-stream it leaves the domain running or suspended; after READY it may have resumed it. While READY
            // was held, suspended with nobody to resume it.
            Stage::Streaming | Stage::Held | Stage::Asked(_) | Stage::Undoing(_) => {
                self.send(Forward::Abort, todo);
                self.end(End::Unclear, todo);
            }
            // The domain is suspended and given away; the move can go on without xl.
            Stage::Given | Stage::Passed | Stage::Refused | Stage::Over => {}
        }
    }

    fn heard_target(&mut self, frame: Backward, todo: &mut Vec<Output>) {
        match (&self.stage, frame) {
            (Stage::Streaming, Backward::Banner) => todo.push(Output::ToXl(BANNER.to_vec())),
            (Stage::Streaming, Backward::Ready) => {
                self.stage = Stage::Held;
                todo.push(Output::Tell(News::Ready));
            }
            (Stage::Passed, Backward::Report(0)) => {
                todo.push(Output::Tell(News::Arrived));
                self.give_away(todo);
            }
            (Stage::Passed, Backward::Report(status)) => {
                self.stage = Stage::Refused;
                todo.push(Output::Tell(News::Refused(status)));
            }
            // The status is that of a copy that was never allowed to run; what counts is the proof.
            (
                Stage::Streaming | Stage::Held | Stage::Asked(_) | Stage::Given | Stage::Undoing(_),
                Backward::Report(status),
            ) if status != 0 => {}
            (stage, Backward::Gone) => {
                let ends = matches!(stage, Stage::Streaming | Stage::Held);
                self.proof = true;
                todo.push(Output::Tell(News::CopyGone));
                if ends {
                    self.end(End::Resumes, todo);
                } else {
                    self.undo(todo);
                }
            }
            (Stage::Over, _) => {}
            // Nothing that a target of ours says now.
            _ => self.lost_target(todo),
        }
    }

    fn lost_target(&mut self, todo: &mut Vec<Output>) {
        if !std::mem::replace(&mut self.link, false) {
            return;
        }
        // A target that has proved to have nothing has nothing more to say.
        if self.is_over() || self.proof {
            return;
        }
        todo.push(Output::Tell(News::LinkLost));
        // Without READY xl resumes, and without GO the copy cannot run. Later, somebody has to find out first.
        if matches!(self.stage, Stage::Streaming | Stage::Held) {
            self.end(End::Resumes, todo);
        }
    }

    fn ordered(&mut self, order: Order, todo: &mut Vec<Output>) {
        match (order, &self.stage) {
            (Order::PassReady, Stage::Held) => {
                self.stage = Stage::Asked(Vec::new());
                todo.push(Output::ToXl(READY.to_vec()));
            }
            (Order::PassGo, Stage::Given) if self.link && !self.proof => {
                self.stage = Stage::Passed;
                self.send(Forward::Go, todo);
            }
            (Order::Abort, Stage::Streaming | Stage::Held) => {
                self.send(Forward::Abort, todo);
                self.end(End::Resumes, todo);
            }
            (Order::Abort, Stage::Asked(said)) => {
                self.stage = Stage::Undoing(said.clone());
                self.send(Forward::Abort, todo);
                self.undo(todo);
            }
            (Order::Abort, Stage::Given) => {
                self.stage = Stage::Undoing(GO.to_vec());
                self.send(Forward::Abort, todo);
                self.undo(todo);
            }
            (Order::GiveBack, Stage::Given | Stage::Passed | Stage::Refused) => self.give_back(todo),
            (Order::GiveBack, Stage::Asked(said) | Stage::Undoing(said)) => {
                let said = said.clone();
                self.stage = Stage::Undoing(said);
                self.proof = true;
                self.undo(todo);
            }
            (Order::GiveAway, Stage::Passed) => self.give_away(todo),
            _ => todo.push(Output::Tell(News::NotNow(order))),
        }
    }

    /// Goes back, once xl has said GO, so that it listens, and the target has proved that it has no copy.
    fn undo(&mut self, todo: &mut Vec<Output>) {
        if matches!(&self.stage, Stage::Undoing(said) if said.len() == GO.len()) && self.proof {
            self.give_back(todo);
        }
    }

    fn give_back(&mut self, todo: &mut Vec<Output>) {
        self.proof = true;
        self.answer(FAILED, End::GivenBack, todo);
    }

    fn give_away(&mut self, todo: &mut Vec<Output>) {
        self.arrived = true;
        self.answer(0, End::GivenAway, todo);
    }

    fn answer(&mut self, status: u8, end: End, todo: &mut Vec<Output>) {
        if self.xl {
            todo.push(Output::ToXl(report(status)));
            self.end(end, todo);
        } else {
            self.end(End::Unclear, todo);
        }
    }

    fn end(&mut self, end: End, todo: &mut Vec<Output>) {
        self.stage = Stage::Over;
        todo.push(Output::CloseXl);
        todo.push(Output::Tell(News::Over(end)));
    }

    fn send(&self, frame: Forward, todo: &mut Vec<Output>) {
        if self.link {
            todo.push(Output::Send(frame));
        }
    }
}
