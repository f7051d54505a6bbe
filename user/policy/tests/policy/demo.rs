//! The story that Cilium's documentation tells: who may land on the death star, and how.

use crate::world::{World, request};
use seventh_abi::Direction::Ingress;

const POLICY: &str = include_str!("../data/cilium/examples/minikube/sw_l3_l4_l7_policy.yaml");

#[test]
fn only_the_empire_lands_and_nobody_touches_the_exhaust_port() {
    let mut world = World::new(POLICY);
    let deathstar = "org=empire,class=deathstar";
    let tiefighter = "org=empire,class=tiefighter";
    let xwing = "org=alliance,class=xwing";
    assert_eq!(world.ingress(deathstar, tiefighter, 80), "inspect");
    assert_eq!(
        world.http(
            Ingress,
            deathstar,
            tiefighter,
            80,
            &request("POST", "/v1/request-landing")
        ),
        200
    );
    assert_eq!(
        world.http(Ingress, deathstar, tiefighter, 80, &request("PUT", "/v1/exhaust-port")),
        403
    );
    assert_eq!(world.ingress(deathstar, xwing, 80), "deny");
    assert_eq!(world.ingress(deathstar, tiefighter, 81), "deny");
    assert_eq!(world.egress(deathstar, xwing, 80), "allow");
    assert_eq!(world.ingress(tiefighter, xwing, 80), "allow");
}
