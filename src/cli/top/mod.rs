//! `nats-rerank top`: the workers of a service, live, as they answer `$SRV.STATS`.
//!
//! A caller like any other: it speaks to workers over NATS only.

mod ask;
mod columns;
mod roll;
mod show;
mod stats;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::terminal::{
    Clear, ClearType, DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{execute, queue};

use super::{CallerFlags, CliError, Global, output_width, print};
use ask::Asker;
use roll::Roll;
use show::Page;

/// Flags of `nats-rerank top`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often the workers are asked, in milliseconds, and how long one may take to answer
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    interval_ms: u64,

    /// Show one table and end. Takes one interval, since rates are differences
    #[arg(long)]
    once: bool,

    /// How to show the workers
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    #[command(flatten)]
    settings: CallerFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people: on a terminal in place, else one table after the other
    Table,
    /// For programs: a line of JSON each time
    Json,
}

/// Shows the workers until it is stopped, or once.
///
/// # Errors
/// Settings that will not do, no connection, or, asked once, no worker.
pub fn run(args: &Args, global: &Global) -> Result<(), CliError> {
    let config = global.load_with(args.settings.flags())?.config;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(async {
        let asker = Asker::connect(
            &config.nats.connection(),
            &config.nats.service_name,
            args.settings.subject.clone(),
        )
        .await?;
        let mut top = Top {
            asker,
            roll: Roll::new(Duration::from_millis(args.interval_ms)),
            service: config.nats.service_name.clone(),
            interval: Duration::from_millis(args.interval_ms),
            format: args.format,
        };
        if args.once {
            return top.once().await;
        }
        tokio::select! {
            ended = top.watch() => ended,
            // Stopping is how it ends: no failure.
            () = stopped() => Ok(()),
        }
    })
}

struct Top {
    asker: Asker,
    roll: Roll,
    service: String,
    interval: Duration,
    format: Format,
}

impl Top {
    async fn once(&mut self) -> Result<(), CliError> {
        self.asker.round(&mut self.roll, self.interval, false).await?;
        if !self.roll.rows().is_empty() {
            self.asker.round(&mut self.roll, self.interval, true).await?;
        }
        let page = self.page();
        if page.workers.is_empty() {
            if self.format == Format::Json {
                print(&page.json())?;
            }
            let complaint = page
                .complaint
                .map_or_else(String::new, |complaint| format!("NOTE: {complaint}\n"));
            return Err(CliError::Failed(format!(
                "{complaint}{}",
                show::nobody(&self.service).trim_end()
            )));
        }
        print(&match self.format {
            Format::Json => page.json(),
            Format::Table => page.table(color(), output_width()),
        })
    }

    async fn watch(&mut self) -> Result<(), CliError> {
        let mut screen = match self.format {
            Format::Table if io::stdout().is_terminal() => Some(Screen::open()?),
            _ => None,
        };
        loop {
            let started = Instant::now();
            self.asker.round(&mut self.roll, self.interval, true).await?;
            let page = self.page();
            match (&mut screen, self.format) {
                (Some(screen), _) => screen.draw(&page.table(color(), output_width()))?,
                (None, Format::Table) => print(&page.table(false, output_width()))?,
                (None, Format::Json) => print(&page.json())?,
            }
            tokio::time::sleep_until((started + self.interval).into()).await;
        }
    }

    fn page(&self) -> Page<'_> {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Page {
            time_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            service: &self.service,
            workers: self.roll.rows(),
            workers_left_out: self.roll.beyond(),
            complaint: self.asker.complaint(),
        }
    }
}

fn color() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Ends when the user or a supervisor wants it to.
async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// The terminal's other screen, without a cursor; dropped, the terminal is as it was.
struct Screen;

impl Screen {
    fn open() -> Result<Screen, CliError> {
        // Made first: what is half open is closed again.
        let screen = Screen;
        execute!(io::stdout(), EnterAlternateScreen, Hide, DisableLineWrap).map_err(super::output_error)?;
        Ok(screen)
    }

    /// Draws over what was there, as far as there is room.
    fn draw(&mut self, page: &str) -> Result<(), CliError> {
        let rows = crossterm::terminal::size().map_or(usize::MAX, |(_, rows)| usize::from(rows));
        let mut stdout = io::stdout().lock();
        let mut write = || {
            queue!(stdout, MoveTo(0, 0))?;
            for line in page.lines().take(rows.saturating_sub(1)) {
                write!(stdout, "{line}")?;
                queue!(stdout, Clear(ClearType::UntilNewLine))?;
                writeln!(stdout)?;
            }
            queue!(stdout, Clear(ClearType::FromCursorDown))?;
            stdout.flush()
        };
        write().map_err(super::output_error)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), EnableLineWrap, Show, LeaveAlternateScreen);
    }
}
