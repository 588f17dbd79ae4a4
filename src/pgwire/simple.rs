//! The simple protocol: a string of statements, answered in text.

use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::EmptyQueryResponse;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::pgwire::connection::{Connection, Failure, Running};
use crate::pgwire::encode::Format;
use crate::pgwire::transfer::{RowStream, put_row_description};
use crate::session::api::{Parsed, Response};

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    /// Runs statements until one fails; what the earlier ones answered stays answered.
    pub(crate) async fn simple_query(&mut self, sql: &str) -> Result<(), Failure> {
        // As in PostgreSQL, a simple query takes the place of the unnamed statement and portal.
        self.statements.forget_unnamed();
        self.portals.remove("");
        if let Err(failure) = self.simple_statements(sql).await {
            self.fail(failure)?;
            if let Err(failure) = self.end_of_request().await {
                self.fail(failure)?;
            }
        }
        self.ready().await
    }

    async fn simple_statements(&mut self, sql: &str) -> Result<(), Failure> {
        let statements = self.session.parse(sql)?;
        let Some((last, before)) = statements.split_last() else {
            let message = EmptyQueryResponse::new();
            self.outbound.put(PgWireBackendMessage::EmptyQueryResponse(message));
            return self.end_of_request().await;
        };
        for statement in before {
            let tag = self.simple_statement(statement).await?;
            self.put_end(tag);
        }
        // "COMMIT" must not be said of what may yet fail to.
        let tag = self.simple_statement(last).await?;
        self.end_of_request().await?;
        self.put_end(tag);
        Ok(())
    }

    fn put_end(&mut self, tag: Option<String>) {
        match tag {
            Some(tag) => self.put_complete(tag),
            None => {
                let message = EmptyQueryResponse::new();
                self.outbound.put(PgWireBackendMessage::EmptyQueryResponse(message));
            }
        }
    }

    /// Returns the tag, which is still to be sent.
    async fn simple_statement(&mut self, statement: &Parsed) -> Result<Option<String>, Failure> {
        let running = Running::start(&self.backend, self.session.statement_timeout());
        let execution = self.session.execute(statement, Vec::new(), &running.cancel);
        let response = self.inbound.race(&running, execution).await??;
        let tag = match response {
            Response::Rows { schema, rows, tag } => {
                let formats = vec![Format::Text; schema.fields().len()];
                self.put_notices();
                put_row_description(&schema, &formats, &mut self.outbound.buffer)?;
                let mut rows = RowStream::new(rows, formats, tag);
                let n_rows = self.send_rows(&running, &mut rows, None).await?.n_rows;
                Some(tag.complete(n_rows))
            }
            Response::Command { tag } => Some(tag),
            Response::CopyOut { rows, options } => Some(self.copy_out(&running, rows, options).await?),
            Response::CopyIn { schema, options, sink } => {
                Some(self.copy_in(&running, schema, options, sink).await?)
            }
            Response::Empty => None,
        };
        Ok(tag)
    }
}
