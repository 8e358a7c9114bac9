//! Rules of Kuma's own transparent proxy, written by iptables of either kind: found before ours would send the same packets twice,
//! and taken away, those alone, by uninstalling. Must not know our own rules.

use super::{InstallError, tool};

/// All of its chains.
const CHAIN: &str = "KUMA_MESH_";
/// Begins the comment of each rule, unless comments are off.
const COMMENT: &str = "kuma/mesh/transparent/proxy/";
/// Where it writes.
const TABLES: [&str; 3] = ["nat", "raw", "mangle"];

/// iptables of one kind for one family. The name without kind means either, whichever the machine prefers.
struct Tool {
    names: [&'static str; 2],
    /// Names the tables in use, of the kind whose rules nftables doesn't show.
    legacy_tables: Option<&'static str>,
}

const TOOLS: [Tool; 4] = [
    Tool { names: ["iptables-nft", "iptables"], legacy_tables: None },
    Tool { names: ["ip6tables-nft", "ip6tables"], legacy_tables: None },
    Tool { names: ["iptables-legacy", "iptables"], legacy_tables: Some("/proc/net/ip_tables_names") },
    Tool { names: ["ip6tables-legacy", "ip6tables"], legacy_tables: Some("/proc/net/ip6_tables_names") },
];

impl Tool {
    /// As there is nothing to look for in a table that nobody uses, and looking would load the kernel's module for it.
    fn uses(&self, table: &str, nft_rules: &str) -> bool {
        match self.legacy_tables {
            Some(path) => std::fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line == table)),
            None => {
                let family = if self.names[1].starts_with("ip6") { "ip6" } else { "ip" };
                nft_rules.contains(&format!("table {family} {table} {{")) && nft_rules.contains(CHAIN)
            }
        }
    }
}

/// Kuma's rules in one table.
pub(super) struct Found {
    program: &'static str,
    table: &'static str,
    undo: Result<String, String>,
}

/// Looks with `iptables-save`; nftables alone is asked about the kind that it shows.
pub(super) fn find() -> Result<Vec<Found>, InstallError> {
    let nft_rules = tool("nft", &["list", "ruleset"], "")?;
    let mut found = Vec::new();
    for iptables in &TOOLS {
        for table in TABLES.into_iter().filter(|table| iptables.uses(table, &nft_rules)) {
            let saved = iptables
                .names
                .iter()
                .find_map(|name| tool(&format!("{name}-save"), &["-t", table], "").ok().map(|saved| (*name, saved)));
            let Some((program, saved)) = saved else {
                return Err(InstallError::machine(format!(
                    "there are iptables rules in table {table}, and no {}-save to see whether they are those of Kuma's \
                     own transparent proxy: install iptables",
                    iptables.names[0]
                )));
            };
            if let Some(undo) = undo(table, &saved) {
                found.push(Found { program, table, undo });
            }
        }
    }
    Ok(found)
}

/// What `iptables-restore --noflush` needs to take Kuma's rules away, or why it can't be told; `None` where there are none.
fn undo(table: &str, saved: &str) -> Option<Result<String, String>> {
    let chains: Vec<&str> = saved
        .lines()
        .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
        .filter(|chain| chain.starts_with(CHAIN))
        .collect();
    let (mut deleted, mut untold) = (String::new(), false);
    for rule in saved.lines().filter_map(|line| line.strip_prefix("-A ")) {
        let is_inside = rule.starts_with(CHAIN);
        if !is_inside && rule.contains(COMMENT) {
            deleted += &format!("-D {rule}\n");
        }
        untold |= !is_inside && !rule.contains(COMMENT) && rule.contains(CHAIN);
    }
    if untold {
        return Some(Err(format!(
            "table {table}: Kuma's rules have no comments, which alone would tell them from others; remove them by hand"
        )));
    }
    let flushed: String = chains.iter().map(|chain| format!("-F {chain}\n")).collect();
    let removed: String = chains.iter().map(|chain| format!("-X {chain}\n")).collect();
    let is_some = !deleted.is_empty() || !chains.is_empty();
    is_some.then(|| Ok(format!("*{table}\n{deleted}{flushed}{removed}COMMIT\n")))
}

/// Two sets of rules would send the same packets twice.
pub(super) fn refuse() -> Result<(), InstallError> {
    let Some(Found { program, table, .. }) = find()?.into_iter().next() else { return Ok(()) };
    Err(InstallError::machine(format!(
        "{program}'s table {table} holds rules of Kuma's own transparent proxy (`{program}-save -t {table}` shows them): \
         remove them first, with `weir uninstall transparent-proxy`"
    )))
}

impl Found {
    /// What removing does, as iptables-restore reads it.
    pub(super) fn text(&self) -> String {
        let what = self.undo.as_ref().map_or_else(|why| format!("# {why}\n"), Clone::clone);
        format!("# {}-restore --noflush\n{what}", self.program)
    }

    pub(super) fn remove(&self) -> Result<(), InstallError> {
        let undo = self.undo.as_ref().map_err(|why| InstallError::machine(format!("{}: {why}", self.program)))?;
        tool(&format!("{}-restore", self.program), &["--noflush"], undo).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kumas_rules_are_taken_from_among_those_of_others() {
        let saved = "*nat\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:KUMA_MESH_OUTBOUND - [0:0]\n:KUMA_MESH_INBOUND - [0:0]\n\
            -A OUTPUT -p udp -m udp --dport 53 -m comment --comment \"kuma/mesh/transparent/proxy/dns\" -j REDIRECT --to-ports 15053\n\
            -A OUTPUT -p tcp -m comment --comment \"kuma/mesh/transparent/proxy/out\" -j KUMA_MESH_OUTBOUND\n\
            -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER\n\
            -A KUMA_MESH_OUTBOUND -m comment --comment \"kuma/mesh/transparent/proxy/x\" -j RETURN\nCOMMIT\n";
        let expected = "*nat\n\
            -D OUTPUT -p udp -m udp --dport 53 -m comment --comment \"kuma/mesh/transparent/proxy/dns\" -j REDIRECT --to-ports 15053\n\
            -D OUTPUT -p tcp -m comment --comment \"kuma/mesh/transparent/proxy/out\" -j KUMA_MESH_OUTBOUND\n\
            -F KUMA_MESH_OUTBOUND\n-F KUMA_MESH_INBOUND\n-X KUMA_MESH_OUTBOUND\n-X KUMA_MESH_INBOUND\nCOMMIT\n";
        assert_eq!(undo("nat", saved), Some(Ok(expected.to_owned())));
        assert_eq!(undo("nat", "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j DOCKER\nCOMMIT\n"), None);
        let silent = "*nat\n:KUMA_MESH_INBOUND - [0:0]\n-A PREROUTING -p tcp -j KUMA_MESH_INBOUND\nCOMMIT\n";
        assert!(undo("nat", silent).unwrap().unwrap_err().contains("by hand"));
    }
}
