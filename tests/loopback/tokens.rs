//! `dp run` with a token that isn't for it ends at once, and says why.

use std::process::Output;
use std::time::{Duration, Instant};

use harness::eventually;

use crate::client::request;
use crate::ground::{ControlPlane, Ground, LONG, WEIR, stderr};

const WEB: &str = "
type: Dataplane
mesh: default
name: web-1
networking:
  address: NET.2
  admin: {port: ADMIN}
  inbound: [{port: 9000, serviceAddress: NET.3, tags: {kuma.io/service: web, team: blue}}]
";

/// Runs a proxy with a token to its end.
fn run(ground: &Ground, cp: &ControlPlane, token: &str) -> Output {
    let file = ground.write("web.yaml", WEB);
    std::fs::write(ground.path("token"), token).unwrap();
    let mut command = ground.command(
        WEIR,
        &[
            "dp",
            "run",
            "--cp-address",
            &cp.channel,
            "--ca-cert-file",
            &cp.ca,
            "--dataplane-file",
            file.to_str().unwrap(),
        ],
    );
    command.arg("--dataplane-token-file").arg(ground.path("token"));
    command.env("WEIR_DATA_DIR", ground.path("proxy")).output().unwrap()
}

fn token(cp: &ControlPlane, kind: &str, asked: &str) -> String {
    let answer = request(cp.api, "POST", &format!("/tokens/{kind}"), asked);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn dataplane_token(cp: &ControlPlane, asked: &str) -> String {
    token(cp, "dataplane", asked)
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", stderr(output));
    assert!(stderr(output).contains(why), "{:?} isn't in: {}", why, stderr(output));
}

#[test]
fn a_token_that_is_not_for_this_proxy_ends_it_with_the_reason() {
    let ground = Ground::new();
    let cp = ground.cp();
    assert_eq!(cp.send("PUT", "/meshes/other", r#"{"type": "Mesh", "name": "other"}"#).0, 201);
    let other_name = dataplane_token(&cp, r#"{"mesh": "default", "name": "db-1", "validFor": "1h"}"#);
    refused(&run(&ground, &cp, &other_name), "proxy name from requestor: web-1 is different than in token: db-1");
    let other_mesh = dataplane_token(&cp, r#"{"mesh": "other", "name": "web-1", "validFor": "1h"}"#);
    refused(&run(&ground, &cp, &other_mesh), "default/web-1");
    let other_tags = dataplane_token(&cp, r#"{"mesh": "default", "tags": {"team": ["red"]}, "validFor": "1h"}"#);
    refused(&run(&ground, &cp, &other_tags), "tag \"team\" with value \"blue\" which is not allowed");
    let of_a_zone = token(&cp, "zone", r#"{"zone": "", "scope": ["egress"], "validFor": "1h"}"#);
    refused(&run(&ground, &cp, &of_a_zone), "default/web-1");
    refused(&run(&ground, &cp, "not.a.token"), "default/web-1");
    refused(&run(&ground, &cp, ""), "token");
    assert_eq!(cp.send("GET", "/meshes/default/dataplanes/web-1", "").0, 404, "a refused proxy leaves nothing");
}

#[test]
fn an_expired_token_and_one_of_another_control_plane_are_told_apart() {
    let ground = Ground::new();
    let cp = ground.cp();
    let short = dataplane_token(&cp, r#"{"mesh": "default", "name": "web-1", "validFor": "1s"}"#);
    let issued = Instant::now();
    // Its end is in whole seconds.
    eventually("the end of a token", LONG, || (issued.elapsed() > Duration::from_secs(2)).then_some(()));
    let expired = run(&ground, &cp, &short);
    refused(&expired, "expired");
    let elsewhere = Ground::new();
    let foreign = dataplane_token(&elsewhere.cp(), r#"{"mesh": "default", "name": "web-1", "validFor": "1h"}"#);
    refused(&run(&ground, &cp, &foreign), "default/web-1");
}
