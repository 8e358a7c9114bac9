//! Connections that asked once and stay: what they cost a proxy in memory.

use crate::bench::Res;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const ANSWER: usize = 1024;

/// Prints a line when all are there, and holds them until stdin ends.
pub(super) fn hold(address: SocketAddr, count: usize, host: &str) -> Res<()> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut held = Vec::with_capacity(count);
    let mut buffer = [0_u8; 4096];
    for number in 0..count {
        let of = |error| format!("connection {number} of {count} to {address}: {error}");
        let mut stream = TcpStream::connect(address).map_err(of)?;
        stream.write_all(request.as_bytes()).map_err(of)?;
        let mut got = 0;
        while got < ANSWER {
            match stream.read(&mut buffer).map_err(of)? {
                0 => return Err(format!("connection {number} to {address} was closed before its answer")),
                count => got += count,
            }
        }
        held.push(stream);
    }
    println!("{{\"held\": {}}}", held.len());
    let _until_end = std::io::stdin().read(&mut buffer);
    Ok(())
}
