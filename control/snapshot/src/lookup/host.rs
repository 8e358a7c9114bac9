//! The hosts of one listener, indexed: exact by hash, wildcards by their suffix, longest first.

use super::route::{CompiledRoute, Facts, Routed};
use crate::host::HostPattern;
use crate::tables::VirtualHost;
use std::collections::HashMap;

#[derive(Debug, Default)]
pub(crate) struct HostTable {
    exact: HashMap<String, usize>,
    suffix: HashMap<String, usize>,
    any: Option<usize>,
    /// Compiled routes of each host.
    hosts: Vec<Vec<CompiledRoute>>,
}

impl HostTable {
    pub(crate) fn build(hosts: &[VirtualHost]) -> Result<Self, Vec<String>> {
        let mut table = Self { hosts: Vec::with_capacity(hosts.len()), ..Self::default() };
        let mut problems = Vec::new();
        for (index, vhost) in hosts.iter().enumerate() {
            let before = match &vhost.host {
                HostPattern::Exact(name) => table.exact.insert(name.clone(), index),
                HostPattern::Suffix(suffix) => table.suffix.insert(suffix.clone(), index),
                HostPattern::Any => table.any.replace(index),
            };
            if before.is_some() {
                problems.push(format!("host {} stands twice", vhost.host));
            }
            let mut routes = Vec::with_capacity(vhost.routes.len());
            for row in &vhost.routes {
                match CompiledRoute::build(row) {
                    Ok(route) => routes.push(route),
                    Err(problem) => problems.push(format!("host {}, {}: {problem}", vhost.host, row.origin)),
                }
            }
            table.hosts.push(routes);
        }
        if problems.is_empty() { Ok(table) } else { Err(problems) }
    }

    /// Only the most specific host is consulted; there is no fall-through to a less specific one.
    pub(crate) fn route<'a>(&self, hosts: &'a [VirtualHost], facts: &Facts<'_>) -> Routed<'a> {
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
