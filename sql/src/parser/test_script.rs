//! Scripts of tests: statements, and what is said beside them.
//!
//! ```text
//! TEST 'name' [WITHOUT CRASHES]
//! INCLUDE 'path'
//! GIVEN [DELETES OF | RECORDS OF] source [(column, …)] [IN PARTITION n] query
//! FINISH source
//! ADVANCE TIME {BY interval | TO 'time'}
//! CRASH | RESTART | CHECKPOINT
//! EXPECT relation [(column, …)] {query | EMPTY}
//! EXPECT (query) [IN ORDER] {query | EMPTY}
//! EXPECT CHANGES OF relation [(column, …)] {{+ | -} (value, …), … | EMPTY}
//! EXPECT NO CHANGES OF relation
//! EXPECT {n | NO} {LATE ROWS | DEAD LETTERS} [OF name]
//! EXPECT relation FAILED [LIKE 'pattern']
//! EXPECT ERROR ['sqlstate'] [LIKE 'pattern'] IN statement
//! ```
//!
//! In front of what is expected, or given, a colon may stand; behind one, a query needs no parentheses: `EXPECT SELECT … :
//! VALUES …`. All words are ours but for queries and statements, which are read as anywhere else, and kept as text.

use datafusion::sql::sqlparser::tokenizer::Token;
use tidemill_core::{SqlState, did_you_mean};

use super::cursor::{Cursor, Name, ObjectName};
use super::dialect::TidemillDialect;
use super::text::Text;
use super::{Part, parse_query, split};
use crate::error::Error;
use crate::statements::{Statement, is_verb, verbs};

/// One statement of a script.
#[derive(Debug, Clone, PartialEq)]
pub struct Scripted {
    pub step: Step,
    /// Its own text.
    pub sql: String,
    /// The number of characters before it in the whole text.
    pub offset: usize,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
// As with statements: one is made per line of a test.
#[allow(clippy::large_enum_variant)]
pub enum Step {
    Statement(Statement),
    Test(Test),
    Include(String),
    Given(Given),
    Finish(ObjectName),
    AdvanceTime(AdvanceTime),
    Crash,
    Restart,
    Checkpoint,
    Expect(Expect),
}

/// `TEST 'name'`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    pub name: String,
    /// Whether its result may be another when the server is killed in between.
    pub without_crashes: bool,
}

/// A part of a statement that is read by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    pub sql: String,
    /// The number of characters before it in the statement.
    pub offset: usize,
}

/// `GIVEN source …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub source: ObjectName,
    pub what: GivenWhat,
    pub columns: Vec<Name>,
    pub partition: u32,
    pub rows: Fragment,
}

/// What a source is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenWhat {
    Rows,
    /// Rows that are taken back.
    Deletes,
    /// Bytes, as they come from the outside.
    Records,
}

/// `ADVANCE TIME …`: an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdvanceTime {
    By(Fragment),
    To(Fragment),
}

/// `EXPECT …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    Rows { of: Expected, columns: Vec<Name>, in_order: bool, rows: Option<Fragment> },
    Changes { of: ObjectName, columns: Vec<Name>, changes: Vec<ExpectedChange> },
    LateRows { n: u64, of: Option<ObjectName> },
    DeadLetters { n: u64, of: Option<ObjectName> },
    Failed { of: ObjectName, like: Option<String> },
    Error { sqlstate: Option<String>, like: Option<String>, statement: Fragment },
}

/// What rows are expected of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    Relation(ObjectName),
    Query(Fragment),
}

/// `+ (1, 'a')`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedChange {
    pub is_insertion: bool,
    /// With its parentheses.
    pub row: Fragment,
}

/// What a statement of a script can begin with beside those of SQL.
const WORDS: [&str; 9] =
    ["ADVANCE", "CHECKPOINT", "CRASH", "EXPECT", "FINISH", "GIVEN", "INCLUDE", "RESTART", "TEST"];

/// What a query begins with where it has no parentheses.
const QUERY_WORDS: [&str; 4] = ["SELECT", "VALUES", "WITH", "TABLE"];

/// The statements of a script; or all that is wrong with it, in order.
pub fn parse(text: &str) -> Result<Vec<Scripted>, Vec<Error>> {
    let parts = split(text).map_err(|error| vec![error])?;
    let (mut scripted, mut errors) = (Vec::new(), Vec::new());
    for part in parts {
        let offset = part.offset;
        match parse_part(part) {
            Ok(step) => scripted.push(step),
            Err(error) => errors.push(error.shifted(offset)),
        }
    }
    if errors.is_empty() { Ok(scripted) } else { Err(errors) }
}

/// Positions in an error count from the part's start.
fn parse_part(part: Part) -> Result<Scripted, Error> {
    let word = match &part.tokens[0].token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_uppercase(),
        _ => String::new(),
    };
    match WORDS.contains(&word.as_str()) {
        true => parse_step(part, &word),
        false => parse_statement(part, &word),
    }
}

fn parse_statement(part: Part, word: &str) -> Result<Scripted, Error> {
    if !word.is_empty() && !is_verb(word) {
        let text = Text::new(&part.sql);
        let dialect = TidemillDialect::default();
        let known = verbs().iter().chain(&WORDS).copied();
        let hint = match did_you_mean(word, known) {
            Some(near) => format!("Did you mean {near}?"),
            None => format!("A test has statements of SQL, and {}.", WORDS.join(", ")),
        };
        let cursor = Cursor::new(&text, &dialect, part.tokens);
        return Err(cursor.unexpected("a statement").with_hint(hint));
    }
    let (sql, offset) = (part.sql.clone(), part.offset);
    let parsed = Part { offset: 0, ..part }.parse()?;
    Ok(Scripted { step: Step::Statement(parsed.statement), sql, offset })
}

fn parse_step(part: Part, word: &str) -> Result<Scripted, Error> {
    let Part { sql, offset, tokens } = part;
    let text = Text::new(&sql);
    let dialect = TidemillDialect::for_tokens(&tokens);
    let mut cursor = Cursor::new(&text, &dialect, tokens);
    let step = match word {
        "TEST" => Step::Test(test(&mut cursor)?),
        "GIVEN" => Step::Given(given(&mut cursor, &sql)?),
        "ADVANCE" => Step::AdvanceTime(advance(&mut cursor)?),
        "EXPECT" => Step::Expect(expect(&mut cursor, &sql)?),
        _ => {
            cursor.advance();
            match word {
                "INCLUDE" => Step::Include(cursor.string()?),
                "FINISH" => Step::Finish(cursor.object_name()?),
                "CRASH" => Step::Crash,
                "RESTART" => Step::Restart,
                _ => Step::Checkpoint,
            }
        }
    };
    // Of a statement that is to fail, nobody has read a word.
    if !matches!(step, Step::Expect(Expect::Error { .. })) {
        cursor.finish()?;
    }
    Ok(Scripted { step, sql, offset })
}

fn test(cursor: &mut Cursor<'_>) -> Result<Test, Error> {
    cursor.expect("TEST")?;
    let position = cursor.position();
    let Some(name) = cursor.string_opt() else {
        return Err(cursor.unexpected("the name of the test").with_hint("Write TEST 'what it shows';"));
    };
    if name.trim().is_empty() {
        return Err(Error::new(SqlState::SYNTAX_ERROR, "a test needs a name").at(position));
    }
    let without_crashes = cursor.eat_all(&["WITHOUT", "CRASHES"]);
    Ok(Test { name, without_crashes })
}

fn given(cursor: &mut Cursor<'_>, sql: &str) -> Result<Given, Error> {
    cursor.expect("GIVEN")?;
    let what = if cursor.eat_all(&["DELETES", "OF"]) {
        GivenWhat::Deletes
    } else if cursor.eat_all(&["RECORDS", "OF"]) {
        GivenWhat::Records
    } else {
        GivenWhat::Rows
    };
    let source = cursor.object_name()?;
    let position = cursor.position();
    let columns = columns(cursor)?;
    if what == GivenWhat::Records && !columns.is_empty() {
        return Err(Error::new(SqlState::SYNTAX_ERROR, "records have no columns")
            .with_hint("A record is its value, or its key and its value: VALUES ('key', '{\"id\": 1}').")
            .at(position));
    }
    let mut partition = 0;
    if cursor.eat_all(&["IN", "PARTITION"]) {
        let position = cursor.position();
        let number = cursor.integer()?;
        // A test has as many partitions as the largest number says.
        partition = u32::try_from(number).ok().filter(|number| *number < 1000).ok_or_else(|| {
            Error::new(SqlState::INVALID_PARAMETER, format!("partition {number} is too large"))
                .with_hint("Partitions are counted from 0.")
                .at(position)
        })?;
    }
    cursor.eat_token(&Token::Colon);
    let rows = rows(cursor, sql, "VALUES (…) or a query")?;
    Ok(Given { source, what, columns, partition, rows })
}

fn advance(cursor: &mut Cursor<'_>) -> Result<AdvanceTime, Error> {
    cursor.expect("ADVANCE")?;
    if cursor.is("WATERMARK") {
        return Err(cursor
            .unexpected("TIME")
            .with_hint("A watermark follows the rows of its source: GIVEN it a row of a later time."));
    }
    cursor.expect("TIME")?;
    match cursor.eat_one_of(&["BY", "TO"]) {
        Some(by_or_to) => {
            let offset = cursor.position() - 1;
            let (_, sql) = cursor.expr()?;
            let fragment = Fragment { sql, offset };
            Ok(if by_or_to == "BY" { AdvanceTime::By(fragment) } else { AdvanceTime::To(fragment) })
        }
        None => Err(cursor.unexpected("BY or TO").with_hint(
            "Write ADVANCE TIME BY INTERVAL '1 minute', or ADVANCE TIME TO '2026-01-01 12:00:00'.",
        )),
    }
}

fn expect(cursor: &mut Cursor<'_>, sql: &str) -> Result<Expect, Error> {
    cursor.expect("EXPECT")?;
    if cursor.is("ERROR") && is_error(cursor) {
        return expect_error(cursor, sql);
    }
    if cursor.eat_all(&["CHANGES", "OF"]) {
        let of = cursor.object_name()?;
        let columns = columns(cursor)?;
        cursor.eat_token(&Token::Colon);
        let changes = if cursor.eat("EMPTY") { Vec::new() } else { cursor.list(change)? };
        return Ok(Expect::Changes { of, columns, changes });
    }
    if cursor.eat_all(&["NO", "CHANGES", "OF"]) {
        return Ok(Expect::Changes { of: cursor.object_name()?, columns: Vec::new(), changes: Vec::new() });
    }
    let is_count = matches!(cursor.peek().token, Token::Number(..));
    if is_count || cursor.is_all(&["NO", "LATE"]) || cursor.is_all(&["NO", "DEAD"]) {
        return expect_count(cursor);
    }
    let (of, in_order) = expected(cursor, sql)?;
    let position = cursor.position();
    let columns = match &of {
        Expected::Relation(_) => columns(cursor)?,
        Expected::Query(_) => Vec::new(),
    };
    if let Expected::Relation(of) = &of {
        if cursor.eat("FAILED") {
            let like = if cursor.eat("LIKE") { Some(cursor.string()?) } else { None };
            return Ok(Expect::Failed { of: of.clone(), like });
        }
        if cursor.is_all(&["IN", "ORDER"]) {
            return Err(cursor.unexpected("VALUES, a query or EMPTY").with_hint(format!(
                "The rows of a relation have no order: EXPECT (SELECT * FROM {of} ORDER BY …) IN ORDER …"
            )));
        }
    }
    let in_order = in_order || cursor.eat_all(&["IN", "ORDER"]);
    cursor.eat_token(&Token::Colon);
    if cursor.at_end() {
        return Err(cursor.unexpected("VALUES, a query or EMPTY").or_at(Some(position)));
    }
    let rows = match cursor.eat("EMPTY") {
        true => None,
        false => Some(rows(cursor, sql, "VALUES (…), a query or EMPTY")?),
    };
    Ok(Expect::Rows { of, columns, in_order, rows })
}

/// Whether `ERROR` is the word, and no relation.
fn is_error(cursor: &Cursor<'_>) -> bool {
    let is_string = matches!(cursor.peek_at(1), Token::SingleQuotedString(_));
    let next = cursor.word_at(1);
    let is_order = cursor.word_at(2).as_deref() == Some("ORDER");
    is_string || next.as_deref() == Some("LIKE") || (next.as_deref() == Some("IN") && !is_order)
}

fn expect_error(cursor: &mut Cursor<'_>, sql: &str) -> Result<Expect, Error> {
    cursor.expect("ERROR")?;
    let position = cursor.position();
    let sqlstate = cursor.string_opt();
    if let Some(sqlstate) = &sqlstate
        && !(sqlstate.len() == 5 && sqlstate.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()))
    {
        let message = format!("\"{sqlstate}\" is no SQLSTATE");
        return Err(Error::new(SqlState::SYNTAX_ERROR, message)
            .with_hint("It has five digits and capital letters; what the message is like stands behind LIKE.")
            .at(position));
    }
    let like = if cursor.eat("LIKE") { Some(cursor.string()?) } else { None };
    cursor.expect("IN")?;
    if cursor.at_end() {
        return Err(cursor.unexpected("a statement"));
    }
    let (byte, offset) = (cursor.mark(), cursor.position() - 1);
    let statement = Fragment { sql: sql[byte..].to_owned(), offset };
    if let Some(word) = cursor.word().filter(|word| WORDS.contains(&word.as_str()) && word != "CHECKPOINT") {
        return Err(cursor
            .unexpected("a statement of SQL")
            .with_hint(format!("What {word} cannot do is an error of the test.")));
    }
    Ok(Expect::Error { sqlstate, like, statement })
}

fn expect_count(cursor: &mut Cursor<'_>) -> Result<Expect, Error> {
    let n = if cursor.eat("NO") { 0 } else { cursor.integer()? };
    let is_late = cursor.eat("LATE");
    if !is_late && !cursor.eat("DEAD") {
        return Err(cursor.unexpected_word("what is counted", &["LATE ROWS", "DEAD LETTERS"]));
    }
    let nouns = if is_late { ["ROWS", "ROW"] } else { ["LETTERS", "LETTER"] };
    if cursor.eat_one_of(&nouns).is_none() {
        return Err(cursor.unexpected(nouns[0]));
    }
    let of = if cursor.eat("OF") { Some(cursor.object_name()?) } else { None };
    Ok(if is_late { Expect::LateRows { n, of } } else { Expect::DeadLetters { n, of } })
}

/// What rows are expected of, and whether `IN ORDER` was said.
fn expected(cursor: &mut Cursor<'_>, sql: &str) -> Result<(Expected, bool), Error> {
    if cursor.is_token(&Token::LParen) {
        let offset = cursor.position();
        let text = parenthesized(cursor)?;
        let inside = text[1..text.len() - 1].to_owned();
        let query = checked(Fragment { sql: inside, offset })?;
        return Ok((Expected::Query(query), false));
    }
    if !QUERY_WORDS.iter().any(|word| cursor.is(word)) {
        return Ok((Expected::Relation(cursor.object_name()?), false));
    }
    // Up to the colon.
    let (byte, offset) = (cursor.mark(), cursor.position() - 1);
    let mut depth = 0usize;
    // The last two words, and where they stand.
    let mut last = [(String::new(), byte), (String::new(), byte)];
    while !cursor.at_end() {
        match &cursor.peek().token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            Token::Colon if depth == 0 => break,
            _ => (),
        }
        last.swap(0, 1);
        last[1] = (cursor.word().unwrap_or_default(), cursor.mark());
        cursor.advance();
    }
    if cursor.at_end() {
        return Err(cursor.unexpected("a colon").with_hint(
            "Behind a query a colon says where what is expected begins: EXPECT SELECT … : VALUES …; or put it into parentheses.",
        ));
    }
    let in_order = last[0].0 == "IN" && last[1].0 == "ORDER";
    let end = if in_order { last[0].1 } else { cursor.mark() };
    let query = Fragment { sql: sql[byte..end].trim_end().to_owned(), offset };
    Ok((Expected::Query(checked(query)?), in_order))
}

/// `(column, …)`, if it is there.
fn columns(cursor: &mut Cursor<'_>) -> Result<Vec<Name>, Error> {
    match cursor.is_token(&Token::LParen) {
        true => cursor.parenthesized(Cursor::name),
        false => Ok(Vec::new()),
    }
}

fn change(cursor: &mut Cursor<'_>) -> Result<ExpectedChange, Error> {
    let is_insertion = cursor.eat_token(&Token::Plus);
    if !is_insertion && !cursor.eat_token(&Token::Minus) {
        return Err(cursor
            .unexpected("+ or -")
            .with_hint("Write + (…) for each row that comes and - (…) for each that goes, or EMPTY."));
    }
    if !cursor.is_token(&Token::LParen) {
        return Err(cursor.unexpected("a row in parentheses"));
    }
    let offset = cursor.position() - 1;
    let sql = parenthesized(cursor)?;
    // Checked as what it is going to be.
    parse_query(&format!("VALUES {sql}")).map_err(|error| moved_back(error, "VALUES ".len(), offset))?;
    Ok(ExpectedChange { is_insertion, row: Fragment { sql, offset } })
}

/// The text from the parenthesis here to the one that closes it.
fn parenthesized(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    let mark = cursor.mark();
    let mut depth = 0usize;
    loop {
        match &cursor.peek().token {
            Token::EOF => return Err(cursor.unexpected("\")\"")),
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => (),
        }
        cursor.advance();
        if depth == 0 {
            return Ok(cursor.text_from(mark));
        }
    }
}

/// The query here, up to the end of the statement.
fn rows(cursor: &mut Cursor<'_>, sql: &str, expected: &str) -> Result<Fragment, Error> {
    if !QUERY_WORDS.iter().any(|word| cursor.is(word)) {
        return Err(cursor.unexpected(expected));
    }
    let (byte, offset) = (cursor.mark(), cursor.position() - 1);
    while !cursor.at_end() {
        cursor.advance();
    }
    checked(Fragment { sql: sql[byte..].to_owned(), offset })
}

/// A query that can be read.
fn checked(query: Fragment) -> Result<Fragment, Error> {
    match parse_query(&query.sql) {
        Ok(_) => Ok(query),
        Err(error) => Err(error.shifted(query.offset)),
    }
}

/// An error in a text that has so many characters in front of what stands at `offset`.
fn moved_back(error: Error, n_before: usize, offset: usize) -> Error {
    error.moved(|position| position.saturating_sub(n_before).max(1) + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Vec<Step> {
        let parsed = parse(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        parsed.into_iter().map(|scripted| scripted.step).collect()
    }

    fn only(text: &str) -> Step {
        let mut steps = steps(text);
        assert_eq!(steps.len(), 1, "{text}");
        steps.remove(0)
    }

    /// The errors of a script, each with its position, and its hint behind a bar.
    fn errors(text: &str) -> Vec<String> {
        use tidemill_core::Diagnostic;
        let errors = parse(text).expect_err(text);
        let line = |error: Error| {
            let position = error.position().map_or(String::new(), |position| format!(" @{position}"));
            let hint = error.hint().map_or(String::new(), |hint| format!(" | {hint}"));
            format!("{error}{position}{hint}")
        };
        errors.into_iter().map(line).collect()
    }

    fn fragment(sql: &str, offset: usize) -> Fragment {
        Fragment { sql: sql.into(), offset }
    }

    #[test]
    fn a_script_has_statements_and_steps() {
        let text = "CREATE TABLE t (k INT); -- a comment; with a semicolon\n\
                    TEST 'it''s one' WITHOUT CRASHES; INCLUDE 'a/b.sql';\n\
                    CRASH; restart; CHECKPOINT; FINISH s;";
        let parsed = parse(text).unwrap();
        assert_eq!(parsed[1].offset, text.find("TEST").unwrap());
        assert!(matches!(parsed[0].step, Step::Statement(Statement::CreateTable(_))));
        let test = Test { name: "it's one".into(), without_crashes: true };
        let rest: Vec<Step> = parsed.into_iter().skip(1).map(|scripted| scripted.step).collect();
        let finish = ObjectName { schema: None, name: "s".into(), position: 8 };
        assert_eq!(
            rest,
            [
                Step::Test(test),
                Step::Include("a/b.sql".into()),
                Step::Crash,
                Step::Restart,
                Step::Checkpoint,
                Step::Finish(finish),
            ]
        );
        assert_eq!(steps(" -- nothing\n;;"), []);
    }

    #[test]
    fn given_reads_like_insert() {
        let Step::Given(given) = only("GIVEN x.s (a, \"B\") IN PARTITION 2 VALUES (1, 'x'), (2, NULL)")
        else {
            panic!("given")
        };
        assert_eq!(given.source.to_string(), "x.s");
        assert_eq!((given.what, given.partition), (GivenWhat::Rows, 2));
        let names: Vec<&str> = given.columns.iter().map(|name| name.value.as_str()).collect();
        assert_eq!(names, ["a", "B"]);
        assert_eq!(given.rows, fragment("VALUES (1, 'x'), (2, NULL)", 34));
        for (text, what) in [
            ("GIVEN s: SELECT 1", GivenWhat::Rows),
            ("GIVEN DELETES OF s (k) VALUES (1)", GivenWhat::Deletes),
            ("GIVEN RECORDS OF s VALUES ('{}')", GivenWhat::Records),
            // A source of that name.
            ("GIVEN records VALUES (1)", GivenWhat::Rows),
        ] {
            let Step::Given(given) = only(text) else { panic!("given") };
            assert_eq!(given.what, what, "{text}");
        }
    }

    #[test]
    fn time_is_advanced_by_or_to() {
        let by = AdvanceTime::By(fragment("INTERVAL '1 hour'", 16));
        assert_eq!(only("ADVANCE TIME BY INTERVAL '1 hour'"), Step::AdvanceTime(by));
        let to = AdvanceTime::To(fragment("'2026-01-01'", 16));
        assert_eq!(only("advance time to '2026-01-01'"), Step::AdvanceTime(to));
    }

    #[test]
    fn rows_are_expected_of_relations_and_queries() {
        let rows = |text: &str| match only(text) {
            Step::Expect(Expect::Rows { of, columns, in_order, rows }) => {
                let of = match of {
                    Expected::Relation(name) => name.to_string(),
                    Expected::Query(query) => {
                        let at: String =
                            text.chars().skip(query.offset).take(query.sql.chars().count()).collect();
                        assert_eq!(at, query.sql, "the offset is that of the text");
                        format!("[{}]", query.sql)
                    }
                };
                (of, columns.len(), in_order, rows.map(|rows| rows.sql))
            }
            other => panic!("{text}: {other:?}"),
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(rows("EXPECT p VALUES (1)"), ("p".into(), 0, false, some("VALUES (1)")));
        assert_eq!(rows("EXPECT p: VALUES (1)"), ("p".into(), 0, false, some("VALUES (1)")));
        assert_eq!(rows("EXPECT a.p (k, n) EMPTY"), ("a.p".into(), 2, false, None));
        assert_eq!(rows("EXPECT p SELECT k FROM t"), ("p".into(), 0, false, some("SELECT k FROM t")));
        assert_eq!(
            rows("EXPECT (SELECT é FROM \"ä\" ORDER BY 1) IN ORDER VALUES (2), (1)"),
            ("[SELECT é FROM \"ä\" ORDER BY 1]".into(), 0, true, some("VALUES (2), (1)"))
        );
        assert_eq!(
            rows("EXPECT SELECT k::int, x[1:2] FROM p WHERE k IN (1) : VALUES (1)"),
            ("[SELECT k::int, x[1:2] FROM p WHERE k IN (1)]".into(), 0, false, some("VALUES (1)"))
        );
        assert_eq!(
            rows("EXPECT SELECT k FROM p ORDER BY k IN ORDER: VALUES (1)"),
            ("[SELECT k FROM p ORDER BY k]".into(), 0, true, some("VALUES (1)"))
        );
        // Words that are names as well.
        for name in ["error", "changes", "late", "dead"] {
            assert_eq!(rows(&format!("EXPECT {name} VALUES (1)")).0, name);
        }
    }

    #[test]
    fn changes_counts_failures_and_errors_are_expected() {
        let Step::Expect(expect) = only("EXPECT CHANGES OF p - ('a', (1 + 2)), + ('b', 2)") else {
            panic!("expect")
        };
        let Expect::Changes { changes, .. } = expect else { panic!("changes") };
        let changes: Vec<(bool, &str)> =
            changes.iter().map(|change| (change.is_insertion, change.row.sql.as_str())).collect();
        assert_eq!(changes, [(false, "('a', (1 + 2))"), (true, "('b', 2)")]);
        for text in ["EXPECT NO CHANGES OF p", "EXPECT CHANGES OF p EMPTY", "EXPECT CHANGES OF p (k): EMPTY"]
        {
            assert!(
                matches!(only(text), Step::Expect(Expect::Changes { changes, .. }) if changes.is_empty())
            );
        }
        assert!(matches!(
            only("EXPECT 2 LATE ROWS OF p"),
            Step::Expect(Expect::LateRows { n: 2, of: Some(_) })
        ));
        assert!(matches!(only("EXPECT 1 LATE ROW"), Step::Expect(Expect::LateRows { n: 1, of: None })));
        assert!(matches!(
            only("EXPECT NO DEAD LETTERS OF s"),
            Step::Expect(Expect::DeadLetters { n: 0, of: Some(_) })
        ));
        let Step::Expect(Expect::Failed { like, .. }) = only("EXPECT p FAILED LIKE '%zero%'") else {
            panic!("failed")
        };
        assert_eq!(like.as_deref(), Some("%zero%"));
        let text = "EXPECT ERROR '42P01' LIKE '%no%' IN CREATE PIPELINE p AS SELECT FRM x EMIT CHANGES";
        let Step::Expect(Expect::Error { sqlstate, like, statement }) = only(text) else { panic!("error") };
        assert_eq!((sqlstate.as_deref(), like.as_deref()), (Some("42P01"), Some("%no%")));
        assert_eq!(statement, fragment("CREATE PIPELINE p AS SELECT FRM x EMIT CHANGES", 36));
    }

    #[test]
    fn what_is_wrong_has_a_place_and_advice() {
        // All of them, not only the first.
        assert_eq!(
            errors("SELEC 1;\nGVEN s VALUES (1);\nTEST x;"),
            [
                "syntax error at or near \"SELEC\" @1 | Did you mean SELECT?",
                "syntax error at or near \"GVEN\" @10 | Did you mean GIVEN?",
                "syntax error at or near \"x\" @34 | Write TEST 'what it shows';",
            ]
        );
        assert_eq!(errors("TEST '';"), ["a test needs a name @6"]);
        assert_eq!(errors("CRASH NOW"), ["syntax error at or near \"NOW\" @7"]);
        assert_eq!(errors("GIVEN s (1)"), ["syntax error at or near \"1\" @10"]);
        assert_eq!(errors("GIVEN s"), ["syntax error at end of input @8"]);
        assert_eq!(errors("GIVEN s VALUES (1,)"), ["syntax error at or near \")\" @19"]);
        assert_eq!(
            errors("GIVEN s IN PARTITION 5000 VALUES (1)"),
            ["partition 5000 is too large @22 | Partitions are counted from 0."]
        );
        assert_eq!(errors("EXPECT p"), ["syntax error at end of input @9"]);
        assert_eq!(errors("EXPECT p (1)"), ["syntax error at or near \"1\" @11"]);
        assert!(errors("EXPECT p IN ORDER VALUES (1)")[0].contains("ORDER BY …) IN ORDER"));
        assert!(errors("EXPECT SELECT 1 VALUES (1)")[0].contains("EXPECT SELECT … : VALUES …"));
        assert!(errors("EXPECT CHANGES OF p VALUES (1)")[0].contains("@21 | Write + (…)"));
        assert!(errors("EXPECT CHANGES OF p + (1,)")[0].ends_with("@26"));
        assert!(errors("EXPECT ERROR '22' IN SELECT 1")[0].contains("is no SQLSTATE @14"));
        assert!(errors("EXPECT ERROR '22012' SELECT 1")[0].contains("near \"SELECT\" @22"));
        assert!(errors("EXPECT ERROR '22012' IN CRASH")[0].contains("@25"));
        assert!(errors("ADVANCE WATERMARK OF s TO 'x'")[0].contains("GIVEN it a row of a later time"));
        assert!(errors("ADVANCE TIME 5")[0].contains("BY INTERVAL"));
        assert!(errors("EXPECT 2 ROWS OF p")[0].contains("@10 | Known are LATE ROWS, DEAD LETTERS."));
        assert_eq!(errors("SELECT 'a")[0], "unterminated quoted string at or near \"'a\" @8");
    }
}
