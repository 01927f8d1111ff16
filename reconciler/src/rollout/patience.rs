//! For how long a sliver may be on its way with a slot: one that neither gets healthy nor fails keeps others waiting for nothing.

use std::collections::BTreeMap;

use super::Condition;

/// For how long a sliver may be on its way, beyond the grace of its health check, in milliseconds. A guest boots and gets healthy
/// within its grace, and a checkpoint, a template or a move may take minutes before that.
pub const PATIENCE_MS: u64 = 900_000;

/// Since when slivers of this node have been on their way with a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    since: BTreeMap<u32, u64>,
}

impl Patience {
    /// How a sliver is, once its time is taken into account: `now_ms` of any clock that only goes forward, `grace_ms` of its health
    /// check, `waits` for what keeps it, as far as that is known.
    pub fn look(
        &mut self,
        number: u32,
        slotted: bool,
        condition: Condition,
        grace_ms: u64,
        now_ms: u64,
        waits: impl FnOnce() -> Option<String>,
    ) -> Condition {
        if !slotted || condition != Condition::Changing {
            self.since.remove(&number);
            return condition;
        }
        let since = *self.since.entry(number).or_insert(now_ms);
        let on_its_way = now_ms.saturating_sub(since);
        if on_its_way < PATIENCE_MS.saturating_add(grace_ms) {
            return condition;
        }
        let minutes = on_its_way / 60_000;
        let why = match waits() {
            Some(waits) => format!("it has been on its way for {minutes} minutes: {waits}"),
            None => format!("it has been on its way for {minutes} minutes"),
        };
        Condition::Failed { why }
    }

    /// When some sliver's time is over, if all stays as it is.
    #[must_use]
    pub fn due_ms(&self, grace_ms: u64) -> Option<u64> {
        let first = self.since.values().min()?;
        Some(first.saturating_add(PATIENCE_MS).saturating_add(grace_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE_MS: u64 = 60_000;

    fn look(patience: &mut Patience, slotted: bool, condition: Condition, now_ms: u64) -> Condition {
        let waits = || Some("no room".to_owned());
        patience.look(3, slotted, condition, GRACE_MS, now_ms, waits)
    }

    #[test]
    fn who_is_on_its_way_for_too_long_has_failed() {
        let mut patience = Patience::default();
        let over = PATIENCE_MS + GRACE_MS;
        assert_eq!(
            look(&mut patience, true, Condition::Changing, 7),
            Condition::Changing
        );
        assert_eq!(patience.due_ms(GRACE_MS), Some(7 + over));
        assert_eq!(
            look(&mut patience, true, Condition::Changing, 6 + over),
            Condition::Changing
        );
        let why = "it has been on its way for 16 minutes: no room".to_owned();
        assert_eq!(
            look(&mut patience, true, Condition::Changing, 7 + over),
            Condition::Failed { why }
        );
    }

    #[test]
    fn only_what_has_a_slot_and_is_on_its_way_counts() {
        let mut patience = Patience::default();
        let over = PATIENCE_MS + GRACE_MS;
        for (slotted, condition) in [(false, Condition::Changing), (true, Condition::Healthy)] {
            look(&mut patience, true, Condition::Changing, 0);
            assert_eq!(look(&mut patience, slotted, condition.clone(), over), condition);
            // It begins anew.
            assert_eq!(
                look(&mut patience, true, Condition::Changing, over),
                Condition::Changing
            );
            assert_eq!(patience.due_ms(GRACE_MS), Some(2 * over));
            look(&mut patience, false, Condition::Healthy, over);
        }
    }
}
