//! Names on disk: what one agent leaves the next, and what is known beforehand.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use seventh_abi::mapped;
use seventh_engine::{LearnedName, Learning, NAME_TTL_MAX_NS, SCOPE_NODE};
use seventh_policy::name_pattern::NamePattern;

use super::journal;
use crate::{
    observer::ip,
    private_file::{self, Outlives},
};

/// Bytes of either file at most: the most that this writes.
const FILE_BYTES_MAX: u64 = 128 << 20;
/// Raised when the form changes; a file of another one is not read.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    names: Vec<Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    /// `namespace/name`; none if all endpoints share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    name: String,
    ip: IpAddr,
    /// Milliseconds since 1970.
    expires_ms: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lingers: bool,
}

/// Replaces the file.
pub(super) fn save(path: &Path, learned: &[LearnedName], endpoints: &HashMap<u32, String>, now_ns: u64) -> Result<()> {
    let now = wall_clock();
    let names = learned.iter().filter_map(|learned| {
        let endpoint = match learned.scope {
            SCOPE_NODE => None,
            id => Some(endpoints.get(&id)?.clone()),
        };
        Some(Entry {
            endpoint,
            name: learned.name.clone(),
            ip: ip(learned.addr),
            expires_ms: expires_ms(now, learned.expires_ns, now_ns),
            lingers: learned.lingers,
        })
    });
    let file = File {
        version: VERSION,
        names: names.collect(),
    };
    let text = serde_json::to_vec(&file)?;
    private_file::replace(path, &text, Outlives::Agent)
}

/// Reads what [`save`] wrote, and what was noted since; nothing if there is no file. Names of endpoints that are gone, and
/// of another scope than the configured one, are left out. Of each file that cannot be used, or only in part, the second
/// list says why.
pub(super) fn load(
    path: &Path,
    endpoints: &HashMap<u32, String>,
    node_wide: bool,
    now_ns: u64,
) -> (Vec<LearnedName>, Vec<anyhow::Error>) {
    let reader = Reader {
        ids: endpoints.iter().map(|(id, name)| (name.as_str(), *id)).collect(),
        node_wide,
        now: wall_clock(),
        now_ns,
    };
    let mut faults = Vec::new();
    let entries = written(path).unwrap_or_else(|e| {
        faults.push(e);
        Vec::new()
    });
    let mut all: Vec<LearnedName> = entries.into_iter().filter_map(|entry| reader.learned(entry)).collect();
    let noted = journal::path_beside(path);
    for file in [journal::path_before(&noted), noted] {
        match journal::read(&file) {
            Ok(content) => {
                let fault = content.fault;
                faults.extend(fault.map(|fault| anyhow::anyhow!("{}: {fault}; what is before counts", file.display())));
                let records = content.records.into_iter().flat_map(entries_of);
                all.extend(records.filter_map(|entry| reader.learned(entry)));
            }
            Err(e) => faults.push(e),
        }
    }
    // What was noted may stand in several files: the latest time counts.
    all.sort_by(|a, b| {
        let key = |l: &LearnedName| (l.scope, l.lingers, l.addr, std::cmp::Reverse(l.expires_ns));
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    let mut seen = HashSet::new();
    all.retain(|l| seen.insert((l.scope, l.lingers, l.addr, l.name.clone())));
    (all, faults)
}

fn written(path: &Path) -> Result<Vec<Entry>> {
    let Some(text) = read(path)? else { return Ok(Vec::new()) };
    let file: File = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    ensure!(
        file.version == VERSION,
        "{}: form {} is not {VERSION}",
        path.display(),
        file.version
    );
    Ok(file.names)
}

fn entries_of(record: journal::Record<'static>) -> impl Iterator<Item = Entry> {
    let journal::Record { endpoint, name, ips } = record;
    ips.into_iter().map(move |(ip, expires_ms)| Entry {
        endpoint: endpoint.as_deref().map(str::to_owned),
        name: name.clone().into_owned(),
        ip,
        expires_ms,
        lingers: false,
    })
}

/// Turns what files say into what this agent knows.
struct Reader<'a> {
    ids: HashMap<&'a str, u32>,
    node_wide: bool,
    now: Duration,
    now_ns: u64,
}

impl Reader<'_> {
    fn learned(&self, entry: Entry) -> Option<LearnedName> {
        let scope = match (&entry.endpoint, self.node_wide) {
            (None, true) => SCOPE_NODE,
            (Some(name), false) => *self.ids.get(name.as_str())?,
            _ => return None,
        };
        // The clock may have been set back since: no answer opens anything for longer.
        let left = Duration::from_millis(entry.expires_ms)
            .saturating_sub(self.now)
            .min(Duration::from_nanos(NAME_TTL_MAX_NS));
        Some(LearnedName {
            scope,
            name: entry.name,
            addr: mapped(entry.ip),
            expires_ns: after(self.now_ns, left),
            lingers: entry.lingers,
            identity: 0,
        })
    }
}

/// What is to be noted of news, with the endpoints' names by their numbers.
pub(super) fn records<'a>(
    news: &'a [Learning],
    endpoints: &'a HashMap<u32, String>,
    now_ns: u64,
) -> impl Iterator<Item = journal::Record<'a>> {
    let now = wall_clock();
    news.iter().filter_map(move |learning| {
        let endpoint = match learning.scope {
            SCOPE_NODE => None,
            id => Some(endpoints.get(&id)?.as_str().into()),
        };
        let ips = learning.addresses.iter();
        Some(journal::Record {
            endpoint,
            name: (&*learning.name).into(),
            ips: ips
                .map(|(addr, at)| (ip(*addr), expires_ms(now, *at, now_ns)))
                .collect(),
        })
    })
}

fn expires_ms(now: Duration, expires_ns: u64, now_ns: u64) -> u64 {
    let left = Duration::from_nanos(expires_ns.saturating_sub(now_ns));
    u64::try_from((now + left).as_millis()).unwrap_or(u64::MAX)
}

/// One name of the file of names that are known beforehand.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Known {
    name: String,
    ips: Vec<IpAddr>,
    ttl_s: u32,
}

/// Reads a file of names that are known beforehand, a list of `{name, ips, ttlS}`, for each of these scopes.
///
/// # Errors
/// It is not there or not of this form; the message names the entry.
pub(super) fn pre_cache(path: &Path, scopes: &[u32], now_ns: u64) -> Result<Vec<LearnedName>> {
    let at = || format!("fqdn.preCache: {}", path.display());
    let Some(text) = read(path).with_context(at)? else {
        bail!("fqdn.preCache: {}: there is no such file", path.display());
    };
    let text = String::from_utf8(text).with_context(at)?;
    // YAML is JSON and more.
    let known: Vec<Known> = serde_saphyr::from_str(&text).map_err(|e| anyhow::anyhow!("{}: {e}", at()))?;
    let mut learned = Vec::new();
    for (index, known) in known.iter().enumerate() {
        let name = NamePattern::name(&known.name)
            .map_err(|reason| anyhow::anyhow!("{}: [{index}].name: `{}` {reason}", at(), known.name))?;
        for (scope, addr) in scopes
            .iter()
            .flat_map(|scope| known.ips.iter().map(move |ip| (*scope, *ip)))
        {
            learned.push(LearnedName {
                scope,
                name: name.as_str().to_owned(),
                addr: mapped(addr),
                expires_ns: after(now_ns, Duration::from_secs(known.ttl_s.into())),
                lingers: false,
                identity: 0,
            });
        }
    }
    Ok(learned)
}

/// Nothing if there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    ensure!(
        length <= FILE_BYTES_MAX,
        "{}: {length} bytes; at most {FILE_BYTES_MAX} are read",
        path.display()
    );
    fs::read(path).map(Some).with_context(|| path.display().to_string())
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn after(now_ns: u64, left: Duration) -> u64 {
    now_ns.saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{LearnedName, Learning, SCOPE_NODE, journal, load, mapped, pre_cache, records, save};
    use crate::config::Config;
    use std::{collections::HashMap, fs, path::Path};

    const SECOND_NS: u64 = 1_000_000_000;

    fn config(scope: &str, extra: &str) -> Config {
        let text = format!(
            "fqdn: {{scope: {scope}{extra}}}\nendpoints:\n- {{name: n/a, interface: v0, ips: [10.0.0.1]}}\n- {{name: n/b, \
             interface: v1, ips: [10.0.0.2]}}\n"
        );
        Config::parse(Path::new("/etc/c.yaml"), &text).unwrap()
    }

    fn endpoints(config: &Config) -> HashMap<u32, String> {
        (1..).zip(config.endpoints.iter().map(|e| e.name.clone())).collect()
    }

    fn learned(scope: u32, ttl_s: u64, lingers: bool) -> LearnedName {
        LearnedName {
            scope,
            name: "a.example.".into(),
            addr: mapped("192.0.2.1".parse().unwrap()),
            expires_ns: 5 * SECOND_NS + ttl_s * SECOND_NS,
            lingers,
            identity: 0,
        }
    }

    #[test]
    fn what_is_written_is_read_again_with_the_time_that_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names.json");
        let config = config("endpoint", "");
        assert!(read_again(&file, &config, 0).is_empty(), "no file yet");
        let all = [learned(1, 60, false), learned(2, 60, true), learned(3, 60, false)];
        save(&file, &all, &endpoints(&config), 5 * SECOND_NS).unwrap();
        let read = read_again(&file, &config, 100 * SECOND_NS);
        assert_eq!(
            read.iter().map(|l| (l.scope, l.lingers)).collect::<Vec<_>>(),
            [(1, false), (2, true)]
        );
        let left_ns = read[0].expires_ns - 100 * SECOND_NS;
        assert!((55 * SECOND_NS..=60 * SECOND_NS).contains(&left_ns), "{left_ns}");
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_no_name_for_more_than_a_day() {
        const DAY_S: u64 = 86_400;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names.json");
        let config = config("endpoint", "");
        // Written when it was a year later.
        save(
            &file,
            &[learned(1, 365 * DAY_S, false)],
            &endpoints(&config),
            5 * SECOND_NS,
        )
        .unwrap();
        let read = read_again(&file, &config, 100 * SECOND_NS);
        assert_eq!(read[0].expires_ns, 100 * SECOND_NS + DAY_S * SECOND_NS);
    }

    #[track_caller]
    fn read_again(file: &Path, config: &Config, now_ns: u64) -> Vec<LearnedName> {
        let (learned, faults) = load(file, &endpoints(config), config.fqdn.node_wide, now_ns);
        assert!(faults.is_empty(), "{faults:?}");
        learned
    }

    fn learning(scope: u32, ttl_s: u64) -> Learning {
        let learned = learned(scope, ttl_s, false);
        Learning {
            scope,
            name: learned.name.into(),
            addresses: vec![(learned.addr, learned.expires_ns)],
        }
    }

    #[test]
    fn what_was_noted_since_counts_and_the_latest_time_of_several() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names.json");
        let config = config("endpoint", "");
        let endpoints = endpoints(&config);
        save(&file, &[learned(1, 60, false)], &endpoints, 5 * SECOND_NS).unwrap();
        let beside = journal::path_beside(&file);
        let mut noted = journal::Journal::open(beside.clone()).unwrap();
        let news = [learning(1, 600), learning(2, 30), learning(3, 30)];
        noted.append(records(&news, &endpoints, 5 * SECOND_NS)).unwrap();
        noted.turn().unwrap();
        noted
            .append(records(&[learning(1, 90)], &endpoints, 5 * SECOND_NS))
            .unwrap();
        let read = read_again(&file, &config, 0);
        let left_s = |l: &LearnedName| (l.scope, l.expires_ns.div_ceil(SECOND_NS));
        assert_eq!(read.iter().map(left_s).collect::<Vec<_>>(), [(1, 600), (2, 30)]);
        // Half a record at the end of one, another form in the place of the other.
        let bytes = fs::read(&beside).unwrap();
        fs::write(&beside, &bytes[..bytes.len() - 1]).unwrap();
        fs::write(&file, "{").unwrap();
        let (read, faults) = load(&file, &endpoints, config.fqdn.node_wide, 0);
        assert_eq!((read.len(), faults.len()), (2, 2));
        assert!(format!("{:#}", faults[1]).contains("names.json.journal: a record that is not whole"));
    }

    #[test]
    fn names_of_another_scope_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names.json");
        let (endpoint, node) = (config("endpoint", ""), config("node", ""));
        save(
            &file,
            &[learned(SCOPE_NODE, 60, false), learned(1, 60, false)],
            &endpoints(&endpoint),
            0,
        )
        .unwrap();
        assert_eq!(read_again(&file, &endpoint, 0).len(), 1);
        assert_eq!(read_again(&file, &node, 0)[0].scope, SCOPE_NODE);
    }

    #[test]
    fn a_broken_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names.json");
        for broken in ["{", r#"{"version":2,"names":[]}"#] {
            fs::write(&file, broken).unwrap();
            let (learned, faults) = load(&file, &endpoints(&config("node", "")), true, 0);
            let error = format!("{:#}", faults[0]);
            assert!(learned.is_empty() && error.contains("names.json"), "{error}");
        }
    }

    #[test]
    fn names_known_beforehand_are_for_every_endpoint() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known.yaml");
        fs::write(
            &file,
            "- {name: A.example, ips: [192.0.2.1, '2001:db8::1'], ttlS: 60}\n",
        )
        .unwrap();
        let read = pre_cache(&file, &[1, 2], 0).unwrap();
        assert_eq!(read.len(), 4);
        assert!(
            read.iter()
                .all(|l| l.name == "a.example." && l.expires_ns == 60 * SECOND_NS)
        );
        assert_eq!(pre_cache(&file, &[SCOPE_NODE], 0).unwrap().len(), 2);
        for (broken, reason) in [
            ("- {name: 'a*', ips: [], ttlS: 1}", "[0].name"),
            ("- {name: a, ips: [x], ttlS: 1}", "known.yaml"),
            ("- {name: a, ips: [], ttlS: 1, ttl: 2}", "ttl"),
        ] {
            fs::write(&file, broken).unwrap();
            let error = format!("{:#}", pre_cache(&file, &[SCOPE_NODE], 0).unwrap_err());
            assert!(error.contains("fqdn.preCache") && error.contains(reason), "{error}");
        }
        assert!(pre_cache(Path::new("/nowhere"), &[SCOPE_NODE], 0).is_err());
    }

    #[test]
    fn settings_out_of_range_are_errors_that_name_the_field() {
        for (extra, field) in [
            (", ttlMinS: 100000", "fqdn.ttlMinS"),
            (", graceS: 100000", "fqdn.graceS"),
            (", namesMax: 0", "fqdn.namesMax"),
            (", addressesPerNameMax: 9999999", "fqdn.addressesPerNameMax"),
            (", ttl: 1", "ttl"),
        ] {
            let text = format!("fqdn: {{scope: node{extra}}}");
            let error = Config::parse(Path::new("/etc/c.yaml"), &text).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
