//! The names this binary also goes by: symlinks to it in a folder. Overwrites symlinks, never a file.

use crate::failure::Failure;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

const NAMES: [&str; 3] = ["kuma-cp", "kuma-dp", "kumactl"];

pub(crate) fn make(dir: &Path) -> Result<String, Failure> {
    let program = std::env::current_exe().map_err(|e| format!("finding the path of this program: {e}"))?;
    to(&program, dir)
}

fn to(program: &Path, dir: &Path) -> Result<String, Failure> {
    let failed = |path: &Path, e: std::io::Error| Failure::failed(format!("{}: {e}", path.display()));
    std::fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
    // All are looked at before the first is touched.
    for name in NAMES {
        let link = dir.join(name);
        match std::fs::symlink_metadata(&link) {
            Ok(found) if !found.is_symlink() => {
                let text = format!("{} is there and isn't a symlink; remove it or name another folder", link.display());
                return Err(Failure::failed(text));
            }
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(&link, e)),
            _ => {}
        }
    }
    let mut out = String::new();
    for name in NAMES {
        let link = dir.join(name);
        // Made beside and renamed: nobody finds the name missing meanwhile.
        let scratch = dir.join(format!(".{name}.{}", std::process::id()));
        std::os::unix::fs::symlink(program, &scratch).map_err(|e| failed(&scratch, e))?;
        if let Err(e) = std::fs::rename(&scratch, &link) {
            let _ = std::fs::remove_file(&scratch);
            return Err(failed(&link, e));
        }
        let _ = writeln!(out, "{} -> {}", link.display(), program.display());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn links_are_made_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("bin");
        to(Path::new("/opt/old"), &at).unwrap();
        let out = to(Path::new("/opt/weir"), &at).unwrap();
        assert_eq!(out.lines().count(), 3);
        for name in NAMES {
            assert_eq!(std::fs::read_link(at.join(name)).unwrap(), PathBuf::from("/opt/weir"));
        }
        assert_eq!(std::fs::read_dir(&at).unwrap().count(), 3);
    }

    #[test]
    fn a_file_of_that_name_is_kept_and_nothing_is_linked() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kumactl"), "mine").unwrap();
        let failure = to(Path::new("/opt/weir"), dir.path()).unwrap_err();
        assert!(failure.text.contains("kumactl is there and isn't a symlink"), "{}", failure.text);
        assert_eq!(std::fs::read_to_string(dir.path().join("kumactl")).unwrap(), "mine");
        assert!(!dir.path().join("kuma-cp").exists());
    }
}
