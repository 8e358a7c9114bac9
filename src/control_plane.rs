//! `cp run`: the control plane as a process; and its start, which `up` shares.

use crate::failure::Failure;
use control::api::{Api, Options};
use control::compile::{self, ProxyKey};
use control::core::{Core, Defaults};
use control::publish::{Loop, Subscription};
use control::settings::{Settings, StoreKind};
use control::store::{Store, StoreError};
use control::time::Clock;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A control plane that works inside this process.
pub(crate) struct ControlPlane {
    pub(crate) core: Arc<Core>,
    pub(crate) subscription: Subscription,
    rest: Arc<Api>,
    /// Where the REST API listens.
    pub(crate) api: SocketAddr,
    /// What `GET /ready` tells.
    pub(crate) ready: watch::Sender<bool>,
    /// The API ends when this turns true or is dropped.
    stop: watch::Sender<bool>,
    /// Its servers and loops; they end when this is dropped.
    pub(crate) tasks: JoinSet<()>,
}

/// Where state lives unless said otherwise.
pub(crate) fn default_data_dir() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return "/var/lib/weir".into();
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/state");
    state.unwrap_or_else(home).join("weir")
}

/// Settings from a file and the environment; warnings are logged.
pub(crate) fn settings(config_file: Option<&Path>) -> Result<Settings, Failure> {
    let file = match config_file {
        None => serde_json::Value::Null,
        Some(path) => {
            let (name, text) = crate::ctl::read_text(path).map_err(Failure::config)?;
            control::resource::yaml_to_json(&text).map_err(|e| Failure::config(format!("{name}: {e}")))?
        }
    };
    let env = |name: &str| std::env::var(name).ok();
    let (settings, warnings) = Settings::new(default_data_dir())
        .load(&file, &env)
        .map_err(|errors| Failure::config(located(errors, config_file)))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(settings)
}

/// An open that failed has no change to speak of.
fn cannot_open(error: &StoreError) -> String {
    match error {
        StoreError::Io { path, why } => {
            format!("can't open the store {}: {why}; WEIR_DATA_DIR (or --data) names another folder", path.display())
        }
        other => other.to_string(),
    }
}

/// Errors a line each; those that aren't of a variable are of the file.
fn located(errors: Vec<String>, config_file: Option<&Path>) -> String {
    let file = config_file.map(|f| format!("{}: ", f.display())).unwrap_or_default();
    let line =
        |e: &String| if e.starts_with("KUMA_") || e.starts_with("WEIR_") { e.clone() } else { format!("{file}{e}") };
    errors.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Store, core, publishing loop and REST API.
pub(crate) async fn start(settings: &Settings, signing_keys: bool) -> Result<ControlPlane, Failure> {
    let clock = Clock::system();
    let store = match settings.store {
        StoreKind::Memory => Store::memory(clock.clone()),
        StoreKind::Sqlite => Store::open(&settings.data_dir, clock.clone()).map_err(|e| cannot_open(&e))?,
    };
    let defaults = Defaults {
        mesh: !settings.skip_mesh_creation,
        hostname_generators: !settings.skip_hostname_generators,
        signing_keys,
    };
    let core = Core::start(store, clock, defaults).await.map_err(|e| e.to_string())?;
    core.set_probing(settings.probing.enabled);
    let (publishing, subscription) = Loop::start(core.clone(), settings.clone()).await.map_err(|e| e.to_string())?;
    let api = bind(settings.api, "REST API", if signing_keys { "KUMA_API_SERVER_HTTP_PORT" } else { "--api" }).await?;
    let address = api.local_addr().map_err(|e| e.to_string())?;
    let mut tasks = JoinSet::new();
    tasks.spawn(publishing.run());
    tasks.spawn(control::generate::Generator::new(core.clone()).run());
    let (ready, is_ready) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let rest = Api::new(core.clone(), options(settings, &subscription), is_ready);
    tasks.spawn(rest.clone().run(api, None, stopped));
    Ok(ControlPlane { core, subscription, rest, api: address, ready, stop, tasks })
}

pub(crate) async fn bind(address: SocketAddr, what: &str, variable: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|e| {
        Failure::failed(format!("{what}: can't listen on {address}: {e}; choose another port with {variable}"))
    })
}

pub(crate) fn run(config_file: Option<PathBuf>) -> Result<(), Failure> {
    let settings = settings(config_file.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let mut cp = start(&settings, true).await?;
    let addresses = machine_addresses();
    let material = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => {
            let read = |path: &Path| {
                std::fs::read_to_string(path).map_err(|e| Failure::config(format!("{}: {e}", path.display())))
            };
            (read(cert)?, read(key)?, cert.clone())
        }
        _ => {
            let made = control::identity::server_material(&settings.data_dir, &addresses, cp.core.clock())?;
            (made.cert_pem, made.key_pem, made.cert_path)
        }
    };
    let tls = server_config(&material.0, &material.1, b"h2")?;
    let channel = bind(settings.channel, "control channel", "KUMA_DP_SERVER_PORT").await?;
    let service = control::channel::Service {
        core: cp.core.clone(),
        subscription: cp.subscription.clone(),
        auth: (settings.dp_auth, settings.zone_auth),
        patience: control::channel::Patience { grace: settings.offline_grace, cleanup: settings.dataplane_cleanup },
    };
    let channel_address = channel.local_addr().map_err(|e| e.to_string())?;
    cp.tasks.spawn(control::channel::serve(channel, tls, service));
    let mut secure = String::new();
    if let Some(address) = settings.api_https {
        let https = bind(address, "REST API over TLS", "KUMA_API_SERVER_HTTPS_PORT").await?;
        let acceptor = TlsAcceptor::from(server_config(&material.0, &material.1, b"http/1.1")?);
        secure = format!(" and https://{}", https.local_addr().unwrap_or(address));
        cp.tasks.spawn(cp.rest.clone().run(https, Some(acceptor), cp.stop.subscribe()));
    }
    cp.ready.send_replace(true);
    let store = match settings.store {
        StoreKind::Memory => "in memory (lost at the end)".to_owned(),
        StoreKind::Sqlite => settings.data_dir.display().to_string(),
    };
    let stop = crate::notify::stop_signal();
    eprintln!(
        "ready: REST http://{}{secure}, control channel https://{channel_address} (CA {}), store {store}",
        cp.api,
        material.2.display(),
    );
    crate::notify::ready();
    stop.await;
    Ok(())
}

/// The API's view of the settings and of what proxies execute.
fn options(settings: &Settings, subscription: &Subscription) -> Options {
    let (subscription, published) = (subscription.clone(), subscription.clone());
    let snapshots = move |mesh: &str, name: &str, json: bool| {
        let published = subscription.borrow().clone();
        published.resource("Dataplane", mesh, name)?;
        let tables = compile::compile(&published.world, &ProxyKey::dataplane(mesh, name)).tables;
        Some(if json { serde_json::to_string_pretty(&tables).unwrap_or_default() } else { tables.to_string() })
    };
    Options {
        localhost_is_admin: settings.localhost_is_admin,
        config: settings.to_json(),
        snapshots: Some(Box::new(snapshots)),
        published: Some(published),
        ..Options::default()
    }
}

fn server_config(cert_pem: &str, key_pem: &str, alpn: &[u8]) -> Result<Arc<rustls::ServerConfig>, Failure> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let bad = |what: &str, why: String| Failure::config(format!("{what} of the control plane: {why}"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert_pem.as_bytes()).collect();
    let chain = chain.map_err(|e| bad("certificate", e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad("key", e.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(proxy::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS", e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| bad("certificate and key", e.to_string()))?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// Every address of this machine, for the certificate's names and for `up`'s question "is it mine?".
pub(crate) fn machine_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let ip = |storage: nix::sys::socket::SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    interfaces.filter_map(|i| i.address).filter_map(ip).collect()
}
