//! From the far end of a punt pair into the socket of its worker.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use seventh_abi::{
    Addr, Counter, DropReason, PuntMeta, PuntedType, SHARE_CLIENTS, Share, ShareCount, WorkerShares, drop_counter,
    mapped_v4, share_waiting,
};

use crate::{
    counters::count,
    maps::{PUNT_WORKERS, SHARES, XSKS},
};

/// `xdp_punt`: only frames with punt metadata reach a socket; without a socket, or if whose they are has no room left there,
/// the answer is a counted drop.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let reason = match forward(ctx) {
        Ok(action) => return action,
        Err(reason) => reason,
    };
    count(drop_counter(reason));
    xdp_action::XDP_DROP
}

#[inline(always)]
fn forward(ctx: &XdpContext) -> Result<u32, DropReason> {
    let meta = bytes::<12>(ctx, 0).and_then(|bytes| PuntMeta::decode(&bytes));
    let meta = meta.ok_or(DropReason::InjectInvalid)?;
    // SAFETY: reads a field of the context that the kernel passed in.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    // SAFETY: the element is one word that changes only when workers are set up.
    let worker = *unsafe { PUNT_WORKERS.get(&ifindex) }.ok_or(DropReason::NoWorker)?;
    let shares = SHARES.get_ptr_mut(worker).ok_or(DropReason::NoWorker)?;
    // SAFETY: the map gave a pointer to its element. What is read of it here is its user's word, and a whole one.
    let secret = unsafe { (&raw const (*shares).secret).read_volatile() };
    let opener = opener(ctx, meta.reply).unwrap_or([0; 16]);
    let share = Share::of(secret, meta.ifindex, &opener);
    let has_socket = XSKS.redirect(worker, xdp_action::XDP_DROP as u64);
    let action = has_socket.map_err(|_| DropReason::NoWorker)?;
    // SAFETY: as above. The pair has one queue, whose frames come one after the other: nobody else writes what is written here.
    if !unsafe { enter(shares, share) } {
        return Err(DropReason::ShareUsedUp);
    }
    count(Counter::ToWorker as u32);
    Ok(action)
}

/// Counts the frame, if it finds room.
///
/// # Safety
/// `shares` is a map's element of which no other program writes what the kernel is to write.
#[inline(always)]
unsafe fn enter(shares: *mut WorkerShares, share: Share) -> bool {
    let client = share.client as usize & (SHARE_CLIENTS - 1);
    // SAFETY: the element is whole, and places are inside their lists.
    unsafe {
        let room = (&raw const (*shares).room).read_volatile();
        let all = &raw mut (*shares).all;
        let of_endpoint = &raw mut (*shares).endpoints[share.endpoint as usize];
        let of_client = &raw mut (*shares).clients[client];
        if !Share::admits(room, waiting(all), waiting(of_endpoint), waiting(of_client)) {
            (*shares).refused += 1;
            return false;
        }
        for count in [all, of_endpoint, of_client] {
            (*count).arrived = (*count).arrived.wrapping_add(1);
        }
    }
    true
}

/// # Safety
/// The pointer is one into a map's element.
#[inline(always)]
unsafe fn waiting(count: *const ShareCount) -> u32 {
    // SAFETY: promised by the caller; the worker writes `taken` at any time, as a whole word.
    unsafe { share_waiting((*count).arrived, (&raw const (*count).taken).read_volatile()) }
}

/// Address of the one who opened the connection, where it is read.
#[inline(always)]
fn opener(ctx: &XdpContext, reply: bool) -> Option<Addr> {
    let punted = PuntedType::decode(bytes::<2>(ctx, 12)?)?;
    match Share::opener_at(punted.ether_type, reply)? {
        (26, _) => bytes::<4>(ctx, 26).map(mapped_v4),
        (30, _) => bytes::<4>(ctx, 30).map(mapped_v4),
        (22, _) => bytes::<16>(ctx, 22),
        _ => bytes::<16>(ctx, 38),
    }
}

/// Bytes of the frame, if there are so many.
#[inline(always)]
fn bytes<const N: usize>(ctx: &XdpContext, at: usize) -> Option<[u8; N]> {
    let start = ctx.data() + at;
    if start + N > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes are there, as just compared.
    Some(unsafe { core::ptr::read_unaligned(start as *const [u8; N]) })
}
