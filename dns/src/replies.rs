//! Answers of one batch on their way out, in memory that is allocated once. Those to one client leave as
//! one packet, which the kernel cuts when it arrives (UDP GSO): the two of a lookup of A and AAAA, or many of a resolver's.
//! It must not know what they say.

use crate::answer::ANSWER_BYTES_MAX;
use crate::udp::BATCH;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::net::addr::SocketAddrArg;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg, sendto};
use socket2::{MsgHdr, SockAddr, SockRef};
use std::cmp::Reverse;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};

/// Packets given to the kernel at once.
const AT_ONCE: usize = 16;
/// A control message: its length and kind, then the length of a segment.
const CONTROL_BYTES: usize = size_of::<usize>() + 8 + 2;
const CONTROL_SPACE: usize = CONTROL_BYTES.next_multiple_of(size_of::<usize>());

/// Where an answer stands, and whose it is.
#[derive(Clone, Copy)]
struct Reply {
    client: SocketAddr,
    start: usize,
    length: usize,
}

impl Reply {
    fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.start..self.start + self.length).unwrap_or_default()
    }
}

pub(crate) struct Replies {
    bytes: Box<[u8]>,
    /// What of them is taken.
    len: usize,
    waiting: Vec<Reply>,
    /// Those of them that share no packet, while they are sent.
    alone: Vec<Reply>,
    /// The kernel knows how to cut.
    can_join: bool,
}

impl Replies {
    pub(crate) fn new(socket: &UdpSocket) -> Self {
        // An older kernel would take the control message for nothing, and send all as one datagram.
        let can_join = getsockopt(socket, sockopt::UdpGsoSegment).is_ok();
        let bytes = vec![0; BATCH * ANSWER_BYTES_MAX].into();
        Self { bytes, len: 0, waiting: Vec::with_capacity(BATCH), alone: Vec::with_capacity(BATCH), can_join }
    }

    /// Where the next reply is written; there is room after every [`Replies::add`].
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..self.len + ANSWER_BYTES_MAX).unwrap_or_default()
    }

    /// Takes the reply that stands in the room, and sends when there is no more: how many couldn't be sent.
    pub(crate) fn add(&mut self, length: usize, client: SocketAddr, socket: &UdpSocket) -> usize {
        self.waiting.push(Reply { client, start: self.len, length });
        self.len += length;
        if self.waiting.len() == BATCH { self.flush(socket) } else { 0 }
    }

    /// Sends what waits: how many replies couldn't be. A full send buffer loses them, as a full queue on the way would:
    /// clients ask again.
    pub(crate) fn flush(&mut self, socket: &UdpSocket) -> usize {
        let mut lost = 0;
        if self.can_join && self.waiting.len() > 1 {
            // Nobody relies on an order of answers.
            self.waiting.sort_unstable_by_key(|reply| (reply.client, Reverse(reply.length)));
            let mut rest = self.waiting.as_slice();
            while let Some((run, after)) = first_run(rest) {
                rest = after;
                match send_joined(socket, &self.bytes, run) {
                    Some(Ok(())) => {}
                    None => self.alone.extend_from_slice(run),
                    Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => lost += run.len(),
                    // The way there can't carry what has to be cut.
                    Some(Err(_)) => {
                        self.can_join = false;
                        self.alone.extend_from_slice(run);
                    }
                }
            }
            lost += send_each(socket, &self.bytes, &self.alone);
        } else {
            lost += send_each(socket, &self.bytes, &self.waiting);
        }
        self.len = 0;
        self.waiting.clear();
        self.alone.clear();
        lost
    }
}

/// The answers that can share a packet with the first: to one client, as long as it, and one shorter one as the last.
fn first_run(replies: &[Reply]) -> Option<(&[Reply], &[Reply])> {
    let first = replies.first()?;
    let same = replies.iter().take_while(|reply| (reply.client, reply.length) == (first.client, first.length)).count();
    let is_followed = replies.get(same).is_some_and(|reply| reply.client == first.client);
    replies.split_at_checked(same + usize::from(is_followed))
}

/// `None`: there are no two.
fn send_joined(socket: &UdpSocket, bytes: &[u8], run: &[Reply]) -> Option<io::Result<()>> {
    let first = run.first().filter(|_| run.len() > 1)?;
    let control = control(u16::try_from(first.length).ok()?);
    let mut replies = run.iter();
    let slices: [IoSlice<'_>; BATCH] =
        std::array::from_fn(|_| IoSlice::new(replies.next().map_or(&[], |reply| reply.of(bytes))));
    let to = SockAddr::from(first.client);
    let message = MsgHdr::new().with_addr(&to).with_buffers(slices.get(..run.len())?).with_control(&control);
    Some(SockRef::from(socket).sendmsg(&message, libc::MSG_DONTWAIT).map(drop))
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

/// Sends each by itself: how many couldn't be.
fn send_each(socket: &UdpSocket, bytes: &[u8], replies: &[Reply]) -> usize {
    let mut lost = 0;
    for some in replies.chunks(AT_ONCE) {
        if let [reply] = some {
            let sent = sendto(socket, reply.of(bytes), SendFlags::DONTWAIT, &reply.client);
            lost += usize::from(sent.is_err());
            continue;
        }
        let taken: [Option<&Reply>; AT_ONCE] = std::array::from_fn(|at| some.get(at));
        let clients = taken.map(|reply| reply.map_or(([0, 0, 0, 0], 0).into(), |reply| reply.client).as_any());
        let slices = taken.map(|reply| [IoSlice::new(reply.map_or(&[], |reply| reply.of(bytes)))]);
        let mut controls: [SendAncillaryBuffer<'_, '_, '_>; AT_ONCE] = Default::default();
        let mut places = clients.iter().zip(&slices);
        let mut messages = controls.each_mut().map(|control| match places.next() {
            Some((to, slice)) => MMsgHdr::new_with_addr(to, slice, control),
            None => MMsgHdr::new(&[], control),
        });
        let mut at = 0;
        while let Some(rest) = messages.get_mut(at..some.len()).filter(|rest| !rest.is_empty()) {
            match sendmmsg(socket, rest, SendFlags::DONTWAIT) {
                Ok(sent) => at += sent.max(1),
                Err(_) => (at, lost) = (at + 1, lost + 1),
            }
        }
    }
    lost
}
