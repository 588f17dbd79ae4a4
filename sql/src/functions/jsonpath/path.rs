//! The syntax of a path, and its parser.
//!
//! ```text
//! path      = ["lax" | "strict"] expr
//! or        = and {"||" and}
//! and       = not {"&&" not}
//! not       = "!" not | comparison
//! comparison = sum [("==" | "<>" | "!=" | "<" | "<=" | ">" | ">=") sum
//!                 | "starts" "with" primary | "like_regex" string ["flag" string]] ["is" "unknown"]
//! sum       = product {("+" | "-") product}
//! product   = sign {("*" | "/" | "%") sign}
//! sign      = ("+" | "-") sign | accessor
//! accessor  = primary {"." key | ".*" | ".**" [levels] | "[*]" | "[" subscripts "]" | "." method "()" | "?" "(" or ")"}
//! ```
//!
//! PostgreSQL keeps predicates and values apart in its grammar; here a predicate is an expression that gives a truth
//! value, and [`Expr::is_predicate`] refuses what stands in the other's place.

use std::rc::Rc;

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;
use tidemill_core::SqlState;

use crate::error::Error;
use crate::functions::strings::compiled;

type Result<T> = std::result::Result<T, Error>;

/// How deep expressions may nest, and how long they may be: each operator is a call in the evaluation.
const DEPTH_MAX: usize = 64;
const TOKENS_MAX: usize = 2000;

#[derive(Debug, Clone)]
pub(super) struct Path {
    /// What is not there is nothing, and not an error.
    pub lax: bool,
    pub expr: Expr,
}

#[derive(Debug, Clone)]
pub(super) enum Expr {
    /// `$`
    Root,
    /// `@`
    Current,
    /// `last`
    Last,
    Variable(String),
    Literal(serde_json::Value),
    /// Steps from what an expression gives.
    Access(Box<Expr>, Vec<Step>),
    Sign(bool, Box<Expr>),
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    StartsWith(Box<Expr>, Box<Expr>),
    LikeRegex(Box<Expr>, Rc<Regex>),
    IsUnknown(Box<Expr>),
    Exists(Box<Expr>),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
}

impl Expr {
    pub fn is_predicate(&self) -> bool {
        matches!(
            self,
            Expr::Compare(..)
                | Expr::StartsWith(..)
                | Expr::LikeRegex(..)
                | Expr::IsUnknown(_)
                | Expr::Exists(_)
                | Expr::Not(_)
                | Expr::And(..)
                | Expr::Or(..)
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Arithmetic {
    pub fn symbol(self) -> char {
        match self {
            Arithmetic::Add => '+',
            Arithmetic::Subtract => '-',
            Arithmetic::Multiply => '*',
            Arithmetic::Divide => '/',
            Arithmetic::Modulo => '%',
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Key(String),
    AnyKey,
    /// `**` from a depth to a depth; without an end, all below.
    AnyDepth(Level, Level),
    AnyElement,
    /// Each from a subscript to a subscript, or one.
    Elements(Vec<(Expr, Option<Expr>)>),
    Method(Method),
    Filter(Expr),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Level {
    At(u32),
    Last,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Method {
    Type,
    Size,
    Abs,
    Floor,
    Ceiling,
    Double,
    KeyValue,
}

impl Method {
    const ALL: [(&'static str, Method); 7] = [
        ("type", Method::Type),
        ("size", Method::Size),
        ("abs", Method::Abs),
        ("floor", Method::Floor),
        ("ceiling", Method::Ceiling),
        ("double", Method::Double),
        ("keyvalue", Method::KeyValue),
    ];

    pub fn name(self) -> &'static str {
        Method::ALL.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }
}

impl Path {
    pub fn parse(text: &str) -> Result<Path> {
        if text.trim().is_empty() {
            return Err(Error::new(
                SqlState::INVALID_TEXT,
                format!("invalid input syntax for type jsonpath: \"{text}\""),
            ));
        }
        let tokens = tokens(text)?;
        if tokens.len() > TOKENS_MAX {
            return Err(Error::too_complex());
        }
        let mut parser = Parser { tokens, at: 0, depth: 0, filters: 0, subscripts: 0 };
        let lax = match parser.peek() {
            Some(Token::Word(word)) if word == "strict" => {
                parser.at += 1;
                false
            }
            Some(Token::Word(word)) if word == "lax" => {
                parser.at += 1;
                true
            }
            _ => true,
        };
        let expr = parser.or()?;
        match parser.peek() {
            None => Ok(Path { lax, expr }),
            Some(_) => Err(parser.unexpected()),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(serde_json::Number),
    Variable(String),
    Symbol(&'static str),
}

const SYMBOLS: [&str; 27] = [
    "**", "&&", "||", "==", "!=", "<>", "<=", ">=", "<", ">", "=", "!", "+", "-", "*", "/", "%", "(", ")",
    "[", "]", "{", "}", ".", ",", "?", "@",
];

fn syntax_error(near: &str) -> Error {
    let message = match near {
        "" => "syntax error at end of jsonpath input".to_owned(),
        near => format!("syntax error at or near \"{near}\" of jsonpath input"),
    };
    Error::new(SqlState::SYNTAX_ERROR, message)
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || !c.is_ascii();
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("/*") {
            let Some((_, behind)) = comment.split_once("*/") else { return Err(syntax_error("/*")) };
            rest = behind;
            continue;
        }
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let token = if first == '"' {
            let (text, behind) = quoted(rest)?;
            rest = behind;
            Token::Text(text)
        } else if first == '$' {
            rest = &rest[1..];
            if rest.starts_with('"') {
                let (name, behind) = quoted(rest)?;
                rest = behind;
                Token::Variable(name)
            } else {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let name = rest[..end].to_owned();
                rest = &rest[end..];
                if name.is_empty() { Token::Symbol("$") } else { Token::Variable(name) }
            }
        } else if first.is_ascii_digit()
            || first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())
        {
            let (number, behind) = number(rest)?;
            rest = behind;
            Token::Number(number)
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = rest[..end].to_owned();
            rest = &rest[end..];
            Token::Word(word)
        } else {
            let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) else {
                return Err(syntax_error(&first.to_string()));
            };
            rest = &rest[symbol.len()..];
            Token::Symbol(symbol)
        };
        tokens.push(token);
    }
}

/// A string in double quotes at the beginning of `text`, and what is behind it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text[1..].chars();
    loop {
        match chars.next() {
            None => return Err(syntax_error("")),
            Some('"') => return Ok((value, chars.as_str())),
            Some('\\') => match chars.next() {
                Some('b') => value.push('\u{8}'),
                Some('f') => value.push('\u{c}'),
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some('v') => value.push('\u{b}'),
                Some('x') => value.push(code_point(&mut chars, 2)?),
                Some('u') => value.push(code_point(&mut chars, 4)?),
                Some(other) => value.push(other),
                None => return Err(syntax_error("")),
            },
            Some(c) => value.push(c),
        }
    }
}

/// Hexadecimal digits of a character; with two halves of a surrogate pair, of one.
fn code_point(chars: &mut Chars<'_>, n_digits: usize) -> Result<char> {
    let mut digits = |n: usize| -> Result<u32> {
        let text: String = chars.by_ref().take(n).collect();
        u32::from_str_radix(&text, 16).map_err(|_| syntax_error(&text))
    };
    let code = digits(n_digits)?;
    let code = if (0xD800..0xDC00).contains(&code) {
        let escape = chars.by_ref().take(2).collect::<String>();
        if escape != "\\u" {
            return Err(syntax_error(&escape));
        }
        let text: String = chars.by_ref().take(4).collect();
        let low = u32::from_str_radix(&text, 16).map_err(|_| syntax_error(&text))?;
        0x10000 + ((code - 0xD800) << 10) + (low.wrapping_sub(0xDC00) & 0x3FF)
    } else {
        code
    };
    char::from_u32(code).ok_or_else(|| syntax_error("\\u"))
}

fn number(text: &str) -> Result<(serde_json::Number, &str)> {
    let mut chars: Peekable<_> = text.char_indices().peekable();
    let mut end = 0;
    let mut after_exponent = false;
    while let Some((at, c)) = chars.next() {
        match c {
            '0'..='9' | '.' => (),
            'e' | 'E' if !after_exponent => {
                after_exponent = true;
                chars.next_if(|(_, c)| matches!(c, '+' | '-'));
            }
            _ => break,
        }
        end = chars.peek().map_or(text.len(), |(next, _)| *next).max(at + 1);
    }
    let (digits, behind) = text.split_at(end);
    if behind.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return Err(Error::new(
            SqlState::SYNTAX_ERROR,
            format!("trailing junk after numeric literal at or near \"{digits}\" of jsonpath input"),
        ));
    }
    let parsed = match digits.parse::<i64>() {
        Ok(integer) => Some(integer.into()),
        Err(_) => digits.parse::<f64>().ok().and_then(serde_json::Number::from_f64),
    };
    parsed.map(|number| (number, behind)).ok_or_else(|| syntax_error(digits))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// How many filters and subscripts stand around this place: `@` is only in the ones, `last` in the others.
    filters: usize,
    subscripts: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol);
        self.at += usize::from(found);
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(found)) if found == word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<()> {
        if self.eat(symbol) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> Error {
        syntax_error(&match self.peek() {
            None => String::new(),
            Some(Token::Word(text) | Token::Text(text)) => text.clone(),
            Some(Token::Variable(name)) => format!("${name}"),
            Some(Token::Number(number)) => number.to_string(),
            Some(Token::Symbol(symbol)) => (*symbol).to_owned(),
        })
    }

    fn predicate(&self, expr: Expr) -> Result<Box<Expr>> {
        if expr.is_predicate() { Ok(Box::new(expr)) } else { Err(self.unexpected()) }
    }

    fn value(&self, expr: Expr) -> Result<Box<Expr>> {
        if expr.is_predicate() { Err(self.unexpected()) } else { Ok(Box::new(expr)) }
    }

    fn or(&mut self) -> Result<Expr> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Error::too_complex());
        }
        let mut left = self.and()?;
        while self.eat("||") {
            let right = self.and()?;
            left = Expr::Or(self.predicate(left)?, self.predicate(right)?);
        }
        self.depth -= 1;
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let mut left = self.not()?;
        while self.eat("&&") {
            let right = self.not()?;
            left = Expr::And(self.predicate(left)?, self.predicate(right)?);
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr> {
        if !self.eat("!") {
            return self.comparison();
        }
        // Only what is in parentheses can be negated.
        if !matches!(self.peek(), Some(Token::Symbol("(")))
            && !matches!(self.peek(), Some(Token::Word(word)) if word == "exists")
        {
            return Err(self.unexpected());
        }
        let operand = self.accessor()?;
        Ok(Expr::Not(self.predicate(operand)?))
    }

    fn comparison(&mut self) -> Result<Expr> {
        const COMPARISONS: [(&str, Comparison); 7] = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<>", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let left = self.sum()?;
        for (symbol, comparison) in COMPARISONS {
            if self.eat(symbol) {
                let right = self.sum()?;
                return Ok(Expr::Compare(comparison, self.value(left)?, self.value(right)?));
            }
        }
        if self.eat_word("starts") {
            if !self.eat_word("with") {
                return Err(self.unexpected());
            }
            let start = match self.peek().cloned() {
                Some(Token::Text(text)) => Expr::Literal(text.into()),
                Some(Token::Variable(name)) => Expr::Variable(name),
                _ => return Err(self.unexpected()),
            };
            self.at += 1;
            return Ok(Expr::StartsWith(self.value(left)?, Box::new(start)));
        }
        if self.eat_word("like_regex") {
            let pattern = self.text()?;
            let flags = if self.eat_word("flag") { self.text()? } else { String::new() };
            return Ok(Expr::LikeRegex(self.value(left)?, like_regex(&pattern, &flags)?));
        }
        Ok(left)
    }

    fn text(&mut self) -> Result<String> {
        match self.peek().cloned() {
            Some(Token::Text(text)) => {
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.unexpected()),
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        let mut left = self.product()?;
        loop {
            let operator = if self.eat("+") {
                Arithmetic::Add
            } else if self.eat("-") {
                Arithmetic::Subtract
            } else {
                return Ok(left);
            };
            let right = self.product()?;
            left = Expr::Arithmetic(operator, self.value(left)?, self.value(right)?);
        }
    }

    fn product(&mut self) -> Result<Expr> {
        let mut left = self.sign()?;
        loop {
            let operator = if self.eat("*") {
                Arithmetic::Multiply
            } else if self.eat("/") {
                Arithmetic::Divide
            } else if self.eat("%") {
                Arithmetic::Modulo
            } else {
                return Ok(left);
            };
            let right = self.sign()?;
            left = Expr::Arithmetic(operator, self.value(left)?, self.value(right)?);
        }
    }

    fn sign(&mut self) -> Result<Expr> {
        let mut signs = Vec::new();
        loop {
            match self.peek() {
                Some(Token::Symbol("-")) => signs.push(true),
                Some(Token::Symbol("+")) => signs.push(false),
                _ => break,
            }
            self.at += 1;
        }
        let mut operand = self.accessor()?;
        for negative in signs.into_iter().rev() {
            operand = Expr::Sign(negative, self.value(operand)?);
        }
        Ok(operand)
    }

    fn accessor(&mut self) -> Result<Expr> {
        let primary = self.primary()?;
        let mut steps = Vec::new();
        loop {
            let step = if self.eat("[") {
                self.subscript()?
            } else if self.eat("?") {
                self.expect("(")?;
                self.filters += 1;
                let condition = self.or()?;
                self.filters -= 1;
                let condition = *self.predicate(condition)?;
                self.expect(")")?;
                Step::Filter(condition)
            } else if self.eat(".") {
                self.member()?
            } else {
                break;
            };
            steps.push(step);
        }
        match steps.is_empty() {
            true => Ok(primary),
            false => Ok(Expr::Access(Box::new(primary), steps)),
        }
    }

    fn primary(&mut self) -> Result<Expr> {
        let Some(token) = self.peek().cloned() else { return Err(self.unexpected()) };
        let expr = match token {
            Token::Symbol("$") => Expr::Root,
            Token::Symbol("@") if self.filters > 0 => Expr::Current,
            Token::Symbol("@") => {
                return Err(Error::new(SqlState::SYNTAX_ERROR, "@ is not allowed in root expressions"));
            }
            Token::Symbol("(") => {
                self.at += 1;
                let inner = self.or()?;
                self.expect(")")?;
                if self.eat_word("is") {
                    if !self.eat_word("unknown") {
                        return Err(self.unexpected());
                    }
                    return Ok(Expr::IsUnknown(self.predicate(inner)?));
                }
                return Ok(inner);
            }
            Token::Variable(name) => Expr::Variable(name),
            Token::Text(text) => Expr::Literal(text.into()),
            Token::Number(number) => Expr::Literal(serde_json::Value::Number(number)),
            Token::Word(word) => match word.as_str() {
                "true" => Expr::Literal(true.into()),
                "false" => Expr::Literal(false.into()),
                "null" => Expr::Literal(serde_json::Value::Null),
                "last" if self.subscripts > 0 => Expr::Last,
                "last" => {
                    return Err(Error::new(
                        SqlState::SYNTAX_ERROR,
                        "LAST is allowed only in array subscripts",
                    ));
                }
                "exists" => {
                    self.at += 1;
                    self.expect("(")?;
                    let operand = self.or()?;
                    let operand = self.value(operand)?;
                    self.expect(")")?;
                    return Ok(Expr::Exists(operand));
                }
                _ => return Err(self.unexpected()),
            },
            Token::Symbol(_) => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(expr)
    }

    /// Behind a `[`.
    fn subscript(&mut self) -> Result<Step> {
        if self.eat("*") {
            self.expect("]")?;
            return Ok(Step::AnyElement);
        }
        let mut subscripts = Vec::new();
        self.subscripts += 1;
        loop {
            let from = self.sum()?;
            let from = *self.value(from)?;
            let to = match self.eat_word("to") {
                true => {
                    let to = self.sum()?;
                    Some(*self.value(to)?)
                }
                false => None,
            };
            subscripts.push((from, to));
            if !self.eat(",") {
                break;
            }
        }
        self.subscripts -= 1;
        self.expect("]")?;
        Ok(Step::Elements(subscripts))
    }

    /// Behind a `.`.
    fn member(&mut self) -> Result<Step> {
        if self.eat("*") {
            return Ok(Step::AnyKey);
        }
        if self.eat("**") {
            if !self.eat("{") {
                return Ok(Step::AnyDepth(Level::At(0), Level::Last));
            }
            let from = self.level()?;
            let to = if self.eat_word("to") { self.level()? } else { from };
            self.expect("}")?;
            return Ok(Step::AnyDepth(from, to));
        }
        let Some(Token::Word(key) | Token::Text(key)) = self.peek().cloned() else {
            return Err(self.unexpected());
        };
        let is_word = matches!(self.peek(), Some(Token::Word(_)));
        self.at += 1;
        if !is_word || !self.eat("(") {
            return Ok(Step::Key(key));
        }
        if key == "datetime" {
            return Err(Error::unsupported("method .datetime() of jsonpath")
                .with_hint("Take the text out with ->> and cast it to timestamp."));
        }
        let Some((_, method)) = Method::ALL.iter().find(|(name, _)| *name == key) else {
            self.at -= 1;
            return Err(self.unexpected());
        };
        self.expect(")")?;
        Ok(Step::Method(*method))
    }

    fn level(&mut self) -> Result<Level> {
        if self.eat_word("last") {
            return Ok(Level::Last);
        }
        let level = match self.peek() {
            Some(Token::Number(number)) => number.as_u64().and_then(|level| u32::try_from(level).ok()),
            _ => None,
        };
        let Some(level) = level else { return Err(self.unexpected()) };
        self.at += 1;
        Ok(Level::At(level))
    }
}

fn like_regex(pattern: &str, flags: &str) -> Result<Rc<Regex>> {
    let mut own = String::new();
    for flag in flags.chars() {
        match flag {
            'i' => own.push('i'),
            // A dot matches a newline, as it does in PostgreSQL's expressions unless "n" is said.
            's' => (),
            'm' => own.push('n'),
            'q' => return compiled(&regex::escape(pattern), &own),
            other => {
                return Err(Error::new(
                    SqlState::SYNTAX_ERROR,
                    format!("unrecognized flag character \"{other}\" in LIKE_REGEX predicate"),
                ));
            }
        }
    }
    compiled(pattern, &own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str) -> String {
        Path::parse(path).unwrap_err().to_string()
    }

    #[test]
    fn operators_bind_as_in_postgresql() {
        let sum = Path::parse("1 + 2 * 3").unwrap().expr;
        assert!(matches!(sum, Expr::Arithmetic(Arithmetic::Add, ..)), "{sum:?}");
        let either = Path::parse("$.a == 1 || $.b == 2 && !($.c == 3)").unwrap().expr;
        assert!(matches!(&either, Expr::Or(_, and) if matches!(**and, Expr::And(..))), "{either:?}");
        assert!(!Path::parse("strict $.a").unwrap().lax);
    }

    #[test]
    fn numbers_and_strings_are_those_of_javascript() {
        for (text, expected) in [("1.5e2", 150.0), (".5", 0.5), ("2", 2.0)] {
            let Expr::Literal(value) = Path::parse(text).unwrap().expr else { panic!("{text} is a literal") };
            assert_eq!(value.as_f64(), Some(expected));
        }
        let Expr::Literal(value) = Path::parse(r#""a\"\u00e9\ud83d\ude00""#).unwrap().expr else { panic!() };
        assert_eq!(value, "a\"é😀");
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(refused("$."), "syntax error at end of jsonpath input");
        assert_eq!(refused("$.a ?"), "syntax error at end of jsonpath input");
        assert_eq!(refused("x"), "syntax error at or near \"x\" of jsonpath input");
        assert_eq!(refused("@.a"), "@ is not allowed in root expressions");
        assert_eq!(refused("$.a ? (@.b)"), "syntax error at or near \")\" of jsonpath input");
        assert_eq!(refused("last"), "LAST is allowed only in array subscripts");
        for endless in ["(".repeat(1000), "-".repeat(100_000), "1+".repeat(100_000)] {
            assert_eq!(refused(&endless), "statement is nested too deeply");
        }
    }
}
