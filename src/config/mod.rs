//! How a server is told what to do: flags, environment and file, from one table.
//!
//! [`flags`] holds the table and reads the command line and the environment, [`yaml`] a file;
//! both give raw texts by flag name. [`settings`] turns these into a [`settings::Config`] with
//! etcd's defaults and checks. As in etcd, a flag beats the environment, and a file, where one is
//! given, stands in for both. Nothing here does IO: whoever starts the server brings the texts.

pub mod duration;
pub mod flags;
pub mod settings;
pub mod url;
pub mod yaml;
