//! `a ASOF [LEFT] JOIN b ON …`, as DuckDB and RisingWave write it.
//!
//! sqlparser reads Snowflake's `ASOF JOIN b MATCH_CONDITION (…) ON …` only. It does read ClickHouse's `GLOBAL`
//! before a join of any kind, and keeps it as a flag that means nothing else here: so that is what any other
//! `ASOF` becomes.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

/// Makes `GLOBAL` of each `ASOF` whose condition stands in ON.
pub(super) fn respell(tokens: &mut [TokenWithSpan]) {
    let words: Vec<usize> =
        (0..tokens.len()).filter(|idx| !matches!(tokens[*idx].token, Token::Whitespace(_))).collect();
    let keyword = |tokens: &[TokenWithSpan], word: usize| match words.get(word).map(|idx| &tokens[*idx].token) {
        Some(Token::Word(Word { keyword, quote_style: None, .. })) => Some(*keyword),
        _ => None,
    };
    for word in 0..words.len() {
        if keyword(tokens, word) != Some(Keyword::ASOF) {
            continue;
        }
        let is_respelled = match keyword(tokens, word + 1) {
            Some(Keyword::JOIN) => !has_match_condition(&tokens[words[word + 1]..]),
            Some(Keyword::LEFT | Keyword::INNER | Keyword::RIGHT | Keyword::FULL) => true,
            _ => false,
        };
        if is_respelled {
            tokens[words[word]].token = Token::make_keyword("GLOBAL");
        }
    }
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
