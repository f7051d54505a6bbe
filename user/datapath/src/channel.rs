//! The punt channel: how a worker gets frames from the kernel and gives them back, whatever carries them.

use std::{io, time::Duration};

/// What becomes of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It goes back to the kernel, with the metadata that its first twelve bytes now hold.
    Send,
    /// It ends here.
    Release,
}

/// Takes frames that are sent besides the received one, after it and in order.
pub trait Outgoing {
    /// Queues a copy of `frame`, a whole Ethernet frame whose first twelve bytes are metadata. False if there is no room
    /// or the frame is too long: it is lost, and counted.
    fn send(&mut self, frame: &[u8]) -> bool;
}

/// Decides a received frame in place; may queue others.
pub type Decide<'a> = dyn FnMut(&mut [u8], &mut dyn Outgoing) -> Disposition + 'a;

/// Counts of a channel since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelStats {
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames that were dropped because the worker did not keep up: by the kernel, or by the channel, from those of whom most
    /// waited.
    pub lost_receiving: u64,
    /// Frames that found no room on the way back.
    pub lost_sending: u64,
    /// The probe that came last; see [`crate::Prober`].
    pub probed: u64,
    /// Places for frames that are neither in a ring nor in our hands: on their way through the kernel, or lost for good. With
    /// nothing on its way, none.
    pub unaccounted: u64,
}

impl ChannelStats {
    /// Frames that were lost on either way.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost_receiving + self.lost_sending
    }
}

/// One worker's channel.
pub trait PuntChannel: Send {
    /// Takes up to a batch of frames, hands each to `decide` and sends what it keeps. Returns how many were decided. When more
    /// wait than one batch, every endpoint has its turn.
    ///
    /// # Errors
    /// The channel is broken for good.
    fn turn(&mut self, decide: &mut Decide<'_>) -> io::Result<usize>;

    /// Sends frames that answer no received one (time-outs). `produce` queues them.
    ///
    /// # Errors
    /// The channel is broken for good.
    fn push(&mut self, produce: &mut dyn FnMut(&mut dyn Outgoing)) -> io::Result<()>;

    /// Sleeps until a frame is there, for at most `timeout`. False if none came. Looking for frames before going to sleep
    /// was measured and brought nothing.
    ///
    /// # Errors
    /// The channel is broken for good.
    fn wait(&mut self, timeout: Duration) -> io::Result<bool>;

    /// Counts so far.
    fn stats(&self) -> ChannelStats;
}
