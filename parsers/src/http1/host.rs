//! The authority of a request: Host header and absolute-form target.

use super::HttpFault;

/// Bytes of `host[:port]` at most: a DNS name has 253, a port 6 more.
pub const HOST_LEN_MAX: usize = 260;

/// Checks `host[:port]` (RFC 9110 §7.2, RFC 3986 §3.2): a DNS name or IPv4 address of letters, digits, `-`, `.` and
/// `_`, or an IPv6 address in brackets; the port, if there is a colon, is 1 to 5 digits up to 65535. User information,
/// percent-encoding and empty parts are refused: readers differ about all three.
pub(crate) fn check_host(value: &[u8]) -> Result<&str, HttpFault> {
    let text = std::str::from_utf8(value).map_err(|_| HttpFault::BadHost)?;
    if text.len() > HOST_LEN_MAX {
        return Err(HttpFault::BadHost);
    }
    let (valid, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(HttpFault::BadHost)?;
        (
            address.parse::<std::net::Ipv6Addr>().is_ok(),
            port.strip_prefix(':').or((!port.is_empty()).then_some("")),
        )
    } else {
        let (name, port) = text
            .split_once(':')
            .map_or((text, None), |(name, port)| (name, Some(port)));
        (is_name(name), port)
    };
    if valid && port.is_none_or(is_port) {
        Ok(text)
    } else {
        Err(HttpFault::BadHost)
    }
}

fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && !name.starts_with('.')
        && !name.contains("..")
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

fn is_port(port: &str) -> bool {
    port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0)
}

#[cfg(test)]
mod tests {
    use super::check_host;

    #[test]
    fn hosts_with_one_meaning_pass() {
        for host in [
            "a",
            "shop.example.",
            "10.0.0.1:80",
            "a_b-c.d:65535",
            "[::1]",
            "[fd00::2]:8080",
            "[::ffff:1.2.3.4]",
        ] {
            assert_eq!(check_host(host.as_bytes()), Ok(host));
        }
    }

    #[test]
    fn hosts_that_readers_take_differently_are_refused() {
        let long = "a".repeat(300);
        for host in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            "a:080000",
            "a:80:80",
            "u@a",
            "a/b",
            "a b",
            "a,b",
            "a%2e",
            ".a",
            "a..b",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[]",
            "a\tb",
            "é",
            &long,
        ] {
            assert!(check_host(host.as_bytes()).is_err(), "{host:?}");
        }
    }
}
