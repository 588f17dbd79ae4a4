//! What of `MATCH_RECOGNIZE` sqlparser does not read, put into words that it does.
//!
//! sqlparser's tree has a place for all of it, but its parser knows Snowflake's grammar only, and its tokenizer
//! takes `*?` and `+|` for operators. So the clause's tokens are rewritten before they are parsed, each new one with
//! the place of the one it stands for. What comes out prints as something that reads as the same again.
//!
//! | in the text | for sqlparser |
//! |---|---|
//! | `A*?` | the quantifier `?` of the quantifier `*` |
//! | `{- A B* -}` | `({- A -}) ({- B -})*` |
//! | `PERMUTE(A, B)` | `(A B \| B A)` |
//! | `()` | `^{0}` |
//! | `AFTER MATCH SKIP TO A` | `AFTER MATCH SKIP TO LAST A` |
//! | `SUBSET u = (A, B)` | `DEFINE u AS SUBSET(A, B), …` |
//! | `WITHIN INTERVAL '1' HOUR` | `DEFINE "WITHIN INTERVAL" AS INTERVAL '1' HOUR, …` |
//! | `(SELECT …) MATCH_RECOGNIZE` | `"ROWS OF"((SELECT …)) MATCH_RECOGNIZE` |

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};
use tidemill_core::SqlState;

use super::text::Text;
use crate::error::Error;

/// The name under which DEFINE has the interval of WITHIN.
pub(crate) const WITHIN: &str = "WITHIN INTERVAL";

/// The name of the function whose argument is the subquery before MATCH_RECOGNIZE.
pub(crate) const ROWS_OF: &str = "ROWS OF";

/// The name of the function whose arguments are the variables of a SUBSET.
pub(crate) const SUBSET: &str = "SUBSET";

/// PERMUTE has as many orders as this number's factorial.
const PERMUTE_MAX: usize = 6;

/// Parentheses in a pattern.
const DEPTH_MAX: usize = 50;

/// How many tokens a pattern may become.
const TOKENS_MAX: usize = 50_000;

/// Rewrites every MATCH_RECOGNIZE in a statement.
pub(super) fn rewrite(text: &Text<'_>, tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, Error> {
    let is_clause = |token: &TokenWithSpan| is_word(&token.token, "MATCH_RECOGNIZE");
    if !tokens.iter().any(is_clause) {
        return Ok(tokens);
    }
    let mut output: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = &tokens[..];
    while let Some((token, behind)) = rest.split_first() {
        rest = behind;
        if !is_clause(token) {
            output.push(token.clone());
            continue;
        }
        let Some(open) = rest.iter().position(|token| !is_blank(token)) else { continue };
        if rest[open].token != Token::LParen {
            output.push(token.clone());
            continue;
        }
        wrap_subquery(&mut output);
        output.push(token.clone());
        let len = closing(&rest[open..]).ok_or_else(|| unclosed(text))?;
        let clause = &rest[open + 1..open + len];
        output.push(rest[open].clone());
        Clause { text, tokens: clause, idx: 0, output: &mut output }.rewrite()?;
        output.push(rest[open + len].clone());
        rest = &rest[open + len + 1..];
    }
    Ok(output)
}

/// `(SELECT …) [[AS] name]` at the end of `output` becomes the argument of a function.
fn wrap_subquery(output: &mut Vec<TokenWithSpan>) {
    let before = |end: usize| output[..end].iter().rposition(|token| !is_blank(token));
    let Some(mut last) = before(output.len()) else { return };
    if matches!(&output[last].token, Token::Word(_)) {
        let Some(previous) = before(last) else { return };
        last = previous;
        if is_word(&output[last].token, "AS") {
            let Some(previous) = before(last) else { return };
            last = previous;
        }
    }
    if output[last].token != Token::RParen {
        return;
    }
    let mut depth = 0usize;
    let open = output[..=last].iter().rposition(|token| {
        match token.token {
            Token::RParen => depth += 1,
            Token::LParen => depth -= 1,
            _ => (),
        }
        depth == 0
    });
    let Some(open) = open else { return };
    let begins = output[open + 1..].iter().find(|token| !is_blank(token) && token.token != Token::LParen);
    let is_query = begins.is_some_and(|token| {
        ["SELECT", "WITH", "VALUES", "TABLE"].iter().any(|word| is_word(&token.token, word))
    });
    // A word before it is a function, whose arguments these are.
    let is_call = before(open).is_some_and(|idx| match &output[idx].token {
        Token::Word(word) => word.keyword == Keyword::NoKeyword,
        _ => false,
    });
    if !is_query || is_call {
        return;
    }
    let span = output[open].span;
    output.insert(last + 1, TokenWithSpan::new(Token::RParen, output[last].span));
    output.insert(open, TokenWithSpan::new(Token::LParen, span));
    output.insert(open, TokenWithSpan::new(quoted(ROWS_OF), span));
}

/// What stands between the parentheses of MATCH_RECOGNIZE.
struct Clause<'a> {
    text: &'a Text<'a>,
    tokens: &'a [TokenWithSpan],
    idx: usize,
    output: &'a mut Vec<TokenWithSpan>,
}

impl<'a> Clause<'a> {
    fn rewrite(mut self) -> Result<(), Error> {
        while !(self.is("PATTERN") && self.nth(1).is_some_and(|token| token.token == Token::LParen)) {
            if self.idx >= self.tokens.len() {
                return Ok(());
            }
            let is_skip = self.is("SKIP");
            self.pass();
            if is_skip && self.is("TO") {
                self.pass();
                let is_long = ["NEXT", "FIRST", "LAST"].iter().any(|word| self.is(word)) && !self.ends_skip();
                if !is_long && let Some(token) = self.nth(0) {
                    let span = token.span;
                    self.push(Token::make_keyword("LAST"), span);
                }
            }
        }
        self.pass();
        let pattern = self.take_parenthesized()?;
        self.output.extend(pattern_tokens(self.text, pattern)?);
        let mut definitions: Vec<TokenWithSpan> = Vec::new();
        while !self.is("DEFINE") {
            let Some(token) = self.nth(0) else {
                // sqlparser says that DEFINE is missing.
                return Ok(());
            };
            let span = token.span;
            if self.is("WITHIN") {
                self.skip();
                let interval = self.take_until(|clause| clause.is("SUBSET") || clause.is("DEFINE"));
                definitions.extend([
                    TokenWithSpan::new(quoted(WITHIN), span),
                    TokenWithSpan::new(Token::make_keyword("AS"), span),
                ]);
                definitions.extend(interval.iter().cloned());
                definitions.push(TokenWithSpan::new(Token::Comma, span));
            } else if self.is("SUBSET") {
                self.skip();
                loop {
                    let name = self.nth(0).cloned().ok_or_else(|| unclosed(self.text))?;
                    if !matches!(name.token, Token::Word(_)) {
                        return Err(self.wrong(&name, "a name for the union of variables"));
                    }
                    self.skip();
                    self.expect(&Token::Eq, "\"=\"")?;
                    let variables = self.take_parenthesized()?;
                    definitions.push(name.clone());
                    let words = [Token::make_keyword("AS"), Token::make_word(SUBSET, None)];
                    definitions.extend(words.map(|token| TokenWithSpan::new(token, name.span)));
                    definitions.extend(variables.iter().cloned());
                    definitions.push(TokenWithSpan::new(Token::Comma, name.span));
                    if !self.eat(&Token::Comma) {
                        break;
                    }
                }
            } else {
                let token = token.clone();
                return Err(self.wrong(&token, "WITHIN, SUBSET or DEFINE"));
            }
        }
        self.pass();
        self.output.extend(definitions);
        self.output.extend(self.tokens[self.idx..].iter().cloned());
        Ok(())
    }

    /// Whether the word here is the last of AFTER MATCH SKIP TO.
    fn ends_skip(&self) -> bool {
        match self.nth(1) {
            Some(token) => is_word(&token.token, "PATTERN"),
            None => true,
        }
    }

    /// The `n`th token from here that is not blank.
    fn nth(&self, n: usize) -> Option<&TokenWithSpan> {
        self.tokens[self.idx..].iter().filter(|token| !is_blank(token)).nth(n)
    }

    fn is(&self, word: &str) -> bool {
        self.nth(0).is_some_and(|token| is_word(&token.token, word))
    }

    /// Goes behind the next token.
    fn skip(&mut self) {
        let n_blank = self.tokens[self.idx..].iter().take_while(|token| is_blank(token)).count();
        self.idx = (self.idx + n_blank + 1).min(self.tokens.len());
    }

    /// Hands the next token on.
    fn pass(&mut self) {
        let start = self.idx;
        self.skip();
        self.output.extend(self.tokens[start..self.idx].iter().cloned());
    }

    fn push(&mut self, token: Token, span: Span) {
        self.output.push(TokenWithSpan::new(token, span));
    }

    fn eat(&mut self, token: &Token) -> bool {
        let is_next = self.nth(0).is_some_and(|next| next.token == *token);
        if is_next {
            self.skip();
        }
        is_next
    }

    fn expect(&mut self, token: &Token, what: &str) -> Result<(), Error> {
        if self.eat(token) {
            return Ok(());
        }
        let next = self.nth(0).cloned().ok_or_else(|| unclosed(self.text))?;
        Err(self.wrong(&next, what))
    }

    /// `( … )`, with the parentheses.
    fn take_parenthesized(&mut self) -> Result<&'a [TokenWithSpan], Error> {
        let next = self.nth(0).cloned().ok_or_else(|| unclosed(self.text))?;
        if next.token != Token::LParen {
            return Err(self.wrong(&next, "\"(\""));
        }
        self.skip();
        let start = self.idx - 1;
        let len = closing(&self.tokens[start..]).ok_or_else(|| unclosed(self.text))?;
        self.idx = start + len + 1;
        Ok(&self.tokens[start..=start + len])
    }

    fn take_until(&mut self, is_end: impl Fn(&Self) -> bool) -> &'a [TokenWithSpan] {
        let start = self.idx;
        while self.nth(0).is_some() && !is_end(self) {
            self.skip();
        }
        &self.tokens[start..self.idx]
    }

    fn wrong(&self, found: &TokenWithSpan, expected: &str) -> Error {
        unexpected(self.text, &found.token.to_string(), found.span, expected)
    }
}

/// A pattern as it was written.
enum Tree {
    Symbol(TokenWithSpan),
    Start(Span),
    End(Span),
    Empty(Span),
    Concat(Vec<Tree>),
    Alternation(Vec<Tree>),
    Repetition { tree: Box<Tree>, quantifier: Vec<TokenWithSpan> },
}

/// A token, or a part of one that the tokenizer has made of several.
#[derive(Clone)]
enum Piece {
    Symbol(TokenWithSpan),
    Number(String),
    Char(char),
}

/// `tokens` with parentheses around, for sqlparser.
fn pattern_tokens(text: &Text<'_>, tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>, Error> {
    let (open, close) = (&tokens[0], &tokens[tokens.len() - 1]);
    let mut pieces: Vec<(Piece, Span)> = Vec::new();
    for token in &tokens[1..tokens.len() - 1] {
        match &token.token {
            Token::Whitespace(_) => (),
            Token::Number(digits, _) => pieces.push((Piece::Number(digits.clone()), token.span)),
            // An identifier may have a dollar sign in it, and the end of the partition be written behind one.
            Token::Word(Word { value, quote_style: None, .. }) if value.ends_with('$') && value.len() > 1 => {
                let word = Token::make_word(value.trim_end_matches('$'), None);
                pieces.push((Piece::Symbol(TokenWithSpan::new(word, token.span)), token.span));
                pieces.push((Piece::Char('$'), token.span));
            }
            Token::Word(_) => pieces.push((Piece::Symbol(token.clone()), token.span)),
            other => {
                pieces.extend(other.to_string().chars().map(|char| (Piece::Char(char), token.span)));
            }
        }
    }
    let mut reader = Reader { text, pieces, idx: 0, depth: 0, end: close.span };
    let tree = if reader.pieces.is_empty() { Tree::Empty(open.span) } else { reader.alternation(false)? };
    if reader.idx < reader.pieces.len() {
        return Err(reader.unexpected("a variable, a quantifier or \")\""));
    }
    let mut output = vec![open.clone()];
    write(&tree, &mut output);
    if output.len() > TOKENS_MAX {
        return Err(Error::too_complex().or_at(text.position(open.span.start)));
    }
    output.push(close.clone());
    Ok(output)
}

struct Reader<'a> {
    text: &'a Text<'a>,
    pieces: Vec<(Piece, Span)>,
    idx: usize,
    depth: usize,
    end: Span,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Piece> {
        self.pieces.get(self.idx).map(|(piece, _)| piece)
    }

    fn span(&self) -> Span {
        self.pieces.get(self.idx).map_or(self.end, |(_, span)| *span)
    }

    fn is(&self, char: char) -> bool {
        matches!(self.peek(), Some(Piece::Char(found)) if *found == char)
    }

    fn is_pair(&self, first: char, second: char) -> bool {
        self.is(first)
            && matches!(self.pieces.get(self.idx + 1), Some((Piece::Char(found), _)) if *found == second)
    }

    fn eat(&mut self, char: char) -> bool {
        let is_next = self.is(char);
        self.idx += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, char: char) -> Result<(), Error> {
        match self.eat(char) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("\"{char}\""))),
        }
    }

    fn unexpected(&self, expected: &str) -> Error {
        let found = match self.peek() {
            None => ")".to_owned(),
            Some(Piece::Char(char)) => char.to_string(),
            Some(Piece::Number(digits)) => digits.clone(),
            Some(Piece::Symbol(token)) => token.token.to_string(),
        };
        unexpected(self.text, &found, self.span(), expected)
    }

    /// `a | b`; between `{-` and `-}` if `is_excluded`.
    fn alternation(&mut self, is_excluded: bool) -> Result<Tree, Error> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Error::too_complex().or_at(self.text.position(self.span().start)));
        }
        let mut parts = vec![self.concat(is_excluded)?];
        while self.eat('|') {
            parts.push(self.concat(is_excluded)?);
        }
        self.depth -= 1;
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tree::Alternation(parts) })
    }

    fn concat(&mut self, is_excluded: bool) -> Result<Tree, Error> {
        let mut parts = vec![self.quantified(is_excluded)?];
        while self.peek().is_some()
            && !['|', ')', ','].iter().any(|end| self.is(*end))
            && !self.is_pair('-', '}')
        {
            parts.push(self.quantified(is_excluded)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tree::Concat(parts) })
    }

    fn quantified(&mut self, is_excluded: bool) -> Result<Tree, Error> {
        let tree = self.primary(is_excluded)?;
        let span = self.span();
        let token = |token: Token| TokenWithSpan::new(token, span);
        let number = |number: u32| token(Token::Number(number.to_string(), false));
        let mut quantifier = match () {
            () if self.eat('*') => vec![token(Token::Mul)],
            () if self.eat('+') => vec![token(Token::Plus)],
            () if self.eat('?') => vec![token(Token::Placeholder("?".into()))],
            () if self.is('{') && !self.is_pair('{', '-') => {
                self.idx += 1;
                let min = self.number()?;
                let mut words = vec![token(Token::LBrace)];
                if self.eat(',') {
                    let max = self.number()?;
                    if min.is_none() && max.is_none() {
                        return Err(self.unexpected("a number"));
                    }
                    if max.is_some_and(|max| max < min.unwrap_or(0)) || max == Some(0) {
                        return Err(Error::new(
                            SqlState::SYNTAX_ERROR,
                            "the upper bound of a quantifier is not below the lower one, and not 0",
                        )
                        .or_at(self.text.position(span.start)));
                    }
                    words.extend([number(min.unwrap_or(0)), token(Token::Comma)]);
                    words.extend(max.map(number));
                } else {
                    words.push(number(min.ok_or_else(|| self.unexpected("a number"))?));
                }
                self.expect('}')?;
                words.push(token(Token::RBrace));
                words
            }
            () => return Ok(tree),
        };
        if self.eat('?') {
            quantifier.push(token(Token::Placeholder("?".into())));
        }
        if ['*', '+', '?'].iter().any(|char| self.is(*char)) {
            return Err(self.unexpected("one quantifier; put parentheses around what it repeats"));
        }
        Ok(Tree::Repetition { tree: Box::new(tree), quantifier })
    }

    fn number(&mut self) -> Result<Option<u32>, Error> {
        let Some(Piece::Number(digits)) = self.peek() else { return Ok(None) };
        let number = digits.parse().map_err(|_| self.unexpected("a number of 32 bits"))?;
        self.idx += 1;
        Ok(Some(number))
    }

    fn primary(&mut self, is_excluded: bool) -> Result<Tree, Error> {
        let span = self.span();
        if self.is_pair('{', '-') {
            self.idx += 2;
            let tree = self.alternation(true)?;
            self.expect('-')?;
            self.expect('}')?;
            return Ok(tree);
        }
        if self.eat('(') {
            if self.eat(')') {
                return Ok(Tree::Empty(span));
            }
            let tree = self.alternation(is_excluded)?;
            self.expect(')')?;
            return Ok(tree);
        }
        if self.eat('^') {
            return Ok(Tree::Start(span));
        }
        if self.eat('$') {
            return Ok(Tree::End(span));
        }
        let Some(Piece::Symbol(token)) = self.peek().cloned() else {
            return Err(self.unexpected("a variable"));
        };
        self.idx += 1;
        if is_word(&token.token, "PERMUTE") && self.is('(') {
            return self.permutations(span, is_excluded);
        }
        if !is_excluded {
            return Ok(Tree::Symbol(token));
        }
        let around = |token: Token| Tree::Symbol(TokenWithSpan::new(token, span));
        // In parentheses, since sqlparser takes a brace behind a variable for a quantifier.
        Ok(Tree::Concat(vec![
            around(Token::LParen),
            around(Token::LBrace),
            around(Token::Minus),
            Tree::Symbol(token),
            around(Token::Minus),
            around(Token::RBrace),
            around(Token::RParen),
        ]))
    }

    /// `PERMUTE(a, b, …)`: every order, those of the list's first ones first.
    fn permutations(&mut self, span: Span, is_excluded: bool) -> Result<Tree, Error> {
        self.expect('(')?;
        let start = self.idx;
        let mut places = Vec::new();
        loop {
            places.push(self.idx);
            self.alternation(is_excluded)?;
            if !self.eat(',') {
                break;
            }
        }
        let end = self.idx;
        self.expect(')')?;
        if places.len() > PERMUTE_MAX {
            let message = format!("PERMUTE of more than {PERMUTE_MAX} parts");
            return Err(Error::unsupported(message).or_at(self.text.position(span.start)));
        }
        let after = self.idx;
        let mut orders = Vec::new();
        for order in orders_of(places.len()) {
            let mut parts = Vec::new();
            for part in order {
                // Read again: a tree is written once for each time that it occurs.
                self.idx = places[part];
                parts.push(self.alternation(is_excluded)?);
            }
            orders.push(Tree::Concat(parts));
        }
        assert!(start <= end, "parts were read");
        self.idx = after;
        Ok(Tree::Alternation(orders))
    }
}

/// All orders of `0..n`, lexicographically.
fn orders_of(n: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for _ in 0..n {
        let longer = |order: Vec<usize>| {
            (0..n)
                .filter(|idx| !order.contains(idx))
                .map(|idx| [&order[..], &[idx]].concat())
                .collect::<Vec<_>>()
        };
        orders = orders.into_iter().flat_map(longer).collect();
    }
    orders
}

fn write(tree: &Tree, output: &mut Vec<TokenWithSpan>) {
    if output.len() > TOKENS_MAX {
        return;
    }
    let mut push = |token: Token, span: &Span| output.push(TokenWithSpan::new(token, *span));
    match tree {
        Tree::Symbol(token) => output.push(token.clone()),
        Tree::Start(span) => push(Token::Caret, span),
        Tree::End(span) => push(Token::Placeholder("$".into()), span),
        Tree::Empty(span) => {
            for token in [Token::Caret, Token::LBrace, Token::Number("0".into(), false), Token::RBrace] {
                push(token, span);
            }
        }
        Tree::Concat(parts) => {
            for part in parts {
                match part {
                    Tree::Alternation(_) => write_group(part, output),
                    _ => write(part, output),
                }
            }
        }
        Tree::Alternation(parts) => {
            for (idx, part) in parts.iter().enumerate() {
                if idx > 0 {
                    output.push(TokenWithSpan::wrap(Token::Pipe));
                }
                write_group(part, output);
            }
        }
        Tree::Repetition { tree, quantifier } => {
            match tree.as_ref() {
                Tree::Symbol(_) | Tree::Start(_) | Tree::End(_) => write(tree, output),
                _ => write_group(tree, output),
            }
            output.extend(quantifier.iter().cloned());
        }
    }
}

fn write_group(tree: &Tree, output: &mut Vec<TokenWithSpan>) {
    if matches!(tree, Tree::Symbol(_)) {
        return write(tree, output);
    }
    output.push(TokenWithSpan::wrap(Token::LParen));
    write(tree, output);
    output.push(TokenWithSpan::wrap(Token::RParen));
}

/// Where the parenthesis is closed with which `tokens` begin.
fn closing(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut depth = 0usize;
    tokens.iter().position(|token| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => (),
        }
        depth == 0
    })
}

fn is_blank(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_))
}

fn is_word(token: &Token, expected: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
}

fn quoted(name: &str) -> Token {
    Token::make_word(name, Some('"'))
}

fn unclosed(text: &Text<'_>) -> Error {
    Error::end_of_input().at(text.end_position()).with_detail("Expected \")\".")
}

fn unexpected(text: &Text<'_>, found: &str, span: Span, expected: &str) -> Error {
    Error::syntax(found).or_at(text.position(span.start)).with_detail(format!("Expected {expected}."))
}

#[cfg(test)]
mod tests {
    use crate::parser::parse_query;

    /// A clause as it prints once it has been parsed; what it prints reads as the same again.
    fn parsed(clause: &str) -> String {
        let read =
            |sql: &str| parse_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}")).to_string();
        let printed = read(&format!("SELECT * FROM t MATCH_RECOGNIZE ({clause})"));
        assert_eq!(read(&printed), printed);
        let inside = printed.split_once("MATCH_RECOGNIZE(").expect("it is there").1;
        inside[..inside.len() - 1].to_owned()
    }

    #[test]
    fn patterns_read_as_sql_has_them() {
        for (pattern, expected) in [
            ("a b", "a b"),
            ("a+b*", "a+ b*"),
            ("a*?b+?c??", "a*? b+? c??"),
            ("a{2}b{2,}c{,3}d{1,3}?", "a{2} b{2,} c{0,3} d{1,3}?"),
            ("a|b c|d", "a | ( b c ) | d"),
            ("(a|b)+|c", "( ( a | b )+ ) | c"),
            ("^a$", "^ a $"),
            ("a$|^", "( a $ ) | ( ^ )"),
            ("()", "^{0}"),
            ("a {- b c* -}", "a ( {- b -} ) ( ( {- c -} ) )*"),
            ("permute(a, b+)", "( a b+ ) | ( b+ a )"),
            ("\"A b\" /* c */ a", "\"A b\" a"),
        ] {
            let printed = parsed(&format!("PATTERN ({pattern}) DEFINE a AS true"));
            assert_eq!(printed, format!("PATTERN ({expected}) DEFINE a AS true"), "{pattern}");
        }
    }

    #[test]
    fn clauses_that_sqlparser_has_no_words_for() {
        assert_eq!(
            parsed(
                "MEASURES FINAL LAST(a.x) AS y AFTER MATCH SKIP TO a PATTERN (a) WITHIN INTERVAL '1' HOUR SUBSET u = (a, b), v = (a) DEFINE a AS true"
            ),
            "MEASURES FINAL LAST(a.x) AS y AFTER MATCH SKIP TO LAST a PATTERN (a) DEFINE \"WITHIN INTERVAL\" AS INTERVAL '1' HOUR, \
             u AS SUBSET(a, b), v AS SUBSET(a), a AS true"
        );
        let subquery =
            "SELECT * FROM (SELECT x FROM t) AS s MATCH_RECOGNIZE (PATTERN (a) DEFINE a AS true) AS m";
        assert!(
            parse_query(subquery).unwrap().to_string().contains("\"ROWS OF\"((SELECT x FROM t))"),
            "{subquery}"
        );
    }

    #[test]
    fn errors_say_where() {
        for (pattern, expected) in [
            ("a+*", "42601: syntax error at or near \"*\" @45"),
            ("a |", "42601: syntax error at or near \")\" @46"),
            ("a{3,2}", "42601: the upper bound of a quantifier"),
            ("a 5", "42601: syntax error at or near \"5\" @45"),
            ("PERMUTE(a,b,c,d,e,f,g)", "0A000: PERMUTE of more than 6 parts"),
        ] {
            let sql = format!("SELECT * FROM t MATCH_RECOGNIZE (PATTERN ({pattern}) DEFINE a AS true)");
            let error = format!("{:?}", parse_query(&sql).expect_err(pattern));
            assert!(error.starts_with(expected), "{pattern}: {error}");
        }
    }
}
