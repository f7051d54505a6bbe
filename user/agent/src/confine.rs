//! What an agent never does, it cannot do: system calls that it has no use for are refused from its first moment, so that
//! whoever should ever run code in it starts no program, loads no module and mounts nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Refused with EPERM, by what they are for. `setns` is not among them: pods' devices are found in their namespaces.
const REFUSED: &[libc::c_long] = &[
    // Other programs, and other processes' memory.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    // File systems, and files past their permissions.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_mknodat,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    // Who it is, where it is, and what time.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_unshare,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_personality,
];

/// Puts this process, with all threads that it has and will have, under the filter. No program that it could still start
/// would gain privileges, either.
///
/// # Errors
/// The kernel has no filters of system calls.
pub(crate) fn confine() -> Result<()> {
    let filter = filter()?;
    seccompiler::apply_filter_all_threads(&filter).context("system calls cannot be filtered")
}

fn filter() -> Result<BpfProgram> {
    let arch =
        TargetArch::try_from(std::env::consts::ARCH).context("no filter of system calls for this architecture")?;
    // No conditions: whatever the arguments.
    let rules: BTreeMap<i64, Vec<_>> = REFUSED.iter().map(|number| (*number, Vec::new())).collect();
    let eperm = u32::try_from(libc::EPERM).context("EPERM")?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(eperm), arch)?;
    Ok(BpfProgram::try_from(filter)?)
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, process::Command, thread};

    use super::filter;

    #[test]
    fn under_the_filter_no_program_starts_and_ordinary_work_goes_on() {
        // A thread of its own: the filter stays with it.
        let confined = thread::spawn(|| {
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            let here = std::fs::read("/proc/self/status").unwrap();
            let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
            let mounted = nix::mount::umount("/proc");
            let started = thread::spawn(|| 7).join().unwrap();
            (here.len(), unshared, mounted, started)
        });
        let (read, unshared, mounted, started) = confined.join().unwrap();
        assert!(read > 0 && started == 7);
        assert_eq!(
            (unshared, mounted),
            (Err(nix::errno::Errno::EPERM), Err(nix::errno::Errno::EPERM))
        );
        let confined = thread::spawn(|| {
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            Command::new("/bin/true").spawn().map_err(|e| e.kind()).map(|_| ())
        });
        assert_eq!(confined.join().unwrap(), Err(ErrorKind::PermissionDenied));
        // Other threads are as before.
        assert!(Command::new("/bin/true").status().unwrap().success());
    }
}
