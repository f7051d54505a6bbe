//! ICMP types.

use seventh_abi::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};

use crate::fields::{Field, Scalar};

/// IP protocol number of ICMP for IPv4.
pub const ICMP_V4: u8 = PROTOCOL_ICMP;
/// IP protocol number of ICMP for IPv6.
pub const ICMP_V6: u8 = PROTOCOL_ICMPV6;

/// A family and a type; every code of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IcmpMatch {
    /// [`ICMP_V4`] or [`ICMP_V6`].
    pub protocol: u8,
    /// The type.
    pub kind: u8,
}

/// Fields of one item at most.
const FIELDS_MAX: usize = 40;

const NAMES_V4: &[(&str, u8)] = &[
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

const NAMES_V6: &[(&str, u8)] = &[
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

/// Reads `icmps`: the fields of all items together. `None` inside: the list is empty, which is the same as its absence;
/// items without fields are not, they allow no type at all.
pub(super) fn read(field: &Field<'_>) -> Option<Option<Vec<IcmpMatch>>> {
    if field.is_empty_list() {
        field.warn("an empty list is the same as leaving it out: the rule is about every protocol and port");
        return Some(None);
    }
    let items = field.list_of(|item| {
        let mut object = item.object()?;
        let fields = object.optional("fields").map_or(Some(Vec::new()), |f| {
            let fields = f.list_of(one)?;
            if fields.len() > FIELDS_MAX {
                f.fail(format!("has {} types, at most {FIELDS_MAX} are taken", fields.len()));
                return None;
            }
            Some(fields)
        });
        object.finish();
        fields
    })?;
    let types: Vec<IcmpMatch> = items.into_iter().flatten().collect();
    if types.is_empty() {
        field.warn("names no type, so the rule is about nothing");
    }
    Some(Some(types))
}

fn one(field: &Field<'_>) -> Option<IcmpMatch> {
    let mut object = field.object()?;
    let family = object.optional("family").map_or(Some("IPv4"), |f| {
        let family = f.string()?;
        if family != "IPv4" && family != "IPv6" {
            f.fail(format!("unknown family {family:?}; known are IPv4 and IPv6"));
            return None;
        }
        Some(family)
    });
    let kind = object.required("type");
    object.finish();
    let (protocol, names) = if family? == "IPv4" {
        (ICMP_V4, NAMES_V4)
    } else {
        (ICMP_V6, NAMES_V6)
    };
    let kind = kind?;
    let number = match kind.integer_or_string()? {
        Scalar::Integer(number) => u8::try_from(number).ok(),
        Scalar::String(text) => match names.iter().find(|(name, _)| *name == text) {
            Some((_, number)) => Some(*number),
            None => text.parse().ok(),
        },
    };
    if number.is_none() {
        kind.fail("must be an ICMP type of this family: a number from 0 to 255 or a name such as EchoRequest");
    }
    Some(IcmpMatch {
        protocol,
        kind: number?,
    })
}
