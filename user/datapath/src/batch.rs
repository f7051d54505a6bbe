//! Several rows of a map with one call: what the library for maps does not offer.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::Pod;

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
