//! The control plane's settings: kuma-cp's keys and `KUMA_*` names where the setting exists, one table for the file, the
//! environment and the help. The environment wins over the file. Knows no resource.

mod cidr;
mod ignored;
mod probing;

pub use cidr::Cidr;
use ignored::IGNORED;
pub use probing::Probing;

use serde_json::Value;
use snapshot::DnsUpstream;
use snapshot::limits::DNS_UPSTREAMS_MAX;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What `cp run` and `up` start from.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub zone: String,
    pub store: StoreKind,
    pub data_dir: PathBuf,
    pub domain: String,
    pub cidr: Cidr,
    /// None = AAAA answers NODATA.
    pub cidr_v6: Option<Cidr>,
    pub ipam: Ipam,
    pub service_vip_enabled: bool,
    pub service_vip_port: u16,
    /// Hosts of ExternalServices are dialled on that port too, beside their own.
    pub host_vip_port: bool,
    pub dns_ttl_s: u32,
    pub aaaa: Aaaa,
    pub dns_upstreams: Vec<DnsUpstream>,
    pub api: SocketAddr,
    pub api_https: Option<SocketAddr>,
    pub channel: SocketAddr,
    /// PEM files of the channel and the HTTPS API; both or neither. Made at first start when absent.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub skip_mesh_creation: bool,
    pub skip_hostname_generators: bool,
    pub localhost_is_admin: bool,
    pub dp_auth: Auth,
    pub zone_auth: Auth,
    /// Others stop sending to a dataplane whose channel was lost for this long; zero = never.
    pub offline_grace: Duration,
    /// The resource of one that was lost for this long is removed; zero = never.
    pub dataplane_cleanup: Duration,
    pub probing: Probing,
}

/// Ranges of the newer kinds of services, over all meshes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipam {
    pub mesh_service: Cidr,
    pub external: Cidr,
    pub multi_zone: Cidr,
}

fn eight(first: u8) -> Cidr {
    Cidr { network: IpAddr::V4(Ipv4Addr::new(first, 0, 0, 0)), prefix: 8 }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Memory,
    Sqlite,
}

/// What AAAA questions are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aaaa {
    /// Addresses of the second range; NODATA without one.
    #[default]
    Native,
    /// The IPv4 address in IPv6 form, as Kuma does.
    Mapped,
    /// Nothing, whatever the name: for machines without IPv6.
    Off,
}

impl Aaaa {
    fn text(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Mapped => "mapped",
            Self::Off => "off",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    Token,
    None,
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Settings {
    /// Defaults, as Kuma's but for the store (a durable file) and the API's bind address (loopback).
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            zone: "default".into(),
            store: StoreKind::Sqlite,
            data_dir,
            domain: "mesh".into(),
            cidr: Cidr { network: IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), prefix: 4 },
            cidr_v6: Cidr::parse("fd00:fd00::/64"),
            ipam: Ipam { mesh_service: eight(241), external: eight(242), multi_zone: eight(243) },
            service_vip_enabled: true,
            service_vip_port: 80,
            host_vip_port: true,
            dns_ttl_s: snapshot::limits::DNS_TTL_S,
            aaaa: Aaaa::Native,
            dns_upstreams: Vec::new(),
            api: SocketAddr::new(LOOPBACK, 5681),
            api_https: Some(SocketAddr::new(LOOPBACK, 5682)),
            channel: SocketAddr::new(ANY, 5678),
            tls_cert: None,
            tls_key: None,
            skip_mesh_creation: false,
            skip_hostname_generators: false,
            localhost_is_admin: true,
            dp_auth: Auth::Token,
            zone_auth: Auth::Token,
            offline_grace: Duration::from_secs(300),
            dataplane_cleanup: Duration::from_secs(72 * 3600),
            probing: Probing::default(),
        }
    }

    /// What proxies need routes for; a range within another is no range of its own.
    pub fn vip_ranges(&self) -> Vec<String> {
        let Ipam { mesh_service, external, multi_zone } = self.ipam;
        let mut ranges = vec![self.cidr];
        for range in [mesh_service, external, multi_zone].into_iter().chain(self.cidr_v6) {
            let is_within = |wider: &Cidr| wider.prefix <= range.prefix && wider.contains(range.network);
            if !ranges.iter().any(is_within) {
                ranges.push(range);
            }
        }
        ranges.iter().map(ToString::to_string).collect()
    }

    /// The settings in force, for people; there is no secret among them.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "mode": "zone",
            "environment": "universal",
            "multizone": {"zone": {"name": self.zone}},
            "store": {"type": if self.store == StoreKind::Sqlite { "sqlite" } else { "memory" }},
            "general": {"workDir": self.data_dir},
            "dnsServer": {
                "domain": self.domain,
                "CIDR": self.cidr.to_string(),
                "CIDRV6": self.cidr_v6.map(|c| c.to_string()),
                "serviceVipEnabled": self.service_vip_enabled,
                "serviceVipPort": self.service_vip_port,
                "externalServiceVipPortEnabled": self.host_vip_port,
                "ttl": self.dns_ttl_s,
                "AAAA": self.aaaa.text(),
                "upstreams": self.dns_upstreams.iter().map(ToString::to_string).collect::<Vec<_>>(),
            },
            "ipam": {
                "meshService": {"cidr": self.ipam.mesh_service.to_string()},
                "meshExternalService": {"cidr": self.ipam.external.to_string()},
                "meshMultiZoneService": {"cidr": self.ipam.multi_zone.to_string()},
            },
            "apiServer": {"http": {"interface": self.api.ip(), "port": self.api.port()}},
            "dpServer": {"port": self.channel.port(), "offlineGrace": format!("{}s", self.offline_grace.as_secs())},
        })
    }

    /// Applies a configuration file (already parsed) and the environment.
    ///
    /// # Errors
    /// Every value that can't be used, each with its key.
    pub fn load(
        mut self,
        file: &Value,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Self, Vec<String>), Vec<String>> {
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        for key in KEYS {
            let from_file = at(file, key.path).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            let Some((text, source)) =
                env(key.env).map(|text| (text, key.env)).or_else(|| from_file.map(|text| (text, key.path)))
            else {
                continue;
            };
            if let Err(problem) = (key.set)(&mut self, text.trim()) {
                errors.push(format!("{source}: {problem}"));
            }
        }
        for path in leaves(file).iter().filter(|path| !KEYS.iter().any(|key| key.path == *path)) {
            let instead =
                IGNORED.iter().find(|(ignored, ..)| ignored == path).map(|(.., instead)| format!(": {instead}"));
            let instead = instead.unwrap_or_default();
            warnings.push(format!("{path}: this setting has no meaning here and is ignored{instead}"));
        }
        for (_, variable, instead) in IGNORED.iter().filter(|(_, variable, _)| env(variable).is_some()) {
            warnings.push(format!("{variable}: this setting has no meaning here and is ignored: {instead}"));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            errors.push("general.tlsCertFile and general.tlsKeyFile: set both or neither".into());
        }
        if errors.is_empty() { Ok((self, warnings)) } else { Err(errors) }
    }
}

/// One setting: where it stands in the file, its variable, what it is for, how it is read.
pub struct Key {
    pub path: &'static str,
    pub env: &'static str,
    pub help: &'static str,
    set: fn(&mut Settings, &str) -> Result<(), String>,
}

macro_rules! key {
    ($path:literal, $env:literal, $help:literal, $set:expr) => {
        Key { path: $path, env: $env, help: $help, set: $set }
    };
}

pub const KEYS: &[Key] = &[
    key!("mode", "KUMA_MODE", "zone; standalone is the same", |_, v| match v {
        "zone" | "standalone" | "" => Ok(()),
        other =>
            Err(format!("mode {other} isn't available; one control plane serves every zone of its store (use zone)")),
    }),
    key!("environment", "KUMA_ENVIRONMENT", "universal", |_, v| match v {
        "universal" | "" => Ok(()),
        other => Err(format!("environment {other} isn't available (use universal)")),
    }),
    key!("multizone.zone.name", "KUMA_MULTIZONE_ZONE_NAME", "zone of what doesn't say its own", |s, v| {
        text(v).map(|v| s.zone = v)
    }),
    key!("store.type", "KUMA_STORE_TYPE", "sqlite or memory", |s, v| {
        s.store = match v {
            "sqlite" => StoreKind::Sqlite,
            "memory" => StoreKind::Memory,
            other => return Err(format!("store {other} isn't available (sqlite, memory)")),
        };
        Ok(())
    }),
    key!("general.workDir", "WEIR_DATA_DIR", "folder of the store and certificates", |s, v| {
        text(v).map(|v| s.data_dir = v.into())
    }),
    key!("dnsServer.domain", "KUMA_DNS_SERVER_DOMAIN", "suffix of mesh names", |s, v| {
        text(v).map(|v| s.domain = v.trim_matches('.').to_ascii_lowercase())
    }),
    key!("dnsServer.CIDR", "KUMA_DNS_SERVER_CIDR", "range of virtual IPs", |s, v| {
        let cidr = Cidr::parse(v).ok_or("CIDR must be valid")?;
        // Where Kuma would then serve IPv6 alone, the IPv4 range stays: names have both.
        match cidr.network {
            IpAddr::V4(_) => s.cidr = cidr,
            IpAddr::V6(_) => s.cidr_v6 = Some(cidr),
        }
        Ok(())
    }),
    key!("dnsServer.CIDRV6", "WEIR_DNS_SERVER_CIDR_V6", "second range, for AAAA; empty = none", |s, v| {
        s.cidr_v6 = if v.is_empty() { None } else { Some(Cidr::parse(v).ok_or("CIDR must be valid")?) };
        Ok(())
    }),
    key!("dnsServer.serviceVipEnabled", "KUMA_DNS_SERVER_SERVICE_VIP_ENABLED", "a name per kuma.io/service", |s, v| {
        boolean(v).map(|v| s.service_vip_enabled = v)
    }),
    key!("dnsServer.serviceVipPort", "KUMA_DNS_SERVER_SERVICE_VIP_PORT", "port of those names", |s, v| {
        port(v).map(|v| s.service_vip_port = v)
    }),
    key!(
        "dnsServer.externalServiceVipPortEnabled",
        "WEIR_DNS_SERVER_EXTERNAL_SERVICE_VIP_PORT_ENABLED",
        "hosts of ExternalServices have serviceVipPort too",
        |s, v| { boolean(v).map(|v| s.host_vip_port = v) }
    ),
    key!("dnsServer.ttl", "WEIR_DNS_SERVER_TTL", "seconds that answers live", |s, v| {
        v.parse().map(|v| s.dns_ttl_s = v).map_err(|_| format!("`{v}` isn't a number of seconds"))
    }),
    key!("dnsServer.AAAA", "WEIR_DNS_SERVER_AAAA", "native, mapped (::ffff:…) or off", |s, v| {
        let all = [Aaaa::Native, Aaaa::Mapped, Aaaa::Off];
        let wanted = all.into_iter().find(|aaaa| aaaa.text() == v.to_ascii_lowercase());
        wanted.map(|aaaa| s.aaaa = aaaa).ok_or_else(|| format!("`{v}` is none of native, mapped, off"))
    }),
    key!(
        "dnsServer.upstreams",
        "WEIR_DNS_SERVER_UPSTREAMS",
        "[DOMAIN=]ADDRESS[:PORT], …: who knows a domain",
        |s, v| { upstreams(v).map(|v| s.dns_upstreams = v) }
    ),
    key!("ipam.meshService.cidr", "KUMA_IPAM_MESH_SERVICE_CIDR", "range of MeshServices", |s, v| {
        Cidr::parse(v).map(|v| s.ipam.mesh_service = v).ok_or("CIDR must be valid".into())
    }),
    key!("ipam.meshExternalService.cidr", "KUMA_IPAM_MESH_EXTERNAL_SERVICE_CIDR", "of MeshExternalServices", |s, v| {
        Cidr::parse(v).map(|v| s.ipam.external = v).ok_or("CIDR must be valid".into())
    }),
    key!(
        "ipam.meshMultiZoneService.cidr",
        "KUMA_IPAM_MESH_MULTI_ZONE_SERVICE_CIDR",
        "of MeshMultiZoneServices",
        |s, v| { Cidr::parse(v).map(|v| s.ipam.multi_zone = v).ok_or("CIDR must be valid".into()) }
    ),
    key!("apiServer.http.interface", "KUMA_API_SERVER_HTTP_INTERFACE", "address of the REST API", |s, v| {
        address(v).map(|v| s.api.set_ip(v))
    }),
    key!("apiServer.http.port", "KUMA_API_SERVER_HTTP_PORT", "port of the REST API", |s, v| {
        listen_port(v).map(|v| s.api.set_port(v))
    }),
    key!("apiServer.https.enabled", "KUMA_API_SERVER_HTTPS_ENABLED", "REST over TLS too", |s, v| {
        if !boolean(v)? {
            s.api_https = None;
        }
        Ok(())
    }),
    key!("apiServer.https.interface", "KUMA_API_SERVER_HTTPS_INTERFACE", "address of the REST API over TLS", |s, v| {
        let ip = address(v)?;
        if let Some(address) = &mut s.api_https {
            address.set_ip(ip);
        }
        Ok(())
    }),
    key!("apiServer.https.port", "KUMA_API_SERVER_HTTPS_PORT", "port of the REST API over TLS", |s, v| {
        let port = listen_port(v)?;
        if let Some(address) = &mut s.api_https {
            address.set_port(port);
        }
        Ok(())
    }),
    key!(
        "apiServer.authn.localhostIsAdmin",
        "KUMA_API_SERVER_AUTHN_LOCALHOST_IS_ADMIN",
        "loopback needs no token",
        |s, v| { boolean(v).map(|v| s.localhost_is_admin = v) }
    ),
    key!("dpServer.port", "KUMA_DP_SERVER_PORT", "port of the control channel", |s, v| {
        listen_port(v).map(|v| s.channel.set_port(v))
    }),
    key!("dpServer.authn.dpProxy.type", "KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE", "dpToken or none", |s, v| {
        auth(v, "dpToken").map(|v| s.dp_auth = v)
    }),
    key!("dpServer.authn.zoneProxy.type", "KUMA_DP_SERVER_AUTHN_ZONE_PROXY_TYPE", "zoneToken or none", |s, v| {
        auth(v, "zoneToken").map(|v| s.zone_auth = v)
    }),
    key!(
        "dpServer.offlineGrace",
        "WEIR_DP_SERVER_OFFLINE_GRACE",
        "a lost dataplane is used this long; 0s = ever",
        |s, v| { crate::time::parse_go_duration(v).map(|v| s.offline_grace = v) }
    ),
    key!(
        "runtime.universal.dataplaneCleanupAge",
        "KUMA_RUNTIME_UNIVERSAL_DATAPLANE_CLEANUP_AGE",
        "the resource of a lost dataplane is removed then; 0s = never",
        |s, v| { crate::time::parse_go_duration(v).map(|v| s.dataplane_cleanup = v) }
    ),
    key!("dpServer.hds.enabled", "KUMA_DP_SERVER_HDS_ENABLED", "proxies probe their applications", |s, v| {
        boolean(v).map(|v| s.probing.enabled = v)
    }),
    key!("dpServer.hds.checkDefaults.interval", "KUMA_DP_SERVER_HDS_CHECK_INTERVAL", "between two probes", |s, v| {
        positive(v).map(|v| s.probing.interval = v)
    }),
    key!("dpServer.hds.checkDefaults.timeout", "KUMA_DP_SERVER_HDS_CHECK_TIMEOUT", "of a probe", |s, v| {
        positive(v).map(|v| s.probing.timeout = v)
    }),
    key!(
        "dpServer.hds.checkDefaults.healthyThreshold",
        "KUMA_DP_SERVER_HDS_CHECK_HEALTHY_THRESHOLD",
        "successes in a row that make an application healthy",
        |s, v| { threshold(v).map(|v| s.probing.healthy_threshold = v) }
    ),
    key!(
        "dpServer.hds.checkDefaults.unhealthyThreshold",
        "KUMA_DP_SERVER_HDS_CHECK_UNHEALTHY_THRESHOLD",
        "failures in a row that make it unhealthy",
        |s, v| { threshold(v).map(|v| s.probing.unhealthy_threshold = v) }
    ),
    key!("general.tlsCertFile", "KUMA_GENERAL_TLS_CERT_FILE", "PEM of the channel's certificate", |s, v| {
        s.tls_cert = (!v.is_empty()).then(|| v.into());
        Ok(())
    }),
    key!("general.tlsKeyFile", "KUMA_GENERAL_TLS_KEY_FILE", "PEM of its key", |s, v| {
        s.tls_key = (!v.is_empty()).then(|| v.into());
        Ok(())
    }),
    key!("defaults.skipMeshCreation", "KUMA_DEFAULTS_SKIP_MESH_CREATION", "don't create mesh default", |s, v| {
        boolean(v).map(|v| s.skip_mesh_creation = v)
    }),
    key!(
        "defaults.skipHostnameGenerators",
        "KUMA_DEFAULTS_SKIP_HOSTNAME_GENERATORS",
        "don't create Kuma's HostnameGenerators",
        |s, v| { boolean(v).map(|v| s.skip_hostname_generators = v) }
    ),
];

fn text(v: &str) -> Result<String, String> {
    if v.is_empty() { Err("cannot be empty".into()) } else { Ok(v.to_owned()) }
}

/// A list of the file, or with commas between.
fn upstreams(v: &str) -> Result<Vec<DnsUpstream>, String> {
    let listed = serde_json::from_str::<Vec<String>>(v).ok();
    let listed =
        listed.unwrap_or_else(|| v.split(',').filter(|rule| !rule.trim().is_empty()).map(str::to_owned).collect());
    if listed.len() > DNS_UPSTREAMS_MAX {
        return Err(format!("{} rules are more than {DNS_UPSTREAMS_MAX}", listed.len()));
    }
    listed.iter().map(|rule| rule.parse()).collect()
}

fn boolean(v: &str) -> Result<bool, String> {
    match v.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" | "yes" | "on" => Ok(true),
        "false" | "0" | "f" | "no" | "off" => Ok(false),
        _ => Err(format!("`{v}` is neither true nor false")),
    }
}

fn port(v: &str) -> Result<u16, String> {
    match v.parse::<u16>() {
        Ok(0) => Err("port can't be 0".into()),
        Ok(port) => Ok(port),
        Err(_) => Err(format!("`{v}` isn't a port (1-65535)")),
    }
}

fn positive(v: &str) -> Result<Duration, String> {
    let duration = crate::time::parse_go_duration(v)?;
    if duration.is_zero() { Err("must have a positive value".into()) } else { Ok(duration) }
}

fn threshold(v: &str) -> Result<u32, String> {
    v.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("`{v}` isn't a positive number"))
}

/// 0 = any free one; the ready line tells which.
fn listen_port(v: &str) -> Result<u16, String> {
    v.parse().map_err(|_| format!("`{v}` isn't a port (0-65535)"))
}

fn address(v: &str) -> Result<IpAddr, String> {
    v.parse().map_err(|_| format!("`{v}` isn't an IP address"))
}

fn auth(v: &str, token: &str) -> Result<Auth, String> {
    match v {
        "none" => Ok(Auth::None),
        v if v == token => Ok(Auth::Token),
        other => Err(format!("`{other}` isn't one of {token}, none")),
    }
}

fn at<'a>(file: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(file, |node, key| node.get(key)).filter(|v| !v.is_null())
}

/// Dotted paths of all scalars in a file.
fn leaves(file: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![(String::new(), file)];
    while let Some((path, node)) = todo.pop() {
        match node {
            Value::Object(map) => todo.extend(map.iter().map(|(k, v)| {
                let path = if path.is_empty() { k.clone() } else { format!("{path}.{k}") };
                (path, v)
            })),
            Value::Null => {}
            _ => found.push(path),
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::{Aaaa, Settings};
    use serde_json::json;

    fn load(file: serde_json::Value, env: &[(&str, &str)]) -> Result<(Settings, Vec<String>), Vec<String>> {
        let env = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
        Settings::new("/data".into()).load(&file, &env)
    }

    #[test]
    fn the_environment_wins_over_the_file_and_unknown_keys_are_named() {
        let file = json!({"dnsServer": {"domain": "corp", "serviceVipPort": 8080}, "bootstrapServer": {"x": 1}});
        let (s, warnings) = load(file, &[("KUMA_DNS_SERVER_DOMAIN", "mesh2")]).unwrap();
        assert_eq!((s.domain.as_str(), s.service_vip_port), ("mesh2", 8080));
        assert_eq!((s.dataplane_cleanup.as_secs(), s.host_vip_port), (72 * 3600, true));
        let env = [
            ("KUMA_RUNTIME_UNIVERSAL_DATAPLANE_CLEANUP_AGE", "72h0m1s"),
            ("WEIR_DNS_SERVER_EXTERNAL_SERVICE_VIP_PORT_ENABLED", "false"),
        ];
        let (other, _) = load(json!({}), &env).unwrap();
        assert_eq!((other.dataplane_cleanup.as_secs(), other.host_vip_port), (72 * 3600 + 1, false));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("bootstrapServer.x"));
        let file = json!({"bootstrapServer": {"corefileTemplatePath": "/corefile"}});
        let (_, warnings) = load(file, &[("KUMA_EXPERIMENTAL_AUTO_REACHABLE_SERVICES", "true")]).unwrap();
        assert!(warnings.len() == 2 && warnings[0].contains("dnsServer.upstreams"), "{warnings:?}");
        assert!(warnings[1].contains("reachableServices"), "{warnings:?}");
    }

    #[test]
    fn every_bad_value_is_reported_with_its_key() {
        let file = json!({"dnsServer": {"CIDR": "nonsense", "serviceVipPort": 0}});
        let errors = load(file, &[("KUMA_DP_SERVER_PORT", "x")]).unwrap_err();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors.contains(&"dnsServer.CIDR: CIDR must be valid".to_owned()));
    }

    #[test]
    fn dns_is_told_whom_to_ask_about_a_domain_and_what_aaaa_answers() {
        let file = json!({"dnsServer": {"upstreams": ["consul=10.0.0.53:8600", "10.0.0.54"], "AAAA": "Mapped"}});
        let (s, warnings) = load(file, &[]).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(s.to_json()["dnsServer"]["upstreams"], json!(["consul=10.0.0.53:8600", "10.0.0.54:53"]));
        assert_eq!(s.aaaa, Aaaa::Mapped);
        let env = [("WEIR_DNS_SERVER_UPSTREAMS", "corp=10.0.0.1, corp=10.0.0.2"), ("WEIR_DNS_SERVER_AAAA", "off")];
        let (s, _) = load(json!({}), &env).unwrap();
        assert_eq!((s.dns_upstreams.len(), s.aaaa), (2, Aaaa::Off));
        let errors = load(json!({"dnsServer": {"upstreams": ["consul"], "AAAA": "yes"}}), &[]).unwrap_err();
        assert!(errors[0].contains("native, mapped, off") && errors[1].contains("DOMAIN=ADDRESS[:PORT]"), "{errors:?}");
    }
}
