//! A server process of the test's own: started, stopped, killed and started again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Longer than any start should take, in a debug build on a machine that does something else too.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Longer than anything that a test waits for.
pub const TIMEOUT: Duration = Duration::from_secs(180);

/// A running `tidemill start`.
pub struct Server {
    directory: PathBuf,
    data: String,
    variables: Vec<(String, String)>,
    working_directory: PathBuf,
    args: Vec<String>,
    process: Option<Child>,
    /// `127.0.0.1:port` of the Postgres protocol.
    pub sql: String,
    /// `127.0.0.1:port` of HTTP.
    pub http: String,
}

impl Server {
    /// A server whose data, log and ready file are under `directory`.
    pub async fn start(directory: &Path) -> Server {
        Server::start_with(directory, &[]).await
    }

    /// A server with more arguments behind `start`.
    pub async fn start_with(directory: &Path, args: &[&str]) -> Server {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Server::start_in(root, directory, args).await
    }

    /// A server that sees relative paths from a directory other than the repository's root.
    pub async fn start_in(working_directory: &Path, directory: &Path, args: &[&str]) -> Server {
        let data = directory.join("data").display().to_string();
        let mut server = Server {
            directory: directory.to_owned(),
            data,
            variables: Vec::new(),
            working_directory: working_directory.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            process: None,
            sql: String::new(),
            http: String::new(),
        };
        server.spawn().await;
        server
    }

    /// A server with its data elsewhere, in an environment with more variables.
    pub async fn start_on(directory: &Path, data: &str, variables: &[(&str, &str)]) -> Server {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut server = Server {
            directory: directory.to_owned(),
            data: data.to_owned(),
            variables: variables.iter().map(owned).collect(),
            working_directory: directory.to_owned(),
            args: Vec::new(),
            process: None,
            sql: String::new(),
            http: String::new(),
        };
        server.spawn().await;
        server
    }

    /// Starts a process on the directory, and returns when it is ready.
    async fn spawn(&mut self) {
        if let Err(status) = self.try_spawn().await {
            panic!("the server ended with {status} while starting:\n{}", self.log_tail());
        }
    }

    /// The same for one that may end before it is ready.
    async fn try_spawn(&mut self) -> Result<(), ExitStatus> {
        assert!(self.process.is_none(), "the server runs already");
        let ready = self.directory.join("ready.json");
        // What an earlier process left would be taken for this one's.
        let _ = fs::remove_file(&ready);
        let log =
            File::options().create(true).append(true).open(self.log_path()).expect("the log can be written");
        let output = log.try_clone().expect("the log's handle can be cloned");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        for (name, _) in std::env::vars() {
            if name.starts_with("TIDEMILL_") {
                command.env_remove(name);
            }
        }
        let process = command
            .arg("start")
            .args(["--data", &self.data])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--ready-file"])
            .arg(&ready)
            .args(&self.args)
            .current_dir(&self.working_directory)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .spawn()
            .expect("the server's binary can be run");
        self.process = Some(process);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            // The file is renamed into place or half written; half of it does not parse.
            let content = fs::read(&ready).unwrap_or_default();
            if let Ok(content) = serde_json::from_slice::<serde_json::Value>(&content) {
                self.sql = content["sql"].as_str().expect("the ready file has \"sql\"").to_owned();
                self.http = content["http"].as_str().expect("the ready file has \"http\"").to_owned();
                assert_eq!(
                    content["pid"].as_u64(),
                    Some(u64::from(self.pid())),
                    "the ready file is of this process"
                );
                return Ok(());
            }
            let process = self.process.as_mut().expect("spawned above");
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                self.process = None;
                return Err(status);
            }
            assert!(Instant::now() < deadline, "the server is not ready in time:\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// `kill -9`: the process gets to do nothing more.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().expect("a child can be killed");
        process.wait().expect("a child can be waited for");
    }

    /// `kill -9`, then a new process on the same directory.
    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.spawn().await;
    }

    /// Kills the process and starts one that aborts when it passes a place for the `nth` time; `ended_within` waits
    /// for that.
    pub async fn restart_armed(&mut self, point: &str, nth: u64) {
        self.kill();
        let n_args = self.args.len();
        self.args.extend(["--crash-at".to_owned(), format!("{point}:{nth}")]);
        // It may get there while it starts.
        let _ = self.try_spawn().await;
        self.args.truncate(n_args);
    }

    /// Whether the process ends by itself in time.
    pub async fn ended_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while let Some(process) = &mut self.process {
            if process.try_wait().expect("a child can be waited for").is_some() {
                self.process = None;
            } else if Instant::now() > deadline {
                return false;
            } else {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        true
    }

    /// Starts again after a stop or a kill.
    pub async fn restart(&mut self) {
        self.spawn().await;
    }

    /// SIGTERM, which is to drain and end well.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.end().await
    }

    /// Waits until the process ends.
    pub async fn end(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the server runs");
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                return status;
            }
            if Instant::now() > deadline {
                let _ = process.kill();
                let _ = process.wait();
                panic!("the server does not end:\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status =
            Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill can be run");
        assert!(status.success(), "signal {name} cannot be sent to {pid}");
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// The last lines that the server wrote.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// A connection as user and database `tidemill`.
    pub async fn connect(&self) -> Client {
        match self.try_connect().await {
            Ok(client) => client,
            Err(error) => panic!("no connection to {}: {error}\n{}", self.sql, self.log_tail()),
        }
    }

    pub async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        connect(&self.sql).await
    }

    /// The status and the body of `GET path`.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(&self.http).await.expect("HTTP is listened on");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).await.expect("the request is taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("the answer ends");
        let answer = String::from_utf8(answer).expect("the answer is text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("the answer has a head");
        let status =
            head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("the answer has a status");
        (status, body.to_owned())
    }

    /// What `psql -c` prints for each of some commands, without decoration; fails as psql does.
    pub fn psql(&self, commands: &[&str]) -> Result<String, String> {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-d", &self.url()]);
        for command in commands {
            psql.args(["-c", command]);
        }
        let output = psql
            .env_remove("PGOPTIONS")
            .env("PAGER", "")
            .output()
            .expect("psql can be run: install postgresql-client, which ./test does");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    /// What clients connect to.
    pub fn url(&self) -> String {
        format!("postgresql://tidemill@{}/tidemill", self.sql)
    }

    /// Waits until every source named has been read to its end and everything has followed to the last epoch.
    pub async fn wait_until_finished(&self, sources: &[&str]) {
        let client = self.connect().await;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let states = query(&client, "SELECT name, state, last_error FROM tm_sources").await;
            for row in &states {
                assert_ne!(row[1], "FAILED", "source {} has failed: {}\n{}", row[0], row[2], self.log_tail());
            }
            let is_finished = |name: &&str| states.iter().any(|row| row[0] == **name && row[1] == "FINISHED");
            let pipelines = query(&client, "SELECT name, state, error FROM tm_pipelines").await;
            for row in &pipelines {
                assert_ne!(
                    row[1],
                    "FAILED",
                    "pipeline {} has failed: {}\n{}",
                    row[0],
                    row[2],
                    self.log_tail()
                );
            }
            let behind =
                query(&client, "SELECT kind, name, epochs_behind FROM tm_epochs WHERE epochs_behind > 0")
                    .await;
            let filling = pipelines.iter().any(|row| row[1] != "RUNNING");
            if sources.iter().all(is_finished) && behind.is_empty() && !filling {
                // What the sources sealed last may come after the rows that were just read.
                execute(&client, "FLUSH").await;
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not finished in time: sources {states:?}, pipelines {pipelines:?}, behind {behind:?}\n{}",
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::env::var_os("TIDEMILL_TEST_LOG").is_some() {
            println!("{}", self.log_tail());
        }
    }
}

/// A connection whose other half runs as a task.
pub async fn connect(address: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) =
        tokio_postgres::connect(&format!("postgresql://tidemill@{address}/tidemill"), NoTls).await?;
    // It ends with the client, or with the server, which the client then says.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// A directory that is gone after the test.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

/// Runs statements that must succeed, in the simple protocol.
pub async fn execute(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        panic!("{}\n[SQL] {sql}", describe(&error));
    }
}

/// The rows of a query as text, with NULL as `NULL`.
pub async fn query(client: &Client, sql: &str) -> Vec<Vec<String>> {
    match try_query(client, sql).await {
        Ok(rows) => rows,
        Err(error) => panic!("{}\n[SQL] {sql}", describe(&error)),
    }
}

pub async fn try_query(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|idx| row.get(idx).unwrap_or("NULL").to_owned()).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// The rows of a query in an order of their own, to be compared as a multiset.
pub async fn sorted(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let mut rows = query(client, sql).await;
    rows.sort();
    rows
}

/// The bytes of a text as `bytea` is shown.
pub fn bytea(text: &str) -> String {
    text.bytes().fold("\\x".to_owned(), |shown, byte| shown + &format!("{byte:02x}"))
}

/// The error of a statement that must fail.
pub async fn failure(client: &Client, sql: &str) -> tokio_postgres::error::DbError {
    match client.simple_query(sql).await {
        Ok(_) => panic!("succeeded\n[SQL] {sql}"),
        Err(error) => match error.as_db_error() {
            Some(error) => error.clone(),
            None => panic!("failed without saying why: {error}\n[SQL] {sql}"),
        },
    }
}

/// `SQLSTATE: message`, with what the server says beside it, in one line.
pub fn describe(error: &tokio_postgres::Error) -> String {
    let Some(error) = error.as_db_error() else {
        return format!("08006: {error}");
    };
    let mut text = format!("{}: {}", error.code().code(), error.message());
    if let Some(detail) = error.detail() {
        text += &format!(" DETAIL: {detail}");
    }
    if let Some(hint) = error.hint() {
        text += &format!(" HINT: {hint}");
    }
    text.replace('\n', "; ")
}
