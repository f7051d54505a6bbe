//! Drop reasons: ours in Hubble's numbers, and Hubble's in words.

use seventh_abi::DropReason;

use crate::pb::flow;

/// The nearest of Hubble's reasons, [`flow::DropReason::DropReasonUnknown`] if it has none.
#[must_use]
pub fn hubble_reason(reason: DropReason) -> flow::DropReason {
    i32::try_from(reason.hubble_code())
        .ok()
        .and_then(|code| flow::DropReason::try_from(code).ok())
        .unwrap_or_default()
}

/// Hubble's words for one of its numbers.
#[must_use]
pub fn drop_reason_text(code: i32) -> Option<&'static str> {
    TEXTS
        .binary_search_by_key(&code, |(code, _)| *code)
        .ok()
        .and_then(|index| TEXTS.get(index))
        .map(|(_, text)| *text)
}

const TEXTS: &[(i32, &str)] = &[
    (130, "Invalid source mac"),
    (131, "Invalid destination mac"),
    (132, "Invalid source ip"),
    (133, "Policy denied"),
    (134, "Invalid packet"),
    (135, "CT: Truncated or invalid header"),
    (136, "CT: Missing TCP ACK flag"),
    (137, "CT: Unknown L4 protocol"),
    (138, "CT: Can't create entry from packet"),
    (139, "Unsupported L3 protocol"),
    (140, "Missed tail call"),
    (141, "Error writing to packet"),
    (142, "Unknown L4 protocol"),
    (143, "Unknown ICMPv4 code"),
    (144, "Unknown ICMPv4 type"),
    (145, "Unknown ICMPv6 code"),
    (146, "Unknown ICMPv6 type"),
    (147, "Error retrieving tunnel key"),
    (148, "Error retrieving tunnel options"),
    (149, "Invalid Geneve option"),
    (150, "Unknown L3 target address"),
    (151, "Stale or unroutable IP"),
    (152, "No matching local container found"),
    (153, "Error while correcting L3 checksum"),
    (154, "Error while correcting L4 checksum"),
    (155, "CT: Map insertion failed"),
    (156, "Invalid IPv6 extension header"),
    (157, "IP fragmentation not supported"),
    (158, "Service backend not found"),
    (160, "No tunnel/encapsulation endpoint (datapath BUG!)"),
    (161, "Failed to insert into proxymap"),
    (162, "Reached EDT rate-limiting drop horizon"),
    (163, "Unknown connection tracking state"),
    (164, "Local host is unreachable"),
    (165, "No configuration available to perform policy decision"),
    (166, "Unsupported L2 protocol"),
    (167, "No mapping for NAT masquerade"),
    (168, "Unsupported protocol for NAT masquerade"),
    (169, "FIB lookup failed"),
    (170, "Encapsulation traffic is prohibited"),
    (171, "Invalid identity"),
    (172, "Unknown sender"),
    (173, "NAT not needed"),
    (174, "Is a ClusterIP"),
    (175, "First logical datagram fragment not found"),
    (176, "Forbidden ICMPv6 message"),
    (177, "Denied by LB src range check"),
    (178, "Socket lookup failed"),
    (179, "Socket assign failed"),
    (180, "Proxy redirection not supported for protocol"),
    (181, "Policy denied by denylist"),
    (182, "VLAN traffic disallowed by VLAN filter"),
    (183, "Incorrect VNI from VTEP"),
    (184, "Failed to update or lookup TC buffer"),
    (185, "No SID was found for the IP address"),
    (186, "SRv6 state was removed during tail call"),
    (187, "L3 translation from IPv4 to IPv6 failed (NAT46)"),
    (188, "L3 translation from IPv6 to IPv4 failed (NAT64)"),
    (189, "Authentication required"),
    (190, "No conntrack map found"),
    (191, "No nat map found"),
    (192, "Invalid ClusterID"),
    (193, "Unsupported packet protocol for DSR encapsulation"),
    (194, "No egress gateway found"),
    (195, "Traffic is unencrypted"),
    (196, "TTL exceeded"),
    (197, "No node ID found"),
    (198, "Rate limited"),
    (199, "IGMP handled"),
    (200, "IGMP subscribed"),
    (201, "Multicast handled"),
    (202, "Host datapath not ready"),
    (203, "Endpoint policy program not available"),
    (204, "No Egress IP configured"),
    (205, "Punt to proxy"),
    (207, "First logical datagram fragment not found (world)"),
];

#[cfg(test)]
mod tests {
    use super::{TEXTS, drop_reason_text, hubble_reason};
    use crate::pb::flow;
    use seventh_abi::DropReason;

    #[test]
    fn every_reason_of_hubbles_has_words_and_every_word_a_reason() {
        assert!(TEXTS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for code in 1..1000 {
            assert_eq!(
                flow::DropReason::try_from(code).is_ok(),
                drop_reason_text(code).is_some(),
                "{code}"
            );
        }
    }

    #[test]
    fn our_reasons_name_only_reasons_that_hubble_has() {
        for &reason in DropReason::ALL {
            assert_eq!(hubble_reason(reason) as u32, reason.hubble_code(), "{reason:?}");
        }
        assert_eq!(hubble_reason(DropReason::PolicyDenied), flow::DropReason::PolicyDenied);
    }
}
