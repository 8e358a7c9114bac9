//! Which gateway routes a listener's tags select, without asking every route: thousands of listeners have thousands of
//! routes, each a few. Knows nothing of what a route does.

use crate::resource::{MeshGatewayRoute, Resource, Tags};
use crate::select;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) type Route<'a> = (&'a Arc<Resource>, &'a MeshGatewayRoute);

pub(super) struct Selected<'a> {
    /// Sorted by name.
    routes: Vec<Route<'a>>,
    /// Places in `routes`, by the tag of a selector that the fewest others have.
    by_tag: HashMap<(&'a str, &'a str), Vec<usize>>,
    /// Those with a selector that asks for no value.
    always: Vec<usize>,
}

impl<'a> Selected<'a> {
    pub(super) fn new(routes: impl Iterator<Item = Route<'a>>) -> Self {
        let routes: Vec<Route<'a>> = routes.collect();
        let mut common: HashMap<(&str, &str), usize> = HashMap::new();
        for tag in routes.iter().flat_map(|(_, route)| &route.selectors).flatten() {
            *common.entry((tag.0, tag.1)).or_default() += 1;
        }
        let mut this = Self { routes: Vec::new(), by_tag: HashMap::new(), always: Vec::new() };
        for (at, (_, route)) in routes.iter().enumerate() {
            for selector in &route.selectors {
                let exact = selector.iter().filter(|(_, value)| *value != "*").map(|(k, v)| (k.as_str(), v.as_str()));
                match exact.min_by_key(|tag| common.get(tag)) {
                    Some(tag) => this.by_tag.entry(tag).or_default().push(at),
                    None => this.always.push(at),
                }
            }
        }
        this.routes = routes;
        this
    }

    /// Sorted by name.
    pub(super) fn by(&self, tags: &Tags) -> Vec<Route<'a>> {
        let tagged = tags.iter().filter_map(|(key, value)| self.by_tag.get(&(key.as_str(), value.as_str())));
        let mut candidates: Vec<usize> = tagged.flatten().chain(&self.always).copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        let routes = candidates.into_iter().filter_map(|at| self.routes.get(at));
        routes.filter(|(_, route)| route.selectors.iter().any(|s| select::matches(s, tags))).copied().collect()
    }
}
