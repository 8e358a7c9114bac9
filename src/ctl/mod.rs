//! temp
#![allow(dead_code)]
mod client;
mod files;
pub(crate) use files::{expand, pairs, read_files, read_text, render};
pub(crate) type Done = Result<String, crate::failure::Failure>;
