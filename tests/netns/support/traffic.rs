//! Plain TCP whose every byte is checked at its end, and a client's questions about names.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use harness::Node;

/// What is sent each way by [`exchange`].
pub(crate) const BULK_BYTES: usize = 100 << 20;
const BLOCK_BYTES: usize = 1 << 16;
const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// Writes `BULK_BYTES` that depend on `seed` and their position.
fn send(mut to: impl Write, seed: u64) -> io::Result<()> {
    for index in 0..(BULK_BYTES / BLOCK_BYTES) as u64 {
        to.write_all(&block(seed, index))?;
    }
    Ok(())
}

/// A file of `BULK_BYTES` for programs that send files.
pub(crate) fn bulk_file(path: &Path) {
    send(io::BufWriter::new(File::create(path).unwrap()), 3).unwrap();
}

/// Reads to the end and checks that it is exactly what [`send`] writes.
fn check(mut from: impl Read, seed: u64) -> Result<(), String> {
    let mut got = vec![0; BLOCK_BYTES];
    for index in 0..(BULK_BYTES / BLOCK_BYTES) as u64 {
        from.read_exact(&mut got).map_err(|error| format!("block {index}: {error}"))?;
        if got != block(seed, index) {
            return Err(format!("block {index} of {BLOCK_BYTES} bytes differs"));
        }
    }
    match from.read(&mut got) {
        Ok(0) => Ok(()),
        other => Err(format!("after the last byte: {other:?}")),
    }
}

fn block(seed: u64, index: u64) -> Vec<u8> {
    let word = (index ^ seed.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut block = word.to_le_bytes().repeat(BLOCK_BYTES / 8);
    block[..8].copy_from_slice(&index.to_le_bytes());
    block
}

/// An application that takes all until the client's half-close, and only then answers with as much, on every connection.
/// What it thinks of the bytes comes out of the receiver.
pub(crate) fn bulk_server(node: &Node, port: u16) -> Receiver<Result<(), String>> {
    let listener = node.enter(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
    let (verdicts, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(IO_TIMEOUT));
            let checked = check(&stream, 1).and_then(|()| {
                send(&stream, 2).and_then(|()| stream.shutdown(Shutdown::Write)).map_err(|error| error.to_string())
            });
            let _ = verdicts.send(checked);
        }
    });
    receiver
}

/// The client of [`bulk_server`].
pub(crate) fn exchange(node: &Node, address: SocketAddr) -> Result<(), String> {
    let stream = connect(node, address).map_err(|error| format!("connecting: {error}"))?;
    send(&stream, 1).map_err(|error| format!("sending: {error}"))?;
    stream.shutdown(Shutdown::Write).map_err(|error| format!("half-close: {error}"))?;
    check(&stream, 2)
}

/// From this node.
pub(crate) fn connect(node: &Node, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = node.enter(|| TcpStream::connect_timeout(&address, IO_TIMEOUT))?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    Ok(stream)
}

/// Sends a line and returns what comes until the peer's end, or how the connection broke.
pub(crate) fn say(node: &Node, address: SocketAddr, line: &str) -> io::Result<String> {
    let mut stream = connect(node, address)?;
    stream.write_all(line.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The first address that the node's own resolver gives for a name; `database` is getent's: `ahostsv4` or `ahostsv6`.
pub(crate) fn resolve(node: &Node, database: &str, name: &str) -> Option<IpAddr> {
    node.try_run("getent", &[database, name]).ok()?.split_whitespace().next()?.parse().ok()
}

/// A resolver on this node's port 53 that knows one answer: every name's only address is the node's own IPv4 address.
pub(crate) fn name_server(node: &Node) {
    let socket = node.enter(|| UdpSocket::bind("[::]:53").unwrap());
    let address = node.v4.octets();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&answer(&question[..count], address), from);
        }
    });
}

/// The question's header and section again, what else it says left out (RFC 1035 §4.1).
fn answer(question: &[u8], address: [u8; 4]) -> Vec<u8> {
    let labels = question[12..].iter().position(|byte| *byte == 0).unwrap();
    let end = 12 + labels + 5;
    let is_a = question[end - 4..end - 2] == [0, 1];
    let mut answer = question[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    answer
}
