//! The two forms of a message: JSON as protobuf maps it, and the frames of gRPC.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Body as HttpBody;
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::body::Body;
use tonic::{Code, Status};

/// Before each message of gRPC: whether it is compressed, and its length.
const FRAME_HEADER_BYTES: usize = 5;

/// Longer messages are translated on a thread of their own: a million keys take seconds, in which
/// this one has to send heartbeats.
const HERE_BYTES_MAX: usize = 64 << 10;

/// A message of gRPC from JSON, as in [`frame`], wherever that holds nobody up.
pub async fn to_frame(kind: &MessageDescriptor, json: Bytes) -> Result<Bytes, Status> {
    let (kind, is_long) = (kind.clone(), json.len() > HERE_BYTES_MAX);
    translate(is_long, move || frame(&kind, &json)).await
}

/// JSON of a message, as in [`json`], wherever that holds nobody up.
pub async fn to_json(kind: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let (kind, is_long) = (kind.clone(), message.len() > HERE_BYTES_MAX);
    translate(is_long, move || json(&kind, &message)).await
}

async fn translate<T: Send + 'static>(
    is_long: bool,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    if !is_long {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|stopped| Err(Status::internal(stopped.to_string())))
}

/// A message of gRPC from JSON. Fields may have the names of the protocol or those of JSON, numbers
/// may be texts; what no field is called is passed over.
fn frame(kind: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Status> {
    let refused = |error: serde_json::Error| Status::invalid_argument(error.to_string());
    let mut message = DynamicMessage::new(kind.clone());
    if !json.trim_ascii().is_empty() {
        let options = DeserializeOptions::new().deny_unknown_fields(false);
        let mut text = serde_json::Deserializer::from_slice(json);
        message = DynamicMessage::deserialize_with_options(kind.clone(), &mut text, &options)
            .map_err(refused)?;
        text.end().map_err(refused)?;
    }
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEADER_BYTES + length);
    frame.put_u8(0);
    let length = u32::try_from(length).map_err(|_| Status::resource_exhausted("too long"))?;
    frame.put_u32(length);
    message.encode(&mut frame).expect("there is room");
    Ok(frame.freeze())
}

/// JSON of a message: names of the protocol, no zeros, 64-bit numbers as texts, bytes as base64.
fn json(kind: &MessageDescriptor, message: &[u8]) -> Result<Vec<u8>, Status> {
    let broken = |error: String| Status::internal(error);
    let message = DynamicMessage::decode(kind.clone(), message);
    let message = message.map_err(|error| broken(error.to_string()))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut text = Vec::new();
    let mut writer = serde_json::Serializer::new(&mut text);
    let written = message.serialize_with_options(&mut writer, &options);
    written.map_err(|error| broken(error.to_string()))?;
    Ok(text)
}

/// Finds the ends of objects in a text that comes in pieces. It looks at each byte once, whatever
/// the pieces are; what is wrong inside an object is for who reads it to say.
#[derive(Default)]
struct Objects {
    text: BytesMut,
    /// What of the text was looked at.
    seen: usize,
    /// Brackets that are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Objects {
    fn push(&mut self, piece: &[u8]) {
        self.text.extend_from_slice(piece);
    }

    /// Takes the first whole object; nothing while there is none.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        while let Some(byte) = self.text.get(self.seen) {
            self.seen += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' if self.depth > 0 => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' => self.depth += 1,
                b'[' if self.depth > 0 => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => {
                    self.depth = 0;
                    let end = std::mem::take(&mut self.seen);
                    return Ok(Some(self.text.split_to(end).freeze()));
                }
                byte if self.depth == 0 && !byte.is_ascii_whitespace() => {
                    let text = format!("an object begins with {{, not with byte {byte:#04x}");
                    return Err(Status::invalid_argument(text));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// The objects that a client sends one after the other.
pub struct Values<B> {
    body: B,
    objects: Objects,
    /// The longest one.
    bytes_max: usize,
}

impl<B> Values<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub fn new(body: B, bytes_max: usize) -> Values<B> {
        Values { body, objects: Objects::default(), bytes_max }
    }

    /// The next one; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(value) = self.objects.next()? {
                return Ok(Some(value));
            }
            if self.read().await? {
                continue;
            }
            return match self.objects.text.trim_ascii().is_empty() {
                true => Ok(None),
                false => Err(Status::invalid_argument("unexpected EOF")),
            };
        }
    }

    /// Everything that is left, as one.
    pub async fn rest(mut self) -> Result<Bytes, Status> {
        while self.read().await? {}
        Ok(self.objects.text.freeze())
    }

    /// Reads on; false at the end.
    async fn read(&mut self) -> Result<bool, Status> {
        let Some(piece) = self.body.frame().await else { return Ok(false) };
        let piece = piece.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Ok(data) = piece.into_data() {
            self.objects.push(&data);
        }
        let (found, most) = (self.objects.text.len(), self.bytes_max);
        if found > most {
            let text = format!("grpc: received message larger than max ({found} vs. {most})");
            return Err(Status::resource_exhausted(text));
        }
        Ok(true)
    }
}

/// The messages that a call answers with, and its status.
pub struct Answers {
    body: Body,
    bytes: BytesMut,
    /// What stands among the headers where there are no messages.
    status: Option<Status>,
}

impl Answers {
    pub fn new(response: Response<Body>) -> Answers {
        let status = Status::from_header_map(response.headers());
        Answers { body: response.into_body(), bytes: BytesMut::new(), status }
    }

    /// The next message; nothing at a good end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.split_message() {
                return Ok(Some(message));
            }
            if let Some(status) = &self.status {
                return if status.code() == Code::Ok { Ok(None) } else { Err(status.clone()) };
            }
            match self.body.frame().await {
                None => self.status = Some(Status::internal("the call ended without a status")),
                Some(Err(status)) => self.status = Some(status),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.bytes.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.status = Status::from_header_map(&trailers);
                    }
                },
            }
        }
    }

    fn split_message(&mut self) -> Option<Bytes> {
        let length = self.bytes.get(1..FRAME_HEADER_BYTES)?.try_into().expect("four bytes");
        let length = u32::from_be_bytes(length) as usize;
        if self.bytes.len() < FRAME_HEADER_BYTES + length {
            return None;
        }
        self.bytes.advance(FRAME_HEADER_BYTES);
        Some(self.bytes.split_to(length).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The objects of a text that comes in pieces of one byte, and what is wrong behind them.
    fn split(text: &str) -> (Vec<String>, bool) {
        let mut objects = Objects::default();
        let mut found = Vec::new();
        for byte in text.as_bytes() {
            objects.push(&[*byte]);
            match objects.next() {
                Ok(object) => found.extend(object.map(|o| String::from_utf8_lossy(&o).into())),
                Err(_) => return (found, true),
            }
        }
        (found, false)
    }

    #[test]
    fn objects_are_split_where_they_end() {
        let text = " {\"a\":[1,{}]}{\"b\":\"}\\\"{\\\\\"}\n {\"c\"";
        let (found, is_wrong) = split(text);
        assert_eq!(found, [" {\"a\":[1,{}]}", "{\"b\":\"}\\\"{\\\\\"}"]);
        assert!(!is_wrong);
        for wrong in ["[1]", "null", "{}1", "}", "\"a\"", "{},{}"] {
            assert!(split(wrong).1, "{wrong}");
        }
        assert_eq!(split("{]{}").0, ["{]", "{}"], "whoever reads it refuses it");
    }
}
