//! The fields of one header block.

/// Names and values in order, in one buffer that is used again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    bytes: Vec<u8>,
    /// Where each name and each value ends.
    ends: Vec<(usize, usize)>,
}

impl Fields {
    /// Forgets all fields and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Memory held, in bytes.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<(usize, usize)>()
    }

    /// Number of fields.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let name = self.bytes.get(start..name_end).unwrap_or_default();
            let value = self.bytes.get(name_end..value_end).unwrap_or_default();
            start = value_end;
            (name, value)
        })
    }

    /// The buffer, to which a name is to be appended, then a value.
    pub(super) const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What was appended since the last field is a field; its name ends at `name_end`.
    pub(super) fn finish(&mut self, name_end: usize) {
        self.ends.push((name_end, self.bytes.len()));
    }

    /// The field that was finished last.
    pub(super) fn last(&self) -> (&[u8], &[u8]) {
        let start = match self.ends.as_slice() {
            [.., (_, end), _] => *end,
            _ => 0,
        };
        let (name_end, end) = self.ends.last().copied().unwrap_or_default();
        (
            self.bytes.get(start..name_end).unwrap_or_default(),
            self.bytes.get(name_end..end).unwrap_or_default(),
        )
    }
}
