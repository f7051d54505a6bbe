//! `seventh`: see `seventh --help`.
fn main() -> std::process::ExitCode {
    seventh::cli::run()
}
