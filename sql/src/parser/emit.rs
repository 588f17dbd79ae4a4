//! `EMIT …` behind a query.
//!
//! ```sql
//! EMIT CHANGES                                            -- as inputs change; so does
//! EMIT ON UPDATE [UNTIL WINDOW CLOSE]
//! EMIT ON WINDOW CLOSE [WITH EARLY EVERY INTERVAL '1 second']
//! EMIT EVERY INTERVAL '5 seconds'
//! ```

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};
use tidemill_core::Emit;

use super::cursor::is_unquoted;
use crate::upkeep::micros_of;

/// Takes the clause off the end.
pub(super) fn take(tokens: &mut Vec<TokenWithSpan>) -> Option<(Emit, Span)> {
    let start = tokens.iter().rposition(|token| is_unquoted(&token.token, "EMIT"))?;
    let words: Vec<&Token> = tokens[start + 1..]
        .iter()
        .map(|token| &token.token)
        .filter(|token| !matches!(token, Token::Whitespace(_) | Token::EOF))
        .collect();
    let emit = emit(&words)?;
    let span = tokens[start].span;
    tokens.truncate(start);
    Some((emit, span))
}

fn emit(words: &[&Token]) -> Option<Emit> {
    if let Some(rest) = behind(words, &["EVERY"]) {
        return every(rest).map(Emit::Every);
    }
    if let Some(rest) = behind(words, &["ON", "WINDOW", "CLOSE", "WITH", "EARLY", "EVERY"]) {
        return every(rest).map(Emit::OnWindowCloseWithEarly);
    }
    let plain: [(&[&str], Emit); 4] = [
        (&["CHANGES"], Emit::OnUpdate),
        (&["ON", "UPDATE"], Emit::OnUpdate),
        (&["ON", "UPDATE", "UNTIL", "WINDOW", "CLOSE"], Emit::OnUpdateUntilClose),
        (&["ON", "WINDOW", "CLOSE"], Emit::OnWindowClose),
    ];
    let is_all = |keywords: &[&str]| behind(words, keywords).is_some_and(<[&Token]>::is_empty);
    plain.into_iter().find(|(keywords, _)| is_all(keywords)).map(|(_, emit)| emit)
}

/// What follows these words.
fn behind<'t, 'a>(words: &'t [&'a Token], keywords: &[&str]) -> Option<&'t [&'a Token]> {
    let (first, rest) = words.split_at_checked(keywords.len())?;
    let is_all = first.iter().zip(keywords).all(|(token, keyword)| is_unquoted(token, keyword));
    is_all.then_some(rest)
}

/// `INTERVAL '5 seconds'`, `INTERVAL '5' SECOND`; of positive length.
fn every(words: &[&Token]) -> Option<i64> {
    let text = match behind(words, &["INTERVAL"])? {
        [Token::SingleQuotedString(text)] => text.clone(),
        [Token::SingleQuotedString(count), Token::Word(unit)] => format!("{count} {}", unit.value),
        _ => return None,
    };
    micros_of(&text)
}
