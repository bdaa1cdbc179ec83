//! The two forms of a message: JSON as protobuf maps it, and the frames of gRPC.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Body as HttpBody;
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::de::IgnoredAny;
use tonic::body::Body;
use tonic::{Code, Status};

/// Before each message of gRPC: whether it is compressed, and its length.
const FRAME_HEADER_BYTES: usize = 5;

/// A message of gRPC from JSON. Fields may have the names of the protocol or those of JSON, numbers
/// may be texts; what no field is called is passed over.
pub fn frame(kind: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Status> {
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
pub fn json(kind: &MessageDescriptor, message: &[u8]) -> Result<Vec<u8>, Status> {
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

/// Takes the first whole JSON value from the front of `text`; nothing while it has none.
pub fn split_value(text: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    match values.next() {
        None => Ok(None),
        Some(Ok(_)) => {
            let end = values.byte_offset();
            Ok(Some(text.split_to(end).freeze()))
        }
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(error)) => Err(Status::invalid_argument(error.to_string())),
    }
}

/// The values that a client sends one after the other.
pub struct Values<B> {
    body: B,
    text: BytesMut,
    bytes_max: usize,
}

impl<B> Values<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub fn new(body: B, bytes_max: usize) -> Values<B> {
        Values { body, text: BytesMut::new(), bytes_max }
    }

    /// The next one; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(value) = split_value(&mut self.text)? {
                return Ok(Some(value));
            }
            if self.read().await? {
                continue;
            }
            return match self.text.trim_ascii().is_empty() {
                true => Ok(None),
                false => Err(Status::invalid_argument("unexpected EOF")),
            };
        }
    }

    /// Everything that is left, as one.
    pub async fn rest(mut self) -> Result<Bytes, Status> {
        while self.read().await? {}
        Ok(self.text.freeze())
    }

    /// Reads on; false at the end.
    async fn read(&mut self) -> Result<bool, Status> {
        let Some(piece) = self.body.frame().await else { return Ok(false) };
        let piece = piece.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Ok(data) = piece.into_data() {
            self.text.extend_from_slice(&data);
        }
        if self.text.len() > self.bytes_max {
            let (found, most) = (self.text.len(), self.bytes_max);
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

    #[test]
    fn values_are_split_where_they_end() {
        let mut text = BytesMut::from(&b" {\"a\":[1,{}]}{\"b\":\"}\"}\n {\"c\""[..]);
        let mut next = || split_value(&mut text).expect("well formed so far");
        assert_eq!(next().as_deref(), Some(&b" {\"a\":[1,{}]}"[..]));
        assert_eq!(next().as_deref(), Some(&b"{\"b\":\"}\"}"[..]));
        assert_eq!(next(), None);
        text.extend_from_slice(b":1}");
        assert!(split_value(&mut text).expect("whole now").is_some());
        assert!(split_value(&mut text).expect("empty").is_none());
        text.extend_from_slice(b"{]");
        assert!(split_value(&mut text).is_err());
    }
}
