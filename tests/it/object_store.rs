//! Data in an object store, against a real server that speaks S3.
//!
//! `tests/services/s3.sh` installs and starts it; it needs python3 with venv and, the first time, the network. Where there
//! is none, `TIDEMILL_TEST_OFFLINE=1` leaves these tests out, and says so. Between it and us is a proxy, which is
//! the store's being away, or its not knowing conditions.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::exactly_once::check_files;
use crate::server::{self, Server, execute, query};

/// An S3 server of the test's own.
struct S3 {
    directory: PathBuf,
    proxy: Proxy,
}

impl S3 {
    /// `None` where tests are run without network.
    async fn start(directory: &Path) -> Option<S3> {
        if std::env::var("TIDEMILL_TEST_OFFLINE").is_ok_and(|value| value == "1") {
            println!("skipped: TIDEMILL_TEST_OFFLINE=1, and moto may have to be installed");
            return None;
        }
        let directory = directory.join("s3");
        let output = script("start", &directory);
        assert!(
            output.status.success(),
            "moto cannot be started (TIDEMILL_TEST_OFFLINE=1 leaves this test out):\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let address = String::from_utf8(output.stdout).expect("an address is text").trim().to_owned();
        Some(S3 { directory, proxy: Proxy::start(address).await })
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("http://{}", self.proxy.address)),
            ("AWS_REGION", "eu-central-1".into()),
            ("AWS_ACCESS_KEY_ID", "key".into()),
            ("AWS_SECRET_ACCESS_KEY", "secret".into()),
        ]
    }

    /// A server on `data`, with a cache of its own below `directory`.
    async fn server(&self, directory: &Path, data: &str) -> Server {
        let cache = directory.display().to_string();
        let variables = self.variables();
        let mut variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        variables.push(("TIDEMILL_CACHE", &cache));
        Server::start_on(directory, data, &variables).await
    }

    /// Another command than `start`, or one that must fail.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(args).envs(self.variables()).output().expect("the binary can be run")
    }

    fn check_data(&self, data: &str) -> String {
        let output = self.run(&["check-data", data]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        script("stop", &self.directory);
    }
}

fn script(action: &str, directory: &Path) -> Output {
    Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/s3.sh"))
        .arg(action)
        .arg(directory)
        .output()
        .expect("bash can be run")
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Passing,
    /// Refuses connections, and cuts those that there are.
    Down,
    /// Hides conditions from the store.
    Unconditional,
}

/// What stands between a server and its store.
struct Proxy {
    address: String,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    async fn start(upstream: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it listens").to_string();
        let mode = watch::Sender::new(Mode::Passing);
        let modes = mode.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() != Mode::Down {
                    tokio::spawn(pass(client, upstream.clone(), modes.clone()));
                }
            }
        });
        Proxy { address, mode }
    }

    fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn pass(mut client: TcpStream, upstream: String, mut modes: watch::Receiver<Mode>) {
    const CONDITION: &[u8] = b"if-none-match";
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            n = client.read(&mut asked) => {
                let Ok(n @ 1..) = n else { return };
                if *modes.borrow() == Mode::Unconditional {
                    while let Some(at) = asked[..n].windows(CONDITION.len()).position(|part| part == CONDITION) {
                        asked[at..at + 2].copy_from_slice(b"xx");
                    }
                }
                if server.write_all(&asked[..n]).await.is_err() {
                    return;
                }
            }
            n = server.read(&mut answered) => {
                let Ok(n @ 1..) = n else { return };
                if client.write_all(&answered[..n]).await.is_err() {
                    return;
                }
            }
            changed = modes.changed() => {
                if changed.is_err() || *modes.borrow() == Mode::Down {
                    return;
                }
            }
        }
    }
}

const BIDS: &str = "SELECT auction, count(*) AS n, max(price) AS high FROM bid GROUP BY auction";
const NOTES: &str = "SELECT count(*) AS n, sum(id) AS ids FROM notes";

async fn define(server: &Server) {
    let client = server.connect().await;
    execute(
        &client,
        "CREATE SOURCE bid WITH (connector = 'generator', table = 'bid', events = '50000', rate = '10000', seed = '3')",
    )
    .await;
    execute(&client, &format!("CREATE PIPELINE bids AS {BIDS}")).await;
    execute(&client, "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT)").await;
    execute(&client, &format!("CREATE PIPELINE note_count AS {NOTES}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_server_goes_on_elsewhere() {
    let directory = server::directory();
    let Some(s3) = S3::start(directory.path()).await else { return };
    let data = "s3://tidemill/killed/here";
    let machines: Vec<PathBuf> = ["a", "b", "c"].map(|name| directory.path().join(name)).to_vec();
    machines.iter().for_each(|machine| std::fs::create_dir(machine).unwrap());
    let mut server = s3.server(&machines[0], data).await;
    define(&server).await;
    let mut n_notes = 0;
    for machine in machines[1..].iter().chain(&machines[..1]) {
        let client = server.connect().await;
        for _ in 0..5 {
            n_notes += 1;
            execute(&client, &format!("INSERT INTO notes VALUES ({n_notes}, 'x')")).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        server.kill();
        // What is on the machine is not needed again.
        server = s3.server(machine, data).await;
        let expected = vec![vec![n_notes.to_string(), (n_notes * (n_notes + 1) / 2).to_string()]];
        let client = server.connect().await;
        assert_eq!(query(&client, "SELECT * FROM note_count").await, expected);
        assert_eq!(query(&client, NOTES).await, expected);
    }
    server.wait_until_finished(&["bid"]).await;
    let client = server.connect().await;
    let verified = query(&client, "VERIFY PIPELINE bids").await;
    assert_eq!(verified[0][2], "equal", "{verified:?}");
    let shown = server::sorted(&client, "SELECT * FROM bids").await;
    assert!(server.terminate().await.success(), "{}", server.log_tail());
    let said = s3.check_data(data);
    assert!(said.contains(": ok"), "{said}");
    let server = s3.server(&machines[1], data).await;
    assert_eq!(server::sorted(&server.connect().await, "SELECT * FROM bids").await, shown);
    assert!(machines.iter().all(|machine| !machine.join("data").exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn older_of_two_servers_stops() {
    let directory = server::directory();
    let Some(s3) = S3::start(directory.path()).await else { return };
    let data = "s3://tidemill/two";
    let [first, second, third] = ["a", "b", "c"].map(|name| directory.path().join(name));
    [&first, &second, &third].iter().for_each(|machine| std::fs::create_dir(machine).unwrap());
    let mut old = s3.server(&first, data).await;
    define(&old).await;
    let to_old = old.connect().await;
    execute(&to_old, "INSERT INTO notes VALUES (1, 'old')").await;

    let mut new = s3.server(&second, data).await;
    // It may have noticed by itself already, and have begun to end.
    let error =
        to_old.batch_execute("INSERT INTO notes VALUES (2, 'stale')").await.expect_err("it is too late");
    if let Some(error) = error.as_db_error() {
        assert!(["55006", "57P01"].contains(&error.code().code()), "{error}");
    }
    assert_eq!(old.end().await.code(), Some(4), "{}", old.log_tail());
    assert!(old.log_tail().contains("has been taken over by process"), "{}", old.log_tail());

    let to_new = new.connect().await;
    execute(&to_new, "INSERT INTO notes VALUES (3, 'new')").await;
    assert_eq!(query(&to_new, "SELECT * FROM note_count").await, [["2", "4"]]);

    // One that has nothing to write notices too.
    let newest = s3.server(&third, data).await;
    assert_eq!(new.end().await.code(), Some(4), "{}", new.log_tail());
    newest.wait_until_finished(&["bid"]).await;
    let client = newest.connect().await;
    assert_eq!(query(&client, "SELECT * FROM note_count").await, [["2", "4"]]);
    assert_eq!(query(&client, "VERIFY PIPELINE bids").await[0][2], "equal");
    let said = s3.check_data(data);
    assert!(said.contains(": ok"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn store_that_ignores_conditions_is_refused() {
    let directory = server::directory();
    let Some(s3) = S3::start(directory.path()).await else { return };
    s3.proxy.set(Mode::Unconditional);
    let arguments = ["start", "--data", "s3://tidemill/x", "--listen", "127.0.0.1:0", "--http", "off"];
    let output = tokio::task::block_in_place(|| s3.run(&arguments));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the store of \"s3://tidemill/x\" ignores conditional writes"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_wait_while_the_store_is_away() {
    let directory = server::directory();
    let Some(s3) = S3::start(directory.path()).await else { return };
    let data = "s3://tidemill/away";
    let mut server = s3.server(directory.path(), data).await;
    define(&server).await;
    let client = server.connect().await;
    execute(&client, "INSERT INTO notes VALUES (1, 'before')").await;

    s3.proxy.set(Mode::Down);
    let writer = server.connect().await;
    let writing = tokio::spawn(async move {
        execute(&writer, "INSERT INTO notes VALUES (2, 'meanwhile')").await;
        writer
    });
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!writing.is_finished(), "nothing is acknowledged that is not durable");
    assert_eq!(query(&client, "SELECT * FROM note_count").await, [["1", "1"]]);
    s3.proxy.set(Mode::Passing);
    let writer = writing.await.expect("it was written at last");

    assert_eq!(query(&writer, "SELECT * FROM note_count").await, [["2", "3"]]);
    server.kill_and_restart().await;
    server.wait_until_finished(&["bid"]).await;
    let client = server.connect().await;
    assert_eq!(query(&client, "SELECT * FROM note_count").await, [["2", "3"]]);
    assert_eq!(query(&client, "VERIFY PIPELINE bids").await[0][2], "equal");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_of_a_running_server_is_whole() {
    let directory = server::directory();
    let Some(s3) = S3::start(directory.path()).await else { return };
    let data = "s3://tidemill/origin";
    let machines = ["a", "b", "c"].map(|name| directory.path().join(name));
    machines.iter().for_each(|machine| std::fs::create_dir(machine).unwrap());
    let server = s3.server(&machines[0], data).await;
    define(&server).await;
    let client = server.connect().await;
    let writing = tokio::spawn(async move {
        for n in 1..=60 {
            execute(&client, &format!("INSERT INTO notes VALUES ({n}, 'x')")).await;
        }
        client
    });
    let backup = |from: &str, to: &str| {
        let output = tokio::task::block_in_place(|| s3.run(&["backup", from, to]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    };
    let local = machines[1].join("copy").display().to_string();
    backup(data, &local);
    let client = writing.await.expect("the original goes on");
    assert_eq!(query(&client, "SELECT n FROM note_count").await, [["60"]]);

    let copy = s3.server(&machines[1], &local).await;
    let client = copy.connect().await;
    let count = query(&client, "SELECT n, ids FROM note_count").await;
    let n: u64 = count[0][0].parse().unwrap();
    assert_eq!(count[0][1], if n == 0 { "NULL".into() } else { (n * (n + 1) / 2).to_string() });
    assert_eq!(query(&client, NOTES).await, count);
    execute(&client, "INSERT INTO notes VALUES (1000, 'y')").await;
    let restored = "s3://tidemill/restored";
    backup(&local, restored);
    copy.wait_until_finished(&["bid"]).await;
    assert_eq!(query(&client, "VERIFY PIPELINE bids").await[0][2], "equal");
    assert_eq!(query(&client, "VERIFY PIPELINE note_count").await[0][2], "equal");

    let restored = s3.server(&machines[2], restored).await;
    let client = restored.connect().await;
    assert_eq!(query(&client, "SELECT n FROM note_count").await, [[(n + 1).to_string()]]);
    restored.wait_until_finished(&["bid"]).await;
    assert_eq!(query(&client, "VERIFY PIPELINE bids").await[0][2], "equal");
    let output = s3.run(&["backup", data, &local]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is in use"), "{output:?}");
}

/// A sink's files in S3, while the server is killed and the store is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn objects_get_every_row_once() {
    let directory = server::directory();
    let Some(s3) = S3::start(directory.path()).await else { return };
    let data = directory.path().join("data").display().to_string();
    let mut server = s3.server(directory.path(), &data).await;
    let store = {
        let mut builder = object_store::aws::AmazonS3Builder::new().with_bucket_name("tidemill");
        builder = builder.with_endpoint(format!("http://{}", s3.proxy.address)).with_allow_http(true);
        builder =
            builder.with_region("eu-central-1").with_access_key_id("key").with_secret_access_key("secret");
        builder.build().expect("a client")
    };
    let read = async || {
        use futures::TryStreamExt;
        use object_store::{ObjectStore, ObjectStoreExt};
        let prefix = object_store::path::Path::from("sinks/dear");
        let mut lines = Vec::new();
        let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await.expect("a bucket is listed");
        for object in objects {
            let name = object.location.to_string();
            if name.contains("/_tidemill/") {
                continue;
            }
            let bytes =
                store.get(&object.location).await.expect("it is there").bytes().await.expect("it is read");
            let text = String::from_utf8(bytes.to_vec()).expect("it is text");
            lines.extend(text.lines().map(|line| (name.clone(), line.to_owned())));
        }
        lines
    };
    let mode = s3.proxy.mode.clone();
    let outages = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(2300)).await;
            mode.send_replace(Mode::Down);
            tokio::time::sleep(Duration::from_millis(900)).await;
            mode.send_replace(Mode::Passing);
        }
    });
    let steady = s3.proxy.mode.clone();
    let read = async || {
        outages.abort();
        steady.send_replace(Mode::Passing);
        read().await
    };
    check_files(&mut server, "s3://tidemill/sinks/dear", read).await;
    let client = server.connect().await;
    let error = server::failure(
        &client,
        "CREATE SINK nowhere FROM dear WITH (connector = 'file', path = 's3://no-such-bucket/x') FORMAT PLAIN ENCODE JSON",
    )
    .await;
    assert!(error.message().contains("s3://no-such-bucket/x"), "{error}");
    assert!(server.terminate().await.success(), "{}", server.log_tail());
}
