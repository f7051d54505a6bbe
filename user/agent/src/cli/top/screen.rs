//! The picture on a terminal.

use ratatui::{
    Frame,
    crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Cell, Row, Table},
};

use super::{
    board::{Denial, Picture, Talker},
    words::{latency_row, per_second},
};

/// Narrower terminals have one block above the other.
const WIDE: u16 = 100;
/// Columns for the numbers of a talker and of a denial.
const TALKER_NUMBERS: [Constraint; 3] = [Constraint::Length(10), Constraint::Length(10), Constraint::Length(10)];
const KEYS: &str = " q quit  p pause  tab/←/→ sort  ↑/↓ scroll";

/// By what talkers are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Flows,
    Requests,
    Denied,
    Name,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Flows, Self::Requests, Self::Denied, Self::Name];

    /// So many further on, round and round.
    fn step(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL.into_iter().cycle().nth(at + by).unwrap_or_default()
    }

    /// Sorts; equals by their names.
    pub(super) fn apply(self, talkers: &mut [Talker]) {
        talkers.sort_by(|a, b| {
            let number = |talker: &Talker| match self {
                Self::Flows => talker.talk.flows,
                Self::Requests => talker.talk.requests,
                Self::Denied => talker.talk.denied,
                Self::Name => 0,
            };
            let by_name = || (&a.source, &a.destination).cmp(&(&b.source, &b.destination));
            number(b).cmp(&number(a)).then_with(by_name)
        });
    }
}

/// The most frequent first.
pub(super) fn sort_denials(denials: &mut [Denial]) {
    denials.sort_by(|a, b| {
        let name = |denial: &Denial| (denial.policy.clone(), denial.reason.clone());
        (b.now, b.total)
            .cmp(&(a.now, a.total))
            .then_with(|| name(a).cmp(&name(b)))
    });
}

/// Whether the screen stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Stay,
    Quit,
}

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    picture: Picture,
    /// Where it comes from, and how that is.
    source: String,
    /// Set if the source is not there: why.
    trouble: Option<String>,
    sort: Sort,
    scroll: usize,
    paused: bool,
}

impl Screen {
    /// Nothing from this source yet.
    pub(super) fn new(source: String) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }

    /// Another span of time; not shown while the screen is paused.
    pub(super) fn show(&mut self, picture: Picture) {
        if !self.paused {
            self.picture = picture;
            self.sort_picture();
        }
    }

    /// The source is there, or is not, for this reason.
    pub(super) fn set_trouble(&mut self, trouble: Option<String>) {
        self.trouble = trouble;
    }

    /// Does what somebody at the terminal wants.
    pub(super) fn act(&mut self, event: &Event) -> Act {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key),
            _ => Act::Stay,
        }
    }

    fn key(&mut self, key: KeyEvent) -> Act {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Act::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Act::Quit,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Tab | KeyCode::Right => self.sort = self.sort.step(1),
            KeyCode::BackTab | KeyCode::Left => self.sort = self.sort.step(Sort::ALL.len() - 1),
            KeyCode::Down => self.scroll = (self.scroll + 1).min(self.picture.talkers.len().saturating_sub(1)),
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            _ => return Act::Stay,
        }
        self.sort_picture();
        Act::Stay
    }

    fn sort_picture(&mut self) {
        self.sort.apply(&mut self.picture.talkers);
        sort_denials(&mut self.picture.denials);
        self.scroll = self.scroll.min(self.picture.talkers.len().saturating_sub(1));
    }

    /// Draws it, in whatever room there is.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, numbers, body, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(self.numbers(), numbers);
        self.body(frame, body);
        let paused = if self.paused { "  PAUSED" } else { "" };
        frame.render_widget(Line::from(format!("{KEYS}{paused}")).dim(), keys);
    }

    fn head(&self) -> Line<'_> {
        let mut spans = vec![" seventh top ".bold(), Span::raw(self.source.as_str())];
        if let Some(trouble) = &self.trouble {
            spans.push(format!("  {trouble}").red().bold());
        }
        Line::from(spans)
    }

    fn numbers(&self) -> Line<'_> {
        let Picture { counts, span, lost, .. } = &self.picture;
        let mut spans = Vec::new();
        for (name, count) in [
            ("flows", counts.flows),
            ("http", counts.http),
            ("dns", counts.dns),
            ("tls", counts.tls),
            ("denied", counts.denied),
            ("audited", counts.audited),
        ] {
            spans.push(Span::raw(format!(" {name}/s ")).dim());
            spans.push(per_second(count, *span).bold());
            spans.push(Span::raw(" "));
        }
        let lost = Span::raw(format!(" lost events {lost}"));
        spans.push(if self.picture.lost > 0 {
            lost.yellow()
        } else {
            lost.dim()
        });
        Line::from(spans)
    }

    fn body(&self, frame: &mut Frame<'_>, area: Rect) {
        let [left, right] = if area.width >= WIDE {
            Layout::horizontal([Constraint::Percentage(58), Constraint::Percentage(42)]).areas(area)
        } else {
            Layout::vertical([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(area)
        };
        frame.render_widget(self.talkers(), left);
        let latencies = u16::try_from(self.picture.latencies.len()).unwrap_or(u16::MAX);
        let [upper, lower] =
            Layout::vertical([Constraint::Length(latencies.saturating_add(3)), Constraint::Min(0)]).areas(right);
        frame.render_widget(self.latencies(), upper);
        frame.render_widget(self.denials(), lower);
    }

    fn talkers(&self) -> Table<'_> {
        let span = self.picture.span;
        let rows = self.picture.talkers.iter().skip(self.scroll).map(|talker| {
            let numbers = [talker.talk.flows, talker.talk.requests, talker.talk.denied];
            let pair = format!("{} -> {}", talker.source, talker.destination);
            row(pair, &numbers.map(|number| per_second(number, span)))
        });
        let title = match self.picture.other_talkers {
            0 => " Talkers ".to_owned(),
            others => format!(" Talkers (without {others} flows of others) "),
        };
        let head = [
            ("FLOWS/S", Sort::Flows),
            ("REQS/S", Sort::Requests),
            ("DENIED/S", Sort::Denied),
        ];
        let mut cells = vec![Cell::from(self.heading("ENDPOINTS", Sort::Name))];
        cells.extend(head.map(|(name, sort)| Cell::from(self.heading(name, sort).alignment(Alignment::Right))));
        let [a, b, c] = TALKER_NUMBERS;
        Table::new(rows, [Constraint::Min(20), a, b, c])
            .header(Row::new(cells))
            .block(Block::bordered().title(title))
    }

    fn heading(&self, name: &'static str, sort: Sort) -> Line<'static> {
        let style = if self.sort == sort {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new().bold()
        };
        Line::from(Span::styled(name, style))
    }

    fn latencies(&self) -> Table<'_> {
        let rows = self.picture.latencies.iter().map(|latency| {
            let [what, numbers @ ..] = latency_row(latency, self.picture.span);
            row(what, &numbers)
        });
        let head = row("LATENCY".to_owned(), &["PER S", "P50", "P99"].map(str::to_owned)).bold();
        let [a, b, c] = TALKER_NUMBERS;
        Table::new(rows, [Constraint::Min(12), a, b, c])
            .header(head)
            .block(Block::bordered().title(" Requests "))
    }

    fn denials(&self) -> Table<'_> {
        let span = self.picture.span;
        let rows = self.picture.denials.iter().map(|denial| {
            let numbers = [per_second(denial.now, span), denial.total.to_string()];
            row(format!("{}  {}", denial.policy, denial.reason), &numbers)
        });
        let title = match self.picture.other_denials {
            0 => " Denials ".to_owned(),
            others => format!(" Denials (without {others} others) "),
        };
        let head = row("POLICY  REASON".to_owned(), &["PER S", "TOTAL"].map(str::to_owned)).bold();
        Table::new(
            rows,
            [Constraint::Min(20), Constraint::Length(10), Constraint::Length(10)],
        )
        .header(head)
        .block(Block::bordered().title(title))
    }
}

/// A name, and numbers on the right.
fn row(name: String, numbers: &[String]) -> Row<'static> {
    let numbers = numbers.iter().map(|number| {
        let line = Line::from(number.clone());
        Cell::from(line.alignment(Alignment::Right))
    });
    Row::new([Cell::from(name)].into_iter().chain(numbers))
}
