//! A place in a statement's tokens.
//!
//! sqlparser parses what is plain SQL (queries, expressions, DML); this cursor parses what is
//! ours, word by word, over the same tokens. It turns sqlparser's errors into PostgreSQL's: only
//! the location is taken from them, and the words around it from the text.

use datafusion::sql::sqlparser::ast::{Expr, Query};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Word};
use tidemill_core::{Emit, did_you_mean};

use crate::error::Error;
use crate::parser::dialect::TidemillDialect;
use crate::parser::text::Text;

/// Nesting deeper than this is refused; sqlparser's own default of 50 stops some generated SQL.
const DEPTH_MAX: usize = 100;

/// An identifier as PostgreSQL reads it: folded to lower case unless quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub value: String,
    /// In characters from 1.
    pub position: usize,
}

/// `[schema.]name`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    pub schema: Option<String>,
    pub name: String,
    /// In characters from 1.
    pub position: usize,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quote(schema))?;
        }
        f.write_str(&quote(&self.name))
    }
}

/// The name as it must be written: quoted where PostgreSQL would fold or refuse it.
pub fn quote(name: &str) -> String {
    let plain = name
        .chars()
        .enumerate()
        .all(|(idx, c)| c == '_' || c.is_ascii_lowercase() || (idx > 0 && c.is_ascii_digit()));
    match plain && !name.is_empty() && !is_reserved(name) {
        true => name.to_string(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// The text as a literal.
pub fn quote_literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// PostgreSQL's reserved words: never a name unless quoted.
const RESERVED: [&str; 77] = [
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "system_user",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
];

fn is_reserved(name: &str) -> bool {
    name == "with" || RESERVED.contains(&name)
}

/// The words that are suggested instead of a misspelled one in the middle of a statement.
const COMMON_KEYWORDS: [&str; 52] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "ORDER",
    "BY",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "JOIN",
    "LEFT",
    "RIGHT",
    "INNER",
    "OUTER",
    "CROSS",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "DISTINCT",
    "VALUES",
    "INSERT",
    "INTO",
    "UPDATE",
    "DELETE",
    "CREATE",
    "SOURCE",
    "TABLE",
    "PIPELINE",
    "MATERIALIZED",
    "VIEW",
    "SINK",
    "SCHEMA",
    "PRIMARY",
    "WATERMARK",
    "INCLUDE",
    "FORMAT",
    "ENCODE",
    "WITH",
    "BETWEEN",
    "EXISTS",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "INTERVAL",
    "PARTITION",
    "WINDOW",
    "RETURNING",
    "USING",
    "CASCADE",
    "REPLACE",
    "DEFAULT",
];

/// Reads a statement from its first token to its last.
pub struct Cursor<'a> {
    parser: Parser<'a>,
    dialect: &'a TidemillDialect,
    text: &'a Text<'a>,
    /// Behind the statement: `EMIT …`, which is taken off before a query can read `EMIT` as an alias. `None` when
    /// there is none, or when it has been asked for.
    emit: Option<(Result<Emit, Error>, Span)>,
}

impl<'a> Cursor<'a> {
    /// At the first of the tokens, which have locations in `text`.
    pub fn new(
        text: &'a Text<'a>,
        dialect: &'a TidemillDialect,
        mut tokens: Vec<TokenWithSpan>,
    ) -> Cursor<'a> {
        let emit = super::emit::take(text, &mut tokens);
        Cursor { parser: parser_of(dialect, tokens), dialect, text, emit }
    }

    /// What the statement's `EMIT` says. `EMIT CHANGES` and `EMIT ON UPDATE` say what holds without.
    pub fn emit(&mut self) -> Result<Emit, Error> {
        self.emit.take().map_or(Ok(Emit::OnUpdate), |(emit, _)| emit)
    }

    /// The unquoted word here, in upper case.
    pub fn word(&self) -> Option<String> {
        self.word_at(0)
    }

    /// The unquoted word `n` tokens further, in upper case.
    pub fn word_at(&self, n: usize) -> Option<String> {
        match &self.parser.peek_nth_token_ref(n).token {
            Token::Word(Word { value, quote_style: None, .. }) => Some(value.to_uppercase()),
            _ => None,
        }
    }

    /// Whether the next word is `keyword` (given in upper case).
    pub fn is(&self, keyword: &str) -> bool {
        self.is_nth(0, keyword)
    }

    fn is_nth(&self, n: usize, keyword: &str) -> bool {
        is_unquoted(&self.parser.peek_nth_token_ref(n).token, keyword)
    }

    /// Whether the next words are these.
    pub fn is_all(&self, keywords: &[&str]) -> bool {
        keywords.iter().enumerate().all(|(n, keyword)| self.is_nth(n, keyword))
    }

    /// Goes behind `keyword` if it is next.
    pub fn eat(&mut self, keyword: &str) -> bool {
        let found = self.is(keyword);
        if found {
            self.advance();
        }
        found
    }

    /// Goes behind these words if they are next.
    pub fn eat_all(&mut self, keywords: &[&str]) -> bool {
        let found = self.is_all(keywords);
        if found {
            keywords.iter().for_each(|_| self.advance());
        }
        found
    }

    /// Goes behind one of these words and says which.
    pub fn eat_one_of<'k>(&mut self, keywords: &[&'k str]) -> Option<&'k str> {
        keywords.iter().find(|keyword| self.eat(keyword)).copied()
    }

    /// Goes behind `keyword`, which must be next.
    pub fn expect(&mut self, keyword: &str) -> Result<(), Error> {
        match self.eat(keyword) {
            true => Ok(()),
            false => Err(self.unexpected(keyword)),
        }
    }

    /// The words must be next.
    pub fn expect_all(&mut self, keywords: &[&str]) -> Result<(), Error> {
        keywords.iter().try_for_each(|keyword| self.expect(keyword))
    }

    /// Whether the next token is this.
    pub fn is_token(&self, token: &Token) -> bool {
        &self.peek().token == token
    }

    /// Goes behind the token if it is next.
    pub fn eat_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    /// Goes behind the token, which must be next.
    pub fn expect_token(&mut self, token: &Token) -> Result<(), Error> {
        match self.eat_token(token) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("\"{token}\""))),
        }
    }

    /// The token here; at the end, `EOF`.
    pub fn peek(&self) -> &TokenWithSpan {
        self.parser.peek_token_ref()
    }

    /// The token `n` further.
    pub fn peek_at(&self, n: usize) -> &Token {
        &self.parser.peek_nth_token_ref(n).token
    }

    /// Goes one token further.
    pub fn advance(&mut self) {
        self.parser.advance_token();
    }

    /// Whether all tokens have been read.
    pub fn at_end(&self) -> bool {
        self.is_token(&Token::EOF)
    }

    /// Nothing may follow.
    pub fn finish(&mut self) -> Result<(), Error> {
        if !self.at_end() {
            return Err(self.unexpected("the end of the statement"));
        }
        match self.emit.take() {
            Some((_, span)) => Err(self
                .unexpected_at(span.start, "the end of the statement")
                .with_hint("EMIT belongs to CREATE PIPELINE … AS and CREATE SINK … AS.")),
            None => Ok(()),
        }
    }

    /// Where the next token stands, in characters from 1.
    pub fn position(&self) -> usize {
        self.text.position(self.peek().span.start).unwrap_or_else(|| self.text.end_position())
    }

    /// A mark to cut the text from.
    pub fn mark(&self) -> usize {
        match self.text.byte(self.peek().span.start) {
            Some(byte) => byte,
            None => self.text.sql().trim_end().len(),
        }
    }

    /// The text from a mark to the last token that was read.
    pub fn text_from(&self, mark: usize) -> String {
        let end = self.text.byte(self.parser.get_current_token().span.end).unwrap_or(self.text.sql().len());
        self.text.sql().get(mark..end).unwrap_or("").trim().to_string()
    }

    /// An identifier.
    pub fn name(&mut self) -> Result<Name, Error> {
        let position = self.position();
        match &self.peek().token {
            Token::Word(word) => {
                let value = match word.quote_style {
                    Some(_) => word.value.clone(),
                    None => word.value.to_lowercase(),
                };
                if word.quote_style.is_none() && is_reserved(&value) {
                    return Err(self.unexpected("a name").with_hint(format!(
                        "{} is a reserved word; write \"{value}\" in double quotes to use it as a name.",
                        value.to_uppercase()
                    )));
                }
                if value.is_empty() {
                    return Err(self.unexpected("a name"));
                }
                self.advance();
                Ok(Name { value, position })
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// `[[tidemill.]schema.]name`
    pub fn object_name(&mut self) -> Result<ObjectName, Error> {
        let first = self.name()?;
        let mut parts = vec![first.value];
        while self.eat_token(&Token::Period) {
            parts.push(self.part_behind_period()?);
        }
        let position = first.position;
        let name = parts.pop().expect("there is a first part");
        let schema = parts.pop();
        match parts.pop() {
            None => Ok(ObjectName { schema, name, position }),
            Some(database) if parts.is_empty() && database == "tidemill" => {
                Ok(ObjectName { schema, name, position })
            }
            Some(database) => Err(Error::unsupported(format!("a reference to the database \"{database}\""))
                .with_hint("Names have at most two parts here: schema and name.")
                .at(position)),
        }
    }

    /// Behind a period every word is a name, reserved or not.
    fn part_behind_period(&mut self) -> Result<String, Error> {
        let part = match &self.peek().token {
            Token::Word(word) if word.quote_style.is_some() => word.value.clone(),
            Token::Word(word) => word.value.to_lowercase(),
            _ => return Err(self.unexpected("a name")),
        };
        self.advance();
        Ok(part)
    }

    /// A string literal.
    pub fn string(&mut self) -> Result<String, Error> {
        match string_of(&self.peek().token) {
            Some(value) => {
                self.advance();
                Ok(value)
            }
            None => Err(self.unexpected("a string")),
        }
    }

    /// A string literal, if one is next.
    pub fn string_opt(&mut self) -> Option<String> {
        let value = string_of(&self.peek().token)?;
        self.advance();
        Some(value)
    }

    /// An unsigned integer literal.
    pub fn integer(&mut self) -> Result<u64, Error> {
        let Token::Number(digits, _) = &self.peek().token else {
            return Err(self.unexpected("a number"));
        };
        match digits.parse() {
            Ok(number) => {
                self.advance();
                Ok(number)
            }
            Err(_) => Err(self.unexpected("a whole number")),
        }
    }

    /// `item, item, …`
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Error>) -> Result<Vec<T>, Error> {
        let mut items = vec![item(self)?];
        while self.eat_token(&Token::Comma) {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// `(item, item, …)`
    pub fn parenthesized<T>(
        &mut self,
        item: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        self.expect_token(&Token::LParen)?;
        let items = self.list(item)?;
        self.expect_token(&Token::RParen)?;
        Ok(items)
    }

    /// An expression and its text.
    pub fn expr(&mut self) -> Result<(Expr, String), Error> {
        let mark = self.mark();
        let expr = self.sqlparser(Parser::parse_expr)?;
        Ok((expr, self.text_from(mark)))
    }

    /// A query and its text.
    pub fn query(&mut self) -> Result<(Box<Query>, String), Error> {
        let query_begins = self.is_token(&Token::LParen)
            || ["SELECT", "WITH", "VALUES", "TABLE", "FROM"].iter().any(|keyword| self.is(keyword));
        if !query_begins {
            return Err(self.unexpected("a query"));
        }
        let mark = self.mark();
        let query = match self.find_options() {
            Some(end) => self.query_until(end)?,
            None => self.sqlparser(Parser::parse_query)?,
        };
        Ok((query, self.text_from(mark)))
    }

    /// The index of the `WITH (` behind the query that begins here, if there is one.
    ///
    /// sqlparser would take it for hints of the table before it, as SQL Server has them; a CTE's
    /// `WITH` has no parenthesis.
    fn find_options(&self) -> Option<usize> {
        let mut depth = 0usize;
        let mut with = None;
        for idx in self.parser.index().. {
            let token = &self.parser.token_at(idx).token;
            match token {
                Token::EOF => return None,
                Token::Whitespace(_) => continue,
                Token::LParen if depth == 0 && with.is_some() => return with,
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.checked_sub(1)?,
                _ => (),
            }
            with = (depth == 0 && is_unquoted(token, "WITH")).then_some(idx);
        }
        None
    }

    /// Reads a query of exactly the tokens before `end`.
    fn query_until(&mut self, end: usize) -> Result<Box<Query>, Error> {
        let start = self.parser.index();
        let tokens = (start..end).map(|idx| self.parser.token_at(idx).clone()).collect();
        let mut query_parser = parser_of(self.dialect, tokens);
        let parsed = query_parser.parse_query();
        let ended = query_parser.peek_token_ref().token == Token::EOF;
        // Stand where the other parser stopped: the text ends there, and errors are told from there.
        let stop = (start + query_parser.index()).min(end);
        while self.parser.index() < stop {
            self.parser.next_token_no_skip();
        }
        match parsed {
            Ok(query) if ended => Ok(query),
            Ok(_) => Err(self.unexpected("the end of the query")),
            // The end of input to the other parser is the token at `end` to the user.
            Err(ParserError::ParserError(message)) if message.ends_with("found: EOF") => {
                let location = self.parser.token_at(end).span.start;
                Err(self.unexpected_at(location, "the rest of the query"))
            }
            Err(error) => Err(self.parser_error(error)),
        }
    }

    /// Lets sqlparser read on, and tells its errors in PostgreSQL's words.
    pub fn sqlparser<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>,
    ) -> Result<T, Error> {
        match parse(&mut self.parser) {
            Ok(parsed) => Ok(parsed),
            Err(error) => Err(self.parser_error(error)),
        }
    }

    fn parser_error(&self, error: ParserError) -> Error {
        let message = match error {
            ParserError::RecursionLimitExceeded => return Error::too_complex().at(self.position()),
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
        };
        let (reason, location) = split_location(&message);
        // This one message lacks the colon, and has the location of what follows.
        let colon = reason.replacen("Expected an expression, found", "Expected: an expression, found", 1);
        let location = location.filter(|_| colon == reason);
        let reason = colon.as_str();
        let (expected, found) =
            match reason.strip_prefix("Expected: ").map(|rest| rest.rsplit_once(", found: ")) {
                Some(Some((expected, found))) => (Some(expected.trim_end_matches(" after")), Some(found)),
                _ => (None, None),
            };
        match (expected, found, location) {
            (Some(expected), Some("EOF"), _) => self.unexpected_end(expected),
            (Some(expected), _, Some(location)) => self.unexpected_at(location, expected),
            (Some(expected), found, None) => match found.and_then(|found| self.last_read(found)) {
                Some(location) => self.unexpected_at(location, expected),
                None => self.unexpected(expected),
            },
            (None, _, location) => {
                let position = location
                    .and_then(|location| self.text.position(location))
                    .unwrap_or_else(|| self.position());
                let mut reason = reason.trim_end_matches('.').to_string();
                if let Some(first) = reason.get(..1).map(str::to_lowercase)
                    && reason.chars().nth(1).is_some_and(char::is_lowercase)
                {
                    reason.replace_range(..1, &first);
                }
                Error::new(tidemill_core::SqlState::SYNTAX_ERROR, reason).at(position)
            }
        }
    }

    /// Where the token `found` stands that was read last.
    fn last_read(&self, found: &str) -> Option<Location> {
        let mut tokens = (0..=self.parser.index()).rev().map(|idx| self.parser.token_at(idx));
        let token = tokens.find(|token| token.token != Token::EOF && token.token.to_string() == found)?;
        Some(token.span.start)
    }

    /// The token here is not what the grammar asks for.
    pub fn unexpected(&self, expected: &str) -> Error {
        match self.at_end() {
            true => self.unexpected_end(expected),
            false => self.unexpected_at(self.peek().span.start, expected),
        }
    }

    /// The word here is none of `known`, of which one may have been meant.
    pub fn unexpected_word(&self, expected: &str, known: &[&str]) -> Error {
        let hint = self.word().and_then(|word| {
            did_you_mean(&word, known.iter().copied()).map(|near| format!("Did you mean {near}?"))
        });
        // Without a near word, a short list is the better hint.
        let list = (known.len() <= 12).then(|| format!("Known are {}.", known.join(", ")));
        let mut error = self.unexpected(expected);
        if let Some(hint) = hint.or(list) {
            error = error.with_hint(hint);
        }
        error
    }

    fn unexpected_end(&self, expected: &str) -> Error {
        Error::end_of_input().with_detail(format!("Expected {expected}.")).at(self.text.end_position())
    }

    fn unexpected_at(&self, location: Location, expected: &str) -> Error {
        let mut before: Option<&TokenWithSpan> = None;
        for idx in 0.. {
            let token = self.parser.token_at(idx);
            if token.token == Token::EOF {
                break;
            }
            if token.span.start == location {
                return self.unexpected_token(token, before, expected);
            }
            if !matches!(token.token, Token::Whitespace(_)) {
                before = Some(token);
            }
        }
        // A location that no token begins at: the tail that was taken off, or inside a token.
        let start = self.text.byte(location).unwrap_or(0);
        let near = self.text.sql()[start..].split_whitespace().next().unwrap_or("");
        Error::syntax(near)
            .at(self.text.position(location).unwrap_or(1))
            .with_detail(format!("Expected {expected}."))
    }

    fn unexpected_token(
        &self,
        token: &TokenWithSpan,
        before: Option<&TokenWithSpan>,
        expected: &str,
    ) -> Error {
        let start = self.text.byte(token.span.start).unwrap_or(0);
        let end = self.text.byte(token.span.end).unwrap_or(start).max(start);
        let near = &self.text.sql()[start..end];
        let hint = keyword_meant(token).or_else(|| before.and_then(keyword_meant));
        Error::syntax(near)
            .with_detail(format!("Expected {expected}."))
            .with_hint_opt(hint)
            .at(self.text.position(token.span.start).unwrap_or(1))
    }
}

fn parser_of(dialect: &TidemillDialect, tokens: Vec<TokenWithSpan>) -> Parser<'_> {
    Parser::new(dialect).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens)
}

/// Whether the token is this word, in any case, without quotes.
pub(crate) fn is_unquoted(token: &Token, keyword: &str) -> bool {
    match token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword),
        _ => false,
    }
}

/// The keyword that a word was probably meant to be, as a hint.
fn keyword_meant(token: &TokenWithSpan) -> Option<String> {
    let Token::Word(word) = &token.token else {
        return None;
    };
    let upper = word.value.to_uppercase();
    if word.quote_style.is_some() || upper.len() < 3 || COMMON_KEYWORDS.contains(&upper.as_str()) {
        return None;
    }
    did_you_mean(&upper, COMMON_KEYWORDS).map(|near| format!("Did you mean {near}?"))
}

/// The value of a string token.
fn string_of(token: &Token) -> Option<String> {
    match token {
        Token::SingleQuotedString(value)
        | Token::EscapedStringLiteral(value)
        | Token::UnicodeStringLiteral(value) => Some(value.clone()),
        Token::DollarQuotedString(quoted) => Some(quoted.value.clone()),
        _ => None,
    }
}

/// Cuts ` at Line: 1, Column: 8` off a parser's message.
fn split_location(message: &str) -> (&str, Option<Location>) {
    let Some(idx) = message.rfind(" at Line: ") else {
        return (message, None);
    };
    let numbers = message[idx + " at Line: ".len()..].split_once(", Column: ");
    match numbers.map(|(line, column)| (line.parse(), column.parse())) {
        Some((Ok(line), Ok(column))) => (&message[..idx], Some(Location::new(line, column))),
        _ => (message, None),
    }
}
