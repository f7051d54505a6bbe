//! Why the kernel object could not be built, each with the next step.

use std::path::PathBuf;

/// What every message about something missing ends with.
const SETUP: &str = "run `./seventh-dev setup` at the root of the repository";

/// Why there is no kernel object.
#[derive(Debug, thiserror::Error)]
pub enum KernBuildError {
    /// Not called from a build script: Cargo sets these variables for build scripts only.
    #[error("{0} is not set: this library is for build scripts, which Cargo runs with it")]
    NotABuildScript(&'static str),
    /// No compiler on this machine has a `core` for BPF. Holds one line for each one that was looked at.
    #[error(
        "no Rust compiler here can build for {target}:\n  {}\n{SETUP}, or `rustup toolchain install nightly --component rust-src`",
        .looked_at.join("\n  "), target = crate::TARGET
    )]
    NoToolchain {
        /// One line for each compiler: what it lacks.
        looked_at: Vec<String>,
    },
    /// No bpf-linker in any of the places.
    #[error("bpf-linker is in none of these folders:\n  {}\n{SETUP}", .looked_in.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join("\n  "))]
    NoLinker {
        /// The folders that were looked at.
        looked_in: Vec<PathBuf>,
    },
    /// A variable names a file that is not there.
    #[error("{variable} names {}, which is not a file", .path.display())]
    OverrideMissing {
        /// The environment variable.
        variable: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// bpf-linker reads the bitcode of its own LLVM version and of earlier ones only.
    #[error("{} was built for LLVM {linker_llvm}, but {} writes bitcode of LLVM {compiler_llvm}: {SETUP}", .linker.display(), .compiler.display())]
    LlvmDiffers {
        /// The linker.
        linker: PathBuf,
        /// The LLVM major version that the linker was built for.
        linker_llvm: u32,
        /// The compiler.
        compiler: PathBuf,
        /// The LLVM major version of the compiler.
        compiler_llvm: u32,
    },
    /// A program could not be started or a file not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The compiler or the linker refused.
    #[error("building the kernel programs with {compiler} failed:\n{output}")]
    Compile {
        /// The compiler that was used.
        compiler: String,
        /// All that Cargo wrote.
        output: String,
    },
    /// The file is not an object for BPF.
    #[error("{} is not an ELF object for BPF", .0.display())]
    NotAnObject(PathBuf),
}

impl KernBuildError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> KernBuildError {
        let what = what.into();
        move |source| KernBuildError::Io { what, source }
    }
}
