//! What the HTTP engine asks of the rest of the proxy, answered for one downstream connection: decide by the snapshot
//! in force at each request, pick an endpoint, connect to it, count and log the outcome.

use crate::accesslog::{self, Record, Request};
use crate::connection::Serving;
use crate::error::{ConnError, Reason};
use crate::http::traffic::{Action, Decision, Headers, Outcome, Picked, Plan, RequestView, Settings, Traffic};
use crate::metrics::{Direction, Handle, RequestGuard};
use crate::outbound::{CONNECT_TIMEOUT, Site};
use crate::passthrough;
use crate::routing::{self, Decided, Seen};
use crate::socket;
use crate::stream::Stream;
use crate::upstream::{self, no_endpoint};
use crate::worker::Worker;
use snapshot::lookup::{self, Facts, Routed};
use snapshot::{Access, Address, Filters, Protocol, Role, ServiceRow, Snapshot, SniTarget, Timeouts, UpstreamTls};
use std::borrow::Cow;
use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

const NO_ROUTES_PAGE: &str = "This is a Kuma MeshGateway. No routes match this MeshGateway!\n";

/// How each kind of listener speaks HTTP, shared by its connections.
pub(crate) struct HttpSettings {
    pub sidecar: Arc<Settings>,
    pub inbound: Arc<Settings>,
    pub gateway: Arc<Settings>,
    pub gateway_https: Arc<Settings>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            sidecar: Arc::new(Settings::sidecar()),
            inbound: Arc::new(Settings::sidecar()),
            gateway: Arc::new(Settings::gateway(false)),
            gateway_https: Arc::new(Settings::gateway(true)),
        }
    }
}

/// Where connections of equal keys lead: interchangeable while the service's row has this endpoint and the same TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointKey {
    /// The service's row; none for the own application.
    service: Option<Rc<str>>,
    address: Address,
    port: u16,
    source: Option<IpAddr>,
    tls: u64,
}

/// Of the address alone, in one step: what shares it is told apart by comparing.
impl Hash for EndpointKey {
    fn hash<S: Hasher>(&self, state: &mut S) {
        match &self.address {
            Address::Ip(IpAddr::V4(ip)) => state.write_u64(u64::from(ip.to_bits()) << 16 | u64::from(self.port)),
            address => (address, self.port).hash(state),
        }
    }
}

impl EndpointKey {
    /// Whether a pooled connection is still of use.
    pub(crate) fn is_current(&self, snapshot: &Snapshot) -> bool {
        let listed = |row: &Arc<ServiceRow>| {
            tls_digest(&row.tls) == self.tls
                && row.endpoints.iter().any(|e| e.port == self.port && e.address == self.address)
        };
        self.service.as_deref().is_none_or(|service| snapshot.service(service).is_some_and(listed))
    }
}

/// Tells connections made under other TLS settings apart: they must not be used once the row asks for these.
fn tls_digest(tls: &UpstreamTls) -> u64 {
    if *tls == UpstreamTls::None {
        return 0;
    }
    let mut hasher = std::hash::DefaultHasher::new();
    tls.hash(&mut hasher);
    hasher.finish()
}

/// Whom a request goes to.
pub(crate) enum Target {
    Service(Arc<ServiceRow>),
    App(SocketAddr, Option<IpAddr>),
}

/// Keeps the endpoint counted as used.
pub(crate) enum Load {
    Service { _picked: upstream::Picked, _active: RequestGuard },
    App,
}

enum Way {
    /// By the routes of a listener or SNI.
    Routed { site: Site, scheme: &'static str },
    /// To the own application.
    App { service: Arc<str>, app: SocketAddr, source: Option<IpAddr>, protocol: Protocol },
    /// To where the client was headed, beyond the mesh.
    Passthrough,
}

pub(crate) struct HttpTraffic {
    worker: Rc<Worker>,
    way: Way,
    peer: SocketAddr,
    /// Key of the listener's row.
    destination: SocketAddr,
    /// The peer's identities; none without mTLS, and then no permission applies.
    peers: Option<Vec<String>>,
    last: RefCell<Option<Rc<Counted>>>,
}

/// The service of the last request, which mostly is that of the next one too.
struct Counted {
    /// If it has one. Weak: it keeps only the address from being another row's.
    row: Weak<ServiceRow>,
    service: Rc<str>,
    /// The row's [`tls_digest`].
    tls: u64,
    metrics: Handle,
}

impl HttpTraffic {
    pub(crate) fn routed(serving: &Serving, site: Site, scheme: &'static str) -> Self {
        Self::new(serving, Way::Routed { site, scheme })
    }

    pub(crate) fn inbound(
        serving: &Serving,
        service: &str,
        app: (SocketAddr, Option<IpAddr>),
        protocol: Protocol,
    ) -> Self {
        Self::new(serving, Way::App { service: service.into(), app: app.0, source: app.1, protocol })
    }

    /// Each request has to be one that may pass.
    pub(crate) fn passthrough(serving: &Serving) -> Self {
        Self::new(serving, Way::Passthrough)
    }

    fn new(serving: &Serving, way: Way) -> Self {
        let (worker, peer) = (serving.worker.clone(), serving.peer);
        Self { worker, way, peer, destination: serving.destination, peers: None, last: RefCell::default() }
    }

    /// Requests are admitted by the permission that the row names when they come: a connection outlives swaps.
    pub(crate) fn for_peer(mut self, peers: Option<Vec<String>>) -> Self {
        self.peers = peers;
        self
    }

    /// What is counted by a row, without a lookup or an allocation while requests go to the same one.
    fn counted(&self, row: &Arc<ServiceRow>) -> Rc<Counted> {
        let mut last = self.last.borrow_mut();
        match last.as_ref().filter(|known| known.row.as_ptr() == Arc::as_ptr(row)) {
            Some(known) => known.clone(),
            None => last.insert(Rc::new(self.count_row(row))).clone(),
        }
    }

    fn count_row(&self, row: &Arc<ServiceRow>) -> Counted {
        Counted {
            row: Arc::downgrade(row),
            service: row.name.as_str().into(),
            tls: tls_digest(&row.tls),
            metrics: self.metrics(&row.name),
        }
    }

    fn metrics(&self, service: &str) -> Handle {
        self.worker.shared.metrics.handle(self.direction(), service, "")
    }

    /// Counters of what has no row.
    fn counted_by_name(&self, service: &str) -> Rc<Counted> {
        let mut last = self.last.borrow_mut();
        match last.as_ref().filter(|known| known.row.as_ptr() == Weak::new().as_ptr() && *known.service == *service) {
            Some(known) => known.clone(),
            None => {
                let metrics = self.metrics(service);
                last.insert(Rc::new(Counted { row: Weak::new(), service: service.into(), tls: 0, metrics })).clone()
            }
        }
    }

    fn direction(&self) -> Direction {
        match &self.way {
            Way::App { .. } => Direction::Inbound,
            Way::Passthrough => Direction::Passthrough,
            Way::Routed { site: Site::Sni(_), .. } => Direction::Zone,
            Way::Routed { .. } => Direction::Outbound,
        }
    }

    /// The permission that applies now; None where none does.
    fn permission<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a str> {
        match &self.way {
            Way::App { .. } => snapshot.listener(self.destination).and_then(|l| match &l.row.role {
                Role::Inbound { permission, .. } => Some(permission.as_str()),
                _ => None,
            }),
            Way::Routed { site: Site::Sni(name), .. } => snapshot.sni(name).and_then(|s| match &s.row.target {
                SniTarget::Terminate { permission, .. } => Some(permission.as_str()),
                SniTarget::Passthrough { .. } => None,
            }),
            Way::Routed { .. } | Way::Passthrough => None,
        }
    }

    fn is_denied(&self, snapshot: &Snapshot) -> bool {
        let permission = || self.permission(snapshot).map_or(&Access::Deny, |name| snapshot.access(name));
        match &self.peers {
            Some(peers) => !lookup::authorize(permission(), peers),
            None => self.is_strict(snapshot),
        }
    }

    /// An inbound that takes only mTLS now: plain connections from before are served no more.
    fn is_strict(&self, snapshot: &Snapshot) -> bool {
        matches!(self.way, Way::App { .. })
            && snapshot.listener(self.destination).is_some_and(|listener| {
                matches!(listener.row.role, Role::Inbound { tls: snapshot::InboundTls::Strict, .. })
            })
    }

    /// Who was refused what, by which resource, and what would let them in.
    fn denial(&self) -> ConnError {
        let snapshot = self.worker.snapshot();
        let by = self.permission(&snapshot).and_then(|name| snapshot.permission(name));
        let by = by.map_or_else(|| "no permission".into(), |row| row.origin.to_string());
        let peers = self.peers.as_deref().unwrap_or_default().join(" ");
        let detail = format!("{by} doesn't admit {peers}; a TrafficPermission from that service to this one would");
        ConnError::new(Reason::Denied, detail)
    }

    fn route(&self, snapshot: &Snapshot, request: &RequestView<'_>, site: &Site, scheme: &str) -> Decision<Target> {
        let header = |name: &str| -> Option<Cow<'_, str>> { text(&request.headers, name) };
        let facts = Facts {
            host: request.host,
            method: request.method,
            path: request.path,
            query: request.query.unwrap_or_default(),
            header: &header,
        };
        let routed = match site {
            Site::Listener(address) => snapshot.listener(*address).map_or(Routed::NoHost, |l| l.route(&facts)),
            Site::Sni(name) => snapshot.sni(name).map_or(Routed::NoHost, |s| s.route(&facts)),
        };
        let seen = Seen { scheme, host: request.host, path: request.path, listener_port: self.destination.port() };
        let decided = routing::decide(routed, &seen, &mut |bound| self.worker.draw(bound));
        into_decision(snapshot, decided, &self.worker)
    }
}

/// On as it is, with no timeout of ours.
fn straight(target: Target, h2: bool) -> Decision<Target> {
    let timeouts = Timeouts { request_ms: 0, stream_idle_ms: 0 };
    Decision { action: Action::Forward(Plan { target, path: None, timeouts, h2, mirror: None }), filters: None }
}

fn text<'a>(headers: &Headers<'a>, name: &str) -> Option<Cow<'a, str>> {
    headers.get(name).map(|value| match value {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    })
}

fn into_decision(snapshot: &Snapshot, decided: Decided<'_>, worker: &Worker) -> Decision<Target> {
    let plain = |action| Decision { action, filters: None };
    match decided {
        Decided::Redirect { status, location } => plain(Action::Redirect { status, location }),
        Decided::Respond { status, body } => {
            plain(Action::Respond { status, body: body.to_owned().into(), reason: None })
        }
        Decided::EmptyHost => {
            plain(Action::Respond { status: 404, body: NO_ROUTES_PAGE.into(), reason: Some(Reason::NoRoute) })
        }
        Decided::NotFound => plain(Action::Respond { status: 404, body: "".into(), reason: Some(Reason::NoRoute) }),
        Decided::Forward { service, path, filters, timeouts, .. } => {
            // Build has checked that every backend has a row.
            let Some(row) = snapshot.service(service).cloned() else {
                return Decision::refuse(Reason::NoEndpoint, "no healthy upstream\n");
            };
            let mirror = filters.and_then(|f| mirrored(snapshot, f, worker));
            let h2 = row.protocol.is_h2();
            let plan = Plan { target: Target::Service(row), path, timeouts, h2, mirror };
            Decision { action: Action::Forward(plan), filters: filters.cloned() }
        }
    }
}

fn mirrored(snapshot: &Snapshot, filters: &Filters, worker: &Worker) -> Option<Target> {
    let mirror = filters.mirror.as_ref()?;
    (worker.draw(1_000_000) < u64::from(mirror.per_million))
        .then(|| snapshot.service(&mirror.service).cloned().map(Target::Service))?
}

impl Traffic for HttpTraffic {
    type Target = Target;
    type Endpoint = EndpointKey;
    type Load = Load;
    type Io = Stream;

    fn decide(&self, request: &RequestView<'_>) -> Decision<Target> {
        self.worker.with_snapshot(|snapshot| {
            if self.is_denied(snapshot) {
                return Decision::refuse(Reason::Denied, "RBAC: access denied");
            }
            match &self.way {
                Way::Routed { site, scheme } => self.route(snapshot, request, site, scheme),
                Way::App { app, source, protocol, .. } => straight(Target::App(*app, *source), protocol.is_h2()),
                Way::Passthrough => match passthrough::request(snapshot, self.destination, request.host) {
                    Some(h2) => straight(Target::App(self.destination, None), h2),
                    None => Decision::refuse(Reason::PassthroughOff, passthrough::NOT_LISTED),
                },
            }
        })
    }

    fn pick(&self, target: &Target, tried: Option<&EndpointKey>) -> Result<Picked<EndpointKey, Load>, ConnError> {
        let row = match target {
            Target::App(app, source) => {
                if tried.is_some() {
                    return Err(ConnError::new(Reason::ConnectFailed, format!("{app} doesn't answer")));
                }
                let key = EndpointKey {
                    service: None,
                    address: Address::Ip(app.ip()),
                    port: app.port(),
                    source: *source,
                    tls: 0,
                };
                return Ok(Picked { endpoint: key, host: None, load: Load::App });
            }
            Target::Service(row) => row,
        };
        let place =
            |tried: &EndpointKey| row.endpoints.iter().position(|e| tried.address == e.address && tried.port == e.port);
        let tried = tried.and_then(place);
        let picked = self.worker.upstreams.pick(row, tried.as_slice()).ok_or_else(|| no_endpoint(row))?;
        let endpoint = picked.endpoint().ok_or_else(|| no_endpoint(row))?;
        let counted = self.counted(row);
        let key = EndpointKey {
            service: Some(counted.service.clone()),
            address: endpoint.address.clone(),
            port: endpoint.port,
            source: None,
            tls: counted.tls,
        };
        let host = picked.host().map(Arc::from);
        let load = Load::Service { _picked: picked, _active: counted.metrics.request() };
        Ok(Picked { endpoint: key, host, load })
    }

    async fn connect(&self, target: &Target, endpoint: &EndpointKey) -> Result<Stream, ConnError> {
        let worker = &self.worker;
        match target {
            Target::App(app, source) => {
                let options = socket::ConnectOptions { source: *source, ..socket::ConnectOptions::default() };
                socket::connect(*app, &options, CONNECT_TIMEOUT).await.map(Stream::Plain)
            }
            Target::Service(row) => {
                let at = row.endpoints.iter().position(|e| e.address == endpoint.address && e.port == endpoint.port);
                let picked = at.and_then(|at| worker.upstreams.at(row, at)).ok_or_else(|| no_endpoint(row))?;
                let (stream, _) = worker.upstreams.dial(row, &picked, &worker.shared.identities).await?;
                Ok(stream)
            }
        }
    }

    fn finished(&self, plan: Option<&Plan<Target>>, outcome: &Outcome<'_, EndpointKey>) {
        let (service, origin) = match (plan.map(|p| &p.target), &self.way) {
            (Some(Target::Service(row)), _) => (row.name.as_str(), Some(&row.origin)),
            (_, Way::App { service, .. }) => (service.as_ref(), None),
            (_, Way::Passthrough) => (passthrough::SERVICE, None),
            _ => ("", None),
        };
        let counted = match plan.map(|plan| &plan.target) {
            Some(Target::Service(row)) => self.counted(row),
            _ => self.counted_by_name(service),
        };
        let metrics = &counted.metrics;
        metrics.bytes(outcome.received, outcome.sent);
        metrics.answered(outcome.status, outcome.elapsed);
        let failure = outcome.reason.map(|reason| match reason {
            Reason::Denied if outcome.detail.is_empty() => self.denial(),
            _ => ConnError::new(reason, outcome.detail),
        });
        if let Some(failure) = &failure {
            metrics.failed(failure.reason);
        }
        if !accesslog::is_wanted(self.direction(), service, failure.as_ref()) {
            return;
        }
        let origin = origin.map(ToString::to_string).unwrap_or_default();
        let peer = match &self.peers {
            Some(peers) => peers.first().cloned().unwrap_or_default(),
            None => self.peer.to_string(),
        };
        let mut record = Record::new(self.direction(), service, &peer);
        record.origin = &origin;
        let (method, host, path) = (outcome.method, outcome.host, outcome.path);
        record.request = Some(Request { method, host, path, status: outcome.status });
        record.failure = failure.as_ref();
        record.received = outcome.received;
        record.sent = outcome.sent;
        record.duration = outcome.elapsed.max(Duration::ZERO);
        record.write();
    }
}
