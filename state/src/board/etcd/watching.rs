//! Watches over etcd: one stream each, and a task that reads it.

use etcd_client::{Event, EventType, WatchOptions, WatchResponse, WatchStream};

use super::super::watch::{self, Change, Changes, Feed};
use super::super::{BoardResult, Prefix, Revision, Watch, WatchEnd};
use super::EtcdBoard;
use super::calls::{revision, signed};
use super::failure::{Effect, Failure, of_reason};

/// The largest message that is taken. A watch that catches up gets a thousand revisions in one.
const MESSAGE_MAX: usize = 64 << 20;

impl EtcdBoard {
    pub(super) async fn start_watch(&self, prefix: &Prefix, from: Revision) -> BoardResult<Watch> {
        let attempt = "watch keys";
        let from = from.max(Revision::START.next());
        let (start, end) = self.range(prefix);
        // One earlier: etcd before 3.4.36 lets a watch begin *at* the revision it was compacted to, and has forgotten
        // what was deleted there (<https://github.com/etcd-io/etcd/issues/19179>).
        let first = Revision(from.0.saturating_sub(1).max(1));
        let stream = self.call(attempt, Effect::None, |client| {
            let options = WatchOptions::new()
                .with_range(end.clone())
                .with_start_revision(signed(first));
            let mut watches = client.watch_client().max_decoding_message_size(MESSAGE_MAX);
            let start = start.clone();
            async move {
                let mut stream = watches.watch(start, Some(options)).await?;
                match stream.message().await? {
                    Some(first) if first.canceled() && first.compact_revision() == 0 => {
                        Err(of_reason(first.cancel_reason()))
                    }
                    Some(first) => Ok((stream, first)),
                    None => Err(of_reason("etcd ended the watch at once")),
                }
            }
        });
        let (stream, first) = stream.await?;
        let (feed, watch) = watch::channel();
        let reader = Reader {
            namespace: self.config.prefix.clone(),
            from,
            feed,
        };
        match reader.end_of(&first) {
            Some(end) => reader.feed.end(end),
            None => drop(tokio::spawn(reader.run(stream))),
        }
        Ok(watch)
    }
}

/// Reads one stream.
struct Reader {
    namespace: Prefix,
    /// What is before this is nobody's business.
    from: Revision,
    feed: Feed,
}

impl Reader {
    async fn run(self, mut stream: WatchStream) {
        let end = loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = self.feed.closed() => return,
            };
            match message {
                Ok(Some(message)) => {
                    if let Some(end) = self.end_of(&message) {
                        break end;
                    }
                    match self.tell(message.events()) {
                        Ok(true) => {}
                        Ok(false) => return,
                        Err(error) => break WatchEnd::Lost(error.to_string()),
                    }
                }
                Ok(None) => break WatchEnd::Lost("etcd ended the watch".to_owned()),
                Err(error) => {
                    let failure = Failure::of(&error, Effect::None);
                    break WatchEnd::Lost(failure.report("watch keys").to_string());
                }
            }
        };
        self.feed.end(end);
    }

    /// Whether this message is the last, and why.
    fn end_of(&self, message: &WatchResponse) -> Option<WatchEnd> {
        if message.compact_revision() > 0 {
            let oldest = revision(message.compact_revision()).next();
            return Some(WatchEnd::Compacted { oldest });
        }
        let why = message.cancel_reason();
        message
            .canceled()
            .then(|| WatchEnd::Lost(format!("etcd ended the watch: {why}")))
    }

    /// Passes events on, those of one revision together: etcd never parts them between messages (unless asked to by
    /// `fragment`). `false`: nobody listens any more.
    fn tell(&self, events: &[Event]) -> BoardResult<bool> {
        let mut together: Option<Changes> = None;
        for event in events {
            let Some(pair) = event.kv() else { continue };
            let at = revision(pair.mod_revision());
            if at < self.from {
                continue;
            }
            let entry = match event.event_type() {
                EventType::Put => Some(EtcdBoard::entry(pair)?),
                EventType::Delete => None,
            };
            let key = EtcdBoard::key_below(&self.namespace, pair.key())?;
            let change = Change { key, entry };
            match &mut together {
                Some(changes) if changes.revision == at => changes.changes.push(change),
                other => {
                    let next = Changes {
                        revision: at,
                        changes: vec![change],
                    };
                    if let Some(whole) = other.replace(next)
                        && !self.push(whole)
                    {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(together.is_none_or(|whole| self.push(whole)))
    }

    fn push(&self, mut whole: Changes) -> bool {
        whole.changes.sort_by(|a, b| a.key.cmp(&b.key));
        self.feed.push(whole)
    }
}
