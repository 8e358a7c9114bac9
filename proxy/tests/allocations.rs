//! Usual requests are served without allocating. The counting allocator is the reason for a test binary of its own.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use proxy::error::ConnError;
use proxy::http::traffic::{Action, Context, Decision, Outcome, Picked, Plan, RequestView, Settings, Traffic};
use proxy::http::{Pools, Wire, serve};
use proxy::stream::Stream;
use snapshot::Timeouts;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// One test counts at a time.
static COUNTING: Mutex<()> = Mutex::new(());

thread_local! {
    /// Only the proxy's thread is.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches an atomic and a thread-local
// that is initialised without allocating.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED.try_with(Cell::get).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller's obligations are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, thus from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Streams that are open at the same time.
const STREAMS: u32 = 10;
const WARM_UPS: usize = 20;
/// All answers together fit into the connection's first window, which the client never widens.
const ROUNDS: usize = 25;
const BATCHES: usize = 3;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-type: text/plain\r\ncontent-length: 64\r\n\r\n\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// An endpoint, and whether it speaks HTTP/2.
struct ToEndpoint(SocketAddr, bool);

impl Traffic for ToEndpoint {
    type Target = ();
    type Endpoint = SocketAddr;
    type Load = ();
    type Io = Stream;

    fn decide(&self, _: &RequestView<'_>) -> Decision<()> {
        let plan = Plan { target: (), path: None, timeouts: Timeouts::default(), h2: self.1, mirror: None };
        Decision { action: Action::Forward(plan), filters: None }
    }

    fn pick(&self, (): &(), _: Option<&SocketAddr>) -> Result<Picked<SocketAddr, ()>, ConnError> {
        Ok(Picked { endpoint: self.0, host: None, load: () })
    }

    async fn connect(&self, (): &(), endpoint: &SocketAddr) -> Result<Self::Io, ConnError> {
        Ok(tokio::net::TcpStream::connect(endpoint).await.unwrap().into())
    }

    fn finished(&self, _: Option<&Plan<()>>, outcome: &Outcome<'_, SocketAddr>) {
        assert_eq!((outcome.status, outcome.reason), (200, None));
    }
}

/// Answers each request with the same.
fn endpoint(answer: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream.unwrap()));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        got.extend_from_slice(&buffer[..count]);
        if got.ends_with(b"\r\n\r\n") {
            got.clear();
            stream.write_all(ANSWER).unwrap();
        }
    }
}

/// The same over HTTP/2.
fn answer_streams(mut stream: TcpStream) {
    stream.read_exact(&mut [0; 24]).unwrap();
    stream.write_all(b"\0\0\0\x04\0\0\0\0\0").unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        if head[3] == 1 {
            let id = &head[5..];
            // Status 200 and a content-length of 64, then as much.
            let block: &[u8] = b"\x88\x0f\x0d\x0264";
            stream.write_all(&[&[0, 0, 6, 1, 4], id, block, &[0, 0, 64, 0, 1], id, &[b'x'; 64]].concat()).unwrap();
        }
    }
}

/// Serves one connection on a thread that is counted.
fn proxy(settings: Settings, is_two: bool) -> SocketAddr {
    let (say, hear) = mpsc::channel();
    let to = endpoint(if is_two { answer_streams } else { answer });
    std::thread::spawn(move || {
        COUNTED.set(true);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            say.send(listener.local_addr().unwrap()).unwrap();
            let pools = Rc::new(Pools::new(Duration::from_secs(60)));
            let (_drain, drained) = watch::channel(false);
            let (io, peer) = listener.accept().await.unwrap();
            let traffic = Rc::new(ToEndpoint(to, is_two));
            let context = Context { traffic, pools, settings: Arc::new(settings), peer: Some(peer.ip()) };
            serve(Stream::from(io), context, drained, Wire::Sniff, |_, _| ()).await;
        });
    });
    hear.recv().unwrap()
}

/// Sends `STREAMS` requests at once, so that no round needs more connections to the endpoint than the first one, and
/// reads all of their answers.
fn round(client: &mut TcpStream, first: u32) {
    // GET, http, `/`, authority `a`, and accept.
    let block = b"\x82\x86\x84\x01\x01a\x0f\x04\x03*/*";
    let mut frames = Vec::new();
    for stream in 0..STREAMS {
        frames.extend_from_slice(&[0, 0, u8::try_from(block.len()).unwrap(), 1, 5]);
        frames.extend_from_slice(&(first + 2 * stream).to_be_bytes());
        frames.extend_from_slice(block);
    }
    client.write_all(&frames).unwrap();
    let mut ended = 0;
    while ended < STREAMS {
        let mut head = [0; 9];
        client.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).unwrap();
        assert!(matches!(head[3], 0 | 1 | 4 | 8), "an unexpected frame of kind {}", head[3]);
        ended += u32::from(head[3] == 0 && head[4] & 1 != 0);
    }
}

/// The same over HTTP/1.1, one after the other.
fn allocations_of_plain_requests(settings: Settings) -> u64 {
    let _alone = COUNTING.lock().unwrap();
    let mut client = TcpStream::connect(proxy(settings, false)).unwrap();
    let mut request = || {
        client.write_all(b"GET /a?b HTTP/1.1\r\nHost: a:80\r\nAccept: */*\r\n\r\n").unwrap();
        let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
        while !got.ends_with(b"\r\n\r\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef") {
            let count = client.read(&mut buffer).unwrap();
            assert!(count > 0, "the proxy closed the connection");
            got.extend_from_slice(&buffer[..count]);
        }
    };
    (0..WARM_UPS).for_each(|_| request());
    least(|| (0..ROUNDS).for_each(|_| request()))
}

fn allocations_of_requests(settings: Settings, is_two: bool) -> u64 {
    let _alone = COUNTING.lock().unwrap();
    let mut client = TcpStream::connect(proxy(settings, is_two)).unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut rounds = (0..).map(|number| 2 * STREAMS * number + 1);
    for first in rounds.by_ref().take(WARM_UPS) {
        round(&mut client, first);
    }
    least(|| rounds.by_ref().take(ROUNDS).for_each(|first| round(&mut client, first)))
}

/// Allocations of the batch with the fewest: buffers grow when more comes together than ever before, but not for ever.
fn least(mut batch: impl FnMut()) -> u64 {
    let count = |_| {
        let before = ALLOCATIONS.load(Relaxed);
        batch();
        ALLOCATIONS.load(Relaxed) - before
    };
    (0..BATCHES).map(count).min().unwrap_or(u64::MAX)
}

#[test]
fn http_1_requests_are_served_without_allocating() {
    assert_eq!(allocations_of_plain_requests(Settings::gateway(false)), 0);
}

#[test]
fn http_2_requests_are_served_without_allocating() {
    assert_eq!(allocations_of_requests(Settings::gateway(false), false), 0);
}

#[test]
fn http_2_requests_to_http_2_endpoints_are_served_without_allocating() {
    assert_eq!(allocations_of_requests(Settings::gateway(false), true), 0);
}
