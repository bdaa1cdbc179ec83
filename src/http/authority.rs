//! Lets clients in whose `:authority` is a whole URL.
//!
//! etcdctl 3.4 dials the endpoints that a member list names as `passthrough:///http://host:port`
//! and sends `http://host:port` as authority. Go's server takes that; the HTTP/2 library here
//! refuses the stream, as the RFC has it. So the start of each connection passes through this
//! reader: in the first HEADERS frame, where a client spells its authority (later ones point to
//! the entry that it made in the compression table), `://` becomes `k--`. Both have the same
//! length, plain and in Huffman code, so neither frame nor table changes its size. Nothing here
//! looks at the authority. After that frame the reader is a plain pass.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// The longest frame that a client may send before it has been told otherwise.
const FRAME_BYTES_MAX: usize = 16_384;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The place of `:authority` in the static table of HPACK (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
/// A sequence of bits, and how many there are.
type Bits = (u64, u32);

/// Huffman codes (RFC 7541, appendix B).
const H: Bits = (0x27, 6);
const T: Bits = (0x09, 5);
const P: Bits = (0x2b, 6);
const S: Bits = (0x08, 5);
const K: Bits = (0x75, 7);
const COLON: Bits = (0x5c, 7);
const SLASH: Bits = (0x18, 6);
const DASH: Bits = (0x16, 6);

const HTTP: Bits = spell(&[H, T, T, P, COLON, SLASH, SLASH]);
const HTTPS: Bits = spell(&[H, T, T, P, S, COLON, SLASH, SLASH]);
const OF_URL: Bits = spell(&[COLON, SLASH, SLASH]);
const OF_HOST: Bits = spell(&[K, DASH, DASH]);

const fn spell(letters: &[Bits]) -> Bits {
    let (mut code, mut bits, mut at) = (0, 0, 0);
    while at < letters.len() {
        code = code << letters[at].1 | letters[at].0;
        bits += letters[at].1;
        at += 1;
    }
    (code, bits)
}

/// The socket of one connection.
pub struct Lenient {
    stream: TcpStream,
    /// Bytes read and not handed on yet, and whether the first request is still to come.
    held: Vec<u8>,
    ready: usize,
    begun: Begun,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    Preface,
    Frames,
    /// All that follows passes unseen.
    Done,
}

impl Lenient {
    pub fn new(stream: TcpStream) -> Lenient {
        Lenient { stream, held: Vec::new(), ready: 0, begun: Begun::Preface }
    }

    /// Moves on over what is held: `ready` bytes of it may leave.
    fn advance(&mut self) {
        if self.begun == Begun::Preface {
            let seen = self.held.len().min(PREFACE.len());
            if self.held[..seen] != PREFACE[..seen] {
                self.begun = Begun::Done;
            } else if seen == PREFACE.len() {
                self.ready = seen;
                self.begun = Begun::Frames;
            }
        }
        while self.begun == Begun::Frames {
            let rest = &mut self.held[self.ready..];
            let Some(bytes) = frame_bytes(rest) else { break };
            let is_headers = rest[3] == HEADERS;
            if bytes > FRAME_HEADER_BYTES + FRAME_BYTES_MAX {
                self.begun = Begun::Done;
            } else if rest.len() < bytes {
                break;
            } else {
                if is_headers {
                    // What does not parse is left for the library to refuse.
                    let _patched = patch_headers(&mut rest[..bytes]);
                    self.begun = Begun::Done;
                }
                self.ready += bytes;
            }
        }
        if self.begun == Begun::Done {
            self.ready = self.held.len();
        }
    }

    fn hand_on(&mut self, buffer: &mut ReadBuf<'_>) {
        let bytes = self.ready.min(buffer.remaining());
        buffer.put_slice(&self.held[..bytes]);
        self.held.drain(..bytes);
        self.ready -= bytes;
    }
}

/// The bytes of the frame at the start, its header included, once that can be seen.
fn frame_bytes(frames: &[u8]) -> Option<usize> {
    let header = frames.get(..FRAME_HEADER_BYTES)?;
    let payload = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    Some(FRAME_HEADER_BYTES + payload as usize)
}

/// Changes the authority in a HEADERS frame, if it is a URL.
fn patch_headers(frame: &mut [u8]) -> Option<()> {
    let flags = frame[4];
    let mut block = &mut frame[FRAME_HEADER_BYTES..];
    if flags & PADDED != 0 {
        let padding = usize::from(*block.first()?);
        let end = block.len().checked_sub(padding)?;
        block = block.get_mut(1..end)?;
    }
    if flags & PRIORITY != 0 {
        block = block.get_mut(5..)?;
    }
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        // RFC 7541, section 6: an indexed field, a table size, or a literal of one of two kinds.
        let prefix_bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let is_literal = !matches!(first, 0x80.. | 0x20..0x40);
        let name = integer(block, &mut at, prefix_bits)?;
        if !is_literal {
            continue;
        }
        if name == 0 {
            string(block, &mut at)?;
        }
        let (huffman, from, to) = string(block, &mut at)?;
        if name == AUTHORITY {
            patch_value(&mut block[from..to], huffman);
            return Some(());
        }
    }
    None
}

/// Reads an integer whose first bits share a byte with something else (section 5.1).
fn integer(block: &[u8], at: &mut usize, prefix_bits: u32) -> Option<usize> {
    let most = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Passes over a string: whether it is in Huffman code, and from where to where it goes.
fn string(block: &[u8], at: &mut usize) -> Option<(bool, usize, usize)> {
    let huffman = *block.get(*at)? & 0x80 != 0;
    let bytes = integer(block, at, 7)?;
    let from = *at;
    *at = from.checked_add(bytes).filter(|to| *to <= block.len())?;
    Some((huffman, from, *at))
}

fn patch_value(value: &mut [u8], huffman: bool) {
    if huffman {
        for (code, bits) in [HTTP, HTTPS] {
            if bits_at(value, 0, bits) == Some(code) {
                set_bits(value, bits - OF_URL.1, OF_HOST);
            }
        }
    } else {
        for scheme in [&b"http://"[..], b"https://"] {
            if value.starts_with(scheme) {
                value[scheme.len() - 3..scheme.len()].copy_from_slice(b"k--");
            }
        }
    }
}

fn bits_at(value: &[u8], from: u32, bits: u32) -> Option<u64> {
    let bit = |at: u32| Some(u64::from(value.get(at as usize / 8)? >> (7 - at % 8) & 1));
    (from..from + bits).try_fold(0, |code, at| Some(code << 1 | bit(at)?))
}

fn set_bits(value: &mut [u8], from: u32, (code, bits): Bits) {
    for place in 0..bits {
        let (at, bit) = (from + place, code >> (bits - 1 - place) & 1);
        let mask = 1_u8 << (7 - at % 8);
        let byte = &mut value[at as usize / 8];
        *byte = if bit == 1 { *byte | mask } else { *byte & !mask };
    }
}

impl AsyncRead for Lenient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready == 0 {
            if this.begun == Begun::Done {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            let mut space = [0; 4096];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                // The end: what is held goes out as it is.
                this.begun = Begun::Done;
            }
            this.held.extend_from_slice(read.filled());
            this.advance();
            if this.begun == Begun::Done && this.held.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        this.hand_on(buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lenient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A HEADERS frame with these fields.
    fn headers(block: &[u8]) -> Vec<u8> {
        let bytes = u32::try_from(block.len()).expect("short").to_be_bytes();
        [&bytes[1..], &[HEADERS, 0x04, 0, 0, 0, 1], block].concat()
    }

    /// `:method POST`, then `:authority` as a literal that enters the table.
    fn authority(value: &[u8], huffman: bool) -> Vec<u8> {
        let length = u8::try_from(value.len()).expect("short") | if huffman { 0x80 } else { 0 };
        headers(&[&[0x83, 0x41, length], value, &[0x86]].concat())
    }

    #[test]
    fn a_plain_url_becomes_a_host_of_the_same_length() {
        let mut frame = authority(b"http://localhost:2379", false);
        assert_eq!(patch_headers(&mut frame), Some(()));
        assert_eq!(frame, authority(b"httpk--localhost:2379", false));
        let mut frame = authority(b"https://10.0.0.1:2379", false);
        assert_eq!(patch_headers(&mut frame), Some(()));
        assert_eq!(frame, authority(b"httpsk--10.0.0.1:2379", false));
        let mut frame = authority(b"localhost:2379", false);
        assert_eq!(patch_headers(&mut frame), Some(()));
        assert_eq!(frame, authority(b"localhost:2379", false));
    }

    #[test]
    fn so_does_one_in_huffman_code() {
        let pad = |code: Bits| {
            let mut value = vec![0xff; code.1.div_ceil(8) as usize];
            set_bits(&mut value, 0, code);
            value
        };
        for (code, bits) in [HTTP, HTTPS] {
            let mut frame = authority(&pad((code, bits)), true);
            assert_eq!(patch_headers(&mut frame), Some(()));
            let patched = code >> OF_URL.1 << OF_URL.1 | OF_HOST.0;
            assert_eq!(frame, authority(&pad((patched, bits)), true));
        }
        assert_eq!(OF_URL.1, OF_HOST.1);
        // As a Go client sends it: `http://localhost:2379`.
        let sent = [0x9d, 0x29, 0xae, 0xe3, 0x0c];
        assert_eq!(bits_at(&sent, 0, 40), Some(HTTP.0 >> (HTTP.1 - 40)));
    }

    proptest! {
        #[test]
        fn any_block_is_passed_over(block in prop::collection::vec(any::<u8>(), 0..64), flags: u8) {
            let mut frame = headers(&block);
            frame[4] = flags;
            let before = frame.len();
            let _found = patch_headers(&mut frame);
            prop_assert_eq!(frame.len(), before);
        }
    }
}
