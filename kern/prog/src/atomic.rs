//! Words that several CPUs change at once. The target knows no atomics, but the instruction set does, from kernel 5.12 on:
//! only programs that need not be there on older ones may exchange. Adding is older.

/// The word as it is now, read once.
#[inline(always)]
pub fn load(word: &u64) -> u64 {
    // SAFETY: a reference is readable.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

/// The short word as it is now, read once.
#[inline(always)]
pub fn load_half(word: &u16) -> u16 {
    // SAFETY: a reference is readable.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

/// Sets the short word, now.
#[inline(always)]
pub fn store_half(word: &mut u16, value: u16) {
    // SAFETY: a reference is writable.
    unsafe { core::ptr::from_mut(word).write_volatile(value) };
}

/// What this CPU wrote before is seen by others before it reads or writes anything else: it adds nothing to the word, in one
/// step that goes before all CPUs (x86; others order their own words less strictly, and then only those they write).
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub fn fence(word: &mut u64) {
    // SAFETY: the instruction (BPF_XADD) reads and writes the eight bytes of the word, and leaves them as they were.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({word} + 0) += {nothing}",
            word = in(reg) word,
            nothing = in(reg) 0_u64,
            options(nostack),
        );
    }
}

/// For clippy alone, as below.
#[cfg(not(target_arch = "bpf"))]
pub fn fence(_: &mut u64) {}

/// Sets the lower half.
#[inline(always)]
pub fn store_low(word: &mut u64, value: u32) {
    let low = core::ptr::from_mut(word).cast::<u32>();
    // SAFETY: the first half of a little-endian word, which a reference may write.
    unsafe { low.write_volatile(value) };
}

/// Sets the word to `new` if it is `old`; returns what it was.
#[inline(always)]
#[cfg(target_arch = "bpf")]
pub fn compare_exchange(word: &mut u64, old: u64, new: u64) -> u64 {
    let found;
    // SAFETY: the instruction (BPF_ATOMIC | BPF_CMPXCHG) reads and writes the eight bytes of the word and r0, nothing else.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inlateout("r0") old => found,
            options(nostack),
        );
    }
    found
}

/// For clippy alone: this program runs nowhere but in the kernel.
#[cfg(not(target_arch = "bpf"))]
pub fn compare_exchange(word: &mut u64, old: u64, new: u64) -> u64 {
    let found = *word;
    if found == old {
        *word = new;
    }
    found
}
