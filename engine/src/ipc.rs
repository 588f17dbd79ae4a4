//! Batches as bytes, in Arrow's own format.

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::Error;

/// A batch with its schema.
pub(crate) fn encode_batch(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).expect("memory can be written to");
    writer.write(batch).expect("memory can be written to");
    writer.finish().expect("memory can be written to");
    bytes
}

/// The batch that [`encode_batch`] wrote.
pub(crate) fn decode_batch(bytes: &[u8]) -> Result<RecordBatch, Error> {
    let mut reader = StreamReader::try_new(bytes, None)?;
    match reader.next() {
        Some(batch) => Ok(batch?),
        None => {
            let damaged =
                tidemill_storage::Error::Damaged { path: "batch".into(), reason: "it is empty".into() };
            Err(damaged.into())
        }
    }
}
