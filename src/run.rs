//! `dp run`: one proxy as a process, fed by the control channel.

use crate::cli::DpRun;
use crate::ctl::{pairs, read_text, render_all};
use crate::failure::Failure;
use crate::install::ProxySide;
use control::resource::{Resource, Spec};
use control::time::parse_go_duration;
use proxy::channel::{self, Token};
use proxy::socket::Mode;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

const ADMIN_PORT: u16 = 9901;

/// What the proxy's own resource says about running it.
struct Own {
    mesh: String,
    name: String,
    text: String,
    admin_port: Option<u16>,
    /// It asks for transparent proxying.
    transparent: bool,
    /// What the flags of transparent proxying say, if any is given.
    captured: Option<ProxySide>,
}

pub(crate) fn run(args: DpRun) -> Result<(), Failure> {
    for (flag, instead) in args.without_meaning.given() {
        crate::print::note(&format!("Warning: {flag} has no effect here: {instead}"));
    }
    let kind = match args.proxy_type.as_str() {
        "dataplane" => "Dataplane",
        "ingress" => "ZoneIngress",
        "egress" => "ZoneEgress",
        other => return Err(Failure::config(format!("invalid proxy type \"{other}\""))),
    };
    if !args.cp_address.contains("://") {
        let text = format!("--cp-address {}: .URL must be a valid absolute URI (https://HOST:5678)", args.cp_address);
        return Err(Failure::config(text));
    }
    let own = own_resource(&args, kind)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(serve(args, own, kind))
}

async fn serve(args: DpRun, own: Own, kind: &str) -> Result<(), Failure> {
    let drain_deadline = duration(&args.drain_time, "--drain-time")?;
    if drain_deadline.is_zero() {
        return Err(Failure::config(".DrainTime must be positive"));
    }
    let sidecar = kind == "Dataplane";
    let given = args.interception.interception.as_deref().or(args.bind_outbounds.then_some("bind"));
    let mode = mode(given, own.transparent && sidecar)?;
    let name = if own.mesh.is_empty() { format!("{kind}.{}", own.name) } else { format!("{}.{}", own.mesh, own.name) };
    let state = args.data.clone().unwrap_or_else(crate::control_plane::default_data_dir);
    let admin_port = own.admin_port.or(args.admin_port).unwrap_or(ADMIN_PORT);
    let config = proxy::Config {
        name: name.clone(),
        workers: workers(args.interception.workers.or(args.concurrency)),
        mode,
        ipv6: proxy::has_ipv6(),
        manage_routes: true,
        admin: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), admin_port)),
        dns: (args.dns_enabled && sidecar && mode.is_some()).then(|| dns_config(&args, own.captured.as_ref())),
        state: Some(state),
        drain_deadline,
    };
    let mut proxy = proxy::Proxy::bind(config).await.map_err(|e| crate::up::hint(e, "--dns-coredns-port"))?;
    let drain = proxy.drain();
    let status = proxy.status();
    let base = proxy.restored();
    let channel = channel::run(channel_config(&args, &own)?, proxy.updates(), proxy.status(), base);
    let (admin, dns) = (proxy.admin_address(), proxy.dns_addresses().to_vec());
    let running = proxy.run();
    tokio::pin!(channel, running);
    let mut announced = std::pin::pin!(announce(status, name, admin, dns));
    let mut is_announced = false;
    // One listener for signals over all turns of the loop: one that came between two wouldn't be heard.
    let mut stop = std::pin::pin!(crate::notify::stop_signal());
    loop {
        tokio::select! {
            () = &mut running => return Ok(()),
            ended = &mut channel => match ended {
                Ok(()) => return Ok(()),
                Err(error) => return Err(error.to_string().into()),
            },
            () = &mut announced, if !is_announced => is_announced = true,
            () = &mut stop => {
                drain.notify_one();
                // The channel goes on, so that the control plane hears of the leaving; a second signal ends the wait.
                tokio::select! {
                    () = &mut running => {}
                    _ = &mut channel => {}
                    () = crate::notify::stop_signal() => {}
                }
                return Ok(());
            }
        }
    }
}

/// The line that scripts wait for, once the proxy is ready.
async fn announce(
    mut status: tokio::sync::watch::Receiver<channel::Status>,
    name: String,
    admin: Option<SocketAddr>,
    dns: Vec<SocketAddr>,
) {
    if status.wait_for(|s| s.ready).await.is_err() {
        return;
    }
    let admin = admin.map_or(String::new(), |a| format!(", admin http://{a}"));
    let dns = dns.first().map_or(String::new(), |a| format!(", DNS {a}"));
    eprintln!("ready: proxy {name}{admin}{dns}");
    crate::notify::ready();
}

pub(crate) fn workers(wanted: Option<usize>) -> usize {
    wanted.filter(|n| *n > 0).unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

fn dns_config(args: &DpRun, captured: Option<&ProxySide>) -> dns::Config {
    // Where install's rules send questions to resolvers of either family.
    let loopbacks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let here = crate::control_plane::machine_addresses();
    let own = args.dns_proxy_port.filter(|port| *port != 0).unwrap_or(args.dns_port);
    let port = captured.map_or(own, |side| side.dns_port);
    let usable = loopbacks.into_iter().filter(|ip| ip.is_ipv4() || here.contains(ip));
    let listen = usable.map(|ip| SocketAddr::new(ip, port)).collect();
    dns::Config {
        listen,
        guests: captured.map(|side| side.guests.clone()).unwrap_or_default(),
        resolv_conf: args.resolv_conf.clone(),
        upstreams: args.dns_upstreams.clone(),
        no_aaaa: args.dns_no_aaaa,
        hosts: args.dns_hosts.clone(),
        query_log: args.dns_enable_logging,
        ..dns::Config::default()
    }
}

/// `given` by the user, or what the resource implies: `transparentProxying` means that install's rules redirect.
pub(crate) fn mode(given: Option<&str>, transparent: bool) -> Result<Option<Mode>, Failure> {
    Ok(match given {
        None => transparent.then_some(Mode::Redirect),
        Some("off") => None,
        Some("bind") => Some(Mode::Bind),
        Some("tproxy") => Some(Mode::Tproxy),
        Some("redirect") => Some(Mode::Redirect),
        Some(other) => {
            return Err(Failure::config(format!("--interception {other}: choose bind, tproxy, redirect or off")));
        }
    })
}

fn duration(text: &str, flag: &str) -> Result<Duration, Failure> {
    parse_go_duration(text).map_err(|e| Failure::config(format!("{flag}: {e}")))
}

fn channel_config(args: &DpRun, own: &Own) -> Result<channel::Config, Failure> {
    let ca_pem = match (&args.ca_cert, &args.ca_cert_file) {
        (Some(pem), _) => Some(pem.clone()),
        (None, Some(path)) => Some(
            std::fs::read_to_string(path)
                .map_err(|e| Failure::config(format!("--ca-cert-file {}: {e}", path.display())))?,
        ),
        (None, None) => None,
    };
    if ca_pem.is_none() && !args.skip_verify {
        tracing::warn!(
            "the control plane's certificate isn't verified: give --ca-cert-file (or --skip-verify to silence this)"
        );
    }
    let token = match (&args.dataplane_token, &args.dataplane_token_file) {
        (Some(text), _) => Token::Inline(text.clone()),
        (None, Some(path)) => Token::File(path.clone()),
        (None, None) => Token::None,
    };
    Ok(channel::Config {
        address: args.cp_address.clone(),
        ca_pem,
        token,
        proxy_type: args.proxy_type.clone(),
        mesh: own.mesh.clone(),
        name: own.name.clone(),
        resource: own.text.clone(),
        ipv6: proxy::has_ipv6(),
        backoff: duration(&args.retry_backoff, "KUMA_CONTROL_PLANE_RETRY_BACKOFF")?,
        give_up_after: duration(&args.retry_max_duration, "KUMA_CONTROL_PLANE_RETRY_MAX_DURATION")?,
    })
}

/// The resource of `--dataplane` or `--dataplane-file`, with its variables put in and checked; else just the name.
fn own_resource(args: &DpRun, kind: &str) -> Result<Own, Failure> {
    let (source, text) = match (&args.dataplane, &args.dataplane_file) {
        (Some(text), _) => ("--dataplane".to_owned(), text.clone()),
        (None, Some(path)) => read_text(Path::new(path)).map_err(Failure::config)?,
        (None, None) => {
            if args.name.is_empty() {
                return Err(Failure::config(".Name must be non-empty (give --name and --mesh, or --dataplane-file)"));
            }
            if args.mesh.is_empty() && kind == "Dataplane" {
                return Err(Failure::config(".Mesh must be non-empty"));
            }
            let (mesh, name) = (args.mesh.clone(), args.name.clone());
            return Ok(Own { mesh, name, text: String::new(), admin_port: None, transparent: true, captured: None });
        }
    };
    let mut vars = pairs(&args.dataplane_var).map_err(Failure::usage)?;
    for (key, value) in [("name", &args.name), ("mesh", &args.mesh)] {
        if !value.is_empty() && !vars.iter().any(|(k, _)| k == key) {
            vars.push((key.into(), value.clone()));
        }
    }
    let text = render_all(&text, &source, &vars).map_err(Failure::config)?;
    let intake = control::resource::read(&text, &source);
    let errors: Vec<String> = intake.problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
    for warning in intake.problems.iter().filter(|p| !p.is_error()) {
        tracing::warn!("{warning}");
    }
    if !errors.is_empty() {
        return Err(Failure::config(errors.join("\n")));
    }
    let mut resources = intake.resources;
    let Some(mut resource) = resources.pop().filter(|_| resources.is_empty()) else {
        return Err(Failure::config(format!("{source}: exactly one document is expected")));
    };
    if resource.kind() != kind {
        let text = format!("invalid proxy resource type \"{}\", expected {kind}", resource.kind());
        return Err(Failure::config(text));
    }
    if !args.name.is_empty() {
        resource.meta.name.clone_from(&args.name);
    }
    if !args.mesh.is_empty() && kind == "Dataplane" {
        resource.meta.mesh.clone_from(&args.mesh);
    }
    let captured = override_interception(args, &mut resource)?;
    Ok(Own { captured, ..own(&resource) })
}

/// Install's settings win over the resource's.
fn override_interception(args: &DpRun, resource: &mut Resource) -> Result<Option<ProxySide>, Failure> {
    let (files, texts) = (&args.transparent_proxy_config_file, &args.transparent_proxy_config);
    let is_given = args.transparent_proxy || !files.is_empty() || !texts.is_empty();
    let Spec::Dataplane(dataplane) = &mut resource.spec else { return Ok(None) };
    if !is_given {
        return Ok(None);
    }
    let side = crate::install::proxy_side(files, texts)?;
    let own = dataplane.networking.transparent_proxying.get_or_insert_default();
    (own.redirect_port_inbound, own.redirect_port_outbound) = (side.inbound_port, side.outbound_port);
    if side.ipv4_only {
        own.ip_family_mode = "IPv4".into();
    }
    Ok(Some(side))
}

fn own(resource: &Resource) -> Own {
    let (admin_port, transparent) = match &resource.spec {
        Spec::Dataplane(d) => {
            let tp = d.networking.transparent_proxying.as_ref();
            let on = tp.is_some_and(|tp| tp.redirect_port_outbound != 0 || tp.redirect_port_inbound != 0);
            (d.networking.admin.as_ref().map(|a| a.port), on)
        }
        Spec::ZoneIngress(z) => (z.networking.admin.as_ref().map(|a| a.port), false),
        Spec::ZoneEgress(z) => (z.networking.admin.as_ref().map(|a| a.port), false),
        _ => (None, false),
    };
    Own {
        mesh: resource.meta.mesh.clone(),
        name: resource.meta.name.clone(),
        text: resource.to_json().to_string(),
        admin_port,
        transparent,
        captured: None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Own, own_resource};
    use crate::cli::{Cli, Command, Dp};
    use clap::Parser as _;

    const TEMPLATE: &str = "type: Dataplane\nmesh: {{ mesh }}\nname: {{ name }}\nnetworking:\n  address: {{ ip }}\n  inbound:\n  \
        - {port: {{ port }}, tags: {kuma.io/service: {{ service }}}}\n";

    fn own(line: &str) -> Result<Own, String> {
        own_of(&line.split_whitespace().collect::<Vec<_>>())
    }

    fn own_of(words: &[&str]) -> Result<Own, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dataplane.yaml");
        std::fs::write(&file, TEMPLATE).unwrap();
        let path = format!("--dataplane-file={}", file.display());
        let words = ["weir", "dp", "run", &path].into_iter().chain(words.iter().copied());
        let Command::Dp(Dp::Run(args)) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        own_resource(&args, "Dataplane").map_err(|failure| failure.text)
    }

    #[test]
    fn variables_of_the_command_line_fill_the_template_and_name_and_mesh_too() {
        let given = own("-v service=web,ip=10.0.0.1 --dataplane-var port=80 --name=web-1 --mesh=prod").unwrap();
        assert_eq!((given.name.as_str(), given.mesh.as_str()), ("web-1", "prod"));
        let resource: serde_json::Value = serde_json::from_str(&given.text).unwrap();
        assert_eq!(resource.pointer("/networking/inbound/0/port"), Some(&80.into()));
        assert_eq!(resource.pointer("/networking/address"), Some(&"10.0.0.1".into()));
    }

    #[test]
    fn installs_settings_win_over_the_resources() {
        let line = "-v service=web,port=80,ip=10.0.0.1 --name=web-1 --mesh=default --transparent-proxy-config";
        let settings =
            "{redirect: {outbound: {port: 12345}, inbound: {enabled: false}, dns: {port: 5353}}, ipFamilyMode: ipv4}";
        let words: Vec<&str> = line.split_whitespace().chain([settings]).collect();
        let given = own_of(&words).unwrap();
        let resource: serde_json::Value = serde_json::from_str(&given.text).unwrap();
        let own = resource.pointer("/networking/transparentProxying").unwrap();
        assert_eq!(
            (own.get("redirectPortOutbound"), own.get("ipFamilyMode")),
            (Some(&12345.into()), Some(&"IPv4".into()))
        );
        assert!(given.transparent && given.captured.is_some_and(|side| side.dns_port == 5353));
    }

    #[test]
    fn a_variable_without_a_value_is_empty_and_the_resource_then_refused() {
        let refused = own("-v service=web,port=80 --name=web-1 --mesh=default").err().unwrap();
        assert!(refused.contains("networking.address"), "{refused}");
        assert!(own("-v service").err().unwrap().contains("name=value"));
    }
}
