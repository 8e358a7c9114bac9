//! The control plane is away: what is in force stays in force, and a proxy that starts again has it from its disk.

use harness::{HttpServer, eventually};

use crate::client::{Connection, get};
use crate::ground::{Ground, LONG};

const WEB: &str = "
type: Dataplane
mesh: default
name: web
networking:
  address: NET.1
  admin: {port: ADMIN}
  inbound: [{port: 9000, serviceAddress: NET.11, tags: {kuma.io/service: web, kuma.io/protocol: http}}]
  outbound: [{port: 8080, address: NET.6, tags: {kuma.io/service: web}}]
";

#[test]
fn a_proxy_serves_without_its_control_plane_also_after_its_own_kill_9() {
    let ground = Ground::new();
    HttpServer::start(ground.at(11, 9000), |_, _| "web".to_owned());
    let mut cp = ground.cp();
    let mut proxy = ground.dp(&cp, "web", WEB);
    let address = ground.at(6, 8080);
    eventually("the outbound", LONG, || Connection::open(address).ok());
    assert_eq!(get(address, "web.mesh", "/").body, "web");
    cp.process.kill();
    cp.process.wait(LONG);
    assert_eq!(get(address, "web.mesh", "/").body, "web");
    // Saving the last good snapshot follows its publication.
    let saved = ground.path("proxies").join("default.web.snapshot");
    eventually("the saved snapshot", LONG, || saved.exists().then_some(()));
    proxy.kill();
    proxy.wait(LONG);
    let _proxy = ground.dp_again(&cp, "web");
    assert_eq!(get(address, "web.mesh", "/").body, "web");
    // A control plane with the same state takes over where the first ended.
    let cp = ground.cp();
    assert!(cp.send("GET", "/meshes/default/dataplanes/web", "").0 == 200);
}

#[test]
fn a_dataplane_that_was_lost_together_with_the_control_plane_is_removed_by_the_next_in_its_time() {
    let ground = Ground::new();
    let mut cp = ground.cp();
    let mut proxy = ground.dp(&cp, "web", WEB);
    let by_hand = r#"{"type": "Dataplane", "mesh": "default", "name": "hand", "networking": {"address": "192.0.2.1",
        "inbound": [{"port": 80, "tags": {"kuma.io/service": "hand"}}]}}"#;
    assert_eq!(cp.send("PUT", "/meshes/default/dataplanes/hand", by_hand).0, 201);
    for process in [&mut cp.process, &mut proxy] {
        process.kill();
        process.wait(LONG);
    }
    let times = [("WEIR_DP_SERVER_OFFLINE_GRACE", "100ms"), ("KUMA_RUNTIME_UNIVERSAL_DATAPLANE_CLEANUP_AGE", "1500ms")];
    let mut cp = ground.cp_with(&times);
    cp.process.wait_for("nobody is sent to it any more", LONG);
    cp.process.wait_for("is away for good", LONG);
    eventually("web to be removed", LONG, || {
        (cp.send("GET", "/meshes/default/dataplanes/web", "").0 == 404).then_some(())
    });
    assert_eq!(cp.send("GET", "/meshes/default/dataplanes/hand", "").0, 200);
}
