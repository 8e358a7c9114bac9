//! What the demo consists of: nodes, proxies, services, the settings of its control plane. Two layouts, one shape: network
//! namespaces for root, loopback addresses for everybody else. Pure; it must not start anything.

use super::resources;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Begins the name of everything that the demo puts into the machine.
pub(super) const PREFIX: &str = "weir-demo-";
/// The builtin gateway's hostname.
pub(super) const HOSTNAME: &str = "foo.example.com";
pub(super) const ZONES: [&str; 2] = ["east", "west"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Namespaces,
    Loopback,
}

impl Layout {
    /// Where a node's application listens, out of reach of other nodes where there is such a place.
    fn app(self, node: Ipv4Addr) -> Ipv4Addr {
        if self == Self::Namespaces { Ipv4Addr::LOCALHOST } else { node }
    }

    /// Port of services' names.
    pub(super) fn service_port(self) -> u16 {
        if self == Self::Namespaces { 80 } else { 8080 }
    }

    pub(super) fn dns_port(self) -> u16 {
        if self == Self::Namespaces { 53 } else { 15053 }
    }
}

/// A machine of the demo: a namespace, or just an address of loopback.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    pub(super) runs: String,
    /// Its programs ask the mesh's DNS.
    pub(super) asks_mesh: bool,
}

impl Node {
    pub(super) fn namespace(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Dataplane,
    Ingress,
    Egress,
}

/// A `weir dp run`.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) name: String,
    pub(super) node: String,
    pub(super) role: Role,
    pub(super) zone: &'static str,
    pub(super) resource: String,
    /// It serves virtual IPs and DNS.
    pub(super) transparent: bool,
}

/// A service that proxies stand in front of, or outside the mesh.
#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) node: String,
    pub(super) address: (Ipv4Addr, u16),
    pub(super) kind: AppKind,
    /// How it names itself.
    pub(super) says: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AppKind {
    Http,
    Tcp,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) layout: Layout,
    pub(super) zones: &'static [&'static str],
    /// The first is the control plane's.
    pub(super) nodes: Vec<Node>,
    pub(super) apps: Vec<App>,
    /// In starting order: each wave finds what it needs of the one before.
    pub(super) waves: [Vec<Proxy>; 4],
    pub(super) resources: String,
}

impl Plan {
    pub(super) fn new(layout: Layout, zones: usize) -> Self {
        let zones = ZONES.get(..zones).unwrap_or(&ZONES);
        let mut plan = Self {
            layout,
            zones,
            nodes: Vec::new(),
            apps: Vec::new(),
            waves: Default::default(),
            resources: String::new(),
        };
        plan.node("cp", "", "control plane".into());
        let outside = plan.node("outside", "", "quotes, an HTTP server outside the mesh; the gateway's users".into());
        plan.apps.push(App {
            node: "outside".into(),
            address: (outside, resources::QUOTES_PORT),
            kind: AppKind::Http,
            says: "quotes, outside the mesh".into(),
        });
        plan.resources = resources::of_mesh(outside);
        for zone in zones {
            plan.clients(zone);
        }
        plan.services();
        for zone in zones {
            plan.zone_proxies(zone);
        }
        plan.nodes.sort_by_key(|n| n.address);
        plan
    }

    /// 10.111 in namespaces, 127.111 on loopback; then the zone's number, then the node's.
    fn node(&mut self, name: &str, zone: &'static str, runs: String) -> Ipv4Addr {
        let first = if self.layout == Layout::Namespaces { 10 } else { 127 };
        let third = ZONES.iter().position(|z| *z == zone).map_or(0, |i| if i == 0 { 1 } else { 2 });
        let fourth = match name.split_once('-').map_or(name, |(_, what)| what) {
            "cp" | "web" => 1,
            "outside" => 9,
            "zone" => 10,
            "gateway" => 20,
            "backend-v1" => 31,
            "backend-v2" => 32,
            _ => 40,
        };
        let address = Ipv4Addr::new(first, 111, third, fourth);
        self.nodes.push(Node { name: name.into(), address, runs, asks_mesh: name.ends_with("-web") });
        address
    }

    pub(super) fn address(&self, node: &str) -> Ipv4Addr {
        self.nodes.iter().find(|n| n.name == node).map_or(Ipv4Addr::UNSPECIFIED, |n| n.address)
    }

    /// The zone whose services everybody calls.
    pub(super) fn last_zone(&self) -> &'static str {
        self.zones.last().copied().unwrap_or("east")
    }

    /// `web`, and in the first zone the gateway. On loopback, which has one range of virtual IPs and one DNS, the first zone's
    /// `web` alone.
    fn clients(&mut self, zone: &'static str) {
        let first = self.zones.first() == Some(&zone);
        if first || self.layout == Layout::Namespaces {
            let name = format!("{zone}-web");
            let dns = self.layout.dns_port();
            let address = self.node(&name, zone, format!("web and its sidecar: virtual IPs, DNS 127.0.0.1:{dns}"));
            self.app(&name, address, AppKind::Http, format!("web in zone {zone}"));
            let resource = resources::web(zone, address, self.layout.app(address));
            self.proxy(3, Proxy { node: name.clone(), name, role: Role::Dataplane, zone, resource, transparent: true });
        }
        if first {
            let name = format!("{zone}-gateway");
            let address = self.node(&name, zone, format!("builtin gateway: {HOSTNAME}:{}", resources::GATEWAY_PORT));
            let resource = resources::gateway(zone, address);
            self.proxy(
                3,
                Proxy { node: name.clone(), name, role: Role::Dataplane, zone, resource, transparent: false },
            );
        }
    }

    fn services(&mut self) {
        let zone = self.last_zone();
        for version in ["v1", "v2"] {
            let name = format!("{zone}-backend-{version}");
            let address = self.node(&name, zone, format!("backend {version} (HTTP) and its sidecar"));
            self.app(&name, address, AppKind::Http, format!("backend {version} in zone {zone}"));
            let resource = resources::backend(zone, version, address, self.layout.app(address));
            self.proxy(
                0,
                Proxy { node: name.clone(), name, role: Role::Dataplane, zone, resource, transparent: false },
            );
        }
        let name = format!("{zone}-redis");
        let address = self.node(&name, zone, "redis (TCP), vault (HTTP) and their sidecar".into());
        self.app(&name, address, AppKind::Tcp, format!("redis in zone {zone}"));
        self.apps.push(App {
            node: name.clone(),
            address: (self.layout.app(address), resources::VAULT_APP_PORT),
            kind: AppKind::Http,
            says: format!("vault in zone {zone}"),
        });
        let resource = resources::redis(zone, address, self.layout.app(address));
        self.proxy(0, Proxy { node: name.clone(), name, role: Role::Dataplane, zone, resource, transparent: false });
    }

    fn zone_proxies(&mut self, zone: &'static str) {
        let node = format!("{zone}-zone");
        let address = self.node(&node, zone, "zone egress and zone ingress".into());
        for (wave, role, what) in [(1, Role::Ingress, "ingress"), (2, Role::Egress, "egress")] {
            let name = format!("{zone}-{what}");
            let resource = resources::zone_proxy(role, zone, &name, address);
            self.proxy(wave, Proxy { name, node: node.clone(), role, zone, resource, transparent: false });
        }
    }

    fn app(&mut self, node: &str, address: Ipv4Addr, kind: AppKind, says: String) {
        let address = (self.layout.app(address), resources::APP_PORT);
        self.apps.push(App { node: node.to_owned(), address, kind, says });
    }

    fn proxy(&mut self, wave: usize, proxy: Proxy) {
        if let Some(wave) = self.waves.get_mut(wave) {
            wave.push(proxy);
        }
    }

    /// A picture, and what runs where.
    pub(super) fn text(&self) -> String {
        let services = "backend v1, v2 - redis - vault";
        let mut out = String::from(match self.zones.len() {
            1 => "\n  zone east                                       outside the mesh\n",
            _ => "\n  zone east                             zone west\n",
        });
        match self.zones.len() {
            1 => {
                let _ = writeln!(out, "  web ----------+--> egress --------------------> quotes");
                let _ = writeln!(out, "  gateway ------+--> {services}");
            }
            _ => {
                let _ = writeln!(out, "  web -----+--> egress ---- mTLS ----> ingress --> {services}");
                let _ = writeln!(out, "  gateway -+      |");
                let _ = writeln!(out, "                  +--> quotes, outside the mesh");
            }
        }
        let netns = self.layout == Layout::Namespaces;
        let place = |n: &Node| if netns { n.namespace() } else { n.name.clone() };
        let width = self.nodes.iter().map(|n| place(n).len()).max().unwrap_or(0);
        let _ = writeln!(out, "\n  {:width$}  {:14}runs", if netns { "namespace" } else { "name" }, "address");
        for node in &self.nodes {
            let _ = writeln!(out, "  {:width$}  {:14}{}", place(node), node.address.to_string(), node.runs);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, Plan};
    use std::collections::BTreeSet;

    fn plans() -> Vec<Plan> {
        let layouts = [Layout::Namespaces, Layout::Loopback];
        layouts.into_iter().flat_map(|l| [Plan::new(l, 1), Plan::new(l, 2)]).collect()
    }

    #[test]
    fn every_resource_of_the_demo_is_read_without_a_complaint() {
        for plan in plans() {
            let documents = plan.waves.iter().flatten().map(|p| p.resource.clone()).chain([plan.resources.clone()]);
            for text in documents {
                let intake = control::resource::read(&text, "demo");
                let problems: Vec<String> = intake.problems.iter().map(ToString::to_string).collect();
                assert!(problems.is_empty() && !intake.resources.is_empty(), "{problems:?} in\n{text}");
            }
        }
    }

    #[test]
    fn every_node_has_its_own_address_and_every_proxy_and_app_a_node() {
        for plan in plans() {
            let addresses: BTreeSet<_> = plan.nodes.iter().map(|n| n.address).collect();
            assert_eq!(addresses.len(), plan.nodes.len(), "{}", plan.text());
            let used = plan.waves.iter().flatten().map(|p| &p.node).chain(plan.apps.iter().map(|a| &a.node));
            for node in used {
                assert!(!plan.address(node).is_unspecified(), "{node}");
            }
        }
    }

    #[test]
    fn names_of_namespaces_are_the_demos_own() {
        for plan in plans() {
            assert!(plan.nodes.iter().all(|n| n.namespace().starts_with("weir-demo-")));
            assert_eq!(plan.nodes.first().map(|n| n.name.as_str()), Some("cp"));
        }
    }
}
