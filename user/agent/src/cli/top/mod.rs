//! `seventh top`: who talks, what is asked, what is denied, as it happens.

mod board;
mod screen;
mod source;
mod tally;
#[cfg(test)]
mod tests;
mod words;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event},
};
use seventh_flows::safe_text::printable;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{self, Receiver},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    Answer, Form,
    observe::{ServerFlags, duration},
    records::Records,
};
use board::{Board, Picture};
use screen::{Act, Screen, Sort, sort_denials};
use source::News;

/// Records that wait for the board at most. If it does not keep up the server waits, and tells what it could not keep.
const NEWS_MAX: usize = 4096;
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Flags of `seventh top`.
#[derive(Debug, clap::Args)]
pub(super) struct Top {
    #[command(flatten)]
    server: ServerFlags,
    /// Show what is in this file, as `seventh observe -o json` and Hubble's exporter write it; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    input_file: Option<PathBuf>,
    /// The span of time that is shown at once
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Print one span of time as text; so it is, too, where the output is no terminal
    #[arg(long)]
    once: bool,
    /// Form of what is printed once
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

fn interval(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if (INTERVAL_MIN..=INTERVAL_MAX).contains(&span) {
        Ok(span)
    } else {
        Err(format!("from {INTERVAL_MIN:?} to {INTERVAL_MAX:?}"))
    }
}

/// Runs the command. Status 1: some of a file could not be understood.
pub(super) async fn run(command: Top) -> Result<Answer> {
    let on_screen = !command.once && command.output == Form::Text && io::stdout().is_terminal();
    if let Some(file) = &command.input_file {
        let (picture, answer) = of_file(file)?;
        if on_screen {
            still(&file.display().to_string(), picture).await?;
        } else {
            print(command.output, picture)?;
        }
        return Ok(answer);
    }
    if on_screen {
        live(command).await?;
    } else {
        let picture = one_span(command.server, command.interval).await?;
        print(command.output, picture)?;
    }
    Ok(Answer::Yes)
}

/// Writes the picture. Who reads only the beginning (`| head`) has what they wanted.
fn print(form: Form, mut picture: Picture) -> Result<()> {
    Sort::default().apply(&mut picture.talkers);
    sort_denials(&mut picture.denials);
    let text = match form {
        Form::Text => words::plain(&picture),
        Form::Json => format!("{}\n", words::as_json(&picture)),
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e).context("standard output"),
        _ => Ok(()),
    }
}

/// All records of a file as one span of time.
fn of_file(file: &Path) -> Result<(Picture, Answer)> {
    let mut board = Board::new()?;
    let mut answer = Answer::Yes;
    for record in Records::open(file)? {
        match record? {
            Ok(record) => board.take(&record),
            Err(trouble) => {
                anstream::eprintln!("seventh: {trouble}");
                answer = Answer::No;
            }
        }
    }
    let span = board.span_of_records();
    Ok((board.turn(span), answer))
}

/// The next span of time of a server.
///
/// # Errors
/// It is not there, or did not stay.
async fn one_span(server: ServerFlags, span: Duration) -> Result<Picture> {
    let (sender, mut news) = mpsc::channel(NEWS_MAX);
    tokio::spawn(source::follow(server, span / 2, sender));
    let mut board = Board::new()?;
    let mut end = None;
    loop {
        let over = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => return Ok(board.turn(span)),
            said = news.recv() => match said {
                Some(News::Connected) => end = Some(Instant::now() + span),
                Some(News::Record(record)) => board.take(&record),
                Some(News::Verdicts(verdicts)) => board.take_verdicts(verdicts),
                Some(News::Gone(trouble)) => bail!(trouble),
                None => bail!("the server has ended"),
            },
        }
    }
}

/// A terminal that is as it was when this is dropped.
struct Terminal(DefaultTerminal);

impl Terminal {
    fn open() -> Result<Self> {
        ratatui::try_init().map(Self).context("terminal")
    }

    fn draw(&mut self, screen: &Screen) -> Result<()> {
        let drawn = self.0.draw(|frame| screen.draw(frame));
        drawn.map(|_| ()).context("terminal")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What somebody does at the terminal. A thread of its own waits for it until the process ends: it cannot be woken.
fn keys() -> Receiver<Event> {
    let (sender, keys) = mpsc::channel(64);
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

/// A picture that does not change, until somebody has seen enough.
async fn still(source: &str, picture: Picture) -> Result<()> {
    let mut screen = Screen::new(printable(source).into_owned());
    screen.show(picture);
    let mut ended = signal(SignalKind::terminate())?;
    let mut terminal = Terminal::open()?;
    let mut keys = keys();
    loop {
        terminal.draw(&screen)?;
        tokio::select! {
            event = keys.recv() => match event {
                Some(event) if screen.act(&event) == Act::Stay => {}
                _ => return Ok(()),
            },
            _ = ended.recv() => return Ok(()),
        }
    }
}

/// The screen, span after span.
async fn live(command: Top) -> Result<()> {
    let mut screen = Screen::new(printable(command.server.name()).into_owned());
    screen.set_trouble(Some("connecting".to_owned()));
    let (sender, mut news) = mpsc::channel(NEWS_MAX);
    tokio::spawn(source::follow(command.server, command.interval, sender));
    let mut board = Board::new()?;
    let mut ended = signal(SignalKind::terminate())?;
    let mut terminal = Terminal::open()?;
    let mut keys = keys();
    let mut turns = interval_at(Instant::now() + command.interval, command.interval);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut began = Instant::now();
    terminal.draw(&screen)?;
    loop {
        tokio::select! {
            said = news.recv() => match said {
                Some(News::Record(record)) => {
                    board.take(&record);
                    continue;
                }
                Some(News::Verdicts(verdicts)) => {
                    board.take_verdicts(verdicts);
                    continue;
                }
                Some(News::Connected) => screen.set_trouble(None),
                Some(News::Gone(trouble)) => screen.set_trouble(Some(printable(&trouble).into_owned())),
                None => return Ok(()),
            },
            _ = turns.tick() => {
                screen.show(board.turn(began.elapsed()));
                began = Instant::now();
            }
            event = keys.recv() => match event {
                Some(event) if screen.act(&event) == Act::Stay => {}
                _ => return Ok(()),
            },
            _ = ended.recv() => return Ok(()),
        }
        terminal.draw(&screen)?;
    }
}
