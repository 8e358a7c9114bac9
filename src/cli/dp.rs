//! Flags of one proxy, `kuma-dp`'s. Must not do anything.

use super::{InterceptionArgs, LogFile};
use clap::{ArgAction, Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Dp {
    /// Run one proxy
    #[command(after_help = "Examples:
  weir dp run --cp-address=https://10.0.0.1:5678 --dataplane-file=web.yaml --dataplane-token-file=web.token
  weir dp run --proxy-type=egress --cp-address=https://10.0.0.1:5678 \\
    --dataplane-token-file=egress.token --dataplane-file=egress.yaml")]
    Run(Box<DpRun>),
    /// Wait until a proxy is ready
    #[command(after_help = "Example:\n  weir dp wait --url http://localhost:9901/ready --timeout 30s")]
    Wait(Wait),
    /// Print the version
    Version {
        #[arg(short = 'a', long = "detailed")]
        detailed: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    #[arg(long, default_value = "http://localhost:9901/ready")]
    pub(crate) url: String,
    #[arg(long, default_value = "180s")]
    pub(crate) timeout: String,
    #[arg(long, default_value = "1s")]
    pub(crate) check_frequency: String,
    #[arg(long, default_value = "500ms")]
    pub(crate) request_timeout: String,
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
    /// Take over what install's rules capture, with its defaults, whatever the resource says
    #[arg(long)]
    pub(crate) transparent_proxy: bool,
    /// The same with install's settings, as YAML or JSON
    #[arg(long, value_name = "YAML")]
    pub(crate) transparent_proxy_config: Vec<String>,
    /// The same from a file, `-` = stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) transparent_proxy_config_file: Vec<PathBuf>,
    #[arg(long, hide = true)]
    pub(crate) bind_outbounds: bool,
    #[arg(long, env = "KUMA_DNS_ENABLED", default_value = "true", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) dns_enabled: bool,
    /// Port of the DNS server on loopback
    #[arg(long = "dns-coredns-port", env = "KUMA_DNS_CORE_DNS_PORT", default_value_t = 15053)]
    pub(crate) dns_port: u16,
    /// The same, as newer kuma-dp call it; 0 is as if it weren't given
    #[arg(long, env = "KUMA_DNS_PROXY_PORT", hide = true)]
    pub(crate) dns_proxy_port: Option<u16>,
    /// Where names that aren't the mesh's are looked up
    #[arg(long, env = "WEIR_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub(crate) resolv_conf: PathBuf,
    /// Who knows the names of a domain, as [DOMAIN=]ADDRESS[:PORT]; wins over the control plane's `dnsServer.upstreams`
    #[arg(long = "dns-upstream", env = "WEIR_DNS_UPSTREAMS", value_delimiter = ',', value_name = "RULE")]
    pub(crate) dns_upstreams: Vec<snapshot::DnsUpstream>,
    /// Answer every AAAA question empty, for machines without IPv6
    #[arg(long = "dns-disable-aaaa", env = "WEIR_DNS_DISABLE_AAAA")]
    pub(crate) dns_no_aaaa: bool,
    /// Answer for a name here, as NAME=ADDRESS, whoever else knows it; repeatable
    #[arg(long = "dns-host", env = "WEIR_DNS_HOSTS", value_delimiter = ',', value_name = "NAME=ADDRESS")]
    pub(crate) dns_hosts: Vec<dns::Host>,
    /// Log every DNS answer, up to 500 a second
    #[arg(long, env = "KUMA_DNS_ENABLE_LOGGING", default_value = "false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) dns_enable_logging: bool,
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
    #[arg(long, hide = true, env = "KUMA_DNS_CORE_DNS_EMPTY_PORT")]
    pub(crate) dns_coredns_empty_port: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_CORE_DNS_BINARY_PATH")]
    pub(crate) dns_coredns_path: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_CORE_DNS_CONFIG_TEMPLATE_PATH")]
    pub(crate) dns_coredns_config_template_path: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_CONFIG_DIR")]
    pub(crate) dns_server_config_dir: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DNS_PROMETHEUS_PORT")]
    pub(crate) dns_prometheus_port: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DATAPLANE_RUNTIME_METRICS_CERT_PATH")]
    pub(crate) metrics_cert_path: Option<String>,
    #[arg(long, hide = true, env = "KUMA_DATAPLANE_RUNTIME_METRICS_KEY_PATH")]
    pub(crate) metrics_key_path: Option<String>,
    #[command(flatten)]
    pub(crate) log_file: LogFile,
}

impl Accepted {
    /// The given ones, with what to use instead.
    pub(crate) fn given(&self) -> Vec<(&'static str, &'static str)> {
        let none = "there is no Envoy or CoreDNS to configure";
        let corefile = "there is no CoreDNS: use --dns-upstream and --dns-disable-aaaa";
        let logs = "use --log-level";
        let metrics = "metrics are on the admin port";
        let all = [
            ("--binary-path", &self.binary_path, none),
            ("--config-dir", &self.config_dir, none),
            ("--envoy-log-level", &self.envoy_log_level, logs),
            ("--envoy-component-log-level", &self.envoy_component_log_level, logs),
            ("--dns-envoy-port", &self.dns_envoy_port, none),
            ("--dns-coredns-empty-port", &self.dns_coredns_empty_port, none),
            ("--dns-coredns-path", &self.dns_coredns_path, none),
            ("--dns-coredns-config-template-path", &self.dns_coredns_config_template_path, corefile),
            ("--dns-server-config-dir", &self.dns_server_config_dir, none),
            ("--dns-prometheus-port", &self.dns_prometheus_port, metrics),
            ("--metrics-cert-path", &self.metrics_cert_path, metrics),
            ("--metrics-key-path", &self.metrics_key_path, metrics),
        ];
        let given = all.into_iter().filter(|(_, value, _)| value.is_some()).map(|(flag, _, instead)| (flag, instead));
        given.chain(self.log_file.given()).collect()
    }
}
