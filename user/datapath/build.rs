//! Builds the kernel object with the toolchain that can, and leaves it in `OUT_DIR`.
fn main() -> std::process::ExitCode {
    seventh_kern_build::run()
}
