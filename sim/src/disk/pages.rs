//! The bytes of a file, page by page, so that holes cost nothing and a copy shares its pages.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: usize = 4096;

/// The contents of a file. What was never written reads as zeros.
#[derive(Clone, Default)]
pub struct Pages {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Pages {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Cuts the file, or extends it with zeros.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (page, within) = (len / PAGE as u64, (len % PAGE as u64) as usize);
            let mut cut = self.pages.split_off(&page);
            if within > 0
                && let Some(mut kept) = cut.remove(&page)
            {
                Arc::make_mut(&mut kept)[within..].fill(0);
                self.pages.insert(page, kept);
            }
        }
        self.len = len;
    }

    /// Copies out what begins at `offset`; false if the file ends before `buf` is full.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return false;
        }
        let mut at = offset;
        let mut left = buf;
        while !left.is_empty() {
            let within = (at % PAGE as u64) as usize;
            let (part, rest) = left.split_at_mut((PAGE - within).min(left.len()));
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => part.copy_from_slice(&page[within..within + part.len()]),
                None => part.fill(0),
            }
            at += part.len() as u64;
            left = rest;
        }
        true
    }

    /// Puts `data` at `offset`, extending the file if needed.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut left = data;
        while !left.is_empty() {
            let within = (at % PAGE as u64) as usize;
            let (part, rest) = left.split_at((PAGE - within).min(left.len()));
            let page = self.pages.entry(at / PAGE as u64).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            left = rest;
        }
        if !data.is_empty() {
            self.len = self.len.max(at);
        }
    }

    /// Flips one bit; false if the file is shorter.
    pub fn flip(&mut self, offset: u64, bit: u8) -> bool {
        let mut byte = [0];
        if !self.read(offset, &mut byte) {
            return false;
        }
        self.write(offset, &[byte[0] ^ (1 << (bit % 8))]);
        true
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).expect("a simulated file fits memory")];
        assert!(self.read(0, &mut bytes), "the whole file is as long as it says");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// The dumb twin is one vector.
    #[test]
    fn pages_behave_like_a_vector() {
        let mut stream = Stream::new(1, "pages");
        let (mut pages, mut twin) = (Pages::default(), Vec::new());
        for step in 0..2_000 {
            let offset = stream.below(20_000);
            match stream.below(4) {
                0 => {
                    pages.set_len(offset);
                    twin.resize(offset as usize, 0);
                }
                1 if !twin.is_empty() => {
                    let offset = offset % twin.len() as u64;
                    assert!(pages.flip(offset, 3));
                    twin[offset as usize] ^= 8;
                }
                _ => {
                    let data: Vec<u8> =
                        (0..stream.below(9_000)).map(|_| stream.next() as u8).collect();
                    pages.write(offset, &data);
                    let end = offset as usize + data.len();
                    if !data.is_empty() {
                        twin.resize(twin.len().max(end), 0);
                        twin[offset as usize..end].copy_from_slice(&data);
                    }
                }
            }
            assert_eq!(pages.to_vec(), twin, "after step {step}");
        }
    }
}
