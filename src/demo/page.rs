//! The live page, as a function of what is known.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table as TableWidget};

use super::meter::Reading;
use crate::cli::VERSION;
use crate::cli::number::{bytes, grouped, millis};
use crate::cli::table::{Kind, Table};

/// How many readings the curve shows.
pub const HISTORY: usize = 240;

/// All that the page shows.
#[derive(Debug, Clone)]
pub struct Page {
    pub elapsed: Duration,
    /// When it ends by itself.
    pub ends_after: Option<Duration>,
    pub events_total: u64,
    pub recent: Reading,
    /// Events per second, of old.
    pub history: VecDeque<u64>,
    /// A query, and its answer of a moment ago.
    pub query: &'static str,
    pub answer: Result<Table, String>,
    pub psql: String,
    pub http: Option<String>,
}

impl Page {
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let n_pipelines = self.recent.pipelines.len() as u16;
        let n_failures = self.recent.failures.len() as u16;
        let areas = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(6),
            Constraint::Length(n_pipelines + 3),
            Constraint::Min(4),
            Constraint::Length(n_failures),
            Constraint::Length(2),
        ]);
        let [title, stream, pipelines, answer, failures, footer] = areas.areas(frame.area());
        self.draw_title(frame, title);
        self.draw_stream(frame, stream);
        self.draw_pipelines(frame, pipelines);
        self.draw_answer(frame, answer);
        let lines: Vec<Line<'_>> =
            self.recent.failures.iter().map(|failure| failure.as_str().red().into()).collect();
        frame.render_widget(Paragraph::new(lines), failures);
        self.draw_footer(frame, footer);
    }

    fn draw_title(&self, frame: &mut Frame<'_>, area: Rect) {
        let clock = |time: Duration| format!("{:02}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
        let time = match self.ends_after {
            Some(end) => format!("{} of {}", clock(self.elapsed), clock(end)),
            None => clock(self.elapsed),
        };
        let title = Line::from(vec![
            Span::styled(format!(" Tidemill {VERSION} "), Style::new().bold().fg(Color::Cyan)),
            "an auction site, and questions about it that stay answered".dim(),
        ]);
        frame.render_widget(title, area);
        frame.render_widget(Line::from(format!("{time}  q quits ")).right_aligned(), area);
    }

    fn draw_stream(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = block("stream");
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [numbers, more, curve] =
            Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(1)]).areas(inner);
        let recent = &self.recent;
        let fact =
            |name: &'static str, value: String| [format!("{name} ").dim(), value.bold(), Span::raw("    ")];
        let first = [
            fact("events/s", grouped(recent.events_per_second())),
            fact("epochs/s", grouped(recent.epochs_per_second())),
            fact("row to view p50", millis(recent.latency_p50)),
            fact("p99", millis(recent.latency_p99)),
        ];
        let second = [
            fact("events", grouped(self.events_total)),
            fact("epoch", grouped(recent.epoch.0)),
            fact("state", bytes(recent.state_bytes)),
        ];
        frame.render_widget(Line::from(first.concat()), numbers);
        frame.render_widget(Line::from(second.concat()), more);
        let n_skipped = self.history.len().saturating_sub(curve.width as usize);
        let shown = self.history.iter().skip(n_skipped).copied();
        frame.render_widget(Sparkline::default().data(shown).style(Style::new().fg(Color::Cyan)), curve);
    }

    fn draw_pipelines(&self, frame: &mut Frame<'_>, area: Rect) {
        let recent = &self.recent;
        let header = ["pipeline", "state", "rows in/s", "changes/s", "memory", "p50", "p99"];
        let rows = recent.pipelines.iter().map(|pipeline| {
            let style = match pipeline.state {
                "FAILED" => Style::new().fg(Color::Red),
                "FILLING" | "PAUSED" | "RESTARTING" => Style::new().fg(Color::Yellow),
                _ => Style::new(),
            };
            let cells = [
                pipeline.name.clone(),
                pipeline.state.to_lowercase(),
                format!("{:>10}", grouped(recent.per_second(pipeline.rows_in))),
                format!("{:>10}", grouped(recent.per_second(pipeline.rows_out))),
                format!("{:>10}", bytes(pipeline.state_bytes)),
                format!("{:>8}", millis(pipeline.latency_p50)),
                format!("{:>8}", millis(pipeline.latency_p99)),
            ];
            Row::new(cells).style(style)
        });
        let header = header.into_iter().enumerate().map(|(idx, name)| match idx {
            0 | 1 => name.to_owned(),
            2..=4 => format!("{name:>10}"),
            _ => format!("{name:>8}"),
        });
        let widths = [
            Constraint::Fill(1),
            Constraint::Length(8),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(8),
            Constraint::Length(8),
        ];
        let header = Row::new(header).style(Style::new().add_modifier(Modifier::DIM));
        frame.render_widget(TableWidget::new(rows, widths).header(header).block(block("pipelines")), area);
    }

    fn draw_answer(&self, frame: &mut Frame<'_>, area: Rect) {
        let block = block(self.query);
        let table = match &self.answer {
            Ok(table) => table,
            Err(error) => {
                frame.render_widget(Paragraph::new(error.as_str()).block(block), area);
                return;
            }
        };
        let cell = |kind: Kind, text: &str| match kind {
            Kind::Number => format!("{text:>14}"),
            _ => text.to_owned(),
        };
        let header = table.columns.iter().map(|(name, kind)| cell(*kind, name));
        let rows = table.rows.iter().map(|row| {
            let cells = row.iter().zip(&table.columns);
            Row::new(cells.map(|(value, (_, kind))| cell(*kind, value.as_deref().unwrap_or("NULL"))))
        });
        let widths = table.columns.iter().map(|(_, kind)| match kind {
            Kind::Number => Constraint::Length(14),
            _ => Constraint::Max(20),
        });
        let header = Row::new(header).style(Style::new().add_modifier(Modifier::DIM));
        frame.render_widget(TableWidget::new(rows, widths).header(header).block(block), area);
    }

    fn draw_footer(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut lines = vec![Line::from(vec![" try   ".dim(), self.psql.as_str().bold()])];
        lines.extend(
            self.http.as_ref().map(|http| Line::from(vec![" see   ".dim(), format!("{http}metrics").into()])),
        );
        frame.render_widget(Paragraph::new(lines), area);
    }
}

fn block(title: &str) -> Block<'_> {
    Block::bordered().border_style(Style::new().add_modifier(Modifier::DIM)).title(format!(" {title} "))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use tidemill_core::Epoch;

    use super::*;
    use crate::demo::meter::PipelineReading;

    fn example() -> Page {
        let pipeline = PipelineReading {
            name: "hot_auctions".into(),
            state: "RUNNING",
            rows_in: 138_000,
            rows_out: 3_000,
            state_bytes: 3 << 20,
            latency_p50: Duration::from_micros(3_100),
            latency_p99: Duration::from_millis(8),
        };
        Page {
            elapsed: Duration::from_secs(12),
            ends_after: Some(Duration::from_secs(90)),
            events_total: 601_234,
            recent: Reading {
                seconds: 3.0,
                events: 150_000,
                epochs: 294,
                epoch: Epoch(1_181),
                latency_p50: Duration::from_micros(3_100),
                latency_p99: Duration::from_millis(8),
                state_bytes: 4 << 20,
                pipelines: vec![pipeline.clone(), PipelineReading { name: "prices".into(), ..pipeline }],
                failures: vec!["source \"bid\" has failed: no".into()],
            },
            history: (0..100).collect(),
            query: "SELECT 1",
            answer: Ok(Table::from_text(
                vec!["state".into(), "auctions".into()],
                vec![vec![Some("CA".into()), Some("42".into())], vec![None, Some("7".into())]],
            )),
            psql: "psql postgres://tidemill@127.0.0.1:7432/tidemill".into(),
            http: Some("http://127.0.0.1:7433/".into()),
        }
    }

    fn drawn(page: &Page, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| page.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn the_page_shows_what_happens() {
        let lines = drawn(&example(), 100, 22);
        let text = lines.join("\n");
        for expected in [
            "00:12 of 01:30",
            "events/s 50,000    epochs/s 98    row to view p50 3.1 ms    p99 8.0 ms",
            "events 601,234    epoch 1,181    state 4.0 MiB",
            "hot_auctions",
            "running      46,000      1,000    3.0 MiB   3.1 ms   8.0 ms",
            " SELECT 1 ",
            "source \"bid\" has failed: no",
            " try   psql postgres://tidemill@127.0.0.1:7432/tidemill",
            " see   http://127.0.0.1:7433/metrics",
        ] {
            assert!(text.contains(expected), "{expected}\n\n{text}");
        }
        assert!(lines[0].starts_with(&format!(" Tidemill {VERSION} ")) && lines[0].ends_with("q quits"));
        assert!(lines.iter().any(|line| line.contains("CA ") && line.contains(" 42")), "{text}");
        assert!(lines.iter().any(|line| line.contains("NULL ") && line.contains(" 7")), "{text}");
    }

    #[test]
    fn errors_and_small_terminals_are_survived() {
        let failed = Page { answer: Err("relation does not exist".into()), ..example() };
        assert!(drawn(&failed, 100, 22).join("\n").contains("relation does not exist"));
        for (width, height) in [(1, 1), (10, 3), (30, 8), (300, 100)] {
            drawn(&example(), width, height);
        }
    }
}
