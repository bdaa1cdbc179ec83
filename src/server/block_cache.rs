//! The blocks of runs that were read last. Values of neighbouring keys often stand in one block,
//! and a range over values that memory does not hold asks for them one after the other.

use bytes::Bytes;
use lru::LruCache;
use std::sync::Mutex;

/// A block: the run's id, and the number of the block in it. The id of a run is never used again,
/// so what stands here can't be out of date.
pub type BlockId = (u64, usize);

/// Bytes of blocks that are kept.
const BUDGET_BYTES: usize = if cfg!(test) { 1000 } else { 16 << 20 };

/// Verified blocks, the one used last first.
pub struct BlockCache(Mutex<Inner>);

/// Invariant: `bytes` is the length of all blocks.
struct Inner {
    blocks: LruCache<BlockId, Bytes>,
    bytes: usize,
}

impl Default for BlockCache {
    fn default() -> BlockCache {
        BlockCache(Mutex::new(Inner { blocks: LruCache::unbounded(), bytes: 0 }))
    }
}

impl BlockCache {
    /// A block that is kept, or else as `read` gives it.
    ///
    /// # Errors
    /// Those of `read`; nothing is kept then.
    pub fn get<E>(&self, id: BlockId, read: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let expectation = "no holder of the blocks panics and goes on";
        if let Some(block) = self.0.lock().expect(expectation).blocks.get(&id) {
            return Ok(block.clone());
        }
        let block = read()?;
        let mut inner = self.0.lock().expect(expectation);
        inner.bytes += block.len();
        if let Some(replaced) = inner.blocks.put(id, block.clone()) {
            inner.bytes -= replaced.len();
        }
        while inner.bytes > BUDGET_BYTES
            && let Some((_, oldest)) = inner.blocks.pop_lru()
        {
            inner.bytes -= oldest.len();
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a block had to be read.
    fn is_read(cache: &BlockCache, id: BlockId, length: usize) -> bool {
        let mut is_read = false;
        let block = cache.get(id, || {
            is_read = true;
            Ok::<_, ()>(Bytes::from(vec![7; length]))
        });
        assert_eq!(block, Ok(Bytes::from(vec![7; length])));
        is_read
    }

    #[test]
    fn the_blocks_used_last_are_kept() {
        let cache = BlockCache::default();
        assert!(is_read(&cache, (1, 0), 400));
        assert!(is_read(&cache, (1, 1), 400));
        assert!(!is_read(&cache, (1, 0), 400));
        assert!(is_read(&cache, (2, 0), 400), "a run of its own");
        assert!(!is_read(&cache, (1, 0), 400), "it was used since");
        assert!(is_read(&cache, (1, 1), 400), "it made room");
    }

    #[test]
    fn what_is_larger_than_the_budget_is_not_kept() {
        let cache = BlockCache::default();
        assert!(is_read(&cache, (1, 0), 400));
        assert!(is_read(&cache, (1, 1), 2000));
        assert!(is_read(&cache, (1, 1), 2000));
        assert!(is_read(&cache, (1, 0), 400), "it was the first to go");
        assert!(!is_read(&cache, (1, 0), 400));
    }

    #[test]
    fn what_cannot_be_read_is_asked_for_again() {
        let cache = BlockCache::default();
        assert_eq!(cache.get((1, 0), || Err("damaged")), Err("damaged"));
        assert!(is_read(&cache, (1, 0), 10));
    }
}
