//! The hosts of one listener, indexed: exact by hash, wildcards by their suffix, longest first.

use super::route::{CompiledRoute, Facts, Routed};
use crate::host::HostPattern;
use crate::name::Origin;
use crate::tables::{Forward, Match, RouteAction, RouteRow, VirtualHost};
use hashbrown::HashMap;
use std::sync::{Arc, LazyLock};

#[derive(Debug, Default)]
pub(crate) struct HostTable {
    exact: Arc<Positions>,
    suffix: Arc<Positions>,
    any: Option<usize>,
    /// Compiled routes of each host.
    hosts: Vec<Arc<[CompiledRoute]>>,
}

type Positions = HashMap<String, usize>;

impl HostTable {
    /// `before`: an earlier list and its table; hosts that are the same rows share their compiled routes.
    pub(crate) fn build_after(
        before: Option<(&[Arc<VirtualHost>], &Self)>,
        hosts: &[Arc<VirtualHost>],
    ) -> Result<Self, Vec<String>> {
        if let Some((rows, old)) = before
            && rows.len() == hosts.len()
            && rows.iter().zip(hosts).all(|(a, b)| Arc::ptr_eq(a, b) || a.host == b.host)
        {
            return old.with_routes(rows, hosts);
        }
        Self::new(hosts)
    }

    /// Of a listener that sends everything one way. Virtual IPs have thousands of them, all the same.
    pub(crate) fn of_one(hosts: &[Arc<VirtualHost>]) -> Option<Arc<Self>> {
        static ONE: LazyLock<Option<Arc<HostTable>>> = LazyLock::new(|| {
            let route = RouteRow {
                matches: Match::default(),
                action: RouteAction::Forward(Forward::default()),
                origin: Origin::default(),
            };
            let host = VirtualHost { host: HostPattern::Any, routes: vec![route] };
            HostTable::new(&[Arc::new(host)]).ok().map(Arc::new)
        });
        let [host] = hosts else { return None };
        let [route] = host.routes.as_slice() else { return None };
        if host.host == HostPattern::Any && route.matches == Match::default() { ONE.clone() } else { None }
    }

    fn new(hosts: &[Arc<VirtualHost>]) -> Result<Self, Vec<String>> {
        let mut table = Self { hosts: Vec::with_capacity(hosts.len()), ..Self::default() };
        let (mut exact, mut suffix) = (Positions::new(), Positions::new());
        let mut problems = Vec::new();
        for (index, vhost) in hosts.iter().enumerate() {
            let before = match &vhost.host {
                HostPattern::Exact(name) => exact.insert(name.clone(), index),
                HostPattern::Suffix(text) => suffix.insert(text.clone(), index),
                HostPattern::Any => table.any.replace(index),
            };
            if before.is_some() {
                problems.push(format!("host {} stands twice", vhost.host));
            }
            table.hosts.push(routes(vhost, &mut problems));
        }
        (table.exact, table.suffix) = (Arc::new(exact), Arc::new(suffix));
        if problems.is_empty() { Ok(table) } else { Err(problems) }
    }

    /// The same hosts with other routes.
    fn with_routes(&self, rows: &[Arc<VirtualHost>], hosts: &[Arc<VirtualHost>]) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let compiled = self.hosts.iter().zip(rows.iter().zip(hosts)).map(|(compiled, (old, new))| {
            let is_same = Arc::ptr_eq(old, new) || old == new;
            if is_same { compiled.clone() } else { routes(new, &mut problems) }
        });
        let hosts = compiled.collect();
        let table = Self { exact: self.exact.clone(), suffix: self.suffix.clone(), any: self.any, hosts };
        if problems.is_empty() { Ok(table) } else { Err(problems) }
    }

    /// Only the most specific host is consulted; there is no fall-through to a less specific one.
    pub(crate) fn route<'a>(&self, hosts: &'a [Arc<VirtualHost>], facts: &Facts<'_>) -> Routed<'a> {
        let Some(index) = self.find(facts.host) else { return Routed::NoHost };
        let (Some(compiled), Some(vhost)) = (self.hosts.get(index), hosts.get(index)) else { return Routed::NoHost };
        if compiled.is_empty() {
            return Routed::EmptyHost;
        }
        let matched = compiled.iter().zip(&vhost.routes).find(|(route, row)| route.matches(&row.matches, facts));
        matched.map_or(Routed::NoRoute, |(_, row)| Routed::Route(row))
    }

    fn find(&self, host: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(host) {
            return Some(*index);
        }
        if !self.suffix.is_empty() {
            // From the left, so that the longest suffix comes first.
            for (at, _) in host.match_indices('.') {
                if let Some(index) = host.get(at..).filter(|_| at > 0).and_then(|s| self.suffix.get(s)) {
                    return Some(*index);
                }
            }
        }
        self.any
    }
}

fn routes(vhost: &VirtualHost, problems: &mut Vec<String>) -> Arc<[CompiledRoute]> {
    let mut routes = Vec::with_capacity(vhost.routes.len());
    for row in &vhost.routes {
        match CompiledRoute::build(row) {
            Ok(route) => routes.push(route),
            Err(problem) => problems.push(format!("host {}, {}: {problem}", vhost.host, row.origin)),
        }
    }
    routes.into()
}
