//! How a command fails: what to say and the exit code of the operator's contract.

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    /// For stderr, after `Error: `.
    pub(crate) text: String,
    /// For stdout: what was done before it failed.
    pub(crate) printed: String,
}

impl Failure {
    pub(crate) fn failed(text: impl ToString) -> Self {
        Self { exit: 1, text: text.to_string(), printed: String::new() }
    }

    pub(crate) fn usage(text: impl ToString) -> Self {
        Self { exit: 2, text: text.to_string(), printed: String::new() }
    }

    /// Bad configuration (EX_USAGE's neighbour in sysexits.h, as the contract has it).
    pub(crate) fn config(text: impl ToString) -> Self {
        Self { exit: 64, text: text.to_string(), printed: String::new() }
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
