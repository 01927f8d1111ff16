//! The end of the gate where the domain goes to.

use super::wire::{Backward, Forward, MigrationId};
use super::words::{GO, Listener, Word};

/// What happens to the target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The other node sent this.
    Frame(Forward),
    /// The other node will send nothing more, or something that cannot be understood.
    LinkLost,
    /// The receiver wrote this.
    FromReceiver(Vec<u8>),
    /// The receiver writes no more.
    ReceiverClosed,
    /// Somebody looked at the domains of this node, after [`News::MustLook`].
    Looked(Found),
}

/// What there is of the copy, seen once its receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// Nothing; what was there has been destroyed.
    Nothing,
    /// It runs, under its own name.
    Runs,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Write this for the receiver.
    ToReceiver(Vec<u8>),
    /// Close the receiver's input, and go on listening to it.
    CloseReceiver,
    /// Send this to the other node.
    Send(Backward),
    /// Tell whoever decides.
    Tell(News),
}

/// What whoever decides has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// Which move this is.
    Hello(MigrationId),
    /// The copy is whole, and paused.
    Ready,
    /// The copy runs.
    Runs,
    /// The copy could not run; the proof that it is gone is [`News::CopyGone`].
    Refused(u8),
    /// There is no copy, and there will be none.
    CopyGone,
    /// The receiver is gone and did not say what it left: a paused `NAME--incoming`, maybe, that has to be destroyed; or the
    /// running domain, where it had been cleared. The gate waits for [`Input::Looked`].
    MustLook,
    /// Nothing is known of the source from here on. Without GO the copy is destroyed.
    LinkLost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Nothing has come.
    New,
    /// The domain's memory comes.
    Receiving,
    /// The copy is whole, and has not been cleared to run.
    Ready,
    /// The receiver has GO.
    Cleared,
    /// The receiver's input was closed: it destroys its copy, if it has one, and says so.
    Undoing,
    /// It runs, or it is gone.
    Over,
}

/// The target of one migration. Pure: it is told what happens and says what is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    stage: Stage,
    listener: Listener,
    link: bool,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            stage: Stage::New,
            listener: Listener::default(),
            link: true,
        }
    }
}

impl Target {
    /// Whether the copy runs, or is known to be gone.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// What is to be done about what happened, in this order.
    pub fn on(&mut self, input: Input) -> Vec<Output> {
        let mut todo = Vec::new();
        match input {
            Input::Frame(frame) => self.heard_source(frame, &mut todo),
            Input::LinkLost => {
                if std::mem::replace(&mut self.link, false) && self.stage != Stage::Over {
                    todo.push(Output::Tell(News::LinkLost));
                    self.undo(&mut todo);
                }
            }
            Input::FromReceiver(bytes) => match self.listener.hear(&bytes) {
                Ok(words) => words
                    .into_iter()
                    .for_each(|word| self.heard_receiver(word, &mut todo)),
                // What it is, we do not know; where it may not run it will end without input, and then somebody looks.
                Err(_) => self.undo(&mut todo),
            },
            Input::ReceiverClosed if self.stage != Stage::Over => todo.push(Output::Tell(News::MustLook)),
            Input::ReceiverClosed => {}
            Input::Looked(found) if self.stage != Stage::Over => {
                let (news, frame) = match (found, self.stage) {
                    (Found::Nothing, _) => (News::CopyGone, Backward::Gone),
                    (Found::Runs, Stage::Cleared) => (News::Runs, Backward::Report(0)),
                    // Nobody let it: somebody has to find out who did.
                    (Found::Runs, _) => return vec![Output::Tell(News::MustLook)],
                };
                self.stage = Stage::Over;
                todo.push(Output::Tell(news));
                self.send(frame, &mut todo);
            }
            Input::Looked(_) => {}
        }
        todo
    }

    fn heard_source(&mut self, frame: Forward, todo: &mut Vec<Output>) {
        match (self.stage, frame) {
            (Stage::New, Forward::Hello(id)) => {
                self.stage = Stage::Receiving;
                todo.push(Output::Tell(News::Hello(id)));
            }
            (Stage::Receiving, Forward::Data(bytes)) => todo.push(Output::ToReceiver(bytes)),
            (Stage::Ready, Forward::Go) => {
                self.stage = Stage::Cleared;
                todo.push(Output::ToReceiver(GO.to_vec()));
            }
            // What was under way when it was called off.
            (Stage::Undoing | Stage::Over, _) => {}
            // Called off, or something that a source of ours does not send now.
            _ => self.undo(todo),
        }
    }

    fn heard_receiver(&mut self, word: Word, todo: &mut Vec<Output>) {
        match (self.stage, word) {
            (Stage::New | Stage::Receiving, Word::Banner) => self.send(Backward::Banner, todo),
            (Stage::Receiving, Word::Ready) => {
                self.stage = Stage::Ready;
                todo.push(Output::Tell(News::Ready));
                self.send(Backward::Ready, todo);
            }
            (Stage::Cleared, Word::Report(0)) => {
                self.stage = Stage::Over;
                todo.push(Output::Tell(News::Runs));
                self.send(Backward::Report(0), todo);
            }
            (_, Word::Report(status)) if status != 0 => {
                todo.push(Output::Tell(News::Refused(status)));
                self.send(Backward::Report(status), todo);
            }
            (_, Word::Back) => {
                self.stage = Stage::Over;
                todo.push(Output::Tell(News::CopyGone));
                self.send(Backward::Gone, todo);
            }
            // Said before it heard that all is off.
            (Stage::Undoing, _) => {}
            _ => self.undo(todo),
        }
    }

    /// Has the copy destroyed, unless it may run already.
    fn undo(&mut self, todo: &mut Vec<Output>) {
        if matches!(self.stage, Stage::New | Stage::Receiving | Stage::Ready) {
            self.stage = Stage::Undoing;
            todo.push(Output::CloseReceiver);
        }
    }

    fn send(&self, frame: Backward, todo: &mut Vec<Output>) {
        if self.link {
            todo.push(Output::Send(frame));
        }
    }
}
