//! `install control-plane`: Kubernetes manifests of a control plane, and of zone proxies when they are wanted. Plain
//! YAML for `kubectl apply -f -`; must not talk to a cluster.

use crate::failure::Failure;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const NAME: &str = "kong-mesh-control-plane";
const DATA_DIR: &str = "/var/lib/weir";
const DATA_SIZE: &str = "1Gi";
/// Config maps that `--set …extraConfigMaps[N]…` may name.
const CONFIG_MAPS_MAX: usize = 64;

#[derive(Debug, Default, clap::Args)]
pub(crate) struct ControlPlane {
    /// Namespace of everything
    #[arg(long, default_value = "kong-mesh-system")]
    namespace: String,
    /// Image with this binary as `weir` in its PATH
    #[arg(long, env = "WEIR_IMAGE", default_value = concat!("weir:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// NAME=value for the control plane's environment, repeatable
    #[arg(long = "env-var", value_name = "NAME=VALUE")]
    env_vars: Vec<String>,
    /// A value of Kuma's Helm chart: kuma.controlPlane.extraConfigMaps[N].{name,mountPath,readonly},
    /// kuma.controlPlane.envVars.NAME, kuma.egress.enabled, kuma.ingress.enabled
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// A zone egress too (port 10002)
    #[arg(long)]
    egress_enabled: bool,
    /// A zone ingress too (port 10001)
    #[arg(long)]
    ingress_enabled: bool,
    /// Name of the zone
    #[arg(long, default_value = "")]
    zone: String,
    /// zone or standalone
    #[arg(long, default_value = "")]
    mode: String,
}

pub(crate) struct Manifests {
    pub(crate) text: String,
    pub(crate) warnings: Vec<String>,
}

/// A config map to mount into the control plane.
#[derive(Default)]
struct ConfigMap {
    name: String,
    mount_path: String,
    writable: bool,
}

/// All that the flags say.
#[derive(Default)]
struct Wanted {
    env: BTreeMap<String, String>,
    config_maps: BTreeMap<usize, ConfigMap>,
    egress: bool,
    ingress: bool,
    warnings: Vec<String>,
}

/// A proxy of the zone: what it is called and listens on.
struct ZoneProxy {
    flag: &'static str,
    kind: &'static str,
    name: &'static str,
    port: u16,
}

const EGRESS: ZoneProxy = ZoneProxy { flag: "egress", kind: "ZoneEgress", name: "kong-mesh-egress", port: 10002 };
const INGRESS: ZoneProxy = ZoneProxy { flag: "ingress", kind: "ZoneIngress", name: "kong-mesh-ingress", port: 10001 };

pub(crate) fn control_plane(args: &ControlPlane) -> Result<Manifests, Failure> {
    let wanted = wanted(args)?;
    let namespace = args.namespace.as_str();
    let mut documents = vec![
        (String::new(), json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})),
        (String::new(), head("v1", "ServiceAccount", NAME, namespace, Map::new())),
        (String::new(), data_claim(namespace)),
        (String::new(), deployment(args, &wanted)),
        (
            String::new(),
            service(NAME, namespace, &[("dp-server", 5678), ("http-api-server", 5681), ("https-api-server", 5682)]),
        ),
    ];
    for proxy in [(wanted.egress, EGRESS), (wanted.ingress, INGRESS)].into_iter().filter_map(|(is, p)| is.then_some(p))
    {
        documents.push((String::new(), head("v1", "ServiceAccount", proxy.name, namespace, Map::new())));
        documents.push((String::new(), proxy.resource(namespace)));
        documents.push((proxy.note(namespace), proxy.deployment(args)));
        documents.push((String::new(), service(proxy.name, namespace, &[(proxy.flag, proxy.port)])));
    }
    let mut text = String::new();
    for (note, document) in documents {
        text.push_str("---\n");
        text.push_str(&note);
        text.push_str(&control::resource::to_yaml(&document));
    }
    Ok(Manifests { text, warnings: wanted.warnings })
}

fn wanted(args: &ControlPlane) -> Result<Wanted, Failure> {
    let mut wanted = Wanted { egress: args.egress_enabled, ingress: args.ingress_enabled, ..Wanted::default() };
    // The API is for the cluster, not only for the pod.
    wanted.env.insert("KUMA_API_SERVER_HTTP_INTERFACE".into(), "0.0.0.0".into());
    wanted.env.insert("KUMA_API_SERVER_HTTPS_INTERFACE".into(), "0.0.0.0".into());
    wanted.env.insert("WEIR_DATA_DIR".into(), DATA_DIR.into());
    for (name, value) in [("KUMA_MULTIZONE_ZONE_NAME", &args.zone), ("KUMA_MODE", &args.mode)] {
        if !value.is_empty() {
            wanted.env.insert(name.into(), value.clone());
        }
    }
    // Helm takes several pairs in one flag, too.
    for pair in args.settings.iter().flat_map(|s| s.split(',')) {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| Failure::usage(format!("--set {pair}: write it as key=value")))?;
        if !wanted.set(key, value) {
            wanted.warnings.push(format!("--set {key}: this value has no meaning here and is ignored"));
        }
    }
    for pair in &args.env_vars {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| Failure::usage(format!("--env-var {pair}: write it as NAME=value")))?;
        wanted.env.insert(name.to_owned(), value.to_owned());
    }
    if let Some(broken) = wanted.config_maps.values().find(|m| m.name.is_empty() || m.mount_path.is_empty()) {
        let given = format!("{}{}", broken.name, broken.mount_path);
        return Err(Failure::usage(format!("--set …extraConfigMaps[…]: {given:?} needs both .name and .mountPath")));
    }
    Ok(wanted)
}

impl Wanted {
    /// One value of the chart; false when it isn't known here.
    fn set(&mut self, key: &str, value: &str) -> bool {
        let key = key.strip_prefix("kuma.").unwrap_or(key);
        if let Some(name) = key.strip_prefix("controlPlane.envVars.") {
            self.env.insert(name.to_owned(), value.to_owned());
            return true;
        }
        match key {
            "egress.enabled" => self.egress = value == "true",
            "ingress.enabled" => self.ingress = value == "true",
            "controlPlane.zone" => {
                self.env.insert("KUMA_MULTIZONE_ZONE_NAME".into(), value.to_owned());
            }
            "controlPlane.mode" => {
                self.env.insert("KUMA_MODE".into(), value.to_owned());
            }
            _ => return self.set_config_map(key, value).is_some(),
        }
        true
    }

    fn set_config_map(&mut self, key: &str, value: &str) -> Option<()> {
        let (index, field) = key.strip_prefix("controlPlane.extraConfigMaps[")?.split_once("].")?;
        let index: usize = index.parse().ok().filter(|i| *i < CONFIG_MAPS_MAX)?;
        if !["name", "mountPath", "readonly", "readOnly"].contains(&field) {
            return None;
        }
        let map = self.config_maps.entry(index).or_default();
        match field {
            "name" => value.clone_into(&mut map.name),
            "mountPath" => value.clone_into(&mut map.mount_path),
            _ => map.writable = value == "false",
        }
        Some(())
    }
}

fn head(api: &str, kind: &str, name: &str, namespace: &str, rest: Map<String, Value>) -> Value {
    let labels = json!({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "weir"});
    let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
    let mut all = Map::from_iter([
        ("apiVersion".to_owned(), json!(api)),
        ("kind".to_owned(), json!(kind)),
        ("metadata".to_owned(), metadata),
    ]);
    all.extend(rest);
    Value::Object(all)
}

fn with(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The store is a file: it outlives the pod.
fn data_claim(namespace: &str) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": DATA_SIZE}}});
    head("v1", "PersistentVolumeClaim", NAME, namespace, with([("spec", spec)]))
}

fn service(name: &str, namespace: &str, ports: &[(&str, u16)]) -> Value {
    let ports: Vec<Value> =
        ports.iter().map(|(name, port)| json!({"name": name, "port": port, "targetPort": port})).collect();
    let spec = json!({"selector": {"app": name}, "ports": ports});
    head("v1", "Service", name, namespace, with([("spec", spec)]))
}

fn pods(name: &str, strategy: &str, pod: Value) -> Map<String, Value> {
    let labels = json!({"app": name});
    let template = json!({"metadata": {"labels": labels}, "spec": pod});
    let spec = json!({
        "replicas": 1,
        "strategy": {"type": strategy},
        "selector": {"matchLabels": labels},
        "template": template,
    });
    with([("spec", spec)])
}

fn deployment(args: &ControlPlane, wanted: &Wanted) -> Value {
    let env: Vec<Value> = wanted.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let mut mounts = vec![json!({"name": "data", "mountPath": DATA_DIR})];
    let mut volumes = vec![json!({"name": "data", "persistentVolumeClaim": {"claimName": NAME}})];
    for (index, map) in &wanted.config_maps {
        let name = format!("extra-{index}");
        mounts.push(json!({"name": name, "mountPath": map.mount_path, "readOnly": !map.writable}));
        volumes.push(json!({"name": name, "configMap": {"name": map.name}}));
    }
    let container = json!({
        "name": "control-plane",
        "image": args.image,
        "command": ["weir"],
        "args": ["cp", "run"],
        "env": env,
        "ports": [
            {"name": "dp-server", "containerPort": 5678},
            {"name": "http-api", "containerPort": 5681},
            {"name": "https-api", "containerPort": 5682},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 5681}},
        "volumeMounts": mounts,
    });
    let pod = json!({"serviceAccountName": NAME, "containers": [container], "volumes": volumes});
    // Two processes must not have the store's file at a time.
    head("apps/v1", "Deployment", NAME, &args.namespace, pods(NAME, "Recreate", pod))
}

const TOKEN_NOTE: &str = "\
# Needs a secret of the same name with a token and the control plane's certificate:
#   kumactl generate zone-token --valid-for 720h --scope SCOPE > token
#   kubectl create secret generic NAME --namespace NAMESPACE --from-file token --from-file ca.crt
";

impl ZoneProxy {
    fn resource(&self, namespace: &str) -> Value {
        let text = format!(
            "type: {}\nname: {{{{ name }}}}\nnetworking:\n  address: {{{{ address }}}}\n  port: {}\n",
            self.kind, self.port
        );
        head("v1", "ConfigMap", self.name, namespace, with([("data", json!({"proxy.yaml": text}))]))
    }

    fn deployment(&self, args: &ControlPlane) -> Value {
        let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        let container = json!({
            "name": self.flag,
            "image": args.image,
            "command": ["weir"],
            "args": [
                "dp",
                "run",
                format!("--proxy-type={}", self.flag),
                format!("--cp-address=https://{NAME}.{}:5678", args.namespace),
                "--ca-cert-file=/var/run/secrets/weir/ca.crt",
                "--dataplane-token-file=/var/run/secrets/weir/token",
                "--dataplane-file=/etc/weir/proxy.yaml",
                "--dataplane-var=name=$(POD_NAME)",
                "--dataplane-var=address=$(POD_IP)",
                "--data=/tmp",
            ],
            "env": [
                {"name": "POD_NAME", "valueFrom": field("metadata.name")},
                {"name": "POD_IP", "valueFrom": field("status.podIP")},
            ],
            "ports": [{"name": self.flag, "containerPort": self.port}],
            "volumeMounts": [
                {"name": "token", "mountPath": "/var/run/secrets/weir", "readOnly": true},
                {"name": "resource", "mountPath": "/etc/weir", "readOnly": true},
            ],
        });
        let pod = json!({
            "serviceAccountName": self.name,
            "containers": [container],
            "volumes": [
                {"name": "token", "secret": {"secretName": self.name}},
                {"name": "resource", "configMap": {"name": self.name}},
            ],
        });
        head("apps/v1", "Deployment", self.name, &args.namespace, pods(self.name, "RollingUpdate", pod))
    }

    /// How to make what the deployment needs.
    fn note(&self, namespace: &str) -> String {
        TOKEN_NOTE.replace("SCOPE", self.flag).replace("NAMESPACE", namespace).replace("NAME", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(args: &ControlPlane) -> (Vec<Value>, Vec<String>) {
        let manifests = control_plane(args).unwrap_or_else(|f| panic!("{}", f.text));
        let documents = manifests.text.split("---\n").filter(|d| !d.is_empty());
        (documents.map(|d| control::resource::yaml_to_json(d).unwrap()).collect(), manifests.warnings)
    }

    fn plain() -> ControlPlane {
        ControlPlane { namespace: "kong-mesh-system".into(), image: "weir:1".into(), ..ControlPlane::default() }
    }

    fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
        let is = |d: &&Value| d["kind"] == kind && d["metadata"]["name"] == name;
        documents.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    #[test]
    fn a_control_plane_has_its_namespace_account_deployment_and_service() {
        let (documents, warnings) = made(&plain());
        assert!(warnings.is_empty());
        find(&documents, "Namespace", "kong-mesh-system");
        find(&documents, "ServiceAccount", NAME);
        let pod = &find(&documents, "Deployment", NAME)["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["args"], json!(["cp", "run"]));
        let ports = find(&documents, "Service", NAME)["spec"]["ports"].as_array().unwrap().clone();
        assert_eq!(ports.iter().map(|p| p["port"].as_u64().unwrap()).collect::<Vec<_>>(), [5678, 5681, 5682]);
    }

    #[test]
    fn the_documentations_own_flags_mount_the_config_map_and_set_the_variable() {
        let path = "/path/to/mounted-corefile-template";
        let mut args = plain();
        args.env_vars = vec![format!("KUMA_BOOTSTRAP_SERVER_PARAMS_COREFILE_TEMPLATE_PATH={path}")];
        args.settings = vec![
            "kuma.controlPlane.extraConfigMaps[0].name=corefile-template".into(),
            format!("kuma.controlPlane.extraConfigMaps[0].mountPath={path}/corefile-template"),
            "kuma.nonsense=1".into(),
        ];
        let (documents, warnings) = made(&args);
        let pod = &find(&documents, "Deployment", NAME)["spec"]["template"]["spec"];
        assert_eq!(pod["volumes"][1], json!({"name": "extra-0", "configMap": {"name": "corefile-template"}}));
        assert_eq!(pod["containers"][0]["volumeMounts"][1]["mountPath"], format!("{path}/corefile-template"));
        let variable = json!({"name": "KUMA_BOOTSTRAP_SERVER_PARAMS_COREFILE_TEMPLATE_PATH", "value": path});
        assert!(pod["containers"][0]["env"].as_array().unwrap().contains(&variable));
        assert_eq!(warnings, ["--set kuma.nonsense: this value has no meaning here and is ignored"]);
    }

    #[test]
    fn an_egress_is_a_proxy_with_its_resource_token_and_port() {
        let (documents, _) = made(&ControlPlane { egress_enabled: true, ..plain() });
        assert_eq!(find(&documents, "Service", EGRESS.name)["spec"]["ports"][0]["port"], 10002);
        let container = &find(&documents, "Deployment", EGRESS.name)["spec"]["template"]["spec"]["containers"][0];
        assert!(container["args"].as_array().unwrap().contains(&json!("--proxy-type=egress")));
        let resource = find(&documents, "ConfigMap", EGRESS.name)["data"]["proxy.yaml"].as_str().unwrap();
        let resource = resource.replace("{{ name }}", "e-1").replace("{{ address }}", "10.0.0.9");
        let read = control::resource::read(&resource, "proxy.yaml");
        assert!(!read.has_errors() && read.resources[0].kind() == "ZoneEgress", "{:?}", read.problems);
    }

    #[test]
    fn a_config_map_without_a_place_is_refused() {
        let settings = vec!["kuma.controlPlane.extraConfigMaps[0].name=x".into()];
        let failure = control_plane(&ControlPlane { settings, ..plain() }).err().unwrap();
        assert_eq!(failure.exit, 2);
    }
}
