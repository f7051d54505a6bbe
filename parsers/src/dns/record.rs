//! Records: where names lead.

use super::{Cursor, DnsFault, Name};

/// Class of the Internet.
pub const CLASS_IN: u16 = 1;

/// Numbers of record types (IANA, DNS parameters).
pub mod record_type {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Another name of the same.
    pub const CNAME: u16 = 5;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS0 (RFC 6891).
    pub const OPT: u16 = 41;
    /// Service binding (RFC 9460).
    pub const SVCB: u16 = 64;
    /// Service binding of HTTPS.
    pub const HTTPS: u16 = 65;
}

/// Mnemonic of a record or query type that people meet.
#[must_use]
pub const fn type_name(number: u16) -> Option<&'static str> {
    Some(match number {
        record_type::A => "A",
        2 => "NS",
        record_type::CNAME => "CNAME",
        6 => "SOA",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        record_type::AAAA => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        39 => "DNAME",
        record_type::OPT => "OPT",
        43 => "DS",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        50 => "NSEC3",
        52 => "TLSA",
        record_type::SVCB => "SVCB",
        record_type::HTTPS => "HTTPS",
        99 => "SPF",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        _ => return None,
    })
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Whose it is.
    pub name: Name<'a>,
    /// Number of the type.
    pub record_type: u16,
    /// Number of the class; of OPT: the sender's datagram size.
    pub class: u16,
    pub(super) ttl: u32,
    /// What it says.
    pub data: RecordData<'a>,
}

/// What a record says, if it is of a kind that names addresses, in class IN.
#[derive(Clone, Copy, Debug)]
pub enum RecordData<'a> {
    /// An IPv4 address.
    A([u8; 4]),
    /// An IPv6 address.
    Aaaa([u8; 16]),
    /// The name has another name, which says more.
    Cname(Name<'a>),
    /// SVCB or HTTPS.
    Service(ServiceBinding<'a>),
    /// Anything else; its length is right.
    Other,
}

/// SVCB and HTTPS (RFC 9460).
#[derive(Clone, Copy, Debug)]
pub struct ServiceBinding<'a> {
    /// 0: an alias, without hints that count.
    pub priority: u16,
    /// Who serves; the root: the owner itself.
    pub target: Name<'a>,
    ipv4_hints: &'a [u8],
    ipv6_hints: &'a [u8],
}

const KEY_IPV4_HINT: u16 = 4;
const KEY_IPV6_HINT: u16 = 6;

impl<'a> ServiceBinding<'a> {
    /// Addresses of `ipv4hint`.
    pub fn ipv4_hints(&self) -> impl Iterator<Item = [u8; 4]> + use<'a> {
        self.ipv4_hints.as_chunks().0.iter().copied()
    }

    /// Addresses of `ipv6hint`.
    pub fn ipv6_hints(&self) -> impl Iterator<Item = [u8; 16]> + use<'a> {
        self.ipv6_hints.as_chunks().0.iter().copied()
    }

    /// RFC 9460 §2.2: priority, target without compression, parameters in ascending order of their keys, none twice.
    /// §2.4.2: the parameters of an alias count for nothing.
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, DnsFault> {
        let priority = cursor.u16()?;
        let target = Name::read(cursor)?;
        let mut binding = Self {
            priority,
            target,
            ipv4_hints: &[],
            ipv6_hints: &[],
        };
        let mut last_key = None;
        // Each turn takes four bytes at least.
        while cursor.at < cursor.message.len() {
            let key = cursor.u16()?;
            let len = cursor.u16()?;
            let value = cursor.take(usize::from(len))?;
            if last_key.is_some_and(|last| key <= last) {
                return Err(DnsFault::BadRecordData);
            }
            last_key = Some(key);
            match key {
                KEY_IPV4_HINT => binding.ipv4_hints = whole::<4>(value)?,
                KEY_IPV6_HINT => binding.ipv6_hints = whole::<16>(value)?,
                _ => {}
            }
        }
        if priority == 0 {
            binding.ipv4_hints = &[];
            binding.ipv6_hints = &[];
        }
        Ok(binding)
    }
}

/// RFC 9460 §7.3: one address at least, and no piece of one.
fn whole<const N: usize>(value: &[u8]) -> Result<&[u8], DnsFault> {
    if value.is_empty() || !value.as_chunks::<N>().1.is_empty() {
        return Err(DnsFault::BadRecordData);
    }
    Ok(value)
}

impl<'a> Record<'a> {
    /// Seconds for which it holds; none if the highest bit is set (RFC 2181 §8).
    #[must_use]
    pub const fn ttl_s(&self) -> u32 {
        if self.ttl > i32::MAX.unsigned_abs() {
            0
        } else {
            self.ttl
        }
    }

    /// Reads the record at the cursor and leaves the cursor behind it.
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, DnsFault> {
        let name = Name::read(cursor)?;
        let record_type = cursor.u16()?;
        let class = cursor.u16()?;
        let ttl = cursor.u32()?;
        let len = usize::from(cursor.u16()?);
        let start = cursor.at;
        cursor.take(len)?;
        let mut data = Cursor {
            message: cursor.message.get(..cursor.at).unwrap_or_default(),
            at: start,
        };
        let data = read_data(&mut data, record_type, class)?;
        Ok(Self {
            name,
            record_type,
            class,
            ttl,
            data,
        })
    }
}

/// Reads the data at the cursor, which end where the cursor's bytes do.
fn read_data<'a>(cursor: &mut Cursor<'a>, record_type: u16, class: u16) -> Result<RecordData<'a>, DnsFault> {
    if class != CLASS_IN {
        return Ok(RecordData::Other);
    }
    let data = match record_type {
        record_type::A => cursor.array().map(RecordData::A),
        record_type::AAAA => cursor.array().map(RecordData::Aaaa),
        record_type::CNAME => Name::read(cursor).map(RecordData::Cname),
        record_type::SVCB | record_type::HTTPS => ServiceBinding::read(cursor).map(RecordData::Service),
        _ => return Ok(RecordData::Other),
    };
    match data {
        Ok(data) if cursor.at == cursor.message.len() => Ok(data),
        Ok(_) | Err(DnsFault::Truncated) => Err(DnsFault::BadRecordData),
        Err(fault) => Err(fault),
    }
}
