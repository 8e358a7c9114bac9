//! When a peer is asked for a sign of life.

use super::*;

const LONG: Duration = Duration::from_secs(3600);

/// A connection to an endpoint, with a stream, and everything written.
fn to_endpoint() -> Connection<tokio::io::DuplexStream> {
    let mut core = Core::client();
    core.receive(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
    let (stream, _) = core.take_place("http").unwrap();
    core.push_head(&stream, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap().unwrap();
    core.written = core.out.len();
    let times = Times { head: LONG, idle: LONG, body: LONG };
    Connection::new(tokio::io::duplex(1).0, Rc::new(RefCell::new(core)), times)
}

#[test]
fn an_endpoint_is_asked_only_after_something_was_sent_and_rarely() {
    let mut connection = to_endpoint();
    let now = connection.heard_at;
    assert_eq!(connection.deadline(), None, "a stream on which nothing is due may be silent");
    connection.unheard_since = Some(now);
    assert_eq!(connection.deadline(), Some((now + PING_INTERVAL, Due::Ping)));
    // It answered such a question a moment ago.
    connection.ping_from = now + ENDPOINT_PING_INTERVAL;
    assert_eq!(connection.deadline(), Some((now + ENDPOINT_PING_INTERVAL, Due::Ping)));
    connection.pinged = Some(now);
    assert_eq!(connection.deadline(), Some((now + PING_TIMEOUT, Due::GiveUp)));
}
