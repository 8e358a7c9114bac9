//! Arguments as people and Kuma's scripts write them, put as the clap tree expects them. Knows words, not meanings.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Flags that kumactl takes anywhere on its line, and whether a value follows.
const ANYWHERE: [(&str, bool); 5] =
    [("--mesh", true), ("-m", true), ("--config-file", true), ("--api-timeout", true), ("--no-config", false)];
/// Commands that have them in our tree; kumactl's others take them without effect.
const WITH_REACH: [&str; 6] = ["apply", "get", "delete", "inspect", "generate", "config"];
const WITHOUT_REACH: [&str; 4] = ["version", "completion", "install", "uninstall"];

/// The arguments as `weir` would be given them, and a warning: `kuma-dp run` is `weir dp run`.
pub(crate) fn arguments(given: Vec<OsString>) -> (Vec<OsString>, Option<String>) {
    let name = given.first().and_then(|p| Path::new(p).file_name()).map(|n| n.to_string_lossy().into_owned());
    let mut rest: Vec<OsString> = given.into_iter().skip(1).collect();
    let warning = cut_comment(&mut rest);
    let asks_version = rest.first().is_some_and(|a| a == "version" || a == "--version");
    match name.as_deref() {
        Some("kuma-cp") if !asks_version => rest.insert(0, "cp".into()),
        Some("kuma-dp") if !asks_version => rest.insert(0, "dp".into()),
        _ => rest = gather_reach(rest),
    }
    // One name in every usage line.
    rest.insert(0, "weir".into());
    (rest, warning)
}

/// `\ # words` in a pasted shell line is an argument ` #` and then the words: what follows was never meant.
fn cut_comment(rest: &mut Vec<OsString>) -> Option<String> {
    let starts =
        |a: &OsString| a.to_str().is_some_and(|a| a.starts_with(char::is_whitespace) && a.trim().starts_with('#'));
    let at = rest.iter().position(starts)?;
    rest.truncate(at);
    Some("Warning: a comment after a backslash ends the line: what stands on the lines below it isn't part of this command".into())
}

/// Moves what kumactl takes anywhere behind the command, where our tree has it.
fn gather_reach(rest: Vec<OsString>) -> Vec<OsString> {
    let (mut words, mut moved) = (Vec::new(), Vec::new());
    let mut command = None;
    let mut given = rest.into_iter();
    while let Some(arg) = given.next() {
        if arg == "--" {
            words.push(arg);
            words.extend(given);
            break;
        }
        match anywhere(&arg) {
            Some(takes_value) => {
                moved.push(arg);
                moved.extend(if takes_value { given.next() } else { None });
            }
            None => {
                if command.is_none() && !arg.to_string_lossy().starts_with('-') && !is_log_level(&words) {
                    command = Some(arg.to_string_lossy().into_owned());
                }
                words.push(arg);
            }
        }
        if command.as_deref().is_some_and(|c| !WITH_REACH.contains(&c) && !WITHOUT_REACH.contains(&c)) {
            // Not one of kumactl's: its flags are its own.
            moved.extend(words);
            moved.extend(given);
            return moved;
        }
    }
    if command.as_deref().is_none_or(|c| WITH_REACH.contains(&c)) {
        let end = words.iter().position(|w| w == "--").unwrap_or(words.len());
        words.splice(end..end, moved);
    }
    words
}

/// Whether the next word is the value of `--log-level`.
fn is_log_level(words: &[OsString]) -> bool {
    words.last().is_some_and(|w| w == "--log-level")
}

/// Whether `arg` is one of the flags, and if so whether its value is the next argument.
fn anywhere(arg: &OsStr) -> Option<bool> {
    let arg = arg.to_str()?;
    ANYWHERE.iter().find_map(|(flag, takes_value)| {
        let tail = arg.strip_prefix(flag)?;
        match tail {
            "" => Some(*takes_value),
            _ if tail.starts_with('=') || *flag == "-m" => Some(false),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::arguments;

    fn seen(line: &str) -> String {
        let given = line.split(' ').map(Into::into).collect();
        let (args, _) = arguments(given);
        args.iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_name_is_its_program() {
        assert_eq!(seen("/usr/bin/kuma-dp run -d x"), "weir dp run -d x");
        assert_eq!(seen("kuma-cp --log-level debug run"), "weir cp --log-level debug run");
        assert_eq!(seen("kuma-cp version"), "weir version");
        assert_eq!(seen("./kumactl get meshes"), "weir get meshes");
        assert_eq!(seen("weir up -f x"), "weir up -f x");
    }

    #[test]
    fn flags_that_kumactl_takes_anywhere_are_taken_anywhere() {
        assert_eq!(seen("kumactl --mesh m1 --no-config get dataplanes"), "weir get dataplanes --mesh m1 --no-config");
        assert_eq!(seen("kumactl --log-level debug -mx get meshes"), "weir --log-level debug get meshes -mx");
        assert_eq!(
            seen("kumactl config --config-file=f control-planes list"),
            "weir config control-planes list --config-file=f"
        );
        assert_eq!(seen("kumactl --no-config version"), "weir version");
    }

    #[test]
    fn flags_of_other_commands_stay_where_they_are() {
        assert_eq!(seen("weir dp run --mesh m --name n"), "weir dp run --mesh m --name n");
        assert_eq!(seen("weir cp run --config-file f"), "weir cp run --config-file f");
    }

    #[test]
    fn a_pasted_comment_is_cut_with_a_warning() {
        let given = ["kuma-dp", "run", "--dns-enabled=false", " #", "this", "needs"].map(Into::into).to_vec();
        let (args, warning) = arguments(given);
        assert_eq!(args, ["weir", "dp", "run", "--dns-enabled=false"]);
        assert!(warning.is_some_and(|w| w.contains("comment after a backslash")));
    }
}
