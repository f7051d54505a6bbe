//! What is written to the log, and how that is changed while the agent runs.

use std::{
    fmt,
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use tracing_subscriber::EnvFilter;

/// What is written unless somebody says otherwise.
const DEFAULT: &str = "info";
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// The filter of this process's log.
pub struct LogFilter {
    replace: Box<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>,
    started_with: String,
    present: Mutex<String>,
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFilter")
            .field("present", &self.present)
            .finish_non_exhaustive()
    }
}

impl LogFilter {
    /// Begins to write to standard error, with colours if that is a terminal. Once per process.
    ///
    /// # Errors
    /// The text is no filter.
    pub fn start(text: Option<&str>) -> Result<Self> {
        let text = text.unwrap_or(DEFAULT);
        let builder = tracing_subscriber::fmt()
            .with_env_filter(parse(text)?)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Ok(Self {
            replace: Box::new(move |filter| Ok(handle.reload(filter)?)),
            started_with: text.to_owned(),
            present: Mutex::new(text.to_owned()),
        })
    }

    /// The filter with which the process began.
    pub(crate) fn started_with(&self) -> &str {
        &self.started_with
    }

    /// The filter as it is.
    pub(crate) fn present(&self) -> String {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another filter.
    ///
    /// # Errors
    /// The text is none.
    pub(crate) fn set(&self, text: &str) -> Result<()> {
        let filter = parse(text)?;
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        (self.replace)(filter)?;
        text.clone_into(&mut present);
        Ok(())
    }
}

/// A level, or levels of modules (`info,seventh::agent=debug`). Whatever else the library would take, a mistyped level
/// above all, which it takes for a module's name and then writes nothing any more.
fn parse(text: &str) -> Result<EnvFilter> {
    let is_level = |text: &str| LEVELS.contains(&text.to_ascii_lowercase().as_str());
    let is_module =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b));
    let sound = |part: &str| match part.split_once('=') {
        Some((module, level)) => is_module(module) && is_level(level),
        None => is_level(part),
    };
    ensure!(
        text.split(',').all(sound),
        "`{}` is not a log filter: a level ({}), or levels of modules as in `info,seventh::agent=debug`",
        text.escape_debug(),
        LEVELS.join(", ")
    );
    Ok(EnvFilter::try_new(text)?)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_level_or_levels_of_modules_are_a_filter_and_a_mistyped_one_is_not() {
        for sound in [
            "info",
            "DEBUG",
            "off",
            "warn,seventh::agent=trace",
            "seventh=debug,hyper=off",
        ] {
            assert!(parse(sound).is_ok(), "{sound}");
        }
        for wrong in [
            "",
            "inof",
            "info,",
            "info,seventh",
            "seventh=",
            "=info",
            "a b=info",
            "info\u{1b}",
            "[span]=info",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
