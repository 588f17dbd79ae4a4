//! Against a made-up service, over real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::server::testing::FakeService;

async fn get_path(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn endpoints_answer_and_the_server_stops() {
    let service = Arc::new(FakeService::example());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(listener, None, service.clone(), shutdown.clone()));

    let (head, body) = get_path(address, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "ok\n");

    service.set_ready(false);
    assert!(get_path(address, "/readyz").await.0.starts_with("HTTP/1.1 503"));
    service.set_ready(true);
    assert!(get_path(address, "/readyz").await.0.starts_with("HTTP/1.1 200"));

    let (head, body) = get_path(address, "/metrics").await;
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("tidemill_epoch 42\n"), "{body}");

    assert!(get_path(address, "/").await.1.contains("psql postgres://tidemill@127.0.0.1:7432/tidemill"));
    assert!(get_path(address, "/nope").await.0.starts_with("HTTP/1.1 404"));

    shutdown.cancel();
    server.await.unwrap().unwrap();
}

#[test]
fn metrics_are_prometheus_text() {
    let text = metrics::render(&FakeService::example().status(), true);
    for line in [
        "# HELP tidemill_source_rows_total Rows read.",
        "# TYPE tidemill_source_rows_total counter",
        "tidemill_ready 1",
        "tidemill_uptime_seconds 2.5",
        "tidemill_dead_letters_total 3",
        "tidemill_source_rows_total{source=\"bid\"} 1000",
        "tidemill_source_bytes_total{source=\"bid\"} 64000",
        "tidemill_source_bad_records_total{source=\"bid\"} 3",
        "tidemill_source_watermark_timestamp_seconds{source=\"bid\"} 1.5",
        "tidemill_pipeline_steps_total{pipeline=\"hot \\\"auctions\\\"\"} 7",
        "tidemill_pipeline_late_rows_total{pipeline=\"hot \\\"auctions\\\"\"} 1",
        "tidemill_pipeline_checkpoint_epoch{pipeline=\"hot \\\"auctions\\\"\"} 40",
        "tidemill_pipeline_status{pipeline=\"hot \\\"auctions\\\"\",state=\"RUNNING\"} 1",
        "tidemill_pipeline_status{pipeline=\"hot \\\"auctions\\\"\",state=\"FAILED\"} 0",
        "# TYPE tidemill_pipeline_latency_seconds summary",
        "tidemill_pipeline_latency_seconds_count{pipeline=\"hot \\\"auctions\\\"\"} 2",
        "tidemill_pipeline_latency_seconds_sum{pipeline=\"hot \\\"auctions\\\"\"} 0.006",
        "tidemill_pipeline_step_seconds{pipeline=\"hot \\\"auctions\\\"\",quantile=\"0.5\"} NaN",
        "tidemill_sink_rows_delivered_total{sink=\"nowhere\"} 90",
        "tidemill_sink_rows_pending{sink=\"nowhere\"} 10",
        "tidemill_sink_bytes_pending{sink=\"nowhere\"} 4096",
        "tidemill_sink_pending_seconds{sink=\"nowhere\"} 1.5",
        "tidemill_sink_retries_total{sink=\"nowhere\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n\nis not in\n\n{text}");
    }
    // Each family is declared once, before its samples.
    let mut declared = std::collections::HashSet::new();
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => {
                let name = rest.split(' ').next().unwrap().to_owned();
                assert!(declared.insert(name), "{line}");
            }
            None if line.starts_with('#') => (),
            None => {
                let name = line.split(['{', ' ']).next().unwrap();
                let base = name.trim_end_matches("_sum").trim_end_matches("_count");
                assert!(declared.contains(name) || declared.contains(base), "{line}");
            }
        }
    }
}
