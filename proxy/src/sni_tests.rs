//! ClientHellos: hand-made, made by rustls, mutated, random, and arriving in pieces.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

fn list16(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes(), content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &list16(content)].concat()
}

fn sni_extension(name: &[u8]) -> Vec<u8> {
    extension(EXTENSION_SERVER_NAME, &list16(&[&[NAME_TYPE_HOST][..], &list16(name)].concat()))
}

fn alpn_extension(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols.iter().flat_map(|p| [&[p.len() as u8][..], p].concat()).collect();
    extension(EXTENSION_ALPN, &list16(&list))
}

/// The handshake message; `extensions` absent means that the field is left out.
fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(extensions.map(list16).unwrap_or_default());
    let length = (body.len() as u32).to_be_bytes();
    [&[HANDSHAKE_CLIENT_HELLO], &length[1..], &body].concat()
}

fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    message.chunks(fragment_bytes).flat_map(|fragment| [&[22, 3, 1][..], &list16(fragment)].concat()).collect()
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    records(&message(Some(extensions)), RECORD_BYTES_MAX)
}

fn check(bytes: &[u8]) -> Hello {
    parse(bytes, HELLO_BYTES_MAX)
}

fn sni(name: &str) -> Hello {
    Hello::Sni { name: name.to_owned(), alpn: Alpn::default() }
}

fn is_malformed(bytes: &[u8]) -> bool {
    matches!(check(bytes), Hello::Malformed(_))
}

fn rustls_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let mut config =
        rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_hello_made_by_rustls_is_read() {
    let bytes = rustls_hello("Web.Shop.Mesh", &[b"kuma", b"h2"]);
    let Hello::Sni { name, alpn } = check(&bytes) else { panic!("{:?}", check(&bytes)) };
    assert_eq!(name, "web.shop.mesh");
    assert_eq!(alpn.iter().collect::<Vec<_>>(), [&b"kuma"[..], b"h2"]);
    assert!(alpn.offers(ALPN_MESH) && !alpn.offers(b"http/1.1"));
    assert_eq!(check(&rustls_hello("10.0.0.1", &[])), Hello::NoSni { alpn: Alpn::default() });
}

#[test]
fn every_prefix_of_a_hello_needs_more() {
    let bytes = rustls_hello("web.mesh", &[b"kuma"]);
    for end in 0..bytes.len() {
        assert_eq!(check(&bytes[..end]), Hello::NeedMore, "after {end} bytes");
    }
}

#[test]
fn names_are_lowercased_and_lose_their_final_dot() {
    assert_eq!(check(&hello(&sni_extension(b"WEB.Mesh."))), sni("web.mesh"));
}

#[test]
fn kumas_brace_form_is_a_name() {
    let name = "backend{mesh=default,version=v1}";
    assert_eq!(check(&hello(&sni_extension(name.as_bytes()))), sni(name));
}

#[test]
fn a_name_may_be_long_but_not_endless() {
    let long = "a".repeat(SERVER_NAME_BYTES_MAX);
    assert_eq!(check(&hello(&sni_extension(long.as_bytes()))), sni(&long));
    assert!(is_malformed(&hello(&sni_extension(&[b'a'; SERVER_NAME_BYTES_MAX + 1]))));
}

#[test]
fn nul_space_control_and_non_ascii_are_refused() {
    for name in [&b"web\0.mesh"[..], b"web mesh", b"web\r\n", "wéb".as_bytes(), b"", b"."] {
        assert!(is_malformed(&hello(&sni_extension(name))), "{name:?}");
    }
}

#[test]
fn an_ip_literal_is_no_name() {
    for literal in [&b"10.1.2.3"[..], b"fd00::1", b"[fd00::1]"] {
        assert_eq!(check(&hello(&sni_extension(literal))), Hello::NoSni { alpn: Alpn::default() }, "{literal:?}");
    }
}

#[test]
fn a_hello_without_extensions_or_without_a_name_has_no_sni() {
    assert_eq!(check(&records(&message(None), 999)), Hello::NoSni { alpn: Alpn::default() });
    assert!(matches!(check(&hello(&alpn_extension(&[b"kuma"]))), Hello::NoSni { alpn } if alpn.offers(ALPN_MESH)));
}

#[test]
fn grease_and_ech_beside_the_name_are_skipped() {
    let extensions = [
        extension(0x0a0a, &[]),
        extension(0xfe0d, &[0; 300]),
        sni_extension(b"public.example"),
        alpn_extension(&[&[0x0a, 0x0a], b"h2"]),
        extension(0xdada, &[0]),
    ];
    assert!(matches!(check(&hello(&extensions.concat())), Hello::Sni { name, .. } if name == "public.example"));
}

#[test]
fn a_hello_in_many_records_is_put_together() {
    let message = message(Some(&sni_extension(b"web.mesh")));
    for fragment_bytes in [1, 2, 3, 5, 40] {
        assert_eq!(check(&records(&message, fragment_bytes)), sni("web.mesh"));
    }
}

#[test]
fn over_sixteen_kibibytes_are_read_over_several_records_up_to_the_bound() {
    let large = [extension(21, &[0; 18 << 10]), sni_extension(b"web.mesh")].concat();
    assert_eq!(check(&hello(&large)), sni("web.mesh"));
    let huge = [extension(21, &[0; 40 << 10]), sni_extension(b"web.mesh")].concat();
    assert_eq!(check(&hello(&huge)), Hello::TooLarge);
    // It is refused as soon as its length is known, not when it has been taken in.
    assert_eq!(check(&hello(&huge)[..20]), Hello::TooLarge);
    // Records of one byte would make a permitted message too large on the wire.
    let dribble = records(&message(Some(&extension(21, &[0; 8 << 10]))), 1);
    assert_eq!(check(&dribble[..HELLO_BYTES_MAX]), Hello::TooLarge);
}

#[test]
fn other_protocols_are_not_tls_from_their_first_bytes() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"P", b"SSH-2.0", &[22, 9], &[0x80, 0x2e, 1, 3, 1]] {
        assert_eq!(check(bytes), Hello::NotTls, "{bytes:?}");
    }
}

#[test]
fn contradictions_are_malformed() {
    let two_names = list16(&[&[0][..], &list16(b"a"), &[0], &list16(b"b")].concat());
    let cases = [
        hello(&[sni_extension(b"a"), sni_extension(b"b")].concat()),
        hello(&[alpn_extension(&[b"a"]), alpn_extension(&[b"b"])].concat()),
        hello(&extension(EXTENSION_SERVER_NAME, &two_names)),
        hello(&extension(EXTENSION_SERVER_NAME, &[])),
        hello(&extension(EXTENSION_ALPN, &[0, 2, 5, 1])),
        hello(&alpn_extension(&[b""])),
        hello(&[0, 0, 0]),
        vec![22, 3, 1, 0, 0],
        vec![22, 3, 1, 0x40, 1],
        vec![22, 3, 1, 0, 4, 2, 0, 0, 0],
        [&records(&message(None), 20)[..25], &[21, 3, 1, 0, 2, 1, 0]].concat(),
    ];
    for case in cases {
        assert!(is_malformed(&case), "{case:?} is {:?}", check(&case));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = check(&bytes);
        let _ = check(&[&[22, 3, 1][..], &list16(&bytes)].concat());
        let _ = check(&hello(&bytes));
        let _ = check(&hello(&extension(EXTENSION_SERVER_NAME, &bytes)));
        let _ = check(&hello(&extension(EXTENSION_ALPN, &bytes)));
    }

    #[test]
    fn mutated_hellos_never_panic(
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = rustls_hello("web.shop.mesh", &[b"kuma", b"h2"]);
        for (index, value) in mutations {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let _ = check(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = check(&bytes);
    }

    #[test]
    fn fragmentation_never_changes_the_answer(fragment_bytes in 1usize..2000) {
        let extensions = [alpn_extension(&[b"kuma"]), sni_extension(b"web.mesh"), extension(51, &[1; 1200])].concat();
        let message = message(Some(&extensions));
        prop_assert_eq!(check(&records(&message, fragment_bytes)), check(&hello(&extensions)));
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

#[tokio::test]
async fn a_hello_arriving_byte_by_byte_is_recognised_and_stays_in_the_socket() {
    let (mut client, mut server) = pair().await;
    client.set_nodelay(true).unwrap();
    let bytes = hello(&sni_extension(b"web.mesh"));
    let sender = async {
        for byte in &bytes {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let (answer, ()) = tokio::join!(read_hello(&server, Duration::from_secs(10), HELLO_BYTES_MAX), sender);
    assert_eq!(answer.unwrap(), sni("web.mesh"));
    let mut read = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut server, &mut read).await.unwrap();
    assert_eq!(read, bytes);
}

#[tokio::test]
async fn a_hello_larger_than_one_buffer_is_recognised() {
    let (mut client, server) = pair().await;
    let bytes = hello(&[extension(21, &[0; 20 << 10]), sni_extension(b"web.mesh")].concat());
    let (answer, sent) =
        tokio::join!(read_hello(&server, Duration::from_secs(10), HELLO_BYTES_MAX), client.write_all(&bytes));
    sent.unwrap();
    assert_eq!(answer.unwrap(), sni("web.mesh"));
}

#[tokio::test]
async fn a_taken_hello_comes_with_all_its_bytes_and_what_follows_stays() {
    let bytes = hello(&[extension(21, &[0; 20 << 10]), sni_extension(b"web.mesh")].concat());
    for pieces in [1, 7, 16 << 10] {
        let (mut client, mut server) = pair().await;
        let sender = async {
            for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (taken, ()) = tokio::join!(take_hello(&server, Duration::from_secs(10), HELLO_BYTES_MAX), sender);
        assert!(taken.unwrap() == (sni("web.mesh"), bytes.clone()));
        client.write_all(b"next").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut server, &mut rest).await.unwrap();
        assert_eq!(rest, b"next");
    }
}

#[tokio::test]
async fn what_is_no_hello_is_taken_up_to_the_limit_only() {
    let (mut client, server) = pair().await;
    let bytes = hello(&extension(21, &[0; 4 << 10]));
    let (taken, sent) = tokio::join!(take_hello(&server, Duration::from_secs(10), 1 << 10), client.write_all(&bytes));
    sent.unwrap();
    let (answer, taken) = taken.unwrap();
    assert_eq!(answer, Hello::TooLarge);
    assert!(taken.len() <= 1 << 10);
}

#[tokio::test]
async fn a_client_that_stops_halfway_is_answered_at_once() {
    let (mut client, server) = pair().await;
    client.write_all(&hello(&[])[..10]).await.unwrap();
    client.shutdown().await.unwrap();
    let answer = read_hello(&server, Duration::from_secs(10), HELLO_BYTES_MAX).await.unwrap();
    assert!(matches!(answer, Hello::Malformed(_)), "{answer:?}");
    let (taken, _) = take_hello(&server, Duration::from_secs(10), HELLO_BYTES_MAX).await.unwrap();
    assert_eq!(taken, answer);
    let (client, server) = pair().await;
    drop(client);
    let error = take_hello(&server, Duration::from_secs(10), HELLO_BYTES_MAX).await.unwrap_err();
    assert_eq!(error.reason, Reason::DownstreamReset);
    let error = read_hello(&server, Duration::from_secs(10), HELLO_BYTES_MAX).await.unwrap_err();
    assert_eq!(error.reason, Reason::DownstreamReset);
}

#[tokio::test]
async fn a_silent_client_is_timed_out() {
    let (_client, server) = pair().await;
    let error = read_hello(&server, Duration::from_millis(20), HELLO_BYTES_MAX).await.unwrap_err();
    assert_eq!(error.reason, Reason::RequestTimeout);
}

/// What rustls reads in the same bytes: a name, none, or that it needs more or refuses them.
fn by_rustls(bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
        }
    }
    None
}

#[test]
fn fuzzed_hellos_are_read_as_rustls_reads_them_however_they_arrive() {
    let corpus = [env!("CARGO_MANIFEST_DIR"), "corpus", "hellos.hex"].iter().collect();
    let telling = [0, 1, 2, 3, 4, 16, 22, 23, 32, 33, 45, 46, 64, 127, 128, 255];
    harness::Fuzz { corpus, telling: &telling, inputs: 10_000, input_bytes_max: 3000 }.run(|bytes| {
        let whole = check(bytes);
        if let Hello::Sni { name, .. } = &whole {
            assert!(!name.is_empty() && name.len() <= SERVER_NAME_BYTES_MAX);
            assert!(name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
        }
        // A limit below the hello refuses it instead of waiting for ever.
        assert_ne!(parse(bytes, bytes.len()), Hello::NeedMore);
        // What was decided about a beginning isn't taken back.
        let half = check(&bytes[..bytes.len() / 2]);
        assert!(half == Hello::NeedMore || half == whole, "{half:?}, then {whole:?}");
        // Who routes by a name and who terminates must not differ about it.
        let theirs = by_rustls(bytes);
        match (&whole, &theirs) {
            (Hello::Sni { name, .. }, Some(Some(theirs))) => assert_eq!(name, theirs.trim_end_matches('.')),
            (Hello::NoSni { .. }, Some(Some(theirs))) => panic!("no name, but rustls reads {theirs}"),
            _ => {}
        }
        let kind = match &whole {
            Hello::Malformed(why) => why,
            Hello::NeedMore => "more",
            Hello::NotTls => "not TLS",
            Hello::NoSni { .. } => "no name",
            Hello::Sni { .. } => "name",
            Hello::TooLarge => "large",
        };
        (kind, theirs.map(|name| name.is_some()), whole.alpn().map(|alpn| alpn.iter().count().min(3)))
    });
}
