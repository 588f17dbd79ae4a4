//! `tidemill shell`: a prompt, a statement or a file, sent to a server over the wire.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use futures::{StreamExt, pin_mut};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tidemill_core::SqlState;
use tidemill_sql::parser::split_statements;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use super::report::{Origin, Problem};
use super::table::{Format, Table};
use super::{Failure, VERSION, file_name, print, read_statements};
use crate::session::api::SqlError;

const HELP: &str = "\
Statements end with a semicolon. Ctrl-C cancels one that runs.
  \\q               leave (or Ctrl-D)
  \\timing          show how long statements take, or not
  \\format FORMAT   table or csv
  \\i FILE          run a file
  \\conninfo        where this is connected to
  \\?               this text
SHOW SOURCES, SHOW PIPELINES, SHOW SINKS and DESCRIBE name tell what there is; psql has \\d.
";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemill shell
  tidemill shell postgres://tidemill@127.0.0.1:7432/tidemill
  tidemill shell -c 'SELECT * FROM bids ORDER BY 2 DESC LIMIT 5'
  tidemill shell -f migration.sql
  echo 'SHOW PIPELINES;' | tidemill shell --format csv

Without a URL the server is PGHOST, PGPORT, PGUSER, PGDATABASE and PGPASSWORD, by default
tidemill@127.0.0.1:7432/tidemill. -c and -f end at the first error with 1; 3 says that no server answers.")]
pub struct Shell {
    /// postgres://user@host:port/database
    url: Option<String>,
    /// Run these statements and leave
    #[arg(short = 'c', long = "command", value_name = "SQL", conflicts_with = "file")]
    command: Option<String>,
    /// Run this file and leave; - for the standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<String>,
    /// How rows are printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

impl Shell {
    pub fn run(self, runtime: &Runtime) -> Result<(), Failure> {
        if self.format == Format::Json {
            let error = SqlError::new(SqlState::INVALID_PARAMETER, "the shell does not write JSON");
            return Err(Failure::Usage(
                error.with_hint("Use --format csv, or \"tidemill run --format json\"."),
            ));
        }
        let config = connection(self.url.as_deref(), |name| std::env::var(name).ok())?;
        let (client, notices) = connect(runtime, &config)?;
        let mut session =
            Session { runtime, config, client, notices, format: self.format, has_timing: false };
        match (&self.command, &self.file) {
            (Some(sql), _) => session.run_all(None, sql),
            (None, Some(file)) => session.run_all(Some(file_name(file)), &read_statements(file)?),
            (None, None) if std::io::stdin().is_terminal() => session.prompt(),
            (None, None) => session.run_all(Some(file_name("-")), &read_statements("-")?),
        }
    }
}

/// Where to connect to: the URL, over `PG*`, over the defaults.
pub(super) fn connection(
    url: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<tokio_postgres::Config, Failure> {
    let wrong = |what: String| {
        let error = SqlError::new(SqlState::INVALID_PARAMETER, what);
        Failure::Usage(error.with_hint("Write postgres://tidemill@127.0.0.1:7432/tidemill."))
    };
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let port = match variable("PGPORT") {
        Some(port) => port.parse().map_err(|_| wrong(format!("invalid PGPORT \"{port}\"")))?,
        None => 7432,
    };
    let mut config = match url {
        Some(url) => {
            with_port(url, port).parse().map_err(|error| wrong(format!("invalid URL \"{url}\": {error}")))?
        }
        None => tokio_postgres::Config::new(),
    };
    if config.get_hosts().is_empty() {
        config.host(variable("PGHOST").as_deref().unwrap_or("127.0.0.1"));
    }
    if config.get_ports().is_empty() {
        config.port(port);
    }
    if config.get_user().is_none() {
        config.user(variable("PGUSER").as_deref().unwrap_or("tidemill"));
    }
    if config.get_dbname().is_none() {
        config.dbname(variable("PGDATABASE").as_deref().unwrap_or("tidemill"));
    }
    if let (None, Some(password)) = (config.get_password(), variable("PGPASSWORD")) {
        config.password(password);
    }
    config.application_name("tidemill shell");
    config.connect_timeout(Duration::from_secs(5));
    Ok(config)
}

/// The URL with a port, which the client library would otherwise take to be PostgreSQL's.
fn with_port(url: &str, port: u16) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.rsplit_once(']').map_or(host, |(_, after)| after) {
        after if host.is_empty() || after.contains([':', ',']) => url.to_owned(),
        _ => format!("{scheme}://{authority}:{port}{path}"),
    }
}

pub(super) type Connection = (Client, mpsc::UnboundedReceiver<DbError>);

pub(super) fn connect(runtime: &Runtime, config: &tokio_postgres::Config) -> Result<Connection, Failure> {
    let (client, mut connection) = runtime.block_on(config.connect(NoTls)).map_err(|error| {
        let reason = match error.as_db_error() {
            Some(error) => error.message().to_owned(),
            // Its text names the kind, its source the reason.
            None => std::error::Error::source(&error).map_or(error.to_string(), |source| source.to_string()),
        };
        let message = format!("cannot connect to {}: {reason}", address(config));
        let error = SqlError::new(SqlState::CONNECTION_FAILURE, message);
        Failure::NotConnected(
            error.with_hint("Start a server with \"tidemill start\", or name one by its URL."),
        )
    })?;
    let (sender, notices) = mpsc::unbounded_channel();
    runtime.spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message
                && sender.send(notice).is_err()
            {
                return;
            }
        }
    });
    Ok((client, notices))
}

pub(super) fn address(config: &tokio_postgres::Config) -> String {
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
        Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    let port = config.get_ports().first().copied().unwrap_or_default();
    format!("{host}:{port}")
}

struct Session<'a> {
    runtime: &'a Runtime,
    config: tokio_postgres::Config,
    client: Client,
    notices: mpsc::UnboundedReceiver<DbError>,
    format: Format,
    has_timing: bool,
}

impl Session<'_> {
    /// All statements of a text, up to the first error.
    fn run_all(&mut self, file: Option<&str>, text: &str) -> Result<(), Failure> {
        let statements = split_statements(text).map_err(|error| {
            eprint!("{}", Origin { file, text, offset: 0 }.error(&SqlError::from(error)));
            Failure::Reported
        })?;
        for (offset, sql) in &statements {
            self.statement(Origin { file, text, offset: *offset }, sql)?;
        }
        Ok(())
    }

    fn prompt(&mut self) -> Result<(), Failure> {
        let failed = |error: ReadlineError| {
            Failure::Error(SqlError::new(SqlState::IO_ERROR, format!("cannot read the terminal: {error}")))
        };
        let mut editor = DefaultEditor::new().map_err(failed)?;
        let history = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".tidemill_history"));
        // Without a history there is one from now on.
        let _ = history.as_ref().map(|history| editor.load_history(history));
        print(&format!(
            "Tidemill {VERSION}, connected to {}. \\? helps, \\q leaves.\n",
            address(&self.config)
        ));
        let mut buffer = String::new();
        loop {
            let line = match editor.readline(if buffer.is_empty() { "tidemill=> " } else { "tidemill-> " }) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => {
                    buffer.clear();
                    continue;
                }
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(failed(error)),
            };
            if buffer.is_empty() && line.trim_start().starts_with('\\') {
                // That it is not kept is no reason to stop.
                let _ = editor.add_history_entry(line.trim());
                match self.command(line.trim()) {
                    Next::Line => continue,
                    Next::Leave => break,
                }
            }
            buffer += &line;
            buffer.push('\n');
            if !is_complete(&buffer) {
                continue;
            }
            let text = std::mem::take(&mut buffer);
            let _ = editor.add_history_entry(text.trim_end());
            self.reconnect_if_closed();
            // It has been reported, and the next one may do better.
            let _ = self.run_all(None, &text);
        }
        if let Some(history) = history
            && let Err(error) = editor.save_history(&history)
        {
            eprintln!("cannot write \"{}\": {error}", history.display());
        }
        Ok(())
    }

    fn command(&mut self, line: &str) -> Next {
        let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim().trim_end_matches(';');
        match command.trim_end_matches(';') {
            "\\q" | "\\quit" => return Next::Leave,
            "\\?" | "\\h" | "\\help" => print(HELP),
            "\\timing" => {
                self.has_timing = !self.has_timing;
                print(&format!("Timing is {}.\n", if self.has_timing { "on" } else { "off" }));
            }
            "\\format" if argument == "csv" => self.format = Format::Csv,
            "\\format" if argument == "table" || argument == "aligned" => self.format = Format::Table,
            "\\format" => eprintln!("\\format takes table or csv"),
            "\\conninfo" => print(&format!(
                "Connected to {} as \"{}\", database \"{}\".\n",
                address(&self.config),
                self.config.get_user().unwrap_or_default(),
                self.config.get_dbname().unwrap_or_default()
            )),
            "\\i" if !argument.is_empty() => match read_statements(argument) {
                Ok(text) => {
                    self.reconnect_if_closed();
                    // It has been reported.
                    let _ = self.run_all(Some(argument), &text);
                }
                Err(Failure::Error(error)) => eprintln!("{error}"),
                Err(_) => (),
            },
            unknown => eprintln!("unknown command {unknown}; \\? lists those there are"),
        }
        Next::Line
    }

    fn reconnect_if_closed(&mut self) {
        if !self.client.is_closed() {
            return;
        }
        match connect(self.runtime, &self.config) {
            Ok((client, notices)) => {
                eprintln!("The connection was lost; this is a new one, with none of its settings.");
                (self.client, self.notices) = (client, notices);
            }
            Err(Failure::NotConnected(error)) => eprintln!("{error}"),
            Err(_) => (),
        }
    }

    fn statement(&mut self, origin: Origin<'_>, sql: &str) -> Result<(), Failure> {
        if first_words(sql).starts_with("COPY") {
            eprintln!("ERROR:  the shell does not copy\nHINT:  Use psql, which has \\copy as well.");
            return Err(Failure::Reported);
        }
        let began = Instant::now();
        let result = self.runtime.block_on(execute(&self.client, sql, self.format));
        while let Ok(notice) = self.notices.try_recv() {
            eprintln!("{}:  {}", notice.severity(), notice.message());
            if let Some(hint) = notice.hint() {
                eprintln!("HINT:  {hint}");
            }
        }
        let error = match result {
            Ok(()) => {
                if self.has_timing {
                    print(&format!("Time: {:.3} ms\n", began.elapsed().as_secs_f64() * 1e3));
                }
                return Ok(());
            }
            Err(error) => error,
        };
        match error.as_db_error() {
            Some(error) => {
                eprint!("{}", origin.error(Problem::from(error)));
                Err(Failure::Reported)
            }
            None => {
                let message = format!("the connection to {} was lost: {error}", address(&self.config));
                let error = SqlError::new(SqlState::CONNECTION_FAILURE, message);
                match origin.file.is_none() && std::io::stdin().is_terminal() {
                    true => {
                        eprintln!("{error}");
                        Err(Failure::Reported)
                    }
                    false => Err(Failure::NotConnected(error)),
                }
            }
        }
    }
}

enum Next {
    Line,
    Leave,
}

/// Runs one statement and prints what comes. Ctrl-C cancels it.
async fn execute(client: &Client, sql: &str, format: Format) -> Result<(), tokio_postgres::Error> {
    let messages = client.simple_query_raw(sql).await?;
    pin_mut!(messages);
    // An endless answer is printed as it comes, so without knowing how wide its columns get.
    let is_endless = first_words(sql).starts_with("SUBSCRIBE");
    let mut names: Option<Vec<String>> = None;
    let mut rows = Vec::new();
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            Ok(()) = tokio::signal::ctrl_c() => {
                client.cancel_token().cancel_query(NoTls).await?;
                continue;
            }
        };
        match message.transpose()? {
            None => return Ok(()),
            Some(SimpleQueryMessage::RowDescription(columns)) => {
                let columns: Vec<String> = columns.iter().map(|column| column.name().to_owned()).collect();
                if is_endless {
                    print(&format!("{}\n", columns.join(" | ")));
                }
                names = Some(columns);
            }
            Some(SimpleQueryMessage::Row(row)) => {
                let values = (0..row.len()).map(|idx| row.get(idx).map(str::to_owned));
                if is_endless {
                    let values: Vec<String> = values.map(Option::unwrap_or_default).collect();
                    print(&format!("{}\n", values.join(" | ")));
                } else {
                    rows.push(values.collect());
                }
            }
            Some(SimpleQueryMessage::CommandComplete(n_rows)) => match names.take() {
                Some(_) if is_endless => (),
                Some(names) => print(&Table::from_text(names, std::mem::take(&mut rows)).render(format)),
                None if format == Format::Table => print(&format!("{}\n", tag(sql, n_rows))),
                None => (),
            },
            // Kinds that later versions of the client may know.
            Some(_) => (),
        }
    }
}

/// The tag of a statement that returns no rows: the client library keeps only its number.
fn tag(sql: &str, n_rows: u64) -> String {
    let words = first_words(sql);
    let mut words = words.split(' ');
    let first = words.next().unwrap_or_default();
    match first {
        "INSERT" => format!("INSERT 0 {n_rows}"),
        "UPDATE" | "DELETE" => format!("{first} {n_rows}"),
        "CREATE" | "DROP" | "ALTER" => {
            let kind = words.find(|word| !["OR", "REPLACE", "MATERIALIZED"].contains(word));
            format!("{first} {}", kind.unwrap_or_default())
        }
        _ => first.to_owned(),
    }
}

/// The first words in upper case, as far as they are words.
fn first_words(sql: &str) -> String {
    let words = sql.split_whitespace().take(4).map(str::to_uppercase);
    words.take_while(|word| word.chars().all(|c| c.is_ascii_alphabetic())).collect::<Vec<_>>().join(" ")
}

/// Whether the last statement of what was typed has its semicolon.
///
/// Found by asking the tokenizer: a word put behind is a statement of its own, or it is not.
fn is_complete(buffer: &str) -> bool {
    match split_statements(&format!("{buffer}\nx")) {
        Ok(statements) => statements.last().is_some_and(|(_, sql)| sql == "x"),
        Err(error) => !error.to_string().starts_with("unterminated") && buffer.trim_end().ends_with(';'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_complete_with_their_semicolon() {
        for complete in
            ["SELECT 1;", "SELECT 1; SELECT 2;\n", "SELECT ';';", "SELECT 1; -- one", "-- nothing\n"]
        {
            assert!(is_complete(complete), "{complete}");
        }
        for open in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT 2", "SELECT 1 -- ;", "SELECT $$ ; ", "/* ;"] {
            assert!(!is_complete(open), "{open}");
        }
    }

    #[test]
    fn tags_are_those_of_the_server() {
        assert_eq!(tag("insert into t values (1)", 1), "INSERT 0 1");
        assert_eq!(tag("DELETE FROM t", 3), "DELETE 3");
        assert_eq!(tag("create or replace pipeline p as select 1", 0), "CREATE PIPELINE");
        assert_eq!(tag("CREATE SOURCE s(x INT)", 0), "CREATE SOURCE");
        assert_eq!(tag("BEGIN", 0), "BEGIN");
    }

    #[test]
    fn urls_beat_variables_beat_defaults() {
        let shown = |url: Option<&str>, variables: &[(&str, &str)]| {
            let find =
                |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into());
            let Ok(config) = connection(url, find) else { return "wrong".into() };
            format!("{}@{}/{}", config.get_user().unwrap(), address(&config), config.get_dbname().unwrap())
        };
        assert_eq!(shown(None, &[]), "tidemill@127.0.0.1:7432/tidemill");
        let variables = [("PGHOST", "db"), ("PGPORT", "99"), ("PGUSER", "me"), ("PGDATABASE", "")];
        assert_eq!(shown(None, &variables), "me@db:99/tidemill");
        assert_eq!(shown(Some("postgres://you@there/other"), &variables), "you@there:99/other");
        assert_eq!(shown(Some("postgres://you:secret@there"), &[]), "you@there:7432/tidemill");
        assert_eq!(shown(Some("postgres://there:5/x?user=a"), &[]), "a@there:5/x");
        assert_eq!(shown(Some("postgres://[::1]/x"), &[]), "tidemill@::1:7432/x");
        assert_eq!(shown(Some("postgres:///x"), &[]), "tidemill@127.0.0.1:7432/x");
        assert_eq!(shown(None, &[("PGPORT", "x")]), "wrong");
        assert_eq!(shown(Some("mysql://x"), &[]), "wrong");
    }

    #[test]
    fn without_a_server_the_exit_code_is_3() {
        let runtime = Runtime::new().unwrap();
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = connection(Some(&format!("postgres://127.0.0.1:{port}/tidemill")), |_| None).unwrap();
        match connect(&runtime, &config) {
            Err(Failure::NotConnected(error)) => {
                assert!(error.message.contains("refused"), "{}", error.message);
                assert!(error.hint.unwrap().contains("tidemill start"));
            }
            _ => panic!("connected to nothing"),
        };
    }
}
