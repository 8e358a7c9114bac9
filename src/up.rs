//! Stub of `weir up`.

use crate::failure::Failure;

pub(crate) fn run(args: crate::cli::Up) -> Result<(), Failure> {
    drop(args);
    Err("weir up: not built yet".into())
}
