//! Which MeshServices a mesh gets, and when it loses them.

use super::*;
use crate::core::Defaults;
use crate::resource::read;
use crate::store::Store;
use crate::time::Clock;

fn resources(yaml: &str) -> Vec<Arc<Resource>> {
    let intake = read(yaml, "t.yaml");
    assert!(!intake.has_errors(), "{:?}", intake.problems);
    let mut all: Vec<Arc<Resource>> = intake.resources.into_iter().map(Arc::new).collect();
    all.sort_by_key(|r| (r.kind().to_owned(), r.meta.mesh.clone(), r.meta.name.clone()));
    all
}

fn mesh(mode: &str) -> String {
    format!("type: Mesh\nname: default\nmeshServices: {{mode: {mode}}}\n---\n")
}

fn dataplane(name: &str, inbounds: &str) -> String {
    format!(
        "type: Dataplane\nmesh: default\nname: {name}\nnetworking: {{address: 10.0.0.1, inbound: [{inbounds}]}}\n---\n"
    )
}

fn inbound(port: u16, service: &str, more: &str) -> String {
    format!("{{port: {port}, tags: {{kuma.io/service: {service}, kuma.io/protocol: http}}{more}}}")
}

/// `web 80>main/http`
fn show(plan: &Plan) -> Vec<String> {
    let ports = |service: &MeshService| -> String {
        let one = |p: &ServicePort| match &p.target_port {
            Some(TargetPort::Name(name)) => format!(" {}>{name}/{}", p.port, p.app_protocol),
            Some(TargetPort::Number(number)) => format!(" {}>{number}/{}", p.port, p.app_protocol),
            None => format!(" {}", p.port),
        };
        service.ports.iter().map(one).collect()
    };
    let line = |r: &Resource| match &r.spec {
        Spec::MeshService(service) => r.meta.name.clone() + &ports(service),
        _ => unreachable!(),
    };
    plan.write.iter().map(line).collect()
}

#[test]
fn each_service_of_a_mesh_that_wants_them_gets_a_mesh_service_with_its_ports() {
    let both = [inbound(80, "web", ", name: main"), inbound(81, "web", ""), inbound(5432, "db", "")].join(", ");
    let yaml = mesh("Everywhere") + &dataplane("a", &both) + &dataplane("b", &inbound(5432, "db", ""));
    let made = plan(&resources(&yaml), 0);
    assert_eq!(show(&made), ["db 5432>5432/http", "web 80>main/http 81>81/http"]);
    assert_eq!((made.problems.len(), made.again_ms), (0, None));
    assert_eq!(plan(&resources(&(mesh("Disabled") + &dataplane("a", &both))), 0), Plan::default());
}

#[test]
fn what_is_there_already_is_not_written_again_and_a_users_own_never() {
    let yaml = mesh("Exclusive") + &dataplane("a", &inbound(80, "web", ""));
    let mut all = resources(&yaml);
    let first = plan(&all, 0);
    all.extend(first.write.into_iter().map(Arc::new));
    assert_eq!(plan(&all, 1), Plan::default());
    let own = "type: MeshService\nmesh: default\nname: web\nspec: {ports: [{port: 1}]}\n";
    assert_eq!(plan(&resources(&(yaml + own)), 0), Plan::default());
}

#[test]
fn services_that_cannot_be_hostnames_and_differing_ports_are_told() {
    let bad = dataplane(
        "a",
        &(inbound(80, "web_ns_svc_80", "") + ", " + &inbound(1, "Web", "") + ", " + &inbound(2, "9", "")),
    );
    let made = plan(&resources(&(mesh("Everywhere") + &bad)), 0);
    assert_eq!((made.write.len(), made.problems.len()), (0, 3));
    let mut all = resources(
        &(mesh("Everywhere") + &dataplane("a", &inbound(80, "web", "")) + &dataplane("b", &inbound(81, "web", ""))),
    );
    let set = |all: &mut Vec<Arc<Resource>>, name: &str, at: u64| {
        for resource in all.iter_mut().filter(|r| r.meta.name == name) {
            Arc::make_mut(resource).meta.created_ms = at;
        }
    };
    set(&mut all, "a", 2);
    set(&mut all, "b", 1);
    let made = plan(&all, 0);
    assert_eq!(show(&made), ["web 81>81/http"]);
    assert!(made.problems.iter().next().unwrap().contains("Dataplanes of service web have different ports"));
}

#[test]
fn ignored_inbounds_and_marker_ports_make_none() {
    let yaml = mesh("Everywhere")
        + &dataplane("a", &(inbound(80, "web", ", state: Ignored") + ", " + &inbound(49151, "pod", "")));
    assert_eq!(plan(&resources(&yaml), 0), Plan::default());
}

#[test]
fn a_service_that_is_gone_keeps_its_mesh_service_for_a_grace_period() {
    let with = mesh("Everywhere") + &dataplane("a", &inbound(80, "web", ""));
    let mut made = plan(&resources(&with), 0).write;
    let mut without = resources(&mesh("Everywhere"));
    without.push(Arc::new(made.remove(0)));
    let leaving = plan(&without, 1_000);
    assert_eq!((show(&leaving), leaving.again_ms), (vec!["web 80>80/http".to_owned()], Some(1_000 + GRACE_MS)));
    let marked = Arc::new(leaving.write.into_iter().next().unwrap());
    let mut back = resources(&with);
    back.push(marked.clone());
    assert!(!plan(&back, 2_000).write[0].meta.labels.contains_key(GONE_SINCE));
    let mut later = resources(&mesh("Everywhere"));
    later.push(marked);
    assert_eq!(plan(&later, GRACE_MS).again_ms, Some(1_000 + GRACE_MS));
    assert_eq!(plan(&later, 1_000 + GRACE_MS).remove, [Key::new("MeshService", "default", "web")]);
}

#[tokio::test]
async fn the_store_gets_them_by_itself() {
    let clock = Clock::system();
    let defaults = Defaults { mesh: false, hostname_generators: false, signing_keys: false };
    let core = Core::start(Store::memory(clock.clone()), clock, defaults).await.unwrap();
    tokio::spawn(Generator::new(core.clone()).run());
    let yaml = mesh("Everywhere") + &dataplane("a", &inbound(80, "web", ""));
    for written in core.apply(read(&yaml, "t.yaml").resources).await {
        written.outcome.unwrap();
    }
    let mut revisions = core.watch();
    let key = Key::new("MeshService", "default", "web");
    while core.get(&key).is_none() {
        revisions.changed().await.unwrap();
    }
    assert!(core.get(&key).unwrap().labels.contains_key(MANAGED_BY));
}
