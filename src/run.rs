//! Stub of `weir dp run`.

use crate::failure::Failure;

pub(crate) fn run(args: crate::cli::DpRun) -> Result<(), Failure> {
    drop(args);
    Err("weir dp run: not built yet".into())
}
