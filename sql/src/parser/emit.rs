//! `EMIT …` behind a query.
//!
//! ```sql
//! EMIT CHANGES                                            -- as inputs change; so does
//! EMIT ON UPDATE [UNTIL WINDOW CLOSE]
//! EMIT ON WINDOW CLOSE [WITH EARLY EVERY INTERVAL '1 second']
//! EMIT EVERY INTERVAL '5 seconds'
//! ```

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};
use tidemill_core::{Emit, SqlState};

use super::cursor::is_unquoted;
use super::text::Text;
use crate::error::Error;
use crate::upkeep::micros_of;

/// Takes the clause off the end. Words that are none stay: `emit` may be an alias.
pub(super) fn take(text: &Text<'_>, tokens: &mut Vec<TokenWithSpan>) -> Option<(Result<Emit, Error>, Span)> {
    let start = tokens.iter().rposition(|token| is_unquoted(&token.token, "EMIT"))?;
    let words: Vec<&TokenWithSpan> = tokens[start + 1..]
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
        .collect();
    let emit = emit(text, &words)?;
    let span = tokens[start].span;
    tokens.truncate(start);
    Some((emit, span))
}

fn emit(text: &Text<'_>, words: &[&TokenWithSpan]) -> Option<Result<Emit, Error>> {
    if let Some(rest) = behind(words, &["EVERY"]) {
        return Some(every(text, words[0], rest).map(Emit::Every));
    }
    if let Some(rest) = behind(words, &["ON", "WINDOW", "CLOSE", "WITH", "EARLY", "EVERY"]) {
        return Some(every(text, words[5], rest).map(Emit::OnWindowCloseWithEarly));
    }
    let plain: [(&[&str], Emit); 4] = [
        (&["CHANGES"], Emit::OnUpdate),
        (&["ON", "UPDATE"], Emit::OnUpdate),
        (&["ON", "UPDATE", "UNTIL", "WINDOW", "CLOSE"], Emit::OnUpdateUntilClose),
        (&["ON", "WINDOW", "CLOSE"], Emit::OnWindowClose),
    ];
    let is_all = |keywords: &[&str]| behind(words, keywords).is_some_and(|rest| rest.is_empty());
    plain.into_iter().find(|(keywords, _)| is_all(keywords)).map(|(_, emit)| Ok(emit))
}

/// What follows these words.
fn behind<'t, 'a>(words: &'t [&'a TokenWithSpan], keywords: &[&str]) -> Option<&'t [&'a TokenWithSpan]> {
    let (first, rest) = words.split_at_checked(keywords.len())?;
    let is_all = first.iter().zip(keywords).all(|(token, keyword)| is_unquoted(&token.token, keyword));
    is_all.then_some(rest)
}

/// `INTERVAL '5 seconds'`, `INTERVAL '5' SECOND`, `'5 seconds'`; of positive length.
fn every(text: &Text<'_>, word: &TokenWithSpan, rest: &[&TokenWithSpan]) -> Result<i64, Error> {
    let length = behind(rest, &["INTERVAL"]).unwrap_or(rest);
    let tokens: Vec<&Token> = length.iter().map(|token| &token.token).collect();
    let length = match &tokens[..] {
        [Token::SingleQuotedString(text)] => Some(text.clone()),
        [Token::SingleQuotedString(count), Token::Word(unit)] => Some(format!("{count} {}", unit.value)),
        _ => None,
    };
    length.as_deref().and_then(micros_of).ok_or_else(|| {
        let at = rest.first().unwrap_or(&word).span.start;
        Error::new(SqlState::SYNTAX_ERROR, "EMIT … EVERY needs a positive length of time of weeks or less")
            .at(text.position(at).unwrap_or(1))
            .with_hint("Write EMIT EVERY INTERVAL '5 seconds'.")
    })
}
