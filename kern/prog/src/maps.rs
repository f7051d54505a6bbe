//! Every map, with the default sizes; the agent sets others when it loads the object.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, XskMap},
};
use seventh_abi::{
    AnswerPiece, COUNTERS_MAX, CopySkip, DatapathConfig, Endpoint, FlowKey, FlowState, FragmentKey, IpcacheEntry,
    IpcacheKey, NameEntry, NameKey, PIECE_LEN_MAX, PolicyEntry, PolicyKey, REQUEST_LEN_MAX, REQUEST_RULE_SETS_MAX,
    RequestRules, RequestState, RequestWalk, WORKERS_MAX, WorkerShares,
};

use crate::{packet::Packet, policy::Question};

#[map]
pub static CONFIG: Array<DatapathConfig> = Array::with_max_entries(1, 0);
#[map]
pub static ENDPOINTS: HashMap<u32, Endpoint> = HashMap::with_max_entries(4096, 0);
#[map]
pub static IPCACHE: LpmTrie<IpcacheKey, IpcacheEntry> = LpmTrie::with_max_entries(262_144, 0);
/// Without preallocation: most nodes know few names.
#[map]
pub static NAMES: HashMap<NameKey, NameEntry> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);
#[map]
pub static POLICY: LpmTrie<PolicyKey, PolicyEntry> = LpmTrie::with_max_entries(262_144, 0);
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowState> = LruHashMap::with_max_entries(262_144, 0);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(8192, 0);
#[map]
pub static PUNT_WORKERS: HashMap<u32, u32> = HashMap::with_max_entries(WORKERS_MAX as u32, 0);
#[map]
pub static XSKS: XskMap = XskMap::with_max_entries(WORKERS_MAX as u32, 0);
#[map]
pub static SHARES: Array<WorkerShares> = Array::with_max_entries(WORKERS_MAX as u32, BPF_F_MMAPABLE);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);
/// Working memory of one packet: more than the 512 bytes of stack hold. A program runs to its end on one CPU before
/// another of ours starts there.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Beginnings of answers, apart from the events: neither pushes the other out.
#[map]
pub static ANSWERS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// Programs that one of them goes on to.
#[map]
pub static TAILS: ProgramArray = ProgramArray::with_max_entries(3, 0);

/// Pieces of answers of HTTP/2.
#[map]
pub static ANSWER_PIECES: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Copies of frames, for whoever judges beside the traffic.
#[map]
pub static COPIES: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// What need not be copied.
#[map]
pub static COPY_SKIPS: LruHashMap<FlowKey, CopySkip> = LruHashMap::with_max_entries(65_536, 0);

/// Automata of the rule sets whose requests are judged here. Without preallocation: there are few.
#[map]
pub static REQUEST_RULES: HashMap<u32, RequestRules> =
    HashMap::with_max_entries(REQUEST_RULE_SETS_MAX, BPF_F_NO_PREALLOC);
/// Their states.
#[map]
pub static REQUEST_STATES: Array<RequestState> = Array::with_max_entries(16_384, 0);
/// Requests that were allowed here.
#[map]
pub static REQUESTS: RingBuf = RingBuf::with_byte_size(2 << 20, 0);

/// See [`SCRATCH`].
#[repr(C)]
pub struct Scratch {
    pub packet: Packet,
    /// Flow that this packet's sender would have opened.
    pub key: FlowKey,
    /// The same flow opened by the other side, or one that an ICMP error quotes.
    pub other_key: FlowKey,
    pub question: Question,
    /// The same question to the policy in audit.
    pub audit: Question,
    pub new_flow: FlowState,
    pub piece: Piece,
    /// Header of a frame.
    pub frame_header: [u8; 9],
    /// How far into the payload frames were followed. Not on the stack: what comes from here is any number to the verifier,
    /// so that it walks each turn of a loop once and not once for each way to it.
    pub at: u32,
    /// 1 if the packet is to be followed, 2 if it comes from the engine, 3 if besides the other side's data need not go
    /// there any more, whatever is still there; else 0.
    pub follows: u32,
    /// What is to be looked at beside the traffic, in bits of [`crate::beside`], if the packet passes.
    pub beside: u32,
    /// What was decided, for programs that the deciding one goes on to.
    pub action: i32,
    /// A [`seventh_abi::Hook`].
    pub hook: u8,
    pub direction: u8,
    pub request: Request,
}

/// A request that is read here.
#[repr(C, align(8))]
pub struct Request {
    pub walk: RequestWalk,
    /// How many bytes have been read. Kept here because the verifier follows a number on the stack through every turn.
    pub at: u32,
    pub pad: u32,
    /// Its bytes, and nought up to the next eight.
    pub bytes: [u8; REQUEST_LEN_MAX + 8],
}

/// A record of [`ANSWER_PIECES`].
#[repr(C)]
pub struct Piece {
    pub head: AnswerPiece,
    pub bytes: [u8; PIECE_LEN_MAX],
}
