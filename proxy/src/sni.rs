//! Reads server name and ALPN from a TLS ClientHello without terminating TLS (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301).
//! Own parser, because Kuma's `backend{mesh=default}` is a name that TLS libraries refuse. Must not know routes.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::error::{ConnError, Reason};
use crate::tcp::Buffer;

/// A ClientHello with its record headers; post-quantum shares and ECH make 2 to 4 KiB today.
pub const HELLO_BYTES_MAX: usize = 32 << 10;
/// How long a client may take to send its ClientHello.
pub const HELLO_TIMEOUT_MS: u64 = 5_000;
/// A server name; longer than DNS permits since Kuma's legacy form carries tags.
pub const SERVER_NAME_BYTES_MAX: usize = 1024;
/// The ALPN by which proxies of a mesh know each other.
pub const ALPN_MESH: &[u8] = b"kuma";

const CONTENT_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const RECORD_BYTES_MAX: usize = 1 << 14;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const NAME_TYPE_HOST: u8 = 0;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// It may become a ClientHello.
    NeedMore,
    NotTls,
    /// A ClientHello without a name, or with an IP literal, which RFC 6066 doesn't count as one.
    NoSni {
        alpn: Alpn,
    },
    /// The name in lower case, without a final dot.
    Sni {
        name: String,
        alpn: Alpn,
    },
    TooLarge,
    Malformed(&'static str),
}

const STOPPED: Hello = Hello::Malformed("the client stopped within its ClientHello");

impl Hello {
    pub fn alpn(&self) -> Option<&Alpn> {
        match self {
            Self::NoSni { alpn } | Self::Sni { alpn, .. } => Some(alpn),
            Self::NeedMore | Self::NotTls | Self::TooLarge | Self::Malformed(_) => None,
        }
    }
}

/// The protocols a client offers: the extension's list as it came, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alpn(Vec<u8>);

impl Alpn {
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Reader(&self.0);
        std::iter::from_fn(move || rest.list8())
    }

    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.iter().any(|offered| offered == protocol)
    }
}

/// Reads the ClientHello out of what has arrived so far. Pure; whatever the bytes are, it neither panics nor loops.
pub fn parse(bytes: &[u8], bytes_max: usize) -> Hello {
    match handshake(bytes, bytes_max) {
        Ok(message) => client_hello(&message).unwrap_or_else(Hello::Malformed),
        Err(hello) => hello,
    }
}

/// The body of the first handshake message, put together if it comes in several records.
fn handshake(bytes: &[u8], bytes_max: usize) -> Result<Cow<'_, [u8]>, Hello> {
    let mut message = Cow::Borrowed(&[][..]);
    let mut rest = Reader(bytes);
    let mut first = true;
    while let Some(content) = rest.u8() {
        match (content, first) {
            (CONTENT_HANDSHAKE, _) => {}
            (_, true) => return Err(Hello::NotTls),
            (_, false) => return Err(Hello::Malformed("another record interrupts the ClientHello")),
        }
        match (rest.u8(), first) {
            (None | Some(3), _) => {}
            (_, true) => return Err(Hello::NotTls),
            (_, false) => return Err(Hello::Malformed("record of another protocol version")),
        }
        let (Some(_minor), Some(length)) = (rest.u8(), rest.u16()) else { return Err(incomplete(bytes, bytes_max)) };
        let length = usize::from(length);
        if length == 0 || length > RECORD_BYTES_MAX {
            return Err(Hello::Malformed("record of impossible length"));
        }
        let fragment = rest.upto(length);
        if first {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        first = false;
        if let Some(length) = message_bytes(&message)? {
            if length > bytes_max {
                return Err(Hello::TooLarge);
            }
            if message.len() >= length {
                return Ok(body(message, length));
            }
        }
        if fragment.len() < length {
            break;
        }
    }
    Err(incomplete(bytes, bytes_max))
}

fn incomplete(bytes: &[u8], bytes_max: usize) -> Hello {
    if bytes.len() >= bytes_max { Hello::TooLarge } else { Hello::NeedMore }
}

/// Length of the message with its header, once that is known.
fn message_bytes(message: &[u8]) -> Result<Option<usize>, Hello> {
    let mut header = Reader(message);
    match header.u8() {
        None => return Ok(None),
        Some(HANDSHAKE_CLIENT_HELLO) => {}
        Some(_) => return Err(Hello::Malformed("the first message is no ClientHello")),
    }
    let length = header.u8().zip(header.u16());
    Ok(length.map(|(high, low)| 4 + (usize::from(high) << 16) + usize::from(low)))
}

fn body(message: Cow<'_, [u8]>, length: usize) -> Cow<'_, [u8]> {
    match message {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(4..length).unwrap_or_default()),
        Cow::Owned(bytes) => Cow::Owned(bytes.get(4..length).unwrap_or_default().to_vec()),
    }
}

fn client_hello(body: &[u8]) -> Result<Hello, &'static str> {
    let cut = "the ClientHello is shorter than it says";
    let mut rest = Reader(body);
    if rest.u8().ok_or(cut)? != 3 {
        return Err("ClientHello of another protocol version");
    }
    rest.take(1 + 32).ok_or(cut)?;
    if rest.list8().ok_or(cut)?.len() > 32 {
        return Err("session id over 32 bytes");
    }
    let suites = rest.list16().ok_or(cut)?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err("odd list of cipher suites");
    }
    if rest.list8().ok_or(cut)?.is_empty() {
        return Err("no compression method");
    }
    if rest.0.is_empty() {
        return Ok(Hello::NoSni { alpn: Alpn::default() });
    }
    let mut extensions = Reader(rest.list16().ok_or(cut)?);
    if !rest.0.is_empty() {
        return Err("bytes after the extensions");
    }
    let (mut name, mut alpn) = (None, None);
    while !extensions.0.is_empty() {
        let kind = extensions.u16().ok_or(cut)?;
        let content = extensions.list16().ok_or(cut)?;
        match kind {
            EXTENSION_SERVER_NAME if name.is_some() => return Err("two server_name extensions"),
            EXTENSION_SERVER_NAME => name = Some(server_name(content)?),
            EXTENSION_ALPN if alpn.is_some() => return Err("two ALPN extensions"),
            EXTENSION_ALPN => alpn = Some(protocols(content)?),
            _ => {}
        }
    }
    let alpn = alpn.unwrap_or_default();
    Ok(match name.flatten() {
        Some(name) => Hello::Sni { name, alpn },
        None => Hello::NoSni { alpn },
    })
}

/// The host name; none for an IP literal.
fn server_name(content: &[u8]) -> Result<Option<String>, &'static str> {
    let cut = "the server_name extension is shorter than it says";
    let mut rest = Reader(content);
    let mut names = Reader(rest.list16().ok_or(cut)?);
    if !rest.0.is_empty() || names.0.is_empty() {
        return Err("empty or trailing server names");
    }
    let mut found = None;
    while !names.0.is_empty() {
        let kind = names.u8().ok_or(cut)?;
        let name = names.list16().ok_or(cut)?;
        if kind == NAME_TYPE_HOST && found.replace(name).is_some() {
            return Err("two host names");
        }
    }
    let Some(name) = found else { return Ok(None) };
    if name.len() > SERVER_NAME_BYTES_MAX {
        return Err("host name too long");
    }
    let text = std::str::from_utf8(name).ok().filter(|_| name.iter().all(u8::is_ascii_graphic));
    let Some(name) = text else { return Err("host name with a space, control or non-ASCII character") };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    match name.as_str() {
        "" => Err("empty host name"),
        literal if literal.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() => Ok(None),
        _ => Ok(Some(name)),
    }
}

fn protocols(content: &[u8]) -> Result<Alpn, &'static str> {
    let mut rest = Reader(content);
    let list = rest.list16().filter(|list| rest.0.is_empty() && !list.is_empty()).ok_or("broken ALPN list")?;
    let mut protocols = Reader(list);
    while !protocols.0.is_empty() {
        if protocols.list8().is_none_or(<[u8]>::is_empty) {
            return Err("broken ALPN protocol");
        }
    }
    Ok(Alpn(list.to_vec()))
}

/// Takes bytes from the front; `None` when there aren't enough.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn upto(&mut self, count: usize) -> &'a [u8] {
        self.take(count.min(self.0.len())).unwrap_or_default()
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn list8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn list16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

/// Takes a ClientHello from the socket and says what it is, never [`Hello::NeedMore`]. Who goes on with the stream must begin
/// with these bytes.
pub async fn take_hello(tcp: &TcpStream, timeout: Duration, bytes_max: usize) -> Result<(Hello, Vec<u8>), ConnError> {
    let mut taken = Vec::new();
    let hello = within(timeout, take_loop(tcp, &mut taken, bytes_max)).await?;
    Ok((hello, taken))
}

async fn take_loop(tcp: &TcpStream, taken: &mut Vec<u8>, bytes_max: usize) -> io::Result<Hello> {
    loop {
        // A new connection, which mostly brings its first bytes, is taken for ready.
        tcp.readable().await?;
        let mut has_ended = false;
        let read = tcp.try_io(Interest::READABLE, || {
            let (count, wanted) = take(tcp, taken, bytes_max)?;
            has_ended = count == 0;
            // That's all for now: the readiness is given back, which saves the call that would only say EAGAIN.
            if 0 < count && count < wanted { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match read {
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Err(error);
            }
            _ => {}
        }
        match parse(taken, bytes_max) {
            Hello::NeedMore if !has_ended => {}
            _ if taken.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Hello::NeedMore => return Ok(STOPPED),
            hello => return Ok(hello),
        }
    }
}

/// One read, and how much it asked for: no more than is still missing to `bytes_max`.
fn take(tcp: &TcpStream, taken: &mut Vec<u8>, bytes_max: usize) -> io::Result<(usize, usize)> {
    let mut buffer = Buffer::take();
    let wanted = buffer.whole().len().min(bytes_max.saturating_sub(taken.len()));
    let space = buffer.range_mut(0, wanted);
    let count = recv(tcp.as_raw_fd(), space, MsgFlags::empty())?;
    taken.extend_from_slice(space.get(..count).unwrap_or_default());
    Ok((count, wanted))
}

/// Waits for a ClientHello and says what it is, never [`Hello::NeedMore`]. The bytes stay in the socket, so whoever reads it
/// next, a TLS library or the copy, sees them all: nothing needs to be replayed.
pub async fn read_hello(tcp: &TcpStream, timeout: Duration, bytes_max: usize) -> Result<Hello, ConnError> {
    let decide = |bytes: &[u8], last: bool| match parse(bytes, bytes_max) {
        Hello::NeedMore if last && !bytes.is_empty() => Some(STOPPED),
        Hello::NeedMore => None,
        hello => Some(hello),
    };
    peek_until(tcp, timeout, bytes_max, decide).await
}

/// Shows `decide` what has arrived, again at each arrival, until it decides. `last` tells that no more will come: the client
/// has finished, or `bytes_max` is reached. The bytes stay in the socket.
pub async fn peek_until<T>(
    tcp: &TcpStream,
    timeout: Duration,
    bytes_max: usize,
    decide: impl FnMut(&[u8], bool) -> Option<T>,
) -> Result<T, ConnError> {
    within(timeout, peek_loop(tcp, bytes_max, decide)).await
}

async fn within<T>(timeout: Duration, first: impl Future<Output = io::Result<T>>) -> Result<T, ConnError> {
    match tokio::time::timeout(timeout, first).await {
        Ok(Ok(decision)) => Ok(decision),
        Ok(Err(error)) => {
            let detail = format!("the client left before its first bytes were complete: {error}");
            Err(ConnError::new(Reason::DownstreamReset, detail))
        }
        Err(_) => {
            let detail = format!("the client sent no complete first message within {} ms", timeout.as_millis());
            Err(ConnError::new(Reason::RequestTimeout, detail))
        }
    }
}

async fn peek_loop<T>(
    tcp: &TcpStream,
    bytes_max: usize,
    mut decide: impl FnMut(&[u8], bool) -> Option<T>,
) -> io::Result<T> {
    loop {
        let ready = tcp.ready(Interest::READABLE).await?;
        let mut last = false;
        let decision = tcp.try_io(Interest::READABLE, || {
            peek(tcp, bytes_max, |bytes| {
                last = ready.is_read_closed() || bytes.len() >= bytes_max;
                // Undecided is "would block": the poller wakes us at the next arrival, not for what is there already.
                decide(bytes, last).ok_or(io::ErrorKind::WouldBlock.into())
            })
        });
        match decision {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && last => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            decision => return decision,
        }
    }
}

/// First with a pooled buffer; only a message that fills it costs an allocation.
fn peek<T>(tcp: &TcpStream, bytes_max: usize, mut show: impl FnMut(&[u8]) -> io::Result<T>) -> io::Result<T> {
    let mut pooled = Buffer::take();
    let wanted = pooled.whole().len().min(bytes_max);
    let space = pooled.range_mut(0, wanted);
    let count = recv(tcp.as_raw_fd(), space, MsgFlags::MSG_PEEK)?;
    if count < wanted || wanted == bytes_max {
        return show(space.get(..count).unwrap_or_default());
    }
    let mut large = vec![0; bytes_max];
    let count = recv(tcp.as_raw_fd(), &mut large, MsgFlags::MSG_PEEK)?;
    show(large.get(..count).unwrap_or_default())
}

#[cfg(test)]
#[path = "sni_tests.rs"]
mod tests;
