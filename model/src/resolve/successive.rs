//! Commit after commit of one repository: what did not change is not resolved again.
//!
//! A push of one file among thousands changes one slice. The documents that slices lean on (fleet, sites, nodes, tenants,
//! templates), together with the slices that changed, are a repository of their own: it is resolved by [`resolve`], and
//! its slices take the place of the old ones. What slices take from each other (memory, ports, quotas) is then added up.
//!
//! This way only ever says "as before, but for these slices". Whatever may need another answer (a finding, a node that
//! may be too full, a document that is not of a slice) is left to [`resolve`] on everything, so that there is one source
//! of findings. `tests/manifests/successive.rs` holds the two against each other over random edits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{is_manifest, odd, resolve};
use crate::desired::{DesiredFleet, FileSet, LayerRef, Quota, Slice, SliverState, Tenant, WritableKind};
use crate::diagnostic::Diagnostic;
use crate::id::{Digest, NodeName, SliceName, TenantName};
use crate::manifest::{Body, Document, Kind, ParsedFile, SLIVERS_MAX, Unread};
use crate::repository::{FileMode, RepositoryTree};

/// Resolves one commit after another, and keeps what they have in common.
#[derive(Clone, Debug, Default)]
pub struct Successive {
    last: Option<Last>,
    resolved: usize,
}

impl Successive {
    /// As [`resolve`], and with the same result: only sooner, the more files are the very same as in the commit before.
    ///
    /// Files are compared by where they are in memory, so callers keep what they parsed and pass it again.
    ///
    /// # Errors
    /// As [`resolve`]. A commit with mistakes leaves what is kept as it was.
    pub fn resolve(
        &mut self,
        files: &[Arc<ParsedFile>],
        tree: &RepositoryTree,
    ) -> Result<DesiredFleet, Vec<Diagnostic>> {
        let mut files = files.to_vec();
        files.sort_by(|a, b| a.path().cmp(b.path()));
        // One path twice is nothing that a commit can hold, but nothing that this may stumble over either.
        let distinct = files.windows(2).all(|pair| pair[0].path() != pair[1].path());
        if distinct
            && let Some(last) = &mut self.last
            && let Some(resolved) = last.advance(&files, tree)
        {
            self.resolved = resolved;
            return Ok(last.fleet.clone());
        }
        let all: Vec<&ParsedFile> = files.iter().map(Arc::as_ref).collect();
        let fleet = resolve(&all, tree)?;
        self.resolved = fleet.slices.len();
        if distinct {
            self.last = Some(Last::of(files, tree.clone(), fleet.clone()));
        }
        Ok(fleet)
    }

    /// How many slices the last commit without mistakes had to resolve.
    #[must_use]
    pub fn resolved(&self) -> usize {
        self.resolved
    }
}

/// A commit without mistakes, and what its slices take.
#[derive(Clone, Debug)]
struct Last {
    /// By path.
    files: Vec<Arc<ParsedFile>>,
    tree: RepositoryTree,
    fleet: DesiredFleet,
    claims: BTreeMap<SliceName, Claims>,
    /// Numbers of nodes in [`Claims`].
    nodes: BTreeMap<NodeName, u32>,
}

/// What the slivers of a slice take from what all share: never less than what [`resolve`] counts.
#[derive(Clone, Debug, Default)]
struct Claims {
    slivers: usize,
    /// By sliver: a node, and memory there in MiB.
    memory: Vec<(u32, u64)>,
    /// Node and port.
    ports: Vec<(u32, u16)>,
    tenant: Option<TenantName>,
    /// Of all slivers: bytes of memory, virtual CPUs, bytes of disk.
    quota: (u64, u64, u64),
    /// Whether it takes over from another, which must not be there.
    moved: bool,
    /// Whether it writes to storage that others could write to as well, or has public addresses that others could have.
    shares: bool,
    layers: BTreeSet<Digest>,
}

/// How two commits differ.
#[derive(Default)]
struct Edit {
    /// Paths of manifests that were added, changed or removed.
    manifests: BTreeSet<String>,
    /// Names of slices that these define, before or after.
    slices: BTreeSet<SliceName>,
    /// Other paths that were added, changed or removed.
    carried: Vec<String>,
}

impl Last {
    fn of(files: Vec<Arc<ParsedFile>>, tree: RepositoryTree, fleet: DesiredFleet) -> Self {
        let nodes: BTreeMap<NodeName, u32> = fleet.nodes.keys().cloned().zip(0..).collect();
        let claims = fleet
            .slices
            .iter()
            .map(|(name, slice)| (name.clone(), Claims::of(slice, &nodes)))
            .collect();
        Self {
            files,
            tree,
            fleet,
            claims,
            nodes,
        }
    }

    /// Goes on to another commit, and says how many slices were resolved for it; `None` if that takes resolving all of it.
    /// Nothing has changed then.
    fn advance(&mut self, files: &[Arc<ParsedFile>], tree: &RepositoryTree) -> Option<usize> {
        // Where a lock holds depends on all slices and all nodes, and so does where a move leads.
        let documents = files.iter().flat_map(|file| file.documents());
        if documents
            .into_iter()
            .any(|document| matches!(document.kind, Kind::Placement | Kind::Moves))
        {
            return None;
        }
        let mut edit = self.edit(files, tree)?;
        self.add_carriers(&mut edit);
        if self.leans_on_another(&edit) {
            return None;
        }
        if edit.slices.is_empty() {
            self.files = files.to_vec();
            self.tree = tree.clone();
            return Some(0);
        }
        let part = self.part(&mut edit, files, tree)?;
        let claims: BTreeMap<SliceName, Claims> = edit
            .slices
            .iter()
            .filter_map(|name| Some((name.clone(), Claims::of(part.slices.get(name)?, &self.nodes))))
            .collect();
        let leans = |claims: &Claims| claims.moved || claims.shares;
        if claims.values().any(leans) || !self.fits(&edit, &claims) {
            return None;
        }
        let resolved = claims.len();
        for name in &edit.slices {
            self.fleet.slices.remove(name);
            self.claims.remove(name);
        }
        let slices = part.slices.into_iter();
        self.fleet
            .slices
            .extend(slices.filter(|(name, _)| edit.slices.contains(name)));
        self.claims.extend(claims);
        self.keep_layers(part.files);
        self.files = files.to_vec();
        self.tree = tree.clone();
        Some(resolved)
    }

    /// What differs; `None` if it is more than slices and what they carry.
    fn edit(&self, files: &[Arc<ParsedFile>], tree: &RepositoryTree) -> Option<Edit> {
        let mut edit = Edit::default();
        let only_slices = |file: &ParsedFile, edit: &mut Edit| {
            edit.manifests.insert(file.path().to_owned());
            for name in slices_of(file)? {
                edit.slices.insert(name);
            }
            Some(())
        };
        let (mut old, mut new) = (self.files.iter().peekable(), files.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) => old.path().cmp(new.path()),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            if let (Some(before), Some(after)) = (before, after)
                && Arc::ptr_eq(before, after)
            {
                continue;
            }
            for file in before.into_iter().chain(after) {
                only_slices(file, &mut edit)?;
            }
        }
        let mut changed = |path: &String, mode: FileMode| {
            if edit.manifests.contains(path) {
                return Some(());
            }
            let ordinary = matches!(mode, FileMode::Regular | FileMode::Executable);
            // The rules for names and kinds of files look at the whole repository.
            if (is_manifest(path) && !ordinary) || odd::other_ending(path) {
                return None;
            }
            edit.carried.push(path.clone());
            Some(())
        };
        for (path, entry) in &tree.entries {
            if self.tree.entries.get(path) != Some(entry) {
                changed(path, entry.mode)?;
            }
        }
        for (path, entry) in &self.tree.entries {
            if !tree.entries.contains_key(path) {
                changed(path, entry.mode)?;
            }
        }
        // A manifest may be carried as well.
        edit.carried.extend(edit.manifests.iter().cloned());
        Some(edit)
    }

    /// Adds the slices that carry something that changed.
    fn add_carriers(&self, edit: &mut Edit) {
        if edit.carried.is_empty() {
            return;
        }
        let touched = |from: &str| {
            edit.carried
                .iter()
                .any(|path| path == from || lies_below(path, from) || lies_below(from, path))
        };
        let mut carriers = BTreeSet::new();
        for document in self.files.iter().flat_map(|file| file.documents()) {
            let Some(Body::Slice(raw)) = &document.body else {
                continue;
            };
            let mut carried = BTreeSet::new();
            // Nothing is unclear about a slice without mistakes; if it were, it would be looked at again.
            let clear = odd::carried_by(raw, &mut carried).is_some();
            if !clear || carried.into_iter().any(touched) {
                carriers.extend(document.name.as_deref().map(SliceName::new).and_then(Result::ok));
            }
        }
        edit.slices.extend(carriers);
    }

    /// Whether some other slice takes over from one that came or went.
    fn leans_on_another(&self, edit: &Edit) -> bool {
        let moved = self.claims.iter().filter(|(_, claims)| claims.moved);
        let mut origins = moved.flat_map(|(name, _)| {
            let slice = self.fleet.slices.get(name);
            let slivers = slice.into_iter().flat_map(|slice| slice.slivers.values());
            slivers.filter_map(|(_, sliver)| sliver.moved_from.as_ref())
        });
        origins.any(|origin| edit.slices.contains(&origin.slice))
    }

    /// Resolves the slices that changed, with what all slices lean on. Adds to `edit` what came along because it is in
    /// the same files.
    fn part(
        &self,
        edit: &mut Edit,
        files: &[Arc<ParsedFile>],
        tree: &RepositoryTree,
    ) -> Option<DesiredFleet> {
        let mut taken: Vec<&ParsedFile> = Vec::new();
        let mut others: Vec<(&ParsedFile, Vec<SliceName>)> = Vec::new();
        for file in files {
            match slices_of(file) {
                None => taken.push(file),
                Some(names) => others.push((file, names)),
            }
        }
        // A file is taken whole, so its other slices come along, with all files that speak of them.
        loop {
            let before = taken.len();
            others.retain(|(file, names)| {
                let concerned = names.iter().any(|name| edit.slices.contains(name));
                if concerned {
                    taken.push(file);
                    edit.slices.extend(names.iter().cloned());
                }
                !concerned
            });
            if taken.len() == before {
                break;
            }
        }
        resolve(&taken, tree).ok()
    }

    /// Whether the fleet surely has room for the slices that changed. What they share among themselves has been checked.
    fn fits(&self, edit: &Edit, new: &BTreeMap<SliceName, Claims>) -> bool {
        let kept = || {
            let old = self.claims.iter();
            old.filter(|(name, _)| !edit.slices.contains(*name))
                .map(|(_, claims)| claims)
        };
        let slivers: usize = kept().chain(new.values()).map(|claims| claims.slivers).sum();
        if slivers > SLIVERS_MAX {
            return false;
        }
        let mut memory: Vec<Option<u64>> = vec![None; self.nodes.len()];
        let mut ports: BTreeSet<(u32, u16)> = BTreeSet::new();
        for claims in new.values() {
            for (node, mib) in &claims.memory {
                // A sliver on a node that nobody knows has been found fault with.
                let Some(sum) = usize::try_from(*node).ok().and_then(|node| memory.get_mut(node)) else {
                    return false;
                };
                *sum.get_or_insert(0) += mib;
            }
            ports.extend(&claims.ports);
        }
        for claims in kept() {
            for (node, mib) in &claims.memory {
                let sum = usize::try_from(*node).ok().and_then(|node| memory.get_mut(node));
                if let Some(Some(sum)) = sum {
                    *sum += mib;
                }
            }
            if claims.ports.iter().any(|port| ports.contains(port)) {
                return false;
            }
        }
        let offered = self.fleet.nodes.values().map(|node| node.memory.0 >> 20);
        let room = memory
            .iter()
            .zip(offered)
            .all(|(sum, offered)| sum.is_none_or(|sum| sum <= offered));
        let within = |(name, tenant): (&TenantName, &Tenant)| {
            let theirs = || {
                kept()
                    .chain(new.values())
                    .filter(|claims| claims.tenant.as_ref() == Some(name))
            };
            let sum =
                |of: fn(&Claims) -> u64| theirs().fold(0_u64, |sum, claims| sum.saturating_add(of(claims)));
            let quota = tenant.quota;
            let slivers = sum(|claims| claims.slivers as u64);
            quota.slivers.is_none_or(|max| slivers <= u64::from(max))
                && quota
                    .memory
                    .is_none_or(|max| sum(|claims| claims.quota.0) <= max.0)
                && quota
                    .vcpus
                    .is_none_or(|max| sum(|claims| claims.quota.1) <= u64::from(max))
                && quota.disk.is_none_or(|max| sum(|claims| claims.quota.2) <= max.0)
        };
        let limited = |tenant: &Tenant| tenant.quota != Quota::default();
        room && self
            .fleet
            .tenants
            .iter()
            .filter(|(_, tenant)| limited(tenant))
            .all(within)
    }

    /// Keeps the file sets that some slice names.
    fn keep_layers(&mut self, new: BTreeMap<Digest, FileSet>) {
        self.fleet.files.extend(new);
        let named: BTreeSet<&Digest> = self.claims.values().flat_map(|claims| &claims.layers).collect();
        self.fleet.files.retain(|digest, _| named.contains(digest));
    }
}

impl Claims {
    fn of(slice: &Slice, nodes: &BTreeMap<NodeName, u32>) -> Self {
        let mut claims = Self::default();
        for (node, sliver) in slice.slivers.values() {
            let node = nodes.get(node).copied().unwrap_or(u32::MAX);
            let resources = &sliver.resources;
            claims.slivers += 1;
            let memory = resources
                .memory_max
                .map_or(resources.memory, |max| max.max(resources.memory));
            let held = match sliver.state {
                SliverState::Running => memory.mib(),
                SliverState::Suspended | SliverState::Stopped => 0,
            };
            claims.memory.push((node, held));
            claims
                .ports
                .extend(sliver.publish.iter().map(|publish| (node, publish.host)));
            claims.tenant.clone_from(&sliver.tenant);
            let mounts = sliver.mounts.len() as u64;
            let disk = resources.disk.map_or(0, |disk| disk.0.saturating_mul(mounts));
            claims.quota.0 = claims.quota.0.saturating_add(memory.0);
            claims.quota.1 = claims.quota.1.saturating_add(u64::from(resources.vcpus));
            claims.quota.2 = claims.quota.2.saturating_add(disk);
            claims.moved |= sliver.moved_from.is_some();
            let kinds = sliver.mounts.iter().map(|mount| &mount.writable);
            claims.shares |= !sliver.addresses.is_empty();
            claims.shares |= kinds
                .into_iter()
                .any(|kind| matches!(kind, WritableKind::Remote { .. }));
            let layers = sliver.mounts.iter().flat_map(|mount| &mount.layers);
            claims.layers.extend(layers.filter_map(|layer| match layer {
                LayerRef::Files { digest } => Some(*digest),
                LayerRef::Template(_) | LayerRef::Directory { .. } | LayerRef::Remote { .. } => None,
            }));
        }
        claims
    }
}

/// The slices that a file speaks of; `None` if it has mistakes, or speaks of anything else.
fn slices_of(file: &ParsedFile) -> Option<Vec<SliceName>> {
    if !file.findings().is_empty() || file.unread() != Unread::Nothing {
        return None;
    }
    let name = |document: &Document| match document.kind {
        Kind::Slice => SliceName::new(document.name.as_deref()?).ok(),
        Kind::Fleet
        | Kind::Site
        | Kind::Node
        | Kind::Template
        | Kind::Tenant
        | Kind::Placement
        | Kind::Moves => None,
    };
    file.documents().iter().map(name).collect()
}

/// Whether a path is in a directory.
fn lies_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.starts_with('/'))
}
