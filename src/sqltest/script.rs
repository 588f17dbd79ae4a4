//! A file of tests, and what it includes, as steps.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_core::SqlState;
use tidemill_sql::parser;
use tidemill_sql::parser::test_script::{self, Scripted, Step, Test};

use crate::cli::Failure as CliFailure;
use crate::cli::migrations;
use crate::cli::report::{Origin, plain};
use crate::session::api::SqlError;

/// Files that include each other deeper than this go around in a circle.
const DEPTH_MAX: usize = 16;

/// A text that statements are in.
#[derive(Debug)]
pub struct Text {
    pub name: String,
    pub text: String,
}

/// A step, and where it stands.
#[derive(Debug, Clone)]
pub struct Line {
    pub text: Arc<Text>,
    pub scripted: Scripted,
}

/// A file that has been read.
#[derive(Debug)]
pub struct Script {
    /// What comes before the first test, and is done for each of them.
    pub set_up: Vec<Line>,
    pub tests: Vec<TestCase>,
}

/// `TEST 'name';` and what follows.
#[derive(Debug)]
pub struct TestCase {
    pub name: String,
    pub without_crashes: bool,
    pub line: usize,
    pub steps: Vec<Line>,
}

impl Line {
    /// `file:line:column: ERROR: …` with the line and a caret.
    pub fn error(&self, error: &SqlError) -> String {
        let Text { name, text } = &*self.text;
        Origin { file: Some(name), text, offset: self.scripted.offset }.error(error)
    }

    /// `file:line`
    pub fn place(&self) -> String {
        format!("{}:{}", self.text.name, self.number())
    }

    /// In the file, from 1.
    pub fn number(&self) -> usize {
        1 + self.text.text.chars().take(self.scripted.offset).filter(|c| *c == '\n').count()
    }
}

impl Script {
    /// Reads a file; or says what is wrong with it.
    pub fn load(path: &Path) -> Result<Script, String> {
        let mut lines = Vec::new();
        read(path, &mut Vec::new(), &mut lines)?;
        let mut script = Script { set_up: Vec::new(), tests: Vec::new() };
        let mut errors = String::new();
        for line in lines {
            match &line.scripted.step {
                Step::Test(test) => {
                    if let Some(known) = script.tests.iter().find(|known| known.name == test.name) {
                        let message =
                            format!("there is a test '{}' in line {} already", test.name, known.line);
                        errors += &line.error(&wrong(message).with_position(6));
                    }
                    let Test { name, without_crashes } = test.clone();
                    let line = line.number();
                    script.tests.push(TestCase { name, without_crashes, line, steps: Vec::new() });
                }
                _ => match script.tests.last_mut() {
                    Some(test) => test.steps.push(line),
                    None => script.set_up.push(line),
                },
            }
        }
        if script.tests.is_empty() && errors.is_empty() {
            let error = wrong(format!("\"{}\" has no tests", path.display()))
                .with_hint("A test begins with TEST 'what it shows';");
            errors = plain(&error);
        }
        if errors.is_empty() { Ok(script) } else { Err(errors) }
    }
}

fn wrong(message: String) -> SqlError {
    SqlError::new(SqlState::SYNTAX_ERROR, message)
}

/// The steps of a file. `around` are the files that include it.
fn read(path: &Path, around: &mut Vec<PathBuf>, lines: &mut Vec<Line>) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| {
        let message = format!("cannot read \"{}\": {error}", path.display());
        plain(&SqlError::new(SqlState::IO_ERROR, message))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        let message = format!("\"{}\" is not UTF-8: line {line}", path.display());
        plain(&SqlError::new(SqlState("22021"), message))
    })?;
    around.push(path.to_owned());
    add(Text { name: path.display().to_string(), text }, None, around, lines)?;
    around.pop();
    Ok(())
}

/// A part of a text: where it begins, in characters, and what it is.
type Part<'a> = Option<(usize, &'a str)>;

/// The steps of a text, or of a part of it.
fn add(text: Text, part: Part<'_>, around: &mut Vec<PathBuf>, lines: &mut Vec<Line>) -> Result<(), String> {
    let (offset, sql) = part.unwrap_or((0, &text.text));
    let all = Origin { file: Some(&text.name), text: &text.text, offset };
    let parsed = test_script::parse(sql).map_err(|errors| {
        errors.into_iter().map(|error| all.error(&SqlError::from(error))).collect::<String>()
    })?;
    let text = Arc::new(text);
    for mut scripted in parsed {
        scripted.offset += offset;
        let line = Line { text: text.clone(), scripted };
        match &line.scripted.step {
            Step::Include(path) => include(&line, path, around, lines)?,
            Step::Test(_) if around.len() > 1 => {
                let error = wrong("a file that is included has no tests".into())
                    .with_position(1)
                    .with_hint("Tests stand in the file that is run; what they share can be included.");
                return Err(line.error(&error));
            }
            _ => lines.push(line),
        }
    }
    Ok(())
}

fn include(line: &Line, path: &str, around: &mut Vec<PathBuf>, lines: &mut Vec<Line>) -> Result<(), String> {
    let failed = |error: SqlError| line.error(&SqlError { position: Some("INCLUDE ".len() + 1), ..error });
    let directory = around.last().and_then(|file| file.parent()).unwrap_or(Path::new(""));
    let path = directory.join(path);
    if around.len() > DEPTH_MAX {
        return Err(failed(wrong("files include each other in a circle".into())));
    }
    if path.is_dir() {
        let ups = ups(&path).map_err(failed)?;
        return ups.into_iter().try_for_each(|up| migrate(up, &path, around, lines));
    }
    if !path.is_file() {
        let message = format!("there is no file \"{}\"", path.display());
        return Err(failed(
            SqlError::new(SqlState::IO_ERROR, message)
                .with_hint("The path is seen from the file that includes it."),
        ));
    }
    read(&path, around, lines)
}

/// What a directory of migrations makes, in order.
fn ups(path: &Path) -> Result<Vec<migrations::Part>, SqlError> {
    let all = migrations::read(path).map_err(|failure| match failure {
        CliFailure::Error(error) | CliFailure::Usage(error) => error,
        other => SqlError::new(SqlState::IO_ERROR, format!("cannot read migrations: {other:?}")),
    })?;
    match all.is_empty() {
        true => Err(wrong(format!("there are no migrations in \"{}\"", path.display()))),
        false => Ok(all.into_iter().map(|migration| migration.up).collect()),
    }
}

/// A migration as `tidemill migrate up` applies it.
fn migrate(
    up: migrations::Part,
    directory: &Path,
    around: &mut Vec<PathBuf>,
    lines: &mut Vec<Line>,
) -> Result<(), String> {
    let bracket = |sql: &str| {
        let parsed = parser::parse_one(sql).expect("it is a statement");
        let text = Arc::new(Text { name: up.file.clone(), text: up.text.clone() });
        let step = Step::Statement(parsed.statement);
        Line { text, scripted: Scripted { step, sql: sql.to_owned(), offset: up.offset } }
    };
    lines.extend(up.is_in_transaction.then(|| bracket("BEGIN")));
    around.push(directory.join("migration"));
    let text = Text { name: up.file.clone(), text: up.text.clone() };
    add(text, Some((up.offset, &up.sql)), around, lines)?;
    around.pop();
    lines.extend(up.is_in_transaction.then(|| bracket("COMMIT")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &[u8])]) -> Result<Script, String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let shown = format!("{}/", directory.path().display());
        Script::load(&directory.path().join(files[0].0)).map_err(|error| error.replace(&shown, ""))
    }

    #[test]
    fn what_is_before_the_first_test_is_shared() {
        let script = load(&[
            ("t.test.sql", b"INCLUDE 'up/a.sql';\nTEST 'one';\nCRASH;\n\nTEST 'two' WITHOUT CRASHES;\nINCLUDE 'up/a.sql';"),
            ("up/a.sql", b"CREATE TABLE a (k INT); INCLUDE 'b.sql';"),
            ("up/b.sql", b"CREATE TABLE b (k INT);"),
        ])
        .unwrap();
        let texts = |lines: &[Line]| -> Vec<String> {
            lines.iter().map(|line| format!("{} {}", line.number(), line.scripted.sql)).collect()
        };
        assert_eq!(texts(&script.set_up), ["1 CREATE TABLE a (k INT)", "1 CREATE TABLE b (k INT)"]);
        let tests: Vec<(&str, usize, bool, usize)> = script
            .tests
            .iter()
            .map(|test| (test.name.as_str(), test.line, test.without_crashes, test.steps.len()))
            .collect();
        assert_eq!(tests, [("one", 2, false, 1), ("two", 5, true, 2)]);
    }

    #[test]
    fn migrations_are_applied_as_they_are_deployed() {
        let script = load(&[
            ("t.test.sql", b"INCLUDE 'm'; TEST 'x';"),
            (
                "m/2_b.sql",
                b"-- migrate:up transaction:false\nCREATE TABLE b (k INT);\n-- migrate:down\nDROP TABLE b;",
            ),
            ("m/1_a.sql", b"-- migrate:up\nCREATE TABLE a (k INT);\n"),
        ])
        .unwrap();
        let texts: Vec<&str> = script.set_up.iter().map(|line| line.scripted.sql.as_str()).collect();
        assert_eq!(texts, ["BEGIN", "CREATE TABLE a (k INT)", "COMMIT", "CREATE TABLE b (k INT)"]);
        assert_eq!(script.set_up[3].number(), 2);
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        let error = |files: &[(&str, &[u8])]| load(files).map(drop).unwrap_err();
        assert!(error(&[("t.test.sql", b"")]).contains("\"t.test.sql\" has no tests"));
        assert!(error(&[("t.test.sql", b"TEST 'a';\n\xff")]).contains("\"t.test.sql\" is not UTF-8: line 2"));
        let twice = error(&[("t.test.sql", b"TEST 'a';\nTEST 'a';\nTEST 'b';")]);
        assert!(
            twice.starts_with("t.test.sql:2:6: ERROR:  42601: there is a test 'a' in line 1 already"),
            "{twice}"
        );
        let two = error(&[("t.test.sql", b"TEST 'a';\nGVEN s;\nSELEC 1;")]);
        assert!(two.contains("t.test.sql:2:1: ") && two.contains("t.test.sql:3:1: "), "{two}");
        let included = error(&[("t.test.sql", b"\nINCLUDE 'a.sql';"), ("a.sql", b"SELECT 1;\nSELEC 2;")]);
        assert!(included.starts_with("a.sql:2:1: ERROR:  42601"), "{included}");
        let nested = error(&[("t.test.sql", b"INCLUDE 'a.sql';"), ("a.sql", b"TEST 'x';")]);
        assert!(nested.starts_with("a.sql:1:1: ") && nested.contains("has no tests"), "{nested}");
        let missing = error(&[("t.test.sql", b"TEST 'x';\nINCLUDE 'a.sql';")]);
        assert!(
            missing.starts_with("t.test.sql:2:9: ERROR:  58030: there is no file \"a.sql\""),
            "{missing}"
        );
        let circle = error(&[("t.test.sql", b"INCLUDE 't.test.sql';")]);
        assert!(circle.contains("in a circle"), "{circle}");
    }
}
