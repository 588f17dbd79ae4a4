//! Which files a path means.

use std::path::Path;

use tidemill_core::SqlState;
use tidemill_core::source::ConnectorError;

use crate::file::{UNDEFINED_FILE, io_error};

/// The files of a path, a pattern or a directory, in the order of their names.
pub fn list(path: &str) -> Result<Vec<String>, ConnectorError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => list_directory(path),
        Ok(_) => Ok(vec![path.to_string()]),
        Err(_) if is_pattern(path) => list_pattern(path),
        Err(error) => Err(io_error("read", path, &error)),
    }
}

pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Whether other programs mean the file to be seen: temporary ones begin with `.` or `_`.
fn is_visible(name: &str) -> bool {
    !name.starts_with(['.', '_'])
}

fn list_directory(path: &str) -> Result<Vec<String>, ConnectorError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| io_error("list", path, &error))? {
        let entry = entry.map_err(|error| io_error("list", path, &error))?;
        let name = entry.file_name();
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file());
        if is_file && is_visible(&name.to_string_lossy()) {
            files.push(text(&Path::new(path).join(name))?);
        }
    }
    files.sort();
    Ok(files)
}

fn list_pattern(pattern: &str) -> Result<Vec<String>, ConnectorError> {
    let paths = glob::glob(pattern).map_err(|error| {
        let message = format!("path \"{pattern}\" is not a valid pattern: {error}");
        ConnectorError::fatal(SqlState::INVALID_PARAMETER, message)
    })?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| io_error("list", pattern, error.error()))?;
        let visible = path.file_name().is_some_and(|name| is_visible(&name.to_string_lossy()));
        if visible && path.is_file() {
            files.push(text(&path)?);
        }
    }
    files.sort();
    Ok(files)
}

fn text(path: &Path) -> Result<String, ConnectorError> {
    path.to_str().map(str::to_string).ok_or_else(|| {
        let message = format!("path \"{}\" is not valid UTF-8", path.display());
        ConnectorError::fatal(UNDEFINED_FILE, message)
    })
}
