//! `demo`: a mesh of one or two zones on this machine, made of this binary's own processes, with sample services and the
//! lines to try it. It removes all that it made. It must not use anything that users' own set-ups couldn't.

mod app;
mod folder;
mod lines;
mod network;
mod plan;
mod process;
mod resources;

use crate::cli::Demo;
use crate::failure::Failure;
use crate::print::{note, out};
use folder::Folder;
use plan::{Layout, Plan, Proxy, Role};
use process::Processes;
use serde_json::json;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

const API_PORT: u16 = 5681;
const CHANNEL_PORT: u16 = 5678;
const ADMIN_PORT: u16 = 9901;
/// Without privileges, virtual IPs are loopback addresses.
const LOOPBACK_RANGE: &str = "127.240.0.0/12";

pub(crate) fn run(args: Demo) -> Result<(), Failure> {
    if !(1..=plan::ZONES.len()).contains(&usize::from(args.zones)) {
        return Err(Failure::usage(format!("--zones {}: choose 1 or 2", args.zones)));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        // First, so that no signal finds the demo half made and unheard.
        let mut signals =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].into_iter().map(signal);
        let (Some(Ok(mut int)), Some(Ok(mut term)), Some(Ok(mut hangup))) =
            (signals.next(), signals.next(), signals.next())
        else {
            return Err("can't listen for signals".into());
        };
        let stop = async {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                _ = hangup.recv() => {}
            }
        };
        tokio::pin!(stop);
        let mut running = tokio::select! {
            biased;
            () = &mut stop => return Err("interrupted".into()),
            running = start(&args) => running?,
        };
        let outcome = tokio::select! {
            biased;
            () = &mut stop => if args.once { Err("interrupted".into()) } else { Ok(()) },
            outcome = running.live(args.once) => outcome,
        };
        if !args.once {
            note("Removing everything...");
        }
        outcome
    })
}

/// What was made, in the order of its removal.
struct Running {
    processes: Processes,
    network: Option<network::Network>,
    folder: Folder,
    plan: Plan,
    ports: Ports,
}

/// Ports that must be free on loopback; in namespaces, the usual ones.
struct Ports {
    channel: u16,
    /// One for each proxy, in order.
    admin: Vec<u16>,
    /// That of the first zone's `web`.
    of_web: u16,
}

async fn start(args: &Demo) -> Result<Running, Failure> {
    let started = Instant::now();
    let root = nix::unistd::Uid::effective().is_root();
    let layout = if root { Layout::Namespaces } else { Layout::Loopback };
    let missing = lines::missing(layout, args.once);
    if !missing.is_empty() {
        return Err(Failure::failed(missing.join("\n")));
    }
    let program = std::env::current_exe().map_err(|e| format!("finding the path of this program: {e}"))?;
    let folder = Folder::lock(folder::place())?;
    process::end_stale(&program, folder.path());
    folder.make()?;
    let (plan, network) = laid_out(layout, usize::from(args.zones))?;
    let ports = Ports::choose(&plan)?;
    let processes = Processes::new(program, folder.path().to_owned());
    let mut running = Running { processes, network, folder, plan, ports };
    running.services()?;
    running.control_plane().await?;
    running.proxies().await?;
    let zones = if args.zones == 1 { "one zone" } else { "two zones" };
    let place = if running.network.is_some() { "network namespaces" } else { "loopback addresses" };
    let seconds = started.elapsed().as_secs_f32();
    out(&format!("weir demo: {zones} on {place}, ready after {seconds:.1} s\n{}", running.plan.text()))?;
    Ok(running)
}

/// Namespaces where root may make them, else loopback.
fn laid_out(layout: Layout, zones: usize) -> Result<(Plan, Option<network::Network>), Failure> {
    let plan = Plan::new(layout, zones);
    if layout == Layout::Loopback {
        return Ok((plan, None));
    }
    network::remove_all()?;
    match network::Network::make(&plan) {
        Ok(network) => Ok((plan, Some(network))),
        Err(error) => {
            note(&format!("Warning: no network namespaces here, loopback addresses instead: {error}"));
            Ok((Plan::new(Layout::Loopback, zones), None))
        }
    }
}

impl Ports {
    fn choose(plan: &Plan) -> Result<Self, Failure> {
        let proxies: Vec<&Proxy> = plan.waves.iter().flatten().collect();
        if plan.layout == Layout::Namespaces {
            // The two zone proxies share a node.
            let admin =
                proxies.iter().map(|p| if p.role == Role::Egress { ADMIN_PORT + 1 } else { ADMIN_PORT }).collect();
            return Ok(Self { channel: CHANNEL_PORT, admin, of_web: ADMIN_PORT });
        }
        // All are held until the last is found, so that they differ.
        let held: Result<Vec<_>, _> =
            (0..=proxies.len()).map(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))).collect();
        let ports: Result<Vec<u16>, _> =
            held.and_then(|held| held.iter().map(|l| l.local_addr().map(|a| a.port())).collect());
        let mut ports = ports.map_err(|e| format!("finding free ports: {e}"))?;
        let channel = ports.pop().unwrap_or(CHANNEL_PORT);
        let web = proxies.iter().zip(&ports).find(|(proxy, _)| proxy.transparent);
        let of_web = web.map_or(ADMIN_PORT, |(_, port)| *port);
        Ok(Self { channel, admin: ports, of_web })
    }
}

impl Running {
    fn namespace(&self, node: &str) -> Option<String> {
        let node = self.plan.nodes.iter().find(|n| n.name == node)?;
        self.network.as_ref().map(|_| node.namespace())
    }

    fn services(&self) -> Result<(), Failure> {
        for service in &self.plan.apps {
            app::start(service.clone(), self.namespace(&service.node))?;
        }
        Ok(())
    }

    async fn control_plane(&mut self) -> Result<(), Failure> {
        let loopback = self.plan.layout == Layout::Loopback;
        let address = if loopback { self.plan.address("cp") } else { Ipv4Addr::LOCALHOST };
        let mut settings = json!({
            "general": {"workDir": self.folder.path().join("cp")},
            "apiServer": {"http": {"interface": address, "port": API_PORT}, "https": {"enabled": !loopback}},
            "dpServer": {"port": self.ports.channel},
            "dnsServer": {"serviceVipPort": self.plan.layout.service_port()},
        });
        if loopback {
            settings["dnsServer"]["CIDR"] = LOOPBACK_RANGE.into();
            settings["dnsServer"]["CIDRV6"] = "".into();
        }
        let file = self.folder.write("cp.yaml", &settings.to_string())?;
        let namespace = self.namespace("cp");
        self.processes.start(
            "cp",
            namespace.as_deref(),
            &["cp".into(), "run".into(), format!("--config-file={file}")],
        )?;
        self.processes.ready().await?;
        let url = format!("http://{address}:{API_PORT}");
        let client = json!({
            "controlPlanes": [{"name": "demo", "coordinates": {"apiServer": {"url": url}}}],
            "contexts": [{"name": "demo", "controlPlane": "demo"}],
            "currentContext": "demo",
        });
        self.folder.write("kumactl.yaml", &client.to_string())?;
        let mesh = self.folder.write("mesh.yaml", &self.plan.resources)?;
        self.ctl(&["apply", "-f", &mesh]).map(drop)
    }

    /// A command to the demo's control plane.
    fn ctl(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut all: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        all.push(format!("--config-file={}", self.folder.path().join("kumactl.yaml").display()));
        self.processes.run(self.namespace("cp").as_deref(), &all)
    }

    async fn proxies(&mut self) -> Result<(), Failure> {
        let waves = std::mem::take(&mut self.plan.waves);
        let mut admin = self.ports.admin.clone().into_iter();
        for proxy in waves.iter().flatten() {
            let token = match proxy.role {
                Role::Dataplane => self.ctl(&["generate", "dataplane-token", "--name", &proxy.name])?,
                Role::Ingress => self.ctl(&["generate", "zone-token", "--zone", proxy.zone, "--scope", "ingress"])?,
                Role::Egress => self.ctl(&["generate", "zone-token", "--zone", proxy.zone, "--scope", "egress"])?,
            };
            self.folder.write(&format!("{}.token", proxy.name), &token)?;
            self.folder.write(&format!("{}.yaml", proxy.name), &proxy.resource)?;
        }
        for wave in waves {
            for proxy in wave {
                let arguments = self.arguments(&proxy, admin.next().unwrap_or(ADMIN_PORT))?;
                let namespace = self.namespace(&proxy.node);
                self.processes.start(&proxy.name, namespace.as_deref(), &arguments)?;
            }
            self.processes.ready().await?;
        }
        Ok(())
    }

    fn arguments(&self, proxy: &Proxy, admin: u16) -> Result<Vec<String>, Failure> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let kind = match proxy.role {
            Role::Dataplane => "dataplane",
            Role::Ingress => "ingress",
            Role::Egress => "egress",
        };
        let host = if self.network.is_some() { self.plan.address("cp") } else { Ipv4Addr::LOCALHOST };
        let mut arguments = vec![
            "dp".into(),
            "run".into(),
            format!("--proxy-type={kind}"),
            format!("--cp-address=https://{host}:{}", self.ports.channel),
            format!("--ca-cert-file={}", file("cp/server.crt")),
            format!("--dataplane-file={}", file(&format!("{}.yaml", proxy.name))),
            format!("--dataplane-token-file={}", file(&format!("{}.token", proxy.name))),
            format!("--data={}", file(&proxy.name)),
            format!("--admin-port={admin}"),
            "--drain-time=300ms".into(),
            "--workers=1".into(),
        ];
        if proxy.transparent {
            arguments
                .extend(["--interception=bind".into(), format!("--dns-coredns-port={}", self.plan.layout.dns_port())]);
            if self.network.is_some() {
                // The namespace's own resolv.conf names this very proxy: it would ask itself for other names.
                let resolvers = self.folder.write("resolv.conf", &format!("nameserver {host}\n"))?;
                arguments.push(format!("--resolv-conf={resolvers}"));
            }
        } else {
            arguments.extend(["--interception=off".into(), "--dns-enabled=false".into()]);
        }
        Ok(arguments)
    }

    /// Tries the lines, or shows them and stays until something ends.
    async fn live(&mut self, once: bool) -> Result<(), Failure> {
        let ipv6 = self.network.as_ref().is_some_and(|n| n.ipv6);
        let lines = lines::of(&self.plan, &lines::Facts { ipv6, admin_port: self.ports.of_web });
        if once {
            return self.try_all(&lines).await;
        }
        out(&format!("\nTry, in another terminal:\n\n{}", lines::text(&lines)))?;
        let folder = self.folder.path().display();
        out(&format!("\nLogs are in {folder}. Ctrl-C ends the demo and removes everything it made.\n"))?;
        for tool in lines::missing(self.plan.layout, true) {
            note(&format!("Warning: {tool}"));
        }
        Err(Failure::failed(self.processes.first_to_end().await))
    }

    async fn try_all(&self, lines: &[lines::Line]) -> Result<(), Failure> {
        out("\n")?;
        let mut failed = 0;
        for line in lines {
            let outcome = lines::run(line, self.folder.path()).await;
            failed += usize::from(!outcome.ok);
            out(&outcome.text)?;
        }
        if failed == 0 {
            return out(&format!("\nAll {} lines did what they promise.\n", lines.len()));
        }
        let complaints = self.processes.complaints();
        Err(Failure::failed(format!("{failed} of {} lines failed; from the logs:\n{complaints}", lines.len())))
    }
}
