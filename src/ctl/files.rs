//! Files of resources: paths, folders, stdin and URLs to resources. All files are read before a word about the first
//! failure. Knows no API but the one that fetches a URL.

use super::client::Api;
use crate::failure::Failure;
use crate::print::note;
use control::resource::registry::KINDS;
use control::resource::{Problem, Resource, read, render_variables};
use http::{Method, StatusCode};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A larger file is refused: intake refuses it too, but only after it is in memory.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// How long a URL may take to be fetched.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// A text and what to call it in messages.
pub(crate) type Named = (String, String);

/// Reads paths, folders and stdin; warnings go to stderr.
///
/// # Errors
/// Every error of every file, a line each.
pub(crate) fn read_files(files: &[String], vars: &[String], mesh: &str) -> Result<Vec<Resource>, String> {
    let vars = pairs(vars)?;
    let mut texts = Vec::new();
    let mut errors = Vec::new();
    for path in files.iter().map(|file| expand(file)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        match read_text(&path) {
            Ok(text) => texts.push(text),
            Err(error) => errors.push(error),
        }
    }
    take(texts, errors, &vars, mesh)
}

/// As `read_files`, and fetches `http://…` and `https://…`.
pub(super) async fn read_all(files: &[String], vars: &[String], mesh: &str) -> Result<Vec<Resource>, Failure> {
    let vars = pairs(vars).map_err(Failure::usage)?;
    let mut texts = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        if file.starts_with("http://") || file.starts_with("https://") {
            texts.push((file.clone(), fetch(file).await?));
            continue;
        }
        for path in expand(file)? {
            match read_text(&path) {
                Ok(text) => texts.push(text),
                Err(error) => errors.push(error),
            }
        }
    }
    Ok(take(texts, errors, &vars, mesh)?)
}

async fn fetch(url: &str) -> Result<String, Failure> {
    let answer = Api::new(url, FETCH_TIMEOUT).send(Method::GET, "", None).await?;
    match answer.status {
        StatusCode::OK => Ok(answer.body),
        status => Err(Failure::failed(format!("{url}: HTTP status {status}"))),
    }
}

fn take(
    texts: Vec<Named>,
    mut errors: Vec<String>,
    vars: &[(String, String)],
    mesh: &str,
) -> Result<Vec<Resource>, String> {
    let mut resources = Vec::new();
    for (name, text) in texts {
        let text = match render(&text, &name, vars) {
            Ok(text) => text,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let mut intake = read(&text, &name);
        for problem in &intake.problems {
            if problem.is_error() {
                errors.push(problem.to_string());
            } else if mesh == "default" || !is_missing_mesh(problem) {
                note(&problem.to_string());
            }
        }
        if mesh != "default" {
            put_in_mesh(&mut intake.resources, &intake.problems, mesh);
        }
        resources.extend(intake.resources);
    }
    if !errors.is_empty() {
        let (count, s) = (errors.len(), if errors.len() == 1 { "" } else { "s" });
        return Err(format!("{count} error{s} in what was read; nothing was done\n{}", errors.join("\n")));
    }
    // Meshes before what they hold.
    resources.sort_by_key(|r| KINDS.iter().position(|k| k.kind == r.kind()).unwrap_or(KINDS.len()));
    Ok(resources)
}

/// Intake says so of a resource without a mesh, which it takes to be of mesh default.
fn is_missing_mesh(problem: &Problem) -> bool {
    problem.field == "mesh" && problem.message.starts_with("is missing")
}

/// `--mesh` is the mesh of what doesn't say its own.
fn put_in_mesh(resources: &mut [Resource], problems: &[Problem], mesh: &str) {
    for resource in resources {
        let place = resource.meta.place.as_ref();
        if problems.iter().any(|p| is_missing_mesh(p) && Some(&p.place) == place) {
            resource.meta.mesh = mesh.to_owned();
        }
    }
}

pub(crate) fn pairs(vars: &[String]) -> Result<Vec<(String, String)>, String> {
    let split = |v: &String| v.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    vars.iter().map(|v| split(v).ok_or_else(|| format!("variable {v}: write it as name=value"))).collect()
}

/// Variables put in, when there are any.
pub(crate) fn render(text: &str, name: &str, vars: &[(String, String)]) -> Result<String, String> {
    if vars.is_empty() {
        // The templates of a VirtualOutbound look like variables.
        return Ok(text.to_owned());
    }
    render_all(text, name, vars)
}

/// Variables put in, those without a value too.
pub(crate) fn render_all(text: &str, name: &str, vars: &[(String, String)]) -> Result<String, String> {
    let vars: BTreeMap<String, String> = vars.iter().cloned().collect();
    let rendered = render_variables(text, &vars).map_err(|e| format!("{name}: {e}"))?;
    for unknown in rendered.unknown {
        note(&format!("{name}: warning: variable {unknown} has no value and was left empty (give it as {unknown}=…)"));
    }
    Ok(rendered.text)
}

/// The text of a file, or of stdin for `-`; with the name to use in messages.
pub(crate) fn read_text(path: &Path) -> Result<Named, String> {
    let (name, mut source): (String, Box<dyn Read>) = if path == Path::new("-") {
        ("stdin".into(), Box::new(std::io::stdin()))
    } else {
        let file = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
        (path.display().to_string(), Box::new(file))
    };
    let mut bytes = Vec::new();
    source.by_ref().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| format!("{name}: {e}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{name}: larger than {} MiB; split it", FILE_BYTES_MAX >> 20));
    }
    let text = String::from_utf8(bytes)
        .map_err(|e| format!("{name}: not UTF-8 text (byte {})", e.utf8_error().valid_up_to()))?;
    Ok((name, text))
}

/// A folder stands for its YAML and JSON files, in order of name.
pub(crate) fn expand(file: &str) -> Result<Vec<PathBuf>, String> {
    let path = PathBuf::from(file);
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    let entries = std::fs::read_dir(&path).map_err(|e| format!("{file}: {e}"))?;
    let mut found: Vec<PathBuf> =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| is_resource_file(p)).collect();
    found.sort();
    if found.is_empty() {
        return Err(format!("{file}: no .yaml, .yml or .json file in this folder"));
    }
    Ok(found)
}

fn is_resource_file(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    const EGRESS: &str = "type: ZoneEgress\nname: e\nnetworking: {address: 10.0.0.1, port: 10002}\n";
    const PERMISSION: &str = "type: TrafficPermission\nname: p\nsources: [{match: {kuma.io/service: '*'}}]\n\
                              destinations: [{match: {kuma.io/service: '*'}}]\n";

    #[test]
    fn a_folder_stands_for_its_files_and_meshes_come_first() {
        let dir = folder(&[("a.yaml", EGRESS), ("b.yml", "type: Mesh\nname: m\n"), ("note.txt", "type: Mesh")]);
        let read = read_files(&[dir.path().display().to_string()], &[], "default").unwrap();
        assert_eq!(read.iter().map(Resource::kind).collect::<Vec<_>>(), ["Mesh", "ZoneEgress"]);
    }

    #[test]
    fn the_mesh_of_the_command_line_is_for_those_without_their_own() {
        let dir = folder(&[("a.yaml", &format!("{PERMISSION}---\n{PERMISSION}mesh: own\n"))]);
        let read = read_files(&[dir.path().display().to_string()], &[], "other").unwrap();
        assert_eq!(read.iter().map(|r| r.meta.mesh.as_str()).collect::<Vec<_>>(), ["other", "own"]);
    }

    #[test]
    fn errors_of_all_files_are_told_together() {
        let dir = folder(&[("a.yaml", "type: Nonsense\nname: x\n"), ("b.yaml", "type: [")]);
        let failure = read_files(&[dir.path().display().to_string()], &[], "default").unwrap_err();
        assert!(failure.contains("a.yaml:1") && failure.contains("b.yaml:1"), "{failure}");
    }

    #[test]
    fn variables_are_put_in_and_must_have_a_value() {
        let dir = folder(&[("a.yaml", "type: Mesh\nname: '{{ name }}'\n")]);
        let file = dir.path().join("a.yaml").display().to_string();
        let read = read_files(std::slice::from_ref(&file), &["name=m1".into()], "default").unwrap();
        assert_eq!(read[0].meta.name, "m1");
        assert!(read_files(&[file], &["name".into()], "default").unwrap_err().contains("name=value"));
    }
}
