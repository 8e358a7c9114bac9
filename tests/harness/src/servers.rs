//! Applications in miniature, on threads: one that echoes, one that speaks just enough HTTP/1.1. They serve until the test ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Longest wait for a peer.
const IO_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends back what comes, until the client's half-close, then closes. Call it inside `Node::enter` to place it on a node.
pub fn echo_server(address: SocketAddr) -> SocketAddr {
    serve(address, |mut stream| {
        let mut reader = stream.try_clone()?;
        io::copy(&mut reader, &mut stream)?;
        stream.shutdown(Shutdown::Write)
    })
}

/// Answers every request with 200 and what a function makes of its head and its peer.
#[derive(Clone, Copy, Debug)]
pub struct HttpServer {
    pub address: SocketAddr,
}

impl HttpServer {
    pub fn start(address: SocketAddr, answer: impl Fn(&str, SocketAddr) -> String + Clone + Send + 'static) -> Self {
        let address = serve(address, move |stream| {
            let peer = stream.peer_addr()?;
            let mut reader = BufReader::new(stream.try_clone()?);
            let mut writer = stream;
            while let Some(head) = read_head(&mut reader)? {
                skip_body(&head, &mut reader)?;
                let body = answer(&head, peer);
                // One write: several small ones would wait for each other's acknowledgement.
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                writer.write_all(answer.as_bytes())?;
            }
            Ok(())
        });
        Self { address }
    }
}

fn serve(address: SocketAddr, each: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    let bound = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            // What goes wrong here the test sees at its own end of the connection.
            std::thread::spawn(move || drop(each(stream)));
        }
    });
    bound
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    while reader.read_line(&mut head)? > 0 {
        if head.ends_with("\r\n\r\n") {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn skip_body(head: &str, reader: &mut impl Read) -> io::Result<()> {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    io::copy(&mut reader.take(length.unwrap_or(0)), &mut io::sink()).map(drop)
}

/// One GET on a fresh connection; the whole answer, head and body.
pub fn http_get(address: SocketAddr, host: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, IO_TIMEOUT)?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
