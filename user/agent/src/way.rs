//! Whether frames that the kernel gives to workers reach them: probes say so, or the frames themselves.

use seventh_datapath::{ChannelStats, Prober};
use tracing::warn;

/// How often in a row a worker may be found to have got nothing at all, though each time a probe is sent to it. A worker that
/// has more to do than it can still gets something.
const SILENT_LOOKS_MAX: u32 = 5;

/// The ways to all workers.
#[derive(Debug)]
pub(crate) struct Ways {
    prober: Option<Prober>,
    sent: u64,
    workers: Vec<Way>,
}

#[derive(Debug)]
struct Way {
    stats: ChannelStats,
    silent_looks: u32,
}

impl Ways {
    /// Without somebody who sends probes, nothing is said.
    pub(crate) fn new(prober: Option<Prober>) -> Self {
        Self {
            prober,
            sent: 0,
            workers: Vec::new(),
        }
    }

    /// Looks at what the workers have got, and sends the next probe. Call it about once a second.
    pub(crate) fn look(&mut self, stats: impl Iterator<Item = ChannelStats>) {
        let Some(prober) = &self.prober else { return };
        self.sent += 1;
        if let Err(e) = prober.send(self.sent) {
            warn!(error = %e, "a probe cannot be sent to a worker");
        }
        self.note(stats);
    }

    fn note(&mut self, stats: impl Iterator<Item = ChannelStats>) {
        for (index, stats) in stats.enumerate() {
            match self.workers.get_mut(index) {
                Some(way) if (way.stats.received, way.stats.probed) == (stats.received, stats.probed) => {
                    way.silent_looks += 1;
                }
                Some(way) => *way = Way { stats, silent_looks: 0 },
                None => self.workers.push(Way { stats, silent_looks: 0 }),
            }
        }
    }

    /// Numbers of the workers to which the way is not open.
    pub(crate) fn shut(&self) -> Vec<usize> {
        let shut = self.workers.iter().enumerate();
        let shut = shut.filter(|(_, way)| way.silent_looks >= SILENT_LOOKS_MAX);
        shut.map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{SILENT_LOOKS_MAX, Ways};
    use seventh_datapath::ChannelStats;

    #[test]
    fn a_worker_that_gets_nothing_for_a_while_is_told_of_until_it_gets_something() {
        let mut ways = Ways::new(None);
        let stats = |received, probed| ChannelStats {
            received,
            probed,
            ..ChannelStats::default()
        };
        for look in 0..=SILENT_LOOKS_MAX {
            assert!(ways.shut().is_empty());
            // The second one gets no probe for all the frames that it gets.
            ways.note([stats(7, 1), stats(u64::from(look), 1), stats(0, u64::from(look))].into_iter());
        }
        assert_eq!(ways.shut(), [0]);
        ways.note([stats(7, 9), stats(9, 1), stats(0, 9)].into_iter());
        assert!(ways.shut().is_empty());
    }
}
