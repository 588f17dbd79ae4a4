//! One connection: what it reads, what it writes, and the loop over its messages.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use datafusion::error::DataFusionError;
use futures::FutureExt;
use pgwire::messages::response::{CommandComplete, NotificationResponse, ReadyForQuery};
use pgwire::messages::startup::ParameterStatus;
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use tidemill_core::SqlState;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::pgwire::error::{
    IDLE_IN_TRANSACTION_TIMEOUT, INVALID_CHARACTERS, error_response, notice_response,
};
use crate::pgwire::extended::Prepared;
use crate::pgwire::transfer::Portals;
use crate::session::api::{Backend, Notification, SessionApi, SqlError, TransactionStatus};

/// Rows are sent when this many bytes wait.
pub(crate) const FLUSH_BYTES: usize = 64 * 1024;
/// How much of what a client sends ahead is taken in while a statement runs.
const READ_AHEAD_BYTES_MAX: usize = 1024 * 1024;
/// The longest message taken. PostgreSQL takes four times as much; a parameter of this size is a
/// mistake in a system whose rows are events.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The longest message taken from who has not said who it is; as in PostgreSQL.
const PASSWORD_BYTES_MAX: usize = 64 * 1024;
/// A client that does not take its last error within this time goes without.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a request ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    Error(SqlError),
    /// A row stream ended so; the session knows what to make of it.
    Stream(DataFusionError),
    /// There is nobody to tell.
    Disconnected,
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Failure::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Failure::Disconnected
    }
}

/// While it lives a statement runs, which cancel requests and its deadline can end.
pub(crate) struct Running {
    backend: Arc<Backend>,
    pub(crate) cancel: CancellationToken,
    deadline: Option<Instant>,
}

impl Running {
    pub(crate) fn start(backend: &Arc<Backend>, timeout: Option<Duration>) -> Self {
        Running {
            cancel: backend.statement_starts(),
            backend: Arc::clone(backend),
            deadline: timeout
                .filter(|timeout| !timeout.is_zero())
                .and_then(|timeout| Instant::now().checked_add(timeout)),
        }
    }

    /// For what only the end of the connection may end.
    fn unless_terminated(backend: &Arc<Backend>) -> Self {
        Running { cancel: backend.terminated().clone(), backend: Arc::clone(backend), deadline: None }
    }

    fn cancelled(&self) -> Failure {
        if self.backend.terminated().is_cancelled() {
            return terminated();
        }
        let message = "canceling statement due to user request";
        SqlError::new(SqlState::QUERY_CANCELED, message).into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.backend.statement_ends();
    }
}

fn timed_out() -> Failure {
    let message = "canceling statement due to statement timeout";
    SqlError::new(SqlState::QUERY_CANCELED, message).into()
}

fn terminated() -> Failure {
    let message = "terminating connection due to administrator command";
    SqlError::new(SqlState::ADMIN_SHUTDOWN, message).fatal().into()
}

pub(crate) fn protocol_violation(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::PROTOCOL_VIOLATION, message)
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned());
    SqlError::new(SqlState::INTERNAL_ERROR, format!("internal error: {text}"))
        .with_hint("This is a bug; the connection ends because its state is unknown.")
        .fatal()
        .into()
}

// ---- Reading -------------------------------------------------------------------------------

/// What a client sends.
pub(crate) struct Inbound<S> {
    reader: ReadHalf<S>,
    buffer: BytesMut,
    context: DecodeContext,
    /// The first byte of the last message.
    kind: u8,
}

impl<S: AsyncRead> Inbound<S> {
    pub(crate) fn new(reader: ReadHalf<S>) -> Self {
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        context.awaiting_frontend_ssl = false;
        context.awaiting_frontend_startup = false;
        Inbound { reader, buffer: BytesMut::new(), context, kind: 0 }
    }

    /// Reads what there is; `Ok(0)` is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [MaybeUninit::uninit(); 16 * 1024];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        let polled = Pin::new(&mut self.reader).poll_read(cx, &mut chunk);
        polled.map_ok(|()| {
            self.buffer.extend_from_slice(chunk.filled());
            chunk.filled().len()
        })
    }

    async fn read(&mut self) -> Result<(), Failure> {
        match poll_fn(|cx| self.poll_read(cx)).await? {
            0 => Err(Failure::Disconnected),
            _ => Ok(()),
        }
    }

    /// Waits until there are `length` bytes, and shows all there are.
    pub(crate) async fn peek(&mut self, length: usize) -> Result<&mut BytesMut, Failure> {
        while self.buffer.len() < length {
            self.read().await?;
        }
        Ok(&mut self.buffer)
    }

    /// Waits for `future`, unless the statement is cancelled, its time is up, or the client leaves.
    /// `future` is then dropped.
    pub(crate) async fn race<F: Future>(
        &mut self,
        running: &Running,
        future: F,
    ) -> Result<F::Output, Failure> {
        let mut cancelled = pin!(running.cancel.cancelled());
        let mut deadline = pin!(running.deadline.map(sleep_until));
        // A bug in one statement is not to take the server's other connections along.
        let mut future = pin!(AssertUnwindSafe(future).catch_unwind());
        poll_fn(|cx| {
            if cancelled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(running.cancelled()));
            }
            if let Some(deadline) = deadline.as_mut().as_pin_mut()
                && deadline.poll(cx).is_ready()
            {
                running.cancel.cancel();
                return Poll::Ready(Err(timed_out()));
            }
            while self.buffer.len() < READ_AHEAD_BYTES_MAX {
                match self.poll_read(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(1..)) => (),
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Failure::Disconnected)),
                }
            }
            future.as_mut().poll(cx).map(|output| output.map_err(|panic| panicked(&*panic)))
        })
        .await
    }

    /// The next message while a statement runs: of `COPY … FROM STDIN`.
    pub(crate) async fn next_of(&mut self, running: &Running) -> Result<PgWireFrontendMessage, Failure> {
        tokio::select! {
            biased;
            () = running.cancel.cancelled() => Err(running.cancelled()),
            () = until(running.deadline) => Err(timed_out()),
            message = self.next() => message,
        }
    }

    /// The next message while nothing runs; none when there is something to tell the client of before, which it hears
    /// only outside of a transaction.
    pub(crate) async fn next_idle(
        &mut self,
        backend: &Backend,
        deadline: Option<Instant>,
        listens: bool,
    ) -> Result<Option<PgWireFrontendMessage>, Failure> {
        tokio::select! {
            biased;
            () = backend.terminated().cancelled() => Err(terminated()),
            message = self.next() => message.map(Some),
            () = backend.notified(), if listens => Ok(None),
            () = until(deadline) => {
                let message = "terminating connection due to idle-in-transaction timeout";
                Err(SqlError::new(IDLE_IN_TRANSACTION_TIMEOUT, message).fatal().into())
            }
        }
    }

    /// The body of an answer to the question of who the client is. Nothing of it is decoded yet.
    pub(crate) async fn password(&mut self) -> Result<BytesMut, Failure> {
        let header = self.peek(5).await?.first_chunk::<5>().copied().expect("five bytes were asked for");
        let [kind, length @ ..] = header;
        let length = u32::from_be_bytes(length) as usize;
        if kind != b'p' || !(4..=PASSWORD_BYTES_MAX).contains(&length) {
            return Err(protocol_violation("expected a password response").fatal().into());
        }
        let mut message = self.peek(length + 1).await?.split_to(length + 1);
        message.advance(5);
        Ok(message)
    }

    async fn next(&mut self) -> Result<PgWireFrontendMessage, Failure> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(message);
            }
            self.read().await?;
        }
    }

    /// Takes a whole message out of the buffer. pgwire's decoders trust counts and lengths inside a
    /// message, so each sees the bytes of its message only, and a panic is the client's error.
    fn decode(&mut self) -> Result<Option<PgWireFrontendMessage>, SqlError> {
        let Some(header) = self.buffer.first_chunk::<5>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *header;
        let length = i32::from_be_bytes(length);
        let malformed = || protocol_violation("invalid message format").fatal();
        let length = usize::try_from(length).map_err(|_| malformed())?;
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            let message = format!("invalid message length {length}");
            return Err(protocol_violation(message).fatal());
        }
        if !b"QPBDECHSXdcfpF".contains(&kind) {
            let message = format!("invalid frontend message type {kind}");
            return Err(protocol_violation(message).fatal());
        }
        if self.buffer.len() < length + 1 {
            self.buffer.reserve(length + 1 - self.buffer.len());
            return Ok(None);
        }
        self.kind = kind;
        let mut message = self.buffer.split_to(length + 1);
        check_encoding(kind, &message[5..])?;
        let decoded =
            catch_unwind(AssertUnwindSafe(|| PgWireFrontendMessage::decode(&mut message, &self.context)));
        match decoded {
            Ok(Ok(Some(decoded))) if message.is_empty() => Ok(Some(decoded)),
            _ => Err(malformed()),
        }
    }
}

/// pgwire replaces what is not UTF-8; a statement must not run with other text than was sent.
fn check_encoding(kind: u8, body: &[u8]) -> Result<(), SqlError> {
    let text = match kind {
        b'Q' => body,
        b'P' => {
            // Name and statement, each ended by a zero; the types behind them are no text.
            let end = body.iter().enumerate().filter(|(_, byte)| **byte == 0).nth(1);
            &body[..end.map_or(body.len(), |(end, _)| end)]
        }
        _ => return Ok(()),
    };
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let byte = text[error.valid_up_to()];
            let message = format!("invalid byte sequence for encoding \"UTF8\": 0x{byte:02x}");
            Err(SqlError::new(INVALID_CHARACTERS, message))
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

// ---- Writing -------------------------------------------------------------------------------

/// What a client gets.
pub(crate) struct Outbound<S> {
    writer: WriteHalf<S>,
    pub(crate) buffer: BytesMut,
}

impl<S: AsyncWrite> Outbound<S> {
    pub(crate) fn new(writer: WriteHalf<S>) -> Self {
        Outbound { writer, buffer: BytesMut::with_capacity(2 * FLUSH_BYTES) }
    }

    pub(crate) fn put(&mut self, message: PgWireBackendMessage) {
        let start = self.buffer.len();
        if let Err(error) = message.encode(&mut self.buffer) {
            // Only a message of more than 2 GiB comes here.
            self.buffer.truncate(start);
            tracing::error!(%error, "message not sent");
        }
    }

    /// Sends all that waits. Dropped halfway, it has sent whole bytes and kept the rest.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while self.buffer.has_remaining() {
            self.writer.write_buf(&mut self.buffer).await?;
        }
        self.writer.flush().await
    }

    /// Sends the last words of a connection and closes it.
    pub(crate) async fn close(&mut self) {
        let farewell = async {
            self.flush().await?;
            self.writer.shutdown().await
        };
        // The client may be gone already, or not be listening.
        let _ = timeout(FAREWELL_TIME_MAX, farewell).await;
    }
}

// ---- The connection ------------------------------------------------------------------------

pub(crate) struct Connection<S> {
    pub(crate) inbound: Inbound<S>,
    pub(crate) outbound: Outbound<S>,
    pub(crate) backend: Arc<Backend>,
    pub(crate) session: Box<dyn SessionApi>,
    pub(crate) statements: Prepared,
    pub(crate) portals: Portals,
    /// After an error in the extended protocol, messages up to the next Sync are not looked at.
    pub(crate) skips_to_sync: bool,
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    pub(crate) fn new(
        inbound: Inbound<S>,
        outbound: Outbound<S>,
        backend: Arc<Backend>,
        session: Box<dyn SessionApi>,
    ) -> Self {
        Connection {
            inbound,
            outbound,
            backend,
            session,
            statements: Prepared::default(),
            portals: Portals::default(),
            skips_to_sync: false,
        }
    }

    /// Serves the client until it leaves or must.
    pub(crate) async fn serve(mut self) {
        if let Err(Failure::Error(error)) = self.serve_messages().await {
            self.outbound.put(PgWireBackendMessage::ErrorResponse(error_response(&error)));
        }
        self.portals.clear();
        // For what the session left running in other tasks.
        self.backend.terminate();
        self.outbound.close().await;
        self.session.close().await;
    }

    /// Returns the error that the connection ends with.
    async fn serve_messages(&mut self) -> Result<(), Failure> {
        self.ready().await?;
        loop {
            let in_transaction = self.session.status() != TransactionStatus::Idle;
            let deadline = self
                .session
                .idle_in_transaction_timeout()
                .filter(|timeout| in_transaction && !timeout.is_zero())
                .and_then(|timeout| Instant::now().checked_add(timeout));
            let message = match self.inbound.next_idle(&self.backend, deadline, !in_transaction).await {
                Ok(Some(message)) => message,
                Ok(None) => {
                    self.put_notifications();
                    self.flush().await?;
                    continue;
                }
                // Text in another encoding is an error of that message only.
                Err(Failure::Error(error)) if !error.fatal => {
                    if !self.skips_to_sync {
                        self.fail(Failure::Error(error))?;
                        match self.inbound.kind {
                            b'Q' => self.ready().await?,
                            _ => self.skip_to_sync().await?,
                        }
                    }
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            match message {
                PgWireFrontendMessage::Terminate(_) => return Ok(()),
                PgWireFrontendMessage::Sync(_) => {
                    self.skips_to_sync = false;
                    self.sync().await?;
                }
                _ if self.skips_to_sync => (),
                PgWireFrontendMessage::Query(query) => self.simple_query(&query.query).await?,
                // The rest of a COPY that ended in an error.
                PgWireFrontendMessage::CopyData(_)
                | PgWireFrontendMessage::CopyDone(_)
                | PgWireFrontendMessage::CopyFail(_) => (),
                message => {
                    if let Err(failure) = self.extended_query(message).await {
                        self.fail(failure)?;
                        self.skip_to_sync().await?;
                    }
                }
            }
        }
    }

    /// Tells the session and the client of an error; returns it when the connection ends with it.
    pub(crate) fn fail(&mut self, failure: Failure) -> Result<(), Failure> {
        let error = match failure {
            Failure::Error(error) => error,
            Failure::Stream(error) => self.session.explain(error),
            Failure::Disconnected => return Err(Failure::Disconnected),
        };
        self.session.failed(&error);
        self.put_notices();
        if error.fatal {
            return Err(Failure::Error(error));
        }
        self.outbound.put(PgWireBackendMessage::ErrorResponse(error_response(&error)));
        Ok(())
    }

    /// After an error nothing is done until a Sync. The error itself goes out at once: a client that asked for answers with a
    /// Flush, as asyncpg does when it prepares, sends the Sync only when it has seen it.
    async fn skip_to_sync(&mut self) -> Result<(), Failure> {
        self.skips_to_sync = true;
        self.flush().await
    }

    /// Ends the implicit transaction of what ran since the last time. A cancel request comes too
    /// late for that: a commit is not to be left half done.
    pub(crate) async fn end_of_request(&mut self) -> Result<(), Failure> {
        let running = Running::unless_terminated(&self.backend);
        Ok(self.inbound.race(&running, self.session.end_of_request()).await??)
    }

    /// Says that the next request may come.
    pub(crate) async fn ready(&mut self) -> Result<(), Failure> {
        let status = self.session.status();
        if status == TransactionStatus::Idle {
            // A portal reads the snapshot of its transaction, which is over.
            self.portals.clear();
        }
        self.put_notices();
        for (name, value) in self.session.take_parameter_changes() {
            let message = ParameterStatus::new(name, value);
            self.outbound.put(PgWireBackendMessage::ParameterStatus(message));
        }
        if status == TransactionStatus::Idle {
            self.put_notifications();
        }
        let message = ReadyForQuery::new(status);
        self.outbound.put(PgWireBackendMessage::ReadyForQuery(message));
        self.flush().await
    }

    /// Sends what waits; a client that does not take it can still be terminated.
    pub(crate) async fn flush(&mut self) -> Result<(), Failure> {
        let running = Running::unless_terminated(&self.backend);
        Ok(self.inbound.race(&running, self.outbound.flush()).await??)
    }

    pub(crate) fn put_notices(&mut self) {
        for notice in self.session.take_notices() {
            let message = notice_response(&notice);
            self.outbound.put(PgWireBackendMessage::NoticeResponse(message));
        }
    }

    /// What the session listens to and the client has not been told.
    fn put_notifications(&mut self) {
        for Notification { pid, channel, payload } in self.backend.take_notifications() {
            let message = NotificationResponse::new(pid, channel, payload);
            self.outbound.put(PgWireBackendMessage::NotificationResponse(message));
        }
    }

    pub(crate) fn put_complete(&mut self, tag: String) {
        self.put_notices();
        let message = CommandComplete::new(tag);
        self.outbound.put(PgWireBackendMessage::CommandComplete(message));
    }
}
