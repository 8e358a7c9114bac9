//! The command line: one binary, four names. Owns flags and their environment names; must not do anything.

mod argv;
mod ctl;
mod dp;

pub(crate) use argv::arguments;
pub(crate) use ctl::{
    AddControlPlane, Apply, Config, ControlPlanes, Delete, Generate, Get, Inspect, Install, Output, Reach, Uninstall,
    View,
};
pub(crate) use dp::{Dp, DpRun, Wait};

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "weir", version, about = "A service mesh in one binary: Kuma 2.x resources, no Envoy, no CoreDNS")]
#[command(
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:
  weir up -f mesh.yaml
  weir demo --once
  weir links /usr/local/bin && kumactl get meshes

Exit codes: 0 done, 1 failed, 2 usage, 64 bad configuration"
)]
pub(crate) struct Cli {
    /// off, error, warn, info, debug
    #[arg(long, global = true, env = "WEIR_LOG")]
    pub(crate) log_level: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole mesh in one process: control plane, and a proxy for every address of this machine
    #[command(
        after_help = "Examples:\n  weir up -f mesh.yaml\n  weir up -f policies/ -f dataplanes.yaml --watch --as web-1"
    )]
    Up(Up),
    /// A two-zone sample mesh with services, and the lines to try it
    #[command(after_help = "Examples:\n  weir demo\n  weir demo --zones 1 --once")]
    Demo(Demo),
    /// The control plane (kuma-cp)
    #[command(subcommand)]
    Cp(Cp),
    /// One proxy (kuma-dp)
    #[command(subcommand)]
    Dp(Dp),
    /// Create or update resources
    #[command(
        after_help = "Examples:\n  weir apply -f mesh.yaml -f policies/\n  cat mesh.yaml | weir apply -f - --var zone=east --dry-run"
    )]
    Apply(Apply),
    /// Show resources
    #[command(
        after_help = "Examples:\n  weir get meshes\n  weir get dataplanes -m default -o yaml\n  weir get virtual-outbound default -o json"
    )]
    Get(Get),
    /// Delete resources
    #[command(after_help = "Examples:\n  weir delete dataplane web-1 -m default\n  weir delete -f mesh.yaml")]
    Delete(Delete),
    /// Show resources with their state
    #[command(
        after_help = "Examples:\n  weir inspect dataplanes\n  weir inspect dataplane web-1 --type config\n  weir inspect zoneegresses -o json"
    )]
    Inspect(Inspect),
    /// Make tokens
    #[command(subcommand)]
    Generate(Generate),
    /// Set this machine or a cluster up
    #[command(subcommand)]
    Install(Install),
    /// Undo what install did
    #[command(subcommand)]
    Uninstall(Uninstall),
    /// Which control plane the commands talk to
    #[command(subcommand)]
    Config(Config),
    /// Make the symlinks kuma-cp, kuma-dp and kumactl in a folder
    #[command(after_help = "Examples:\n  weir links /usr/local/bin")]
    Links { dir: PathBuf },
    /// Print a completion script
    #[command(after_help = "Examples:\n  source <(weir completion bash)\n  weir completion zsh > ~/.zfunc/_weir")]
    Completion { shell: clap_complete::Shell },
    /// Print the version
    #[command(after_help = "Examples:\n  weir version\n  weir version --detailed")]
    Version {
        /// More than the number
        #[arg(short = 'a', long = "detailed")]
        detailed: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// A file, a folder or `-` (stdin)
    #[arg(short = 'f', long = "file", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Apply edits as they are saved
    #[arg(long)]
    pub(crate) watch: bool,
    /// Keep the store in this folder (in memory otherwise)
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// The dataplane that VIP listeners and DNS act for
    #[arg(long = "as", value_name = "DATAPLANE")]
    pub(crate) acting: Option<String>,
    /// Run just these proxies; the others are taken to run elsewhere
    #[arg(long, num_args = 1..)]
    pub(crate) only: Vec<String>,
    /// Address of the REST API
    #[arg(long, default_value = "127.0.0.1:5681")]
    pub(crate) api: SocketAddr,
    /// Address of the DNS server
    #[arg(long, default_value = "127.0.0.1:15053")]
    pub(crate) dns: SocketAddr,
    #[command(flatten)]
    pub(crate) interception: InterceptionArgs,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct InterceptionArgs {
    /// How connections to VIPs reach the proxy
    #[arg(long, env = "WEIR_INTERCEPTION", value_parser = ["bind", "tproxy", "redirect", "off"])]
    pub(crate) interception: Option<String>,
    /// Worker threads of a proxy (default: one a core)
    #[arg(long = "workers", env = "WEIR_WORKERS")]
    pub(crate) workers: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[arg(long, default_value_t = 2)]
    pub(crate) zones: u8,
    /// Run the printed lines, print the outcome of each, exit 0 only if all succeeded
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cp {
    /// Run the control plane
    #[command(
        after_help = "Examples:\n  weir cp run\n  KUMA_DNS_SERVER_CIDR=127.64.0.0/10 weir cp run --config-file kuma-cp.yaml"
    )]
    Run {
        /// Settings in YAML, with kuma-cp's keys; `KUMA_*` variables win over it
        #[arg(short = 'c', long, env = "WEIR_CONFIG_FILE")]
        config_file: Option<PathBuf>,
        #[command(flatten)]
        log_file: LogFile,
    },
    /// Print the version
    Version {
        #[arg(short = 'a', long = "detailed")]
        detailed: bool,
    },
}

/// Flags about log files: the log is on stderr, for whoever started the process to keep.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogFile {
    #[arg(long, hide = true)]
    pub(crate) log_output_path: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) log_max_size: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) log_max_age: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) log_max_retained_files: Option<String>,
}

impl LogFile {
    /// The given ones, with what to use instead.
    pub(crate) fn given(&self) -> Vec<(&'static str, &'static str)> {
        let instead = "the log is on stderr; redirect it";
        let all = [
            ("--log-output-path", &self.log_output_path),
            ("--log-max-size", &self.log_max_size),
            ("--log-max-age", &self.log_max_age),
            ("--log-max-retained-files", &self.log_max_retained_files),
        ];
        all.into_iter().filter(|(_, value)| value.is_some()).map(|(flag, _)| (flag, instead)).collect()
    }
}

#[cfg(test)]
mod tests;
