//! Which files there are.

use std::path::{Path, PathBuf};

use tidemill_core::SqlState;

use crate::session::api::SqlError;

/// What a file of tests is called like.
const SUFFIX: &str = ".test.sql";

/// The files that are named, and below the directories that are named those that are called like tests, in the order of
/// their names.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, SqlError> {
    let mut files = Vec::new();
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if !metadata.is_dir() {
            files.push(path.clone());
            continue;
        }
        let n_before = files.len();
        walk(path, &mut files)?;
        if files.len() == n_before {
            let message = format!("there are no tests in \"{}\"", path.display());
            return Err(SqlError::new(SqlState::INVALID_PARAMETER, message)
                .with_hint("Files of tests end in .test.sql."));
        }
    }
    // Who is named twice is run once.
    let mut seen = std::collections::HashSet::new();
    files.retain(|file| seen.insert(file.clone()));
    Ok(files)
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), SqlError> {
    let failed = |error: std::io::Error| unreadable(directory, &error);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A link to a directory may lead around in a circle.
        entries.push((entry.file_name(), entry.file_type().map_err(failed)?.is_dir(), entry.path()));
    }
    entries.sort();
    for (name, is_directory, path) in entries {
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        match is_directory {
            true => walk(&path, files)?,
            false if name.ends_with(SUFFIX) => files.push(path),
            false => (),
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> SqlError {
    SqlError::new(SqlState::IO_ERROR, format!("cannot read \"{}\": {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_below_directories_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["b/2.test.sql", "b/10.test.sql", "a.test.sql", "b/x.sql", ".git/c.test.sql", "empty/x"] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "").unwrap();
        }
        let found = find(&[directory.path().to_owned(), at("b/x.sql"), at("a.test.sql")]).unwrap();
        assert_eq!(found, ["a.test.sql", "b/10.test.sql", "b/2.test.sql", "b/x.sql"].map(at));
        let error = find(&[at("empty")]).unwrap_err();
        assert!(error.message.starts_with("there are no tests in"), "{error}");
        assert!(find(&[at("nowhere")]).unwrap_err().message.starts_with("cannot read"));
    }
}
