//! Stub of `install transparent-proxy` and `uninstall transparent-proxy`.

use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct InstallArgs {}

#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArgs {}

pub(crate) fn install(args: InstallArgs) -> Result<(), Failure> {
    let InstallArgs {} = args;
    Err("weir install transparent-proxy: not built yet".into())
}

pub(crate) fn uninstall(args: UninstallArgs) -> Result<(), Failure> {
    let UninstallArgs {} = args;
    Err("weir uninstall transparent-proxy: not built yet".into())
}
