//! The allocator: how it is asked, and that what was freed goes back to the system.

use detcd::env::clock::Clock;
use libmimalloc_sys::{
    mi_collect, mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc,
    mi_zalloc_aligned,
};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::Arc;
use std::time::Duration;

/// How often the allocator is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// mimalloc, asked for an alignment only where it does not give that anyway. The crate `mimalloc`
/// always asks, and then what is no power of two, the blocks of the store above all, takes the next
/// larger size: up to a quarter more.
pub struct Allocator;

/// What every block begins at, if it is so long.
const NATURAL: usize = 16;

fn is_natural(layout: Layout, size: usize) -> bool {
    layout.align() <= 8 || (layout.align() <= NATURAL && size >= NATURAL)
}

// SAFETY: mimalloc keeps the contract of an allocator. A block of 8 bytes or less is aligned to 8,
// a longer one to 16 (`MI_MAX_ALIGN_SIZE`); whatever needs more asks for it.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = layout.size();
        // SAFETY: sizes and alignments come from a valid layout.
        let block = unsafe {
            if is_natural(layout, size) {
                mi_malloc(size)
            } else {
                mi_malloc_aligned(size, layout.align())
            }
        };
        block.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let size = layout.size();
        // SAFETY: as in `alloc`.
        let block = unsafe {
            if is_natural(layout, size) {
                mi_zalloc(size)
            } else {
                mi_zalloc_aligned(size, layout.align())
            }
        };
        block.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller got the block from this allocator.
        unsafe { mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller got the block from this allocator, under this layout.
        let block = unsafe {
            if is_natural(layout, size) {
                mi_realloc(block.cast(), size)
            } else {
                mi_realloc_aligned(block.cast(), size, layout.align())
            }
        };
        block.cast()
    }
}

/// Gives back what the allocator keeps for the time being. It does so by itself only while memory
/// is taken and freed, so that a member that becomes idle would keep what its load has needed.
pub async fn give_back_freed(clock: Arc<dyn Clock>) {
    loop {
        clock.sleep(INTERVAL).await;
        // SAFETY: the allocator allows this at any time, from any thread.
        unsafe { mi_collect(false) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_aligned_as_it_was_asked_for() {
        for size in (1..300).chain([4_080, 20_480, 65_472, 1 << 20]) {
            for align in [1, 2, 4, 8, 16, 32, 64, 4_096] {
                let layout = Layout::from_size_align(size, align).expect("a power of two");
                // SAFETY: the size is not 0, and the block is given back under its own layout.
                unsafe {
                    let block = Allocator.alloc(layout);
                    let grown = Allocator.realloc(block, layout, size + 24);
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert_eq!(
                        (grown as usize % align, zeroed as usize % align),
                        (0, 0),
                        "{layout:?}"
                    );
                    Allocator.dealloc(zeroed, layout);
                    let layout = Layout::from_size_align(size + 24, align).expect("not too long");
                    Allocator.dealloc(grown, layout);
                }
            }
        }
    }
}
