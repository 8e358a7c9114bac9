//! Kubernetes manifests.

#[derive(Debug, clap::Args)]
pub(crate) struct ControlPlane {}
