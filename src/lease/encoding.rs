//! The leases as they stand in a checkpoint of the whole state.

use super::{Grant, Lessor};
use bytes::Bytes;
use std::time::Duration;

const ENCODING_VERSION: u8 = 2;

impl Lessor {
    /// The replicated part, byte for byte alike on every replica with the same state.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![ENCODING_VERSION];
        put_u64(&mut out, self.leases.len() as u64);
        for (&id, lease) in &self.leases {
            for number in [id, lease.ttl, lease.remaining_ttl] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            put_u64(&mut out, lease.granted_at);
            put_u64(&mut out, lease.keys.len() as u64);
            for key in &lease.keys {
                put_u64(&mut out, key.len() as u64);
                out.extend_from_slice(key);
            }
        }
        out
    }

    /// Takes the replicated part from `encode`d bytes. The member leads nothing until promoted.
    pub fn restore(min_ttl_secs: i64, encoded: &Bytes) -> Result<Lessor, BadEncoding> {
        let mut lessor = Lessor::new(min_ttl_secs);
        let mut reader = Reader { bytes: encoded, at: 0 };
        if reader.take(1)? != [ENCODING_VERSION] {
            return Err(BadEncoding { at: 0 });
        }
        for _ in 0..reader.u64()? {
            let at = reader.at;
            let (id, ttl, remaining) = (reader.i64()?, reader.i64()?, reader.i64()?);
            let grant = Grant { id, index: reader.u64()? };
            if lessor.grant(grant, ttl, Duration::ZERO) != Ok(ttl) {
                return Err(BadEncoding { at });
            }
            lessor.checkpoint(grant, remaining);
            for _ in 0..reader.u64()? {
                let len = usize::try_from(reader.u64()?).map_err(|_| BadEncoding { at })?;
                let key = reader.take(len)?;
                lessor.attach(&encoded.slice_ref(key), id);
            }
        }
        if reader.at != encoded.len() {
            return Err(BadEncoding { at: reader.at });
        }
        Ok(lessor)
    }
}

/// The bytes are not what `encode` wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEncoding {
    pub at: usize,
}

impl std::fmt::Display for BadEncoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bad encoding of leases at byte {}", self.at)
    }
}

impl std::error::Error for BadEncoding {}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadEncoding> {
        let end = self.at.checked_add(len).ok_or(BadEncoding { at: self.at })?;
        let taken = self.bytes.get(self.at..end).ok_or(BadEncoding { at: self.at })?;
        self.at = end;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, BadEncoding> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    fn i64(&mut self) -> Result<i64, BadEncoding> {
        Ok(i64::from_le_bytes(self.u64()?.to_le_bytes()))
    }
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}
