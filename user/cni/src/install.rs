//! Into a node's CNI configuration, and out of it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    agent,
    config::{OnTimeout, SOCKET, TIMEOUT_S, TIMEOUT_S_MAX, version_of},
    eprint,
};

/// The name of the program, which is what lists call it by.
const NAME: &str = "seventh-cni";
/// Bytes of a list at most.
const LIST_BYTES_MAX: u64 = 1 << 20;
/// How often `install --keep` looks whether the plugin is where it should be.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// `install`.
#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    #[command(flatten)]
    places: Places,
    /// Socket of the agent, as the host sees it
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// How long a pod waits for its policies
    #[arg(long, value_name = "N", default_value_t = TIMEOUT_S, value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_S_MAX))]
    timeout_seconds: u64,
    /// What becomes of it then
    #[arg(long, value_enum, default_value_t)]
    on_timeout: OnTimeout,
    /// Stay until SIGTERM: try again what cannot be done yet, and put the plugin back when the list was written anew
    #[arg(long)]
    keep: bool,
}

/// `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    #[command(flatten)]
    places: Places,
}

/// `remove`.
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, clap::Args)]
struct Places {
    /// Where plugins are
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where lists of plugins are; the first one, by name, is the one that runtimes take
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
}

impl Install {
    /// Once, or as long as this process is there.
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(
            self.socket.is_absolute(),
            "--socket: `{}` must begin with a slash",
            self.socket.display()
        );
        if self.keep {
            return agent::run(self.keep());
        }
        self.put(true).map(drop)
    }

    /// Whatever is wrong with a node's configuration is told and tried again: the agent beside it runs all the same.
    async fn keep(&self) -> Result<()> {
        let mut end = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut anew = true;
        let mut told = String::new();
        loop {
            match self.put(anew) {
                Ok(written) => {
                    if written || !told.is_empty() {
                        eprint(&format!("chained in {}", self.places.conf_dir.display()));
                    }
                    anew = false;
                    told.clear();
                }
                Err(e) => {
                    let reason = format!("pods do not wait for their policies here: {e:#}");
                    if reason != told {
                        eprint(&reason);
                    }
                    told = reason;
                }
            }
            select! {
                _ = end.recv() => return Ok(()),
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The program first, then its name in the list: no runtime reads of what is not there. A program that is there is
    /// written again only if it is to be `anew`. Says whether the list had to be written.
    fn put(&self, anew: bool) -> Result<bool> {
        let first = self.places.first_list()?;
        let made_by = read(&first)?["plugins"][0]["type"].as_str().unwrap_or(NAME).to_owned();
        // Of a link that leads elsewhere on the node the end cannot be seen from a container.
        ensure!(
            made_by == NAME || fs::symlink_metadata(self.places.bin_dir.join(&made_by)).is_ok(),
            "{}: the plugin `{made_by}` of {} is not here, so runtimes look for plugins elsewhere",
            self.places.bin_dir.display(),
            first.display()
        );
        let target = self.places.bin_dir.join(NAME);
        if anew || !target.exists() {
            let program = fs::read("/proc/self/exe").context("/proc/self/exe")?;
            replace(&target, &program, 0o755)?;
        }
        edit(&first, |plugins| {
            plugins.retain(|plugin| plugin["type"] != NAME);
            ensure!(!plugins.is_empty(), "there is no plugin that makes the network");
            plugins.push(json!({
                "type": NAME,
                "socket": self.socket,
                "timeoutSeconds": self.timeout_seconds,
                "onTimeout": self.on_timeout.name(),
            }));
            Ok(())
        })
    }
}

impl Places {
    /// The list that runtimes take.
    fn first_list(&self) -> Result<PathBuf> {
        let Some(first) = lists(&self.conf_dir)?.into_iter().next() else {
            bail!(
                "{}: no plugin has put its configuration here yet",
                self.conf_dir.display()
            );
        };
        ensure!(
            first.extension().is_some_and(|extension| extension == "conflist"),
            "{}: a configuration of a single plugin has no chain; make it a list (`.conflist`, `plugins: [...]`)",
            first.display()
        );
        Ok(first)
    }
}

impl Check {
    /// Whether runtimes will start the plugin.
    pub(crate) fn run(&self) -> Result<()> {
        let first = self.places.first_list()?;
        let list = read(&first)?;
        let plugins = list["plugins"].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(
            plugins.iter().any(|plugin| plugin["type"] == NAME),
            "{}: the plugin is not chained",
            first.display()
        );
        let program = self.places.bin_dir.join(NAME);
        fs::metadata(&program).with_context(|| program.display().to_string())?;
        Ok(())
    }
}

impl Remove {
    /// Out of every list; a runtime may take another one than it did.
    pub(crate) fn run(&self) -> Result<()> {
        for list in lists(&self.places.conf_dir)? {
            if list.extension().is_some_and(|extension| extension == "conflist") {
                edit(&list, |plugins| {
                    plugins.retain(|plugin| plugin["type"] != NAME);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}

/// What runtimes take for configurations, in the order in which they look at them.
fn lists(dir: &Path) -> Result<Vec<PathBuf>> {
    let at = || dir.display().to_string();
    let mut lists = Vec::new();
    for entry in fs::read_dir(dir).with_context(at)? {
        let path = entry.with_context(at)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("conf" | "conflist" | "json")) {
            lists.push(path);
        }
    }
    lists.sort();
    Ok(lists)
}

fn read(list: &Path) -> Result<Value> {
    let at = || list.display().to_string();
    let length = fs::metadata(list).with_context(at)?.len();
    ensure!(
        length <= LIST_BYTES_MAX,
        "{}: {length} bytes; at most {LIST_BYTES_MAX} are read",
        at()
    );
    let text = fs::read(list).with_context(at)?;
    serde_json::from_slice(&text).with_context(at)
}

/// Changes the plugins of a list; one that stays as it was is not written. Says whether it was.
fn edit(list: &Path, change: impl FnOnce(&mut Vec<Value>) -> Result<()>) -> Result<bool> {
    let at = || list.display().to_string();
    let old = read(list)?;
    let mut new = old.clone();
    let plugins = new.get_mut("plugins").and_then(Value::as_array_mut);
    change(plugins.with_context(|| format!("{}: `plugins` is not a list", at()))?).with_context(at)?;
    if new == old {
        return Ok(false);
    }
    version_of(&new).map_err(|failure| anyhow::anyhow!("{}: {}", at(), failure.told()["details"]))?;
    let mut text = serde_json::to_vec_pretty(&new)?;
    text.push(b'\n');
    let mode = fs::metadata(list).with_context(at)?.permissions().mode();
    replace(list, &text, mode & 0o777)?;
    Ok(true)
}

/// Nobody meets half a file.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let at = || path.display().to_string();
    let dir = path.parent().with_context(at)?;
    let mut file = tempfile::Builder::new()
        .prefix(".seventh-")
        .tempfile_in(dir)
        .with_context(at)?;
    file.write_all(content).with_context(at)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))
        .with_context(at)?;
    file.as_file().sync_all().with_context(at)?;
    file.persist(path).with_context(at)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp"}, {"type": "portmap"}]}"#;

    fn node(lists: &[(&str, &str)]) -> (tempfile::TempDir, Install, Remove) {
        let dir = tempfile::tempdir().unwrap();
        let places = || Places {
            bin_dir: dir.path().join("bin"),
            conf_dir: dir.path().join("conf"),
        };
        fs::create_dir(places().bin_dir).unwrap();
        fs::create_dir(places().conf_dir).unwrap();
        fs::write(places().bin_dir.join("ptp"), "").unwrap();
        for (name, text) in lists {
            fs::write(places().conf_dir.join(name), text).unwrap();
        }
        let install = Install {
            places: places(),
            socket: SOCKET.into(),
            timeout_seconds: 7,
            on_timeout: OnTimeout::Open,
            keep: false,
        };
        let remove = Remove { places: places() };
        (dir, install, remove)
    }

    fn plugins(install: &Install, list: &str) -> Vec<Value> {
        let text = fs::read(install.places.conf_dir.join(list)).unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        value["plugins"].as_array().unwrap().clone()
    }

    #[test]
    fn it_stands_last_in_the_list_that_runtimes_take_and_only_once() {
        let (_dir, install, remove) = node(&[("20-b.conflist", LIST), ("10-a.conflist", LIST), ("05-read.me", "")]);
        for _ in 0..2 {
            install.run().unwrap();
            let [_, portmap, ours] = plugins(&install, "10-a.conflist").try_into().unwrap();
            assert_eq!(portmap["type"], "portmap");
            let wanted = json!({"type": NAME, "socket": SOCKET, "timeoutSeconds": 7, "onTimeout": "open"});
            assert_eq!(ours, wanted);
        }
        assert_eq!(plugins(&install, "20-b.conflist").len(), 2);
        let program = fs::metadata(install.places.bin_dir.join(NAME)).unwrap();
        assert_eq!(program.permissions().mode() & 0o777, 0o755);
        let before = fs::read_to_string(install.places.conf_dir.join("20-b.conflist")).unwrap();
        remove.run().unwrap();
        assert_eq!(plugins(&install, "10-a.conflist").len(), 2);
        let after = fs::read_to_string(install.places.conf_dir.join("20-b.conflist")).unwrap();
        assert_eq!(before, after, "what stays as it was is not written");
    }

    #[test]
    fn runtimes_that_look_for_plugins_elsewhere_read_nothing_of_it() {
        let (_dir, install, _) = node(&[("10-a.conflist", LIST)]);
        fs::remove_file(install.places.bin_dir.join("ptp")).unwrap();
        let error = format!("{:#}", install.run().unwrap_err());
        assert!(error.contains("`ptp`") && error.contains("elsewhere"), "{error}");
        assert_eq!(plugins(&install, "10-a.conflist").len(), 2);
        // A link whose end is on the node only.
        std::os::unix::fs::symlink("/nowhere/cni", install.places.bin_dir.join("ptp")).unwrap();
        install.run().unwrap();
        assert_eq!(plugins(&install, "10-a.conflist").len(), 3);
    }

    #[test]
    fn a_node_that_is_not_ready_for_it_is_left_as_it_is() {
        for (name, text, reason) in [
            ("10-a.txt", LIST, "no plugin has put"),
            ("10-a.conf", r#"{"cniVersion": "1.0.0", "type": "ptp"}"#, "has no chain"),
            ("10-a.conflist", r#"{"cniVersion": "1.0.0"}"#, "`plugins` is not a list"),
            ("10-a.conflist", "nothing", "10-a.conflist"),
            (
                "10-a.conflist",
                r#"{"cniVersion": "0.2.0", "plugins": [{"type": "ptp"}]}"#,
                "0.2.0",
            ),
            (
                "10-a.conflist",
                r#"{"cniVersion": "1.0.0", "plugins": [{"type": "seventh-cni"}]}"#,
                "makes the network",
            ),
        ] {
            let (_dir, install, _) = node(&[(name, text)]);
            let error = format!("{:#}", install.run().unwrap_err());
            assert!(error.contains(reason), "{error}");
            assert_eq!(fs::read_to_string(install.places.conf_dir.join(name)).unwrap(), text);
        }
    }
}
