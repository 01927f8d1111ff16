//! The calls of a board, in etcd's.

use std::sync::PoisonError;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, PutOptions, ResponseHeader, Txn as EtcdTxn, TxnOp,
    TxnOpResponse,
};

use super::super::{
    Board, BoardError, BoardResult, Commit, Entry, Guard, Key, LIST_BYTES_MAX, LIST_ENTRIES_MAX, Lease,
    LeaseId, Listing, Prefix, Refused, Revision, Txn, Value, Watch, Write, check_ttl,
};
use super::EtcdBoard;
use super::failure::{Effect, NO_LEASE};

/// Entries of one page of a listing.
const PAGE: usize = 500;

/// The largest answer that is taken: a page of the longest values, and what is around them.
const ANSWER_MAX: usize = 40 << 20;

/// Leases whose times are remembered; an agent has one, or few.
const TTLS_MAX: usize = 1024;

impl EtcdBoard {
    /// A key of the board as etcd has it.
    fn full(&self, key: &Key) -> String {
        format!("{}{key}", self.config.prefix)
    }

    /// Where in etcd the keys below a prefix begin, and before what they end.
    pub(super) fn range(&self, prefix: &Prefix) -> (String, String) {
        let start = format!("{}{prefix}", self.config.prefix);
        // Both end in a slash, and the character after that is `0`; the fleet's is never empty.
        let end = format!("{}0", start.strip_suffix('/').unwrap_or(&start));
        (start, end)
    }

    /// A key of etcd as the board has it.
    pub(super) fn key_below(namespace: &Prefix, full: &[u8]) -> BoardResult<Key> {
        let text = str::from_utf8(full).ok();
        let rest = text.and_then(|text| text.strip_prefix(namespace.as_str()));
        let strange = |why: String| BoardError::never("read the board", why);
        let rest = rest.ok_or_else(|| strange("etcd told of a key outside of the prefix".to_owned()))?;
        Key::new(rest).map_err(|error| strange(error.to_string()))
    }

    pub(super) fn entry(pair: &KeyValue) -> BoardResult<Entry> {
        let value = Value::new(pair.value());
        Ok(Entry {
            value: value.map_err(|error| BoardError::never("read the board", error.to_string()))?,
            revision: revision(pair.mod_revision()),
            lease: (pair.lease() != 0).then_some(LeaseId(pair.lease())),
        })
    }

    fn etcd_txn(&self, txn: &Txn) -> EtcdTxn {
        let compare = |guard: &Guard| match guard {
            Guard::Absent(key) => Compare::version(self.full(key), CompareOp::Equal, 0),
            Guard::At(key, at) => Compare::mod_revision(self.full(key), CompareOp::Equal, signed(*at)),
        };
        let write = |write: &Write| match write {
            Write::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(self.full(key), value.as_bytes(), options)
            }
            Write::Delete(key) => TxnOp::delete(self.full(key), None),
        };
        let look = |guard: &Guard| TxnOp::get(self.full(guard.key()), None);
        EtcdTxn::new()
            .when(txn.guards().iter().map(compare).collect::<Vec<_>>())
            .and_then(txn.writes().iter().map(write).collect::<Vec<_>>())
            .or_else(txn.guards().iter().map(look).collect::<Vec<_>>())
    }

    /// What the guards found that did not hold.
    fn refused(txn: &Txn, answers: &[TxnOpResponse]) -> BoardResult<Refused> {
        let mut refused = Vec::new();
        for (guard, answer) in txn.guards().iter().zip(answers) {
            let now = match answer {
                TxnOpResponse::Get(found) => found.kvs().first().map(Self::entry).transpose()?,
                TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
            };
            if !guard.holds(now.as_ref()) {
                refused.push((guard.key().clone(), now));
            }
        }
        Ok(Refused(refused))
    }

    fn remember(&self, lease: LeaseId, ttl: Option<Duration>) {
        let mut ttls = self.ttls.lock().unwrap_or_else(PoisonError::into_inner);
        ttls.retain(|(known, _)| *known != lease);
        if let Some(ttl) = ttl {
            if ttls.len() >= TTLS_MAX {
                ttls.remove(0);
            }
            ttls.push((lease, ttl));
        }
    }

    fn ttl(&self, lease: LeaseId) -> Option<Duration> {
        let ttls = self.ttls.lock().unwrap_or_else(PoisonError::into_inner);
        let known = ttls.iter().find(|(known, _)| *known == lease)?;
        Some(known.1)
    }

    /// All pages of a listing, read at the revision of the first.
    async fn pages(&self, prefix: &Prefix) -> BoardResult<Listing> {
        let attempt = "list keys";
        let (mut start, end) = self.range(prefix);
        let (mut entries, mut bytes, mut at) = (Vec::new(), 0, None);
        loop {
            let page = self.call(attempt, Effect::None, |client| {
                let mut options = GetOptions::new()
                    .with_range(end.clone())
                    .with_limit(i64::try_from(PAGE).unwrap_or(i64::MAX));
                if let Some(at) = at {
                    options = options.with_revision(signed(at));
                }
                let mut kv = client.kv_client().max_decoding_message_size(ANSWER_MAX);
                let start = start.clone();
                async move { kv.get(start, Some(options)).await }
            });
            let page = page.await?;
            let at = *at.get_or_insert(header(attempt, page.header())?);
            for pair in page.kvs() {
                bytes += pair.value().len();
                if entries.len() >= LIST_ENTRIES_MAX || bytes > LIST_BYTES_MAX {
                    let why = format!("there is too much below `{prefix}` to be listed");
                    return Err(BoardError::never(attempt, why));
                }
                entries.push((
                    Self::key_below(&self.config.prefix, pair.key())?,
                    Self::entry(pair)?,
                ));
            }
            match entries.last() {
                // The first text after the last key.
                Some((last, _)) if page.more() => start = format!("{}\0", self.full(last)),
                _ => return Ok(Listing { entries, at }),
            }
        }
    }
}

impl Board for EtcdBoard {
    async fn get(&self, key: &Key) -> BoardResult<Option<Entry>> {
        let full = self.full(key);
        let found = self.call("read a key", Effect::None, |client| {
            let (mut kv, full) = (client.kv_client(), full.clone());
            async move { kv.get(full, None).await }
        });
        found.await?.kvs().first().map(Self::entry).transpose()
    }

    async fn list(&self, prefix: &Prefix) -> BoardResult<Listing> {
        self.pages(prefix).await
    }

    async fn commit(&self, txn: &Txn) -> BoardResult<Commit> {
        let attempt = "commit";
        let etcd_txn = self.etcd_txn(txn);
        let answer = self.call(attempt, Effect::Lasting, |client| {
            let mut kv = client.kv_client().max_decoding_message_size(ANSWER_MAX);
            let etcd_txn = etcd_txn.clone();
            async move { kv.txn(etcd_txn).await }
        });
        let answer = match answer.await {
            Ok(answer) => answer,
            // etcd does not say which: the first, where there are several.
            Err(error) if is_no_lease(&error) => {
                let leases = txn.writes().iter().filter_map(|write| match write {
                    Write::Put { lease, .. } => *lease,
                    Write::Delete(_) => None,
                });
                return Err(leases.map(BoardError::LeaseGone).next().unwrap_or(error));
            }
            Err(error) => return Err(error),
        };
        if answer.succeeded() {
            // An answer without a header tells that it was done, but not when.
            let at = header(attempt, answer.header());
            return Ok(Commit::Done(
                at.map_err(|error| BoardError::unknown(attempt, error.to_string()))?,
            ));
        }
        Ok(Commit::Refused(Self::refused(txn, &answer.op_responses())?))
    }

    async fn watch(&self, prefix: &Prefix, from: Revision) -> BoardResult<Watch> {
        self.start_watch(prefix, from).await
    }

    async fn grant(&self, ttl: Duration) -> BoardResult<Lease> {
        check_ttl(ttl)?;
        let attempt = "grant a lease";
        // Whole seconds, and never fewer than asked for.
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let granted = self.call(attempt, Effect::None, |client| {
            let mut leases = client.lease_client();
            async move { leases.grant(seconds, None).await }
        });
        let granted = granted.await?;
        let lease = Lease {
            id: LeaseId(granted.id()),
            ttl: Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or_default()),
        };
        if lease.ttl < ttl {
            let why = format!("etcd granted {:?} where {ttl:?} was asked for", lease.ttl);
            return Err(BoardError::never(attempt, why));
        }
        self.remember(lease.id, Some(lease.ttl));
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> BoardResult<Lease> {
        let attempt = "renew a lease";
        let known = self.ttl(lease);
        let kept = self.call(attempt, Effect::None, |client| {
            let mut leases = client.lease_client();
            async move {
                // The client takes the first answer for itself; only a second tells the time, and is needed only for a
                // lease from before this process.
                let (mut keeper, mut answers) = leases.keep_alive(lease.0).await?;
                if let Some(ttl) = known {
                    return Ok(ttl);
                }
                keeper.keep_alive().await?;
                let answer = answers.message().await?;
                let ttl = answer.map_or(0, |answer| answer.ttl());
                Ok(Duration::from_secs(u64::try_from(ttl).unwrap_or_default()))
            }
        });
        match kept.await {
            Ok(ttl) if ttl.is_zero() => Err(BoardError::LeaseGone(lease)),
            Ok(ttl) => {
                self.remember(lease, Some(ttl));
                Ok(Lease { id: lease, ttl })
            }
            Err(error) if is_no_lease(&error) => {
                self.remember(lease, None);
                Err(BoardError::LeaseGone(lease))
            }
            Err(error) => Err(error),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> BoardResult<()> {
        let revoked = self.call("revoke a lease", Effect::Lasting, |client| {
            let mut leases = client.lease_client();
            async move { leases.revoke(lease.0).await }
        });
        match revoked.await {
            Err(error) if !is_no_lease(&error) => Err(error),
            Ok(_) | Err(_) => {
                self.remember(lease, None);
                Ok(())
            }
        }
    }
}

fn is_no_lease(error: &BoardError) -> bool {
    matches!(error, BoardError::Never { why, .. } if why == NO_LEASE)
}

fn header(attempt: &'static str, header: Option<&ResponseHeader>) -> BoardResult<Revision> {
    let header = header.ok_or_else(|| BoardError::unavailable(attempt, "etcd answered without a header"))?;
    Ok(revision(header.revision()))
}

pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}

pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
