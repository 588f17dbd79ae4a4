//! Rows on their way: result rows, `COPY … TO STDOUT`, `COPY … FROM STDIN`.

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::Poll;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::{BufMut, BytesMut};
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use pgwire::messages::copy::{CopyDone, CopyInResponse, CopyOutResponse};
use pgwire::messages::data::RowDescription;
use pgwire::messages::{Message, PgWireBackendMessage, PgWireFrontendMessage};
use tidemill_core::SqlState;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::pgwire::connection::{
    Connection, FLUSH_BYTES, Failure, Inbound, Outbound, Running, protocol_violation,
};
use crate::pgwire::copy::{CopyFormat, CopyOptions, CopyReader, CopyWriter};
use crate::pgwire::encode::{BatchEncoder, Format};
use crate::pgwire::extended::Statement;
use crate::pgwire::types::field_description;
use crate::session::api::{CopyInSink, RowsTag, SqlError};

/// The portals of a connection by name; the unnamed one is "".
pub(crate) type Portals = HashMap<String, Portal>;

/// A statement with its parameters, ready to run or running.
pub(crate) struct Portal {
    pub(crate) statement: Statement,
    pub(crate) params: Vec<ScalarValue>,
    pub(crate) formats: Vec<i16>,
    pub(crate) state: PortalState,
}

pub(crate) enum PortalState {
    Bound,
    /// It gave some of its rows, and the client may ask for more.
    Suspended(Box<RowStream>),
    /// All its rows are given.
    Drained(RowsTag),
    /// It was a command.
    Done,
}

/// The rows of a statement, of which some may have been sent.
pub(crate) struct RowStream {
    rows: SendableRecordBatchStream,
    formats: Vec<Format>,
    pub(crate) tag: RowsTag,
    batch: Option<(BatchEncoder, usize)>,
}

/// What one `Execute` sent.
pub(crate) struct Sent {
    pub(crate) n_rows: u64,
    /// The stream has ended; otherwise the client's limit was reached.
    pub(crate) ended: bool,
}

impl RowStream {
    pub(crate) fn new(rows: SendableRecordBatchStream, formats: Vec<Format>, tag: RowsTag) -> Self {
        RowStream { rows, formats, tag, batch: None }
    }
}

pub(crate) fn put_row_description(
    schema: &Schema,
    formats: &[Format],
    out: &mut BytesMut,
) -> Result<(), SqlError> {
    // The number of columns travels in 16 bits; PostgreSQL stops at 1664.
    if i16::try_from(schema.fields().len()).is_err() {
        let message = "result has more than 32767 columns";
        return Err(SqlError::new(crate::pgwire::error::PROGRAM_LIMIT_EXCEEDED, message));
    }
    let fields = schema.fields().iter().zip(formats);
    let fields = fields.map(|(field, format)| field_description(field, format.code())).collect();
    let start = out.len();
    RowDescription::new(fields).encode(out).map_err(|error| {
        out.truncate(start);
        SqlError::new(SqlState::INTERNAL_ERROR, error.to_string())
    })
}

/// The next batch. When none is ready, what waits to be sent is sent before waiting for one.
async fn next_batch<S: AsyncRead + AsyncWrite>(
    inbound: &mut Inbound<S>,
    outbound: &mut Outbound<S>,
    running: &Running,
    rows: &mut SendableRecordBatchStream,
) -> Result<Option<RecordBatch>, Failure> {
    // A stream that is always ready must not keep this thread from other connections.
    tokio::task::consume_budget().await;
    let at_once = poll_fn(|cx| match rows.poll_next_unpin(cx) {
        Poll::Ready(batch) => Poll::Ready(Some(batch)),
        Poll::Pending => Poll::Ready(None),
    });
    let batch = match inbound.race(running, at_once).await? {
        Some(batch) => batch,
        None => {
            inbound.race(running, outbound.flush()).await??;
            inbound.race(running, rows.next()).await?
        }
    };
    batch.transpose().map_err(Failure::Stream)
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    /// Sends rows until the stream ends or `n_rows_max` are sent.
    pub(crate) async fn send_rows(
        &mut self,
        running: &Running,
        stream: &mut RowStream,
        n_rows_max: Option<u64>,
    ) -> Result<Sent, Failure> {
        let mut n_rows = 0;
        loop {
            while let Some((batch, row_idx)) = &mut stream.batch {
                if *row_idx == batch.n_rows() {
                    stream.batch = None;
                    break;
                }
                if n_rows_max == Some(n_rows) {
                    return Ok(Sent { n_rows, ended: false });
                }
                let start = self.outbound.buffer.len();
                if let Err(error) = batch.data_row(*row_idx, &mut self.outbound.buffer) {
                    // Half a row would be the end of all understanding.
                    self.outbound.buffer.truncate(start);
                    return Err(error.into());
                }
                *row_idx += 1;
                n_rows += 1;
                if self.outbound.buffer.len() >= FLUSH_BYTES {
                    self.inbound.race(running, self.outbound.flush()).await??;
                }
            }
            if n_rows_max == Some(n_rows) {
                return Ok(Sent { n_rows, ended: false });
            }
            let (inbound, outbound) = (&mut self.inbound, &mut self.outbound);
            match next_batch(inbound, outbound, running, &mut stream.rows).await? {
                None => {
                    return Ok(Sent { n_rows, ended: true });
                }
                Some(batch) => {
                    stream.batch = Some((BatchEncoder::new(&batch, &stream.formats)?, 0));
                }
            }
        }
    }

    /// Sends rows in the format of `COPY`, a message per row. Returns the tag.
    pub(crate) async fn copy_out(
        &mut self,
        running: &Running,
        mut rows: SendableRecordBatchStream,
        options: CopyOptions,
    ) -> Result<String, Failure> {
        options.validate()?;
        let schema = rows.schema();
        let n_columns = schema.fields().len();
        let format = options.format.code();
        self.put_notices();
        self.outbound.put(PgWireBackendMessage::CopyOutResponse(CopyOutResponse::new(
            format as i8,
            n_columns as i16,
            vec![format; n_columns],
        )));
        let mut writer = CopyWriter::new(options, &schema);
        // A header line is a row of its own; the binary header comes in one message with the first
        // row, or the trailer, and rust-postgres counts on it.
        let mut header_is_due = true;
        if format == CopyFormat::Text.code() {
            header_is_due = false;
            put_copy_data(&mut self.outbound.buffer, |out| {
                writer.header(out);
                Ok(())
            })?;
        }
        let mut n_rows = 0u64;
        loop {
            let (inbound, outbound) = (&mut self.inbound, &mut self.outbound);
            let Some(batch) = next_batch(inbound, outbound, running, &mut rows).await? else {
                break;
            };
            let batch = writer.batch(&batch)?;
            for row_idx in 0..batch.n_rows() {
                let out = &mut self.outbound.buffer;
                put_copy_data(out, |out| {
                    if std::mem::take(&mut header_is_due) {
                        writer.header(out);
                    }
                    writer.row(&batch, row_idx, out)
                })?;
                if self.outbound.buffer.len() >= FLUSH_BYTES {
                    self.inbound.race(running, self.outbound.flush()).await??;
                }
            }
            n_rows += batch.n_rows() as u64;
        }
        put_copy_data(&mut self.outbound.buffer, |out| {
            if header_is_due {
                writer.header(out);
            }
            writer.trailer(out);
            Ok(())
        })?;
        self.outbound.put(PgWireBackendMessage::CopyDone(CopyDone::new()));
        Ok(format!("COPY {n_rows}"))
    }

    /// Takes the rows of a client. Returns the tag.
    pub(crate) async fn copy_in(
        &mut self,
        running: &Running,
        schema: SchemaRef,
        options: CopyOptions,
        mut sink: Box<dyn CopyInSink>,
    ) -> Result<String, Failure> {
        options.validate()?;
        let n_columns = schema.fields().len();
        let format = options.format.code();
        self.put_notices();
        self.outbound.put(PgWireBackendMessage::CopyInResponse(CopyInResponse::new(
            format as i8,
            n_columns as i16,
            vec![format; n_columns],
        )));
        self.inbound.race(running, self.outbound.flush()).await??;
        let mut reader = CopyReader::new(options, schema);
        loop {
            match self.inbound.next_of(running).await? {
                PgWireFrontendMessage::CopyData(message) => {
                    reader.push(&message.data)?;
                    while let Some(batch) = reader.take_full_batch()? {
                        self.inbound.race(running, sink.write(batch)).await??;
                    }
                }
                PgWireFrontendMessage::CopyDone(_) => break,
                PgWireFrontendMessage::CopyFail(message) => {
                    let text = format!("COPY from stdin failed: {}", message.message);
                    return Err(SqlError::new(SqlState::QUERY_CANCELED, text).into());
                }
                // rust-postgres sends its Sync ahead of the data.
                PgWireFrontendMessage::Flush(_) | PgWireFrontendMessage::Sync(_) => (),
                _ => {
                    let message = "unexpected message type during COPY from stdin";
                    return Err(protocol_violation(message).fatal().into());
                }
            }
        }
        if let Some(batch) = reader.finish()? {
            self.inbound.race(running, sink.write(batch)).await??;
        }
        let n_rows = self.inbound.race(running, sink.finish()).await??;
        Ok(format!("COPY {n_rows}"))
    }
}

/// Appends a `CopyData` message, unless it is empty.
fn put_copy_data(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<(), SqlError>,
) -> Result<(), SqlError> {
    let start = out.len();
    out.put_u8(b'd');
    out.put_i32(0);
    if let Err(error) = write(out) {
        out.truncate(start);
        return Err(error);
    }
    let length = out.len() - start - 1;
    if length == 4 {
        out.truncate(start);
        return Ok(());
    }
    let Ok(length) = i32::try_from(length) else {
        out.truncate(start);
        let message = "row is larger than a message of the protocol can be";
        return Err(SqlError::new(crate::pgwire::error::PROGRAM_LIMIT_EXCEEDED, message));
    };
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

impl CopyFormat {
    fn code(self) -> i16 {
        match self {
            CopyFormat::Text | CopyFormat::Csv => 0,
            CopyFormat::Binary => 1,
        }
    }
}
