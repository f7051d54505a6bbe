//! The result of the plugins before: it is handed on as it came, and read for what the pod has got.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

/// Addresses and devices of one pod at most.
const ITEMS_MAX: usize = 64;
/// Bytes of a device's name at most (`IFNAMSIZ` - 1).
const INTERFACE_LEN_MAX: usize = 15;

/// What a pod has got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Devices outside of the pod, in the order of the result.
    pub(crate) interfaces: Vec<String>,
    /// Addresses of its device.
    pub(crate) ips: Vec<String>,
}

/// What of a result matters here; the same in all versions since 0.3.
#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    interfaces: Vec<RawInterface>,
    #[serde(default)]
    ips: Vec<RawIp>,
}

#[derive(Deserialize)]
struct RawInterface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct RawIp {
    address: String,
    interface: Option<usize>,
}

/// Reads a result for the pod's device of this name.
///
/// # Errors
/// There is none, it is none, or the pod has no address.
pub(crate) fn read(previous: &Value, device: &str) -> Result<Made, String> {
    if previous.is_null() {
        return Err("prevResult is missing: seventh-cni stands after a plugin that makes the pod's network".to_owned());
    }
    let raw = Raw::deserialize(previous).map_err(|e| format!("prevResult: {e}"))?;
    if raw.interfaces.len() > ITEMS_MAX || raw.ips.len() > ITEMS_MAX {
        return Err(format!("prevResult: more than {ITEMS_MAX} devices or addresses"));
    }
    let mut ips = Vec::new();
    for ip in &raw.ips {
        // Addresses of other devices of the pod are not what this call is about; some plugins do not say whose they are.
        let owner = ip.interface.map(|index| raw.interfaces.get(index));
        match owner {
            Some(None) => return Err("prevResult: an address is that of a device which is not there".to_owned()),
            Some(Some(owner)) if owner.name != device => continue,
            _ => {}
        }
        let address = ip
            .address
            .split_once('/')
            .map_or(ip.address.as_str(), |(address, _)| address);
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("prevResult: `{}` is no address", ip.address))?;
        ips.push(address.to_string());
    }
    if ips.is_empty() {
        return Err(format!("prevResult: `{device}` has no address"));
    }
    let outside = raw
        .interfaces
        .into_iter()
        .filter(|interface| interface.sandbox.is_empty());
    let interfaces: Vec<String> = outside.map(|interface| interface.name).collect();
    if let Some(long) = interfaces
        .iter()
        .find(|name| name.is_empty() || name.len() > INTERFACE_LEN_MAX)
    {
        return Err(format!("prevResult: `{long}` is not the name of a device"));
    }
    Ok(Made { interfaces, ips })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_bridge_both_devices_outside_are_known_and_only_the_pod_s_addresses() {
        let result = json!({
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "cni0", "mac": "x"}, {"name": "veth7"}, {"name": "eth0", "sandbox": "/run/netns/a"},
                           {"name": "net1", "sandbox": "/run/netns/a"}],
            "ips": [{"version": "4", "address": "10.0.0.9/16", "gateway": "10.0.0.1", "interface": 2},
                    {"version": "4", "address": "192.168.0.9/16", "interface": 3},
                    {"version": "6", "address": "fd00:0::9/64"}],
            "routes": [], "dns": {}
        });
        let made = read(&result, "eth0").unwrap();
        assert_eq!(made.interfaces, ["cni0", "veth7"]);
        assert_eq!(made.ips, ["10.0.0.9", "fd00::9"]);
        assert_eq!(read(&result, "net1").unwrap().ips, ["192.168.0.9", "fd00::9"]);
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for (result, reason) in [
            (json!(null), "missing"),
            (json!({}), "has no address"),
            (json!([]), "prevResult"),
            (json!({"ips": [{"address": "10.0.0.256/8"}]}), "is no address"),
            (json!({"ips": [{"address": "10.0.0.1/8", "interface": 0}]}), "not there"),
            (
                json!({"ips": vec![json!({"address": "10.0.0.1/8"}); 65]}),
                "more than 64",
            ),
            (
                json!({"ips": [{"address": "10.0.0.1/8"}], "interfaces": [{"name": "a-name-of-16-byt"}]}),
                "not the name",
            ),
        ] {
            let said = read(&result, "eth0").unwrap_err();
            assert!(said.contains(reason), "{said}");
        }
    }
}
