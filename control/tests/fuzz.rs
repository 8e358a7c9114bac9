//! Mutated input for what users write: templates and YAML documents. The committed corpus is replayed by every test run;
//! `WEIR_FUZZ_SECS=600 cargo test -p control --test fuzz -- --nocapture` mutates it for that long, prints what it found
//! and adds to the corpus what led to an outcome of its own. It must not know how a template or document is read.
#![expect(clippy::unwrap_used, reason = "a test that can't read its corpus fails")]

use control::resource::{read, to_yaml};
use control::template::{Compiled, HostnameTemplate, OUTPUT_BYTES_MAX};
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A mutant is at most this long.
const INPUT_BYTES_MAX: usize = 8 << 10;
/// What is found new by its outcome is mutated further, up to so many.
const KEPT_MAX: usize = 4096;
/// Of them go into the corpus, the shortest first.
const COMMITTED_MAX: usize = 200;
/// What takes longer is a finding of a long run, in a debug build on a busy machine.
const SLOW: Duration = Duration::from_secs(5);

const TEMPLATE_WORDS: &[&str] = &[
    "{{",
    "}}",
    "{{-",
    "-}}",
    "if ",
    "else",
    "else if ",
    "end",
    "range ",
    "with ",
    "define \"a\"",
    "template \"a\"",
    "block \"b\" .",
    "break",
    "continue",
    ".svc",
    ".v",
    ".x",
    "$",
    "$t",
    ":=",
    "=",
    "|",
    "(",
    ")",
    "printf \"%",
    "%s",
    "%5d",
    "%q",
    "%v",
    "\"",
    "`",
    "index . ",
    "slice ",
    "len ",
    "eq ",
    "and ",
    "or ",
    "not ",
    "html ",
    "urlquery ",
    "js ",
    "call ",
    "print ",
    "label \"a\"",
    "0",
    "1e9",
    "-1",
    "0x7f",
    "nil",
    "true",
    "/*",
    "*/",
    "\\",
    "\n",
    "'a'",
    "\u{1}",
    "é",
    ",",
];
const YAML_WORDS: &[&str] = &[
    "type: ",
    "mesh: default",
    "name: a",
    "---\n",
    "...\n",
    "networking:",
    "\n  ",
    "\n- ",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "? ",
    "&a ",
    "*a",
    "!!str ",
    "|\n  ",
    ">-\n  ",
    "#",
    "\"",
    "'",
    "\\x00",
    "\t",
    "\r\n",
    "null",
    "~",
    "true",
    "0x1f",
    "1e3",
    "-.inf",
    "<<: *a",
    "spec:",
    "kind: ",
    "apiVersion: kuma.io/v1alpha1",
    "metadata: {name: a}",
    "items: [",
    "tags: {kuma.io/service: a}",
    "Dataplane",
    "VirtualOutbound",
    "MeshService",
    "HostnameGenerator",
    "selectors: [{match: {a: b}}]",
    "\u{feff}",
    "\u{2028}",
    "%YAML 1.2\n",
    "@",
    "`",
];

/// xorshift*: the same seed gives the same run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound.max(1)
    }
}

struct Target {
    folder: &'static str,
    words: &'static [&'static str],
    /// Panics on a finding; what it returns tells one outcome from another.
    run: fn(&str) -> String,
}

fn template(text: &str) -> String {
    let data: BTreeMap<String, String> =
        [("svc", "backend"), ("v", "v1"), ("e", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let outcome = Compiled::new(text).and_then(|compiled| {
        let (host, port) = (compiled.host(&data), compiled.port(&data));
        assert!(host.as_ref().is_ok_and(|host| host.len() <= OUTPUT_BYTES_MAX) || host.is_err());
        host.map(|_| "host".to_owned()).or(port.map(|_| "port".to_owned()))
    });
    let label = HostnameTemplate::new(text).map(|mut template| template.host(&data, &data).is_ok());
    // The engine's own fault is caught there, and is a finding here.
    let words = |error: String| {
        assert!(!error.contains("engine failed"), "{error}");
        error.chars().filter(|c| c.is_alphabetic() || *c == ' ').take(90).collect::<String>()
    };
    format!("{} {label:?}", outcome.unwrap_or_else(words))
}

fn yaml(text: &str) -> String {
    let intake = read(text, "fuzz.yaml");
    for resource in &intake.resources {
        let written = resource.to_yaml();
        let again = read(&written, "fuzz.yaml");
        let told: Vec<String> = again.problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
        assert!(told.is_empty(), "{written}\n{told:?}");
        assert_eq!(again.resources.len(), 1, "{written}");
        assert_eq!(again.resources[0].to_yaml(), written);
        let _ = to_yaml(&resource.to_json());
    }
    let problems: Vec<String> = intake.problems.iter().map(|p| p.message.chars().take(40).collect()).collect();
    format!("{} {problems:?}", intake.resources.len())
}

/// What long runs have found, a JSON text a line.
fn found(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fuzz").join(format!("{}.jsonl", target.folder))
}

fn keep(target: &Target, outcomes: BTreeMap<String, String>) {
    let mut texts: Vec<String> = outcomes.into_values().collect();
    texts.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let lines = texts.iter().take(COMMITTED_MAX).map(|text| serde_json::to_string(text).unwrap() + "\n");
    std::fs::write(found(target), lines.collect::<String>()).unwrap();
}

fn corpus(target: &Target) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fuzz").join(target.folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let lines = std::fs::read_to_string(found(target)).unwrap_or_default();
    texts.extend(lines.lines().map(|line| serde_json::from_str::<String>(line).unwrap()));
    if target.folder == "yaml" {
        let documents = ["testdata/intake/all-kinds.yaml"];
        texts.extend(
            documents.map(|name| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()),
        );
    }
    texts
}

/// On a character's border.
fn place(text: &str, dice: &mut Dice) -> usize {
    let mut at = dice.below(text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn mutant(pool: &[String], words: &[&str], dice: &mut Dice) -> String {
    let mut text = pool[dice.below(pool.len())].clone();
    for _ in 0..=dice.below(6) {
        let (a, b) = (place(&text, dice), place(&text, dice));
        let (from, to) = (a.min(b), a.max(b));
        match dice.below(6) {
            0 | 1 => text.insert_str(from, words[dice.below(words.len())]),
            2 => text.replace_range(from..to, ""),
            3 => {
                let piece = text[from..to].to_owned();
                text.insert_str(to, &piece);
            }
            4 => {
                let other = &pool[dice.below(pool.len())];
                let (c, d) = (place(other, dice), place(other, dice));
                text.insert_str(from, &other[c.min(d)..c.max(d)]);
            }
            _ => {
                let letter = char::from(u8::try_from(dice.below(127)).unwrap_or(b'?')).to_string();
                text.insert_str(from, &letter);
            }
        }
        if text.len() > INPUT_BYTES_MAX {
            let mut end = INPUT_BYTES_MAX;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
    }
    text
}

fn one(target: &Target, text: &str, is_long_run: bool) -> Result<String, String> {
    let begun = Instant::now();
    let outcome = catch_unwind(|| (target.run)(text)).map_err(|_| format!("{}: {text:?}", target.folder))?;
    match begun.elapsed() {
        took if is_long_run && took > SLOW => Err(format!("{}: {took:?} for {text:?}", target.folder)),
        _ => Ok(outcome),
    }
}

/// The corpus, and mutants of it: a few, or for as long as the environment says.
fn hunt(target: &Target) {
    let seconds = std::env::var("WEIR_FUZZ_SECS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut pool = corpus(target);
    assert!(!pool.is_empty());
    let mut outcomes: BTreeMap<String, String> = BTreeMap::new();
    let mut findings = Vec::new();
    for text in &pool {
        match one(target, text, false) {
            Ok(outcome) => drop(outcomes.entry(outcome).or_insert_with(|| text.clone())),
            Err(finding) => findings.push(finding),
        }
    }
    let (mut dice, begun, mut runs) = (Dice(0x5EED), Instant::now(), 0_u64);
    while findings.len() < 5 && (runs < 300 || begun.elapsed() < Duration::from_secs(seconds)) {
        runs += 1;
        let text = mutant(&pool, target.words, &mut dice);
        match one(target, &text, seconds > 0) {
            Err(finding) => findings.push(finding),
            Ok(outcome) => match outcomes.get_mut(&outcome) {
                Some(known) if known.len() > text.len() => *known = text,
                None if pool.len() < KEPT_MAX => {
                    outcomes.insert(outcome, text.clone());
                    pool.push(text);
                }
                _ => {}
            },
        }
    }
    println!("{}: {runs} runs, {} outcomes", target.folder, outcomes.len());
    assert!(findings.is_empty(), "{findings:#?}");
    if seconds > 0 {
        keep(target, outcomes);
    }
}

#[test]
fn templates_of_the_corpus_and_their_mutants_are_taken_without_a_fault() {
    hunt(&Target { folder: "templates", words: TEMPLATE_WORDS, run: template });
}

#[test]
fn yaml_of_the_corpus_and_its_mutants_is_taken_without_a_fault() {
    hunt(&Target { folder: "yaml", words: YAML_WORDS, run: yaml });
}
