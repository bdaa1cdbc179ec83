//! Placeholder: what storage needs of consensus.

pub mod message;
