//! What was acknowledged stays, however the control plane ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harness::eventually;

use crate::client::{request, try_request};
use crate::ground::{Ground, LONG};

const WRITERS: usize = 4;
/// Acknowledged writes before the kill.
const BURST: u64 = 200;
/// The end of a killed process isn't slow.
const SOON: Duration = Duration::from_secs(10);

fn virtual_outbound(name: &str, version: usize) -> String {
    format!(
        r#"{{"type": "VirtualOutbound", "mesh": "default", "name": "{name}",
"selectors": [{{"match": {{"kuma.io/service": "*"}}}}],
"conf": {{"host": "{name}-{version}.mesh", "port": "80", "parameters": [{{"name": "service", "tagKey": "kuma.io/service"}}]}}}}"#
    )
}

/// Writes until the control plane is gone. (name, version acknowledged last; whether a deletion was the last word).
fn write_until_killed(
    api: std::net::SocketAddr,
    writer: usize,
    acknowledged: &AtomicU64,
) -> Vec<(String, usize, bool)> {
    let mut done = Vec::new();
    for n in 0.. {
        let name = format!("vo-{writer}-{n}");
        let path = format!("/meshes/default/virtual-outbounds/{name}");
        for version in 0..2 {
            match try_request(api, "PUT", &path, &virtual_outbound(&name, version)) {
                Ok(answer) => assert!(answer.status < 300, "{answer:?}"),
                // The update under way may have been stored or not: only its predecessor is promised, and it's overwritten.
                Err(_) => return done,
            }
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        // Every fourth is deleted again.
        let deleted = n % 4 == 3;
        if deleted && !try_request(api, "DELETE", &path, "").is_ok_and(|answer| answer.status == 200) {
            return done;
        }
        done.push((name, 1, deleted));
    }
    done
}

#[test]
fn every_acknowledged_write_survives_kill_9_during_a_burst() {
    let ground = Ground::new();
    let mut cp = ground.cp();
    let acknowledged = AtomicU64::new(0);
    let done: Vec<(String, usize, bool)> = std::thread::scope(|scope| {
        let (api, acknowledged) = (cp.api, &acknowledged);
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write_until_killed(api, writer, acknowledged))).collect();
        eventually("the burst", LONG, || (acknowledged.load(Ordering::SeqCst) >= BURST).then_some(()));
        cp.process.kill();
        cp.process.wait(SOON);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    assert!(done.len() > 20, "only {} resources were written", done.len());
    let cp = ground.cp();
    for (name, version, deleted) in done {
        let answer = request(cp.api, "GET", &format!("/meshes/default/virtual-outbounds/{name}"), "");
        if deleted {
            assert_eq!(answer.status, 404, "{name} was deleted");
        } else {
            assert_eq!(answer.status, 200, "{name} is lost");
            assert!(answer.body.contains(&format!("{name}-{version}.mesh")), "{name} has an old text: {}", answer.body);
        }
    }
}
