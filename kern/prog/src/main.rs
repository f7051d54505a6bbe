//! The kernel half of Seventh: decides L3/L4, lets inspected bytes pass, and sends what must be read to the engine.
//!
//! Eight programs, of which a kernel takes seven at most. `tc_from_endpoint` and `tc_to_endpoint` sit on the host side of
//! every endpoint's veth and share one decision, [`hook::classify`]. `xdp_punt` hands punted frames to a worker's AF_XDP
//! socket; `tc_from_punt` takes back what the engine returns. `tc_requests` goes on where the opener's bytes are to be read,
//! `tc_beside` where what passes is judged beside the traffic, `tc_answers` where it is an answer of HTTP/2.
//!
//! On any other target than BPF this is an empty program, so that the ordinary stable clippy can read it.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key passed by value is copied to the stack of 512 bytes first"
)]

mod answer;
mod answer_frames;
mod atomic;
mod beside;
mod checksum;
mod copy;
mod counters;
mod hook;
mod icmp;
mod inspect;
mod maps;
mod onward;
mod packet;
mod policy;
mod punt;
mod requests;
mod sip_hash;
mod to_worker;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use seventh_abi::Hook;

/// Ingress of an endpoint's host-side device: egress policy of the endpoint.
#[classifier]
pub fn tc_from_endpoint(ctx: TcContext) -> i32 {
    onward::go_on(&ctx, hook::classify(&ctx, Hook::FromEndpoint))
}

/// Egress of an endpoint's host-side device: ingress policy of the endpoint.
#[classifier]
pub fn tc_to_endpoint(ctx: TcContext) -> i32 {
    onward::go_on(&ctx, hook::classify(&ctx, Hook::ToEndpoint))
}

/// Where the two above go on to with bytes of an opener that have to be read: the kernel reads them, or the engine does.
#[classifier]
pub fn tc_requests(ctx: TcContext) -> i32 {
    onward::go_on(&ctx, requests::run(&ctx))
}

/// Where they go on to with what is judged beside the traffic.
#[classifier]
pub fn tc_beside(ctx: TcContext) -> i32 {
    beside::run(&ctx)
}

/// Where they, and `tc_from_punt`, go on to with answers of HTTP/2.
#[classifier]
pub fn tc_answers(ctx: TcContext) -> i32 {
    answer_frames::run(&ctx)
}

/// Ingress of a punt pair's near end: frames from the engine.
#[classifier]
pub fn tc_from_punt(ctx: TcContext) -> i32 {
    onward::go_on_from_engine(&ctx, punt::inject(&ctx))
}

/// Far end of a punt pair: to the worker's socket.
#[xdp(frags)]
pub fn xdp_punt(ctx: XdpContext) -> u32 {
    to_worker::run(&ctx)
}

/// The same for kernels before 5.18: they refuse a program that says it knows frames in several pieces.
#[xdp]
pub fn xdp_punt_whole(ctx: XdpContext) -> u32 {
    to_worker::run(&ctx)
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never reached: the verifier refuses a program that could get here.
    loop {}
}

/// This crate is offered under Apache-2.0 or GPL-2.0; the kernel's helpers ask for the latter.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
