//! A whole proxy over loopback, fed by hand.

use super::*;
use crate::source::Update;
use snapshot::{
    Access, Address, Backend, Balance, Endpoint, GatewayTls, Handler, InboundTls, ListenerRow, Origin, PermissionRow,
    Protocol, Role, ServiceRow, UpstreamTls,
};
use std::io::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Fed {
    updates: Updates,
    drain: Arc<Notify>,
    running: tokio::task::JoinHandle<()>,
}

async fn proxy() -> Fed {
    let config = Config {
        name: "t".into(),
        workers: 2,
        mode: None,
        ipv6: false,
        manage_routes: false,
        admin: None,
        dns: None,
        state: None,
        drain_deadline: Duration::from_secs(5),
    };
    let proxy = Proxy::bind(config).await.unwrap();
    let (updates, drain) = (proxy.updates(), proxy.drain());
    Fed { updates, drain, running: tokio::spawn(proxy.run()) }
}

impl Fed {
    async fn offer(&self, epoch: u64, sequence: u64, tables: Tables) -> Result<(), Vec<String>> {
        let (verdict, answer) = oneshot::channel();
        let generation = Generation { epoch, sequence };
        self.updates.send(Update::Offer { tables: Arc::new(tables), generation, verdict }).await.unwrap();
        answer.await.unwrap()
    }
}

/// An application that returns what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = tcp.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

/// A port that nobody has just now.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn inbound(address: SocketAddr, app: SocketAddr, tls: InboundTls) -> Tables {
    let (service, permission) = ("web".to_owned(), "p".to_owned());
    let role = Role::Inbound { captured: false, service, protocol: Protocol::Tcp, app, tls, permission };
    let row = ListenerRow { address, role, origin: Origin::default() };
    let permission = PermissionRow { name: "p".into(), access: Access::Deny, origin: Origin::default() };
    Tables { listeners: vec![Arc::new(row)], permissions: vec![Arc::new(permission)], ..Tables::default() }
}

fn gateway(address: SocketAddr, to: SocketAddr, connections_max: u32) -> Tables {
    let endpoint = Endpoint {
        address: Address::Ip(to.ip()),
        port: to.port(),
        weight: 1,
        priority: 0,
        zone: String::new(),
        origin: Origin::default(),
    };
    let service = ServiceRow {
        name: "echo".into(),
        service: "echo".into(),
        mesh: "default".into(),
        protocol: Protocol::Tcp,
        tls: UpstreamTls::None,
        balance: Balance::RoundRobin,
        connect_timeout_ms: 1_000,
        idle_timeout_ms: 60_000,
        hint: String::new(),
        endpoints: Arc::new(vec![endpoint]),
        origin: Origin::default(),
    };
    let backends = vec![Backend { service: "echo".into(), weight: 1 }];
    let handler = Handler::Tcp { backends, idle_timeout_ms: 0 };
    let role = Role::Gateway { handler, tls: GatewayTls::None, connections_max: Some(connections_max) };
    let row = ListenerRow { address, role, origin: Origin::default() };
    Tables { listeners: vec![Arc::new(row)], services: vec![Arc::new(service)], ..Tables::default() }
}

async fn echoes(tcp: &mut TcpStream) -> bool {
    let mut byte = [0];
    tcp.write_all(b"x").await.is_ok() && matches!(tcp.read(&mut byte).await, Ok(1))
}

#[tokio::test]
async fn a_live_connection_is_reset_when_the_inbound_no_longer_admits_it() {
    let (proxy, app, address) = (proxy().await, echo().await, free());
    proxy.offer(1, 1, inbound(address, app, InboundTls::Off)).await.unwrap();
    let mut tcp = TcpStream::connect(address).await.unwrap();
    assert!(echoes(&mut tcp).await);
    proxy.offer(1, 2, inbound(address, app, InboundTls::Permissive)).await.unwrap();
    assert!(echoes(&mut tcp).await, "still admitted");
    proxy.offer(1, 3, inbound(address, app, InboundTls::Strict)).await.unwrap();
    assert_eq!(tcp.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_live_connection_outlives_its_listener_and_new_ones_are_refused() {
    let (proxy, app, address) = (proxy().await, echo().await, free());
    proxy.offer(1, 1, inbound(address, app, InboundTls::Off)).await.unwrap();
    let mut tcp = TcpStream::connect(address).await.unwrap();
    assert!(echoes(&mut tcp).await);
    proxy.offer(1, 2, Tables::default()).await.unwrap();
    while let Ok(mut late) = TcpStream::connect(address).await {
        // Workers close a moment after the verdict; what came in between is reset.
        let _ = late.read_u8().await;
    }
    assert!(echoes(&mut tcp).await);
}

#[tokio::test]
async fn a_gateway_listener_closes_what_exceeds_its_limit_at_once() {
    let (proxy, app, address) = (proxy().await, echo().await, free());
    proxy.offer(1, 1, gateway(address, app, 2)).await.unwrap();
    let (mut one, mut two) = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    assert!(echoes(&mut one).await && echoes(&mut two).await);
    let mut three = TcpStream::connect(address).await.unwrap();
    assert_eq!(three.read(&mut [0]).await.unwrap(), 0);
    drop(one);
    // The place is free as soon as the worker saw the end.
    loop {
        let mut again = TcpStream::connect(address).await.unwrap();
        if echoes(&mut again).await {
            break;
        }
    }
    assert!(echoes(&mut two).await);
}

#[tokio::test]
async fn a_control_plane_with_another_clock_is_listened_to() {
    let (proxy, app, address) = (proxy().await, echo().await, free());
    let tables = || inbound(address, app, InboundTls::Off);
    proxy.offer(9, 5, Tables::default()).await.unwrap();
    proxy.offer(3, 1, tables()).await.unwrap();
    proxy.offer(3, 1, tables()).await.expect("the same again after a lost stream");
    let stale = proxy.offer(3, 1, Tables::default()).await.unwrap_err();
    assert!(stale.iter().any(|s| s.contains("3.1")), "{stale:?}");
    assert!(echoes(&mut TcpStream::connect(address).await.unwrap()).await);
}

#[tokio::test]
async fn while_draining_live_connections_go_on_and_permissions_still_bite() {
    let (proxy, app, address) = (proxy().await, echo().await, free());
    proxy.offer(1, 1, inbound(address, app, InboundTls::Off)).await.unwrap();
    let mut tcp = TcpStream::connect(address).await.unwrap();
    assert!(echoes(&mut tcp).await);
    proxy.drain.notify_one();
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(echoes(&mut tcp).await);
    proxy.offer(1, 2, inbound(address, app, InboundTls::Strict)).await.unwrap();
    assert_eq!(tcp.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.running.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nothing was bound anew");
}
