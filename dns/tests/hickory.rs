//! What isn't ours, asked of a resolver that we didn't write: a real hickory-server behind the relay, over UDP and TCP.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use dns::Config;
use hickory_proto::op::{Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use snapshot::{DnsSettings, DnsUpstream, Generation, NameRow, Origin, ProxyRow, Snapshot, Tables};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// More than fits into 512 bytes.
const TEXTS: usize = 40;

/// One address for every name, and many texts.
struct Outside;

// The trait is declared with async_trait; written out, it needs no dependency on the macro.
impl RequestHandler for Outside {
    fn handle_request<'s, 'r, 'f, R, T>(
        &'s self,
        request: &'r Request,
        mut response_handle: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'f>>
    where
        R: ResponseHandler + 'f,
        T: Time + 'f,
        's: 'f,
        'r: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let metadata = Metadata::response_from_request(&request.metadata);
            let query = request.request_info().unwrap().query.original().clone();
            let record = |data| Record::from_rdata(query.name().clone(), 30, data);
            let text = |number: usize| RData::TXT(TXT::new(vec![format!("text number {number:04}")]));
            let answers: Vec<Record> = match query.query_type() {
                RecordType::TXT => (0..TEXTS).map(text).map(record).collect(),
                _ => vec![record(RData::A(A(ADDRESS)))],
            };
            let response = MessageResponseBuilder::from_message_request(request).build(metadata, &answers, [], [], []);
            let silent = ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
            response_handle.send_response(response).await.unwrap_or(silent)
        })
    }
}

/// Its address, on UDP and TCP.
async fn outside() -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // Another test may have this port there: then with another.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let mut server = hickory_server::Server::new(Outside);
    server.register_socket(udp);
    server.register_listener(tcp, PATIENCE, 4096);
    tokio::spawn(async move { server.block_until_done().await });
    address
}

/// A proxy's DNS in front of it, with one name of its own.
async fn proxy(server: SocketAddr) -> SocketAddr {
    let v4 = "240.0.0.1".parse().ok();
    let names = vec![Arc::new(NameRow { name: "backend.mesh".into(), v4, v6: None, origin: Origin::default() })];
    let dns = DnsSettings { domain: "mesh".into(), ttl_s: 60, ..DnsSettings::default() };
    let tables = Tables { proxy: ProxyRow { dns, ..ProxyRow::default() }, names, ..Tables::default() };
    let (mut publisher, reader) = snapshot::cell();
    publisher.publish(Arc::new(Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap())).unwrap();
    let upstreams = vec![DnsUpstream { domain: String::new(), server }];
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let bound = dns::bind(Config { listen, upstreams, ..Config::default() }, reader).await.unwrap();
    let address = bound.addresses()[0];
    tokio::spawn(bound.run(std::future::pending()));
    address
}

fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(query, server).await.unwrap();
    let mut bytes = [0; 4096];
    let length = timeout(PATIENCE, socket.recv(&mut bytes)).await.unwrap().unwrap();
    Message::from_vec(&bytes[..length]).unwrap()
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_u16(query.len() as u16).await.unwrap();
    stream.write_all(query).await.unwrap();
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

#[tokio::test]
async fn a_resolver_of_another_make_answers_through_the_relay_over_udp_and_tcp() {
    let server = proxy(outside().await).await;
    let answer = over_udp(server, &question(7, "www.example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.id, 7);
    assert_eq!(answer.answers[0].data, RData::A(A(ADDRESS)));
    let texts = question(8, "www.example.com.", RecordType::TXT);
    assert!(over_udp(server, &texts).await.metadata.truncation, "512 bytes are too few");
    assert_eq!(over_tcp(server, &texts).await.answers.len(), TEXTS);
    let own = over_udp(server, &question(9, "backend.mesh.", RecordType::A)).await;
    assert_eq!(own.answers[0].data, RData::A(A("240.0.0.1".parse().unwrap())));
}
