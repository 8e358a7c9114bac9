//! Files of resources: paths, folders and stdin to resources, with every problem printed and all files read before a
//! word about the first failure.

use control::resource::registry::KINDS;
use control::resource::{Resource, read, variables};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Reads all files; warnings go to stderr.
///
/// # Errors
/// Every error of every file, a line each.
pub(crate) fn read_files(files: &[String], vars: &[String], mesh: &str) -> Result<Vec<Resource>, String> {
    let vars = pairs(vars)?;
    let mut resources = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        for path in expand(file)? {
            let (name, text) = match read_text(&path) {
                Ok(read) => read,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            let rendered = if vars.is_empty() { text } else { render(&text, &name, &vars)? };
            let intake = read(&rendered, &name);
            for problem in intake.problems {
                if problem.is_error() {
                    errors.push(problem.to_string());
                } else {
                    eprintln!("{problem}");
                }
            }
            resources.extend(intake.resources);
        }
    }
    if !errors.is_empty() {
        return Err(format!("{}\n{} error(s), nothing was applied", errors.join("\n"), errors.len()));
    }
    for resource in &mut resources {
        if resource.meta.mesh.is_empty() && known_mesh_scoped(resource.kind()) {
            resource.meta.mesh = mesh.to_owned();
        }
    }
    // Meshes before what they hold.
    resources.sort_by_key(|r| KINDS.iter().position(|k| k.kind == r.kind()).unwrap_or(KINDS.len()));
    Ok(resources)
}

fn known_mesh_scoped(kind: &str) -> bool {
    KINDS.iter().any(|k| k.kind == kind && k.is_mesh_scoped())
}

pub(crate) fn pairs(vars: &[String]) -> Result<Vec<(String, String)>, String> {
    let split = |v: &String| v.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    vars.iter().map(|v| split(v).ok_or_else(|| format!("variable {v}: write it as name=value"))).collect()
}

pub(crate) fn render(text: &str, name: &str, vars: &[(String, String)]) -> Result<String, String> {
    let rendered = variables::render(text, vars).map_err(|e| format!("{name}: {e}"))?;
    for unknown in rendered.unknown {
        eprintln!("{name}: warning: variable {unknown} has no value and was left empty (give it with -v {unknown}=…)");
    }
    Ok(rendered.text)
}

/// The text of a file, or of stdin for `-`; with the name to use in messages.
pub(crate) fn read_text(path: &Path) -> Result<(String, String), String> {
    let limit = control::resource::FILE_BYTES_MAX as u64;
    let (name, mut source): (String, Box<dyn Read>) = if path == Path::new("-") {
        ("stdin".into(), Box::new(std::io::stdin()))
    } else {
        let file = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
        (path.display().to_string(), Box::new(file))
    };
    let mut bytes = Vec::new();
    source.by_ref().take(limit + 1).read_to_end(&mut bytes).map_err(|e| format!("{name}: {e}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("{name}: larger than {} MiB; split it", limit >> 20));
    }
    let text = String::from_utf8(bytes).map_err(|e| format!("{name}: not UTF-8 text (byte {})", e.utf8_error().valid_up_to()))?;
    Ok((name, text))
}

/// A folder stands for its YAML and JSON files, in order of name.
pub(crate) fn expand(file: &str) -> Result<Vec<PathBuf>, String> {
    let path = PathBuf::from(file);
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    let entries = std::fs::read_dir(&path).map_err(|e| format!("{file}: {e}"))?;
    let mut found: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| is_resource_file(p)).collect();
    found.sort();
    if found.is_empty() {
        return Err(format!("{file}: no .yaml, .yml or .json file in this folder"));
    }
    Ok(found)
}

fn is_resource_file(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}
