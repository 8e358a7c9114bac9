//! Proxies end politely: what is under way completes, nothing new is taken.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use harness::{Process, eventually};

use crate::carry::resources;
use crate::client::Connection;
use crate::ground::{Ground, LONG};

/// An application that tells of each connection's request and answers when it is told to.
fn slow_application(address: SocketAddr) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (arrived, arrivals) = mpsc::channel();
    let (go, goes) = mpsc::channel();
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut some = [0; 4096];
        let _ = stream.read(&mut some);
        let _ = arrived.send(());
        let _ = goes.recv();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate");
        // Held until the proxy leaves.
        let _ = stream.read(&mut some);
    });
    (arrivals, go)
}

/// Ends a process while a request is under way: the request completes, others aren't taken, the process ends well.
fn drains(mut process: Process, address: SocketAddr, application: (mpsc::Receiver<()>, mpsc::Sender<()>)) {
    let (arrivals, go) = application;
    let mut under_way = Connection::open(address).unwrap();
    under_way.send(b"GET / HTTP/1.1\r\nhost: web.mesh\r\n\r\n").unwrap();
    arrivals.recv_timeout(LONG).expect("the request at the application");
    process.terminate();
    eventually("the listener's end", LONG, || Connection::open(address).err());
    go.send(()).unwrap();
    let answer = under_way.answer().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "late"));
    assert!(answer.closes(), "{}", answer.head);
    let began = Instant::now();
    let status = process.wait(LONG);
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(9), "nothing was left to wait for: {:?}", began.elapsed());
}

#[test]
fn up_finishes_what_is_under_way_and_takes_nothing_new_after_sigterm() {
    let ground = Ground::new();
    let application = slow_application(ground.at(11, 9000));
    let mesh = ground.up(&resources("http"));
    drains(mesh.process, ground.at(6, 8080), application);
}

#[test]
fn dp_run_finishes_what_is_under_way_and_takes_nothing_new_after_sigterm() {
    let ground = Ground::new();
    let application = slow_application(ground.at(11, 9000));
    let cp = ground.cp();
    let process = ground.dp(
        &cp,
        "web",
        "
type: Dataplane
mesh: default
name: web
networking:
  address: NET.1
  admin: {port: ADMIN}
  inbound: [{port: 9000, serviceAddress: NET.11, tags: {kuma.io/service: web, kuma.io/protocol: http}}]
",
    );
    drains(process, ground.at(1, 9000), application);
}
