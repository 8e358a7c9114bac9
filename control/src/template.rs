//! Go `text/template` as VirtualOutbound's host and port use it, bounded in time and memory. It must not know resources:
//! parameters in, a checked host name or port out. Error texts are Kuma's.

use gotmpl::parse::{BranchNode, DefineNode, Expr, ListNode, Node, Parser, PipeNode};
use gotmpl::{Template, TemplateError, Value};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

/// A template as written.
pub const TEMPLATE_BYTES_MAX: usize = 2048;
/// What a template prints, and every text made on the way.
pub const OUTPUT_BYTES_MAX: usize = 4096;
/// Iterations of all `range` loops of one evaluation.
pub const RANGE_ITERATIONS_MAX: u64 = 256;
/// Nodes visited when every `{{template}}` is written out.
const NODES_MAX: usize = 2000;
const CALL_DEPTH_MAX: usize = 50;

/// Last in the source that the parser sees: if it isn't last in the tree, an `{{end}}` is missing or superfluous.
const SENTINEL: &str = "\u{1}";
const FUNCTIONS: [&str; 19] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print", "printf",
    "println", "slice", "urlquery",
];

/// A HostnameGenerator's own function.
const LABEL: &str = "label";

/// Whether there is a function of a name.
type Known<'a> = &'a dyn Fn(&str) -> bool;

/// A template that is known to parse.
pub struct Compiled(Template);

impl Compiled {
    pub fn new(source: &str) -> Result<Self, String> {
        let failed = |error: String| format!("failed compiling gotemplate error={error:?}");
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(failed(format!("template: :1: longer than {TEMPLATE_BYTES_MAX} bytes")));
        }
        guarded(|| compile(source, None)).map(Self).map_err(failed)
    }

    /// The host name that the template makes of `data`, in the case it was written.
    pub fn host(&self, data: &BTreeMap<String, String>) -> Result<String, String> {
        let host = self.run(data)?;
        if is_dns_name(&host) {
            return Ok(host);
        }
        Err(format!("evaluation of template with parameters didn't return a valid dns name result={host:?}"))
    }

    pub fn port(&self, data: &BTreeMap<String, String>) -> Result<u16, String> {
        let text = self.run(data)?;
        let number = text.parse::<i64>().map_err(|_| {
            format!("evaluation of template with parameters didn't evaluate to a parsable number result={text:?}")
        })?;
        u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| {
            format!("evaluation of template returned a port outside of the range [1..65535] result={number}")
        })
    }

    fn run(&self, data: &BTreeMap<String, String>) -> Result<String, String> {
        let entries = data.iter().map(|(name, value)| (name.as_str().into(), Value::String(value.as_str().into())));
        let data = Value::Map(Arc::new(entries.collect()));
        let mut out = Bounded(String::new());
        let done = guarded(|| match self.0.execute_fmt(&mut out, &data) {
            Ok(()) => Ok(()),
            Err(TemplateError::Write) => Err(format!("the result is longer than {OUTPUT_BYTES_MAX} bytes")),
            Err(error) => Err(error.to_string()),
        });
        done.map_err(|error| format!("pre evaluation of template with parameters failed with error={error:?}"))?;
        out.0.pop();
        Ok(out.0)
    }
}

/// A HostnameGenerator's template, known to parse: besides Go's functions it has `label`.
pub struct HostnameTemplate {
    compiled: Compiled,
    /// What `label` looks in.
    labels: Labels,
}

type Labels = Arc<Mutex<BTreeMap<String, String>>>;

impl HostnameTemplate {
    pub fn new(source: &str) -> Result<Self, String> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("template: :1: longer than {TEMPLATE_BYTES_MAX} bytes"));
        }
        let labels = Labels::default();
        let compiled = guarded(|| compile(source, Some(labels.clone()))).map(Compiled)?;
        Ok(Self { compiled, labels })
    }

    /// The name for data such as `DisplayName` and a resource's labels; one that asks for a label that isn't there has none.
    pub fn host(
        &mut self,
        data: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, String> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).clone_from(labels);
        self.compiled.host(data)
    }
}

fn label(labels: &Labels, args: &[Value]) -> gotmpl::Result<Value> {
    let [Value::String(key)] = args else {
        return Err(TemplateError::ArgCount { name: LABEL.into(), expected: 1, got: args.len() });
    };
    let labels = labels.lock().unwrap_or_else(PoisonError::into_inner);
    labels
        .get(&**key)
        .map(|value| Value::String(value.as_str().into()))
        .ok_or_else(|| TemplateError::Exec(format!("label {key:?} not found")))
}

pub fn eval_host(template: &str, data: &BTreeMap<String, String>) -> Result<String, String> {
    Compiled::new(template)?.host(data)
}

pub fn eval_port(template: &str, data: &BTreeMap<String, String>) -> Result<u16, String> {
    Compiled::new(template)?.port(data)
}

/// Kuma's rule for names it puts into DNS: labels of letters, digits, `_` and `-` that don't start with `-`, at most
/// one `.` or `_` after the last, no IP address. Looser than RFC 1123, because service names have underscores.
pub fn is_dns_name(name: &str) -> bool {
    if name.is_empty() || name.len() - name.matches('.').count() > 255 || is_ip(name) {
        return false;
    }
    let label = |label: &str| {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = label.bytes();
        label.len() <= 63 && bytes.next().is_some_and(word) && bytes.all(|b| word(b) || b == b'-')
    };
    let all = |name: &str| name.split('.').all(label);
    all(name) || name.strip_suffix(['.', '_']).is_some_and(all)
}

pub(crate) fn is_ip(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}

/// A fault of the template engine must cost one name, not the control plane.
fn guarded<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("the template engine failed on this template".into()))
}

/// With `labels`, the template may ask for one.
fn compile(source: &str, labels: Option<Labels>) -> Result<Template, String> {
    let known = |name: &str| FUNCTIONS.contains(&name) || (labels.is_some() && name == LABEL);
    parse(source).map_err(|error| unparsable(source, &error, &known))?;
    let ended = format!("{source}{SENTINEL}");
    let (tree, defines) = parse(&ended).map_err(|error| go_text(&error))?;
    check_functions(&tree, &defines, &known)?;
    match tree.nodes.last() {
        Some(Node::Text(text)) if text.text.ends_with(SENTINEL) => {}
        Some(Node::If(_) | Node::Range(_) | Node::With(_)) => return Err("template: :1: unexpected EOF".into()),
        _ => return Err("template: :1: unexpected {{end}}".into()),
    }
    let defines = defines.iter().map(|define| (define.name.as_str(), &define.body)).collect();
    spend(&tree, &defines, &mut NODES_MAX.clone(), 0)?;
    let template = ["html", "js", "print", "printf", "println", "urlquery"]
        .into_iter()
        .fold(Template::new("").max_range_iters(RANGE_ITERATIONS_MAX), |template, name| {
            template.func(name, move |args| bounded_text(name, args))
        });
    let labels = labels.unwrap_or_default();
    let template = template.func("index", index).func(LABEL, move |args| label(&labels, args));
    template.parse(&ended).map_err(|error| go_text(&error))
}

/// Go notices an unknown function before a missing `}}`; the parser here does not, so the source is tried once more
/// with the braces closed.
fn unparsable(source: &str, error: &TemplateError, known: Known<'_>) -> String {
    let closed = parse(&format!("{source}}}}}"));
    let unknown = closed.ok().and_then(|(tree, defines)| check_functions(&tree, &defines, known).err());
    unknown.unwrap_or_else(|| go_text(error))
}

fn parse(source: &str) -> gotmpl::Result<(ListNode, Vec<DefineNode>)> {
    Parser::new(source, "{{", "}}")?.parse()
}

fn go_text(error: &TemplateError) -> String {
    match error {
        TemplateError::Parse { line, message, .. } | TemplateError::Lex { line, message, .. } => {
            format!("template: :{line}: {message}")
        }
        other => format!("template: {other}"),
    }
}

/// Go finds unknown functions when it parses, the engine only when it executes them.
fn check_functions(tree: &ListNode, defines: &[DefineNode], known: Known<'_>) -> Result<(), String> {
    in_list(tree, known)?;
    defines.iter().try_for_each(|define| in_list(&define.body, known))
}

fn in_list(list: &ListNode, known: Known<'_>) -> Result<(), String> {
    list.nodes.iter().try_for_each(|node| match node {
        Node::List(list) => in_list(list, known),
        Node::Action(action) => in_pipe(&action.pipe, known),
        Node::If(branch) | Node::Range(branch) | Node::With(branch) => {
            in_pipe(&branch.pipe, known)?;
            bodies(branch).try_for_each(|body| in_list(body, known))
        }
        Node::Template(call) => call.pipe.iter().try_for_each(|pipe| in_pipe(pipe, known)),
        Node::Define(define) => in_list(&define.body, known),
        Node::Text(_) | Node::Break(_) | Node::Continue(_) => Ok(()),
    })
}

fn in_pipe(pipe: &PipeNode, known: Known<'_>) -> Result<(), String> {
    pipe.commands.iter().flat_map(|command| &command.args).try_for_each(|expr| in_expr(expr, known))
}

fn in_expr(expr: &Expr, known: Known<'_>) -> Result<(), String> {
    match expr {
        Expr::Identifier(at, name) if !known(name.as_str()) => {
            Err(format!("template: :{}: function {:?} not defined", at.line, name.as_str()))
        }
        Expr::Pipe(_, pipe) => in_pipe(pipe, known),
        Expr::Chain(_, inner, _) => in_expr(inner, known),
        _ => Ok(()),
    }
}

fn bodies(branch: &BranchNode) -> impl Iterator<Item = &ListNode> {
    std::iter::once(&branch.body).chain(&branch.else_body)
}

/// Takes every node from `left`, called templates written out: what bounds templates that call templates.
fn spend(list: &ListNode, defines: &BTreeMap<&str, &ListNode>, left: &mut usize, depth: usize) -> Result<(), String> {
    for node in &list.nodes {
        *left = left.saturating_sub(1);
        if *left == 0 || depth > CALL_DEPTH_MAX {
            return Err(format!("template: :1: too many nested {{{{template}}}} calls (limit {NODES_MAX} nodes)"));
        }
        match node {
            Node::List(list) => spend(list, defines, left, depth)?,
            Node::If(branch) | Node::Range(branch) | Node::With(branch) => {
                bodies(branch).try_for_each(|body| spend(body, defines, left, depth))?;
            }
            Node::Template(call) => {
                if let Some(body) = defines.get(call.name.as_str()) {
                    spend(body, defines, left, depth + 1)?;
                }
            }
            Node::Text(_) | Node::Action(_) | Node::Define(_) | Node::Break(_) | Node::Continue(_) => {}
        }
    }
    Ok(())
}

/// The engine's own function with bounds on what goes in and comes out: `{{$x = print $x $x}}` doubles each time.
fn bounded_text(name: &str, args: &[Value]) -> gotmpl::Result<Value> {
    let too_long = || TemplateError::Exec(format!("{name}: text longer than {OUTPUT_BYTES_MAX} bytes"));
    if ["html", "js", "urlquery"].contains(&name) && args.len() > 1 {
        // Go escapes what `print` makes of several, with nothing written as it is.
        let shown =
            |arg: &Value| if matches!(arg, Value::Nil) { Value::String("<no value>".into()) } else { arg.clone() };
        let printed = bounded_text("print", &args.iter().map(shown).collect::<Vec<_>>())?;
        return bounded_text(name, &[printed]);
    }
    if let (true, Some(Value::String(format))) = (name == "printf", args.first())
        && has_rare_verb(format, args.iter().any(|arg| matches!(arg, Value::Float(_))))
    {
        let why = "printf: %T, %#, a space flag and fractions as whole numbers aren't supported";
        return Err(TemplateError::Exec(why.into()));
    }
    let mut size = Bounded(String::new());
    args.iter().try_for_each(|arg| write!(size, "{arg}")).map_err(|_| too_long())?;
    let names = (0..args.len()).map(|i| format!("a{i}"));
    let call = names.clone().fold(format!("{{{{{name}"), |call, arg| call + " ." + &arg) + "}}";
    let data = names.zip(args).map(|(name, arg)| (name.into(), arg.clone())).collect();
    let mut out = Bounded(String::new());
    match Template::new("").parse(&call)?.execute_fmt(&mut out, &Value::Map(Arc::new(data))) {
        Err(TemplateError::Write) => Err(too_long()),
        done => done.map(|()| Value::String(out.0.into())),
    }
}

/// What the engine prints otherwise than Go: better no name than another one.
fn has_rare_verb(format: &str, with_fractions: bool) -> bool {
    format.split('%').skip(1).any(|verb| {
        let flags = verb.trim_start_matches(|c: char| "+-0123456789.*[]".contains(c));
        flags.starts_with(['T', '#', ' ']) || (with_fractions && flags.starts_with(['d', 'x', 'X', 'o', 'b', 'c', 'U']))
    })
}

/// As in Go, a key that a `map[string]string` lacks is the empty string, unlike a missing field.
fn index(args: &[Value]) -> gotmpl::Result<Value> {
    let Some((first, keys)) = args.split_first() else {
        return Err(TemplateError::ArgCount { name: "index".into(), expected: 2, got: args.len() });
    };
    keys.iter().try_fold(first.clone(), |value, key| match (value.index(key)?, &value) {
        (Value::Nil, Value::Map(_)) => Ok(Value::String("".into())),
        (found, _) => Ok(found),
    })
}

/// A string that refuses to grow past [`OUTPUT_BYTES_MAX`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > OUTPUT_BYTES_MAX {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
