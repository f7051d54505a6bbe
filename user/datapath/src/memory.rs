//! Memory that is shared with the kernel, or that it is told of.

use std::{io, os::fd::RawFd, ptr::NonNull};

/// A mapping, unmapped when it is dropped.
pub(crate) struct Mapping {
    base: NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: this value alone owns the mapping; what else uses the memory is the kernel, from any CPU.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Memory of our own, zeroed.
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
        Self::new(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// What `fd` stands for from `offset` on, all of it there at once.
    pub(crate) fn shared(bytes: usize, fd: RawFd, offset: libc::off_t) -> io::Result<Self> {
        Self::new(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, fd, offset)
    }

    fn new(bytes: usize, flags: libc::c_int, fd: RawFd, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: asks for a new mapping anywhere; the result is checked.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, bytes })
    }

    /// Its first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base.cast()
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped, once.
        unsafe { libc::munmap(self.base.as_ptr(), self.bytes) };
    }
}
