//! Mesh names in messages and answers the fast path doesn't write: ANY, PTR, signed or oddly built queries. hickory
//! decodes and encodes them; what is answered is the same `lookup`. It must not know sockets or resolvers.

use crate::lookup::{Answer, Question, is_below, lookup};
use crate::wire::{EXTENDED_ERROR, Why};
use hickory_proto::op::{Edns, Metadata, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::{Time, TokioTime};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder};
use snapshot::Snapshot;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

const OUR_UDP_BYTES: u16 = 1232;

/// What is to be done with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unusual {
    Reply(Vec<u8>),
    Relay,
    Malformed,
}

pub(crate) async fn answer(message: &[u8], client: SocketAddr, mesh: Mesh) -> Unusual {
    let Ok(request) = Request::from_bytes(message.to_vec(), client, Protocol::Udp) else {
        return Unusual::Malformed;
    };
    let written = Written::default();
    mesh.handle_request::<_, TokioTime>(&request, written.clone()).await;
    match written.take() {
        Some(bytes) => Unusual::Reply(bytes),
        None => Unusual::Relay,
    }
}

/// The names that are answered, as a hickory request handler. A question that isn't ours gets no response from it.
pub(crate) struct Mesh {
    pub(crate) snapshot: Arc<Snapshot>,
    /// Before the first snapshot names below it are SERVFAIL.
    pub(crate) domain: Arc<str>,
}

/// Where the response's bytes go.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Option<Vec<u8>>>>);

impl Written {
    fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What goes into a response: code, answers, and the zone's SOA when there are none.
struct Sections {
    code: ResponseCode,
    why: Option<Why>,
    answers: Vec<Record>,
    soa: Vec<Record>,
}

impl Mesh {
    /// `None`: not ours.
    fn sections(&self, request: &Request) -> Option<Sections> {
        let info = request.request_info().ok()?;
        let owner = info.query.original().name().clone();
        let text = owner.to_lowercase().to_ascii();
        let text = text.trim_end_matches('.');
        if self.snapshot.is_empty() {
            let (code, why) = (ResponseCode::ServFail, Some(Why::NotReady));
            return is_below(text, &self.domain).then(|| Sections { code, why, answers: vec![], soa: vec![] });
        }
        let question =
            Question { name: text, qtype: info.query.query_type().into(), qclass: info.query.query_class().into() };
        let answer = lookup(&self.snapshot, &question);
        if answer == Answer::NotOurs {
            return None;
        }
        if request.version() > 0 {
            return Some(Sections { code: ResponseCode::BADVERS, why: None, answers: vec![], soa: vec![] });
        }
        let settings = self.snapshot.dns();
        let record = |data| Record::from_rdata(owner.clone(), settings.ttl_s, data);
        let answers: Vec<Record> = match answer {
            Answer::A(v4) => vec![record(RData::A(A(v4)))],
            Answer::Aaaa(v6) => vec![record(RData::AAAA(AAAA(v6)))],
            Answer::All { v4, v6 } => {
                let v4 = v4.map(|v4| RData::A(A(v4)));
                v4.into_iter().chain(v6.map(|v6| RData::AAAA(AAAA(v6)))).map(record).collect()
            }
            Answer::Ptr(name) => vec![record(RData::PTR(PTR(Name::from_str(&format!("{name}.")).ok()?)))],
            Answer::NoData | Answer::NotOurs => vec![],
        };
        let zone = if is_below(text, &settings.domain) { settings.domain.as_str() } else { text };
        let soa = if answers.is_empty() { vec![soa(zone, settings.ttl_s)?] } else { vec![] };
        Some(Sections { code: ResponseCode::NoError, why: None, answers, soa })
    }
}

/// The same record as the fast path writes.
fn soa(zone: &str, ttl_s: u32) -> Option<Record> {
    let zone = Name::from_str(&format!("{zone}.")).ok()?;
    let mname = zone.prepend_label("ns").ok()?;
    let rname = zone.prepend_label("hostmaster").ok()?;
    let data = SOA::new(mname, rname, 1, 3600, 600, 86_400, ttl_s);
    Some(Record::from_rdata(zone, ttl_s, RData::SOA(data)))
}

// The trait is declared with async_trait; written out, it needs no dependency on the macro.
impl RequestHandler for Mesh {
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
            let mut metadata = Metadata::response_from_request(&request.metadata);
            let silent = ResponseInfo::from(hickory_proto::op::Header {
                metadata,
                counts: hickory_proto::op::HeaderCounts::default(),
            });
            let Some(sections) = self.sections(request) else { return silent };
            metadata.response_code = sections.code;
            metadata.authoritative = sections.code == ResponseCode::NoError;
            metadata.recursion_available = request.metadata.recursion_desired;
            let edns = request.edns.as_ref().map(|theirs| {
                let mut ours = Edns::new();
                ours.set_max_payload(OUR_UDP_BYTES).set_version(0).set_dnssec_ok(theirs.flags().dnssec_ok);
                if let Some((code, text)) = sections.why.map(Why::info) {
                    let data = [&code.to_be_bytes(), text.as_bytes()].concat();
                    ours.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
                }
                ours
            });
            let mut builder = MessageResponseBuilder::from_message_request(request);
            if let Some(edns) = &edns {
                builder.edns(edns);
            }
            let response = builder.build(metadata, &sections.answers, [], &sections.soa, []);
            response_handle.send_response(response).await.unwrap_or(silent)
        })
    }
}

impl ResponseHandler for Written {
    fn send_response<'a, 's, 'q, 'f>(
        &'s mut self,
        response: MessageResponse<
            'q,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Pin<Box<dyn Future<Output = Result<ResponseInfo, NetError>> + Send + 'f>>
    where
        's: 'f,
        'q: 'f,
        'a: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let mut bytes = Vec::with_capacity(512);
            let info = response.destructive_emit(&mut BinEncoder::new(&mut bytes))?;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
            Ok(info)
        })
    }
}
