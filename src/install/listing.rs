//! Our table as the kernel has it, read back from nftables' listing: the rules' words, the other way round. Must not know which
//! rules there are.

use std::iter::Peekable;
use std::str::FromStr;

use super::model::{Chain, Hook, Match, Point, Program, Rule, Verdict};
use super::ports::{Protocol, range};

/// Of `nft -nn list table`. Err: a line that none of our rules is written like.
pub(super) fn read(listing: &str) -> Result<Program, String> {
    let mut program = Program { chains: Vec::new(), comments: true };
    for line in listing.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let understood = match program.chains.last_mut() {
            _ if line.starts_with("table ") || line == "}" => Some(()),
            _ if line.starts_with("chain ") => chain(line).map(|chain| program.chains.push(chain)),
            Some(chain) if line.starts_with("type ") => hook(line).map(|hook| chain.hook = Some(hook)),
            Some(chain) => rule(line).map(|rule| chain.rules.push(rule)),
            None => None,
        };
        understood.ok_or_else(|| line.to_owned())?;
    }
    Ok(program)
}

fn chain(line: &str) -> Option<Chain> {
    let name = line.strip_prefix("chain ")?.strip_suffix(" {")?;
    Some(Chain { name: name.to_owned().into(), hook: None, rules: Vec::new() })
}

/// `type nat hook output priority -101; policy accept;`
fn hook(line: &str) -> Option<Hook> {
    let mut words = line.split([' ', ';']);
    let nat = words.nth(1)? == "nat";
    let point = match words.nth(1)? {
        "prerouting" => Point::Prerouting,
        "output" => Point::Output,
        _ => return None,
    };
    Some(Hook { nat, point, priority: words.nth(1)?.parse().ok()? })
}

/// Words of a line; what stands in quotes or braces is one.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => rest.get(1..).and_then(|text| text.find('"')).map(|at| at + 2),
            '{' => rest.find('}').map(|at| at + 1),
            _ => rest.find(' '),
        };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        words.push(word);
        rest = after.trim_start();
    }
    words
}

fn rule(line: &str) -> Option<Rule> {
    let words = words(line);
    let mut words = words.into_iter().peekable();
    let (mut when, mut then, mut why) = (Vec::new(), None, "");
    while let Some(word) = words.next() {
        match word {
            "comment" => why = words.next()?.trim_matches('"'),
            "return" => then = then.or(Some(Verdict::Return)),
            "drop" => then = Some(Verdict::Drop),
            "jump" => then = Some(Verdict::Jump(words.next()?.to_owned().into())),
            // to :PORT
            "redirect" => then = Some(Verdict::Redirect(words.nth(1)?.strip_prefix(':')?.parse().ok()?)),
            "log" => then = Some(log(&mut words)?),
            "ct" if words.peek() == Some(&"zone") => then = Some(Verdict::Zone(words.nth(2)?.parse().ok()?)),
            word => when.push(condition(word, &mut words)?),
        }
    }
    Some(Rule { when, then: then?, why: why.to_owned().into() })
}

/// `prefix "TEXT" level NAME`; the kernel's own level isn't listed.
fn log<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Option<Verdict> {
    let prefix = words.nth(1)?.trim_matches('"').to_owned().into();
    let level = match words.next_if_eq(&"level") {
        Some(_) => words.next()?.to_owned(),
        None => "warn".to_owned(),
    };
    Some(Verdict::Log { prefix, level: level.into() })
}

fn condition<'a>(first: &str, words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Option<Match> {
    let second = words.next()?;
    Some(match (first, second) {
        ("meta", "l4proto") => {
            let protocols = set(words.next()?)?;
            match words.next_if_eq(&"th") {
                Some(_) => ports(protocols, words.next()?, words)?,
                None => Match::Protocol(protocols),
            }
        }
        ("meta", "nfproto") => words.next().map(|_| Match::Ipv6)?,
        ("meta", "skuid") => {
            let not = words.next_if_eq(&"!=").is_some();
            let (first, last) = range(words.next()?, "UID").ok()?;
            Match::User { first, last, not }
        }
        ("tcp", "flags") => {
            // However it is written: ours is the only one, and what it says no to ends here.
            while words.next_if(|word| *word != "return").is_some() {}
            Match::NotOpening
        }
        ("tcp" | "udp", "dport") => ports(vec![first.parse().ok()?], second, words)?,
        ("tcp" | "udp", "sport") => Match::SourcePort(first.parse().ok()?, words.next()?.parse().ok()?),
        ("iifname", name) => Match::In(name.trim_matches('"').to_owned()),
        ("oifname", name) => Match::Out(name.trim_matches('"').to_owned()),
        ("ip" | "ip6", "saddr") => Match::Source(words.next()?.parse().ok()?),
        ("ip" | "ip6", "daddr") => {
            let not = words.next_if_eq(&"!=").is_some();
            Match::Destination { block: words.next()?.parse().ok()?, not }
        }
        ("ct", "state") => words.next().map(|_| Match::Untrackable)?,
        _ => return None,
    })
}

fn ports<'a>(
    protocols: Vec<Protocol>,
    dport: &str,
    words: &mut Peekable<impl Iterator<Item = &'a str>>,
) -> Option<Match> {
    let not = words.next_if_eq(&"!=").is_some();
    let ports = set(words.next().filter(|_| dport == "dport")?)?;
    Some(Match::Port { protocols, ports, not })
}

/// One item bare, several in braces.
fn set<T: FromStr>(text: &str) -> Option<Vec<T>> {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    inner.split(',').map(|item| item.trim().parse().ok()).collect()
}
