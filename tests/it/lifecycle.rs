//! What stands still, stands still after `kill -9` too, and has lost nothing when it goes on.

use std::time::{Duration, Instant};

use crate::server::{self, Server, execute, query};

async fn start(directory: &std::path::Path) -> Server {
    let config = directory.join("config.toml");
    // Checkpoints all the time: what is not needed any more is cut off the log at once.
    std::fs::write(&config, "checkpoint_interval = \"10ms\"\n").expect("the directory can be written");
    Server::start_with(directory, &["--config", &config.display().to_string()]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_stays_paused_and_loses_nothing() {
    let directory = server::directory();
    let mut server = start(directory.path()).await;
    let client = server.connect().await;
    execute(&client, "CREATE TABLE t (k INT, v INT)").await;
    execute(&client, "CREATE PIPELINE p AS SELECT k, sum(v) AS total FROM t GROUP BY k").await;
    execute(&client, "CREATE PIPELINE twin AS SELECT k, sum(v) AS total FROM t GROUP BY k").await;
    execute(&client, "CREATE PIPELINE groups AS SELECT count(*) AS n FROM p").await;
    let output = directory.path().join("out");
    let sink = format!(
        "CREATE SINK k FROM t WITH (connector = 'file', path = '{}') FORMAT DEBEZIUM ENCODE JSON",
        output.display()
    );
    execute(&client, &sink).await;
    execute(&client, "INSERT INTO t VALUES (1, 1), (2, 1)").await;
    execute(&client, "ALTER PIPELINE p PAUSE; ALTER SINK k PAUSE").await;
    let mut written = 2;
    for life in 0..4 {
        let client = server.connect().await;
        let states =
            "SELECT name, state FROM tm_pipelines UNION ALL SELECT name, state FROM tm_sinks ORDER BY 1";
        assert_eq!(
            query(&client, states).await,
            [["groups", "PAUSED"], ["k", "PAUSED"], ["p", "PAUSED"], ["twin", "RUNNING"]],
            "in life {life}"
        );
        assert_eq!(query(&client, "SELECT k, total FROM p ORDER BY k").await, [["1", "1"], ["2", "1"]]);
        assert_eq!(query(&client, "SELECT n FROM groups").await, [["2"]]);
        for _ in 0..20 {
            written += 1;
            execute(&client, &format!("INSERT INTO t VALUES ({}, {written})", written % 7)).await;
        }
        // The table's checkpoint holds the rows now, and the log could go but for the pipeline.
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.kill_and_restart().await;
    }
    let client = server.connect().await;
    execute(&client, "ALTER PIPELINE p RESUME; ALTER SINK k RESUME").await;
    let expected = query(&client, "SELECT k, sum(v) FROM t GROUP BY k ORDER BY k").await;
    assert_eq!(query(&client, "SELECT k, total FROM p ORDER BY k").await, expected);
    assert_eq!(query(&client, "SELECT k, total FROM twin ORDER BY k").await, expected);
    assert_eq!(query(&client, "SELECT n FROM groups").await, [["7"]]);
    assert_eq!(
        query(&client, "SELECT DISTINCT state FROM tm_pipelines").await,
        [["RUNNING"]],
        "all of it goes on"
    );
    server.kill_and_restart().await;
    let client = server.connect().await;
    assert_eq!(query(&client, "SELECT k, total FROM p ORDER BY k").await, expected);
    drop(client);
    assert!(server.terminate().await.success());
    let mut n_lines = 0;
    for entry in std::fs::read_dir(&output).expect("the sink has made its directory") {
        let path = entry.expect("it can be read").path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
        if !is_hidden {
            n_lines += std::fs::read_to_string(path).expect("it is text").lines().count();
        }
    }
    assert_eq!(n_lines, written, "the sink has delivered each row once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_paused_stays_where_it_is() {
    let directory = server::directory();
    let mut server = start(directory.path()).await;
    let client = server.connect().await;
    let source = "CREATE SOURCE s WITH (connector = 'generator', data = 'sequence', events = '20000', rate = '10000', \
                  splits = '2', batch_rows = '100')";
    execute(&client, source).await;
    let pipeline = "AS SELECT count(*) AS n, count(DISTINCT n) AS d, sum(n) AS total FROM s";
    execute(&client, &format!("CREATE PIPELINE p {pipeline}")).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    execute(&client, "ALTER SOURCE s PAUSE; FLUSH").await;
    let mut known: Option<Vec<Vec<String>>> = None;
    for life in 0..3 {
        let client = server.connect().await;
        assert_eq!(query(&client, "SELECT state FROM tm_sources").await, [["PAUSED"]], "in life {life}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let rows = query(&client, "SELECT * FROM p").await;
        // What the last checkpoint does not hold is read again once the source goes on.
        if let Some(known) = &known {
            assert_eq!(&rows, known, "in life {life} it stands where it stood");
        }
        if life > 0 {
            known = Some(rows);
        }
        server.kill_and_restart().await;
    }
    let client = server.connect().await;
    execute(&client, "ALTER SOURCE s SET (rate = '0')").await;
    execute(&client, "ALTER SOURCE s RESUME").await;
    execute(&client, &format!("CREATE PIPELINE late {pipeline}")).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while query(&client, "SELECT state FROM tm_sources").await != [["FINISHED"]] {
        assert!(Instant::now() < deadline, "the source ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    execute(&client, "FLUSH").await;
    let all = [["20000".to_string(), "20000".to_string(), (20_000u64 * 19_999 / 2).to_string()]];
    assert_eq!(query(&client, "SELECT * FROM p").await, all);
    assert_eq!(query(&client, "SELECT * FROM late").await, all);
}
