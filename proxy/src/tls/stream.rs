//! An established TLS connection as a byte stream, with its own record handling: bytes are opened in a borrowed block or straight
//! into the reader's memory and sealed from the writer's, up to four records a system call; an idle connection holds no buffer.
//! Key updates, tickets, alerts and the close are handled here. Must not know who the peer should be, nor what the bytes mean.

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, ContentType, Error, HandshakeKind, ProtocolVersion};
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::block::{CONTROL_BYTES, Incoming, Outgoing};
use super::handshake::{Handshake, Session, broken};
use super::record::{Bad, Cipher, PLAIN_BYTES_MAX, Version, find};

/// Records without application data that a peer may send in a row.
const IDLE_RECORDS_MAX: u8 = 32;
/// A handshake message after the handshake (a ticket of a mutual session holds certificates).
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Records sealed with one key before it is replaced: below 2^24.5, the limit of AES-GCM (RFC 8446 §5.5).
const RECORDS_PER_KEY_MAX: u64 = 1 << 23;
/// Records from this size on are opened straight into the reader's memory.
const LARGE_BYTES_MIN: usize = 4 << 10;
const NEW_SESSION_TICKET: u8 = 4;
const HELLO_REQUEST: u8 = 0;
const KEY_UPDATE: u8 = 24;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What the handshake agreed on.
#[derive(Debug)]
struct Facts {
    alpn: Option<Box<[u8]>>,
    leaf: Option<CertificateDer<'static>>,
    kind: Option<HandshakeKind>,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// The peer said goodbye.
    Closed,
    Failed,
}

/// TLS over `S`, either side of it.
pub struct TlsStream<S> {
    io: S,
    facts: Facts,
    session: Session,
    opener: Cipher,
    sealer: Cipher,
    input: Incoming,
    /// Plain bytes in the input's block: from, to.
    plain: (usize, usize),
    /// Plain bytes that came with the handshake, and how many of them are read.
    early: (Box<[u8]>, usize),
    message: Vec<u8>,
    output: Outgoing,
    reading: Reading,
    idle_records: u8,
    /// The socket didn't take all; it goes first.
    blocked: bool,
    key_update_due: bool,
    said_goodbye: bool,
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("facts", &self.facts).field("reading", &self.reading).finish_non_exhaustive()
    }
}

impl<S> TlsStream<S> {
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        self.facts.alpn.as_deref()
    }

    /// No bytes of the peer wait here: there is nothing to read until the socket has some.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.reading == Reading::Open && self.plain().is_empty() && self.input.is_empty()
    }

    /// The peer's own certificate.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.facts.leaf.as_ref()
    }

    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.facts.kind
    }

    pub fn protocol_version(&self) -> ProtocolVersion {
        match self.facts.version {
            Version::Tls12 => ProtocolVersion::TLSv1_2,
            Version::Tls13 => ProtocolVersion::TLSv1_3,
        }
    }

    fn plain(&self) -> &[u8] {
        match self.early.0.get(self.early.1..) {
            Some(early) if !early.is_empty() => early,
            _ => self.input.range(self.plain.0..self.plain.1),
        }
    }

    fn used(&mut self, count: usize) {
        if self.early.1 < self.early.0.len() {
            self.early.1 = (self.early.1 + count).min(self.early.0.len());
            if self.early.1 == self.early.0.len() {
                self.early = (Box::default(), 0);
            }
            return;
        }
        self.plain.0 = (self.plain.0 + count).min(self.plain.1);
        if self.plain.0 == self.plain.1 {
            self.input.release_if_empty();
        }
    }

    /// Opens the records that are whole until one has data. True when more must be read.
    fn open(&mut self) -> Result<bool, Error> {
        while self.reading == Reading::Open {
            let Some(found) = find(self.input.bytes()).map_err(|bad| self.refuse(bad))? else { return Ok(true) };
            let start = self.input.position();
            let record = self.input.bytes_mut().get_mut(..found.bytes).unwrap_or_default();
            let (content, range) = self.opener.open(record).map_err(|bad| self.refuse(bad))?;
            let (from, to) = (start + range.start, start + range.end);
            self.input.advance(found.bytes);
            if content == ContentType::ApplicationData && from < to {
                self.plain = (from, to);
                self.idle_records = 0;
                return Ok(false);
            }
            let body = self.input.range(from..to).to_vec();
            self.control(content, &body)?;
        }
        Ok(false)
    }

    /// Opens a large record at the front of the input into `buffer`. False where [`Self::open`] must see to it.
    fn open_into(&mut self, buffer: &mut ReadBuf<'_>) -> Result<bool, Error> {
        let Ok(Some(found)) = find(self.input.bytes()) else { return Ok(false) };
        let large = LARGE_BYTES_MIN <= found.bytes && found.bytes <= buffer.remaining();
        if !large || found.content != ContentType::ApplicationData {
            return Ok(false);
        }
        let space = buffer.initialize_unfilled();
        let record = self.input.bytes().get(..found.bytes).unwrap_or_default();
        let (content, count) = match self.opener.open_into(record, space) {
            Ok(opened) => opened,
            Err(bad) => return Err(self.refuse(bad)),
        };
        self.input.advance(found.bytes);
        if content == ContentType::ApplicationData && count > 0 {
            buffer.advance(count);
            self.idle_records = 0;
        } else {
            let body = space.get(..count).unwrap_or_default().to_vec();
            self.control(content, &body)?;
        }
        self.input.release_if_empty();
        Ok(true)
    }

    /// Moves to `buffer` what is here already, as far as it has room.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> Result<(), Error> {
        loop {
            let plain = self.plain();
            if !plain.is_empty() {
                let count = plain.len().min(buffer.remaining());
                buffer.put_slice(plain.get(..count).unwrap_or_default());
                self.used(count);
            }
            if buffer.remaining() == 0 || self.reading != Reading::Open {
                return Ok(());
            }
            if !self.open_into(buffer)? && self.open()? {
                return Ok(());
            }
        }
    }

    /// A record without application data.
    fn control(&mut self, content: ContentType, body: &[u8]) -> Result<(), Error> {
        self.idle_records += 1;
        if self.idle_records > IDLE_RECORDS_MAX {
            return Err(self.refuse(Bad(AlertDescription::UnexpectedMessage)));
        }
        match content {
            ContentType::ApplicationData => Ok(()),
            ContentType::Alert => self.alert(body),
            ContentType::Handshake => {
                self.message.extend_from_slice(body);
                self.messages().map_err(|bad| self.refuse(bad))
            }
            _ => Err(self.refuse(Bad(AlertDescription::UnexpectedMessage))),
        }
    }

    fn alert(&mut self, body: &[u8]) -> Result<(), Error> {
        let &[level, description] = body else {
            return Err(self.refuse(Bad(AlertDescription::DecodeError)));
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => {
                self.reading = Reading::Closed;
                self.input = Incoming::default();
            }
            AlertDescription::UserCanceled => {}
            _ if level == WARNING && self.facts.version == Version::Tls12 => {}
            other => {
                self.reading = Reading::Failed;
                return Err(Error::AlertReceived(other));
            }
        }
        Ok(())
    }

    /// The handshake messages that are whole: tickets and key updates.
    fn messages(&mut self) -> Result<(), Bad> {
        while let [kind, a, b, c, rest @ ..] = self.message.as_slice() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > MESSAGE_BYTES_MAX {
                return Err(Bad(AlertDescription::DecodeError));
            }
            let Some((body, after)) = rest.split_at_checked(length) else { return Ok(()) };
            match (*kind, self.facts.version, &mut self.session) {
                (NEW_SESSION_TICKET, Version::Tls13, Session::Client(session)) => {
                    session.handle_new_session_ticket(body).map_err(|_| Bad(AlertDescription::DecodeError))?;
                }
                (KEY_UPDATE, Version::Tls13, session) => {
                    // Nothing may follow under the old key, so a message behind it is forged or confused.
                    let ([request @ (0 | 1)], []) = (body, after) else {
                        return Err(Bad(AlertDescription::UnexpectedMessage));
                    };
                    self.key_update_due |= *request == 1;
                    let secrets = match session {
                        Session::Client(session) => session.update_rx_secret(),
                        Session::Server(session) => session.update_rx_secret(),
                    };
                    let cipher = secrets.ok().and_then(|secrets| Cipher::new(secrets, self.facts.version));
                    self.opener = cipher.ok_or(Bad(AlertDescription::InternalError))?;
                }
                // A request to renegotiate may be ignored (RFC 5246 §7.4.1.1).
                (HELLO_REQUEST, Version::Tls12, Session::Client(_)) => {}
                _ => return Err(Bad(AlertDescription::UnexpectedMessage)),
            }
            let used = 4 + length;
            self.message.drain(..used);
            if self.message.is_empty() {
                self.message = Vec::new();
            }
        }
        Ok(())
    }

    /// The connection is over, and the peer is told why.
    fn refuse(&mut self, Bad(alert): Bad) -> Error {
        self.reading = Reading::Failed;
        if !self.said_goodbye {
            self.said_goodbye = true;
            self.seal_control(ContentType::Alert, &[FATAL, u8::from(alert)]);
        }
        match alert {
            AlertDescription::BadRecordMac => Error::DecryptError,
            AlertDescription::RecordOverflow => Error::PeerSentOversizedRecord,
            other => Error::General(format!("the peer broke the rules of TLS: we answered with the alert {other:?}")),
        }
    }

    fn seal_control(&mut self, content: ContentType, bytes: &[u8]) -> bool {
        let slices = [IoSlice::new(bytes)];
        let sealed = self.sealer.seal(content, (&slices, 0), bytes.len(), self.output.space());
        self.output.filled(sealed.unwrap_or(0));
        sealed.is_some()
    }

    /// Replaces our key, where the peer asked for it or it has sealed enough.
    fn update_key(&mut self) -> io::Result<()> {
        let worn = self.sealer.sequence() >= RECORDS_PER_KEY_MAX;
        if !self.key_update_due && !worn {
            return Ok(());
        }
        if self.facts.version == Version::Tls12 {
            return Err(broken(Error::EncryptError));
        }
        if !self.seal_control(ContentType::Handshake, &[KEY_UPDATE, 0, 0, 1, 0]) {
            // No room now; the next write comes here again.
            return Ok(());
        }
        self.key_update_due = false;
        let secrets = match &mut self.session {
            Session::Client(session) => session.update_tx_secret(),
            Session::Server(session) => session.update_tx_secret(),
        };
        let cipher = Cipher::new(secrets.map_err(broken)?, self.facts.version);
        self.sealer = cipher.ok_or_else(|| broken(Error::EncryptError))?;
        Ok(())
    }

    /// Seals as much of the slices as has room; gives the plain bytes taken.
    fn seal(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut taken = 0;
        while taken < total {
            let plain = (total - taken).min(PLAIN_BYTES_MAX);
            if self.output.room() < self.sealer.sealed_bytes(plain) + CONTROL_BYTES {
                break;
            }
            let sealed = self.sealer.seal(ContentType::ApplicationData, (slices, taken), plain, self.output.space());
            self.output.filled(sealed.ok_or_else(|| broken(Error::EncryptError))?);
            taken += plain;
        }
        Ok(taken)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    pub(super) fn new(handshake: Handshake<S>) -> io::Result<Self> {
        let common = handshake.common();
        let version = match common.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
            _ => Version::Tls12,
        };
        let facts = Facts {
            alpn: common.alpn_protocol().map(Into::into),
            leaf: common.peer_certificates().and_then(<[_]>::first).cloned(),
            kind: common.handshake_kind(),
            version,
        };
        let (secrets, session, (io, input, output, early, closed)) = handshake.split()?;
        let cipher = |secrets| Cipher::new(secrets, version).ok_or_else(|| broken(Error::EncryptError));
        let mut stream = Self {
            io,
            facts,
            session,
            opener: cipher(secrets.rx)?,
            sealer: cipher(secrets.tx)?,
            input,
            plain: (0, 0),
            early: (early.into_boxed_slice(), 0),
            message: Vec::new(),
            output,
            reading: if closed { Reading::Closed } else { Reading::Open },
            idle_records: 0,
            blocked: false,
            key_update_due: false,
            said_goodbye: false,
        };
        stream.input.release_if_empty();
        Ok(stream)
    }

    /// Writes what is sealed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.output.poll_write(cx, Pin::new(&mut self.io));
        self.blocked = outcome.is_pending();
        outcome
    }

    fn check(&self) -> io::Result<()> {
        match self.reading {
            Reading::Failed => Err(io::Error::new(io::ErrorKind::InvalidData, "the TLS connection failed before")),
            Reading::Open | Reading::Closed => Ok(()),
        }
    }

    /// Reads more; an end without a goodbye is an error.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.input.poll_read(cx, Pin::new(&mut self.io)) {
            Poll::Ready(Ok(0)) => {
                self.reading = Reading::Failed;
                let why = "the peer closed the connection without TLS's close_notify";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)))
            }
            Poll::Ready(outcome) => Poll::Ready(outcome.map(|_| ())),
            Poll::Pending => {
                // Before going to sleep: tickets and answers that no write took along. The writer hears of errors.
                // Where the socket is full a writer waits for it already, and its waker must stay.
                if !self.blocked && self.update_key().is_ok() && !self.output.is_empty() {
                    let _ = self.poll_drain(cx);
                }
                Poll::Pending
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.said_goodbye {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.blocked {
            ready!(self.poll_drain(cx))?;
        }
        self.update_key()?;
        let mut taken = self.seal(slices)?;
        if taken == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            ready!(self.poll_drain(cx))?;
            taken = self.seal(slices)?;
        }
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the socket doesn't take now goes before anything else.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let had = buffer.filled().len();
        loop {
            let taken = this.take(buffer);
            if taken.is_err() {
                let _ = this.poll_drain(cx);
            }
            // What is wrong behind bytes that came is the next read's.
            if buffer.filled().len() > had || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            taken.map_err(broken)?;
            this.check()?;
            if this.reading == Reading::Closed {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_input(cx))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncBufRead for TlsStream<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.plain().is_empty() && this.reading != Reading::Closed {
            this.check()?;
            match this.open() {
                Ok(false) => {}
                Ok(true) => ready!(this.poll_input(cx))?,
                Err(error) => {
                    let _ = this.poll_drain(cx);
                    return Poll::Ready(Err(broken(error)));
                }
            }
        }
        Poll::Ready(Ok(this.plain()))
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        self.get_mut().used(count);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.said_goodbye {
            if this.output.room() < CONTROL_BYTES {
                ready!(this.poll_drain(cx))?;
            }
            this.said_goodbye = true;
            this.seal_control(ContentType::Alert, &[WARNING, u8::from(AlertDescription::CloseNotify)]);
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
