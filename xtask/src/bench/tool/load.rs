//! TCP loads: messages there and back on kept or new connections, and bytes one way.

use super::events::{Events, Slots, connect};
use super::{Histogram, Report};
use crate::bench::Res;
use nix::sys::epoll::EpollFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const MESSAGE: usize = 64;
const PIECE: usize = 1 << 20;

/// One message, or those of a file: each after its length in four bytes, big endian.
pub(super) fn payloads(file: Option<&String>) -> Res<Vec<Vec<u8>>> {
    let Some(file) = file else { return Ok(vec![vec![b'a'; MESSAGE]]) };
    let bytes = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    let mut rest = bytes.as_slice();
    let mut all = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (payload, after) = after.split_at_checked(length).ok_or(format!("{file} ends within a message"))?;
        all.push(payload.to_vec());
        rest = after;
    }
    if all.is_empty() { Err(format!("{file} has no message")) } else { Ok(all) }
}

struct Exchange {
    stream: TcpStream,
    began: Instant,
    payload: usize,
    got: usize,
    is_sent: bool,
}

struct Messages<'a> {
    address: SocketAddr,
    payloads: &'a [Vec<u8>],
    is_new_each: bool,
    next: usize,
    open: Slots<Exchange>,
    events: Events,
    report: Report,
}

pub(super) fn messages(
    address: SocketAddr,
    connections: usize,
    time: Duration,
    payloads: &[Vec<u8>],
    is_new_each: bool,
) -> Res<Report> {
    let began = Instant::now();
    let report = Report { operations: 0, errors: 0, elapsed: time, times: Histogram::new() };
    let (open, events) = (Slots::new(), Events::new()?);
    let mut load = Messages { address, payloads, is_new_each, next: 0, open, events, report };
    for _ in 0..connections {
        load.start()?;
    }
    let mut buffer = vec![0; 128 << 10];
    let mut ready = Vec::new();
    while began.elapsed() < time {
        ready.extend(load.events.wait().iter().map(nix::sys::epoll::EpollEvent::data));
        for token in ready.drain(..) {
            load.turn(token, &mut buffer)?;
        }
    }
    load.report.elapsed = began.elapsed();
    Ok(load.report)
}

impl Messages<'_> {
    fn start(&mut self) -> Res<()> {
        let payload = self.next % self.payloads.len().max(1);
        self.next += 1;
        let began = Instant::now();
        let exchange = Exchange { stream: connect(self.address)?, began, payload, got: 0, is_sent: false };
        let token = self.open.put(exchange);
        if let Some(exchange) = self.open.get(token) {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            self.events.add(&exchange.stream, flags, token)?;
        }
        Ok(())
    }

    fn turn(&mut self, token: u64, buffer: &mut [u8]) -> Res<()> {
        let Some(exchange) = self.open.get(token) else { return Ok(()) };
        let payload = self.payloads.get(exchange.payload).map(Vec::as_slice).unwrap_or_default();
        match exchange.turn(payload, buffer, self.is_new_each) {
            Ok(None) => Ok(()),
            Ok(Some(time)) => {
                self.report.operations += 1;
                self.report.times.add(time);
                if self.is_new_each { self.again(token) } else { Ok(()) }
            }
            Err(_) => {
                self.report.errors += 1;
                self.again(token)
            }
        }
    }

    fn again(&mut self, token: u64) -> Res<()> {
        self.open.end(token);
        self.start()
    }
}

impl Exchange {
    /// The time of an exchange that this turn completed.
    fn turn(&mut self, payload: &[u8], buffer: &mut [u8], is_new_each: bool) -> std::io::Result<Option<Duration>> {
        if !self.is_sent {
            if !is_new_each {
                self.began = Instant::now();
            }
            match self.stream.write(payload) {
                Ok(_) => self.is_sent = true,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
                Err(error) => return Err(error),
            }
            return Ok(None);
        }
        match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.got += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        if self.got < payload.len() {
            return Ok(None);
        }
        let now = Instant::now();
        let time = now - self.began;
        if !is_new_each {
            (self.got, self.began) = (0, now);
            self.stream.write_all(payload)?;
        }
        Ok(Some(time))
    }
}

/// An operation is a MiB.
pub(super) fn bulk(address: SocketAddr, streams: usize, time: Duration) -> Res<Report> {
    let memory = memfd_create(c"bench", MFdFlags::MFD_CLOEXEC).map_err(|error| format!("memfd: {error}"))?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&vec![7; PIECE]).map_err(|error| format!("memfd: {error}"))?;
    let mut events = Events::new()?;
    let mut open = Slots::new();
    for _ in 0..streams {
        let token = open.put(connect(address)?);
        if let Some(stream) = open.get(token) {
            events.add(&*stream, EpollFlags::EPOLLOUT, token)?;
        }
    }
    let (began, mut bytes, mut errors) = (Instant::now(), 0_u64, 0);
    while began.elapsed() < time {
        for event in events.wait() {
            let Some(stream) = open.get(event.data()) else { continue };
            let mut offset = 0;
            match sendfile(&*stream, &file, Some(&mut offset), PIECE) {
                Ok(count) => bytes += count as u64,
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(_) => {
                    errors += 1;
                    open.end(event.data());
                }
            }
        }
    }
    let operations = bytes / PIECE as u64;
    Ok(Report { operations, errors, elapsed: began.elapsed(), times: Histogram::new() })
}
