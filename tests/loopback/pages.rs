//! The pages' shell lines as people paste them: kumactl makes a token, kuma-dp runs a zone egress or a gateway with it.

use std::process::Output;

use harness::{HttpServer, Process, eventually};

use crate::client::get;
use crate::ground::{ControlPlane, Ground, LONG, stderr, stdout};

struct Shell {
    ground: Ground,
    cp: ControlPlane,
}

impl Shell {
    fn new() -> Self {
        let ground = Ground::new();
        let cp = ground.cp();
        let bin = ground.path("bin");
        assert!(ground.weir(&["links", bin.to_str().unwrap()]).status.success());
        let shell = Self { ground, cp };
        let url = format!("http://{}", shell.cp.api);
        shell.kumactl(&["config", "control-planes", "add", "--name", "test", "--address", &url]);
        shell
    }

    #[track_caller]
    fn kumactl(&self, arguments: &[&str]) -> String {
        let output: Output = self.ground.command(self.ground.path("bin/kumactl"), arguments).output().unwrap();
        assert!(output.status.success(), "kumactl {arguments:?}: {}", stderr(&output));
        stdout(&output)
    }

    #[track_caller]
    fn apply(&self, text: &str) {
        let file = self.ground.write("applied.yaml", text);
        self.kumactl(&["apply", "-f", file.to_str().unwrap()]);
    }

    fn kuma_dp(&self, token: &str, resource: &str, more: &[&str]) -> Process {
        let token_file = self.ground.path("token");
        std::fs::write(&token_file, token).unwrap();
        let file = self.ground.write("proxy.yaml", resource);
        let mut command = self.ground.command(self.ground.path("bin/kuma-dp"), &["run"]);
        command.args(more).arg(format!("--cp-address={}", self.cp.channel));
        command.arg(format!("--dataplane-token-file={}", token_file.display()));
        command.arg(format!("--dataplane-file={}", file.display()));
        command.env("WEIR_DATA_DIR", self.ground.path("proxies"));
        let mut process = Process::start("kuma-dp", command);
        process.wait_for("ready: proxy", LONG);
        process
    }
}

#[test]
fn the_zone_egress_page_s_commands_start_an_egress() {
    let shell = Shell::new();
    let token = shell.kumactl(&["generate", "zone-token", "--valid-for", "720h", "--scope", "egress"]);
    let egress = "
type: ZoneEgress
name: zoneegress-1
networking:
  address: NET.5
  port: 10002
  admin: {port: ADMIN}
";
    let _egress = shell.kuma_dp(&token, egress, &["--proxy-type=egress"]);
    let shown = eventually("the egress online", LONG, || {
        Some(shell.kumactl(&["inspect", "zoneegresses"])).filter(|shown| shown.contains("Online"))
    });
    assert!(shown.contains("zoneegress-1"), "{shown}");
}

const KUBERNETES_GATEWAY: &str = "
apiVersion: kuma.io/v1alpha1
kind: MeshGatewayInstance
metadata:
  name: edge-gateway
  namespace: default
spec:
  replicas: 1
  serviceType: LoadBalancer
  tags:
    kuma.io/service: edge-gateway
---
apiVersion: kuma.io/v1alpha1
kind: MeshGateway
mesh: default
metadata:
  name: edge-gateway
spec:
  selectors:
  - match:
      kuma.io/service: edge-gateway
  conf:
    listeners:
      - port: 8080
        protocol: HTTP
        hostname: foo.example.com
        tags:
          port: http-8080
---
apiVersion: kuma.io/v1alpha1
kind: MeshGatewayRoute
mesh: default
metadata:
  name: edge-gateway-route
spec:
  selectors:
    - match:
        kuma.io/service: edge-gateway
        port: http-8080
  conf:
    http:
      rules:
        - matches:
            - path:
                match: PREFIX
                value: /
          backends:
            - destination:
                kuma.io/service: demo-app_kuma-demo_svc_5000
";

#[test]
fn the_gateway_page_s_kubernetes_documents_and_its_kuma_dp_line_start_a_gateway() {
    let shell = Shell::new();
    let ground = &shell.ground;
    HttpServer::start(ground.at(3, 9000), |_, _| "demo app".to_owned());
    let token = shell.kumactl(&["generate", "dataplane-token", "--name", "demo", "--valid-for", "1h"]);
    let demo = "
type: Dataplane
mesh: default
name: demo
networking:
  address: NET.2
  admin: {port: ADMIN}
  inbound: [{port: 9000, serviceAddress: NET.3, tags: {kuma.io/service: demo-app_kuma-demo_svc_5000, kuma.io/protocol: http}}]
";
    let _demo = shell.kuma_dp(&token, demo, &[]);
    shell.apply(KUBERNETES_GATEWAY);
    let token =
        shell.kumactl(&["generate", "dataplane-token", "--tag", "kuma.io/service=edge-gateway", "--valid-for", "1h"]);
    let gateway = "
type: Dataplane
mesh: default
name: gateway-instance-1
networking:
  address: NET.4
  admin: {port: ADMIN}
  gateway:
    type: BUILTIN
    tags:
      kuma.io/service: edge-gateway
";
    let _gateway = shell.kuma_dp(&token, gateway, &["--dns-enabled=false"]);
    assert_eq!(get(ground.at(4, 8080), "foo.example.com", "/").body, "demo app");
}
