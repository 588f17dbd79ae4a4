//! Changes as lines.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use tidemill_core::SqlState;
use tidemill_core::sink::{Delivery, Sink, SinkBatch, SinkWriter, Written};
use tidemill_core::source::ConnectorError;

use crate::formats::changelog;
use crate::options::Options;
use crate::print::config::PrintConfig;
use crate::spec::{Encode, SinkSpec};

/// Writes each change as one line to standard output, or to what tests give it.
pub struct PrintSink {
    config: PrintConfig,
    as_json: bool,
    out: Arc<Mutex<dyn Write + Send>>,
}

impl std::fmt::Debug for PrintSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrintSink").field("config", &self.config).field("as_json", &self.as_json).finish()
    }
}

impl PrintSink {
    pub fn new(spec: &SinkSpec<'_>) -> Result<PrintSink, ConnectorError> {
        PrintSink::to(spec, Arc::new(Mutex::new(std::io::stdout())))
    }

    fn to(spec: &SinkSpec<'_>, out: Arc<Mutex<dyn Write + Send>>) -> Result<PrintSink, ConnectorError> {
        let mut options = Options::new(spec.owner(), spec.options);
        options.know("connector");
        let config = PrintConfig::take(&mut options)?;
        options.finish()?;
        let as_json = match spec.encode {
            Encode::Native => false,
            Encode::Json => true,
            other => {
                let message = format!("connector \"print\" cannot encode {other}");
                return Err(ConnectorError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
                    .with_hint("Leave out ENCODE, or use ENCODE JSON."));
            }
        };
        Ok(PrintSink { config, as_json, out })
    }
}

#[async_trait]
impl Sink for PrintSink {
    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce
    }

    async fn open(&self, _written: Written) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(PrintWriter {
            prefix: self.config.prefix.clone(),
            as_json: self.as_json,
            out: self.out.clone(),
        }))
    }
}

struct PrintWriter {
    prefix: String,
    as_json: bool,
    out: Arc<Mutex<dyn Write + Send>>,
}

impl PrintWriter {
    fn lines(&self, batch: &SinkBatch) -> Result<String, ArrowError> {
        let rows = batch.delta.rows();
        let json = if self.as_json { changelog::json_lines(&rows)? } else { Vec::new() };
        let json = String::from_utf8_lossy(&json);
        let mut json_lines = json.lines();
        let options = FormatOptions::default().with_null("NULL");
        let formatters =
            rows.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let formatters = formatters.collect::<Result<Vec<_>, _>>()?;
        let mut lines = String::new();
        for (row_idx, weight) in batch.delta.weights().values().iter().enumerate() {
            let mut line = format!("{}{}", self.prefix, if *weight > 0 { '+' } else { '-' });
            if self.as_json {
                line.push_str(json_lines.next().unwrap_or_default());
            } else {
                for (column_idx, formatter) in formatters.iter().enumerate() {
                    let separator = if column_idx == 0 { " " } else { " | " };
                    let value = formatter.value(row_idx).try_to_string()?;
                    write!(line, "{separator}{value}").expect("a string takes everything");
                }
            }
            line.push('\n');
            (0..weight.unsigned_abs()).for_each(|_| lines.push_str(&line));
        }
        Ok(lines)
    }
}

#[async_trait]
impl SinkWriter for PrintWriter {
    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        let failed = |error: &dyn std::fmt::Display| {
            ConnectorError::fatal(SqlState::IO_ERROR, format!("cannot print a row: {error}"))
        };
        let lines = self.lines(batch).map_err(|error| failed(&error))?;
        // A whole batch at once, so that the lines of two sinks do not mix.
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(lines.as_bytes()).and_then(|()| out.flush()).map_err(|error| failed(&error))
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use tidemill_core::{Delta, Epoch};

    use super::*;
    use crate::conformance::sink;
    use crate::declared::Declared;

    async fn printed(declared: &Declared) -> String {
        let ids = Arc::new(Int64Array::from(vec![Some(1), None, Some(2)]));
        let names = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let weights = Arc::new(Int64Array::from(vec![-1, 1, 2]));
        let rows = RecordBatch::try_new(declared.schema.clone(), vec![ids, names]).unwrap();
        let delta = Delta::weighted(&rows, weights);
        let out = Arc::new(Mutex::new(Vec::new()));
        let sink = PrintSink::to(&declared.sink(), out.clone()).unwrap();
        let batch = SinkBatch { from: Epoch(0), to: Epoch(1), delta };
        sink.open(Written::default()).await.unwrap().write(&batch).await.unwrap();
        let bytes = out.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn each_change_is_a_line() {
        let declared = Declared::new("print", "id bigint, name text").retracting();
        assert_eq!(printed(&declared).await, "- 1 | a\n+ NULL | b\n+ 2 | c\n+ 2 | c\n");
        let json = declared.with("prefix", "s ").encode(Encode::Json, &[]);
        let lines = [
            "s -{\"id\":1,\"name\":\"a\"}",
            "s +{\"id\":null,\"name\":\"b\"}",
            "s +{\"id\":2,\"name\":\"c\"}",
            "s +{\"id\":2,\"name\":\"c\"}",
        ];
        assert_eq!(printed(&json).await.lines().collect::<Vec<_>>(), lines);
    }

    #[tokio::test]
    async fn sink_conforms() {
        let declared = Declared::new("print", "id bigint, name text").retracting();
        let out = Arc::new(Mutex::new(Vec::new()));
        let made = PrintSink::to(&declared.sink(), out.clone()).unwrap();
        let printed = async || {
            let text = String::from_utf8(out.lock().unwrap().clone()).unwrap();
            Some(text.lines().map(str::to_owned).collect())
        };
        sink::check(&made, printed).await;
        let create = |name: &str, value: &str| crate::create_sink(&declared.clone().with(name, value).sink());
        sink::check_options(PrintConfig::DOCS, create);
    }

    /// Standard output that is a closed pipe.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn closed_output_is_an_error() {
        let declared = Declared::new("print", "id bigint, name text");
        let made = PrintSink::to(&declared.sink(), Arc::new(Mutex::new(Closed))).unwrap();
        let error = sink::check_broken(&made).await;
        assert_eq!(error.sqlstate, SqlState::IO_ERROR);
    }
}
