//! Data directories as earlier builds wrote them, kept in the repository: what was written then is read now.
//!
//! `tests/golden/1` is of the first formats of everything (catalog 1, checkpoint 1, run 2, log 1), `tests/golden/2` of catalog 2, with roles
//! and privileges, `tests/golden/3` of catalog 4, with secrets and row policies. When a format gets another number,
//! a directory with the next number joins it, which `TIDEMILL_BLESS=1` makes where there is none; none is ever
//! made anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::postgres::is_blessing;
use crate::server::{self, Server, execute, query, sorted};

/// What is in a data directory that need not be saved.
const LEFT_OUT: [&str; 2] = ["LOCK", "state"];

fn golden(number: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{number}"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("the directory can be read").flatten() {
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
        }
    }
}

/// Makes the data of a server a golden directory.
fn keep(directory: &Path, golden: &Path) {
    copy(&directory.join("data"), golden);
    for name in LEFT_OUT {
        let path = golden.join(name);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(&path);
    }
}

/// A copy of the first golden directory below `directory`, where a server looks for it.
fn data(directory: &Path) -> PathBuf {
    let data = directory.join("data");
    copy(&golden(1), &data);
    data
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemill")).args(args).output().expect("the binary can be run")
}

/// What a server says that does not start on `data`.
fn refusal(data: &Path) -> String {
    let data = data.display().to_string();
    let output = run(&["start", "--data", &data, "--listen", "127.0.0.1:0", "--http", "off"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The newest of the versions in a directory.
fn newest(directory: &Path) -> PathBuf {
    let versions = fs::read_dir(directory).expect("there are versions").flatten().map(|entry| entry.path());
    versions.max().expect("there is a version")
}

fn change(path: &Path, from: &str, to: &str) {
    let content = fs::read_to_string(path).expect("it is text");
    assert!(content.contains(from), "{content}");
    fs::write(path, content.replacen(from, to, 1)).expect("a file can be written");
}

async fn make(golden: &Path) {
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    for sql in [
        "CREATE SOURCE bid WITH (connector = 'generator', table = 'bid', events = '2000', seed = '7')",
        "CREATE PIPELINE bids AS SELECT count(*) AS n, sum(price) AS total, max(price) AS high FROM bid",
        "CREATE TABLE city (id BIGINT PRIMARY KEY, name TEXT NOT NULL, since DATE, area NUMERIC(10, 2))",
        "CREATE TABLE visit (city BIGINT, at TIMESTAMP, guests INT)",
        "CREATE VIEW large AS SELECT * FROM city WHERE area > 100",
        "CREATE PIPELINE visits AS SELECT c.name, count(v.guests) AS n, sum(v.guests) AS guests \
         FROM city AS c LEFT JOIN visit AS v ON v.city = c.id GROUP BY c.name",
        "INSERT INTO city VALUES (1, 'Ulm', '0854-07-22', 118.69), (2, 'Bern', '1191-01-01', 51.60), (3, 'Łódź', NULL, NULL)",
        "INSERT INTO visit SELECT i % 2 + 1, TIMESTAMP '2026-01-01' + i * INTERVAL '1 hour', i FROM generate_series(1, 50) AS g(i)",
        "DELETE FROM visit WHERE guests > 40",
    ] {
        execute(&client, sql).await;
    }
    server.wait_until_finished(&["bid"]).await;
    assert!(server.terminate().await.success());
    server.restart().await;
    // This one is in the log alone, or nearly so.
    execute(&server.connect().await, "INSERT INTO visit VALUES (3, NULL, 7)").await;
    server.kill();
    keep(directory.path(), golden);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_then_is_read_now() {
    if is_blessing() && !golden(1).exists() {
        make(&golden(1)).await;
    }
    let directory = server::directory();
    let data = data(directory.path());
    let check_data = || {
        let output = run(&["check-data", &data.display().to_string()]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.trim_end().ends_with("ok"), "{said}");
    };
    check_data();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let visits = [["Bern", "20", "400"], ["Ulm", "20", "420"], ["Łódź", "1", "7"]];
    assert_eq!(sorted(&client, "SELECT * FROM visits").await, visits);
    assert_eq!(
        query(&client, "SELECT name, since, area FROM large").await,
        [["Ulm", "0854-07-22", "118.69"]]
    );
    assert_eq!(query(&client, "SELECT n FROM bids").await, [["1840"]]);
    for pipeline in ["visits", "bids"] {
        let verified = query(&client, &format!("VERIFY PIPELINE {pipeline}")).await;
        assert_eq!(verified[0][2], "equal", "{verified:?}");
    }
    // And it goes on from there.
    execute(&client, "UPDATE city SET name = 'Thun' WHERE id = 2").await;
    execute(&client, "INSERT INTO visit VALUES (2, NULL, 1)").await;
    let visits = [["Thun", "21", "401"], ["Ulm", "20", "420"], ["Łódź", "1", "7"]];
    assert_eq!(sorted(&client, "SELECT * FROM visits").await, visits);
    server.kill_and_restart().await;
    let client = server.connect().await;
    assert_eq!(sorted(&client, "SELECT * FROM visits").await, visits);
    assert!(server.terminate().await.success(), "{}", server.log_tail());
    check_data();
}

/// A catalog with roles and what they may do.
async fn make_roles(golden: &Path) {
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    for sql in [
        &format!(
            "CREATE ROLE ann LOGIN CONNECTION LIMIT 3 VALID UNTIL '2200-01-01' PASSWORD '{}'",
            crate::security::PENCIL
        ),
        "CREATE ROLE team NOINHERIT CREATEROLE",
        "CREATE USER bob IN ROLE team, pg_read_all_data",
        "GRANT CREATE ON DATABASE tidemill TO team WITH GRANT OPTION",
        "REVOKE CONNECT ON DATABASE tidemill FROM PUBLIC",
        "CREATE SCHEMA shop AUTHORIZATION ann",
        "GRANT USAGE, CREATE ON SCHEMA shop TO team",
        "CREATE TABLE shop.orders (id BIGINT PRIMARY KEY, amount INT)",
        "ALTER TABLE shop.orders OWNER TO ann",
        "GRANT SELECT ON shop.orders TO team WITH GRANT OPTION",
        "GRANT INSERT ON shop.orders TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE ann IN SCHEMA shop GRANT SELECT ON TABLES TO bob",
        "INSERT INTO shop.orders VALUES (1, 5)",
    ] {
        execute(&client, sql).await;
    }
    assert!(server.terminate().await.success());
    keep(directory.path(), golden);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_then_are_read_now() {
    if is_blessing() && !golden(2).exists() {
        make_roles(&golden(2)).await;
    }
    let directory = server::directory();
    copy(&golden(2), &directory.path().join("data"));
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    let sql = "SELECT rolname, rolcanlogin, rolinherit, rolcreaterole, rolconnlimit, rolpassword, rolvaliduntil FROM pg_roles \
               WHERE rolname !~ '^pg_' ORDER BY 1";
    assert_eq!(
        query(&client, sql).await,
        [
            ["ann", "t", "t", "f", "3", "********", "2200-01-01 00:00:00+00"],
            ["bob", "t", "t", "f", "-1", "NULL", "NULL"],
            ["team", "f", "f", "t", "-1", "NULL", "NULL"],
            ["tidemill", "t", "t", "t", "-1", "NULL", "NULL"],
        ]
    );
    let acl = async |sql: &str| query(&client, sql).await.concat().concat();
    assert_eq!(
        acl("SELECT datacl FROM pg_database WHERE datname = 'tidemill'").await,
        "{tidemill=CTc/tidemill,=T/tidemill,team=C*/tidemill}"
    );
    assert_eq!(
        acl("SELECT nspacl FROM pg_namespace WHERE nspname = 'shop'").await,
        "{ann=UC/ann,team=UC/ann}"
    );
    assert_eq!(
        acl("SELECT relacl FROM pg_class WHERE relname = 'orders'").await,
        "{ann=arwdD/ann,team=r*/ann,=a/ann}"
    );
    execute(&client, "SET ROLE bob").await;
    assert_eq!(query(&client, "SELECT * FROM shop.orders").await, [["1", "5"]]);
    assert_eq!(server::failure(&client, "DELETE FROM shop.orders").await.code().code(), "42501");
    execute(&client, "RESET ROLE; GRANT CONNECT ON DATABASE tidemill TO ann").await;
    let ann = crate::security::login(&server, "ann", Some("pencil")).await.expect("the password is the same");
    execute(&ann, "CREATE VIEW shop.large AS SELECT * FROM shop.orders WHERE amount > 3").await;
    assert_eq!(acl("SELECT relacl FROM pg_class WHERE relname = 'large'").await, "{ann=r/ann,bob=r/ann}");
}

/// The key of the secrets in a golden directory.
const SECRET_KEY: [(&str, &str); 1] =
    [("TIDEMILL_SECRET_KEY", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")];

/// A catalog with a secret that something uses, and with row policies.
async fn make_secured(golden: &Path) {
    let directory = server::directory();
    let data = directory.path().join("data").display().to_string();
    let mut server = Server::start_on(directory.path(), &data, &SECRET_KEY).await;
    let client = server.connect().await;
    for sql in [
        "CREATE ROLE ann LOGIN",
        "CREATE ROLE auditor LOGIN BYPASSRLS",
        "CREATE SECRET n_events AS '100'",
        "GRANT USAGE ON SECRET n_events TO ann",
        "CREATE SOURCE bid WITH (connector = 'generator', table = 'bid', events = SECRET n_events)",
        "CREATE PIPELINE bids AS SELECT count(*) AS n FROM bid",
        "CREATE TABLE note (id BIGINT PRIMARY KEY, author TEXT)",
        "GRANT SELECT, INSERT ON note TO PUBLIC",
        "CREATE POLICY own ON note TO ann USING (author = current_user)",
        "CREATE POLICY even ON note AS RESTRICTIVE FOR SELECT USING (id % 2 = 0)",
        "ALTER TABLE note ENABLE ROW LEVEL SECURITY",
        "INSERT INTO note VALUES (1, 'ann'), (2, 'ann'), (4, 'bob')",
    ] {
        execute(&client, sql).await;
    }
    server.wait_until_finished(&["bid"]).await;
    assert!(server.terminate().await.success());
    keep(directory.path(), golden);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_policies_of_then_hold_now() {
    if is_blessing() && !golden(3).exists() {
        make_secured(&golden(3)).await;
    }
    let directory = server::directory();
    copy(&golden(3), &directory.path().join("data"));
    let data = directory.path().join("data").display().to_string();
    let server = Server::start_on(directory.path(), &data, &SECRET_KEY).await;
    let client = server.connect().await;
    assert_eq!(query(&client, "SELECT name, used_by FROM tm_secrets").await, [["n_events", "source bid"]]);
    assert_eq!(query(&client, "SELECT n FROM bids").await, [["92"]]);
    execute(&client, "ALTER SOURCE bid RESTART").await;
    let notes = |user: &'static str| {
        let client = &client;
        async move {
            execute(client, &format!("SET ROLE {user}")).await;
            let notes = sorted(client, "SELECT id FROM note").await;
            execute(client, "RESET ROLE").await;
            notes.concat().join(",")
        }
    };
    assert_eq!((notes("ann").await, notes("auditor").await), ("2".to_owned(), "1,2,4".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_of_the_future_are_refused() {
    let directory = server::directory();
    let data = data(directory.path());
    let catalog = newest(&data.join("catalog"));
    let known = fs::read(&catalog).unwrap();
    change(&catalog, "\"format\": 1", "\"format\": 99");
    let said = refusal(&data);
    assert!(said.contains("99"), "{said}");
    fs::write(&catalog, known).unwrap();

    let dataflow = fs::read_dir(data.join("dataflows")).unwrap().flatten().next().unwrap().path();
    let manifest = newest(&dataflow.join("manifest"));
    let known = fs::read(&manifest).unwrap();
    change(&manifest, "\"format\":1", "\"format\":99");
    let said = refusal(&data);
    assert!(said.contains("was written in format checkpoint 99"), "{said}");
    fs::write(&manifest, known).unwrap();

    let segment = newest(&data.join("log"));
    let mut content = fs::read(&segment).unwrap();
    content[5] = 99;
    fs::write(&segment, content).unwrap();
    let said = refusal(&data);
    assert!(said.contains("was written in format log 99"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_empty_where_something_is_expected() {
    let directory = server::directory();
    let data = data(directory.path());
    let catalog = directory.path().join("catalog");
    fs::rename(data.join("catalog"), &catalog).unwrap();
    let said = refusal(&data);
    assert!(said.contains("the catalog of") && said.contains("is missing"), "{said}");
    // What it was refused for is still there.
    assert!(data.join("dataflows").exists() && data.join("tables").exists());
    fs::remove_dir_all(data.join("catalog")).ok();
    fs::rename(&catalog, data.join("catalog")).unwrap();

    let owner_of = |kind: &str, name: &str| {
        let mut owners = fs::read_dir(data.join(kind)).unwrap().flatten().map(|entry| entry.path());
        let names =
            |owner: &PathBuf| fs::read_to_string(newest(&owner.join("manifest"))).unwrap().contains(name);
        owners.find(names).unwrap_or_else(|| panic!("{name} has a checkpoint"))
    };
    fs::remove_dir_all(owner_of("tables", "\"city\"")).unwrap();
    fs::remove_dir_all(owner_of("dataflows", "\"visits\"")).unwrap();
    let server = Server::start(directory.path()).await;
    let client = server.connect().await;
    assert_eq!(query(&client, "SELECT n FROM bids").await, [["1840"]]);
    assert_eq!(query(&client, "SELECT count(*) FROM visit").await, [["41"]]);
    for sql in ["SELECT * FROM city", "INSERT INTO city VALUES (9, 'x', NULL, NULL)", "SELECT * FROM visits"]
    {
        let error = server::failure(&client, sql).await;
        assert!(error.message().contains("its checkpoint is missing"), "{sql}: {error}");
    }
    execute(&client, "DROP PIPELINE visits").await;
    execute(&client, "DROP TABLE city CASCADE").await;
}
