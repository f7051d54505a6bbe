//! Where the running kernel's `sk_buff` has what the programs read of it, by the kernel's own description of its types (BTF,
//! `Documentation/bpf/btf.rst` of Linux).

use std::fs;

use seventh_abi::SkbLayout;

const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// How deep members without a name may lie in each other.
const DEPTH_MAX: u32 = 8;

/// None if the kernel does not say, or if what programs read at once does not lie together.
pub(crate) fn of_kernel() -> Option<SkbLayout> {
    of_types(&fs::read(KERNEL_TYPES).ok()?)
}

fn of_types(bytes: &[u8]) -> Option<SkbLayout> {
    let types = Types::parse(bytes)?;
    let skb = types.structure("sk_buff")?;
    let bit = |name: &str| types.member(skb, name.as_bytes(), DEPTH_MAX);
    let byte = |name| bit(name).map(|bit| bit / 8);
    let (head, start) = (byte("head")?, byte("csum_start")?);
    let checksum = start.checked_sub(12)?;
    let summed = bit("ip_summed")?.checked_sub(checksum * 8)?;
    let is_together = byte("data")? == head + 8 && byte("csum_offset")? == start + 2 && summed < 96 && summed % 8 < 7;
    // How bits are counted depends on the order of bytes.
    (is_together && head > 0 && cfg!(target_endian = "little")).then_some(SkbLayout {
        head,
        checksum,
        summed,
        pad: 0,
    })
}

struct Type {
    name: usize,
    info: u32,
    /// What follows it: members, if it has any.
    at: usize,
}

impl Type {
    fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn members(&self) -> usize {
        usize::try_from(self.info & 0xffff).unwrap_or(0)
    }
}

struct Types<'a> {
    bytes: &'a [u8],
    strings: usize,
    /// By number, which begins at 1.
    all: Vec<Type>,
}

impl<'a> Types<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(*bytes.first_chunk()?);
        let field = |at| word(bytes, at);
        let header = usize::try_from(field(4)?).ok()?;
        let begin = header.checked_add(usize::try_from(field(8)?).ok()?)?;
        let end = begin.checked_add(usize::try_from(field(12)?).ok()?)?;
        let strings = header.checked_add(usize::try_from(field(16)?).ok()?)?;
        let (mut at, mut all) = (begin, Vec::new());
        while magic == MAGIC && at < end {
            let name = usize::try_from(word(bytes, at)?).ok()?;
            let info = word(bytes, at + 4)?;
            let found = Type {
                name,
                info,
                at: at + 12,
            };
            at = found.at + length(&found)?;
            all.push(found);
        }
        Some(Self { bytes, strings, all })
    }

    /// The text at this place of the strings.
    fn name(&self, at: usize) -> &'a [u8] {
        let text = self.strings.checked_add(at).and_then(|start| self.bytes.get(start..));
        text.and_then(|text| text.split(|byte| *byte == 0).next())
            .unwrap_or_default()
    }

    fn structure(&self, name: &str) -> Option<&Type> {
        let mut all = self.all.iter();
        all.find(|found| found.kind() == STRUCT && self.name(found.name) == name.as_bytes())
    }

    /// At which bit of the type its member of this name begins, which may be one of a member without a name.
    fn member(&self, of: &Type, name: &[u8], depth: u32) -> Option<u32> {
        if !matches!(of.kind(), STRUCT | UNION) || depth == 0 {
            return None;
        }
        let is_bits = of.info >> 31 == 1;
        (0..of.members()).find_map(|nth| {
            let at = of.at + 12 * nth;
            let own = self.name(usize::try_from(word(self.bytes, at)?).ok()?);
            let offset = word(self.bytes, at + 8)?;
            // With fields of bits the upper byte says how many.
            let bit = if is_bits { offset & 0xff_ffff } else { offset };
            if own == name {
                return Some(bit);
            }
            if !own.is_empty() {
                return None;
            }
            let inner = usize::try_from(word(self.bytes, at + 4)?).ok()?.checked_sub(1)?;
            bit.checked_add(self.member(self.all.get(inner)?, name, depth - 1)?)
        })
    }
}

/// Bytes that follow a type.
fn length(found: &Type) -> Option<usize> {
    let members = found.members();
    Some(match found.kind() {
        // Integers, variables, and tags of declarations have one word.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        STRUCT | UNION | 15 | 19 => 12 * members,
        // Enumerations and prototypes.
        6 | 13 => 8 * members,
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel's description of its types, in the making.
    #[derive(Default)]
    struct Made {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Made {
        fn words(&mut self, words: &[u32]) {
            self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }

        fn string(&mut self, text: &str) -> u32 {
            let at = u32::try_from(self.strings.len()).unwrap();
            self.strings.extend(text.bytes());
            self.strings.push(0);
            at
        }

        /// A structure or union with fields of bits. Members: name, type, first bit.
        fn structure(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) {
            let name = self.string(name);
            self.words(&[name, 1 << 31 | kind << 24 | u32::try_from(members.len()).unwrap(), 0]);
            for (name, of, bit) in members {
                let name = self.string(name);
                self.words(&[name, *of, *bit]);
            }
        }

        fn encode(&self) -> Vec<u8> {
            let types = u32::try_from(self.types.len()).unwrap();
            let strings = u32::try_from(self.strings.len()).unwrap();
            let header = [24, 0, types, types, strings].map(u32::to_ne_bytes).concat();
            let magic = [&MAGIC.to_ne_bytes()[..], &[1, 0]].concat();
            [magic, header, self.types.clone(), self.strings.clone()].concat()
        }
    }

    /// Those of a kernel whose `sk_buff` has its two pointers, and whatever lies before, so far apart.
    fn made(between: u32) -> Vec<u8> {
        let mut made = Made::default();
        let integer = made.string("int");
        made.words(&[integer, 1 << 24, 4, 32]);
        made.structure(STRUCT, "", &[("csum_start", 1, 0), ("csum_offset", 1, 16)]);
        made.structure(UNION, "", &[("csum", 1, 0), ("", 2, 0)]);
        made.structure(
            STRUCT,
            "",
            &[("other", 1, 5 << 24), ("ip_summed", 1, 2 << 24 | 5), ("", 3, 64)],
        );
        made.structure(UNION, "", &[("", 4, 0), ("headers", 4, 0)]);
        made.words(&[0, 3 << 24, 0, 1, 1, 48]);
        made.structure(
            STRUCT,
            "sk_buff",
            &[
                ("cb", 6, 0),
                ("", 5, 1024),
                ("head", 1, 1536),
                ("data", 1, 1536 + between),
            ],
        );
        made.encode()
    }

    #[test]
    fn members_are_found_in_those_without_a_name() {
        let layout = SkbLayout {
            head: 192,
            checksum: 124,
            summed: 37,
            pad: 0,
        };
        assert_eq!(of_types(&made(64)), Some(layout));
    }

    #[test]
    fn what_does_not_lie_together_or_is_cut_short_is_not_known() {
        assert_eq!(of_types(&made(128)), None);
        let whole = made(64);
        for len in 0..whole.len() - 5 {
            assert_eq!(of_types(&whole[..len]), None, "{len} bytes");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            let _ = of_types(&changed);
        }
    }
}
