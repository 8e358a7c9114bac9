//! The rules between resources, on a store in memory.
use super::*;
use crate::identity::{Identity, TokenError, UserClaims};
use crate::resource::read;
use std::time::Duration;

const NOW_MS: u64 = 1_800_000_000_000;
const NO_KEYS: Defaults = Defaults { mesh: true, hostname_generators: false, signing_keys: false };

async fn core(defaults: Defaults) -> Arc<Core> {
    let clock = Clock::from_fn(|| NOW_MS);
    Core::start(Store::memory(clock.clone()), clock, defaults).await.unwrap()
}

fn resources(yaml: &str) -> Vec<Resource> {
    let intake = read(yaml, "test.yaml");
    assert!(!intake.has_errors(), "{:?}", intake.problems);
    intake.resources
}

async fn apply(core: &Core, yaml: &str) -> Vec<Result<Outcome, Refusal>> {
    core.apply(resources(yaml)).await.into_iter().map(|w| w.outcome).collect()
}

fn dataplane(mesh: &str, name: &str) -> String {
    format!(
        "type: Dataplane\nmesh: {mesh}\nname: {name}\nnetworking:\n  address: 127.0.0.1\n  inbound:\n  - port: 8080\n    \
         tags: {{kuma.io/service: web}}\n"
    )
}

const BUILTIN: &str =
    "type: Mesh\nname: default\nmtls:\n  enabledBackend: ca-1\n  backends:\n  - {name: ca-1, type: builtin}\n";

fn mesh_error(outcome: &Result<Outcome, Refusal>) -> (&str, &str) {
    match outcome {
        Err(Refusal::Invalid(list)) => (list[0].field.as_str(), list[0].message.as_str()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn first_start_makes_the_default_mesh_keys_and_an_admin_token() {
    let core = core(Defaults::default()).await;
    assert!(core.has_mesh("default"));
    let document = core.get(&Key::new("GlobalSecret", "", ADMIN_TOKEN_SECRET)).unwrap();
    let key = document.key.clone();
    let Spec::GlobalSecret(secret) = typed(&document).unwrap().spec else { panic!("{key}") };
    use base64::Engine;
    let token = base64::engine::general_purpose::STANDARD.decode(secret.data).unwrap();
    let ring = core.key_ring(TokenScope::User);
    let claims: UserClaims = ring.verify(std::str::from_utf8(&token).unwrap(), NOW_MS).unwrap();
    assert_eq!(claims.name, "mesh-system:admin");
    assert!(!core.key_ring(TokenScope::Zone).is_empty());
    assert!(!core.key_ring(TokenScope::Dataplane { mesh: "default".into() }).is_empty());
    apply(&core, "type: Mesh\nname: two\n").await[0].as_ref().unwrap();
    assert!(!core.key_ring(TokenScope::Dataplane { mesh: "two".into() }).is_empty());
}

#[tokio::test]
async fn a_deleted_default_mesh_stays_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let open = || Store::open(dir.path(), Clock::system()).unwrap();
    let core = Core::start(open(), clock.clone(), NO_KEYS).await.unwrap();
    let id = core.cluster_id().to_string();
    core.delete(&Key::new("Mesh", "", "default")).await.unwrap();
    drop(core);
    let core = Core::start(open(), clock, NO_KEYS).await.unwrap();
    assert!(!core.has_mesh("default"));
    assert_eq!(core.cluster_id(), id);
}

#[tokio::test]
async fn a_process_without_keys_says_so_when_it_should_sign() {
    let core = core(NO_KEYS).await;
    let error = core.key_ring(TokenScope::Zone).issue(&(), Duration::from_secs(1), NOW_MS).unwrap_err();
    assert!(matches!(error, TokenError::NoSigningKey { .. }), "{error}");
}

#[tokio::test]
async fn one_batch_may_bring_a_mesh_and_what_lives_in_it() {
    let core = core(NO_KEYS).await;
    let yaml = [dataplane("new", "a"), "type: Mesh\nname: new\n".into(), dataplane("absent", "b")].join("---\n");
    let outcomes = apply(&core, &yaml).await;
    assert_eq!(outcomes[..2], [Ok(Outcome::Created), Ok(Outcome::Created)]);
    assert_eq!(outcomes[2], Err(Refusal::MeshNotFound { mesh: "absent".into() }));
    let again = apply(&core, &dataplane("new", "a")).await;
    assert_eq!(again, [Ok(Outcome::Unchanged)]);
}

#[tokio::test]
async fn a_refused_new_mesh_takes_its_dataplanes_along() {
    let core = core(NO_KEYS).await;
    let mesh = "type: Mesh\nname: new\nmtls:\n  enabledBackend: c\n  backends:\n  - name: c\n    type: provided\n    \
                conf: {cert: {secret: gone}, key: {secret: gone}}\n";
    let outcomes = apply(&core, &[mesh.to_string(), dataplane("new", "a")].join("---\n")).await;
    assert_eq!(mesh_error(&outcomes[0]).0, "mtls.backends[0].conf.cert");
    assert_eq!(outcomes[1], Err(Refusal::MeshNotFound { mesh: "new".into() }));
    assert!(core.list(Some("Dataplane"), None).is_empty());
}

#[tokio::test]
async fn builtin_ca_is_made_once_and_signs() {
    let core = core(NO_KEYS).await;
    assert!(core.mesh_ca("default").unwrap().is_none());
    apply(&core, BUILTIN).await[0].as_ref().unwrap();
    let ca = core.mesh_ca("default").unwrap().unwrap();
    assert_eq!((ca.backend.as_str(), ca.permissive, ca.lifetime.as_secs()), ("ca-1", false, 86_400));
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let services = ["web".to_string()];
    ca.ca.issue(csr.der(), Identity { services: &services, tags: &[] }, ca.lifetime, NOW_MS).unwrap();
    let permissive = BUILTIN.replace("type: builtin", "type: builtin, mode: PERMISSIVE");
    apply(&core, &permissive).await[0].as_ref().unwrap();
    let after = core.mesh_ca("default").unwrap().unwrap();
    assert!(after.permissive);
    assert_eq!(after.ca.trust_pem(), ca.ca.trust_pem());
    assert!(Arc::ptr_eq(&after, &core.mesh_ca("default").unwrap().unwrap()));
}

#[tokio::test]
async fn an_enabled_ca_is_not_exchanged() {
    let core = core(NO_KEYS).await;
    apply(&core, BUILTIN).await[0].as_ref().unwrap();
    let other = apply(&core, &BUILTIN.replace("ca-1", "ca-2")).await;
    assert_eq!(
        mesh_error(&other[0]),
        (
            "mtls.enabledBackend",
            "Changing CA when mTLS is enabled is forbidden. Disable mTLS first and then change the CA"
        )
    );
    apply(&core, "type: Mesh\nname: default\n").await[0].as_ref().unwrap();
    apply(&core, &BUILTIN.replace("ca-1", "ca-2")).await[0].as_ref().unwrap();
}

#[tokio::test]
async fn provided_ca_may_come_with_its_secrets() {
    use base64::Engine;
    let core = core(NO_KEYS).await;
    let made = crate::identity::CaMaterial::generate("default", Duration::from_secs(86_400), NOW_MS).unwrap();
    let secret = |name: &str, text: &str| {
        let data = base64::engine::general_purpose::STANDARD.encode(text);
        format!("type: Secret\nmesh: default\nname: {name}\ndata: {data}\n")
    };
    let mesh = "type: Mesh\nname: default\nmtls:\n  enabledBackend: c\n  backends:\n  - name: c\n    type: provided\n    \
                conf: {cert: {secret: cert}, key: {secret: key}}\n";
    let yaml = [mesh.to_string(), secret("cert", &made.cert_pem), secret("key", &made.key_pem)].join("---\n");
    for outcome in apply(&core, &yaml).await {
        outcome.unwrap();
    }
    assert_eq!(core.mesh_ca("default").unwrap().unwrap().ca.trust_pem(), made.cert_pem);
}

#[tokio::test]
async fn a_mesh_with_dataplanes_stays_and_an_empty_one_goes_with_all_it_holds() {
    let core = core(NO_KEYS).await;
    apply(&core, &[BUILTIN.to_string(), dataplane("default", "a")].join("---\n")).await;
    let mesh = Key::new("Mesh", "", "default");
    let refused = core.delete(&mesh).await;
    assert_eq!(mesh_error(&refused).1, "unable to delete mesh, there are still some dataplanes attached");
    core.delete(&Key::new("Dataplane", "default", "a")).await.unwrap();
    assert_eq!(core.delete(&mesh).await, Ok(Outcome::Deleted));
    assert!(core.list(None, Some("default")).is_empty());
    assert!(matches!(core.delete(&mesh).await, Err(Refusal::NotFound { .. })));
}

#[tokio::test]
async fn contents_are_typed_once_a_version() {
    let core = core(NO_KEYS).await;
    apply(&core, &dataplane("default", "a")).await;
    let one = core.contents();
    let two = core.contents();
    assert!(one.unreadable.is_empty());
    assert_eq!(one.resources.len(), 2);
    for (a, b) in one.resources.iter().zip(two.resources.iter()) {
        assert!(Arc::ptr_eq(a, b));
    }
    assert_eq!(one.resources[0].meta.created_ms, NOW_MS);
    core.store().apply(vec![Change::put(Key::new("Zone", "", "bad"), "{")]).await.unwrap();
    let three = core.contents();
    assert_eq!(three.unreadable.len(), 1);
    assert!(Arc::ptr_eq(&three.resources[0], &one.resources[0]));
}

#[tokio::test]
async fn a_mesh_with_requirements_refuses_strangers() {
    let core = core(NO_KEYS).await;
    let mesh =
        "type: Mesh\nname: default\nconstraints:\n  dataplaneProxy:\n    requirements:\n    - tags: {team: \"*\"}\n";
    let outcomes = apply(&core, &[mesh.to_string(), dataplane("default", "a")].join("---\n")).await;
    outcomes[0].as_ref().unwrap();
    assert_eq!(mesh_error(&outcomes[1]).0, "networking.inbound[0].tags");
    let later = apply(&core, &dataplane("default", "a")).await;
    assert!(mesh_error(&later[0]).1.contains("does not fulfill any requirements"));
}
