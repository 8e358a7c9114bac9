//! YAML (and JSON, which is YAML) into a tree whose every node knows its line. Bounded in bytes, depth, nodes and
//! copies made by aliases. It must not know any resource.

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// A file, all its documents together.
pub(super) const MAX_FILE_BYTES: usize = 32 << 20;
/// One document of a file.
pub(super) const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// Maps and lists inside each other.
pub(super) const MAX_DEPTH: usize = 64;
/// Scalars, lists and maps of one document, aliases expanded.
pub(super) const MAX_NODES: usize = 200_000;
/// Nodes that anchors and aliases of one document may copy.
pub(super) const MAX_COPIED_NODES: usize = 50_000;
/// Bytes of text that anchors and aliases of one document may copy.
pub(super) const MAX_COPIED_BYTES: usize = 4 << 20;
const KEY_IS_NO_TEXT: &str =
    "a key must be plain text, found a list or a map ({{ name }} needs quotes, or a variable with its value)";
/// Faults kept of one document; more are not worth reading.
const MAX_FAULTS: usize = 100;
/// Lines of a broken document that are looked at to tell what it was meant to be.
const OUTLINE_LINES: usize = 50;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// 1-based.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Scalar(Scalar),
    Seq(Vec<Node>),
    /// In the order of the text, every key once.
    Map(Vec<(MapKey, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct MapKey {
    pub(super) text: String,
    pub(super) line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scalar {
    /// As written, escapes of quoted text resolved.
    pub(super) text: String,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text,
}

/// What is wrong with the text itself. Line and column are 1-based.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

/// One document: its tree if the text could be read to its end, and what was wrong on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Document {
    pub(super) root: Option<Node>,
    /// Of a document that couldn't be read: its outermost plain `key: value` lines, to tell what it was meant to be.
    pub(super) outline: Option<Node>,
    pub(super) faults: Vec<Fault>,
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.kind == Kind::Null)
    }

    /// `[...]`, `...`: the mark in documentation for "fill this in".
    pub(super) fn is_placeholder(&self) -> bool {
        match &self.value {
            Value::Scalar(s) => s.text == "..." || s.text == "…",
            Value::Seq(items) => items.len() == 1 && items.iter().all(Self::is_placeholder),
            Value::Map(_) => false,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a scalar that isn't null.
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(s) if s.kind != Kind::Null => Some(&s.text),
            _ => None,
        }
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Seq(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => Json::Object(entries.iter().map(|(k, v)| (k.text.clone(), v.to_json())).collect()),
            Value::Scalar(s) => match s.kind {
                Kind::Null => Json::Null,
                Kind::Bool(b) => Json::Bool(b),
                Kind::Int(n) => i64::try_from(n)
                    .map(Json::from)
                    .or_else(|_| u64::try_from(n).map(Json::from))
                    .unwrap_or_else(|_| Json::String(s.text.clone())),
                Kind::Float(n) => {
                    serde_json::Number::from_f64(n).map_or_else(|| Json::String(s.text.clone()), Json::Number)
                }
                Kind::Text => Json::String(s.text.clone()),
            },
        }
    }
}

/// The one document of a configuration file; null for an empty one. Errors: the first fault with its line, or more
/// documents than one.
pub fn yaml_to_json(text: &str) -> Result<serde_json::Value, String> {
    let mut documents = parse(text);
    if let Some(fault) = documents.iter().find_map(|d| d.faults.first()) {
        return Err(format!("line {}, column {}: {}", fault.line, fault.column, fault.message));
    }
    documents.retain(|document| document.root.as_ref().is_some_and(|root| !root.is_null()));
    match documents.as_slice() {
        [] => Ok(serde_json::Value::Null),
        [document] => Ok(document.root.as_ref().map_or(serde_json::Value::Null, Node::to_json)),
        more => Err(format!("{} documents, where one is meant", more.len())),
    }
}

/// Every document of `text`. A broken document doesn't keep the others from being read.
pub(super) fn parse(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_FILE_BYTES {
        return vec![refused(1, too_large("the file", text.len(), MAX_FILE_BYTES))];
    }
    let mut all = Vec::new();
    for (line, range) in split(text) {
        let chunk = text.get(range).unwrap_or_default();
        if chunk.lines().all(is_filler) {
            continue;
        }
        if chunk.len() > MAX_DOCUMENT_BYTES {
            all.push(refused(line, too_large("the document", chunk.len(), MAX_DOCUMENT_BYTES)));
        } else {
            all.extend(parse_chunk(chunk, line - 1));
        }
    }
    all
}

fn refused(line: usize, message: String) -> Document {
    Document { root: None, outline: None, faults: vec![Fault { line, column: 1, message }] }
}

fn too_large(what: &str, bytes: usize, limit: usize) -> String {
    format!("{what} has {bytes} bytes, more than the limit of {limit}: split it; nothing of it was read")
}

fn is_filler(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "---" || line == "..."
}

/// Cuts at lines that start with `---`, which can stand nowhere else in valid YAML: (first line, bytes) of each piece.
fn split(text: &str) -> Vec<(usize, Range<usize>)> {
    let mut pieces = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker =
            line.strip_prefix("---").is_some_and(|rest| rest.trim_end().is_empty() || rest.starts_with([' ', '\t']));
        if marker && at > start {
            pieces.push((start_line, start..at));
            (start, start_line) = (at, index + 1);
        }
        at += line.len();
    }
    pieces.push((start_line, start..at));
    pieces
}

/// A piece can hold several documents still, after `...`.
fn parse_chunk(text: &str, lines_before: usize) -> Vec<Document> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut all = Vec::new();
    let mut builder = Builder::new(lines_before);
    for item in Parser::new_from_str_with_options(text, options) {
        let outcome = match item {
            Ok((Event::DocumentEnd, _)) => {
                all.push(std::mem::replace(&mut builder, Builder::new(lines_before)).document);
                continue;
            }
            Ok((event, span)) => builder.event(event, &span),
            Err(e) => Err(builder.fault_at(e.marker().line(), e.marker().col(), syntax(&e.info()))),
        };
        if let Err(fault) = outcome {
            builder.document.faults.push(fault);
            builder.document.root = None;
            builder.document.outline = Some(outline(text, lines_before));
            all.push(builder.document);
            break;
        }
    }
    all
}

fn outline(text: &str, lines_before: usize) -> Node {
    let entry = |(index, line): (usize, &str)| {
        let (key, value) = line.split_once(": ")?;
        let line = lines_before + index + 1;
        let plain = key.chars().all(|c| c.is_ascii_alphanumeric());
        let scalar = Scalar { text: value.trim().to_owned(), kind: Kind::Text };
        plain.then(|| (MapKey { text: key.to_owned(), line }, Node { line, value: Value::Scalar(scalar) }))
    };
    let entries = text.lines().enumerate().take(OUTLINE_LINES).filter_map(entry).collect();
    Node { line: lines_before + 1, value: Value::Map(entries) }
}

fn syntax(info: &str) -> String {
    let tab = if info.contains("tab") { " (indent with spaces)" } else { "" };
    if info.contains("recursion limit") {
        return format!("nested deeper than {MAX_DEPTH} levels");
    }
    format!("not valid YAML: {info}{tab}")
}

struct Anchored {
    node: Node,
    size: Size,
}

#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

enum Frame {
    Seq { line: usize, anchor: usize, items: Vec<Node> },
    Map { line: usize, anchor: usize, entries: Vec<(MapKey, Node)>, seen: HashSet<String>, key: Option<MapKey> },
}

/// Turns events into one document, without recursion over the input.
struct Builder {
    lines_before: usize,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    copied: Size,
    document: Document,
}

impl Builder {
    fn new(lines_before: usize) -> Self {
        Self {
            lines_before,
            stack: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            copied: Size::default(),
            document: Document::default(),
        }
    }

    fn fault_at(&self, line: usize, col: usize, message: String) -> Fault {
        Fault { line: line + self.lines_before, column: col + 1, message }
    }

    fn fault(&self, span: &Span, message: impl Into<String>) -> Fault {
        self.fault_at(span.start.line(), span.start.col(), message.into())
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Fault> {
        let line = span.start.line() + self.lines_before;
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = resolve(&text, style, tag.as_deref()).map_err(|m| self.fault(span, m))?;
                self.add(Node { line, value: Value::Scalar(scalar) }, anchor, span)
            }
            Event::SequenceStart(_, anchor, _) => self.open(Frame::Seq { line, anchor, items: Vec::new() }, span),
            Event::MappingStart(_, anchor, _) => {
                let (entries, seen, key) = (Vec::new(), HashSet::new(), None);
                self.open(Frame::Map { line, anchor, entries, seen, key }, span)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::Seq { line, anchor, items }) => {
                    self.add(Node { line, value: Value::Seq(items) }, anchor, span)
                }
                Some(Frame::Map { line, anchor, entries, .. }) => {
                    let entries = self.merge_keys(entries, span)?;
                    self.add(Node { line, value: Value::Map(entries) }, anchor, span)
                }
                None => Ok(()),
            },
            Event::Alias(id) => self.alias(id, span),
            _ => Ok(()),
        }
    }

    fn open(&mut self, frame: Frame, span: &Span) -> Result<(), Fault> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.fault(span, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if matches!(self.stack.last(), Some(Frame::Map { key: None, .. })) {
            return Err(self.fault(span, KEY_IS_NO_TEXT));
        }
        self.stack.push(frame);
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize, span: &Span) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.fault(span, format!("more than {MAX_NODES} values in one document")));
        }
        if anchor != 0 {
            let size = measure(&node);
            self.charge(size, span)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), size });
        }
        self.place(node, span)
    }

    fn charge(&mut self, size: Size, span: &Span) -> Result<(), Fault> {
        self.copied.nodes += size.nodes;
        self.copied.bytes += size.bytes;
        self.nodes += size.nodes;
        if self.copied.nodes > MAX_COPIED_NODES || self.copied.bytes > MAX_COPIED_BYTES || self.nodes > MAX_NODES {
            return Err(self.fault(
                span,
                format!(
                    "anchors and aliases expand to more than {MAX_COPIED_NODES} values or {MAX_COPIED_BYTES} bytes"
                ),
            ));
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, span: &Span) -> Result<(), Fault> {
        let Some(size) = self.anchors.get(&id).map(|a| a.size) else {
            return Err(self.fault(span, "an alias stands inside the value that it refers to"));
        };
        self.charge(size, span)?;
        if self.stack.len() + size.depth > MAX_DEPTH {
            return Err(self.fault(span, format!("nested deeper than {MAX_DEPTH} levels by an alias")));
        }
        let mut node = match self.anchors.get(&id) {
            Some(anchored) => anchored.node.clone(),
            None => return Ok(()),
        };
        node.line = span.start.line() + self.lines_before;
        self.place(node, span)
    }

    /// Puts a finished node where it belongs: as root, list item, key or value.
    fn place(&mut self, node: Node, span: &Span) -> Result<(), Fault> {
        let mut duplicate = None;
        match self.stack.last_mut() {
            None => self.document.root = Some(node),
            Some(Frame::Seq { items, .. }) => items.push(node),
            Some(Frame::Map { entries, seen, key, .. }) => match key.take() {
                Some(name) => {
                    if name.text == "<<" || seen.insert(name.text.clone()) {
                        entries.push((name, node));
                    } else {
                        duplicate = Some(name);
                    }
                }
                None => match node.value {
                    Value::Scalar(s) => *key = Some(MapKey { text: s.text, line: node.line }),
                    _ => return Err(self.fault(span, KEY_IS_NO_TEXT)),
                },
            },
        }
        if let Some(name) = duplicate
            && self.document.faults.len() < MAX_FAULTS
        {
            let message = format!("the key {:?} stands twice in this map: remove one of them", name.text);
            self.document.faults.push(Fault { line: name.line, column: 1, message });
        }
        Ok(())
    }

    /// YAML 1.1 merge keys: `<<: *base` adds the entries of `base` that the map doesn't have itself.
    fn merge_keys(&self, entries: Vec<(MapKey, Node)>, span: &Span) -> Result<Vec<(MapKey, Node)>, Fault> {
        if !entries.iter().any(|(k, _)| k.text == "<<") {
            return Ok(entries);
        }
        let (merged, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(k, _)| k.text == "<<");
        let mut seen: HashSet<String> = own.iter().map(|(k, _)| k.text.clone()).collect();
        for (_, node) in merged {
            let sources = match node.value {
                Value::Seq(items) => items,
                _ => vec![node],
            };
            for source in sources {
                let Value::Map(more) = source.value else {
                    return Err(self.fault(span, "`<<` merges maps only"));
                };
                own.extend(more.into_iter().filter(|(k, _)| seen.insert(k.text.clone())));
            }
        }
        Ok(own)
    }
}

/// Depth is bounded by [`MAX_DEPTH`], so recursion is safe.
fn measure(node: &Node) -> Size {
    let inner = |size: Size, key_bytes: usize, child: &Node| {
        let child = measure(child);
        Size {
            nodes: size.nodes + child.nodes,
            bytes: size.bytes + child.bytes + key_bytes,
            depth: size.depth.max(child.depth + 1),
        }
    };
    let start = Size { nodes: 1, bytes: 0, depth: 1 };
    match &node.value {
        Value::Scalar(s) => Size { nodes: 1, bytes: s.text.len(), depth: 0 },
        Value::Seq(items) => items.iter().fold(start, |size, n| inner(size, 0, n)),
        Value::Map(entries) => entries.iter().fold(start, |size, (k, n)| inner(size, k.text.len(), n)),
    }
}

fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Scalar, String> {
    let kind = match tag.map(|t| (t.core_suffix(), t)) {
        None if style == ScalarStyle::Plain => kind_of(text),
        None | Some((Some("str" | "binary"), _)) => Kind::Text,
        Some((Some("int" | "float" | "bool" | "null"), _)) => kind_of(text),
        Some((_, tag)) if tag.original() == "!" => Kind::Text,
        Some((_, tag)) => return Err(format!("the tag {} has no meaning here: remove it", tag.original())),
    };
    Ok(Scalar { text: text.to_owned(), kind })
}

/// The YAML 1.1 reading of plain text, as Kuma's: `yes`, `on` … are booleans, `y` and `n` are not.
pub(super) fn kind_of(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Kind::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Kind::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Kind::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Kind::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Kind::Float(f64::NAN),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Kind::Text;
    }
    integer(text).map(Kind::Int).or_else(|| float(text).map(Kind::Float)).unwrap_or(Kind::Text)
}

fn integer(text: &str) -> Option<i128> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match rest.get(..2) {
        Some("0x") => (16, rest.get(2..)?),
        Some("0o") => (8, rest.get(2..)?),
        Some("0b") => (2, rest.get(2..)?),
        _ if rest.len() > 1 && rest.starts_with('0') => (8, rest.get(1..)?),
        _ => (10, rest),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    Some(if negative { -value } else { value })
}

fn float(text: &str) -> Option<f64> {
    let shape = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    (shape && text.bytes().any(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
