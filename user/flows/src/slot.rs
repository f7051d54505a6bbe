//! A place that holds a shared value or none; loads and swaps are single steps.

#[cfg(not(loom))]
pub(crate) use whole::Slot;

#[cfg(not(loom))]
mod whole {
    use std::sync::Arc;

    use arc_swap::ArcSwapOption;

    /// Nobody waits for anybody.
    #[derive(Debug)]
    pub(crate) struct Slot<T>(ArcSwapOption<T>);

    impl<T> Slot<T> {
        pub(crate) fn empty() -> Self {
            Self(ArcSwapOption::empty())
        }

        pub(crate) fn load(&self) -> Option<Arc<T>> {
            self.0.load_full()
        }

        pub(crate) fn swap(&self, value: Arc<T>) -> Option<Arc<T>> {
            self.0.swap(Some(value))
        }
    }
}

/// What the model checker knows of it: that its steps are whole.
#[cfg(loom)]
pub(crate) use modelled::Slot;

#[cfg(loom)]
mod modelled {
    use std::sync::Arc;

    use loom::sync::Mutex;

    #[derive(Debug)]
    pub(crate) struct Slot<T>(Mutex<Option<Arc<T>>>);

    impl<T> Slot<T> {
        pub(crate) fn empty() -> Self {
            Self(Mutex::new(None))
        }

        pub(crate) fn load(&self) -> Option<Arc<T>> {
            self.0.lock().expect("nobody panics in it").clone()
        }

        pub(crate) fn swap(&self, value: Arc<T>) -> Option<Arc<T>> {
            self.0.lock().expect("nobody panics in it").replace(value)
        }
    }
}
