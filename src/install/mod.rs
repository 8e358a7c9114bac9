//! `weir install transparent-proxy` and its undoing: settings in, one nftables table in one transaction. Kuma's flags, files and
//! variables; what it did with iptables is done with an own table, so that removing it leaves every other rule as it was.
//! Must not know the proxy.

mod confirm;
mod kuma;
mod listing;
mod model;
mod plan;
mod ports;
mod rules;
mod settings;
#[cfg(test)]
mod tests;
mod walk;
#[cfg(test)]
mod walk_tests;

use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;

use confirm::Wait;
use model::{Program, TABLE};
use plan::{Machine, plan};
use rules::Plan;
use settings::{Flags, Settings};
use walk::Question;

/// Source of the proxy's connections to its own application (IPv4 has it anyway, within 127.0.0.0/8).
const PROXY_SOURCE_V6: &str = "::6/128";
/// An empty chain of this name: we added that address, and will remove it.
const ADDED_SOURCE: &str = "added_source_to_lo";

/// Flags as `kumactl install transparent-proxy` has them, and ours.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Every setting is also a key of the config file and a variable: --exclude-inbound-ports is
redirect.inbound.excludePorts and KUMA_TRANSPARENT_PROXY_REDIRECT_INBOUND_EXCLUDE_PORTS.
Flags win over variables, variables over files, later files over earlier ones.

Examples:
  weir install transparent-proxy --redirect-dns --exclude-inbound-ports 22 --confirm 60s
  weir install transparent-proxy --config-file tproxy.yaml --dry-run
  weir install transparent-proxy --explain-port 5432")]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    flags: Flags,
    /// Settings as YAML or JSON in a file, - for stdin, repeatable
    #[arg(long, visible_alias = "transparent-proxy-config-file", value_name = "FILE")]
    config_file: Vec<PathBuf>,
    /// Settings as YAML or JSON, repeatable
    #[arg(long, visible_alias = "transparent-proxy-config", value_name = "YAML")]
    config: Vec<String>,
    /// Say what the rules do with packets of a port, change nothing
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    explain_port: Option<Question>,
    /// Of --explain-port: by the rules that are installed, not by these settings
    #[arg(long, requires = "explain_port")]
    installed: bool,
    /// Undo the installation after this long unless it is confirmed
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60s", conflicts_with = "keep")]
    confirm: Option<Wait>,
    /// Confirm an installation that waits for it
    #[arg(long)]
    keep: bool,
    /// The process behind --confirm
    #[arg(long, hide = true)]
    roll_back_after: Option<Wait>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct UninstallArgs {
    /// Print what would be removed, change nothing
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    verbose: bool,
}

/// What went wrong, and the exit code for it: 2 for what the command line says, 1 for what the machine says.
#[derive(Debug)]
pub(crate) struct InstallError {
    pub(crate) exit_code: u8,
    text: String,
}

impl InstallError {
    fn usage(text: impl Into<String>) -> Self {
        Self { exit_code: 2, text: text.into() }
    }

    fn machine(text: impl Into<String>) -> Self {
        Self { exit_code: 1, text: text.into() }
    }
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for InstallError {}

/// Installs, or says what installing would do. Installing again replaces the rules.
pub(crate) fn run_install(args: &InstallArgs) -> Result<(), InstallError> {
    if args.keep {
        require_root()?;
        confirm::keep()?;
        say(&mut io::stdout(), "Transparent proxy kept\n");
        return Ok(());
    }
    if let Some(wait) = args.roll_back_after {
        return confirm::guard(wait);
    }
    if let (Some(question), true) = (args.explain_port, args.installed) {
        let Some(program) = installed_program()? else {
            return Err(InstallError::machine(
                "no rules are installed; without --installed, these settings are judged",
            ));
        };
        explain(&program, "the rules that are installed", question);
        return Ok(());
    }
    let settings = load(&args.config_file, &args.config, &args.flags)?;
    let (dry_run, verbose) = (settings.dry_run, settings.verbose);
    let machine = Machine::look(&settings);
    let (plan, warnings) = plan(settings, &machine)?;
    if let Some(question) = args.explain_port {
        let program = plan.program();
        let whose = match installed_program() {
            Ok(Some(installed)) if installed.is_like(&program) => "the rules of these settings, which are installed",
            Ok(Some(_)) => "the rules of these settings; installed are others, which --installed explains",
            Ok(None) => "the rules of these settings, which aren't installed",
            // Only root may look.
            Err(_) => "the rules of these settings",
        };
        explain(&program, whose, question);
        return Ok(());
    }
    for warning in warnings {
        say(&mut io::stderr(), &format!("# [WARNING] {warning}\n"));
    }
    let source = Source::of(&plan);
    if dry_run {
        say(&mut io::stdout(), &rules_text(&plan, &source));
        return Ok(());
    }
    require_root()?;
    kuma::refuse()?;
    confirm::refuse_while_pending()?;
    let armed = args.confirm.map(confirm::arm).transpose()?;
    install(&plan, &source, verbose)?;
    if let Some(armed) = armed {
        return armed.ask();
    }
    say(
        &mut io::stdout(),
        "Transparent proxy set up successfully, you can now run the proxy using transparent-proxy.\n",
    );
    Ok(())
}

/// What of the settings a proxy has to know. Port 0 is off.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProxySide {
    pub(crate) inbound_port: u16,
    pub(crate) outbound_port: u16,
    pub(crate) dns_port: u16,
    /// Networks whose containers ask it too.
    pub(crate) guests: Vec<(IpAddr, u8)>,
    pub(crate) ipv4_only: bool,
}

/// `kuma-dp run` takes the same settings as install.
pub(crate) fn proxy_side(files: &[PathBuf], texts: &[String]) -> Result<ProxySide, InstallError> {
    let settings = load(files, texts, &Flags::default())?;
    let port = |direction: &rules::Direction| if direction.enabled { direction.port } else { 0 };
    Ok(ProxySide {
        inbound_port: port(&settings.inbound),
        outbound_port: port(&settings.outbound),
        dns_port: settings.dns_port,
        guests: settings.vnets.iter().map(|vnet| vnet.network.parts()).collect(),
        ipv4_only: settings.family == settings::FamilyMode::Ipv4,
    })
}

fn load(paths: &[PathBuf], texts: &[String], flags: &Flags) -> Result<Settings, InstallError> {
    let mut files = Vec::new();
    for path in paths {
        files.push(crate::ctl::read_text(path).map_err(InstallError::usage)?);
    }
    files.extend(texts.iter().map(|text| {
        // kumactl's pages show `--config "a: 1\nb: 2"`, as the shell leaves it.
        ("--config".to_owned(), text.replace("\\n", "\n"))
    }));
    let mut read = Vec::new();
    for (name, text) in files {
        let value = control::resource::yaml_to_json(&text).map_err(|e| InstallError::usage(format!("{name}: {e}")))?;
        read.push((name, value));
    }
    let variable = |name: &str| std::env::var(name).ok();
    Settings::load(&read, &variable, flags).map_err(|wrong| InstallError::usage(wrong.join("\n")))
}

/// The proxy's IPv6 source on the loopback interface.
struct Source {
    needed: bool,
    present: bool,
    /// By us, now or by the installation that this one replaces.
    added: bool,
}

impl Source {
    fn of(plan: &Plan) -> Self {
        let present = crate::control_plane::machine_addresses().contains(&IpAddr::V6(6.into()));
        let needed = plan.ipv6;
        let ours = || installed().is_ok_and(|table| table.is_some_and(|text| text.contains(ADDED_SOURCE)));
        Self { needed, present, added: needed && !present || present && ours() }
    }
}

fn explain(program: &Program, whose: &str, question: Question) {
    say(&mut io::stdout(), &walk::explain(program, whose, question, &crate::control_plane::machine_addresses()));
}

/// What the kernel has of ours. Rules that somebody changed into what ours never are can't be explained.
fn installed_program() -> Result<Option<Program>, InstallError> {
    if installed()?.is_none() {
        return Ok(None);
    }
    let listing = tool("nft", &["-nn", "list", "table", "inet", TABLE], "")?;
    let program = listing::read(&listing).map_err(|line| {
        InstallError::machine(format!(
            "a rule in table inet {TABLE} isn't one of ours: {line}; install again to replace it"
        ))
    })?;
    Ok(Some(program))
}

fn rules_text(plan: &Plan, source: &Source) -> String {
    let mut program: Program = plan.program();
    if source.added {
        program.chains.push(model::Chain { name: ADDED_SOURCE.into(), hook: None, rules: vec![] });
    }
    program.to_string()
}

/// First the rules, whole or not at all; they say about the address what uninstalling needs to know.
fn install(plan: &Plan, source: &Source, verbose: bool) -> Result<(), InstallError> {
    let text = rules_text(plan, source);
    if verbose {
        say(&mut io::stdout(), &text);
    }
    tool("nft", &["-f", "-"], &text)?;
    if source.needed
        && !source.present
        // Without duplicate detection it can be used at once: on a busy machine even the loopback's takes a moment.
        && let Err(error) = tool("ip", &["-6", "addr", "add", PROXY_SOURCE_V6, "dev", "lo", "nodad"], "")
    {
        say(
            &mut io::stderr(),
            &format!("# [WARNING] applications get no IPv6 connections from their proxy: {error}\n"),
        );
    }
    Ok(())
}

/// Removes our table and address and what Kuma's own installation left, and nothing else. Not installed is fine too.
pub(crate) fn run_uninstall(args: &UninstallArgs) -> Result<(), InstallError> {
    let delete = format!("delete table inet {TABLE}\n");
    if args.dry_run {
        say(&mut io::stdout(), &delete);
        // Only root sees the rules of others.
        let kumas = if nix::unistd::geteuid().is_root() { kuma::find()? } else { Vec::new() };
        kumas.iter().for_each(|rules| say(&mut io::stdout(), &rules.text()));
        return Ok(());
    }
    require_root()?;
    // Nobody shall bring back later what is removed now.
    if confirm::is_pending() {
        confirm::keep()?;
    }
    if let Some(table) = installed()? {
        if args.verbose {
            say(&mut io::stdout(), &delete);
        }
        remove(&table)?;
    }
    for rules in kuma::find()? {
        if args.verbose {
            say(&mut io::stdout(), &rules.text());
        }
        rules.remove()?;
    }
    say(&mut io::stdout(), "Transparent proxy cleaned up successfully\n");
    Ok(())
}

/// The rules go last: until then they tell whose the address is.
fn remove(table: &str) -> Result<(), InstallError> {
    if table.contains(ADDED_SOURCE) {
        // Gone already is as good.
        let _ = tool("ip", &["-6", "addr", "del", PROXY_SOURCE_V6, "dev", "lo"], "");
    }
    tool("nft", &["-f", "-"], &format!("delete table inet {TABLE}\n")).map(drop)
}

/// Our table as it is in force.
fn installed() -> Result<Option<String>, InstallError> {
    let tables = tool("nft", &["list", "tables"], "")?;
    match tables.lines().any(|line| line.trim() == format!("table inet {TABLE}")) {
        true => tool("nft", &["list", "table", "inet", TABLE], "").map(Some),
        false => Ok(None),
    }
}

fn require_root() -> Result<(), InstallError> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(InstallError::machine(
            "you must be root user to install or uninstall transparent proxy; --dry-run and --explain-port work for anybody",
        )),
    }
}

/// Output of a tool of the operating system.
fn tool(program: &str, arguments: &[&str], input: &str) -> Result<String, InstallError> {
    let command = format!("{program} {}", arguments.join(" "));
    let failed = |error: io::Error| {
        InstallError::machine(format!("cannot run `{command}`: {error}; install nftables and iproute2"))
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that doesn't read its input tells why in its exit status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(InstallError::machine(format!("`{command}` failed, nothing was changed: {}", said.trim())))
}

/// A reader that went away (`| head`) is no error of ours.
fn say(to: &mut impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
    let _ = to.flush();
}
