//! TLS records of an established connection (RFC 8446 §5, RFC 5246 §6): seals and opens them in place, one direction each, with
//! keys that rustls negotiated. Every cipher operation is aws-lc's. Must not know sockets, nor what the content means.

use std::io::IoSlice;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType};

pub(super) const HEADER_BYTES: usize = 5;
/// Plain bytes in one record.
pub(super) const PLAIN_BYTES_MAX: usize = 16 << 10;
const TAG_BYTES: usize = 16;
/// The part of the nonce that TLS 1.2 sends with each record of a GCM suite.
const EXPLICIT_NONCE_BYTES: usize = 8;
/// What a body may have beyond its plain bytes.
const EXPANSION_BYTES_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

/// One direction's key and where it is.
pub(super) struct Cipher {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
    version: Version,
    explicit_nonce: bool,
}

/// A record that can't be accepted: the alert that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad(pub(super) AlertDescription);

/// A whole record at the front of what was read: its type, and its bytes with the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) content: ContentType,
    pub(super) bytes: usize,
}

/// The record at the front; none while it isn't whole.
pub(super) fn find(bytes: &[u8]) -> Result<Option<Found>, Bad> {
    let &[content, major, _, high, low, ..] = bytes else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if major != 3 {
        return Err(Bad(AlertDescription::ProtocolVersion));
    }
    if length > PLAIN_BYTES_MAX + EXPANSION_BYTES_MAX {
        return Err(Bad(AlertDescription::RecordOverflow));
    }
    let found = Found { content: ContentType::from(content), bytes: HEADER_BYTES + length };
    Ok((bytes.len() >= found.bytes).then_some(found))
}

impl Cipher {
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), version: Version) -> Option<Self> {
        let (algorithm, key, iv, gcm) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, true),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv, true),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv, false),
            _ => return None,
        };
        let key = key.as_ref().get(..algorithm.key_len())?;
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?),
            iv: iv.as_ref().try_into().ok()?,
            sequence,
            version,
            explicit_nonce: gcm && version == Version::Tls12,
        })
    }

    /// Records handled with this key.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Space that a record of `plain` bytes takes.
    pub(super) fn sealed_bytes(&self, plain: usize) -> usize {
        HEADER_BYTES + self.prefix_bytes() + plain + usize::from(self.version == Version::Tls13) + TAG_BYTES
    }

    fn prefix_bytes(&self) -> usize {
        if self.explicit_nonce { EXPLICIT_NONCE_BYTES } else { 0 }
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    /// What is authenticated beside the content: the header in 1.3, the sequence number and the plain length in 1.2.
    fn additional(&self, header: [u8; HEADER_BYTES], plain: usize) -> ([u8; 13], usize) {
        let mut data = [0; 13];
        if self.version == Version::Tls13 {
            data[..HEADER_BYTES].copy_from_slice(&header);
            return (data, HEADER_BYTES);
        }
        data[..8].copy_from_slice(&self.sequence.to_be_bytes());
        data[8..11].copy_from_slice(&header[..3]);
        data[11..].copy_from_slice(&(plain as u16).to_be_bytes());
        (data, 13)
    }

    /// Seals one record of `plain` bytes, taken from `slices` after their first `skip` bytes, into the front of `space`;
    /// none when it doesn't fit.
    pub(super) fn seal(
        &mut self,
        content: ContentType,
        (slices, skip): (&[IoSlice<'_>], usize),
        plain: usize,
        space: &mut [u8],
    ) -> Option<usize> {
        let total = self.sealed_bytes(plain);
        let sealed = space.get_mut(..total).filter(|_| plain <= PLAIN_BYTES_MAX)?;
        let (head, rest) = sealed.split_at_mut(HEADER_BYTES);
        let inner = self.version == Version::Tls13;
        let outer = if inner { ContentType::ApplicationData } else { content };
        let length = ((total - HEADER_BYTES) as u16).to_be_bytes();
        let header = [u8::from(outer), 3, 3, length[0], length[1]];
        head.copy_from_slice(&header);
        let nonce = self.nonce();
        let (prefix, rest) = rest.split_at_mut(self.prefix_bytes());
        prefix.copy_from_slice(nonce.get(NONCE_LEN - prefix.len()..)?);
        let (body, tail) = rest.split_at_mut(plain);
        let content = [u8::from(content)];
        let extra: &[u8] = if inner { &content } else { &[] };
        let (additional, length) = self.additional(header, plain);
        let additional = Aad::from(additional.get(..length)?);
        let nonce = Nonce::assume_unique_for_key(nonce);
        match contiguous(slices, skip, plain) {
            Some(from) => self.key.seal_out_of_place_scatter(nonce, additional, from, body, extra, tail),
            None => {
                gather(slices, skip, body)?;
                self.key.seal_in_place_scatter(nonce, additional, body, extra, tail)
            }
        }
        .ok()?;
        self.sequence += 1;
        Some(total)
    }

    /// Opens `record`, a whole one as [`find`] found it, in place. Gives its content type, and where in it the plain bytes are.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, std::ops::Range<usize>), Bad> {
        let (header, body) =
            record.split_first_chunk_mut::<HEADER_BYTES>().ok_or(Bad(AlertDescription::DecodeError))?;
        let outer = ContentType::from(header[0]);
        if self.version == Version::Tls13 && outer != ContentType::ApplicationData {
            return Err(Bad(AlertDescription::UnexpectedMessage));
        }
        let prefix = self.prefix_bytes();
        let plain = body.len().checked_sub(prefix + TAG_BYTES).ok_or(Bad(AlertDescription::BadRecordMac))?;
        let (additional, length) = self.additional(*header, plain);
        let (explicit, body) = body.split_at_mut(prefix);
        let nonce = self.nonce_of(explicit);
        let additional = Aad::from(additional.get(..length).unwrap_or_default());
        let opened = self.key.open_in_place(Nonce::assume_unique_for_key(nonce), additional, body);
        let opened = opened.map_err(|_| Bad(AlertDescription::BadRecordMac))?;
        let (content, plain) = content(self.version, outer, opened)?;
        self.sequence += 1;
        let start = HEADER_BYTES + prefix;
        Ok((content, start..start + plain))
    }

    /// The same, but into the front of `space`, which is as long as the record at least: the plain bytes lie there from its start.
    pub(super) fn open_into(&mut self, record: &[u8], space: &mut [u8]) -> Result<(ContentType, usize), Bad> {
        let (header, body) = record.split_first_chunk::<HEADER_BYTES>().ok_or(Bad(AlertDescription::DecodeError))?;
        let outer = ContentType::from(header[0]);
        if self.version == Version::Tls13 && outer != ContentType::ApplicationData {
            return Err(Bad(AlertDescription::UnexpectedMessage));
        }
        let (explicit, body) = body.split_at_checked(self.prefix_bytes()).ok_or(Bad(AlertDescription::BadRecordMac))?;
        let plain = body.len().checked_sub(TAG_BYTES).ok_or(Bad(AlertDescription::BadRecordMac))?;
        let (sealed, tag) = body.split_at(plain);
        let space = space.get_mut(..plain).ok_or(Bad(AlertDescription::InternalError))?;
        let (additional, length) = self.additional(*header, plain);
        let nonce = Nonce::assume_unique_for_key(self.nonce_of(explicit));
        let additional = Aad::from(additional.get(..length).unwrap_or_default());
        let opened = self.key.open_separate_gather(nonce, additional, sealed, tag, space);
        opened.map_err(|_| Bad(AlertDescription::BadRecordMac))?;
        self.sequence += 1;
        content(self.version, outer, space)
    }

    /// The nonce of the next record to open; TLS 1.2 sends a part of it.
    fn nonce_of(&self, explicit: &[u8]) -> [u8; NONCE_LEN] {
        let mut nonce = self.nonce();
        if let Some(part) = nonce.last_chunk_mut::<EXPLICIT_NONCE_BYTES>().filter(|_| !explicit.is_empty()) {
            part.copy_from_slice(explicit);
        }
        nonce
    }
}

/// What an opened record is, and how many of its bytes are plain: in 1.3 its own type and zeros follow them.
fn content(version: Version, outer: ContentType, opened: &[u8]) -> Result<(ContentType, usize), Bad> {
    if opened.len() > PLAIN_BYTES_MAX + usize::from(version == Version::Tls13) {
        return Err(Bad(AlertDescription::RecordOverflow));
    }
    if version == Version::Tls12 {
        return Ok((outer, opened.len()));
    }
    let end = opened.iter().rposition(|byte| *byte != 0).ok_or(Bad(AlertDescription::UnexpectedMessage))?;
    Ok((ContentType::from(opened.get(end).copied().unwrap_or_default()), end))
}

/// The bytes of a record, if one slice has them all: then they are sealed without a copy before.
fn contiguous<'s>(slices: &'s [IoSlice<'_>], mut skip: usize, plain: usize) -> Option<&'s [u8]> {
    for slice in slices {
        if skip < slice.len() {
            return slice.get(skip..skip + plain);
        }
        skip -= slice.len();
    }
    None
}

/// Fills `into` from the slices after their first `skip` bytes; none when they have less.
fn gather(slices: &[IoSlice<'_>], mut skip: usize, mut into: &mut [u8]) -> Option<()> {
    for slice in slices {
        let from = slice.get(skip.min(slice.len())..).unwrap_or_default();
        skip -= skip.min(slice.len());
        let count = from.len().min(into.len());
        let (front, rest) = into.split_at_mut(count);
        front.copy_from_slice(from.get(..count)?);
        into = rest;
    }
    into.is_empty().then_some(())
}
