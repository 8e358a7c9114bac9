//! Which replies are believed.

use super::*;

fn message(id: u16, flags: u16, name: &[u8], kind: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in [id, flags, 1, 0, 0, 0] {
        bytes.extend(value.to_be_bytes());
    }
    bytes.extend(name);
    bytes.extend([0, (kind >> 8) as u8, kind as u8, 0, 1]);
    bytes
}

#[test]
fn only_replies_to_the_query_are_believed() {
    let query = message(7, 0x0100, b"\x03www\x02eu", 1);
    let servfail_without_question = [0, 7, 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    let empty_success = [0, 7, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (reply, verdict) in [
        (message(7, 0x8180, b"\x03www\x02eu", 1), Verdict::Final),
        (message(7, 0x8180, b"\x03WwW\x02eu", 1), Verdict::Final),
        (message(7, 0x8183, b"\x03www\x02eu", 1), Verdict::Final),
        (message(7, 0x8182, b"\x03www\x02eu", 1), Verdict::Refusal),
        (message(7, 0x8185, b"\x03www\x02eu", 1), Verdict::Refusal),
        (message(8, 0x8180, b"\x03www\x02eu", 1), Verdict::Foreign),
        (message(7, 0x0100, b"\x03www\x02eu", 1), Verdict::Foreign),
        (message(7, 0x8180, b"\x03wwx\x02eu", 1), Verdict::Foreign),
        (message(7, 0x8180, b"\x03www\x02eu", 28), Verdict::Foreign),
        (servfail_without_question.to_vec(), Verdict::Refusal),
        (empty_success.to_vec(), Verdict::Foreign),
        (vec![0, 7, 0x80], Verdict::Foreign),
    ] {
        assert_eq!(judge(&query, &reply), verdict, "{reply:02x?}");
    }
}

#[tokio::test]
async fn a_query_that_comes_back_to_us_is_not_relayed_again() {
    let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let times = Times::default();
    let resolvers = Resolvers::new(vec![resolver.local_addr().unwrap()], "".into(), vec![], &times);
    let (_publisher, reader) = snapshot::cell();
    let forwarder = Forwarder::new(resolvers, times, None, Arc::new(Metrics::new(reader)));
    let query = message(7, 0x0100, b"\x03www\x02eu", 1);
    let client = "127.0.0.1:1".parse().unwrap();
    let caught = async {
        let mut bytes = [0; 512];
        let (length, source) = resolver.recv_from(&mut bytes).await.unwrap();
        // Captured on its way out, the query arrives at our own socket with the source address it was sent from.
        assert_eq!(forwarder.relay(&bytes[..length], source, Transport::Udp).await, Err(Why::Loop));
        bytes[2] |= 0x80;
        resolver.send_to(&bytes[..length], source).await.unwrap();
    };
    let (reply, ()) = tokio::join!(forwarder.relay(&query, client, Transport::Udp), caught);
    assert_eq!(reply.unwrap()[..2], query[..2]);
    assert!(forwarder.pending().is_empty());
}
