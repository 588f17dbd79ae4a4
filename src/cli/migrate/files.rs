//! The files of a directory as migrations.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tidemill_core::SqlState;

use super::super::{Failure, print};
use crate::session::api::SqlError;

const UP: &str = "-- migrate:up";
const DOWN: &str = "-- migrate:down";

/// A change of the database, and how to take it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its number, as it is written.
    pub version: String,
    pub name: String,
    pub up: Part,
    pub down: Option<Part>,
    /// Of all that belongs to it.
    pub checksum: String,
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file's path, for messages.
    pub file: String,
    /// All of the file.
    pub text: String,
    /// Where the part begins in it, in characters.
    pub offset: usize,
    pub sql: String,
    pub is_in_transaction: bool,
}

impl Migration {
    /// `0001_orders`
    pub fn title(&self) -> String {
        format!("{}_{}", self.version, self.name)
    }
}

/// Numbers by their values, however many zeros they begin with.
pub fn order(version: &str) -> (usize, &str) {
    let digits = version.trim_start_matches('0');
    (digits.len(), digits)
}

fn wrong(message: String) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER, message)
}

/// A file's place in a migration.
struct File {
    path: PathBuf,
    version: String,
    name: String,
    kind: FileKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Both,
    Up,
    Down,
}

/// The migrations of a directory, in order.
pub fn read(dir: &Path) -> Result<Vec<Migration>, Failure> {
    let shown = dir.display();
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::Usage(wrong(format!("there is no directory \"{shown}\"")).with_hint(
                "Name the directory with --dir, or make the first file with \"tidemill migrate new NAME\".",
            ))
        }
        _ => Failure::io(&format!("cannot read \"{shown}\""), &error),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !name.ends_with(".sql") || name.starts_with('.') {
            continue;
        }
        let (version, name, kind) = split_name(name).ok_or_else(|| {
            Failure::Usage(
                wrong(format!("\"{}\" has no number", path.display()))
                    .with_hint("Call it NUMBER_NAME.sql, such as 0001_orders.sql."),
            )
        })?;
        files.push(File { version, name, kind, path });
    }
    files.sort_by(|a, b| {
        (order(&a.version), a.kind == FileKind::Down, &a.path).cmp(&(
            order(&b.version),
            b.kind == FileKind::Down,
            &b.path,
        ))
    });
    let mut migrations: Vec<Migration> = Vec::new();
    let mut before: Option<File> = None;
    for file in files {
        let text = std::fs::read_to_string(&file.path)
            .map_err(|error| Failure::io(&format!("cannot read \"{}\"", file.path.display()), &error))?;
        let is_same = before.as_ref().is_some_and(|before| order(&before.version) == order(&file.version));
        match (file.kind, is_same, migrations.last_mut()) {
            (FileKind::Down, true, Some(migration))
                if migration.down.is_none()
                    && before.as_ref().is_some_and(|before| before.kind == FileKind::Up) =>
            {
                migration.checksum = checksum(&[&migration.up.text, &text]);
                migration.down = Some(whole(&file.path, &text));
            }
            (FileKind::Down, false, _) => {
                let message = format!("\"{}\" has no up part beside it", file.path.display());
                let up = file.path.to_string_lossy().replace(".down.sql", ".up.sql");
                return Err(Failure::Usage(wrong(message).with_hint(format!("It would be \"{up}\"."))));
            }
            (_, true, Some(_)) => {
                let other = before.as_ref().map(|before| before.path.display().to_string());
                return Err(Failure::Usage(
                    wrong(format!("two migrations have the number {}", file.version)).with_detail(format!(
                        "They are \"{}\" and \"{}\".",
                        other.unwrap_or_default(),
                        file.path.display()
                    )),
                ));
            }
            (FileKind::Up, ..) => migrations.push(Migration {
                version: file.version.clone(),
                name: file.name.clone(),
                up: whole(&file.path, &text),
                down: None,
                checksum: checksum(&[&text, ""]),
            }),
            _ => {
                let (up, down) = split_parts(&file.path, &text)?;
                migrations.push(Migration {
                    version: file.version.clone(),
                    name: file.name.clone(),
                    up,
                    down,
                    checksum: checksum(&[&text]),
                });
            }
        }
        before = Some(file);
    }
    Ok(migrations)
}

/// Version, name and kind of a file's name.
fn split_name(name: &str) -> Option<(String, String, FileKind)> {
    let (stem, kind) = match name.strip_suffix(".up.sql") {
        Some(stem) => (stem, FileKind::Up),
        None => match name.strip_suffix(".down.sql") {
            Some(stem) => (stem, FileKind::Down),
            None => (name.strip_suffix(".sql")?, FileKind::Both),
        },
    };
    // As some tools write it.
    let stem =
        stem.strip_prefix('V').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(stem);
    let end = stem.find(|c: char| !c.is_ascii_digit()).unwrap_or(stem.len());
    let (version, rest) = stem.split_at(end);
    match version.is_empty() {
        true => None,
        false => Some((version.to_owned(), rest.trim_start_matches(['_', '-', '.']).to_owned(), kind)),
    }
}

/// A file that is one direction.
fn whole(path: &Path, text: &str) -> Part {
    let is_in_transaction =
        !text.lines().any(|line| line.trim_start().starts_with("--") && line.contains("transaction:false"));
    Part {
        file: path.display().to_string(),
        text: text.to_owned(),
        offset: 0,
        sql: text.to_owned(),
        is_in_transaction,
    }
}

/// What stands behind each marker.
fn split_parts(path: &Path, text: &str) -> Result<(Part, Option<Part>), Failure> {
    let mut marks: Vec<(bool, usize, bool)> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        let is_up = trimmed.starts_with(UP);
        if is_up || trimmed.starts_with(DOWN) {
            let options = trimmed[if is_up { UP.len() } else { DOWN.len() }..].trim();
            let is_in_transaction = match options {
                "" | "transaction:true" => true,
                "transaction:false" => false,
                other => {
                    let line = 1 + text[..at].matches('\n').count();
                    let message = format!("{}:{line}: unknown option \"{other}\"", path.display());
                    return Err(Failure::Usage(wrong(message).with_hint("There is transaction:false.")));
                }
            };
            marks.push((is_up, at + line.len(), is_in_transaction));
        }
        at += line.len();
    }
    let begin_of = |from: usize| {
        // A part ends before the line of the next marker.
        let markers = [UP, DOWN].into_iter().flat_map(|marker| text[from..].match_indices(marker));
        let next = markers.map(|(at, _)| from + at).min();
        next.map_or(text.len(), |next| text[..next].rfind('\n').map_or(0, |newline| newline + 1).max(from))
    };
    let part = |(_, from, is_in_transaction): &(bool, usize, bool)| Part {
        file: path.display().to_string(),
        text: text.to_owned(),
        offset: text[..*from].chars().count(),
        sql: text[*from..begin_of(*from)].to_owned(),
        is_in_transaction: *is_in_transaction,
    };
    let ups: Vec<_> = marks.iter().filter(|(is_up, _, _)| *is_up).collect();
    let downs: Vec<_> = marks.iter().filter(|(is_up, _, _)| !*is_up).collect();
    match (&ups[..], &downs[..]) {
        ([], []) => Ok((whole(path, text), None)),
        ([up], []) => Ok((part(up), None)),
        ([up], [down]) => Ok((part(up), Some(part(down)))),
        ([], _) => {
            let message = format!("\"{}\" has no \"{UP}\"", path.display());
            Err(Failure::Usage(wrong(message)))
        }
        _ => {
            let message = format!("\"{}\" has a part twice", path.display());
            Err(Failure::Usage(wrong(message).with_hint(format!("Write one \"{UP}\" and one \"{DOWN}\"."))))
        }
    }
}

/// Ends of lines do not count: an editor or a checkout may change them.
fn checksum(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.replace("\r\n", "\n"));
        hash.update([0]);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a file to write into.
pub fn create(dir: &Path, name: &str, paired: bool) -> Result<(), Failure> {
    let words: String =
        name.trim().chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    if words.trim_matches('_').is_empty() {
        return Err(Failure::Usage(wrong(format!("\"{name}\" is no name"))));
    }
    std::fs::create_dir_all(dir)
        .map_err(|error| Failure::io(&format!("cannot make \"{}\"", dir.display()), &error))?;
    let known = read(dir)?;
    let version = next_version(known.last().map(|migration| migration.version.as_str()));
    let up = "\n\n";
    let files: Vec<(String, String)> = match paired {
        true => vec![
            (format!("{version}_{words}.up.sql"), "\n".to_owned()),
            (format!("{version}_{words}.down.sql"), "\n".to_owned()),
        ],
        false => vec![(format!("{version}_{words}.sql"), format!("{UP}{up}{DOWN}\n\n"))],
    };
    for (file, text) in files {
        let path = dir.join(file);
        let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
        made.and_then(|mut made| std::io::Write::write_all(&mut made, text.as_bytes()))
            .map_err(|error| Failure::io(&format!("cannot write \"{}\"", path.display()), &error))?;
        print(&format!("{}\n", path.display()));
    }
    Ok(())
}

/// The time, which nobody else's branch has; or one more, where the files are counted.
fn next_version(last: Option<&str>) -> String {
    let now = chrono::Utc::now().format("%Y%m%d%H%M%S").to_string();
    let counted = last.filter(|last| last.len() < now.len());
    match counted.and_then(|last| Some((last.len(), last.parse::<u64>().ok()?.checked_add(1)?))) {
        Some((width, next)) => format!("{next:0width$}"),
        // Two in one second.
        None if last.is_some_and(|last| order(last) >= order(&now)) => {
            last.and_then(|last| last.parse::<u128>().ok()).map_or(now, |last| (last + 1).to_string())
        }
        None => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn message(failure: Failure) -> String {
        match failure {
            Failure::Usage(error) | Failure::Error(error) => error.message,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn files_are_ordered_by_number_and_split_at_the_markers() {
        let dir = dir(&[
            ("10_c.sql", "SELECT 10;\n"),
            ("2_b.up.sql", "SELECT 2;"),
            ("2_b.down.sql", "SELECT -2;"),
            (
                "001_a.sql",
                "-- first\n-- migrate:up\nSELECT 'ü';\nSELECT 1;\n\n-- migrate:down transaction:false\nSELECT -1;\n",
            ),
            ("notes.txt", "no migration"),
        ]);
        let read = read(dir.path()).unwrap();
        let titles: Vec<String> = read.iter().map(Migration::title).collect();
        assert_eq!(titles, ["001_a", "2_b", "10_c"]);
        assert_eq!(read[0].up.sql, "SELECT 'ü';\nSELECT 1;\n\n");
        assert!(read[0].up.is_in_transaction);
        let down = read[0].down.as_ref().unwrap();
        assert_eq!(down.sql, "SELECT -1;\n");
        assert!(!down.is_in_transaction);
        let rest: String = down.text.chars().skip(down.offset).collect();
        assert_eq!(rest, down.sql);
        assert_eq!(read[1].down.as_ref().unwrap().sql, "SELECT -2;");
        assert_eq!(read[2].down, None);
    }

    #[test]
    fn checksums_see_each_change_but_not_the_ends_of_lines() {
        let one = dir(&[("1_a.sql", "SELECT 1;\nSELECT 2;\n")]);
        let same = dir(&[("1_a.sql", "SELECT 1;\r\nSELECT 2;\r\n")]);
        let other = dir(&[("1_a.sql", "SELECT 1;\nSELECT 3;\n")]);
        let sum = |dir: &tempfile::TempDir| read(dir.path()).unwrap().remove(0).checksum;
        assert_eq!(sum(&one), sum(&same));
        assert_ne!(sum(&one), sum(&other));
        assert_eq!(sum(&one).len(), 64);
    }

    #[test]
    fn what_cannot_be_a_migration_is_refused() {
        let refused = |files: &[(&str, &str)]| message(read(dir(files).path()).unwrap_err());
        assert!(refused(&[("1_a.sql", ""), ("01_b.sql", "")]).contains("have the number 1"));
        assert!(refused(&[("1_a.down.sql", "")]).contains("no up part"));
        assert!(refused(&[("first.sql", "")]).contains("has no number"));
        assert!(refused(&[("1_a.sql", "-- migrate:down\n")]).contains("has no \"-- migrate:up\""));
        assert!(refused(&[("1_a.sql", "-- migrate:up\n-- migrate:up\n")]).contains("twice"));
        assert!(refused(&[("1_a.sql", "-- migrate:up later\n")]).contains(":1: unknown option \"later\""));
    }

    #[test]
    fn new_files_are_counted_on_or_have_the_time() {
        assert_eq!(next_version(Some("0009")), "0010");
        assert_eq!(next_version(Some("41")), "42");
        assert_eq!(next_version(None).len(), 14);
        assert_eq!(next_version(Some("99990101000000")), "99990101000001");
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), "Add orders!", false).unwrap();
        let read = read(dir.path()).unwrap();
        assert_eq!(read[0].name, "add_orders_");
        assert!(read[0].down.is_some());
    }
}
