//! How much stack the programs need, as the verifiers of all kernels reckon it: that of a chain of calls is the sum of its
//! frames, and must not be over 512 bytes. Each frame is rounded up, to 16 bytes on the kernel at hand and to 32 before 6.8, so
//! a program that loads here may be refused there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::{
    Object,
    generated::{BPF_PSEUDO_CALL, BPF_PSEUDO_FUNC, bpf_insn},
};

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/seventh-kern"));
/// What each frame is rounded up to before Linux 6.8.
const FRAME_UNIT: u32 = 32;
const STACK_MAX: u32 = 512;
/// What a chain may have used before a call to a function that goes on to another program.
const BEFORE_TAIL_CALL_MAX: u32 = 256;

const FRAME_POINTER: u8 = 10;
const CALL: u8 = 0x85;
const TAIL_CALL: i32 = 12;
const LOAD_64: u8 = 0x18;
const MOVE_64: u8 = 0xbf;
const ADD_CONSTANT_64: u8 = 0x07;
/// The bits of an instruction that say what it does: those that load have the address in the source, those that store in the
/// destination, and jumps leave all registers as they are.
const CLASS: u8 = 0x07;
const LOAD: u8 = 0x01;
const STORE_CONSTANT: u8 = 0x02;
const STORE: u8 = 0x03;
const JUMP: u8 = 0x05;
const JUMP_32: u8 = 0x06;

/// One function of a program: the bytes of its frame, where it calls, and whether it goes on to another program.
#[derive(Debug, Default)]
struct Frame {
    bytes: u32,
    callees: BTreeSet<usize>,
    tail_calls: bool,
}

/// The functions of a program by their first instructions, as a verifier finds them: what is called begins one.
fn frames(program: &[bpf_insn]) -> BTreeMap<usize, Frame> {
    let callees: BTreeMap<usize, usize> = (0..program.len())
        .filter_map(|at| Some((at, callee(program, at)?)))
        .collect();
    let mut frames: BTreeMap<usize, Frame> = callees.values().map(|start| (*start, Frame::default())).collect();
    frames.entry(0).or_default();
    let starts: Vec<usize> = frames.keys().copied().chain([program.len()]).collect();
    for bounds in starts.windows(2) {
        let frame = frames.get_mut(&bounds[0]).unwrap();
        let body = &program[bounds[0]..bounds[1]];
        frame.bytes = deepest(body);
        frame.callees = callees.range(bounds[0]..bounds[1]).map(|(_, callee)| *callee).collect();
        frame.tail_calls = body
            .iter()
            .any(|i| i.code == CALL && i.src_reg() == 0 && i.imm == TAIL_CALL);
    }
    frames
}

/// The first instruction of what is called by this one, or given to a helper that calls it back.
fn callee(program: &[bpf_insn], at: usize) -> Option<usize> {
    let instruction = program[at];
    let source = u32::from(instruction.src_reg());
    let names_function = match instruction.code {
        CALL => source == BPF_PSEUDO_CALL,
        LOAD_64 => source == BPF_PSEUDO_FUNC,
        _ => false,
    };
    let target = i64::try_from(at).unwrap() + i64::from(instruction.imm) + 1;
    names_function.then(|| usize::try_from(target).unwrap())
}

/// How far below its frame pointer a function reaches: by itself, or by an address that it works out.
fn deepest(body: &[bpf_insn]) -> u32 {
    let mut deepest = 0;
    let mut copies = [false; 11];
    copies[usize::from(FRAME_POINTER)] = true;
    for instruction in body {
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        let class = instruction.code & CLASS;
        let address = match class {
            LOAD => Some(from),
            STORE | STORE_CONSTANT => Some(to),
            _ => None,
        };
        let reach = match instruction.code {
            ADD_CONSTANT_64 if copies[usize::from(to)] => instruction.imm,
            _ if address.is_some_and(|register| copies[usize::from(register)]) => i32::from(instruction.off),
            _ => 0,
        };
        deepest = deepest.max(u32::try_from(-reach).unwrap_or(0));
        if instruction.code == MOVE_64 {
            copies[usize::from(to)] = from == FRAME_POINTER;
        } else if !matches!(class, STORE | STORE_CONSTANT | JUMP | JUMP_32) {
            copies[usize::from(to)] = false;
        }
    }
    deepest
}

/// The bytes of the deepest chain from this function on, and its functions; a call to one that goes on to another program is
/// looked at on the way.
fn chain(frames: &BTreeMap<usize, Frame>, function: usize, above: u32) -> (u32, Vec<(usize, u32)>) {
    let frame = &frames[&function];
    assert!(
        function == 0 || !frame.tail_calls || above <= BEFORE_TAIL_CALL_MAX,
        "{above} bytes before the tail call of the function at {function}"
    );
    let own = frame.bytes.max(1).next_multiple_of(FRAME_UNIT);
    let below = frame.callees.iter().map(|callee| chain(frames, *callee, above + own));
    let (bytes, mut functions) = below.max().unwrap_or_default();
    functions.insert(0, (function, frame.bytes));
    (own + bytes, functions)
}

#[test]
fn no_chain_of_calls_needs_more_stack_than_any_kernel_gives() {
    let mut object = Object::parse(OBJECT).unwrap();
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).unwrap();
    assert!(object.programs.len() >= 8, "{:?}", object.programs.keys());
    for (name, program) in &object.programs {
        let frames = frames(&object.functions[&program.function_key()].instructions);
        let (bytes, functions) = chain(&frames, 0, 0);
        println!("{name}: {bytes} bytes, {functions:?}");
        assert!(
            bytes <= STACK_MAX,
            "{name}: {bytes} bytes of stack; the chain (first instruction, bytes): {functions:?}"
        );
    }
}
