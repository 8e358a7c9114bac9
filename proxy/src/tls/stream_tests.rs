//! The record layer against rustls on the other side: any split of the bytes, ends with and without goodbye, key updates,
//! and what isn't TLS.

use super::*;
use crate::test_ca::{Ca, leaf};
use crate::tls::{accept, connect, provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

fn configs(versions: &[&'static SupportedProtocolVersion], suite: Option<SupportedCipherSuite>) -> Configs {
    let ca = Ca::new();
    let (chain, key) = leaf(&ca, &[], |p| {
        p.subject_alt_names.push(rcgen::SanType::DnsName("a.test".try_into().unwrap()));
    });
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut offered = (*provider()).clone();
    if let Some(suite) = suite {
        offered.cipher_suites = vec![suite];
    }
    let offered = Arc::new(offered);
    let key = Arc::new(CertifiedKey::from_der(chain, key, &offered).unwrap());
    let server = ServerConfig::builder_with_provider(Arc::clone(&offered)).with_protocol_versions(versions).unwrap();
    let mut server = server.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(offered).with_protocol_versions(versions).unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    (server.enable_secret_extraction, client.enable_secret_extraction) = (true, true);
    (Arc::new(server), Arc::new(client))
}

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);
type Theirs = tokio_rustls::TlsStream<DuplexStream>;
type Ours = TlsStream<Cut>;

/// A pipe that gives and takes no more than some bytes at a time.
struct Cut(DuplexStream, usize);

impl AsyncRead for Cut {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut part = vec![0; self.1.min(buffer.remaining())];
        let mut part = ReadBuf::new(&mut part);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut part))?;
        buffer.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = self.1.min(bytes.len());
        Pin::new(&mut self.0).poll_write(cx, &bytes[..count])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Our stream and rustls' own; ours is the client or the server, and sees its bytes in pieces of `piece_bytes`.
async fn pair((server, client): &Configs, ours_serves: bool, piece_bytes: usize) -> (Ours, Theirs) {
    let (near, far) = duplex(1 << 16);
    let near = Cut(near, piece_bytes);
    let name = ServerName::try_from("a.test").unwrap();
    if ours_serves {
        let dial = TlsConnector::from(Arc::clone(client)).connect(name, far);
        let (ours, theirs) = tokio::join!(accept(server, near), dial);
        (ours.unwrap(), theirs.unwrap().into())
    } else {
        let serve = TlsAcceptor::from(Arc::clone(server)).accept(far);
        let (ours, theirs) = tokio::join!(connect(client, name, near), serve);
        (ours.unwrap(), theirs.unwrap().into())
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

async fn both_ways(ours: Ours, theirs: Theirs, bytes: &[u8]) {
    let (mut our_read, mut our_write) = tokio::io::split(ours);
    let (mut their_read, mut their_write) = tokio::io::split(theirs);
    let (mut at_them, mut at_us) = (Vec::new(), Vec::new());
    let say = async {
        our_write.write_all(bytes).await.unwrap();
        our_write.shutdown().await.unwrap();
    };
    let answer = async {
        their_write.write_all(bytes).await.unwrap();
        their_write.shutdown().await.unwrap();
    };
    let (_, _, heard, got) =
        tokio::join!(say, answer, their_read.read_to_end(&mut at_them), our_read.read_to_end(&mut at_us));
    heard.unwrap();
    got.unwrap();
    assert!(at_them == bytes && at_us == bytes, "bytes differ");
}

#[tokio::test]
async fn every_suite_of_both_versions_speaks_with_rustls_in_both_roles() {
    for versions in [TLS13, TLS12] {
        for suite in provider().cipher_suites.iter().filter(|s| s.version() == versions[0]) {
            // The certificate's key is ECDSA.
            if format!("{:?}", suite.suite()).contains("_RSA_") {
                continue;
            }
            let configs = configs(versions, Some(*suite));
            for ours_serves in [true, false] {
                let (ours, theirs) = pair(&configs, ours_serves, 1 << 16).await;
                both_ways(ours, theirs, &noise(200_001)).await;
            }
        }
    }
}

#[tokio::test]
async fn records_cut_at_any_byte_are_put_together() {
    for (versions, ours_serves) in [(TLS13, true), (TLS13, false), (TLS12, true), (TLS12, false)] {
        for piece_bytes in [1, 7, 4096] {
            let (ours, theirs) = pair(&configs(versions, None), ours_serves, piece_bytes).await;
            both_ways(ours, theirs, &noise(20_000)).await;
        }
    }
}

#[tokio::test]
async fn a_gathered_write_is_one_record_and_reads_of_any_size_see_it() {
    let (mut ours, mut theirs) = pair(&configs(TLS13, None), true, 1 << 16).await;
    let slices = [IoSlice::new(b"head "), IoSlice::new(b""), IoSlice::new(b"body")];
    assert_eq!(ours.write_vectored(&slices).await.unwrap(), 9);
    let mut first = [0; 64];
    assert_eq!(theirs.read(&mut first).await.unwrap(), 9);
    assert_eq!(&first[..9], b"head body");
    theirs.write_all(b"abc").await.unwrap();
    theirs.flush().await.unwrap();
    for expected in b"abc" {
        assert_eq!(ours.read_u8().await.unwrap(), *expected);
    }
}

#[tokio::test]
async fn a_cut_without_goodbye_is_an_error_and_a_goodbye_is_the_end() {
    for versions in [TLS13, TLS12] {
        let (mut ours, theirs) = pair(&configs(versions, None), true, 1 << 16).await;
        drop(theirs);
        assert_eq!(ours.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (mut ours, mut theirs) = pair(&configs(versions, None), true, 1 << 16).await;
        theirs.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        // The other direction lives on.
        ours.write_all(b"late").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "late");
        assert_eq!(ours.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}

#[tokio::test]
async fn key_updates_are_followed_and_answered() {
    for ours_serves in [true, false] {
        let (mut ours, mut theirs) = pair(&configs(TLS13, None), ours_serves, 1 << 16).await;
        for round in 0..3_u8 {
            match &mut theirs {
                tokio_rustls::TlsStream::Client(stream) => stream.get_mut().1.refresh_traffic_keys().unwrap(),
                tokio_rustls::TlsStream::Server(stream) => stream.get_mut().1.refresh_traffic_keys().unwrap(),
            }
            theirs.write_all(&[round]).await.unwrap();
            theirs.flush().await.unwrap();
            assert_eq!(ours.read_u8().await.unwrap(), round);
            ours.write_all(&[round, round]).await.unwrap();
            assert_eq!(theirs.read_u16().await.unwrap().to_be_bytes(), [round; 2]);
        }
    }
}

#[tokio::test]
async fn a_worn_key_is_replaced_before_the_next_record() {
    let (mut ours, mut theirs) = pair(&configs(TLS13, None), true, 1 << 16).await;
    ours.key_update_due = true;
    ours.write_all(b"new key").await.unwrap();
    assert_eq!(ours.sealer.sequence(), 1, "counted from the new key on");
    let mut heard = [0; 7];
    theirs.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"new key");
}

#[tokio::test]
async fn a_client_keeps_the_tickets_and_resumes() {
    let configs = configs(TLS13, None);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (mut ours, mut theirs) = pair(&configs, false, 1 << 16).await;
        theirs.write_all(b"x").await.unwrap();
        theirs.flush().await.unwrap();
        ours.read_u8().await.unwrap();
        kinds.push(ours.handshake_kind().unwrap());
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[tokio::test]
async fn an_idle_connection_holds_no_block() {
    let (mut ours, mut theirs) = pair(&configs(TLS13, None), true, 1 << 16).await;
    theirs.write_all(b"x").await.unwrap();
    theirs.flush().await.unwrap();
    ours.read_u8().await.unwrap();
    ours.write_all(b"y").await.unwrap();
    let mut byte = [0];
    let pending = std::future::poll_fn(|cx| {
        Poll::Ready(Pin::new(&mut ours).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending())
    })
    .await;
    assert!(pending && !format!("{:?}{:?}", ours.input, ours.output).contains("Block("));
}

/// Sends raw bytes where a record is due; gives our error and what the peer's rustls says.
async fn confused(raw: &[u8]) -> (String, String) {
    let (mut ours, theirs) = pair(&configs(TLS13, None), true, 1 << 16).await;
    let tokio_rustls::TlsStream::Client(theirs) = theirs else { panic!("theirs dialled") };
    let (mut pipe, session) = theirs.into_inner();
    pipe.write_all(raw).await.unwrap();
    let error = ours.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(ours.read_u8().await.is_err(), "it stays failed");
    drop(ours);
    let (mut session, mut left) = (session, Vec::new());
    pipe.read_to_end(&mut left).await.unwrap();
    session.read_tls(&mut left.as_slice()).unwrap();
    let mut heard = session.process_new_packets();
    while let (Ok(_), true) = (&heard, session.read_tls(&mut io::empty()).is_ok_and(|count| count > 0)) {
        heard = session.process_new_packets();
    }
    (error.to_string(), heard.err().map(|e| e.to_string()).unwrap_or_default())
}

#[tokio::test]
async fn what_is_no_record_of_ours_ends_with_an_alert() {
    let forged = [&[23, 3, 3, 0, 32][..], &[7; 32]].concat();
    // (raw bytes, our error, what the peer hears)
    let table: [(&[u8], &str, &str); 6] = [
        (&forged, "decrypt", "BadRecordMac"),
        (&[23, 3, 3, 0xff, 0xff], "excess record size", "RecordOverflow"),
        (b"GET / HTTP/1.1\r\n", "ProtocolVersion", "ProtocolVersion"),
        (&[23, 3, 3, 0, 3, 1, 2, 3], "decrypt", "BadRecordMac"),
        (&[21, 3, 3, 0, 2, 2, 40], "UnexpectedMessage", "UnexpectedMessage"),
        (&[22, 3, 3, 0, 1, 0], "UnexpectedMessage", "UnexpectedMessage"),
    ];
    for (raw, error, alert) in table {
        let (said, heard) = confused(raw).await;
        assert!(said.contains(error), "{said:?} should say {error:?}");
        assert!(heard.contains(alert), "{heard:?} should say {alert:?}");
    }
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_is_refused_with_an_alert() {
    let (server, _) = configs(TLS13, None);
    for raw in [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], &[22, 3, 1, 0, 4, 1, 0, 0, 0], &noise(4096)] {
        let (near, mut far) = duplex(1 << 16);
        far.write_all(raw).await.unwrap();
        let refused = accept(&server, near).await.unwrap_err();
        assert!(refused.detail.starts_with("TLS handshake: "), "{}", refused.detail);
        let mut left = Vec::new();
        far.read_to_end(&mut left).await.unwrap();
        assert_eq!(left.first(), Some(&21), "an alert: {left:?}");
    }
}

/// Two ends of one key.
fn same_key(version: Version) -> (Cipher, Cipher) {
    let secrets = || {
        let (key, iv) = ([7; 32].into(), [9; 12].into());
        (0, rustls::ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv })
    };
    (Cipher::new(secrets(), version).unwrap(), Cipher::new(secrets(), version).unwrap())
}

#[tokio::test]
async fn a_peer_that_only_sends_empty_records_is_cut() {
    let (mut ours, theirs) = pair(&configs(TLS13, None), true, 1 << 16).await;
    let tokio_rustls::TlsStream::Client(theirs) = theirs else { panic!("theirs dialled") };
    let (mut pipe, _) = theirs.into_inner();
    let (mut seal, open) = same_key(Version::Tls13);
    ours.opener = open;
    let (mut raw, mut length) = (vec![0; 8192], 0);
    for _ in 0..=IDLE_RECORDS_MAX {
        length += seal.seal(ContentType::ApplicationData, (&[], 0), 0, &mut raw[length..]).unwrap();
    }
    pipe.write_all(&raw[..length]).await.unwrap();
    assert_eq!(ours.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_large_read_takes_several_records_at_once_and_stops_where_keys_change() {
    for versions in [TLS13, TLS12] {
        let (mut ours, mut theirs) = pair(&configs(versions, None), true, 1 << 20).await;
        let bytes = noise(3 * PLAIN_BYTES_MAX + 100);
        let say = async {
            theirs.write_all(&bytes).await.unwrap();
            if let (tokio_rustls::TlsStream::Client(theirs), TLS13) = (&mut theirs, versions) {
                theirs.get_mut().1.refresh_traffic_keys().unwrap();
            }
            theirs.write_all(&bytes).await.unwrap();
            theirs.shutdown().await.unwrap();
        };
        let (mut all, mut space, mut largest) = (Vec::new(), vec![0; 1 << 17], 0);
        let hear = async {
            while let count @ 1.. = ours.read(&mut space).await.unwrap() {
                all.extend_from_slice(&space[..count]);
                largest = largest.max(count);
            }
        };
        tokio::join!(say, hear);
        assert!(all == [bytes.as_slice(), &bytes].concat(), "bytes differ");
        assert!(largest > PLAIN_BYTES_MAX, "{largest} bytes at most");
    }
}

#[tokio::test]
async fn a_large_record_that_is_no_data_is_judged_as_a_small_one_would_be() {
    let (mut ours, theirs) = pair(&configs(TLS13, None), true, 1 << 16).await;
    let tokio_rustls::TlsStream::Client(theirs) = theirs else { panic!("theirs dialled") };
    let (mut pipe, _) = theirs.into_inner();
    let (mut seal, open) = same_key(Version::Tls13);
    ours.opener = open;
    let (mut raw, message) = (vec![0; 20_000], vec![99; 8000]);
    let slices = [IoSlice::new(&message)];
    let length = seal.seal(ContentType::Handshake, (&slices, 0), message.len(), &mut raw).unwrap();
    pipe.write_all(&raw[..length]).await.unwrap();
    let error = ours.read(&mut vec![0; 1 << 16]).await.unwrap_err();
    assert!(error.to_string().contains("DecodeError"), "{error}");
}

#[test]
fn any_change_of_a_record_is_noticed() {
    for version in [Version::Tls12, Version::Tls13] {
        let plain = noise(100);
        let slices = [IoSlice::new(&plain[..30]), IoSlice::new(&plain[30..])];
        let mut record = vec![0; 200];
        let length = same_key(version).0.seal(ContentType::ApplicationData, (&slices, 0), 100, &mut record).unwrap();
        let mut apart = vec![0; length];
        for at in 5..length {
            let mut changed = record[..length].to_vec();
            changed[at] ^= 1;
            assert!(same_key(version).1.open_into(&changed, &mut apart).is_err(), "byte {at} of {length}");
            assert!(same_key(version).1.open(&mut changed).is_err(), "byte {at} of {length}");
        }
        let opened = same_key(version).1.open_into(&record[..length], &mut apart).unwrap();
        assert_eq!((opened, &apart[..100]), ((ContentType::ApplicationData, 100), plain.as_slice()));
        let (content, range) = same_key(version).1.open(&mut record[..length]).unwrap();
        assert_eq!((content, &record[range]), (ContentType::ApplicationData, plain.as_slice()));
    }
}
