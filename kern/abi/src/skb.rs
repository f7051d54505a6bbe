//! Where the running kernel has what it does not show of a packet.

/// Where an `sk_buff` has what programs read of it beside their context. Every build of a kernel may lay it out anew: the loader
/// looks it up and puts it into the object ([`crate::names::SKB_LAYOUT`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SkbLayout {
    /// Offset of `head`, and of `data` eight bytes behind it. 0 if the layout is not known.
    pub head: u32,
    /// Offset of the sixteen bytes whose last four are `csum_start` and `csum_offset`.
    pub checksum: u32,
    /// Which bit of those sixteen bytes the first of `ip_summed` is, counted from the lowest of the first byte.
    pub summed: u32,
    /// Not used.
    pub pad: u32,
}

const _: () = assert!(size_of::<SkbLayout>() == 16);

impl SkbLayout {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        head: 0,
        checksum: 0,
        summed: 0,
        pad: 0,
    };
}
