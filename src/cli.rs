//! The command line: one binary, four names. Owns flags and their environment names; must not do anything.

use clap::{ArgAction, Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "weir", version, about = "A service mesh in one binary: Kuma 2.x resources, no Envoy, no CoreDNS")]
#[command(propagate_version = true, arg_required_else_help = true)]
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
    Up(Up),
    /// A two-zone sample mesh with services, and the lines to try it
    Demo(Demo),
    /// The control plane (kuma-cp)
    #[command(subcommand)]
    Cp(Cp),
    /// One proxy (kuma-dp)
    #[command(subcommand)]
    Dp(Dp),
    /// Create or update resources
    Apply(Apply),
    /// Show resources
    Get(Get),
    /// Delete resources
    Delete(Delete),
    /// Show resources with their state
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
    Links { dir: PathBuf },
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
    /// Print the version
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
    /// How connections to VIPs reach the proxy: bind, tproxy, redirect or off
    #[arg(long, env = "WEIR_INTERCEPTION")]
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
    Run {
        #[arg(short = 'c', long)]
        config_file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dp {
    /// Run one proxy
    Run(Box<DpRun>),
    /// Wait until a proxy is ready
    Wait {
        #[arg(long, default_value = "http://localhost:9901/ready")]
        url: String,
        #[arg(long, default_value = "180s")]
        timeout: String,
        #[arg(long, default_value = "1s")]
        check_frequency: String,
        #[arg(long, default_value = "500ms")]
        request_timeout: String,
    },
    /// Print the version
    Version {
        #[arg(short = 'a', long = "detailed")]
        detailed: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DpRun {
    #[arg(long, env = "KUMA_DATAPLANE_NAME", default_value = "")]
    pub(crate) name: String,
    #[arg(long, env = "KUMA_DATAPLANE_MESH", default_value = "")]
    pub(crate) mesh: String,
    /// dataplane, ingress or egress
    #[arg(long, env = "KUMA_DATAPLANE_PROXY_TYPE", default_value = "dataplane")]
    pub(crate) proxy_type: String,
    /// At most this long for connections to end after SIGTERM
    #[arg(long, env = "KUMA_DATAPLANE_DRAIN_TIME", default_value = "30s")]
    pub(crate) drain_time: String,
    #[arg(long, env = "KUMA_CONTROL_PLANE_URL", default_value = "https://localhost:5678")]
    pub(crate) cp_address: String,
    /// PEM that verifies the control plane
    #[arg(long, env = "KUMA_CONTROL_PLANE_CA_CERT_FILE")]
    pub(crate) ca_cert_file: Option<PathBuf>,
    #[arg(long, hide = true, env = "KUMA_CONTROL_PLANE_CA_CERT")]
    pub(crate) ca_cert: Option<String>,
    #[arg(long)]
    pub(crate) skip_verify: bool,
    #[arg(long, env = "KUMA_DATAPLANE_RUNTIME_TOKEN_PATH")]
    pub(crate) dataplane_token_file: Option<PathBuf>,
    #[arg(long, env = "KUMA_DATAPLANE_RUNTIME_TOKEN")]
    pub(crate) dataplane_token: Option<String>,
    /// The resource itself
    #[arg(long, env = "KUMA_DATAPLANE_RUNTIME_RESOURCE")]
    pub(crate) dataplane: Option<String>,
    /// File of the resource, `-` = stdin
    #[arg(short = 'd', long, env = "KUMA_DATAPLANE_RUNTIME_RESOURCE_PATH")]
    pub(crate) dataplane_file: Option<PathBuf>,
    /// name=value for `{{ name }}` in the resource
    #[arg(short = 'v', long, value_delimiter = ',')]
    pub(crate) dataplane_var: Vec<String>,
    #[arg(long, env = "KUMA_DNS_ENABLED", default_value = "true", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) dns_enabled: bool,
    /// Port of the DNS server on loopback
    #[arg(long = "dns-coredns-port", alias = "dns-proxy-port", env = "KUMA_DNS_CORE_DNS_PORT", default_value_t = 15053)]
    pub(crate) dns_port: u16,
    /// Where names that aren't the mesh's are looked up
    #[arg(long, env = "WEIR_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub(crate) resolv_conf: PathBuf,
    #[arg(long, env = "KUMA_DATAPLANE_RUNTIME_CONCURRENCY")]
    pub(crate) concurrency: Option<usize>,
    /// Folder of the last good snapshot
    #[arg(long = "data", env = "WEIR_DATA_DIR")]
    pub(crate) data: Option<PathBuf>,
    #[arg(long, env = "KUMA_BOOTSTRAP_SERVER_PARAMS_ADMIN_PORT")]
    pub(crate) admin_port: Option<u16>,
    #[arg(long, env = "KUMA_CONTROL_PLANE_RETRY_BACKOFF", default_value = "3s")]
    pub(crate) retry_backoff: String,
    #[arg(long, env = "KUMA_CONTROL_PLANE_RETRY_MAX_DURATION", default_value = "5m")]
    pub(crate) retry_max_duration: String,
    #[command(flatten)]
    pub(crate) interception: InterceptionArgs,
    #[command(flatten)]
    pub(crate) without_meaning: Accepted,
}

/// Flags of kuma-dp that speak of Envoy and CoreDNS: accepted, with one line of warning.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Accepted {
    #[arg(long, hide = true, env = "KUMA_DATAPLANE_RUNTIME_BINARY_PATH")]
    pub(crate) binary_path: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DATAPLANE_RUNTIME_CONFIG_DIR")]
    pub(crate) config_dir: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL")]
    pub(crate) envoy_log_level: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DATAPLANE_RUNTIME_ENVOY_COMPONENT_LOG_LEVEL")]
    pub(crate) envoy_component_log_level: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_ENVOY_DNS_PORT")]
    pub(crate) dns_envoy_port: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_CORE_DNS_BINARY_PATH")]
    pub(crate) dns_coredns_path: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_CORE_DNS_CONFIG_TEMPLATE_PATH")]
    pub(crate) dns_coredns_config_template_path: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_CONFIG_DIR")]
    pub(crate) dns_server_config_dir: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_PROMETHEUS_PORT")]
    pub(crate) dns_prometheus_port: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_ENABLE_LOGGING", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) dns_enable_logging: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DATAPLANE_RUNTIME_METRICS_CERT_PATH")]
    pub(crate) metrics_cert_path: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DATAPLANE_RUNTIME_METRICS_KEY_PATH")]
    pub(crate) metrics_key_path: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) log_output_path: Option<String>,
}

impl Accepted {
    /// The given ones, with what to use instead.
    pub(crate) fn given(&self) -> Vec<(&'static str, &'static str)> {
        let none = "there is no Envoy or CoreDNS to configure";
        let logs = "use --log-level";
        let metrics = "metrics are on the admin port";
        let all = [
            ("--binary-path", &self.binary_path, none),
            ("--config-dir", &self.config_dir, none),
            ("--envoy-log-level", &self.envoy_log_level, logs),
            ("--envoy-component-log-level", &self.envoy_component_log_level, logs),
            ("--dns-envoy-port", &self.dns_envoy_port, none),
            ("--dns-coredns-path", &self.dns_coredns_path, none),
            ("--dns-coredns-config-template-path", &self.dns_coredns_config_template_path, none),
            ("--dns-server-config-dir", &self.dns_server_config_dir, none),
            ("--dns-prometheus-port", &self.dns_prometheus_port, metrics),
            ("--dns-enable-logging", &self.dns_enable_logging, logs),
            ("--metrics-cert-path", &self.metrics_cert_path, metrics),
            ("--metrics-key-path", &self.metrics_key_path, metrics),
            ("--log-output-path", &self.log_output_path, "redirect stderr"),
        ];
        all.into_iter().filter(|(_, value, _)| value.is_some()).map(|(flag, _, instead)| (flag, instead)).collect()
    }
}

/// How the commands reach a control plane.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Reach {
    /// kumactl's configuration (default: $HOME/.kumactl/config)
    #[arg(long)]
    pub(crate) config_file: Option<PathBuf>,
    /// Ignore the configuration and talk to http://localhost:5681
    #[arg(long)]
    pub(crate) no_config: bool,
    #[arg(long, default_value = "1m")]
    pub(crate) api_timeout: String,
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
    /// Delete the resources of these files
    #[arg(short = 'f', long = "file")]
    pub(crate) files: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// dataplanes, zoneegresses, zone-ingresses, meshes, services or zones
    pub(crate) what: String,
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    /// A token for `dp run` of a dataplane
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
    ControlPlane(crate::manifests::ControlPlane),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Uninstall {
    /// Remove exactly the rules of install
    TransparentProxy(crate::install::UninstallArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
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
    Add {
        #[command(flatten)]
        reach: Reach,
        #[arg(long)]
        name: String,
        #[arg(long)]
        address: String,
        #[arg(long)]
        ca_cert_file: Option<String>,
        #[arg(long)]
        skip_verify: bool,
        #[arg(long)]
        overwrite: bool,
        #[arg(long)]
        skip_check: bool,
        #[arg(long, default_value = "")]
        auth_type: String,
        #[arg(long)]
        auth_conf: Vec<String>,
    },
    List {
        #[command(flatten)]
        reach: Reach,
    },
    Remove {
        #[command(flatten)]
        reach: Reach,
        #[arg(long)]
        name: String,
    },
    Switch {
        #[command(flatten)]
        reach: Reach,
        #[arg(long)]
        name: String,
    },
}

/// The arguments as `weir` would be given them: `kuma-dp run` is `weir dp run`.
pub(crate) fn arguments(mut given: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let program = given.first().map(PathBuf::from);
    let name = program.as_deref().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
    let word = match name.as_deref() {
        Some("kuma-cp") => "cp",
        Some("kuma-dp") => "dp",
        _ => return given,
    };
    if given.get(1).is_some_and(|a| a == "version" || a == "--version") && word == "cp" {
        return given;
    }
    given.insert(1, word.into());
    given
}
