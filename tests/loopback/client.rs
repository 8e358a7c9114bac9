//! Small clients: HTTP/1.1 over a connection that is kept, and DNS over UDP. They read strictly, so that a mangled answer is seen.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Longest wait for a peer.
const IO_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn closes(&self) -> bool {
        self.head.to_ascii_lowercase().contains("\r\nconnection: close")
    }
}

/// A connection that requests follow each other on.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, IO_TIMEOUT)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    pub(crate) fn get(&mut self, host: &str, path: &str) -> io::Result<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
        self.answer()
    }

    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut head)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed after {head:?}")));
            }
        }
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
        let field = |name: &str| {
            let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let body = if let Some(length) = field("content-length") {
            let mut body = vec![0; length.parse().map_err(io::Error::other)?];
            self.reader.read_exact(&mut body)?;
            body
        } else if field("transfer-encoding").is_some() {
            self.chunks()?
        } else {
            Vec::new()
        };
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned(), head })
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            self.reader.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// What comes until the peer closes.
    pub(crate) fn rest(&mut self) -> io::Result<String> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            // A peer that closes with bytes of ours unread resets the connection.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(error),
            _ => {}
        }
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }

    pub(crate) fn read_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// One request on a connection of its own.
pub(crate) fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    try_request(address, method, path, body).unwrap_or_else(|e| panic!("{method} {path} on {address}: {e}"))
}

pub(crate) fn try_request(address: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let mut connection = Connection::open(address)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // An early refusal may end the sending; its answer counts.
    let sent = connection.send(head.as_bytes()).and_then(|()| connection.send(body.as_bytes()));
    connection.answer().map_err(|error| sent.err().unwrap_or(error))
}

/// One GET for a host on a connection of its own.
pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    let answer = Connection::open(address).and_then(|mut connection| connection.get(host, path));
    answer.unwrap_or_else(|e| panic!("GET {host}{path} on {address}: {e}"))
}

#[derive(Debug)]
pub(crate) struct DnsAnswer {
    pub(crate) code: u8,
    /// (TTL in seconds, address)
    pub(crate) records: Vec<(u32, IpAddr)>,
}

/// Asks for type 1 (A) or 28 (AAAA).
pub(crate) fn dns(server: SocketAddr, name: &str, kind: u16) -> DnsAnswer {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    socket.send_to(&query, server).unwrap();
    let mut answer = [0; 1500];
    let (count, _) = socket.recv_from(&mut answer).unwrap_or_else(|e| panic!("no answer about {name}: {e}"));
    let answer = &answer[..count];
    assert_eq!(answer[..2], query[..2]);
    let records = u16::from_be_bytes([answer[6], answer[7]]);
    let mut at = query.len();
    let mut found = Vec::new();
    for _ in 0..records {
        // A name: a pointer, or labels up to the root.
        while answer[at] != 0 && answer[at] < 0xc0 {
            at += 1 + usize::from(answer[at]);
        }
        at += if answer[at] == 0 { 1 } else { 2 };
        let ttl = u32::from_be_bytes(answer[at + 4..at + 8].try_into().unwrap());
        let length = usize::from(u16::from_be_bytes([answer[at + 8], answer[at + 9]]));
        let data = &answer[at + 10..at + 10 + length];
        if let Ok(v4) = <[u8; 4]>::try_from(data) {
            found.push((ttl, Ipv4Addr::from(v4).into()));
        } else if let Ok(v6) = <[u8; 16]>::try_from(data) {
            found.push((ttl, Ipv6Addr::from(v6).into()));
        }
        at += 10 + length;
    }
    DnsAnswer { code: answer[3] & 15, records: found }
}
