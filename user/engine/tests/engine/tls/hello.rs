//! Hellos, built field by field.

pub(crate) const RETRY_RANDOM: &str = "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c";

/// What a ClientHello of a test says.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) name: Option<&'static str>,
    pub(crate) tls13: bool,
    pub(crate) ech: bool,
    pub(crate) early_data: bool,
    pub(crate) padding: usize,
}

impl Hello {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name: Some(name),
            tls13: true,
            ech: false,
            early_data: false,
            padding: 0,
        }
    }

    pub(crate) fn tls12(name: &'static str) -> Self {
        Self {
            tls13: false,
            ..Self::new(name)
        }
    }

    /// The message.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        if let Some(name) = self.name {
            extensions.extend(extension(
                0,
                &vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat()),
            ));
        }
        extensions.extend(extension(
            16,
            &vector(2, &[vector(1, b"h2"), vector(1, b"http/1.1")].concat()),
        ));
        if self.tls13 {
            extensions.extend(extension(43, &[4, 3, 4, 3, 3]));
        }
        if self.early_data {
            extensions.extend(extension(42, &[]));
        }
        if self.ech {
            extensions.extend(extension(0xfe0d, &[0, 1, 2, 3]));
        }
        if self.padding > 0 {
            extensions.extend(extension(21, &vec![0; self.padding]));
        }
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector(1, &[9; 32]),
            &vector(2, &[0x13, 0x01]),
            &vector(1, &[0]),
            &vector(2, &extensions),
        ]
        .concat();
        [&[1][..], &vector(3, &body)].concat()
    }

    /// The message in one record, or in as many as it needs.
    pub(crate) fn records(&self) -> Vec<u8> {
        self.records_of(16384)
    }

    /// The message in records with `len` bytes each.
    pub(crate) fn records_of(&self, len: usize) -> Vec<u8> {
        self.message().chunks(len).flat_map(|chunk| record(22, chunk)).collect()
    }
}

/// The beginning of a ServerHello; of a HelloRetryRequest if `retry`.
pub(crate) fn server_hello(retry: bool) -> Vec<u8> {
    record(22, &server_hello_message(retry))
}

pub(crate) fn server_hello_message(retry: bool) -> Vec<u8> {
    let random: Vec<u8> = if retry {
        (0..32)
            .map(|at| u8::from_str_radix(&RETRY_RANDOM[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    } else {
        vec![5; 32]
    };
    [&[2, 0, 0, 40, 3, 3][..], &random, &[0; 6]].concat()
}

pub(crate) fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &vector(2, content)].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, content)].concat()
}

fn vector(width: usize, content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32).to_be_bytes()[4 - width..], content].concat()
}
