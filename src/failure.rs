//! How a command ends badly: an exit code and what to say. Knows no command; only `main` turns it into an exit.

/// Exit codes that scripts may rely on; 0 is done.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const CONFIGURATION: u8 = 64;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    /// For stderr, after `Error: `.
    pub(crate) text: String,
    /// For stdout: what was done before it failed.
    pub(crate) printed: String,
}

impl Failure {
    /// The work was tried and didn't succeed.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self { exit: FAILED, text: text.into(), printed: String::new() }
    }

    /// The arguments make no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { exit: USAGE, text: text.into(), printed: String::new() }
    }

    /// A configuration file, a variable of the environment or a resource to start from can't be used.
    pub(crate) fn configuration(text: impl Into<String>) -> Self {
        Self { exit: CONFIGURATION, text: text.into(), printed: String::new() }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::failed(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::failed(text)
    }
}
