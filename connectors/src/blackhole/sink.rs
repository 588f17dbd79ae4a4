//! A sink that only counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tidemill_core::sink::{Delivery, Sink, SinkBatch, SinkWriter, Written};
use tidemill_core::source::ConnectorError;

use crate::options::Options;
use crate::spec::SinkSpec;

/// Takes changes of every kind and forgets them.
#[derive(Debug)]
pub struct BlackholeSink {
    n_rows: Arc<AtomicU64>,
}

impl BlackholeSink {
    pub fn new(spec: &SinkSpec<'_>) -> Result<BlackholeSink, ConnectorError> {
        let mut options = Options::new(spec.owner(), spec.options);
        options.know("connector");
        options.finish()?;
        Ok(BlackholeSink { n_rows: Arc::default() })
    }

    /// How many changed rows all writers together have taken.
    pub fn n_rows(&self) -> u64 {
        self.n_rows.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Sink for BlackholeSink {
    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce
    }

    async fn open(&self, _written: Written) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(BlackholeWriter { n_rows: self.n_rows.clone() }))
    }
}

struct BlackholeWriter {
    n_rows: Arc<AtomicU64>,
}

#[async_trait]
impl SinkWriter for BlackholeWriter {
    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        self.n_rows.fetch_add(batch.delta.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch};
    use tidemill_core::{Delta, Epoch};

    use super::*;
    use crate::conformance::sink;
    use crate::declared::Declared;

    #[tokio::test]
    async fn sink_conforms() {
        let declared = Declared::new("blackhole", "id bigint, name text").retracting();
        let sink = BlackholeSink::new(&declared.sink()).unwrap();
        sink::check(&sink, async || None).await;
        let create = |name: &str, value: &str| crate::create_sink(&declared.clone().with(name, value).sink());
        sink::check_options(&[], create);
    }

    #[tokio::test]
    async fn rows_are_counted() {
        let declared = Declared::new("blackhole", "id bigint").retracting();
        let ids = Arc::new(Int64Array::from(vec![1, 2]));
        let rows = RecordBatch::try_new(declared.schema.clone(), vec![ids]).unwrap();
        let batch = SinkBatch { from: Epoch(0), to: Epoch(1), delta: Delta::retractions(&rows) };
        let sink = BlackholeSink::new(&declared.sink()).unwrap();
        let mut writer = sink.open(Written::default()).await.unwrap();
        writer.write(&batch).await.unwrap();
        writer.flush().await.unwrap();
        assert_eq!(sink.n_rows(), 2);
        let error = BlackholeSink::new(&declared.with("path", "x").sink()).unwrap_err();
        assert_eq!(error.to_string(), "connector \"blackhole\" has no option \"path\"");
    }
}
