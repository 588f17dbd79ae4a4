//! `WITH (key = value, …)`, and keeping secrets out of what is shown.

use std::fmt;

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer};
use tidemill_core::SqlState;

use crate::error::Error;
use crate::parser::cursor::{Cursor, ObjectName, is_unquoted, quote, quote_literal};
use crate::parser::dialect::TidemillDialect;
use crate::parser::text::Text;

/// Options in the order of the text, each key once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WithOptions(pub Vec<WithOption>);

/// `key = value`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithOption {
    /// Dotted where it was written so: `scan.startup.mode`.
    pub key: String,
    /// As text, whether it was written as a string, a number or a boolean; empty for a secret.
    pub value: String,
    /// `SECRET name`
    pub secret: Option<ObjectName>,
    /// Of the key, in characters from 1.
    pub position: usize,
    /// Of the value.
    pub value_position: usize,
}

impl WithOptions {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.option(key).map(|option| option.value.as_str())
    }

    /// The option `key` with its positions.
    pub fn option(&self, key: &str) -> Option<&WithOption> {
        self.0.iter().find(|option| option.key == key)
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|option| (option.key.as_str(), option.value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where `key` stands, for an error about it.
    pub fn position(&self, key: &str) -> Option<usize> {
        self.option(key).map(|option| option.position)
    }
}

/// One line each, secrets redacted.
impl fmt::Display for WithOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (idx, option) in self.0.iter().enumerate() {
            let WithOption { key, value, secret, .. } = option;
            let value = match secret {
                Some(name) => format!("SECRET {name}"),
                None if is_secret(key) => quote_literal(REDACTED),
                None => quote_literal(value),
            };
            let key: Vec<String> = key.split('.').map(quote).collect();
            let comma = if idx == 0 { "" } else { "," };
            write!(f, "{comma}\n    {} = {value}", key.join("."))?;
        }
        f.write_str("\n)")
    }
}

/// Behind `WITH`, `ENCODE x`: `(key = value, …)`, possibly empty.
pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<WithOptions, Error> {
    let mut options = WithOptions::default();
    cursor.expect_token(&Token::LParen)?;
    while !cursor.is_token(&Token::RParen) {
        let option = parse_option(cursor)?;
        if options.option(&option.key).is_some() {
            let message = format!("option \"{}\" is given twice", option.key);
            return Err(Error::new(SqlState::SYNTAX_ERROR, message).at(option.position));
        }
        options.0.push(option);
        if !cursor.eat_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)?;
    Ok(options)
}

fn parse_option(cursor: &mut Cursor<'_>) -> Result<WithOption, Error> {
    let position = cursor.position();
    let key = parse_key(cursor)?;
    cursor.expect_token(&Token::Eq)?;
    let value_position = cursor.position();
    // `secret` alone is a word like any other.
    let names_secret = cursor.is("SECRET") && matches!(cursor.peek_at(1), Token::Word(_));
    if names_secret {
        cursor.advance();
        let secret = Some(cursor.object_name()?);
        return Ok(WithOption { key, value: String::new(), secret, position, value_position });
    }
    let value = parse_value(cursor)?;
    Ok(WithOption { key, value, secret: None, position, value_position })
}

/// `connector`, `scan.startup.mode`, `"Mixed.Case"`, `'quoted'`. Reserved words are keys as well.
pub(crate) fn parse_key(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    let mut key = String::new();
    loop {
        match &cursor.peek().token {
            Token::Word(word) if word.quote_style.is_some() => key.push_str(&word.value),
            Token::Word(word) => key.push_str(&word.value.to_lowercase()),
            Token::SingleQuotedString(value) => key.push_str(value),
            _ => return Err(cursor.unexpected("the name of an option")),
        }
        cursor.advance();
        if !cursor.eat_token(&Token::Period) {
            return Ok(key);
        }
        key.push('.');
    }
}

fn parse_value(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    if let Some(value) = cursor.string_opt() {
        return Ok(value);
    }
    let sign = match cursor.eat_token(&Token::Minus) {
        true => "-",
        false => {
            cursor.eat_token(&Token::Plus);
            ""
        }
    };
    let value = match &cursor.peek().token {
        Token::Number(number, _) => format!("{sign}{number}"),
        // `true`, `false`, and words that need no quotes to be understood: `json`, `earliest`.
        Token::Word(word) if sign.is_empty() && !word.value.eq_ignore_ascii_case("null") => {
            match word.quote_style {
                Some(_) => word.value.clone(),
                None => word.value.to_lowercase(),
            }
        }
        _ => {
            return Err(cursor
                .unexpected("the value of an option")
                .with_hint("Write it as a string: 'value'."));
        }
    };
    cursor.advance();
    match &cursor.peek().token {
        // `10s`, `a.b`: two tokens that were meant as one value.
        Token::Comma | Token::RParen | Token::EOF => Ok(value),
        _ => Err(cursor
            .unexpected("a comma")
            .with_hint("A value of several words or with a unit needs quotes: '10s'.")),
    }
}

const REDACTED: &str = "[redacted]";

/// Whether a value under this key must not be shown.
pub fn is_secret(key: &str) -> bool {
    const SECRET_WORDS: [&str; 11] = [
        "password",
        "passwd",
        "secret",
        "token",
        "credential",
        "private_key",
        "privatekey",
        "access_key",
        "accesskey",
        "jaas",
        "passphrase",
    ];
    let key = key.to_lowercase().replace(['-', ' '], "_").replace(".key", "_key");
    SECRET_WORDS.iter().any(|word| key.contains(word))
        || key.ends_with("_ssl_key")
        || key.ends_with("api_key")
}

/// A statement's text with the values of secret options replaced, for logs and listings.
///
/// Works on tokens, so it needs no statement that parses; a text that does not even tokenize is
/// withheld as a whole when it mentions a secret.
pub fn redact(sql: &str) -> String {
    let Ok(tokens) = Tokenizer::new(&TidemillDialect::default(), sql).tokenize_with_location() else {
        return if is_secret(sql) { REDACTED.to_string() } else { sql.to_string() };
    };
    let text = Text::new(sql);
    let mut output = String::new();
    let mut copied = 0;
    let mut hide = |span: Span, copied: &mut usize| {
        if let (Some(start), Some(end)) = (text.byte(span.start), text.byte(span.end)) {
            output.push_str(&sql[*copied..start]);
            output.push_str(&quote_literal(REDACTED));
            *copied = end;
        }
    };
    let tokens: Vec<&TokenWithSpan> =
        tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    // The dotted key that is being read, and whether its `=` (or nothing, as in
    // `PASSWORD 'x'`) has come.
    let mut key = String::new();
    let mut after_period = false;
    // Within `CREATE SECRET` and `ALTER SECRET`, and behind the word.
    let mut value_of_secret: Option<bool> = None;
    for (idx, token) in tokens.iter().enumerate() {
        let is_word =
            |idx: usize, keyword: &str| tokens.get(idx).is_some_and(|t| is_unquoted(&t.token, keyword));
        let is_name = |idx: usize| matches!(tokens.get(idx).map(|t| &t.token), Some(Token::Word(_)));
        match &token.token {
            Token::SemiColon => {
                value_of_secret = None;
                after_period = false;
                key.clear();
            }
            _ if value_of_secret == Some(true) => hide(token.span, &mut copied),
            Token::Word(_) if value_of_secret.is_some() => {
                value_of_secret = Some(is_word(idx, "AS"));
            }
            Token::Eq | Token::Minus | Token::Plus => (),
            Token::Period => after_period = true,
            Token::Comma | Token::LParen | Token::RParen => key.clear(),
            _ if value_of_secret.is_some() => hide(token.span, &mut copied),
            Token::Word(_) if is_word(idx, "SECRET") && is_name(idx + 1) && !after_period => {
                let verb = |word| idx > 0 && is_word(idx - 1, word);
                value_of_secret = ["CREATE", "REPLACE", "ALTER"].into_iter().any(verb).then_some(false);
                // Names are no secrets.
                key = "SECRET".into();
            }
            Token::Word(_) if key == "SECRET" => {
                if !matches!(tokens.get(idx + 1).map(|t| &t.token), Some(Token::Period)) {
                    key.clear();
                }
                after_period = false;
            }
            token_here => {
                let value = match token_here {
                    Token::Word(word) => Some(word.value.clone()),
                    Token::SingleQuotedString(value) => Some(value.clone()),
                    _ => None,
                };
                if is_secret(&key) && !after_period {
                    hide(token.span, &mut copied);
                    key.clear();
                } else if let Some(value) = value {
                    if !after_period {
                        key.clear();
                    } else {
                        key.push('.');
                    }
                    key.push_str(&value);
                }
                after_period = false;
            }
        }
    }
    output + &sql[copied..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::read;

    fn options(sql: &str) -> Result<WithOptions, Error> {
        read(sql, parse)
    }

    #[test]
    fn keys_and_values_of_every_form() {
        let options = options("(connector = 'kafka', properties.bootstrap.server='a:1', \"Mixed.Key\" = -1.5, rate = 10, header = TRUE, scan.startup.mode = earliest, 'k' = $$v$$)").unwrap();
        let all: Vec<_> = options.iter().collect();
        let expected = [
            ("connector", "kafka"),
            ("properties.bootstrap.server", "a:1"),
            ("Mixed.Key", "-1.5"),
            ("rate", "10"),
            ("header", "true"),
            ("scan.startup.mode", "earliest"),
            ("k", "v"),
        ];
        assert_eq!(all, expected);
        assert_eq!(options.position("connector"), Some(2));
        assert_eq!(options.option("connector").map(|option| option.value_position), Some(14));
    }

    #[test]
    fn mistakes_in_options() {
        let error = |sql: &str| format!("{:?}", options(sql).unwrap_err());
        assert_eq!(error("(a = 1, a = 2)"), "42601: option \"a\" is given twice @9");
        assert!(
            error("(a = 10s)").starts_with("42601: syntax error at or near \"s\" @8"),
            "{}",
            error("(a = 10s)")
        );
        assert!(error("(a)").starts_with("42601: syntax error at or near \")\" @3"));
        assert!(error("(a = null)").starts_with("42601: syntax error at or near \"null\" @6"));
        assert!(options("()").unwrap().is_empty());
    }

    #[test]
    fn secrets_are_redacted_in_any_text() {
        let sql = "CREATE SOURCE s (password text) WITH (user = 'u', sasl.password = 'p''w', ssl.key.password='x', \"API_KEY\" = 'k', note = 'token')";
        assert_eq!(
            redact(sql),
            "CREATE SOURCE s (password text) WITH (user = 'u', sasl.password = '[redacted]', ssl.key.password='[redacted]', \"API_KEY\" = '[redacted]', note = 'token')"
                .replace("(password text)", "(password '[redacted]')")
        );
        assert_eq!(redact("CREATE USER u PASSWORD 'x'"), "CREATE USER u PASSWORD '[redacted]'");
        assert_eq!(redact("WITH (password = 'x"), "[redacted]");
        let same = |sql: &str| assert_eq!(redact(sql), sql);
        same("CREATE SINK k FROM p WITH (password = SECRET s.pw, url = 'u', token = SECRET \"t\")");
        same("GRANT USAGE ON SECRET api_token TO ann; DROP SECRET s.password CASCADE; SHOW CREATE SECRET a");
        same("COMMENT ON SECRET s IS 'for Kafka'");
        let hidden = "CREATE SECRET s AS '[redacted]'";
        assert_eq!(redact("CREATE SECRET s AS 'x'"), hidden);
        assert_eq!(redact("CREATE SECRET s AS $$x$$; SELECT 'x'"), format!("{hidden}; SELECT 'x'"));
        assert_eq!(redact("create secret s as x"), "create secret s as '[redacted]'");
        assert_eq!(
            redact("CREATE OR REPLACE SECRET IF NOT EXISTS a.s 'x'"),
            "CREATE OR REPLACE SECRET IF NOT EXISTS a.s '[redacted]'"
        );
        assert_eq!(
            redact("ALTER SECRET s AS E'x'; ALTER SECRET s RENAME TO t"),
            "ALTER SECRET s AS '[redacted]'; ALTER SECRET s RENAME TO t"
        );
        assert_eq!(
            redact("EXPLAIN CREATE SECRET s AS 'x' || 'y'"),
            "EXPLAIN CREATE SECRET s AS '[redacted]' '[redacted]' '[redacted]'"
        );
        assert_eq!(redact("SELECT 'é', a FROM t"), "SELECT 'é', a FROM t");
    }
}
