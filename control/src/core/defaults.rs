//! What a control plane makes for itself: the mesh `default` at its very first start, signing keys, the first admin
//! token, its id.

use super::{Core, Refusal};
use crate::identity::{TokenScope, UserClaims, generate_signing_key, uuid};
use crate::store::{Change, Expect, Key, Store};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::time::Duration;

/// The GlobalSecret that holds the first admin's token.
pub const ADMIN_TOKEN_SECRET: &str = "admin-user-token";
pub(super) const ADMIN: &str = "mesh-system:admin";
/// The first admin token's life, and that of tokens without `validFor`: ten years.
const ADMIN_TOKEN_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
const CLUSTER_ID: &str = "cluster-id";
const STARTED: &str = "defaults-made";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Mesh `default`, mTLS off, unless this store has been started with before.
    pub mesh: bool,
    /// Kuma's HostnameGenerators, unless this store has been started with before.
    pub hostname_generators: bool,
    /// Keys that sign tokens, for zones, users and each new mesh, and the admin's token. Making one takes a moment;
    /// a process that serves nobody else needs none.
    pub signing_keys: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { mesh: true, hostname_generators: true, signing_keys: true }
    }
}

pub(super) async fn cluster_id(store: &Store) -> Result<String, Refusal> {
    if let Some(id) = store.blob(CLUSTER_ID) {
        return Ok(String::from_utf8_lossy(&id).into_owned());
    }
    let id = uuid().map_err(Refusal::Failed)?;
    store.set_blob(CLUSTER_ID, id.clone().into_bytes()).await?;
    Ok(id)
}

impl Core {
    pub(super) async fn make_defaults(&self, defaults: Defaults) -> Result<(), Refusal> {
        let first = self.store.blob(STARTED).is_none();
        let mut changes = vec![Change::Blob { name: STARTED.into(), bytes: Some(vec![1]) }];
        if first && defaults.mesh && !self.has_mesh("default") {
            let body = json!({"type": "Mesh", "name": "default"}).to_string();
            changes.push(Change::put(Key::new("Mesh", "", "default"), body));
        }
        let has_new_mesh = changes.len() > 1;
        if first && defaults.hostname_generators {
            changes.extend(GENERATORS.map(generator));
        }
        let mut scopes = Vec::new();
        if defaults.signing_keys {
            let mut meshes: Vec<String> =
                self.store.list(Some("Mesh"), None).iter().map(|d| d.key.name.clone()).collect();
            if has_new_mesh {
                meshes.push("default".into());
            }
            scopes = meshes.into_iter().map(|mesh| TokenScope::Dataplane { mesh }).collect();
            scopes.extend([TokenScope::Zone, TokenScope::User]);
        }
        scopes.retain(|scope| self.key_ring(scope.clone()).is_empty());
        changes.extend(signing_keys(scopes).await?);
        self.store.apply(changes).await?;
        if defaults.signing_keys && self.store.get(&Key::new("GlobalSecret", "", ADMIN_TOKEN_SECRET)).is_none() {
            self.make_admin_token().await?;
        }
        Ok(())
    }

    async fn make_admin_token(&self) -> Result<(), Refusal> {
        let claims = UserClaims { name: ADMIN.into(), groups: vec![ADMIN.into()] };
        let ring = self.key_ring(TokenScope::User);
        let token = ring
            .issue(&claims, ADMIN_TOKEN_LIFETIME, self.clock.now_ms())
            .map_err(|e| Refusal::Failed(e.to_string()))?;
        self.store.apply(vec![secret("GlobalSecret", "", ADMIN_TOKEN_SECRET, &token)]).await?;
        Ok(())
    }
}

/// Name, template, what it selects, and by which labels beside the origin, which is its own too.
type Generator = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

const UNIVERSAL: &[(&str, &str)] = &[("kuma.io/env", "universal")];
const GENERATORS: [Generator; 7] = [
    ("local-universal-mesh-service", "{{ .DisplayName }}.svc.mesh.local", "meshService", UNIVERSAL, "zone"),
    ("local-mesh-external-service", "{{ .DisplayName }}.extsvc.mesh.local", "meshExternalService", &[], "zone"),
    (
        "synced-kube-mesh-service",
        "{{ .DisplayName }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local",
        "meshService",
        &[("kuma.io/env", "kubernetes"), ("k8s.kuma.io/is-headless-service", "false")],
        "global",
    ),
    (
        "synced-headless-kube-mesh-service",
        "{{ label \"statefulset.kubernetes.io/pod-name\" }}.{{ label \"k8s.kuma.io/service-name\" }}.{{ .Namespace }}.svc.{{ .Zone \
         }}.mesh.local",
        "meshService",
        &[("kuma.io/env", "kubernetes"), ("k8s.kuma.io/is-headless-service", "true")],
        "global",
    ),
    (
        "synced-universal-mesh-service",
        "{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local",
        "meshService",
        UNIVERSAL,
        "global",
    ),
    ("synced-mesh-external-service", "{{ .DisplayName }}.extsvc.mesh.local", "meshExternalService", &[], "global"),
    ("synced-mesh-multi-zone-service", "{{ .DisplayName }}.mzsvc.mesh.local", "meshMultiZoneService", &[], "global"),
];

fn generator((name, template, kind, labels, origin): Generator) -> Change {
    let mut wanted: serde_json::Map<String, serde_json::Value> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    wanted.insert("kuma.io/origin".into(), origin.into());
    let own = [("kuma.io/origin".to_owned(), origin.to_owned())];
    let body = json!({
        "type": "HostnameGenerator",
        "name": name,
        "labels": {"kuma.io/origin": origin},
        "spec": {"selector": {kind: {"matchLabels": wanted}}, "template": template},
    });
    let key = Key::new("HostnameGenerator", "", name);
    Change::Put { key, body: body.to_string(), labels: own.into(), expect: Expect::Anything }
}

/// The first key of each scope, made side by side.
pub(super) async fn signing_keys(scopes: Vec<TokenScope>) -> Result<Vec<Change>, Refusal> {
    let made: Vec<_> = scopes.iter().map(|_| tokio::task::spawn_blocking(generate_signing_key)).collect();
    let mut changes = Vec::new();
    for (scope, key) in scopes.iter().zip(made) {
        let pem = key.await.map_err(|e| Refusal::Failed(e.to_string()))?.map_err(Refusal::Failed)?;
        changes.push(secret(scope.secret_kind(), scope.mesh(), &scope.key_name("1"), &pem));
    }
    Ok(changes)
}

/// A Secret or GlobalSecret that holds `text`.
pub(super) fn secret(kind: &str, mesh: &str, name: &str, text: &str) -> Change {
    let mut body = json!({"type": kind, "name": name, "data": STANDARD.encode(text)});
    if !mesh.is_empty()
        && let Some(fields) = body.as_object_mut()
    {
        fields.insert("mesh".into(), mesh.into());
    }
    Change::put(Key::new(kind, mesh, name), body.to_string())
}
