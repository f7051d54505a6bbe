//! Compiles the agent's API, without protoc. The server's half is what tests play the agent with.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = "../agent/proto";
    println!("cargo::rerun-if-changed={folder}");
    let files = protox::compile(["seventh/v1/agent.proto"], [folder])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
