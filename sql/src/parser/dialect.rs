//! PostgreSQL's dialect, plus the few things that DataFusion understands beyond it.
//!
//! Wraps sqlparser's `PostgreSqlDialect`: every rule that is not named here is PostgreSQL's or the
//! default. `dialect()` answers with PostgreSQL's type, so that the parser's own questions ("is
//! this PostgreSQL?") stay true.

use std::any::TypeId;
use std::cell::Cell;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, TrimWhereField, Value};
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// The dialect of every text that Tidemill reads.
#[derive(Debug, Clone)]
pub struct TidemillDialect {
    /// How many more times the parser may begin an expression or ask for a precedence.
    ///
    /// Where the grammar is ambiguous sqlparser reads one way, goes back and reads another; nested,
    /// that takes exponential time (`position(position(…`). Someone who asks this often is lost.
    n_steps: Cell<usize>,
    /// Whether `FOR SYSTEM_TIME AS OF` can follow a name. Asked for where it is not, sqlparser takes some names of
    /// tables' aliases, such as `changes`, for the beginning of a version.
    has_versions: bool,
}

impl Default for TidemillDialect {
    /// Without a bound on steps: for tokenizing.
    fn default() -> TidemillDialect {
        TidemillDialect { n_steps: Cell::new(usize::MAX), has_versions: false }
    }
}

impl TidemillDialect {
    /// For parsing these tokens.
    pub fn for_tokens(tokens: &[TokenWithSpan]) -> TidemillDialect {
        // Straight reading takes fewer than four steps per token.
        let n_steps = Cell::new(tokens.len().saturating_mul(64).saturating_add(4_096));
        let has_versions = tokens.iter().any(|token| is_keyword(&token.token, Keyword::SYSTEM_TIME));
        TidemillDialect { n_steps, has_versions }
    }
}

impl TidemillDialect {
    fn take_step(&self) -> Result<(), ParserError> {
        match self.n_steps.get().checked_sub(1) {
            Some(n_steps) => {
                self.n_steps.set(n_steps);
                Ok(())
            }
            None => Err(ParserError::RecursionLimitExceeded),
        }
    }
}

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

/// Rules that are answered by `PostgreSqlDialect`.
macro_rules! as_postgres {
    ($($rule:ident),* $(,)?) => {
        $(fn $rule(&self) -> bool {
            POSTGRES.$rule()
        })*
    };
}

/// Rules that hold here although PostgreSQL does not have them: DataFusion plans them.
macro_rules! beyond_postgres {
    ($($rule:ident),* $(,)?) => {
        $(fn $rule(&self) -> bool {
            true
        })*
    };
}

impl Dialect for TidemillDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        POSTGRES.is_identifier_part(ch)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_delimited_identifier_start(ch)
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        POSTGRES.identifier_quote_style(identifier)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        POSTGRES.is_custom_operator_part(ch)
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        POSTGRES.is_reserved_for_identifier(keyword)
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        match self.take_step() {
            Ok(()) if is_measured(parser) => Some(parse_measured(parser)),
            Ok(()) => parse_bare_trim(parser).or_else(|| POSTGRES.parse_prefix(parser)),
            Err(error) => Some(Err(error)),
        }
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        if let Err(error) = self.take_step() {
            return Some(Err(error));
        }
        // sqlparser takes `x NOT NULL` for `x IS NOT NULL`, which PostgreSQL does not; so the
        // default `DEFAULT 1 NOT NULL` of a column would become a boolean.
        let not_null = is_keyword(&parser.peek_token_ref().token, Keyword::NOT)
            && is_keyword(&parser.peek_nth_token_ref(1).token, Keyword::NULL);
        match not_null {
            true => Some(Ok(self.prec_unknown())),
            false if is_word(&parser.peek_token_ref().token, "isnull") => {
                Some(Ok(self.prec_value(Precedence::Is)))
            }
            false => POSTGRES.get_next_precedence(parser),
        }
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        if is_word(&parser.peek_token_ref().token, "isnull") {
            parser.advance_token();
            return Some(Ok(Expr::IsNull(Box::new(expr.clone()))));
        }
        // sqlparser reads all that follows `IS DISTINCT FROM` as its operand: `a IS DISTINCT FROM 2 OR b` would
        // compare with `2 OR b`.
        let negated = match () {
            () if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) => false,
            () if parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) => {
                true
            }
            () => {
                return parse_quantified_like(parser, expr, self.prec_value(Precedence::Like))
                    .or_else(|| parse_symmetric_between(parser, expr, self.prec_value(Precedence::Between)))
                    .or_else(|| POSTGRES.parse_infix(parser, expr, precedence));
            }
        };
        let operand = parser.parse_subexpr(self.prec_value(Precedence::Is));
        let left = Box::new(expr.clone());
        Some(operand.map(|operand| match negated {
            false => Expr::IsDistinctFrom(left, Box::new(operand)),
            true => Expr::IsNotDistinctFrom(left, Box::new(operand)),
        }))
    }

    fn supports_table_versioning(&self) -> bool {
        self.has_versions
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        POSTGRES.prec_value(precedence)
    }

    // Left out on purpose: `supports_factorial_operator`, which went away in PostgreSQL 14;
    // `supports_named_fn_args_with_expr_name`, which reads every argument twice, and which
    // DataFusion does not plan.
    as_postgres! {
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_alter_column_type_using,
        supports_array_typedef_with_brackets,
        supports_bitwise_shift_operators,
        supports_comma_separated_trim,
        supports_comment_on,
        supports_create_index_with_clause,
        supports_create_table_like_parenthesized,
        supports_empty_projections,
        supports_explain_with_utility_options,
        supports_filter_during_aggregation,
        supports_geometric_types,
        supports_group_by_expr,
        supports_insert_table_alias,
        supports_interval_options,
        supports_listen_notify,
        supports_named_fn_args_with_colon_operator,
        supports_notnull_operator,
        supports_nested_comments,
        supports_numeric_literal_underscores,
        supports_select_wildcard_with_alias,
        supports_set_names,
        supports_string_escape_constant,
        supports_unicode_string_literal,
        supports_xml_expressions,
    }

    beyond_postgres! {
        supports_dictionary_syntax,
        supports_match_recognize,
        supports_order_by_all,
        supports_select_wildcard_except,
        supports_select_wildcard_exclude,
        supports_select_wildcard_replace,
        supports_window_clause_named_window_reference,
    }
}

/// Whether these keywords are next.
fn is_next(parser: &Parser, keywords: &[Keyword]) -> bool {
    keywords.iter().enumerate().all(|(n, keyword)| is_keyword(&parser.peek_nth_token_ref(n).token, *keyword))
}

fn skip(parser: &mut Parser, n_tokens: usize) {
    (0..n_tokens).for_each(|_| parser.advance_token());
}

/// `x [NOT] {LIKE | ILIKE} {ANY | SOME | ALL} (array)`, as `x ~~ ANY (array)`, which it means.
fn parse_quantified_like(
    parser: &mut Parser,
    expr: &Expr,
    precedence: u8,
) -> Option<Result<Expr, ParserError>> {
    let negated = is_next(parser, &[Keyword::NOT]);
    let keyword = |n: usize| match &parser.peek_nth_token_ref(n + usize::from(negated)).token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    };
    let compare_op = match (keyword(0), negated) {
        (Keyword::LIKE, false) => BinaryOperator::PGLikeMatch,
        (Keyword::LIKE, true) => BinaryOperator::PGNotLikeMatch,
        (Keyword::ILIKE, false) => BinaryOperator::PGILikeMatch,
        (Keyword::ILIKE, true) => BinaryOperator::PGNotILikeMatch,
        _ => return None,
    };
    let quantifier = keyword(1);
    if !matches!(quantifier, Keyword::ANY | Keyword::SOME | Keyword::ALL) {
        return None;
    }
    skip(parser, 2 + usize::from(negated));
    Some(parser.parse_subexpr(precedence).map(|right| {
        let left = Box::new(expr.clone());
        let right = match right {
            Expr::Nested(array) => array,
            other => Box::new(other),
        };
        match quantifier {
            Keyword::ALL => Expr::AllOp { left, compare_op, right },
            _ => Expr::AnyOp { left, compare_op, right, is_some: quantifier == Keyword::SOME },
        }
    }))
}

/// `x [NOT] BETWEEN {SYMMETRIC | ASYMMETRIC} a AND b`, which sqlparser does not read.
fn parse_symmetric_between(
    parser: &mut Parser,
    expr: &Expr,
    precedence: u8,
) -> Option<Result<Expr, ParserError>> {
    let negated = is_next(parser, &[Keyword::NOT]);
    let n = usize::from(negated);
    let is_between = is_keyword(&parser.peek_nth_token_ref(n).token, Keyword::BETWEEN);
    let quantifier = &parser.peek_nth_token_ref(n + 1).token;
    let is_symmetric = is_word(quantifier, "symmetric");
    if !is_between || !(is_symmetric || is_word(quantifier, "asymmetric")) {
        return None;
    }
    skip(parser, n + 2);
    let bounds = parser.parse_subexpr(precedence).and_then(|low| {
        parser.expect_keyword_is(Keyword::AND)?;
        Ok((low, parser.parse_subexpr(precedence)?))
    });
    let between = |negated, low: &Expr, high: &Expr| Expr::Between {
        expr: Box::new(expr.clone()),
        negated,
        low: Box::new(low.clone()),
        high: Box::new(high.clone()),
    };
    Some(bounds.map(|(low, high)| {
        if !is_symmetric {
            return between(negated, &low, &high);
        }
        let either = Expr::BinaryOp {
            left: Box::new(between(negated, &low, &high)),
            op: if negated { BinaryOperator::And } else { BinaryOperator::Or },
            right: Box::new(between(negated, &high, &low)),
        };
        Expr::Nested(Box::new(either))
    }))
}

/// `trim([BOTH | LEADING | TRAILING] FROM x)`: without characters, blanks are meant.
fn parse_bare_trim(parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
    let is_trim = is_next(parser, &[Keyword::TRIM]) && parser.peek_nth_token_ref(1).token == Token::LParen;
    if !is_trim {
        return None;
    }
    let trim_where = match &parser.peek_nth_token_ref(2).token {
        Token::Word(word) => match word.keyword {
            Keyword::BOTH => Some(TrimWhereField::Both),
            Keyword::LEADING => Some(TrimWhereField::Leading),
            Keyword::TRAILING => Some(TrimWhereField::Trailing),
            _ => None,
        },
        _ => None,
    };
    let n = 2 + usize::from(trim_where.is_some());
    if !is_keyword(&parser.peek_nth_token_ref(n).token, Keyword::FROM) {
        return None;
    }
    skip(parser, n + 1);
    let text = parser.parse_expr().and_then(|text| {
        parser.expect_token(&Token::RParen)?;
        Ok(text)
    });
    let blank = Expr::Value(Value::SingleQuotedString(" ".into()).into());
    Some(text.map(|text| Expr::Trim {
        expr: Box::new(text),
        trim_where,
        trim_what: Some(Box::new(blank)),
        trim_characters: None,
    }))
}

fn is_word(token: &Token, lower: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(lower))
}

/// Whether `FINAL` or `RUNNING` stands here, as in `FINAL LAST(A.price)`.
fn is_measured(parser: &Parser) -> bool {
    let is_prefix = |token: &Token| is_word(token, "final") || is_word(token, "running");
    // No two words follow each other where an expression begins, but for these and literals with a type.
    is_prefix(&parser.peek_token_ref().token)
        && matches!(&parser.peek_nth_token_ref(1).token, Token::Word(_))
        && matches!(&parser.peek_nth_token_ref(2).token, Token::LParen | Token::Period)
}

fn parse_measured(parser: &mut Parser) -> Result<Expr, ParserError> {
    let prefix = parser.parse_identifier()?;
    Ok(Expr::Prefixed { prefix, value: Box::new(parser.parse_prefix()?) })
}

fn is_keyword(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}
