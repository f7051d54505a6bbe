//! Which connection a frame belongs to that went to the engine: ports are used again while frames wait there.
//!
//! What the engine says of a frame holds for the connection that the frame came from, not for the next one on the same
//! addresses and ports. So each connection of a flow has a number, which goes to the engine with every frame and comes back
//! with it; of another number nothing is applied.

/// Numbers of connections: the time at which one began, in units of [`ConnectionNumber::UNIT_NS`], as many as come round again
/// after more than a minute. No frame waits so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionNumber;

impl ConnectionNumber {
    /// Bits of a number.
    pub const BITS: u32 = 13;
    const MASK: u16 = (1 << Self::BITS) - 1;
    const UNIT_SHIFT: u32 = 23;
    /// 8.4 ms. A connection that another one followed on its flow within one unit would have its number: the second one is not
    /// accepted so soon.
    pub const UNIT_NS: u64 = 1 << Self::UNIT_SHIFT;

    /// Of a connection that the other side accepts at this time (`bpf_ktime_get_ns`).
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "time comes round")]
    pub const fn accepted_at(now_ns: u64) -> u16 {
        (now_ns >> Self::UNIT_SHIFT) as u16 & Self::MASK
    }

    /// Of whatever is under way in a flow that is new at this time. None that is accepted in it from now on has this number.
    #[inline(always)]
    #[must_use]
    pub const fn new_at(now_ns: u64) -> u16 {
        Self::accepted_at(now_ns).wrapping_sub(1) & Self::MASK
    }
}

/// Kernel → engine: the two bytes that stand in place of a frame's `EtherType`, behind [`crate::PuntMeta`]. A VLAN tag that the
/// kernel keeps beside the frame stands before them when it has been put in.
///
/// The highest bit is clear, which tells them from the type of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PuntedType {
    /// 0x0800, 0x86dd, 0x8100 or 0x88a8.
    pub ether_type: u16,
    /// [`crate::FlowState::connection`].
    pub connection: u16,
}

impl PuntedType {
    /// The four types that are punted, by their two bits.
    const TYPES: [u16; 4] = [0x0800, 0x86dd, 0x8100, 0x88a8];
    const TAG: u16 = 1 << 15;

    /// The two bytes; `None` if nothing of this type is punted.
    #[inline(always)]
    #[must_use]
    pub const fn encode(&self) -> Option<[u8; 2]> {
        let kind = match self.ether_type {
            0x0800 => 0,
            0x86dd => 1,
            0x8100 => 2,
            0x88a8 => 3,
            _ => return None,
        };
        Some((kind << ConnectionNumber::BITS | self.connection & ConnectionNumber::MASK).to_be_bytes())
    }

    /// Reads the two bytes; `None` if they are the type of a tag.
    #[must_use]
    pub const fn decode(bytes: [u8; 2]) -> Option<Self> {
        let code = u16::from_be_bytes(bytes);
        if code & Self::TAG != 0 {
            return None;
        }
        Some(Self {
            ether_type: Self::TYPES[(code >> ConnectionNumber::BITS & 0b11) as usize],
            connection: code & ConnectionNumber::MASK,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnectionNumber, PuntedType};

    #[test]
    fn type_and_number_survive_the_wire_and_are_never_taken_for_a_tag() {
        for ether_type in PuntedType::TYPES {
            for connection in 0..1 << ConnectionNumber::BITS {
                let punted = PuntedType { ether_type, connection };
                let bytes = punted.encode().unwrap();
                assert!(![0x8100_u16, 0x88a8].contains(&u16::from_be_bytes(bytes)));
                assert_eq!(PuntedType::decode(bytes), Some(punted));
            }
            if ether_type >= 0x8100 {
                assert_eq!(PuntedType::decode(ether_type.to_be_bytes()), None);
            }
        }
        let other = PuntedType {
            ether_type: 0x0806,
            connection: 1,
        };
        assert_eq!(other.encode(), None);
    }

    #[test]
    fn what_begins_in_another_unit_has_another_number_until_more_than_a_minute_later() {
        const SECOND: u64 = 1_000_000_000;
        let at = 123 * SECOND;
        let number = ConnectionNumber::accepted_at(at);
        let mut later = ConnectionNumber::UNIT_NS;
        while later < 60 * SECOND {
            assert_ne!(ConnectionNumber::accepted_at(at + later), number);
            later += ConnectionNumber::UNIT_NS;
        }
        // A connection that is accepted right behind its SYN.
        for now_ns in [at, 0, ConnectionNumber::UNIT_NS] {
            assert_ne!(ConnectionNumber::new_at(now_ns), ConnectionNumber::accepted_at(now_ns));
        }
    }
}
