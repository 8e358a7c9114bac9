//! What all proxies of a gateway with the same tags do: ports with their hosts, the services they send to, and what is to
//! be said of it. A changed route costs its hosts, whatever else there is.

use super::hosts::{Host, HostKey};
use super::kept::Known;
use super::routes::{Draft, Prepared};
use crate::changed;
use crate::compile::external::Aside;
use crate::compile::rows::{Upstreams, patch};
use crate::compile::sni::service;
use crate::compile::world::MeshIndex;
use crate::compile::{Problem, SecretMaterial};
use crate::resource::{Resource, RouteConf, Spec, Tags};
use crate::sorted::of_kind_and_mesh;
use snapshot::{Handler, Origin, Role, ServiceRow};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// With more changed routes the plan is made anew.
const SINGLE_ROUTES_MAX: usize = 64;

/// A route before and after.
type Replaced<'a> = (&'a Arc<Resource>, &'a Arc<Resource>);

#[derive(Clone)]
pub(super) struct Plan {
    /// Of the MeshGateway.
    pub origin: Origin,
    pub ports: Vec<Arc<Port>>,
    /// Of listeners.
    pub aside: Arc<Aside>,
    /// Of routes and hosts.
    pub notes: Arc<Counted<Problem>>,
    pub destinations: Arc<Destinations>,
    /// Rows of destinations, by name.
    pub services: Arc<Vec<Arc<ServiceRow>>>,
    /// Where a route is: port and host, by their places in the lists.
    pub places: Arc<HashMap<String, Vec<(usize, usize)>>>,
    /// The resources of the world that it was made for.
    pub resources: Arc<Vec<Arc<Resource>>>,
}

#[derive(Clone)]
pub(super) struct Port {
    pub number: u16,
    pub is_https: bool,
    pub role: Role,
    /// Of HTTP: what the role's hosts were made of, in the same order.
    pub hosts: Vec<Arc<Host>>,
}

impl Plan {
    pub(super) fn roles(&self) -> impl Iterator<Item = (u16, &Role)> {
        self.ports.iter().map(|port| (port.number, &port.role))
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.aside.problems.iter().chain(self.notes.0.keys())
    }

    pub(super) fn secrets(&self) -> &[SecretMaterial] {
        &self.aside.secrets
    }

    pub(super) fn services(&self) -> Arc<Vec<Arc<ServiceRow>>> {
        self.services.clone()
    }

    /// Destinations that each proxy has to make rows for itself.
    pub(super) fn left_out(&self) -> impl Iterator<Item = &Tags> {
        self.destinations.0.iter().filter(|(_, d)| d.row.is_none()).map(|(tags, _)| tags.as_ref())
    }

    /// The plan for a later world, in which nothing is different but these services and gateway routes. None when it has to
    /// be made from nothing.
    pub(super) fn after(
        self: &Arc<Self>,
        known: &Known,
        mesh: &MeshIndex,
        (touched, upstreams): (&BTreeSet<Arc<str>>, &mut Upstreams<'_>),
    ) -> Option<Arc<Self>> {
        let resources = mesh.resources();
        if touched.is_empty() && Arc::ptr_eq(&self.resources, &resources) {
            return Some(self.clone());
        }
        let routes = |all| of_kind_and_mesh(all, "MeshGatewayRoute", &mesh.name);
        let changes = changed::between(routes(&self.resources), routes(&resources));
        if changes.len() > SINGLE_ROUTES_MAX {
            return None;
        }
        let mut replaced: BTreeMap<(usize, usize), Vec<Replaced<'_>>> = BTreeMap::new();
        for (old, new) in changes {
            let (old, new) = (old?, new?);
            if !is_at_home(old, new) {
                return None;
            }
            for place in self.places.get(&old.meta.name).into_iter().flatten() {
                replaced.entry(*place).or_default().push((old, new));
            }
        }
        let mut plan = Self { resources: resources.clone(), ..Self::clone(self) };
        let mut renewed = Renewed { of: touched.iter().map(AsRef::as_ref).collect(), ..Renewed::default() };
        for ((port, host), routes) in &replaced {
            plan.replace(known, (*port, *host), routes, &mut renewed)?;
        }
        plan.follow(renewed, upstreams);
        Some(Arc::new(plan))
    }

    /// Puts new routes in the places of old ones.
    fn replace(
        &mut self,
        known: &Known,
        (port, host): (usize, usize),
        routes: &[Replaced<'_>],
        renewed: &mut Renewed<'_>,
    ) -> Option<()> {
        let port = Arc::make_mut(self.ports.get_mut(port)?);
        let held = port.hosts.get_mut(host)?;
        let mut now = held.routes.clone();
        for route in &mut now {
            let Some((_, new)) = routes.iter().find(|(old, _)| Arc::ptr_eq(old, &route.resource)) else { continue };
            let new = known.route(new, port.number);
            renewed.drafts.push((std::mem::replace(route, new.clone()), new));
        }
        let (gateway, is_https) = (self.origin.name.clone(), port.is_https);
        let key = HostKey { gateway, port: port.number, is_https, host: held.row.host.clone() };
        let made = known.host(key, now, &self.origin);
        let Role::Gateway { handler: Handler::Http { hosts }, .. } = &mut port.role else { return None };
        *hosts.get_mut(host)? = made.row.clone();
        renewed.hosts.push((std::mem::replace(held, made.clone()), made));
        Some(())
    }

    /// What is said and sent to, after routes were replaced.
    fn follow(&mut self, renewed: Renewed<'_>, upstreams: &mut Upstreams<'_>) {
        let drafts = || renewed.drafts.iter().map(|(old, new)| (&old.draft, &new.draft));
        let notes = |(old, new): (&'_ Draft, &'_ Draft)| (old.notes.clone(), new.notes.clone());
        let of_hosts = renewed.hosts.iter().map(|(old, new)| (old.notes.clone(), new.notes.clone()));
        for (old, new) in drafts().map(notes).chain(of_hosts).filter(|(old, new)| old != new) {
            let counted = Arc::make_mut(&mut self.notes);
            counted.add(&new);
            counted.remove(&old);
        }
        let differ = drafts().any(|(old, new)| old.destinations != new.destinations);
        let is_stale = |tags: &Tags| renewed.of.contains(service(tags));
        if !differ && !self.destinations.0.keys().any(|tags| is_stale(tags)) {
            return;
        }
        let destinations = Arc::make_mut(&mut self.destinations);
        for (old, new) in drafts() {
            destinations.add(&new.destinations);
            destinations.remove(&old.destinations);
        }
        let (mut gone, mut new) = (destinations.forget(), Vec::new());
        for (tags, destination) in &mut destinations.0 {
            if destination.is_new || is_stale(tags) {
                gone.extend(destination.row.take());
                destination.row = upstreams.common(tags);
                destination.is_new = false;
                new.extend(destination.row.clone());
            }
        }
        self.services = patch(&self.services, gone.iter(), new.iter(), |a, b| a.name.cmp(&b.name)).into();
    }
}

/// What is different in a plan.
#[derive(Default)]
struct Renewed<'a> {
    drafts: Vec<(Arc<Prepared>, Arc<Prepared>)>,
    hosts: Vec<(Arc<Host>, Arc<Host>)>,
    /// Services whose rows may be others.
    of: BTreeSet<&'a str>,
}

/// Whether a changed route is in the same hosts as before.
fn is_at_home(old: &Resource, new: &Resource) -> bool {
    let (Spec::MeshGatewayRoute(old), Spec::MeshGatewayRoute(new)) = (&old.spec, &new.spec) else { return false };
    match (&old.conf, &new.conf) {
        (RouteConf::Http { hostnames: before, .. }, RouteConf::Http { hostnames: now, .. }) => {
            before == now && old.selectors == new.selectors
        }
        _ => false,
    }
}

/// How often something was said.
#[derive(Clone)]
pub(super) struct Counted<T>(BTreeMap<T, usize>);

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Clone> Counted<T> {
    pub(super) fn add(&mut self, list: &[T]) {
        for item in list {
            *self.0.entry(item.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, list: &[T]) {
        for item in list {
            if let Some(count) = self.0.get_mut(item) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(item);
                }
            }
        }
    }
}

/// Where routes send to, and how many attached routes send there.
#[derive(Clone, Default)]
pub(super) struct Destinations(BTreeMap<Arc<Tags>, Destination>);

#[derive(Clone)]
struct Destination {
    count: usize,
    is_new: bool,
    /// None where each proxy has to look for itself.
    row: Option<Arc<ServiceRow>>,
}

impl Destinations {
    pub(super) fn add(&mut self, list: &[Tags]) {
        for tags in list {
            match self.0.get_mut(tags) {
                Some(known) => known.count += 1,
                None => {
                    let new = Destination { count: 1, is_new: true, row: None };
                    self.0.insert(Arc::new(tags.clone()), new);
                }
            }
        }
    }

    fn remove(&mut self, list: &[Tags]) {
        for tags in list {
            if let Some(known) = self.0.get_mut(tags) {
                known.count -= 1;
            }
        }
    }

    /// Those that nobody sends to any more; returns their rows.
    fn forget(&mut self) -> Vec<Arc<ServiceRow>> {
        self.0.extract_if(.., |_, d| d.count == 0).filter_map(|(_, d)| d.row).collect()
    }

    /// Finds the rows, and returns them by name.
    pub(super) fn find(&mut self, upstreams: &mut Upstreams<'_>) -> Vec<Arc<ServiceRow>> {
        let mut rows = Vec::with_capacity(self.0.len());
        for (tags, destination) in &mut self.0 {
            destination.row = upstreams.common(tags);
            destination.is_new = false;
            rows.extend(destination.row.clone());
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows.dedup_by(|a, b| a.name == b.name);
        rows
    }
}
