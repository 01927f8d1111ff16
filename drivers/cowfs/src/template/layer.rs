//! A template as a layer of a stack.

use std::sync::Arc;

use super::content::ContentStore;
use super::format::Payload;
use super::index::Index;
use crate::attr::{Attr, FileType};
use crate::layer::{
    ContentHash, ContentSource as _, Entry, Layer, LayerError, LayerId, Lent, NamedEntry, NodeNumber,
};

/// A template: an index for everything but content, the store's content files for that.
#[derive(Clone)]
pub struct TemplateLayer {
    index: Arc<Index>,
    contents: Arc<ContentStore>,
}

impl TemplateLayer {
    /// Puts the two together.
    #[must_use]
    pub fn new(index: Arc<Index>, contents: Arc<ContentStore>) -> Self {
        Self { index, contents }
    }

    /// The tree.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }
}

impl Layer for TemplateLayer {
    fn id(&self) -> LayerId {
        self.index.id()
    }

    fn attr(&self, node: NodeNumber) -> Result<Attr, LayerError> {
        Ok(self.index.node(node)?.attr())
    }

    fn lookup(&self, dir: NodeNumber, name: &[u8]) -> Result<Option<Entry>, LayerError> {
        self.index.lookup(dir, name)
    }

    fn is_opaque(&self, dir: NodeNumber) -> Result<bool, LayerError> {
        Ok(self.index.node(dir)?.opaque)
    }

    fn is_implied(&self, dir: NodeNumber) -> Result<bool, LayerError> {
        Ok(self.index.node(dir)?.implied)
    }

    fn entries(&self, dir: NodeNumber) -> Result<Vec<NamedEntry>, LayerError> {
        self.index.list(dir)
    }

    fn place(&self, node: NodeNumber) -> Result<Option<(NodeNumber, Vec<u8>)>, LayerError> {
        self.index.place(node)
    }

    fn read(&self, node: NodeNumber, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError> {
        let layer = self.id();
        let record = self.index.node(node)?;
        let (FileType::Regular, Payload::Content(hash)) = (record.file_type, record.payload) else {
            return Err(LayerError::NoSuchNode { layer, node });
        };
        let left = usize::try_from(record.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let count = self
            .contents
            .read_content(&hash, offset, &mut buf[..wanted])
            .map_err(|source| LayerError::Io { layer, source })?;
        if count < wanted {
            return Err(self
                .index
                .damaged("a content file is shorter than its index says"));
        }
        Ok(count)
    }

    fn read_append(
        &self,
        node: NodeNumber,
        offset: u64,
        count: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, LayerError> {
        let layer = self.id();
        let record = self.index.node(node)?;
        let (FileType::Regular, Payload::Content(hash)) = (record.file_type, record.payload) else {
            return Err(LayerError::NoSuchNode { layer, node });
        };
        let left = usize::try_from(record.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = count.min(left);
        let read = self
            .contents
            .append_content(&hash, offset, wanted, out)
            .map_err(|source| LayerError::Io { layer, source })?;
        if read < wanted {
            return Err(self
                .index
                .damaged("a content file is shorter than its index says"));
        }
        Ok(read)
    }

    fn read_cached(&self, node: NodeNumber, offset: u64, buf: &mut [u8]) -> bool {
        let payload = self.index.node(node).map(|record| record.payload);
        match payload {
            Ok(Payload::Content(hash)) => self.contents.read_cached(&hash, offset, buf),
            _ => false,
        }
    }

    fn lend(&self, node: NodeNumber, offset: u64, count: usize) -> Option<Lent> {
        match self.index.node(node).ok()?.payload {
            Payload::Content(hash) => self.contents.lend(&hash, offset, count),
            _ => None,
        }
    }

    fn readlink(&self, node: NodeNumber) -> Result<Vec<u8>, LayerError> {
        self.index.target(node)
    }

    fn content(&self, node: NodeNumber) -> Result<Option<ContentHash>, LayerError> {
        match self.index.node(node)?.payload {
            Payload::Content(hash) => Ok(Some(hash)),
            _ => Err(LayerError::NoSuchNode {
                layer: self.id(),
                node,
            }),
        }
    }
}
