//! Keys and encryption of Initial packets (RFC 9001 §5, RFC 9369 §3.3).

use super::{ConnectionId, Initial, QuicFault, Version};
use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes_gcm::Aes128Gcm;
use aes_gcm::aead::AeadInOut;
use hkdf::Hkdf;
use sha2::Sha256;

/// Published salts: RFC 9001 §5.2, RFC 9369 §3.3.1.
const SALT_V1: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f,
    0x0a,
];
const SALT_V2: [u8; 20] = [
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e,
    0xd9,
];
/// Salts of drafts: draft-ietf-quic-tls-22 §5.2, -23 to -28, -29 to -32. Later ones have version 1's.
const SALT_DRAFT_22: [u8; 20] = [
    0x7f, 0xbc, 0xdb, 0x0e, 0x7c, 0x66, 0xbb, 0xe9, 0x19, 0x3a, 0x96, 0xcd, 0x21, 0x51, 0x9e, 0xbd, 0x7a, 0x02, 0x64,
    0x4a,
];
const SALT_DRAFT_23: [u8; 20] = [
    0xc3, 0xee, 0xf7, 0x12, 0xc7, 0x2e, 0xbb, 0x5a, 0x11, 0xa7, 0xd2, 0x43, 0x2b, 0xb4, 0x63, 0x65, 0xbe, 0xf9, 0xf5,
    0x02,
];
const SALT_DRAFT_29: [u8; 20] = [
    0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0, 0x43, 0x90, 0xa8,
    0x99,
];
/// The header protection sample is taken as if the packet number had its longest form (RFC 9001 §5.4.2).
const SAMPLE_OFFSET: usize = 4;
const SAMPLE_LEN: usize = 16;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Bytes of the packet number in packets of our own, and the two-byte form of a length (RFC 9000 §16).
const NUMBER_LEN: usize = 4;
const VARINT_2: u16 = 0x4000;
const VARINT_2_MAX: u16 = 0x3fff;

/// Whose packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that opened the connection.
    Client,
    /// The other one.
    Server,
}

/// Keys of one side's Initial packets.
pub struct InitialKeys {
    payload: Aes128Gcm,
    nonce: [u8; NONCE_LEN],
    header: Aes128,
}

impl InitialKeys {
    /// Keys that follow from the destination connection id of the client's first packet (after a Retry: of its first
    /// packet after that).
    #[must_use]
    pub fn new(version: Version, side: Side, destination: &ConnectionId) -> Self {
        let salt = match version {
            Version::V1 => &SALT_V1,
            Version::V2 => &SALT_V2,
            Version::Draft(draft) => match draft.base() {
                ..=22 => &SALT_DRAFT_22,
                23..=28 => &SALT_DRAFT_23,
                29..=32 => &SALT_DRAFT_29,
                33.. => &SALT_V1,
            },
        };
        let (initial, _) = Hkdf::<Sha256>::extract(Some(salt), destination.as_bytes());
        let label = match side {
            Side::Client => "client in",
            Side::Server => "server in",
        };
        let secret: [u8; 32] = expand(&initial, label);
        let [key, iv, hp] = match version {
            Version::V1 | Version::Draft(_) => ["quic key", "quic iv", "quic hp"],
            Version::V2 => ["quicv2 key", "quicv2 iv", "quicv2 hp"],
        };
        Self {
            payload: Aes128Gcm::new(&expand(&secret, key).into()),
            nonce: expand(&secret, iv),
            header: Aes128::new(&expand(&secret, hp).into()),
        }
    }

    /// Decrypts `initial` into `payload`, which is overwritten. `expected` is the packet number that would come next.
    /// Returns the packet's number.
    ///
    /// # Errors
    /// [`QuicFault::BadPacket`] if it is too short, [`QuicFault::Undecryptable`] if these are not its keys or the
    /// packet was changed, [`QuicFault::BadFrame`] if reserved bits are set.
    pub fn open(&self, initial: &Initial<'_>, expected: u64, payload: &mut Vec<u8>) -> Result<u64, QuicFault> {
        let (header, protected) = initial
            .bytes
            .split_at_checked(initial.number_at)
            .ok_or(QuicFault::BadPacket)?;
        let sample = protected
            .get(SAMPLE_OFFSET..SAMPLE_OFFSET + SAMPLE_LEN)
            .and_then(|sample| sample.first_chunk::<SAMPLE_LEN>())
            .ok_or(QuicFault::BadPacket)?;
        let mask = self.mask(sample);
        let first = header.first().ok_or(QuicFault::BadPacket)? ^ mask.0 & 0x0f;
        let number_len = usize::from(first & 3) + 1;
        let (number, content) = protected.split_at_checked(number_len).ok_or(QuicFault::BadPacket)?;

        // Associated data: the header without its protection.
        let mut associated = Vec::with_capacity(header.len() + number_len);
        associated.push(first);
        associated.extend_from_slice(header.get(1..).unwrap_or_default());
        associated.extend(number.iter().zip(mask.1).map(|(byte, mask)| byte ^ mask));
        let truncated = associated.get(header.len()..).unwrap_or_default();
        let number = full_number(truncated, expected);

        if content.len() < TAG_LEN {
            return Err(QuicFault::BadPacket);
        }
        payload.clear();
        payload.extend_from_slice(content);
        self.payload
            .decrypt_in_place(&self.nonce_of(number).into(), &associated, payload)
            .map_err(|_| QuicFault::Undecryptable)?;
        // Reserved bits may only be looked at once the packet is known to be genuine (RFC 9000 §17.2).
        if first & 0x0c != 0 {
            return Err(QuicFault::BadFrame);
        }
        Ok(number)
    }

    /// Makes an Initial packet without a token. `None` if the payload is too short for a header protection sample (four
    /// bytes are always enough) or too long for a packet.
    #[must_use]
    pub fn seal(
        &self,
        version: Version,
        destination: &ConnectionId,
        source: &ConnectionId,
        number: u32,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        let content_len = u16::try_from(NUMBER_LEN + payload.len() + TAG_LEN).ok()?;
        if content_len > VARINT_2_MAX {
            return None;
        }
        let (number, ids) = (number.to_be_bytes(), [destination.as_bytes(), source.as_bytes()]);
        let mut packet = vec![version.initial_first_byte() | 3];
        packet.extend_from_slice(&version.number().to_be_bytes());
        for id in ids {
            packet.push(u8::try_from(id.len()).ok()?);
            packet.extend_from_slice(id);
        }
        packet.push(0);
        packet.extend_from_slice(&(content_len | VARINT_2).to_be_bytes());
        let number_at = packet.len();
        packet.extend_from_slice(&number);

        let mut content = payload.to_vec();
        let nonce = self.nonce_of(u64::from(u32::from_be_bytes(number)));
        self.payload
            .encrypt_in_place(&nonce.into(), &packet, &mut content)
            .ok()?;
        packet.extend_from_slice(&content);

        let sample_at = number_at + SAMPLE_OFFSET;
        let mask = self.mask(packet.get(sample_at..)?.first_chunk()?);
        *packet.first_mut()? ^= mask.0 & 0x0f;
        for (byte, mask) in packet.iter_mut().skip(number_at).zip(mask.1) {
            *byte ^= mask;
        }
        Some(packet)
    }

    fn nonce_of(&self, number: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.nonce;
        for (slot, byte) in nonce.iter_mut().skip(NONCE_LEN - 8).zip(number.to_be_bytes()) {
            *slot ^= byte;
        }
        nonce
    }

    /// Mask of the first byte and of the packet number (RFC 9001 §5.4.3).
    fn mask(&self, sample: &[u8; SAMPLE_LEN]) -> (u8, [u8; 4]) {
        let mut block = (*sample).into();
        self.header.encrypt_block(&mut block);
        let [first, a, b, c, d, ..]: [u8; SAMPLE_LEN] = block.into();
        (first, [a, b, c, d])
    }
}

impl std::fmt::Debug for InitialKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InitialKeys")
    }
}

/// HKDF-Expand-Label of TLS 1.3 (RFC 8446 §7.1) with an empty context.
fn expand<const N: usize>(secret: &[u8], label: &str) -> [u8; N] {
    let mut key = [0; N];
    let (len, label_len) = (N.to_be_bytes(), (label.len() + 6).to_be_bytes());
    let [.., high, low] = len;
    let [.., label_len] = label_len;
    let info = [&[high, low, label_len], b"tls13 ".as_slice(), label.as_bytes(), &[0]];
    let expanded = Hkdf::<Sha256>::from_prk(secret).is_ok_and(|hkdf| hkdf.expand_multi_info(&info, &mut key).is_ok());
    // A secret of 32 bytes and a key of at most 32 are always within what HKDF takes.
    debug_assert!(expanded);
    key
}

/// The packet number whose last bytes are these, nearest to the expected one (RFC 9000 appendix A.3).
pub(super) fn full_number(truncated: &[u8], expected: u64) -> u64 {
    let bits = 8 * truncated.len();
    let low = truncated
        .iter()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let (window, half) = (1_u64 << bits, 1_u64 << bits >> 1);
    let candidate = expected & !(window - 1) | low;
    if candidate + half <= expected && candidate < (1 << 62) - window {
        candidate + window
    } else if candidate > expected + half && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}
