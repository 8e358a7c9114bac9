//! Questions over UDP as fast as they are answered: a closed loop with messages in batches.

use super::{Histogram, Report};
use crate::bench::Res;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

const SOCKETS: usize = 4;
const IN_FLIGHT: usize = 16;
const LOST_AFTER: Duration = Duration::from_millis(200);
const MESSAGE_MAX: usize = 512;

struct Asker {
    socket: UdpSocket,
    in_flight: usize,
    next_id: u16,
    sent: Vec<Option<Instant>>,
    last: Instant,
}

pub(super) fn ask(address: SocketAddr, names: usize, time: Duration) -> Res<Report> {
    let questions: Vec<Vec<u8>> = (0..names).map(|number| question(&format!("svc{number}"))).collect();
    let mut askers = Vec::new();
    for _ in 0..SOCKETS {
        let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let socket = socket.map_err(|error| format!("{address}: {error}"))?;
        askers.push(Asker { socket, in_flight: 0, next_id: 0, sent: vec![None; 1 << 16], last: Instant::now() });
    }
    let mut report = Report { operations: 0, errors: 0, elapsed: time, times: Histogram::new() };
    let (began, mut random) = (Instant::now(), 1_u32);
    while began.elapsed() < time {
        for asker in &mut askers {
            asker.send(&questions, &mut random, &mut report)?;
        }
        let mut waiting: Vec<_> =
            askers.iter().map(|asker| PollFd::new(asker.socket.as_fd(), PollFlags::POLLIN)).collect();
        let _timed_out = poll(&mut waiting, PollTimeout::from(50_u8));
        let ready: Vec<bool> = waiting.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        for (asker, is_ready) in askers.iter_mut().zip(ready) {
            if is_ready {
                asker.receive(&mut report);
            }
        }
    }
    report.elapsed = began.elapsed();
    Ok(report)
}

/// An A question for a name below `mesh`; its number is written into it later.
fn question(label: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [label, "mesh"] {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

impl Asker {
    fn send(&mut self, questions: &[Vec<u8>], random: &mut u32, report: &mut Report) -> Res<()> {
        let now = Instant::now();
        if self.in_flight > 0 && now - self.last > LOST_AFTER {
            report.errors += self.in_flight as u64;
            self.in_flight = 0;
            self.last = now;
            self.sent.fill(None);
        }
        let wanted = IN_FLIGHT.saturating_sub(self.in_flight);
        if wanted == 0 {
            return Ok(());
        }
        let mut messages = Vec::with_capacity(wanted);
        for _ in 0..wanted {
            *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = (*random >> 8) as usize % questions.len().max(1);
            let mut message = questions.get(pick).cloned().unwrap_or_default();
            if let Some(id) = message.first_chunk_mut::<2>() {
                *id = self.next_id.to_be_bytes();
            }
            if let Some(sent) = self.sent.get_mut(usize::from(self.next_id)) {
                *sent = Some(now);
            }
            self.next_id = self.next_id.wrapping_add(1);
            messages.push(message);
        }
        let slices: Vec<[IoSlice<'_>; 1]> = messages.iter().map(|message| [IoSlice::new(message)]).collect();
        let addresses: Vec<Option<SockaddrIn>> = vec![None; wanted];
        let mut headers = MultiHeaders::preallocate(wanted, None);
        let fd = self.socket.as_raw_fd();
        let sent = sendmmsg(fd, &mut headers, &slices, &addresses, [], MsgFlags::empty());
        self.in_flight += sent.map_err(|error| format!("UDP: {error}"))?.count();
        Ok(())
    }

    fn receive(&mut self, report: &mut Report) {
        let mut buffers = [[0_u8; MESSAGE_MAX]; IN_FLIGHT];
        let mut lengths = Vec::with_capacity(IN_FLIGHT);
        {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            let mut headers = MultiHeaders::<SockaddrIn>::preallocate(IN_FLIGHT, None);
            let fd = self.socket.as_raw_fd();
            let got = recvmmsg(fd, &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
            if let Ok(results) = got {
                lengths.extend(results.map(|result| result.bytes));
            }
        }
        self.last = Instant::now();
        for (buffer, length) in buffers.iter().zip(lengths) {
            let Some(answer) = buffer.get(..length) else { continue };
            let Some(head) = answer.first_chunk::<8>() else { continue };
            let id = usize::from(u16::from_be_bytes([head[0], head[1]]));
            let Some(sent) = self.sent.get_mut(id).and_then(Option::take) else { continue };
            report.times.add(self.last - sent);
            report.operations += 1;
            self.in_flight = self.in_flight.saturating_sub(1);
            let is_good = head[3] & 15 == 0 && head[7] != 0;
            report.errors += u64::from(!is_good);
        }
    }
}
