//! Stub of `weir cp run`.

use crate::failure::Failure;
use std::path::PathBuf;

pub(crate) fn run(config_file: Option<PathBuf>) -> Result<(), Failure> {
    drop(config_file);
    Err("weir cp run: not built yet".into())
}
