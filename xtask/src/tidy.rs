//! Walks the repository and collects what the rules find. It owns which files are looked at; what is wrong with one is
//! in `rules`, what is wrong between crates in `edges`.

use crate::{edges, rules};
use std::fmt;
use std::fs;
use std::path::Path;

/// A rule that doesn't hold somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// From the root, with slashes.
    pub(crate) path: String,
    /// From 1; 0 when it is about the whole.
    pub(crate) line: usize,
    pub(crate) problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.problem),
            line => write!(f, "{}:{line}: {}", self.path, self.problem),
        }
    }
}

/// Text files the rules read.
const EXTENSIONS: &[&str] = &["rs", "toml", "md", "yaml", "yml", "sh", "proto", "json", "txt"];

pub(crate) fn findings(root: &Path) -> Result<Vec<Finding>, String> {
    let mut findings = edges::check(&edges::metadata(root)?);
    let mut files = Vec::new();
    walk(root, "", &mut files)?;
    for path in files {
        let text = fs::read_to_string(root.join(&path)).map_err(|error| format!("{path} can't be read: {error}"))?;
        findings.extend(rules::check(&path, &text));
    }
    findings.sort();
    Ok(findings)
}

/// Hidden folders and build output aren't ours, apart from CI's.
fn walk(root: &Path, folder: &str, files: &mut Vec<String>) -> Result<(), String> {
    let entries = fs::read_dir(root.join(folder)).map_err(|error| format!("{folder} can't be listed: {error}"))?;
    for entry in entries {
        let entry = entry.map_err(|error| format!("{folder} can't be listed: {error}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type().map_err(|error| format!("{path}: {error}"))?;
        let skipped = (name.starts_with('.') && name != ".ci") || name == "target" || name == "node_modules";
        if kind.is_dir() && !skipped {
            walk(root, &path, files)?;
        } else if kind.is_file() && is_text(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_text(path: &str) -> bool {
    let extension = Path::new(path).extension().and_then(|e| e.to_str()).unwrap_or_default();
    path.starts_with(".ci/") || EXTENSIONS.contains(&extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let findings = findings(&crate::root()).unwrap();
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{} findings; the rules are in design.md\n{}", lines.len(), lines.join("\n"));
    }
}
