//! `VERIFY PIPELINE p [SAMPLE n PERCENT] [INTO relation]`

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::SqlState;

use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName};

/// Compares what a pipeline shows with the batch answer of its query.
#[derive(Debug, Clone, PartialEq)]
pub struct Verify {
    pub name: ObjectName,
    /// How much of the result is compared, in percent, chosen by what the rows are.
    pub sample_percent: Option<f64>,
    /// A table for the rows that differ.
    pub into: Option<ObjectName>,
}

pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Verify, Error> {
    cursor.expect("VERIFY")?;
    if !cursor.eat_all(&["MATERIALIZED", "VIEW"]) {
        cursor.expect("PIPELINE")?;
    }
    let mut verify = Verify { name: cursor.object_name()?, sample_percent: None, into: None };
    if cursor.eat("SAMPLE") {
        verify.sample_percent = Some(percent(cursor)?);
        cursor.expect("PERCENT")?;
    }
    if cursor.eat("INTO") {
        verify.into = Some(cursor.object_name()?);
    }
    Ok(verify)
}

fn percent(cursor: &mut Cursor<'_>) -> Result<f64, Error> {
    let position = cursor.position();
    let Token::Number(digits, _) = &cursor.peek().token else {
        return Err(cursor.unexpected("a number"));
    };
    let percent = digits.parse::<f64>().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
    let Some(percent) = percent else {
        return Err(Error::new(
            SqlState::INVALID_PARAMETER,
            format!("a sample of {digits} percent is not possible"),
        )
        .with_hint("Write a number above 0, up to 100.")
        .at(position));
    };
    cursor.advance();
    Ok(percent)
}
