//! Several rows of a map with one call: what the library for maps does not offer.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::Pod;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`.
const MAP_LOOKUP_BATCH: libc::c_int = 24;
/// Rows that are read with one call; a bucket of a hash table has to fit.
const ROWS: usize = 4096;

/// `BPF_MAP_UPDATE_BATCH` of `enum bpf_cmd`.
const MAP_UPDATE_BATCH: libc::c_int = 26;

/// The `batch` member of the kernel's `union bpf_attr` (linux/bpf.h).
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// In: rows. Out: rows that were done.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Batch>() == 56);

/// Sets rows in their order; `keys` and `values` of the map's own types and equally many.
///
/// # Errors
/// How many were set before the one that failed, and why it did. With none, the kernel or the map may know no batches.
pub(crate) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> Result<(), (usize, io::Error)> {
    let count =
        u32::try_from(keys.len().min(values.len())).map_err(|_| (0, io::Error::from_raw_os_error(libc::E2BIG)))?;
    let map_fd = u32::try_from(map.as_raw_fd()).map_err(|_| (0, io::Error::from_raw_os_error(libc::EBADF)))?;
    let mut attributes = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `count` keys and values, which both slices hold as plain data (`Pod`) of the sizes that it
    // knows from the map, whose types the callers' handle has checked; it writes nothing but `count` of `attributes`,
    // which is as long as we say. All of them outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE_BATCH, &raw mut attributes, size_of::<Batch>()) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Where it does not come to the rows, the kernel leaves the count as it was.
    let unread = attributes.count == count;
    let done = if unread { 0 } else { attributes.count };
    Err((usize::try_from(done).unwrap_or(0), error))
}

/// Reads all rows of a hash table; those that move meanwhile may be missing or come twice. `K` and `V` are the map's own
/// types.
///
/// # Errors
/// The kernel, or the map, knows no batches, or a bucket has more than [`ROWS`] rows.
pub(crate) fn read<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let map_fd = u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?;
    let mut rows = Vec::new();
    let mut keys: Vec<MaybeUninit<K>> = vec![MaybeUninit::uninit(); ROWS];
    let mut values: Vec<MaybeUninit<V>> = vec![MaybeUninit::uninit(); ROWS];
    // Where to go on; of hash tables the number of a bucket.
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut first = true;
    loop {
        let mut attributes = Batch {
            in_batch: if first { 0 } else { &raw const from as u64 },
            out_batch: &raw mut to as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(ROWS).map_err(io::Error::other)?,
            map_fd,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and values, for which both vectors have room, and four bytes of
        // each position, which is what hash tables use; all of them outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Batch>()) };
        let ended = result != 0;
        if ended {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
        }
        let count = usize::try_from(attributes.count).map_err(io::Error::other)?;
        let pairs = keys.iter().zip(&values).take(count);
        rows.extend(pairs.map(|(key, value)| {
            // SAFETY: the kernel has written so many keys, and any bytes are a value of a `Pod`.
            let key = unsafe { key.assume_init() };
            // SAFETY: the same of the values.
            (key, unsafe { value.assume_init() })
        }));
        if ended {
            return Ok(rows);
        }
        from = to;
        first = false;
    }
}
