//! Mesh names over UDP are answered without allocating. The counting allocator is the reason for a test binary of its own.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use snapshot::{DnsSettings, Generation, NameRow, Origin, ProxyRow, Snapshot, Tables};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Every thread's, the asking one's excepted.
    static COUNTED: Cell<bool> = const { Cell::new(true) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches an atomic and a thread-local
// that is initialised without allocating.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED.try_with(Cell::get).unwrap_or(true) {
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

fn mesh() -> Snapshot {
    let v4 = "240.0.0.1".parse().ok();
    let names = vec![Arc::new(NameRow { name: "backend.mesh".into(), v4, v6: None, origin: Origin::default() })];
    let dns = DnsSettings { domain: "mesh".into(), ttl_s: 60, ..DnsSettings::default() };
    let tables = Tables { proxy: ProxyRow { dns, ..ProxyRow::default() }, names, ..Tables::default() };
    Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap()
}

#[test]
fn a_mesh_name_is_answered_without_allocating() {
    COUNTED.set(false);
    let (mut publisher, reader) = snapshot::cell();
    publisher.publish(Arc::new(mesh())).unwrap();
    let (say, hear) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listen = vec!["127.0.0.1:0".parse().unwrap()];
            let bound = dns::bind(dns::Config { listen, ..dns::Config::default() }, reader).await.unwrap();
            say.send(bound.addresses()[0]).unwrap();
            bound.run(std::future::pending()).await;
        });
    });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(hear.recv().unwrap()).unwrap();
    // As many at once, A and AAAA in turns as a program asks: answers to one client may share a packet on their way.
    let ask = |count: u8| {
        for id in 0..count {
            let mut query = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            query.extend(b"\x07backend\x04mesh\x00\x00");
            query.extend([if id % 2 == 0 { 1 } else { 28 }, 0, 1]);
            socket.send(&query).unwrap();
        }
        let mut answered = vec![false; count.into()];
        for _ in 0..count {
            let mut reply = [0; 512];
            let length = socket.recv(&mut reply).unwrap();
            let id = usize::from(reply[1]);
            // One address, or the zone's SOA.
            let expected = if id % 2 == 0 { (46, [1, 0]) } else { (80, [0, 1]) };
            assert_eq!((length, [reply[7], reply[9]], reply[3] & 0x0f), (expected.0, expected.1, 0));
            assert!(!std::mem::replace(&mut answered[id], true), "{id} is answered twice");
        }
    };
    let ask_all = |rounds: usize| (0..rounds).for_each(|_| [1, 2, 30].into_iter().for_each(ask));
    // The runtime's own queues reach their size first.
    ask_all(200);
    let before = ALLOCATIONS.load(Relaxed);
    ask_all(500);
    assert_eq!(ALLOCATIONS.load(Relaxed) - before, 0);
}
