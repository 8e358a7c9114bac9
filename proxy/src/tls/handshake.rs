//! Drives rustls through a handshake and takes the connection's keys from it: from there on the records are our own
//! (`stream.rs`). Must not know who the peer should be (the configuration's verifier does), nor deadlines.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ExtractedSecrets, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};

use super::block::{Incoming, Outgoing};

/// The largest record that rustls gives to be sent.
const RECORD_BYTES_MAX: usize = (16 << 10) + 256 + 5;
/// Records that a failed handshake may still send: its alert, and what waited before it.
const LAST_RECORDS_MAX: usize = 8;

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What rustls keeps after the handshake: the secrets of key updates, and the tickets.
pub(super) enum Session {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// One handshake, and what it read and wrote beyond itself.
pub(super) struct Handshake<S> {
    pub(super) io: S,
    side: Side,
    pub(super) input: Incoming,
    pub(super) output: Outgoing,
    /// Application data that came together with the end of the handshake.
    pub(super) early: Vec<u8>,
    pub(super) closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Again,
    Closed,
    /// The peer's next flight is awaited.
    Read,
    /// Nothing left to do but to talk.
    Ready,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<S> {
    pub(super) async fn client(config: Arc<ClientConfig>, name: ServerName<'static>, io: S) -> io::Result<Self> {
        let side = UnbufferedClientConnection::new(config, name).map_err(broken)?;
        Self::new(Side::Client(Box::new(side)), io).run().await
    }

    /// `first`: what was read of `io` before.
    pub(super) async fn server(config: Arc<ServerConfig>, io: S, first: &[u8]) -> io::Result<Self> {
        let side = UnbufferedServerConnection::new(config).map_err(broken)?;
        let mut handshake = Self::new(Side::Server(Box::new(side)), io);
        if !handshake.input.begin_with(first) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the first bytes are more than a handshake needs"));
        }
        handshake.run().await
    }

    fn new(side: Side, io: S) -> Self {
        let (input, output) = (Incoming::default(), Outgoing::default());
        Self { io, side, input, output, early: Vec::new(), closed: false }
    }

    pub(super) fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(client) => client,
            Side::Server(server) => server,
        }
    }

    async fn run(mut self) -> io::Result<Self> {
        loop {
            if self.output.room() < RECORD_BYTES_MAX {
                self.flush().await?;
            }
            match self.step() {
                Ok(Step::Again) => {}
                Ok(Step::Closed) => self.closed = true,
                // A server may already talk while the client's last flight is awaited.
                Ok(Step::Ready) if !self.common().is_handshaking() => break,
                Ok(Step::Read | Step::Ready) => self.read().await?,
                Err(error) => {
                    self.say_why().await;
                    return Err(broken(error));
                }
            }
        }
        // A TLS 1.3 server has nothing left to send but tickets: they go with its first bytes, which saves a system call.
        let tickets_only =
            matches!(self.side, Side::Server(_)) && self.common().protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if !tickets_only {
            self.flush().await?;
        }
        Ok(self)
    }

    fn step(&mut self) -> Result<Step, Error> {
        let Self { side, input, output, early, .. } = self;
        let (discard, step) = match side {
            Side::Client(client) => advance(client.process_tls_records(input.bytes_mut()), output, early),
            Side::Server(server) => advance(server.process_tls_records(input.bytes_mut()), output, early),
        };
        input.advance(discard);
        step
    }

    async fn read(&mut self) -> io::Result<()> {
        self.flush().await?;
        match poll_fn(|cx| self.input.poll_read(cx, Pin::new(&mut self.io))).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.output.poll_write(cx, Pin::new(&mut self.io))).await?;
        poll_fn(|cx| Pin::new(&mut self.io).poll_flush(cx)).await
    }

    /// The alert of a failed handshake, as far as the peer takes it. rustls is asked only while it has something to send:
    /// past that it would go on with what was read, from a place that the failure left undefined.
    async fn say_why(&mut self) {
        for _ in 0..LAST_RECORDS_MAX {
            if !self.common().wants_write() || self.output.room() < RECORD_BYTES_MAX || self.step().is_err() {
                break;
            }
        }
        let _ = self.flush().await;
    }

    /// The keys in force, what rustls keeps, and the rest of this.
    #[expect(clippy::type_complexity, reason = "read in one place, by the stream that this becomes")]
    pub(super) fn split(self) -> io::Result<(ExtractedSecrets, Session, (S, Incoming, Outgoing, Vec<u8>, bool))> {
        let (secrets, session) = match self.side {
            Side::Client(client) => {
                let (secrets, kernel) = client.dangerous_into_kernel_connection().map_err(broken)?;
                (secrets, Session::Client(kernel))
            }
            Side::Server(server) => {
                let (secrets, kernel) = server.dangerous_into_kernel_connection().map_err(broken)?;
                (secrets, Session::Server(kernel))
            }
        };
        Ok((secrets, session, (self.io, self.input, self.output, self.early, self.closed)))
    }
}

fn advance<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    output: &mut Outgoing,
    early: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = state.and_then(|state| match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let count = data.encode(output.space()).map_err(|e| Error::General(e.to_string()))?;
            output.filled(count);
            Ok(Step::Again)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::ReadTraffic(mut data) => {
            while let Some(record) = data.next_record() {
                let record = record?;
                early.extend_from_slice(record.payload);
                discard += record.discard;
            }
            Ok(Step::Again)
        }
        ConnectionState::BlockedHandshake => Ok(Step::Read),
        ConnectionState::PeerClosed => Ok(Step::Closed),
        ConnectionState::WriteTraffic(_) | ConnectionState::Closed => Ok(Step::Ready),
        other => Err(Error::General(format!("unexpected state {other:?} of a handshake"))),
    });
    (discard, step)
}

pub(super) fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
