//! Placeholder.
pub mod status;
pub mod validate;
