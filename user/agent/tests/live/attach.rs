//! Other ways to attach.

use crate::{
    client::{IMPATIENCE, PATIENCE, fetch, is_silence},
    stage::{PUBLIC, TCX, kernel_has, stage, status},
};

#[test]
fn clsact_enforces_like_tcx() {
    let auto = if kernel_has(TCX) { "tcx" } else { "clsact" };
    for (config, mode) in [("attach: clsact", "clsact"), ("attach: auto", auto)] {
        let Some(lab) = stage(PUBLIC, config) else { return };
        assert_eq!(status(&lab)["attach"], mode);
        let filters = lab
            .node_command("tc")
            .args(["filter", "show", "dev", "v-server", "egress"])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&filters.stdout).contains("tc_to_endpoint"),
            mode == "clsact"
        );
        let server = lab.endpoint("server").unwrap();
        for address in server.ips() {
            let from = |name: &str, path: &'static str, patience| {
                lab.endpoint(name)
                    .unwrap()
                    .run(move || fetch(address, path, patience))
                    .unwrap()
            };
            assert_eq!(from("client", "/public", PATIENCE), Ok(200), "{mode}");
            assert_eq!(from("client", "/denied", PATIENCE), Ok(403), "{mode}");
            assert!(is_silence(&from("intruder", "/public", IMPATIENCE)), "{mode}");
        }
    }
}
