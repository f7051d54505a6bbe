//! What a runtime asks for: variables of the environment, and a configuration on standard input.

use std::io::Read;

use serde_json::Value;

use crate::{
    config::{Config, NEWEST, version_of},
    failure::Failure,
    result,
};

/// Bytes of a configuration with the results of other plugins at most.
const INPUT_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a variable at most.
const VARIABLE_BYTES_MAX: usize = 4096;

/// One call of the plugin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) command: Command,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// A pod has got its network.
    Add(Config, Attachment),
    /// Is a pod still as it should be?
    Check(Config, Attachment),
    /// A pod goes.
    Del,
    /// Could a pod be served?
    Status(Config),
    /// What is left of pods that are gone may be removed.
    Gc,
    /// Which versions are spoken? Asked in this one.
    Version { asked: String },
}

/// A pod and what it has got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// `namespace/name`.
    pub(crate) endpoint: String,
    /// The pod's, if the runtime says it.
    pub(crate) uid: String,
    /// Devices outside of it that were made for it.
    pub(crate) interfaces: Vec<String>,
    /// Its addresses.
    pub(crate) ips: Vec<String>,
}

impl Call {
    /// # Errors
    /// [`Failure`]: a variable is missing, or something says what cannot be.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>, input: impl Read) -> Result<Self, Failure> {
        let variable = |name: &str| match variable(name) {
            Some(value) if value.len() > VARIABLE_BYTES_MAX => Err(Failure::environment(format!(
                "{name} has {} bytes; at most {VARIABLE_BYTES_MAX} are read",
                value.len()
            ))),
            value => Ok(value.filter(|value| !value.is_empty())),
        };
        let needed = |name: &str| variable(name)?.ok_or_else(|| Failure::environment(format!("{name} is not set")));
        let command = match needed("CNI_COMMAND")?.as_str() {
            // Whatever is wrong with the configuration, a pod can be ended.
            "DEL" => Command::Del,
            "GC" => Command::Gc,
            "VERSION" => Command::Version {
                asked: asked_version(&limited(input)?),
            },
            "STATUS" => Command::Status(Config::read(&limited(input)?)?),
            command @ ("ADD" | "CHECK") => {
                needed("CNI_CONTAINERID")?;
                needed("CNI_NETNS")?;
                let config = Config::read(&limited(input)?)?;
                let pod = Pod::read(&variable("CNI_ARGS")?.unwrap_or_default())?;
                let made = result::read(&config.previous, &needed("CNI_IFNAME")?).map_err(Failure::config)?;
                let attachment = Attachment {
                    endpoint: format!("{}/{}", pod.namespace, pod.name),
                    uid: pod.uid,
                    interfaces: made.interfaces,
                    ips: made.ips,
                };
                match command {
                    "ADD" => Command::Add(config, attachment),
                    _ => Command::Check(config, attachment),
                }
            }
            other => return Err(Failure::environment(format!("CNI_COMMAND: `{other}` is not known"))),
        };
        Ok(Self { command })
    }
}

fn limited(input: impl Read) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let read = input.take(INPUT_BYTES_MAX + 1).read_to_end(&mut text);
    match read.map(u64::try_from) {
        Ok(Ok(..=INPUT_BYTES_MAX)) => Ok(text),
        Ok(_) => Err(Failure::input(format!(
            "standard input is longer than {INPUT_BYTES_MAX} bytes"
        ))),
        Err(e) => Err(Failure::input(format!("standard input: {e}"))),
    }
}

/// Who asks for versions may say in which one, and need not.
fn asked_version(text: &[u8]) -> String {
    let config: Value = serde_json::from_slice(text).unwrap_or_default();
    version_of(&config).unwrap_or_else(|_| NEWEST.to_owned())
}

/// What Kubernetes' runtimes say in `CNI_ARGS`: `K8S_POD_NAMESPACE=...;K8S_POD_NAME=...`.
struct Pod {
    namespace: String,
    name: String,
    uid: String,
}

impl Pod {
    fn read(text: &str) -> Result<Self, Failure> {
        let (mut namespace, mut name, mut uid) = (None, None, None);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Failure::environment(format!("CNI_ARGS: `{pair}` is not `key=value`")));
            };
            let place = match key {
                "K8S_POD_NAMESPACE" => &mut namespace,
                "K8S_POD_NAME" => &mut name,
                "K8S_POD_UID" => &mut uid,
                // Meant for other plugins of the chain.
                _ => continue,
            };
            if place.replace(value.to_owned()).is_some() {
                return Err(Failure::environment(format!("CNI_ARGS: `{key}` is there twice")));
            }
        }
        let named = |key: &str, value: Option<String>| {
            let value = value.unwrap_or_default();
            // Labels and subdomains of RFC 1123, as Kubernetes has them.
            let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
            if value.is_empty() || value.len() > 253 || !value.bytes().all(good) {
                return Err(Failure::environment(format!(
                    "CNI_ARGS: {key} `{value}` is not the name of a pod's"
                )));
            }
            Ok(value)
        };
        Ok(Self {
            namespace: named("K8S_POD_NAMESPACE", namespace)?,
            name: named("K8S_POD_NAME", name)?,
            uid: uid.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const ARGS: &str =
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u";

    fn config(previous: &str) -> String {
        format!(r#"{{"cniVersion": "1.0.0", "name": "pods", "type": "seventh-cni", "prevResult": {previous}}}"#)
    }

    const PREVIOUS: &str = r#"{"cniVersion": "1.0.0",
        "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "10.1.0.2/24", "interface": 1}, {"address": "fd00::2/64", "interface": 1}]}"#;

    fn read(variables: &[(&str, &str)], input: &str) -> Result<Command, Value> {
        let mut all = HashMap::from([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ARGS),
        ]);
        all.extend(variables.iter().copied());
        let call = Call::read(|name| all.get(name).map(ToString::to_string), input.as_bytes());
        call.map(|call| call.command).map_err(|failure| failure.told())
    }

    #[test]
    fn a_pod_is_known_by_its_name_its_devices_and_its_addresses() {
        let Ok(Command::Add(config, attachment)) = read(&[], &config(PREVIOUS)) else {
            panic!("it is good")
        };
        assert_eq!(config.previous["ips"][0]["address"], "10.1.0.2/24");
        assert_eq!(attachment.endpoint, "shop/web-0");
        assert_eq!(attachment.uid, "u");
        assert_eq!(attachment.interfaces, ["veth1"]);
        assert_eq!(attachment.ips, ["10.1.0.2", "fd00::2"]);
    }

    #[test]
    fn what_is_missing_or_cannot_be_is_told_with_its_code() {
        let good = config(PREVIOUS);
        for (variables, input, code) in [
            (("CNI_COMMAND", "ADDD"), good.as_str(), 4),
            (("CNI_COMMAND", ""), &good, 4),
            (("CNI_CONTAINERID", ""), &good, 4),
            (("CNI_NETNS", ""), &good, 4),
            (("CNI_IFNAME", ""), &good, 4),
            (("CNI_ARGS", ""), &good, 4),
            (("CNI_ARGS", "K8S_POD_NAME=a"), &good, 4),
            (("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=a/b"), &good, 4),
            (
                ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_NAME=c"),
                &good,
                4,
            ),
            (("CNI_ARGS", "K8S_POD_NAMESPACE"), &good, 4),
            (("CNI_ARGS", &"x".repeat(4097)), &good, 4),
            (("CNI_COMMAND", "ADD"), "", 6),
            (("CNI_COMMAND", "CHECK"), &config("null"), 7),
            (("CNI_COMMAND", "ADD"), &config(r#"{"ips": []}"#), 7),
            (("CNI_COMMAND", "ADD"), &" ".repeat(1 << 21), 5),
        ] {
            assert_eq!(read(&[variables], input).unwrap_err()["code"], code, "{variables:?}");
        }
    }

    #[test]
    fn a_pod_can_be_ended_whatever_the_configuration_says() {
        assert_eq!(
            read(&[("CNI_COMMAND", "DEL"), ("CNI_ARGS", "")], "nothing"),
            Ok(Command::Del)
        );
        assert_eq!(read(&[("CNI_COMMAND", "GC")], ""), Ok(Command::Gc));
    }

    #[test]
    fn versions_are_told_in_the_version_that_asks() {
        let asked = |text: &str| read(&[("CNI_COMMAND", "VERSION")], text);
        let version = |asked: &str| {
            Ok(Command::Version {
                asked: asked.to_owned(),
            })
        };
        assert_eq!(asked(r#"{"cniVersion": "0.4.0"}"#), version("0.4.0"));
        assert_eq!(asked(""), version("1.1.0"));
    }
}
