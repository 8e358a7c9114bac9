//! Single questions to what runs: is it ready, what does it answer, which VIP has a name. Not a load.

use super::Res;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

const ANSWER_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_micros(500);

/// The whole answer to one GET, head included.
pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX).ok()?;
    stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Gives a resource to a REST API on loopback.
pub(crate) fn put(port: u16, path: &str, body: &str) -> Res<()> {
    let of = |error| format!("PUT {path}: {error}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(of)?;
    let length = body.len();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).map_err(of)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(of)?;
    if answer.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) {
        return Ok(());
    }
    Err(format!("PUT {path}: {}", answer.chars().take(300).collect::<String>()))
}

/// Asks `/ready` of an admin port until it says yes.
pub(crate) fn is_ready(admin: u16, at_most: Duration) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], admin));
    until(at_most, || {
        let answer = get(address, "localhost", "/ready");
        answer.is_some_and(|text| text.split(' ').nth(1) == Some("200"))
    })
}

/// Asks again and again.
pub(crate) fn until(at_most: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < at_most {
        if is_so() {
            return true;
        }
        sleep(POLL);
    }
    false
}

/// The A record of `name`, asked of a DNS server on loopback.
pub(crate) fn resolve(port: u16, name: &str) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).ok()?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&question, ("127.0.0.1", port)).ok()?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    let answer = answer.get(..length)?;
    // One answer and nothing after it: its address is the last four bytes.
    (answer.get(7) == Some(&1)).then_some(())?;
    answer.last_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes))
}
