//! TLS 1.3 clients: handshakes with one request each, and hellos for passthrough. They don't verify the server, so that
//! the server's core is the one that saturates.

use super::{Histogram, Report};
use crate::bench::Res;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, Stream};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const AT_ONCE: usize = 16;
const ANSWER: usize = 1024;
const ERRORS_MAX: u64 = 1_000;

#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ED25519]
    }
}

fn config(resumes: bool) -> Res<Arc<ClientConfig>> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| format!("TLS 1.3: {error}"))?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified)).with_no_client_auth();
    config.resumption = if resumes { Resumption::in_memory_sessions(64) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}

/// The first record of a client that asks for `name`.
pub(crate) fn client_hello(name: &str) -> Res<Vec<u8>> {
    let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("{name}: {error}"))?;
    let mut client = ClientConnection::new(config(false)?, name).map_err(|error| error.to_string())?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello).map_err(|error| error.to_string())?;
    Ok(hello)
}

pub(super) fn handshakes(address: SocketAddr, time: Duration, resumes: bool, name: &str) -> Res<Report> {
    let config = config(resumes)?;
    let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("{name}: {error}"))?;
    let began = Instant::now();
    let until = began + time;
    let threads: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (config, name) = (config.clone(), name.clone());
            std::thread::spawn(move || one_after_another(address, &config, &name, until))
        })
        .collect();
    let mut report = Report { operations: 0, errors: 0, elapsed: time, times: Histogram::new() };
    for thread in threads {
        let (times, errors, count) = thread.join().map_err(|_| "a TLS client panicked".to_owned())?;
        report.times.merge(&times);
        report.errors += errors;
        report.operations += count;
    }
    report.elapsed = began.elapsed();
    Ok(report)
}

fn one_after_another(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    until: Instant,
) -> (Histogram, u64, u64) {
    let (mut times, mut errors, mut count) = (Histogram::new(), 0, 0);
    while Instant::now() < until && errors < ERRORS_MAX {
        let began = Instant::now();
        match once(address, config, name) {
            Ok(()) => {
                times.add(began.elapsed());
                count += 1;
            }
            Err(_) => errors += 1,
        }
    }
    (times, errors, count)
}

fn once(address: SocketAddr, config: &Arc<ClientConfig>, name: &ServerName<'static>) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let mut client = ClientConnection::new(config.clone(), name.clone()).map_err(std::io::Error::other)?;
    let mut stream = Stream::new(&mut client, &mut socket);
    stream.write_all(b"GET /p0 HTTP/1.1\r\nHost: h0.mesh\r\n\r\n")?;
    let (mut buffer, mut got) = ([0_u8; 8192], 0);
    while got < ANSWER {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => got += count,
        }
    }
    Ok(())
}
