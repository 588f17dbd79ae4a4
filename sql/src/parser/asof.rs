//! `a ASOF [LEFT] JOIN b …`, in the spellings of the field.
//!
//! sqlparser reads `ASOF JOIN b MATCH_CONDITION (…) [ON …]`, and no LEFT with it. It also reads ClickHouse's `GLOBAL` before
//! any join, and keeps it as a flag that means nothing else here. So tokens are exchanged:
//!
//! ```text
//! ASOF JOIN b ON …                                        GLOBAL JOIN b ON …
//! ASOF LEFT JOIN b ON …               LEFT ASOF …         GLOBAL LEFT JOIN b ON …
//! ASOF LEFT JOIN b MATCH_CONDITION …  LEFT ASOF …         GLOBAL ASOF JOIN b MATCH_CONDITION …
//! ```
//!
//! A `GLOBAL` of the text's own is the alias that it is to PostgreSQL.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace, Word};
use tidemill_core::SqlState;

use super::text::Text;
use crate::error::Error;

/// Writes ASOF joins as sqlparser reads them.
pub(super) fn respell(text: &Text<'_>, tokens: &mut [TokenWithSpan]) -> Result<(), Error> {
    let words: Vec<usize> =
        (0..tokens.len()).filter(|idx| !matches!(tokens[*idx].token, Token::Whitespace(_))).collect();
    for word in 0..words.len() {
        match keyword(tokens, &words, word) {
            Some(Keyword::GLOBAL) if is_join(keyword(tokens, &words, word + 1)) => {
                tokens[words[word]].token = Token::make_word("global", Some('"'));
            }
            // After AS it is a name.
            Some(Keyword::ASOF) if word > 0 && keyword(tokens, &words, word - 1) != Some(Keyword::AS) => {
                respell_join(text, tokens, &words, word)?
            }
            _ => (),
        }
    }
    Ok(())
}

/// The join whose ASOF is the `asof`th word.
fn respell_join(
    text: &Text<'_>,
    tokens: &mut [TokenWithSpan],
    words: &[usize],
    asof: usize,
) -> Result<(), Error> {
    let is_kind_at = |word: usize| is_kind(keyword(tokens, words, word));
    let start = (0..asof).rev().take_while(|word| is_kind_at(*word)).last().unwrap_or(asof);
    let join = (asof + 1..).find(|word| !is_kind_at(*word)).expect("the words end");
    if keyword(tokens, words, join) != Some(Keyword::JOIN) {
        return Ok(());
    }
    let kinds: Vec<Keyword> = (start..join).filter_map(|word| keyword(tokens, words, word)).collect();
    if kinds.contains(&Keyword::RIGHT) || kinds.contains(&Keyword::FULL) {
        return Err(Error::new(SqlState::FEATURE_NOT_SUPPORTED, "an ASOF join is an inner or a left join")
            .with_hint("Write ASOF JOIN or ASOF LEFT JOIN, with the rows that are all to stay on the left.")
            .or_at(text.position(tokens[words[asof]].span.start)));
    }
    let is_left = kinds.contains(&Keyword::LEFT);
    let spelled: &[&str] = match (has_match_condition(&tokens[words[join]..]), is_left) {
        (true, true) => &["GLOBAL", "ASOF"],
        (true, false) => &["ASOF"],
        (false, true) => &["GLOBAL", "LEFT"],
        (false, false) => &["GLOBAL"],
    };
    for (word, spelled) in (start..join).zip(spelled.iter().map(Some).chain(std::iter::repeat(None))) {
        tokens[words[word]].token = match spelled {
            Some(keyword) => Token::make_keyword(keyword),
            None => Token::Whitespace(Whitespace::Space),
        };
    }
    Ok(())
}

fn keyword(tokens: &[TokenWithSpan], words: &[usize], word: usize) -> Option<Keyword> {
    match words.get(word).map(|idx| &tokens[*idx].token) {
        Some(Token::Word(Word { keyword, quote_style: None, .. })) => Some(*keyword),
        _ => None,
    }
}

fn is_kind(keyword: Option<Keyword>) -> bool {
    matches!(keyword, Some(Keyword::LEFT | Keyword::RIGHT | Keyword::FULL | Keyword::INNER | Keyword::OUTER))
}

fn is_join(keyword: Option<Keyword>) -> bool {
    is_kind(keyword)
        || matches!(keyword, Some(Keyword::JOIN | Keyword::CROSS | Keyword::NATURAL | Keyword::ASOF))
}

/// Whether a MATCH_CONDITION comes before the join's ON, which is not the ON of a join in parentheses.
fn has_match_condition(tokens: &[TokenWithSpan]) -> bool {
    let mut depth = 0usize;
    for token in tokens {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return false,
            Token::RParen => depth -= 1,
            Token::Word(Word { keyword, quote_style: None, .. }) if depth == 0 => match keyword {
                Keyword::MATCH_CONDITION => return true,
                Keyword::ON | Keyword::USING | Keyword::WHERE => return false,
                _ => (),
            },
            _ => (),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::{JoinOperator, SetExpr, TableFactor};

    use tidemill_core::Diagnostic;

    use crate::parser::parse_query;

    /// How a join is read: its kind, and whether it carries the flag.
    fn join(sql: &str) -> String {
        let query =
            parse_query(&format!("SELECT * FROM a {sql}")).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let SetExpr::Select(select) = *query.body else { panic!("{sql} is a SELECT") };
        let join = &select.from[0].joins[0];
        let kind = match &join.join_operator {
            JoinOperator::Join(_) => "join",
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => "left",
            JoinOperator::AsOf { .. } => "match condition",
            _ => "other",
        };
        let alias = match &select.from[0].relation {
            TableFactor::Table { alias: Some(alias), .. } => alias.to_string(),
            _ => String::new(),
        };
        format!("{}{kind}{}", alias, if join.global { ", flagged" } else { "" })
    }

    #[test]
    fn every_spelling_is_read() {
        assert_eq!(join("ASOF JOIN b ON a.k = b.k AND a.t >= b.t"), "join, flagged");
        assert_eq!(join("ASOF INNER JOIN b ON a.t >= b.t"), "join, flagged");
        assert_eq!(join("ASOF LEFT JOIN b ON a.t >= b.t"), "left, flagged");
        assert_eq!(join("asof left outer join b ON a.t >= b.t"), "left, flagged");
        assert_eq!(join("LEFT ASOF JOIN b ON a.t >= b.t"), "left, flagged");
        assert_eq!(join("ASOF JOIN b MATCH_CONDITION (a.t >= b.t) ON a.k = b.k"), "match condition");
        assert_eq!(join("ASOF INNER JOIN b MATCH_CONDITION (a.t >= b.t)"), "match condition");
        assert_eq!(
            join("ASOF LEFT JOIN b MATCH_CONDITION (a.t >= b.t) ON a.k = b.k"),
            "match condition, flagged"
        );
        assert_eq!(join("LEFT ASOF JOIN b AS c MATCH_CONDITION (a.t >= c.t)"), "match condition, flagged");
        assert_eq!(
            join(
                "LEFT OUTER ASOF JOIN (SELECT * FROM c JOIN d ON c.k = d.k) AS b MATCH_CONDITION (a.t >= b.t)"
            ),
            "match condition, flagged"
        );
        assert_eq!(
            join("ASOF JOIN (SELECT * FROM c ASOF JOIN d MATCH_CONDITION (c.t >= d.t)) AS b ON a.t >= b.t"),
            "join, flagged"
        );
    }

    #[test]
    fn only_the_left_can_be_kept_whole() {
        for sql in ["ASOF RIGHT JOIN b ON a.t >= b.t", "FULL OUTER ASOF JOIN b MATCH_CONDITION (a.t >= b.t)"]
        {
            let error = parse_query(&format!("SELECT * FROM a {sql}")).unwrap_err();
            assert_eq!(error.position(), Some(17 + sql.find("ASOF").unwrap()));
            assert_eq!(error.to_string(), "an ASOF join is an inner or a left join");
        }
    }

    #[test]
    fn global_is_a_name() {
        assert_eq!(join("global JOIN b ON true"), "\"global\"join");
        assert_eq!(join("AS global LEFT JOIN b ON true"), "AS \"global\"left");
        assert_eq!(join("AS asof JOIN b ON true"), "AS asofjoin");
    }
}
