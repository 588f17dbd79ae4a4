//! PostgreSQL's dialect, plus the few things that DataFusion understands beyond it.
//!
//! Wraps sqlparser's `PostgreSqlDialect`: every rule that is not named here is PostgreSQL's or the
//! default. `dialect()` answers with PostgreSQL's type, so that the parser's own questions ("is
//! this PostgreSQL?") stay true.

use std::any::TypeId;
use std::cell::Cell;

use datafusion::sql::sqlparser::ast::Expr;
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
            Ok(()) => POSTGRES.parse_prefix(parser),
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
            false => POSTGRES.get_next_precedence(parser),
        }
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        // sqlparser reads all that follows `IS DISTINCT FROM` as its operand: `a IS DISTINCT FROM 2 OR b` would
        // compare with `2 OR b`.
        let negated = match () {
            () if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) => false,
            () if parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) => {
                true
            }
            () => return POSTGRES.parse_infix(parser, expr, precedence),
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
        supports_order_by_all,
        supports_select_wildcard_except,
        supports_select_wildcard_exclude,
        supports_select_wildcard_replace,
        supports_window_clause_named_window_reference,
    }
}

fn is_keyword(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}
