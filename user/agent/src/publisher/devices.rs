//! Which devices the endpoints have: they come, go and are made anew, and endpoints do so with them.

use std::collections::HashMap;

use tracing::{error, info, warn};

use super::{Enforced, Publisher};
use crate::{
    node::{addresses, interface_index, interface_name},
    policy_store::Loaded,
};

impl Publisher {
    /// Whether devices or addresses are others than those in force, so that [`Self::publish`] has something to do.
    pub(crate) fn surroundings_changed(&self) -> bool {
        let moved = |endpoint: &Enforced| interface_index(&endpoint.config.interface) != endpoint.ifindex;
        let left = |(ifindex, interface): (&u32, &String)| interface_index(interface) != Some(*ifindex);
        self.endpoints.iter().any(moved)
            || self.leaving.iter().any(left)
            || addresses().is_ok_and(|now| now != self.node_addresses)
    }

    /// Takes up endpoints that came and lets go those that went; says whether any did.
    pub(super) fn follow_endpoints(&mut self, loaded: &Loaded, failures: &mut Vec<String>) -> bool {
        let before = std::mem::take(&mut self.endpoints).into_iter();
        let mut before: HashMap<String, Enforced> = before.map(|endpoint| (endpoint.config.key(), endpoint)).collect();
        let mut changed = false;
        for (config, identity) in loaded.endpoints.iter().zip(&loaded.held.endpoints) {
            let known = before.remove(&config.key());
            changed |= known.is_none();
            let mut endpoint = known.unwrap_or_else(|| {
                self.last_id += 1;
                Enforced::new(config, self.last_id, *identity, self.first_epoch)
            });
            if endpoint.config != *config || endpoint.identity != *identity {
                changed = true;
                endpoint.in_kernel = false;
                if endpoint.config.interface != config.interface
                    && let Some(old) = endpoint.ifindex.take()
                {
                    endpoint.lose_device();
                    self.leaving.insert(old, endpoint.config.interface.clone());
                }
                endpoint.config.clone_from(config);
                endpoint.identity = *identity;
            }
            self.endpoints.push(endpoint);
        }
        for gone in before.into_values() {
            changed = true;
            info!(endpoint = gone.config.name, "endpoint is gone");
            self.leaving
                .extend(gone.ifindex.map(|ifindex| (ifindex, gone.config.interface.clone())));
            for engine in [&self.engine, &self.beside] {
                engine.names().forget(|scope, _| scope == gone.id);
            }
        }
        if changed {
            let ids = self
                .endpoints
                .iter()
                .map(|endpoint| (endpoint.id, endpoint.config.key()));
            self.names.set_endpoints(ids.collect());
        }
        self.let_go(failures);
        changed
    }

    /// Notices devices that came, went or were made anew; says whether any did.
    pub(super) fn follow_devices(&mut self, failures: &mut Vec<String>) -> bool {
        let mut moved = false;
        for endpoint in &mut self.endpoints {
            let now = interface_index(&endpoint.config.interface);
            if now == endpoint.ifindex {
                continue;
            }
            moved = true;
            if let Some(old) = endpoint.ifindex.take() {
                warn!(
                    endpoint = endpoint.config.name,
                    interface = endpoint.config.interface,
                    "interface is gone"
                );
                if let Err(e) = self.datapath.detach_endpoint(old) {
                    failures.push(e.to_string());
                    self.leaving.insert(old, endpoint.config.interface.clone());
                } else {
                    self.earlier.remove(&old);
                }
            }
            endpoint.ifindex = now;
            endpoint.lose_device();
            if let Some(now) = now {
                self.leaving.remove(&now);
            }
        }
        moved
    }

    /// Detaches from devices whose endpoints are gone when they are, too: whoever still sends there has no address of its
    /// own any more, and no way past the policy that was in force.
    fn let_go(&mut self, failures: &mut Vec<String>) {
        let gone = |(ifindex, interface): (&u32, &String)| interface_index(interface) != Some(*ifindex);
        let gone: Vec<u32> = self
            .leaving
            .iter()
            .filter(|left| gone(*left))
            .map(|(ifindex, _)| *ifindex)
            .collect();
        for ifindex in gone {
            match self.datapath.detach_endpoint(ifindex) {
                Ok(()) => {
                    self.leaving.remove(&ifindex);
                    self.earlier.remove(&ifindex);
                    self.rows.look_again();
                }
                Err(e) => failures.push(e.to_string()),
            }
        }
    }

    /// Whose device it is may only be hard to find, so what an earlier agent enforced there goes on until the device is
    /// gone, or is found to be a pod's. Where the earlier agent's policy is not readable any more, nothing passes.
    pub(super) fn keep_unknown(&mut self) {
        for ifindex in self.datapath.left_devices() {
            let Some(interface) = interface_name(ifindex) else {
                continue;
            };
            warn!(
                interface,
                "no pod is known for this device; what was enforced there stays"
            );
            if let Err(e) = self.datapath.attach_endpoint(&interface) {
                error!(interface, error = %e, "it cannot be taken over");
            }
            self.leaving.insert(ifindex, interface);
        }
    }
}
