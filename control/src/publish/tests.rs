//! The publishing loop on a store in memory.

use super::*;
use crate::compile::{ProxyKey, compile};
use crate::core::Defaults;
use crate::resource::{Resource, read};
use crate::store::Store;
use crate::time::Clock;
use std::time::Instant;

fn resources(yaml: &str) -> Vec<Resource> {
    let intake = read(yaml, "test.yaml");
    assert!(!intake.has_errors(), "{:?}", intake.problems);
    intake.resources
}

async fn started(yaml: &str) -> (Arc<Core>, Subscription) {
    let clock = Clock::system();
    let defaults = Defaults { mesh: true, hostname_generators: false, signing_keys: false };
    let core = Core::start(Store::memory(clock.clone()), clock, defaults).await.unwrap();
    apply(&core, yaml).await;
    let (publishing, subscription) = Loop::start(core.clone(), Settings::new("/nowhere".into())).await.unwrap();
    tokio::spawn(publishing.run());
    (core, subscription)
}

async fn apply(core: &Core, yaml: &str) {
    for written in core.apply(resources(yaml)).await {
        written.outcome.unwrap();
    }
}

fn dataplane(number: usize) -> String {
    format!(
        "type: Dataplane\nmesh: default\nname: dp-{number}\nnetworking:\n  address: 127.0.0.1\n  inbound:\n  - {{port: \
         {}, tags: {{kuma.io/service: service-{number}, kuma.io/protocol: http}}}}\n  transparentProxying: \
         {{redirectPortInbound: 15006, redirectPortOutbound: 15001}}\n---\n",
        10_000 + number
    )
}

#[tokio::test]
async fn a_published_resource_is_found_by_its_key() {
    let yaml = (0..20).map(dataplane).collect::<String>();
    let (_core, subscription) = started(&yaml).await;
    let published = subscription.borrow().clone();
    for number in 0..20 {
        let name = format!("dp-{number}");
        assert_eq!(published.resource("Dataplane", "default", &name).unwrap().meta.name, name);
    }
    assert!(published.resource("Dataplane", "default", "dp-99").is_none());
    assert!(published.resource("Mesh", "", "default").is_some());
}

#[tokio::test]
async fn a_name_in_an_address_is_resolved_before_the_first_publication() {
    let yaml = dataplane(0).replace("127.0.0.1", "localhost");
    let (_core, subscription) = started(&yaml).await;
    let published = subscription.borrow().clone();
    assert_eq!(published.problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_name_that_does_not_resolve_stops_no_publication_and_is_named() {
    let (core, mut subscription) = started(&dataplane(0)).await;
    apply(&core, &dataplane(1).replace("127.0.0.1", "no-such-host.invalid")).await;
    apply(&core, &dataplane(2)).await;
    let is_there = |p: &Arc<Published>| p.resource("Dataplane", "default", "dp-2").is_some();
    subscription.wait_for(is_there).await.unwrap();
    let problem = "address no-such-host.invalid doesn't resolve".to_owned();
    subscription.wait_for(|p| p.problems.contains(&problem)).await.unwrap();
}

#[tokio::test]
async fn nobody_is_sent_to_a_withdrawn_proxy_whose_names_stay() {
    let (core, mut subscription) = started(&(dataplane(0) + &dataplane(1))).await;
    let key = Key::new("Dataplane", "default", "dp-1");
    let tables = |p: &Arc<Published>| compile(&p.world, &ProxyKey::dataplane("default", "dp-0")).tables.to_string();
    let is_endpoint = |p: &Arc<Published>| tables(p).contains("127.0.0.1:10001 ");
    assert!(is_endpoint(&subscription.borrow().clone()));
    core.withdraw(&key, true);
    let published = subscription.wait_for(|p| !is_endpoint(p)).await.unwrap().clone();
    let now = tables(&published);
    assert!(now.contains("service-1.mesh") && now.contains("service service-1 Http "), "{now}");
    core.withdraw(&key, false);
    subscription.wait_for(is_endpoint).await.unwrap();
}

#[tokio::test]
async fn files_of_data_sources_are_read_and_missing_ones_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edge.pem");
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----").unwrap();
    let gateway = |path: &str| {
        format!(
            "type: MeshGateway\nmesh: default\nname: g\nselectors: [{{match: {{kuma.io/service: e}}}}]\nconf: {{listeners: \
             [{{port: 443, protocol: HTTPS, tls: {{mode: TERMINATE, certificates: [{{file: {path}}}]}}}}]}}\n"
        )
    };
    let mut outside = Outside::new();
    let all = |yaml: &str| resources(yaml).into_iter().map(Arc::new).collect::<Vec<_>>();
    outside.follow(&all(&gateway(file.to_str().unwrap())), PATIENCE).await;
    assert_eq!(outside.files().len(), 1);
    assert!(!outside.again().await);
    std::fs::write(&file, "other").unwrap();
    assert!(outside.again().await);
    let missing = folder.path().join("missing.pem");
    outside.follow(&all(&gateway(missing.to_str().unwrap())), PATIENCE).await;
    assert_eq!(outside.files().len(), 0);
    let problems: Vec<String> = outside.problems().collect();
    assert!(problems.len() == 1 && problems[0].contains("missing.pem: No such file"), "{problems:?}");
    outside.follow(&all(&gateway("/dev/zero")), PATIENCE).await;
    assert!(outside.problems().next().unwrap().contains("it has to be a file of at most"));
}

/// Not a benchmark: a bound that only a quadratic or waiting loop breaks.
#[tokio::test]
async fn one_apply_among_a_hundred_services_is_compiled_soon() {
    let yaml = (0..100).map(dataplane).collect::<String>();
    let (core, mut subscription) = started(&yaml).await;
    let before = Instant::now();
    apply(&core, &dataplane(100)).await;
    let revision = core.revision();
    let published = subscription.wait_for(|p| p.revision() >= revision).await.unwrap().clone();
    let waited = before.elapsed();
    let compiled = compile(&published.world, &ProxyKey::dataplane("default", "dp-0"));
    let took = before.elapsed();
    println!("published after {waited:?}, compiled after {took:?}");
    assert!(compiled.tables.to_string().contains("service-100"));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn generations_grow_over_a_restart_even_when_the_clock_was_set_back() {
    let (clock, now) = Clock::manual(1_700_000_000_000);
    let defaults = Defaults { mesh: true, hostname_generators: false, signing_keys: false };
    let core = Core::start(Store::memory(clock.clone()), clock, defaults).await.unwrap();
    let mut last = Generation::default();
    for set_back_ms in [0, 3_600_000, 0] {
        now.fetch_sub(set_back_ms, Ordering::Relaxed);
        let (_publishing, subscription) = Loop::start(core.clone(), Settings::new("/nowhere".into())).await.unwrap();
        let generation = subscription.borrow().generation;
        assert!(generation > last, "{generation} after {last}");
        last = generation;
    }
}

#[tokio::test]
async fn k6_a_mesh_whose_addresses_cannot_be_kept_is_told_and_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let store = Store::open_bounded(folder.path(), clock.clone(), 4 << 20).unwrap();
    let defaults = Defaults { mesh: false, hostname_generators: false, signing_keys: false };
    let core = Core::start(store, clock, defaults).await.unwrap();
    apply(&core, "type: Mesh\nname: mesh-1\n---\ntype: Mesh\nname: mesh-2\n").await;
    let (mut publishing, subscription) = Loop::start(core.clone(), Settings::new("/nowhere".into())).await.unwrap();
    assert_eq!(subscription.borrow().naming.passes.done, 1);
    for mesh in ["mesh-1", "mesh-2"] {
        let inbound = |i: usize| format!("{{port: {}, tags: {{kuma.io/service: service-{i}}}}}", i + 1);
        let inbounds = (0..4000).map(inbound).collect::<Vec<_>>().join(", ");
        let yaml = format!(
            "type: Dataplane\nmesh: {mesh}\nname: d\nnetworking: {{address: 10.0.0.1, inbound: [{inbounds}]}}\n"
        );
        apply(&core, &yaml).await;
    }
    // Little room is left: less than the table of either mesh needs.
    for size in [100_000, 10_000, 1_000] {
        let mut number = 0;
        let filler = |number: usize| format!("filler-{size}-{number}");
        while core.store().set_blob(&filler(number), vec![b'x'; size]).await.is_ok() {
            number += 1;
        }
    }
    publishing.refresh().await.unwrap();
    let published = subscription.borrow().clone();
    let told = "error during update, mesh = mesh-1; error during update, mesh = mesh-2";
    assert!(published.problems.iter().any(|p| p.starts_with(told)), "{:?}", published.problems);
    assert_eq!((published.naming.passes.done, published.naming.passes.failed), (1, 1));
    assert!(published.world.names("mesh-1").unwrap().names.is_empty());
    assert_eq!(published.naming.meshes["mesh-2"].entries, 4000);
}

#[tokio::test]
async fn a_mesh_service_has_an_address_and_a_name_that_sidecars_dial() {
    let yaml = "type: Mesh\nname: default\nmeshServices: {mode: Everywhere}\n---\ntype: MeshService\nmesh: default\nname: web\nspec: \
                {selector: {dataplaneTags: {kuma.io/service: service-0}}, ports: [{port: 80, targetPort: 10000}]}\n---\ntype: \
                HostnameGenerator\nname: g\nspec: {selector: {meshService: {matchLabels: {kuma.io/origin: zone}}}, template: '{{ \
                .DisplayName }}.svc.mesh.local'}\n---\n";
    let (_core, subscription) = started(&(yaml.to_owned() + &dataplane(0))).await;
    let published = subscription.borrow().clone();
    let tables = compile(&published.world, &ProxyKey::dataplane("default", "dp-0")).tables;
    let name = tables.names.iter().find(|row| row.name == "web.svc.mesh.local").unwrap();
    assert_eq!(name.v4.map(|ip| ip.to_string()).as_deref(), Some("241.0.0.0"));
    assert!(tables.listeners.iter().any(|listener| listener.address.to_string() == "241.0.0.0:80"));
    assert!(tables.names.iter().any(|row| row.name == "service-0.mesh"));
    assert_eq!(published.problems, Vec::<String>::new());
}

#[tokio::test]
async fn in_exclusive_mode_names_of_tags_are_gone() {
    let yaml = "type: Mesh\nname: default\nmeshServices: {mode: Exclusive}\n---\n";
    let (_core, subscription) = started(&(yaml.to_owned() + &dataplane(0))).await;
    let published = subscription.borrow().clone();
    assert!(published.world.names("default").unwrap().names.is_empty());
}

#[tokio::test]
async fn a_service_gets_its_address_when_one_of_an_exhausted_range_has_rested() {
    let (clock, now) = Clock::manual(1_700_000_000_000);
    let defaults = Defaults { mesh: true, hostname_generators: false, signing_keys: false };
    let core = Core::start(Store::memory(clock.clone()), clock, defaults).await.unwrap();
    let service = |name: &str| {
        format!(
            "type: MeshService\nmesh: default\nname: {name}\nspec: {{selector: {{dataplaneTags: {{kuma.io/service: a}}}}, \
             ports: [{{port: 80}}]}}\n---\n"
        )
    };
    let mesh = "type: Mesh\nname: default\nmeshServices: {mode: Everywhere}\n---\n";
    apply(&core, &[mesh, &service("first"), &service("second")].concat()).await;
    let mut settings = Settings::new("/nowhere".into());
    settings.ipam.mesh_service = crate::settings::Cidr::parse("241.0.0.7/32").unwrap();
    let (mut publishing, subscription) = Loop::start(core.clone(), settings).await.unwrap();
    let served = || {
        let world = &subscription.borrow().world;
        world.services("default").unwrap().outbounds.iter().map(|o| o.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(served(), ["first"]);
    assert!(subscription.borrow().problems.iter().any(|p| p.starts_with("MeshService: failed to allocate new VIPs")));
    core.delete(&Key::new("MeshService", "default", "first")).await.unwrap();
    publishing.refresh().await.unwrap();
    assert_eq!(served(), [""; 0]);
    now.fetch_add(vip::QUARANTINE_MS, Ordering::Relaxed);
    publishing.refresh().await.unwrap();
    assert_eq!(served(), ["second"]);
    assert_eq!(subscription.borrow().problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_certificate_names_the_zone_that_the_dataplane_leaves_out() {
    use base64::Engine;
    let mtls = "type: Mesh\nname: default\nmtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}\n---\n";
    let (_core, subscription) = started(&(mtls.to_owned() + &dataplane(0))).await;
    let published = subscription.borrow().clone();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let proxy = ProxyKey::dataplane("default", "dp-0");
    let issued = crate::session::issue(&published, &proxy, "default", csr.as_bytes(), 1_700_000_000_000).unwrap();
    let leaf: String = issued.chain_pem.lines().skip(1).take_while(|line| !line.starts_with('-')).collect();
    let leaf = base64::engine::general_purpose::STANDARD.decode(leaf).unwrap();
    let names = |uri: &str| leaf.windows(uri.len()).any(|bytes| bytes == uri.as_bytes());
    assert!(names("kuma://kuma.io/zone/default") && names("kuma://kuma.io/protocol/http"));
}
