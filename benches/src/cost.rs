//! What a run costs: CPU time and memory.
//!
//! This program moves itself into a cgroup of its own, so everything that it starts is counted, and nothing else that
//! the machine does. Work that the kernel has left to its `ksoftirqd` threads is added.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};

/// Clock ticks of `/proc/PID/stat` per second: `USER_HZ`, the same on every architecture that Linux has kept.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counts CPU time of this program and of all that it starts.
pub(crate) struct Meter {
    group: PathBuf,
    came_from: PathBuf,
    kernel_threads: Vec<u32>,
}

impl Meter {
    /// Moves this program into a cgroup of its own. Call it before anything is started.
    pub(crate) fn start() -> Result<Meter> {
        let root = cgroup_root()?;
        for stale in fs::read_dir(&root)?.flatten() {
            if stale.file_name().to_string_lossy().starts_with("seventh-bench-") {
                // Works only when nothing is in it, that is, when the run that made it is gone.
                let _ = fs::remove_dir(stale.path());
            }
        }
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
        let group = root.join(format!("seventh-bench-{}", process::id()));
        fs::create_dir(&group).with_context(|| group.display().to_string())?;
        let meter = Meter {
            came_from: root.join(own),
            group,
            kernel_threads: kernel_threads()?,
        };
        meter.move_to(&meter.group)?;
        Ok(meter)
    }

    /// CPU seconds so far.
    pub(crate) fn total(&self) -> Result<f64> {
        let path = self.group.join("cpu.stat");
        let stat = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let microseconds: f64 = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .context("cpu.stat without usage_usec")?
            .parse()?;
        let kernel: f64 = self.kernel_threads.iter().map(|&pid| ticks(pid).unwrap_or(0.0)).sum();
        Ok(microseconds / 1e6 + kernel / TICKS_PER_SECOND)
    }

    fn move_to(&self, group: &Path) -> Result<()> {
        fs::write(group.join("cgroup.procs"), process::id().to_string()).with_context(|| group.display().to_string())
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = self.move_to(&self.came_from);
        let _ = fs::remove_dir(&self.group);
    }
}

fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let path = words.next()?;
            (words.next()? == "cgroup2").then(|| PathBuf::from(path))
        })
        .context("no cgroup2 is mounted, by which CPU time is counted; mount -t cgroup2 none /sys/fs/cgroup")
}

fn kernel_threads() -> Result<Vec<u32>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        // A process may end while we look.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            threads.push(pid);
        }
    }
    Ok(threads)
}

fn ticks(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat without a name")?;
    Ok(fields
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum())
}

/// CPU seconds of a process since it started: of its threads that live.
pub(crate) fn process_cpu(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).context("the enforcer has died")?.flatten() {
        // A thread may end while we look.
        let spent = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanoseconds += spent
            .split_ascii_whitespace()
            .next()
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or(0.0);
    }
    Ok(nanoseconds / 1e9)
}

/// Memory of a process, in MiB: its proportional set, in which a page counts once however often it is mapped (a ring of the
/// kernel is mapped twice in a row).
pub(crate) fn process_mib(pid: u32) -> Result<f64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("the enforcer has died")?;
    let kib: f64 = maps
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("/proc/PID/smaps_rollup without Pss")?
        .trim()
        .parse()?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_time_and_memory_are_counted() {
        let pid = process::id();
        let before = process_cpu(pid).unwrap();
        let mut sum = 0_u64;
        for n in 0..20_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(n));
        }
        assert!(process_cpu(pid).unwrap() > before, "{sum}");
        assert!(process_mib(pid).unwrap() > 0.5);
    }
}
