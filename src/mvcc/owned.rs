//! Copies of keys and values in memory of their own.
//!
//! Bytes that come with a request are slices of the buffer it arrived in; a store that kept them
//! would keep those buffers. A copy costs one allocation here, with the reference count in it:
//! `Bytes::copy_from_slice` needs a second one as soon as the bytes are cloned.

use bytes::Bytes;

struct Inline<const N: usize>([u8; N]);

impl<const N: usize> AsRef<[u8]> for Inline<N> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn inline<const N: usize>(data: &[u8]) -> Bytes {
    let mut array = [0; N];
    array[..data.len()].copy_from_slice(data);
    let mut bytes = Bytes::from_owner(Inline(array));
    bytes.truncate(data.len());
    bytes
}

/// Copies `data`. The sizes leave room for the count in the allocator's classes.
pub(super) fn owned(data: &[u8]) -> Bytes {
    match data.len() {
        0 => Bytes::new(),
        1..=8 => inline::<8>(data),
        9..=24 => inline::<24>(data),
        25..=40 => inline::<40>(data),
        41..=56 => inline::<56>(data),
        57..=72 => inline::<72>(data),
        73..=88 => inline::<88>(data),
        89..=104 => inline::<104>(data),
        105..=120 => inline::<120>(data),
        121..=152 => inline::<152>(data),
        153..=184 => inline::<184>(data),
        185..=216 => inline::<216>(data),
        217..=248 => inline::<248>(data),
        249..=312 => inline::<312>(data),
        313..=376 => inline::<376>(data),
        377..=504 => inline::<504>(data),
        505..=760 => inline::<760>(data),
        761..=1016 => inline::<1016>(data),
        _ => Bytes::copy_from_slice(data),
    }
}
