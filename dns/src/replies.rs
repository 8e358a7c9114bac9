//! Answers of one batch on their way out, in memory that is allocated once. Those to one client that stand in a row leave as
//! one packet, which the kernel cuts when it arrives (UDP GSO): the two of a lookup of A and AAAA, or many of a resolver's.
//! It must not know what they say.

use crate::answer::ANSWER_BYTES_MAX;
use crate::udp::BATCH;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::net::addr::SocketAddrArg;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg, sendto};
use socket2::{MsgHdr, SockAddr, SockRef};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};

/// Packets given to the kernel at once.
const AT_ONCE: usize = 16;
/// A control message: its length and kind, then the length of a segment.
const CONTROL_BYTES: usize = size_of::<usize>() + 8 + 2;
const CONTROL_SPACE: usize = CONTROL_BYTES.next_multiple_of(size_of::<usize>());

/// Answers to one client, one behind the other. All are as long as the first but the last, which may be shorter.
#[derive(Clone, Copy)]
struct Run {
    client: SocketAddr,
    start: usize,
    end: usize,
    segment: usize,
    count: usize,
    /// Nothing can follow a shorter one.
    is_open: bool,
}

pub(crate) struct Replies {
    bytes: Box<[u8]>,
    /// What of them is taken, by how many answers.
    len: usize,
    count: usize,
    runs: Vec<Run>,
    /// The kernel knows how to cut.
    can_join: bool,
}

impl Replies {
    pub(crate) fn new(socket: &UdpSocket) -> Self {
        // An older kernel would take the control message for nothing, and send all as one datagram.
        let can_join = getsockopt(socket, sockopt::UdpGsoSegment).is_ok();
        let bytes = vec![0; BATCH * ANSWER_BYTES_MAX].into();
        Self { bytes, len: 0, count: 0, runs: Vec::with_capacity(BATCH), can_join }
    }

    /// Where the next reply is written; there is room after every [`Replies::add`].
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..self.len + ANSWER_BYTES_MAX).unwrap_or_default()
    }

    /// Takes the reply that stands in the room, and sends when there is no more: how many couldn't be sent.
    pub(crate) fn add(&mut self, length: usize, client: SocketAddr, socket: &UdpSocket) -> usize {
        let (start, end) = (self.len, self.len + length);
        (self.len, self.count) = (end, self.count + 1);
        let last = self.runs.last_mut().filter(|run| self.can_join && run.is_open && run.client == client);
        if !last.is_some_and(|run| run.extend(length, &mut self.bytes)) {
            self.runs.push(Run { client, start, end, segment: length, count: 1, is_open: true });
        }
        if self.count == BATCH { self.flush(socket) } else { 0 }
    }

    /// Sends what waits: how many replies couldn't be. A full send buffer loses them, as a full queue on the way would:
    /// clients ask again.
    pub(crate) fn flush(&mut self, socket: &UdpSocket) -> usize {
        let mut lost = 0;
        for run in self.runs.iter().filter(|run| run.count > 1) {
            let bytes = self.bytes.get(run.start..run.end).unwrap_or_default();
            match send_joined(socket, bytes, run) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => lost += run.count,
                // The way there can't carry what has to be cut.
                Err(_) => {
                    self.can_join = false;
                    let to = run.client.as_any();
                    let parts = bytes.chunks(run.segment.max(1));
                    lost += parts.filter(|part| sendto(socket, part, SendFlags::DONTWAIT, &to).is_err()).count();
                }
            }
        }
        lost += send_single(socket, &self.bytes, &self.runs);
        (self.len, self.count) = (0, 0);
        self.runs.clear();
        lost
    }
}

impl Run {
    /// Takes the answer that stands behind it, if it fits. A longer second one changes places with the first.
    fn extend(&mut self, length: usize, bytes: &mut [u8]) -> bool {
        if length > self.segment && self.count > 1 {
            return false;
        }
        let end = self.end + length;
        if length > self.segment {
            let Some(both) = bytes.get_mut(self.start..end) else { return false };
            both.rotate_left(self.segment);
        }
        self.is_open = length == self.segment;
        (self.segment, self.end, self.count) = (self.segment.max(length), end, self.count + 1);
        true
    }
}

fn send_joined(socket: &UdpSocket, bytes: &[u8], run: &Run) -> io::Result<()> {
    let segment = u16::try_from(run.segment).map_err(io::Error::other)?;
    let (to, slices, control) = (SockAddr::from(run.client), [IoSlice::new(bytes)], control(segment));
    let message = MsgHdr::new().with_addr(&to).with_buffers(&slices).with_control(&control);
    SockRef::from(socket).sendmsg(&message, libc::MSG_DONTWAIT).map(drop)
}

/// `UDP_SEGMENT`, as the kernel reads it.
fn control(segment: u16) -> [u8; CONTROL_SPACE] {
    let parts = [
        &CONTROL_BYTES.to_ne_bytes()[..],
        &libc::SOL_UDP.to_ne_bytes(),
        &libc::UDP_SEGMENT.to_ne_bytes(),
        &segment.to_ne_bytes(),
    ];
    let mut control = [0; CONTROL_SPACE];
    control.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
    control
}

/// Sends the runs of one answer: how many couldn't be.
fn send_single(socket: &UdpSocket, bytes: &[u8], runs: &[Run]) -> usize {
    let part = |run: &Run| bytes.get(run.start..run.end).unwrap_or_default();
    let mut single = runs.iter().filter(|run| run.count == 1);
    let mut lost = 0;
    loop {
        let mut taken = [None; AT_ONCE];
        let count = taken.iter_mut().zip(&mut single).map(|(place, run)| *place = Some(run)).count();
        match taken {
            [None, ..] => return lost,
            [Some(run), None, ..] => {
                let sent = sendto(socket, part(run), SendFlags::DONTWAIT, &run.client);
                return lost + usize::from(sent.is_err());
            }
            _ => {}
        }
        let clients = taken.map(|run| run.map_or(([0, 0, 0, 0], 0).into(), |run| run.client).as_any());
        let slices = taken.map(|run| [IoSlice::new(run.map_or(&[], part))]);
        let mut controls: [SendAncillaryBuffer<'_, '_, '_>; AT_ONCE] = Default::default();
        let mut places = clients.iter().zip(&slices);
        let mut messages = controls.each_mut().map(|control| match places.next() {
            Some((to, slice)) => MMsgHdr::new_with_addr(to, slice, control),
            None => MMsgHdr::new(&[], control),
        });
        let mut at = 0;
        while let Some(rest) = messages.get_mut(at..count).filter(|rest| !rest.is_empty()) {
            match sendmmsg(socket, rest, SendFlags::DONTWAIT) {
                Ok(sent) => at += sent.max(1),
                Err(_) => (at, lost) = (at + 1, lost + 1),
            }
        }
    }
}
