//! Reading typed fields from a tree: a cursor that knows its path and line, and collects every problem instead of
//! stopping at the first. It must not know any resource kind.

use super::problem::{Problem, Severity};
use super::yaml::{Kind, MapKey, Node, Scalar, Value};
use super::{Place, Tags};
use std::cell::RefCell;

/// Problems kept of one resource.
const MAX_PROBLEMS: usize = 1000;

/// Where the problems of one resource go.
pub(super) struct Sink {
    file: String,
    resource: String,
    problems: RefCell<Vec<Problem>>,
}

impl Sink {
    pub(super) fn new(file: &str, resource: String) -> Self {
        Self { file: file.to_owned(), resource, problems: RefCell::default() }
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    pub(super) fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(|p| p.severity == Severity::Error)
    }

    /// Whether more problems would not be kept, so that it's no use to look for hints.
    fn is_full(&self) -> bool {
        self.problems.borrow().len() >= MAX_PROBLEMS
    }

    fn add(&self, severity: Severity, spot: &Spot<'_>, message: String, hint: Option<String>) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(Problem {
                place: Place { file: self.file.clone(), line: spot.line },
                column: None,
                resource: self.resource.clone(),
                field: spot.path.clone(),
                message,
                severity,
                hint,
            });
        }
    }
}

/// A field that is there or is missing: a path, and the line to point at.
#[derive(Clone)]
pub(super) struct Spot<'a> {
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) sink: &'a Sink,
}

impl<'a> Spot<'a> {
    pub(super) fn error(&self, message: impl Into<String>) {
        self.sink.add(Severity::Error, self, message.into(), None);
    }

    pub(super) fn error_with(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.sink.add(Severity::Error, self, message.into(), Some(hint.into()));
    }

    pub(super) fn warn(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.sink.add(Severity::Warning, self, message.into(), Some(hint.into()));
    }

    pub(super) fn member(&self, name: &str) -> Spot<'a> {
        let dot = if self.path.is_empty() { "" } else { "." };
        Spot { path: format!("{}{dot}{name}", self.path), line: self.line, sink: self.sink }
    }

    pub(super) fn key(&self, name: &str) -> Spot<'a> {
        Spot { path: format!("{}[\"{name}\"]", self.path), line: self.line, sink: self.sink }
    }

    pub(super) fn item(&self, index: usize) -> Spot<'a> {
        Spot { path: format!("{}[{index}]", self.path), line: self.line, sink: self.sink }
    }
}

/// A value that is there.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) node: &'a Node,
    pub(super) spot: Spot<'a>,
}

impl<'a> Cursor<'a> {
    fn wrong(&self, expected: &str) {
        if self.node.is_placeholder() {
            let message = "`[...]` is a placeholder of the documentation, not a value";
            self.spot.error_with(message, format!("fill in {expected}"));
        } else {
            self.spot.error(format!("expected {expected}, found {}", describe(self.node)));
        }
    }

    pub(super) fn fields(&self) -> Option<Fields<'a>> {
        match &self.node.value {
            Value::Map(entries) => Some(Fields::new(entries.iter().collect(), self.spot.clone())),
            _ => {
                self.wrong("a map of fields");
                None
            }
        }
    }

    /// The items of a list; none, and an error, if this isn't a list.
    pub(super) fn items(&self) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::Seq(_) if self.node.is_placeholder() => {}
            Value::Seq(items) => {
                let item =
                    |(i, node): (usize, &'a Node)| Cursor { node, spot: Spot { line: node.line, ..self.spot.item(i) } };
                return items.iter().enumerate().map(item).collect();
            }
            _ => {}
        }
        self.wrong("a list");
        Vec::new()
    }

    /// The entries of a map whose keys are data, in order of the text.
    pub(super) fn entries(&self) -> Vec<(&'a str, Cursor<'a>)> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong("a map");
            return Vec::new();
        };
        let cursor = |(key, node): &'a (MapKey, Node)| {
            (key.text.as_str(), Cursor { node, spot: Spot { line: key.line, ..self.spot.key(&key.text) } })
        };
        entries.iter().map(cursor).collect()
    }

    fn scalar(&self, expected: &str) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => {
                self.wrong(expected);
                None
            }
        }
    }

    pub(super) fn text(&self) -> Option<String> {
        let scalar = self.scalar("text")?;
        match scalar.kind {
            Kind::Text => Some(scalar.text.clone()),
            Kind::Null => Some(String::new()),
            _ => {
                let message = format!("expected text, found {}", describe(self.node));
                self.spot.error_with(message, format!("quote it: \"{}\"", scalar.text));
                None
            }
        }
    }

    /// Text, or a number or boolean taken as it is written, with a warning.
    pub(super) fn text_or_source(&self) -> Option<String> {
        let scalar = self.scalar("text")?;
        match scalar.kind {
            Kind::Null => return Some(String::new()),
            Kind::Text => {}
            _ => self.spot.warn(
                format!("{} is read as the text \"{}\"", describe(self.node), scalar.text),
                format!("quote it: \"{}\"", scalar.text),
            ),
        }
        Some(scalar.text.clone())
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let scalar = self.scalar("true or false")?;
        match scalar.kind {
            Kind::Bool(value) => Some(value),
            _ => {
                self.wrong("true or false");
                None
            }
        }
    }

    /// A whole number; quoted decimals count, as in Kuma.
    pub(super) fn integer(&self) -> Option<i128> {
        let scalar = self.scalar("a whole number")?;
        let value = match scalar.kind {
            Kind::Int(value) => Some(value),
            #[expect(clippy::cast_possible_truncation, reason = "the range is checked before")]
            Kind::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Some(value as i128),
            Kind::Text => scalar.text.parse().ok(),
            _ => None,
        };
        if value.is_none() {
            self.wrong("a whole number");
        }
        value
    }

    pub(super) fn number(&self) -> Option<f64> {
        let scalar = self.scalar("a number")?;
        let value = match scalar.kind {
            #[expect(clippy::cast_precision_loss, reason = "a fraction is wanted, not an identity")]
            Kind::Int(value) => Some(value as f64),
            Kind::Float(value) => Some(value),
            Kind::Text => scalar.text.parse().ok(),
            _ => None,
        };
        if value.is_none() {
            self.wrong("a number");
        }
        value
    }

    /// A whole number that must be one of `range`; `message` if it isn't.
    pub(super) fn in_range<T: TryFrom<i128>>(&self, range: std::ops::RangeInclusive<i128>, message: &str) -> Option<T> {
        let value = self.integer()?;
        let fitting = range.contains(&value).then(|| T::try_from(value).ok()).flatten();
        if fitting.is_none() {
            self.spot.error(message);
        }
        fitting
    }

    pub(super) fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(Self::text).collect()
    }

    /// One of the names of an enum, or its number; case doesn't matter.
    pub(super) fn one_of<T: Copy>(&self, options: &[(&str, i128, T)]) -> Option<T> {
        let scalar = self.scalar("a name")?;
        let found = options.iter().find(|(name, number, _)| match scalar.kind {
            Kind::Int(value) => value == *number,
            _ => name.eq_ignore_ascii_case(&scalar.text),
        });
        if found.is_none() && !self.spot.sink.is_full() {
            let names: Vec<&str> = options.iter().map(|o| o.0).collect();
            let hint = nearest(&scalar.text.to_ascii_uppercase(), names.iter().copied()).map(did_you_mean);
            let message = format!("\"{}\" is not one of {}", scalar.text, names.join(", "));
            self.spot.sink.add(Severity::Error, &self.spot, message, hint);
        }
        found.map(|o| o.2)
    }

    /// A map of texts. Numbers and booleans are taken as written, with a warning.
    pub(super) fn tags(&self) -> Tags {
        self.entries().into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.text_or_source()?))).collect()
    }
}

/// The fields of a map. What nobody asked for by the time of [`Fields::done`] is reported as unknown.
pub(super) struct Fields<'a> {
    entries: Vec<&'a (MapKey, Node)>,
    pub(super) spot: Spot<'a>,
    known: Vec<&'static str>,
    /// A key that stands for a field of another name.
    alias: Option<(&'static str, &'static str)>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(entries: Vec<&'a (MapKey, Node)>, spot: Spot<'a>) -> Self {
        Self { entries, spot, known: Vec::new(), alias: None }
    }

    /// Reads the key `from` as the field `to`.
    pub(super) fn renamed(mut self, from: &'static str, to: &'static str) -> Self {
        self.alias = Some((from, to));
        self
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &'a (MapKey, Node)> {
        self.entries.iter().copied()
    }

    fn is_named(&self, key: &str, name: &str) -> bool {
        is_named(key, name) || self.alias.is_some_and(|(from, to)| key == from && name == to)
    }

    /// The field under its camelCase name or as snake_case; null counts as absent.
    pub(super) fn get(&mut self, name: &'static str) -> Option<Cursor<'a>> {
        self.known.push(name);
        let mut found = self.entries.iter().filter(|(key, _)| self.is_named(&key.text, name));
        let (key, node) = found.next()?;
        let cursor = Cursor { node, spot: Spot { line: key.line, ..self.spot.member(name) } };
        if let Some((second, _)) = found.next() {
            cursor.spot.error(format!("is given twice, as {} and as {}", key.text, second.text));
        }
        (!node.is_null()).then_some(cursor)
    }

    /// Where a field stands, or would stand.
    pub(super) fn spot(&self, name: &str) -> Spot<'a> {
        let line = self.entries.iter().find(|(key, _)| self.is_named(&key.text, name)).map(|(key, _)| key.line);
        Spot { line: line.unwrap_or(self.spot.line), ..self.spot.member(name) }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, value)| self.is_named(&key.text, name) && !value.is_null())
    }

    pub(super) fn text(&mut self, name: &'static str) -> String {
        self.get(name).and_then(|c| c.text()).unwrap_or_default()
    }

    pub(super) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        self.get(name)?.boolean()
    }

    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        self.boolean(name).unwrap_or_default()
    }

    pub(super) fn json(&mut self, name: &'static str) -> Option<serde_json::Value> {
        Some(self.get(name)?.node.to_json())
    }

    pub(super) fn texts(&mut self, name: &'static str) -> Vec<String> {
        self.get(name).map(|c| c.texts()).unwrap_or_default()
    }

    /// The items of a list that may be absent.
    pub(super) fn items(&mut self, name: &'static str) -> Vec<Cursor<'a>> {
        self.get(name).map(|c| c.items()).unwrap_or_default()
    }

    pub(super) fn also_known(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// Warns of every field that no one asked for.
    pub(super) fn done(self) {
        for (key, _) in &self.entries {
            if self.spot.sink.is_full() {
                return;
            }
            if self.known.iter().any(|name| self.is_named(&key.text, name)) {
                continue;
            }
            let spot = Spot { line: key.line, ..self.spot.member(&key.text) };
            let hint = match nearest(&key.text, self.known.iter().copied()) {
                Some(name) => did_you_mean(name),
                None => format!("the fields here are {}", self.known.join(", ")),
            };
            spot.warn("unknown field, ignored", hint);
        }
    }
}

fn is_named(key: &str, name: &str) -> bool {
    key == name || (key.contains('_') && key.len() > name.len() && key == snake(name))
}

fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

pub(super) fn did_you_mean(name: &str) -> String {
    format!("did you mean {name}?")
}

fn describe(node: &Node) -> String {
    match &node.value {
        Value::Seq(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
        Value::Scalar(s) => match s.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Bool(_) => format!("the boolean {}", s.text),
            Kind::Int(_) | Kind::Float(_) => format!("the number {}", s.text),
            Kind::Text => format!("the text \"{}\"", s.text.chars().take(80).collect::<String>()),
        },
    }
}

/// The option that differs least from `word`, if one is near enough to be a slip of the fingers.
pub(super) fn nearest<'n>(word: &str, options: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if word.len() > 100 {
        return None;
    }
    let lower = word.to_lowercase();
    let distance = |option: &str| edits(&lower, &option.to_lowercase());
    let (best, edits) = options.map(|o| (o, distance(o))).min_by_key(|(_, d)| *d)?;
    (edits <= word.chars().count().max(3) / 3).then_some(best)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, (y, pair)) in b.iter().zip(last.windows(2)).enumerate() {
            let (diagonal, above) = match pair {
                [d, u] => (*d, *u),
                _ => (0, 0),
            };
            let left = row.last().copied().unwrap_or_default();
            let mut cost = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped && let Some(two_back) = before.get(j - 1) {
                cost = cost.min(two_back + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_fingers_find_the_right_word() {
        let words = ["selectors", "conf", "networking", "inbound"];
        for (slip, right) in
            [("selector", "selectors"), ("cnof", "conf"), ("networkng", "networking"), ("Inbond", "inbound")]
        {
            assert_eq!(nearest(slip, words.into_iter()), Some(right), "{slip}");
        }
        assert_eq!(nearest("completelyelse", words.into_iter()), None);
    }

    #[test]
    fn snake_case_names_the_same_field() {
        assert!(is_named("tag_key", "tagKey") && is_named("tagKey", "tagKey") && !is_named("tagkey", "tagKey"));
    }
}
