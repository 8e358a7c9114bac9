//! Runs a test in its own namespaces by starting the test binary again under unshare(1). Nothing survives the test: with its first
//! process all others die, and so do interfaces, rules, mounts.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{eventually, network};

/// Names the test that the process was started again for.
const MARK: &str = "WEIR_ISOLATED_TEST";
const TEST_TIMEOUT: Duration = Duration::from_secs(180);

/// `path` is the test's path with its crate. Without the privilege to make namespaces the test fails and says so.
pub fn isolated(path: &str, body: impl FnOnce()) {
    // libtest knows a test by its path inside the crate.
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    if std::env::var(MARK).as_deref() == Ok(name) {
        network::prepare();
        body();
        return;
    }
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let program = std::env::current_exe().expect("the test's own binary");
    let mut child = unshare
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare(1) of util-linux");
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = eventually("the isolated test", TEST_TIMEOUT, || child.try_wait().expect("waiting for a child"));
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    print!("{out}");
    eprint!("{err}");
    if err.starts_with("unshare:") {
        panic!("{name} needs root, or unprivileged user namespaces, for its own network: {}", err.trim());
    }
    // A misspelt name would run no test, and succeed.
    assert!(status.success() && out.contains("1 passed"), "{name} failed in its namespaces, see above");
}

fn collect(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.expect("a piped stream").read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
