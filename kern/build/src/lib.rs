//! Builds the kernel programs (`kern/prog`) from a build script and leaves the object at `$OUT_DIR/seventh-kern`.
//!
//! ```no_run
//! // build.rs
//! fn main() -> std::process::ExitCode {
//!     seventh_kern_build::run()
//! }
//! ```
//!
//! The host workspace is built with stable Rust, which has no `core` for BPF; this library looks for a compiler that
//! has one ([`KernBuildError::NoToolchain`] says where it looked) and for bpf-linker. The environment decides first:
//!
//! | variable | meaning |
//! |---|---|
//! | `SEVENTH_KERN_OBJECT` | an object that is already built; nothing is compiled |
//! | `SEVENTH_BPF_RUSTC`, `SEVENTH_BPF_CARGO` | the compiler, and the Cargo to run it with |
//! | `SEVENTH_BPF_LINKER` | bpf-linker |
#![forbid(unsafe_code)]

mod error;
mod toolchain;

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

pub use error::KernBuildError;
use toolchain::{CARGO_VARIABLE, Core, LINKER_VARIABLE, RUSTC_VARIABLE, Toolchain, find_linker, find_toolchain};

/// The target that the kernel programs are compiled for.
pub const TARGET: &str = "bpfel-unknown-none";

/// Name of the program crate's binary and of the object in `OUT_DIR`.
const OBJECT: &str = "seventh-kern";
const OBJECT_VARIABLE: &str = "SEVENTH_KERN_OBJECT";

/// What the object is made from, relative to the root of the repository.
const SOURCES: &[&str] = &[
    "Cargo.toml",
    "kern/abi/Cargo.toml",
    "kern/abi/src",
    "kern/prog/Cargo.toml",
    "kern/prog/Cargo.lock",
    "kern/prog/.cargo/config.toml",
    "kern/prog/src",
];

/// [`build`] for a build script's `main`: says on stderr what is missing and which step comes next.
#[must_use]
#[expect(
    clippy::print_stderr,
    reason = "Cargo shows a failed build script's stderr to the user"
)]
pub fn run() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves the kernel object at `$OUT_DIR/seventh-kern` and tells Cargo when to build it again.
///
/// # Errors
/// [`KernBuildError`]: no compiler, no linker, or the programs do not compile.
pub fn build() -> Result<(), KernBuildError> {
    let out_dir = env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .ok_or(KernBuildError::NotABuildScript("OUT_DIR"))?;
    let object = out_dir.join(OBJECT);
    for variable in [OBJECT_VARIABLE, RUSTC_VARIABLE, CARGO_VARIABLE, LINKER_VARIABLE] {
        tell_cargo("rerun-if-env-changed", variable);
    }
    if let Some(prebuilt) = env::var_os(OBJECT_VARIABLE).map(PathBuf::from) {
        if !prebuilt.is_file() {
            return Err(KernBuildError::OverrideMissing {
                variable: OBJECT_VARIABLE,
                path: prebuilt,
            });
        }
        tell_cargo("rerun-if-changed", prebuilt.display());
        return place(&prebuilt, &object);
    }
    let root = root();
    for source in SOURCES {
        tell_cargo("rerun-if-changed", root.join(source).display());
    }
    let toolchain = find_toolchain()?;
    let linker = find_linker(&root, &toolchain)?;
    tell_cargo("rerun-if-changed", linker.display());
    let target_dir = target_dir(&out_dir).join("kern");
    compile(&root, &toolchain, &linker, &target_dir)?;
    place(&target_dir.join(TARGET).join("release").join(OBJECT), &object)
}

fn compile(root: &Path, toolchain: &Toolchain, linker: &Path, target_dir: &Path) -> Result<(), KernBuildError> {
    let compiler = format!("{} {}", toolchain.origin, toolchain.rustc.display());
    let mut command = Command::new(&toolchain.cargo);
    for (name, _) in env::vars_os().filter(|(name, _)| belongs_to_outer_build(name)) {
        command.env_remove(name);
    }
    // Flags that belong to the target (BTF, debug information) are in kern/prog/.cargo/config.toml, so that
    // `cargo build` in that folder makes the same object.
    command
        .current_dir(root.join("kern/prog"))
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        // aya-ebpf needs `asm_experimental_arch`, an unstable feature, on BPF.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "AYA_BPF_TARGET_ARCH",
            env::var_os("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|| env::consts::ARCH.into()),
        )
        .args([
            "build",
            "--release",
            "--locked",
            "--color",
            "never",
            "--target",
            TARGET,
            "--bin",
            OBJECT,
        ])
        .arg("--target-dir")
        .arg(target_dir);
    if toolchain.core == Core::FromSource {
        command.arg("-Zbuild-std=core");
    }
    let output = command
        .output()
        .map_err(KernBuildError::io(format!("starting {}", toolchain.cargo.display())))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(KernBuildError::Compile {
            compiler,
            output: text.into_owned(),
        });
    }
    for warning in text.lines().filter(|line| line.starts_with("warning")) {
        tell_cargo("warning", format_args!("kern/prog: {warning}"));
    }
    Ok(())
}

/// What the outer Cargo and a CI set for host crates must not reach the BPF build (flags, wrappers, target folders,
/// the toolchain); where crates come from must.
fn belongs_to_outer_build(variable: &OsStr) -> bool {
    const KEPT: &[&str] = &[
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "RUSTUP_HOME",
    ];
    let Some(variable) = variable.to_str() else {
        return false;
    };
    (variable.starts_with("CARGO") || variable.starts_with("RUST"))
        && !KEPT.iter().any(|kept| variable.starts_with(kept))
}

/// Copies the object unless the same bytes are there already: its time stamp makes dependents compile again.
fn place(built: &Path, object: &Path) -> Result<(), KernBuildError> {
    let bytes = fs::read(built).map_err(KernBuildError::io(format!("reading {}", built.display())))?;
    if !is_bpf_object(&bytes) {
        return Err(KernBuildError::NotAnObject(built.to_path_buf()));
    }
    if fs::read(object).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::write(object, bytes).map_err(KernBuildError::io(format!("writing {}", object.display())))
}

/// ELF, 64 bit, little endian, for machine 247 (`EM_BPF`).
fn is_bpf_object(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF\x02\x01") && bytes.get(18..20) == Some(&247_u16.to_le_bytes())
}

/// The folder that the outer Cargo builds in: one place below it serves debug, release and clippy builds, so that the
/// programs are compiled once.
fn target_dir(out_dir: &Path) -> &Path {
    out_dir
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .unwrap_or(out_dir)
}

/// This crate is a path dependency inside the repository, so its own place says where the repository is.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_path_buf()
}

#[expect(clippy::print_stdout, reason = "Cargo reads a build script's stdout")]
fn tell_cargo(key: &str, value: impl std::fmt::Display) {
    println!("cargo::{key}={value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_object_is_made_from_exists() {
        for source in SOURCES {
            let path = root().join(source);
            assert!(
                path.exists(),
                "a missing source makes Cargo run the build script every time: {}",
                path.display()
            );
        }
    }

    #[test]
    fn outer_flags_do_not_reach_the_bpf_build_and_registries_do() {
        for outer in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTUP_TOOLCHAIN",
            "CARGO_TARGET_DIR",
            "CARGO",
        ] {
            assert!(belongs_to_outer_build(OsStr::new(outer)), "{outer}");
        }
        for kept in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_MIRROR_INDEX",
            "RUSTUP_HOME",
            "PATH",
            "HOME",
        ] {
            assert!(!belongs_to_outer_build(OsStr::new(kept)), "{kept}");
        }
    }

    #[test]
    fn only_little_endian_bpf_objects_are_taken() {
        let mut elf = [0_u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 247;
        assert!(is_bpf_object(&elf));
        elf[18] = 62;
        assert!(!is_bpf_object(&elf), "an x86-64 program");
        assert!(!is_bpf_object(b"\x7fELF\x02\x01"), "cut short");
        assert!(!is_bpf_object(b""));
    }

    #[test]
    fn an_unchanged_object_keeps_its_time_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let (built, object) = (folder.path().join("built"), folder.path().join("object"));
        let mut elf = [0_u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 247;
        fs::write(&built, elf).unwrap();
        place(&built, &object).unwrap();
        let first = fs::metadata(&object).unwrap().modified().unwrap();
        place(&built, &object).unwrap();
        assert_eq!(fs::metadata(&object).unwrap().modified().unwrap(), first);
        fs::write(&built, b"text").unwrap();
        assert!(matches!(place(&built, &object), Err(KernBuildError::NotAnObject(_))));
    }

    #[test]
    fn the_target_folder_is_the_one_that_cargo_tagged() {
        let folder = tempfile::tempdir().unwrap();
        let out_dir = folder.path().join("release/build/x-1/out");
        fs::create_dir_all(&out_dir).unwrap();
        fs::write(folder.path().join("CACHEDIR.TAG"), b"").unwrap();
        assert_eq!(target_dir(&out_dir), folder.path());
    }
}
