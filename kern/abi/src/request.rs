//! Requests that the kernel judges by itself: automata over the bytes of a request head.
//!
//! Method, path and host are each read by an automaton of the rule set; each end state says which rules its text fulfils,
//! so that the request is allowed if one rule is left in all three. What stands between them is read by one grammar for
//! all, which knows less than HTTP allows: a request that it does not follow goes to the engine, which knows the rest.

/// Bytes of a head that the kernel reads at most.
pub const REQUEST_LEN_MAX: usize = 1024;
/// Rules of a set at most, one bit each.
pub const REQUEST_RULES_MAX: usize = 64;
/// Rule sets that the kernel judges by itself at most.
pub const REQUEST_RULE_SETS_MAX: u32 = 1024;
/// Bytes of an authority at most: longer ones are no sound host.
pub const REQUEST_HOST_LEN_MAX: u16 = 260;
/// Header lines at most.
pub const REQUEST_LINES_MAX: u16 = 100;
/// States of all automata together at most, whatever the table's size: numbers from [`RequestStep::FIRST`] on are steps.
pub const REQUEST_STATES_MAX: u32 = RequestStep::FIRST as u32;
/// Bytes that a state tells apart: ASCII. Any other is refused.
pub const REQUEST_BYTES: usize = 128;

/// What a state says instead of naming the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestStep;

impl RequestStep {
    /// The first of them.
    pub const FIRST: u16 = 0xfff0;
    /// The method ends before this byte.
    pub const METHOD_END: u16 = 0xfff0;
    /// The path ends before this byte.
    pub const PATH_END: u16 = 0xfff1;
    /// The Host header's value begins behind this byte.
    pub const HOST_BEGIN: u16 = 0xfff2;
    /// The host ends before this byte.
    pub const HOST_END: u16 = 0xfff3;
    /// A header line ends with this byte.
    pub const LINE_END: u16 = 0xfff4;
    /// The head ends with this byte.
    pub const HEAD_END: u16 = 0xfff5;
    /// The kernel does not judge this request.
    pub const REFUSE: u16 = 0xffff;
}

/// An element of the table of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RequestState {
    /// By the next byte: the next state, or a [`RequestStep`].
    pub next: [u16; REQUEST_BYTES],
    /// The rules that a text fulfils which ends in this state.
    pub rules: u64,
}

/// Where the automata of a rule set begin, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RequestRules {
    /// First state of the method.
    pub method: u16,
    /// First state of the path.
    pub path: u16,
    /// First state behind the path.
    pub version: u16,
    /// First state of a header line, while there was no Host.
    pub line: u16,
    /// First state of the host.
    pub host: u16,
    /// First state behind the host.
    pub host_line_end: u16,
    /// First state of a header line behind the Host.
    pub later_line: u16,
    /// Bytes of a head at most.
    pub len_max: u16,
    /// Header lines at most.
    pub lines_max: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// How far a head was read, but for the number of its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RequestWalk {
    /// The rules that are fulfilled so far.
    pub rules: u64,
    /// The state, or the step that ended the walk.
    pub state: u16,
    /// Where the host's value began.
    pub host_at: u16,
    /// Header lines.
    pub lines: u16,
    /// 1 once there was a Host.
    pub has_host: u16,
}

impl RequestState {
    /// Where the byte leads.
    #[inline(always)]
    #[must_use]
    pub const fn after(&self, byte: u8) -> u16 {
        if byte < 128 {
            self.next[(byte & 127) as usize]
        } else {
            RequestStep::REFUSE
        }
    }

    /// The same where its table begins at another place, which is so much later. The caller has seen that no state's number
    /// reaches [`RequestStep::FIRST`] there.
    #[must_use]
    pub const fn moved(mut self, by: u16) -> Self {
        let mut byte = 0;
        while byte < REQUEST_BYTES {
            if self.next[byte] < RequestStep::FIRST {
                self.next[byte] += by;
            }
            byte += 1;
        }
        self
    }
}

impl RequestRules {
    /// The same where their table begins at another place, which is so much later.
    #[must_use]
    pub const fn moved(mut self, by: u16) -> Self {
        self.method += by;
        self.path += by;
        self.host += by;
        self
    }
}

impl RequestWalk {
    /// Before the first byte.
    #[inline(always)]
    #[must_use]
    pub const fn begin(rules: &RequestRules) -> Self {
        Self {
            rules: u64::MAX,
            state: rules.method,
            host_at: 0,
            lines: 0,
            has_host: 0,
        }
    }

    /// Takes the `at`th byte, counted from 0, whose state says this step; `fulfilled` are that state's rules. False when the
    /// walk is over.
    #[inline(always)]
    pub const fn turn(&mut self, rules: &RequestRules, fulfilled: u64, step: u16, at: u16) -> bool {
        let mut next = RequestStep::REFUSE;
        match step {
            RequestStep::METHOD_END => {
                self.rules &= fulfilled;
                next = rules.path;
            }
            RequestStep::PATH_END => {
                self.rules &= fulfilled;
                next = rules.version;
            }
            RequestStep::HOST_BEGIN => {
                self.host_at = at;
                next = rules.host;
            }
            RequestStep::HOST_END if at.wrapping_sub(self.host_at) <= REQUEST_HOST_LEN_MAX => {
                self.rules &= fulfilled;
                self.has_host = 1;
                next = rules.host_line_end;
            }
            RequestStep::LINE_END if self.lines < rules.lines_max => {
                self.lines += 1;
                next = if self.has_host == 0 {
                    rules.line
                } else {
                    rules.later_line
                };
            }
            RequestStep::HEAD_END => next = RequestStep::HEAD_END,
            _ => {}
        }
        self.state = next;
        next < RequestStep::FIRST
    }

    /// Index of the first rule that allows the head, if its last byte was the last that was read, and one does.
    #[inline(always)]
    #[must_use]
    pub const fn allowed_by(&self) -> Option<u32> {
        if self.state == RequestStep::HEAD_END && self.rules != 0 {
            Some(self.rules.trailing_zeros())
        } else {
            None
        }
    }
}

/// Head of a record of the ring of requests that the kernel allowed; `len` bytes of the request follow, and what the record
/// has behind them means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PassedRequest {
    /// `bpf_ktime_get_ns`.
    pub time_ns: u64,
    /// Whose.
    pub key: crate::FlowKey,
    /// [`crate::FlowState::peer_identity`].
    pub peer_identity: u32,
    /// [`crate::FlowState::rule_set`].
    pub rule_set: u32,
    /// [`crate::FlowState::base_seq`].
    pub base_seq: u32,
    /// Index of the rule.
    pub rule: u32,
    /// Bytes of the request.
    pub len: u32,
}

/// Bytes of a request that a record of their ring has room for: the smallest that does is taken.
pub const REQUEST_ROOMS: [usize; 3] = [128, 384, REQUEST_LEN_MAX];

const _: () = assert!(size_of::<RequestState>() == 2 * REQUEST_BYTES + 8);
const _: () = assert!(size_of::<RequestRules>() == 24);
const _: () = assert!(size_of::<RequestWalk>() == 16);
const _: () = assert!(size_of::<PassedRequest>() == 72);
