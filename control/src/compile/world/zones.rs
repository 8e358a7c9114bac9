//! Zone proxies of the world: which zones can be reached how, and what each of them offers.

use super::{Egress, Offer, Offers, PublicIngress, World};
use crate::compile::Problem;
use crate::compile::sni::{MESH, ZONE, service};
use crate::resource::{Resource, Spec, Tags, ZoneIngress, ZoneNetworking};
use snapshot::Origin;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

impl World {
    pub(super) fn index_zones(&mut self) {
        let computed = self.offers_by_zone();
        let mut taken: BTreeMap<(IpAddr, u16), usize> = BTreeMap::new();
        let resources: Vec<Arc<Resource>> = self.zone_proxies.values().cloned().collect();
        for resource in resources {
            let origin = |kind| Origin::new(kind, "", &resource.meta.name);
            if self.settings.withdrawn.contains(&origin(resource.kind())) {
                continue;
            }
            match &resource.spec {
                Spec::ZoneEgress(egress) => match self.ip(&egress.networking.address) {
                    Some(address) => self.egresses.push(Egress {
                        address,
                        port: egress.networking.port,
                        zone: self.zone_or_own(&egress.zone).to_owned(),
                        origin: origin("ZoneEgress"),
                    }),
                    None => self.no_address(origin("ZoneEgress"), &egress.networking.address),
                },
                Spec::ZoneIngress(ingress) => {
                    let origin = origin("ZoneIngress");
                    let Some(public) = self.public(ingress, &computed, origin) else { continue };
                    let key = (public.address, public.port);
                    // Of several with the same coordinates the first one with services counts.
                    match taken.get(&key).and_then(|at| self.ingresses.get_mut(*at)) {
                        None => {
                            taken.insert(key, self.ingresses.len());
                            self.ingresses.push(public);
                        }
                        Some(earlier) if earlier.offers.is_empty() => *earlier = public,
                        Some(_) => {}
                    }
                }
                _ => {}
            }
        }
        self.egresses.sort_by_key(|e| (e.address, e.port));
        self.ingresses.sort_by_key(|i| (i.address, i.port));
    }

    fn no_address(&mut self, origin: Origin, written: &str) {
        let text = format!("address `{written}` isn't an IP and doesn't resolve: nobody is sent there");
        self.problems.insert(Problem::new(origin, text));
    }

    fn public(
        &mut self,
        ingress: &ZoneIngress,
        computed: &BTreeMap<String, Arc<Offers>>,
        origin: Origin,
    ) -> Option<PublicIngress> {
        let ZoneNetworking { advertised_address, advertised_port, .. } = &ingress.networking;
        let port = advertised_port.filter(|_| !advertised_address.is_empty())?;
        let Some(address) = self.ip(advertised_address) else {
            self.no_address(origin, advertised_address);
            return None;
        };
        let zone = self.zone_or_own(&ingress.zone).to_owned();
        let offers = computed.get(&zone).cloned().unwrap_or_else(|| Arc::new(self.as_written(ingress, &zone)));
        Some(PublicIngress { address, port, zone, offers, origin })
    }

    /// What each zone with Dataplanes in the store offers.
    fn offers_by_zone(&self) -> BTreeMap<String, Arc<Offers>> {
        let mut zones: BTreeMap<String, Offers> = BTreeMap::new();
        for (mesh, index) in &self.meshes {
            for (is_gateway, map) in [(false, &index.instances), (true, &index.gateway_instances)] {
                for instance in map.iter().flat_map(|(_, s)| &s.instances) {
                    let offers = zones.entry(instance.zone.clone()).or_default();
                    if instance.ready {
                        add(offers.entry(mesh.clone()).or_default(), is_gateway, &instance.tags, 1);
                    }
                }
            }
        }
        zones.into_iter().map(|(zone, offers)| (zone, Arc::new(offers))).collect()
    }

    fn as_written(&self, ingress: &ZoneIngress, zone: &str) -> Offers {
        let mut offers = Offers::new();
        for written in ingress.available_services.iter().filter(|s| !s.external_service) {
            let mut tags = written.tags.clone();
            tags.remove("mesh");
            if !zone.is_empty() {
                tags.insert(ZONE.into(), zone.to_owned());
            }
            let offer = offers.entry(written.mesh.clone()).or_default();
            add(offer, tags.contains_key(MESH), &tags, written.instances);
        }
        offers
    }
}

fn add(offer: &mut Offer, is_gateway: bool, tags: &Tags, instances: u32) {
    let map = if is_gateway { &mut offer.gateways } else { &mut offer.services };
    let count = map.entry(service(tags).to_owned()).or_default().entry(tags.clone()).or_default();
    *count = count.saturating_add(instances);
}
