//! Whether the agent lives, and whether it does its work.

use crate::{agent::State, worker::Life};

/// Why it should be started anew; empty: it lives.
pub(super) fn ailments(state: &State) -> Vec<String> {
    let workers = (0_u32..).zip(state.workers.reports());
    let lives = workers.filter_map(|(index, report)| match report.life {
        Life::Alive => None,
        Life::Stuck => Some(format!("worker {index} is stuck")),
        Life::Dead => Some(format!("worker {index} is dead")),
    });
    let shut = state.ways.shut().into_iter();
    let shut = shut.map(|index| format!("worker {index} does not get what the kernel sends it, not even probes"));
    lives.chain(shut).collect()
}

/// Why it does not do its work yet, or any more; empty: it does.
pub(super) fn obstacles(state: &State) -> Vec<String> {
    let mut obstacles = ailments(state);
    match &state.publisher {
        None => obstacles.push("the agent is ending".to_owned()),
        Some(publisher) if publisher.revision() == 0 => obstacles.push("no policy is in force yet".to_owned()),
        Some(publisher) => {
            let lost = publisher.datapath().lost_devices().into_iter();
            obstacles.extend(lost.map(|device| format!("punt device {device} is gone")));
        }
    }
    obstacles
}
