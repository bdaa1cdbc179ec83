//! Why a server does not start.

use crate::storage::error::StorageError;
use std::fmt;

/// Why a server does not start. The texts are for the person who started it.
#[derive(Debug)]
pub enum StartError {
    Storage(StorageError),
    Config(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Storage(error) => error.fmt(f),
            StartError::Config(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StorageError> for StartError {
    fn from(error: StorageError) -> StartError {
        StartError::Storage(error)
    }
}
