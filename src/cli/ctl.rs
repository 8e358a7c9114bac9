//! Flags of the commands that talk to a control plane, `kumactl`'s. Must not do anything.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// How the commands reach a control plane.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Reach {
    /// kumactl's configuration (default: $HOME/.kumactl/config)
    #[arg(long, value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// Ignore the configuration and talk to http://localhost:5681
    #[arg(long)]
    pub(crate) no_config: bool,
    /// How long to wait for an answer
    #[arg(long, default_value = "1m")]
    pub(crate) api_timeout: String,
    /// Mesh of what belongs to one
    #[arg(short = 'm', long, default_value = "default")]
    pub(crate) mesh: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Yaml,
    Json,
}

/// What is shown of one proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum View {
    #[default]
    Overview,
    Policies,
    /// The tables it executes
    #[value(alias = "config-dump")]
    Config,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// A file, a folder, `-` (stdin); may be repeated
    #[arg(short = 'f', long = "file", required = true)]
    pub(crate) files: Vec<String>,
    /// name=value for `{{ name }}` in the files
    #[arg(short = 'v', long = "var", value_delimiter = ',')]
    pub(crate) vars: Vec<String>,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Kind, singular or plural (dataplanes, virtual-outbound …)
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
    #[arg(short = 'o', long = "output", alias = "format", value_enum, default_value_t)]
    pub(crate) output: Output,
    #[arg(long)]
    pub(crate) size: Option<u32>,
    #[arg(long)]
    pub(crate) offset: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) reach: Reach,
    pub(crate) kind: Option<String>,
    pub(crate) name: Option<String>,
    /// name=value for `{{ name }}` in the files
    #[arg(short = 'v', long = "var", value_delimiter = ',')]
    pub(crate) vars: Vec<String>,
    /// Delete the resources of these files
    #[arg(short = 'f', long = "file")]
    pub(crate) files: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// dataplanes, names, zoneegresses, zone-ingresses, meshes, services or zones; or one of them and its name
    pub(crate) what: String,
    pub(crate) name: Option<String>,
    /// Of one: overview, policies or config
    #[arg(long = "type", value_enum, default_value_t)]
    pub(crate) view: View,
    /// tag=value that a dataplane has, repeatable
    #[arg(long)]
    pub(crate) tag: Vec<String>,
    /// Gateways only
    #[arg(long)]
    pub(crate) gateway: bool,
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::enum_variant_names, reason = "the commands' own names")]
pub(crate) enum Generate {
    /// A token for `dp run` of a dataplane
    #[command(
        after_help = "Examples:\n  weir generate dataplane-token --name web-1 --mesh default --valid-for 720h > web.token\n  weir generate dataplane-token --tag kuma.io/service=web,web-canary"
    )]
    DataplaneToken {
        #[command(flatten)]
        reach: Reach,
        #[arg(long, default_value = "")]
        name: String,
        /// tag=value, repeatable
        #[arg(long)]
        tag: Vec<String>,
        #[arg(long, default_value = "")]
        proxy_type: String,
        #[arg(long, default_value = "")]
        valid_for: String,
    },
    /// A token for `dp run` of a zone ingress or egress
    #[command(after_help = "Examples:\n  weir generate zone-token --valid-for 720h --scope egress > egress.token")]
    ZoneToken {
        #[command(flatten)]
        reach: Reach,
        /// Empty = any zone
        #[arg(long, default_value = "")]
        zone: String,
        #[arg(long, value_delimiter = ',', default_values_t = ["ingress".to_owned(), "egress".to_owned()])]
        scope: Vec<String>,
        #[arg(long, default_value = "")]
        valid_for: String,
    },
    /// A token for people and scripts that use the REST API
    #[command(after_help = "Examples:\n  weir generate user-token --name ci --group deployers --valid-for 24h")]
    UserToken {
        #[command(flatten)]
        reach: Reach,
        #[arg(long)]
        name: String,
        #[arg(long)]
        group: Vec<String>,
        #[arg(long, default_value = "24h")]
        valid_for: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Install {
    /// nftables rules that send the machine's traffic through the proxy
    TransparentProxy(Box<crate::install::InstallArgs>),
    /// Kubernetes manifests of a control plane, on stdout
    #[command(
        after_help = "Examples:\n  weir install control-plane | kubectl apply -f -\n  weir install control-plane --egress-enabled --env-var KUMA_DNS_SERVER_CIDR=242.0.0.0/8"
    )]
    ControlPlane(crate::manifests::ControlPlane),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Uninstall {
    /// Remove exactly the rules of install
    #[command(after_help = "Examples:\n  weir uninstall transparent-proxy")]
    TransparentProxy(crate::install::UninstallArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Add, list, remove, switch
    #[command(subcommand)]
    ControlPlanes(ControlPlanes),
    /// Print the configuration
    View {
        #[command(flatten)]
        reach: Reach,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ControlPlanes {
    /// Remember a control plane and talk to it from now on
    #[command(after_help = "Example:
  weir config control-planes add --name east --address https://10.0.0.1:5682 --ca-cert-file ca.pem \\
    --auth-type tokens --auth-conf token=$(cat admin.token)")]
    Add(Box<AddControlPlane>),
    /// Show them, the active one marked
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Forget one
    Remove {
        #[command(flatten)]
        reach: Reach,
        #[arg(long)]
        name: String,
    },
    /// Talk to another one
    Switch {
        #[command(flatten)]
        reach: Reach,
        #[arg(long)]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddControlPlane {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[arg(long)]
    pub(crate) name: String,
    #[arg(long)]
    pub(crate) address: String,
    /// PEM that verifies an https address
    #[arg(long)]
    pub(crate) ca_cert_file: Option<String>,
    #[arg(long, requires = "client_key_file")]
    pub(crate) client_cert_file: Option<String>,
    #[arg(long, requires = "client_cert_file")]
    pub(crate) client_key_file: Option<String>,
    /// name=value of a header to send with every request
    #[arg(long, value_delimiter = ',')]
    pub(crate) headers: Vec<String>,
    #[arg(long)]
    pub(crate) skip_verify: bool,
    #[arg(long)]
    pub(crate) overwrite: bool,
    #[arg(long)]
    pub(crate) skip_check: bool,
    /// tokens
    #[arg(long, default_value = "")]
    pub(crate) auth_type: String,
    /// token=TOKEN
    #[arg(long)]
    pub(crate) auth_conf: Vec<String>,
}
