//! State that exceeds its memory lies in files; what the views show stays the same, also after a crash.

use std::process::Command;

use crate::server::{self, Server, execute, query};

const N_ROWS: u64 = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_over_its_limit_lies_in_files_and_survives_a_kill() {
    let directory = server::directory();
    let mut server = Server::start(directory.path()).await;
    let client = server.connect().await;
    execute(&client, "CREATE TABLE t (k BIGINT PRIMARY KEY, v TEXT)").await;
    execute(
        &client,
        "CREATE PIPELINE p WITH (memory_limit = '1MB') AS \
         SELECT v, count(*) AS n, sum(k) AS total FROM t GROUP BY v",
    )
    .await;
    for part in 0..6 {
        let (from, to) = (part * N_ROWS / 6 + 1, (part + 1) * N_ROWS / 6);
        let insert = format!(
            "INSERT INTO t SELECT n, repeat('x', 100) || n % {} FROM generate_series({from}, {to}) AS s (n)",
            N_ROWS / 2
        );
        execute(&client, &insert).await;
    }
    let check = |answer: Vec<Vec<String>>| {
        let total = N_ROWS * (N_ROWS + 1) / 2;
        let expected = [(N_ROWS / 2).to_string(), N_ROWS.to_string(), total.to_string()];
        assert_eq!(answer, [expected]);
    };
    let all = "SELECT count(*), sum(n), sum(total) FROM p";
    check(query(&client, all).await);
    // Moving takes effect with the steps that follow.
    let mut n_bytes = (0, 0);
    for round in 0..100 {
        execute(&client, &format!("UPDATE t SET v = v WHERE k = {}", round + 1)).await;
        let sizes = query(
            &client,
            "SELECT sum(memory_bytes), sum(disk_bytes) FROM tm_state WHERE name = 'p' AND kind = 'operator'",
        )
        .await;
        n_bytes = (sizes[0][0].parse::<u64>().unwrap(), sizes[0][1].parse::<u64>().unwrap());
        if n_bytes.1 > 2 * n_bytes.0 {
            break;
        }
    }
    assert!(
        n_bytes.1 > 2 * n_bytes.0,
        "of the operator's state, {} bytes are in memory, {} on disk",
        n_bytes.0,
        n_bytes.1
    );
    let one = format!("SELECT n, total FROM p WHERE v = repeat('x', 100) || {}", 7);
    let of_seven = query(&client, &one).await;
    assert_eq!(of_seven, [["2".to_owned(), (7 + 7 + N_ROWS / 2).to_string()]]);
    drop(client);
    server.kill_and_restart().await;
    let client = server.connect().await;
    check(query(&client, all).await);
    execute(&client, "DELETE FROM t WHERE k = 7").await;
    assert_eq!(query(&client, &one).await, [["1".to_owned(), (7 + N_ROWS / 2).to_string()]]);
    drop(client);
    assert!(server.terminate().await.success(), "SIGTERM ends well:\n{}", server.log_tail());

    let check_data = || {
        let output = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .arg("check-data")
            .arg(directory.path().join("data"))
            .output();
        let output = output.expect("the program can be started");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, said) = check_data();
    assert!(code == Some(0) && said.trim_end().ends_with("ok"), "{said}");
    // One bit of every page of the longest pack: not all that is in it is still needed.
    let packs = std::fs::read_dir(directory.path().join("data/dataflows")).unwrap().flatten();
    let packs =
        packs.flat_map(|owner| std::fs::read_dir(owner.path().join("packs")).into_iter().flatten().flatten());
    let longest = packs.max_by_key(|pack| pack.metadata().unwrap().len()).expect("there is state").path();
    let mut content = std::fs::read(&longest).unwrap();
    content.iter_mut().skip(2048).step_by(4096).for_each(|byte| *byte ^= 1);
    std::fs::write(&longest, content).unwrap();
    let (code, said) = check_data();
    assert!(code == Some(1) && said.contains("checksum") && said.contains("damaged"), "{said}");
}
