//! See the library.
fn main() -> std::process::ExitCode {
    seventh_cni::run()
}
