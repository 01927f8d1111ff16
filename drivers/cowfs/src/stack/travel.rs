//! The writable layer goes to another machine while it is served.

use std::collections::BTreeSet;

use super::Stack;
use super::listing::lock;
use crate::service::Status;
use crate::writable::extents::{ContentId, Source as Written};
use crate::writable::travel::{Open, Sending, Source, TravelError};

impl Stack {
    /// Sends the writable layer as it is at one moment: everything written before is durable then. Others go on meanwhile,
    /// but for a last round, for which somebody sees to it that nobody changes anything.
    ///
    /// Content that is there at that moment is sealed: the first write to each file afterwards makes a new content file,
    /// also where the layer stays here after all.
    ///
    /// # Errors
    /// [`TravelError`]; the layer goes on as it was.
    pub fn embark(&self, sending: &mut Sending<'_>) -> Result<(), TravelError> {
        let top = match self.writable() {
            Ok(top) => top,
            Err(Status::RoFs) => return Err(TravelError::NoLayer),
            Err(status) => return Err(TravelError::Flush(status)),
        };
        let sent = lock(&top.sent).take();
        let alone = lock(&top.shaping);
        self.flush_files().map_err(TravelError::Flush)?;
        let earlier = self.read_state().map_err(TravelError::Flush)?.clone();
        let (state, keeping) = self.moment(top, &earlier).map_err(TravelError::Flush)?;
        drop(earlier);
        top.content.seal_before(state.next);
        let (Some(segment), Some(end)) = (top.log.last(), top.log.last_end()) else {
            return Err(TravelError::Flush(Status::Io));
        };
        drop(keeping);
        // The log is not to be made short under a last round; before that, what is gone is passed over.
        let _alone = sending.is_last().then_some(alone);
        let content_from = |number: u64| -> BTreeSet<ContentId> {
            let files = state.objects.values().filter_map(|object| object.file());
            let sources = files.flat_map(|file| file.extents.iter());
            let written = sources.filter_map(|(_, _, source): (_, _, Written)| source.content());
            let fresh = written.filter(|id| id.number >= number);
            fresh.chain(top.content.pinned_from(number)).collect()
        };
        let open = Open {
            sealed: state.next,
            log: (segment, end.at()),
            saved: &state.saved,
            content_from: &content_from,
        };
        let sent = sending.layer(Source {
            disk: &top.disk,
            dir: &top.path,
            heading: (state.layer(), top.epoch),
            open: Some(open),
            sent,
        })?;
        *lock(&top.sent) = Some(sent);
        Ok(())
    }
}
