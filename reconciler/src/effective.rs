//! What a sliver should be doing once the owner of its site and its own end have had their say.

use std::borrow::Cow;

use xeno_model::desired::{DesiredNode, DesiredSliver, SliverState};
use xeno_model::id::Timestamp;

use crate::change::Reason;

/// The sliver as it is reconciled, and why that is not what the repository asks for. What a site does not run, and what
/// is over, is stopped and keeps its data: neither is ever a reason to remove anything.
pub(crate) fn effective<'a>(
    node: &DesiredNode,
    sliver: &'a DesiredSliver,
    now: Timestamp,
) -> (Cow<'a, DesiredSliver>, Option<Reason>) {
    if sliver.state != SliverState::Running {
        return (Cow::Borrowed(sliver), None);
    }
    let ruled_out = node.site.site.as_ref().zip(node.ruled_out.get(&sliver.id));
    let ruled_out = ruled_out.map(|(site, rule)| {
        let (site, rule) = (site.clone(), rule.clone());
        if rule.is_veto() {
            Reason::Vetoed { site, rule }
        } else {
            Reason::SiteCap { site, rule }
        }
    });
    let over = sliver.expires.filter(|expires| *expires <= now);
    match ruled_out.or(over.map(|since| Reason::Expired { since })) {
        None => (Cow::Borrowed(sliver), None),
        Some(reason) => {
            let mut stopped = sliver.clone();
            stopped.state = SliverState::Stopped;
            (Cow::Owned(stopped), Some(reason))
        }
    }
}
