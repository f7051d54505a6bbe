//! An AF_XDP socket in copy mode on the far end of a punt pair (kernel documentation: `networking/af_xdp`).
//!
//! One area of chunks is shared by all four rings. A chunk is always in exactly one place: the fill ring (kernel may
//! write to it), the receive ring or our hands, the transmit ring, the completion ring, or the free list. A received
//! frame is sent back in the chunk it came in.

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    ChannelStats, DatapathError, Decide, Disposition, Outgoing, PuntChannel,
    fair::Fair,
    memory::Mapping,
    punt_pair::LINK_HEADERS,
    shares::{Owner, Shares},
};

/// Chunks of the area, two thirds of them for receiving.
const CHUNKS: u32 = 3072;
const RING_SIZE: u32 = 2048;
/// Frames per turn.
const BATCH: usize = 64;
/// Chunks of frames that wait for their turn at most, when more come than a turn decides. What is left beside those and the
/// kernel's is for sending.
const WAITING: u32 = 512;
/// The kernel keeps this much of a chunk in front of a received frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: u32 = 256;
/// A frame of several chunks, at most.
const FRAGMENTS_MAX: usize = 18;
/// `XDP_PKT_CONTD`: the frame goes on in the next descriptor.
const CONTINUED: u32 = 1;
/// `XDP_USE_SG`.
const USE_SG: u16 = 1 << 4;

/// A single-producer single-consumer ring shared with the kernel.
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// Where those three lie. A ring that stays mapped keeps the socket alive and its queue busy.
    _memory: Mapping,
}

impl<T: Copy> Ring<T> {
    fn map(fd: RawFd, offsets: libc::xdp_ring_offset, page: libc::off_t) -> io::Result<Self> {
        let bytes = offset(offsets.desc)? + RING_SIZE as usize * size_of::<T>();
        let memory = Mapping::shared(bytes, fd, page)?;
        let base = memory.base();
        let at = |o: u64| -> io::Result<NonNull<u8>> {
            let o = offset(o)?;
            // SAFETY: the kernel gave offsets inside the mapping of the size it asks for.
            Ok(unsafe { base.add(o) })
        };
        Ok(Self {
            producer: at(offsets.producer)?.cast(),
            consumer: at(offsets.consumer)?.cast(),
            entries: at(offsets.desc)?.cast(),
            _memory: memory,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into the mapping, which lives as long as `self`; the kernel uses it as an atomic word, too.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn slot(&self, index: u32) -> *mut T {
        // SAFETY: the index is masked to the ring's size.
        unsafe { self.entries.as_ptr().add((index & (RING_SIZE - 1)) as usize) }
    }

    /// Entries that the kernel has produced and we have not taken.
    fn readable(&self) -> u32 {
        // Acquire pairs with the kernel's release of its producer index: the entries before it are written.
        self.producer()
            .load(Ordering::Acquire)
            .wrapping_sub(self.consumer().load(Ordering::Relaxed))
    }

    /// Takes the next entry; only after `readable` said that there is one.
    fn take(&self) -> T {
        let index = self.consumer().load(Ordering::Relaxed);
        // SAFETY: the slot lies in the ring and the kernel has finished writing it.
        let value = unsafe { self.slot(index).read() };
        // Release: our read of the entry happens before the kernel may reuse it.
        self.consumer().store(index.wrapping_add(1), Ordering::Release);
        value
    }

    /// Entries that the kernel has not taken yet.
    fn pending(&self) -> u32 {
        // Acquire pairs with the kernel's release of its consumer index.
        self.producer()
            .load(Ordering::Relaxed)
            .wrapping_sub(self.consumer().load(Ordering::Acquire))
    }

    /// Puts an entry; false if the ring is full.
    fn put(&self, value: T) -> bool {
        if self.pending() >= RING_SIZE {
            return false;
        }
        let index = self.producer().load(Ordering::Relaxed);
        // SAFETY: the slot lies in the ring and the kernel does not read it before the store below.
        unsafe { self.slot(index).write(value) };
        // Release: the entry is written before the kernel sees the index.
        self.producer().store(index.wrapping_add(1), Ordering::Release);
        true
    }
}

/// The memory that frames lie in.
struct Area {
    view: AreaView,
    _memory: Mapping,
}

/// Where the area is; valid as long as its [`Area`].
#[derive(Clone, Copy)]
struct AreaView {
    base: NonNull<u8>,
    chunk_size: u32,
}

impl AreaView {
    fn length(self) -> usize {
        CHUNKS as usize * self.chunk_size as usize
    }

    /// `length` bytes at `address`, cut to what lies in the area.
    ///
    /// # Safety
    /// The chunk is in the caller's hands alone while the result lives, and so is the area.
    unsafe fn bytes<'a>(self, address: u64, length: u32) -> &'a mut [u8] {
        let start = usize::try_from(address).unwrap_or(usize::MAX).min(self.length());
        let length = (length as usize).min(self.length() - start);
        // SAFETY: the range lies in the mapping, which starts at `base`.
        let first = unsafe { self.base.add(start) };
        // SAFETY: `length` bytes from there lie in the mapping; the caller promised that nobody else touches them.
        unsafe { slice::from_raw_parts_mut(first.as_ptr(), length) }
    }
}

/// The socket of one worker.
pub(crate) struct Xsk {
    // Field order is drop order: the rings and the area go before the socket.
    receive: Ring<libc::xdp_desc>,
    transmit: Ring<libc::xdp_desc>,
    fill: Ring<u64>,
    completion: Ring<u64>,
    area: Area,
    fd: OwnedFd,
    free: Vec<u64>,
    /// Chunks queued by `Outgoing::send` during a turn.
    queued: Vec<(u64, u32)>,
    /// A frame of several chunks in one piece.
    joined: Vec<u8>,
    frame_max: u32,
    stats: ChannelStats,
    /// Frames that were received and wait for their turn.
    waiting: Fair<Held>,
    /// Chunks of those.
    waiting_chunks: usize,
    /// Frames that had to go.
    shed: u64,
    /// Whose frames wait in the receive ring.
    shares: Shares,
}

/// A frame in our hands: its chunks by address and length.
enum Held {
    Single((u64, u32)),
    Several(Box<[(u64, u32)]>),
}

impl Held {
    fn chunks(&self) -> usize {
        match self {
            Self::Single(_) => 1,
            Self::Several(several) => several.len(),
        }
    }
}

// SAFETY: the pointers lead to memory that this value owns alone (the kernel's side is synchronised by the rings).
unsafe impl Send for Xsk {}

impl Xsk {
    /// Frames that the receive ring holds, if devices have this MTU.
    pub(crate) fn room(mtu: u32) -> u32 {
        RING_SIZE / pieces(mtu)
    }

    /// Opens the socket and binds it to queue 0 of the device. `shares` have [`Xsk::room`].
    pub(crate) fn open(device: &str, ifindex: u32, mtu: u32, shares: Shares) -> Result<Self, DatapathError> {
        let fail = |step: &'static str| {
            move |source: io::Error| DatapathError::Socket {
                device: device.to_owned(),
                step,
                source,
            }
        };
        let frame_max = mtu + LINK_HEADERS;
        let chunk_size = chunk_size(mtu);
        // SAFETY: no preconditions; the result is checked.
        let raw = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let fd = match raw {
            -1 => return Err(fail("socket")(io::Error::last_os_error())),
            // SAFETY: a descriptor that the call above gave us and nobody else owns.
            raw => unsafe { OwnedFd::from_raw_fd(raw) },
        };
        let bytes = CHUNKS as usize * chunk_size as usize;
        let memory = Mapping::anonymous(bytes).map_err(fail("memory"))?;
        let base = memory.base();
        let area = Area {
            view: AreaView { base, chunk_size },
            _memory: memory,
        };
        register(&fd, &area).map_err(fail("register memory"))?;
        let offsets = ring_offsets(&fd).map_err(fail("ring offsets"))?;
        let raw = fd.as_raw_fd();
        let map = fail("map rings");
        let fill_page = libc::off_t::try_from(libc::XDP_UMEM_PGOFF_FILL_RING)
            .map_err(|_| map(io::ErrorKind::InvalidInput.into()))?;
        let completion_page = libc::off_t::try_from(libc::XDP_UMEM_PGOFF_COMPLETION_RING)
            .map_err(|_| map(io::ErrorKind::InvalidInput.into()))?;
        let mut socket = Self {
            receive: Ring::map(raw, offsets.rx, libc::XDP_PGOFF_RX_RING).map_err(&map)?,
            transmit: Ring::map(raw, offsets.tx, libc::XDP_PGOFF_TX_RING).map_err(&map)?,
            fill: Ring::map(raw, offsets.fr, fill_page).map_err(&map)?,
            completion: Ring::map(raw, offsets.cr, completion_page).map_err(&map)?,
            area,
            fd,
            free: (0..u64::from(CHUNKS))
                .rev()
                .map(|i| i * u64::from(chunk_size))
                .collect(),
            queued: Vec::with_capacity(BATCH),
            joined: Vec::new(),
            frame_max,
            stats: ChannelStats::default(),
            waiting: Fair::new((WAITING / pieces(mtu)) as usize),
            waiting_chunks: 0,
            shed: 0,
            shares,
        };
        socket.refill();
        let several_chunks = pieces(mtu) > 1;
        let step = if several_chunks {
            "bind for frames of several pieces, which needs Linux 6.6 (some device's MTU is too large for one)"
        } else {
            "bind"
        };
        bind(&socket.fd, ifindex, several_chunks).map_err(fail(step))?;
        Ok(socket)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Chunks of which it is known where they are.
    fn accounted(&self) -> usize {
        let in_rings =
            self.fill.pending() + self.receive.readable() + self.transmit.pending() + self.completion.readable();
        self.free.len() + self.waiting_chunks + in_rings as usize
    }

    /// Gives sent chunks back and keeps the fill ring full.
    fn recycle(&mut self) {
        for _ in 0..self.completion.readable() {
            let address = self.completion.take();
            self.release(address);
        }
        self.refill();
    }

    fn refill(&mut self) {
        while self.fill.pending() < RING_SIZE {
            // The rest is for frames of our own.
            if self.free.len() < BATCH {
                return;
            }
            let Some(address) = self.free.pop() else { return };
            if !self.fill.put(address) {
                self.free.push(address);
                return;
            }
        }
    }

    /// Back to the free list, as the chunk's first byte whatever the kernel made of the address.
    fn release(&mut self, address: u64) {
        self.free.push(address - address % u64::from(self.area.view.chunk_size));
    }

    /// Takes one whole frame off the receive ring: its chunks, at most [`FRAGMENTS_MAX`].
    fn receive_frame(&mut self, chunks: &mut [(u64, u32); FRAGMENTS_MAX]) -> Option<usize> {
        let mut count = 0;
        loop {
            if self.receive.readable() == 0 {
                // The kernel publishes all chunks of a frame at once, so this is the beginning of none.
                for &(address, _) in chunks.iter().take(count) {
                    self.release(address);
                }
                return None;
            }
            let descriptor = self.receive.take();
            match chunks.get_mut(count) {
                Some(slot) => {
                    *slot = (descriptor.addr, descriptor.len);
                    count += 1;
                }
                None => self.release(descriptor.addr),
            }
            if descriptor.options & CONTINUED == 0 {
                return Some(count);
            }
        }
    }

    /// All of them fit into this turn: their order is that of their coming.
    fn decide_as_received(&mut self, decide: &mut Decide<'_>) -> usize {
        let mut decided = 0;
        while decided < BATCH {
            let mut chunks = [(0, 0); FRAGMENTS_MAX];
            let Some(count) = self.receive_frame(&mut chunks) else {
                self.shares.settle();
                break;
            };
            decided += 1;
            self.take(&chunks);
            match chunks.get(..count) {
                Some([single]) => self.handle_single(*single, decide),
                Some(several) => self.handle_joined(several, decide),
                None => {}
            }
        }
        decided
    }

    /// Takes everything that has come off the receive ring, which would overflow at the cost of whoever comes last. What is
    /// taken lets others come: they need chunks.
    fn sort_in(&mut self) {
        for _ in 0..RING_SIZE as usize / BATCH {
            let is_all = self.sort_in_batch();
            self.refill();
            if is_all {
                return;
            }
        }
    }

    /// Says whether that was all.
    fn sort_in_batch(&mut self) -> bool {
        for _ in 0..BATCH {
            let mut chunks = [(0, 0); FRAGMENTS_MAX];
            let Some(count) = self.receive_frame(&mut chunks) else {
                self.shares.settle();
                return true;
            };
            let Some(all) = chunks.get(..count) else { return true };
            let owner = self.take(&chunks);
            let frame = match all {
                [single] => Held::Single(*single),
                several => Held::Several(several.into()),
            };
            self.waiting_chunks += count;
            if let Some(shed) = self.waiting.push(owner.into(), frame) {
                self.shed += 1;
                self.waiting_chunks -= shed.chunks();
                self.release_all(&shed);
            }
        }
        false
    }

    /// Counts a frame that was just received, and says whose it is.
    fn take(&self, &[(address, length), ..]: &[(u64, u32); FRAGMENTS_MAX]) -> Owner {
        // SAFETY: the chunk is ours.
        let owner = self.shares.owner(unsafe { self.area.view.bytes(address, length) });
        self.shares.take(owner);
        owner
    }

    fn decide_in_turn(&mut self, decide: &mut Decide<'_>) -> usize {
        let mut decided = 0;
        while decided < BATCH {
            let Some(frame) = self.waiting.pop() else { break };
            decided += 1;
            self.waiting_chunks -= frame.chunks();
            match frame {
                Held::Single(single) => self.handle_single(single, decide),
                Held::Several(several) => self.handle_joined(&several, decide),
            }
        }
        decided
    }

    fn release_all(&mut self, frame: &Held) {
        match frame {
            Held::Single((address, _)) => self.release(*address),
            Held::Several(several) => several.iter().for_each(|(address, _)| self.release(*address)),
        }
    }

    /// Decides a frame of one chunk in place.
    fn handle_single(&mut self, (address, length): (u64, u32), decide: &mut Decide<'_>) {
        // SAFETY: the chunk was just received and is not given on before `decide` returns.
        let frame = unsafe { self.area.view.bytes(address, length) };
        if let Some(number) = crate::probe::number(frame) {
            self.stats.probed = number;
            self.release(address);
            return;
        }
        self.stats.received += 1;
        let mut queued = mem::take(&mut self.queued);
        match decide(frame, &mut self.queue(&mut queued)) {
            Disposition::Send => self.put_frame(address, length, 0),
            Disposition::Release => self.release(address),
        }
        self.put_queued(queued);
    }

    /// Decides a frame of several chunks: joined, and cut again if it goes back.
    fn handle_joined(&mut self, chunks: &[(u64, u32)], decide: &mut Decide<'_>) {
        self.stats.received += 1;
        let mut joined = mem::take(&mut self.joined);
        joined.clear();
        for &(address, length) in chunks {
            // SAFETY: the chunk was just received and is ours.
            joined.extend_from_slice(unsafe { self.area.view.bytes(address, length) });
        }
        let mut queued = mem::take(&mut self.queued);
        let disposition = decide(&mut joined, &mut self.queue(&mut queued));
        let mut rest = joined.as_slice();
        for (i, &(address, length)) in chunks.iter().enumerate() {
            if disposition == Disposition::Release {
                self.release(address);
                continue;
            }
            // SAFETY: as above; it has not been given on yet.
            let chunk = unsafe { self.area.view.bytes(address, length) };
            let (part, tail) = rest.split_at(rest.len().min(chunk.len()));
            for (to, from) in chunk.iter_mut().zip(part) {
                *to = *from;
            }
            rest = tail;
            self.put_frame(address, length, if i + 1 < chunks.len() { CONTINUED } else { 0 });
        }
        self.put_queued(queued);
        self.joined = joined;
    }

    fn queue<'a>(&'a mut self, queued: &'a mut Vec<(u64, u32)>) -> Queue<'a> {
        Queue {
            area: self.area.view,
            free: &mut self.free,
            queued,
            stats: &mut self.stats,
            frame_max: self.frame_max as usize,
        }
    }

    /// Sends what was queued, and keeps the vector for the next time.
    fn put_queued(&mut self, mut queued: Vec<(u64, u32)>) {
        for (address, length) in queued.drain(..) {
            let options = if length & PIECE_FOLLOWS != 0 { CONTINUED } else { 0 };
            self.put_frame(address, length & !PIECE_FOLLOWS, options);
        }
        self.queued = queued;
    }

    fn put_frame(&mut self, addr: u64, len: u32, options: u32) {
        if self.transmit.put(libc::xdp_desc { addr, len, options }) {
            if options == 0 {
                self.stats.sent += 1;
            }
        } else {
            self.stats.lost_sending += 1;
            self.release(addr);
        }
    }

    /// Tells the kernel to send; in copy mode it does so inside this call, a bounded number of frames at a time.
    fn kick(&self) -> io::Result<()> {
        for _ in 0..RING_SIZE {
            if self.transmit.pending() == 0 {
                return Ok(());
            }
            // SAFETY: no buffer is passed; the descriptor is open.
            let result =
                unsafe { libc::sendto(self.fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
            if result >= 0 {
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // More than one call sends, or room in the socket's buffer: go on.
                Some(libc::EAGAIN | libc::EINTR) => {}
                // The rest goes with the next call.
                Some(libc::EBUSY | libc::ENOBUFS | libc::ENETDOWN) => return Ok(()),
                _ => return Err(error),
            }
        }
        Ok(())
    }
}

impl PuntChannel for Xsk {
    fn turn(&mut self, decide: &mut Decide<'_>) -> io::Result<usize> {
        self.recycle();
        let more_than_one_turn = self.receive.readable() as usize > BATCH;
        let decided = if more_than_one_turn || !self.waiting.is_empty() {
            self.sort_in();
            self.decide_in_turn(decide)
        } else {
            self.decide_as_received(decide)
        };
        self.kick()?;
        self.recycle();
        Ok(decided)
    }

    fn push(&mut self, produce: &mut dyn FnMut(&mut dyn Outgoing)) -> io::Result<()> {
        self.recycle();
        let mut queued = mem::take(&mut self.queued);
        produce(&mut self.queue(&mut queued));
        self.put_queued(queued);
        self.kick()
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        let timeout_ms = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX);
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(timeout_ms)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(self.receive.readable() > 0),
            Err(e) => Err(e.into()),
        }
    }

    fn stats(&self) -> ChannelStats {
        let mut stats = self.stats;
        if let Ok(kernel) = kernel_statistics(&self.fd) {
            stats.lost_receiving = kernel.rx_dropped + kernel.rx_ring_full + self.shed;
        }
        stats.lost_receiving += self.shares.refused();
        stats.unaccounted = u64::from(CHUNKS).saturating_sub(self.accounted() as u64);
        stats
    }
}

/// Set in a queued length if the frame goes on in the next piece.
const PIECE_FOLLOWS: u32 = 1 << 31;

/// Queues frames of the worker's own in free chunks.
struct Queue<'a> {
    area: AreaView,
    free: &'a mut Vec<u64>,
    queued: &'a mut Vec<(u64, u32)>,
    stats: &'a mut ChannelStats,
    frame_max: usize,
}

impl Outgoing for Queue<'_> {
    fn send(&mut self, frame: &[u8]) -> bool {
        let chunk_size = self.area.chunk_size as usize;
        let pieces = frame.len().div_ceil(chunk_size);
        if frame.is_empty() || frame.len() > self.frame_max || self.free.len() < pieces {
            self.stats.lost_sending += 1;
            return false;
        }
        for (i, piece) in frame.chunks(chunk_size).enumerate() {
            let (Some(address), Ok(length)) = (self.free.pop(), u32::try_from(piece.len())) else {
                return false;
            };
            // SAFETY: a chunk off the free list is ours alone; a piece is at most one chunk long.
            unsafe { self.area.bytes(address, length) }.copy_from_slice(piece);
            self.queued
                .push((address, if i + 1 < pieces { length | PIECE_FOLLOWS } else { length }));
        }
        true
    }
}

/// Of the area, if devices have this MTU.
fn chunk_size(mtu: u32) -> u32 {
    if mtu + LINK_HEADERS + HEADROOM <= 2048 {
        2048
    } else {
        4096
    }
}

/// Chunks of a frame, at most. The kernel leaves the headroom free in each.
fn pieces(mtu: u32) -> u32 {
    (mtu + LINK_HEADERS).div_ceil(chunk_size(mtu) - HEADROOM)
}

fn offset(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `struct xdp_umem_reg` of Linux 5.4: later fields are optional.
#[repr(C)]
struct AreaRegistration {
    address: u64,
    length: u64,
    chunk_size: u32,
    headroom: u32,
    flags: u32,
    pad: u32,
}

fn register(fd: &OwnedFd, area: &Area) -> io::Result<()> {
    let registration = AreaRegistration {
        address: area.view.base.as_ptr() as u64,
        length: area.view.length() as u64,
        chunk_size: area.view.chunk_size,
        headroom: 0,
        flags: 0,
        pad: 0,
    };
    set_option(fd, libc::XDP_UMEM_REG, &registration)?;
    for ring in [
        libc::XDP_UMEM_FILL_RING,
        libc::XDP_UMEM_COMPLETION_RING,
        libc::XDP_RX_RING,
        libc::XDP_TX_RING,
    ] {
        set_option(fd, ring, &RING_SIZE)?;
    }
    Ok(())
}

fn set_option<T>(fd: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: passes a live value and its size.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_XDP, name, ptr::from_ref(value).cast(), length) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Reads an option whose value is plain integers.
///
/// # Safety
/// All-zero bytes and any bytes the kernel writes must be a valid `T`.
unsafe fn get_option<T>(fd: &OwnedFd, name: libc::c_int) -> io::Result<T> {
    // SAFETY: promised by the caller.
    let mut value: T = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: passes a live value and its size.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

fn ring_offsets(fd: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: the structure is integers only.
    unsafe { get_option(fd, libc::XDP_MMAP_OFFSETS) }
}

fn kernel_statistics(fd: &OwnedFd) -> io::Result<libc::xdp_statistics> {
    // SAFETY: the structure is integers only.
    unsafe { get_option(fd, libc::XDP_STATISTICS) }
}

fn bind(fd: &OwnedFd, ifindex: u32, several_chunks: bool) -> io::Result<()> {
    let sg = if several_chunks { USE_SG } else { 0 };
    let address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).map_err(io::Error::other)?,
        sxdp_flags: libc::XDP_COPY | sg,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_xdp>()).map_err(io::Error::other)?;
    // SAFETY: passes a live address of the right family and its size.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
