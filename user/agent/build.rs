//! Compiles the API's .proto files, without protoc.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["seventh/v1/agent.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    // The messages of Hubble's services are in `seventh-flows`; here are the services.
    let flows = "../flows/proto";
    println!("cargo::rerun-if-changed={flows}");
    let files = protox::compile(["observer/observer.proto", "peer/peer.proto"], [flows])?;
    let mut services = tonic_prost_build::configure();
    for package in ["flow", "observer", "peer", "relay"] {
        services = services.extern_path(format!(".{package}"), format!("::seventh_flows::pb::{package}"));
    }
    services.compile_fds(files)?;
    Ok(())
}
