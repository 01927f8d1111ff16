//! The writing half: everything that must be remembered together goes into one transaction.

use rusqlite::{Params, Transaction, params};
use xeno_model::id::{Digest, Epoch, Generation, Revision, SliverId, Timestamp};
use xeno_model::normal;
use xeno_reconciler::change::AppliedSliver;
use xeno_reconciler::tenure::Journal;

use super::{Limits, signed, unsigned};
use crate::error::StateError;
use crate::record::{
    self, Accepted, BackOff, Chapter, ChapterEnd, Event, Freeze, NewEvent, Outcome, RESTARTS_MAX, Rejection,
    Stand, Tombstone,
};
use crate::time::{BootMoment, NodeTime};

/// One transaction under way.
#[derive(Debug)]
pub struct Writer<'a> {
    pub(super) tx: Transaction<'a>,
    pub(super) limits: Limits,
    /// Whether what is kept twice has changed.
    pub(super) keeps: bool,
    pub(super) lived_to: Option<NodeTime>,
}

impl Writer<'_> {
    /// Accepts a commit as the desired state and forgets the rejected one; returns the new generation.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn accept(&mut self, revision: &Revision, at: Timestamp) -> Result<Generation, StateError> {
        let attempt = "write the accepted revision";
        self.keeps = true;
        self.run(attempt, "DELETE FROM rejected", [])?;
        let generation = self
            .tx
            .query_row(
                "UPDATE node SET generation = generation + 1, revision = ?1, accepted_ms = ?2 RETURNING generation",
                params![revision.as_str(), signed(at.0)],
                |row| row.get(0),
            )
            .map_err(StateError::sqlite(attempt))?;
        Ok(Generation(unsigned(generation)))
    }

    /// Puts back what was accepted, into a database that was made anew; generations never fall.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn restore_accepted(&mut self, accepted: &Accepted) -> Result<(), StateError> {
        self.keeps = true;
        self.run(
            "write the accepted revision",
            "UPDATE node SET generation = max(generation, ?1), carried = ?2, revision = ?3, accepted_ms = ?4",
            params![
                signed(accepted.generation.0),
                signed(accepted.carried.0),
                accepted.revision.as_str(),
                signed(accepted.at.0)
            ],
        )
    }

    /// Writes down how long the node has lived, and at which moment that was. It never goes back.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn lived(&mut self, time: NodeTime, at: &BootMoment) -> Result<(), StateError> {
        self.lived_to = Some(time);
        self.run(
            "write the node's time",
            "UPDATE node SET boot = ?2, boot_ms = ?3, time_ms = max(time_ms, ?1),
                 rebuilt_time_ms = CASE WHEN rebuilt_ms IS NULL THEN NULL ELSE coalesce(rebuilt_time_ms, ?1) END",
            params![signed(time.0), at.boot, signed(at.ms)],
        )
    }

    /// Remembers that a generation was carried through.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn carried(&mut self, generation: Generation) -> Result<(), StateError> {
        self.run(
            "write the generation carried through",
            "UPDATE node SET carried = max(carried, ?1)",
            [signed(generation.0)],
        )
    }

    /// Remembers that a commit was not accepted, or that the newest one was.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn reject(&mut self, rejection: Option<&Rejection>) -> Result<(), StateError> {
        let attempt = "write the rejected revision";
        self.run(attempt, "DELETE FROM rejected", [])?;
        let Some(rejection) = rejection else { return Ok(()) };
        self.run(
            attempt,
            "INSERT INTO rejected (id, revision, why, at_ms) VALUES (1, ?1, ?2, ?3)",
            params![rejection.revision.as_str(), rejection.why, signed(rejection.at.0)],
        )
    }

    /// Remembers what a sliver is being made, or has been made, and the right to run it was done under.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn apply(&mut self, applied: &AppliedSliver) -> Result<(), StateError> {
        let sliver = applied.desired.id.to_string();
        self.run(
            "write what is applied",
            "INSERT INTO applied (sliver, desired, epoch, complete, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (sliver) DO UPDATE SET
                 desired = excluded.desired, epoch = excluded.epoch, complete = excluded.complete, at_ms = excluded.at_ms",
            params![
                sliver,
                normal::to_json(&applied.desired),
                signed(applied.epoch.0),
                applied.complete,
                signed(applied.at.0)
            ],
        )?;
        self.hold(&applied.desired.id, applied.epoch)
    }

    /// Remembers the right to run; a lower epoch than the one remembered changes nothing.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn hold(&mut self, sliver: &SliverId, epoch: Epoch) -> Result<(), StateError> {
        self.run(
            "write the holder",
            "INSERT INTO holder (sliver, epoch) VALUES (?1, ?2)
             ON CONFLICT (sliver) DO UPDATE SET epoch = max(epoch, excluded.epoch)",
            params![sliver.to_string(), signed(epoch.0)],
        )
    }

    /// Remembers what this node is about to do with the right to run a sliver; epochs lower than those remembered change
    /// nothing.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn tenure(&mut self, sliver: &SliverId, journal: Journal) -> Result<(), StateError> {
        let epoch = |epoch: Option<Epoch>| epoch.map(|epoch| signed(epoch.0));
        self.run(
            "write what is done about the right to run",
            "INSERT INTO tenure (sliver, began, offered) VALUES (?1, ?2, ?3)
             ON CONFLICT (sliver) DO UPDATE SET
                 began = max(coalesce(began, excluded.began), coalesce(excluded.began, began)),
                 offered = max(coalesce(offered, excluded.offered), coalesce(excluded.offered, offered))",
            params![sliver.to_string(), epoch(journal.began), epoch(journal.offered)],
        )
    }

    /// Remembers where a sliver stands in the rollouts of its slice.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn stand(&mut self, stand: &Stand) -> Result<(), StateError> {
        let good = stand.good.as_ref();
        self.run(
            "write where a sliver stands",
            "INSERT INTO footing (sliver, at, at_desired, good, good_desired) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (sliver) DO UPDATE SET
                 at = excluded.at, at_desired = excluded.at_desired,
                 good = excluded.good, good_desired = excluded.good_desired",
            params![
                stand.at.1.id.to_string(),
                stand.at.0.to_string(),
                normal::to_json(&stand.at.1),
                good.map(|(revision, _)| revision.to_string()),
                good.map(|(_, desired)| normal::to_json(desired)),
            ],
        )
    }

    /// Forgets where a sliver stood in the rollouts of its slice.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn leave_rollouts(&mut self, sliver: &SliverId) -> Result<(), StateError> {
        let name = sliver.to_string();
        self.run(
            "forget where a sliver stood",
            "DELETE FROM footing WHERE sliver = ?1",
            [&name],
        )
    }

    /// Remembers which board this node has joined.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn joined(&mut self, identity: &str) -> Result<(), StateError> {
        self.run(
            "write which board was joined",
            "INSERT INTO board (id, identity) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET identity = excluded.identity",
            [identity],
        )
    }

    /// Forgets what a sliver was made; the right to run it had stays.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn forget(&mut self, sliver: &SliverId) -> Result<(), StateError> {
        let name = sliver.to_string();
        self.run(
            "forget what was applied",
            "DELETE FROM applied WHERE sliver = ?1",
            [&name],
        )
    }

    /// Begins a run and returns its number.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn begin_run(
        &mut self,
        generation: Generation,
        revision: &Revision,
        actions: usize,
        at: Timestamp,
    ) -> Result<i64, StateError> {
        self.run(
            "write the run",
            "INSERT INTO run (generation, revision, actions, began_ms) VALUES (?1, ?2, ?3, ?4)",
            params![
                signed(generation.0),
                revision.as_str(),
                i64::try_from(actions).unwrap_or(i64::MAX),
                signed(at.0)
            ],
        )?;
        let run = self.tx.last_insert_rowid();
        self.run(
            "drop old runs",
            "DELETE FROM run WHERE id <= ?1",
            [run - i64::from(self.limits.runs_max)],
        )?;
        Ok(run)
    }

    /// Ends a run.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn end_run(&mut self, run: i64, outcome: &str, at: Timestamp) -> Result<(), StateError> {
        self.run(
            "write the end of the run",
            "UPDATE run SET ended_ms = ?2, outcome = ?3 WHERE id = ?1",
            params![run, signed(at.0), outcome],
        )
    }

    /// Writes down that an action is about to be done, and returns the entry's number.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written; the action must not be done then.
    pub fn intent(
        &mut self,
        run: i64,
        action: &str,
        sliver: Option<&SliverId>,
        at: Timestamp,
    ) -> Result<i64, StateError> {
        self.run(
            "write an intent",
            "INSERT INTO journal (run, action, sliver, intent_ms) VALUES (?1, ?2, ?3, ?4)",
            params![run, action, sliver.map(ToString::to_string), signed(at.0)],
        )?;
        Ok(self.tx.last_insert_rowid())
    }

    /// Writes down what came of an intent.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn outcome(&mut self, intent: i64, outcome: &Outcome, at: Timestamp) -> Result<(), StateError> {
        let (word, why) = outcome.word();
        self.run(
            "write an outcome",
            "UPDATE journal SET outcome_ms = ?2, outcome = ?3, why = ?4 WHERE seq = ?1",
            params![intent, signed(at.0), word, why.map(record::cut)],
        )
    }

    /// Writes down an event and drops the oldest ones beyond the limit.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn event(&mut self, event: NewEvent) -> Result<Event, StateError> {
        let text = record::cut(&event.text).to_owned();
        self.run(
            "write an event",
            "INSERT INTO event (at_ms, kind, sliver, text, data) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                signed(event.at.0),
                event.kind.as_str(),
                event.sliver.as_ref().map(ToString::to_string),
                text,
                event.data.clone().map(record::write_data),
            ],
        )?;
        let seq = self.tx.last_insert_rowid();
        let last_gone = seq - i64::from(self.limits.events_max);
        self.run(
            "drop old events",
            "DELETE FROM event WHERE seq <= ?1",
            [last_gone],
        )?;
        Ok(Event {
            seq: unsigned(seq),
            at: event.at,
            kind: event.kind,
            sliver: event.sliver,
            text,
            data: event.data,
        })
    }

    /// Counts a removal against the delete budget, and forgets those before `forget`, which no window reaches.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn removal(
        &mut self,
        sliver: &SliverId,
        at: Timestamp,
        time: NodeTime,
        forget: NodeTime,
    ) -> Result<(), StateError> {
        let attempt = "write a removal";
        self.run(
            attempt,
            "DELETE FROM removal WHERE time_ms < ?1",
            [signed(forget.0)],
        )?;
        self.run(
            attempt,
            "INSERT INTO removal (sliver, at_ms, time_ms) VALUES (?1, ?2, ?3)",
            params![sliver.to_string(), signed(at.0), signed(time.0)],
        )
    }

    /// Remembers when a tombstone was first seen; `None`: there is none any more.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn tombstone(&mut self, sliver: &SliverId, seen: Option<&Tombstone>) -> Result<(), StateError> {
        let (attempt, name) = ("write a tombstone", sliver.to_string());
        match seen {
            Some(seen) => self.run(
                attempt,
                "INSERT OR REPLACE INTO tombstone (sliver, since_ms, time_ms) VALUES (?1, ?2, ?3)",
                params![name, signed(seen.since.0), signed(seen.seen.0)],
            ),
            None => self.run(attempt, "DELETE FROM tombstone WHERE sliver = ?1", [name]),
        }
    }

    /// Begins a chapter of the history, and forgets the oldest beyond the limit.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn begin_chapter(&mut self, chapter: &Chapter) -> Result<(), StateError> {
        let attempt = "write the history";
        let (end, at) = chapter
            .ended
            .map_or((None, None), |(end, at)| (Some(end), Some(at)));
        self.run(
            attempt,
            "INSERT INTO history (run, sliver, generation, revision, class, cause, text, began_ms, ended_ms, outcome)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                chapter.run,
                chapter.sliver.as_ref().map(ToString::to_string),
                signed(chapter.generation.0),
                chapter.revision.as_str(),
                chapter.class,
                chapter.cause,
                record::cut(&chapter.text),
                signed(chapter.began.0),
                at.map(|at| signed(at.0)),
                end.map(ChapterEnd::as_str),
            ],
        )?;
        let gone = self.tx.last_insert_rowid() - i64::from(self.limits.events_max);
        self.run(attempt, "DELETE FROM history WHERE seq <= ?1", [gone])
    }

    /// Ends the chapter of a sliver in a run, or all that are open in it, or all that are open; those that ended before
    /// stay as they are.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn end_chapters(
        &mut self,
        run: Option<i64>,
        sliver: Option<&SliverId>,
        end: ChapterEnd,
        why: Option<&str>,
        at: Timestamp,
    ) -> Result<(), StateError> {
        self.run(
            "write the history",
            "UPDATE history SET outcome = ?3, ended_ms = ?4,
                 text = CASE WHEN ?5 IS NULL THEN text ELSE text || ': ' || ?5 END
             WHERE outcome IS NULL AND (?1 IS NULL OR run = ?1) AND (?2 IS NULL OR sliver = ?2)",
            params![
                run,
                sliver.map(ToString::to_string),
                end.as_str(),
                signed(at.0),
                why.map(record::cut)
            ],
        )
    }

    /// Remembers that a guest had ended by itself and is started again.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn restart(&mut self, sliver: &SliverId, time: NodeTime) -> Result<(), StateError> {
        let (attempt, name) = ("write a restart", sliver.to_string());
        self.run(
            attempt,
            "INSERT INTO restart (sliver, time_ms) VALUES (?1, ?2)",
            params![name, signed(time.0)],
        )?;
        // More than this no pause depends on.
        self.run(
            attempt,
            "DELETE FROM restart WHERE sliver = ?1 AND rowid NOT IN
                 (SELECT rowid FROM restart WHERE sliver = ?1 ORDER BY time_ms DESC LIMIT ?2)",
            params![name, RESTARTS_MAX],
        )
    }

    /// Forgets the restarts of a sliver: it stayed up.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn forget_restarts(&mut self, sliver: &SliverId) -> Result<(), StateError> {
        self.run(
            "forget restarts",
            "DELETE FROM restart WHERE sliver = ?1",
            [sliver.to_string()],
        )
    }

    /// Remembers a freeze, in place of one of the same scope.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn freeze(&mut self, freeze: &Freeze) -> Result<(), StateError> {
        self.keeps = true;
        self.run(
            "write a freeze",
            "INSERT OR REPLACE INTO freeze (scope, reason, made_by, since_ms, until_ms)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                freeze.scope,
                record::cut(&freeze.reason),
                record::cut(&freeze.by),
                signed(freeze.since.0),
                freeze.until.map(|until| signed(until.0))
            ],
        )
    }

    /// Forgets a freeze.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn thaw(&mut self, scope: &str) -> Result<(), StateError> {
        self.keeps = true;
        self.run("forget a freeze", "DELETE FROM freeze WHERE scope = ?1", [scope])
    }

    /// Lets a sliver wait before its failed action is tried again.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn back_off(&mut self, sliver: &SliverId, back_off: &BackOff) -> Result<(), StateError> {
        self.run(
            "write a failure",
            "INSERT OR REPLACE INTO backoff (sliver, action, why, attempts, permanent, until_time_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                sliver.to_string(),
                back_off.action,
                record::cut(&back_off.why),
                back_off.attempts,
                back_off.permanent,
                signed(back_off.until.0)
            ],
        )
    }

    /// Forgets the failure of one sliver, or of all.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn clear_back_off(&mut self, sliver: Option<&SliverId>) -> Result<(), StateError> {
        let name = sliver.map(ToString::to_string);
        self.run(
            "forget a failure",
            "DELETE FROM backoff WHERE ?1 IS NULL OR sliver = ?1",
            [name],
        )
    }

    /// Remembers which template a file set was made into.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written.
    pub fn file_layer(&mut self, files: &Digest, template: &Digest) -> Result<(), StateError> {
        self.run(
            "write a file layer",
            "INSERT OR REPLACE INTO file_layer (files, template) VALUES (?1, ?2)",
            [files.to_string(), template.to_string()],
        )
    }

    fn run(&self, attempt: &'static str, sql: &str, params: impl Params) -> Result<(), StateError> {
        let execute = || self.tx.prepare_cached(sql)?.execute(params);
        execute().map(|_| ()).map_err(StateError::sqlite(attempt))
    }
}
