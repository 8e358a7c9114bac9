//! Loopback in memory: a client, the connection loop, and endpoints that the test plays byte by byte.

mod body;
mod edge;
mod endpoint;
mod failure;
mod frames;
mod plain;
mod sockets;
mod two;

use super::traffic::{Action, Context, Decision, End, Outcome, Picked, Plan, RequestView, Settings, Traffic};
use super::{Pools, Wire, serve};
use crate::error::{ConnError, Reason};
use snapshot::{Filters, Timeouts};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

type Decide = dyn Fn(&RequestView<'_>) -> Decision<()> + Send + Sync;

/// Longer than any test takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Fake {
    pub(super) decide: Box<Decide>,
    pub(super) dialled: mpsc::Sender<DuplexStream>,
    /// What the next connects fail with.
    pub(super) failures: Mutex<VecDeque<Reason>>,
    pub(super) outcomes: Mutex<Vec<(u16, Option<Reason>)>>,
}

impl Traffic for Fake {
    type Target = ();
    type Endpoint = usize;
    type Load = ();
    type Io = DuplexStream;

    fn decide(&self, request: &RequestView<'_>) -> Decision<()> {
        (self.decide)(request)
    }

    fn pick(&self, _: &(), tried: Option<&usize>) -> Result<Picked<usize, ()>, ConnError> {
        Ok(Picked { endpoint: tried.map_or(0, |tried| tried + 1), host: Some("endpoint.example".into()), load: () })
    }

    async fn connect(&self, _: &(), endpoint: &usize) -> Result<DuplexStream, ConnError> {
        if let Some(reason) = self.failures.lock().unwrap().pop_front() {
            return Err(ConnError::new(reason, format!("endpoint {endpoint} can't be reached")));
        }
        let (ours, theirs) = duplex(256 * 1024);
        self.dialled.send(theirs).await.unwrap();
        Ok(ours)
    }

    fn finished(&self, _: Option<&Plan<()>>, outcome: &Outcome<'_, usize>) {
        self.outcomes.lock().unwrap().push((outcome.status, outcome.reason));
    }
}

pub(super) fn plan() -> Plan<()> {
    Plan { target: (), path: None, timeouts: Timeouts::default(), h2: false, mirror: None }
}

pub(super) fn to_endpoint(filters: Filters) -> Box<Decide> {
    let filters = Arc::new(filters);
    Box::new(move |_| Decision { action: Action::Forward(plan()), filters: Some(Arc::clone(&filters)) })
}

pub(super) struct Bench {
    pub(super) client: DuplexStream,
    pub(super) dialled: mpsc::Receiver<DuplexStream>,
    pub(super) serving: JoinHandle<End>,
    pub(super) drain: watch::Sender<bool>,
    pub(super) fake: Rc<Fake>,
    pub(super) pools: Rc<Pools<usize, DuplexStream>>,
}

impl Bench {
    pub(super) fn sidecar() -> Self {
        Self::new(Settings::sidecar(), to_endpoint(Filters::default()))
    }

    pub(super) fn new(settings: Settings, decide: Box<Decide>) -> Self {
        let (sender, dialled) = mpsc::channel(8);
        let fake = Rc::new(Fake { decide, dialled: sender, failures: Mutex::default(), outcomes: Mutex::default() });
        let pools = Rc::new(Pools::new(PATIENCE));
        let context = Context {
            traffic: Rc::clone(&fake),
            pools: Rc::clone(&pools),
            settings: Arc::new(settings),
            peer: Some([192, 0, 2, 7].into()),
        };
        let (client, io) = duplex(256 * 1024);
        let (drain, drained) = watch::channel(false);
        let serving = tokio::task::spawn_local(serve(io, context, drained, Wire::Sniff, |end, _| end));
        Self { client, dialled, serving, drain, fake, pools }
    }

    pub(super) async fn send(&mut self, bytes: &str) {
        self.client.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// The next endpoint's side of a new connection.
    pub(super) async fn endpoint(&mut self) -> DuplexStream {
        patient(self.dialled.recv()).await.unwrap()
    }

    pub(super) async fn end(self) -> End {
        patient(self.serving).await.unwrap()
    }

    pub(super) fn outcomes(&self) -> Vec<(u16, Option<Reason>)> {
        self.fake.outcomes.lock().unwrap().clone()
    }

    /// One request on this connection to a new endpoint connection, answered `ok`.
    pub(super) async fn warm_up(&mut self) -> DuplexStream {
        self.send("GET /warm HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut endpoint = self.endpoint().await;
        expect(&mut endpoint, "GET /warm HTTP/1.1\r\nhost: a\r\n\r\n").await;
        say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        expect(&mut self.client, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        endpoint
    }
}

pub(super) async fn patient<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

pub(super) async fn say(io: &mut DuplexStream, bytes: &str) {
    io.write_all(bytes.as_bytes()).await.unwrap();
}

pub(super) async fn expect(io: &mut DuplexStream, expected: &str) {
    let mut got = vec![0; expected.len()];
    let mut have = 0;
    while have < got.len() && got[..have] == expected.as_bytes()[..have] {
        match patient(io.read(&mut got[have..])).await.unwrap() {
            0 => break,
            count => have += count,
        }
    }
    assert_eq!(String::from_utf8_lossy(&got[..have]), expected);
}

pub(super) async fn rest(io: &mut DuplexStream) -> String {
    let mut got = Vec::new();
    let _ = patient(io.read_to_end(&mut got)).await;
    String::from_utf8(got).unwrap()
}

pub(super) async fn head(io: &mut DuplexStream) -> String {
    let mut got = String::new();
    while !got.ends_with("\r\n\r\n") {
        got.push(char::from(patient(io.read_u8()).await.unwrap()));
    }
    got
}
