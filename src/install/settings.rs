//! Every setting of `install transparent-proxy`: its path in a config file, its flag, its variable, and what it takes. Files, the
//! environment and flags end up in one [`Settings`]. Must not know the machine or nftables.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;

use super::ports::{self, PortRange, UidExclusion, Vnet};
use super::rules::Direction;

const VARIABLE_PREFIX: &str = "KUMA_TRANSPARENT_PROXY_";

/// How the values of a setting are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// Nothing, or `=true` or `=false`.
    Switch,
    One,
    Many,
}

use Takes::{Many, One, Switch};

#[derive(Debug)]
pub(super) struct Setting {
    path: &'static str,
    flag: &'static str,
    takes: Takes,
    /// Empty: not shown. Those are about iptables, or ours for what kumactl has no flag for.
    help: &'static str,
}

const fn setting(path: &'static str, flag: &'static str, takes: Takes, help: &'static str) -> Setting {
    Setting { path, flag, takes, help }
}

const SETTINGS: &[Setting] = &[
    setting(
        "kumaDPUser",
        "kuma-dp-user",
        One,
        "User (name or uid) that the proxy runs as; its traffic isn't captured [default: uid 5678, else kuma-dp]",
    ),
    setting("ipFamilyMode", "ip-family-mode", One, "dualstack or ipv4 [default: dualstack]"),
    setting(
        "redirect.inbound.enabled",
        "redirect-inbound",
        Switch,
        "Capture connections that come in; false on gateways [default: true]",
    ),
    setting("redirect.inbound.port", "redirect-inbound-port", One, "Where they go [default: 15006]"),
    setting("redirect.inbound.includePorts", "include-inbound-ports", Many, "Capture these ports alone"),
    setting(
        "redirect.inbound.excludePorts",
        "exclude-inbound-ports",
        Many,
        "Ports or ranges that aren't captured, e.g. 22,8000-8100",
    ),
    setting(
        "redirect.inbound.excludePortsForIPs",
        "exclude-inbound-ips",
        Many,
        "Sources (address or CIDR) whose connections aren't captured",
    ),
    setting("redirect.inbound.excludePortsForUIDs", "", Many, ""),
    setting(
        "redirect.inbound.insertRedirectInsteadOfAppend",
        "redirect-inbound-insert-instead-of-append",
        Switch,
        "Before the rules of others, not after them",
    ),
    setting(
        "redirect.outbound.enabled",
        "redirect-outbound",
        Switch,
        "Capture connections that the workload opens [default: true]",
    ),
    setting("redirect.outbound.port", "redirect-outbound-port", One, "Where they go [default: 15001]"),
    setting("redirect.outbound.includePorts", "include-outbound-ports", Many, "Capture these ports alone"),
    setting("redirect.outbound.excludePorts", "exclude-outbound-ports", Many, "Ports or ranges that aren't captured"),
    setting(
        "redirect.outbound.excludePortsForIPs",
        "exclude-outbound-ips",
        Many,
        "Destinations (address or CIDR) that aren't captured",
    ),
    setting(
        "redirect.outbound.excludePortsForUIDs",
        "exclude-outbound-ports-for-uids",
        Many,
        "[protocol:][ports:]uids, repeatable, e.g. tcp:8080,9000-9100:1000-1010",
    ),
    setting(
        "redirect.outbound.insertRedirectInsteadOfAppend",
        "redirect-outbound-insert-instead-of-append",
        Switch,
        "Before the rules of others, not after them",
    ),
    setting("redirect.dns.enabled", "redirect-dns", Switch, "Capture questions to the resolvers of resolv.conf"),
    setting("redirect.dns.captureAll", "redirect-all-dns-traffic", Switch, "Capture questions to any resolver"),
    setting("redirect.dns.port", "redirect-dns-port", One, "Where they go [default: 15053]"),
    setting("redirect.dns.resolvConfigPath", "redirect-dns-resolv-config-path", One, "[default: /etc/resolv.conf]"),
    setting(
        "redirect.dns.skipConntrackZoneSplit",
        "skip-dns-conntrack-zone-split",
        Switch,
        "Let application and proxy share one connection tracking zone for DNS",
    ),
    setting(
        "redirect.vnet.networks",
        "vnet",
        Many,
        "interface:CIDR of a container network whose traffic is captured too, repeatable",
    ),
    setting("dropInvalidPackets", "drop-invalid-packets", Switch, "Drop packets that connection tracking can't place"),
    setting("log.enabled", "iptables-logs", Switch, "Name captured connections in the kernel's log"),
    setting("log.level", "iptables-logs-level", One, "0 to 7 or emerg to debug [default: debug]"),
    setting("comments.disabled", "disable-comments", Switch, "Rules without the comments that explain them"),
    setting("dryRun", "dry-run", Switch, "Print the rules, change nothing"),
    setting("verbose", "verbose", Switch, "Print the rules before they are applied"),
    // About how iptables is run; accepted so that scripts keep working.
    setting("iptablesExecutables", "iptables-executables", Many, ""),
    setting("wait", "wait", One, ""),
    setting("waitInterval", "wait-interval", One, ""),
    setting("retry.maxRetries", "max-retries", One, ""),
    setting("retry.sleepBetweenRetries", "sleep-between-retries", One, ""),
    setting("storeFirewalld", "store-firewalld", Switch, ""),
    setting("cniMode", "", Switch, ""),
    setting("redirect.namePrefix", "", One, ""),
    setting("ebpf.enabled", "ebpf-enabled", Switch, ""),
    setting("ebpf.instanceIP", "ebpf-instance-ip", One, ""),
    setting("ebpf.instanceIPEnvVarName", "", One, ""),
    setting("ebpf.bpffsPath", "ebpf-bpffs-path", One, ""),
    setting("ebpf.cgroupPath", "ebpf-cgroup-path", One, ""),
    setting("ebpf.programsSourcePath", "ebpf-programs-source-path", One, ""),
    setting("ebpf.tcAttachIface", "ebpf-tc-attach-iface", One, ""),
];

impl Setting {
    /// The path in capitals, words apart: `redirect.dns.captureAll` is `…_REDIRECT_DNS_CAPTURE_ALL`.
    fn variable(&self) -> String {
        let mut name = String::from(VARIABLE_PREFIX);
        let letters: Vec<char> = self.path.chars().collect();
        for (index, letter) in letters.iter().enumerate() {
            let after_small = index > 0 && letters.get(index - 1).is_some_and(char::is_ascii_lowercase);
            // `kumaDPUser` is KUMA_DP_USER, but `IPs` and `UIDs` are a word each.
            let before_small = letters.get(index + 1).is_some_and(char::is_ascii_lowercase)
                && letters.get(index + 1..) != Some(&['s']);
            let after_capital = index > 0 && letters.get(index - 1).is_some_and(char::is_ascii_uppercase);
            if letter.is_ascii_uppercase() && (after_small || after_capital && before_small) {
                name.push('_');
            }
            name.push(if *letter == '.' { '_' } else { letter.to_ascii_uppercase() });
        }
        name
    }
}

/// What the command line says about settings, not yet understood.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    given: Vec<(&'static Setting, Vec<String>)>,
}

impl Args for Flags {
    fn augment_args(mut command: Command) -> Command {
        for setting in SETTINGS.iter().filter(|setting| !setting.flag.is_empty()) {
            let arg = Arg::new(setting.path).long(setting.flag).help(setting.help).hide(setting.help.is_empty());
            let arg = match setting.takes {
                Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL"),
                One => arg.value_name("VALUE"),
                Many => arg.action(ArgAction::Append).value_name("VALUES"),
            };
            let arg = if setting.flag == "kuma-dp-user" { arg.alias("kuma-dp-uid") } else { arg };
            command = command.arg(arg);
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in SETTINGS.iter().filter(|setting| !setting.flag.is_empty()) {
            if let Some(values) = matches.get_many::<String>(setting.path) {
                self.given.push((setting, values.cloned().collect()));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FamilyMode {
    Dualstack,
    Ipv4,
}

/// All settings, understood.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) user: String,
    pub(super) family: FamilyMode,
    pub(super) inbound: Direction,
    pub(super) outbound: Direction,
    pub(super) exclude_uids: Vec<UidExclusion>,
    pub(super) dns: bool,
    pub(super) dns_all: bool,
    pub(super) dns_port: u16,
    pub(super) resolv_conf: PathBuf,
    pub(super) split_zones: bool,
    pub(super) vnets: Vec<Vnet>,
    pub(super) drop_invalid: bool,
    pub(super) log: bool,
    pub(super) log_level: &'static str,
    pub(super) comments: bool,
    pub(super) dry_run: bool,
    pub(super) verbose: bool,
    /// Given, and without effect here.
    pub(super) ignored: Vec<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            user: String::new(),
            family: FamilyMode::Dualstack,
            inbound: Direction::to(15006),
            outbound: Direction::to(15001),
            exclude_uids: vec![],
            dns: false,
            dns_all: false,
            dns_port: 15053,
            resolv_conf: "/etc/resolv.conf".into(),
            split_zones: true,
            vnets: vec![],
            drop_invalid: false,
            log: false,
            log_level: "debug",
            comments: true,
            dry_run: false,
            verbose: false,
            ignored: vec![],
        }
    }
}

impl Settings {
    /// Later files win over earlier ones, the environment over files, flags over the environment. All that is wrong is said at once.
    pub(super) fn load(
        files: &[(String, Value)],
        variable: &dyn Fn(&str) -> Option<String>,
        flags: &Flags,
    ) -> Result<Self, Vec<String>> {
        let mut settings = Self::default();
        let mut wrong = Vec::new();
        for (name, file) in files {
            settings.take_file(name, "", file, &mut wrong);
        }
        for setting in SETTINGS {
            let name = setting.variable();
            if let Some(value) = variable(&name).filter(|value| !value.is_empty()) {
                settings.take(setting, &[value], &name, &mut wrong);
            }
        }
        for (setting, values) in &flags.given {
            settings.take(setting, values, &format!("--{}", setting.flag), &mut wrong);
        }
        if settings.dns && settings.dns_all {
            // In a file `captureAll` alone is enough, and `enabled` beside it does no harm.
            let both = |path: &str| flags.given.iter().any(|(setting, _)| setting.path == path);
            if both("redirect.dns.enabled") && both("redirect.dns.captureAll") {
                wrong.push("one of --redirect-dns or --redirect-all-dns-traffic should be specified".to_owned());
            }
        }
        if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
    }

    fn take_file(&mut self, file: &str, at: &str, value: &Value, wrong: &mut Vec<String>) {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let known = SETTINGS.iter().find(|setting| setting.path.eq_ignore_ascii_case(at));
        match (known, value) {
            (_, Value::Null) => {}
            // Of iptablesExecutables, whose keys are programs.
            (Some(setting), Value::Object(_)) if setting.takes == Many => self.take(setting, &[], file, wrong),
            (None, Value::Object(members)) if at.is_empty() || is_group(at) => {
                for (key, value) in members {
                    let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                    self.take_file(file, &at, value, wrong);
                }
            }
            (Some(setting), Value::Array(values)) if setting.takes == Many => {
                let values: Vec<String> = values.iter().map(text).collect();
                self.take(setting, &values, &format!("{file}: {at}"), wrong);
            }
            (Some(setting), Value::String(_) | Value::Number(_) | Value::Bool(_)) => {
                self.take(setting, &[text(value)], &format!("{file}: {at}"), wrong);
            }
            (Some(_), _) => wrong.push(format!("{file}: {at}: one value is expected, not {value}")),
            (None, _) if at.is_empty() => wrong.push(format!("{file}: settings are expected, like `redirect: …`")),
            (None, _) => wrong.push(format!("{file}: {at}: there is no such setting{}", did_you_mean(at))),
        }
    }

    fn take(&mut self, setting: &Setting, values: &[String], from: &str, wrong: &mut Vec<String>) {
        if let Err(why) = self.set(setting.path, values) {
            wrong.push(format!("{from}: {why}"));
        }
    }

    fn set(&mut self, path: &'static str, values: &[String]) -> Result<(), String> {
        match path {
            "kumaDPUser" => self.user = one(values)?.to_owned(),
            "ipFamilyMode" => self.family = family(one(values)?)?,
            "redirect.outbound.excludePortsForUIDs" => self.exclude_uids = many(values, &[';'])?,
            "redirect.dns.enabled" => self.dns = switch(values)?,
            "redirect.dns.captureAll" => self.dns_all = switch(values)?,
            "redirect.dns.port" => self.dns_port = ports::port(one(values)?)?,
            "redirect.dns.resolvConfigPath" => self.resolv_conf = one(values)?.into(),
            "redirect.dns.skipConntrackZoneSplit" => self.split_zones = !switch(values)?,
            "redirect.vnet.networks" => self.vnets = many(values, &[',', ';'])?,
            "dropInvalidPackets" => self.drop_invalid = switch(values)?,
            "log.enabled" => self.log = switch(values)?,
            "log.level" => self.log_level = log_level(one(values)?)?,
            "comments.disabled" => self.comments = !switch(values)?,
            "dryRun" => self.dry_run = switch(values)?,
            "verbose" => self.verbose = switch(values)?,
            path => match (path.strip_prefix("redirect.inbound."), path.strip_prefix("redirect.outbound.")) {
                (Some(rest), _) if rest != "excludePortsForUIDs" => set_direction(&mut self.inbound, rest, values)?,
                (_, Some(rest)) => set_direction(&mut self.outbound, rest, values)?,
                _ => self.ignored.push(path),
            },
        }
        Ok(())
    }
}

fn set_direction(direction: &mut Direction, path: &str, values: &[String]) -> Result<(), String> {
    match path {
        "enabled" => direction.enabled = switch(values)?,
        // 0 turns it off, as in a Dataplane.
        "port" if values == ["0"] => direction.enabled = false,
        "port" => direction.port = ports::port(one(values)?)?,
        "includePorts" => direction.include = many::<PortRange>(values, &[','])?,
        "excludePorts" => direction.exclude = many::<PortRange>(values, &[','])?,
        "excludePortsForIPs" => direction.exclude_addresses = many(values, &[','])?,
        _ => direction.first = switch(values)?,
    }
    Ok(())
}

fn one(values: &[String]) -> Result<&str, String> {
    values.last().map(|value| value.trim()).ok_or_else(|| "a value is expected".to_owned())
}

fn switch(values: &[String]) -> Result<bool, String> {
    match one(values)? {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

/// Each value may hold several.
fn many<T: std::str::FromStr<Err = String>>(values: &[String], between: &[char]) -> Result<Vec<T>, String> {
    let parts = values.iter().flat_map(|value| value.split(between)).map(str::trim);
    parts.filter(|part| !part.is_empty()).map(str::parse).collect()
}

fn family(text: &str) -> Result<FamilyMode, String> {
    match text.to_ascii_lowercase().as_str() {
        "dualstack" => Ok(FamilyMode::Dualstack),
        "ipv4" => Ok(FamilyMode::Ipv4),
        _ => Err(format!("{text:?} is no IP family mode; choose dualstack or ipv4")),
    }
}

/// As syslog numbers and nftables names them.
fn log_level(text: &str) -> Result<&'static str, String> {
    const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];
    let by_number = text.parse().ok().and_then(|number: usize| LEVELS.get(number));
    let found = by_number.or_else(|| LEVELS.iter().find(|level| level.eq_ignore_ascii_case(text)));
    found.copied().ok_or_else(|| format!("{text:?} is no log level; choose 0 to 7 or one of {}", LEVELS.join(", ")))
}

/// Whether settings have paths below this one.
fn is_group(at: &str) -> bool {
    let below = |path: &str| {
        path.get(..at.len()).is_some_and(|head| head.eq_ignore_ascii_case(at)) && path[at.len()..].starts_with('.')
    };
    SETTINGS.iter().any(|setting| below(setting.path))
}

/// A setting of the same last word.
fn did_you_mean(at: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let alike = |path: &str| {
        let (known, said) = (last(path), last(at));
        known.starts_with(&said) || said.starts_with(&known)
    };
    let found = SETTINGS.iter().find(|setting| alike(setting.path));
    found.map(|setting| format!(", did you mean {}?", setting.path)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_the_paths_in_capitals() {
        let names: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
        for expected in [
            "KUMA_TRANSPARENT_PROXY_KUMA_DP_USER",
            "KUMA_TRANSPARENT_PROXY_IP_FAMILY_MODE",
            "KUMA_TRANSPARENT_PROXY_REDIRECT_INBOUND_EXCLUDE_PORTS_FOR_IPS",
            "KUMA_TRANSPARENT_PROXY_REDIRECT_OUTBOUND_EXCLUDE_PORTS_FOR_UIDS",
            "KUMA_TRANSPARENT_PROXY_REDIRECT_OUTBOUND_INSERT_REDIRECT_INSTEAD_OF_APPEND",
            "KUMA_TRANSPARENT_PROXY_REDIRECT_DNS_RESOLV_CONFIG_PATH",
            "KUMA_TRANSPARENT_PROXY_EBPF_INSTANCE_IP",
            "KUMA_TRANSPARENT_PROXY_DROP_INVALID_PACKETS",
        ] {
            assert!(names.iter().any(|name| name == expected), "{expected} is not in {names:#?}");
        }
    }
}
