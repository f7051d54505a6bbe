//! Frames of our own on their way out.

/// Frames that an outbox holds at most. One decision makes at most four; a caller that empties the outbox after each
/// batch of up to 64 decisions never meets the bound.
pub const OUTBOX_FRAMES_MAX: usize = 256;

/// Complete Ethernet frames to transmit after the frame that was decided. Their buffers are reused.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: Vec<Vec<u8>>,
    used: usize,
}

impl Outbox {
    /// An empty outbox.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            frames: Vec::new(),
            used: 0,
        }
    }

    /// The frames, in the order in which they are to be sent.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.frames.iter().take(self.used).map(Vec::as_slice)
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets the frames and keeps their buffers.
    pub const fn clear(&mut self) {
        self.used = 0;
    }

    /// An empty buffer for the next frame; `None` if the outbox is full. What is then not sent is as if lost on the
    /// way: the peer's retransmission asks for it again.
    pub(crate) fn next(&mut self) -> Option<&mut Vec<u8>> {
        if self.used >= OUTBOX_FRAMES_MAX {
            return None;
        }
        if self.used == self.frames.len() {
            self.frames.push(Vec::new());
        }
        let frame = self.frames.get_mut(self.used)?;
        self.used += 1;
        frame.clear();
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::{OUTBOX_FRAMES_MAX, Outbox};

    #[test]
    fn it_is_bounded_and_reuses_buffers() {
        let mut outbox = Outbox::new();
        for n in 0..OUTBOX_FRAMES_MAX {
            outbox.next().unwrap().push(n as u8);
        }
        assert!(outbox.next().is_none());
        assert_eq!(outbox.frames().count(), OUTBOX_FRAMES_MAX);
        outbox.clear();
        assert!(outbox.is_empty() && outbox.frames().next().is_none());
        let reused = outbox.next().unwrap();
        assert!(reused.is_empty() && reused.capacity() > 0);
    }
}
