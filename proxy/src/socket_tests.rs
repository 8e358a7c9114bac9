//! Sockets on the loopback interface.

use super::*;

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn two_workers_listen_on_the_same_port() {
    let first = listen_tcp(any(), BindOptions::default()).unwrap();
    let address = first.local_addr().unwrap();
    let second = listen_tcp(address, BindOptions::default()).unwrap();
    assert_eq!(second.local_addr().unwrap(), address);
}

#[tokio::test]
async fn accepted_connections_have_nodelay_and_keepalive() {
    let listener = listen_tcp(any(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener).unwrap();
    let client = connect(address, &ConnectOptions::default(), Duration::from_secs(5)).await.unwrap();
    let (server, peer) = acceptor.accept().await;
    assert_eq!(peer, client.local_addr().unwrap());
    assert!(client.nodelay().unwrap() && server.nodelay().unwrap());
    assert!(SockRef::from(&server).keepalive().unwrap());
    assert_eq!(original_destination(&server, Mode::Bind).unwrap(), address);
}

#[tokio::test]
async fn the_application_sees_the_bound_source_address() {
    let listener = listen_tcp(any(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener).unwrap();
    let options = ConnectOptions { source: Some("127.0.0.6".parse().unwrap()), ..ConnectOptions::default() };
    let _client = connect(address, &options, Duration::from_secs(5)).await.unwrap();
    assert_eq!(acceptor.accept().await.1.ip(), options.source.unwrap());
}

#[tokio::test]
async fn a_direct_dial_of_the_redirect_port_is_a_loop() {
    let listener = listen_tcp(any(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener).unwrap();
    let _client = connect(address, &ConnectOptions::default(), Duration::from_secs(5)).await.unwrap();
    let (server, _) = acceptor.accept().await;
    assert_eq!(original_destination(&server, Mode::Redirect).unwrap_err().reason, Reason::Loop);
}

#[tokio::test]
async fn a_refused_connection_says_where() {
    let closed = listen_tcp(any(), BindOptions::default()).unwrap().local_addr().unwrap();
    let error = connect(closed, &ConnectOptions::default(), Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.reason, Reason::ConnectFailed);
    assert!(error.detail.contains(&closed.to_string()), "{error}");
}

#[tokio::test]
async fn first_words_travel_with_the_connection() {
    let listener = listen_tcp(any(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener).unwrap();
    let made = connect_saying(address, &ConnectOptions::default(), b"hello", Duration::from_secs(5)).await;
    let (_client, sent) = made.unwrap();
    assert_eq!(sent, 5, "a handshake on this machine is over at once");
    let (mut server, _) = acceptor.accept().await;
    let mut words = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut server, &mut words).await.unwrap();
    assert_eq!(&words, b"hello");
}

#[tokio::test]
async fn a_refused_connection_with_first_words_says_where() {
    let closed = listen_tcp(any(), BindOptions::default()).unwrap().local_addr().unwrap();
    let made = connect_saying(closed, &ConnectOptions::default(), b"hello", Duration::from_secs(5)).await;
    let error = made.unwrap_err();
    assert_eq!(error.reason, Reason::ConnectFailed);
    assert!(error.detail.contains(&closed.to_string()), "{error}");
}

#[test]
fn bind_errors_say_what_to_do_next() {
    let taken = std::net::TcpListener::bind(any()).unwrap();
    let error = listen_tcp(taken.local_addr().unwrap(), BindOptions::default()).unwrap_err();
    assert!(error.to_string().contains("another process holds the address"), "{error}");
    let error = listen_tcp("192.0.2.1:80".parse().unwrap(), BindOptions::default()).unwrap_err();
    assert!(error.to_string().contains("ip route add local"), "{error}");
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    let denied = SocketError::new("bind the TCP listener", "0.0.0.0:80".parse().unwrap(), Errno::EACCES.into());
    assert!(denied.to_string().contains("CAP_NET_BIND_SERVICE"), "{denied}");
    let denied = SocketError::new("prepare the TCP listener", "0.0.0.0:80".parse().unwrap(), Errno::EPERM.into());
    assert!(denied.to_string().contains("CAP_NET_ADMIN"), "{denied}");
}

#[test]
fn an_absent_address_can_be_bound_with_freebind() {
    listen_tcp("192.0.2.1:0".parse().unwrap(), BindOptions { freebind: true, ..BindOptions::default() }).unwrap();
    bind_udp("192.0.2.1:0".parse().unwrap(), BindOptions { freebind: true, ..BindOptions::default() }).unwrap();
}

#[test]
fn only_the_machines_own_trouble_makes_accepting_pause() {
    assert!(is_clients_fault(&Errno::ECONNABORTED.into()));
    assert!(!is_clients_fault(&Errno::EMFILE.into()));
}

#[test]
fn an_address_that_somebody_listens_on_is_taken() {
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    assert!(is_taken(address));
    drop(listener);
    assert!(!is_taken(address));
}

#[tokio::test]
async fn an_unsettled_connection_gets_its_options_when_it_is_settled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ConnectOptions { unsettled: true, ..ConnectOptions::default() };
    let client = connect(listener.local_addr().unwrap(), &options, Duration::from_secs(5)).await.unwrap();
    assert!(!client.nodelay().unwrap() && !SockRef::from(&client).keepalive().unwrap());
    settle(&client);
    assert!(client.nodelay().unwrap() && SockRef::from(&client).keepalive().unwrap());
}
