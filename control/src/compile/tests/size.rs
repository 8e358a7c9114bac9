//! What a large mesh costs. Run by hand: `cargo test -p control --release -- --ignored a_large_mesh`.

use super::make::*;
use super::*;
use crate::names::{MeshNames, NamedOutbound};
use snapshot::Origin;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

#[test]
#[ignore = "prints times"]
fn a_large_mesh_is_compiled_in_milliseconds_a_proxy() {
    let mut list = vec![mesh("default", "mtls")];
    let mut names = MeshNames::default();
    for service in 0..1000_u32 {
        for instance in 0..10 {
            let text = format!("service=s{service},protocol=http,version=v{}", instance % 3);
            let address = format!("10.{instance}.{}.{}", service / 250, service % 250);
            list.push(change(app(&format!("s{service}-{instance}"), &address, &text), |d| {
                let tp = crate::resource::TransparentProxying { redirect_port_outbound: 15001, ..Default::default() };
                d.networking.transparent_proxying = Some(tp);
            }));
        }
        names.outbounds.push(NamedOutbound {
            v4: Some(Ipv4Addr::from_bits(0xf000_0000 + service)),
            v6: None,
            port: 80,
            tags: tags(&format!("service=s{service}")),
            origin: Origin::new("default", "default", "s"),
        });
    }
    let start = Instant::now();
    let world = named_world("", list, BTreeMap::from([("default".to_owned(), names)]));
    println!("world: {:?}", start.elapsed());
    for turn in 0..3 {
        let start = Instant::now();
        let rows = sidecar_rows(&world, turn);
        println!("proxy {turn}: {rows} listeners in {:?}", start.elapsed());
    }
}

fn sidecar_rows(world: &World, turn: usize) -> usize {
    compile(world, &ProxyKey::dataplane("default", &format!("s{turn}-0"))).tables.listeners.len()
}
