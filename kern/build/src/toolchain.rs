//! Which compiler and which linker of this machine make BPF objects.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{KernBuildError, TARGET};

/// Names the compiler; `cargo` is then the one that runs the build script unless [`CARGO_VARIABLE`] names another.
pub(crate) const RUSTC_VARIABLE: &str = "SEVENTH_BPF_RUSTC";
/// Names the Cargo that goes with [`RUSTC_VARIABLE`].
pub(crate) const CARGO_VARIABLE: &str = "SEVENTH_BPF_CARGO";
/// Names the linker.
pub(crate) const LINKER_VARIABLE: &str = "SEVENTH_BPF_LINKER";

/// A compiler that can build for BPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// For messages: where it comes from.
    pub(crate) origin: &'static str,
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    pub(crate) core: Core,
}

/// Where the compiler gets `core` for BPF from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Core {
    /// It lies ready in the sysroot.
    Prebuilt,
    /// Cargo builds it from `rust-src`.
    FromSource,
}

/// The first compiler that can build for BPF: the one named in the environment, rustup's nightly, rustup's stable,
/// the distribution's.
pub(crate) fn find_toolchain() -> Result<Toolchain, KernBuildError> {
    let candidates = match env::var_os(RUSTC_VARIABLE) {
        Some(rustc) => vec![Candidate {
            origin: RUSTC_VARIABLE,
            rustc: existing(RUSTC_VARIABLE, rustc)?,
            cargo: env::var_os(CARGO_VARIABLE).map_or_else(running_cargo, PathBuf::from),
        }],
        None => installed(),
    };
    let mut looked_at = Vec::new();
    for candidate in candidates {
        match sysroot(&candidate.rustc).as_deref().and_then(core_of_sysroot) {
            Some(core) => {
                let Candidate { origin, rustc, cargo } = candidate;
                return Ok(Toolchain {
                    origin,
                    rustc,
                    cargo,
                    core,
                });
            }
            None => looked_at.push(format!(
                "{} ({}): neither a prebuilt core for {TARGET} nor rust-src",
                candidate.origin,
                candidate.rustc.display()
            )),
        }
    }
    if looked_at.is_empty() {
        looked_at.push("neither rustup nor /usr/bin/rustc is there".to_owned());
    }
    Err(KernBuildError::NoToolchain { looked_at })
}

/// The linker: the one named in the environment, else the first of `<root>/.tools/bin`, `PATH`, Cargo's `bin`.
///
/// The linker that `./seventh-dev setup` built says in `.tools/stamp` for which LLVM; it is refused when the
/// compiler's is another, because what it would say is hard to understand.
pub(crate) fn find_linker(root: &Path, toolchain: &Toolchain) -> Result<PathBuf, KernBuildError> {
    if let Some(linker) = env::var_os(LINKER_VARIABLE) {
        return existing(LINKER_VARIABLE, linker);
    }
    let own = root.join(".tools/bin");
    let looked_in = linker_folders(&own);
    let linker = looked_in
        .iter()
        .map(|dir| dir.join("bpf-linker"))
        .find(|path| path.is_file());
    let Some(linker) = linker else {
        return Err(KernBuildError::NoLinker { looked_in });
    };
    if linker.starts_with(&own)
        && let Some(linker_llvm) = fs::read_to_string(root.join(".tools/stamp"))
            .ok()
            .and_then(|stamp| llvm_of_stamp(&stamp))
        && let Some(compiler_llvm) = llvm_of_compiler(&toolchain.rustc)
        && linker_llvm != compiler_llvm
    {
        let compiler = toolchain.rustc.clone();
        return Err(KernBuildError::LlvmDiffers {
            linker,
            linker_llvm,
            compiler,
            compiler_llvm,
        });
    }
    Ok(linker)
}

struct Candidate {
    origin: &'static str,
    rustc: PathBuf,
    cargo: PathBuf,
}

fn installed() -> Vec<Candidate> {
    let rustup = [("rustup nightly", "nightly"), ("rustup stable", "stable")];
    let mut candidates: Vec<Candidate> = rustup
        .into_iter()
        .filter_map(|(origin, name)| {
            Some(Candidate {
                origin,
                rustc: rustup_which("rustc", name)?,
                cargo: rustup_which("cargo", name)?,
            })
        })
        .collect();
    let rustc = PathBuf::from("/usr/bin/rustc");
    if rustc.is_file() {
        let own = PathBuf::from("/usr/bin/cargo");
        let cargo = if own.is_file() { own } else { running_cargo() };
        candidates.push(Candidate {
            origin: "the distribution's",
            rustc,
            cargo,
        });
    }
    candidates
}

fn core_of_sysroot(sysroot: &Path) -> Option<Core> {
    let libraries = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let prebuilt = fs::read_dir(libraries).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = Path::new(&name);
            name.extension().is_some_and(|extension| extension == "rlib")
                && name.as_os_str().as_encoded_bytes().starts_with(b"libcore-")
        })
    });
    if prebuilt {
        return Some(Core::Prebuilt);
    }
    sysroot
        .join("lib/rustlib/src/rust/library/Cargo.lock")
        .is_file()
        .then_some(Core::FromSource)
}

fn linker_folders(own: &Path) -> Vec<PathBuf> {
    let mut folders = vec![own.to_path_buf()];
    folders.extend(
        env::var_os("PATH")
            .iter()
            .flat_map(env::split_paths)
            .filter(|dir| dir.is_absolute()),
    );
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    folders.extend(cargo_home.or(home).map(|dir| dir.join("bin")));
    folders
}

/// The major version in `<linker version> llvm-<major> <compiler>`.
fn llvm_of_stamp(stamp: &str) -> Option<u32> {
    stamp
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("llvm-")?.parse().ok())
}

/// The major version in the line `LLVM version: <major>.<minor>.<patch>` of `rustc -Vv`.
fn llvm_of_compiler(rustc: &Path) -> Option<u32> {
    let text = output_of(Command::new(rustc).arg("-Vv"))?;
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    output_of(Command::new(rustc).args(["--print", "sysroot"])).map(PathBuf::from)
}

fn rustup_which(tool: &str, toolchain: &str) -> Option<PathBuf> {
    output_of(Command::new("rustup").args(["which", tool, "--toolchain", toolchain])).map(PathBuf::from)
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn existing(variable: &'static str, path: OsString) -> Result<PathBuf, KernBuildError> {
    let path = PathBuf::from(path);
    if path.is_file() {
        Ok(path)
    } else {
        Err(KernBuildError::OverrideMissing { variable, path })
    }
}

fn running_cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysroot_with(files: &[&str]) -> tempfile::TempDir {
        let sysroot = tempfile::tempdir().unwrap();
        for file in files {
            let path = sysroot.path().join("lib/rustlib").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        sysroot
    }

    #[test]
    fn a_prebuilt_core_is_preferred_to_sources() {
        let both = sysroot_with(&[
            "bpfel-unknown-none/lib/libcore-1234.rlib",
            "src/rust/library/Cargo.lock",
        ]);
        assert_eq!(core_of_sysroot(both.path()), Some(Core::Prebuilt));
    }

    #[test]
    fn rust_src_alone_means_building_core() {
        let sources = sysroot_with(&["src/rust/library/Cargo.lock"]);
        assert_eq!(core_of_sysroot(sources.path()), Some(Core::FromSource));
    }

    #[test]
    fn a_core_for_another_target_or_a_half_installed_one_does_not_count() {
        let host = sysroot_with(&["x86_64-unknown-linux-gnu/lib/libcore-1234.rlib"]);
        assert_eq!(core_of_sysroot(host.path()), None);
        let metadata_only = sysroot_with(&["bpfel-unknown-none/lib/libcore-1234.rmeta"]);
        assert_eq!(core_of_sysroot(metadata_only.path()), None);
    }

    #[test]
    fn the_stamp_names_the_llvm_of_the_linker() {
        assert_eq!(llvm_of_stamp("0.13.0 llvm-22 /usr/bin/rustc\n"), Some(22));
        assert_eq!(llvm_of_stamp("0.13.0 /usr/bin/rustc\n"), None);
        assert_eq!(llvm_of_stamp(""), None);
    }

    #[test]
    fn the_checkouts_own_linker_comes_first() {
        let folders = linker_folders(Path::new("/checkout/.tools/bin"));
        assert_eq!(folders.first().unwrap(), Path::new("/checkout/.tools/bin"));
        assert!(
            folders.iter().all(|dir| dir.is_absolute()),
            "a relative PATH entry must not choose the linker"
        );
    }
}
