//! Stub of `weir demo`.

use crate::failure::Failure;

pub(crate) fn run(args: crate::cli::Demo) -> Result<(), Failure> {
    drop(args);
    Err("weir demo: not built yet".into())
}
