//! Threads that look at the traffic and give way to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use seventh_datapath::give_way;
use tracing::debug;

/// Tells a thread that it is to end. It looks often, also when it has been unparked.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn is_told(&self) -> bool {
        // Relaxed: set once, seen soon enough.
        self.0.load(Ordering::Relaxed)
    }
}

/// A thread, ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts a thread of this name and niceness.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(name: &'static str, niceness: i32, run: impl FnOnce(Stop) + Send + 'static) -> Result<Self> {
        let stop = Stop(Arc::new(AtomicBool::new(false)));
        let told = stop.clone();
        let job = move || {
            if let Err(e) = give_way(niceness) {
                debug!(thread = name, error = %e, "it competes with the traffic that it looks at");
            }
            run(told);
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(job);
        let thread = thread.with_context(|| format!("cannot start the thread `{name}`"))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it and waits.
    pub(crate) fn end(&mut self) {
        // Relaxed: the join orders everything.
        self.stop.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic has been reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}
