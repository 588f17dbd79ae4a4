//! The HTTP endpoints: health, readiness, metrics, and a page that names them.
//!
//! `/healthz` says that the process is alive, nothing more; `/readyz` that it takes statements.

pub mod metrics;
mod tls;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::tls::TlsListener;
use crate::pgwire::tls::Tls;
use crate::server::Service;

type Shared = State<Arc<dyn Service>>;

/// Serves until `shutdown` fires; requests that run are answered first.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    service: Arc<dyn Service>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = router(service);
    match tls {
        Some(tls) => {
            let listener = TlsListener::new(listener, tls)?;
            axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
        }
        None => axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await,
    }
}

/// All endpoints.
pub fn router(service: Arc<dyn Service>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is /, /healthz, /readyz and /metrics\n") })
        .with_state(service)
}

async fn ready(State(service): Shared) -> impl IntoResponse {
    match service.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready: recovering\n"),
    }
}

async fn scrape(State(service): Shared) -> impl IntoResponse {
    let text = metrics::render(&service.status(), service.is_ready());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}

async fn index(State(service): Shared) -> Html<String> {
    let status = service.status();
    let psql = service.sql_addr().map(|address| format!("psql postgres://tidemill@{address}/tidemill"));
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tidemill</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em}}\
         code{{background:#eee;padding:.1em .4em}}</style>\
         <h1>Tidemill {version}</h1><p>Epoch {epoch}: {n_sources} sources, {n_tables} tables, \
         {n_pipelines} pipelines, {n_sinks} sinks.</p><p><code>{psql}</code></p>\
         <ul><li><a href=\"/metrics\">/metrics</a> for Prometheus<li><a href=\"/healthz\">/healthz</a>\
         <li><a href=\"/readyz\">/readyz</a></ul></html>\n",
        version = env!("CARGO_PKG_VERSION"),
        epoch = status.epoch,
        n_sources = status.sources.len(),
        n_tables = status.tables.len(),
        n_pipelines = status.pipelines.len(),
        n_sinks = status.sinks.len(),
        psql = psql.as_deref().unwrap_or("SQL is not served"),
    ))
}

#[cfg(test)]
mod tests;
