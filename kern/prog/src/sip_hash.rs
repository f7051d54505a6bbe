//! SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012): whoever does not know the key finds no other
//! bytes with the same hash.

use seventh_abi::REQUEST_LEN_MAX;

use crate::maps::Request;

/// Of the place `sequence` and the first `len` bytes, behind which there are noughts up to the next eight.
#[inline(never)]
pub fn of(request: &Request, key: &[u64; 2], sequence: u32, len: u32) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    take(&mut v, (sequence as u64) << 32 | len as u64);
    let words = (len >> 3) as usize;
    for at in 0..=REQUEST_LEN_MAX / 8 {
        // SAFETY: the buffer holds one word more than `REQUEST_LEN_MAX / 8`, and is aligned so.
        take(&mut v, unsafe { request.bytes.as_ptr().cast::<u64>().add(at).read() });
        if at >= words {
            break;
        }
    }
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn take(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}
