//! The rules that one file's text can break, each a function of (path, lines). They read lines, not syntax: a rule that
//! needs a parser belongs to clippy. `file` is what is looked at, without files of its own.

use crate::tidy::Finding;

const LINES_MAX: usize = 500;
/// Where nothing may wait (R2).
const SYNCHRONOUS: &[&str] = &[
    "control/snapshot/",
    "proxy/src/routing",
    "control/src/select",
    "control/src/merge",
    "control/src/vip",
    "control/src/names",
    "control/src/template",
    "control/src/compile/",
    "dns/src/lookup.rs",
];
/// Where `unsafe` may stand, each block with its proof (R5). The last two count allocations.
const UNSAFE: &[&str] = &[
    "proxy/src/memory.rs",
    "proxy/src/socket.rs",
    "proxy/src/splice.rs",
    "proxy/src/tcp/splice.rs",
    "dns/tests/allocations.rs",
    "proxy/tests/allocations.rs",
];
/// Folders of a developer's or CI's own machine. Written so that they aren't found here.
const MACHINE: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];
/// A comment that begins so, on the line or the one before, says why a test sleeps (a peer that is slow, say).
const SLEEP_EXCUSE: &str = "// sleep:";

struct File<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    /// Line numbers, from 0, of inline test modules.
    tests: Vec<bool>,
}

/// All findings in one file.
pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = inline_tests(&lines);
    let file = File { path, lines, tests };
    let mut findings = no_machine_paths(&file);
    if path.ends_with(".rs") {
        for rule in [opens_with_its_purpose, stays_short, waits_nowhere, is_safe, never_exits, tests_dont_sleep] {
            findings.extend(rule(&file));
        }
    }
    findings
}

impl File<'_> {
    /// A file of nothing but tests.
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name == "tests.rs" || name.ends_with("_tests.rs") || self.path.split('/').any(|part| part == "tests")
    }

    fn finding(&self, line: usize, problem: &str) -> Finding {
        Finding { path: self.path.into(), line, problem: problem.into() }
    }

    /// A finding for every line whose code, without its comment, satisfies `bad`.
    fn each(&self, problem: &str, bad: impl Fn(usize, &str) -> bool) -> Vec<Finding> {
        let code = self.lines.iter().map(|line| code_of(line)).enumerate();
        code.filter(|(at, line)| bad(*at, line)).map(|(at, _)| self.finding(at + 1, problem)).collect()
    }
}

/// Cuts at `//`, unless it is part of a URL.
fn code_of(line: &str) -> &str {
    let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// From `#[cfg(test)]` before a `mod … {` to the `}` that stands where it began.
fn inline_tests(lines: &[&str]) -> Vec<bool> {
    let mut marks = vec![false; lines.len()];
    let mut inside = false;
    for at in 0..lines.len() {
        let begins = lines[at].trim_end() == "#[cfg(test)]"
            && lines[at + 1..].iter().find(|line| !line.starts_with("#[")).is_some_and(|line| {
                (line.starts_with("mod ") || line.starts_with("pub(crate) mod ")) && line.trim_end().ends_with('{')
            });
        inside |= begins;
        marks[at] = inside;
        inside &= lines[at] != "}";
    }
    marks
}

/// R12.
fn opens_with_its_purpose(file: &File<'_>) -> Vec<Finding> {
    match file.lines.first() {
        Some(line) if line.starts_with("//! ") => vec![],
        _ => vec![file.finding(1, "a file opens with `//!`: what it owns, what it must not know (R12)")],
    }
}

/// R3. Generated code is read by nobody.
fn stays_short(file: &File<'_>) -> Vec<Finding> {
    let generated = file.lines.iter().take(3).any(|line| line.contains("@generated"));
    let count = file.tests.iter().filter(|is_test| !**is_test).count();
    if file.is_test() || generated || count <= LINES_MAX {
        return vec![];
    }
    vec![file.finding(0, &format!("{count} lines without tests, the limit is {LINES_MAX} (R3)"))]
}

/// R2.
fn waits_nowhere(file: &File<'_>) -> Vec<Finding> {
    if file.is_test() || !SYNCHRONOUS.iter().any(|place| file.path.starts_with(place)) {
        return vec![];
    }
    let waits = |at: usize, line: &str| {
        let is_test = file.tests.get(at) == Some(&true);
        !is_test && ["async fn ", "async move", "async {", ".await"].iter().any(|word| line.contains(word))
    };
    file.each("decisions are synchronous: nothing here may be async (R2)", waits)
}

/// R5.
fn is_safe(file: &File<'_>) -> Vec<Finding> {
    if UNSAFE.contains(&file.path) {
        return vec![];
    }
    let word = concat!("uns", "afe");
    let forms = ["{", "fn ", "impl ", "extern "].map(|after| format!("{word} {after}"));
    file.each("unsafe belongs in proxy/src/{socket,memory}.rs or the splice loop (R5)", |_, line| {
        forms.iter().any(|form| line.contains(form.as_str()))
    })
}

/// R7.
fn never_exits(file: &File<'_>) -> Vec<Finding> {
    let word = concat!("process::", "exit(");
    if file.path.ends_with("main.rs") {
        return vec![];
    }
    file.each("only main exits (R7)", |_, line| line.contains(word))
}

/// R13. Waiting until something is so is the harness's business.
fn tests_dont_sleep(file: &File<'_>) -> Vec<Finding> {
    if file.path.starts_with("tests/harness/") {
        return vec![];
    }
    let word = concat!("sle", "ep(");
    let excused = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| file.lines.get(before));
        [before, file.lines.get(at)].into_iter().flatten().any(|line| line.contains(SLEEP_EXCUSE))
    };
    let problem = "a test waits for what it means, it doesn't sleep (R13); `// sleep:` with the reason excuses";
    file.each(problem, |at, line| {
        let is_test = file.is_test() || file.tests.get(at) == Some(&true);
        is_test && line.contains(word) && !excused(at)
    })
}

fn no_machine_paths(file: &File<'_>) -> Vec<Finding> {
    let named = |line: &&str| MACHINE.iter().any(|folder| line.contains(folder));
    let lines = file.lines.iter().enumerate().filter(|(_, line)| named(line));
    lines.map(|(at, _)| file.finding(at + 1, "names a folder of one machine")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: [usize; 0] = [];

    /// Line numbers of findings that speak of `rule`.
    fn lines(path: &str, text: &str, rule: &str) -> Vec<usize> {
        check(path, text).iter().filter(|f| f.problem.contains(rule)).map(|f| f.line).collect()
    }

    #[test]
    fn a_file_without_its_purpose_is_found() {
        assert_eq!(lines("proxy/src/a.rs", "use std::fmt;\n", "(R12)"), [1]);
        assert_eq!(lines("proxy/src/a.rs", "", "(R12)"), [1]);
        assert_eq!(lines("proxy/src/a.rs", "//! Owns a.\n", "(R12)"), NOWHERE);
        assert_eq!(lines("proxy/a.toml", "[package]\n", "(R12)"), NOWHERE);
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_dont_count() {
        let long = "//! Long.\n".to_owned() + &"x\n".repeat(500);
        assert_eq!(lines("proxy/src/a.rs", &long, "(R3)"), [0]);
        assert_eq!(lines("proxy/src/a_tests.rs", &long, "(R3)"), NOWHERE);
        assert_eq!(lines("proxy/tests/a.rs", &long, "(R3)"), NOWHERE);
        let tested = format!("//! A.\n#[cfg(test)]\nmod tests {{\n{}}}\nfn a() {{}}\n", "    x\n".repeat(600));
        assert_eq!(lines("proxy/src/a.rs", &tested, "(R3)"), NOWHERE);
        let other_file = format!("//! A.\n#[cfg(test)]\nmod tests;\n{}", "x\n".repeat(600));
        assert_eq!(lines("proxy/src/a.rs", &other_file, "(R3)"), [0]);
        assert_eq!(lines("proxy/src/p.rs", &format!("//! P.\n// @generated\n{long}"), "(R3)"), NOWHERE);
    }

    #[test]
    fn waiting_in_a_decision_is_found() {
        let text = "//! A.\n// async fn in words\nasync fn a() {}\nfn b() { c.await }\n";
        assert_eq!(lines("control/src/compile/a.rs", text, "(R2)"), [3, 4]);
        assert_eq!(lines("control/src/vip.rs", text, "(R2)"), [3, 4]);
        assert_eq!(lines("dns/src/server.rs", text, "(R2)"), NOWHERE);
    }

    #[test]
    fn unsafe_code_is_found_where_it_may_not_be() {
        let text = format!("//! A.\n#![forbid({0}_code)]\n{0} {{ b() }}\n{0} fn c() {{}}\n", concat!("uns", "afe"));
        assert_eq!(lines("proxy/src/a.rs", &text, "(R5)"), [3, 4]);
        assert_eq!(lines("proxy/src/socket.rs", &text, "(R5)"), NOWHERE);
    }

    #[test]
    fn exiting_is_found_outside_main() {
        let text = format!("//! A.\nstd::{}1);\n", concat!("process::", "exit("));
        assert_eq!(lines("src/run.rs", &text, "(R7)"), [2]);
        assert_eq!(lines("src/main.rs", &text, "(R7)"), NOWHERE);
    }

    #[test]
    fn a_sleeping_test_is_found_unless_it_says_why() {
        let word = concat!("sle", "ep(");
        let text = format!("//! A.\n{word}a);\n// sleep: the peer is slow\n{word}b);\n{word}c); // sleep: too\n");
        assert_eq!(lines("tests/loopback/a.rs", &text, "(R13)"), [2]);
        assert_eq!(lines("tests/harness/src/a.rs", &text, "(R13)"), NOWHERE);
        assert_eq!(lines("proxy/src/a.rs", &text, "(R13)"), NOWHERE);
        let inline = format!("//! A.\n{word}a);\n#[cfg(test)]\nmod tests {{\n    {word}b);\n}}\n");
        assert_eq!(lines("proxy/src/a.rs", &inline, "(R13)"), [5]);
    }

    #[test]
    fn a_machines_own_folder_is_found_in_any_text() {
        let text = format!("see {}x\n", MACHINE[0]);
        assert_eq!(lines("README.md", &text, "one machine"), [1]);
        assert_eq!(lines("README.md", "see ./x and https://example.com/a\n", "one machine"), NOWHERE);
    }
}
