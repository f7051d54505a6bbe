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

/// One element. The agent writes it when it starts; all programs on the way to the engine and back read it.
#[map]
pub static CONFIG: Array<DatapathConfig> = Array::with_max_entries(1, 0);
/// Index of an endpoint's host-side device → what is in force there. The agent writes it; whoever decides a packet reads it, and
/// drops what has no element.
#[map]
pub static ENDPOINTS: HashMap<u32, Endpoint> = HashMap::with_max_entries(4096, 0);
/// Prefix of addresses → whose they are, the longest that fits. The agent writes it; [`crate::policy`] reads it.
#[map]
pub static IPCACHE: LpmTrie<IpcacheKey, IpcacheEntry> = LpmTrie::with_max_entries(262_144, 0);
/// Address, as the endpoints of one scope know it → whose it is by the names that they learned. The agent writes it, before the
/// answer that it is from goes on; [`crate::policy`] reads it before [`IPCACHE`]. Without preallocation: most nodes know few
/// names.
#[map]
pub static NAMES: HashMap<NameKey, NameEntry> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);
/// Number of a policy, direction, identity, protocol and port, of which the last two may be anything → allowed, denied, or by
/// which rule set to be read. The agent writes it; [`crate::policy`] reads it.
#[map]
pub static POLICY: LpmTrie<PolicyKey, PolicyEntry> = LpmTrie::with_max_entries(262_144, 0);
/// Flow at an endpoint → what was decided, and how far its bytes are. Programs write and read it; the agent reads single flows,
/// and puts in those of an agent with another ABI. If it is full the flow goes that was quiet for longest.
#[map]
pub static FLOWS: LruHashMap<FlowKey, FlowState> = LruHashMap::with_max_entries(262_144, 0);
/// Datagram whose first fragment was allowed → 1. [`crate::hook`] writes and reads it. If it is full the oldest go.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::with_max_entries(8192, 0);
/// Index of a punt pair's far end → its worker. The agent writes it when it starts; [`crate::to_worker`] reads it.
#[map]
pub static PUNT_WORKERS: HashMap<u32, u32> = HashMap::with_max_entries(WORKERS_MAX as u32, 0);
/// Worker → its socket, which the kernel takes out when it is closed. The agent writes it when it starts; [`crate::to_worker`]
/// sends frames there, and [`crate::punt`] asks whether one is there.
#[map]
pub static XSKS: XskMap = XskMap::with_max_entries(WORKERS_MAX as u32, 0);
/// Worker → how many frames of whom wait in its socket. [`crate::to_worker`] counts those that come, the worker those that it
/// takes, in memory that both see.
#[map]
pub static SHARES: Array<WorkerShares> = Array::with_max_entries(WORKERS_MAX as u32, BPF_F_MMAPABLE);
/// [`seventh_abi::Counter`], or what [`seventh_abi::drop_counter`] says of a reason → how often. Programs count, the agent sums
/// over the CPUs.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);
/// Working memory of one packet: more than the 512 bytes of stack hold. A program runs to its end on one CPU before
/// another of ours starts there, or goes on with the packet and what is here.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// First decisions of flows, drops, and what would have been dropped: records of [`seventh_abi::Event`], which
/// [`crate::counters`] writes and the agent reads.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Beginnings of answers, apart from the events: neither pushes the other out. [`crate::answer`] writes them, the agent reads.
#[map]
pub static ANSWERS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// A place of [`crate::onward`] → the program there. The agent puts them in when it starts; the deciding programs go on to them.
#[map]
pub static TAILS: ProgramArray = ProgramArray::with_max_entries(3, 0);

/// Pieces of answers of HTTP/2: records of [`Piece`], which [`crate::answer_frames`] writes and the agent reads.
#[map]
pub static ANSWER_PIECES: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Copies of frames, for whoever judges beside the traffic. [`crate::copy`] writes them, the agent reads.
#[map]
pub static COPIES: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Flow → what of it need not be copied. Whoever reads the copies writes it, [`crate::copy`] reads it.
#[map]
pub static COPY_SKIPS: LruHashMap<FlowKey, CopySkip> = LruHashMap::with_max_entries(65_536, 0);

/// Number of a rule set whose requests are judged here → where its automata begin. The agent writes it; [`crate::requests`]
/// reads it. Without preallocation: there are few.
#[map]
pub static REQUEST_RULES: HashMap<u32, RequestRules> =
    HashMap::with_max_entries(REQUEST_RULE_SETS_MAX, BPF_F_NO_PREALLOC);
/// Number of a state of theirs → where each byte leads. The same write and read it.
#[map]
pub static REQUEST_STATES: Array<RequestState> = Array::with_max_entries(16_384, 0);
/// Requests that were allowed here. [`crate::requests`] writes them, the agent reads.
#[map]
pub static REQUESTS: RingBuf = RingBuf::with_byte_size(2 << 20, 0);

/// This CPU's working memory. Whoever asks for it has given up what was got here before.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's element, used by nobody else while the program runs; any bytes are a valid `Scratch`.
    Some(unsafe { &mut *scratch })
}

/// See [`SCRATCH`].
#[repr(C)]
pub struct Scratch {
    /// What was read of it.
    pub packet: Packet,
    /// Flow that this packet's sender would have opened.
    pub key: FlowKey,
    /// The same flow opened by the other side, or one that an ICMP error quotes.
    pub other_key: FlowKey,
    /// What is asked of the policy in force, and its answer.
    pub question: Question,
    /// The same question to the policy in audit.
    pub audit: Question,
    /// Entry of a flow that is to be made. Only `fill_new_flow` of [`crate::hook`] writes it, and the same fields each time: the
    /// others are nought, as the map was made. So it is if an earlier agent made it: its programs wrote no others (whatever
    /// else is written here raises [`seventh_abi::ABI_VERSION`]).
    pub new_flow: FlowState,
    /// Record that is to be made.
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
    /// That of [`crate::hook::Scene`].
    pub direction: u8,
    /// The payload, where it may be a request.
    pub request: Request,
}

/// A request that is read here.
#[repr(C, align(8))]
pub struct Request {
    /// What the automata say so far.
    pub walk: RequestWalk,
    /// How many bytes have been read. Kept here because the verifier follows a number on the stack through every turn.
    pub at: u32,
    /// Not used.
    pub pad: u32,
    /// Its bytes, and nought up to the next eight.
    pub bytes: [u8; REQUEST_LEN_MAX + 8],
}

/// A record of [`ANSWER_PIECES`].
#[repr(C)]
pub struct Piece {
    /// Which piece it is.
    pub head: AnswerPiece,
    /// Its bytes.
    pub bytes: [u8; PIECE_LEN_MAX],
}
