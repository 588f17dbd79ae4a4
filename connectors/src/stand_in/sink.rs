//! A sink that keeps what it is to send.
//!
//! It delivers as the declared one would: exactly once, where that keeps the epoch that it has come to, or at least once.

use std::sync::Arc;

use async_trait::async_trait;
use tidemill_core::Epoch;
use tidemill_core::sink::{Delivery, Sink, SinkBatch, SinkWriter, Written, check_reached};
use tidemill_core::source::ConnectorError;

use super::StandIns;

#[derive(Debug)]
pub(super) struct StandInSink {
    pub stand_ins: Arc<StandIns>,
    pub id: u32,
    pub delivery: Delivery,
}

#[async_trait]
impl Sink for StandInSink {
    fn delivery(&self) -> Delivery {
        self.delivery
    }

    async fn open(&self, written: Written) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        let reached = match self.delivery {
            Delivery::ExactlyOnce => {
                let reached = self.stand_ins.state().sinks.get(&self.id).map(|kept| kept.reached);
                check_reached("the test", reached, written)?;
                reached
            }
            Delivery::AtLeastOnce => None,
        };
        let (stand_ins, id) = (self.stand_ins.clone(), self.id);
        Ok(Box::new(StandInWriter { stand_ins, id, reached, batches: Vec::new() }))
    }
}

struct StandInWriter {
    stand_ins: Arc<StandIns>,
    id: u32,
    reached: Option<Epoch>,
    batches: Vec<SinkBatch>,
}

#[async_trait]
impl SinkWriter for StandInWriter {
    fn reached(&self) -> Option<Epoch> {
        self.reached
    }

    async fn write(&mut self, batch: &SinkBatch) -> Result<(), ConnectorError> {
        self.batches.push(batch.clone());
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectorError> {
        let mut state = self.stand_ins.state();
        if let (Some(kept), Some(last)) = (state.sinks.get_mut(&self.id), self.batches.last()) {
            kept.reached = kept.reached.max(last.to);
            kept.batches.append(&mut self.batches);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::conformance::{lines, sink};
    use crate::declared::Declared;

    #[tokio::test]
    async fn sink_conforms() {
        for connector in ["blackhole", "file"] {
            let mut declared = Declared::new(connector, "id bigint, name text").retracting();
            if connector == "file" {
                let out = std::env::temp_dir().join("never-written").display().to_string();
                declared = declared
                    .with("path", out)
                    .format(crate::Format::Debezium)
                    .encode(crate::Encode::Json, &[]);
            }
            let stand_ins = StandIns::new(BTreeMap::new());
            let declared = stand_ins.sink(7, &declared.sink()).unwrap();
            let arrived = async || {
                let mut all = Vec::new();
                for batch in stand_ins.sent(7) {
                    for (idx, line) in lines(&batch.delta.rows()).into_iter().enumerate() {
                        let weight = batch.delta.weights().value(idx);
                        let sign = if weight > 0 { '+' } else { '-' };
                        all.extend((0..weight.abs()).map(|_| format!("{sign} {line}")));
                    }
                }
                Some(all)
            };
            sink::check(declared.as_ref(), arrived).await;
        }
    }
}
